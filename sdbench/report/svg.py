"""Elements of charts as SVG. Every text is escaped; colours come from classes, so that one style sheet has them all."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from markupsafe import Markup, escape

from sdbench.leaderboard_cells import clean

COLOURS = 7
"""Classes c0 to c6 of the style sheet; ``base`` is the baseline's."""

SHAPES = (
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z",
    "M-3.6 -3.6h7.2v7.2h-7.2z",
    "M0 -4.8L4.6 3.4H-4.6z",
    "M0 -5L5 0L0 5L-5 0z",
    "M0 4.8L4.6 -3.4H-4.6z",
    "M-1.5 -4.5h3v3h3v3h-3v3h-3v-3h-3v-3h3z",
    "M0 -5L4.8 -1.5L2.9 4.1H-2.9L-4.8 -1.5z",
)
"""Outlines of markers, about 9 pixels wide: circle, square, triangle, diamond, triangle down, plus, pentagon."""


def tag(name: str, *content: object, **attributes: object) -> Markup:
    """An element; ``class_`` is class, underscores become hyphens, numbers get two decimals, None is left out.

    >>> tag("text", "a < b", x=1.0, class_="tick")
    Markup('<text x="1" class="tick">a &lt; b</text>')
    """
    given = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), _value(value))
        for key, value in attributes.items()
        if value is not None
    )
    inner = Markup("").join(piece if isinstance(piece, Markup) else escape(clean(str(piece))) for piece in content)
    return Markup("<{name}{given}>{inner}</{name}>").format(name=Markup(name), given=given, inner=inner)


def _value(value: object) -> str:
    return short(value) if isinstance(value, float) else clean(str(value))


def short(value: float) -> str:
    """Two decimals at most, for coordinates."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if abs(value) > 0.005 else "0"


def path(points: Iterable[tuple[float, float]], close: bool = False) -> str:
    """The data of a path through points."""
    return "M" + "L".join(f"{short(x)} {short(y)}" for x, y in points) + ("z" if close else "")


def chart(ident: str, title: str, about: str, width: float, height: float, *content: Markup) -> Markup:
    """A figure with a title and a description for those who do not see it; it scales with the page."""
    described = f"{ident}-title {ident}-about"
    named = tag("title", title, id=f"{ident}-title") + tag("desc", about, id=f"{ident}-about")
    box = f"0 0 {short(width)} {short(height)}"
    return tag("svg", named, *content, viewBox=box, class_="chart", role="group", aria_labelledby=described)


def marker(x: float, y: float, style: str) -> Markup:
    """A row's marker; ``style`` is ``base`` or one of c0, c1, ..., whose shape differs too, further ones repeat."""
    i = 0 if style == "base" else 1 + int(style[1:]) % (len(SHAPES) - 1)
    return tag("path", d=SHAPES[i], transform=f"translate({short(x)} {short(y)})", class_=f"marker {style}")


@dataclass(frozen=True)
class Axis:
    """Values from low to high on pixels from start to end; start > end for an axis that points upwards."""

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]

    def at(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def axis(values: Iterable[float], start: float, end: float, *, most: int = 6, whole: bool = False) -> Axis:
    """An axis that holds all values, with some room, and round ticks; ``whole`` keeps the ticks to whole numbers."""
    found = [v for v in values if math.isfinite(v)] or [0.0, 1.0]
    low, high = min(found), max(found)
    if high - low < 1e-9 * max(1.0, abs(high)):
        pad = 0.5 if whole else max(0.05 * abs(high), 1e-3)
    else:
        pad = 0.05 * (high - low)
    low, high = low - pad, high + pad
    step = tick_step((high - low) / most, whole)
    first = math.ceil(low / step - 1e-9)
    ticks = tuple(i * step for i in range(first, math.floor(high / step + 1e-9) + 1))
    return Axis(low, high, start, end, ticks)


def tick_step(least: float, whole: bool = False) -> float:
    """The smallest of 1, 2, 5 times a power of ten that is not below ``least``; at least 1 if ``whole``.

    >>> tick_step(0.13), tick_step(0.13, whole=True), tick_step(30)
    (0.2, 1.0, 50.0)
    """
    if whole:
        least = max(1.0, least)
    power = 10.0 ** math.floor(math.log10(least))
    found = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))
    return float(f"{found:.6g}")


def label(value: float, step: float) -> str:
    """A tick's text with the digits that tell neighbouring ticks apart."""
    digits = max(0, -math.floor(math.log10(step) + 1e-9)) if step else 0
    return f"{value + 0.0:.{min(digits, 9)}f}" if abs(value) > step * 1e-6 else "0"


def frame(x: Axis, y: Axis, x_title: str, y_title: str) -> Markup:
    """Grid, tick labels and titles of a chart."""
    parts = []
    steps = [a.ticks[1] - a.ticks[0] if len(a.ticks) > 1 else 1.0 for a in (x, y)]
    for value in y.ticks:
        at = y.at(value)
        parts.append(tag("path", d=f"M{short(x.start)} {short(at)}H{short(x.end)}", class_="grid"))
        parts.append(tag("text", label(value, steps[1]), x=x.start - 6, y=at + 4, class_="tick y"))
    for value in x.ticks:
        at = x.at(value)
        parts.append(tag("path", d=f"M{short(at)} {short(y.start)}V{short(y.end)}", class_="grid"))
        parts.append(tag("text", label(value, steps[0]), x=at, y=y.start + 16, class_="tick x"))
    lines = f"M{short(x.start)} {short(y.end)}V{short(y.start)}H{short(x.end)}"
    parts.append(tag("path", d=lines, class_="axis"))
    parts.append(tag("text", x_title, x=(x.start + x.end) / 2, y=y.start + 34, class_="name x"))
    middle = f"translate(12 {short((y.start + y.end) / 2)}) rotate(-90)"
    parts.append(tag("text", y_title, transform=middle, class_="name x"))
    return Markup("").join(parts)
