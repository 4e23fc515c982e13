"""Join a running Ray cluster: give it this machine's code, look at its nodes, and stop trials on all of them."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
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
from sdbench.engine.process import STOP_GRACE_S
from sdbench.engine.ray_nodes import Place
from sdbench.engine.shipping import stage_package, variables
from sdbench.errors import EnvironmentProblem

FOLDER = ".cluster-"
"""Beginning of the name of a run's own folder in the results folder."""

LOOK_S = 30.0

ANSWER_S = 60.0
"""How long an actor on this machine may take to answer; milliseconds, unless the machine is overloaded."""

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
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise EnvironmentProblem(
            f"--address {address}: no Ray cluster answers there as it should ({last_line(str(error))}); see "
            "`ray status`, and where the cluster asks for a token, RAY_AUTH_MODE=token must be set here too"
        ) from error


def last_line(told: str) -> str:
    """What an error that came with a traceback from elsewhere says at its end."""
    return (told.strip().splitlines() or ["no reason is known"])[-1]


class Vacancy:
    """Says so when no node is left that has room for a trial. cpus, gpus: that one needs."""

    def __init__(self, cpus: float, gpus: float) -> None:
        self._needs = (cpus, gpus)
        self._next = time.monotonic() + LOOK_S
        self._empty = False

    def tell(self) -> None:
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + LOOK_S
        empty = not ray_nodes.fitting(ray_nodes.alive().values(), *self._needs)
        if empty and not self._empty:
            print("note: no node is left with room for a trial; waiting for one to join", file=sys.stderr, flush=True)
        self._empty = empty


@contextlib.contextmanager
def place(jobs: Sequence[Job], cpus: float, gpus: float) -> Iterator[Place]:
    """A folder in the results folder for this run, seen and looked at by every node. Raises EnvironmentProblem."""
    results = Path(jobs[0].store)
    _sweep(results)
    token = uuid4().hex
    folder = Path(tempfile.mkdtemp(prefix=".starting-", dir=results))
    try:
        with FileLock(folder / ray_nodes.LOCK):
            folder = folder.rename(results / f"{FOLDER}{token}")  # its lock is held from the first
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

    with contextlib.suppress(ray.exceptions.RayError):
        ray.get(halt.ask.remote(), timeout=ANSWER_S)
        deadline = time.monotonic() + STOP_GRACE_S + 5
        while time.monotonic() < deadline:
            alive = ray_nodes.alive()
            if not any(who.partition("/")[0] in alive for who in ray.get(halt.waiting.remote(), timeout=ANSWER_S)):
                return
            time.sleep(0.2)
