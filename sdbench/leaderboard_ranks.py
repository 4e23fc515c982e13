"""How a table's rows stand: shared ranks, the test of each gain, the front of accuracy against cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sdbench.leaderboard_records import StepCost
from sdbench.leaderboard_variants import Variant
from sdbench.ranking import pareto_front, ranks
from sdbench.statistics import LEAST_SEEDS, holm_known, mean_std, paired_p_value


@dataclass(frozen=True, slots=True)
class Standing:
    """What ``Row`` has under the same names."""

    rank: int | None
    gain_p: float | None
    pareto: bool | None


def standings(found: Sequence[Variant], base: Variant | None, steps: Sequence[StepCost | None]) -> list[Standing]:
    """One for each variant of a table, in order; each counts as a method of its own.

    steps: what a step of each costs. The baseline's step has the cost 1 where its record has no ratio to itself.
    """
    top1 = [variant.top1() for variant in found]
    rank = ranks({str(i): own for i, own in enumerate(top1)})
    p_values: dict[int, float | None] = {}
    points: list[tuple[float | None, float | None]] = []
    for i, (variant, own, step) in enumerate(zip(found, top1, steps, strict=True)):
        if base is not None and variant is not base:
            enough = len(own.keys() & base.top1().keys()) >= LEAST_SEEDS
            p_values[i] = paired_p_value(own, base.top1()) if enough else None
        cost = step.time.median if step and step.time else 1.0 if step and variant is base else None
        points.append((mean_std(own.values()).mean if own else None, cost))
    gain_p, front = holm_known(p_values), pareto_front(points)
    return [Standing(rank[str(i)], gain_p.get(i), front[i]) for i in range(len(found))]
