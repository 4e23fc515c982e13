"""One folder per trial, written so that a kill at any moment leaves the old or the new, never neither.

    ROOT/trials/<dataset>/<network>/<method>/<trial_id>/
        started.json   written first: a record with status "interrupted", for boards made meanwhile
        trial.json     the result, written last
        curve.jsonl    one line per epoch
        network.safetensors, logits.safetensors, epoch_logits/, checkpoint/, log.txt (of a trial that failed)
        .lock          held by the process that works on the trial

Not covered: two machines that write to one folder over a network file system without locks.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock
from pydantic import ValidationError

from sdbench.bounded import open_plain, read_plain
from sdbench.cost.records import ProfileResult
from sdbench.curve_lines import read_curve as read_curve
from sdbench.errors import EnvironmentProblem
from sdbench.spec import SCHEMA_VERSION, Trial, TrialResult, TrialSpec

MAX_RECORD_BYTES = 16 * 2**20
MAX_RECORD_VALUES = 100_000
"""Commas in a record's text: a bound of what reading it can take, which bytes alone do not give."""

_ZERO = "0" * 64

EPOCH_LOGITS = "epoch_logits"
"""The folder, in a trial's own, of the test set's logits after epochs before the last."""

AnyRecord = TypeVar("AnyRecord", TrialResult, ProfileResult)


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


@dataclass(frozen=True)
class Scan:
    """All records of a store: the readable ones and the damaged ones, both in order of their paths."""

    results: tuple[TrialResult, ...]
    damaged: tuple[Damaged, ...]


def sync_folder(folder: Path) -> None:
    """Make renames in ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside ``path`` that takes its place, durably, when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
        sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_atomic(path: Path, data: str | bytes) -> None:
    """Write a whole file: after a kill or a power cut it holds the old content or the new."""
    with replacing(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


def sha256(path: Path) -> str:
    """SHA-256 of a plain file's content, in hexadecimal. Raises OSError for a pipe, a device, a folder."""
    with open_plain(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


def seal(record: TrialResult | ProfileResult, name: str = "trial.json") -> str:
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
    except FileNotFoundError:
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


def append_line(path: Path, line: dict[str, Any]) -> None:
    """Append one line of JSON and make it durable."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line, allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def write_curve(path: Path, lines: list[dict[str, Any]]) -> None:
    """Replace a whole curve, as resume does when it cuts back to the checkpoint."""
    write_atomic(path, "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines))


def component(name: str) -> str:
    """A name as one path component: no separator, no leading dot."""
    return re.sub(r"[^A-Za-z0-9._+=-]", "-", name).lstrip(".") or "-"


class Store:
    """The trials under one results folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.trials = root / "trials"

    def prepare(self) -> None:
        """Create the folder and prove that it can be written. Raises EnvironmentProblem."""
        try:
            self.trials.mkdir(parents=True, exist_ok=True)
            with replacing(self.trials / ".probe") as temporary:
                temporary.write_bytes(b"ok")
            (self.trials / ".probe").unlink(missing_ok=True)
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
        folder.mkdir(parents=True, exist_ok=True)
        return FileLock(folder / ".lock", timeout=timeout)

    def _refuse_links(self, folder: Path) -> None:
        """Raises EnvironmentProblem where a link below ``trials/`` would lead what is written elsewhere, or its lock
        empty another file."""
        above = [folder, *folder.parents]
        inside = [folder / name for name in (".lock", "checkpoint", "state", EPOCH_LOGITS)]
        for path in [*inside, *above[: above.index(self.trials)]]:
            if path.is_symlink():
                raise EnvironmentProblem(f"{path} is a link, which is not written through; move it away")

    def result(self, trial: Trial) -> TrialResult | None:
        """The trial's final record, or None if it is missing, damaged or says "interrupted"."""
        try:
            found = read_result(self.folder(trial.spec, trial.id) / "trial.json")
        except (FileNotFoundError, DamagedRecord):
            return None
        return None if found.status == "interrupted" or found.trial_id != trial.id else found

    def write(self, result: TrialResult, name: str = "trial.json") -> None:
        """Write a record, with the checksums of the files beside it."""
        folder = self.folder(result.spec, result.trial_id)
        self._refuse_links(folder)
        sums = {}
        if name == "trial.json":
            epochs = [f"{EPOCH_LOGITS}/{path.name}" for path in sorted((folder / EPOCH_LOGITS).glob("*.safetensors"))]
            for sibling in ("curve.jsonl", "network.safetensors", "logits.safetensors", *epochs):
                if (folder / sibling).is_file():
                    sums[sibling] = sha256(folder / sibling)
            damaged = folder / name
            if damaged.exists():
                with contextlib.suppress(OSError):
                    self._set_aside(damaged)
        write_atomic(folder / name, seal(result.model_copy(update={"checksums": sums})))

    def _set_aside(self, path: Path) -> None:
        """Keep a damaged record under another name before a good one takes its place."""
        try:
            read_result(path)
        except DamagedRecord:
            number = 1
            while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
                number += 1
            path.rename(aside)

    def scan(self) -> Scan:
        """Every record; a trial that was started and has no result counts as interrupted."""
        results: list[TrialResult] = []
        damaged: list[Damaged] = []
        for folder in sorted(self.trials.glob("*/*/*/*")):
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
        return Scan(tuple(results), tuple(damaged))
