"""Accuracy over time, geometric means and performance profiles, worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from sdbench.curves import accuracy_at, curve_points, geometric_mean, performance_profile, time_to

CURVE = [(10.0, 0.3), (20.0, 0.6), (30.0, 0.5), (40.0, 0.7)]


@pytest.mark.parametrize(
    ("target", "seconds"), [(0.1, 10.0), (0.3, 10.0), (0.31, 20.0), (0.55, 20.0), (0.7, 40.0), (0.71, None)]
)
def test_time_to_a_target(target: float, seconds: float | None) -> None:
    assert time_to(CURVE, target) == seconds


@pytest.mark.parametrize(
    ("seconds", "accuracy"), [(9.9, None), (10, 0.3), (19.9, 0.3), (35, 0.5), (40, 0.7), (1e9, 0.7)]
)
def test_accuracy_at_a_time(seconds: float, accuracy: float | None) -> None:
    assert accuracy_at(CURVE, seconds) == accuracy, "the last one known, not the best so far"


def test_a_curve_of_nothing_and_what_is_no_curve() -> None:
    assert time_to([], 0.5) is None
    assert accuracy_at([], 10) is None
    assert accuracy_at([(5, 0.1), (5, 0.2)], 5) == 0.2, "two points at one time: the later one"
    for bad in ([(2.0, 0.1), (1.0, 0.2)], [(-1.0, 0.1)], [(math.nan, 0.1)], [(1.0, math.inf)]):
        with pytest.raises(ValueError, match="seconds"):
            time_to(bad, 0.5)
        with pytest.raises(ValueError, match="seconds"):
            accuracy_at(bad, 0.5)


def test_points_from_the_lines_of_a_curve() -> None:
    lines = [
        {"epoch": 0, "images_per_s": 100.0},
        {"epoch": 1, "images_per_s": 200.0, "top1": 0.5},
        {"epoch": 2, "images_per_s": 50.0, "top1": 0.75},
    ]
    assert curve_points(lines, 1000) == [(15.0, 0.5), (35.0, 0.75)]
    assert curve_points([], 1000) == []
    for speed in (None, 0.0):
        with pytest.raises(ValueError, match="epoch 3 has no images_per_s"):
            curve_points([{"epoch": 3, "top1": 0.5, "images_per_s": speed}], 1000)


def test_geometric_mean() -> None:
    assert geometric_mean([1.0, 2.0, 4.0]) == pytest.approx(2.0, rel=1e-15)
    assert geometric_mean([1.1] * 3) == 1.1
    assert geometric_mean(iter([1e300, 1e300, 1e-300])) == pytest.approx(1e100, rel=1e-12), "no overflow"
    ratios = np.random.default_rng(0).lognormal(0, 1, 20)
    assert geometric_mean(ratios) == pytest.approx(stats.gmean(ratios), rel=1e-12)
    assert geometric_mean(1 / ratios) == pytest.approx(1 / geometric_mean(ratios), rel=1e-12)
    assert geometric_mean(ratios) == geometric_mean(ratios[::-1])
    for bad in ([], [0.0], [-1.0], [math.nan], [math.inf]):
        with pytest.raises(ValueError, match="positive"):
            geometric_mean(bad)


def test_performance_profile_by_hand() -> None:
    """Best: p 10 (a), q 20 (a and b), r 30 (b), s by nobody; a solves no r, b takes 25 on p."""
    costs = {
        "a": {"p": 10.0, "q": 20.0, "r": None, "s": None},
        "b": {"p": 25.0, "q": 20.0, "r": 30.0},
    }
    assert performance_profile(costs, [1, 2.4, 2.5, 100]) == {"a": [0.5, 0.5, 0.5, 0.5], "b": [0.5, 0.5, 0.75, 0.75]}
    assert performance_profile({"a": {"p": 3.0}}, [1.0]) == {"a": [1.0]}


def test_performance_profile_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match="at least one problem"):
        performance_profile({}, [1])
    with pytest.raises(ValueError, match="tau"):
        performance_profile({"a": {"p": 1.0}}, [0.5])
    for bad in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="positive"):
            performance_profile({"a": {"p": bad}}, [1])
