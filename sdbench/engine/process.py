"""One process of one trial, from its start to its end: what it prints and tells, how long it may take. No torch."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from threading import Event, Thread
from typing import IO

from sdbench.engine.job import Job

WORKER = "sdbench.engine.worker"
CANNOT_WRITE, HOLDS = "cannot write: ", "holds: "
"""How lines begin by which a trial's process tells why it could not write its record, and its name as the one that
holds the trial. They come through a pipe of their own: an exit code may be a plug-in's."""

MOST_TOLD = 2000
"""Bytes of a line of that pipe, which takes it at once."""

POLL_S = 0.1
STOP_GRACE_S = 20.0
LOG_CHUNK = 2**16
LOG_BYTES = 2**16


class Attempt:
    """One process: its exit code, what it told, the end of what it printed, whether it ran out of time."""

    def __init__(self) -> None:
        self.code = 0
        self.timed_out = False
        self.told = bytearray()
        self.printed = bytearray()

    def said(self, what: str) -> str:
        """The rest of the line that began so; empty where there was none."""
        lines = bytes(self.told).decode(errors="replace").split("\n")
        return next((line.removeprefix(what) for line in lines if line.startswith(what)), "")

    def hear(self, chunk: bytes) -> None:
        self.printed += chunk
        if len(self.printed) > 2 * LOG_BYTES:
            del self.printed[:-LOG_BYTES]

    @property
    def log(self) -> str:
        return bytes(self.printed[-LOG_BYTES:]).decode(errors="replace")


def attempted(job: Job, stop: Event, environ: dict[str, str] | None, place: str = "") -> Attempt:
    """Start the trial's process and wait for its end. place: as ``sdbench.engine.group.meeting_place`` has it."""
    attempt = Attempt()
    reader, writer = os.pipe()
    threads = str(job.trial.spec.threads)
    env = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "PYTHONUNBUFFERED": "1"}
    env.update(environ or {})
    try:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", WORKER, str(writer), place],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(writer,),
            env=env,
            start_new_session=True,  # a Ctrl-C on the terminal reaches the command, which stops its trials
        )
    finally:
        os.close(writer)
    assert process.stdin is not None
    assert process.stdout is not None
    listener = Thread(target=_listen, args=(process.stdout, attempt), daemon=True)
    listener.start()
    try:
        process.stdin.write(job.model_dump_json().encode() + b"\n")
        process.stdin.flush()
        _wait(process, attempt, job.options.timeout_s, reader, stop)
    except BrokenPipeError:
        _ended(process, block=True)
    finally:
        _kill(process)  # where it has ended, what it started and left behind
        attempt.code = process.wait()
        _listen_once(reader, attempt)
        os.close(reader)
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        listener.join(timeout=5)
        process.stdout.close()
    return attempt


def _ended(process: subprocess.Popen[bytes], *, block: bool = False) -> bool:
    """Whether it has ended. It is not reaped: until then, no other process group can have its number."""
    options = os.WEXITED | os.WNOWAIT | (0 if block else os.WNOHANG)
    return os.waitid(os.P_PID, process.pid, options) is not None


def _wait(
    process: subprocess.Popen[bytes], attempt: Attempt, timeout_s: float | None, reader: int, stop: Event
) -> None:
    """Until the process ends, its time is up, or it was asked to stop and its grace is over."""
    os.set_blocking(reader, False)
    started: float | None = None
    asked: float | None = None
    while not _ended(process):
        _listen_once(reader, attempt)
        if started is None and attempt.told:
            started = time.monotonic()
        if timeout_s is not None and started is not None and time.monotonic() - started > timeout_s:
            attempt.timed_out = True
            return
        if stop.is_set() and asked is None:
            process.send_signal(signal.SIGTERM)
            asked = time.monotonic()
        if asked is not None and time.monotonic() - asked > STOP_GRACE_S:
            return
        time.sleep(POLL_S)


def _listen_once(reader: int, attempt: Attempt) -> None:
    """What the process has told through its pipe, without waiting; of a process that tells much, its beginning."""
    with contextlib.suppress(BlockingIOError):
        while chunk := os.read(reader, MOST_TOLD):
            attempt.told += chunk[: max(0, 4 * MOST_TOLD - len(attempt.told))]


def _kill(process: subprocess.Popen[bytes]) -> None:
    """The trial's whole process group, with any helper that a plug-in started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):  # macOS: the latter, for a group of zombies
        process.kill()


def _listen(stream: IO[bytes], attempt: Attempt) -> None:
    """Read all that the process prints and keep its end, however much it is."""
    try:
        while chunk := os.read(stream.fileno(), LOG_CHUNK):
            attempt.hear(chunk)
    except (OSError, ValueError):
        return
