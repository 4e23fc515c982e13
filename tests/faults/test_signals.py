"""Signals, terminals and pipes that go away."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SDBENCH = [sys.executable, "-m", "sdbench"]


SIGNALS = [
    signal.SIGHUP,
    *(pytest.param(n, marks=pytest.mark.slow) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)),
]

CHATTY = """
import sys, threading, time

def chat():
    while True:
        print("x" * 100, flush=True)
        sys.stderr.write("y\\n")
        time.sleep(0.001)

if "sdbench.engine.worker" in " ".join(sys.orig_argv):
    threading.Thread(target=chat, daemon=True).start()
"""


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_a_run_in_good_order(
    world: Any, undisturbed: Any, faults: Any, counted: Callable[..., None], number: signal.Signals
) -> None:
    counted(f"{number.name} in mid-run")
    process = world.start()
    try:
        faults.reach(process, lambda: len(world.journal_lines()) >= 2)
        process.send_signal(number)
        _, err = process.communicate(timeout=900)
    finally:
        faults.end(process, world)
    assert process.returncode == 128 + number, err
    assert "the same command" in err
    assert world.one().status == "interrupted"
    world.assert_no_orphan()
    assert world.run().returncode == 0
    assert faults.bits(world.results) == faults.bits(undisturbed.results)
    assert len(world.one().resumes) == 1


@pytest.mark.slow
def test_a_hang_up_that_is_ignored_stops_nothing(world: Any, faults: Any, counted: Callable[..., None]) -> None:
    """As under nohup."""
    counted("SIGHUP under nohup")
    process = subprocess.Popen(
        ["nohup", *world.command()], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=world.environment
    )
    try:
        faults.reach(process, lambda: len(world.journal_lines()) >= 2)
        process.send_signal(signal.SIGHUP)
        _, err = process.communicate(timeout=900)
    finally:
        faults.end(process, world)
    assert process.returncode == 0, err
    assert world.one().resumes == ()


@pytest.mark.slow
def test_a_trial_that_prints_when_nobody_listens_is_not_failed(
    world: Any, undisturbed: Any, faults: Any, counted: Callable[..., None]
) -> None:
    """The command is killed; what the trial prints before it has noticed makes it no failure."""
    counted("kill -9 while the trial prints")
    site = world.root / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(CHATTY)
    world.environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH", "")]))
    process = world.start()
    try:
        faults.reach(process, lambda: len(world.journal_lines()) >= 2)
        process.kill()
        process.communicate()
    finally:
        process.kill()
    world.assert_no_orphan()
    assert world.one().status == "interrupted"
    del world.environment["PYTHONPATH"]
    assert world.run().returncode == 0
    assert faults.bits(world.results) == faults.bits(undisturbed.results)


@pytest.fixture
def results(write_trial: Callable[..., Path], tmp_path: Path) -> Path:
    for method in ("ce", "ls", "zipf"):
        for seed in range(20):
            write_trial(tmp_path / "results", method=method, seed=seed)
    return tmp_path / "results"


def shell(line: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", "-c", f"set -o pipefail; {line}"], capture_output=True, text=True, timeout=300)


def test_pipes_that_break(results: Path, counted: Callable[..., None]) -> None:
    """``| head -1`` is no error, and says nothing."""
    counted("broken pipe", 4)
    for words in ("leaderboard", "leaderboard --format html", "list runs", "compare ce ls"):
        done = shell(f"{' '.join(SDBENCH)} {words} --results {results} | true")
        assert done.returncode == 0, (words, done.stderr)
        assert done.stderr == "", words


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams(results: Path, counted: Callable[..., None], closed: str) -> None:
    """What the caller closed is not missed, and no file of ours gets its number."""
    counted(f"standard streams closed ({closed})")
    board = results / "leaderboard.md"
    done = shell(f"{' '.join(SDBENCH)} leaderboard --results {results} {closed}")
    assert done.returncode == 0, done.stderr
    assert board.read_text().count("ls") >= 1


def test_a_full_device_for_the_answer(results: Path, counted: Callable[..., None]) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    counted("disk full where the answer goes")
    done = shell(f"{' '.join(SDBENCH)} leaderboard --results {results} > /dev/full")
    assert done.returncode == 3
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_run_without_streams(world: Any, undisturbed: Any, faults: Any, counted: Callable[..., None]) -> None:
    counted("a run with all streams closed")
    line = " ".join(map(str, world.command()))
    subprocess.run(["bash", "-c", f"{line} <&- >&- 2>&-"], env=world.environment, timeout=1800, check=True)
    assert faults.bits(world.results) == faults.bits(undisturbed.results)
