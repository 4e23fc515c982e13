"""Trials that are run again: a finished record is replaced by a finished one, whole, or by none."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sdbench.run
from sdbench import registry
from sdbench.engine import worker
from sdbench.engine.job import Job
from sdbench.plan import Plan, make_plan
from sdbench.request import Request
from sdbench.run import execute, summary, to_do
from sdbench.spec import Trial, TrialResult
from sdbench.store import Store, read_result, sha256

PLUGIN = Path(__file__).parent / "plugins" / "again.py"

FAULTS = {
    "kill": ("failed", "SIGKILL"),
    "memory": ("oom", "another process took it"),
    "nan": ("nan", "not finite"),
    "input": ("failed", "Input/output error"),
    "exit:74": ("failed", "exit code 74"),
    "exit:75": ("failed", "exit code 75"),
    "hang": ("timeout", "--timeout 20 s"),
}
SLOW = ("nan", "input", "exit:74", "exit:75", "hang")


@pytest.fixture
def world_of(small_world: Any, own_registry: None) -> Callable[..., Plan]:
    """``world_of(results, rerun="all")``: a plan of one trial of three epochs, which keeps the logits of each."""
    registry.load_plugin(str(PLUGIN))

    def plan(results: Path, **given: Any) -> Plan:
        flags = {"methods": ["fault_again"], "seeds": ["0"], "epochs": "3", "baseline": "false", "cpus": "1"}
        flags |= {"plugin": [str(PLUGIN)], "keep_logits": "every:1", "max_failures": "0", "results": str(results)}
        return make_plan(Request.gather(small_world.flags(**{**flags, **given}), None, {}))

    return plan


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the trial once trained lies, for all tests of this file."""
    return tmp_path_factory.mktemp("finished") / "results"


@pytest.fixture
def trained(world_of: Callable[..., Plan], finished: Path, tmp_path: Path) -> Path:
    """A results folder of a trial that is finished."""
    if not finished.exists():
        assert execute(world_of(finished), quiet=True).exit_code == 0
    shutil.copytree(finished, tmp_path / "results")
    return tmp_path / "results"


def folder_of(plan: Plan) -> Path:
    (trial,) = plan.trials
    return Store(Path(plan.results)).folder(trial.spec, trial.id)


def sealed(folder: Path) -> dict[str, bytes]:
    """The record and all files that it vouches for."""
    names = ["trial.json", *(n for n in read_result(folder / "trial.json").checksums if n != "trial.json")]
    return {name: (folder / name).read_bytes() for name in names}


def outcome_of(record: TrialResult) -> Any:
    """What must be equal to the last bit."""
    sums = {n: s for n, s in record.checksums.items() if n.endswith(".safetensors")}
    assert len(sums) == 5
    return record.status, record.metrics, sums, record.pairing


@pytest.mark.parametrize("fault", [pytest.param(f, marks=[pytest.mark.slow] * (f in SLOW)) for f in FAULTS])
def test_a_failing_rerun_leaves_the_finished_record(
    world_of: Callable[..., Plan],
    trained: Path,
    monkeypatch: pytest.MonkeyPatch,
    counted: Callable[..., None],
    fault: str,
) -> None:
    """With all its files; the command says so, and another attempt goes on from where this one came to."""
    counted("a finished trial is run again and fails")
    status, reason = FAULTS[fault]
    again = world_of(trained, rerun="all", timeout="20" if fault == "hang" else None)
    folder = folder_of(again)
    before, old = sealed(folder), read_result(folder / "trial.json")
    assert len(before) == 7

    monkeypatch.setenv("FAULT_AGAIN", fault)
    outcome = execute(again, quiet=True)
    assert sealed(folder) == before
    assert outcome.exit_code == 1
    told = "\n".join(summary(again, outcome, None))
    assert f"{status} when run again" in told
    assert reason in told
    assert "--rerun failed" in told
    log = (folder / "log.txt").read_text()
    assert reason in log
    assert "the last thing it said" in log

    monkeypatch.delenv("FAULT_AGAIN")
    plan = world_of(trained)
    assert to_do(plan, Store(trained)) == [], "the record from before stands"
    assert execute(plan, quiet=True).exit_code == 0
    assert sealed(folder) == before
    repaired = execute(world_of(trained, rerun="failed"), quiet=True)
    assert repaired.exit_code == 0
    new = read_result(folder / "trial.json")
    assert new.checksums["trial.json"] != old.checksums["trial.json"]
    assert outcome_of(new) == outcome_of(old)
    assert new.resumes == (() if fault == "nan" else (2,))
    assert not (folder / "again").exists()
    assert not (folder / "checkpoint").exists()
    assert to_do(world_of(trained, rerun="failed"), Store(trained)) == []


@pytest.mark.parametrize(
    "fault", ["memory", *(pytest.param(fault, marks=pytest.mark.slow) for fault in ("exit:74", "exit:75", "nan"))]
)
def test_a_trial_that_failed_goes_on_from_its_checkpoint(
    world_of: Callable[..., Plan],
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    counted: Callable[..., None],
    fault: str,
) -> None:
    """Unless it would diverge again. An exit code is a plug-in's own affair, whatever it means elsewhere."""
    counted("memory or an input fails for once, or a process ends with a code of the harness")
    plan = world_of(tmp_path / "new")
    folder = folder_of(plan)
    monkeypatch.setenv("FAULT_AGAIN", fault)
    assert execute(plan, quiet=True).exit_code == 1
    record = read_result(folder / "trial.json")
    status, reason = FAULTS[fault]
    assert record.status == status
    assert reason in record.reason
    assert record.final
    assert (folder / "checkpoint").exists() == (fault != "nan")
    assert to_do(plan, Store(tmp_path / "new")) == []

    monkeypatch.delenv("FAULT_AGAIN")
    assert execute(world_of(tmp_path / "new", rerun="failed"), quiet=True).exit_code == 0
    new = read_result(folder / "trial.json")
    assert new.resumes == (() if fault == "nan" else (2,))
    assert outcome_of(new) == outcome_of(read_result(folder_of(world_of(trained)) / "trial.json"))
    assert not (folder / "checkpoint").exists()


def test_a_rerun_that_keeps_no_tensors_vouches_for_none(
    world_of: Callable[..., Plan], trained: Path, counted: Callable[..., None]
) -> None:
    """Older ones, which may be damaged, are gone; they are not sealed as if this training had made them."""
    counted("damaged weights before a rerun without weights")
    again = world_of(trained, rerun="all", keep_logits=None, weights="false", logits="false")
    folder = folder_of(again)
    for name in ("network.safetensors", "logits.safetensors", "epoch_logits/epoch-0001.safetensors"):
        data = bytearray((folder / name).read_bytes())
        data[len(data) // 2] ^= 4
        (folder / name).write_bytes(data)
    assert execute(again, quiet=True).exit_code == 0
    record = read_result(folder / "trial.json")
    assert set(record.checksums) == {"trial.json", "curve.jsonl"}
    assert not list(folder.rglob("*.safetensors"))
    assert record.checksums["curve.jsonl"] == sha256(folder / "curve.jsonl")


CHAIN = '''
from sdbench import Method, register


@register("toy_chain")
class Chain(Method):
    """Two generations."""

    generations = 2

    def criterion(self, output, batch, progress):
        return {"ce": output.logits.mean()}
'''


@pytest.mark.parametrize("rerun", ["none", "all"])
def test_what_another_command_finished_meanwhile_is_not_trained_again(
    small_world: Any,
    own_registry: None,
    write_trial: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    counted: Callable[..., None],
    rerun: str,
) -> None:
    """While one command trains the teachers, another one finishes a student: of seed 0."""
    counted("a student that another command finishes while its teacher is trained")
    (tmp_path / "chain.py").write_text(CHAIN)
    root = tmp_path / "results"
    given = {"methods": ["toy_chain"], "seeds": ["0-1"], "plugin": [str(tmp_path / "chain.py")], "baseline": "false"}
    flags = small_world.flags(**given, results=str(root), **({} if rerun == "none" else {"rerun": rerun}))
    plan, store = make_plan(Request.gather(flags, None, {})), Store(root)
    model = read_result(write_trial(tmp_path / "model") / "trial.json")

    def finish(trial: Trial, when: int) -> None:
        folder = store.folder(trial.spec, trial.id)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "network.safetensors").write_bytes(b"weights")
        where = model.provenance.model_copy(update={"finished": f"2026-01-0{when}T00:00:00.000+00:00"})
        own = {"trial_id": trial.id, "spec": trial.spec, "identity": trial.identity, "provenance": where}
        store.write(model.model_copy(update=own))

    if rerun == "all":
        for trial in plan.trials:
            finish(trial, 1)
    trained: list[int] = []
    monkeypatch.setattr(worker, "train", lambda job, stop, anew: trained.append(job.trial.spec.seed))
    nowhere = os.open(os.devnull, os.O_WRONLY)

    def engine(jobs: list[Job], resources: object, stop: threading.Event) -> None:
        for job in jobs:
            if job.trial.spec.teacher is None:
                finish(job.trial, 2)
            else:
                worker.work(job, nowhere, threading.Event())
        for trial in plan.trials:
            if jobs[0].trial.spec.teacher is None and trial.spec.teacher and trial.spec.seed == 0:
                finish(trial, 3)

    monkeypatch.setitem(sdbench.run.ENGINES, "local", engine)
    execute(plan, quiet=True)
    os.close(nowhere)
    assert trained == [1]


def test_a_teacher_that_fails_takes_no_finished_student_with_it(
    small_world: Any,
    own_registry: None,
    write_trial: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    counted: Callable[..., None],
) -> None:
    """A student's record that is there stands; one that is not there says why."""
    counted("a finished student of a teacher that fails")
    (tmp_path / "chain.py").write_text(CHAIN)
    root = tmp_path / "results"
    given = {"methods": ["toy_chain"], "seeds": ["0-1"], "plugin": [str(tmp_path / "chain.py")], "baseline": "false"}
    flags = small_world.flags(**given, results=str(root), rerun="all")
    plan, store = make_plan(Request.gather(flags, None, {})), Store(root)
    model = read_result(write_trial(tmp_path / "model") / "trial.json")

    def put(trial: Trial, status: str) -> None:
        own = {"trial_id": trial.id, "spec": trial.spec, "identity": trial.identity, "status": status}
        store.write(model.model_copy(update=own))

    students = {trial.spec.seed: trial for trial in plan.trials if trial.spec.teacher}
    put(students[0], "ok")
    path = store.folder(students[0].spec, students[0].id) / "trial.json"
    before = path.read_bytes()
    monkeypatch.setitem(sdbench.run.ENGINES, "local", lambda jobs, *_: [put(job.trial, "failed") for job in jobs])
    outcome = execute(plan, quiet=True)
    assert path.read_bytes() == before
    assert outcome.exit_code == 1
    assert [(trial.id, status) for trial, status, _ in outcome.undone] == [(students[0].id, "failed")]
    other = read_result(store.folder(students[1].spec, students[1].id) / "trial.json")
    assert other.status == "failed"
    assert "its teacher" in other.reason
