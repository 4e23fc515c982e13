"""One trial on several devices of a Ray cluster, through Ray Train's torch backend.

A Tune trial holds next to nothing itself. It asks Ray Train for a group of processes, which get their CPUs and GPUs
all at once or wait for them holding none, so that trials in a queue cannot block each other; no more start than fit.
Ray Train joins the processes by ``torch.distributed``, and each runs the same ``run_trial`` as without Ray. The first
one holds the trial's lock and writes its record; the record alone says that the trial is done.

Where a process fails or dies, Ray Train ends the others. A group that left no record is started again from the
checkpoint, as often as the process of any other trial. A stop of the command ends the group at once, which costs the
epoch in progress. A time limit is kept by the first process; one that does not let Python run escapes it.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
import time
from pathlib import Path
from threading import Event
from typing import Any

from sdbench import attempts
from sdbench.engine import Resources
from sdbench.engine.fence import take, watch
from sdbench.engine.group import PATIENCE, backend, load_plugins, take_part
from sdbench.engine.job import Job
from sdbench.engine.supervise import broken_off, keep_log, recorded, time_is_up, write_end
from sdbench.errors import EnvironmentProblem
from sdbench.spec import Status, TrialResult
from sdbench.store import Store

HEAD_CPUS = 0.01
"""What a trial holds beside the processes that train."""


class Ended(Exception):
    """The trial ended, and its record says how; the other processes are to end as well."""


def cpus_needed(resources: Resources, cpus: int) -> int:
    """CPUs of a Ray of one's own: those that there are, or as many as one trial needs, and room for the heads."""
    return max(cpus, resources.gpus_per_trial * resources.cpus_per_trial) + 1


def at_once(resources: Resources) -> int:
    """How many trials the cluster that was joined has room for. Raises EnvironmentProblem where it has none."""
    import ray

    total: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    places = room(resources, total.get("CPU", 0), total.get("GPU", 0))
    return places if resources.jobs is None else min(places, resources.jobs)


def room(resources: Resources, cpus: float, gpus: float) -> int:
    """How many trials find room on so many CPUs and GPUs; EnvironmentProblem where not one does."""
    each = resources.gpus_per_trial
    places = int(cpus // (each * resources.cpus_per_trial + HEAD_CPUS))
    on_gpus = gpus > 0 and resources.gpus != 0
    if on_gpus:
        places = min(places, int(min(gpus, resources.gpus or gpus) // each))
    if not places:
        raise EnvironmentProblem(
            f"--gpus-per-trial {each}: the cluster has {gpus:g} GPUs and {cpus:g} CPUs, and a trial needs {each} "
            f"processes with {resources.cpus_per_trial} CPUs{' and a GPU' if on_gpus else ''} each; give fewer"
        )
    return places


def work(job: Job, stop: Event, environ: dict[str, str] | None = None, *, cpus: int = 1) -> Status | None:
    """Run a job to its record, as ``supervise`` does; called in the process of a Tune trial. cpus: of each process."""
    store, reason = Store(Path(job.store)), ""
    for _ in range(1 + job.options.max_failures):
        if stop.is_set():
            return None
        before = broken_off(store, job)
        reason, late = _train(job, cpus)
        if (found := recorded(store, job, before)) is not None:
            keep_log(store, found, "")
            return found.status
        if late:
            return write_end(store, job, stop, "timeout", time_is_up(job), "")
    return write_end(store, job, stop, "failed", f"{reason}, {1 + job.options.max_failures} time(s)", "")


def _train(job: Job, cpus: int) -> tuple[str, bool]:
    """Train with one group of processes; returns what Ray says of its end, if it was not a good one, and whether its
    time was up."""
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchConfig, TorchTrainer

    total: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    on_gpus = job.options.device != "cpu" and total.get("GPU", 0) > 0
    with tempfile.TemporaryDirectory(prefix=".train-", dir=job.store) as scratch:  # where every node sees it
        late = Path(scratch) / "late"
        trainer = TorchTrainer(
            _part,
            train_loop_config={"job": job.model_dump_json(), "late": str(late)},
            scaling_config=ScalingConfig(
                num_workers=job.trial.spec.shards,
                use_gpu=on_gpus,
                resources_per_worker={"CPU": cpus, **({"GPU": 1} if on_gpus else {})},
            ),
            torch_config=TorchConfig(
                backend=backend("cuda" if on_gpus else "cpu"), timeout_s=int(PATIENCE.total_seconds())
            ),
            run_config=RunConfig(name="run", storage_path=scratch, failure_config=FailureConfig(max_failures=0)),
        )
        try:
            trainer.fit()
        except TrainingFailedError as error:
            return f"one of its processes ended: {str(error).splitlines()[0]}", late.exists()
    return "its processes left no record", False


def _part(config: dict[str, Any]) -> None:
    """What each process of the group runs."""
    from ray.train.torch import get_device

    from sdbench.workers import ProcessGroup

    job = Job.model_validate_json(config["job"])
    store, workers = Store(Path(job.store)), ProcessGroup()
    folder = store.folder(job.trial.spec, job.trial.id)
    with store.lock(folder) if workers.leads else contextlib.nullcontext():
        old = attempts.standing(folder) if workers.leads else None
        done = workers.leads and _stands(store.result(job.trial), job)
        if old and not done:
            attempts.begin(folder, old)
        done, anew = workers.gather((done, old))[0]
        if done:
            return
        if workers.leads:
            watch(folder, take(folder))
            if job.options.timeout_s is not None:
                threading.Thread(
                    target=_end_when_late, args=(job.options.timeout_s, config["late"]), daemon=True
                ).start()
        load_plugins(job)
        result = take_part(job, get_device().index or 0, anew=anew)
    if result.status != "ok":
        raise Ended(result.status)


def _stands(found: TrialResult | None, job: Job) -> bool:
    """Whether the trial was finished meanwhile, by another command."""
    return found is not None and found.checksums["trial.json"] != job.replaces


def _end_when_late(limit: float, mark: str) -> None:
    """Runs beside the first process's part."""
    time.sleep(limit)
    Path(mark).touch()
    os._exit(1)
