"""From trial records to leaderboards: pure, deterministic, no torch, no Ray.

A table holds what can be compared: one data set (and its fingerprint), network, image size, protocol and
version, recipe, precision and split. A row is one variant of one method. Rows are ordered by mean top-1
to be read, not to crown: the interval of the gain says what the seeds can tell apart, and rows that they cannot
tell apart share a rank.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sdbench.cost.records import ProfileResult
from sdbench.leaderboard_costs import Hardware, ratios
from sdbench.leaderboard_groups import comparable, ground, hardware_in_use
from sdbench.leaderboard_iso_cost import Finished, finished, iso_costs
from sdbench.leaderboard_notes import cost_notes, reason_of, scaling_notes, seed_notes, trial_notes
from sdbench.leaderboard_profiles import ProfileIndex, conditions, index_profiles, step_costs
from sdbench.leaderboard_published import beside, published_notes
from sdbench.leaderboard_ranks import Standing, standings
from sdbench.leaderboard_records import STATUSES, Board, CostRatio, IsoCost, Row, StepCost, Table
from sdbench.leaderboard_tuning import tuning_notes
from sdbench.leaderboard_variants import Variant, choose_baseline, named_baseline, variants, without_duplicates
from sdbench.published import PublishedNumber
from sdbench.spec import Metrics, Scaled, TrialResult
from sdbench.statistics import MeanStd, mean_std, paired_difference


def build_board(
    results: Iterable[TrialResult],
    *,
    baseline: str | None = None,
    damaged: Sequence[str] = (),
    profiles: Iterable[ProfileResult] = (),
    published: Sequence[PublishedNumber] = (),
    fruitless: Sequence[str] = (),
) -> Board:
    """The leaderboard of all results, in whatever order they come.

    baseline: the method that gains and costs are relative to; by default, in each table, the one that
    most records name. damaged: sentences on records that could not be read; they become notes.
    profiles: where one fits a table, its rows say what a training step costs (``leaderboard_profiles``).
    published: numbers to be shown beside the measured ones; nothing is computed from them.
    fruitless: sentences on methods that were tuned and have no row, since no search trial finished; they become notes.
    Every trial that did not finish is counted in its row and explained in the table's notes. Earlier
    generations of a chain are not rows; their cost is added to the last generation's.
    """
    by_id, notes = without_duplicates(results)
    shared = _Shared(by_id, index_profiles(profiles), finished(by_id.values()), published)
    tables = [_table(group, baseline, shared) for group in comparable(by_id)]
    notes += fruitless
    notes += [f"record left out: {sentence}" for sentence in sorted(damaged)]
    return Board(tables=tuple(t for t in tables if t is not None), notes=tuple(notes))


@dataclass(frozen=True)
class _Shared:
    """What every table draws on."""

    by_id: Mapping[str, TrialResult]
    profiles: ProfileIndex
    finished: Finished
    published: Sequence[PublishedNumber]


def _table(results: Sequence[TrialResult], baseline: str | None, shared: _Shared) -> Table | None:
    """One table; None for earlier generations that all finished and whose last generation has none yet."""
    found, notes = variants([r for r in results if r.spec.generation is None], shared.by_id)
    earlier = [r for r in results if r.spec.generation is not None and r.status != "ok"]
    if not found and not earlier:
        return None
    base_name = baseline or named_baseline(results)
    base, about_base = choose_baseline(found, base_name)
    hardware = hardware_in_use(found)
    task = conditions(results, base_name)
    steps, about_steps = step_costs(found, task, hardware, shared.profiles)
    places = standings(found, base, steps)
    equal = iso_costs(found, base, steps, shared.finished)
    common = ground(results, task.num_classes)
    rows = [
        _row(v, base, hardware, step, place, iso, beside(v.method, common, shared.published))
        for v, step, place, iso in zip(found, steps, places, equal, strict=True)
    ]
    rows.sort(key=_reading_order)
    notes = about_base + seed_notes(rows) + notes + about_steps + published_notes(rows)
    for v in found:
        notes += tuning_notes(v, common) + trial_notes(v) + scaling_notes(v) + cost_notes(v, base)
    notes += sorted(f"{r.spec.title}: {r.status}: {reason_of(r)}" for r in earlier)
    return Table(
        **dict(common),
        baseline=base.label if base else None,
        hardware=tuple(h.label for h in hardware),
        rows=tuple(rows),
        notes=tuple(notes),
    )


def _reading_order(row: Row) -> tuple[float, str]:
    """By mean top-1, the highest first, then by label; rows without a finished seed last."""
    return -row.metrics["top1"].mean if row.metrics else 1.0, row.label


def _row(
    variant: Variant,
    base: Variant | None,
    hardware: Sequence[Hardware],
    step: StepCost | None,
    place: Standing,
    iso_cost: IsoCost | None,
    published: tuple[PublishedNumber, ...],
) -> Row:
    top1 = variant.top1()
    done = [variant.trials[seed] for seed in top1]
    forwards = [cost.forward_per_image for cost in variant.costs.values()]
    known = [f for f in forwards if f is not None]
    statuses = Counter(r.status for r in variant.trials.values())
    return Row(
        label=variant.label,
        caveat=variant.caveat,
        method=variant.method,
        params=dict(sorted(variant.params.items())),
        baseline=variant is base,
        seeds=tuple(top1),
        metrics=_metrics([r.metrics for r in done if r.metrics]),
        scaled=_scaled([r.scaled for r in done if r.scaled]),
        gain=paired_difference(top1, base.top1()) if base and variant is not base and done else None,
        gain_p=place.gain_p,
        rank=place.rank,
        costs=tuple(_cost_ratio(variant, base, h) for h in hardware),
        forward_per_image=mean_std(known).mean if known and len(known) == len(forwards) else None,
        auxiliary_parameters=max((r.cost.auxiliary_parameters for r in done if r.cost), default=None),
        state_bytes=max((r.cost.state_bytes for r in done if r.cost), default=None),
        step=step,
        pareto=place.pareto,
        iso_cost=iso_cost,
        published=published,
        tuned=next((r.tuned for r in variant.trials.values() if r.tuned), None),
        statuses={status: statuses[status] for status in STATUSES if statuses[status]},
    )


def _metrics(found: Sequence[Metrics]) -> dict[str, MeanStd]:
    if not found:
        return {}
    return {name: mean_std(getattr(m, name) for m in found) for name in Metrics.model_fields}


def _scaled(found: Sequence[Scaled]) -> dict[str, MeanStd]:
    if not found:
        return {}
    values = [scaled.named for scaled in found]
    return {name: mean_std(v[name] for v in values) for name in values[0]}


def _cost_ratio(variant: Variant, base: Variant | None, hardware: Hardware) -> CostRatio:
    time, memory = ratios(variant.costs, base.costs if base else {}, hardware)
    return CostRatio(hardware=hardware.label, time=time, memory=memory)
