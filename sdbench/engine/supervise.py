"""Start one trial's process, watch it, and record what the process can no longer record itself.

Imports no torch: the supervisor must survive whatever the trial does to its own process.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from pathlib import Path
from threading import Event

from filelock import Timeout

from sdbench import attempts, environment
from sdbench.engine.fence import LOST, lost
from sdbench.engine.group import meeting_place
from sdbench.engine.job import Job
from sdbench.engine.process import CANNOT_WRITE, HOLDS, attempted
from sdbench.spec import Provenance, Status, TrialResult
from sdbench.store import DamagedRecord, Store, read_result, write_atomic

LOCK_POLL_S = 1.0
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
    times = 1 + job.options.max_failures
    for _ in range(times):
        before = broken_off(store, job)
        with meeting_place(job) as place:
            last = attempted(job, stop, environ, place)
        if last.timed_out or stop.is_set() or last.said(CANNOT_WRITE):
            break
        found = recorded(store, job, before)
        if found is not None:
            keep_log(store, found, last.log)
            return found.status
        name = last.said(HOLDS)
        if last.code == LOST and name and lost(store.folder(job.trial.spec, job.trial.id), name):
            return None  # somebody else works on it, and will write its record
    if last.timed_out:
        return write_end(store, job, stop, "timeout", time_is_up(job), last.log)
    if stop.is_set():
        found = recorded(store, job, "")
        return found.status if found else None
    if problem := last.said(CANNOT_WRITE):
        reason = f"the record cannot be written: {problem}"
        return write_end(store, job, stop, "failed", reason, last.log, resumable=True)
    reason = f"{_death(last.code)}, {times} time(s)"
    return write_end(store, job, stop, "failed", reason, last.log)


def time_is_up(job: Job) -> str:
    """Why a trial was ended that took longer than it may."""
    limit = job.options.timeout_s
    return f"no result after --timeout {limit:g} s; a longer limit with --rerun failed goes on from its checkpoint"


def broken_off(store: Store, job: Job) -> str:
    """The seal of the record that says how the trial ended last, as it stands before a process takes it up again: that
    it was broken off, or that an attempt to replace its finished record failed."""
    found = _read(store, job)
    if found is not None and found.status == "ok":
        found = attempts.ended(store.folder(job.trial.spec, job.trial.id), found)
    elif found is not None and found.final:
        found = None
    return _seal(found)


def _read(store: Store, job: Job) -> TrialResult | None:
    try:
        return read_result(store.folder(job.trial.spec, job.trial.id) / "trial.json")
    except (FileNotFoundError, DamagedRecord):
        return None


def recorded(store: Store, job: Job, before: str) -> TrialResult | None:
    """The record that a process left, or another command's meanwhile; None where there is only that which is to be
    replaced, or the one sealed by ``before``. Where a finished record stands and was not replaced, that of the attempt
    to do so."""
    found = _read(store, job)
    if found is None:
        return None
    folder = store.folder(job.trial.spec, job.trial.id)
    if found.status == "ok" and (_seal(found) == job.replaces or attempts.begun(folder, found)):
        last = attempts.ended(folder, found)
        return None if _seal(last) == before else last
    if _seal(found) in (job.replaces, before):
        return None
    return found if not found.final or store.result(job.trial) is not None else None


def _seal(record: TrialResult | None) -> str:
    return record.checksums["trial.json"] if record is not None else ""


def keep_log(store: Store, result: TrialResult, log: str) -> None:
    """What a trial that did not end well printed stays beside its record, where there is room for it; beside a finished
    record, which says nothing of the attempt to replace it, the reason as well."""
    if result.status in ("ok", "interrupted"):
        return
    folder = store.folder(result.spec, result.trial_id)
    if attempts.standing(folder) is not None:
        log = f"{log.rstrip()}\n{result.status} when it was run again: {result.reason}\n".lstrip()
    if log.strip():
        with contextlib.suppress(OSError):
            write_atomic(folder / "log.txt", log)


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
        if found is not None and _seal(found) != job.replaces:
            return found.status
        if lock.is_locked:
            keep_log(store, result, log)
            store.conclude(result)
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
