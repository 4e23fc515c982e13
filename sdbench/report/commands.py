"""What ``sdbench report`` and ``sdbench plot`` do: read, draw, write, and say what was written."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from sdbench.boards import Filter
from sdbench.errors import EnvironmentProblem, UserError, unknown
from sdbench.paths import path_of, readable
from sdbench.report.material import read
from sdbench.spec import Record
from sdbench.store import Damaged, replacing, write_atomic
from sdbench.terminal import json_of, visible


class ReportFile(Record):
    """A report that was written. output: the file. bytes: its size. damaged: records left out, which it names."""

    output: str
    trials: int
    boards: int
    bytes: int
    damaged: int


class PlotFile(Record):
    """A figure that was written. output: the file. left_out: what could not be drawn, and why."""

    output: str
    kind: str
    caption: str
    left_out: tuple[str, ...]


def report(results: str, output: str | None, chosen: Filter, as_json: bool = False) -> tuple[str, int]:
    """Write the report (``write_report``). What to print, and the exit code: 1 where a record is damaged."""
    done, damaged = write_report(results, output, chosen)
    answer = f"wrote {done.output}: {done.trials} trials, {done.boards} boards; open it in a browser"
    return json_of(done) if as_json else answer, _tell(damaged)


def plot(kind: str, results: str, output: str | None, chosen: Filter, as_json: bool = False) -> tuple[str, int]:
    """Draw one figure (``write_plot``). What to print (its caption), and the exit code: 1 where a record is damaged."""
    done, damaged = write_plot(kind, results, output, chosen)
    if as_json:
        return json_of(done), _tell(damaged)
    for line in done.left_out:
        print(visible(f"left out: {line}"), file=sys.stderr)
    return f"wrote {done.output}\n{done.caption}", _tell(damaged)


def _tell(damaged: Sequence[Damaged]) -> int:
    """Tell of damaged records; the exit code."""
    for one in damaged:
        print(visible(f"damaged record left out: {one.path}: {one.reason}"), file=sys.stderr)
    return 1 if damaged else 0


def write_report(results: str, output: str | None, chosen: Filter) -> tuple[ReportFile, tuple[Damaged, ...]]:
    """Write the report, by default ``report.html`` in the results folder: what was written, and the damaged records,
    which the report names. Raises UserError for a file that is not HTML and for nothing to show, EnvironmentProblem
    for a file that cannot be written."""
    path = path_of(output) if output else path_of(results) / "report.html"
    _check(path, ("html", "htm"), "sdbench report --output report.html")
    material = read(results, chosen)
    from sdbench.report.page import render

    text = render(material)
    try:
        write_atomic(path, text)
    except OSError as error:
        raise cannot_write(path, error) from error
    done = ReportFile(
        output=readable(str(path)),
        trials=len(material.trials),
        boards=len(material.board.tables),
        bytes=len(text.encode()),
        damaged=len(material.damaged),
    )
    return done, material.damaged


def _check(path: Path, suffixes: tuple[str, ...], example: str) -> None:
    if path.suffix.lower().removeprefix(".") not in suffixes:
        kinds = " or ".join([", ".join(f".{s}" for s in suffixes[:-1]), f".{suffixes[-1]}"])
        raise UserError(f"cannot write {path.name or path}: its name has to end with {kinds}, as in `{example}`")
    if path.is_dir():
        raise UserError(f"{path} is a folder; give a file, as in `{example}`")


def cannot_write(path: Path, error: OSError) -> EnvironmentProblem:
    """What to raise where writing failed."""
    why = error.strerror or type(error).__name__
    return EnvironmentProblem(f"{path} cannot be written ({why}); give another file with --output")


def write_plot(kind: str, results: str, output: str | None, chosen: Filter) -> tuple[PlotFile, tuple[Damaged, ...]]:
    """Draw one figure for a paper and write it as SVG, PDF or PNG: what was written, and the damaged records.

    Raises UserError for an unknown kind or suffix, and where there is nothing to draw, with what is missing;
    EnvironmentProblem for a file that cannot be written.
    """
    from sdbench.report.plot_style import SUFFIXES
    from sdbench.report.plots import KINDS, draw

    if kind not in KINDS:
        raise UserError(unknown("plot", kind, KINDS))
    if not output:
        raise UserError(f"give a file for the figure, as in `sdbench plot {kind} --output {kind}.pdf`")
    path = path_of(output)
    _check(path, SUFFIXES, f"sdbench plot {kind} --output {kind}.pdf")
    material = read(results, chosen)
    drawn = draw(kind, material)
    try:
        with replacing(path) as temporary:
            drawn.save(temporary, path.suffix.lower().removeprefix("."))
    except OSError as error:
        raise cannot_write(path, error) from error
    done = PlotFile(output=readable(str(path)), kind=kind, caption=drawn.caption, left_out=tuple(drawn.left_out))
    return done, material.damaged
