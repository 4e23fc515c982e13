"""What must be true of every node of a Ray cluster before work starts, looked at on the node itself."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sdbench import environment
from sdbench.engine.job import Job
from sdbench.engine.shipping import Plugin, pack, unpacked
from sdbench.errors import EnvironmentProblem, UserError
from sdbench.spec import Record

TOKEN, LOCK = "token", "lock"
PROBE_S = 300.0
SEEN_S = 15.0
SAME = ("torch", "torchvision", "numpy", "timm")


class DataNeed(Record):
    """A data set that trials open, as its record and its options name it."""

    name: str
    folder: str | None
    image_size: int | None
    fingerprint: str


class Place(Record):
    """What a node is asked to look at. folder: this run's own, in the results folder; it holds the token and a lock
    that the driver keeps. sources: the hash of each method's source. versions: those of the driver."""

    results: str
    folder: str
    token: str
    plugins: tuple[Plugin, ...] = ()
    sources: dict[str, str] = {}
    data: tuple[DataNeed, ...] = ()
    versions: dict[str, str]


class Finding(Record):
    """What a node answered: its processor, and sentences about what is wrong there."""

    cpu: str
    problems: tuple[str, ...]


def place_of(jobs: Sequence[Job], folder: Path, token: str) -> Place:
    """What the nodes are to look at before these jobs start; folder and token: as in Place."""
    needs = {
        DataNeed(
            name=job.trial.spec.dataset,
            folder=str(where) if (where := job.options.place_of(job.trial.spec.dataset)) else None,
            image_size=job.trial.spec.image_size,
            fingerprint=job.trial.identity.data_fingerprint,
        )
        for job in jobs
    }
    return Place(
        results=jobs[0].store,
        folder=str(folder),
        token=token,
        plugins=pack(jobs[0].options.plugins),
        sources={job.trial.spec.method: job.trial.identity.method_source for job in jobs},
        data=tuple(sorted(needs, key=str)),
        versions=environment.versions(),
    )


def storage_problems(place: Place, node: str = "") -> list[str]:
    """Whether this machine sees the results folder, can write there, and minds locks held elsewhere.

    node: under which name the proof of having written there is left; empty for none.
    """
    folder = Path(place.folder)
    try:
        seen = (folder / TOKEN).read_text(encoding="ascii") == place.token
        if seen and node:
            (folder / f"seen-{node}").write_text(place.token, encoding="ascii")
    except (OSError, ValueError) as error:
        if isinstance(error, PermissionError):
            return [f"may not write to the results folder {place.results}; run its Ray as the same user"]
        seen = False
    if not seen:
        return [
            f"does not see the results folder {place.results}; mount shared storage at the same path on every node "
            "and give a folder on it with --results FOLDER"
        ]
    try:
        with FileLock(folder / LOCK, timeout=0):
            held = False
    except Timeout:
        held = True
    except (OSError, NotImplementedError):
        held = False
    if held:
        return []
    return [
        f"does not mind locks that another node holds on {place.results}; mount it with locks that hold between "
        "machines (NFS 4; NFS 3 without nolock and local_lock; Lustre with flock)"
    ]


def software_problems(place: Place) -> list[str]:
    """Which libraries are of another version than the driver's, on which bits depend."""
    own, wanted = environment.versions(), place.versions
    found = []
    for name in SAME:
        theirs, ours = (versions.get(name, "none").partition("+")[0] for versions in (own, wanted))
        if theirs != ours:
            found.append(f"has {name} {theirs}, the driver {ours}; install the same version on every node")
    if own["python"].split(".")[:2] != wanted["python"].split(".")[:2]:
        found.append(f"has Python {own['python']}, the driver {wanted['python']}; install the same version")
    return found


def source_problems(place: Place) -> list[str]:
    """Which methods are missing here or have another source than the one that the trials' ids are made of."""
    from sdbench import registry
    from sdbench.identity import method_source

    found = []
    with unpacked(place.plugins) as paths:
        try:
            for path in paths:
                registry.load_plugin(path)
            for name, source in place.sources.items():
                if method_source(name) != source:
                    found.append(f"has another source of {name} than the driver; install the same packages there")
        except UserError as error:
            found += list(error.problems)
    return found


def data_problems(place: Place) -> list[str]:
    """Which data sets are not here."""
    from sdbench.data.presence import refuse_absent

    found = []
    for need in place.data:
        try:
            refuse_absent(need.name, Path(need.folder) if need.folder else None, need.image_size, need.fingerprint)
        except UserError as error:
            remedy = "put the data where every node sees them and give that folder with --data-dir or SDBENCH_DATA"
            found += [f"lacks data: {problem}; {remedy}" for problem in error.problems]
    return found


def examine(place: Place, node: str) -> Finding:
    """Everything, on the node that this runs on."""
    problems = storage_problems(place, node) + software_problems(place)
    problems += source_problems(place) + data_problems(place)
    return Finding(cpu=environment.cpu_model(), problems=tuple(problems))


def fitting(nodes: Iterable[dict[str, Any]], cpus: float, gpus: float) -> list[dict[str, Any]]:
    """The nodes that have room for a trial."""
    return [n for n in nodes if n["Resources"].get("CPU", 0) >= cpus and n["Resources"].get("GPU", 0) >= gpus]


def alive() -> dict[str, dict[str, Any]]:
    """The nodes of the cluster that are alive, by their ids."""
    import ray

    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return {node["NodeID"]: node for node in nodes if node["Alive"]}


def title(node: dict[str, Any]) -> str:
    """How a node is called in messages: its address and the beginning of its id."""
    return f"node {node['NodeManagerAddress']} ({node['NodeID'][:8]})"


def examine_nodes(place: Place, cpus: float, gpus: float) -> None:
    """Ask every node that trials may come to. Raises EnvironmentProblem with all that is wrong on any of them."""
    import ray

    nodes = fitting(alive().values(), cpus, gpus)
    if not nodes:
        need = f"{cpus:g} CPU" + (f" and {gpus:g} GPU" if gpus else "")
        raise EnvironmentProblem(
            f"no node of the cluster has {need} for a trial; see `ray status`, and start nodes with "
            "`ray start --address=HEAD:6379`, or lower --cpus-per-trial"
        )
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    remote = ray.remote(num_cpus=0, max_calls=1, max_retries=3)(examine)
    asked = {}
    for node in nodes:
        here = NodeAffinitySchedulingStrategy(node_id=node["NodeID"], soft=False)
        asked[remote.options(scheduling_strategy=here).remote(place, node["NodeID"])] = node
    ray.wait(list(asked), num_returns=len(asked), timeout=PROBE_S)
    problems: list[str] = []
    processors: dict[str, str] = {}
    for answer, node in asked.items():
        problems += _judge(answer, node, place, processors)
    if problems:
        raise EnvironmentProblem(problems)
    if len(set(processors.values())) > 1:
        told = "; ".join(f"{name}: {cpu}" for name, cpu in processors.items())
        print(f"note: results are equal to the last bit on one type of processor only; {told}", file=sys.stderr)


def _judge(answer: Any, node: dict[str, Any], place: Place, processors: dict[str, str]) -> list[str]:
    """What is wrong with a node, by its answer; nothing where it has left the cluster meanwhile."""
    import ray

    try:
        finding: Finding = ray.get(answer, timeout=0.1)
    except ray.exceptions.RayError as error:
        if node["NodeID"] not in alive():
            return []
        if isinstance(error, ray.exceptions.OutOfMemoryError):
            return [f"{title(node)}: has hardly any memory left, so that Ray ends what starts there; free some"]
        if isinstance(error, ray.exceptions.GetTimeoutError):
            return [f"{title(node)}: no answer within {PROBE_S:g} s; see its logs under /tmp/ray/session_latest/logs"]
        return [f"{title(node)}: cannot run this command's code: {(str(error).strip().splitlines() or ['?'])[-1]}"]
    processors[title(node)] = finding.cpu
    problems = list(finding.problems)
    if not problems and not _written(Path(place.folder) / f"seen-{node['NodeID']}", place.token):
        problems = [f"what it writes to {place.results} does not arrive here; give a folder that all nodes share"]
    return [f"{title(node)}: {problem}" for problem in problems]


def _written(path: Path, token: str) -> bool:
    """Whether a file that another machine wrote is seen here; its folder's listing may be some seconds old."""
    deadline = time.monotonic() + SEEN_S
    while time.monotonic() < deadline:
        try:
            if path.read_text(encoding="ascii") == token:
                return True
        except OSError:
            time.sleep(0.2)
    return False
