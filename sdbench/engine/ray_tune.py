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
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

from sdbench import environment
from sdbench.engine import Resources, Work, ray_cluster, ray_halt, ray_train
from sdbench.engine.group import stay_on_loopback
from sdbench.engine.job import Job
from sdbench.engine.ray_errand import Errand, trainable
from sdbench.engine.ray_halt import Running, callback, fitting
from sdbench.engine.ray_nodes import Place
from sdbench.engine.supervise import supervise

OBJECT_STORE_BYTES = 80 * 2**20  # trials read their data themselves

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

OWN = {
    "RAY_AUTH_MODE": "token",
    "RAY_memory_monitor_refresh_ms": "0",  # it would kill the supervisor, which outlives its trial, rather than it
}
"""For a Ray of this command's own. A cluster has its own settings."""

_had_own = Event()


def available() -> bool:
    """Whether Ray Tune is installed."""
    from importlib.util import find_spec

    return find_spec("ray") is not None and find_spec("pyarrow") is not None


def run(jobs: list[Job], resources: Resources, stop: Event, work: Work = supervise) -> None:
    """Run all jobs under Ray Tune. Raises EnvironmentProblem where the cluster cannot be joined or lacks something."""
    if not jobs or stop.is_set():
        return
    payload = [job.model_dump_json() for job in jobs]
    if resources.gpus_per_trial > 1:
        work = partial(ray_train.work, cpus=resources.cpus_per_trial)
    with session(jobs, resources, stop) as (place, halt):
        _rounds(Errand(payload, work, place, halt), resources, stop)


@contextlib.contextmanager
def session(jobs: Sequence[Job], resources: Resources, stop: Event) -> Iterator[tuple[Place | None, Any]]:
    """Ray, silent, until the block ends: a local one, or the cluster at an address, whose nodes are looked at for what
    ``jobs`` need; then also the place of its common files and the handle that stops trials on all nodes. ``callback``
    halts Tune once ``stop`` is set. Raises EnvironmentProblem where the cluster cannot be joined or lacks something."""
    address = ray_cluster.chosen(resources.address)
    for name, value in {**QUIET, **({} if address else OWN)}.items():
        # Ray reads how it authenticates when it is imported: later it could not talk to what it starts.
        if not (name == "RAY_AUTH_MODE" and "ray" in sys.modules):
            os.environ.setdefault(name, value)
    with _silence():
        if address is None:
            with _own(resources):
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
    for name in ("ray", "ray.tune"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what went wrong is told in this command's own words
    with contextlib.redirect_stdout(io.StringIO()):
        yield


COMMON: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": False}


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Ray installs handlers of its own; the command's stay in force."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _joined(address: str) -> Iterator[None]:
    """The cluster at ``address``, until the block ends."""
    import ray

    with tempfile.TemporaryDirectory(prefix="sdbench-stage-") as staged:
        with _own_signals():
            ray_cluster.connect(address, Path(staged), had_own=_had_own.is_set(), **COMMON)
        try:
            yield
        finally:
            ray.shutdown()


@contextlib.contextmanager
def _own(resources: Resources) -> Iterator[None]:
    """A Ray of this command's own on this machine, until the block ends."""
    import ray

    cpus = resources.cpus if resources.cpus is not None else environment.cpu_count()
    if resources.gpus_per_trial > 1:
        cpus = ray_train.cpus_needed(resources, cpus)
        stay_on_loopback()
    _had_own.set()
    with _own_signals(), _loopback():
        ray.init(
            address="local",
            num_cpus=cpus,
            num_gpus=resources.gpus,
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            **COMMON,
        )
    session = _session_folder()
    try:
        yield
    finally:
        ray.shutdown()
        if session is not None:
            shutil.rmtree(session, ignore_errors=True)


@contextlib.contextmanager
def _loopback() -> Iterator[None]:
    """A Ray that starts here is reached from this machine only.

    Its servers bind the node's address, by default that of a network interface; an address of 127.0.0.1 that is asked
    for is replaced by that. Where Ray is told that there are no clusters, as on macOS and Windows, it takes the
    loopback address by itself. A Ray without that switch binds as it does by default.
    """
    from ray._private import ray_constants

    before = getattr(ray_constants, "ENABLE_RAY_CLUSTER", None)
    if before is None:
        yield
        return
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _session_folder() -> Path | None:
    """Where a local Ray keeps its logs and sockets; Ray itself never removes it."""
    from ray._private import worker

    node: Any = worker._global_node
    return Path(node.get_session_dir_path()) if node is not None else None


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
    needs = {"cpu": resources.cpus_per_trial, "gpu": share}
    limit = limit_of(resources, share) if folder else resources.jobs
    if resources.gpus_per_trial > 1:
        needs, limit = {"cpu": ray_train.HEAD_CPUS}, ray_train.at_once(resources)
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
