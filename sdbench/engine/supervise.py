"""Start one trial's process, watch it, and record what the process can no longer record itself.

Imports no torch: the supervisor must survive whatever the trial does to its own process.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import deque
from pathlib import Path
from threading import Event, Thread
from typing import IO

from sdbench import environment
from sdbench.engine.job import Job
from sdbench.spec import Provenance, Status, TrialResult
from sdbench.store import DamagedRecord, Store, read_result, write_atomic

WORKER = "sdbench.engine.worker"
POLL_S = 0.1
STOP_GRACE_S = 20.0
LOG_CHUNK = 4096
LOG_CHUNKS = 16
TAIL_CHARS = 4000


def supervise(job: Job, stop: Event, environ: dict[str, str] | None = None) -> Status | None:
    """Run a job to its record; None if it was stopped before it could write one.

    A process that dies is started again up to ``max_failures`` times and goes on from its checkpoint.
    """
    store = Store(Path(job.store))
    attempts = 1 + job.options.max_failures
    for attempt in range(attempts):
        attempted = _attempt(job, stop, environ)
        if attempted.timed_out or stop.is_set():
            break
        found = found_record(store, job)
        if found is not None:
            _keep_log(store, found, attempted.log)
            return found.status
        if attempt < attempts - 1:
            continue
    if attempted.timed_out:
        return record_end(store, job, "timeout", time_is_up(job), attempted.log)
    if stop.is_set():
        found = found_record(store, job)
        return found.status if found else None
    reason = f"{_death(attempted.code)}, {attempts} time(s)"
    return record_end(store, job, "failed", reason, attempted.log)


class _Attempt:
    """One process: its exit code, the end of what it printed, whether it ran out of time."""

    def __init__(self) -> None:
        self.code = 0
        self.timed_out = False
        self.chunks: deque[bytes] = deque(maxlen=LOG_CHUNKS)

    @property
    def log(self) -> str:
        return b"".join(self.chunks).decode(errors="replace")


def _attempt(job: Job, stop: Event, environ: dict[str, str] | None) -> _Attempt:
    attempt = _Attempt()
    reader, writer = os.pipe()
    threads = str(job.trial.spec.threads)
    env = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "PYTHONUNBUFFERED": "1"}
    env.update(environ or {})
    try:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", WORKER, str(writer)],
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
    listener = Thread(target=_listen, args=(process.stdout, attempt.chunks), daemon=True)
    listener.start()
    try:
        process.stdin.write(job.model_dump_json().encode() + b"\n")
        process.stdin.flush()
        _wait(process, attempt, job.options.timeout_s, reader, stop)
    except BrokenPipeError:
        process.wait()
    finally:
        if process.poll() is None:
            _kill(process)
        attempt.code = process.wait()
        os.close(reader)
        process.stdin.close()
        listener.join(timeout=5)
        process.stdout.close()
    return attempt


def _wait(
    process: subprocess.Popen[bytes], attempt: _Attempt, timeout_s: float | None, reader: int, stop: Event
) -> None:
    """Until the process ends, its time is up, or it was asked to stop and its grace is over."""
    os.set_blocking(reader, False)
    started: float | None = None
    asked: float | None = None
    while process.poll() is None:
        if started is None and _byte(reader):
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


def _byte(reader: int) -> bool:
    try:
        return bool(os.read(reader, 1))
    except BlockingIOError:
        return False


def _kill(process: subprocess.Popen[bytes]) -> None:
    """The trial's whole process group, with any helper that a plug-in started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        process.kill()


def _listen(stream: IO[bytes], chunks: deque[bytes]) -> None:
    """Read all that the process prints and keep its end, however much it is."""
    try:
        while chunk := os.read(stream.fileno(), LOG_CHUNK):
            chunks.append(chunk)
    except (OSError, ValueError):
        return


def found_record(store: Store, job: Job) -> TrialResult | None:
    """The record that this job's process left, or None."""
    folder = store.folder(job.trial.spec, job.trial.id)
    try:
        found = read_result(folder / "trial.json")
    except (FileNotFoundError, DamagedRecord):
        return None
    return None if job.replaces and found.provenance.finished == job.replaces else found


def _keep_log(store: Store, result: TrialResult, log: str) -> None:
    """What a trial that did not end well printed stays beside its record."""
    if result.status not in ("ok", "interrupted") and log.strip():
        write_atomic(store.folder(result.spec, result.trial_id) / "log.txt", log)


def time_is_up(job: Job) -> str:
    """Why a trial was ended that took longer than it may."""
    return (
        f"no result after --timeout {job.options.timeout_s:g} s; a longer limit with --rerun failed goes on from its "
        "checkpoint"
    )


def record_end(store: Store, job: Job, status: Status, reason: str, log: str, *, locked: bool = False) -> Status:
    """Record what the trial's process could not. locked: this process has the trial's lock already."""
    spec = job.trial.spec
    folder = store.folder(spec, job.trial.id)
    try:
        started = read_result(folder / "started.json")
    except (FileNotFoundError, DamagedRecord):
        started = None
    commit, dirty = environment.source_commit()
    provenance = Provenance(
        versions=environment.versions(),
        device="unknown",
        cpu=environment.cpu_model(),
        commit=commit,
        dirty=dirty,
        command=job.options.command,
        started=started.provenance.started if started else environment.now(),
        finished=environment.now(),
    )
    result = TrialResult(
        trial_id=job.trial.id,
        status=status,
        reason=reason,
        log_tail=log[-TAIL_CHARS:],
        caveat=job.trial.caveat,
        baseline=job.options.baseline,
        spec=spec,
        identity=job.trial.identity,
        provenance=provenance,
    )
    with contextlib.nullcontext() if locked else store.lock(folder):
        store.write(result)
    _keep_log(store, result, log)
    return status


def _death(code: int) -> str:
    """How a process ended, in words.

    >>> _death(-9)
    'its process was killed by SIGKILL (often the system, out of memory)'
    >>> _death(3)
    'its process ended with exit code 3 and left no record'
    """
    if code < 0:
        name = signal.Signals(-code).name
        hint = " (often the system, out of memory)" if name == "SIGKILL" else ""
        return f"its process was killed by {name}{hint}"
    return f"its process ended with exit code {code} and left no record"
