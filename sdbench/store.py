"""One folder per trial, written so that a kill at any moment leaves the old or the new, never neither.

    ROOT/trials/<dataset>/<network>/<method>/<trial_id>/
        started.json   written first: a record with status "interrupted", for boards made meanwhile
        trial.json     the result, written last
        curve.jsonl    one line per epoch
        network.safetensors, logits.safetensors, epoch_logits/, checkpoint/, state/, log.txt (of a trial that failed)
        again/         the same of a finished trial while it is run again (``sdbench.attempts``)
        .lock          held by the process that works on the trial; what a dead one leaves is no lock

A record is written after the files beside it, with their checksums; ``sdbench.durable`` tells how files are written.

Not covered: two machines that write to one folder over a network file system without locks.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from sdbench import attempts
from sdbench.curve_lines import read_curve, write_curve
from sdbench.durable import (
    WriteProblem,
    append_line,
    make_folder,
    replacing,
    set_aside,
    sync_folder,
    write_atomic,
)
from sdbench.errors import EnvironmentProblem
from sdbench.paths import readable
from sdbench.sealed import DamagedRecord, read_result, read_sealed, seal, sha256
from sdbench.spec import Trial, TrialResult, TrialSpec
from sdbench.trial_folder import AGAIN, EPOCH_LOGITS, STATE, component, make_way, nested

PROBE = ".probe"
PROBE_BYTES = 2**16

__all__ = [
    "EPOCH_LOGITS", "Damaged", "DamagedRecord", "Scan", "Store", "WriteProblem", "append_line", "component",
    "read_curve", "read_result", "read_sealed", "replacing", "seal", "sha256", "sync_folder", "write_atomic",
    "write_curve",
]  # fmt: skip


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
        own = ("checkpoint", STATE, EPOCH_LOGITS)
        inside = [folder / name for name in (".lock", AGAIN, *own, *(f"{AGAIN}/{name}" for name in own))]
        below = above[: above.index(self.trials)] if self.trials in above else []  # the results folder has a lock too
        for path in [*inside, *below]:
            if path.is_symlink():
                raise EnvironmentProblem(f"{path} is a link, which is not written through; move it away")

    def result(self, trial: Trial) -> TrialResult | None:
        """The trial's final record. None if it is missing or damaged, says "interrupted" or that the machine failed, or
        if the trial was being run again and that was broken off."""
        folder = self.folder(trial.spec, trial.id)
        try:
            found = read_result(folder / "trial.json")
        except (FileNotFoundError, DamagedRecord):
            return None
        if not found.final or found.trial_id != trial.id:
            return None
        return None if begun_again(folder, found) else found

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

    def conclude(self, result: TrialResult) -> bool:
        """Write the record of a trial that came to its end. Where a finished one stands it stays, unless this one is
        finished as well: False then, and ``again/`` tells of the attempt. The caller holds the trial's lock."""
        folder = self.folder(result.spec, result.trial_id)
        old = attempts.standing(folder)
        if old is None or old.trial_id != result.trial_id or result.status == "ok":
            self.write(result)
            return True
        self._refuse_links(folder)
        attempts.fail(folder, old, result)
        return False

    def reseal(self, result: TrialResult) -> None:
        """Write a record over the one that it was made from: the checksums of the files beside it stay as they were
        taken, whatever lies there now. The caller holds the trial's lock."""
        folder = self.folder(result.spec, result.trial_id)
        self._refuse_links(folder)
        write_atomic(folder / "trial.json", seal(result))

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


def begun_again(folder: Path, result: TrialResult) -> bool:
    """Whether a trial that has a record was being run again when its process died, so that the same command goes on
    with it: its attempt is in ``again/``, or, of earlier versions, its curve is the new one's beside a checkpoint."""
    older = (folder / "checkpoint").is_dir() and not _sound(folder / "curve.jsonl", result)
    return older or attempts.begun(folder, result)


def _sound(path: Path, result: TrialResult) -> bool:
    """Whether a file beside a record is what was recorded, or one that the record says nothing of."""
    recorded = result.checksums.get(path.name)
    try:
        return recorded is None or not path.exists() or sha256(path) == recorded
    except OSError:
        return False
