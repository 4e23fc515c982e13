"""Learning curves over seeds. Pure but for reading ``curve.jsonl``; no torch, no NumPy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdbench.bounded import read_plain
from sdbench.curve_lines import MAX_CURVE_BYTES, MAX_CURVE_LINES, curve_line
from sdbench.statistics import MeanStd, mean_std

Line = Mapping[str, Any]

LARGEST = 1e100
"""Larger values are damage: their squares, which deviations need, are no floats any more."""
MOST_EPOCHS = 10**9


@dataclass(frozen=True)
class Band:
    """A quantity per epoch: epochs (from 1), its mean and standard deviation over the seeds, all of equal number."""

    epochs: tuple[int, ...]
    values: tuple[MeanStd, ...]

    @property
    def n(self) -> int:
        """The number of seeds."""
        return self.values[0].n if self.values else 0


def read_thinned(path: Path, most: int) -> list[Line]:
    """Lines of a curve at ``most`` epochs at most, evenly spread, and all that log test accuracy, thinned alike.

    The first and the last are among them. A torn last line is dropped; reading stops at a damaged one, as
    ``store.read_curve`` does. Empty without a file.
    """
    try:
        raw = [line for line in read_plain(path, MAX_CURVE_BYTES).split(b"\n", MAX_CURVE_LINES) if line.strip()]
    except OSError:
        return []
    scored = [i for i, line in enumerate(raw) if b'"top1"' in line]
    wanted = sorted({*spread(range(len(raw)), most), *spread(scored, most)})
    lines: list[Line] = []
    for i in wanted:
        value = curve_line(raw[i])
        if value is None:
            break
        lines.append(value)
    return lines


def spread(items: Sequence[int], most: int) -> list[int]:
    """At most ``most`` >= 2 items in even steps, the first and the last among them.

    >>> spread(range(10), 4)
    [0, 3, 6, 9]
    """
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def band(curves: Sequence[Sequence[Line]], key: str) -> Band | None:
    """Mean and standard deviation of a quantity at the epochs at which every curve that has it has it.

    Values that are not finite or above ``LARGEST`` do not count, nor do curves without others. None where no curve
    counts, or they share no epoch.
    """
    found = [values for values in (_values(lines, key) for lines in curves) if values]
    if not found:
        return None
    common = sorted(set.intersection(*(set(values) for values in found)))
    if not common:
        return None
    points = tuple(mean_std(values[epoch] for values in found) for epoch in common)
    return Band(tuple(epoch + 1 for epoch in common), points)


def _values(lines: Sequence[Line], key: str) -> dict[int, float]:
    found = {}
    for line in lines:
        epoch, value = line.get("epoch"), line.get(key)
        if not (isinstance(epoch, int) and isinstance(value, int | float)):
            continue
        if 0 <= epoch <= MOST_EPOCHS and abs(value) <= LARGEST:
            found[epoch] = float(value)
    return found
