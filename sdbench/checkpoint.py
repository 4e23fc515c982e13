"""Checkpoints of a running trial: atomic, the two newest kept, read without unpickling code."""

from __future__ import annotations

import pickle
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch

from sdbench.store import replacing

KEEP = 2


def save(folder: Path, epoch: int, state: dict[str, Any]) -> None:
    """Write the state before epoch ``epoch`` durably, then drop all but the newest checkpoints."""
    with replacing(folder / f"epoch-{epoch:06d}.pt") as temporary:
        torch.save(state, temporary)
    for old in _newest_first(folder)[KEEP:]:
        old.unlink(missing_ok=True)


def load(folder: Path) -> dict[str, Any] | None:
    """The newest checkpoint that can be read, or None. Nothing in it is executed."""
    for path in _newest_first(folder):
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, KeyError, ValueError, pickle.UnpicklingError) as error:
            warnings.warn(f"checkpoint {path.name} cannot be read ({error}); an older one is tried", stacklevel=2)
            continue
        if isinstance(state, dict):
            return state
    return None


def remove(folder: Path) -> None:
    """Delete all checkpoints of a trial."""
    shutil.rmtree(folder, ignore_errors=True)


def _newest_first(folder: Path) -> list[Path]:
    found = [p for p in folder.glob("epoch-*.pt") if re.fullmatch(r"epoch-\d{6}\.pt", p.name)]
    return sorted(found, reverse=True)
