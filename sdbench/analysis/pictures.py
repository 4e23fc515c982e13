"""Analyses as pictures, by matplotlib. No display and no global state are needed."""

from __future__ import annotations

import math
import textwrap
import warnings
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, ParamSpec

import numpy as np

from sdbench.analysis.planes import Drawing
from sdbench.analysis.records import Bin, CalibrationRow, ZipfRow
from sdbench.analysis.zipf import fit
from sdbench.errors import UserError, unknown
from sdbench.report.commands import cannot_write
from sdbench.report.material import printable
from sdbench.report.plot_style import SUFFIXES, label, plain_ticks
from sdbench.store import replacing

STYLE: Any = {"text.parse_math": False, "svg.hashsalt": "sdbench"}
"""Names hold dollar signs that are no TeX; the same picture gives the same bytes."""
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#666666", "#000000")
"""Okabe and Ito's colours, which people who see few colours can tell apart."""
MARKS = "osD^vPX*"
P = ParamSpec("P")


def checked(path: Path) -> Path:
    """A path whose suffix is that of a picture. Raises UserError, EnvironmentProblem where its folder, or the one that
    it would be made in, cannot be written to."""
    suffix = path.suffix.removeprefix(".").lower()
    if suffix not in SUFFIXES:
        raise UserError(f"--output {path}: {unknown('kind of picture', suffix, SUFFIXES)}")
    try:
        if path.is_dir():
            raise UserError(f"--output {path} is a folder; give a file, such as picture.svg")
        with TemporaryFile(dir=next(folder for folder in path.absolute().parents if folder.exists())):
            pass
    except OSError as error:
        raise cannot_write(path, error) from error
    return path


def save(figure: Any, path: Path) -> None:
    """Write a picture, whole or not at all. Raises EnvironmentProblem where it cannot be written."""
    import matplotlib

    suffix = path.suffix.removeprefix(".").lower()
    dates = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # names may hold characters that the font lacks
        try:
            with replacing(path) as temporary:
                figure.savefig(temporary, format=suffix, metadata=dates.get(suffix), dpi=150)
        except OSError as error:
            raise cannot_write(path, error) from error


def _styled(draw: Callable[P, Any]) -> Callable[P, Any]:
    """Draw with ``STYLE``: a text keeps what was set when it was made."""

    @wraps(draw)
    def styled(*args: P.args, **kwargs: P.kwargs) -> Any:
        import matplotlib

        with matplotlib.rc_context(STYLE):
            return draw(*args, **kwargs)

    return styled


def _title(text: str, inches: float) -> str:
    """Lines of a title that fit into a width."""
    return "\n".join(textwrap.wrap(printable(text), int(11 * inches)))


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


@_styled
def zipf(rows: Sequence[ZipfRow], first: int, last: int, title: str) -> Any:
    """Averaged sorted outputs against rank, log-log, with each method's line; beside it the exponent by epoch, where
    logits of epochs were kept."""
    by_epoch = any(r.epochs for r in rows)
    figure = _figure(9.6 if by_epoch else 5.6, 4.2)
    axes = figure.subplots(1, 2 if by_epoch else 1, squeeze=False)[0]
    for i, r in enumerate(rows):
        values = r.outputs
        ranks = range(1, len(values) + 1)
        s, colour = r.figures.exponent.mean, COLOURS[i % len(COLOURS)]
        said = label(f"{r.label}: s = {s:.2f} (n = {len(r.seeds)})")
        axes[0].plot(ranks, values, MARKS[i % len(MARKS)], ms=3, color=colour, label=said)
        line = fit(np.array(values), first, last).line
        ends = [math.exp(line.log_constant) * rank**-line.exponent for rank in (first, last)]
        axes[0].plot([first, last], ends, "-", lw=0.8, color=colour)
        if r.epochs:
            epochs = [e.epoch for e in r.epochs]
            means = [e.figures.exponent.mean for e in r.epochs]
            spread = [e.figures.exponent.std or 0.0 for e in r.epochs]
            style = f"-{MARKS[i % len(MARKS)]}"
            axes[1].errorbar(epochs, means, spread, fmt=style, ms=3, lw=1, color=colour, capsize=2)
    axes[0].set(xscale="log", yscale="log", xlabel="rank", ylabel="mean sorted softmax output")
    axes[0].set_title(_title(title, 4.8))
    axes[0].axvspan(first, last, color="#000000", alpha=0.04, lw=0)
    plain_ticks(axes[0])
    axes[0].legend(fontsize=8)
    if by_epoch:
        axes[1].set(xlabel="epochs done", ylabel="fitted exponent s", title="mean ± std over seeds")
    return figure


@_styled
def reliability(rows: Sequence[CalibrationRow], title: str) -> Any:
    """Accuracy against confidence in bins, a panel per method, before and after temperature scaling; below it the share
    of samples per bin."""
    shown = [r for r in rows if r.reliability]
    width = max(3.2, 2.6 * len(shown))
    figure = _figure(width, 4.2)
    grid = figure.subplots(2, max(1, len(shown)), squeeze=False, sharex=True, sharey="row", height_ratios=[3, 1])
    for column, r in enumerate(shown):
        top, below = grid[0][column], grid[1][column]
        top.plot([0, 1], [0, 1], "--", lw=0.8, color="#666666", zorder=3)
        _bars(top, below, r.reliability, COLOURS[0])
        note = f"ECE {100 * r.before['ece'].mean:.1f} %"
        if r.reliability_after and r.temperature:
            x = [b.confidence for b in r.reliability_after if b.count]
            y = [b.accuracy for b in r.reliability_after if b.count]
            top.plot(x, y, "o-", ms=3, lw=1, color=COLOURS[1])
            note += f", {100 * r.after['ece'].mean:.1f} % at T = {r.temperature.mean:.2f}"
        top.set_title(f"{label(f'{r.label} (n = {len(r.seeds)})')}\n{note}", fontsize=9)
        below.set_xlabel("confidence")
    grid[0][0].set_ylabel("accuracy")
    grid[1][0].set_ylabel("share")
    scaled = any(r.reliability_after for r in shown)
    about = f"{title}; bars: as trained; line: after temperature scaling" if scaled else title
    figure.suptitle(_title(about, width), fontsize=10)
    return figure


def _bars(top: Any, below: Any, bins: Sequence[Bin], colour: str) -> None:
    total = sum(b.count for b in bins)
    width = bins[0].high - bins[0].low
    full = [b for b in bins if b.accuracy is not None]
    at = [b.low + width / 2 for b in full]
    top.bar(at, [b.accuracy for b in full], width=0.9 * width, color=colour, alpha=0.75)
    below.bar(at, [b.count / total for b in full], width=0.9 * width, color=colour, alpha=0.75)
    top.set(xlim=(0, 1), ylim=(0, 1))


@_styled
def geometry(drawings: Sequence[Drawing], names: Sequence[str], title: str) -> Any:
    """Three classes in the plane of their templates (crosses), a row per method, training images beside test images."""
    parts = list(drawings[0].parts)
    figure = _figure(3.2 * len(parts), 0.6 + 2.9 * len(drawings))
    grid = figure.subplots(len(drawings), len(parts), squeeze=False)
    for row, drawing in zip(grid, drawings, strict=True):
        for axes, part in zip(row, parts, strict=True):
            points, which = drawing.parts[part]
            for k, name in enumerate(names):
                own = points[which == k]
                said = label(f"{name} ({len(own)})")
                axes.plot(own[:, 0], own[:, 1], MARKS[k], ms=2.2, alpha=0.6, mew=0, color=COLOURS[k], label=said)
                cross = drawing.templates[k]
                axes.plot(cross[0], cross[1], "x", ms=8, mew=2, color=COLOURS[k])
            axes.set_title(label(f"{drawing.label}, seed {drawing.seed}, {part}"), fontsize=9)
            axes.set_aspect("equal", adjustable="datalim")
            axes.tick_params(labelsize=7)
        row[-1].legend(fontsize=7)
    figure.suptitle(_title(title, 3.2 * len(parts)), fontsize=10)
    return figure
