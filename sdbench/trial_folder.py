"""What lies in a trial's folder, and where such folders lie. No torch."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from sdbench.durable import set_aside

EPOCH_LOGITS = "epoch_logits"
"""The folder, in a trial's own, of the test set's logits after epochs before the last."""

STATE = "state"
"""The folder, in a trial's own, of memories of every image that are kept on disk while it trains."""

AGAIN = "again"
"""The folder, in a finished trial's own, of what is made while the trial is run again (``sdbench.attempts``)."""

REMOVED = ".removed-"
"""Begins the name, in ``trials/``, of a trial's folder that is being deleted."""

FILES = ("trial.json", "started.json", "curve.jsonl", "network.safetensors", "logits.safetensors", "log.txt")
FOLDERS = ("checkpoint", STATE, EPOCH_LOGITS, AGAIN)


def component(name: str) -> str:
    """A name as one path component: no separator, no leading dot."""
    return re.sub(r"[^A-Za-z0-9._+=-]", "-", name).lstrip(".") or "-"


def make_way(folder: Path) -> None:
    """Set aside what stands in a trial's folder where its files go and is none: a folder, a pipe, a link to nothing."""
    for name in FILES:
        make_way_for(folder / name)
    for name in FOLDERS:
        if os.path.lexists(folder / name) and not (folder / name).is_dir():
            set_aside(folder / name)


def make_way_for(path: Path) -> None:
    """The same for one file."""
    if os.path.lexists(path) and not path.is_file():
        set_aside(path)


def nested(top: Path, depth: int, unreadable: list[tuple[Path, str]] | None = None) -> Iterator[Path]:
    """All that lies ``depth`` levels below ``top``, in order of the paths.

    unreadable: gets the folders on the way that cannot be listed, with the reason; nothing else is told of them.
    """
    try:
        names = sorted(entry.name for entry in os.scandir(top))
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        if unreadable is not None:
            unreadable.append((top, f"it cannot be listed ({error.strerror})"))
        return
    for name in names:
        if depth > 1:
            yield from nested(top / name, depth - 1, unreadable)
        else:
            yield top / name
