"""Run trials under Ray Tune: one Tune trial per spec, each a fresh process, on one machine or many.

Only ``ray.tune`` is used. Tune places the trials on CPUs and GPUs; whether one is done is told by
its record in the store, never by Tune, whose ``fit()`` returns normally even when a signal cut it
short. A trial that takes its process down is started again by the supervisor inside; Tune's own
retries cover only the death of a whole worker or node.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

from sdbench import environment
from sdbench.engine import Resources, ray_train
from sdbench.engine.group import stay_on_loopback
from sdbench.engine.job import Job
from sdbench.engine.supervise import WORKER

OBJECT_STORE_BYTES = 80 * 2**20  # trials read their data themselves

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "RAY_AUTH_MODE": "token",
}


def available() -> bool:
    """Whether Ray Tune is installed."""
    from importlib.util import find_spec

    return find_spec("ray") is not None and find_spec("pyarrow") is not None


def _trainable(config: dict[str, Any], jobs: list[str], cpus: int = 1) -> None:
    """What a Tune worker runs: the supervisor of one trial."""
    from ray import tune

    from sdbench.engine.supervise import supervise

    job = Job.model_validate_json(jobs[config["job"]])
    status = supervise(job, Event()) if job.trial.spec.shards == 1 else ray_train.work(job, Event(), cpus=cpus)
    tune.report({"status": status or "interrupted"})


class Halted(Exception):
    """The command was asked to stop."""


_halt: Event | None = None  # module state, since Tune copies its callbacks


def run(jobs: list[Job], resources: Resources, stop: Event) -> None:
    """Run all jobs under Ray Tune. Raises EnvironmentProblem where the cluster cannot be joined."""
    global _halt
    if not jobs or stop.is_set():
        return
    _halt = stop
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    with _silence(), _cluster(resources) as (cpus, gpus):
        _fit(jobs, resources, cpus, gpus, stop)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Ray's reports and banners stay out of the command's output."""
    for name in ("ray", "ray.tune"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()):
        yield


@contextlib.contextmanager
def _cluster(resources: Resources) -> Iterator[tuple[float, float]]:
    """A local Ray, or the one at ``address``; yields how many CPUs and GPUs it has and cleans up its own."""
    import ray

    from sdbench.errors import EnvironmentProblem

    address = resources.address or os.environ.get("RAY_ADDRESS")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    common: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": False}
    if address and address != "local":
        if address.startswith("ray://"):
            raise EnvironmentProblem(
                f"--address {address}: Tune does not work through ray:// clients; run the command on the head node "
                "with --address auto, or submit it with `ray job submit`"
            )
        try:
            ray.init(address=address, **common)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise EnvironmentProblem(f"--address {address}: no Ray cluster answers there ({error})") from error
        session = None
    else:
        cpus = resources.cpus if resources.cpus is not None else environment.cpu_count()
        if resources.gpus_per_trial > 1:
            cpus = ray_train.cpus_needed(resources, cpus)
            stay_on_loopback()
        ray.init(
            address="local",
            num_cpus=cpus,
            num_gpus=resources.gpus,
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            **common,
        )
        session = _session_folder()
    for number, handler in handlers.items():
        signal.signal(number, handler)  # Ray installed its own; the command's stay in force
    try:
        total: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        yield float(total.get("CPU", 0)), float(total.get("GPU", 0))
    finally:
        ray.shutdown()
        if session is not None:
            shutil.rmtree(session, ignore_errors=True)


def _session_folder() -> Path | None:
    """Where a local Ray keeps its logs and sockets; Ray itself never removes it."""
    from ray._private import worker

    node: Any = worker._global_node
    return Path(node.get_session_dir_path()) if node is not None else None


def _fit(jobs: list[Job], resources: Resources, cpus: float, gpus: float, stop: Event) -> None:
    from ray import tune

    share = 1 / resources.per_gpu if gpus and resources.gpus != 0 else 0
    needs = {"cpu": resources.cpus_per_trial, "gpu": share}
    payload = [job.model_dump_json() for job in jobs]
    limit = None
    if resources.gpus_per_trial > 1:
        limit = ray_train.at_once(resources, cpus, gpus)
        needs = {"cpu": ray_train.HEAD_CPUS}
    trainable = tune.with_parameters(_trainable, jobs=payload, cpus=resources.cpus_per_trial)
    trainable = tune.with_resources(trainable, needs)
    with tempfile.TemporaryDirectory(prefix="sdbench-tune-") as scratch:
        tuner = tune.Tuner(
            trainable,
            param_space={"job": tune.grid_search(list(range(len(jobs))))},
            tune_config=tune.TuneConfig(
                reuse_actors=False,
                max_concurrent_trials=limit,
                trial_name_creator=_name,
                trial_dirname_creator=_name,
            ),
            run_config=tune.RunConfig(
                name="run",
                storage_path=scratch,
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=max(1, jobs[0].options.max_failures)),
                callbacks=[_callback()],
            ),
        )
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
    if _halt is not None and _halt.is_set():
        _ask_trials_to_stop()
        raise Halted


def _ask_trials_to_stop() -> None:
    """SIGTERM to every trial process below this one, so that each ends at its next step. Those on other
    nodes end when their worker does."""
    import psutil

    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if WORKER in process.cmdline():
                process.terminate()


def _name(trial: Any) -> str:
    return f"trial-{trial.config['job']}"
