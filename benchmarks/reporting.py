"""Goals, verdicts, the printed table and the JSON record that all benchmarks share."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sdbench.statistics import MedianInterval, median_interval

FEWEST_ROUNDS = 40
"""With fewer no verdict is given: the same code has been seen at 1.09 and 1.03 minutes apart."""


@dataclass(frozen=True)
class Goal:
    """A bound that a median ratio has to keep: at most, or at least, ``bound``."""

    bound: float
    at_most: bool

    def __str__(self) -> str:
        return f"{'<=' if self.at_most else '>='} {self.bound:g}"


@dataclass(frozen=True)
class Line:
    """One comparison: the median of paired ratios, its interval, and the goal that it has, if any."""

    what: str
    goal: Goal | None
    ratio: MedianInterval

    @property
    def verdict(self) -> str:
        """Whether the goal is met or missed, which takes a whole interval on one side of the bound."""
        if self.goal is None:
            return "no goal"
        if self.ratio.n < FEWEST_ROUNDS:
            return "too few rounds"
        ends = (self.ratio.low, self.ratio.high)
        kept = [end <= self.goal.bound if self.goal.at_most else end >= self.goal.bound for end in ends]
        return "met" if all(kept) else "inconclusive" if any(kept) else "missed"

    def record(self) -> dict[str, Any]:
        goal = str(self.goal) if self.goal else None
        return {"what": self.what, "goal": goal, "verdict": self.verdict, **asdict(self.ratio)}


def paired_ratio(above: Sequence[float], below: Sequence[float]) -> MedianInterval:
    """Median over rounds of above / below; both hold one positive number per round."""
    return median_interval([a / b for a, b in zip(above, below, strict=True)])


def load() -> float:
    """Mean number of running processes over the last minute; more than there are cores blurs a timing."""
    return os.getloadavg()[0]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell, the first one to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        right = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
        return "  ".join([cells[0].ljust(widths[0]), *right])

    return "\n".join(map(line, (header, *rows)))


def verdicts(lines: Sequence[Line]) -> str:
    """The table of comparisons."""
    rows = []
    for line in lines:
        interval = f"{line.ratio.low:.4f} .. {line.ratio.high:.4f}"
        goal = str(line.goal) if line.goal else "-"
        rows.append((line.what, goal, f"{line.ratio.median:.4f}", interval, str(line.ratio.n), line.verdict))
    return table(("ratio", "goal", "median", "95 % interval", "n", "verdict"), rows)


def arguments(description: str | None, rounds: int) -> argparse.ArgumentParser:
    """A parser with the options of every benchmark."""
    text = (description or "").split("\n\n")[0]
    parser = argparse.ArgumentParser(description=text)
    parser.add_argument("--rounds", type=int, default=rounds, help="counted rounds, at least 40 (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers to FILE")
    return parser


def write(path: Path | None, record: dict[str, Any]) -> None:
    """The record as JSON, where a path was given."""
    if path is not None:
        path.write_text(json.dumps(record, indent=1) + "\n")
