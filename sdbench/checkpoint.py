"""Checkpoints of a running trial: atomic, checked on reading, the two newest kept, read without unpickling code.

A checkpoint is what ``torch.save`` writes, a zip file, whose comment holds the SHA-256 of all before the comment: torch
itself does not notice a changed byte in a tensor.
"""

from __future__ import annotations

import hashlib
import pickle
import re
import shutil
import struct
import warnings
from pathlib import Path
from typing import Any, BinaryIO

import torch

from sdbench.bounded import open_plain
from sdbench.store import replacing, sha256
from sdbench.trial_folder import make_way_for
from sdbench.vetting import COMMENT, MARK, Unfit, bytes_in, vet, vet_parts, vet_values

KEEP = 2

MOST_BYTES = 2**40

UNREADABLE = (
    OSError, RuntimeError, EOFError, LookupError, ValueError, TypeError, AttributeError, AssertionError, MemoryError,
    ArithmeticError, pickle.UnpicklingError,
)  # fmt: skip
"""What torch raises where an archive was cut or changed; its reader takes much on trust."""

_END = b"PK\x05\x06"
"""How a zip file's last record begins, 22 bytes long without a comment; its last two are the comment's length."""


def save(folder: Path, epoch: int, state: dict[str, Any]) -> None:
    """Write the state before epoch ``epoch`` durably, then drop all but the newest checkpoints."""
    path = folder / f"epoch-{epoch:06d}.pt"
    make_way_for(path)
    with replacing(path) as temporary:
        torch.save(state, temporary)
        _seal(temporary)
    for later in _newest_first(folder):
        if later.name > path.name and later.is_file():  # damaged, or of a run that was not gone on from
            later.unlink(missing_ok=True)
    make_room(folder, KEEP)


def make_room(folder: Path, keep: int = 1) -> None:
    """Delete all but the ``keep`` newest checkpoints."""
    for old in [path for path in _newest_first(folder) if path.is_file()][keep:]:
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
        if not _is_sound(file):
            raise Unfit("its checksum does not match")
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


def _seal(path: Path) -> None:
    """Append the digest of a zip file without comment as its comment; any reader of zip files skips it."""
    digest = sha256(path).encode()
    with path.open("rb+") as file:
        file.seek(-22, 2)
        end = file.read()
        if end.startswith(_END) and end.endswith(b"\0\0"):
            file.seek(-2, 2)
            file.write(struct.pack("<H", COMMENT) + MARK + digest)


def _is_sound(file: BinaryIO) -> bool:
    """Whether a checkpoint's bytes are those that were written; True for one of an earlier version, without digest."""
    size = file.seek(0, 2)
    file.seek(max(0, size - 22 - COMMENT))
    end = file.read()
    if not (end.startswith(_END) and end[22:].startswith(MARK)):
        return True
    state, left = hashlib.sha256(), size - 2 - COMMENT
    file.seek(0)
    while left > 0 and (block := file.read(min(left, 2**20))):
        state.update(block)
        left -= len(block)
    state.update(b"\0\0")
    return end.endswith(state.hexdigest().encode())
