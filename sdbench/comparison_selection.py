"""Which variants of which tables the names of a comparison mean."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from sdbench.errors import UserError, unknown
from sdbench.leaderboard_cells import full_title
from sdbench.leaderboard_groups import comparable, ground
from sdbench.leaderboard_variants import Variant, variants
from sdbench.selectors import parse_variant
from sdbench.spec import TrialResult, Value
from sdbench.validation_tuning import SEARCHED


@dataclass(frozen=True)
class Contest:
    """What is compared in one table. trials: all of the table's, last generations and earlier ones. called: by label,
    what each variant goes by over several tables."""

    trials: Sequence[TrialResult]
    reference: Variant
    others: Sequence[Variant]
    notes: Sequence[str]
    called: Mapping[str, str]


def choose(
    by_id: Mapping[str, TrialResult], names: Sequence[str], reference: str | None
) -> tuple[list[Contest], list[str], list[str]]:
    """The contests in all tables that have the reference and another of the named methods, notes on the others, and
    the names, patterns aside, that are in none.

    Raises UserError as ``comparison.compare`` does.
    """
    named = list(dict.fromkeys(names))
    reference = reference or (named[0] if named else "")
    others = [name for name in named if name != reference]
    if not reference or not others:
        raise UserError("a comparison takes two methods; for example: sdbench compare ce zipf")
    groups = [(group, *variants([r for r in group if r.spec.generation is None], by_id)) for group in comparable(by_id)]
    _refuse_unknown([reference, *others], [found for _, found, _ in groups])
    single = [n for n in (reference, *others) if not _pattern(n) and all(len(matching(n, v)) < 2 for _, v, _ in groups)]
    contests, notes = [], []
    for group, found, about in groups:
        base = _only(reference, matching(reference, found), _title(group))
        chosen = [v for v in _ordered(others, found) if v is not base]
        missing = [name for name in others if not matching(name, found)]
        if base is None and chosen:
            notes.append(f"left out: {_title(group)} has {_labels(chosen)}, but no {reference}")
        elif base is not None and chosen:
            more = [f"{name} has no trial here" for name in missing]
            called = {v.label: _called(v, single, found) for v in (base, *chosen)}
            contests.append(Contest(group, base, chosen, [*more, *about], called))
    if not contests:
        raise UserError([_apart(reference, others, groups), *notes])
    compared = [variant for contest in contests for variant in contest.others]
    nowhere = [name for name in others if not _pattern(name) and not matching(name, compared)]
    return contests, notes, nowhere


def matching(name: str, found: Sequence[Variant]) -> list[Variant]:
    """The variants of a table that go by a name: the one whose label it is, or else all whose method and parameters
    are those given. ``source=`` takes the beginning of the hash of a method's source, as labels show it, ``study=``
    that of a tuning study's id, and ``lr=`` and ``weight_decay=`` what it chose. ``all`` and patterns with * or ? stand
    for all variants whose method they match."""
    exact = [variant for variant in found if variant.label == name]
    if exact:
        return exact
    if _pattern(name):
        return [variant for variant in found if name == "all" or fnmatchcase(variant.method, name)]
    members = parse_variant(name)
    method = "+".join(member for member, _ in members)
    prefixes = ["", *(f"{member}." for member, _ in members[1:])]
    given = {p + key: text for p, (_, own) in zip(prefixes, members, strict=True) for key, text in own.items()}
    return [v for v in found if v.method == method and all(_has(v, key, text) for key, text in given.items())]


def _pattern(name: str) -> bool:
    return "[" not in name and (name == "all" or "*" in name or "?" in name)


def _called(variant: Variant, single: Sequence[str], found: Sequence[Variant]) -> str:
    """The first of the names that mean one variant in every table and mean this one in this, or else its label: labels
    only tell what tells a table's variants apart."""
    return next((name for name in single if variant in matching(name, found)), variant.label)


def _has(variant: Variant, key: str, text: str) -> bool:
    if key in variant.params:
        return _same(variant.params[key], text)
    recipes = [result.spec.recipe for result in variant.trials.values() if result.spec.tuning]
    if key in SEARCHED and recipes:
        return _same(getattr(recipes[0], key), text)
    sources = {result.identity.method_source for result in variant.trials.values()}
    if key == "study":
        return any(r.spec.tuning.study.startswith(text) for r in variant.trials.values() if r.spec.tuning)
    return key == "source" and any(source.startswith(text) for source in sources)


def _same(value: Value, text: str) -> bool:
    """Whether a text means a value: 0.20 is 0.2, True is true."""
    if isinstance(value, bool | str):
        return str(value).lower() == text.lower()
    try:
        return float(text) == value
    except ValueError:
        return False


def _ordered(names: Iterable[str], found: Sequence[Variant]) -> list[Variant]:
    chosen: list[Variant] = []
    for name in names:
        chosen += [variant for variant in matching(name, found) if variant not in chosen]
    return chosen


def _only(name: str, found: Sequence[Variant], where: str) -> Variant | None:
    if len(found) > 1:
        raise UserError(f"{len(found)} variants of {name} on {where}: {_labels(found)}; name one with --reference")
    return found[0] if found else None


def _refuse_unknown(names: Sequence[str], tables: Sequence[Sequence[Variant]]) -> None:
    labels = {variant.label for found in tables for variant in found}
    known = labels | {variant.method for found in tables for variant in found}
    problems = [unknown("method", name, known) for name in names if not any(matching(name, t) for t in tables)]
    if problems:
        raise UserError(problems)


def _apart(
    reference: str, others: Sequence[str], groups: Sequence[tuple[list[TrialResult], list[Variant], list[str]]]
) -> str:
    own = "; ".join(_title(group) for group, found, _ in groups if matching(reference, found))
    what = " or ".join(others)
    return f"no table has both {reference} and {what} ({reference}: {own}); see sdbench leaderboard"


def _labels(found: Sequence[Variant]) -> str:
    return ", ".join(variant.label for variant in found)


def _title(group: Sequence[TrialResult]) -> str:
    return full_title(ground(group, None))
