"""The words and numbers in a leaderboard's cells, shared by all formats for people."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sdbench.cost.records import Ratio
from sdbench.leaderboard_records import Board, Ground, Row, StepCost, Table
from sdbench.spec import Recipe
from sdbench.statistics import LEAST_SEEDS, MeanStd, PairedDifference

MISSING = "–"

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
        *_scaled_columns(table),
        *costs,
        *_step_columns(table),
        Column("images", lambda row: number(row.forward_per_image)),
        Column("aux", lambda row: count_text(row.auxiliary_parameters)),
        Column("state", lambda row: bytes_text(row.state_bytes)),
        Column("trials", lambda row: ", ".join(f"{n} {status}" for status, n in row.statuses.items()), left=True),
    ]


def _scaled_columns(table: Table) -> list[Column]:
    if not any(row.scaled for row in table.rows):
        return []
    return [
        Column("ECE % scaled", lambda row: _scaled_mean(row, "scaled_ece", 100, 2)),
        Column("NLL scaled", lambda row: _scaled_mean(row, "scaled_nll", 1, 3)),
        Column("T", lambda row: _scaled_mean(row, "temperature", 1, 3)),
    ]


def marked(name: str, caveat: str) -> str:
    """A method's name as shown to people, with what must be said beside it."""
    return f"{name} ({caveat})" if caveat else name


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
    return LEGEND + scaled + (STEP_LEGEND if any(row.step for row in rows) else ())


def letter(i: int) -> str:
    """A, B, ..., Z, AA, AB, ... for i = 0, 1, ..."""
    return letter(i // 26 - 1) + chr(65 + i % 26) if i >= 26 else chr(65 + i)


def title(table: Ground) -> str:
    """Data set, network, protocol, and what else tells tables apart."""
    size = f" at {table.image_size} pixels" if table.image_size is not None else ""
    split = "" if table.split == "full" else f", split {table.split}"
    return f"{table.dataset}, {table.network}{size}, protocol {table.protocol} {table.protocol_version}{split}"


def full_title(table: Ground) -> str:
    """The title and the number of epochs, where that is all that is said of a table."""
    return f"{title(table)}, {table.recipe.epochs} epochs"


def about(table: Table, rule: str) -> list[str]:
    """The selection rule, the whole recipe, the baseline, the hardware and who is not ranked, one sentence each."""
    lines = [f"Rule: {rule}", recipe_line(table)]
    if table.baseline is not None:
        lines.append(f"Baseline: {table.baseline}")
    lines += hardware_lines(table.hardware)
    unranked = [row.label for row in table.rows if row.metrics and row.rank is None]
    if unranked:
        who = "any row" if len(unranked) == len(table.rows) else ", ".join(sorted(unranked))
        lines.append(f"n too small, fewer than {LEAST_SEEDS} common seeds, to rank {who}")
    return lines


def recipe_line(table: Ground) -> str:
    """The whole recipe, precision, split and data, in one sentence."""
    recipe = []
    for key in Recipe.model_fields:
        value = getattr(table.recipe, key)
        shown = " and ".join(map(_plain, value)) if isinstance(value, tuple) else _plain(value)
        recipe.append(f"{key.replace('_', ' ')} {shown or 'none'}")
    data = f"precision {table.precision}, split {table.split}, data {table.data_fingerprint[:12]}"
    return f"Recipe: {', '.join(recipe)}; {data}"


def hardware_lines(hardware: Sequence[str]) -> list[str]:
    """Where costs were measured, with the letters of the columns where there are several; nothing for none."""
    marks = [f"{letter(i)}: " if len(hardware) > 1 else "" for i in range(len(hardware))]
    return ["Hardware: " + "; ".join(m + h for m, h in zip(marks, hardware, strict=True))] if hardware else []


def clean(text: str) -> str:
    """One line of printable characters: no control, direction or line-break characters get through."""
    return "".join(c if c.isprintable() else " " for c in text)


def markdown_text(text: str) -> str:
    """Text that Markdown shows as it is, in a table's cell as well."""
    text = clean(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for mark in "\\`*|~":
        text = text.replace(mark, "\\" + mark)
    return text.replace("](", "]\\(").replace("__", "\\_\\_")


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)


def fixed(value: float, digits: int, sign: str = "") -> str:
    """A number with fixed digits; what rounds to zero has no minus sign."""
    return f"{round(value, digits) + 0.0:{sign}.{digits}f}"


def _percent(value: MeanStd | None) -> str:
    if value is None:
        return MISSING
    std = "" if value.std is None else f" ± {fixed(100 * value.std, 2)}"
    return f"{fixed(100 * value.mean, 2)}{std} ({value.n})"


def gain_text(gain: PairedDifference | None) -> str:
    """A gain in points with its interval and number of seeds; a dash where there is none."""
    if gain is None or gain.mean is None:
        return MISSING
    mean = fixed(100 * gain.mean, 2, "+")
    if gain.low is not None and gain.high is not None:
        mean += f" [{fixed(100 * gain.low, 2, '+')}, {fixed(100 * gain.high, 2, '+')}]"
    return f"{mean} ({seeds_text(gain.n)})"


def seeds_text(n: int) -> str:
    """The number of seeds that a test rests on; where it is too small, this is said."""
    return str(n) if n >= LEAST_SEEDS else f"n too small: {n}"


def p_text(p: float | None) -> str:
    """A p-value with three digits; a dash where there is none."""
    if p is None:
        return MISSING
    return "<0.001" if p < 0.001 else fixed(p, 3)


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


def ratio_interval(ratio: Ratio, digits: int) -> str:
    """A measured ratio and its interval, with a mark where it decides nothing.

    >>> ratio_interval(Ratio(median=1.3333, low=1.329, high=1.337, rounds=60, verdict="costlier"), 2)
    '1.33 [1.33, 1.34]'
    """
    shown = f"{fixed(ratio.median, digits)} [{fixed(ratio.low, digits)}, {fixed(ratio.high, digits)}]"
    return f"{shown} ?" if ratio.verdict == "inconclusive" else shown


def _predicted(step: StepCost | None) -> str:
    shown = number(step.predicted if step else None)
    return f"{shown} !" if step and step.flagged else shown


def number(value: float | None, digits: int = 2) -> str:
    """With fixed digits, or a dash."""
    return MISSING if value is None else fixed(value, digits)


def count_text(value: int | None) -> str:
    """A count with its prefix: 2.02 M; a dash for None."""
    if value is None:
        return MISSING
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if value >= size:
            return f"{value / size:.2f} {unit}"
    return str(value)


def bytes_text(value: int | None) -> str:
    """An amount of memory: 19.0 MiB; a dash for None."""
    if value is None:
        return MISSING
    for size, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if value >= size:
            return f"{value / size:.1f} {unit}"
    return f"{value} B"
