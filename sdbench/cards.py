"""What is known of a method, on one card: paper, needs, passes, state, hyper-parameters, published numbers."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from tabulate import tabulate

from sdbench import registry
from sdbench.cost.nature import Nature, nature, state_sizes
from sdbench.leaderboard_cells import bytes_text, count_text, marked
from sdbench.licences import licence_of
from sdbench.published import PublishedNumber, numbers_for
from sdbench.spec import Record, Value


class ParameterFacts(Record):
    """A hyper-parameter. range: as text, empty where there is none."""

    name: str
    type: str
    default: Value
    range: str


class MethodCard(Record):
    """All that is known of a method.

    canonical: False where a caveat goes with its numbers. state_bytes_at: on large data sets, beside a small network.
    published: what papers and repositories report, none of it measured here. licence: of the official code, an SPDX
    identifier, "none stated" or "unknown"; empty where there is no such code, or no entry, as for most plug-ins.
    """

    name: str
    summary: str
    description: str
    paper: str
    official: str
    year: int | None
    caveat: str
    canonical: bool
    origin: str
    nature: Nature
    state_bytes_at: dict[str, int | None]
    parameters: tuple[ParameterFacts, ...]
    recommended: dict[str, dict[str, Value]]
    refuses_mixing: str
    published: tuple[PublishedNumber, ...]
    licence: str = ""


def method_card(name: str) -> MethodCard:
    """The card of a registered method. Needs, passes and state are counted, which takes a second."""
    cls = registry.get(name)
    return MethodCard(
        name=name,
        summary=summary(cls),
        description=inspect.getdoc(cls) or "",
        paper=cls.paper,
        official=cls.official,
        year=cls.year or None,
        caveat=cls.caveat,
        canonical=not cls.caveat,
        origin=registry.origin(name),
        nature=nature(name),
        state_bytes_at=state_sizes(name),
        parameters=parameters(cls),
        recommended={dataset: dict(values) for dataset, values in cls.recommended.items()},
        refuses_mixing=cls.refuses_mixing,
        published=numbers_for(name),
        licence=licence_of(cls.official),
    )


def summary(cls: type) -> str:
    """The first line of a method's docstring."""
    return (inspect.getdoc(cls) or "").split("\n", 1)[0]


def parameters(cls: Any) -> tuple[ParameterFacts, ...]:
    """The hyper-parameters of a method, in the order of its constructor."""
    return tuple(
        ParameterFacts(name=p.name, type=p.type.__name__, default=p.default, range=str(p.range) if p.range else "")
        for p in registry.parameters(cls).values()
    )


def rows(*, counted: bool) -> list[dict[str, Any]]:
    """A row of plain values per method. counted: with needs and passes, which takes a quarter of a second each."""
    return [_row(name, counted=counted) for name in registry.names()]


def _row(name: str, *, counted: bool) -> dict[str, Any]:
    cls = registry.get(name)
    row: dict[str, Any] = {
        "name": name if counted else marked(name, cls.caveat),
        "year": cls.year or None,
        "summary": summary(cls),
        "parameters": {p.name: p.default for p in parameters(cls)},
        "origin": registry.origin(name),
    }
    if not counted:
        return {**row, "year": cls.year or ""}
    found = nature(name).model_dump(mode="json")
    passes = {key: found.pop(key) for key in PASSES}
    facts = {"caveat": cls.caveat, "canonical": not cls.caveat, "paper": cls.paper, "official": cls.official}
    facts["licence"] = licence_of(cls.official)
    return {**row, **facts, "needs": found.pop("needs"), "passes": passes, **found}


PASSES = ("images_loaded", "forward_images", "forward_images_without_gradient", "backward_images")


def text(card: MethodCard) -> str:
    """A card for people."""
    known = card.nature
    lines = [f"{card.name}: {card.description}", ""]
    facts = {
        "caveat": card.caveat,
        "paper": f"{card.paper} ({card.year})" if card.year else card.paper,
        "official": f"{card.official} (licence {card.licence})" if card.licence else card.official,
        "origin": card.origin,
        "needs": ", ".join(known.needs) or "one forward pass over labelled images",
        "passes": _passes(known),
        "state": _state(card),
        "not counted": known.problem,
    }
    lines += [f"{key}: {value}" for key, value in facts.items() if value]
    if card.parameters:
        lines += ["", _table([p.model_dump() for p in card.parameters])]
    for dataset, values in card.recommended.items():
        lines.append(f"recommended for {dataset}: {', '.join(f'{k}={v}' for k, v in values.items())}")
    if card.published:
        lines += ["", "Published, not measured here:", _published(card.published)]
    return "\n".join(lines)


def _table(found: Sequence[Mapping[str, Any]]) -> str:
    return tabulate(found, headers="keys", tablefmt="simple", disable_numparse=True)


def _passes(known: Nature) -> str:
    if known.images_loaded is None:
        return ""
    free = f" ({known.forward_images_without_gradient:g} of them without gradient)"
    parts = (
        f"{known.images_loaded:g} loaded",
        f"{known.forward_images:g} forward{free if known.forward_images_without_gradient else ''}",
        f"{known.backward_images:g} backward",
    )
    last = f"; {known.generations} trainings, of which this is the last" if known.generations > 1 else ""
    return f"{', '.join(parts)} per labelled image{last}"


def _state(card: MethodCard) -> str:
    auxiliary = card.nature.auxiliary_parameters
    parts = [f"{count_text(auxiliary)} auxiliary parameters beside a small network"] if auxiliary else []
    if card.nature.state:
        sizes = [f"{bytes_text(size)} on {name}" for name, size in card.state_bytes_at.items() if size is not None]
        parts.append(f"{', '.join(card.nature.state)}: {', '.join(sizes) or 'of a size that follows no simple rule'}")
    return "; ".join(parts)


def _published(found: Sequence[PublishedNumber]) -> str:
    """Numbers of one source, made under one protocol and with one caution, together; a line per data set."""
    groups: dict[str, dict[str, dict[str, list[str]]]] = {}
    for n in found:
        seeds = f"{n.seeds} seed{'s' * (n.seeds > 1)}" if n.seeds else "seeds not stated"
        how = f"* {n.source} ({n.read}): {n.protocol}; {n.selection}; {seeds}. {n.trust}"
        spread = "" if n.spread is None else f" ± {n.spread:g}"
        networks = groups.setdefault(how, {}).setdefault(n.dataset, {})
        networks.setdefault(n.network, []).append(f"{n.metric} {n.value:g}{spread}")
    lines = []
    for how, datasets in groups.items():
        told = {data: [f"{name} {', '.join(v)}" for name, v in networks.items()] for data, networks in datasets.items()}
        lines += [how, *(f"  {data}: {'; '.join(each)}" for data, each in told.items())]
    return "\n".join(lines)
