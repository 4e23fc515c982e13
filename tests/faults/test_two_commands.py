"""Two commands on one results folder: nothing is trained twice, nothing is lost, nobody waits for the dead."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sdbench.engine import supervise
from sdbench.engine.job import Job
from sdbench.spec import Identity, Options, Recipe, Trial, TrialSpec
from sdbench.store import Store

EPOCHS = 5


def trained(world: Any) -> Counter[tuple[float, int]]:
    """How often each epoch of each variant was begun, by the method's own journal."""
    return Counter((line["weight"], line["epoch"]) for line in world.journal_lines())


@pytest.mark.slow
@pytest.mark.parametrize("other", ["fault_journal", "fault_journal[weight=0.2],fault_journal"])
def test_two_commands_train_nothing_twice(
    world: Any, undisturbed: Any, faults: Any, counted: Callable[..., None], other: str
) -> None:
    """The same trials, and overlapping ones."""
    counted("two commands at once")
    both = [world.start(), world.start(methods=other)]
    try:
        ends = [process.communicate(timeout=1800) for process in both]
        assert [process.returncode for process in both] == [0, 0], ends
    finally:
        for process in both:
            faults.end(process, world)
    assert set(trained(world).values()) == {1}
    assert len(trained(world)) == EPOCHS * len(other.split(","))
    (ours,) = undisturbed.records()
    assert faults.bits(world.results)[ours] == faults.bits(undisturbed.results)[ours]
    assert Store(world.results).scan().damaged == ()
    board = (world.results / "leaderboard.csv").read_text()
    assert board.count("fault_journal") >= len(other.split(",")), "the last to write has seen all records"


@pytest.mark.slow
def test_one_of_two_is_killed(world: Any, undisturbed: Any, faults: Any, counted: Callable[..., None]) -> None:
    """The other one takes the trial over and loses the epoch in flight at most."""
    counted("two commands at once, one killed")
    first = world.start()
    second = None
    try:
        faults.reach(first, lambda: len(world.journal_lines()) >= 2)
        second = world.start()
        faults.reach(second, lambda: len(world.workers()) == 2)
        first.kill()
        first.communicate()
        _, err = second.communicate(timeout=1800)
        assert second.returncode == 0, err
    finally:
        faults.end(first, world)
        if second is not None:
            faults.end(second, world)
    assert faults.bits(world.results) == faults.bits(undisturbed.results)
    counts = trained(world)
    assert sum(counts.values()) <= EPOCHS + 1
    assert len(counts) == EPOCHS


@pytest.mark.slow
def test_two_commands_that_run_all_again(world: Any, faults: Any, counted: Callable[..., None]) -> None:
    """--rerun all by both: once more, not twice."""
    counted("two commands with --rerun all")
    assert world.run().returncode == 0
    both = [world.start("--rerun", "all") for _ in range(2)]
    try:
        for process in both:
            _, err = process.communicate(timeout=1800)
            assert process.returncode == 0, err
    finally:
        for process in both:
            faults.end(process, world)
    assert set(trained(world).values()) <= {2, 3}, "3 where the second was planned after the first had finished"
    assert world.one().status == "ok"


def make_job(root: Path, **changes: Any) -> Job:
    spec = TrialSpec(method="toy", dataset="d", network="n", recipe=Recipe(epochs=1), protocol="p", seed=0)
    trial = Trial(spec=spec, identity=Identity(method_source="", data_fingerprint="", protocol_version=""))
    return Job(trial=trial, options=Options(max_failures=0), store=str(root), **changes)


HOLDER = """
import os, sys, time
from pathlib import Path
from sdbench.store import Store
folder = Path(sys.argv[2])
lock = Store(Path(sys.argv[1])).lock(folder)
lock.acquire()
if sys.argv[3] == "fork" and os.fork() == 0:
    time.sleep(600)
print("held", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("kind", ["plain", "fork"])
def test_the_lock_of_a_dead_process_is_free(tmp_path: Path, counted: Callable[..., None], kind: str) -> None:
    """Killed while it held it, and also where a process that it forked lives on."""
    counted("stale lock of a dead process")
    store, job = Store(tmp_path), make_job(tmp_path)
    folder = store.folder(job.trial.spec, job.trial.id)
    words = [sys.executable, "-c", HOLDER, str(tmp_path), str(folder), kind]
    holder = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(TimeoutError), store.lock(folder, timeout=0.2):
            pass
        holder.kill()
        holder.wait()
        with store.lock(folder, timeout=60):
            pass
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(holder.pid, 9)
        holder.communicate()


@pytest.mark.parametrize("content", [b"", b"1\n", b"4194303\nhost\n2020-01-01", bytes(range(256))])
def test_a_lock_file_of_another_boot_is_free(tmp_path: Path, counted: Callable[..., None], content: bytes) -> None:
    """What is written in the file, and its date, mean nothing: a lock dies with its process."""
    counted("lock file left by another boot")
    folder = tmp_path / "trials" / "d" / "n" / "m" / "id"
    folder.mkdir(parents=True)
    (folder / ".lock").write_bytes(content)
    os.utime(folder / ".lock", (2**31, 2**31))
    with Store(tmp_path).lock(folder, timeout=60):
        pass


def test_a_death_does_not_overwrite_what_another_command_finished(
    write_trial: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counted: Callable[..., None]
) -> None:
    """Our process died; before that is recorded, another command's writes a sound record."""
    counted("a death beside another command's result")
    write_trial(tmp_path / "theirs")
    (theirs,) = Store(tmp_path / "theirs").scan().results
    trial = Trial(spec=theirs.spec, identity=theirs.identity)
    job = Job(trial=trial, options=Options(max_failures=0), store=str(tmp_path / "ours"))
    store = Store(tmp_path / "ours")

    class Died:
        code, timed_out, log, said = -9, False, "", staticmethod(lambda what: "")

    def attempt(*arguments: object) -> Died:
        lock = store.lock(store.folder(trial.spec, trial.id))
        lock.acquire()

        def finish() -> None:
            time.sleep(0.5)
            store.write(theirs)
            lock.release()

        threading.Thread(target=finish).start()
        return Died()

    monkeypatch.setattr(supervise, "attempted", attempt)
    assert supervise.supervise(job, threading.Event()) == "ok"
    assert [r.status for r in store.scan().results] == ["ok"]


def test_a_process_that_dies_after_an_interruption_is_a_failure(
    write_trial: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counted: Callable[..., None]
) -> None:
    """The older record, of the interruption, is not taken for its own; it is started again as often as asked."""
    counted("a death after an interruption")
    write_trial(tmp_path, status="interrupted", metrics=None)
    (broken_off,) = Store(tmp_path).scan().results
    trial = Trial(spec=broken_off.spec, identity=broken_off.identity)
    started = []

    class Died:
        code, timed_out, log, said = -9, False, "its last words", staticmethod(lambda what: "")

    monkeypatch.setattr(supervise, "attempted", lambda *_: started.append(1) or Died())
    job = Job(trial=trial, options=Options(max_failures=2), store=str(tmp_path))
    assert supervise.supervise(job, threading.Event()) == "failed"
    assert len(started) == 3
    (record,) = Store(tmp_path).scan().results
    assert "SIGKILL" in record.reason
    assert record.log_tail == "its last words"
