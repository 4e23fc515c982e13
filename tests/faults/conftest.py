"""Faults are done to real commands, in processes of their own, and counted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from sdbench.spec import TrialResult
from sdbench.store import Store

PLUGINS = Path(__file__).parent / "plugins"
PATIENCE_S = 900
"""For a command that takes ten seconds on an idle machine."""


def tally(fault: str, tried: int, survived: int) -> None:
    """One line of the table of faults, which ``tools/fault_table.py`` prints."""
    if file := os.environ.get("SDBENCH_FAULTS"):
        with Path(file).open("a") as table:
            table.write(json.dumps({"fault": fault, "tried": tried, "survived": survived}) + "\n")


@pytest.fixture
def counted(request: pytest.FixtureRequest) -> Iterator[Callable[[str, int], None]]:
    """``counted("fault", 20)``: so many were tried; all of them were survived where the test passes."""
    told: list[tuple[str, int]] = []
    yield lambda fault, tried=1: told.append((fault, tried))
    passed = getattr(request.node, "passed", False)
    for fault, tried in told:
        tally(fault, tried, tried if passed else 0)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: Any) -> Iterator[None]:
    outcome: Any = yield
    if call.when == "call":
        item.passed = outcome.get_result().passed  # type: ignore[attr-defined]


class World:
    """A small folder data set, and commands on it in sessions of their own; their processes are known by a mark."""

    def __init__(self, pictures: Path, root: Path) -> None:
        self.pictures, self.root = pictures, root
        self.results, self.journal = root / "results", root / "journal.jsonl"
        self.mark = uuid.uuid4().hex
        self.environment = {
            **os.environ, "OMP_NUM_THREADS": "1", "FAULT_JOURNAL": str(self.journal), "FAULT_MARK": self.mark,
        }  # fmt: skip

    def command(self, *more: str, methods: str = "fault_journal", epochs: int = 5) -> list[str]:
        """``sdbench run`` of one method without ce, one seed, float32, unless ``more`` says otherwise."""
        return [
            sys.executable, "-m", "sdbench", "run", "--plugin", str(PLUGINS / "journal.py"), "--methods", methods,
            "--dataset", f"folder:{self.pictures}", "--model", "resnet8", "--epochs", str(epochs), "--seeds", "0",
            "--batch-size", "16", "--protocol", "fixed", "--precision", "fp32", "--image-size", "16", "--no-baseline",
            "--results", str(self.results), "--engine", "local", "--cpus", "2", *more,
        ]  # fmt: skip

    def start(self, *more: str, **given: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*more, **given), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=self.environment, start_new_session=True,
        )  # fmt: skip

    def run(self, *more: str, **given: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*more, **given), capture_output=True, text=True, timeout=PATIENCE_S, check=False,
            env=self.environment,
        )  # fmt: skip

    def processes(self) -> list[psutil.Process]:
        """All living processes that a command of this world started, however they were orphaned."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.status() != psutil.STATUS_ZOMBIE and process.environ().get("FAULT_MARK") == self.mark:
                    found.append(process)
            except (psutil.Error, OSError):
                continue
        return found

    def workers(self) -> list[psutil.Process]:
        found = []
        for process in self.processes():
            try:
                if "sdbench.engine.worker" in process.cmdline():
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def assert_no_orphan(self, seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while left := self.processes():
            assert time.monotonic() < deadline, f"still there: {[p.cmdline() for p in left if p.is_running()]}"
            time.sleep(0.2)

    def records(self) -> dict[str, TrialResult]:
        return {r.trial_id: r for r in Store(self.results).scan().results}

    def one(self) -> TrialResult:
        (record,) = self.records().values()
        return record

    def journal_lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.journal.read_text().splitlines()] if self.journal.exists() else []


def bits(results: Path) -> dict[str, Any]:
    """All that must be equal to the last bit: metrics, the hashes of weights and logits, the losses of every epoch."""
    found = {}
    for record in Store(results).scan().results:
        folder = Store(results).folder(record.spec, record.trial_id)
        lines = [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]
        losses = [(line["epoch"], line["loss"], line["terms"]) for line in lines]
        sums = {name: record.checksums.get(name) for name in ("network.safetensors", "logits.safetensors")}
        found[record.trial_id] = (record.status, record.metrics, sums, losses, record.pairing)
    return found


def wait_for(condition: Callable[[], Any], seconds: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.02)


def reach(process: subprocess.Popen[str], condition: Callable[[], Any]) -> None:
    """Wait for something that a command does, or for its end, where a busy machine let it pass by."""
    wait_for(lambda: condition() or process.poll() is not None)


def end(process: subprocess.Popen[str], world: World) -> None:
    """Nothing of this world outlives its test."""
    process.kill()
    process.communicate()
    for left in world.processes():
        try:
            left.send_signal(signal.SIGKILL)
        except psutil.Error:
            continue


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory, make_pictures: Callable[..., Path]) -> Path:
    """Three classes of noisy images told by their mean colour."""
    return make_pictures(tmp_path_factory.mktemp("faults") / "pictures", 16, 6, classes=3)


@pytest.fixture
def world(pictures: Path, tmp_path: Path) -> Iterator[World]:
    made = World(pictures, tmp_path)
    yield made
    for left in made.processes():
        left.kill()


@pytest.fixture(scope="session")
def undisturbed(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    """The same command, left in peace; not to be written to."""
    made = World(pictures, tmp_path_factory.mktemp("undisturbed"))
    done = made.run()
    assert done.returncode == 0, done.stderr
    assert made.one().resumes == ()
    return made


@pytest.fixture
def faults() -> Any:
    """The helpers of this file, for tests in others."""

    class Helpers:
        bits = staticmethod(bits)
        wait_for = staticmethod(wait_for)
        reach = staticmethod(reach)
        end = staticmethod(end)
        plugins = PLUGINS

    return Helpers


@contextmanager
def tmpfs(folder: Path, size: str) -> Iterator[Path]:
    """A small disk; skips where none can be mounted."""
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True)
    if done.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Callable[[str], Any]:
    """``with disk("8m") as folder``: an empty disk of that size."""
    return lambda size: tmpfs(tmp_path / f"disk{size}", size)
