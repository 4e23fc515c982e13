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
from pathlib import Path
from threading import Event, Thread
from typing import IO

from filelock import Timeout

from sdbench import environment
from sdbench.engine.fence import LOST
from sdbench.engine.group import meeting_place
from sdbench.engine.job import Job
from sdbench.spec import Provenance, Status, TrialResult
from sdbench.store import DamagedRecord, Store, read_result, write_atomic

WORKER = "sdbench.engine.worker"
CANNOT_WRITE = 74
"""The exit code of a trial's process that could not write its record (EX_IOERR)."""

POLL_S = 0.1
LOCK_POLL_S = 1.0
STOP_GRACE_S = 20.0
LOG_CHUNK = 2**16
LOG_BYTES = 2**16
TAIL_CHARS = 4000


def supervise(job: Job, stop: Event, environ: dict[str, str] | None = None) -> Status | None:
    """Run a job to its record; None if it was stopped before it could write one.

    A process that dies is started again up to ``max_failures`` times and goes on from its checkpoint. Where the
    results folder cannot be written, the trial has no record, which standard error says.
    """
    try:
        return _to_its_record(job, stop, environ)
    except OSError as error:
        say(f"{job.trial.spec.title}: no record: {error.strerror or error}")
        return None


def say(line: str) -> None:
    """A line on standard error, where there is one that can be written."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):
            print(line, file=sys.stderr, flush=True)


def _to_its_record(job: Job, stop: Event, environ: dict[str, str] | None) -> Status | None:
    store = Store(Path(job.store))
    attempts = 1 + job.options.max_failures
    for _ in range(attempts):
        before = broken_off(store, job)
        with meeting_place(job) as place:
            attempted = _attempt(job, stop, environ, place)
        if attempted.timed_out or stop.is_set() or attempted.code == CANNOT_WRITE:
            break
        found = recorded(store, job, before)
        if found is not None:
            _keep_log(store, found, attempted.log)
            return found.status
        if attempted.code == LOST:  # somebody else works on it, and will write its record
            return None
    if attempted.timed_out:
        return write_end(store, job, stop, "timeout", time_is_up(job), attempted.log)
    if stop.is_set():
        found = recorded(store, job, "")
        return found.status if found else None
    if attempted.code == CANNOT_WRITE:
        last = attempted.log.strip().splitlines()[-1:]
        return write_end(store, job, stop, "failed", "".join(last)[-TAIL_CHARS:], attempted.log, resumable=True)
    reason = f"{_death(attempted.code)}, {attempts} time(s)"
    return write_end(store, job, stop, "failed", reason, attempted.log)


def time_is_up(job: Job) -> str:
    """Why a trial was ended that took longer than it may."""
    limit = job.options.timeout_s
    return f"no result after --timeout {limit:g} s; a longer limit with --rerun failed goes on from its checkpoint"


class _Attempt:
    """One process: its exit code, the end of what it printed, whether it ran out of time."""

    def __init__(self) -> None:
        self.code = 0
        self.timed_out = False
        self.printed = bytearray()

    def hear(self, chunk: bytes) -> None:
        self.printed += chunk
        if len(self.printed) > 2 * LOG_BYTES:
            del self.printed[:-LOG_BYTES]

    @property
    def log(self) -> str:
        return bytes(self.printed[-LOG_BYTES:]).decode(errors="replace")


def _attempt(job: Job, stop: Event, environ: dict[str, str] | None, place: str) -> _Attempt:
    attempt = _Attempt()
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
    process: subprocess.Popen[bytes], attempt: _Attempt, timeout_s: float | None, reader: int, stop: Event
) -> None:
    """Until the process ends, its time is up, or it was asked to stop and its grace is over."""
    os.set_blocking(reader, False)
    started: float | None = None
    asked: float | None = None
    while not _ended(process):
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
    except (ProcessLookupError, PermissionError):  # macOS: the latter, for a group of zombies
        process.kill()


def _listen(stream: IO[bytes], attempt: _Attempt) -> None:
    """Read all that the process prints and keep its end, however much it is."""
    try:
        while chunk := os.read(stream.fileno(), LOG_CHUNK):
            attempt.hear(chunk)
    except (OSError, ValueError):
        return


def broken_off(store: Store, job: Job) -> str:
    """The seal of the record that says the trial was broken off, as it stands before a process takes it up again."""
    found = _read(store, job)
    return found.checksums["trial.json"] if found is not None and not found.final else ""


def _read(store: Store, job: Job) -> TrialResult | None:
    try:
        return read_result(store.folder(job.trial.spec, job.trial.id) / "trial.json")
    except (FileNotFoundError, DamagedRecord):
        return None


def recorded(store: Store, job: Job, before: str) -> TrialResult | None:
    """The record that a process left, or another command's meanwhile; None where there is only that which is to be
    replaced, or the one sealed by ``before``."""
    found = _read(store, job)
    if found is None or (job.replaces and found.provenance.finished == job.replaces):
        return None
    if not found.final:
        return None if found.checksums["trial.json"] == before else found
    return found if store.result(job.trial) is not None else None


def _keep_log(store: Store, result: TrialResult, log: str) -> None:
    """What a trial that did not end well printed stays beside its record, where there is room for it."""
    if result.status not in ("ok", "interrupted") and log.strip():
        with contextlib.suppress(OSError):
            write_atomic(store.folder(result.spec, result.trial_id) / "log.txt", log)


def write_end(
    store: Store, job: Job, stop: Event, status: Status, reason: str, log: str, resumable: bool = False
) -> Status | None:
    """Record what the trial's process could not, unless another command has finished it meanwhile."""
    started = store.started(job.trial)
    commit, dirty = environment.source_commit()
    provenance = Provenance(
        versions=environment.versions(),
        device="unknown",
        cpu=environment.cpu_model(),
        commit=commit,
        dirty=dirty,
        command=job.options.command,
        config=job.options.config,
        origins=job.options.origins,
        started=started.provenance.started if started else environment.now(),
        finished=environment.now(),
    )
    result = TrialResult(
        trial_id=job.trial.id,
        status=status,
        reason=reason,
        log_tail=log[-TAIL_CHARS:],
        caveat=job.trial.caveat,
        tuned=job.trial.tuned,
        baseline=job.options.baseline,
        spec=job.trial.spec,
        identity=job.trial.identity,
        provenance=provenance,
        resumes=started.resumes if started else (),
        resumable=resumable,
    )
    lock = store.lock(store.folder(job.trial.spec, job.trial.id))
    while not lock.is_locked:
        with contextlib.suppress(Timeout):
            lock.acquire(timeout=LOCK_POLL_S)
        if stop.is_set():
            break
    try:
        found = store.result(job.trial)
        if found is not None and found.provenance.finished != job.replaces:
            return found.status
        if lock.is_locked:
            _keep_log(store, result, log)
            store.write(result)
    finally:
        lock.release()
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
