"""Rounds on a clock made by hand, and verdicts on intervals."""

import random

import numpy as np
import pytest
from scipy import stats

from sdbench.cost.contestant import seconds_per_block
from sdbench.cost.records import ProfileRow, Ratio
from sdbench.cost.timing import WARMUP_ROUNDS, cpu_clock, take_turns
from sdbench.cost.verdict import judge, overhead, ratio_of
from sdbench.statistics import median_interval


class FakeClock:
    """Says that a step took what ``seconds`` says, times the mood of the round."""

    def __init__(self, seconds: dict[str, float], noise: float = 0.0) -> None:
        self.seconds, self.noise, self.random = seconds, noise, random.Random(1)
        self.called: list[str] = []

    def __call__(self, step):
        name = step()
        self.called.append(name)
        took = self.seconds[name] * (1 + self.noise * self.random.gauss(0, 1))
        return took, 2 * took


def contestants(*names: str):
    return {name: lambda name=name: name for name in names}


def turns(clock: FakeClock, names: tuple[str, ...] = ("base", "twice"), **options):
    settings = {"rounds": 20, "half_width": 0.01, "max_seconds": 60.0, "order": random.Random(0), **options}
    return take_turns(contestants(*names), clock, baseline=names[0], **settings)


def test_each_takes_one_step_a_round_in_changing_order() -> None:
    clock = FakeClock({"base": 1.0, "twice": 2.0, "thrice": 3.0})
    found = turns(clock, ("base", "twice", "thrice"))
    rounds = [clock.called[i : i + 3] for i in range(0, len(clock.called), 3)]
    assert len(rounds) == 20 + WARMUP_ROUNDS
    assert all(sorted(r) == ["base", "thrice", "twice"] for r in rounds)
    assert len({tuple(r) for r in rounds}) == 6
    assert found.count == 20
    assert found.work["twice"] == [2.0] * 20
    assert found.wall["thrice"] == [6.0] * 20


def test_rounds_are_added_until_the_intervals_are_narrow() -> None:
    found = turns(FakeClock({"base": 1.0, "twice": 2.0}, noise=0.02))
    few, widths = found.count, found.half_widths("base")
    assert max(widths.values()) < 0.01
    assert few > 20
    # Fewer rounds would not have been enough at the last look before.
    before = [a / b for a, b in zip(found.work["twice"], found.work["base"], strict=True)][: few - 10]
    interval = median_interval(before)
    assert (interval.high - interval.low) / 2 >= 0.01


def test_no_round_begins_after_the_limit_but_the_first() -> None:
    assert turns(FakeClock({"base": 1.0, "twice": 2.0}, noise=1.0), max_seconds=0.0).count == 1


def test_an_interruption_keeps_whole_rounds() -> None:
    calls = []

    def step() -> None:
        calls.append(1)
        if len(calls) == 12:
            raise KeyboardInterrupt

    found = take_turns(
        {"base": step},
        lambda action: (action(), (1.0, 1.0))[1],
        baseline="base",
        rounds=100,
        half_width=0.01,
        max_seconds=60.0,
        order=random.Random(0),
    )
    assert found.interrupted
    assert found.count == 12 - 1 - WARMUP_ROUNDS


def test_an_interruption_before_the_first_counted_round_is_not_swallowed() -> None:
    def step() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        take_turns(
            {"base": step}, cpu_clock, baseline="base", rounds=1, half_width=1.0, max_seconds=1.0, order=random.Random()
        )


def test_the_processor_clock_does_not_count_sleep() -> None:
    import time

    work, wall = cpu_clock(lambda: time.sleep(0.05))
    assert wall >= 0.05
    assert work < 0.04


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.97, 1.03, "equal"),
        (0.99, 1.02, "equal"),
        (1.031, 1.05, "costlier"),
        (0.90, 0.969, "cheaper"),
        (1.03, 1.05, "inconclusive"),
        (1.02, 1.04, "inconclusive"),
        (0.96, 1.00, "inconclusive"),
        (0.90, 1.10, "inconclusive"),
    ],
)
def test_verdicts_against_a_margin_of_three_percent(low: float, high: float, verdict: str) -> None:
    assert judge(low, high, 0.03) == verdict


def test_the_ratio_is_of_pairs_not_of_totals() -> None:
    """In one round in three the machine was ten times slower for both: pairs say 2, 2, 3; totals would say 2.08."""
    ratio = ratio_of([2.0, 20.0, 3.0] * 10, [1.0, 10.0, 1.0] * 10, 0.03)
    assert (ratio.median, ratio.rounds, ratio.verdict) == (2.0, 30, "costlier")
    assert ratio_of([1.0] * 5, [1.0] * 5, 0.03, scale=4.0).median == 4.0


def test_the_median_interval_is_scipys_percentile_bootstrap() -> None:
    values = np.random.default_rng(3).lognormal(0, 0.2, 60)
    ours = median_interval(values, resamples=20_000)
    theirs = stats.bootstrap(
        (values,), np.median, method="percentile", n_resamples=20_000, rng=np.random.default_rng(5)
    ).confidence_interval
    assert ours.median == np.median(values)
    assert ours.low == pytest.approx(theirs.low, abs=0.004)
    assert ours.high == pytest.approx(theirs.high, abs=0.004)
    assert median_interval([2.5]) == type(ours)(2.5, 2.5, 2.5, 1)
    for bad in ([], [float("nan")]):
        with pytest.raises(ValueError, match="finite"):
            median_interval(bad)


def test_the_median_interval_covers_the_true_median() -> None:
    """Skewed noise whose median is 1: 95 % intervals of 60 values should hold it in about 95 % of 400 draws."""
    draws = np.random.default_rng(0).lognormal(0, 0.3, (400, 60))
    held = sum(i.low <= 1 <= i.high for i in (median_interval(row, resamples=500) for row in draws))
    assert 0.92 <= held / 400 <= 0.98


def row(**changes) -> ProfileRow:
    time = Ratio(median=1.01, low=1.005, high=1.015, rounds=60, verdict="equal")
    counts = {"images_loaded": 1.0, "forward_images": 1.0, "backward_images": 1.0}
    return ProfileRow(**{"method": "m", "time_ratio": time, "memory_ratio": 1.02, **counts, **changes})


COSTLY = Ratio(median=1.33, low=1.32, high=1.34, rounds=60, verdict="costlier")
OPEN = Ratio(median=1.03, low=1.02, high=1.04, rounds=60, verdict="inconclusive")


@pytest.mark.parametrize(
    ("changes", "verdict", "because"),
    [
        ({}, "confirmed", "one forward"),
        ({"forward_images": 2.0}, "refuted", "2 forward passes per labelled image"),
        ({"images_loaded": 2.0}, "refuted", "2 images loaded"),
        ({"backward_images": 2.0}, "refuted", "2 backward passes"),
        ({"generations": 2}, "refuted", "2 trainings"),
        ({"time_ratio": COSTLY}, "refuted", "time ×1.330 [1.320, 1.340]"),
        ({"memory_ratio": 1.04}, "refuted", "memory ×1.040"),
        ({"time_ratio": OPEN}, "inconclusive", "crosses the margin"),
        ({"memory_ratio": None}, "inconclusive", "memory was not measured"),
        ({"timing_valid": False, "timing_problems": ("load 5.0 above 2 cores",)}, "inconclusive", "load 5.0"),
        # What noise cannot touch is refuted whatever the clock says, and a timing that does not count refutes nothing.
        ({"timing_valid": False, "time_ratio": COSTLY}, "inconclusive", "no valid timing"),
        ({"timing_valid": False, "forward_images": 2.0}, "refuted", "2 forward passes"),
    ],
)
def test_whether_a_method_is_one_pass_with_no_overhead(changes, verdict: str, because: str) -> None:
    answer = overhead(row(**changes), 0.03)
    assert answer.verdict == verdict
    assert because in "; ".join(answer.because)


def test_few_rounds_and_timings_that_do_not_count_decide_nothing() -> None:
    assert ratio_of([1.0], [1.0], 0.03).verdict == "inconclusive"
    assert ratio_of([1.0] * 19, [1.0] * 19, 0.03).verdict == "inconclusive"
    assert ratio_of([1.0] * 20, [1.0] * 20, 0.03).verdict == "equal"
    assert ratio_of([2.0] * 60, [1.0] * 60, 0.03, counts=False).verdict == "inconclusive"


def test_no_stop_before_there_are_enough_rounds() -> None:
    assert turns(FakeClock({"base": 1.0, "twice": 2.0}), rounds=3).count == 20


def test_widths_are_of_scaled_ratios_and_failures_do_not_count() -> None:
    scaled = turns(FakeClock({"base": 1.0, "twice": 2.0}, noise=0.01), scales={"twice": 2.0})
    plain = turns(FakeClock({"base": 1.0, "twice": 2.0}, noise=0.01))
    assert scaled.count > plain.count
    assert max(scaled.half_widths("base", {"twice": 2.0}).values()) < 0.01
    noisy = turns(FakeClock({"base": 1.0, "twice": 2.0}, noise=0.5), failed=lambda: ["twice"])
    assert noisy.count == 20


def test_blocks_of_rounds() -> None:
    assert seconds_per_block([1, 2, 3, 4, 5], 2) == [3, 7]
    assert seconds_per_block([1, 2], 3) == [3]


def test_a_row_without_a_measurement_has_no_answer() -> None:
    assert overhead(row(status="failed"), 0.03) is None
    assert overhead(row(backward_images=None), 0.03) is None
