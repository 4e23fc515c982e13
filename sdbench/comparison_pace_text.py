"""Cells and legends of a comparison's figures over training time and over several tables, for people."""

from __future__ import annotations

from collections.abc import Callable

from sdbench.comparison_pace_records import AtTime, Overall, Pace, Summary, ToTarget
from sdbench.comparison_records import ComparedTable, Comparison
from sdbench.leaderboard_cells import MISSING, fixed, gain_text, marked, number
from sdbench.statistics import MeanStd

Cells = tuple[list[str], list[list[str]]]
"""Headers and rows."""


def pace_cells(comparison: Comparison, table: ComparedTable, escape: Callable[[str], str]) -> list[Cells]:
    """The table of what was asked about training time; nothing where nothing was."""
    if not table.paces:
        return []
    headers, goal = ["method"], _goal(comparison)
    if comparison.target is not None:
        headers += [f"reached {goal}", f"seconds to {goal} (n)", "seconds × (n)"]
    if comparison.at is not None:
        headers += [f"top-1 % at {comparison.at:g} s (n)", "difference, points [95 %] (n)"]
    rows = []
    for pace in table.paces:
        cells = [_name(pace)]
        cells += _target_cells(pace.to_target) if pace.to_target else []
        cells += _time_cells(pace.at_time) if pace.at_time else []
        rows.append([escape(cell) for cell in cells])
    return [([escape(header) for header in headers], rows)]


def _goal(comparison: Comparison) -> str:
    return "" if comparison.target is None else f"{100 * comparison.target:g} %"


def _name(row: Pace) -> str:
    return marked(row.label, ", ".join(filter(None, ["reference" if row.reference else "", row.caveat])))


def _target_cells(found: ToTarget) -> list[str]:
    ratio = MISSING if found.ratio is None else f"{number(found.ratio)} ({len(found.seeds)})"
    return [f"{found.reached} of {found.n}" if found.n else MISSING, _seconds(found.seconds), ratio]


def _seconds(found: MeanStd | None) -> str:
    if found is None:
        return MISSING
    digits = 0 if found.mean >= 1000 else 1 if found.mean >= 10 else 2
    std = "" if found.std is None else f" ± {fixed(found.std, digits)}"
    return f"{fixed(found.mean, digits)}{std} ({found.n})"


def _time_cells(found: AtTime) -> list[str]:
    if found.top1 is None:
        return [MISSING, gain_text(found.difference)]
    std = "" if found.top1.std is None else f" ± {fixed(100 * found.top1.std, 2)}"
    return [f"{fixed(100 * found.top1.mean, 2)}{std} ({found.top1.n})", gain_text(found.difference)]


def pace_legend(comparison: Comparison) -> list[str]:
    """How the figures over training time are to be read; nothing where none were asked for."""
    lines, goal = [], _goal(comparison)
    if comparison.target is not None:
        lines.append(
            f"seconds to {goal}: wall time of training, earlier generations included, evaluation left out, until the "
            f"first evaluated epoch with a test top-1 of at least {goal}. It may have been reached at any time since "
            "the evaluated epoch before, so these are upper bounds of the true times. mean ± std over the seeds that "
            "reached it, which leaves out those that did not; a trial that failed did not. seconds ×: geometric mean "
            "of the ratio to the reference's over seeds that both reached it on the same hardware."
        )
    if comparison.at is not None:
        lines.append(
            f"top-1 % at {comparison.at:g} s: of the last epoch that was evaluated within that wall time of training; "
            "where training was over by then, of its end. difference: to the reference, paired by seed on the same "
            "hardware, t interval; not tested."
        )
    return lines


def summary_title(summary: Summary) -> str:
    return f"Over all {summary.tables} tables"


def summary_cells(comparison: Comparison, summary: Summary, escape: Callable[[str], str]) -> Cells:
    """One line per method over all tables."""
    headers = ["method", "tables", "step × (tables)"]
    headers += [f"seconds to {_goal(comparison)} × (tables)"] if comparison.target is not None else []
    headers += [f"within {tau:g}×" for tau in summary.taus] if summary.profile_tables else []
    rows = []
    for row in summary.rows:
        name = marked(row.name, ", ".join(filter(None, ["reference" if row.reference else "", row.caveat])))
        cells = [name, str(row.tables), "1" if row.reference else _mean(row.step, row.step_tables)]
        cells += [_mean(row.time, row.time_tables)] if comparison.target is not None else []
        cells += _profile(row, summary) if summary.profile_tables else []
        rows.append([escape(cell) for cell in cells])
    return [escape(header) for header in headers], rows


def _mean(value: float | None, tables: int) -> str:
    return MISSING if value is None else f"{number(value)} ({tables})"


def _profile(row: Overall, summary: Summary) -> list[str]:
    return [MISSING] * len(summary.taus) if row.profile is None else [number(share) for share in row.profile]


def summary_legend(comparison: Comparison) -> list[str]:
    """How the lines over all tables are to be read; nothing where there are none."""
    if comparison.summary is None:
        return []
    goal = f" and of the seconds to {_goal(comparison)}" if comparison.target is not None else ""
    lines = [
        f"Over all tables: geometric means, over the tables that have it, of the ratio of a step's cost{goal} to the "
        "reference's; each table counts once."
    ]
    if comparison.summary.profile_tables:
        count = comparison.summary.profile_tables
        lines.append(
            f"within τ×: performance profile, the share of {count} {'table' if count == 1 else 'tables'} in "
            f"which a method's seconds to {_goal(comparison)}, their geometric mean over seeds, are at most τ times "
            "those of the best method shown; not within any τ where a seed did not reach it. Shares depend on which "
            "methods are shown."
        )
    return lines
