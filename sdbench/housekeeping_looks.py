"""What ``sdbench gc`` and ``sdbench rm`` look at before anything goes: records, leftovers and locks."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from sdbench.durable import entries, is_temporary, temporaries
from sdbench.housekeeping_records import RECORDS
from sdbench.spec import TrialResult
from sdbench.store import PROBE, DamagedRecord, read_result
from sdbench.trial_folder import REMOVED

ABANDONED_S = 3600.0
"""Age from which a temporary file beside no trial belongs to no process."""

TUNING = "tuning"
"""The folder, in a results folder, of studies, each with trials of its own."""

LOCK = ".lock"
BUSY = "a process works on it"
TRIAL_DEPTH = 5
"""Parts of the place of a trial's folder: trials, data set, network, method, id."""


def record_of(folder: Path) -> tuple[TrialResult | None, str]:
    """A trial's record, or else that it was started; and what is wrong with its trial.json, where there is one that
    cannot be read, so that the other says little of the trial."""
    found = looked_at(folder / RECORDS[0])
    if isinstance(found, TrialResult):
        return found, ""
    started = looked_at(folder / RECORDS[1])
    return started if isinstance(started, TrialResult) else None, "" if found is None else str(found)


def looked_at(path: Path) -> TrialResult | DamagedRecord | None:
    """One file: its record, what is wrong with it, or None where there is none."""
    try:
        return read_result(path)
    except FileNotFoundError:
        return None
    except DamagedRecord as damage:
        return damage


def damage_of(path: Path) -> str:
    """What is wrong with a record so that it belongs in quarantine; nothing where it is whole, of a newer sdbench, or
    not to be read by this user."""
    found = looked_at(path)
    if not isinstance(found, DamagedRecord) or found.kind == "newer" or isinstance(found.__cause__, PermissionError):
        return ""
    return str(found)


def leftovers(root: Path) -> list[Path]:
    """All temporary files under a results folder, sorted: what kills left, and of processes at work what they write.

    In the results folder itself, beside and within trials, profiles and budgets, and beside and within the trials of
    tuning studies. Links are not followed.
    """
    depths = {"trials": TRIAL_DEPTH + 1, "profiles": 3, "budgets": 0, TUNING: TRIAL_DEPTH + 3}
    found = temporaries(root, 0)
    for name, depth in depths.items():
        if not (root / name).is_symlink():
            found += temporaries(root / name, depth)
    found += [path for path in (root / "trials" / PROBE, *_studies_probes(root)) if path.is_file()]
    return sorted(found)


def is_leftover(root: Path, path: Path) -> bool:
    """Whether a file is temporary, and no process can still be writing it, but for one that has its trial's lock."""
    if not (is_temporary(path.name) or path.name == PROBE):
        return False
    return trial_at(root, path) is not None or time.time() - path.lstat().st_mtime > ABANDONED_S


def trial_at(root: Path, path: Path) -> Path | None:
    """The folder of the trial within which ``path`` lies; None where it lies in none."""
    parts = path.relative_to(root).parts
    depth = TRIAL_DEPTH + (2 if parts[0] == TUNING else 0)
    inside = len(parts) > depth and parts[depth - TRIAL_DEPTH] == "trials"
    return root.joinpath(*parts[:depth]) if inside else None


def removed(root: Path) -> list[Path]:
    """The folders of trials whose removal was cut short."""
    found = entries(root / "trials")
    return [Path(e.path) for e in found if e.name.startswith(REMOVED) and e.is_dir(follow_symlinks=False)]


def studies(root: Path) -> list[Path]:
    """The folders of tuning studies that have trials."""
    top = root / TUNING
    found = [] if top.is_symlink() else entries(top)
    return [Path(e.path) for e in found if e.is_dir(follow_symlinks=False) and (Path(e.path) / "trials").is_dir()]


def _studies_probes(root: Path) -> list[Path]:
    return [study / "trials" / PROBE for study in studies(root)]


def busy(folder: Path) -> str:
    """Why a trial must be left alone now; empty where it need not. The lock's file is not written, so that looking
    works where nothing can be written."""
    flags = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        try:
            descriptor = os.open(folder / LOCK, os.O_RDWR | flags)
        except OSError as error:
            if error.errno != errno.EROFS:
                raise
            descriptor = os.open(folder / LOCK, os.O_RDONLY | flags)
    except FileNotFoundError:
        return ""
    except OSError as error:
        return _cannot(error)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return BUSY if error.errno in (errno.EAGAIN, errno.EACCES) else _cannot(error)
    finally:
        os.close(descriptor)
    return ""


@contextmanager
def held(folder: Path, *, whole: bool = False) -> Iterator[str]:
    """The lock of a trial for the time of the block; yields why it cannot be had, or nothing where it is. Where there
    is none it is made only if the folder goes as a whole. Raises OSError on a disk that cannot be written."""
    lock = FileLock(folder / LOCK, timeout=0)
    why, wanted = "", os.path.lexists(folder / LOCK) or (whole and folder.is_dir())
    try:
        if (folder / LOCK).is_symlink():
            why = _cannot(OSError(errno.ELOOP, "it is a link"))
        elif wanted:
            lock.acquire()
    except Timeout:
        why = BUSY
    except OSError as error:
        if error.errno == errno.EROFS:
            raise
        why = _cannot(error)
    try:
        yield why
    finally:
        lock.release()


def _cannot(error: OSError) -> str:
    told = "it is a link" if error.errno == errno.ELOOP else error.strerror or str(error)
    return f"its lock cannot be opened ({told})"
