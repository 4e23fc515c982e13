"""Kills at many moments: whatever is lost, the result is not, and it is the same to the last bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from sdbench.spec import TrialResult
from sdbench.store import Store

EPOCHS = 8
METHODS = "pskd,byot"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory, make_pictures: Callable[..., Path]) -> Path:
    """A folder data set of small noisy images whose class is their mean colour."""
    return make_pictures(tmp_path_factory.mktemp("data") / "pictures", 40, 10)


def command(pictures: Path, results: Path, *more: str) -> list[str]:
    return [
        sys.executable, "-m", "sdbench", "run", "--methods", METHODS, "--dataset", f"folder:{pictures}",
        "--model", "resnet8", "--epochs", str(EPOCHS), "--seeds", "0", "--batch-size", "16", "--protocol", "fixed",
        "--precision", "fp32", "--image-size", "16", "--results", str(results), "--engine", "local", *more,
    ]  # fmt: skip


def run(arguments: list[str], timeout: float = 240) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, capture_output=True, text=True, timeout=timeout, check=False)


def records(results: Path) -> dict[str, TrialResult]:
    return {r.spec.method: r for r in Store(results).scan().results}


def bits(results: Path) -> dict[str, Any]:
    """All that must be equal to the last bit: metrics, the weights' hash, the losses of every epoch."""
    found = {}
    for method, record in records(results).items():
        folder = Store(results).folder(record.spec, record.trial_id)
        lines = [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]
        losses = [(line["epoch"], line["loss"], line["terms"]) for line in lines]
        found[method] = (record.status, record.metrics, record.checksums["network.safetensors"], losses, record.pairing)
    return found


@pytest.fixture(scope="module")
def undisturbed(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("undisturbed")
    done = run(command(pictures, results))
    assert done.returncode == 0, done.stderr
    return results


def wait_for(condition: Any, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.01)


def lines_of(results: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in results.glob("trials/*/*/*/*/curve.jsonl"))


@pytest.fixture
def started(pictures: Path, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command(pictures, tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize("lines", [1, 5, 11])
def test_kill_of_the_command(
    pictures: Path, tmp_path: Path, undisturbed: Path, started: subprocess.Popen[bytes], lines: int
) -> None:
    wait_for(lambda: lines_of(tmp_path) >= lines)
    started.send_signal(signal.SIGKILL)
    started.wait()
    finished = {m for m, r in records(tmp_path).items() if r.status == "ok"}
    times = {m: r.provenance.finished for m, r in records(tmp_path).items() if m in finished}
    assert len(finished) < 3

    again = run(command(pictures, tmp_path))
    assert again.returncode == 0, again.stderr
    assert bits(tmp_path) == bits(undisturbed)
    after = records(tmp_path)
    assert {m: after[m].provenance.finished for m in finished} == times, "a finished trial was run again"
    assert any(after[m].resumes for m in after if m not in finished)
    assert all(0 < e <= EPOCHS for r in after.values() for e in r.resumes)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_command_in_good_order(
    pictures: Path, tmp_path: Path, undisturbed: Path, started: subprocess.Popen[bytes], number: signal.Signals
) -> None:
    wait_for(lambda: lines_of(tmp_path) >= 2)
    started.send_signal(number)
    assert started.wait(timeout=40) == 128 + number
    assert not [p for p in psutil.process_iter(["cmdline"]) if str(tmp_path) in " ".join(p.info["cmdline"] or ())]
    statuses = {r.status for r in records(tmp_path).values()}
    assert statuses <= {"ok", "interrupted"}
    assert "interrupted" in statuses
    again = run(command(pictures, tmp_path))
    assert again.returncode == 0, again.stderr
    assert bits(tmp_path) == bits(undisturbed)


def test_kill_of_a_trial_is_survived(
    pictures: Path, tmp_path: Path, undisturbed: Path, started: subprocess.Popen[bytes]
) -> None:
    """The process of one trial dies; the supervisor starts it again and nothing else notices."""
    wait_for(lambda: lines_of(tmp_path) >= 3)
    children = psutil.Process(started.pid).children(recursive=True)
    workers = [p for p in children if "sdbench.engine.worker" in p.cmdline()]
    assert workers
    workers[0].kill()
    assert started.wait(timeout=200) == 0
    assert bits(tmp_path) == bits(undisturbed)


def test_all_methods_of_a_seed_are_paired(undisturbed: Path) -> None:
    """Same initial weights and same first batch, whatever else a method asks for."""
    found = records(undisturbed)
    assert set(found) == {"ce", "pskd", "byot"}
    assert len({r.pairing for r in found.values()}) == 1


def test_the_same_command_again_does_nothing_and_prints_the_same(pictures: Path, undisturbed: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in undisturbed.glob("trials/**/*")}
    first, second = run(command(pictures, undisturbed)), run(command(pictures, undisturbed))
    assert first.returncode == second.returncode == 0
    assert first.stdout == second.stdout
    assert "pskd" in first.stdout
    assert {path: path.stat().st_mtime_ns for path in undisturbed.glob("trials/**/*")} == before


def test_two_commands_at_once_do_nothing_twice(pictures: Path, tmp_path: Path, undisturbed: Path) -> None:
    both = [
        subprocess.Popen(command(pictures, tmp_path), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=240)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert outputs[0] == outputs[1]
    assert bits(tmp_path) == bits(undisturbed)
    assert all(not r.resumes for r in records(tmp_path).values())
    assert not list(tmp_path.glob("trials/**/*.damaged-*"))


def test_a_damaged_newest_checkpoint_falls_back_to_the_older(
    pictures: Path, tmp_path: Path, undisturbed: Path, started: subprocess.Popen[bytes]
) -> None:
    wait_for(lambda: all(len(list(f.glob("*.pt"))) == 2 for f in _checkpoints(tmp_path)) and _checkpoints(tmp_path))
    started.send_signal(signal.SIGKILL)
    started.wait()
    wait_for(lambda: not _workers(tmp_path))
    for folder in _checkpoints(tmp_path):
        newest = max(folder.glob("epoch-*.pt"))
        with newest.open("rb+") as file:
            file.truncate(newest.stat().st_size // 2)
    again = run(command(pictures, tmp_path))
    assert again.returncode == 0, again.stderr
    assert bits(tmp_path) == bits(undisturbed)


def _checkpoints(results: Path) -> list[Path]:
    return list(results.glob("trials/*/*/*/*/checkpoint"))


def _workers(results: Path) -> list[psutil.Process]:
    """Trial processes that still hold a file of this store open."""
    found = []
    for process in psutil.process_iter():
        try:
            if "sdbench.engine.worker" in process.cmdline() and process.ppid() in (1, os.getpid()):
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.mark.ray
def test_ray_and_local_give_equal_results(pictures: Path, tmp_path: Path, undisturbed: Path) -> None:
    arguments = command(pictures, tmp_path)
    arguments[arguments.index("local")] = "ray"
    done = run(arguments)
    assert done.returncode == 0, done.stderr
    assert bits(tmp_path) == bits(undisturbed)
    own = ("folder:pictures", "3 of 3 trials", "leaderboard:", "next:")
    assert all(line.startswith(own) for line in done.stderr.splitlines()), "Ray's own messages stay out"
