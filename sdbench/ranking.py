"""Ranks in which methods that cannot be told apart share a place, and the Pareto front of accuracy against cost.

Pure; no torch. NumPy and SciPy are imported when methods are compared. A table of a thousand methods is ranked in
about a second, which is why pairs are tested with arrays here; each test is ``statistics.paired_p_value``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from sdbench.statistics import LEAST_SEEDS, LEVEL, holm, t_test_p


def ranks(
    values: Mapping[str, Mapping[int, float]], *, higher_is_better: bool = True, level: float = LEVEL
) -> dict[str, int | None]:
    """Rank of each method: 1 + the number of methods that are significantly better.

    values: per method, a finite value per seed. Better: the two-sided paired t test over common seeds, with p adjusted
    by Holm over all pairs of ranked methods, has p <= level, in (0, 1), and the mean difference speaks for it.
    So whoever cannot be told from the best shares place 1, and sharing is not transitive: of a, b, c
    with ranks 1, 1, 2, b may well be indistinguishable from both. None where n is too small: a method with fewer
    than three seeds, or with fewer than three in common with another. Of methods that lack common
    seeds, those that lack them with most others are left out, all of these at once, until all that remain can be
    paired with each other. A single method has rank 1. Raises ValueError for a value that is not finite, a
    level outside (0, 1).
    """
    if not 0 < level < 1:
        raise ValueError(f"level must lie in (0, 1), got {level}")
    if not all(math.isfinite(v) for own in values.values() for v in own.values()):
        raise ValueError("values must be finite")
    found: dict[str, int | None] = dict.fromkeys(values)
    named = [name for name, own in values.items() if len(own) >= LEAST_SEEDS]
    if not named:
        return found
    import numpy as np

    seeds = sorted({seed for name in named for seed in values[name]})
    table = np.array([[values[name].get(seed, math.nan) for seed in seeds] for name in named])
    kept = _paired_with_each_other(~np.isnan(table))
    table = table[kept] if higher_is_better else -table[kept]
    rank = 1 + _significantly_better(table, level)
    return found | {named[i]: int(r) for i, r in zip(kept, rank, strict=True)}


def _paired_with_each_other(present: Any) -> Any:
    """Rows of ``present`` [methods, seeds] that share at least LEAST_SEEDS seeds with each other."""
    import numpy as np

    counts = present.astype(np.int64)
    short = counts @ counts.T < LEAST_SEEDS
    kept = np.arange(len(present))
    while (lacking := short[np.ix_(kept, kept)].sum(axis=1)).any():
        kept = kept[lacking < lacking.max()]
    return kept


def _significantly_better(table: Any, level: float) -> Any:
    """How many rows of ``table`` [methods, seeds], higher being better, NaN where missing, beat each row."""
    import numpy as np

    size = len(table)
    means, p_values = [np.empty(0)], [np.empty(0)]
    for i in range(size - 1):
        mean, p = _test(table[i + 1 :] - table[i])
        means.append(mean)
        p_values.append(p)
    rejected = np.asarray(holm(np.concatenate(p_values).tolist())) <= level
    ahead = np.concatenate(means)
    first, second = np.triu_indices(size, 1)
    beaten = np.zeros(size, dtype=np.int64)
    np.add.at(beaten, first[rejected & (ahead > 0)], 1)
    np.add.at(beaten, second[rejected & (ahead < 0)], 1)
    return beaten


def _test(differences: Any) -> tuple[Any, Any]:
    """Mean and two-sided p of each row of differences [rows, seeds], NaN where a seed is missing."""
    import numpy as np

    n = (~np.isnan(differences)).sum(axis=1)
    low, high = np.nanmin(differences, axis=1), np.nanmax(differences, axis=1)
    mean = np.where(low == high, low, np.nansum(differences, axis=1) / n)
    squares = np.nansum((differences - mean[:, None]) ** 2, axis=1)
    even = squares == 0
    std = np.sqrt(np.where(even, 1.0, squares) / (n - 1))
    return mean, np.where(even, np.where(mean == 0, 1.0, 0.0), t_test_p(mean, std, n))


def pareto_front(points: Sequence[tuple[float | None, float | None]]) -> list[bool | None]:
    """Whether each (accuracy, cost) lies on the Pareto front: no other is at least as accurate and at most as costly,
    and better in one of the two.

    Points that are equal in both share the front or are off it together. None where accuracy or cost is not
    known: such a point is neither on the front nor keeps others off it. Figures are taken at their word; two points
    may be closer than their errors. Raises ValueError for NaN.

    >>> pareto_front([(0.7, 1.0), (0.8, 1.5), (0.7, 1.5), (0.9, None)])
    [True, True, False, None]
    """
    known = [(i, a, c) for i, (a, c) in enumerate(points) if a is not None and c is not None]
    if any(math.isnan(value) for _, accuracy, cost in known for value in (accuracy, cost)):
        raise ValueError("accuracy and cost must be numbers, not NaN")
    found: list[bool | None] = [None] * len(points)
    best, best_cost = -math.inf, math.nan
    for i, accuracy, cost in sorted(known, key=lambda point: (point[2], -point[1])):
        found[i] = accuracy > best or (accuracy == best and cost == best_cost)
        if accuracy > best:
            best, best_cost = accuracy, cost
    return found
