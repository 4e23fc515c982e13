"""Checkpoints of a running trial: atomic, the two newest kept, read without unpickling code."""

from __future__ import annotations

import pickle
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch

from sdbench.bounded import open_plain
from sdbench.store import replacing
from sdbench.vetting import Unfit, bytes_in, vet, vet_parts, vet_values

KEEP = 2

MOST_BYTES = 2**40

UNREADABLE = (
    OSError, RuntimeError, EOFError, LookupError, ValueError, TypeError, AttributeError, AssertionError, MemoryError,
    ArithmeticError, pickle.UnpicklingError,
)  # fmt: skip
"""What torch raises where an archive was cut or changed; its reader takes much on trust."""


def save(folder: Path, epoch: int, state: dict[str, Any]) -> None:
    """Write the state before epoch ``epoch`` durably, then drop all but the newest checkpoints."""
    with replacing(folder / f"epoch-{epoch:06d}.pt") as temporary:
        torch.save(state, temporary)
    for old in _newest_first(folder)[KEEP:]:
        old.unlink(missing_ok=True)


def room(state: dict[str, Any], elsewhere: int) -> int:
    """Bytes that a checkpoint may have whose session has this state at its beginning, where momentum is still to come.

    elsewhere: bytes of memories that lie in files now, and may have been tensors when the checkpoint was written.
    """
    return 2**28 + 4 * (bytes_in(state) + elsewhere)


def load(folder: Path, limit: int = MOST_BYTES, progress: object = None) -> dict[str, Any] | None:
    """The newest checkpoint that can be read, or None. Nothing in it is executed, no link is followed, and it takes
    no more memory than its file is large, at most ``limit`` bytes; others are passed over with a warning.

    progress: where it is given, a checkpoint's "progress" has no other fields, and values of the same types.
    """
    if folder.is_symlink():
        return None
    for path in _newest_first(folder):
        try:
            return _read(path, limit, progress)
        except UNREADABLE as error:
            why = str(error)[:300] or type(error).__name__
            warnings.warn(f"checkpoint {path.name} cannot be read ({why}); an older one is tried", stacklevel=2)
    return None


def _read(path: Path, limit: int, progress: object) -> dict[str, Any]:
    if path.is_symlink():
        raise Unfit("a link, which is not followed")
    with open_plain(path) as file:
        vet(file, limit)
        file.seek(0)
        with warnings.catch_warnings():  # that looking at sparse tensors takes time
            warnings.filterwarnings("ignore", message="Validating sparse tensor")
            state = torch.load(file, map_location="cpu", weights_only=True)
    vet_values(state)
    if not isinstance(state, dict):
        raise Unfit("not a mapping")
    if progress is not None:
        vet_parts(state, vars(progress))
    return state


def remove(folder: Path) -> None:
    """Delete all checkpoints of a trial."""
    shutil.rmtree(folder, ignore_errors=True)


def _newest_first(folder: Path) -> list[Path]:
    if folder.is_symlink():
        return []
    found = [p for p in folder.glob("epoch-*.pt") if re.fullmatch(r"epoch-\d{6}\.pt", p.name)]
    return sorted(found, reverse=True)
