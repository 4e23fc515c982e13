"""What is done to images beyond crops and flips (``--augment``), batched and on the device.

    basic            nothing
    cutout           a square of ``cutout_side`` pixels is blanked (DeVries and Taylor 2017, arXiv 1708.04552): its
                     centre is uniform over the image, what lies outside is cut off; 0 after normalization, the mean
    trivialaugment   one operation per image at one strength (``sdbench.data.trivialaugment``), before normalization

Both come after the crop and the flip, on training images alone. They draw from streams of their own, so that order,
crops and flips of a seed are the same under every policy, and each further view and partner has its own draws.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sdbench.data import trivialaugment
from sdbench.data.streams import Group, generator_for, to_device
from sdbench.errors import UserError, unknown

POLICIES = ("basic", "cutout", "trivialaugment")

MANY_CLASSES = 100
"""From so many classes on, Cutout's square is smaller: the paper found 16 pixels best on CIFAR-10, 8 on CIFAR-100."""

Normalize = Callable[[Tensor], Tensor]
"""From pixels [B, S, S, 3] to images [B, 3, S, S]."""

Version = Callable[[int, Tensor, Normalize], Tensor]
"""``version(start, pixels, normalize)``: the images of the step that begins at ``start``."""


def cutout_side(size: int, num_classes: int) -> int:
    """Side of Cutout's square on images of side ``size``: half of it, a quarter from 100 classes on.

    >>> cutout_side(32, 10), cutout_side(32, 100)
    (16, 8)
    """
    return size // (4 if num_classes >= MANY_CLASSES else 2)


class Policy:
    """One epoch's draws, and what they do.

    name: of ``POLICIES``. groups: of the epoch's ``count`` images those in the rows ``mine``. step: images of a group
    at a time. size: side of the images. UserError for another name.
    """

    def __init__(
        self, name: str, groups: Sequence[Group], mine: Tensor, *, count: int, stream: str, epoch: int, step: int,
        size: int, num_classes: int, device: torch.device,
    ) -> None:  # fmt: skip
        if name not in POLICIES:
            raise UserError(unknown("policy", name, POLICIES))
        self._step, self._size, self._device = step, size, device
        self._count, self._mine = count, mine
        self._side = cutout_side(size, num_classes)
        self._versions: list[list[Version]] = []
        for g, group in enumerate(groups):
            purposes = [_purpose(g, k) for k in range(len(group.draws))]
            own = [self._version(name, generator_for(stream, p, epoch)) for p in purposes]
            self._versions.append(own)

    def applied(self, start: int, images: list[list[Tensor]], normalize: Normalize) -> list[list[Tensor]]:
        """The images of the step that begins at ``start``, of each group and each of its versions, normalized."""
        return [
            [version(start, pixels, normalize) for version, pixels in zip(own, group, strict=True)]
            for own, group in zip(self._versions, images, strict=True)
        ]

    def _version(self, name: str, generator: torch.Generator) -> Version:
        if name == "cutout":
            return self._cutout(generator)
        if name == "trivialaugment":
            return self._trivial(generator)
        return lambda start, pixels, normalize: normalize(pixels)

    def _cutout(self, generator: torch.Generator) -> Version:
        drawn = torch.randint(0, self._size, (self._count, 2), generator=generator)
        centres = to_device(drawn[self._mine], self._device)

        def version(start: int, pixels: Tensor, normalize: Normalize) -> Tensor:
            return cutout(normalize(pixels), centres[start : start + self._step], self._side)

        return version

    def _trivial(self, generator: torch.Generator) -> Version:
        drawn = trivialaugment.draw(self._count, self._mine, self._step, self._size, generator)
        chosen = drawn.to(self._device)

        def version(start: int, pixels: Tensor, normalize: Normalize) -> Tensor:
            whole = pixels if pixels.dtype == torch.uint8 else pixels.round().clamp(0, 255).to(torch.uint8)
            return normalize(trivialaugment.augmented(whole, chosen, start // self._step, start))

        return version


def _purpose(group: int, version: int) -> str:
    """The name of a version's stream: that of the first images, of a further view, of a partner."""
    if group:
        return f"policy-partner-{group}"
    return f"policy-view-{version}" if version else "policy"


def cutout(images: Tensor, centres: Tensor, side: int) -> Tensor:
    """Images [B, 3, S, S] with 0 in a square from centre - side // 2 up to, not including, centre + side // 2, along
    both axes, cut off at the borders. centres: [B, 2] int64, row and column in [0, S)."""
    places = torch.arange(images.shape[2], device=images.device)
    first = centres - side // 2
    inside = (places >= first[:, :, None]) & (places < first[:, :, None] + side // 2 * 2)
    return images.clone().masked_fill_((inside[:, 0, :, None] & inside[:, 1, None, :])[:, None], 0)
