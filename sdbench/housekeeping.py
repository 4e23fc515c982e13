"""``sdbench gc`` and ``sdbench rm``: what of a results folder can go, and its removal.

Looked at first, under no lock; removed after that, each piece under its trial's lock and only if it is still what it
was. A trial that a process holds is left alone. Links are never followed, nor removed. Damaged records are not removed
but moved to ``quarantine/`` of the results folder, with the path that they had.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from sdbench.errors import UserError
from sdbench.housekeeping_records import RECORDS, Kind, Piece, Sweep
from sdbench.housekeeping_removal import busy, looked_at, readable_record
from sdbench.paths import path_of
from sdbench.spec import TrialResult
from sdbench.store import DamagedRecord
from sdbench.superseded import lineage
from sdbench.trial_folder import STATE

ABANDONED_S = 3600.0
"""Age from which a temporary file beside no trial belongs to no process."""

Current = Callable[[TrialResult], bool | None]
"""Whether a record is of today's source and protocol; None where that is not known here."""


def litter(root: Path, current: Current | None = None) -> Sweep:
    """What ``gc`` removes: checkpoints of finished trials, temporary files, damaged records; with ``current`` finished
    trials of an older source or protocol, where one of today's with the same settings has finished."""
    pieces: list[Piece] = []
    left: list[str] = []
    records: list[tuple[Path, TrialResult]] = []
    for folder in trial_folders(root, left):
        found = list(_in_trial(root, folder, records))
        if found and busy(folder):
            left.append(f"{_place(root, folder)}: a process works on it")
        else:
            pieces += found
    pieces += _beside_trials(root)
    if current is not None:
        pieces = _without_parts(pieces, stale := list(_stale(root, records, current))) + stale
    return Sweep(results=str(root), pieces=tuple(pieces), left=tuple(left))


def whole_trials(root: Path, chosen: Callable[[TrialResult], bool]) -> Sweep:
    """What ``rm`` removes: the trials that are chosen, but for those whose students stay."""
    left: list[str] = []
    records: list[tuple[Path, TrialResult]] = []
    for folder in trial_folders(root, left):
        record = readable_record(folder)
        if record is not None:
            records.append((folder, record))
    going = {record.trial_id for _, record in records if chosen(record)}
    taught = {r.spec.teacher: r.trial_id for _, r in records if r.spec.teacher and r.trial_id not in going}
    pieces = []
    for folder, record in records:
        if record.trial_id not in going:
            continue
        place = _place(root, folder)
        if record.trial_id in taught:
            left.append(
                f"{place}: the teacher of trial {taught[record.trial_id]}, which stays; name both to remove both"
            )
        elif busy(folder):
            left.append(f"{place}: a process works on it")
        else:
            pieces.append(Piece(kind="trial", place=place, bytes=_bytes(folder), reason=_named(record)))
    return Sweep(results=str(root), pieces=tuple(pieces), left=tuple(left))


def trial_folders(root: Path, left: list[str]) -> Iterator[Path]:
    """Every trial's folder, none through a link."""
    level = [root / "trials"]
    for _ in range(4):
        below: list[Path] = []
        for folder in level:
            if folder.is_symlink() or not folder.is_dir():
                continue
            for entry in sorted(os.scandir(folder), key=lambda e: e.name):
                if entry.is_symlink():
                    left.append(f"{_place(root, Path(entry.path))}: a link, which is not followed")
                elif entry.is_dir() and not entry.name.startswith("."):
                    below.append(Path(entry.path))
        level = below
    yield from level


def _in_trial(root: Path, folder: Path, records: list[tuple[Path, TrialResult]]) -> Iterator[Piece]:
    """What can go of one trial's folder; its record is added to ``records``."""
    for entry in sorted(os.scandir(folder), key=lambda e: e.name):
        path = Path(entry.path)
        if entry.is_symlink():
            continue
        if entry.name in RECORDS:
            found = looked_at(path)
            if isinstance(found, TrialResult) and entry.name == "trial.json":
                records.append((folder, found))
            if isinstance(found, DamagedRecord) and found.kind != "newer":
                yield _piece(root, path, "damaged", str(found)[:300])
        elif ".json.damaged-" in entry.name:
            yield _piece(root, path, "damaged", "was set aside when a good record took its place")
        elif entry.is_file() and entry.name.startswith(".") and entry.name.endswith(".tmp"):
            yield _piece(root, path, "temporary", "left behind by a kill")
    record = readable_record(folder)
    for place in (folder / "checkpoint", folder / STATE):
        if record and record.status == "ok" and place.is_dir() and not place.is_symlink():
            yield _piece(root, place, "checkpoint", "of a finished trial")


def _beside_trials(root: Path) -> Iterator[Piece]:
    """Temporary files in the results folder itself that no process can still be writing."""
    for folder in (root, root / "trials"):
        if folder.is_symlink() and folder != root:
            continue
        for path in sorted(folder.glob(".*.tmp")):
            if not path.is_symlink() and path.is_file() and time.time() - path.stat().st_mtime > ABANDONED_S:
                yield _piece(root, path, "temporary", "left behind by a kill")


def _stale(root: Path, records: Sequence[tuple[Path, TrialResult]], current: Current) -> Iterator[Piece]:
    """Finished trials that one of today's has superseded, but for teachers of trials that stay."""
    finished = [(folder, record) for folder, record in records if record.status == "ok"]
    fresh = {lineage(record.spec) for _, record in finished if current(record)}
    going = {r.trial_id: folder for folder, r in finished if current(r) is False and lineage(r.spec) in fresh}
    taught = {record.spec.teacher for _, record in records if record.trial_id not in going}
    for folder, record in finished:
        if record.trial_id in going and record.trial_id not in taught:
            yield _piece(root, folder, "stale", f"{_named(record)}, superseded by a finished trial of today's source")


def _without_parts(pieces: Iterable[Piece], whole: Iterable[Piece]) -> list[Piece]:
    """Pieces that do not lie within a folder that goes as a whole."""
    folders = {piece.place for piece in whole}
    return [piece for piece in pieces if piece.place.rpartition("/")[0] not in folders]


def _piece(root: Path, path: Path, kind: Kind, reason: str) -> Piece:
    return Piece(kind=kind, place=_place(root, path), bytes=_bytes(path), reason=reason)


def _named(record: TrialResult) -> str:
    return f"{record.status} trial of {record.spec.title}"


def _place(root: Path, path: Path) -> str:
    return os.fsencode(path.relative_to(root).as_posix()).decode("utf-8", "surrogateescape")


def _bytes(path: Path) -> int:
    """Of a file, or of all files in a folder; links count as nothing."""
    if not path.is_dir():
        return path.lstat().st_size
    return sum(p.lstat().st_size for p in path.rglob("*") if not p.is_symlink() and p.is_file())


def results_folder(results: str) -> Path:
    """The results folder. Raises UserError where there is none."""
    root = path_of(results).absolute()
    if not (root / "trials").is_dir():
        raise UserError(f"no results folder {results}: it has no trials/; give another with --results")
    return root
