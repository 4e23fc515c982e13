"""Checkpoints of a running trial: atomic, checked on reading, the two newest kept, read without unpickling code.

A checkpoint is what ``torch.save`` writes, a zip file, whose comment holds the SHA-256 of all before the comment: torch
itself does not notice a changed byte in a tensor.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import struct
import warnings
from pathlib import Path
from typing import Any

import torch

from sdbench.store import replacing, sha256
from sdbench.trial_folder import make_way_for

KEEP = 2

_END = b"PK\x05\x06"
"""How a zip file's last record begins, 22 bytes long without a comment; its last two are the comment's length."""

_MARK = b"sha256:"
_COMMENT = len(_MARK) + 64


def save(folder: Path, epoch: int, state: dict[str, Any]) -> None:
    """Write the state before epoch ``epoch`` durably, then drop all but the newest checkpoints."""
    path = folder / f"epoch-{epoch:06d}.pt"
    make_way_for(path)
    with replacing(path) as temporary:
        torch.save(state, temporary)
        _seal(temporary)
    for later in _newest_first(folder):
        if later.name > path.name:  # damaged, or of a run that was not gone on from
            later.unlink(missing_ok=True)
    make_room(folder, KEEP)


def load(folder: Path) -> dict[str, Any] | None:
    """The newest checkpoint that is what was written, or None. Nothing in it is executed."""
    for path in _newest_first(folder):
        try:
            if not _is_sound(path):
                raise ValueError("its checksum does not match")
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # what a reader makes of damaged bytes has no bounds
            warnings.warn(f"checkpoint {path.name} cannot be read ({error}); an older one is tried", stacklevel=2)
            continue
        if isinstance(state, dict):
            return state
    return None


def make_room(folder: Path, keep: int = 1) -> None:
    """Delete all but the ``keep`` newest checkpoints."""
    for old in _newest_first(folder)[keep:]:
        old.unlink(missing_ok=True)


def remove(folder: Path) -> None:
    """Delete all checkpoints of a trial."""
    shutil.rmtree(folder, ignore_errors=True)


def _newest_first(folder: Path) -> list[Path]:
    found = [p for p in folder.glob("epoch-*.pt") if re.fullmatch(r"epoch-\d{6}\.pt", p.name) and p.is_file()]
    return sorted(found, reverse=True)


def _seal(path: Path) -> None:
    """Append the digest of a zip file without comment as its comment; any reader of zip files skips it."""
    digest = sha256(path).encode()
    with path.open("rb+") as file:
        file.seek(-22, 2)
        end = file.read()
        if end.startswith(_END) and end.endswith(b"\0\0"):
            file.seek(-2, 2)
            file.write(struct.pack("<H", _COMMENT) + _MARK + digest)


def _is_sound(path: Path) -> bool:
    """Whether a checkpoint's bytes are those that were written; True for one of an earlier version, without digest."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 22 - _COMMENT))
        end = file.read()
        if not (end.startswith(_END) and end[22:].startswith(_MARK)):
            return True
        state, left = hashlib.sha256(), size - 2 - _COMMENT
        file.seek(0)
        while left > 0 and (block := file.read(min(left, 2**20))):
            state.update(block)
            left -= len(block)
        state.update(b"\0\0")
    return end.endswith(state.hexdigest().encode())
