"""A Ray of this command's own: reached from this machine only, with a token that nobody else has, gone afterwards."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sdbench import environment
from sdbench.engine import Resources, ray_train
from sdbench.engine.group import SOCKETS, stay_on_loopback
from sdbench.engine.ray_cluster import last_line
from sdbench.engine.shipping import FOLDERS, absolute_folders
from sdbench.errors import EnvironmentProblem

OBJECT_STORE_BYTES = 80 * 2**20  # trials read their data themselves

OWN = {
    "RAY_memory_monitor_refresh_ms": "0",  # it would kill the supervisor, which outlives its trial, rather than it
}
"""For a Ray of this command's own. A cluster has its own settings."""

MODE, TOKEN = "RAY_AUTH_MODE", ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")

_asks_for_own_token = False  # module state, since Ray keeps to one token until the process ends


@contextlib.contextmanager
def variables(given: Mapping[str, str]) -> Iterator[None]:
    """The environment with these variables, where the user has set no others, and with absolute folders: Tune's workers
    work in folders of their own. Afterwards it is again as it was."""
    before = {name: os.environ.get(name) for name in (*given, *FOLDERS, *SOCKETS)}
    for name, value in given.items():
        os.environ.setdefault(name, value)
    os.environ.update(absolute_folders(os.environ))
    try:
        yield
    finally:
        for name, old in before.items():
            if old is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = old


def refuse_other_ray() -> None:
    """Raises EnvironmentProblem where this process is connected to a Ray already, which there can be one of."""
    if "ray" not in sys.modules:
        return
    import ray

    if ray.is_initialized():
        raise EnvironmentProblem(
            "this process is connected to a Ray already, and can be to one only; call ray.shutdown() before, or give "
            "--engine local"
        )


def refuse_to_join(address: str) -> None:
    """Raises EnvironmentProblem where this process has the token of a Ray of its own, and no cluster lets it in."""
    if _asks_for_own_token:
        raise EnvironmentProblem(
            f"--address {address}: this process has run trials with a Ray of its own, and has its token until it ends; "
            "join the cluster from a new process, or set RAY_AUTH_MODE before the first run as the cluster has it"
        )


def _choose_token() -> None:
    """Let Ray ask for a token made here, unless the user said how it is to let others in. Ray's own way would be a file
    in the home folder. The variables stay, since Ray reads them once."""
    global _asks_for_own_token
    if MODE in os.environ:
        return
    if "ray" not in sys.modules:  # it read the mode when it was imported; by itself it chooses the same later
        os.environ[MODE] = "token"
    if not any(name in os.environ for name in TOKEN):
        os.environ[TOKEN[0]] = secrets.token_hex(32)
        _asks_for_own_token = True


@contextlib.contextmanager
def started(resources: Resources, **common: Any) -> Iterator[None]:
    """A Ray of this command's own on this machine, until the block ends. Raises EnvironmentProblem."""
    cpus = resources.cpus if resources.cpus is not None else environment.cpu_count()
    if resources.gpus_per_trial > 1:
        cpus = ray_train.cpus_needed(resources, cpus)
        stay_on_loopback()
    _choose_token()
    import ray

    with kept_signals(), _loopback():
        try:
            ray.init(
                address="local",
                num_cpus=cpus,
                num_gpus=resources.gpus,
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                **common,
            )
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            reason = last_line(str(error))
            raise EnvironmentProblem(
                f"Ray cannot start on this machine ({reason}); --engine local does without"
            ) from error
    session = _session_folder()
    try:
        yield
    finally:
        ray.shutdown()
        if session is not None:
            shutil.rmtree(session, ignore_errors=True)


@contextlib.contextmanager
def kept_signals() -> Iterator[None]:
    """Ray installs handlers of its own; the command's stay in force."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


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
