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

from sdbench.engine.fence import take, watch
from sdbench.engine.group import train
from sdbench.engine.job import Job
from sdbench.spec import TrialResult
from sdbench.store import Store

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
        watch(folder, take(folder))
        return train(job, stop.is_set)


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
