"""Ranks and the Pareto front: worked by hand, against another way of computing them, and under known truth."""

from __future__ import annotations

import itertools
import math
import random
import time

import numpy as np
import pytest
from scipy import stats

from sdbench.ranking import pareto_front, ranks
from sdbench.statistics import holm


def values_of(**rows: list[float]) -> dict[str, dict[int, float]]:
    return {name: dict(enumerate(row)) for name, row in rows.items()}


def brute_force(values: dict[str, dict[int, float]], level: float = 0.05) -> dict[str, int]:
    """Every pair by SciPy, Holm over all of them, then a count."""
    pairs = list(itertools.combinations(values, 2))
    tests = []
    for a, b in pairs:
        common = sorted(values[a].keys() & values[b].keys())
        tests.append(stats.ttest_rel([values[a][s] for s in common], [values[b][s] for s in common]))
    adjusted = holm([float(t.pvalue) for t in tests])
    found = dict.fromkeys(values, 1)
    for (a, b), test, p in zip(pairs, tests, adjusted, strict=True):
        if p <= level:
            found[a if test.statistic < 0 else b] += 1
    return found


def test_ranks_by_hand() -> None:
    """Seeds move all methods together. Differences to a: b -0.10 exactly but for 0.001, c within noise of a."""
    seed = [0.00, 0.05, -0.03, 0.02]
    noise = [0.001, -0.001, 0.0005, -0.0005]
    rows = {
        "a": [0.7 + s for s in seed],
        "b": [0.6 + s + e for s, e in zip(seed, noise, strict=True)],
        "c": [0.7 + s + 20 * e for s, e in zip(seed, noise, strict=True)],
    }
    assert ranks(values_of(**rows)) == {"a": 1, "b": 3, "c": 1}
    assert ranks(values_of(**rows), higher_is_better=False) == {"a": 2, "b": 1, "c": 2}


def test_sharing_a_rank_is_not_transitive() -> None:
    """b differs from neither a nor c, a from c: t of 2.4 and 2.4 against t of 12 with three pairs at n = 4."""
    e = [0.010, -0.010, 0.012, -0.012]
    rows = {"a": [0.72] * 4, "b": [0.71 + x for x in e], "c": [0.70 + x / 10 for x in e]}
    assert ranks(values_of(**rows)) == {"a": 1, "b": 1, "c": 2}


def test_ranks_are_those_of_all_pairs_by_scipy() -> None:
    generator = np.random.default_rng(5)
    several = 0
    for _ in range(30):
        seed, true = generator.normal(0, 0.05, 6), generator.normal(0.7, 0.01, 5)
        table = true[:, None] + seed + generator.normal(0, 0.004, (5, 6))
        values = {f"m{i}": dict(enumerate(row.tolist())) for i, row in enumerate(table)}
        for name in ("m0", "m3"):
            del values[name][int(generator.integers(6))]  # seeds that others have and it has not
        found = ranks(values)
        assert found == brute_force(values)
        several += len(set(found.values())) > 2
    assert several > 10, "the cases must not all be ties"


def test_the_order_of_methods_and_seeds_does_not_matter() -> None:
    generator = random.Random(0)
    values = {f"m{i}": {s: generator.gauss(i / 100, 0.01) for s in range(5)} for i in range(6)}
    expected = ranks(values)
    for _ in range(5):
        mixed = {
            name: dict(generator.sample(list(own.items()), 5))
            for name, own in generator.sample(list(values.items()), 6)
        }
        assert ranks(mixed) == expected


def test_too_few_seeds_have_no_rank() -> None:
    assert ranks({}) == {}
    assert ranks(values_of(a=[0.5] * 3)) == {"a": 1}
    assert ranks(values_of(a=[0.5] * 2, b=[])) == {"a": None, "b": None}
    values = values_of(a=[0.71, 0.72, 0.74], b=[0.51, 0.52, 0.54], few=[0.9, 0.9])
    assert ranks(values) == {"a": 1, "b": 2, "few": None}, "differences without spread are taken at their word"
    apart = values | {"apart": {7: 0.9, 8: 0.9, 9: 0.9}}
    assert ranks(apart) == {"a": 1, "b": 2, "few": None, "apart": None}, "the odd one out is left out, not the others"
    two = {"ce": dict.fromkeys(range(6), 0.5), "x": dict.fromkeys(range(3), 0.5), "y": dict.fromkeys(range(3, 6), 0.5)}
    assert ranks(two) == {"ce": 1, "x": None, "y": None}, "neither of two can be placed"


def test_equal_values_share_the_first_place() -> None:
    assert ranks(values_of(a=[0.5, 0.6, 0.7], b=[0.5, 0.6, 0.7], c=[0.5, 0.6, 0.7])) == {"a": 1, "b": 1, "c": 1}


@pytest.mark.parametrize("level", [0.0, 1.0, math.nan])
def test_level_and_values_are_checked(level: float) -> None:
    with pytest.raises(ValueError, match="level"):
        ranks({}, level=level)
    with pytest.raises(ValueError, match="finite"):
        ranks({"a": {0: math.inf}})


def test_equal_methods_are_rarely_told_apart() -> None:
    """Five methods of the same accuracy, 1,000 draws: a rank other than 1 in at most 5 % but for three sigma."""
    generator = np.random.default_rng(0)
    wrong = 0
    for _ in range(1000):
        table = generator.normal(0.7, 0.01, (5, 5)) + generator.normal(0, 0.05, 5)
        found = ranks({str(i): dict(enumerate(row.tolist())) for i, row in enumerate(table)})
        wrong += set(found.values()) != {1}
    assert wrong / 1000 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 1000)


def test_five_hundred_methods_within_two_seconds() -> None:
    table = np.random.default_rng(0).normal(0.7, 0.01, (500, 10))
    began = time.process_time()
    found = ranks({str(i): dict(enumerate(row)) for i, row in enumerate(table.tolist())})
    assert time.process_time() - began < 2
    assert len(found) == 500


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([], []),
        ([(0.7, 1.0)], [True]),
        ([(0.7, 1.0), (0.6, 1.0)], [True, False]),  # the same cost
        ([(0.7, 1.0), (0.7, 1.2)], [True, False]),  # the same accuracy
        ([(0.7, 1.0), (0.7, 1.0)], [True, True]),  # equal in both
        ([(0.7, 1.2), (0.7, 1.2), (0.8, 1.1)], [False, False, True]),  # equal, and off the front together
        ([(0.7, 1.0), (0.8, 1.3), (0.75, 1.3), (0.9, 2.0), (0.79, 1.2)], [True, True, False, True, True]),
        ([(0.9, None), (None, 0.5), (0.7, 1.0)], [None, None, True]),
    ],
)
def test_pareto_front_by_hand(points: list[tuple[float | None, float | None]], expected: list[bool | None]) -> None:
    assert pareto_front(points) == expected


def test_pareto_front_is_what_nothing_dominates() -> None:
    generator = random.Random(1)
    for _ in range(200):
        points = [(generator.randint(0, 4) / 4, generator.randint(1, 5) / 4) for _ in range(8)]
        expected = [
            not any(a >= own[0] and c <= own[1] and (a > own[0] or c < own[1]) for a, c in points) for own in points
        ]
        assert pareto_front(points) == expected


def test_pareto_front_refuses_nan() -> None:
    with pytest.raises(ValueError, match="NaN"):
        pareto_front([(math.nan, 1.0)])
