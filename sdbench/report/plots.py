"""Figures for papers: one column wide, one panel per board, told apart by colour, marker and line. matplotlib.

The caption, which is returned beside the figure, says what is drawn, over how many seeds, and with which error bars.
"""

from __future__ import annotations

import math
import textwrap
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from sdbench.errors import UserError
from sdbench.kept_logits import UnusableLogits
from sdbench.report.costs import Bars, Tradeoff, bar_name, bars, tradeoff
from sdbench.report.curves import Band
from sdbench.report.material import Entry, Group, Material, bands, diagram, logits, printable
from sdbench.report.plot_style import (
    COLOURS,
    LEGEND_WIDTH,
    MOST_PANELS,
    STYLE,
    WIDTH,
    Drawn,
    Style,
    bins_panel,
    counts,
    label,
    legend,
    named,
    panels,
    plain_ticks,
    rows,
    styles,
)

POINTS = 1000
"""Epochs of a curve that are drawn."""
ALL = 10_000
"""Seeds: all that there can be."""
DIAGRAMS = 12
NO_LOGITS = "no logits to draw from; `sdbench run` keeps them unless told --no-logits"


def draw(kind: str, material: Material) -> Drawn:
    """One of the figures of ``KINDS``. Raises UserError where there is nothing to draw, with what is missing."""
    import matplotlib

    matplotlib.use("Agg")
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return KINDS[kind](material)


def pareto(material: Material) -> Drawn:
    """Top-1 accuracy with standard deviations against cost; the front as steps."""
    known = [(g, tradeoff(g)) for g in material.groups if any(e.trials for e in g.entries)]
    shown = [(g, found) for g, found in known if found is not None]
    left_out = [
        f"{g.title}: no method but the baseline has both an accuracy and a cost; "
        f"`sdbench profile --model {g.table.network}` measures what steps cost"
        for g, found in known
        if found is None
    ]
    if known and not shown:
        raise UserError(left_out[:10])
    figure, axes, _ = panels(replace(material, groups=tuple(g for g, _ in shown)), "pareto", 2.9)
    about: set[str] = set()
    numbers: list[int] = []
    front: list[str] = []
    for axis, (group, found) in zip(axes, shown, strict=True):
        numbers += _points(axis, found, group, left_out)
        axis.set_xlabel("\n".join(textwrap.wrap(found.axis, 52)))
        about.add(f"{found.axis} ({found.about})")
        left_out += [f"{e.name}: no cost; profile it" for e in found.missing]
        front += [s.entry.name for s in found.spots if s.front]
    caption = (
        f"Top-1 accuracy after the last epoch, mean and standard deviation over {counts(numbers)}, against "
        f"{'; '.join(sorted(about))}. Circled, and joined by the dashed line: the Pareto front ({', '.join(front)})."
    )
    return Drawn(figure, caption, left_out)


def _points(axis: Any, found: Tradeoff, group: Group, left_out: list[str]) -> list[int]:
    """One panel of ``pareto``; the numbers of seeds."""
    style, chosen = styles(group), {e.letter for e in rows(group, left_out)}
    spots = [s for s in found.spots if s.entry.letter in chosen]
    for spot in spots:
        own, at, up = style[spot.entry.letter], spot.cost, 100 * spot.top1
        spread = None if spot.std is None else 100 * spot.std
        cost = [[at - spot.low], [spot.high - at]] if spot.low < spot.high else None
        axis.errorbar(at, up, yerr=spread, xerr=cost, fmt="none", ecolor=own.colour, elinewidth=0.8, capsize=1.5)
        axis.plot(at, up, own.marker, color=own.colour, label=named(spot.entry, group))
        if spot.front:
            axis.plot(at, up, "o", markersize=9, markerfacecolor="none", markeredgecolor="0.45", markeredgewidth=0.8)
    front = sorted({(s.cost, 100 * s.top1) for s in spots if s.front})
    axis.step([c for c, _ in front], [t for _, t in front], where="post", color="0.45", linestyle=(0, (4, 2)),
              linewidth=0.9, zorder=1)  # fmt: skip
    axis.margins(0.1)
    axis.set_ylabel("top-1 accuracy, %")
    legend(axis)
    return [s.n for s in spots]


def curves(material: Material) -> Drawn:
    """Test accuracy per epoch where it was logged, else training loss, with bands over seeds."""
    figure, axes, groups = panels(material, "curves", 2.9)
    left_out: list[str] = []
    shown, numbers = set(), []
    for axis, group in zip(axes, groups, strict=True):
        style, chosen = styles(group), rows(group, left_out)
        found = {e.letter: bands(material.store, e, ("top1", "loss"), POINTS, ALL) for e in chosen}
        scored = any(len(f["top1"].epochs) > 1 for f in found.values() if "top1" in f)
        key, scale, what = ("top1", 100.0, "test accuracy") if scored else ("loss", 1.0, "loss")
        for entry in chosen:
            band = found[entry.letter].get(key)
            if band is None or len(band.epochs) < 2:
                left_out.append(f"{entry.name}: {what} of fewer than two epochs")
                continue
            _line(axis, named(entry, group), band, scale, style[entry.letter])
            numbers.append(band.n)
        axis.set_xlabel("epoch")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.set_ylabel("top-1 accuracy, %" if scored else "training loss, nats")
        shown.add("Test accuracy" if scored else "Training loss (each method's own objective)")
        legend(axis)
    if not numbers:
        raise UserError("no curve has two epochs; `sdbench run --eval-every N` logs test accuracy every N epochs")
    of = f"mean and band of one standard deviation over {counts(numbers)}"
    return Drawn(figure, f"{' and '.join(sorted(shown))} per epoch; {of}.", left_out)


def _line(axis: Any, said: str, band: Band, scale: float, own: Style) -> None:
    means = [scale * v.mean for v in band.values]
    stds = [scale * (v.std or 0.0) for v in band.values]
    low, high = ([m + sign * s for m, s in zip(means, stds, strict=True)] for sign in (-1, 1))
    axis.fill_between(band.epochs, low, high, color=own.colour, alpha=0.15, linewidth=0)
    axis.plot(band.epochs, means, color=own.colour, marker=own.marker, linestyle=own.line, markersize=3,
              markevery=max(1, len(means) // 6), label=said)  # fmt: skip


def reliability(material: Material) -> Drawn:
    """A diagram per row: accuracy per bin of confidence, the gap to the confidence hatched."""
    from matplotlib.figure import Figure

    left_out: list[str] = []
    found = []
    for group in material.groups:
        for entry in rows(group, left_out):
            pooled, problem = diagram(material.store, entry, ALL)
            left_out += [f"{entry.name} on {group.table.dataset}: {problem}"] if problem else []
            found += [(group, entry, pooled)] if pooled is not None else []
    if not found:
        raise UserError([NO_LOGITS, *left_out[:10]])
    left_out += [f"{e.name}: more than {DIAGRAMS} panels; choose with --methods" for _, e, _ in found[DIAGRAMS:]]
    found = found[:DIAGRAMS]
    several = len({group.title for group, _, _ in found}) > 1
    columns = min(3, len(found))
    lines = math.ceil(len(found) / columns)
    figure = Figure(figsize=(WIDTH, 0.3 + lines * (0.3 + 2.85 / columns)), layout="constrained")
    axes = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    for axis, (group, entry, pooled) in zip(axes.flat, found, strict=False):
        where = f", {group.table.dataset}" if several else ""
        bins_panel(axis, pooled, printable(entry.name, 60) + where, entry.row.metrics["ece"].mean)
    for i, axis in enumerate(axes.flat):
        if i >= len(found):
            axis.set_visible(False)
        elif i + columns >= len(found):
            axis.tick_params(labelbottom=True)
    figure.supxlabel("confidence", fontsize=8)
    figure.supylabel("accuracy", fontsize=8)
    caption = (
        "Reliability: accuracy of the predicted class in 15 bins of its confidence, test samples of "
        f"{counts([r.trials for _, _, r in found])} pooled. Blue, light and dark: accuracy; hatched: confidence above "
        "accuracy; light blue: accuracy above confidence. ECE: mean over seeds."
    )
    return Drawn(figure, caption, left_out)


def cost(material: Material) -> Drawn:
    """Measured time of a step beside what FLOPs predict, per task of the profiles."""
    from matplotlib.figure import Figure

    methods = {e.row.method for group in material.groups for e in group.entries}
    found = [b for b in bars(material.profiles, sorted(methods) if methods else None) if len(b.rows) > 1]
    if not found:
        networks = sorted({group.table.network for group in material.groups}) or ["resnet20"]
        how = f"`sdbench profile --model {networks[0]}` measures them"
        raise UserError(f"no profile under {material.results} of these methods; {how}")
    left_out = [f"{b.task}: more than {MOST_PANELS} tasks; choose with --model" for b in found[MOST_PANELS:]]
    found = found[:MOST_PANELS]
    heights = [0.75 + 0.3 * len(b.rows) for b in found]
    figure = Figure(figsize=(WIDTH, sum(heights)), layout="constrained")
    axes = figure.subplots(len(found), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axis, group in zip(axes, found, strict=True):
        left_out += _bars(axis, group)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    places = "; ".join(sorted({b.place for b in found}))
    caption = (
        "Time of a training step relative to the baseline's, measured in turns in one process (median over rounds, "
        "95 % bootstrap interval), beside what counted FLOPs predict. Shaded: the margin that counts as equal. "
        f"{places}."
    )
    return Drawn(figure, caption, left_out)


def _bars(axis: Any, group: Bars) -> list[str]:
    """One panel of ``cost``; what has no timing."""
    left_out = []
    names = [bar_name(m.row, group.rows) for m in group.rows]
    axis.axvspan(1 - group.margin, 1 + group.margin, color="#fff0b8", zorder=0, label=f"margin {group.margin:g}")
    for i, m in enumerate(group.rows):
        time, predicted = (m.row.time_ratio if m.timed else None), m.row.predicted_ratio
        if time is not None:
            spread = [[time.median - time.low], [time.high - time.median]]
            axis.barh(i - 0.17, time.median, 0.34, color=COLOURS[0], xerr=spread, ecolor="black", capsize=1.5,
                      error_kw={"linewidth": 0.7}, label="measured" if i == 0 else None)  # fmt: skip
        else:
            left_out.append(f"{names[i]}: {m.untimed_because or m.row.status}")
        if predicted is not None:
            axis.barh(i + 0.2, predicted, 0.24, color="0.75", hatch="///", edgecolor="0.4", linewidth=0.3,
                      label="predicted by FLOPs" if i == 0 else None)  # fmt: skip
    axis.axvline(1, color="black", linewidth=0.6)
    axis.set_yticks(range(len(names)), [label(name) for name in names])
    axis.invert_yaxis()
    axis.grid(visible=False, axis="y")
    axis.set_xlabel(f"time of a step / {printable(group.baseline, 40)}'s")
    axis.set_title("\n".join(textwrap.wrap(group.task, 56)), fontsize=6.5, loc="left")
    return left_out


def zipf(material: Material) -> Drawn:
    """Softmax outputs sorted and averaged over samples and seeds against rank, with the fitted exponent."""
    from sdbench.analysis.zipf import RANKS

    figure, axes, groups = panels(material, "zipf", 2.9)
    left_out: list[str] = []
    numbers: list[int] = []
    for axis, group in zip(axes, groups, strict=True):
        style = styles(group)
        for entry in rows(group, left_out):
            numbers += _ranked(axis, material, entry, style[entry.letter], left_out)
        axis.set(xscale="log", yscale="log", xlabel="rank among the classes other than the label")
        axis.set_ylabel("softmax output")
        plain_ticks(axis)
        legend(axis)
    if not numbers:
        raise UserError([NO_LOGITS, *left_out[:10]])
    caption = (
        "Softmax outputs of the classes other than the label, sorted within each test sample and averaged over "
        f"samples and {counts(numbers)}, against rank. s: exponent of r^-s, least squares in log-log over ranks "
        f"{RANKS[0]} to {RANKS[1]} (or as many as there are), mean ± standard deviation over seeds."
    )
    return Drawn(figure, caption, left_out)


def _ranked(axis: Any, material: Material, entry: Entry, own: Style, left_out: list[str]) -> list[int]:
    """One line of ``zipf``; the number of seeds, or nothing where none has logits."""
    import numpy as np

    from sdbench.analysis.zipf import fit, sorted_outputs

    values: list[Any] = []
    exponents = []
    for result in entry.trials:
        try:
            found = sorted_outputs(*logits(material.store, result))
            if values and len(found) != len(values[0]):
                raise ValueError("its logits have other classes than those of the seeds before it")
            exponents.append(fit(found).line.exponent)
            values.append(found)
        except (UnusableLogits, ValueError) as error:
            left_out.append(f"{entry.name} seed {result.spec.seed}: {error}")
    if not values:
        return []
    mean = np.mean(values, axis=0)
    spread = f" ± {np.std(exponents, ddof=1):.2f}" if len(exponents) > 1 else ""
    marks = sorted({round(float(x)) - 1 for x in np.geomspace(1, len(mean), 8)})
    said = label(f"{entry.name}: s = {np.mean(exponents):.2f}{spread}", LEGEND_WIDTH)
    axis.plot(np.arange(1, len(mean) + 1), mean, color=own.colour, marker=own.marker, linestyle=own.line, markersize=3,
              markevery=marks, label=said)  # fmt: skip
    return [len(values)]


KINDS: dict[str, Callable[[Material], Drawn]] = {
    "pareto": pareto,
    "curves": curves,
    "reliability": reliability,
    "cost": cost,
    "zipf": zipf,
}
