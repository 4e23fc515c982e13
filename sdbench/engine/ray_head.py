"""Whether the head of a joined cluster still answers: without it Ray ends this process by itself, and says nothing of
the trials."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event, Thread
from typing import NoReturn

LOST_S = 45.0
"""How long the head may be away; after 60 s without it Ray ends the process."""

POLL_S = 5.0

Words = Callable[[], None]

_words: list[Words] = []  # module state: only the command knows what is to be said, and only the engine when


@contextlib.contextmanager
def last_words(say: Words) -> Iterator[None]:
    """What is to be told, in this block, before the process ends because the cluster is gone."""
    _words.append(say)
    try:
        yield
    finally:
        _words.pop()


@contextlib.contextmanager
def watched(address: str, staged: Path) -> Iterator[None]:
    """In this block, end the process in good order when the head at ``HOST:PORT`` is gone. staged: removed then."""
    done = Event()
    Thread(target=_watch, args=(address, staged, done), daemon=True).start()
    try:
        yield
    finally:
        done.set()


def answers(address: str) -> bool:
    """Whether somebody listens at ``HOST:PORT``."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=POLL_S):
            return True
    except OSError:
        return False


def _watch(address: str, staged: Path, done: Event) -> None:
    seen = time.monotonic()
    while not done.wait(POLL_S):
        if answers(address):
            seen = time.monotonic()
        elif time.monotonic() - seen > LOST_S and not done.is_set():
            _end(address, staged)


def _end(address: str, staged: Path) -> NoReturn:
    """Nothing of Ray's is asked any more: whatever it is asked now, it may wait for ever."""
    print(f"the head of the cluster, {address}, is gone; its trials end and keep their checkpoints", file=sys.stderr)
    for say in _words:
        say()
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.flush()
    shutil.rmtree(staged, ignore_errors=True)
    os._exit(1)
