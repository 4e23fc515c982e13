"""How figures for papers look, and what their panels have in common. matplotlib."""

from __future__ import annotations

import math
import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdbench.errors import UserError
from sdbench.report.material import Entry, Group, Material, printable
from sdbench.report.reliability import Reliability

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = ("svg", "pdf", "png")
WIDTH = 3.35
"""Inches: a column of the usual two-column styles."""
MOST_PANELS = 6
MOST_ROWS = 14
"""Rows of a board in one panel."""
LABEL_WIDTH, LEGEND_WIDTH = 30, 44
"""Characters in a line of a label, and of one in a legend."""
LEGEND_ROOM, LEGEND_GAP = 0.4, 0.47
"""Inches that a panel has for its legend, beyond which the figure grows, and between them, for ticks and their label.
"""

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8A5A44")
"""Okabe and Ito's palette, which the colour-blind tell apart, with brown for its yellow, which is too pale on white."""
BASE_COLOUR = "#222222"
MARKERS = ("s", "^", "D", "v", "P", "X", "p")
LINES = ("-", "--", "-.", (0, (4, 1, 1, 1, 1, 1)))
STYLE: Any = {
    "font.size": 8, "axes.labelsize": 8, "axes.titlesize": 8, "xtick.labelsize": 7, "ytick.labelsize": 7,
    "legend.fontsize": 6.5, "axes.linewidth": 0.6, "lines.linewidth": 1.2, "lines.markersize": 4.5, "axes.grid": True,
    "grid.linewidth": 0.4, "grid.color": "#dddddd", "axes.axisbelow": True, "axes.spines.top": False,
    "axes.spines.right": False, "pdf.fonttype": 42, "svg.fonttype": "path", "svg.hashsalt": "sdbench",
    "savefig.dpi": 300, "text.usetex": False, "text.parse_math": False, "legend.frameon": False,
    "xtick.major.width": 0.6, "ytick.major.width": 0.6,
}  # fmt: skip


@dataclass(frozen=True)
class Drawn:
    """A finished figure, what it shows in words, and what it could not show."""

    figure: Figure
    caption: str
    left_out: list[str]

    def save(self, path: Path, suffix: str) -> None:
        """Write the figure; the same figure gives the same bytes."""
        import matplotlib

        metadata: dict[str, Any] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {"Software": None}}
        with matplotlib.rc_context(STYLE), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # names may hold characters that the font lacks
            self.figure.savefig(path, format=suffix, metadata=metadata[suffix])


@dataclass
class Style:
    """How one row is drawn wherever it appears in a figure."""

    colour: str
    marker: str
    line: Any


def panels(material: Material, kind: str, height: float) -> tuple[Figure, list[Any], list[Group]]:
    """A panel for each board, one above the other."""
    from matplotlib.figure import Figure

    groups = [group for group in material.groups if any(e.trials for e in group.entries)]
    if not groups:
        raise UserError(
            f"no finished trial under {material.results} to plot; `sdbench run` trains, `sdbench list runs` says what "
            "there is"
        )
    if len(groups) > MOST_PANELS:
        raise UserError(
            f"{len(groups)} boards do not fit into one figure; choose some with --dataset, --model or --protocol, as "
            f"in `sdbench plot {kind} --dataset {groups[0].table.dataset} --model {groups[0].table.network}`"
        )
    figure = Figure(figsize=(WIDTH, height * len(groups)), layout="constrained")
    axes = [figure.add_subplot(len(groups), 1, i + 1) for i in range(len(groups))]
    for axis, group in zip(axes, groups, strict=True):
        if len(groups) > 1:
            axis.set_title("\n".join(textwrap.wrap(group.title, 52)))
    return figure, axes, groups


def rows(group: Group, left_out: list[str]) -> list[Entry]:
    """The rows to draw: the baseline and the first of the others, with finished trials."""
    found = [e for e in group.entries if e.trials]
    base, others = [e for e in found if e.row.baseline], [e for e in found if not e.row.baseline]
    kept = base + others[: MOST_ROWS - len(base)]
    left_out += [f"{e.name}: more than {MOST_ROWS} rows; choose with --methods" for e in found if e not in kept]
    return kept


def styles(group: Group) -> dict[str, Style]:
    found, i = {}, 0
    for entry in group.entries:
        if entry.row.baseline:
            found[entry.letter] = Style(BASE_COLOUR, "o", ":")
        else:
            found[entry.letter] = Style(COLOURS[i % 7], MARKERS[i % 7], LINES[(i // 7) % len(LINES)])
            i += 1
    return found


def label(text: str, width: int = LABEL_WIDTH) -> str:
    """Lines of text that a legend shows: it would leave out a label that starts with an underscore."""
    shown = "\n".join(textwrap.wrap(printable(text, 120), width)) or "?"
    return f"\u200b{shown}" if shown.startswith("_") else shown


def plain_ticks(axes: Any) -> None:
    """Plain numbers at the ticks of logarithmic axes, whose usual ones are TeX; other ticks than the powers of ten
    where fewer than two of those are in view. To be called once everything is drawn."""
    from matplotlib.ticker import AutoLocator, LogLocator, NullFormatter

    for axis in (axes.xaxis, axes.yaxis):
        low, high = sorted(axis.get_view_interval())
        for locator in (LogLocator(subs=(1, 2, 5)), AutoLocator()):
            if sum(low <= tick <= high for tick in axis.get_majorticklocs()) < 2:
                axis.set_major_locator(locator)
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())


def named(entry: Entry, group: Group) -> str:
    """A row's label, with its number of seeds where those of its board differ."""
    differ = len({len(e.trials) for e in group.entries if e.trials}) > 1
    return label(f"{entry.name}, n = {len(entry.trials)}" if differ else entry.name, LEGEND_WIDTH)


def legend(axis: Any) -> None:
    """Below the panel, where it covers nothing; the figure grows with it."""
    from matplotlib.transforms import ScaledTranslation

    handles, labels = axis.get_legend_handles_labels()
    longest = max((len(line) for label in labels for line in label.split("\n")), default=0)
    columns = 3 if longest <= 13 else 2 if longest <= 22 else 1
    size = max(1, math.ceil(len(labels) / columns))
    heights = [0.045 + 0.108 * (1 + label.count("\n")) for label in labels]
    tallest = max((sum(heights[i : i + size]) for i in range(0, len(heights), size)), default=0.0)
    figure = axis.figure
    figure.set_figheight(figure.get_figheight() + max(0.0, tallest - LEGEND_ROOM))
    below = axis.transAxes + ScaledTranslation(0, -LEGEND_GAP, figure.dpi_scale_trans)
    axis.legend(handles, labels, loc="upper center", bbox_to_anchor=(0.45, 0), bbox_transform=below, ncols=columns,
                columnspacing=1.0, handlelength=2.2, borderaxespad=0.0)  # fmt: skip


def counts(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"n = {low} seed{'' if low == 1 else 's'}" if low == high else f"n = {low} to {high} seeds"


def bins_panel(axis: Any, found: Reliability, title: str, ece: float) -> None:
    """A reliability diagram: the bars and, in other colours, what confidence is above or below them."""
    kept = [b for b, count in enumerate(found.counts) if count]
    width = 1 / len(found.counts)
    middle = [(b + 0.5) * width for b in kept]
    hit = [found.accuracy_at(b) or 0.0 for b in kept]
    said = [found.confidence_at(b) or 0.0 for b in kept]
    over = [max(0.0, s - h) for s, h in zip(said, hit, strict=True)]
    under = [max(0.0, h - s) for s, h in zip(said, hit, strict=True)]
    both = [min(pair) for pair in zip(said, hit, strict=True)]
    axis.bar(middle, both, width, color=COLOURS[0], edgecolor="white", linewidth=0.3)
    axis.bar(middle, over, width, bottom=both, color="#fbe3d3", edgecolor=COLOURS[1], linewidth=0.3, hatch="//////")
    axis.bar(middle, under, width, bottom=both, color="#a9d0ea", edgecolor="white", linewidth=0.3)
    axis.plot([0, 1], [0, 1], color="0.3", linestyle="--", linewidth=0.7)
    axis.set(xlim=(0, 1), ylim=(0, 1), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1], aspect="equal")
    axis.set_xticklabels(["0", "0.5", "1"])
    axis.set_yticklabels(["0", "0.5", "1"])
    axis.set_title("\n".join([*textwrap.wrap(title, 20), f"ECE {100 * ece:.1f} %"]), fontsize=6.5)
