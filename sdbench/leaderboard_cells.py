"""The words and numbers in a leaderboard's cells, shared by all formats for people."""

from __future__ import annotations

from collections.abc import Sequence

from sdbench.cost.records import Ratio
from sdbench.leaderboard_records import Ground, Table
from sdbench.leaderboard_tuning import budget_line
from sdbench.spec import Recipe
from sdbench.statistics import LEAST_SEEDS, PairedDifference

MISSING = "–"


def marked(name: str, caveat: str) -> str:
    """A method's name as shown to people, with what must be said beside it."""
    return f"{name} ({caveat})" if caveat else name


def letter(i: int) -> str:
    """A, B, ..., Z, AA, AB, ... for i = 0, 1, ..."""
    return letter(i // 26 - 1) + chr(65 + i % 26) if i >= 26 else chr(65 + i)


def title(table: Ground) -> str:
    """Data set, network, protocol, and what else tells tables apart."""
    size = f" at {table.image_size} pixels" if table.image_size is not None else ""
    split = "" if table.split == "full" else f", split {table.split}"
    shards = f", {table.shards} processes per trial" if table.shards > 1 else ""
    return f"{table.dataset}, {table.network}{size}, protocol {table.protocol} {table.protocol_version}{split}{shards}"


def full_title(table: Ground) -> str:
    """The title and the number of epochs, where that is all that is said of a table."""
    return f"{title(table)}, {table.recipe.epochs} epochs"


def about(table: Table, rule: str) -> list[str]:
    """The selection rule, the whole recipe, the baseline, the hardware and who is not ranked, one sentence each."""
    lines = [f"Rule: {rule}", recipe_line(table)]
    if table.budget is not None:
        lines.append(budget_line(table.budget))
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
        if key == "policy" and value == "basic":
            continue
        if table.budget is not None and key in ("lr", "weight_decay"):
            value = "tuned"
        shown = " and ".join(map(_plain, value)) if isinstance(value, tuple) else _plain(value)
        recipe.append(f"{key.replace('_', ' ')} {shown or 'none'}")
    data = f"precision {table.precision}, split {table.split}, data {table.data_fingerprint[:12]}"
    shards = f", each batch in {table.shards} shards on a device each" if table.shards > 1 else ""
    return f"Recipe: {', '.join(recipe)}{shards}; {data}"


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


def ratio_interval(ratio: Ratio, digits: int) -> str:
    """A measured ratio and its interval, with a mark where it decides nothing.

    >>> ratio_interval(Ratio(median=1.3333, low=1.329, high=1.337, rounds=60, verdict="costlier"), 2)
    '1.33 [1.33, 1.34]'
    """
    shown = f"{fixed(ratio.median, digits)} [{fixed(ratio.low, digits)}, {fixed(ratio.high, digits)}]"
    return f"{shown} ?" if ratio.verdict == "inconclusive" else shown


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
