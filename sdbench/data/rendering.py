"""Letters made into pictures: batched tensor code, single rounded operations only (see ``glyphs``)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sdbench.data.outlines import MASK_SIDE, MASK_UNITS
from sdbench.data.streams import generator_for

SIDE = 32
VERSION = 1
"""Part of every seed."""
CHUNK = 500


@dataclass(frozen=True)
class Range:
    """A quantity drawn uniformly from [low, high) for each image."""

    low: float
    high: float


LETTER_HEIGHT = Range(14.0, 17.0)
"""Pixels."""
BACKGROUND = Range(10.0, 110.0)
"""Of each channel, in grey levels of 255."""
SHADE = Range(-35.0, 35.0)
"""Change of the background from the middle to the edge, along each direction."""
TINT = Range(0.75, 1.25)
"""Factor of the contrast of each channel."""

# What follows grows with an image's difficulty, the square of a uniform number in [0, 1): most images
# are easy, so that learning sets in early for every seed, and some cannot be read by anyone.
HALF_ANGLE = Range(-0.16, 0.16)
"""Tangent of half the rotation: up to 18 degrees either way, without a trigonometric function."""
SHEAR = Range(-0.25, 0.25)
SHIFT = Range(-3.5, 3.5)
"""Pixels, in each direction."""
CONTRAST = Range(5.0, 140.0)
"""Brightness of a letter above its background; the low end belongs to the hardest images."""
NOISE = 80.0
"""Half the width of the triangular noise of each value."""


class _Draws:
    """Uniform numbers for the images of one part, one sequence for each quantity."""

    def __init__(self, part: str, count: int) -> None:
        self.part, self.count = part, count
        uniform = self("difficulty", Range(0.0, 1.0))
        self.difficulty = uniform * uniform

    def __call__(self, purpose: str, values: Range, *channels: int) -> Tensor:
        """[N, *channels] float32, the same in whichever order quantities are asked for."""
        generator = generator_for("glyphs", VERSION, self.part, purpose)
        uniform = torch.rand((self.count, *channels), generator=generator)
        return uniform * (values.high - values.low) + values.low

    def harder(self, purpose: str, values: Range) -> Tensor:
        """[N] float32, the closer to zero the easier the image."""
        return self(purpose, values) * self.difficulty


def render(masks: Tensor, labels: Tensor, part: str) -> Tensor:
    """One image for each label, uint8 [N, 32, 32, 3].

    masks: uint8 [16, 100, 64, 64] from ``glyph_masks``. labels: [N]. part: names the random stream.
    """
    count = len(labels)
    draw = _Draws(part, count)
    fonts = torch.randint(0, len(masks), (count,), generator=generator_for("glyphs", VERSION, part, "fonts"))
    places = _mask_places(draw)
    background, shade = draw("background", BACKGROUND, 3), draw("shade", SHADE, 2)
    contrast = CONTRAST.high - (CONTRAST.high - CONTRAST.low) * draw.difficulty
    ink = contrast[:, None] * draw("tint", TINT, 3)
    noise = NOISE * draw.difficulty
    generator = generator_for("glyphs", VERSION, part, "pixels")
    chunks = []
    for start in range(0, count, CHUNK):
        rows = slice(start, start + CHUNK)
        letters = masks[fonts[rows], labels[rows]]
        coverage = _soften(_sample(letters, *(place[rows] for place in places)), draw.difficulty[rows])
        chunks.append(_paint(coverage, background[rows], shade[rows], ink[rows], noise[rows], generator))
    return torch.cat(chunks)


def _mask_places(draw: _Draws) -> tuple[Tensor, Tensor]:
    """Where each image's affine map takes its pixels: column and row in the mask, each [N, 32, 32]."""
    t = draw.harder("rotation", HALF_ANGLE)
    cosine, sine = (1 - t * t) / (1 + t * t), 2 * t / (1 + t * t)
    shear, right, down = draw.harder("shear", SHEAR), draw.harder("right", SHIFT), draw.harder("down", SHIFT)
    per_pixel = MASK_SIDE / MASK_UNITS / draw("scale", LETTER_HEIGHT)
    middle = torch.arange(SIDE) - (SIDE - 1) / 2
    x = middle[None, None, :] - right[:, None, None]
    y = middle[None, :, None] - down[:, None, None]
    cosine, sine, shear, per_pixel = (v[:, None, None] for v in (cosine, sine, shear, per_pixel))
    turned_x, turned_y = cosine * x + sine * y, cosine * y - sine * x
    centre = (MASK_SIDE - 1) / 2
    return (turned_x + shear * turned_y) * per_pixel + centre, turned_y * per_pixel + centre


def _sample(letters: Tensor, columns: Tensor, rows: Tensor) -> Tensor:
    """Bilinear samples [M, 32, 32] in [0, 1] of masks [M, 64, 64], zero outside them."""
    flat = letters.reshape(len(letters), -1)
    left, top = columns.floor(), rows.floor()
    across, down = columns - left, rows - top

    def at(row: Tensor, column: Tensor) -> Tensor:
        inside = (row >= 0) & (row < MASK_SIDE) & (column >= 0) & (column < MASK_SIDE)
        place = torch.where(inside, row * MASK_SIDE + column, 0.0).long()
        return flat.gather(1, place.view(len(flat), -1)).view_as(row) * inside

    upper = at(top, left) * (1 - across) + at(top, left + 1) * across
    lower = at(top + 1, left) * (1 - across) + at(top + 1, left + 1) * across
    return (upper * (1 - down) + lower * down) / 16


def _soften(coverage: Tensor, share: Tensor) -> Tensor:
    """[M, 32, 32] mixed with itself blurred, by ``share`` [M] in [0, 1]."""
    blurred = coverage
    for _ in range(2):
        for axis in (1, 2):
            padded = torch.nn.functional.pad(blurred, (1, 1) if axis == 2 else (0, 0, 1, 1))
            size = coverage.shape[axis]
            before, middle, after = (padded.narrow(axis, k, size) for k in range(3))
            blurred = (before + after) / 4 + middle / 2
    weight = share[:, None, None]
    return coverage * (1 - weight) + blurred * weight


def _paint(
    coverage: Tensor, background: Tensor, shade: Tensor, ink: Tensor, noise: Tensor, generator: torch.Generator
) -> Tensor:
    """Coverage [M, 32, 32] in colour on a shaded, noisy background: uint8 [M, 32, 32, 3]."""
    ramp = (torch.arange(SIDE) - (SIDE - 1) / 2) / (SIDE / 2)
    slope = ramp[None, :, None] * shade[:, 0, None, None] + ramp[None, None, :] * shade[:, 1, None, None]
    image = (background[:, None, None, :] + slope[..., None]) + coverage[..., None] * ink[:, None, None, :]
    # The sum of two uniform bytes: bell-shaped enough, and exact on every machine.
    bits = torch.randint(0, 2**16, image.shape, generator=generator, dtype=torch.int32)
    bell = ((bits & 255) + (bits >> 8) - 255).float() / 255
    image = image + bell * noise[:, None, None, None]
    return (image + 0.5).floor().clamp_(0, 255).to(torch.uint8)
