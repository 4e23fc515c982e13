"""What a table's notes say: seeds that differ, trials that did not finish, costs that are missing and why."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

from sdbench.leaderboard_records import Row
from sdbench.leaderboard_variants import Variant, seed_list
from sdbench.spec import TEMPERATURES, TrialResult

REASON_LENGTH = 300
"""Characters of a failed trial's reason that a note keeps; the record has all of it."""


def seed_notes(rows: Sequence[Row]) -> list[str]:
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


def trial_notes(variant: Variant) -> list[str]:
    """Why trials did not finish, seeds with the same reason together."""
    reasons: dict[tuple[str, str], list[int]] = defaultdict(list)
    for seed, result in variant.trials.items():
        if result.status != "ok":
            reasons[result.status, reason_of(result)].append(seed)
    return [f"{variant.label} {seed_list(seeds)}: {s}: {why}" for (s, why), seeds in sorted(reasons.items())]


def reason_of(result: TrialResult) -> str:
    text = " ".join(result.reason.split()) or "no reason recorded"
    return text if len(text) <= REASON_LENGTH else text[: REASON_LENGTH - 1] + "…"


def scaling_notes(variant: Variant) -> list[str]:
    """Temperatures that the held-out images did not determine."""
    ends: dict[float, list[int]] = defaultdict(list)
    for seed, result in variant.trials.items():
        if result.scaled and result.scaled.temperature in TEMPERATURES:
            ends[result.scaled.temperature].append(seed)
    who = variant.label
    return [
        f"{who} {seed_list(seeds)}: temperature at the end of its range, {t:g}" for t, seeds in sorted(ends.items())
    ]


def cost_notes(variant: Variant, base: Variant | None) -> list[str]:
    """Why costs are missing, and pairs that did not start from the same weights."""
    own, who, notes = variant.costs, variant.label, []
    untimed = {seed: cost.problem for seed, cost in own.items() if cost.seconds is None}
    if untimed:
        notes.append(f"{who} {seed_list(untimed)}: timing left out: {_reasons(untimed.values())}")
    if base is None or variant is base:
        return notes
    alone = [s for s in own if s not in base.costs or base.costs[s].hardware != own[s].hardware]
    if alone:
        notes.append(f"{who} {seed_list(alone)}: no {base.label} trial on the same hardware to set costs against")
    apart = [s for s in own if s in base.trials and _unlike_start(variant.trials[s], base.trials[s])]
    if apart:
        notes.append(f"{who} {seed_list(apart)}: did not start from the same weights as {base.label}")
    return notes


def _reasons(problems: Iterable[str]) -> str:
    """Each reason once, the loads that were measured as a range.

    >>> _reasons(["load 2.3 above 2 cores; a shared device", "load 5.5 above 2 cores", "a shared device"])
    'load 2.3 to 5.5 above 2 cores; a shared device'
    """
    loads: dict[str, list[str]] = {}
    for reason in dict.fromkeys(part for problem in problems for part in problem.split("; ")):
        measured = re.fullmatch(r"load (\d+\.\d+) (above \d+ cores)", reason)
        loads.setdefault(measured[2] if measured else reason, []).extend([measured[1]] if measured else [])
    return "; ".join(f"load {_range(found)} {what}" if found else what for what, found in loads.items())


def _range(loads: Sequence[str]) -> str:
    ends = sorted(loads, key=float)
    return " to ".join(dict.fromkeys((ends[0], ends[-1])))


def _unlike_start(a: TrialResult, b: TrialResult) -> bool:
    return bool(a.pairing and b.pairing and a.pairing.initial_weights != b.pairing.initial_weights)
