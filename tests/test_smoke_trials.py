"""``--limit-steps``: trials whose epochs are cut short show that things work, and reach no board."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sdbench import api
from sdbench.errors import UserError
from sdbench.plan import make_plan
from sdbench.request import Request
from sdbench.spec import TrialResult
from sdbench.store import Store, read_curve
from sdbench.train import run_trial

Writer = Callable[..., Path]


def test_the_id_is_another_and_stays_without_a_limit(tmp_path: Path) -> None:
    whole = api.plan(methods="ls", results=tmp_path)
    cut = api.plan(methods="ls", results=tmp_path, limit_steps=20)
    assert not {t.id for t in whole.trials} & {t.id for t in cut.trials}
    assert {t.spec.recipe.epochs for t in cut.trials} == {1}
    assert {t.spec.limit_steps for t in cut.trials} == {20}
    assert "limit_steps" not in whole.trials[0].spec.model_dump(mode="json")
    assert api.plan(methods="ls", results=tmp_path, limit_steps=20, epochs=3).trials[0].spec.recipe.epochs == 3
    with pytest.raises(UserError, match="--limit-steps 0"):
        api.plan(results=tmp_path, limit_steps=0)


def test_boards_leave_them_out_and_say_so(tmp_path: Path, write_trial: Writer) -> None:
    for seed in range(3):
        write_trial(tmp_path, "ce", seed, 0.5)
        write_trial(tmp_path, "ls", seed, 0.6)
        write_trial(tmp_path, "ls", seed, 0.99, limit_steps=5)
        write_trial(tmp_path, "zipf", seed, 0.99, limit_steps=5)
    board = api.leaderboard(results=tmp_path)
    assert {row.method: row.metrics["top1"].mean for row in board.tables[0].rows} == {
        "ce": 0.5,
        "ls": pytest.approx(0.6),
    }
    assert len(board.tables) == 1
    assert "6 smoke trial(s) left out" in board.notes[0]
    found = api.compare("ce", "all", results=tmp_path)
    assert {row.label for row in found.tables[0].rows} == {"ls"}
    assert len(api.trials(tmp_path)) == 12
    with pytest.raises(UserError, match="zipf"):
        api.compare("ce", "zipf", results=tmp_path)
    with pytest.raises(UserError, match="zipf"):
        api.plan_distill(teachers="zipf", results=tmp_path)


def test_epochs_end_after_that_many_steps(small_world: Any, tmp_path: Path) -> None:
    flags = small_world.flags(methods=["ls"], seeds=["0"], limit_steps="2", epochs="3", results=str(tmp_path))
    plan = make_plan(Request.gather(flags, None, {}))
    found: list[TrialResult] = [run_trial(trial, Store(tmp_path), plan.options) for trial in plan.trials]
    for result in found:
        assert result.status == "ok", result.reason
        assert result.cost is not None
        assert result.cost.labelled_images == 3 * 2 * 16
        assert result.epochs_done == 3
        assert len(read_curve(Store(tmp_path).folder(result.spec, result.trial_id) / "curve.jsonl")) == 3
        assert "smoke, 2 steps" in result.spec.title
    assert api.validate(tmp_path).errors == ()
    flags = small_world.flags(methods=["ls"], seeds=["0"], limit_steps="99", results=str(tmp_path / "w"))
    plan = make_plan(Request.gather(flags, None, {}))  # a flag that says four epochs stays
    result = run_trial(plan.trials[0], Store(tmp_path / "w"), plan.options)
    assert result.cost is not None
    assert result.cost.labelled_images == 4 * 80  # no more steps than an epoch has
