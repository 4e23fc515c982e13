"""Which finished trials are looked at, in groups that can be set side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from sdbench.data import canonical_name
from sdbench.errors import UserError
from sdbench.leaderboard_groups import comparable
from sdbench.leaderboard_variants import Variant, variants, without_duplicates
from sdbench.selectors import parse_seeds, split_list
from sdbench.spec import TrialResult
from sdbench.store import Store
from sdbench.teachers import is_variant

LEAST_OF_ID = 4
"""Characters of an id that mean a trial, at least; fewer are rather a method's name that was mistyped."""


@dataclass(frozen=True)
class Group:
    """Trials of one setting, by variants of methods; each variant has a finished trial for each seed."""

    title: str
    variants: tuple[Variant, ...]


@dataclass(frozen=True)
class Choice:
    """What was asked for, as typed; lists may be comma-separated, empty ones mean everything."""

    trials: Sequence[str]
    datasets: Sequence[str] = ()
    networks: Sequence[str] = ()
    seeds: Sequence[str] = ()


def choose(store: Store, choice: Choice) -> list[Group]:
    """The finished trials that a choice means, all that one thing may be compared in together.

    An item is a method, a glob, ``name[param=value]``, ``all``, a trial's id, four characters of its beginning at
    least, or its folder.
    Raises UserError for an item that means no finished trial.
    """
    by_id, _ = without_duplicates(store.scan().results)
    datasets = {canonical_name(name) for name in split_list(choice.datasets)}
    networks = split_list(choice.networks)
    seeds = parse_seeds(split_list(choice.seeds)) if choice.seeds else ()
    allowed = [
        r
        for r in by_id.values()
        if (not datasets or r.spec.dataset in datasets)
        and (not networks or any(fnmatchcase(r.spec.network, n) for n in networks))
        and (not seeds or r.spec.seed in seeds)
    ]
    chosen: dict[str, TrialResult] = {}
    problems = []
    for item in split_list(choice.trials) or ["all"]:
        meant = _meant(item, allowed)
        chosen.update({r.trial_id: r for r in meant if r.status == "ok"})
        if not any(r.status == "ok" for r in meant):
            ended = ", ".join(sorted({r.status for r in meant}))
            problems.append(
                f"{item}: its trials ended as {ended}; `sdbench show` says why"
                if meant
                else f"no trial here is {item!r}: a method, {LEAST_OF_ID} characters of an id or a folder; see "
                "`sdbench list runs`, or give another --results"
            )
    if problems:
        raise UserError(problems)
    return [_group(results, by_id) for results in comparable(chosen)]


def _meant(item: str, allowed: Sequence[TrialResult]) -> list[TrialResult]:
    """By method where there is one of that name, last generations only, else by id."""
    last = [r for r in allowed if r.spec.generation is None]
    if item == "all":
        return last
    named = [r for r in last if fnmatchcase(r.spec.method, item)]
    if not named and "[" in item:
        named = [r for r in last if is_variant(r, item)]
    start = Path(item).name
    return named or [r for r in allowed if len(start) >= LEAST_OF_ID and r.trial_id.startswith(start)]


def _group(results: Sequence[TrialResult], by_id: dict[str, TrialResult]) -> Group:
    spec = results[0].spec
    split = "" if spec.split == "full" else f", {spec.split}"
    title = f"{spec.dataset}, {spec.network}, {spec.protocol}, {spec.recipe.epochs} epochs{split}"
    return Group(title, tuple(variants(results, by_id)[0]))
