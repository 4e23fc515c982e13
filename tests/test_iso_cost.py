"""The iso-cost baseline: how many epochs it gets, and that a run asks for what was not measured before it starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdbench import environment
from sdbench.cost import archive
from sdbench.cost.records import ProfileResult, ProfileRow, Ratio, Setting
from sdbench.errors import UserError
from sdbench.identity import method_source
from sdbench.leaderboard_profiles import iso_cost_epochs
from sdbench.plan import Plan, make_plan
from sdbench.request import Request
from sdbench.spec import Provenance


def ratio(median: float, verdict: str = "costlier") -> Ratio:
    return Ratio.model_validate(
        {"median": median, "low": median - 0.01, "high": median + 0.01, "rounds": 60, "verdict": verdict}
    )


@pytest.mark.parametrize(
    ("epochs", "found", "generations", "expected"),
    [
        (10, ratio(1.33), 1, 13),
        (200, ratio(1.33), 1, 266),
        (200, ratio(1.02, "equal"), 1, 200),
        (200, ratio(1.02, "inconclusive"), 1, 204),
        (200, ratio(1.34), 2, 468),  # the first generation is the baseline: 200 + 200 * 1.34
        (10, ratio(1.5), 3, 40),  # 10 + 2 * 15
        (10, ratio(0.5, "cheaper"), 1, 5),
        (1, ratio(0.2, "cheaper"), 1, 1),
    ],
)
def test_epochs_by_hand(epochs: int, found: Ratio, generations: int, expected: int) -> None:
    assert iso_cost_epochs(epochs, found, generations) == expected


def profile(root: Path, ratios: dict[str, Ratio], generations: dict[str, int] | None = None, **given: bool) -> None:
    """Profiled on this machine, under the conditions of a run on glyphs."""
    rows = [
        ProfileRow(
            method=name,
            params={},
            source=method_source(name),
            time_ratio=found,
            generations=(generations or {}).get(name, 1),
            **given,
        )
        for name, found in {"ce": ratio(1.0, "equal"), **ratios}.items()
    ]
    setting = Setting(
        network="resnet8", num_classes=100, num_train=1000, image_size=32, augment="crop-flip", batch_size=32
    )
    origin = Provenance(
        versions=environment.versions(),
        device="cpu",
        cpu=environment.cpu_model(),
        started=environment.now(),
        finished=environment.now(),
    )
    result = ProfileResult(
        profile_id="p",
        setting=setting,
        baseline="ce",
        rows=tuple(rows),
        load_start=0,
        load_end=0,
        seconds=1,
        provenance=origin,
    )
    archive.write(root, result)


def planned(root: Path, *methods: str) -> Plan:
    return make_plan(
        Request(
            methods=methods,
            dataset=("glyphs",),
            seeds=("0-1",),
            epochs="10",
            device="cpu",
            engine="local",
            iso_cost="true",
            results=str(root),
        )
    )


def epochs_of(plan: Plan, method: str) -> list[tuple[int, int]]:
    """(seed, epochs) of a method's trials."""
    return sorted((t.spec.seed, t.spec.recipe.epochs) for t in plan.trials if t.spec.method == method)


@pytest.fixture
def defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows as ``profile`` writes them stand for any hyper-parameters."""
    monkeypatch.setattr("sdbench.leaderboard_profiles.same_work", lambda a, b: True)


@pytest.mark.usefixtures("defaults")
def test_the_baseline_is_trained_for_as_long_as_each_method_costs(tmp_path: Path) -> None:
    profile(tmp_path, {"cskd": ratio(1.34), "ls": ratio(1.001, "equal"), "ban": ratio(1.3)}, {"ban": 2})
    plan = planned(tmp_path, "cskd", "ls", "ban")
    last = [t for t in plan.trials if t.spec.method == "ce" and t.spec.generation is None]
    assert sorted((t.spec.seed, t.spec.recipe.epochs) for t in last) == [
        (seed, epochs) for seed in (0, 1) for epochs in (10, 13, 23)
    ]
    assert epochs_of(plan, "cskd") == [(0, 10), (1, 10)]
    longer = next(t.spec.recipe for t in last if t.spec.recipe.epochs == 13)
    assert longer.model_dump(exclude={"epochs", "warmup_epochs"}) == last[0].spec.recipe.model_dump(
        exclude={"epochs", "warmup_epochs"}
    )
    assert longer.warmup_epochs == pytest.approx(0.25 * 13)  # the schedule stretches with the epochs


@pytest.mark.usefixtures("defaults")
def test_a_method_on_a_split_gets_its_baseline_on_that_split(tmp_path: Path) -> None:
    profile(tmp_path, {"cals": ratio(1.2)})
    longer = [t.spec for t in planned(tmp_path, "cals").trials if t.spec.recipe.epochs == 12]
    assert {(s.method, s.split, s.seed) for s in longer} == {("ce", "holdout-0.1", 0), ("ce", "holdout-0.1", 1)}


@pytest.mark.usefixtures("defaults")
def test_what_was_not_measured_is_named_with_the_command_that_measures_it(tmp_path: Path) -> None:
    profile(tmp_path, {"cskd": ratio(1.34)})
    with pytest.raises(UserError) as refused:
        planned(tmp_path, "cskd", "zipf", "ls")
    (problem,) = refused.value.problems
    assert "what zipf, ls cost on resnet8 with 100 classes in batches of 32" in problem
    assert "sdbench profile --methods zipf,ls --model resnet8 --classes 100 --batch-size 32" in problem


@pytest.mark.usefixtures("defaults")
def test_a_timing_that_does_not_count_is_not_used(tmp_path: Path) -> None:
    profile(tmp_path, {"cskd": ratio(1.34)}, timing_valid=False)
    with pytest.raises(UserError, match="what cskd cost"):
        planned(tmp_path, "cskd")
