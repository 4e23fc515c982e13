"""The process of one trial: ``python -m sdbench.engine.worker STATUS_FD``, its job on standard input.

The lock is taken before torch is imported, so that waiting for another process costs nothing. When
standard input closes, the supervisor is gone: the trial stops at its next step and the process ends.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from sdbench.engine import fence
from sdbench.engine.job import Job
from sdbench.errors import TrialInterrupted
from sdbench.spec import Options, Trial, TrialResult
from sdbench.store import Store

if TYPE_CHECKING:
    from sdbench.session import Session

ORPHAN_GRACE_S = 3.0


def work(job: Job, status: int, stop: threading.Event) -> TrialResult:
    """Take the trial's lock, look again, and run it if it is still to be done."""
    store = Store(Path(job.store))
    folder = store.folder(job.trial.spec, job.trial.id)
    with store.lock(folder):
        os.write(status, b"s")  # the supervisor's clock starts here
        found = store.result(job.trial)
        if found is not None and found.provenance.finished != job.replaces:
            return found
        fence.watch(folder, fence.take(folder))
        from sdbench import registry
        from sdbench.train import run_trial

        for plugin in job.options.plugins:
            registry.load_plugin(plugin)
        return run_trial(job.trial, store, job.options, stop=stop.is_set, opener=_open)


def _open(trial: Trial, store: Store, options: Options) -> Session:
    """Open a session, unless the method is not the one any more that the trial's id was made from."""
    from sdbench.assembly import open_session
    from sdbench.identity import method_source

    method = trial.spec.method
    if method_source(method) != trial.identity.method_source:
        raise TrialInterrupted(f"the source of {method} has changed since the command began; run it again")
    return open_session(trial, store, options)


def _watch_supervisor(stop: threading.Event) -> None:
    """Runs beside the trial until standard input closes."""
    sys.stdin.buffer.read()
    stop.set()
    threading.Event().wait(ORPHAN_GRACE_S)
    os._exit(1)


def main() -> None:
    stop = threading.Event()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    status = int(sys.argv[1])
    job = Job.model_validate_json(sys.stdin.buffer.readline())
    threading.Thread(target=_watch_supervisor, args=(stop,), daemon=True).start()
    work(job, status, stop)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # a plug-in's threads or exit handlers must not keep a finished trial alive


if __name__ == "__main__":
    main()
