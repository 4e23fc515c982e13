"""Keeps two processes from working on one trial where a lock alone does not.

A lock on shared storage belongs to a machine only as long as that machine can be reached: when it comes back after
its lease ran out, its trial still runs, and another process has the lock. So whoever takes the lock also writes a
name of its own into the trial's folder, and whoever finds another name there ends at once and writes nothing.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from threading import Thread
from uuid import uuid4

from sdbench.bounded import read_plain
from sdbench.store import write_atomic

HOLDER = ".holder"
MAX_NAME_BYTES = 1000
LOST = 75
"""Exit code of a trial's process whose trial another process has taken over."""

LOOK_S = 1.0


def take(folder: Path) -> str:
    """Write a new name into the folder of a trial whose lock is held; returns it."""
    name = uuid4().hex
    write_atomic(folder / HOLDER, name)
    return name


def lost(folder: Path, name: str) -> bool:
    """Whether another process has taken the trial over; a file that cannot be read says nothing."""
    with contextlib.suppress(OSError, ValueError):
        return read_plain(folder / HOLDER, MAX_NAME_BYTES).decode("ascii") not in ("", name)
    return False


def watch(folder: Path, name: str) -> None:
    """From now on, end this process within about a second of losing the trial."""
    Thread(target=_look, args=(folder, name), daemon=True).start()


def _look(folder: Path, name: str) -> None:
    while not lost(folder, name):
        time.sleep(LOOK_S)
    os._exit(LOST)
