"""The charts of the report as SVG: pure functions of what they show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from sdbench.cost.records import Ratio
from sdbench.leaderboard_cells import number, ratio_interval
from sdbench.report.costs import Tradeoff
from sdbench.report.curves import Band
from sdbench.report.material import Entry
from sdbench.report.reliability import Reliability
from sdbench.report.svg import COLOURS, Axis, axis, chart, frame, marker, path, short, tag

LABELLED = 60
"""Methods in a scatter plot up to which all have a label, not only those on the front: of more none could be read."""

WIDTH, HEIGHT = 560.0, 340.0
LEFT, RIGHT, TOP, BOTTOM = 54.0, 16.0, 14.0, 42.0
SIDE = 190.0
"""Of a reliability diagram."""
BAR_WIDTH, BAR_HEIGHT = 260.0, 26.0


def styles(entries: Sequence[Entry]) -> dict[str, str]:
    """The class of each row's colour and marker by its letter; the baseline has its own."""
    found, i = {}, 0
    for entry in entries:
        found[entry.letter] = "base" if entry.row.baseline else f"c{i % COLOURS}"
        i += not entry.row.baseline
    return found


def swatch(style: str) -> Markup:
    """A row's line and marker for a legend; the text beside it says whose."""
    line = tag("path", d="M1 7H27", class_=f"line {style}")
    return tag("svg", line, marker(14.0, 7.0, style), viewBox="0 0 28 14", class_="swatch", aria_hidden="true")


def plane(xs: Sequence[float], ys: Sequence[float], *, whole: bool = False) -> tuple[Axis, Axis]:
    """Axes of a chart of the usual size."""
    across = axis(xs, LEFT, WIDTH - RIGHT, most=7, whole=whole)
    return across, axis(ys, HEIGHT - BOTTOM, TOP)


def scatter(ident: str, title: str, found: Tradeoff, style: Mapping[str, str]) -> Markup:
    """Top-1 in per cent, with one standard deviation up and down, against cost; the Pareto front as steps."""
    spots = found.spots
    ys = [100 * (s.top1 + sign * (s.std or 0.0)) for s in spots for sign in (-1, 1)]
    x, y = plane([v for s in spots for v in (s.low, s.high)], ys)
    front = sorted({(s.cost, 100 * s.top1) for s in spots if s.front})
    corners: list[tuple[float, float]] = []
    for cost, top1 in front:
        corners += [(cost, corners[-1][1])] if corners else []
        corners.append((cost, top1))
    parts = [frame(x, y, f"{found.axis} (less is better)", "top-1 accuracy, %")]
    if len(front) > 1:
        parts.append(tag("path", d=path([(x.at(a), y.at(b)) for a, b in corners]), class_="front"))
    boxes: list[tuple[float, float]] = [(x.at(s.cost), y.at(100 * s.top1)) for s in spots]
    for s in spots:
        room = boxes if s.front or len(spots) <= LABELLED else None
        parts.append(_spot(s.entry, x, y, (s.cost, s.low, s.high), (s.top1, s.std, s.n), s.front, style, room))
    named = ", ".join(s.entry.name for s in spots if s.front)
    about = f"{len(spots)} methods; top-1 accuracy against {found.axis}, {found.about}. Pareto front: {named}."
    return chart(ident, title, about, WIDTH, HEIGHT, *parts)


def _spot(
    entry: Entry, x: Axis, y: Axis, cost: tuple[float, float, float], top1: tuple[float, float | None, int],
    front: bool, style: Mapping[str, str], boxes: list[tuple[float, float]] | None,
) -> Markup:  # fmt: skip
    """A method's marker. boxes: what its label must not hide; None for no label."""
    own = style[entry.letter]
    at, up = x.at(cost[0]), y.at(100 * top1[0])
    spread = "" if top1[1] is None else f" ± {100 * top1[1]:.2f}"
    between = f" [{cost[1]:.3f}, {cost[2]:.3f}]" if cost[1] < cost[2] else ""
    on = ", on the Pareto front" if front else ""
    said = f"{entry.letter}: {entry.name}: top-1 {100 * top1[0]:.2f}{spread} % (n = {top1[2]}), {cost[0]:.3f}{between}"
    bars = []
    if top1[1]:
        bars.append(f"M{short(at)} {short(y.at(100 * (top1[0] - top1[1])))}V{short(y.at(100 * (top1[0] + top1[1])))}")
    if cost[1] < cost[2]:
        bars.append(f"M{short(x.at(cost[1]))} {short(up)}H{short(x.at(cost[2]))}")
    label = entry.name if len(entry.name) <= 14 else entry.letter
    text = Markup("")
    if boxes is not None:
        left, middle = _free(at, up, 6.2 * len(label), x, boxes)
        text = tag("text", label, x=left, y=middle + 4, class_="point")
    return tag(
        "g",
        tag("title", said + on),
        *(tag("path", d=bar, class_=f"error {own}") for bar in bars),
        tag("circle", cx=at, cy=up, r=8.0, class_="ring") if front else Markup(""),
        marker(at, up, own),
        text,
        class_="spot",
        tabindex=0,
        role="img",
        aria_label=said + on,
    )


def _free(at: float, up: float, width: float, x: Axis, boxes: list[tuple[float, float]]) -> tuple[float, float]:
    """Where a label's left end hits the fewest markers and labels, which ``boxes`` holds as points; adds its own."""
    places = [(at + 8, up - 9), (at + 8, up + 10), (at - 8 - width, up - 9), (at - 8 - width, up + 10)]
    places += [(at - width / 2, up - 18), (at - width / 2, up + 19)]

    def hits(place: tuple[float, float]) -> tuple[int, int]:
        outside = place[0] < x.start or place[0] + width > x.end + RIGHT
        over = [b for b in boxes if place[0] - 5 < b[0] < place[0] + width + 5 and abs(b[1] - place[1]) < 11]
        return len(over) + 9 * outside, places.index(place)

    best = min(places, key=hits)
    boxes += [(best[0] + step * width / 4, best[1]) for step in range(5)]
    return best


def curves(
    ident: str, title: str, found: Sequence[tuple[Entry, Band]], y_title: str, scale: float, style: Mapping[str, str]
) -> Markup:
    """Means over seeds per epoch, in units of 1 / scale, with a band of one standard deviation up and down."""
    values = [scale * (v.mean + sign * (v.std or 0.0)) for _, b in found for v in b.values for sign in (-1, 1)]
    x, y = plane([float(e) for _, b in found for e in b.epochs], values, whole=True)
    parts = [frame(x, y, "epoch", y_title)]
    parts += [_series(entry, band, x, y, scale, style[entry.letter]) for entry, band in found]
    about = f"{y_title} per epoch, mean and standard deviation over seeds, of {len(found)} methods."
    return chart(ident, title, about, WIDTH, HEIGHT, *parts)


def _series(entry: Entry, band: Band, x: Axis, y: Axis, scale: float, own: str) -> Markup:
    points = list(zip(band.epochs, band.values, strict=True))
    upper, middle, lower = (
        [(x.at(epoch), y.at(scale * (v.mean + sign * (v.std or 0.0)))) for epoch, v in points] for sign in (1, 0, -1)
    )
    last = band.values[-1]
    spread = "" if last.std is None else f" ± {scale * last.std:.3g}"
    where = f"at epoch {band.epochs[-1]} (n = {last.n})"
    said = f"{entry.letter}: {entry.name}: {scale * last.mean:.4g}{spread} {where}"
    inner = [tag("title", said)]
    if any(v.std for v in band.values):
        inner.append(tag("path", d=path([*upper, *reversed(lower)], close=True), class_=f"band {own}"))
    inner.append(tag("path", d=path(middle), class_=f"line {own}"))
    marks = middle if len(middle) <= 12 else [middle[i] for i in (0, len(middle) // 2, -1)]
    inner += [marker(*point, own) for point in marks]
    return tag("g", *inner, class_="series", tabindex=0, role="img", aria_label=said)


def reliability(ident: str, title: str, found: Reliability) -> Markup:
    """Accuracy per bin of confidence as bars, the gap to the mean confidence in another colour, the diagonal dashed."""
    x = Axis(0, 1, 30, SIDE - 6, (0.0, 0.5, 1.0))
    y = Axis(0, 1, SIDE - 24, 6, (0.0, 0.5, 1.0))
    parts = []
    for value in x.ticks:
        parts.append(tag("path", d=f"M{short(x.start)} {short(y.at(value))}H{short(x.end)}", class_="grid"))
        parts.append(tag("text", f"{value:g}", x=x.start - 5, y=y.at(value) + 4, class_="tick y"))
        parts.append(tag("text", f"{value:g}", x=x.at(value), y=y.start + 15, class_="tick x"))
    bins = len(found.counts)
    width = (x.end - x.start) / bins
    for b in range(bins):
        accuracy, confidence = found.accuracy_at(b), found.confidence_at(b)
        if accuracy is None or confidence is None:
            continue
        low, high = sorted((accuracy, confidence))
        kind = "over" if confidence > accuracy else "under"
        left = x.start + b * width
        said = f"{found.counts[b]} samples of mean confidence {confidence:.3f}: accuracy {accuracy:.3f}"
        box = {"x": left + 0.75, "width": width - 1.5}
        share = found.counts[b] / found.total
        faint = "" if share >= 0.01 else " few"
        parts.append(
            tag(
                "g",
                tag("title", said),
                tag("rect", **box, y=y.at(low), height=y.start - y.at(low), class_=f"hit{faint}"),
                tag("rect", **box, y=y.at(high), height=y.at(low) - y.at(high), class_=f"{kind}{faint}"),
                tag("path", d=f"M{short(left)} {short(y.at(confidence))}h{short(width)}", class_="confidence"),
            )
        )
    parts.append(tag("path", d=path([(x.start, y.start), (x.end, y.end)]), class_="diagonal"))
    parts.append(tag("path", d=f"M{short(x.start)} {short(y.end)}V{short(y.start)}H{short(x.end)}", class_="axis"))
    about = f"Accuracy in {bins} bins of confidence over {found.total} samples; pooled ECE {100 * found.ece:.2f} %."
    return chart(ident, title, about, SIDE, SIDE, *parts)


def bar(measured: Ratio | None, predicted: float | None, margin: float, most: float) -> Markup:
    """A method's measured ratio as a bar with its interval above the predicted one, to the scale 0 to ``most``."""
    across = Axis(0, most * 1.04, 2, BAR_WIDTH - 2, ())
    one = f"M{short(across.at(1))} 0V{short(BAR_HEIGHT)}"
    low, high = across.at(1 - margin), across.at(1 + margin)
    parts = [tag("rect", x=low, y=0, width=high - low, height=BAR_HEIGHT, class_="margin")]
    if measured is not None:
        parts.append(tag("rect", x=2, y=2, width=across.at(measured.median) - 2, height=11, class_="measured"))
        ends = f"M{short(across.at(measured.low))} 7.5H{short(across.at(measured.high))}"
        caps = "".join(f"M{short(across.at(v))} 4.5v6" for v in (measured.low, measured.high))
        parts.append(tag("path", d=ends + caps, class_="interval"))
    if predicted is not None:
        parts.append(tag("rect", x=2, y=15, width=across.at(predicted) - 2, height=8, class_="predicted"))
    parts.append(tag("path", d=one, class_="one"))
    time = "not measured" if measured is None else ratio_interval(measured, 3)
    said = f"time × {time}, FLOPs × {number(predicted, 3)}"
    return tag(
        "svg", tag("title", said), *parts, viewBox=f"0 0 {short(BAR_WIDTH)} {short(BAR_HEIGHT)}", class_="bar",
        role="img", aria_label=said, tabindex=0,
    )  # fmt: skip
