"""Join a running Ray cluster: give it this machine's code, look at its nodes, and stop trials on all of them."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Event, Thread
from typing import Any
from uuid import uuid4

from filelock import FileLock, Timeout

from sdbench.engine import ray_nodes
from sdbench.engine.job import Job
from sdbench.engine.ray_nodes import Place
from sdbench.engine.shipping import stage_package, variables
from sdbench.engine.supervise import STOP_GRACE_S
from sdbench.errors import EnvironmentProblem

FOLDER = ".cluster-"
"""Beginning of the name of a run's own folder in the results folder."""

MANY = 100_000
"""Trials that may wait on one actor at once; Ray's own limit is 1,000."""


def chosen(address: str | None) -> str | None:
    """The address of the cluster to join, from ``--address`` or RAY_ADDRESS; None for a Ray of one's own.

    Raises EnvironmentProblem for addresses of Ray clients.
    """
    named, found = "--address", address
    if not found:
        named, found = "RAY_ADDRESS", os.environ.get("RAY_ADDRESS")
    if not found or found == "local":
        return None
    if "://" in found:
        raise EnvironmentProblem(
            f"{named} {found}: Tune does not work through Ray clients; run the command on a node of the cluster with "
            "--address auto, or submit it there with `ray job submit`"
        )
    return found


def connect(address: str, staged: Path, **common: Any) -> None:
    """Join the cluster, with this process's package and variables for its workers. Raises EnvironmentProblem."""
    import ray

    environment = {"env_vars": variables(os.environ), "py_modules": [str(stage_package(staged))]}
    try:
        ray.init(address=address, runtime_env=environment, **common)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        raise EnvironmentProblem(
            f"--address {address}: no Ray cluster answers there as it should ({reason}); see `ray status`, and where "
            "the cluster asks for a token, RAY_AUTH_MODE=token must be set here too"
        ) from error


@contextlib.contextmanager
def place(jobs: Sequence[Job], cpus: float, gpus: float) -> Iterator[Place]:
    """A folder in the results folder for this run, seen and looked at by every node. Raises EnvironmentProblem."""
    results = Path(jobs[0].store)
    _sweep(results)
    folder = Path(tempfile.mkdtemp(prefix=FOLDER, dir=results))
    try:
        with FileLock(folder / ray_nodes.LOCK):
            token = uuid4().hex
            (folder / ray_nodes.TOKEN).write_text(token, encoding="ascii")
            found = ray_nodes.place_of(jobs, folder, token)
            ray_nodes.examine_nodes(found, cpus, gpus)
            yield found
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sweep(results: Path) -> None:
    """Remove the folders of runs that were killed: nobody holds their lock."""
    for old in results.glob(FOLDER + "*"):
        with contextlib.suppress(OSError, Timeout):
            with FileLock(old / ray_nodes.LOCK, timeout=0):
                pass
            shutil.rmtree(old, ignore_errors=True)


class Halt:
    """An actor on the driver's node, which every supervisor waits on: it tells them all to stop."""

    def __init__(self) -> None:
        import asyncio

        self._event = asyncio.Event
        self._asked = False
        self._waiting: dict[str, Any] = {}

    async def wait(self, who: str) -> bool:
        """Until the command is stopped (True) or ``who`` has left (False)."""
        event = self._waiting.setdefault(who, self._event())
        if not self._asked:
            await event.wait()
        return self._asked

    async def leave(self, who: str) -> None:
        event = self._waiting.pop(who, None)
        if event is not None:
            event.set()

    async def ask(self) -> None:
        self._asked = True
        for event in self._waiting.values():
            event.set()

    async def waiting(self) -> list[str]:
        return list(self._waiting)


def start_halt() -> Any:
    """The handle of a new ``Halt`` on this node."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(node_id=ray.get_runtime_context().get_node_id(), soft=False)
    options: dict[str, Any] = {"num_cpus": 0, "max_concurrency": MANY, "scheduling_strategy": here}
    return ray.remote(Halt).options(**options).remote()


@contextlib.contextmanager
def obedient(halt: Any, job: str) -> Iterator[Event]:
    """An event that is set once the command is stopped, or cannot be reached any more. Used on a node."""
    import ray

    who = f"{ray.get_runtime_context().get_node_id()}/{job}/{uuid4().hex}"
    stop = Event()
    answer = halt.wait.remote(who)

    def follow() -> None:
        try:
            if ray.get(answer):
                stop.set()
        except ray.exceptions.RayError:
            stop.set()

    Thread(target=follow, daemon=True).start()
    try:
        yield stop
    finally:
        halt.leave.remote(who)


def halt_all(halt: Any) -> None:
    """Stop the trials on all nodes and wait until their supervisors are done, as long as they are given for it."""
    import ray

    deadline = time.monotonic() + STOP_GRACE_S + 5
    with contextlib.suppress(ray.exceptions.RayError):
        ray.get(halt.ask.remote(), timeout=10)
        while time.monotonic() < deadline:
            alive = ray_nodes.alive()
            if not any(who.partition("/")[0] in alive for who in ray.get(halt.waiting.remote(), timeout=10)):
                return
            time.sleep(0.2)
