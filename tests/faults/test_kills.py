"""kill -9 at any moment, of anything: the same command again ends with the same bits."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import psutil
import pytest

from sdbench.housekeeping_looks import leftovers
from sdbench.spec import TrialResult
from sdbench.store import Store

EPOCHS = 5
MOMENTS = 20
TARGETS = ("command", "trial", "group", "all")


def kill(process: Any, world: Any, target: str) -> None:
    """command: its process alone. trial: the trial's, which the command starts again. group: the command's whole
    process group. all: every process at once, as when a machine goes down."""
    if target == "trial":
        for worker in world.workers():
            worker.kill()
        return
    if target == "all":
        for one in world.processes():
            try:
                one.kill()
            except psutil.Error:
                continue
    os.killpg(process.pid, signal.SIGKILL) if target != "command" else process.kill()
    process.communicate()


def check_honesty(world: Any, record: TrialResult) -> None:
    """Against the journal that the method itself kept: only the epoch in flight was trained twice, and the record
    names every epoch at which a later process went on."""
    entries = world.journal_lines()
    starts = [b["epoch"] for a, b in pairwise(entries) if a["pid"] != b["pid"]]
    for before, after in pairwise(entries):
        if before["pid"] == after["pid"]:
            assert after["epoch"] == before["epoch"] + 1
        else:
            assert after["epoch"] in (before["epoch"], before["epoch"] + 1), entries
    wanted = [epoch for epoch in starts if epoch > 0]
    assert [e for e in record.resumes if e in wanted or e == EPOCHS] == list(record.resumes), (starts, record.resumes)
    left = list(record.resumes)
    for epoch in wanted:
        assert epoch in left, (starts, record.resumes)
        left.remove(epoch)


def check_clocks(world: Any, record: TrialResult) -> None:
    """train_s is the sum over all epochs that count, whichever process trained them."""
    folder = Store(world.results).folder(record.spec, record.trial_id)
    lines = [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]
    assert record.cost is not None
    assert record.cost.train_s == pytest.approx(sum(48 / line["images_per_s"] for line in lines), rel=0.01)
    assert record.cost.labelled_images == 48 * EPOCHS


@pytest.mark.parametrize(
    ("moment", "target"),
    [
        pytest.param(m, TARGETS[m % 4], id=f"{m}-{TARGETS[m % 4]}", marks=[] if m in (5, 10) else pytest.mark.slow)
        for m in range(MOMENTS)
    ],
)
def test_kill_at_a_random_moment(
    world: Any, undisturbed: Any, faults: Any, counted: Callable[..., None], moment: int, target: str
) -> None:
    """Moments in twentieths of the run, by the files that exist for the first half and by the journal and the record
    after it, each with a random delay: the load of the machine does not decide where a kill falls."""
    counted(f"kill -9 of the {target} at a random moment")
    delay = random.Random(moment).uniform(0, 0.3)
    process = world.start()
    try:
        if moment < 3:  # planning
            time.sleep(delay * 10 * moment)
        elif moment < 6:  # start of the trial
            faults.reach(process, lambda: list(world.results.glob("trials/*/*/*/*/started.json")))
        elif moment < 17:  # training, two moments an epoch and more
            wanted = (moment - 6) // 2
            faults.reach(process, lambda: len(world.journal_lines()) > wanted)
        elif moment < 19:  # the record
            faults.reach(process, lambda: list(world.results.glob("trials/*/*/*/*/trial.json")))
            delay /= 30
        else:  # the boards
            faults.reach(process, lambda: list(world.results.glob("leaderboard.*")))
            delay = 0
        time.sleep(delay)
        kill(process, world, target)
        if target == "trial":
            _, err = process.communicate(timeout=900)
            assert process.returncode == 0, err
    finally:
        faults.end(process, world) if target in ("all", "trial") else process.kill()
    world.assert_no_orphan()
    again = world.run()
    assert again.returncode == 0, again.stderr
    assert faults.bits(world.results) == faults.bits(undisturbed.results)
    check_honesty(world, world.one())
    check_clocks(world, world.one())
    world.assert_no_orphan()
    assert [p for p in leftovers(world.results) if ".probe" not in p.name] == []


@pytest.mark.slow
def test_ten_kills_of_one_run(world: Any, undisturbed: Any, faults: Any, counted: Callable[..., None]) -> None:
    """Every process gets one epoch further at most, and two get nowhere."""
    counted("kill -9 of the command, again and again", 10)
    for number in range(10):
        before = len(world.journal_lines())
        process = world.start()
        try:
            faults.reach(process, lambda b=before: len(world.journal_lines()) > b)
            time.sleep(0.0 if number % 3 else 0.12)
            kill(process, world, "all")
        finally:
            process.kill()
        world.assert_no_orphan()
        if any(r.status == "ok" for r in world.records().values()):
            break
    assert world.run().returncode == 0
    assert faults.bits(world.results) == faults.bits(undisturbed.results)
    check_honesty(world, world.one())
    check_clocks(world, world.one())


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("target", ["command", "trial", "group"])
def test_kills_under_ray(world: Any, undisturbed: Any, faults: Any, counted: Callable[..., None], target: str) -> None:
    counted(f"kill -9 of the {target} under Ray")
    process = world.start("--engine", "ray")
    try:
        faults.reach(process, lambda: len(world.journal_lines()) > 2)
        kill(process, world, target)
        if target == "trial":
            _, err = process.communicate(timeout=900)
            assert process.returncode == 0, err
    finally:
        process.kill()
    faults.wait_for(lambda: not world.workers())
    again = world.run()
    assert again.returncode == 0, again.stderr
    assert faults.bits(world.results) == faults.bits(undisturbed.results)
    check_honesty(world, world.one())
    world.assert_no_orphan(300)


@pytest.mark.slow
def test_a_kill_while_a_trial_is_run_again_loses_nothing(
    world: Any, undisturbed: Any, faults: Any, counted: Callable[..., None]
) -> None:
    """--rerun all: the old record stands until the new one is whole; what was begun again is ended by the next run."""
    counted("kill -9 while a finished trial is run again", 2)
    assert world.run().returncode == 0
    old = world.one()
    for wanted in (1, 3):
        before = len(world.journal_lines())
        process = world.start("--rerun", "all")
        try:
            faults.reach(process, lambda n=before + wanted: len(world.journal_lines()) >= n)
            kill(process, world, "all")
        finally:
            process.kill()
        world.assert_no_orphan()
        assert world.one().metrics == old.metrics
        assert world.one().provenance == old.provenance
    again = world.run()  # without --rerun
    assert again.returncode == 0, again.stderr
    assert faults.bits(world.results) == faults.bits(undisturbed.results)
    assert Store(world.results).scan().damaged == ()
