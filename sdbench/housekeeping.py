"""``sdbench gc`` and ``sdbench rm``: what of a results folder can go, and its removal.

Looked at first, under no lock; removed after that, each piece under its trial's lock and only if it is still what it
was. A trial that a process holds is left alone, and so is one whose lock or folder this user cannot open. Links are
never followed, nor removed. Damaged records are not removed but moved to ``quarantine/`` of the results folder, with
the path that they had.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from sdbench import attempts
from sdbench.errors import UserError
from sdbench.housekeeping_looks import busy, damage_of, is_leftover, leftovers, record_of, removed, studies, trial_at
from sdbench.housekeeping_records import RECORDS, Kind, Piece, Sweep
from sdbench.paths import path_of
from sdbench.spec import TrialResult
from sdbench.store import begun_again
from sdbench.superseded import lineage
from sdbench.trial_folder import AGAIN, STATE

Current = Callable[[TrialResult], bool | None]
"""Whether a record is of today's source and protocol; None where that is not known here."""

Records = list[tuple[Path, TrialResult]]
BEGUN = "it was being run again, which the same command goes on with"


def litter(root: Path, current: Current | None = None, *, failed: bool = False) -> Sweep:
    """What ``gc`` removes: checkpoints of finished trials, temporary files, damaged records, those of the trials of
    tuning studies included; with ``current`` finished trials of an older source or protocol, where one of today's with
    the same settings has finished; with ``failed`` checkpoints of trials that failed."""
    pieces: list[Piece] = []
    left: list[str] = []
    records: Records = []
    temporary = defaultdict[Path | None, list[Path]](list)
    for path in leftovers(root):
        temporary[trial_at(root, path)].append(path)
    for top in (root, *studies(root)):
        for folder in trial_folders(root, left, top):
            found, stays, record = _looked(root, folder, temporary.pop(folder, []), failed)
            left += stays
            pieces += found
            if record is not None and top == root:
                records.append((folder, record))
    rest = [path for paths in temporary.values() for path in paths if is_leftover(root, path)]
    pieces += [p for path in rest if (p := _piece(root, path, "temporary", "left behind by a kill"))]
    pieces += _cut_short(root, left)
    if current is not None:
        pieces = _without_parts(pieces, stale := list(_stale(root, records, current))) + stale
    return Sweep(results=str(root), pieces=tuple(pieces), left=tuple(left))


def whole_trials(root: Path, chosen: Callable[[TrialResult], bool]) -> Sweep:
    """What ``rm`` removes: the trials that are chosen, but for those whose students stay, and those whose record cannot
    be read, of which nobody knows what they are."""
    left: list[str] = []
    records: Records = []
    unknown: dict[Path, str] = {}
    for folder in trial_folders(root, left):
        record, damage = record_of(folder)
        if record is not None:
            records.append((folder, record))
            unknown[folder] = damage
    going = {record.trial_id for folder, record in records if chosen(record) and not unknown[folder]}
    taught = {r.spec.teacher: r.trial_id for _, r in records if r.spec.teacher and r.trial_id not in going}
    pieces = []
    for folder, record in records:
        place = _place(root, folder)
        if unknown[folder] and chosen(record):
            left.append(f"{place}: its record cannot be read: {unknown[folder]}")
        elif record.trial_id not in going:
            continue
        elif record.trial_id in taught:
            left.append(
                f"{place}: the teacher of trial {taught[record.trial_id]}, which stays; name both to remove both"
            )
        elif why := busy(folder):
            left.append(f"{place}: {why}")
        else:
            pieces.append(_whole(root, folder, record, "trial", _named(record)))
    return Sweep(results=str(root), pieces=tuple(pieces), left=tuple(left))


def trial_folders(root: Path, left: list[str], top: Path | None = None) -> Iterator[Path]:
    """Every trial's folder, none through a link, of a results folder or of a study ``top`` in it. left: gets links, and
    folders that cannot be listed."""
    level = [(top or root) / "trials"]
    for _ in range(4):
        below: list[Path] = []
        for folder in level:
            try:
                inside = [] if folder.is_symlink() else sorted(os.scandir(folder), key=lambda e: e.name)
            except (FileNotFoundError, NotADirectoryError):
                continue  # gone meanwhile
            except OSError as error:
                left.append(f"{_place(root, folder)}: it cannot be listed ({error.strerror})")
                continue
            for entry in inside:
                if entry.is_symlink():
                    left.append(f"{_place(root, Path(entry.path))}: a link, which is not followed")
                elif entry.is_dir() and not entry.name.startswith("."):
                    below.append(Path(entry.path))
        level = below
    yield from level


def _looked(
    root: Path, folder: Path, temporary: Iterable[Path], failed: bool
) -> tuple[list[Piece], list[str], TrialResult | None]:
    """What can go of one trial's folder, what stays that could be thought to go, and the trial's record."""
    try:
        record, damage = record_of(folder)
        found = [_piece(root, path, "temporary", "left behind by a kill") for path in temporary]
        found += _damaged(root, folder)
        kept, again = _checkpoints(root, folder, None if damage else record, failed)
    except OSError as error:
        return [], [f"{_place(root, folder)}: it cannot be looked at ({error.strerror or error})"], None
    pieces = [piece for piece in (*found, *kept) if piece is not None]
    if (pieces or again) and (why := busy(folder)):
        return [], [f"{_place(root, folder)}: {why}"], record
    return pieces, again, record


def _damaged(root: Path, folder: Path) -> Iterator[Piece | None]:
    for entry in sorted(os.scandir(folder), key=lambda e: e.name):
        path = Path(entry.path)
        if entry.is_symlink():
            continue
        if entry.name in RECORDS and (damage := damage_of(path)):
            yield _piece(root, path, "damaged", damage[:300])
        elif ".json.damaged-" in entry.name:
            yield _piece(root, path, "damaged", "was set aside when a good record took its place")


def _checkpoints(
    root: Path, folder: Path, record: TrialResult | None, failed: bool
) -> tuple[list[Piece | None], list[str]]:
    """What a trial that has ended would go on from; and that it stays, where the trial has been begun again."""
    places = [p for p in (folder / "checkpoint", folder / STATE) if p.is_dir() and not p.is_symlink()]
    if record is None or not record.final:
        return [], []
    if begun_again(folder, record):
        return [], [f"{_place(root, folder)}: {BEGUN}"]
    attempt = folder / AGAIN
    if attempt.is_dir() and not attempt.is_symlink():
        ended = record.status == "ok" and attempts.ended(folder, record) is not None
        if ended and not failed:
            return [], []  # --rerun failed goes on from it, and from the rows that it left
        reason = f"of an attempt to {'run it again that failed' if ended else 'replace an earlier record'}"
        return [_piece(root, place, "checkpoint", reason, record) for place in (attempt, *places)], []
    if not places or (record.status not in ("ok", "nan") and not failed):
        return [], []
    reason = "of a finished trial" if record.status == "ok" else f"of a trial that ended as {record.status}"
    return [_piece(root, place, "checkpoint", reason, record) for place in places], []


def _cut_short(root: Path, left: list[str]) -> Iterator[Piece]:
    """What is left of trials whose removal was killed."""
    for folder in removed(root):
        if why := busy(folder):
            left.append(f"{_place(root, folder)}: {why}")
        elif piece := _piece(root, folder, "temporary", "the rest of a trial whose removal was cut short"):
            yield piece


def _stale(root: Path, records: Sequence[tuple[Path, TrialResult]], current: Current) -> Iterator[Piece]:
    """Finished trials that one of today's has superseded, but for teachers of trials that stay."""
    finished = [(folder, r) for folder, r in records if r.status == "ok" and not begun_again(folder, r)]
    fresh = {lineage(record.spec) for _, record in finished if current(record)}
    going = {r.trial_id: folder for folder, r in finished if current(r) is False and lineage(r.spec) in fresh}
    taught = {record.spec.teacher for _, record in records if record.trial_id not in going}
    for folder, record in finished:
        if record.trial_id in going and record.trial_id not in taught:
            reason = f"{_named(record)}, superseded by a finished trial of today's source"
            yield _whole(root, folder, record, "stale", reason)


def _without_parts(pieces: Iterable[Piece], whole: Iterable[Piece]) -> list[Piece]:
    """Pieces that do not lie within a folder that goes as a whole."""
    folders = {piece.place for piece in whole}
    return [piece for piece in pieces if not any(str(p) in folders for p in Path(piece.place).parents)]


def _piece(root: Path, path: Path, kind: Kind, reason: str, record: TrialResult | None = None) -> Piece | None:
    """None where it has gone meanwhile."""
    seal = "" if record is None else record.checksums["trial.json"]
    try:
        return Piece(kind=kind, place=_place(root, path), bytes=_bytes(path), reason=reason, seal=seal)
    except FileNotFoundError:
        return None


def _whole(root: Path, folder: Path, record: TrialResult, kind: Kind, reason: str) -> Piece:
    seal = record.checksums["trial.json"]
    return Piece(kind=kind, place=_place(root, folder), bytes=_bytes(folder), reason=reason, seal=seal)


def _named(record: TrialResult) -> str:
    return f"{record.status} trial of {record.spec.title}"


def _place(root: Path, path: Path) -> str:
    return os.fsencode(path.relative_to(root).as_posix()).decode("utf-8", "surrogateescape")


def _bytes(path: Path) -> int:
    """Of a file, or of all files in a folder, those that vanish meanwhile left out; links count as nothing."""
    if not path.is_dir():
        return path.lstat().st_size
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):
                found = (Path(folder) / name).lstat()
                total += found.st_size if stat.S_ISREG(found.st_mode) else 0
    return total


def results_folder(results: str) -> Path:
    """The results folder. Raises UserError where there is none."""
    root = path_of(results).absolute()
    if not (root / "trials").is_dir():
        raise UserError(f"no results folder {results}: it has no trials/; give another with --results")
    return root
