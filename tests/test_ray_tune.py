"""Tune as the engine uses it: workers that die, actors that are kept. Each in a process of its own, as a command is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import os, sys
from pathlib import Path
from threading import Event

sys.path.insert(0, {benchmarks!r})
from scheduler import make_jobs
from sdbench.engine import Resources, ray_tune

folder = Path(sys.argv[1])


def work(job, stop, environ=None):
    name = str(job.trial.spec.seed)
    with (folder / name).open("a") as file:
        file.write(f"{{os.getpid()}}\\n")
    deaths = {{"1": 3, "2": 100}}.get(name, 0)
    if len((folder / name).read_text().split()) <= deaths:
        os._exit(1)
    return "ok"


ray_tune.NODE_FAILURES = 1
ray_tune.run(make_jobs(6, folder), Resources(cpus=1, gpus=0), Event(), work=work)
print("the engine returns")
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], dict[str, list[str]]]:
    """What the command said, and the numbers of the workers' processes by job: job 1 takes its worker down three
    times, job 2 always, with one loss allowed and three rounds."""
    folder = tmp_path_factory.mktemp("marks")
    script = SCRIPT.format(benchmarks=str(Path(__file__).resolve().parent.parent / "benchmarks"))
    command = [sys.executable, "-c", script, str(folder)]
    told = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    return told, {path.name: path.read_text().split() for path in folder.iterdir()}


@pytest.mark.ray
@pytest.mark.slow
def test_a_job_whose_worker_dies_is_done_by_another_worker(
    done: tuple[subprocess.CompletedProcess[str], dict[str, list[str]]],
) -> None:
    told, workers = done
    assert told.returncode == 0, told.stderr
    assert told.stdout == "the engine returns\n"
    assert len(workers["1"]) == 4, "given up after two losses, it is handed out again"
    assert len(set(workers["1"])) == 4
    assert len(workers["2"]) == 6, "two in each round"
    assert [len(workers[name]) for name in "0345"] == [1, 1, 1, 1], "nobody else's work is repeated"


@pytest.mark.ray
@pytest.mark.slow
def test_it_says_what_it_gave_up(done: tuple[subprocess.CompletedProcess[str], dict[str, list[str]]]) -> None:
    told, _ = done
    assert "note: 1 trial(s) given up, since their workers died again and again: " in told.stderr
    assert len(told.stderr.splitlines()) == 1


@pytest.mark.ray
@pytest.mark.slow
def test_workers_serve_many_trials(done: tuple[subprocess.CompletedProcess[str], dict[str, list[str]]]) -> None:
    """Every death costs a worker; whatever goes well does not."""
    _, workers = done
    assert len({number for numbers in workers.values() for number in numbers}) < sum(map(len, workers.values()))
