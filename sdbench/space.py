"""Ranges of hyper-parameters, as values that can be printed, checked and searched.

No torch, no Ray: an engine turns them into whatever its searcher wants.
"""

import math
from dataclasses import dataclass
from random import Random

Scalar = bool | int | float | str


@dataclass(frozen=True)
class Uniform:
    """A real number in the closed interval [low, high], uniformly distributed when searched."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"Uniform needs finite low < high, got [{self.low}, {self.high}]")

    def __contains__(self, value: object) -> bool:
        return isinstance(value, int | float) and self.low <= value <= self.high

    def __str__(self) -> str:
        return f"[{self.low:g}, {self.high:g}]"

    def sample(self, random: Random) -> float:
        return random.uniform(self.low, self.high)


@dataclass(frozen=True)
class LogUniform:
    """A positive real in the closed interval [low, high], its logarithm uniform when searched."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (0 < self.low < self.high and math.isfinite(self.high)):
            raise ValueError(f"LogUniform needs 0 < low < high, got [{self.low}, {self.high}]")

    def __contains__(self, value: object) -> bool:
        return isinstance(value, int | float) and self.low <= value <= self.high

    def __str__(self) -> str:
        return f"[{self.low:g}, {self.high:g}] log"

    def sample(self, random: Random) -> float:
        return math.exp(random.uniform(math.log(self.low), math.log(self.high)))


@dataclass(frozen=True, init=False)
class Choice:
    """One of the listed values."""

    values: tuple[Scalar, ...]

    def __init__(self, *values: Scalar) -> None:
        if not values:
            raise ValueError("Choice needs at least one value, for example Choice(1, 2)")
        object.__setattr__(self, "values", values)

    def __contains__(self, value: object) -> bool:
        return any(value == v and isinstance(value, bool) == isinstance(v, bool) for v in self.values)

    def __str__(self) -> str:
        return "one of " + ", ".join(str(v) for v in self.values)

    def sample(self, random: Random) -> Scalar:
        return random.choice(self.values)


Space = Uniform | LogUniform | Choice
