"""``--budget``: what counts, when trials stop, and that the same command with a larger one ends at the same results."""

from __future__ import annotations

import errno
import time
from pathlib import Path
from threading import Event
from typing import Any

import pytest

import sdbench.run
from sdbench import api, budget
from sdbench.budget import LEDGERS, Budget, Meter, parse_budget, watched
from sdbench.engine.job import Job
from sdbench.errors import UserError
from sdbench.plan import Plan
from sdbench.spec import Provenance, Trial, TrialResult
from sdbench.store import Store, WriteProblem

COST = {
    "train_s": 3000.0, "process_s": 1.0, "eval_s": 500.0, "setup_s": 100.0, "labelled_images": 1,
    "images_with_gradient": 1, "images_without_gradient": 0, "peak_memory_bytes": 1, "auxiliary_parameters": 0,
    "state_bytes": 0, "timing_valid": True,
}  # fmt: skip
METRICS = {"top1": 0.5, "top5": 1, "nll": 1, "ece": 0.1, "brier": 0.4, "aurc": 0.2, "eaurc": 0.1}


def put(store: Store, trial: Trial, status: str = "ok", name: str = "trial.json", **changes: Any) -> None:
    hours = {"started": "2026-01-01T00:00:00.000+00:00", "finished": "2026-01-01T02:00:00.000+00:00"}
    made = Provenance(versions={}, device="cpu", cpu="c", **hours)
    record = {"trial_id": trial.id, "status": status, "spec": trial.spec, "identity": trial.identity, "cost": COST}
    record |= {"metrics": METRICS if status == "ok" else None, "provenance": made, "baseline": "ce"}
    store.write(TrialResult.model_validate({**record, **changes}), name)


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return api.plan(methods="ls", seeds="0-3", results=tmp_path / "r", engine="local", device="cpu", cpus=1)


@pytest.mark.parametrize("text", ["", "0h", "6 days", "0gpu-h", "-3h", "1e3h", "gpu-h", "4gpu", "1tpu-h"])
def test_what_is_no_budget(text: str) -> None:
    with pytest.raises(UserError, match=r"40gpu-h|above 0"):
        parse_budget(text)


def test_budgets_are_read() -> None:
    assert parse_budget("2cpuh") == Budget(seconds=7200, kind="cpu")
    assert parse_budget("1.5h") == Budget(seconds=5400, kind="wall")
    with pytest.raises(UserError, match="no trial would use a GPU"):
        api.plan(budget="3gpu-h", device="cpu", results="r")


def test_device_hours_are_those_of_the_records(plan: Plan) -> None:
    store = Store(Path(plan.results))
    meter = Meter(Budget(seconds=9000, kind="cpu"), plan.trials, store, devices=2)
    assert meter.look().spent == 0
    put(store, plan.trials[0])  # 3,600 s on two CPUs
    assert meter.look().spent == 7200
    put(store, plan.trials[1], "oom", cost=None)  # two hours from start to end
    assert meter.look().spent == 7200 + 2 * 7200
    assert meter.look().reached
    fresh = Meter(Budget(seconds=9000, kind="gpu"), plan.trials, store, devices=0.5)
    assert fresh.look().spent == pytest.approx(0.5 * (3600 + 7200))
    (store.folder(plan.trials[2].spec, plan.trials[2].id)).mkdir(parents=True)
    (store.folder(plan.trials[2].spec, plan.trials[2].id) / "trial.json").write_text("{")
    assert fresh.look().spent == pytest.approx(0.5 * (3600 + 7200))


def test_a_trial_at_work_counts_by_the_clock(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    store, trial, now = Store(Path(plan.results)), plan.trials[0], [100.0]
    put(store, trial, "interrupted")  # it went 3,600 s before
    put(store, plan.trials[1], "interrupted", "started.json", cost=None)  # by a process that was killed
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    meter = Meter(Budget(seconds=1e6, kind="cpu"), plan.trials, store, devices=1)
    assert meter.look().spent == 3600
    put(store, trial, "interrupted", "started.json", cost=None)
    assert meter.look().spent == 3600
    now[0] += 50
    assert meter.look().spent == 3650
    put(store, trial)
    now[0] += 50
    assert meter.look().spent == 3600  # its record says so


def test_wall_clock_time_adds_up_over_commands(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    store, now = Store(Path(plan.results)), [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    for expected in (10.0, 20.0):
        meter = Meter(Budget(seconds=25, kind="wall"), plan.trials, store, devices=1)
        now[0] += 10
        assert meter.look().spent == expected
        meter.keep(now=True)
    other = Meter(Budget(seconds=25, kind="wall"), plan.trials[:2], store, devices=1)
    assert other.look().spent == 0  # other trials, another budget
    for damage in (b"", b"[]", b'{"seconds": -1}', b'{"seconds": NaN}', b"\xff", b'{"seconds": 1' + b"0" * 400 + b"}"):
        next((store.root / LEDGERS).iterdir()).write_bytes(damage)
        assert Meter(Budget(seconds=25, kind="wall"), plan.trials, store, devices=1).look().spent == 0


def test_a_full_disk_switches_no_budget_off(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The time cannot be written down, which is said once; the trials are stopped all the same."""

    def full(path: Path, text: str) -> None:
        raise WriteProblem(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(budget, "write_atomic", full)
    monkeypatch.setattr(budget, "POLL_S", 0.01)
    monkeypatch.setattr(budget, "LEDGER_EVERY_S", 0.0)
    stop = Event()
    with watched(Meter(Budget(seconds=0.2, kind="wall"), plan.trials, Store(Path(plan.results)), devices=1), stop):
        assert stop.wait(60)
    err = capsys.readouterr().err
    assert err == "budget: time spent is not written down: No space left on device\n"


def test_nothing_starts_on_a_spent_budget(plan: Plan) -> None:
    store, stop = Store(Path(plan.results)), Event()
    put(store, plan.trials[0])
    with watched(Meter(Budget(seconds=3600, kind="cpu"), plan.trials, store, devices=1), stop):
        assert stop.is_set()
    unspent = Event()
    with watched(Meter(Budget(seconds=3601, kind="cpu"), plan.trials, store, devices=1), unspent):
        assert not unspent.is_set()
    with watched(None, unspent):
        assert not unspent.is_set()


def test_a_run_stops_says_what_is_left_and_goes_on(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []

    def engine(jobs: list[Job], resources: object, stop: Event) -> None:
        for job in jobs:
            if stop.is_set():
                return
            started.append(job.trial.id)
            put(Store(Path(job.store)), job.trial)
            stop.wait(5)  # until the budget is looked at

    monkeypatch.setitem(sdbench.run.ENGINES, "local", engine)
    monkeypatch.setattr(budget, "POLL_S", 0.01)
    limited = plan.model_copy(update={"budget": Budget(seconds=3600, kind="cpu")})
    outcome = sdbench.run.execute(limited, quiet=True)
    assert started == [plan.trials[0].id]
    assert outcome.exit_code == 1
    assert len(outcome.missing) == 7
    told = "\n".join(sdbench.run.summary(limited, outcome, None))
    assert "budget: 1h00m of 1h00m spent" in told
    assert "larger --budget; 7 trial(s) are left" in told
    again = sdbench.run.execute(limited, quiet=True)
    assert len(started) == 1  # spent is spent
    assert again.spending is not None
    assert again.spending.reached
    larger = plan.model_copy(update={"budget": Budget(seconds=7200, kind="cpu")})
    sdbench.run.execute(larger, quiet=True)
    assert started == [plan.trials[0].id, plan.trials[1].id]
    options = {"methods": "ls", "seeds": "0-3", "engine": "local", "device": "cpu", "results": plan.results}
    planned = api.preview(**options, budget="8cpu-h")  # type: ignore[arg-type]
    assert planned.spending == budget.Spending(budget=Budget(seconds=8 * 3600, kind="cpu"), spent=7200)
    assert "2h00m of 8h00m spent" in planned.text
