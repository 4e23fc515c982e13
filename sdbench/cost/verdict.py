"""Verdicts on intervals of cost ratios. Pure; no torch."""

from __future__ import annotations

from collections.abc import Sequence

from sdbench.cost.records import Overhead, ProfileRow, Ratio, Verdict
from sdbench.statistics import median_interval

LEAST_ROUNDS = 20
"""Below this many rounds a bootstrap interval of a median covers less than it says, and no verdict rests on it."""


def judge(low: float, high: float, margin: float) -> Verdict:
    """Where the interval [low, high] of a ratio lies against the band [1 - margin, 1 + margin].

    *equal*: wholly within it (its ends included). *costlier*, *cheaper*: wholly outside, above or below.
    *inconclusive*: it crosses an edge of the band.
    """
    if 1 - margin <= low and high <= 1 + margin:
        return "equal"
    if low > 1 + margin:
        return "costlier"
    return "cheaper" if high < 1 - margin else "inconclusive"


def ratio_of(
    own: Sequence[float], baseline: Sequence[float], margin: float, scale: float = 1.0, *, counts: bool = True
) -> Ratio:
    """The median over rounds of ``scale * own / baseline`` with its bootstrap 95 % interval.

    own, baseline: seconds per round, of the same rounds, all positive. scale: steps of the method's epoch over
    steps of the baseline's. counts: whether the timing does; the verdict is "inconclusive" where not, and where there
    are fewer than ``LEAST_ROUNDS``.
    """
    found = median_interval([scale * a / b for a, b in zip(own, baseline, strict=True)])
    return Ratio(
        median=found.median,
        low=found.low,
        high=found.high,
        rounds=found.n,
        verdict=judge(found.low, found.high, margin) if counts and found.n >= LEAST_ROUNDS else "inconclusive",
    )


def overhead(row: ProfileRow, margin: float) -> Overhead | None:
    """Whether a method is one-pass with no overhead; None where it was not measured.

    Refuted by any of: more than one image loaded, forwarded or sent backward per labelled image, more than one
    training, a time ratio that is costlier, a memory ratio above 1 + margin. Confirmed where none holds
    and the time ratio is equal or cheaper. Otherwise inconclusive.
    """
    counts = {
        "images loaded": row.images_loaded,
        "forward passes": row.forward_images,
        "backward passes": row.backward_images,
    }
    if row.status != "ok" or None in counts.values():
        return None
    against = [f"{n:.3g} {what} per labelled image" for what, n in counts.items() if n is not None and n > 1.005]
    if row.generations > 1:
        against.append(f"{row.generations} trainings in a row")
    time = row.time_ratio if row.timing_valid else None
    if time is not None and time.verdict == "costlier":
        against.append(f"time ×{time.median:.3f} [{time.low:.3f}, {time.high:.3f}]")
    if row.memory_ratio is not None and row.memory_ratio > 1 + margin:
        against.append(f"memory ×{row.memory_ratio:.3f}")
    if against:
        return Overhead(verdict="refuted", because=tuple(against))
    if time is None:
        why = "; ".join(row.timing_problems) or "no valid timing"
        return Overhead(verdict="inconclusive", because=(why,))
    told = f"time ×{time.median:.3f} [{time.low:.3f}, {time.high:.3f}]"
    if time.verdict == "inconclusive":
        return Overhead(verdict="inconclusive", because=(f"{told} crosses the margin of {margin:g}",))
    if row.memory_ratio is None:
        return Overhead(verdict="inconclusive", because=("memory was not measured",))
    passes = "one image loaded, one forward and one backward pass per labelled image"
    return Overhead(verdict="confirmed", because=(passes, told, f"memory ×{row.memory_ratio:.3f}"))
