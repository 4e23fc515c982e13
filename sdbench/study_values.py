"""The values of a configuration: drawn, rounded, put into a trial's spec. No torch, no Ray."""

from __future__ import annotations

import math
from collections.abc import Mapping
from random import Random

from sdbench.record import Value
from sdbench.space import Choice, Space
from sdbench.spec import TrialSpec

LR, DECAY = "recipe.lr", "recipe.weight_decay"
"""The names of the recipe's values among those that are searched for; others are hyper-parameters of the method."""

DIGITS = 4
"""To which numbers are rounded, so that they can be read and typed."""

Point = dict[str, Value]
"""A configuration: values by the name of what is searched for."""


def values_of(spec: TrialSpec, space: Mapping[str, Space]) -> Point:
    """The values in a spec of what is searched for."""
    every: Point = {**spec.params, LR: spec.recipe.lr, DECAY: spec.recipe.weight_decay}
    return {name: every[name] for name in space}


def split(point: Point) -> tuple[Point, Point]:
    """The recipe's values, under the names of its fields, and the method's."""
    recipe = {name.removeprefix("recipe."): value for name, value in point.items() if name in (LR, DECAY)}
    return recipe, {name: value for name, value in point.items() if name not in (LR, DECAY)}


def at(spec: TrialSpec, point: Point) -> TrialSpec:
    """A search trial's spec with other values of what is searched for."""
    recipe, own = split(point)
    changed = {"params": {**spec.params, **own}, "recipe": {**spec.recipe.model_dump(), **recipe}}
    return TrialSpec.model_validate({**spec.model_dump(), **changed})


def drawn(space: Space, stream: Random, like: Value) -> Value:
    """A value drawn at random, settled."""
    return settled(space, space.sample(stream), like)


def settled(space: Space, value: Value, like: Value) -> Value:
    """A proposed value as it is tried: a number rounded to ``DIGITS`` digits within its range, or to a whole one where
    ``like``, the default, is one.

    >>> from sdbench.space import LogUniform, Uniform
    >>> settled(LogUniform(0.01, 1.0), 0.123456, 0.1), settled(Uniform(1, 9), 2.5, 4)
    (0.1235, 3)
    """
    if isinstance(space, Choice) or not isinstance(value, float):
        return value
    if isinstance(like, int) and not isinstance(like, bool):
        return min(max(math.floor(value + 0.5), math.ceil(space.low)), math.floor(space.high))
    return min(max(float(f"{value:.{DIGITS}g}"), space.low), space.high)
