"""What ``sdbench report`` and ``sdbench plot`` do: read, draw, write, and say what was written."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from sdbench.boards import Filter
from sdbench.errors import EnvironmentProblem, UserError
from sdbench.report.material import Material, read
from sdbench.store import replacing, write_atomic


def report(results: str, output: str | None, chosen: Filter, as_json: bool = False) -> tuple[str, int]:
    """Write the report; by default ``report.html`` in the results folder. What to print, and the exit code: 1 where a
    record is damaged, which the report names. Raises UserError for a file that is not HTML, and for nothing to show."""
    path = Path(output).expanduser() if output else Path(results).expanduser() / "report.html"
    _check(path, ("html", "htm"), "sdbench report --output report.html")
    material = read(results, chosen)
    from sdbench.report.page import render

    text = render(material)
    try:
        write_atomic(path, text)
    except OSError as error:
        raise _cannot_write(path, error) from error
    answer = f"wrote {path}: {len(material.trials)} trials, {len(material.board.tables)} boards; open it in a browser"
    if as_json:
        facts = {"trials": len(material.trials), "boards": len(material.board.tables), "bytes": len(text.encode())}
        answer = json.dumps({"output": str(path), **facts, "damaged": len(material.damaged)}, indent=1)
    return answer, _damaged(material)


def _damaged(material: Material) -> int:
    """Tell of damaged records; the exit code."""
    for one in material.damaged:
        print(f"damaged record left out: {one.path}: {one.reason}", file=sys.stderr)
    return 1 if material.damaged else 0


def _check(path: Path, suffixes: tuple[str, ...], example: str) -> None:
    if path.suffix.lower().removeprefix(".") not in suffixes:
        kinds = " or ".join([", ".join(f".{s}" for s in suffixes[:-1]), f".{suffixes[-1]}"])
        raise UserError(f"cannot write {path.name or path}: its name has to end with {kinds}, as in `{example}`")
    if path.is_dir():
        raise UserError(f"{path} is a folder; give a file, as in `{example}`")


def _cannot_write(path: Path, error: OSError) -> EnvironmentProblem:
    why = error.strerror or type(error).__name__
    return EnvironmentProblem(f"{path} cannot be written ({why}); give another file with --output")


def plot(kind: str, results: str, output: str | None, chosen: Filter, as_json: bool = False) -> tuple[str, int]:
    """Draw one figure for a paper and write it as SVG, PDF or PNG; what to print (its caption), and the exit code.

    Raises UserError for an unknown kind or suffix, and where there is nothing to draw, with what is missing.
    """
    from sdbench.report.plot_style import SUFFIXES
    from sdbench.report.plots import KINDS, draw

    if kind not in KINDS:
        from sdbench.errors import unknown

        raise UserError(unknown("plot", kind, KINDS))
    if not output:
        raise UserError(f"give a file for the figure, as in `sdbench plot {kind} --output {kind}.pdf`")
    path = Path(output).expanduser()
    _check(path, SUFFIXES, f"sdbench plot {kind} --output {kind}.pdf")
    material = read(results, chosen)
    drawn = draw(kind, material)
    try:
        with replacing(path) as temporary:
            drawn.save(temporary, path.suffix.lower().removeprefix("."))
    except OSError as error:
        raise _cannot_write(path, error) from error
    if as_json:
        answer = json.dumps({"output": str(path), "kind": kind, "caption": drawn.caption, "left_out": drawn.left_out})
        return answer, _damaged(material)
    for line in drawn.left_out:
        print(f"left out: {line}", file=sys.stderr)
    return f"wrote {path}\n{drawn.caption}", _damaged(material)
