"""One trial on several processes of this machine: ``python -m sdbench.engine.group`` is one of them but the first.

The first process is the trial's own, which holds its lock. It starts the others, and they talk over the loopback
interface alone; that of a GPU each uses the one of its rank among those that the trial may see. Each runs the same
``run_trial``. One that fails writes why and ends; the others then end too, and the supervisor finds the record. One
that is killed takes the others with it, and the supervisor starts all of them again from the checkpoint.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from sdbench.engine.job import Job
from sdbench.errors import TrialInterrupted
from sdbench.spec import Options, Trial, TrialResult
from sdbench.store import Store

if TYPE_CHECKING:
    from sdbench.session import Session
    from sdbench.workers import Workers

MODULE = "sdbench.engine.group"

PATIENCE = timedelta(days=30)
"""How long a process waits for the others: whether these live is looked after by who started them."""

GRACE_S = 15.0
"""Between the end of one process in disorder and that of the first: for what it has to write."""

SOCKETS = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")

POLL_S = 0.1
LOST = 71
"""Exit code of a trial's process that lost another one (EX_OSERR)."""


@contextmanager
def meeting_place(job: Job) -> Iterator[str]:
    """A folder in which the processes of a trial find each other, empty for one process alone. It is made by the
    supervisor, since the processes may be killed; where that one is, the first process removes it."""
    if job.trial.spec.shards == 1:
        yield ""
        return
    with tempfile.TemporaryDirectory(prefix="sdbench-group-", ignore_cleanup_errors=True) as folder:
        yield folder


def train(job: Job, stop: Callable[[], bool], anew: TrialResult | None, place: str) -> TrialResult:
    """Run a trial on as many processes as it has shards; called by the first, which holds the trial's lock.

    anew: as ``run_trial`` has it. place: as ``meeting_place`` has it. Ends this process where another one is lost.
    """
    from sdbench.train import run_trial
    from sdbench.workers import ALONE, PeerLost

    size, store = job.trial.spec.shards, Store(Path(job.store))
    load_plugins(job)
    if size == 1:
        return run_trial(job.trial, store, job.options, stop=stop, opener=open_unchanged, workers=ALONE, anew=anew)
    meeting = Path(place) / "meeting"
    others = [_start(job, rank, meeting, anew) for rank in range(1, size)]
    threading.Thread(target=_watch, args=(others,), daemon=True).start()
    _meet(job, 0, meeting)
    try:
        return take_part(job, 0, stop, anew)
    except PeerLost as error:
        _end(str(error))
    finally:
        shutil.rmtree(place, ignore_errors=True)


def take_part(
    job: Job, device_index: int, stop: Callable[[], bool] = lambda: False, anew: TrialResult | None = None
) -> TrialResult:
    """One process's part of a trial, once ``torch.distributed`` has joined all of them. Raises PeerLost."""
    from sdbench.train import run_trial
    from sdbench.workers import ProcessGroup

    store, workers = Store(Path(job.store)), ProcessGroup(device_index)
    return run_trial(job.trial, store, job.options, stop=stop, opener=open_unchanged, workers=workers, anew=anew)


def open_unchanged(trial: Trial, store: Store, options: Options, workers: Workers) -> Session:
    """Open a session, unless the method is not the one any more that the trial's id was made from."""
    from sdbench.assembly import open_session
    from sdbench.identity import method_source

    method = trial.spec.method
    if method_source(method) != trial.identity.method_source:
        raise TrialInterrupted(f"the source of {method} has changed since the command began; run it again")
    return open_session(trial, store, options, workers)


def backend(device: str) -> str:
    """What processes talk through, on a device as ``Options`` names it: NCCL for what is on a GPU, else gloo."""
    from sdbench.environment import choose_device

    return "cpu:gloo,cuda:nccl" if choose_device(device).type == "cuda" else "gloo"


def stay_on_loopback() -> None:
    """This process and those that it starts talk to each other over the loopback interface only."""
    import psutil

    for name, addresses in psutil.net_if_addrs().items():
        if any(address.address == "127.0.0.1" for address in addresses):
            os.environ.update(dict.fromkeys(SOCKETS, name))


def load_plugins(job: Job) -> None:
    """Register what the trial's plug-ins bring."""
    from sdbench import registry

    for plugin in job.options.plugins:
        registry.load_plugin(plugin)


def _meet(job: Job, rank: int, meeting: Path) -> None:
    import torch.distributed as dist

    stay_on_loopback()
    dist.init_process_group(
        backend(job.options.device),
        init_method=f"file://{meeting}",
        rank=rank,
        world_size=job.trial.spec.shards,
        timeout=PATIENCE,
    )


def _start(job: Job, rank: int, meeting: Path, anew: TrialResult | None) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-P", "-m", MODULE], stdin=subprocess.PIPE)
    assert process.stdin is not None
    old = anew and anew.model_dump(mode="json")
    told = {"job": job.model_dump(mode="json"), "rank": rank, "meeting": str(meeting), "anew": old}
    process.stdin.write(json.dumps(told).encode() + b"\n")
    process.stdin.flush()
    return process


def _watch(others: list[subprocess.Popen[bytes]]) -> None:
    """Runs beside the first process's part: it must not wait for ever for one that is gone."""
    while not any(process.poll() for process in others):
        time.sleep(POLL_S)
    time.sleep(GRACE_S)
    _end("another process of the trial is gone")


def _end(reason: str) -> NoReturn:
    print(reason, file=sys.stderr, flush=True)
    os._exit(LOST)


def _leave_with_the_first() -> None:
    sys.stdin.buffer.read()
    os._exit(LOST)


def main() -> None:
    import signal

    from sdbench.workers import PeerLost

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    told = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_leave_with_the_first, daemon=True).start()
    job, rank = Job.model_validate(told["job"]), int(told["rank"])
    load_plugins(job)
    try:
        _meet(job, rank, Path(told["meeting"]))
        old = TrialResult.model_validate(told["anew"]) if told["anew"] else None
        result = take_part(job, rank, anew=old)
    except PeerLost as error:
        _end(str(error))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0 if result.status == "ok" else 1)


if __name__ == "__main__":
    main()
