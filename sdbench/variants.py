"""Method variants: names, globs, ``name[param=value]`` and ``base+mixer``, with all their values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sdbench import registry
from sdbench.errors import UserError, unknown
from sdbench.method import Combination
from sdbench.protocol import traits
from sdbench.request import Problems
from sdbench.selectors import parse_variant, select
from sdbench.spec import Value


def choose_variants(
    items: Sequence[str], datasets: Sequence[str], problems: Problems, *, named_teachers: bool = False
) -> dict[str, list[tuple[str, dict[str, Value]]]]:
    """Per data set, the method variants with all their hyper-parameters.

    named_teachers: True where a teacher is to be had; without, methods that want one are refused, and no pattern
    means them.
    """
    plain: list[str] = []
    chosen: list[tuple[list[str], list[dict[str, str]]]] = []
    for item in items:
        if "[" not in item and "+" not in item:
            plain.append(item)
    meant = {item.removeprefix("^") for item in plain}
    known = [n for n in registry.names() if named_teachers or n in meant or not registry.get(n).wants_teacher]
    names = problems.attempt(lambda: select("method", plain, known)) or []
    chosen += [([name], [{}]) for name in names]
    for item in items:
        if item not in plain:
            members = problems.attempt(lambda item=item: parse_variant(item))  # type: ignore[misc]
            if members is not None:
                chosen.append(([name for name, _ in members], [given for _, given in members]))
    variants: dict[str, list[tuple[str, dict[str, Value]]]] = {name: [] for name in datasets or ("",)}
    for members_names, texts in chosen:
        checked = problems.attempt(lambda n=members_names, t=texts: _parameters(n, t))  # type: ignore[misc]
        if checked is None:
            continue
        for dataset in variants:
            built = problems.attempt(lambda n=members_names, c=checked, d=dataset: _variant(n, c, d))  # type: ignore[misc]
            if built is None:
                continue
            if not named_teachers and traits(*built).wants_teacher:
                problems.found.append(
                    f"{built[0]} learns from a finished network that is named, and a run names none; "
                    "see `sdbench distill --help`"
                )
            elif built not in variants[dataset]:
                variants[dataset].append(built)
    return variants


def _parameters(names: Sequence[str], texts: Sequence[Mapping[str, str]]) -> list[dict[str, Value]]:
    """The values given for each member of a variant, checked against its signature and ranges."""
    problems: list[str] = []
    values: list[dict[str, Value]] = []
    if len(names) > 2:
        problems.append(f"{'+'.join(names)}: at most two methods combine, base+mixer")
    for name, given in zip(names, texts, strict=True):
        try:
            known = registry.parameters(registry.get(name))
        except UserError as error:
            problems += error.problems
            continue
        read: dict[str, Value] = {}
        for key, text in given.items():
            if key not in known:
                problems.append(f"{name}: {unknown('parameter', key, known)}. See `sdbench describe {name}`")
                continue
            try:
                read[key] = known[key].parse(text)
            except ValueError as error:
                problems.append(f"{name}[{key}={text}]: {error}")
                continue
            if trouble := known[key].problem(read[key]):
                problems.append(f"{name}[{key}={text}]: {trouble}. See `sdbench describe {name}`")
        values.append(read)
    if problems:
        raise UserError(problems)
    return values


def _variant(names: Sequence[str], given: Sequence[Mapping[str, Value]], dataset: str) -> tuple[str, dict[str, Value]]:
    """The variant's name and all its hyper-parameters on a data set; the constructor has the last word."""
    params: dict[str, Value] = dict(registry.resolve(names[0], dataset, given[0]))
    for name, own in zip(names[1:], given[1:], strict=True):
        params.update({f"{name}.{k}": v for k, v in registry.resolve(name, dataset, own).items()})
    combined = "+".join(names)
    try:
        method = traits(combined, params)
    except UserError:
        raise
    except (ValueError, TypeError) as error:
        raise UserError(f"{combined}: its constructor refuses these values: {type(error).__name__}: {error}") from error
    if isinstance(method, Combination) and method.generations > 1 and len(names) > 1:
        raise UserError(f"{combined}: a method of several generations cannot be combined; run it alone")
    return combined, params
