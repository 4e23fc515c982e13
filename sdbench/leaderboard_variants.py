"""Which trials make up a row: duplicates, variants of a method and their labels, the choice of the baseline."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sdbench.leaderboard_costs import Spent, spent
from sdbench.spec import Metrics, TrialResult, Value, canonical


@dataclass(frozen=True)
class Variant:
    """One row's trials, one per seed, and what the finished ones cost."""

    label: str
    caveat: str
    method: str
    params: Mapping[str, Value]
    trials: Mapping[int, TrialResult]
    costs: Mapping[int, Spent]

    def top1(self) -> dict[int, float]:
        """Top-1 accuracy per finished seed."""
        return self.values("top1")

    def values(self, metric: str) -> dict[int, float]:
        """A metric per finished seed that has it, by its name in ``sdbench list metrics``."""
        done = {seed: r for seed, r in self.trials.items() if r.status == "ok" and r.metrics}
        if metric in Metrics.model_fields:
            return {seed: getattr(r.metrics, metric) for seed, r in done.items()}
        return {seed: r.scaled.named[metric] for seed, r in done.items() if r.scaled}


def without_duplicates(results: Iterable[TrialResult]) -> tuple[dict[str, TrialResult], list[str]]:
    """Results by trial id, the newest complete one where there are several, and notes that say so. Left out, with a
    note: smoke trials, whose epochs were cut short, and search trials."""
    found: dict[str, list[TrialResult]] = defaultdict(list)
    smoke, searched = set(), set()
    for result in results:
        if result.spec.limit_steps is not None:
            smoke.add(result.trial_id)
        elif result.spec.search:
            searched.add(result.trial_id)
        else:
            found[result.trial_id].append(result)
    repeated = sorted(trial_id for trial_id, records in found.items() if len(records) > 1)
    notes = [f"{len(smoke)} smoke trial(s) left out, whose epochs were cut short (--limit-steps)"] if smoke else []
    if searched:
        notes.append(f"{len(searched)} search trial(s) of tuning left out, which no board compares")
    if repeated:
        listed = ", ".join(repeated[:10]) + (f" and {len(repeated) - 10} more" if len(repeated) > 10 else "")
        notes.append(f"trials with more than one record, of which the newest complete one counts: {listed}")
    kept = {i: records[0] if len(records) == 1 else max(records, key=newest_complete) for i, records in found.items()}
    return kept, notes


def newest_complete(result: TrialResult) -> tuple[bool, bool, str, str]:
    """Sorts finished above failed above interrupted, then by time; the text makes it a total order."""
    settled = result.status != "interrupted"
    return result.status == "ok", settled, result.provenance.finished, result.model_dump_json()


VariantKey = tuple[str, str, str, str, float, float]


def variant_key(result: TrialResult) -> VariantKey:
    """Equal for trials of one variant in one table: method, parameters, source of the method, and what a search chose
    of the recipe, with the study that it chose in. One study may choose otherwise on another machine."""
    spec, recipe = result.spec, result.spec.recipe
    study = spec.tuning.study if spec.tuning else ""
    own = (spec.method, canonical(spec.params), result.identity.method_source, study)
    return (*own, recipe.lr, recipe.weight_decay)


def variants(results: Sequence[TrialResult], by_id: Mapping[str, TrialResult]) -> tuple[list[Variant], list[str]]:
    """Trials by ``variant_key``, in a fixed order, and notes.

    A seed counts once, in its newest complete trial: two trials of one variant and seed differ in
    threads or in whom they learned from (an earlier generation, a named teacher), and are no two seeds.
    """
    found: dict[VariantKey, dict[int, TrialResult]] = defaultdict(dict)
    again: dict[VariantKey, set[int]] = defaultdict(set)
    for result in results:
        key = variant_key(result)
        other = found[key].get(result.spec.seed)
        if other is not None:
            again[key].add(result.spec.seed)
            result = max(result, other, key=newest_complete)
        found[key][result.spec.seed] = result
    labels = _labels(found)
    ordered = [_variant(labels[key], found[key], by_id) for key in sorted(found)]
    notes = [
        f"{labels[key]} {seed_list(seeds)}: ran more than once, with other threads or another teacher (an earlier "
        "generation or a named network); the newest complete trial counts"
        for key, seeds in sorted(again.items())
    ]
    return ordered, notes


def _variant(label: str, trials: Mapping[int, TrialResult], by_id: Mapping[str, TrialResult]) -> Variant:
    by_seed = dict(sorted(trials.items()))
    costs = {seed: cost for seed, result in by_seed.items() if (cost := spent(result, by_id)) is not None}
    newest = max(by_seed.values(), key=lambda r: r.provenance.finished)
    return Variant(label, newest.caveat, newest.spec.method, newest.spec.params, by_seed, costs)


def _labels(found: Mapping[VariantKey, Mapping[int, TrialResult]]) -> dict[VariantKey, str]:
    """The method's name and, where the table has several variants of it, what they differ in."""
    by_method: dict[str, list[VariantKey]] = defaultdict(list)
    for key in found:
        by_method[key[0]].append(key)
    labels = {}
    for method, keys in by_method.items():
        # A table's trials differ in rate and decay only where those were searched for.
        params = {k: {**_any(found[k]).spec.params, "lr": k[4], "weight_decay": k[5]} for k in keys}
        names = sorted({name for own in params.values() for name in own})
        differing = [n for n in names if len({canonical(own.get(n)) for own in params.values()}) > 1]
        sources, studies = (len({key[place] for key in keys}) > 1 for place in (2, 3))
        for key in keys:
            parts = [f"{n}={_text(params[key][n])}" for n in differing if n in params[key]]
            parts += [f"source={key[2][:8]}"] if sources else []
            parts += [f"study={key[3][:8]}"] if studies else []
            labels[key] = f"{method}[{','.join(parts)}]" if parts else method
    return labels


def _any(trials: Mapping[int, TrialResult]) -> TrialResult:
    return next(iter(trials.values()))


def _text(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def named_baseline(results: Sequence[TrialResult]) -> str:
    """The baseline that most records name; empty where none does."""
    named = Counter(r.baseline for r in results if r.baseline)
    return max(named, key=lambda name: (named[name], name)) if named else ""


def choose_baseline(found: Sequence[Variant], name: str) -> tuple[Variant | None, list[str]]:
    """The baseline's variant with the newest trial, and notes where there is none, or more than one."""
    candidates = [v for v in found if v.method == name and v.top1()]
    if not candidates:
        what = f"{name} has no finished trial in this table" if name else "no record names one"
        return None, [f"no baseline: {what}, so gains and relative costs are left out"]
    newest = max(candidates, key=lambda v: (max(r.provenance.finished for r in v.trials.values()), v.label))
    if len(candidates) == 1:
        return newest, []
    note = f"{len(candidates)} variants of {name}: gains and costs are relative to the newest, {newest.label}"
    return newest, [note]


def seed_list(seeds: Iterable[int]) -> str:
    """Seeds for people, runs of three and more shortened.

    >>> seed_list([3, 0, 1, 2, 7, 8])
    'seeds 0-3, 7, 8'
    >>> seed_list([5])
    'seed 5'
    """
    ordered = sorted(set(seeds))
    runs: list[list[int]] = []
    for seed in ordered:
        if runs and runs[-1][-1] == seed - 1:
            runs[-1].append(seed)
        else:
            runs.append([seed])
    parts = [f"{r[0]}-{r[-1]}" if len(r) > 2 else ", ".join(map(str, r)) for r in runs]
    return f"seed{'' if len(ordered) == 1 else 's'} {', '.join(parts)}"
