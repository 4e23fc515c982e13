"""Trials that are run again: a finished record is only ever replaced by another finished one, whole. No torch.

Until it is done, such a trial writes into ``again/`` of its folder, and then all of that takes the place of what was
there before. ``again/of.txt`` says which record is to be replaced. ``again/ended.json`` is the record of an attempt
that failed: the older record stands, and another attempt goes on from the checkpoints that are left. An attempt that
was broken off has none, or one that the machine is to blame for; the next run ends it.
"""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

from sdbench.bounded import read_plain
from sdbench.durable import write_atomic
from sdbench.sealed import DamagedRecord, read_result, seal
from sdbench.spec import TrialResult
from sdbench.trial_folder import AGAIN, make_way

OF, ENDED = "of.txt", "ended.json"
MAX_OF_BYTES = 1000


def standing(folder: Path) -> TrialResult | None:
    """The finished record of a trial's folder, which nothing but another finished one replaces; None for none."""
    with contextlib.suppress(FileNotFoundError, DamagedRecord):
        found = read_result(folder / "trial.json")
        return found if found.status == "ok" else None
    return None


def begin(folder: Path, old: TrialResult) -> None:
    """Make ``again/`` for an attempt to replace a record; what an attempt on another record left is deleted. The caller
    holds the trial's lock."""
    if not _is_of(folder, old):
        shutil.rmtree(folder / AGAIN, ignore_errors=True)
        write_atomic(folder / AGAIN / OF, old.provenance.started + "\n")
    (folder / AGAIN / ENDED).unlink(missing_ok=True)
    make_way(folder / AGAIN)


def ended(folder: Path, old: TrialResult) -> TrialResult | None:
    """The record of the failed attempt to replace ``old``, or None."""
    if not _is_of(folder, old):
        return None
    try:
        found = read_result(folder / AGAIN / ENDED)
    except (FileNotFoundError, DamagedRecord):
        return None
    return found if found.trial_id == old.trial_id else None


def begun(folder: Path, old: TrialResult) -> bool:
    """Whether an attempt to replace a finished record was broken off, so that the next run ends it."""
    if old.status != "ok" or not _is_of(folder, old):
        return False
    last = ended(folder, old)
    return last is None or not last.final


def fail(folder: Path, old: TrialResult, result: TrialResult) -> None:
    """Record that an attempt to replace ``old`` failed. The caller holds the trial's lock."""
    if not _is_of(folder, old):
        begin(folder, old)
    write_atomic(folder / AGAIN / ENDED, seal(result.model_copy(update={"checksums": {}})))


def close(folder: Path) -> None:
    """Delete ``again/``, whose content has gone to its places."""
    shutil.rmtree(folder / AGAIN, ignore_errors=True)


def _is_of(folder: Path, old: TrialResult) -> bool:
    """Whether ``again/`` is there and belongs to an attempt to replace this record."""
    if (folder / AGAIN).is_symlink():
        return False
    try:
        return read_plain(folder / AGAIN / OF, MAX_OF_BYTES).decode().strip() == old.provenance.started
    except (OSError, ValueError):
        return False
