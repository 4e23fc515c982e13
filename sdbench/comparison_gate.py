"""Conditions such as ``top1<-0.3`` under which a comparison fails, for automation. Pure.

A condition is on the mean over common seeds, method minus reference: in points for fractions (top1, top5, ece), in
nats for nll, as it is for brier; time, memory (of whole trainings), step and peak (of profiles) are ratios to the
reference. It is judged by the mean alone: a difference within the noise can fail a gate, and a small n does not
excuse it, but is said. Where the figure does not exist (no common seed, a timing that does not count), the
condition cannot be decided, and that counts as failure: what nobody measured must not pass.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence

from sdbench.comparison_records import METRICS, Compared, ComparedTable, Outcome
from sdbench.errors import UserError, unknown
from sdbench.leaderboard_cells import full_title
from sdbench.spec import Record
from sdbench.statistics import LEAST_SEEDS

COSTS = ("time", "memory", "step", "peak")
_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
_FORM = re.compile(r"\s*([A-Za-z0-9_-]+)\s*(<=|>=|<|>)\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*")
EXAMPLE = "for example --fail-if 'top1<-0.3' (0.3 points below the reference) or --fail-if 'time>1.1'"


class Condition(Record):
    """quantity: one of METRICS or COSTS. sign: <, <=, >, >=. limit: finite, in the unit in which it is shown."""

    quantity: str
    sign: str
    limit: float

    @property
    def text(self) -> str:
        return f"{self.quantity}{self.sign}{self.limit:g}"


def parse_conditions(texts: Sequence[str]) -> tuple[Condition, ...]:
    """Conditions from texts such as ``top1<-0.3``. Raises UserError with every one that cannot be read.

    >>> [c.text for c in parse_conditions(["top1 < -0.3", "time>=1.10"])]
    ['top1<-0.3', 'time>=1.1']
    """
    found, problems = [], []
    for text in texts:
        match = _FORM.fullmatch(text)
        known = (*METRICS, *COSTS)
        if match is None:
            problems.append(f"cannot read the condition {text!r}; write quantity, <, <=, > or >=, number: {EXAMPLE}")
        elif match[1] not in known:
            problems.append(f"condition {text!r}: {unknown('quantity', match[1], known)}; {EXAMPLE}")
        elif abs(float(match[3])) == float("inf"):
            problems.append(f"condition {text!r}: {match[3]} is too large a number; {EXAMPLE}")
        else:
            found.append(Condition(quantity=match[1], sign=match[2], limit=float(match[3])))
    if problems:
        raise UserError(problems)
    return tuple(found)


def judge(condition: Condition, table: ComparedTable, row: Compared) -> Outcome:
    """Whether a condition holds for a method; of costs on several kinds of hardware, on any of them."""
    values = sorted(_values(condition.quantity, row), reverse=condition.sign.startswith(">"))
    value = values[0] if values else None
    reason = ""
    if value is None:
        is_cost = condition.quantity in COSTS
        reason = "no figure that counts" if is_cost else f"no seed of {row.label} and {table.reference} has it"
    elif condition.quantity in METRICS and row.difference.n < LEAST_SEEDS:
        reason = f"n too small: {row.difference.n}"
    return Outcome(
        condition=condition.text,
        label=row.label,
        where=full_title(table),
        value=value,
        holds=None if value is None else _OPERATORS[condition.sign](value, condition.limit),
        reason=reason,
    )


def undecidable(condition: Condition, name: str) -> Outcome:
    """For a method that was asked for and shares no table with the reference."""
    return Outcome(
        condition=condition.text,
        label=name,
        where="no table",
        value=None,
        holds=None,
        reason="no table has it beside the reference",
    )


def _values(quantity: str, row: Compared) -> list[float]:
    """What a condition looks at, without the last digits in which 100 times a fraction is off."""
    if quantity in METRICS:
        mean = row.mean_differences.get(quantity)
        return [] if mean is None else [round(METRICS[quantity].scale * mean, 9)]
    if quantity in ("step", "peak"):
        ratio = (row.step.time if quantity == "step" else row.step.memory) if row.step else None
        return [] if ratio is None else [ratio]
    found = [cost.time if quantity == "time" else cost.memory for cost in row.costs]
    return [ratio.mean for ratio in found if ratio is not None]
