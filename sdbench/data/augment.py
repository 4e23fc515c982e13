"""Batched augmentation: pure functions of pixels and draws, on any device.

Pixels are uint8 [M, H, W, 3]. Nothing here waits for a GPU, and results come out in channels_last
layout because pixels are stored channel by channel within a position.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from sdbench.data.streams import Draw, Drawer

AUGMENTATIONS = ("none", "crop", "crop-flip", "resized-crop-flip")

SCALE = (0.08, 1.0)
"""Share of the image's area that a resized crop covers."""
RATIO = (3 / 4, 4 / 3)
"""Width over height of a resized crop, log-uniform."""
ATTEMPTS = 10
"""Draws of area and ratio before a crop that does not fit gives way to a central one."""
BOX_UNIFORMS = 2 * ATTEMPTS + 2
"""Uniform numbers that one box takes."""


def pad_width(size: int) -> int:
    """Pixels of zero padding on each side before a crop: an eighth of the side, 4 for 32."""
    return size // 8


def pad(pixels: Tensor) -> Tensor:
    """Pixels [M, S, S, 3] with ``pad_width(S)`` zeros (black) around: [M, S + 2 pad, S + 2 pad, 3]."""
    width = pad_width(pixels.shape[1])
    return F.pad(pixels, (0, 0, width, width, width, width))


def crop_flip(padded: Tensor, index: Tensor, offsets: Tensor, flips: Tensor | None, size: int) -> Tensor:
    """Crops of chosen images, some mirrored, by one gather: uint8 [B, size, size, 3].

    padded: [M, P, P, 3]. index: [B] int64 in [0, M). offsets: [B, 2] int64, first row and column of
    each crop, in [0, P - size]. flips: [B] bool, mirror left and right; None mirrors nothing.
    """
    side = padded.shape[1]
    steps = torch.arange(size, device=padded.device)
    rows = steps + offsets[:, :1]
    columns = steps if flips is None else torch.where(flips[:, None], size - 1 - steps, steps)
    columns = columns + offsets[:, 1:]
    positions = ((index[:, None] * side + rows) * side)[:, :, None] + columns[:, None, :]
    return padded.view(-1, 3).index_select(0, positions.view(-1)).view(len(index), size, size, 3)


def flip(pixels: Tensor, flips: Tensor) -> Tensor:
    """Images [B, H, W, 3], those with ``flips`` [B] mirrored left and right."""
    return torch.where(flips[:, None, None, None], pixels.flip(2), pixels)


def resized_crop(pixels: Tensor, index: Tensor, boxes: Tensor, flips: Tensor | None, size: int) -> Tensor:
    """Boxes of chosen images, scaled to ``size`` with antialiasing: float32 [B, size, size, 3] in [0, 255].

    pixels: uint8 [M, S, S, 3]. index: [B] int64. boxes: [B, 4] top, left, height, width in pixels.
    flips: [B] bool or None. The values are those of torchvision's ``RandomResizedCrop`` (bilinear,
    antialias) before it rounds them to bytes: along each side, output position i at
    c = start + (i + 1/2) length / size is the mean of the box's pixels j under the triangle
    max(0, 1 - |j + 1/2 - c| / max(1, length / size)). Both sides are one batched product each.
    """
    source = pixels.shape[1]
    vertical = _resampling(boxes[:, 0], boxes[:, 2], None, source, size)
    horizontal = _resampling(boxes[:, 1], boxes[:, 3], flips, source, size)
    chosen = pixels.index_select(0, index).float().view(len(index), source, source * 3)
    with torch.autocast(pixels.device.type, enabled=False):  # pixels are data: bf16 would coarsen them
        rows = torch.bmm(vertical, chosen).view(len(index), size, source, 3)
        turned = rows.transpose(1, 2).reshape(len(index), source, size * 3)
        columns = torch.bmm(horizontal, turned).view(len(index), size, size, 3)
    return columns.transpose(1, 2).contiguous()


def _resampling(start: Tensor, length: Tensor, flips: Tensor | None, source: int, size: int) -> Tensor:
    """Rows [B, size, source] of weights that sum to 1, for boxes ``start`` [B], ``length`` [B]."""
    steps = torch.arange(size, device=start.device)
    if flips is not None:
        steps = torch.where(flips[:, None], size - 1 - steps, steps)
    scale = (length / size)[:, None]
    centres = start[:, None] + (steps + 0.5) * scale
    pixels = torch.arange(source, device=start.device)
    # Outside its box a pixel's distance is made infinite, as if the image had been cropped before.
    inside = (pixels >= start[:, None]) & (pixels < (start + length)[:, None])
    places = torch.where(inside, pixels + 0.5, math.inf)
    distance = (places[:, None, :] - centres[:, :, None]).abs_()
    weights = distance.div_(-scale.clamp(min=1)[:, :, None]).add_(1).clamp_(min=0)
    return weights.div_(weights.sum(2, keepdim=True))


def apply(pixels: Tensor, index: Tensor, draw: Draw, size: int) -> Tensor:
    """The images ``index`` [B] of ``pixels`` augmented as drawn: [B, size, size, 3], uint8 or, for
    resized crops, float32. For crops ``pixels`` are padded ones."""
    if draw.boxes is not None:
        return resized_crop(pixels, index, draw.boxes, draw.flips, size)
    if draw.offsets is not None:
        return crop_flip(pixels, index, draw.offsets, draw.flips, size)
    chosen = pixels.index_select(0, index)
    return chosen if draw.flips is None else flip(chosen, draw.flips)


class Normalizer:
    """(x / 255 - mean) / std for each channel, as one multiplication and addition per value.

    size: side of the images. The coefficients are laid out along a whole row of pixels, which is
    what lets a CPU work on full vectors although there are three channels.
    """

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...], size: int, device: torch.device) -> None:
        scale = [1 / (255 * s) for s in std]
        shift = [-m / s for m, s in zip(mean, std, strict=True)]
        self._scale = torch.tensor(scale * size, dtype=torch.float32, device=device)
        self._shift = torch.tensor(shift * size, dtype=torch.float32, device=device)

    def __call__(self, images: Tensor, dtype: torch.dtype) -> Tensor:
        """Images [B, S, S, 3] in [0, 255] -> [B, 3, S, S] in channels_last layout, float32 or bfloat16."""
        count, height, width, _ = images.shape
        values = images.reshape(count, height, width * 3).to(torch.float32, copy=True)
        normal = torch.addcmul(self._shift, values, self._scale, out=values).to(dtype)  # fresh memory costs time
        return normal.view(count, height, width, 3).permute(0, 3, 1, 2)


def crop_drawer(size: int, *, flips: bool) -> Drawer:
    """Draws of ``crop_flip`` for images of side ``size``."""

    def draw(count: int, generator: torch.Generator) -> Draw:
        offsets = torch.randint(0, 2 * pad_width(size) + 1, (count, 2), generator=generator)
        return Draw(offsets=offsets, flips=_coins(count, generator) if flips else None)

    return draw


def resized_crop_drawer(source: int) -> Drawer:
    """Draws of ``resized_crop`` for images of side ``source``."""

    def draw(count: int, generator: torch.Generator) -> Draw:
        uniforms = torch.rand((count, BOX_UNIFORMS), dtype=torch.float64, generator=generator)
        return Draw(boxes=crop_boxes(uniforms, source, source).float(), flips=_coins(count, generator))

    return draw


def seed_drawer(count: int, generator: torch.Generator) -> Draw:
    """Draws of resized crops for images whose sizes are not known yet: a seed for each."""
    seeds = torch.randint(0, 2**62, (count,), generator=generator)
    return Draw(seeds=seeds, flips=_coins(count, generator))


def no_drawer(count: int, generator: torch.Generator) -> Draw:
    """No augmentation."""
    return Draw()


def _coins(count: int, generator: torch.Generator) -> Tensor:
    return torch.randint(0, 2, (count,), generator=generator).bool()


def crop_boxes(uniforms: Tensor, height: int, width: int) -> Tensor:
    """Boxes of torchvision's ``RandomResizedCrop``, [N, 4] float64: top, left, height, width in pixels.

    uniforms: [N, 22] float64 in [0, 1): ten pairs for area and ratio, two for the position. The
    first pair that fits the image is taken; where none does, the largest central box whose ratio
    is within ``RATIO``.
    """
    areas = height * width * (SCALE[0] + (SCALE[1] - SCALE[0]) * uniforms[:, 0:-2:2])
    low, high = math.log(RATIO[0]), math.log(RATIO[1])
    ratios = (low + (high - low) * uniforms[:, 1:-2:2]).exp()
    widths, heights = (areas * ratios).sqrt().round(), (areas / ratios).sqrt().round()
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    first = fits.int().argmax(1, keepdim=True)
    w, h = widths.gather(1, first).squeeze(1), heights.gather(1, first).squeeze(1)
    top = (uniforms[:, -2] * (height - h + 1)).floor()
    left = (uniforms[:, -1] * (width - w + 1)).floor()
    boxes = torch.stack([top, left, h, w], 1)
    return torch.where(fits.any(1, keepdim=True), boxes, boxes.new_tensor(central_box(height, width)))


def crop_box(seed: int, height: int, width: int) -> tuple[int, int, int, int]:
    """The box of one image whose size has just become known, from its seed in [0, 2^63)."""
    generator = torch.Generator("cpu").manual_seed(seed)
    uniforms = torch.rand((1, BOX_UNIFORMS), dtype=torch.float64, generator=generator)
    top, left, h, w = (int(v) for v in crop_boxes(uniforms, height, width)[0].tolist())
    return top, left, h, w


def central_box(height: int, width: int) -> tuple[int, int, int, int]:
    """The largest central box whose width over height is within ``RATIO``: top, left, height, width."""
    h, w = height, width
    if width < RATIO[0] * height:
        h = round(width / RATIO[0])
    elif width > RATIO[1] * height:
        w = round(height * RATIO[1])
    return (height - h) // 2, (width - w) // 2, h, w
