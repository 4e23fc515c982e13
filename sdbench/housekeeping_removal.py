"""The removal of what ``sdbench.housekeeping`` found: piece by piece, under locks, never through a link."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from sdbench.errors import EnvironmentProblem
from sdbench.housekeeping_records import QUARANTINE, RECORDS, Piece, Sweep
from sdbench.spec import TrialResult
from sdbench.store import DamagedRecord, read_result, sync_folder


def carry_out(sweep: Sweep) -> Sweep:
    """Remove and move what was found. Raises EnvironmentProblem where the disk refuses; what went is gone then."""
    root, done, left = Path(sweep.results), [], list(sweep.left)
    for piece in sweep.pieces:
        path = root / piece.place
        try:
            whole = piece.kind in ("stale", "trial")
            with held(path if whole else path.parent, whole=whole) as free:
                if not free:
                    left.append(f"{piece.place}: a process works on it")
                elif not _still(root, piece):
                    left.append(f"{piece.place}: changed meanwhile")
                else:
                    _go(root, piece)
                    done.append(piece)
        except OSError as error:
            told = f"{len(done)} piece(s) went before"
            raise EnvironmentProblem(
                f"{path}: {error.strerror or error}; {told}; mend its rights, then again"
            ) from error
    return Sweep(results=sweep.results, pieces=tuple(done), left=tuple(left), done=True)


def _go(root: Path, piece: Piece) -> None:
    path = root / piece.place
    if piece.kind == "damaged":
        _quarantine(root, path)
    elif path.is_dir():
        shutil.rmtree(path)  # removes links inside, follows none
        if piece.kind in ("stale", "trial"):
            _drop_empty(root, path.parent)
    else:
        path.unlink()


def _still(root: Path, piece: Piece) -> bool:
    """Whether a piece is what it was when it was found, as far as a process may have changed it."""
    path = root / piece.place
    if any(p.is_symlink() for p in (path, *path.parents) if p != root and root in p.parents) or not path.exists():
        return False
    if piece.kind == "checkpoint":
        record = readable_record(path.parent)
        return record is not None and record.status == "ok"
    return piece.kind != "damaged" or path.name not in RECORDS or isinstance(looked_at(path), DamagedRecord)


def _quarantine(root: Path, path: Path) -> None:
    """Move a file below ``quarantine/``, never over another."""
    target = root / QUARANTINE / path.relative_to(root)
    if any(parent.is_symlink() for parent in target.parents if root in parent.parents):
        raise OSError(None, "quarantine is, or leads through, a link; move the link away")
    target.parent.mkdir(parents=True, exist_ok=True)
    number, wanted = 1, target
    while os.path.lexists(target):
        number, target = number + 1, wanted.with_name(f"{wanted.name}-{number}")
    path.rename(target)
    sync_folder(path.parent)


def _drop_empty(root: Path, folder: Path) -> None:
    """Remove the folders of a method, a network and a data set that have become empty."""
    while folder != root / "trials" and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent


def looked_at(path: Path) -> TrialResult | DamagedRecord | None:
    try:
        return read_result(path)
    except FileNotFoundError:
        return None
    except DamagedRecord as damage:
        return damage


def readable_record(folder: Path) -> TrialResult | None:
    """A trial's record, or else that it was started."""
    for name in RECORDS:
        if isinstance(found := looked_at(folder / name), TrialResult):
            return found
    return None


@contextmanager
def held(folder: Path, *, whole: bool = False) -> Iterator[bool]:
    """The lock of a trial for the time of the block; False where a process has it. Where there is none it is made only
    if the folder goes as a whole."""
    lock = folder / ".lock"
    if lock.is_symlink():
        yield False
        return
    if not (lock.exists() or (whole and folder.is_dir())):
        yield True
        return
    try:
        with FileLock(lock, timeout=0):
            yield True
    except Timeout:
        yield False


def busy(folder: Path) -> bool:
    with held(folder) as free:
        return not free
