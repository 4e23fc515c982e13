"""How each method's ratio grows with the number of classes, the batch or the network: a table and a plot."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from sdbench.cost.formats import clean_lines, notes
from sdbench.cost.formats import document as profile_document
from sdbench.cost.records import ProfileResult, Ratio
from sdbench.cost.request import Sweep
from sdbench.leaderboard_cells import MISSING, marked, number
from sdbench.spec import digest
from sdbench.store import replacing

MARKERS = "os^Dv<>Pph*X"


def methods(found: Sequence[ProfileResult]) -> list[str]:
    """The methods but for the baseline, in the order of the first profile."""
    return [row.method for row in found[0].rows if row.method != found[0].baseline] if found else []


def shown(found: Sequence[ProfileResult], method: str) -> str:
    """A method's name with what must be said beside it."""
    return marked(method, next((row.caveat for result in found if (row := result.row(method))), ""))


def timing(result: ProfileResult, method: str) -> Ratio | None:
    """A method's time ratio where it counts."""
    row = result.row(method)
    return row.time_ratio if row is not None and row.status == "ok" and row.timing_valid else None


def text(sweep: Sweep, found: Sequence[ProfileResult]) -> str:
    """Per method its time ratios side by side, then the ratios that FLOPs predict, then of peak memory."""
    values = sweep.values[: len(found)]
    blocks = [clean_lines(_about(found))] if found else []
    for title, cell in (
        ("time × [95 %]", _time),
        ("FLOPs ×", lambda result, method: _of_row(result, method, "predicted_ratio")),
        ("peak memory ×", lambda result, method: _of_row(result, method, "memory_ratio")),
    ):
        rows = [[shown(found, method), *(cell(result, method) for result in found)] for method in methods(found)]
        headers = [title, *(f"{sweep.quantity} {value}" for value in values)]
        align = ("left", *["right"] * len(found))
        blocks.append(
            clean_lines(tabulate(rows, headers=headers, disable_numparse=True, colalign=align if rows else None))
        )
    for value, result in zip(values, found, strict=True):
        told = notes(result)[:-1]  # the legend is about the columns of a single profile's table
        blocks.append(clean_lines("\n".join([f"{sweep.quantity} {value} (profile {result.profile_id}):", *told])))
    return "\n\n".join(blocks)


def _about(found: Sequence[ProfileResult]) -> str:
    first = found[0]
    origin = first.provenance
    return (
        f"{first.setting.network}, batches of {first.setting.batch_size}, {first.setting.precision} unless swept; "
        f"{origin.device} ({origin.cpu}), torch {origin.versions.get('torch', '?')}; ratios to {first.baseline}"
    )


def _time(result: ProfileResult, method: str) -> str:
    ratio = timing(result, method)
    return MISSING if ratio is None else f"{ratio.median:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]"


def _of_row(result: ProfileResult, method: str, field: str) -> str:
    row = result.row(method)
    return MISSING if row is None else number(getattr(row, field), 3)


def document(sweep: Sweep, found: Sequence[ProfileResult]) -> dict[str, Any]:
    """The sweep and its profiles as plain values; ``rows`` holds all their rows, each with the value swept."""
    profiles = [profile_document(result) for result in found]
    rows = [
        {sweep.quantity: value, **row}
        for value, plain in zip(sweep.values[: len(found)], profiles, strict=True)
        for row in plain["rows"]
    ]
    return {"sweep": sweep.quantity, "values": list(sweep.values), "rows": rows, "profiles": profiles}


def plot(sweep: Sweep, found: Sequence[ProfileResult], folder: Path) -> Path:
    """Time ratios with their intervals against the quantity swept, FLOPs' prediction dashed, as an SVG; returns it.

    Numbers are drawn on a logarithmic axis, networks side by side. Invalid timings are left out.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    values = sweep.values[: len(found)]
    numeric = sweep.quantity != "model"
    places = [float(value) for value in values] if numeric else [float(i) for i in range(len(values))]
    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    axes = figure.add_subplot()
    axes.axhspan(1 - found[0].setting.margin, 1 + found[0].setting.margin, color="0.9", label="equal (margin)")
    for i, method in enumerate(methods(found)):
        _draw(axes, list(zip(places, found, strict=True)), method, MARKERS[i % len(MARKERS)], f"C{i % 10}")
    if numeric:
        axes.set_xscale("log")
    axes.set_xticks(places, values)
    axes.minorticks_off()
    axes.set_xlabel(sweep.quantity)
    axes.set_ylabel(f"time of a step / {found[0].baseline}'s (dashed: FLOPs)")
    axes.legend(fontsize="small", ncols=2)
    path = folder / f"{sweep.quantity}-{digest([r.profile_id for r in found])}.svg"
    with replacing(path) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a plug-in's name may hold characters that the font lacks
        figure.savefig(temporary, format="svg")
    return path


def _draw(axes: Any, points: Sequence[tuple[float, ProfileResult]], method: str, marker: str, colour: str) -> None:
    """One method's line with intervals, and a dashed one for what its FLOPs predict."""
    timed = [(x, ratio) for x, result in points if (ratio := timing(result, method))]
    if timed:
        xs, ratios = [x for x, _ in timed], [ratio for _, ratio in timed]
        spread = [[r.median - r.low for r in ratios], [r.high - r.median for r in ratios]]
        name = shown([result for _, result in points], method)
        label = name.replace("$", r"\$")  # else it would be read as a formula
        medians = [r.median for r in ratios]
        axes.errorbar(xs, medians, yerr=spread, marker=marker, color=colour, capsize=3, label=label)
    rows = [(x, row.predicted_ratio) for x, result in points if (row := result.row(method))]
    lines = [(x, y) for x, y in rows if y is not None]
    axes.plot([x for x, _ in lines], [y for _, y in lines], "--", color=colour, linewidth=0.9)
