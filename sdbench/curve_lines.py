"""The lines of ``curve.jsonl``, read within bounds: what a line may be, and how many there may be."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sdbench.bounded import read_plain
from sdbench.durable import write_atomic
from sdbench.record import MAX_WHOLE

MAX_CURVE_BYTES, MAX_CURVE_LINES, MAX_LINE_BYTES, MAX_CURVE_TEXT = 32 * 2**20, 100_001, 2**16, 1000
"""Of a curve: a recipe has at most 100,000 epochs, a line of each some hundred bytes."""


def read_curve(path: Path) -> list[dict[str, Any]]:
    """The lines of a curve; a torn last line, as a kill leaves it, is dropped, as is all from a damaged one on.
    Empty where no plain file of a bounded size can be read."""
    lines: list[dict[str, Any]] = []
    try:
        text = read_plain(path, MAX_CURVE_BYTES)
    except OSError:
        return lines
    for line in text.split(b"\n", MAX_CURVE_LINES)[:MAX_CURVE_LINES]:
        value = curve_line(line)
        if value is None:
            break
        lines.append(value)
    return lines


def curve_line(line: bytes) -> dict[str, Any] | None:
    """One line of a curve: numbers and short texts by name, ``terms`` likewise one level down, and a whole number as
    its ``epoch``, if it has one. None for another one."""
    try:
        value = json.loads(line, parse_constant=_no_number) if len(line) <= MAX_LINE_BYTES else None
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and _flat(value) and _counts(value) else None


def _counts(line: dict[str, Any]) -> bool:
    epoch = line.get("epoch", 0)
    return type(epoch) is int and epoch >= 0


def shares(lines: Iterable[dict[str, Any]], name: str) -> dict[int, float]:
    """A share of images, in [0, 1], by the number of epochs done, of the lines that have it."""
    return {
        line["epoch"] + 1: float(line[name])
        for line in lines
        if "epoch" in line and isinstance(line.get(name), int | float) and 0 <= line[name] <= 1
    }


def _flat(values: dict[str, Any], inner: bool = False) -> bool:
    return all(
        v is None
        or (isinstance(v, int) and abs(v) <= MAX_WHOLE)
        or (isinstance(v, float) and math.isfinite(v))
        or (isinstance(v, str) and len(v) <= MAX_CURVE_TEXT)
        or (isinstance(v, dict) and not inner and _flat(v, inner=True))
        for v in values.values()
    )


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number of JSON")


def write_curve(path: Path, lines: list[dict[str, Any]]) -> None:
    """Replace a whole curve, as resume does when it cuts back to the checkpoint."""
    write_atomic(path, "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines))
