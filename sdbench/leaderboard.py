"""From trial records to leaderboards: pure, deterministic, no torch, no Ray.

A table holds what can be compared: one data set (and its fingerprint), network, image size, protocol and
version, recipe, precision and split. A row is one variant of one method. Rows are ordered by mean top-1
to be read, not to crown: the interval of the gain says what the seeds can tell apart.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sdbench.cost.records import ProfileResult
from sdbench.leaderboard_costs import Hardware, ratios
from sdbench.leaderboard_profiles import ProfileIndex, conditions, index_profiles, step_costs
from sdbench.leaderboard_records import STATUSES, Board, CostRatio, Row, StepCost, Table
from sdbench.leaderboard_variants import (
    Variant,
    choose_baseline,
    named_baseline,
    seed_list,
    variants,
    without_duplicates,
)
from sdbench.spec import TEMPERATURES, Metrics, Scaled, TrialResult, canonical
from sdbench.statistics import MeanStd, mean_std, paired_difference

REASON_LENGTH = 300
"""Characters of a failed trial's reason that a note keeps; the record has all of it."""


def build_board(
    results: Iterable[TrialResult],
    *,
    baseline: str | None = None,
    damaged: Sequence[str] = (),
    profiles: Iterable[ProfileResult] = (),
) -> Board:
    """The leaderboard of all results, in whatever order they come.

    baseline: the method that gains and costs are relative to; by default, in each table, the one that
    most records name. damaged: sentences on records that could not be read; they become notes.
    profiles: where one fits a table, its rows say what a training step costs (``leaderboard_profiles``).
    Every trial that did not finish is counted in its row and explained in the table's notes. Earlier
    generations of a chain are not rows; their cost is added to the last generation's.
    """
    by_id, notes = without_duplicates(results)
    groups: dict[tuple[Any, ...], list[TrialResult]] = defaultdict(list)
    for trial_id in sorted(by_id):
        groups[_table_key(by_id[trial_id])].append(by_id[trial_id])
    index = index_profiles(profiles)
    tables = [_table(groups[key], baseline, by_id, index) for key in sorted(groups)]
    notes += [f"record left out: {sentence}" for sentence in sorted(damaged)]
    return Board(tables=tuple(t for t in tables if t is not None), notes=tuple(notes))


def _table_key(result: TrialResult) -> tuple[Any, ...]:
    spec, identity = result.spec, result.identity
    size = -1 if spec.image_size is None else spec.image_size
    recipe = (spec.recipe.epochs, canonical(spec.recipe.model_dump(mode="json")))
    rules = (spec.protocol, identity.protocol_version, *recipe, spec.split, spec.precision)
    return (spec.dataset, spec.network, size, *rules, identity.data_fingerprint)


def _table(
    results: Sequence[TrialResult], baseline: str | None, by_id: Mapping[str, TrialResult], index: ProfileIndex
) -> Table | None:
    """One table; None for earlier generations that all finished and whose last generation has none yet."""
    found, notes = variants([r for r in results if r.spec.generation is None], by_id)
    earlier = [r for r in results if r.spec.generation is not None and r.status != "ok"]
    if not found and not earlier:
        return None
    base_name = baseline or named_baseline(results)
    base, about_base = choose_baseline(found, base_name)
    hardware = _hardware_in_use(found)
    task = conditions(results, base_name)
    steps, about_steps = step_costs(found, task, hardware, index)
    rows = sorted((_row(v, base, hardware, s) for v, s in zip(found, steps, strict=True)), key=_reading_order)
    notes = about_base + _seed_notes(rows) + notes + about_steps
    for v in found:
        notes += _trial_notes(v) + _scaling_notes(v) + _cost_notes(v, base)
    notes += sorted(f"{r.spec.title}: {r.status}: {_reason(r)}" for r in earlier)
    spec = results[0].spec
    return Table(
        dataset=spec.dataset,
        data_fingerprint=results[0].identity.data_fingerprint,
        image_size=spec.image_size,
        network=spec.network,
        num_classes=task.num_classes,
        protocol=spec.protocol,
        protocol_version=results[0].identity.protocol_version,
        split=spec.split,
        precision=spec.precision,
        recipe=spec.recipe,
        baseline=base.label if base else None,
        hardware=tuple(h.label for h in hardware),
        rows=tuple(rows),
        notes=tuple(notes),
    )


def _reading_order(row: Row) -> tuple[float, str]:
    """By mean top-1, the highest first, then by label; rows without a finished seed last."""
    return -row.metrics["top1"].mean if row.metrics else 1.0, row.label


def _hardware_in_use(found: Sequence[Variant]) -> list[Hardware]:
    """The most used first."""
    used = Counter(cost.hardware for v in found for cost in v.costs.values())
    return sorted(used, key=lambda hardware: (-used[hardware], hardware))


def _row(variant: Variant, base: Variant | None, hardware: Sequence[Hardware], step: StepCost | None) -> Row:
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
        costs=tuple(_cost_ratio(variant, base, h) for h in hardware),
        forward_per_image=mean_std(known).mean if known and len(known) == len(forwards) else None,
        auxiliary_parameters=max((r.cost.auxiliary_parameters for r in done if r.cost), default=None),
        state_bytes=max((r.cost.state_bytes for r in done if r.cost), default=None),
        step=step,
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


def _seed_notes(rows: Sequence[Row]) -> list[str]:
    """Which rows rest on which seeds, where they are not all the same."""
    by_seeds: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for row in rows:
        by_seeds[row.seeds].append(row.label)
    if len(by_seeds) < 2:
        return []
    parts = [
        f"{seed_list(seeds) if seeds else 'none'}: {', '.join(sorted(by_seeds[seeds]))}" for seeds in sorted(by_seeds)
    ]
    return [f"finished seeds differ between rows ({'; '.join(parts)})"]


def _trial_notes(variant: Variant) -> list[str]:
    """Why trials did not finish, seeds with the same reason together."""
    reasons: dict[tuple[str, str], list[int]] = defaultdict(list)
    for seed, result in variant.trials.items():
        if result.status != "ok":
            reasons[result.status, _reason(result)].append(seed)
    return [f"{variant.label} {seed_list(seeds)}: {s}: {why}" for (s, why), seeds in sorted(reasons.items())]


def _reason(result: TrialResult) -> str:
    text = " ".join(result.reason.split()) or "no reason recorded"
    return text if len(text) <= REASON_LENGTH else text[: REASON_LENGTH - 1] + "…"


def _scaling_notes(variant: Variant) -> list[str]:
    """Temperatures that the held-out images did not determine."""
    ends: dict[float, list[int]] = defaultdict(list)
    for seed, result in variant.trials.items():
        if result.scaled and result.scaled.temperature in TEMPERATURES:
            ends[result.scaled.temperature].append(seed)
    who = variant.label
    return [
        f"{who} {seed_list(seeds)}: temperature at the end of its range, {t:g}" for t, seeds in sorted(ends.items())
    ]


def _cost_notes(variant: Variant, base: Variant | None) -> list[str]:
    """Why costs are missing, and pairs that did not start from the same weights."""
    own, who, notes = variant.costs, variant.label, []
    untimed = {seed: cost.problem for seed, cost in own.items() if cost.seconds is None}
    if untimed:
        reasons = "; ".join(dict.fromkeys(untimed.values()))
        notes.append(f"{who} {seed_list(untimed)}: timing left out: {reasons}")
    if base is None or variant is base:
        return notes
    alone = [s for s in own if s not in base.costs or base.costs[s].hardware != own[s].hardware]
    if alone:
        notes.append(f"{who} {seed_list(alone)}: no {base.label} trial on the same hardware to set costs against")
    apart = [s for s in own if s in base.trials and _unlike_start(variant.trials[s], base.trials[s])]
    if apart:
        notes.append(f"{who} {seed_list(apart)}: did not start from the same weights as {base.label}")
    return notes


def _unlike_start(a: TrialResult, b: TrialResult) -> bool:
    return bool(a.pairing and b.pairing and a.pairing.initial_weights != b.pairing.initial_weights)
