"""A disk that fills at any moment: a clean error before training or a row that says so; with room, the same command
completes to the same bits."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sdbench import boards
from sdbench.boards import Filter
from sdbench.commands import carry_out
from sdbench.engine import Resources, local
from sdbench.engine.job import Job
from sdbench.engine.worker import work
from sdbench.errors import EnvironmentProblem
from sdbench.housekeeping_looks import leftovers
from sdbench.plan import make_plan
from sdbench.request import Request
from sdbench.run import Outcome, summary
from sdbench.spec import Trial
from sdbench.store import Store, read_result

MIB = 2**20
UNWRITTEN = 74


def fill(disk: Path, leave: int) -> Path:
    """Leave so many bytes free, to the page."""
    filler = disk / "filler"
    free = shutil.disk_usage(disk).free
    with filler.open("wb") as file:
        for _ in range(max(0, (free - leave) // 4096)):
            file.write(b"x" * 4096)
    return filler


def in_child(act: Callable[[], int]) -> int:
    """The exit code of ``act`` in a forked process: the full disk is not this one's affair."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        code = 99
        try:
            code = act()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def plan_of(world: Any, results: Path, **given: Any) -> Any:
    flags = {**world.flags(methods=["pskd"], seeds=["0"], epochs="2", baseline="false"), "results": str(results)}
    return make_plan(Request.gather({**flags, **given}, None, {}))


def train(trial: Trial, plan: Any) -> int:
    """What a trial's process does, and how it ends: 0, or the code for a record that cannot be written."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        work(Job(trial=trial, options=plan.options, store=plan.results), nowhere, threading.Event())
    except OSError:
        return UNWRITTEN
    return 0


@pytest.fixture(scope="module")
def reference(small_world: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    plan = plan_of(small_world, tmp_path_factory.mktemp("roomy"))
    assert in_child(lambda: train(plan.trials[0], plan)) == 0
    return read_result(Store(Path(plan.results)).folder(plan.trials[0].spec, plan.trials[0].id) / "trial.json")


KIB = [0, 4, 8, 12, 20, 60, 200, 400, 700, 1000, 1100, 1400, 1800, 2400]


@pytest.mark.parametrize("kib", KIB)
def test_a_disk_that_fills_while_a_trial_trains(
    small_world: Any, reference: Any, disk: Callable[[str], Any], counted: Callable[..., None], kib: int
) -> None:
    """In its first file, its checkpoints, curve, weights, logits, or its record."""
    counted("disk full while a trial trains")
    with disk("16m") as folder:
        plan = plan_of(small_world, folder / "results")
        (trial,) = plan.trials
        store = Store(Path(plan.results))
        filler = fill(folder, kib * 1024)
        code = in_child(lambda: train(trial, plan))
        scan = store.scan()
        assert scan.damaged == ()
        path = store.folder(trial.spec, trial.id) / "trial.json"
        if code == 0:
            (record,) = scan.results
            assert record.status in ("ok", "failed")
            if record.status == "failed":
                assert "No space left" in record.reason
                assert record.resumable
                assert store.result(trial) is None, "the same command takes it up again"
        else:
            assert code == UNWRITTEN
            assert not path.exists()
        filler.unlink()
        assert in_child(lambda: train(trial, plan)) == 0
        after = read_result(path)
        assert after.status == "ok"
        assert (after.metrics, after.pairing) == (reference.metrics, reference.pairing)
        assert after.checksums["network.safetensors"] == reference.checksums["network.safetensors"]
        assert leftovers(store.root) == []


def test_a_full_disk_is_named_before_training(
    small_world: Any, disk: Callable[[str], Any], counted: Callable[..., None]
) -> None:
    counted("disk full when a run is planned")
    with disk("2m") as folder:
        fill(folder, 0)
        with pytest.raises(EnvironmentProblem, match="No space left"):
            plan_of(small_world, folder / "results")


def test_boards_and_the_supervisor_on_a_full_disk(
    small_world: Any,
    write_trial: Callable[..., Path],
    disk: Callable[[str], Any],
    counted: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Where no record can be written the trial counts as not run, with the reason; boards are printed all the same."""
    counted("disk full at boards and records", 3)
    with disk("4m") as folder:
        root = folder / "results"
        write_trial(root)
        plan = plan_of(small_world, root)
        jobs = [Job(trial=t, options=plan.options, store=plan.results) for t in plan.trials]
        filler = fill(folder, 0)
        text, code = boards.leaderboard(str(root), "text", Filter())
        assert "ce" in text
        assert code == 0
        assert "boards not written: No space left" in capsys.readouterr().err

        monkeypatch.setattr("sdbench.engine.supervise.attempted", lambda *_: _Died())
        local.run(jobs, Resources(cpus=1), threading.Event())
        assert "no record: No space left" in capsys.readouterr().err

        outcome, written = carry_out(plan, quiet=True)
        assert written is None
        assert outcome.exit_code == 1
        assert outcome.missing == list(plan.trials)
        assert any("No space left" in line for line in summary(plan, outcome, written))
        assert Outcome(problem="boards not written").exit_code == 3
        filler.unlink()
        local.run(jobs, Resources(cpus=1), threading.Event())
        assert sorted(r.status for r in Store(root).scan().results) == ["failed", "ok"]


class _Died:
    """An attempt whose process was killed."""

    code, timed_out, log = -9, False, "log"

    def said(self, what: str) -> str:
        return ""


def test_a_read_only_results_folder(
    small_world: Any,
    write_trial: Callable[..., Path],
    disk: Callable[[str], Any],
    counted: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Boards are read from it; a run is refused before it trains."""
    counted("read-only results folder", 2)
    with disk("4m") as folder:
        root = folder / "results"
        write_trial(root)
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        text, code = boards.leaderboard(str(root), "md", Filter())
        assert "ce" in text
        assert code == 0
        assert "Read-only" in capsys.readouterr().err
        with pytest.raises(EnvironmentProblem, match="Read-only"):
            plan_of(small_world, root)


@pytest.mark.slow
@pytest.mark.parametrize("mib", [0, 1, 2, 3])
def test_the_command_on_a_small_disk(
    world: Any, undisturbed: Any, disk: Callable[[str], Any], faults: Any, counted: Callable[..., None], mib: int
) -> None:
    """From start to end: no traceback, an exit code that says so, and with room the same command completes."""
    counted("the whole command on a disk too small")
    with disk("24m") as folder:
        world.results = folder / "results"
        filler = fill(folder, mib * MIB // 2)
        done = world.run()
        assert "Traceback" not in done.stderr
        assert done.returncode in ((3,) if mib == 0 else (0, 1, 3)), done.stderr
        if done.returncode:
            assert "No space left" in done.stderr + done.stdout
        filler.unlink()
        again = world.run()
        assert again.returncode == 0, again.stderr
        assert faults.bits(world.results) == faults.bits(undisturbed.results)
