"""TrivialAugment, wide (Müller and Hutter, ICCV 2021, arXiv 2103.10158): one operation per image, at one strength.

Operation and strength are uniform: one of ``OPERATIONS``, one of ``BINS`` strengths in the ranges of the paper's wide
space, and a sign for those that have one. Images are bytes, as in the authors' code; what an operation moves in is
black, and it samples the nearest pixel. Each operation is that of torchvision, image by image, to the last bit but for
pixels whose source lies halfway between two; the tests compare with it. Here images of one operation are worked on
together, on any device, and nothing waits for a GPU: what is drawn is known on the host.

Not covered: the authors train CIFAR with Cutout after it; here it stands alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sdbench.data.streams import to_device

BINS = 31
GEOMETRIC = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")
"""Operations that move pixels: rows [2, 3] say where from."""

BLENDS = ("Brightness", "Color", "Contrast", "Sharpness")
"""Operations that set an image against a degenerate one: 1 leaves it as it is, 0 is the degenerate one."""

OPERATIONS = (*GEOMETRIC, *BLENDS, "Posterize", "Solarize", "AutoContrast", "Equalize", "Identity")

GRAY = (0.2989, 0.587, 0.114)
"""Weights of red, green and blue."""


def strengths(size: int) -> dict[str, Tensor]:
    """The strengths of each operation, [BINS]: shear as a slope, translation in pixels, rotation in degrees, blends
    as the distance of their weight from 1, posterizing in bits kept, solarizing as the threshold. Those of signed
    operations, the geometric ones and blends, are without sign. size: side of the images, on which none depends."""
    slope, share = torch.linspace(0.0, 0.99, BINS), torch.linspace(0.0, 0.99, BINS)
    pixels, degrees = torch.linspace(0.0, 32.0, BINS).trunc(), torch.linspace(0.0, 135.0, BINS)
    none = torch.zeros(BINS)
    bits = 8 - (torch.arange(BINS) / ((BINS - 1) / 6)).round()
    geometric = dict(zip(GEOMETRIC, (slope, slope, pixels, pixels, degrees), strict=True))
    others = {"Posterize": bits, "Solarize": torch.linspace(255.0, 0.0, BINS)}
    rest = dict.fromkeys(("AutoContrast", "Equalize", "Identity"), none)
    return {**geometric, **dict.fromkeys(BLENDS, share), **others, **rest}


@dataclass(frozen=True, slots=True)
class Chosen:
    """What is done to N images, in the order of ``OPERATIONS`` within each step. counts: per step and operation.
    order: [N] int64, positions within the step. weight: [N] float32, of the image in a blend, else the strength.
    rest: [N] float32, 1 - weight. source: [N, 2, 3] float32, rows of ``moved``."""

    counts: list[list[int]]
    order: Tensor
    weight: Tensor
    rest: Tensor
    source: Tensor

    def to(self, device: torch.device) -> Chosen:
        """The same, its tensors on ``device``."""
        tensors = (self.order, self.weight, self.rest, self.source)
        return Chosen(self.counts, *(to_device(tensor, device) for tensor in tensors))


def draw(count: int, mine: Tensor, step: int, size: int, generator: torch.Generator) -> Chosen:
    """Operations and strengths of those in the rows ``mine`` of ``count`` images, ``step`` of them at a time. size:
    side of the images."""
    kinds = torch.randint(len(OPERATIONS), (count,), generator=generator)
    bins = torch.randint(BINS, (count,), generator=generator)
    signs = torch.randint(0, 2, (count,), generator=generator) * 2.0 - 1.0
    return arrange(kinds[mine], bins[mine], signs[mine], step, size)


def arrange(kinds: Tensor, bins: Tensor, signs: Tensor, step: int, size: int) -> Chosen:
    """kinds: [N] places in ``OPERATIONS``. bins: [N] in [0, BINS). signs: [N] of -1.0 or 1.0, used by operations that
    have a sign. step: images at a time. size: side of the images in pixels."""
    table = torch.stack([strengths(size)[name] for name in OPERATIONS])
    strength = table[kinds, bins].double()
    signed = kinds < len(GEOMETRIC) + len(BLENDS)
    strength = torch.where(signed, strength * signs, strength)
    blends = signed & (kinds >= len(GEOMETRIC))
    weight = torch.where(blends, 1.0 + strength, strength)
    chunks = [kinds[start : start + step] for start in range(0, len(kinds), step)]
    order = torch.cat([torch.argsort(chunk, stable=True) for chunk in chunks] or [kinds])
    starts = torch.arange(len(kinds)) // step * step
    whole = order + starts
    rows = _rows(kinds, strength, size)
    counts = [torch.bincount(chunk, minlength=len(OPERATIONS)).tolist() for chunk in chunks]
    return Chosen(counts, order, weight[whole].float(), (1.0 - weight[whole]).float(), rows[whole].float())


def _rows(kinds: Tensor, strength: Tensor, size: int) -> Tensor:
    """Where pixels come from, [N, 2, 3] float64: (x, y), from the image's centre, comes from rows · (x, y, 1). Shears
    are about the upper left corner, rotations about the centre."""
    one, zero = torch.ones_like(strength), torch.zeros_like(strength)
    angle = strength * (math.pi / 180)
    half = strength * (size / 2)
    rows = {
        "ShearX": ((one, strength, half), (zero, one, zero)),
        "ShearY": ((one, zero, zero), (strength, one, half)),
        "TranslateX": ((one, zero, -strength), (zero, one, zero)),
        "TranslateY": ((one, zero, zero), (zero, one, -strength)),
        "Rotate": ((angle.cos(), -angle.sin(), zero), (angle.sin(), angle.cos(), zero)),
    }
    identity = torch.eye(2, 3, dtype=strength.dtype).expand(len(strength), 2, 3)
    for place, name in enumerate(GEOMETRIC):
        made = torch.stack([torch.stack(row, 1) for row in rows[name]], 1)
        identity = torch.where((kinds == place)[:, None, None], made, identity)
    return identity


def augmented(pixels: Tensor, chosen: Chosen, step: int, start: int) -> Tensor:
    """The images of one step, [B, S, S, 3] uint8, each after its operation. chosen: on the images' device. step: which.
    start: the first image's place in ``chosen``."""
    changed = pixels.clone()
    counts = chosen.counts[step]
    moving = sum(counts[: len(GEOMETRIC)])
    spans = [(moving, moved), *((n, OPERATION[name]) for n, name in zip(counts[5:], OPERATIONS[5:], strict=True))]
    with torch.autocast(pixels.device.type, enabled=False):  # pixels are data: bf16 would coarsen them
        for count, operation in spans:
            if count and operation is not None:
                rows = slice(start, start + count)
                index = chosen.order[rows]
                images = pixels.index_select(0, index).permute(0, 3, 1, 2).float()
                strength = Strength(chosen.weight[rows], chosen.rest[rows], chosen.source[rows])
                made = operation(images, strength).to(torch.uint8).permute(0, 2, 3, 1)
                changed.index_copy_(0, index, made)
            start += count
    return changed


@dataclass(frozen=True, slots=True)
class Strength:
    """Of n images: weight, rest [n], source [n, 2, 3] as in ``Chosen``."""

    weight: Tensor
    rest: Tensor
    source: Tensor


Operation = Callable[[Tensor, Strength], Tensor]
"""From images [n, 3, S, S], whole numbers in [0, 255] as float32, to images of the same kind."""


def moved(images: Tensor, strength: Strength) -> Tensor:
    """Each pixel from where ``source`` says, by the nearest pixel; black from outside."""
    count, _, height, width = images.shape
    device = images.device
    across = torch.linspace(0.5 - width / 2, width / 2 - 0.5, width, device=device)
    down = torch.linspace(0.5 - height / 2, height / 2 - 0.5, height, device=device)
    grid = torch.stack([across.expand(height, width), down[:, None].expand(height, width)], -1).view(1, -1, 2)
    linear, shift = strength.source[:, :, :2], strength.source[:, :, 2]
    sources = (grid @ linear.transpose(1, 2) + shift[:, None]) * (2 / width)
    return F.grid_sample(images, sources.view(count, height, width, 2), mode="nearest", align_corners=False)


def blended(images: Tensor, degenerate: Tensor, strength: Strength) -> Tensor:
    """weight · image + (1 - weight) · degenerate, cut to [0, 255] and to whole numbers."""
    weight, rest = (value[:, None, None, None] for value in (strength.weight, strength.rest))
    return (weight * images + rest * degenerate).clamp(0, 255).floor()


def gray(images: Tensor) -> Tensor:
    """The luminance as whole numbers, [n, 1, S, S]."""
    red, green, blue = images.unbind(1)
    return (GRAY[0] * red + GRAY[1] * green + GRAY[2] * blue).floor()[:, None]


def brightness(images: Tensor, strength: Strength) -> Tensor:
    """Against black."""
    return blended(images, torch.zeros_like(images), strength)


def color(images: Tensor, strength: Strength) -> Tensor:
    """Against its own luminance."""
    return blended(images, gray(images), strength)


def contrast(images: Tensor, strength: Strength) -> Tensor:
    """Against the mean of its luminance."""
    return blended(images, gray(images).mean((1, 2, 3), keepdim=True), strength)


def sharpness(images: Tensor, strength: Strength) -> Tensor:
    """Against itself blurred: the mean of 3x3 pixels, the middle one five times, but for the border."""
    kernel = torch.ones(3, 1, 3, 3, device=images.device)
    kernel[:, :, 1, 1] = 5.0
    blurred = images.clone()
    blurred[:, :, 1:-1, 1:-1] = F.conv2d(images, kernel / kernel[0].sum(), groups=3).round()
    return blended(images, blurred, strength)


def posterize(images: Tensor, strength: Strength) -> Tensor:
    """Only the ``weight`` highest bits of each value."""
    unit = torch.exp2(8 - strength.weight)[:, None, None, None]
    return (images / unit).floor() * unit


def solarize(images: Tensor, strength: Strength) -> Tensor:
    """Values from ``weight`` on inverted."""
    return torch.where(images >= strength.weight[:, None, None, None], 255 - images, images)


def auto_contrast(images: Tensor, strength: Strength) -> Tensor:
    """Each channel stretched to [0, 255]; one of a single value stays."""
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    flat = low == high
    scale = torch.where(flat, 1.0, 255.0 / (high - low))
    return ((images - torch.where(flat, 0.0, low)) * scale).clamp(0, 255).floor()


def equalize(images: Tensor, strength: Strength) -> Tensor:
    """Each channel's histogram made even, with whole numbers, as PIL does it."""
    count, channels, height, width = images.shape
    values = images.reshape(count * channels, height * width).long()
    histogram = torch.zeros(len(values), 256, dtype=torch.int64, device=images.device)
    histogram.scatter_add_(1, values, torch.ones_like(values))
    last = histogram.gather(1, values.amax(1, keepdim=True))
    step = (height * width - last) // 255
    safe = step.clamp(min=1)
    before = histogram.cumsum(1) - histogram
    table = ((before + safe // 2) // safe).clamp(0, 255)
    return torch.where(step == 0, values, table.gather(1, values)).view_as(images).float()


OPERATION: dict[str, Operation | None] = {
    "Brightness": brightness,
    "Color": color,
    "Contrast": contrast,
    "Sharpness": sharpness,
    "Posterize": posterize,
    "Solarize": solarize,
    "AutoContrast": auto_contrast,
    "Equalize": equalize,
    "Identity": None,
}
