"""One method beside others: differences paired by seed, tests, cost ratios, verdicts. Pure; no torch, no Ray.

Differences are method minus reference. What can be compared is what shares a table of the board (``leaderboard``);
a method that is in several tables is compared in each.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sdbench.comparison_gate import Condition, judge, undecidable
from sdbench.comparison_pace import NOTHING, Question, paces
from sdbench.comparison_records import METRICS, Compared, ComparedTable, Comparison, Metric, StepRatio, Verdict
from sdbench.comparison_selection import Contest, choose
from sdbench.comparison_summary import summarize
from sdbench.cost.records import ProfileResult
from sdbench.leaderboard_costs import Hardware, ratios
from sdbench.leaderboard_groups import ground, hardware_in_use
from sdbench.leaderboard_notes import cost_notes, scaling_notes, trial_notes
from sdbench.leaderboard_profiles import ProfileIndex, conditions, index_profiles, step_costs
from sdbench.leaderboard_records import CostRatio, StepCost
from sdbench.leaderboard_variants import Variant, named_baseline, without_duplicates
from sdbench.spec import TrialResult
from sdbench.statistics import (
    LEAST_SEEDS,
    LEVEL,
    MeanStd,
    PairedDifference,
    holm_known,
    mean_std,
    paired_difference,
    paired_p_value,
)


def compare(
    results: Iterable[TrialResult],
    names: Sequence[str],
    *,
    reference: str | None = None,
    metric: str = "top1",
    fail_if: Sequence[Condition] = (),
    profiles: Iterable[ProfileResult] = (),
    damaged: Sequence[str] = (),
    question: Question = NOTHING,
) -> Comparison:
    """Each named method against the reference, in every table that has both.

    names: methods, ``name[param=value]`` or labels of the board; a name that several variants in a table have
    stands for all of them. reference: likewise, but one variant; by default the first of ``names``. metric: one of
    ``METRICS``. fail_if: conditions that are judged for every method compared. profiles: where a step's cost is looked
    up. question: what is asked of learning curves. p-values are adjusted by Holm over all comparisons of the answer.
    Raises UserError for fewer than two methods, unknown names (with near matches), a reference that several variants
    go by, and methods that share no table.
    """
    by_id, notes = without_duplicates(results)
    contests, more, nowhere = choose(by_id, names, reference)
    index = index_profiles(profiles)
    rows = [[_Pair(METRICS[metric], contest.reference, other) for other in contest.others] for contest in contests]
    adjusted = holm_known({(i, k): pair.p for i, row in enumerate(rows) for k, pair in enumerate(row)})
    tables = tuple(
        _table(contest, row, [adjusted[i, k] for k in range(len(row))], index, question)
        for i, (contest, row) in enumerate(zip(contests, rows, strict=True))
    )
    return Comparison(
        metric=metric,
        higher_is_better=METRICS[metric].higher_is_better,
        comparisons=sum(p is not None for p in adjusted.values()),
        tables=tables,
        outcomes=(
            *(judge(c, table, row) for c in fail_if for table in tables for row in table.rows),
            *(undecidable(c, name) for c in fail_if for name in nowhere),
        ),
        target=question.target,
        at=question.at,
        summary=summarize(tables, [contest.called for contest in contests]),
        notes=(*notes, *more, *(f"record left out: {sentence}" for sentence in sorted(damaged))),
    )


@dataclass(frozen=True)
class _Pair:
    """A method and the reference under one metric."""

    metric: Metric
    reference: Variant
    other: Variant

    @property
    def difference(self) -> PairedDifference:
        return paired_difference(self.other.values(self.metric.name), self.reference.values(self.metric.name))

    @property
    def p(self) -> float | None:
        """Not adjusted; None below three common seeds."""
        own, other = self.other.values(self.metric.name), self.reference.values(self.metric.name)
        return paired_p_value(own, other) if len(own.keys() & other.keys()) >= LEAST_SEEDS else None

    def verdict(self, p: float | None) -> Verdict:
        """By the adjusted p and the metric's direction."""
        mean = self.difference.mean
        if p is None or mean is None:
            return "n too small"
        if p > LEVEL:
            return "not distinguishable"
        return "better" if (mean > 0) == self.metric.higher_is_better else "worse"


def _table(
    contest: Contest,
    pairs: Sequence[_Pair],
    adjusted: Sequence[float | None],
    index: ProfileIndex,
    question: Question,
) -> ComparedTable:
    reference, others = contest.reference, contest.others
    found = [reference, *others]
    hardware = hardware_in_use(found)
    task = conditions(contest.trials, named_baseline(contest.trials))
    steps, about_steps = step_costs(found, task, hardware, index)
    rows = [
        _row(pair, p, hardware, _step_ratio(step, steps[0], measured=reference.method == task.baseline))
        for pair, p, step in zip(pairs, adjusted, steps[1:], strict=True)
    ]
    notes = [*contest.notes, *_spread_notes(rows, reference.label), *about_steps, *_step_notes(rows, task.baseline)]
    for variant in found:
        notes += trial_notes(variant) + scaling_notes(variant) + cost_notes(variant, reference)
    found_paces, about_paces = paces(question, reference, others)
    return ComparedTable(
        **dict(ground(contest.trials, task.num_classes)),
        reference=reference.label,
        reference_value=_value(reference.values(pairs[0].metric.name)),
        hardware=tuple(h.label for h in hardware),
        rows=tuple(rows),
        paces=found_paces,
        notes=(*notes, *about_paces),
    )


def _row(pair: _Pair, p: float | None, hardware: Sequence[Hardware], step: StepRatio | None) -> Compared:
    other, reference = pair.other, pair.reference
    means = {name: paired_difference(other.values(name), reference.values(name)).mean for name in METRICS}
    costs = [(place, *ratios(other.costs, reference.costs, place)) for place in hardware]
    return Compared(
        label=other.label,
        caveat=other.caveat,
        method=other.method,
        params=dict(sorted(other.params.items())),
        value=_value(other.values(pair.metric.name)),
        difference=pair.difference,
        mean_differences={name: mean for name, mean in means.items() if mean is not None},
        p=pair.p,
        p_adjusted=p,
        verdict=pair.verdict(p),
        costs=tuple(CostRatio(hardware=place.label, time=time, memory=memory) for place, time, memory in costs),
        step=step,
    )


def _value(values: Mapping[int, float]) -> MeanStd | None:
    return mean_std(values.values()) if values else None


def _step_ratio(own: StepCost | None, reference: StepCost | None, *, measured: bool) -> StepRatio | None:
    """What a step costs relative to the reference's, both from one profile; None where they are not.

    measured: whether the reference is the profile's baseline; then the ratio is what was measured. Against another
    method it is the quotient of two measured ratios, whose interval is not known.
    """
    if own is None or reference is None or own.profile_id != reference.profile_id:
        return None
    time, base = own.time, 1.0 if measured else reference.time.median if reference.time else None
    return StepRatio(
        profile_id=own.profile_id,
        hardware=own.hardware,
        time=time.median / base if time and base else None,
        low=time.low if time and measured else None,
        high=time.high if time and measured else None,
        memory=own.memory / reference.memory if own.memory and reference.memory else None,
    )


def _step_notes(rows: Sequence[Compared], baseline: str) -> list[str]:
    quotients = [row.label for row in rows if row.step and row.step.time is not None and row.step.low is None]
    if not quotients:
        return []
    of = f" to {baseline}" if baseline else ""
    return [f"step × of {', '.join(quotients)}: the quotient of two ratios{of}, so without an interval"]


def _spread_notes(rows: Sequence[Compared], reference: str) -> list[str]:
    """Differences that are the same for every seed: the figures on display look surer than seeds can make them."""
    return [
        f"{row.label}: its difference to {reference} is the same for all {row.difference.n} seeds, to the last digit; "
        "p and interval take that at its word"
        for row in rows
        if row.p is not None and _narrow(row.difference)
    ]


def _narrow(found: PairedDifference) -> bool:
    """Whether the interval has no width, rounding aside."""
    return found.low is not None and found.high is not None and found.high - found.low <= 1e-12
