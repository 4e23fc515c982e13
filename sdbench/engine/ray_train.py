"""One trial on several devices of a Ray cluster, through Ray Train's torch backend.

A Tune trial holds next to nothing itself. It asks Ray Train for a group of processes, which get their CPUs and GPUs
all at once or wait for them holding none, so that trials in a queue cannot block each other; no more start than fit.
Ray Train joins the processes by ``torch.distributed``, and each runs the same ``run_trial`` as without Ray. The first
one holds the trial's lock and writes its record; the record alone says that the trial is done.

Where a process fails or dies, Ray Train ends the others. A group that left no record is started again from the
checkpoint, as often as the process of any other trial. A stop of the command reaches the first process, which ends at
its next step. A time limit is kept by it too; one that does not let Python run escapes it.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

from filelock import Timeout

from sdbench import attempts
from sdbench.engine import Resources
from sdbench.engine.fence import take, watch
from sdbench.engine.group import PATIENCE, backend, load_plugins, take_part
from sdbench.engine.job import Job
from sdbench.engine.process import STOP_GRACE_S
from sdbench.engine.ray_cluster import last_line, obedient
from sdbench.engine.ray_errand import admit
from sdbench.engine.ray_nodes import Place
from sdbench.engine.shipping import unpacked
from sdbench.engine.supervise import LOCK_POLL_S, broken_off, keep_log, recorded, time_is_up, write_end
from sdbench.errors import EnvironmentProblem
from sdbench.spec import Status, TrialResult
from sdbench.store import Store

if TYPE_CHECKING:
    from sdbench.workers import ProcessGroup

HEAD: dict[str, float] = {"memory": 1}
"""What a trial holds beside the processes that train: a byte, since Tune wants every trial to hold something, and a
part of a CPU would be missing where the processes need all of them."""

POLL_S = 0.2


class Ended(Exception):
    """The trial ended, and its record says how; the other processes are to end as well."""


def cpus_needed(resources: Resources, cpus: int) -> int:
    """CPUs of a Ray of one's own: those that there are, or as many as one trial needs."""
    return max(cpus, resources.gpus_per_trial * resources.cpus_per_trial)


def at_once(resources: Resources) -> int:
    """How many trials the cluster that was joined has room for. Raises EnvironmentProblem where it has none."""
    import ray

    total: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    places = room(resources, total.get("CPU", 0), total.get("GPU", 0))
    return places if resources.jobs is None else min(places, resources.jobs)


def room(resources: Resources, cpus: float, gpus: float) -> int:
    """How many trials find room on so many CPUs and GPUs, within what the command may take of them; EnvironmentProblem
    where not one does."""
    each = resources.gpus_per_trial
    needed = each * resources.cpus_per_trial
    places = int(cpus // needed)
    if resources.cpus is not None:
        places = min(places, max(1, resources.cpus // needed))
    on_gpus = gpus > 0 and resources.gpus != 0
    if on_gpus:
        places = min(places, int(min(gpus, resources.gpus or gpus) // each))
    if not places:
        raise EnvironmentProblem(
            f"--gpus-per-trial {each}: the cluster has {gpus:g} GPUs and {cpus:g} CPUs, and a trial needs {each} "
            f"processes with {resources.cpus_per_trial} CPUs{' and a GPU' if on_gpus else ''} each; give fewer"
        )
    return places


@dataclass(frozen=True)
class Group:
    """How the processes of a trial are started. cpus: of each. folder: seen by every node, and removed by the command.
    halt: which tells them to stop. place: on a cluster, whose nodes may have joined late and need not see plug-ins."""

    cpus: int
    folder: str
    halt: Any
    place: Place | None = None

    def work(self, job: Job, stop: Event, environ: dict[str, str] | None = None) -> Status | None:
        """Run a job to its record, as ``supervise`` does; called in the process of a Tune trial."""
        store, reason = Store(Path(job.store)), ""
        for _ in range(1 + job.options.max_failures):
            if stop.is_set():
                return None
            before = broken_off(store, job)
            reason, late = _patient(lambda: _train(job, self), stop)
            if (found := recorded(store, job, before)) is not None:
                keep_log(store, found, "")
                return found.status
            if late:
                return write_end(store, job, stop, "timeout", time_is_up(job), "")
        if stop.is_set():
            return None
        return write_end(store, job, stop, "failed", f"{reason}, {1 + job.options.max_failures} time(s)", "")


def _patient(train: Callable[[], tuple[str, bool]], stop: Event) -> tuple[str, bool]:
    """What ``train`` returns; after a stop it is waited for no longer than any trial is: its processes may still be
    waiting for room."""
    told: list[tuple[str, bool]] = []
    thread = threading.Thread(target=lambda: told.append(train()), daemon=True)
    thread.start()
    while thread.is_alive() and not stop.is_set():
        thread.join(POLL_S)
    thread.join(STOP_GRACE_S if stop.is_set() else None)
    return told[0] if told else ("its processes could not be started", False)


def _train(job: Job, group: Group) -> tuple[str, bool]:
    """Train with one group of processes; returns why it ended, if not well, and whether its time was up."""
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchConfig, TorchTrainer

    total: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    on_gpus = job.options.device != "cpu" and total.get("GPU", 0) > 0
    with tempfile.TemporaryDirectory(prefix="train-", dir=group.folder, ignore_cleanup_errors=True) as scratch:
        late = Path(scratch) / "late"
        told = {"job": job.model_dump_json(), "late": str(late), "halt": group.halt, "place": group.place}
        trainer = TorchTrainer(
            _part,
            train_loop_config=told,
            scaling_config=ScalingConfig(
                num_workers=job.trial.spec.shards,
                use_gpu=on_gpus,
                resources_per_worker={"CPU": group.cpus, **({"GPU": 1} if on_gpus else {})},
            ),
            torch_config=TorchConfig(
                backend=backend("cuda" if on_gpus else "cpu"), timeout_s=int(PATIENCE.total_seconds())
            ),
            run_config=RunConfig(name="run", storage_path=scratch, failure_config=FailureConfig(max_failures=0)),
        )
        try:
            trainer.fit()
        except TrainingFailedError as error:
            return f"one of its processes ended: {_reason(error)}", late.exists()
    return "its processes left no record", False


def _reason(error: Exception) -> str:
    """Why a group failed: what the first of its processes says that did not merely lose another one."""
    failures: dict[int, Exception] = getattr(error, "worker_failures", {})
    told = [last_line(str(failure)) for _, failure in sorted(failures.items())]
    return next((line for line in told if "PeerLost" not in line), told[0] if told else last_line(str(error)))


def _part(config: dict[str, Any]) -> None:
    """What each process of the group runs."""
    from sdbench.workers import ProcessGroup

    job, workers = Job.model_validate_json(config["job"]), ProcessGroup()
    with contextlib.ExitStack() as kept:
        stop = kept.enter_context(obedient(config["halt"], job.trial.id)) if workers.leads else Event()
        if config["place"] is not None:
            admit(config["place"], stop)
            job = job.with_plugins(kept.enter_context(unpacked(config["place"].plugins)))
        result = _result(job, workers, stop, config["late"], kept)
    if result is not None and result.status != "ok":
        raise Ended(result.status)


def _result(job: Job, workers: ProcessGroup, stop: Event, late: str, kept: contextlib.ExitStack) -> TrialResult | None:
    """Train, unless another command has finished the trial meanwhile; kept: what is to end with this process's part."""
    from ray.train.torch import get_device

    store = Store(Path(job.store))
    folder = store.folder(job.trial.spec, job.trial.id)
    if workers.leads:
        _take_lock(store, folder, stop, kept)
    old = attempts.standing(folder) if workers.leads else None
    done = workers.leads and _stands(store.result(job.trial), job)
    if old and not done:
        attempts.begin(folder, old)
    done, anew = workers.gather((done, old))[0]
    if done:
        return None
    if workers.leads:
        watch(folder, take(folder))
        if job.options.timeout_s is not None:
            threading.Thread(target=_end_when_late, args=(job.options.timeout_s, late), daemon=True).start()
    load_plugins(job)
    return take_part(job, get_device().index or 0, stop.is_set, anew)


def _take_lock(store: Store, folder: Path, stop: Event, kept: contextlib.ExitStack) -> None:
    """Wait for the trial's lock, as long as nobody asks to stop."""
    lock = store.lock(folder)
    while not lock.is_locked:
        if stop.is_set():
            raise Ended("interrupted")
        with contextlib.suppress(Timeout):
            lock.acquire(timeout=LOCK_POLL_S)
    kept.callback(lock.release)


def _stands(found: TrialResult | None, job: Job) -> bool:
    """Whether the trial was finished meanwhile, by another command."""
    return found is not None and found.checksums["trial.json"] != job.replaces


def _end_when_late(limit: float, mark: str) -> None:
    """Runs beside the first process's part."""
    time.sleep(limit)
    Path(mark).touch()
    os._exit(1)
