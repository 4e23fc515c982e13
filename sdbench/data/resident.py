"""Data sets of uniform images, held on the device as bytes."""

from __future__ import annotations

from collections.abc import Iterator

import psutil
import torch
from torch import Tensor

from sdbench.data import augment as augmentation
from sdbench.data.dataset import DataSet, Part, in_chunks, known_augmentation
from sdbench.data.decode import resize_pixels
from sdbench.data.facts import Arrays, DatasetInfo, Pixels
from sdbench.data.streams import Drawer, Group

SHARE_OF_FREE_MEMORY = 0.5


def uniform_drawer(augment: str, source: int, size: int) -> Drawer:
    """Draws for square images of side ``source`` that are shown at side ``size``."""
    if known_augmentation(augment) == "resized-crop-flip":
        return augmentation.resized_crop_drawer(source)
    if augment == "none":
        return augmentation.no_drawer
    return augmentation.crop_drawer(size, flips=augment == "crop-flip")


def pads(augment: str) -> bool:
    """Whether an augmentation crops from padded images."""
    return augment in ("crop", "crop-flip")


def fits(count: int, side: int, size: int, batch_size: int, device: torch.device) -> bool:
    """Whether ``count`` images of side ``side``, shown at ``size``, can be held on the device: they,
    their padded copies and a batch at work take at most half of the memory that is free."""
    padded = size + 2 * augmentation.pad_width(size)
    needed = count * 3 * (side**2 + padded**2) + 16 * batch_size * 3 * size**2
    free = psutil.virtual_memory().available
    if device.type == "cuda":
        free = min(free, torch.cuda.mem_get_info(device)[0])
    return needed <= SHARE_OF_FREE_MEMORY * free


class ResidentSet(DataSet):
    """Uniform images on the device: uint8 [N, S, S, 3], padded once, augmented in batches.

    Where images are shown at another size than they have, resized crops are cut from the images as
    they are, and all else starts from images resized once (bilinear, antialiased).
    """

    def __init__(self, arrays: Arrays, info: DatasetInfo, *, device: torch.device, split: float) -> None:
        labels: dict[Part, Tensor] = {
            "train": torch.from_numpy(arrays.train_labels),
            "test": torch.from_numpy(arrays.test_labels),
        }
        super().__init__(arrays.facts, info, labels, device=device, split=split)
        self._source = arrays.train_pixels.shape[1]
        whole, self._test = arrays.train_pixels, self._shown(arrays.test_pixels)
        self._validation = self._shown(whole[self._held.numpy()])
        self._pixels = torch.from_numpy(whole if split == 0 else whole[self._kept.numpy()]).to(device)
        self._padded: Tensor | None = None
        self._resized: Tensor | None = None

    def _shown(self, pixels: Pixels) -> Tensor:
        return torch.from_numpy(resize_pixels(pixels, self.image_size)).to(self.device)

    def _sized(self) -> Tensor:
        """The training images at the size at which they are shown."""
        if self._source == self.image_size:
            return self._pixels
        if self._resized is None:
            self._resized = self._shown(self._pixels.cpu().numpy())
        return self._resized

    def _material(self, augment: str) -> Tensor:
        """The stored images that an augmentation starts from."""
        if augment == "resized-crop-flip":
            return self._pixels
        if not pads(augment):
            return self._sized()
        if self._padded is None:
            self._padded = augmentation.pad(self._sized())
            if self._source == self.image_size:  # one copy is enough: the rest is a view of its middle
                width = augmentation.pad_width(self._source)
                self._pixels = self._padded.narrow(1, width, self._source).narrow(2, width, self._source)
        return self._padded

    def _drawer(self, augment: str) -> Drawer:
        return uniform_drawer(augment, self._source, self.image_size)

    def _augmented(self, groups: list[Group], anchors: int, augment: str) -> Iterator[list[list[Tensor]]]:
        material = self._material(augment)
        moved = [group.to(self.device) for group in groups]
        for start in range(0, len(groups[0].index), anchors):
            steps = [group[start : start + anchors] for group in moved]
            yield [
                [augmentation.apply(material, group.index, draw, self.image_size) for draw in group.draws]
                for group in steps
            ]

    def _plain(self, part: Part, positions: Tensor, batch_size: int) -> Iterator[Tensor]:
        if part == "test" or torch.equal(positions, self._held):
            yield from in_chunks(self._test if part == "test" else self._validation, batch_size)
            return
        images = self._sized()
        for chosen in in_chunks(torch.searchsorted(self._kept, positions), batch_size):
            yield images.index_select(0, chosen.to(self.device))
