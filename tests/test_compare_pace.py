"""Time to a target, accuracy at a time, and methods over several tables, against figures worked out by hand."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sdbench import api
from sdbench.cli import app
from sdbench.comparison import compare
from sdbench.comparison_gate import parse_conditions
from sdbench.comparison_pace import Question, parse_target, read_question
from sdbench.comparison_records import Comparison
from sdbench.comparison_text import render_comparison
from sdbench.cost.records import ProfileResult, ProfileRow, Ratio, Setting
from sdbench.errors import UserError
from sdbench.spec import Cost, Identity, Metrics, Provenance, Recipe, TrialResult, TrialSpec, digest
from sdbench.statistics import MeanStd
from sdbench.store import Store, write_curve

HERE: dict[str, Any] = {"device": "cpu", "cpu": "Example 9000", "versions": {"torch": "2.10.0"}}
AT = "2026-01-01T00:00:00.000+00:00"
IMAGES = 1000
T_1 = math.tan(math.pi * 0.475)
"""t_1(0.975): Student's distribution with one degree of freedom is Cauchy's."""

Course = tuple[float, Sequence[float | None]]
"""Seconds per epoch, and top-1 after each epoch, None where it was not evaluated."""
Trained = tuple[TrialResult, list[dict[str, Any]]]


def trained(
    method: str, seed: int, course: Course, *, timed: bool = True, cpu: str = "Example 9000", status: str = "ok",
    lines: list[dict[str, Any]] | None = None, caveat: str = "", **spec: Any,
) -> Trained:  # fmt: skip
    """A record and the lines of its curve. train_s is what the curve says, process_s twice that."""
    seconds, top1 = course
    recipe = Recipe(epochs=len(top1))
    rules = {"dataset": "cifar100", "network": "resnet20", "recipe": recipe, "protocol": "fixed"}
    own = TrialSpec(**{**rules, **spec}, method=method, seed=seed)
    identity = Identity(method_source=method, data_fingerprint="d" * 64, protocol_version="1")
    cost = Cost(
        train_s=seconds * len(top1), process_s=2 * seconds * len(top1), eval_s=1, setup_s=1,
        labelled_images=IMAGES * len(top1), images_with_gradient=IMAGES, images_without_gradient=0,
        peak_memory_bytes=2**20, auxiliary_parameters=0, state_bytes=0, timing_valid=timed,
        timing_problems=() if timed else ("load 3.0 above 2 cores",),
    )  # fmt: skip
    metrics = Metrics(top1=top1[-1] or 0, top5=0.9, nll=1.5, ece=0.05, brier=0.4, aurc=0.1, eaurc=0.05)
    result = TrialResult(
        trial_id=digest([own.model_dump(mode="json"), identity.model_dump(mode="json")]), status=status, baseline="ce",
        spec=own, identity=identity, caveat=caveat, metrics=metrics if status == "ok" else None,
        cost=cost if status == "ok" else None, provenance=Provenance(**{**HERE, "cpu": cpu}, started=AT, finished=AT),
        epochs_done=len(top1),
    )  # fmt: skip
    logged = [
        {"epoch": e, "images_per_s": IMAGES / seconds, **({} if value is None else {"top1": value})}
        for e, value in enumerate(top1)
    ]
    return result, logged if lines is None else lines


def ask(found: Sequence[Trained], *names: str, target: str | None = None, at: str | None = None, **given: Any) -> Any:
    curves = {result.trial_id: lines for result, lines in found}
    question = read_question(target, at, lambda result: curves[result.trial_id])
    return compare([result for result, _ in found], names or ["ce", "ls"], question=question, **given)


def paces(comparison: Comparison) -> dict[str, Any]:
    assert len(comparison.tables) == 1
    return {pace.label: pace for pace in comparison.tables[0].paces}


def notes(comparison: Comparison) -> str:
    return "\n".join(comparison.tables[0].notes)


def shown(comparison: Comparison) -> str:
    return " ".join(render_comparison(comparison, "text").split())


CE = [
    trained("ce", 0, (10, [0.2, 0.4, 0.5, 0.6])),
    trained("ce", 1, (10, [0.5, 0.3, 0.5, 0.6])),
    trained("ce", 2, (10, [0.2, 0.3, 0.38, 0.39])),
]
LS = [
    trained("ls", 0, (20, [0.3, 0.45, 0.5, 0.7])),
    trained("ls", 1, (20, [0.3, 0.35, 0.39, 0.7])),
    trained("ls", 2, (12.5, [0.1, 0.55, 0.5, 0.7])),
]


def test_seconds_to_a_target_by_hand() -> None:
    """ce at 20 and 10 s, seed 2 never; ls at 40, 80 and 25 s; ratios 2 and 8, whose geometric mean is 4."""
    found = ask([*CE, *LS], target="40")
    ce, ls = paces(found)["ce"].to_target, paces(found)["ls"].to_target
    assert (ce.reached, ce.n, ls.reached, ls.n) == (2, 3, 3, 3)
    assert ce.seconds == MeanStd(15.0, pytest.approx(math.sqrt(50)), 2)
    assert ls.seconds == MeanStd(pytest.approx(145 / 3), pytest.approx(math.sqrt((625 + 9025 + 4900) / 18)), 3)
    assert (ls.ratio, ls.seeds) == (pytest.approx(4.0), (0, 1))
    assert (ce.ratio, ce.seeds) == (1.0, (0, 1))
    assert (ce.unsolved, ce.cost) == (True, None)
    assert (ls.unsolved, ls.cost) == (False, pytest.approx((40 * 80 * 25) ** (1 / 3)))
    assert (paces(found)["ce"].reference, paces(found)["ls"].reference) == (True, False)
    assert paces(found)["ls"].at_time is None
    text = shown(found)
    assert "method reached 40 % seconds to 40 % (n) seconds × (n)" in text
    assert "ce (reference) 2 of 3 15.0 ± 7.1 (2) 1.00 (2)" in text
    assert "ls 3 of 3 48.3 ± 28.4 (3) 4.00 (2)" in text
    assert "upper bounds of the true times" in text


def test_accuracy_at_a_time_by_hand() -> None:
    """After 25 s, ce has done two epochs (0.4, 0.3, 0.3); ls one of 20 s (0.3, 0.3) and two of 12.5 s (0.55)."""
    found = ask([*CE, *LS[:2]], at="25")
    ce, ls = paces(found)["ce"].at_time, paces(found)["ls"].at_time
    assert ce.top1 == MeanStd(pytest.approx(1 / 3), pytest.approx(math.sqrt(1 / 300)), 3)
    assert (ls.top1, ce.difference) == (MeanStd(0.3, 0.0, 2), None)
    assert (ls.difference.n, ls.difference.mean) == (2, pytest.approx(-0.05))
    half = T_1 * 0.1 / math.sqrt(2) / math.sqrt(2)  # differences -0.1 and 0: s = 0.1 / sqrt(2)
    assert (ls.difference.low, ls.difference.high) == (pytest.approx(-0.05 - half), pytest.approx(-0.05 + half))
    assert "ls 30.00 ± 0.00 (2) -5.00 [-68.53, +58.53] (n too small: 2)" in shown(found)
    third = paces(ask([*CE, *LS], at="25"))["ls"].at_time
    assert third.top1.mean == pytest.approx(1.15 / 3), "exactly at 25 s counts"


@pytest.mark.parametrize(("at", "seconds"), [("1.5m", 90), ("1h", 3600)])
def test_after_the_end_a_network_stays_what_it_is(at: str, seconds: float) -> None:
    found = ask([*CE, *LS], at=at)
    own = paces(found)["ls"].at_time
    assert (found.at, own.top1) == (seconds, MeanStd(0.7, 0.0, 3))


def test_before_the_first_evaluated_epoch_nothing_is_known() -> None:
    found = ask([*CE, *LS], at="15")
    own = paces(found)["ls"].at_time
    assert own.top1 == MeanStd(0.1, None, 1)
    assert own.difference.seeds == (2,)
    assert "ls seeds 0, 1: no epoch was evaluated within 15 s, so top-1 then is not known" in notes(found)


def test_nobody_reaches_it() -> None:
    found = ask([*CE, *LS], target="99.5", at="25")
    for pace in paces(found).values():
        own = pace.to_target
        assert own is not None
        assert (own.reached, own.n, own.seconds, own.ratio, own.seeds, own.cost) == (0, 3, None, None, (), None)
        assert own.unsolved
    assert "reached 99.5 % seconds to 99.5 % (n) seconds × (n) top-1 % at 25 s (n)" in shown(found)
    assert "ls 0 of 3 – – 38.33" in shown(found)


def test_a_share_that_was_divided_in_another_way_still_reaches_its_target() -> None:
    below = math.nextafter(0.701, 0)
    found = ask([*CE, trained("ls", 0, (20, [0.3, 0.6, 0.65, below]))], target="70.1%")
    own = paces(found)["ls"].to_target
    assert own.seconds == MeanStd(80.0, None, 1)


def test_a_timing_that_does_not_count_leaves_a_dash_and_says_what_to_type() -> None:
    found = ask([*CE, *(trained("ls", s, (20, [0.3, 0.45, 0.5, 0.7]), timed=False) for s in range(2))],
                target="40", at="25")  # fmt: skip
    own = paces(found)["ls"]
    assert (own.to_target.reached, own.to_target.n, own.to_target.seconds, own.to_target.ratio) == (2, 2, None, None)
    assert (own.at_time.top1, own.at_time.difference.n) == (None, 0)
    assert "ls 2 of 2 – – – – (n too small: 0)" not in shown(found)
    assert "ls 2 of 2 – – – –" in shown(found)
    assert "ls seeds 0, 1: timing left out: load 3.0 above 2 cores" in notes(found)
    why = "ls seeds 0, 1: seconds left out: timing does not count; sdbench run --rerun all, with nothing else on"
    assert why in notes(found)


ONLY_LAST: Course = (20, [None, None, None, 0.7])


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (trained("ls", 0, (20, [0.3, 0.45, 0.5, 0.7]), lines=[]), "its curve is missing; sdbench run --eval"),
        (trained("ls", 0, ONLY_LAST), "test accuracy was logged after its last epoch only; sdbench run --eval-every 1"),
        (trained("ls", 0, (20, [None] * 4)), "test accuracy was logged never; sdbench run --eval-every 1 --rerun all"),
        (trained("ls", 0, (20, [0.3] * 4), lines=[{"epoch": e} for e in range(4)]), "has no images_per_s"),
        (trained("ls", 0, (20, [0.3] * 4), lines=LS[0][1][:3]), "its curve has 3 of 4 epochs; sdbench run --eval"),
        (trained("ls", 0, (20, [0.3] * 4), lines=[{"images_per_s": 9, "top1": math.nan}] * 4), "must be finite"),
        (trained("ls", 0, (20, [0.3] * 4), lines=[{"images_per_s": 9, "top1": [1]}] * 4), "its curve cannot be used"),
    ],
)  # fmt: skip
def test_a_curve_that_says_nothing_leaves_a_dash_and_says_what_to_type(other: Trained, why: str) -> None:
    found = ask([*CE, other], target="40", at="25")
    own = paces(found)["ls"]
    assert (own.to_target.reached, own.to_target.n, own.to_target.seconds) == (0, 0, None)
    assert (own.to_target.unsolved, own.at_time.top1) == (False, None)
    assert "ls – – – –" in shown(found)
    assert why in notes(found)


def test_one_epoch_that_was_evaluated_is_a_curve() -> None:
    found = ask([trained("ce", 0, (10, [0.5])), trained("ls", 0, (30, [0.5]))], target="50")
    own = paces(found)["ls"].to_target
    assert own.ratio == pytest.approx(3.0)


def test_seconds_are_compared_on_the_same_hardware_only() -> None:
    other = [
        trained("ls", 0, (20, [0.45, 0.5, 0.5, 0.7])),
        trained("ls", 1, (20, [0.45, 0.5, 0.5, 0.7]), cpu="Another"),
    ]
    found = ask([*CE, *other], target="40", at="25")
    own = paces(found)["ls"]
    assert (own.to_target.reached, own.to_target.n) == (2, 2)
    assert (own.to_target.seconds, own.at_time.top1) == (None, None), "a mean over unlike hardware"
    assert (own.to_target.cost, own.to_target.unsolved) == (None, False)
    assert (own.to_target.ratio, own.to_target.seeds) == (1.0, (0,))
    assert own.at_time.difference.seeds == (0,)
    assert "ls seed 1: ran on other hardware than ce, so their seconds are not compared" in notes(found)
    assert "ls: seeds ran on unlike hardware, so there is no mean of seconds to the target" in notes(found)
    apart = ask([*CE, *other[1:]], target="40")
    alone = paces(apart)["ls"].to_target
    assert (alone.seconds, alone.ratio) == (MeanStd(20.0, None, 1), None)


def test_unlike_evaluated_epochs_are_told() -> None:
    found = ask([*CE, trained("ls", 0, (10, [None, 0.5, None, 0.7]))], target="40")
    assert "ls seed 0: other epochs evaluated than of ce: unlike close bounds" in notes(found)


def test_a_trial_that_failed_has_not_reached_it_and_one_that_was_stopped_is_not_known() -> None:
    other = [*LS[:1], trained("ls", 1, (20, [0.5, 0.5]), status="nan", recipe=Recipe(epochs=4)),
             trained("ls", 2, (20, [0.5]), status="interrupted", recipe=Recipe(epochs=4))]  # fmt: skip
    own = paces(ask([*CE, *other], target="40"))["ls"].to_target
    assert (own.reached, own.n, own.cost, own.unsolved) == (1, 2, None, True)


def test_earlier_generations_count() -> None:
    """The first generation took 4 epochs of 10 s, so the second reaches 40 % after 40 + 20 s."""
    first = trained("ce", 0, (10, [0.2, 0.4, 0.5, 0.6]), generation=0)
    last = trained("ban", 0, (20, [0.45, 0.5, 0.6, 0.7]), teacher=first[0].trial_id)
    found = ask([*CE, first, last], "ce", "ban", target="40", at="50")
    own = paces(found)["ban"]
    assert (own.to_target.seconds, own.to_target.ratio) == (MeanStd(60.0, None, 1), 3.0)
    assert own.at_time.top1 is None
    missing = ask([*CE, last], "ce", "ban", target="40")
    alone = paces(missing)["ban"].to_target
    assert (alone.reached, alone.seconds) == (1, None)
    assert "is missing" in notes(missing)


def test_nothing_is_shown_that_was_not_asked() -> None:
    found = ask([*CE, *LS])
    assert (found.target, found.at, found.summary, found.tables[0].paces) == (None, None, None, ())
    for name in ("text", "md"):
        assert "seconds" not in render_comparison(found, name)
        assert "Over all" not in render_comparison(found, name)


def profile(network: str, **ratios: float) -> ProfileResult:
    usual: dict[str, Any] = {"num_classes": 100, "num_train": 50_000, "image_size": 32, "batch_size": 128}
    rows = [
        ProfileRow(method=m, time_ratio=Ratio(median=r, low=r, high=r, rounds=60, verdict="costlier"))
        for m, r in ratios.items()
    ]
    return ProfileResult(
        profile_id=network, setting=Setting(**usual, network=network, augment="crop-flip"), baseline="ce",
        rows=(ProfileRow(method="ce"), *rows), load_start=0, load_end=0, seconds=60,
        provenance=Provenance(**HERE, started=AT, finished=AT),
    )  # fmt: skip


def reaching(method: str, network: str, epoch: int | None, seconds: float = 10, **given: Any) -> list[Trained]:
    """Two seeds that reach 50 % at an epoch, from 1, of twelve, or never."""
    top1 = [0.5 if epoch is not None and e + 1 >= epoch else 0.25 for e in range(12)]
    return [trained(method, seed, (seconds, top1), network=network, **given) for seed in range(2)]


SEVERAL = [
    *reaching("ce", "a", 10), *reaching("ls", "a", 5), *reaching("zipf", "a", 11),
    *reaching("ce", "b", 4), *reaching("ls", "b", 8), *reaching("zipf", "b", 6),
    *reaching("ce", "c", 10), *reaching("ls", "c", None), *reaching("zipf", "c", 12),
    *reaching("ce", "d", None), *reaching("ls", "d", None), *reaching("zipf", "d", None),
]  # fmt: skip
"""Seconds to 50 %: ce 100, 40, 100, never; ls 50, 80, never, never; zipf 110, 60, 120, never."""
STEPS = [profile("a", ls=1.0, zipf=2.0), profile("b", ls=4.0, zipf=2.0), profile("c", ls=2.0)]


def overall(comparison: Comparison) -> dict[str, Any]:
    assert comparison.summary is not None
    return {row.name: row for row in comparison.summary.rows}


def test_methods_over_several_tables_by_hand() -> None:
    """Steps: ls (1 * 4 * 2)^(1/3) = 2, zipf 2. Times: ls 0.5 and 2, zipf 1.1, 1.5 and 1.2. Best: 50, 40, 100."""
    found = ask(SEVERAL, "ce", "ls", "zipf", target="50", profiles=STEPS)
    ce, ls, zipf = (overall(found)[name] for name in ("ce", "ls", "zipf"))
    assert found.summary is not None
    assert (found.summary.tables, found.summary.profile_tables, found.summary.taus) == (4, 4, (1.0, 1.1, 1.5, 2.0))
    assert (ls.tables, ls.step, ls.step_tables) == (4, pytest.approx(2.0), 3)
    assert (zipf.step, zipf.step_tables) == (2.0, 2)
    assert (ls.time, ls.time_tables) == (pytest.approx(1.0), 2)
    assert (zipf.time, zipf.time_tables) == (pytest.approx((1.1 * 1.5 * 1.2) ** (1 / 3)), 3)
    assert (ce.reference, ce.step, ce.time, ce.time_tables) == (True, None, 1.0, 3)
    assert ce.profile == (0.5, 0.5, 0.5, 0.75), "best in b and c; 100 / 50 = 2 in a; d is solved by nobody"
    assert ls.profile == (0.25, 0.25, 0.25, 0.5), "best in a; 80 / 40 = 2 in b"
    assert zipf.profile == (0.0, 0.0, 0.5, 0.5), "2.2, 1.5 and 1.2 times the best"
    assert [row.name for row in found.summary.rows] == ["ce", "ls", "zipf"]
    text = shown(found)
    assert "Over all 4 tables" in text
    assert "ce (reference) 4 1 1.00 (3) 0.50 0.50 0.50 0.75" in text
    assert "zipf 4 2.00 (2) 1.26 (3) 0.00 0.00 0.50 0.50" in text
    assert text.index("Over all 4 tables") > text.rindex("Recipe:")


def test_without_a_target_the_summary_has_steps_only() -> None:
    found = ask(SEVERAL, "ce", "ls", profiles=STEPS)
    assert found.summary is not None
    assert found.summary.profile_tables == 0
    assert (overall(found)["ls"].step, overall(found)["ls"].time, overall(found)["ls"].profile) == (2.0, None, None)
    assert "method tables step × (tables) ------" in shown(found)
    assert "performance profile" not in shown(found)


def test_one_seed_that_misses_leaves_a_table_unsolved() -> None:
    half = [reaching("ls", "a", 5)[0], reaching("ls", "a", None)[1]]
    found = ask([*reaching("ce", "a", 10), *half, *reaching("ce", "b", 4), *reaching("ls", "b", 4)], target="50")
    ce, ls = overall(found)["ce"], overall(found)["ls"]
    assert (ce.profile, ls.profile) == ((1.0,) * 4, (0.5,) * 4)
    assert (ls.time, ls.time_tables) == (pytest.approx(math.sqrt(0.5)), 2), "seed 0 of a reached it on both"


def test_a_cost_is_the_geometric_mean_over_seeds() -> None:
    """50 and 200 s make 100, against 105 and 105; an arithmetic mean would have the other order."""
    uneven = [reaching("ls", "a", 5)[0], reaching("ls", "a", 10, 20)[1]]
    even = [*reaching("ce", "a", 10, 10.5), *reaching("ce", "b", 4), *reaching("ls", "b", 4)]
    found = ask([*even, *uneven], target="50")
    assert overall(found)["ls"].profile == (1.0,) * 4
    assert overall(found)["ce"].profile == (0.5, 1.0, 1.0, 1.0), "105 is at most 1.1 times 100"


def test_a_table_counts_only_where_all_are_known() -> None:
    found = ask(
        [
            *reaching("ce", "a", 10), *reaching("ls", "a", 5, timed=False),
            *reaching("ce", "b", 4), *reaching("ls", "b", 8), *reaching("ce", "c", 4),
            *reaching("ls", "c", 8, cpu="Another"), *reaching("ce", "d", 4), *reaching("zipf", "d", 4),
            *reaching("ce", "e", 4), *reaching("ls", "e", None, timed=False),
        ],
        "ce", "ls", "zipf", target="50",
    )  # fmt: skip
    assert found.summary is not None
    assert overall(found)["zipf"].tables == 1
    assert found.summary.profile_tables == 0, "none has all three"
    told = "\n".join(found.summary.notes)
    assert "cifar100, a, protocol fixed 1, 12 epochs: no trial of zipf; seconds not known of ls" in told
    assert "performance profile" not in shown(found).replace("performance profiles", "")
    two = ask(
        [
            *reaching("ce", "a", 10), *reaching("ls", "a", 5, timed=False),
            *reaching("ce", "b", 4), *reaching("ls", "b", 8), *reaching("ce", "c", 4),
            *reaching("ls", "c", 8, cpu="Another"),
            *reaching("ce", "e", 4), *reaching("ls", "e", None, timed=False),
        ],
        target="50",
    )  # fmt: skip
    assert two.summary is not None
    assert two.summary.profile_tables == 2, "b, and e, where it is known without seconds that ls misses"
    assert (overall(two)["ce"].profile, overall(two)["ls"].profile) == ((1.0,) * 4, (0.0, 0.0, 0.0, 0.5))
    assert len(two.summary.notes) == 2
    assert "c, protocol fixed 1, 12 epochs: methods ran on unlike hardware" in two.summary.notes[1]


def test_a_method_without_seconds_anywhere_does_not_spoil_the_others() -> None:
    found = ask(
        [*SEVERAL, *(one for n in "ab" for one in reaching("pskd", n, 5, timed=False))],
        "ce", "ls", "zipf", "pskd", target="50",
    )  # fmt: skip
    assert overall(found)["ls"].profile == (0.25, 0.25, 0.25, 0.5)
    assert overall(found)["pskd"].profile is None
    assert found.summary is not None
    assert found.summary.notes == ("no part in performance profiles, for want of seconds: pskd",)
    assert "pskd 2 – – – – – –" in shown(found)


def test_tables_without_a_common_method_have_no_summary() -> None:
    found = ask([*reaching("ce", "a", 4), *reaching("ls", "a", 4), *reaching("ce", "b", 4), *reaching("zipf", "b", 4)],
                "ce", "ls", "zipf", target="50")  # fmt: skip
    assert (len(found.tables), found.summary) == (2, None)


def test_a_name_is_one_method_in_all_tables_however_tables_label_it() -> None:
    found = [
        *reaching("ce", "a", 4), *reaching("ce", "b", 4),
        *reaching("zipf", "a", 8, params={"weight": 0.1}), *reaching("zipf", "a", 2, params={"weight": 1.0}),
        *reaching("zipf", "b", 8, params={"weight": 0.1}, caveat="a guess"),
    ]  # fmt: skip
    by_name = overall(ask(found, "ce", "zipf[weight=0.1]", target="50"))
    assert by_name["zipf[weight=0.1]"].time == pytest.approx(2.0)
    assert (by_name["zipf[weight=0.1]"].tables, by_name["zipf[weight=0.1]"].caveat) == (2, "a guess")
    several = ask(found, "ce", "zipf", target="50")
    assert several.summary is None, "three labels, each in one table"


def test_the_gate_does_not_depend_on_it() -> None:
    conditions = parse_conditions(["top1<-0.3", "time>1.1", "step>1.5"])
    plain = ask(SEVERAL, "ce", "ls", "zipf", fail_if=conditions, profiles=STEPS)
    asked = ask(SEVERAL, "ce", "ls", "zipf", fail_if=conditions, profiles=STEPS, target="50", at="1m")
    assert asked.outcomes == plain.outcomes
    assert asked.failed == plain.failed != ()
    assert [table.rows for table in asked.tables] == [table.rows for table in plain.tables]
    assert asked.comparisons == plain.comparisons


@pytest.mark.parametrize("text", ["0.4", "0", "100.1", "-3", "forty", "", "1e1", "nan", "40,5"])
def test_targets_that_cannot_be_read_come_with_an_example(text: str) -> None:
    with pytest.raises(UserError, match="in per cent, 1 to 100, such as --target 40"):
        parse_target(text)


def test_targets_are_per_cent() -> None:
    assert [parse_target(text) for text in ("1", "40", " 70.1 % ", "100")] == [0.01, 0.4, 0.701, 1.0]
    assert not Question().asked


@pytest.fixture
def results(tmp_path: Path) -> Path:
    store = Store(tmp_path)
    for result, lines in [*SEVERAL, *CE, *LS]:
        folder = store.folder(result.spec, result.trial_id)
        folder.mkdir(parents=True)
        write_curve(folder / "curve.jsonl", lines)
        store.write(result)
    return tmp_path


def command(*arguments: str | Path) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["compare", *map(str, arguments)])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout, done.stderr


def test_the_command(results: Path) -> None:
    code, out, err = command("ce", "ls", "-o", results, "-M", "resnet20", "--target", "40", "--at", "0.5m")
    assert (code, err) == (0, "")
    assert re.search(r"^ls +3 of 3 +48\.3 ± 28\.4 \(3\) +4\.00 \(2\) +38\.33", out, re.MULTILINE)
    code, out, _ = command("ce", "ls", "zipf", "-o", results, "-M", "a,b,c,d", "--target", "50", "-f", "md")
    assert code == 0
    assert "## Over all 4 tables" in out
    rows = [line for line in out.splitlines() if line.startswith("| zipf ")]
    assert [cell.strip() for cell in rows[-1].split("|")][2:-1] == [
        "4",
        "–",
        "1.26 (3)",
        "0.00",
        "0.00",
        "0.50",
        "0.50",
    ]
    code, out, _ = command("ce", "ls", "-o", results, "--target", "50", "--at", "25", "--json")
    found = json.loads(out)
    assert (code, found["target"], found["at"]) == (0, 0.5, 25.0)
    assert [pace["label"] for pace in found["tables"][0]["paces"]] == ["ce", "ls"]
    assert found["summary"]["rows"][1]["profile"] is not None
    asked = api.compare("ce", "ls", results=results, target=50, at=25)
    assert Comparison.model_validate_json(out) == asked
    gate = ("ce", "ls", "-o", results, "--fail-if", "top1<-0.3")
    assert command(*gate)[0] == command(*gate, "--target", "50", "--at", "1m")[0] == 4


def test_a_curve_that_was_changed_is_not_believed(results: Path) -> None:
    path = next(results.glob("trials/cifar100/resnet20/ls/*/curve.jsonl"))
    path.write_text(path.read_text().replace("0.7", "0.9"))
    code, out, _ = command("ce", "ls", "-o", results, "-M", "resnet20", "--target", "40")
    assert code == 0
    assert "its curve cannot be used: its checksum does not match" in " ".join(out.split())
    assert "2 of 2" in out


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--target", "0.4"], "target '0.4': expected a top-1 accuracy in per cent, 1 to 100, such as --target 40"),
        (["--at", "soon"], "duration 'soon': expected seconds"),
        (["--at", "0"], "for example --at 300 or --at 5m"),
    ],
)
def test_mistakes_are_usage_errors(results: Path, arguments: list[str], problem: str) -> None:
    code, out, err = command("ce", "ls", "-o", results, *arguments)
    assert (code, out) == (2, "")
    assert problem in err


def test_hostile_names_and_caveats_do_no_harm() -> None:
    bad = "<b>|\x1b[31m"
    found = [*SEVERAL, *(one for n in "ab" for one in reaching(bad, n, 5, caveat="a|b"))]
    asked = ask(found, "all", reference="ce", target="50", at="25")
    text = render_comparison(asked, "md")
    assert not re.search(r"<[a-zA-Z/]", text)
    assert "\x1b" not in text + render_comparison(asked, "text")
    summary = text[text.index("## Over all") :]
    assert {len(re.split(r"(?<!\\)\|", line)) for line in summary.splitlines() if line.startswith("|")} == {10}
