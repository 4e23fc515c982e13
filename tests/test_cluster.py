"""Runs on a Ray cluster of several nodes: whatever dies, every trial ends once, with the bits of a quiet run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sdbench import environment
from sdbench.spec import TrialResult
from sdbench.store import Store

NODES = Path(__file__).resolve().parent.parent / "benchmarks" / "nodes.py"
EPOCHS = 12
PATIENCE_S = 600.0

PLUGIN = '''
import os
import time
from pathlib import Path

import torch.nn.functional as F

from neighbour import PAUSE_S
from sdbench import Method, register


@register("toy_unhurried")
class Unhurried(Method):
    """Cross-entropy that takes its time and leaves a mark where it works."""

    def setup(self, task, network):
        with (Path(os.environ["SDBENCH_MARKS"]) / os.environ.get("NODE_OF_TEST", "here")).open("a") as file:
            file.write(f"{os.getpid()}\\n")

    def criterion(self, output, batch, progress):
        time.sleep(PAUSE_S)
        return {"ce": F.cross_entropy(output.logits.float(), batch.labels)}
'''


class Cluster:
    """The process that holds the nodes; every name of a command is a method."""

    def __init__(self, folder: Path) -> None:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        with (folder / "nodes.log").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(NODES)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=clean,
                text=True,
            )  # fmt: skip

    def say(self, *words: object) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(*words, file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline().strip()
        assert answer, f"no answer to {words}"
        return answer

    def close(self) -> None:
        self.process.communicate(timeout=120)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    found = Cluster(tmp_path)
    yield found
    found.close()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, make_pictures: Callable[..., Path]) -> Path:
    """A folder with images, a plug-in with a neighbour, and the results of a quiet run without Ray."""
    root = tmp_path_factory.mktemp("cluster")
    make_pictures(root / "pictures", 16, 6)
    (root / "lab").mkdir()
    (root / "lab" / "toy.py").write_text(PLUGIN)
    (root / "lab" / "neighbour.py").write_text("PAUSE_S = 0.25\n")
    (root / "marks").mkdir()
    done = subprocess.run(command(root, root / "quiet", "--engine", "local"), env=variables(root), check=False)
    assert done.returncode == 0
    return root


def variables(world: Path, marks: Path | None = None) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return {**clean, "SDBENCH_MARKS": str(marks or world / "marks")}


def command(world: Path, results: Path, *more: str, seeds: str = "0-1") -> list[str]:
    return [
        sys.executable, "-m", "sdbench", "run", "--plugin", str(world / "lab" / "toy.py"), "--methods", "toy_unhurried",
        "--dataset", f"folder:{world / 'pictures'}", "--model", "resnet8", "--epochs", str(EPOCHS), "--seeds", seeds,
        "--batch-size", "16", "--protocol", "fixed", "--precision", "fp32", "--image-size", "16", "--device", "cpu",
        "--results", str(results), *more,
    ]  # fmt: skip


class Run:
    """The command on a cluster, and what it leaves."""

    def __init__(self, world: Path, folder: Path, arguments: list[str]) -> None:
        self.world, self.results, self.marks = world, folder / "results", folder / "marks"
        self.marks.mkdir(exist_ok=True)
        self.arguments = arguments
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> subprocess.Popen[str]:
        self.process = subprocess.Popen(
            self.arguments,
            env=variables(self.world, self.marks),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        return self.process

    def finish(self) -> tuple[int, str]:
        assert self.process is not None
        told = self.process.communicate(timeout=PATIENCE_S)[1]
        return self.process.returncode, told

    def nodes(self) -> set[str]:
        """The nodes on which the plug-in's method has worked."""
        return {path.name for path in self.marks.iterdir()}

    def in_the_middle(self) -> bool:
        """Whether a trial of the plug-in's method has done some epochs and has some before it."""
        if self.process is not None and self.process.poll() is not None:
            pytest.fail(f"the command has ended: {self.finish()}")
        return any(2 <= lines <= EPOCHS // 2 for lines in self.lines().values())

    def lines(self) -> dict[Path, int]:
        found = self.results.glob("trials/*/*/toy_unhurried/*/curve.jsonl")
        return {path: path.read_bytes().count(b"\n") for path in found}


@pytest.fixture
def start(world: Path, tmp_path: Path) -> Iterator[Callable[[str], Run]]:
    started: list[Run] = []

    def begin(address: str) -> Run:
        run = Run(world, tmp_path, command(world, tmp_path / "results", "--address", address))
        run.start()
        started.append(run)
        return run

    yield begin
    for run in started:
        if run.process is not None and run.process.poll() is None:
            run.process.kill()
            run.process.wait()


def wait_for(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.05)


def records(results: Path) -> dict[tuple[str, int], TrialResult]:
    return {(r.spec.method, r.spec.seed): r for r in Store(results).scan().results}


def bits(results: Path) -> dict[tuple[str, int], Any]:
    """All that must be equal to the last bit; the curve holds every epoch once."""
    found = {}
    for key, record in records(results).items():
        folder = Store(results).folder(record.spec, record.trial_id)
        lines = [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]
        assert [line["epoch"] for line in lines] == list(range(EPOCHS))
        losses = [(line["loss"], line["terms"]) for line in lines]
        found[key] = (record.trial_id, record.status, record.metrics, record.checksums["network.safetensors"], losses)
    return found


def assert_whole(run: Run) -> None:
    """Nothing lost, nothing twice: every trial once, with a quiet run's bits; this run's own folder is gone."""
    assert bits(run.results) == bits(run.world / "quiet")
    assert Counter(r.status for r in records(run.results).values()) == {"ok": 4}
    assert not list(run.results.glob(".cluster-*"))
    assert not list(run.results.glob("trials/**/*.damaged-*"))


@pytest.mark.ray
@pytest.mark.slow
def test_a_node_dies_in_mid_run(cluster: Cluster, start: Callable[[str], Run]) -> None:
    """Its trials go on from their checkpoints on another node, and what was finished is not run again."""
    address = cluster.say("add", "head", 0)
    cluster.say("add", "first", 1)
    cluster.say("add", "second", 1)
    run = start(address)
    wait_for(run.in_the_middle)
    (busy,) = run.nodes()
    assert int(cluster.say("kill", busy)) > 3
    code, told = run.finish()
    assert code == 0, told
    assert_whole(run)
    resumed = [r for r in records(run.results).values() if r.resumes]
    assert resumed
    assert all(0 < epoch < EPOCHS for r in resumed for epoch in r.resumes)
    (commit,) = {r.provenance.commit for r in records(run.results).values()}
    assert bool(commit) == bool(environment.source_commit()[0]), "the copy of the package knows where it is from"


@pytest.mark.ray
@pytest.mark.slow
def test_a_node_is_cut_off_and_its_trials_live_on(cluster: Cluster, start: Callable[[str], Run]) -> None:
    """Only its raylet dies: the trial that it leaves behind ends before another process goes on with it."""
    address = cluster.say("add", "head", 0)
    cluster.say("add", "first", 1)
    cluster.say("add", "second", 1)
    run = start(address)
    wait_for(run.in_the_middle)
    (busy,) = run.nodes()
    assert cluster.say("behead", busy) == "1"
    code, told = run.finish()
    assert code == 0, told
    assert_whole(run)


@pytest.mark.ray
@pytest.mark.slow
def test_all_nodes_but_the_head_die_and_one_joins_late(cluster: Cluster, start: Callable[[str], Run]) -> None:
    address = cluster.say("add", "head", 0)
    cluster.say("add", "first", 1)
    cluster.say("add", "second", 1)
    run = start(address)
    wait_for(run.in_the_middle)
    cluster.say("kill", "first")
    cluster.say("kill", "second")
    cluster.say("add", "late", 1)
    code, told = run.finish()
    assert code == 0, told
    assert "late" in run.nodes()
    assert_whole(run)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGUSR1, signal.SIGINT, signal.SIGTERM])
def test_the_command_dies_and_is_repeated(
    cluster: Cluster, start: Callable[[str], Run], number: signal.Signals
) -> None:
    """However it ends, trials on all nodes end too, and the same command finishes them."""
    address = cluster.say("add", "head", 0)
    cluster.say("add", "first", 1)
    cluster.say("add", "second", 1)
    run = start(address)
    wait_for(run.in_the_middle)
    assert run.process is not None
    run.process.send_signal(number)
    code, told = run.finish()
    assert code == (-number if number == signal.SIGKILL else 128 + number), told
    if number != signal.SIGKILL:
        statuses = Counter(r.status for r in records(run.results).values())
        assert statuses["interrupted"] >= 1, "it had time to say so"
        assert all(not locked(run, r) for r in records(run.results).values())
        assert "the same command again" in told
    else:
        wait_for(lambda: not any(locked(run, r) for r in records(run.results).values()))
    before = run.lines()
    time.sleep(2)
    assert run.lines() == before, "nothing works on"
    run.start()
    code, told = run.finish()
    assert code == 0, told
    assert_whole(run)


@pytest.mark.ray
@pytest.mark.slow
def test_the_head_dies(cluster: Cluster, start: Callable[[str], Run]) -> None:
    """The command ends by itself and says what is done, what is not and what to type next."""
    address = cluster.say("add", "head", 0)
    cluster.say("add", "first", 1)
    run = start(address)
    wait_for(run.in_the_middle)
    cluster.say("kill", "head")
    code, told = run.finish()
    assert code == 1, told
    assert f"the head of the cluster, {address}, is gone" in told
    assert "of 4 trials ok" in told
    assert "next: the same command again" in told
    wait_for(lambda: not any(locked(run, r) for r in records(run.results).values()))
    before = run.lines()
    time.sleep(2)
    assert run.lines() == before, "nothing works on"


def locked(run: Run, record: TrialResult) -> bool:
    from filelock import FileLock, Timeout

    try:
        with FileLock(Store(run.results).folder(record.spec, record.trial_id) / ".lock", timeout=0):
            return False
    except Timeout:
        return True


def can_hide() -> bool:
    try:
        return subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.skipif(not can_hide(), reason="needs the right to make a mount namespace")
def test_a_node_that_lacks_what_trials_need_is_named_before_any_work(
    world: Path, tmp_path: Path, cluster: Cluster, start: Callable[[str], Run]
) -> None:
    """One node sees another folder in place of the results, one in place of the images."""
    (tmp_path / "results").mkdir()
    cluster.say("add", "head", 0)
    cluster.say("hide", "blind", 1, tmp_path / "results")
    address = cluster.say("hide", "bare", 1, world / "pictures")
    run = start(address)
    code, told = run.finish()
    assert code == 3, told
    problems = [line for line in told.splitlines() if line.startswith("error: node ")]
    assert len(problems) == 2, told
    assert (
        sum(f"does not see the results folder {run.results}" in line and "--results" in line for line in problems) == 1
    )
    assert sum("lacks data: folder:pictures" in line and "--data-dir" in line for line in problems) == 1
    assert not run.nodes()
    assert not list(run.results.glob("trials/*/*/*/*"))
    assert not list(run.results.glob(".cluster-*"))


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.skipif(not can_hide(), reason="needs the right to make a mount namespace")
def test_a_late_node_that_does_not_see_the_results_loses_nothing(
    world: Path, tmp_path: Path, cluster: Cluster, start: Callable[[str], Run]
) -> None:
    """The first node sees no plug-in, and needs none: it is sent."""
    (tmp_path / "results").mkdir()
    cluster.say("add", "head", 0)
    address = cluster.say("hide", "first", 1, world / "lab")
    run = start(address)
    wait_for(lambda: run.lines())
    cluster.say("hide", "blind", 1, tmp_path / "results")
    code, told = run.finish()
    assert code == 0, told
    assert run.nodes() == {"first"}
    assert_whole(run)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize(
    "where", ["here", pytest.param("cluster", marks=pytest.mark.skipif(not can_hide(), reason="needs a namespace"))]
)
def test_trials_on_two_processes_stop_and_go_on(world: Path, tmp_path: Path, where: str) -> None:
    """On a Ray of its own; and on a node with just enough CPUs, which sees no plug-in: it is sent."""
    more = ["--gpus-per-trial", "2", "--no-baseline", "--cpus", "2"]
    arguments = command(world, tmp_path / "results", *more, seeds="0")
    cluster = Cluster(tmp_path)
    try:
        if where == "cluster":
            cluster.say("add", "head", 0)
            arguments += ["--address", cluster.say("hide", "only", 2, world / "lab")]
        run = Run(world, tmp_path, arguments)
        process = run.start()
        wait_for(run.in_the_middle)
        process.send_signal(signal.SIGINT)
        code, told = run.finish()
        assert code == 130, told
        (record,) = records(run.results).values()
        assert record.status == "interrupted", told
        assert "not run" not in told
        assert "the same command again" in told
        assert not [path for path in run.results.iterdir() if path.name.startswith((".train", ".cluster"))]
        run.start()
        code, told = run.finish()
        assert code == 0, told
        (record,) = records(run.results).values()
        assert (record.status, len(record.resumes)) == ("ok", 1)
        assert 0 < record.resumes[0] < EPOCHS
    finally:
        cluster.close()
