"""Random streams, and what an epoch draws from them.

Everything random in an epoch is a pure function of (stream, purpose, epoch). Each purpose has a
generator of its own, so that methods which also ask for views or partners see the same first
images in the same order as methods which do not, and no generator state has to be kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

HOLDOUT_STREAM = "hold-out"


def derive_seed(*parts: object) -> int:
    """A seed in [0, 2^63) from the text of ``parts`` joined by slashes (BLAKE2b).

    >>> derive_seed("0", "order", 3) == derive_seed(0, "order/3")
    True
    """
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator_for(*parts: object) -> torch.Generator:
    """A fresh CPU generator seeded with ``derive_seed(*parts)``."""
    return torch.Generator("cpu").manual_seed(derive_seed(*parts))


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on ``device``, copied from pinned memory to a GPU so that the host need not wait."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


@dataclass(frozen=True, slots=True)
class Draw:
    """Augmentation draws of N images, each field None where it does not apply.

    offsets: [N, 2] int64, row and column at which the crop starts in the padded image, in [0, 2 pad].
    boxes: [N, 4] float32, top, left, height, width of the crop in pixels of the image.
    seeds: [N] int64, from which a worker draws the crop of an image whose size it alone knows.
    flips: [N] bool, mirror left and right.
    """

    offsets: Tensor | None = None
    boxes: Tensor | None = None
    seeds: Tensor | None = None
    flips: Tensor | None = None

    def __getitem__(self, rows: slice | Tensor) -> Draw:
        return self._each(lambda tensor: tensor[rows])

    def to(self, device: torch.device) -> Draw:
        """The same draws on ``device``."""
        return self._each(lambda tensor: to_device(tensor, device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Draw:
        fields = (self.offsets, self.boxes, self.seeds, self.flips)
        return Draw(*(None if field is None else change(field) for field in fields))


@dataclass(frozen=True, slots=True)
class Group:
    """Images of one epoch, each in one or more augmented versions.

    index: [N] int64, positions in the training set. draws: one per version, each of N images.
    """

    index: Tensor
    draws: tuple[Draw, ...]

    def __getitem__(self, rows: slice | Tensor) -> Group:
        return Group(self.index[rows], tuple(draw[rows] for draw in self.draws))

    def to(self, device: torch.device) -> Group:
        """The same group on ``device``."""
        return Group(to_device(self.index, device), tuple(draw.to(device) for draw in self.draws))


Drawer = Callable[[int, torch.Generator], Draw]
"""``drawer(count, generator)`` gives the draws of ``count`` images."""


class Roster:
    """Which images each class has: draws same-class partners for any list of labels.

    labels: [N] int64 on the CPU, of the whole training set.
    """

    def __init__(self, labels: Tensor) -> None:
        self.labels = labels
        self._by_class = torch.argsort(labels, stable=True)
        self._counts = torch.bincount(labels)
        self._starts = self._counts.cumsum(0) - self._counts

    def partners(self, anchors: Tensor, generator: torch.Generator) -> Tensor:
        """For positions ``anchors`` [M], positions [M] of images of the same classes: uniform over
        the class, with replacement, the anchor itself allowed."""
        classes = self.labels[anchors]
        # A 62-bit draw modulo the class size: the bias is below 2^-30 for any class that fits in memory.
        draws = torch.randint(0, 2**62, (len(anchors),), generator=generator)
        return self._by_class[self._starts[classes] + draws % self._counts[classes]]


def draw_epoch(roster: Roster, drawer: Drawer, *, stream: str, epoch: int, views: int, partners: int) -> list[Group]:
    """All that an epoch needs: the images in order with their ``views`` versions, then one group of
    partners for each of ``partners``, aligned with the first group.

    stream: names the trial's randomness. epoch: from 0. views: at least 1. partners: at least 0.
    """
    count = len(roster.labels)

    def generator(purpose: str) -> torch.Generator:
        return generator_for(stream, purpose, epoch)

    order = torch.randperm(count, generator=generator("order"))
    purposes = ["augment", *(f"view-{k}" for k in range(1, views))]
    groups = [Group(order, tuple(drawer(count, generator(purpose)) for purpose in purposes))]
    for k in range(1, partners + 1):
        chosen = roster.partners(order, generator(f"partners-{k}"))
        groups.append(Group(chosen, (drawer(count, generator(f"partner-augment-{k}")),)))
    return groups


def hold_out(labels: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Positions kept for training and positions held out, both ascending.

    labels: [N] int64 on the CPU. share: in [0, 1). Of a class of n images, share * n rounded to the
    nearest are held out, but at least one and at most n - 1 (none of a class of one image; none at
    all for share 0). A function of the arguments alone: every method and every seed has the same split.
    """
    if not 0 <= share < 1:
        raise ValueError(f"the held-out share must be in [0, 1), got {share}")
    everything = torch.arange(len(labels))
    if share == 0:
        return everything, everything[:0]
    held = []
    by_class = torch.argsort(labels, stable=True).tensor_split(torch.bincount(labels).cumsum(0)[:-1])
    for label, members in enumerate(by_class):
        wanted = min(max(1, int(share * len(members) + 0.5)), len(members) - 1)
        shuffled = torch.randperm(len(members), generator=generator_for(HOLDOUT_STREAM, label))
        held.append(members[shuffled[: max(0, wanted)]])
    out = torch.cat(held).sort().values
    kept = torch.ones(len(labels), dtype=torch.bool).index_fill_(0, out, False)
    return everything[kept], out
