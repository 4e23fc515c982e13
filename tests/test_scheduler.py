"""The benchmark of the scheduler runs, and sees what is lost or run twice. No speed is asserted."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from threading import Event
from types import ModuleType

import pytest

from sdbench.engine import Job, Resources, Work

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture
def scheduler(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("scheduler")


def clumsy(jobs: list[Job], resources: Resources, stop: Event, work: Work) -> None:
    """An engine that forgets the first job and does the last one twice."""
    for job in [*jobs[1:], jobs[-1]]:
        work(job, stop)


def test_it_sees_what_is_lost_and_what_is_run_twice(scheduler: ModuleType) -> None:
    found = scheduler.measure("clumsy", clumsy, 5, 0.01, Resources(cpus=1), 1)
    assert (found.trials, found.lost, found.twice) == (5, 1, 1)
    assert found.span_s >= 0.05
    assert found.per_hour == pytest.approx(5 / found.span_s * 3600)
    assert found.overhead_ms == pytest.approx((found.span_s / 5 - 0.01) * 1000)


def test_without_ray(scheduler: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "found.json"
    scheduler.main(["--parts", "local", "--trials", "30", "--load-sleep", "0.01", "--json", str(file)])
    (figure,) = json.loads(file.read_text())["figures"]
    assert (figure["engine"], figure["slots"], figure["trials"], figure["lost"], figure["twice"]) == (
        "local",
        2,
        30,
        0,
        0,
    )
    assert "overhead ms" in capsys.readouterr().out


def test_figures_of_one_setting_share_a_line(scheduler: ModuleType) -> None:
    def figure(span_s: float) -> object:
        return scheduler.Figure(
            engine="cluster", nodes=2, slots=2, trials=10, sleep_s=0.5, lost=0, twice=0, start_s=1, span_s=span_s,
            per_hour=36000 / span_s, overhead_ms=0, rss_first_mib=1, rss_last_mib=1, rss_kib_per_trial=0, load=1,
        )  # fmt: skip

    (line,) = scheduler.summary([figure(5.0), figure(10.0)]).splitlines()[2:]
    assert [cell.strip() for cell in line.split("|")][6:12] == ["2", "0", "0", "5400", "3600 to 7200", "38%"]


def test_memory_is_compared_between_quarters(scheduler: ModuleType, tmp_path: Path) -> None:
    sampler = scheduler.Sampler(tmp_path)
    sampler.samples = [(0, 9.0), (1, 10.0), (2, 20.0), (5, 99.0), (7, 30.0), (8, 50.0)]
    assert sampler.quarters(8) == (15.0, 40.0)


@pytest.mark.ray
@pytest.mark.slow
def test_under_ray_and_on_a_cluster(scheduler: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process of its own, as Ray keeps how it authenticates for a process's whole life."""
    import subprocess

    file = tmp_path / "found.json"
    command = [sys.executable, str(FOLDER / "scheduler.py"), "--trials", "12", "--per-node", "3", "--sleep", "0.1"]
    for parts, more in ((["ray"], []), (["throughput"], ["--nodes", "2"])):
        done = subprocess.run(
            [*command, "--json", str(file), *more, "--parts", *parts],
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        (figure,) = json.loads(file.read_text())["figures"]
        assert figure["lost"] == figure["twice"] == 0
        assert figure["trials"] == (12 if parts == ["ray"] else 6)
