"""The columns of a leaderboard and what they mean, shared by all formats for people."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sdbench.leaderboard_cells import (
    MISSING,
    bytes_text,
    count_text,
    fixed,
    gain_text,
    letter,
    marked,
    number,
    p_text,
    ratio_interval,
)
from sdbench.leaderboard_published import published_text
from sdbench.leaderboard_records import Board, Row, StepCost, Table
from sdbench.statistics import MeanStd

LEGEND = (
    "(n) is the number of seeds that a figure comes from; it is left out where it is that of top-1. – means not "
    "measured, or not comparable. An interval that holds 0 does not tell a method from the baseline.",
    "rank: 1 + the number of rows with significantly higher top-1 (two-sided paired t test over common seeds, Holm "
    "over all pairs of the table, level 0.05). Rows that the seeds cannot tell apart share a rank, whatever their "
    "order. p (Holm): of the same test of the gain, adjusted over the methods. With fewer than 3 common seeds n "
    "is too small for either, and there is a –.",
    "time ×, memory ×: mean over seeds of the ratio to the baseline's trial of the same seed on the same hardware; "
    "time is processor time of training on a CPU and wall time on a GPU, earlier generations included. images: "
    "forwarded per labelled image, with and without gradient, earlier generations included. aux: weights that are "
    "trained and then thrown away. state: bytes kept besides. ECE: 15 bins. NLL: nats. Costs are of whole trainings; "
    "sdbench profile measures steps side by side.",
)

STEP_LEGEND = (
    "step × [95 %]: time of a training step, taking turns in one process with the baseline's (sdbench profile): median "
    "over rounds of their ratio with its bootstrap interval; ? where the interval crosses the edge of the margin "
    "around 1. FLOPs ×: what the counted operations of both steps predict; ! where the measured ratio is more than 5 % "
    "above that. peak ×: live tensors at the peak of a step, on a GPU allocated memory. These three leave out loading, "
    "what a method does once per epoch, and all generations but the last, which time × and memory × include. Pareto: "
    "yes where no other row is at least as accurate in the mean and its step at most as costly, and one of the two "
    "better; figures are taken at their word, also where intervals overlap.",
)

ISO_COST_LEGEND = (
    "gain at equal cost: top-1 minus that of the baseline trained for as long as the method costs, by the step's "
    "ratio; in brackets that baseline's epochs.",
)

PUBLISHED_LEGEND = (
    "published top-1 %: lowest to highest (how many numbers) that papers and repositories print for the method on this "
    "data set; of this network where there are any. Other code, protocols and rules of selection, most the best epoch "
    "on the test set: never compared, ranked or averaged with what was measured.",
)

SCALED_LEGEND = (
    "ECE % scaled, NLL scaled: of the same logits divided by T, one temperature per trial, which minimizes the NLL of "
    "images held out from training. The test set has no part in it, and top-1 stays as it is.",
)


@dataclass(frozen=True)
class Column:
    """A header, how to fill a cell, and whether it is text (left) or a number (right)."""

    header: str
    cell: Callable[[Row], str]
    left: bool = False


def columns(table: Table) -> list[Column]:
    """The columns of a table: one pair of cost columns for each kind of hardware, A, B, ..., and those of
    steps where a row has any."""
    costs: list[Column] = []
    for i in range(len(table.hardware)):
        mark = f" {letter(i)}" if len(table.hardware) > 1 else ""
        costs.append(Column(f"time ×{mark}", lambda row, i=i: _ratio(row.costs[i].time, row)))  # type: ignore[misc]
        costs.append(Column(f"memory ×{mark}", lambda row, i=i: _ratio(row.costs[i].memory, row)))  # type: ignore[misc]
    return [
        Column("method", lambda row: marked(row.label, row.caveat), left=True),
        Column("top-1 % (n)", lambda row: _percent(row.metrics.get("top1"))),
        Column("rank", lambda row: MISSING if row.rank is None else str(row.rank)),
        Column("gain, points (n)", lambda row: gain_text(row.gain)),
        Column("p (Holm)", lambda row: p_text(row.gain_p)),
        Column("ECE %", lambda row: _mean(row, "ece", 100, 2)),
        Column("NLL", lambda row: _mean(row, "nll", 1, 3)),
        *_iso_cost_columns(table),
        *_scaled_columns(table),
        *costs,
        *_step_columns(table),
        Column("images", lambda row: number(row.forward_per_image)),
        Column("aux", lambda row: count_text(row.auxiliary_parameters)),
        Column("state", lambda row: bytes_text(row.state_bytes)),
        *_published_columns(table),
        Column("trials", lambda row: ", ".join(f"{n} {status}" for status, n in row.statuses.items()), left=True),
    ]


def _iso_cost_columns(table: Table) -> list[Column]:
    if not any(row.iso_cost for row in table.rows):
        return []

    def cell(row: Row) -> str:
        return f"{gain_text(row.iso_cost.gain)} [{row.iso_cost.epochs}]" if row.iso_cost else MISSING

    return [Column("gain at equal cost, points (n) [epochs]", cell)]


def _published_columns(table: Table) -> list[Column]:
    if not any(row.published for row in table.rows):
        return []
    return [Column("published top-1 %", lambda row: published_text(row, table.network))]


def _scaled_columns(table: Table) -> list[Column]:
    if not any(row.scaled for row in table.rows):
        return []
    return [
        Column("ECE % scaled", lambda row: _scaled_mean(row, "scaled_ece", 100, 2)),
        Column("NLL scaled", lambda row: _scaled_mean(row, "scaled_nll", 1, 3)),
        Column("T", lambda row: _scaled_mean(row, "temperature", 1, 3)),
    ]


def _step_columns(table: Table) -> list[Column]:
    places = [row.step.hardware for row in table.rows if row.step is not None]
    if not places:
        return []
    several = len(table.hardware) > 1 and places[0] in table.hardware
    mark = f" {letter(table.hardware.index(places[0]))}" if several else ""
    return [
        Column(f"step × [95 %]{mark}", lambda row: _step_time(row.step)),
        Column(f"FLOPs ×{mark}", lambda row: _predicted(row.step)),
        Column(f"peak ×{mark}", lambda row: number(row.step.memory if row.step else None)),
        Column("Pareto", lambda row: MISSING if row.pareto is None else "yes" if row.pareto else "no"),
    ]


def legend(board: Board) -> tuple[str, ...]:
    """What the columns mean, as far as the board has them."""
    rows = [row for table in board.tables for row in table.rows]
    scaled = SCALED_LEGEND if any(row.scaled for row in rows) else ()
    steps = STEP_LEGEND if any(row.step for row in rows) else ()
    equal = ISO_COST_LEGEND if any(row.iso_cost for row in rows) else ()
    return LEGEND + scaled + steps + equal + (PUBLISHED_LEGEND if any(row.published for row in rows) else ())


def _percent(value: MeanStd | None) -> str:
    if value is None:
        return MISSING
    std = "" if value.std is None else f" ± {fixed(100 * value.std, 2)}"
    return f"{fixed(100 * value.mean, 2)}{std} ({value.n})"


def _mean(row: Row, metric: str, scale: float, digits: int) -> str:
    value = row.metrics.get(metric)
    return MISSING if value is None else fixed(scale * value.mean, digits)


def _scaled_mean(row: Row, name: str, scale: float, digits: int) -> str:
    value = row.scaled.get(name)
    if value is None:
        return MISSING
    return fixed(scale * value.mean, digits) + ("" if value.n == len(row.seeds) else f" ({value.n})")


def _ratio(value: MeanStd | None, row: Row) -> str:
    if value is None:
        return MISSING
    return fixed(value.mean, 2) + ("" if value.n == len(row.seeds) else f" ({value.n})")


def _step_time(step: StepCost | None) -> str:
    return MISSING if step is None or step.time is None else ratio_interval(step.time, 2)


def _predicted(step: StepCost | None) -> str:
    shown = number(step.predicted if step else None)
    return f"{shown} !" if step and step.flagged else shown
