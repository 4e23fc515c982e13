"""The figures of the report as values for its template: a chart, its legend, its caption, and the same as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from sdbench.leaderboard_cells import MISSING
from sdbench.report import charts
from sdbench.report.costs import Tradeoff, tradeoff
from sdbench.report.curves import Band, spread
from sdbench.report.material import Entry, Group, bands, diagram
from sdbench.report.reliability import Reliability
from sdbench.store import Store

POINTS = 60
"""Epochs of a curve that are drawn."""
CURVE_SEEDS = 30
"""Seeds of a row whose curves are read."""
CURVE_ROWS = 8
"""Lines of a chart, the baseline's among them; more cannot be told apart."""
DIAGRAM_SEEDS = 10
DIAGRAM_ROWS = 24
DIAGRAM_TRIALS = 300
"""Trials of the whole report whose logits are read: some ten milliseconds each."""
TABLE_EPOCHS = 12


@dataclass(frozen=True)
class Panel:
    """A reliability diagram with its heading and what to know about it."""

    letter: str
    name: str
    svg: Markup
    caption: str


@dataclass(frozen=True)
class Figure:
    """A chart, or several panels, with a legend (letter, name, swatch), a caption and the numbers as a table."""

    ident: str
    title: str
    caption: str
    svg: Markup | str = ""
    panels: tuple[Panel, ...] = ()
    legend: tuple[tuple[str, str, Markup], ...] = ()
    headers: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    notes: tuple[str, ...] = ()


@dataclass
class Budget:
    """How many more trials' logits may be read."""

    trials: int = DIAGRAM_TRIALS
    per_row: int = field(default=DIAGRAM_SEEDS)


def figures(store: Store, group: Group, ident: str, budget: Budget) -> tuple[Figure, ...]:
    """Accuracy against cost, learning curves and reliability of a table, as far as its records have them."""
    style = charts.styles(group.entries)
    return (
        _scatter(group, f"{ident}-cost", style),
        *_curves(store, group, ident, style),
        _reliability(store, group, f"{ident}-reliability", budget),
    )


def legend(entries: Sequence[Entry], style: Mapping[str, str]) -> tuple[tuple[str, str, Markup], ...]:
    return tuple((e.letter, e.name, charts.swatch(style[e.letter])) for e in entries)


def _scatter(group: Group, ident: str, style: Mapping[str, str]) -> Figure:
    name = "Accuracy against cost"
    found = tradeoff(group)
    if found is None:
        why = (
            f"No method has both an accuracy and a cost; sdbench profile --model {group.table.network} measures costs."
        )
        return Figure(ident, name, why)
    counts = sorted({s.n for s in found.spots})
    seeds = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    caption = (
        f"Top-1 accuracy (mean ± standard deviation, n = {seeds} seeds) against {found.axis}: {found.about}. "
        "Circled, and joined by the dashed line: the Pareto front, where no other method is at least as accurate and "
        "at most as costly. Points are taken at their word, also where their bars overlap."
    )
    notes = (f"without a cost: {', '.join(e.name for e in found.missing)}",) if found.missing else ()
    svg = charts.scatter(ident, f"{name}, {group.title}", found, style)
    headers = ("method", "cost", "top-1 %", "n", "Pareto front")
    shown = legend([s.entry for s in found.spots], style)
    return Figure(ident, name, caption, svg, (), shown, headers, _scatter_rows(found), notes)


def _scatter_rows(found: Tradeoff) -> tuple[tuple[str, ...], ...]:
    rows = []
    for s in found.spots:
        interval = f" [{s.low:.3f}, {s.high:.3f}]" if s.low < s.high else ""
        spread_ = "" if s.std is None else f" ± {100 * s.std:.2f}"
        front = "yes" if s.front else "no"
        rows.append((s.entry.name, f"{s.cost:.3f}{interval}", f"{100 * s.top1:.2f}{spread_}", str(s.n), front))
    return tuple(rows)


def _curves(store: Store, group: Group, ident: str, style: Mapping[str, str]) -> list[Figure]:
    """Training loss, and test accuracy where it was logged more than once."""
    shown = [e for e in group.entries if e.trials]
    base = [e for e in shown if e.row.baseline]
    others = [e for e in shown if not e.row.baseline]
    kept = base + others[: CURVE_ROWS - len(base)]
    rest = len(shown) - len(kept)
    found = {e.letter: bands(store, e, ("loss", "top1"), POINTS, CURVE_SEEDS) for e in kept}
    notes = [f"{rest} more rows are not drawn: choose some with --methods"] if rest > 0 else []
    many = any(len(e.trials) > CURVE_SEEDS for e in kept)
    notes += [f"of more than {CURVE_SEEDS} seeds the lowest {CURVE_SEEDS} are drawn"] if many else []
    figures_ = []
    for key, name, y_title, scale, caption in (
        ("loss", "Training loss", "training loss, nats", 1.0, "Each method's own objective: "
         "compare a line with itself, not with another's."),
        ("top1", "Test accuracy while training", "top-1 accuracy, %", 100.0, "Logged for the eye: no rule reads it."),
    ):  # fmt: skip
        lines = [(e, band) for e in kept if (band := found[e.letter].get(key)) and len(band.epochs) > 1]
        figures_.append(_curve_figure(lines, f"{ident}-{key}", name, (y_title, scale, caption), notes, style))
    return figures_


def _curve_figure(
    lines: Sequence[tuple[Entry, Band]], ident: str, name: str, axis: tuple[str, float, str], notes: Sequence[str],
    style: Mapping[str, str],
) -> Figure:  # fmt: skip
    y_title, scale, about = axis
    if not lines:
        return Figure(ident, name, "No curve has two epochs of it; sdbench run --eval-every N logs test accuracy.")
    alike = len({band.n for _, band in lines}) == 1
    counts = str(lines[0][1].n) if alike else ", ".join(f"{band.n} ({e.letter})" for e, band in lines)
    caption = f"Mean over n = {counts} seeds per epoch; the band is one standard deviation up and down. {about}"
    svg = charts.curves(ident, name, lines, y_title, scale, style)
    epochs = sorted({epoch for _, band in lines for epoch in band.epochs})
    headers = ("method", "n", *(f"epoch {epoch}" for epoch in spread(epochs, TABLE_EPOCHS)))
    rows = []
    for entry, band in lines:
        at = dict(zip(band.epochs, band.values, strict=True))
        cells = [at.get(epoch) for epoch in spread(epochs, TABLE_EPOCHS)]
        shown = (MISSING if v is None else f"{scale * v.mean:.4g}" for v in cells)
        rows.append((entry.name, str(band.n), *shown))
    return Figure(
        ident, name, caption, svg, (), legend([e for e, _ in lines], style), headers, tuple(rows), tuple(notes)
    )


def _reliability(store: Store, group: Group, ident: str, budget: Budget) -> Figure:
    name = "Reliability"
    panels, rows, notes = [], [], []
    shown = [e for e in group.entries if e.trials]
    for entry in shown[:DIAGRAM_ROWS]:
        most = min(budget.per_row, budget.trials)
        if most < 1:
            notes.append(f"{entry.name}: not drawn, as a report reads the logits of {DIAGRAM_TRIALS} trials at most")
            continue
        found, problem = diagram(store, entry, most)
        notes += [f"{entry.name}: {problem}"] if problem else []
        if found is not None:
            budget.trials -= found.trials
            panels.append(_panel(entry, found, f"{ident}-{entry.letter}"))
            rows += _bins(entry, found)
    if len(shown) > DIAGRAM_ROWS:
        notes.append(f"{len(shown) - DIAGRAM_ROWS} more rows are not drawn: choose some with --methods")
    if not panels:
        why = "No logits to draw from: they are kept unless sdbench run is told --no-logits."
        return Figure(ident, name, why, notes=tuple(notes))
    caption = (
        "Accuracy of the predicted class in 15 bins of its confidence, test samples of all seeds together. Blue "
        "bars, light and dark, reach the accuracy, short lines the mean confidence: orange where it is above the "
        "accuracy, light blue where it is below. On the dashed diagonal confidence is right. Pale bars hold fewer than "
        "1 % of the samples. The board's ECE is the mean of each seed's, which pooling can make smaller."
    )
    headers = ("method", "bin", "samples", "mean confidence", "accuracy")
    return Figure(ident, name, caption, "", tuple(panels), (), headers, tuple(rows), tuple(notes))


def _panel(entry: Entry, found: Reliability, ident: str) -> Panel:
    ece = entry.row.metrics.get("ece")
    own = "" if ece is None else f"ECE {100 * ece.mean:.2f} %, "
    caption = f"{own}pooled {100 * found.ece:.2f} % (n = {found.trials})"
    return Panel(entry.letter, entry.name, charts.reliability(ident, f"Reliability of {entry.name}", found), caption)


def _bins(entry: Entry, found: Reliability) -> list[tuple[str, ...]]:
    rows = []
    bins = len(found.counts)
    for b, count in enumerate(found.counts):
        accuracy, confidence = found.accuracy_at(b), found.confidence_at(b)
        shown = (MISSING if v is None else f"{v:.3f}" for v in (confidence, accuracy))
        rows.append((entry.name, f"({b / bins:.3f}, {(b + 1) / bins:.3f}]", str(count), *shown))
    return rows
