"""The removal of what ``sdbench.housekeeping`` found: piece by piece, under locks, never through a link.

A trial's folder gets a hidden name first and is deleted under that, so that a kill leaves it whole or leaves nothing
that looks like a trial; what is left then, ``gc`` removes.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from pathlib import Path
from secrets import token_hex

from sdbench.housekeeping_looks import damage_of, held, is_leftover, record_of, trial_at
from sdbench.housekeeping_records import QUARANTINE, RECORDS, Piece, Sweep
from sdbench.store import Store, begun_again, sync_folder
from sdbench.trial_folder import REMOVED

CHANGED = "changed meanwhile"


def carry_out(sweep: Sweep) -> Sweep:
    """Remove and move what was found and is still what it was. What cannot go is told, and the others go."""
    root, done, left, failed = Path(sweep.results), list[Piece](), list(sweep.left), list[str]()
    students = Students(root) if any(piece.whole for piece in sweep.pieces) else None
    for piece in students.in_order(sweep.pieces) if students else sweep.pieces:
        try:
            why = _removed(root, piece, students)
        except OSError as error:
            where = f" ({error.filename})" if error.filename else ""
            failed.append(f"{piece.place}: {error.strerror or error}{where}")
            continue
        if why:
            left.append(f"{piece.place}: {why}")
        else:
            done.append(piece)
    return Sweep(results=sweep.results, pieces=tuple(done), left=tuple(left), failed=tuple(failed), done=True)


class Students:
    """Which trials learn from which, looked at again as often as takes a twentieth of the time."""

    def __init__(self, root: Path) -> None:
        self._store, self._gone = Store(root), set[str]()
        self._look()

    def _look(self) -> None:
        begun = time.monotonic()
        self._teachers = {r.trial_id: r.spec.teacher for r in self._store.scan().results if r.spec.teacher}
        self._next = time.monotonic() + 20 * (time.monotonic() - begun)

    def in_order(self, pieces: tuple[Piece, ...]) -> list[Piece]:
        """Students before their teachers."""
        return sorted(pieces, key=lambda piece: -self._generation(Path(piece.place).name))

    def _generation(self, trial_id: str) -> int:
        seen: list[str] = []
        while (teacher := self._teachers.get(trial_id)) is not None and trial_id not in seen:
            seen.append(trial_id)
            trial_id = teacher
        return len(seen)

    def of(self, trial_id: str) -> str | None:
        """A trial that learns from this one and has not been removed, if there is one."""
        if time.monotonic() >= self._next:
            self._look()
        found = (student for student, teacher in self._teachers.items() if teacher == trial_id)
        return next((student for student in found if student not in self._gone), None)

    def forget(self, trial_id: str) -> None:
        """It has been removed."""
        self._gone.add(trial_id)


def _removed(root: Path, piece: Piece, students: Students | None) -> str:
    """Remove one piece, or say why it stays. Raises OSError where the disk refuses."""
    path = root / piece.place
    if any(p.is_symlink() for p in (path, *path.parents) if p != root and root in p.parents):
        return CHANGED
    hidden = path.name.startswith(REMOVED)
    owner = path if piece.whole or hidden else trial_at(root, path)
    with held(owner, whole=piece.whole) if owner else contextlib.nullcontext("") as why:
        why = why or _changed(root, piece, students)
        if why:
            return why
        if piece.whole:
            _remove_trial(root, path)
            if students:
                students.forget(path.name)
        elif piece.kind == "damaged":
            _quarantine(root, path)
        elif path.is_dir():
            _delete(path)
        else:
            path.unlink()
    return ""


def _changed(root: Path, piece: Piece, students: Students | None) -> str:
    """Why a piece is not what it was when it was found, as far as a process may have changed it; else nothing."""
    path = root / piece.place
    if not os.path.lexists(path):
        return CHANGED
    if piece.kind == "temporary":
        return "" if path.name.startswith(REMOVED) or is_leftover(root, path) else CHANGED
    if piece.kind == "damaged":
        return "" if path.name not in RECORDS or damage_of(path) else CHANGED
    folder = path if piece.whole else path.parent
    record, damage = record_of(folder)
    if record is None or damage or record.checksums.get("trial.json") != piece.seal:
        return CHANGED
    if not piece.whole:
        return CHANGED if begun_again(folder, record) else ""
    student = students.of(record.trial_id) if students else None
    return f"the teacher of trial {student}, which stays" if student else ""


def _remove_trial(root: Path, path: Path) -> None:
    """Delete the folder of a trial whose lock is held, in one step as others see it."""
    hidden = root / "trials" / f"{REMOVED}{path.name}-{token_hex(4)}"
    path.rename(hidden)
    sync_folder(path.parent)
    _delete(hidden)
    _drop_empty(root, path.parent)


def _delete(folder: Path) -> None:
    """Delete a folder, which others may be doing as well. Links inside are removed, none is followed."""
    while os.path.lexists(folder):
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(folder)


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
    with contextlib.suppress(OSError):  # another trial has begun there
        while folder != root / "trials":
            folder.rmdir()
            folder = folder.parent
