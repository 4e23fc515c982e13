"""Comparisons for people, as text and Markdown, and for programs, as JSON. The same comparison gives the same bytes.

What comes from records is treated as hostile, as on the leaderboard.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable

from sdbench.comparison_pace_text import pace_cells, pace_legend, summary_cells, summary_legend, summary_title
from sdbench.comparison_records import METRICS, Compared, ComparedTable, Comparison, Metric, Outcome, StepRatio
from sdbench.errors import UserError, unknown
from sdbench.leaderboard_cells import (
    MISSING,
    clean,
    fixed,
    hardware_lines,
    letter,
    markdown_text,
    marked,
    number,
    p_text,
    recipe_line,
    seeds_text,
    title,
)
from sdbench.leaderboard_formats import TEXT_WIDTH, drawn_table
from sdbench.leaderboard_tuning import budget_line
from sdbench.statistics import MeanStd

FORMATS = ("text", "md", "json")


def render_comparison(comparison: Comparison, format_name: str) -> str:
    """The whole comparison in one of FORMATS. Raises UserError for another."""
    if format_name == "json":
        return json.dumps(comparison.model_dump(mode="json"), indent=1, sort_keys=True, allow_nan=False) + "\n"
    if format_name not in FORMATS:
        raise UserError(unknown("format", format_name, FORMATS))
    return _text(comparison) if format_name == "text" else _md(comparison)


def _text(comparison: Comparison) -> str:
    def wrapped(line: str, indent: str = "") -> str:
        return textwrap.fill(clean(line), TEXT_WIDTH, initial_indent=indent, subsequent_indent=" " * len(indent))

    blocks = []
    for table in comparison.tables:
        headers, rows = _cells(comparison, table, clean)
        drawn = [drawn_table(headers, rows, [i in (0, _VERDICT) for i in range(len(headers))])]
        drawn += [drawn_table(*further, _first_left(further[0])) for further in pace_cells(comparison, table, clean)]
        above = [clean(title(table)), *map(wrapped, _about(comparison, table))]
        blocks.append("\n".join([*above, "", "\n\n".join(drawn), *(wrapped(note, "- ") for note in table.notes)]))
    if comparison.summary:
        headers, rows = summary_cells(comparison, comparison.summary, clean)
        below = [wrapped(note, "- ") for note in comparison.summary.notes]
        drawn = [drawn_table(headers, rows, _first_left(headers)), *below]
        blocks.append("\n".join([summary_title(comparison.summary), "", *drawn]))
    blocks += ["\n".join(wrapped(outcome_text(o)) for o in comparison.outcomes)] if comparison.outcomes else []
    blocks.append("\n".join(map(wrapped, _legend(comparison))))
    blocks += ["\n".join(wrapped(note, "- ") for note in comparison.notes)] if comparison.notes else []
    return "\n\n".join(blocks) + "\n"


def _md(comparison: Comparison) -> str:
    from tabulate import tabulate

    def plain(headers: list[str], rows: list[list[str]]) -> str:
        align = ["left" if left else "right" for left in _first_left(headers)]
        return tabulate(rows, headers, tablefmt="github", disable_numparse=True, colalign=align)

    blocks = ["# Comparison"]
    for table in comparison.tables:
        headers, rows = _cells(comparison, table, markdown_text)
        align = ["left" if i in (0, _VERDICT) else "right" for i in range(len(headers))]
        drawn = tabulate(rows, headers, tablefmt="github", disable_numparse=True, colalign=align)
        blocks += [f"## {markdown_text(title(table))}", *map(markdown_text, _about(comparison, table)), drawn]
        blocks += [plain(*further) for further in pace_cells(comparison, table, markdown_text)]
        blocks += ["\n".join(f"- {markdown_text(note)}" for note in table.notes)] if table.notes else []
    if summary := comparison.summary:
        blocks += [f"## {summary_title(summary)}", plain(*summary_cells(comparison, summary, markdown_text))]
        blocks += ["\n".join(f"- {markdown_text(note)}" for note in summary.notes)]
    blocks += ["\n".join(f"- {markdown_text(outcome_text(o))}" for o in comparison.outcomes)]
    blocks += map(markdown_text, _legend(comparison))
    blocks += ["\n".join(f"- {markdown_text(note)}" for note in comparison.notes)]
    return "\n\n".join(filter(None, blocks)) + "\n"


_VERDICT = 4


def _first_left(headers: list[str]) -> list[bool]:
    return [i == 0 for i in range(len(headers))]


def _cells(
    comparison: Comparison, table: ComparedTable, escape: Callable[[str], str]
) -> tuple[list[str], list[list[str]]]:
    metric = METRICS[comparison.metric]
    unit = f", {metric.unit}" if metric.unit else ""
    headers = ["method", f"{metric.title} (n)", f"difference{unit} [95 %] (n)", "p (Holm)", "verdict"]
    several = len(table.hardware) > 1
    for i in range(len(table.hardware)):
        headers += [f"{kind} ×{f' {letter(i)}' if several else ''}" for kind in ("time", "memory")]
    steps = any(row.step for row in table.rows)
    headers += ["step × [95 %]", "peak ×"] if steps else []
    rows = []
    for row in table.rows:
        cells = [marked(row.label, row.caveat), _value(row.value, metric), _difference(row, metric)]
        cells += [p_text(row.p_adjusted), row.verdict]
        for cost in row.costs:
            cells += [_ratio(cost.time, row), _ratio(cost.memory, row)]
        cells += [_step(row.step), number(row.step.memory if row.step else None)] if steps else []
        rows.append([escape(cell) for cell in cells])
    return [escape(header) for header in headers], rows


def _about(comparison: Comparison, table: ComparedTable) -> list[str]:
    metric = METRICS[comparison.metric]
    shown = f"{metric.title} {_value(table.reference_value, metric)}"
    budget = [budget_line(table.budget)] if table.budget else []
    return [f"Reference: {table.reference}, {shown}", recipe_line(table), *budget, *hardware_lines(table.hardware)]


def _legend(comparison: Comparison) -> list[str]:
    metric = METRICS[comparison.metric]
    better = "higher" if comparison.higher_is_better else "lower"
    count = comparison.comparisons
    tests = f"the {count} tests made" if count > 1 else f"the {count or 'no'} test made"
    lines = [
        f"difference: method minus reference over common seeds; {better} {metric.title.removesuffix(' %')} is better. "
        "[95 %]: paired t interval, each by itself. p (Holm): of the two-sided paired t test, adjusted by Holm over "
        f"{tests}. verdict: better or worse where p is at most {comparison.level:g}, else not distinguishable, which "
        "does not mean equal; below 3 common seeds n is too small for a test. – means not measured, or not comparable.",
        "time ×, memory ×: of whole trainings, mean over seeds of the ratio to the reference's trial of the same seed "
        "on the same hardware.",
    ]
    if any(row.step for table in comparison.tables for row in table.rows):
        lines.append(
            "step ×: time of a training step over that of the reference's in one profile, median over rounds; "
            "peak ×: live tensors at the peak of a step. Both leave out loading, per-epoch work, earlier generations."
        )
    return [*lines, *pace_legend(comparison), *summary_legend(comparison)]


def outcome_text(outcome: Outcome) -> str:
    """A condition's outcome in one sentence."""
    where = f"{outcome.label} on {outcome.where}"
    why = f", {outcome.reason}" if outcome.reason else ""
    if outcome.value is None:
        return f"fail-if {outcome.condition}: cannot be decided for {where}{why}; this counts as failure"
    return f"fail-if {outcome.condition}: {'holds' if outcome.holds else 'no'} for {where} ({outcome.value:.6g}{why})"


def _value(value: MeanStd | None, metric: Metric) -> str:
    if value is None:
        return MISSING
    std = "" if value.std is None else f" ± {fixed(metric.scale * value.std, metric.digits)}"
    return f"{fixed(metric.scale * value.mean, metric.digits)}{std} ({value.n})"


def _difference(row: Compared, metric: Metric) -> str:
    found = row.difference
    if found.mean is None:
        return f"{MISSING} ({seeds_text(found.n)})"
    ends = [fixed(metric.scale * end, metric.digits, "+") for end in (found.low, found.high) if end is not None]
    interval = f" [{', '.join(ends)}]" if ends else ""
    return f"{fixed(metric.scale * found.mean, metric.digits, '+')}{interval} ({seeds_text(found.n)})"


def _ratio(ratio: MeanStd | None, row: Compared) -> str:
    if ratio is None:
        return MISSING
    return number(ratio.mean) + ("" if ratio.n == row.difference.n else f" ({ratio.n})")


def _step(step: StepRatio | None) -> str:
    if step is None or step.time is None:
        return MISSING
    if step.low is None or step.high is None:
        return number(step.time)
    return f"{number(step.time)} [{number(step.low)}, {number(step.high)}]"
