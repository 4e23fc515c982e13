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
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

from sdbench import environment
from sdbench.engine import Resources, Work, ray_cluster
from sdbench.engine.job import Job
from sdbench.engine.ray_errand import Errand, trainable
from sdbench.engine.supervise import WORKER, supervise

OBJECT_STORE_BYTES = 80 * 2**20  # trials read their data themselves

NODE_FAILURES = 10
"""How often a trial may lose its node or its supervisor. Its own failures are counted by the supervisor."""

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


def available() -> bool:
    """Whether Ray Tune is installed."""
    from importlib.util import find_spec

    return find_spec("ray") is not None and find_spec("pyarrow") is not None


class Halted(Exception):
    """The command was asked to stop."""


@dataclass
class _Running:
    """What Tune's callback looks at. Module state, since Tune copies its callbacks."""

    stop: Event
    halt: Any = None


_running: _Running | None = None


def run(jobs: list[Job], resources: Resources, stop: Event, work: Work = supervise) -> None:
    """Run all jobs under Ray Tune. Raises EnvironmentProblem where the cluster cannot be joined or lacks something."""
    if not jobs or stop.is_set():
        return
    address = ray_cluster.chosen(resources.address)
    for name, value in {**QUIET, **({} if address else OWN)}.items():
        # Ray reads how it authenticates when it is imported: later it could not talk to what it starts.
        if not (name == "RAY_AUTH_MODE" and "ray" in sys.modules):
            os.environ.setdefault(name, value)
    payload = [job.model_dump_json() for job in jobs]
    with _silence():
        if address is None:
            with _own(resources):
                _fit(Errand(payload, work), resources, stop, None)
            return
        with _joined(address), ray_cluster.place(jobs, resources.cpus_per_trial, _share(resources)) as place:
            _fit(Errand(payload, work, place, ray_cluster.start_halt()), resources, stop, place.folder)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Ray's reports and banners stay out of the command's output."""
    for name in ("ray", "ray.tune"):
        logging.getLogger(name).setLevel(logging.ERROR)
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
            ray_cluster.connect(address, Path(staged), **COMMON)
        try:
            yield
        finally:
            ray.shutdown()


@contextlib.contextmanager
def _own(resources: Resources) -> Iterator[None]:
    """A Ray of this command's own on this machine, until the block ends."""
    import ray

    cpus = resources.cpus if resources.cpus is not None else environment.cpu_count()
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


def _share(resources: Resources) -> float:
    """The part of a GPU that a trial gets: 0 where the cluster has none or none is wanted."""
    import ray

    total: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return 1 / resources.per_gpu if total.get("GPU", 0) and resources.gpus != 0 else 0.0


def _limit(resources: Resources, share: float) -> int | None:
    """How many trials may run at once on a cluster that others use too; None for as many as find room."""
    limits = [] if resources.cpus is None else [resources.cpus // resources.cpus_per_trial]
    if resources.jobs is not None:
        limits.append(resources.jobs)
    if share and resources.gpus is not None:
        limits.append(resources.gpus * resources.per_gpu)
    return max(1, min(limits)) if limits else None


def _fit(errand: Errand, resources: Resources, stop: Event, folder: str | None) -> None:
    """Hand all jobs to Tune. folder: for Tune's own files, where every node sees them; None for a temporary one."""
    global _running
    from ray import tune

    share = _share(resources)
    needs = {"cpu": resources.cpus_per_trial, "gpu": share}
    trial = tune.with_resources(tune.with_parameters(trainable, errand=errand), needs)
    with tempfile.TemporaryDirectory(prefix="sdbench-tune-") as scratch:
        tuner = tune.Tuner(
            trial,
            param_space={"job": tune.grid_search(list(range(len(errand.jobs))))},
            tune_config=tune.TuneConfig(
                reuse_actors=True,
                max_concurrent_trials=_limit(resources, share) if folder else resources.jobs,
                trial_name_creator=_name,
                trial_dirname_creator=_name,
            ),
            run_config=tune.RunConfig(
                name="run",
                storage_path=folder or scratch,
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=NODE_FAILURES),
                callbacks=[_callback()],
            ),
        )
        _running = _Running(stop, errand.halt)
        with contextlib.suppress(Halted):
            tuner.fit()


def _callback() -> Any:
    """A Tune callback that ends ``fit()`` once the command was asked to stop."""
    from ray.tune import Callback

    class HaltCallback(Callback):
        def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
            # Tune pickles this class by value; the import reaches the one module that holds the stop.
            from sdbench.engine import ray_tune

            ray_tune.halt_if_asked()

    return HaltCallback()


def halt_if_asked() -> None:
    """Raise Halted, after telling the trials, once the command was asked to stop."""
    if _running is not None and _running.stop.is_set():
        if _running.halt is None:
            _ask_trials_to_stop()
        else:
            ray_cluster.halt_all(_running.halt)
        raise Halted


def _ask_trials_to_stop() -> None:
    """SIGTERM to every trial process below this one, so that each ends at its next step."""
    import psutil

    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if WORKER in process.cmdline():
                process.terminate()


def _name(trial: Any) -> str:
    return f"trial-{trial.config['job']}"
