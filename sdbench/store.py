"""One folder per trial, written so that a kill at any moment leaves the old or the new, never neither.

    ROOT/trials/<dataset>/<network>/<method>/<trial_id>/
        started.json   written first: a record with status "interrupted", for boards made meanwhile
        trial.json     the result, written last
        curve.jsonl    one line per epoch
        network.safetensors, logits.safetensors, epoch_logits/, checkpoint/, state/, log.txt (of a trial that failed)
        .lock          held by the process that works on the trial; what a dead one leaves is no lock

A record is written after the files beside it, with their checksums; ``sdbench.durable`` tells how files are written.

Not covered: two machines that write to one folder over a network file system without locks.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout
from pydantic import ValidationError

from sdbench.bounded import open_plain, read_plain
from sdbench.curve_lines import read_curve, write_curve
from sdbench.durable import (
    WriteProblem,
    append_line,
    make_folder,
    replacing,
    set_aside,
    sync_folder,
    temporaries,
    write_atomic,
)
from sdbench.errors import EnvironmentProblem
from sdbench.paths import readable
from sdbench.record import Sealed
from sdbench.spec import SCHEMA_VERSION, Trial, TrialResult, TrialSpec
from sdbench.trial_folder import EPOCH_LOGITS, component, make_way, nested

MAX_RECORD_BYTES = 16 * 2**20
MAX_RECORD_VALUES = 100_000
"""Commas in a record's text: a bound of what reading it can take, which bytes alone do not give."""

_ZERO = "0" * 64

PROBE = ".probe"
PROBE_BYTES = 2**16

AnyRecord = TypeVar("AnyRecord", bound=Sealed)

__all__ = [
    "EPOCH_LOGITS", "Damaged", "DamagedRecord", "Scan", "Store", "WriteProblem", "append_line", "component",
    "read_curve", "read_result", "read_sealed", "replacing", "seal", "sha256", "sync_folder", "write_atomic",
    "write_curve",
]  # fmt: skip


class DamagedRecord(Exception):
    """A record that cannot be trusted; the text says why. kind: "unreadable", "schema", "newer" or "checksum"."""

    def __init__(self, reason: str, kind: str = "unreadable") -> None:
        super().__init__(reason)
        self.kind = kind


@dataclass(frozen=True)
class Damaged:
    """A record set aside: its file and what is wrong with it."""

    path: Path
    reason: str

    def told(self, root: Path) -> str:
        """A sentence on its place below the results folder, and of no folder above that."""
        inside = self.path.relative_to(root) if self.path.is_relative_to(root) else Path(self.path.name)
        return f"{readable(str(inside))}: {self.reason}"


@dataclass(frozen=True)
class Scan:
    """All records of a store: the readable ones and the damaged ones, both in order of their paths."""

    results: tuple[TrialResult, ...]
    damaged: tuple[Damaged, ...]


def sha256(path: Path) -> str:
    """SHA-256 of a plain file's content, in hexadecimal. Raises OSError for a pipe, a device, a folder."""
    with open_plain(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


def seal(record: Sealed, name: str = "trial.json") -> str:
    """The text of a record, with its own SHA-256 (taken with 64 zeros in its place) under ``name``."""
    open_ = record.model_copy(update={"checksums": {**record.checksums, name: _ZERO}})
    text = open_.model_dump_json(indent=1) + "\n"
    mark = f'"{name}": "'
    return text.replace(mark + _ZERO, mark + hashlib.sha256(text.encode()).hexdigest())


def read_sealed(path: Path, kind: type[AnyRecord], newest_schema: int) -> AnyRecord:
    """Read and check one record; its seal stands under its file's name. Raises DamagedRecord where it
    cannot be trusted, FileNotFoundError where there is none."""
    name = "trial.json" if kind is TrialResult else path.name
    try:
        text = read_plain(path, MAX_RECORD_BYTES).decode()
        if text.count(",") > MAX_RECORD_VALUES:
            raise DamagedRecord(f"more than {MAX_RECORD_VALUES} values")
        # Before its fields are looked at, which a newer one need not have as they are here.
        version = re.search(r'"schema_version"\s*:\s*(\d{1,9})\s*[,}]', text)
        if version:
            _refuse_newer(int(version[1]), newest_schema)
        record = kind.model_validate_json(text)
        _refuse_newer(record.schema_version, newest_schema)
    except FileNotFoundError as error:
        if path.is_symlink():
            raise DamagedRecord("a link to nothing") from error
        raise
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the record"
        fault = "unreadable" if first["type"] == "json_invalid" else "schema"
        raise DamagedRecord(f"{where}: {first['msg']}", fault) from error
    except OSError as error:
        raise DamagedRecord(error.strerror or str(error)) from error
    except (ValueError, RecursionError) as error:
        raise DamagedRecord(f"{type(error).__name__}: {error}") from error
    mark = f'"{name}": "'
    expected = record.checksums.get(name, "")
    opened = text.replace(mark + expected, mark + _ZERO)
    if hashlib.sha256(opened.encode()).hexdigest() != expected:
        raise DamagedRecord("its checksum does not match: it was changed after it was written", "checksum")
    return record


def _refuse_newer(version: int, newest: int) -> None:
    if version > newest:
        raise DamagedRecord(f"schema {version} is newer than this sdbench reads ({newest}); upgrade sdbench", "newer")


def read_result(path: Path) -> TrialResult:
    """Read and check one trial's record, as ``read_sealed`` does."""
    return read_sealed(path, TrialResult, SCHEMA_VERSION)


class Store:
    """The trials under one results folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.trials = root / "trials"

    def prepare(self) -> None:
        """Create the folder and prove that it can be written. Raises EnvironmentProblem."""
        try:
            make_folder(self.trials)
            write_atomic(self.trials / PROBE, b"." * PROBE_BYTES)
            (self.trials / PROBE).unlink(missing_ok=True)
        except OSError as error:
            raise EnvironmentProblem(
                f"results folder {self.root} cannot be written ({error.strerror or error}); "
                "give another with --results FOLDER"
            ) from error

    def folder(self, spec: TrialSpec, trial_id: str) -> Path:
        parts = (spec.dataset, spec.network, spec.method)
        return self.trials.joinpath(*map(component, parts), component(trial_id))

    def find(self, trial_id: str) -> Path | None:
        """The folder of a trial by its id, or None."""
        return next(iter(sorted(self.trials.glob(f"*/*/*/{component(trial_id)}"))), None)

    def lock(self, folder: Path, timeout: float = -1) -> FileLock:
        """The lock of a trial; a process that dies gives it up."""
        self._refuse_links(folder)
        make_folder(folder)
        return FileLock(folder / ".lock", timeout=timeout)

    def _refuse_links(self, folder: Path) -> None:
        """Raises EnvironmentProblem where a link below ``trials/`` would lead what is written elsewhere, or its lock
        empty another file."""
        above = [folder, *folder.parents]
        inside = [folder / name for name in (".lock", "checkpoint", "state", EPOCH_LOGITS)]
        below = above[: above.index(self.trials)] if self.trials in above else []  # the results folder has a lock too
        for path in [*inside, *below]:
            if path.is_symlink():
                raise EnvironmentProblem(f"{path} is a link, which is not written through; move it away")

    def result(self, trial: Trial) -> TrialResult | None:
        """The trial's final record. None if it is missing or damaged, says "interrupted" or that the machine failed, or
        if the trial was being run again when its process died."""
        folder = self.folder(trial.spec, trial.id)
        try:
            found = read_result(folder / "trial.json")
        except (FileNotFoundError, DamagedRecord):
            return None
        if not found.final or found.trial_id != trial.id:
            return None
        begun_again = (folder / "checkpoint").is_dir() and not _sound(folder / "curve.jsonl", found)
        return None if begun_again else found

    def started(self, trial: Trial) -> TrialResult | None:
        """What the trial's last process wrote when it started, or None."""
        try:
            found = read_result(self.folder(trial.spec, trial.id) / "started.json")
        except (FileNotFoundError, DamagedRecord):
            return None
        return found if found.trial_id == trial.id else None

    def write(self, result: TrialResult, name: str = "trial.json") -> None:
        """Write a record, with the checksums of the files beside it. Whatever stands in the way is set aside."""
        folder = self.folder(result.spec, result.trial_id)
        self._refuse_links(folder)
        make_way(folder)
        sums = {}
        if name == "trial.json":
            epochs = [f"{EPOCH_LOGITS}/{path.name}" for path in sorted((folder / EPOCH_LOGITS).glob("*.safetensors"))]
            for sibling in ("curve.jsonl", "network.safetensors", "logits.safetensors", *epochs):
                if (folder / sibling).is_file():
                    sums[sibling] = sha256(folder / sibling)
            with contextlib.suppress(FileNotFoundError):
                try:
                    read_result(folder / name)
                except DamagedRecord:
                    set_aside(folder / name)
        write_atomic(folder / name, seal(result.model_copy(update={"checksums": sums})))

    def teaches(self, trial_id: str) -> bool:
        """Whether a trial is finished and its network is the one that was recorded, so that students can learn."""
        folder = self.find(trial_id)
        if folder is None:
            return False
        try:
            found = read_result(folder / "trial.json")
        except (FileNotFoundError, DamagedRecord):
            return False
        weights = folder / "network.safetensors"
        return found.status == "ok" and weights.is_file() and _sound(weights, found)

    def scan(self) -> Scan:
        """Every record; a trial that was started and has no result counts as interrupted."""
        results: list[TrialResult] = []
        damaged: list[Damaged] = []
        unreadable: list[tuple[Path, str]] = []
        for folder in nested(self.trials, 4, unreadable):
            for name in ("trial.json", "started.json"):
                path = folder / name
                try:
                    results.append(read_result(path))
                except (FileNotFoundError, NotADirectoryError):
                    continue
                except DamagedRecord as error:
                    damaged.append(Damaged(path, str(error)))
                    continue
                break
        damaged += [Damaged(folder, reason) for folder, reason in unreadable]
        return Scan(tuple(results), tuple(damaged))

    def leftovers(self) -> list[Path]:
        """Temporary files that killed processes left under this results folder, sorted; those of trials that a
        process works on now are not among them. They are harmless, and nothing reads them."""
        found = [*temporaries(self.root), *temporaries(self.trials)]
        for folder in nested(self.trials, 4):
            left = temporaries(folder)
            if left:
                with contextlib.suppress(Timeout), self.lock(folder, timeout=0):
                    found += left
        for folder in nested(self.root / "profiles", 3):
            found += temporaries(folder)
        found += [path for path in [self.trials / PROBE] if path.is_file()]
        return sorted(set(found))


def _sound(path: Path, result: TrialResult) -> bool:
    """Whether a file beside a record is what was recorded, or one that the record says nothing of."""
    recorded = result.checksums.get(path.name)
    try:
        return recorded is None or not path.exists() or sha256(path) == recorded
    except OSError:
        return False
