"""Means over seeds, differences paired by seed, medians over rounds. No torch; SciPy and NumPy are imported when
an interval is asked for.

Sums are exactly rounded (``math.fsum``), so no result depends on the order of the values.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True, slots=True)
class MeanStd:
    """Mean and sample standard deviation (n - 1 in the denominator) of n >= 1 values; std is None for n = 1."""

    mean: float
    std: float | None
    n: int


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """Mean of a - b over the n seeds that both have, and its confidence interval [low, high].

    mean is None for n = 0; low and high are None for n < 2, where no spread can be estimated.
    """

    mean: float | None
    low: float | None
    high: float | None
    n: int
    seeds: tuple[int, ...]


def mean_std(values: Iterable[float]) -> MeanStd:
    """Mean and sample standard deviation of finite values.

    Raises ValueError where there are none, or one is not finite.
    """
    found = tuple(values)
    if not found or not all(map(math.isfinite, found)):
        raise ValueError(f"need at least one value, all finite, got {found}")
    n = len(found)
    # Division rounds once more: three times 0.05 would have a spread of 8e-18.
    mean = found[0] if min(found) == max(found) else math.fsum(found) / n
    std = math.sqrt(math.fsum((v - mean) ** 2 for v in found) / (n - 1)) if n > 1 else None
    return MeanStd(mean, std, n)


def paired_difference(a: Mapping[int, float], b: Mapping[int, float], confidence: float = 0.95) -> PairedDifference:
    """Mean of a - b over common seeds with Student's t interval: mean -+ t_{n-1} s / sqrt(n).

    a, b: value per seed; seeds that only one of them has are left out. s: sample standard deviation of
    the differences. confidence: in (0, 1), the coverage if the differences are normal and independent;
    it holds for each interval by itself, not for a whole table. Differences without spread give an
    interval of no width. Raises ValueError for a confidence outside (0, 1) or a value that is not finite.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie in (0, 1), got {confidence}")
    seeds = tuple(sorted(a.keys() & b.keys()))
    if not seeds:
        return PairedDifference(None, None, None, 0, ())
    summary = mean_std(a[seed] - b[seed] for seed in seeds)
    if summary.std is None:
        return PairedDifference(summary.mean, None, None, 1, seeds)
    half = _t_quantile(summary.n - 1, confidence) * summary.std / math.sqrt(summary.n)
    return PairedDifference(summary.mean, summary.mean - half, summary.mean + half, summary.n, seeds)


@dataclass(frozen=True, slots=True)
class MedianInterval:
    """Median of n values and a bootstrap interval [low, high] of it."""

    median: float
    low: float
    high: float
    n: int


def median_interval(
    values: Iterable[float], confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> MedianInterval:
    """Median with its percentile bootstrap interval: quantiles of the medians of resamples, drawn with replacement.

    values: n >= 1 finite numbers. confidence: in (0, 1). resamples: >= 1. seed: of the resampling, so that the
    same values give the same interval. Of one value the interval has no width. Meant for n >= 20: below, percentile
    intervals of a median cover less than they say. Raises ValueError for no or non-finite values.
    """
    import numpy as np

    found = np.asarray(tuple(values), dtype=np.float64)
    if not len(found) or not np.isfinite(found).all() or not 0 < confidence < 1:
        raise ValueError("need at least one value, all finite, and a confidence in (0, 1)")
    chosen = np.random.default_rng(seed).integers(0, len(found), (resamples, len(found)))
    medians = np.median(found[chosen], axis=1)
    low, high = np.quantile(medians, [(1 - confidence) / 2, (1 + confidence) / 2])
    return MedianInterval(float(np.median(found)), float(low), float(high), len(found))


@cache
def _t_quantile(degrees: int, confidence: float) -> float:
    """t with P(|T| <= t) = confidence for Student's T. scipy.special loads far faster than scipy.stats."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, (1 + confidence) / 2))
