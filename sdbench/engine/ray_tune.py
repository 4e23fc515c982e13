"""Run trials under Ray Tune: one Tune trial per spec, each a fresh process, on one machine or many.

Only ``ray.tune`` is used. Tune places the trials on CPUs and GPUs; whether one is done is told by
its record in the store, never by Tune, whose ``fit()`` returns normally even when a signal cut it
short. A trial that takes its process down is started again by the supervisor inside; Tune's own
retries cover only the death of a whole worker or node.

Tune keeps its actors from trial to trial (``reuse_actors=True``), since an actor here is only the supervisor: it
imports no torch, and what is measured runs in a process that it starts anew for every trial. A new actor for each
trial would add seconds to it (``benchmarks/scheduler.py``).
"""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Event
from typing import Any

from sdbench.engine import Resources, Work, ray_cluster, ray_halt, ray_head, ray_own, ray_train
from sdbench.engine.job import Job
from sdbench.engine.ray_errand import Errand, trainable
from sdbench.engine.ray_halt import Running, callback, fitting
from sdbench.engine.ray_nodes import Place
from sdbench.engine.supervise import supervise

NODE_FAILURES = 10
"""How often a trial may lose its node or its supervisor. Its own failures are counted by the supervisor."""

ROUNDS = 3
"""How often trials that lost that many are handed to Tune, which forgets earlier losses each time."""

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",  # Tune's snapshots grow with every trial, and nothing reads them
}


def available() -> bool:
    """Whether Ray Tune is installed."""
    from importlib.util import find_spec

    return find_spec("ray") is not None and find_spec("pyarrow") is not None


def run(jobs: list[Job], resources: Resources, stop: Event, work: Work = supervise) -> None:
    """Run all jobs under Ray Tune. Raises EnvironmentProblem where the cluster cannot be joined or lacks something."""
    if not jobs or stop.is_set():
        return
    payload = [job.model_dump_json() for job in jobs]
    with session(jobs, resources, stop) as (place, halt), contextlib.ExitStack() as kept:
        if resources.gpus_per_trial > 1:
            work, halt = _together(resources, place, halt, stop, kept)
        _rounds(Errand(payload, work, place, halt), resources, stop)


def _together(
    resources: Resources, place: Place | None, halt: Any, stop: Event, kept: contextlib.ExitStack
) -> tuple[Work, Any]:
    """How trials of several processes are run, and what stops them: those are not below this process to be found."""
    if place is None:
        folder = kept.enter_context(tempfile.TemporaryDirectory(prefix="sdbench-train-", ignore_cleanup_errors=True))
        halt = ray_cluster.start_halt()
        ray_halt.begin(Running(stop, halt))
        return ray_train.Group(resources.cpus_per_trial, folder, halt).work, halt
    return ray_train.Group(resources.cpus_per_trial, place.folder, halt, place).work, halt


@contextlib.contextmanager
def session(jobs: Sequence[Job], resources: Resources, stop: Event) -> Iterator[tuple[Place | None, Any]]:
    """Ray, silent, until the block ends: a local one, or the cluster at an address, whose nodes are looked at for what
    ``jobs`` need; then also the place of its common files and the handle that stops trials on all nodes. ``callback``
    halts Tune once ``stop`` is set. Raises EnvironmentProblem where the cluster cannot be joined or lacks something."""
    address = resources.address
    ray_own.refuse_other_ray()
    with _silence(), ray_own.variables(QUIET if address else {**QUIET, **ray_own.OWN}):
        if address is None:
            with ray_own.started(resources, **COMMON):
                ray_halt.begin(Running(stop))
                yield None, None
            return
        with _joined(address):
            needs = (resources.cpus_per_trial, share_of(resources))
            with ray_cluster.place(jobs, *needs) as place:
                halt = ray_cluster.start_halt()
                ray_halt.begin(Running(stop, halt, ray_cluster.Vacancy(*needs)))
                yield place, halt


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Ray's reports and banners stay out of the command's output."""
    loggers = [logging.getLogger(name) for name in ("ray", "ray.tune")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)  # what went wrong is told in this command's own words
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


COMMON: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": False}


@contextlib.contextmanager
def _joined(address: str) -> Iterator[None]:
    """The cluster at ``address``, until the block ends."""
    ray_own.refuse_to_join(address)
    import ray

    with tempfile.TemporaryDirectory(prefix="sdbench-stage-") as staged:
        with ray_own.kept_signals():
            ray_cluster.connect(address, Path(staged), **COMMON)
        try:
            with ray_head.watched(ray.get_runtime_context().gcs_address, Path(staged)):
                yield
        finally:
            ray.shutdown()


def share_of(resources: Resources) -> float:
    """The part of a GPU that a trial gets: 0 where the cluster has none or none is wanted."""
    import ray

    total: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return 1 / resources.per_gpu if total.get("GPU", 0) and resources.gpus != 0 else 0.0


def limit_of(resources: Resources, share: float) -> int | None:
    """How many trials may run at once on a cluster that others use too; None for as many as find room."""
    limits = [] if resources.cpus is None else [resources.cpus // resources.cpus_per_trial]
    if resources.jobs is not None:
        limits.append(resources.jobs)
    if share and resources.gpus is not None:
        limits.append(resources.gpus * resources.per_gpu)
    return max(1, min(limits)) if limits else None


def _rounds(errand: Errand, resources: Resources, stop: Event) -> None:
    """Hand all jobs to Tune, and those that it gave up again."""
    left = list(range(len(errand.jobs)))
    given_up: dict[int, str] = {}
    for number in range(ROUNDS):
        if left and not stop.is_set():
            given_up = _fit(errand, left, resources, f"run{number}")
            left = list(given_up)
    for reason in sorted(set(given_up.values())):
        count = sum(each == reason for each in given_up.values())
        print(f"note: {count} trial(s) given up, since their workers died again and again: {reason}", file=sys.stderr)


def _fit(errand: Errand, left: list[int], resources: Resources, name: str) -> dict[int, str]:
    """Hand the jobs with these numbers to Tune, whose own files lie where every node sees them; returns why it gave
    some of them up."""
    from ray import tune

    folder = errand.place.folder if errand.place else None
    share = share_of(resources)
    needs: dict[str, float] = {"cpu": resources.cpus_per_trial, "gpu": share}
    limit = limit_of(resources, share) if folder else resources.jobs
    if resources.gpus_per_trial > 1:
        needs, limit = dict(ray_train.HEAD), ray_train.at_once(resources)
    trial = tune.with_resources(tune.with_parameters(trainable, errand=errand), needs)
    with tempfile.TemporaryDirectory(prefix="sdbench-tune-") as scratch:
        tuner = tune.Tuner(
            trial,
            param_space={"job": tune.grid_search(left)},
            tune_config=tune.TuneConfig(
                reuse_actors=True,
                max_concurrent_trials=limit,
                trial_name_creator=_name,
                trial_dirname_creator=_name,
            ),
            run_config=tune.RunConfig(
                name=name,
                storage_path=folder or scratch,
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=NODE_FAILURES),
                callbacks=[callback()],
            ),
        )
        with fitting():
            tuner.fit()
        return ray_halt.take_given_up()


def _name(trial: Any) -> str:
    return f"trial-{trial.config['job']}"
