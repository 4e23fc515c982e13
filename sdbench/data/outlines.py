"""Letters with accents as coverage masks, from the outlines of matplotlib's own fonts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

LETTERS = "ABCDEFGHKLMNPRSTUXYZ"
"""Capitals without I, J, O, Q, V and W, which are too much like others."""
ACCENTS = {"plain": "", "acute": "\u00b4", "grave": "\u0060", "circumflex": "\u02c6", "diaeresis": "\u00a8"}
"""Spacing accents: unlike precomposed letters, every font has all of them for all letters."""
FONTS = (
    *(f"DejaVuSans{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSansMono{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")),
)

MASK_SIDE = 64
MASK_UNITS = 2.0
"""A mask is two heights of the letter H wide and high."""
SUBSAMPLES = 4
CURVE_STEPS = 8
ACCENT_SCALE = 1.35
"""Accents are drawn larger than the fonts have them, or 32 pixels would not show them."""
ACCENT_GAP = 0.12
"""Space between letter and accent, in heights of the letter H."""


def glyph_masks() -> NDArray[np.uint8]:
    """Coverage of every font's every class: uint8 [16, 100, 64, 64], 16 where the ink covers a pixel.

    Class number = 5 * letter + accent. Row 0 is at the top.
    """
    from matplotlib import get_data_path

    folder = Path(get_data_path()) / "fonts" / "ttf"
    masks = np.empty((len(FONTS), len(LETTERS) * len(ACCENTS), MASK_SIDE, MASK_SIDE), np.uint8)
    for font, row in zip(FONTS, masks, strict=True):
        for number, edges in enumerate(_font_classes(folder / f"{font}.ttf")):
            row[number] = fill(edges)
    return masks


def _font_classes(font: Path) -> list[Array]:
    """Edges of the hundred classes in one font, in heights of its letter H around the middle."""
    unit = _extent(outline(font, "H"))
    height = unit[3] - unit[1]
    accents = {name: outline(font, text) / height * ACCENT_SCALE if text else None for name, text in ACCENTS.items()}
    classes = []
    for text in LETTERS:
        letter = outline(font, text) / height
        left, bottom, right, top = _extent(letter)
        for accent in accents.values():
            edges = letter
            if accent is not None:
                start, low, end, _ = _extent(accent)
                shift = np.array([(left + right) / 2 - (start + end) / 2, top + ACCENT_GAP - low])
                edges = np.concatenate([letter, accent + shift])
            # The letter's place does not tell whether it has an accent.
            classes.append(edges - np.array([(left + right) / 2, (bottom + top) / 2 + 0.2]))
    return classes


def _extent(edges: Array) -> tuple[float, float, float, float]:
    low, high = edges.min((0, 1)), edges.max((0, 1))
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def outline(font: Path, text: str) -> Array:
    """The edges [E, 2, 2] (start and end, x to the right, y upwards) of a character's closed outlines,
    each curve cut into ``CURVE_STEPS`` straight pieces of equal parameter length."""
    from matplotlib.ft2font import FT2Font, LoadFlags
    from matplotlib.path import Path as Outline

    face = FT2Font(str(font))
    face.set_size(100, 72)
    face.load_char(ord(text), flags=LoadFlags.NO_HINTING)
    edges: list[tuple[Array, Array]] = []
    start = here = np.zeros(2)
    steps = (np.arange(CURVE_STEPS) + 1) / CURVE_STEPS
    for values, code in Outline(*face.get_path()).iter_segments(curves=True, simplify=False):
        points = np.asarray(values, np.float64).reshape(-1, 2)
        if code == Outline.MOVETO:
            start = here = points[0]
            continue
        if code == Outline.CLOSEPOLY:
            points = start[None]
        elif code == Outline.CURVE3:
            control, end = points
            t = steps[:, None]
            points = (1 - t) * (1 - t) * here + 2 * t * (1 - t) * control + t * t * end
        elif code != Outline.LINETO:
            raise ValueError(f"{font.name} has outlines of another kind than TrueType's (path code {code})")
        for point in points:
            edges.append((here, point))
            here = point
    return np.array(edges)


def fill(edges: Array) -> NDArray[np.uint8]:
    """The mask [64, 64] of closed outlines by the nonzero winding rule, each pixel the number of its
    16 sample points inside; outlines in units around the middle of the mask."""
    side = MASK_SIDE * SUBSAMPLES
    places = (edges + MASK_UNITS / 2) * (side / MASK_UNITS)
    (x0, y0), (x1, y1) = places[:, 0].T[:, :, None], places[:, 1].T[:, :, None]
    lines = np.arange(side) + 0.5
    up, down = (y0 <= lines) & (lines < y1), (y1 <= lines) & (lines < y0)
    edge, line = np.nonzero(up | down)
    y = (lines[line] - y0[edge, 0]) / (y1[edge, 0] - y0[edge, 0])
    crossing = x0[edge, 0] + y * (x1[edge, 0] - x0[edge, 0])
    column = np.clip(np.ceil(crossing - 0.5), 0, side).astype(np.int64)
    turns = np.zeros((side, side + 1), np.int8)
    np.add.at(turns, (line, column), np.where(up[edge, line], 1, -1).astype(np.int8))
    inside = (turns.cumsum(1, dtype=np.int8)[::-1, :side] != 0).view(np.uint8)
    blocks = inside.reshape(MASK_SIDE, SUBSAMPLES, MASK_SIDE, SUBSAMPLES)
    rows = sum(blocks[:, k] for k in range(1, SUBSAMPLES)) + blocks[:, 0]
    counts: NDArray[np.uint8] = sum(rows[..., k] for k in range(1, SUBSAMPLES)) + rows[..., 0]
    return counts
