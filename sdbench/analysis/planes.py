"""The label-smoothing paper's picture: where networks put three classes, and how tightly."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdbench.analysis.features import Features, features, load_network
from sdbench.analysis.geometry import project, scatter, template_plane, with_one
from sdbench.analysis.records import GeometryRow, Tightness
from sdbench.data import DataSet
from sdbench.errors import UserError, unknown
from sdbench.leaderboard_variants import Variant
from sdbench.statistics import mean_std
from sdbench.store import Store


@dataclass(frozen=True)
class Drawing:
    """One network's three classes. parts: per part coordinates [V, 2] of their samples and which of the three [V] each
    is of. templates: [3, 2]."""

    label: str
    seed: int
    parts: dict[str, tuple[NDArray[Any], NDArray[Any]]]
    templates: NDArray[Any]


@dataclass(frozen=True)
class Placed:
    """A drawing, and the scatter ratios of its parts: (all classes, three in the plane, samples); None as a ratio where
    means coincide."""

    drawing: Drawing
    ratios: dict[str, tuple[float | None, float | None, int]]


def place(found: Features, classes: Sequence[int], label: str, seed: int) -> Placed:
    """Project three classes and measure how tight they are. Raises ValueError where three templates span no plane."""
    chosen = list(classes)
    templates = found.templates[chosen]
    if found.bias is not None:
        templates = np.concatenate([templates, found.bias[chosen, None]], axis=1)
    plane = template_plane(templates)
    parts, ratios = {}, {}
    for part, (x, y) in found.parts.items():
        mine = np.isin(y, chosen)
        own = x[mine] if found.bias is None else with_one(x[mine])
        which = np.array([chosen.index(label) for label in y[mine]], dtype=np.int64)
        points = project(own, plane)
        parts[part] = (points, which)
        ratios[part] = (scatter(x, y).ratio, scatter(points, which).ratio, len(y))
    return Placed(Drawing(label, seed, parts, plane.templates), ratios)


def geometry_row(
    store: Store, variant: Variant, dataset: DataSet, classes: Sequence[int], most_train: int | None
) -> tuple[GeometryRow | None, Drawing | None, list[str]]:
    """The row of a variant over its seeds, the drawing of its lowest seed, and notes."""
    placed: dict[int, Placed] = {}
    notes = []
    for seed, result in variant.trials.items():
        try:
            found = features(load_network(store, result, dataset), dataset, most_train)
            placed[seed] = place(found, classes, variant.label, seed)
        except (UserError, ValueError) as error:
            notes.append(f"{variant.label} seed {seed}: {error}")
    good = {s: p for s, p in placed.items() if all(None not in r for r in p.ratios.values())}
    notes += [f"{variant.label} seed {s}: classes share their mean, so no ratio" for s in placed if s not in good]
    if not good:
        return None, None, notes
    first = next(iter(good.values()))
    parts = {
        part: Tightness(
            all_classes=mean_std(p.ratios[part][0] or 0.0 for p in good.values()),
            in_plane=mean_std(p.ratios[part][1] or 0.0 for p in good.values()),
            samples=first.ratios[part][2],
        )
        for part in first.ratios
    }
    return GeometryRow(label=variant.label, seeds=tuple(good), parts=parts), first.drawing, notes


def parse_classes(text: str | None, names: Sequence[str]) -> tuple[int, int, int]:
    """Three different classes, by number or by name; the first three by default. Raises UserError."""
    if len(names) < 3:
        raise UserError(f"three classes span a plane, and this data set has {len(names)}; choose another --kind")
    if text is None:
        return 0, 1, 2
    found = []
    for item in filter(None, (part.strip() for part in text.split(","))):
        if item in names:
            found.append(list(names).index(item))
        elif re.fullmatch(r"[0-9]{1,9}", item) and int(item) < len(names):
            found.append(int(item))
        else:
            raise UserError("--classes: " + unknown("class", item, names)[:500])
    if len(found) != 3 or len(set(found)) != 3:
        raise UserError(f"--classes {text!r}: give three different classes, by number or name, for example 0,1,2")
    return found[0], found[1], found[2]
