"""The words and numbers in a leaderboard's cells, shared by all formats for people."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sdbench.leaderboard_records import Row, Table
from sdbench.spec import Recipe
from sdbench.statistics import MeanStd, PairedDifference

MISSING = "–"

LEGEND = (
    "(n) is the number of seeds that a figure comes from; it is left out where it is that of top-1. – means not "
    "measured, or not comparable. An interval that holds 0 does not tell a method from the baseline.",
    "time ×, memory ×: mean over seeds of the ratio to the baseline's trial of the same seed on the same hardware; "
    "time is processor time of training on a CPU and wall time on a GPU, earlier generations included. images: "
    "forwarded per labelled image, with and without gradient, earlier generations included. aux: weights that are "
    "trained and then thrown away. state: bytes kept besides. ECE: 15 bins. NLL: nats. Costs are of whole trainings; "
    "sdbench profile measures steps side by side.",
)


@dataclass(frozen=True)
class Column:
    """A header, how to fill a cell, and whether it is text (left) or a number (right)."""

    header: str
    cell: Callable[[Row], str]
    left: bool = False


def columns(table: Table) -> list[Column]:
    """The columns of a table: one pair of cost columns for each kind of hardware, A, B, ..."""
    costs: list[Column] = []
    for i in range(len(table.hardware)):
        mark = f" {letter(i)}" if len(table.hardware) > 1 else ""
        costs.append(Column(f"time ×{mark}", lambda row, i=i: _ratio(row.costs[i].time, row)))  # type: ignore[misc]
        costs.append(Column(f"memory ×{mark}", lambda row, i=i: _ratio(row.costs[i].memory, row)))  # type: ignore[misc]
    return [
        Column("method", lambda row: row.label, left=True),
        Column("top-1 % (n)", lambda row: _percent(row.metrics.get("top1"))),
        Column("gain, points (n)", lambda row: _gain(row.gain)),
        Column("ECE %", lambda row: _mean(row, "ece", 100, 2)),
        Column("NLL", lambda row: _mean(row, "nll", 1, 3)),
        *costs,
        Column("images", lambda row: _number(row.forward_per_image)),
        Column("aux", lambda row: MISSING if row.auxiliary_parameters is None else _count(row.auxiliary_parameters)),
        Column("state", lambda row: MISSING if row.state_bytes is None else _bytes(row.state_bytes)),
        Column("trials", lambda row: ", ".join(f"{n} {status}" for status, n in row.statuses.items()), left=True),
    ]


def letter(i: int) -> str:
    """A, B, ..., Z, AA, AB, ... for i = 0, 1, ..."""
    return letter(i // 26 - 1) + chr(65 + i % 26) if i >= 26 else chr(65 + i)


def title(table: Table) -> str:
    """Data set, network, protocol, and what else tells tables apart."""
    size = f" at {table.image_size} pixels" if table.image_size is not None else ""
    split = "" if table.split == "full" else f", split {table.split}"
    return f"{table.dataset}, {table.network}{size}, protocol {table.protocol} {table.protocol_version}{split}"


def about(table: Table, rule: str) -> list[str]:
    """The selection rule, the whole recipe, the baseline and the hardware, one sentence each."""
    recipe = []
    for key in Recipe.model_fields:
        value = getattr(table.recipe, key)
        shown = " and ".join(map(_plain, value)) if isinstance(value, tuple) else _plain(value)
        recipe.append(f"{key.replace('_', ' ')} {shown or 'none'}")
    data = f"precision {table.precision}, split {table.split}, data {table.data_fingerprint[:12]}"
    lines = [f"Rule: {rule}", f"Recipe: {', '.join(recipe)}; {data}"]
    if table.baseline is not None:
        lines.append(f"Baseline: {table.baseline}")
    marks = [f"{letter(i)}: " if len(table.hardware) > 1 else "" for i in range(len(table.hardware))]
    if table.hardware:
        lines.append("Hardware: " + "; ".join(m + h for m, h in zip(marks, table.hardware, strict=True)))
    return lines


def clean(text: str) -> str:
    """One line of printable characters: no control, direction or line-break characters get through."""
    return "".join(c if c.isprintable() else " " for c in text)


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _fixed(value: float, digits: int, sign: str = "") -> str:
    """A number with fixed digits; what rounds to zero has no minus sign."""
    return f"{round(value, digits) + 0.0:{sign}.{digits}f}"


def _percent(value: MeanStd | None) -> str:
    if value is None:
        return MISSING
    std = "" if value.std is None else f" ± {_fixed(100 * value.std, 2)}"
    return f"{_fixed(100 * value.mean, 2)}{std} ({value.n})"


def _gain(gain: PairedDifference | None) -> str:
    if gain is None or gain.mean is None:
        return MISSING
    mean = _fixed(100 * gain.mean, 2, "+")
    if gain.low is None or gain.high is None:
        return f"{mean} (n too small: {gain.n})"
    return f"{mean} [{_fixed(100 * gain.low, 2, '+')}, {_fixed(100 * gain.high, 2, '+')}] ({gain.n})"


def _mean(row: Row, metric: str, scale: float, digits: int) -> str:
    value = row.metrics.get(metric)
    return MISSING if value is None else _fixed(scale * value.mean, digits)


def _ratio(value: MeanStd | None, row: Row) -> str:
    if value is None:
        return MISSING
    return _fixed(value.mean, 2) + ("" if value.n == len(row.seeds) else f" ({value.n})")


def _number(value: float | None) -> str:
    return MISSING if value is None else _fixed(value, 2)


def _count(value: int) -> str:
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if value >= size:
            return f"{value / size:.2f} {unit}"
    return str(value)


def _bytes(value: int) -> str:
    for size, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if value >= size:
            return f"{value / size:.1f} {unit}"
    return f"{value} B"
