"""Accuracy over time, and figures over several data sets: geometric means and performance profiles. Pure; no torch.

A curve is a sequence of (seconds, accuracy), one for each time the test set was evaluated. Between two of them
nobody knows the accuracy, so nothing is interpolated.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

SLOWEST, FASTEST = 1e-6, 1e12
"""Images per second, ends included, between which a speed is believed."""

Curve = Sequence[tuple[float, float]]
"""Points (seconds of training, accuracy), seconds >= 0 and not decreasing."""


def curve_points(lines: Iterable[Mapping[str, Any]], images_per_epoch: float) -> list[tuple[float, float]]:
    """The curve of a trial from the lines of its ``curve.jsonl``, in order.

    images_per_epoch: labelled images, ``cost.labelled_images / epochs_done``. An epoch took images_per_epoch /
    images_per_s seconds of wall time, evaluation not counted. Lines without ``top1`` only add their time. Raises
    ValueError where a line lacks its speed, since later times are not known then.
    """
    seconds: list[float] = []
    points = []
    for line in lines:
        speed = line.get("images_per_s")
        if not isinstance(speed, int | float) or not SLOWEST <= speed <= FASTEST:
            raise ValueError(f"the line of epoch {line.get('epoch', '?')} has no images_per_s, so times are not known")
        seconds.append(images_per_epoch / speed)
        if line.get("top1") is not None:
            points.append((math.fsum(seconds), float(line["top1"])))
    return points


def time_to(curve: Curve, target: float) -> float | None:
    """Seconds at the first point whose accuracy is at least ``target``; None where none is.

    An upper bound of the true time, as the accuracy may have been reached since the point before. Raises ValueError
    for a curve that is not one.
    """
    return next((seconds for seconds, accuracy in _checked(curve) if accuracy >= target), None)


def accuracy_at(curve: Curve, seconds: float) -> float | None:
    """The accuracy at the last point at or before ``seconds``; None before the first.

    Not the best so far: choosing that would select on the test set. After the last point it is the last
    point's, as a network that is trained no more stays what it is. Raises ValueError for a curve that is not one.
    """
    return next((accuracy for at, accuracy in reversed(_checked(curve)) if at <= seconds), None)


def _checked(curve: Curve) -> Curve:
    times = [seconds for seconds, _ in curve]
    if any(later < earlier for earlier, later in pairwise(times)) or (times and times[0] < 0):
        raise ValueError("seconds of a curve must start at 0 or later and not decrease")
    if not all(math.isfinite(value) for point in curve for value in point):
        raise ValueError("seconds and accuracies of a curve must be finite")
    return curve


def geometric_mean(ratios: Iterable[float]) -> float:
    """(r_1 ... r_n)^(1/n) of n >= 1 positive ratios, such as a method's cost ratios over data sets.

    The right mean of ratios: the mean of inverses is the inverse of the mean, and it does not matter which of two
    methods is the reference. In logarithms with an exact sum: no overflow, no effect of the order. Raises
    ValueError for none, or one that is not positive and finite.

    >>> geometric_mean([0.5, 2.0])
    1.0
    """
    found = tuple(ratios)
    if not found or not all(r > 0 and math.isfinite(r) for r in found):
        raise ValueError(f"need at least one ratio, all positive and finite, got {found}")
    if min(found) == max(found):
        return found[0]
    return math.exp(math.fsum(map(math.log, found)) / len(found))


def performance_profile(
    costs: Mapping[str, Mapping[str, float | None]], taus: Sequence[float]
) -> dict[str, list[float]]:
    """Dolan and More's performance profiles: per method and tau, the share of problems that the method solves
    within tau times the cost of the best method on that problem; in [0, 1], not decreasing in tau.

    costs: per method and problem (a data set and network, say), a positive cost such as the time to a target
    accuracy; None or absent where the method does not solve it. taus: each >= 1; at 1 a method's share is that of the
    problems on which it is best, ties included. The denominator is all problems that any method names, those that
    nobody solves included. Depends on which methods take part. Raises ValueError for a cost that is not
    positive and finite, a tau below 1, no problem.

    Source: E. D. Dolan and J. J. More, Benchmarking optimization software with performance profiles,
    Mathematical Programming 91, 2002, https://arxiv.org/abs/cs/0102001.
    """
    problems = sorted({problem for own in costs.values() for problem in own})
    if not problems or not all(tau >= 1 for tau in taus):
        raise ValueError("need at least one problem, and every tau >= 1")
    solved = [cost for own in costs.values() for cost in own.values() if cost is not None]
    if not all(cost > 0 and math.isfinite(cost) for cost in solved):
        raise ValueError("costs must be positive and finite; None where a problem is not solved")
    best: dict[str, float] = {}
    for own in costs.values():
        for problem, cost in own.items():
            if cost is not None:
                best[problem] = min(cost, best.get(problem, math.inf))
    return {method: [_share(own, best, tau, len(problems)) for tau in taus] for method, own in costs.items()}


def _share(own: Mapping[str, float | None], best: Mapping[str, float], tau: float, problems: int) -> float:
    return sum(cost is not None and cost <= tau * best[problem] for problem, cost in own.items()) / problems
