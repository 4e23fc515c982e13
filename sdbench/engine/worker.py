"""The process of one trial: ``python -m sdbench.engine.worker STATUS_FD PLACE``, its job on standard input; PLACE is
the folder in which its processes meet, empty where it has one.

The lock is taken before torch is imported, so that waiting for another process costs nothing. When
standard input closes, the supervisor is gone: the trial stops at its next step and the process ends, with all that it
started. What a plug-in does to the standard streams harms neither: it gets others.
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from filelock import Timeout

from sdbench import attempts
from sdbench.durable import sweep
from sdbench.engine.fence import take, watch
from sdbench.engine.group import train
from sdbench.engine.job import Job
from sdbench.engine.process import CANNOT_WRITE, HOLDS, MOST_TOLD
from sdbench.engine.supervise import LOCK_POLL_S
from sdbench.spec import TrialResult
from sdbench.store import Store
from sdbench.trial_folder import AGAIN

ORPHAN_GRACE_S = 3.0


def work(job: Job, status: int, stop: threading.Event, place: str = "") -> TrialResult | None:
    """Take the trial's lock, look again, and run it if it is still to be done; None if stopped while waiting."""
    store = Store(Path(job.store))
    folder = store.folder(job.trial.spec, job.trial.id)
    lock = store.lock(folder)
    while not lock.is_locked:
        if stop.is_set():
            return None
        with contextlib.suppress(Timeout):
            lock.acquire(timeout=LOCK_POLL_S)
    try:
        os.write(status, b"\n")  # the supervisor's clock starts here
        found = store.result(job.trial)
        if found is not None and found.checksums["trial.json"] != job.replaces:
            return found
        name = take(folder)
        os.write(status, f"{HOLDS}{name}\n".encode())
        watch(folder, name)
        sweep(folder)
        sweep(folder / AGAIN)
        if old := attempts.standing(folder):
            attempts.begin(folder, old)
        return train(job, stop.is_set, old, place)
    finally:
        lock.release()


class Deaf(io.FileIO):
    """A stream that goes on when nobody reads it any more: a trial must not fail because the command was killed."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            return memoryview(data).nbytes


def _streams() -> int:
    """Take the pipe from the supervisor off standard input, where plug-ins find nothing; returns its descriptor."""
    supervisor = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    for name, number in (("stdout", 1), ("stderr", 2)):
        raw: Any = Deaf(number, "w", closefd=False)
        setattr(sys, name, io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace", write_through=True))
    return supervisor


def _watch_supervisor(supervisor: int, stop: threading.Event) -> None:
    """Runs beside the trial until the pipe closes."""
    while os.read(supervisor, 4096):
        pass
    stop.set()
    threading.Event().wait(ORPHAN_GRACE_S)
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)  # this process and those that a plug-in started
    os._exit(1)


def main() -> None:
    stop = threading.Event()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    faulthandler.enable(os.dup(2))
    status, place = int(sys.argv[1]), sys.argv[2]
    job = Job.model_validate_json(sys.stdin.buffer.readline())
    threading.Thread(target=_watch_supervisor, args=(_streams(), stop), daemon=True).start()
    try:
        work(job, status, stop, place)
    except OSError as error:  # of the results folder: what a method raises is in its record
        os.write(status, f"{CANNOT_WRITE}{error.strerror or error}\n".encode(errors="replace")[:MOST_TOLD])
        os._exit(1)
    with contextlib.suppress(OSError, ValueError):  # a plug-in may have closed them
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(0)  # a plug-in's threads or exit handlers must not keep a finished trial alive


if __name__ == "__main__":
    main()
