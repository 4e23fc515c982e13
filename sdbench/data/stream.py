"""Data sets streamed from image files: workers decode, crop and mirror, the device does the rest.

Workers are told everything that is random (which images, which seed for each crop), so results do
not depend on how many there are (``sdbench.data.loaders``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from sdbench.data import augment as augmentation
from sdbench.data.dataset import DataSet, Part, known_augmentation
from sdbench.data.decode import TooLarge, central, cropped, read_image, scaled, to_pixels, too_large, unreadable
from sdbench.data.facts import Arrays, DataFacts, DatasetInfo, Pixels, Source
from sdbench.data.listing import FileTable, Listing, facts_of
from sdbench.data.loaders import Loaders
from sdbench.data.resident import ResidentSet, fits, pads, uniform_drawer
from sdbench.data.streams import Drawer, Group
from sdbench.errors import UserError

View = Literal["native", "scaled", "central", "box"]
"""What a worker makes of an image: nothing, the whole of it at the size shown, the usual test view
at the size shown, or random boxes of it at the size shown, some of them mirrored."""


@dataclass(frozen=True)
class Wanted:
    """B images: their paths below the root and, for boxes, of each version B seeds and whether B boxes are mirrored."""

    paths: tuple[str, ...]
    seeds: tuple[tuple[int, ...], ...] = ()
    flips: tuple[tuple[bool, ...], ...] = ()


@dataclass(frozen=True)
class Request:
    """What a worker is asked for at once: one step's images."""

    view: View
    groups: tuple[Wanted, ...]


@dataclass(frozen=True)
class Refusal:
    """What a worker answers where a file cannot be used; raised as UserError by the trial."""

    problems: tuple[str, ...]


Answer = list[list[Tensor]]
"""For each group, one tensor uint8 [B, H, W, 3], or one for each version if versions are cropped."""


class Decoder(Dataset[Answer | Refusal]):
    """Answers requests; workers hold a copy, which knows no list of files: requests carry paths."""

    def __init__(self, root: Path, side: int | None, size: int) -> None:
        self.root, self.side, self.size = root, side, size

    def __getitem__(self, request: Request) -> Answer | Refusal:
        try:
            return [self._group(request, wanted) for wanted in request.groups]
        except UserError as error:
            return Refusal(error.problems)

    def _group(self, request: Request, wanted: Wanted) -> list[Tensor]:
        boxed = request.view == "box"
        made: list[list[Pixels]] = [[] for _ in (wanted.seeds if boxed else (0,))]
        for i, path in enumerate(wanted.paths):
            image = self.open(self.root / path)  # one at a time: fresh memory for each costs half as much as decoding
            try:
                for version, pixels in enumerate(made):
                    shown = (
                        self._box(image, wanted.seeds[version][i], wanted.flips[version][i])
                        if boxed
                        else self._seen(image, request.view)
                    )
                    pixels.append(np.asarray(shown))
            except TooLarge as error:
                raise too_large(self.root / path, error) from error
        return [torch.from_numpy(np.stack(pixels)) for pixels in made]

    def open(self, path: Path) -> Image.Image:
        """The decoded image. UserError where it is broken, or no longer of the size that all had."""
        image = read_image(path)
        if self.side is not None and image.size != (self.side, self.side):
            raise unreadable(path, f"it is {image.width}x{image.height}, unlike the others")
        return image

    def _seen(self, image: Image.Image, view: View) -> Image.Image:
        if view == "native":
            return image
        return scaled(image, self.size) if view == "scaled" else central(image, self.size)

    def _box(self, image: Image.Image, seed: int, flip: bool) -> Image.Image:
        box = cropped(image, augmentation.crop_box(seed, image.height, image.width), self.size)
        return box.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else box


class Requests:
    """An iterable that builds each request when it is due, so that large epochs stay small."""

    def __init__(self, files: FileTable, view: View, groups: list[Group], count: int, step: int) -> None:
        self.files, self.view, self.groups, self.count, self.step = files, view, groups, count, step

    def __iter__(self) -> Iterator[Request]:
        for start in range(0, self.count, self.step):
            groups = tuple(self._wanted(group[start : start + self.step]) for group in self.groups)
            yield Request(self.view, groups)

    def _wanted(self, group: Group) -> Wanted:
        paths = tuple(map(self.files.path, group.index.tolist()))
        if self.view != "box":
            return Wanted(paths)
        seeds = (draw.seeds for draw in group.draws)
        flips = (draw.flips for draw in group.draws)
        return Wanted(paths, _rows(seeds), _rows(flips))


def _rows(drawn: Iterable[Tensor | None]) -> tuple[tuple[Any, ...], ...]:
    return tuple(tuple(each.tolist()) for each in drawn if each is not None)


class StreamedSet(DataSet):
    """Image files decoded when they are needed, uniform or not.

    Uniform images are augmented as a ``ResidentSet`` does it, to the same bits. Of others, workers
    cut and mirror boxes (resized crops) or take the usual test view, which the device crops and
    mirrors; it normalizes both. workers: processes that decode; with 0 the trial decodes between its steps.
    """

    def __init__(
        self,
        listing: Listing,
        facts: DataFacts,
        info: DatasetInfo,
        *,
        device: torch.device,
        split: float,
        workers: int,
    ) -> None:
        labels: dict[Part, Tensor] = {
            "train": torch.from_numpy(listing.train_labels),
            "test": torch.from_numpy(listing.test_labels),
        }
        super().__init__(facts, info, labels, device=device, split=split)
        self._side = listing.side
        self._files: dict[Part, FileTable] = {"train": listing.train, "test": listing.test}
        decoder = Decoder(listing.root, listing.side, facts.image_size)
        self._loaders = Loaders(decoder, workers, pinned=device.type == "cuda", preload=__name__)

    def _drawer(self, augment: str) -> Drawer:
        if self._side is not None:
            return uniform_drawer(augment, self._side, self.image_size)
        if known_augmentation(augment) == "resized-crop-flip":
            return augmentation.seed_drawer
        return uniform_drawer(augment, self.image_size, self.image_size)

    def _view(self, augment: str) -> View:
        resized = augment == "resized-crop-flip"
        if self._side is not None:
            return "native" if resized else "scaled"
        return "box" if resized else "central"

    def _augmented(self, groups: list[Group], anchors: int, augment: str) -> Iterator[list[list[Tensor]]]:
        files = [Group(self._kept[group.index], group.draws) for group in groups]
        moved = [group.to(self.device) for group in groups]
        count = len(groups[0].index)
        requests = Requests(self._files["train"], self._view(augment), files, count, anchors)
        starts = range(0, count, anchors)
        for start, answer in zip(starts, self._answers(requests), strict=True):
            step = [group[start : start + anchors] for group in moved]
            yield [self._finish(group, pixels, augment) for group, pixels in zip(step, answer, strict=True)]

    def _finish(self, group: Group, decoded: list[Tensor], augment: str) -> list[Tensor]:
        """All versions of one group: from one tensor, or each from the boxes cut for it."""
        pixels = [tensor.to(self.device, non_blocking=True) for tensor in decoded]
        if self._view(augment) == "box":
            return pixels
        if pads(augment):
            pixels = [augmentation.pad(tensor) for tensor in pixels]
        own = torch.arange(len(group.index), device=self.device)
        return [augmentation.apply(pixels[0], own, draw, self.image_size) for draw in group.draws]

    def _plain(self, part: Part, positions: Tensor, batch_size: int) -> Iterator[Tensor]:
        view: View = "central" if self._side is None else "scaled"
        requests = Requests(self._files[part], view, [Group(positions, ())], len(positions), batch_size)
        for [[pixels]] in self._answers(requests):
            yield pixels.to(self.device, non_blocking=True)

    def _answers(self, requests: Iterable[Request]) -> Iterator[Answer]:
        for answer in self._loaders.answers(requests):
            if isinstance(answer, Refusal):
                raise UserError(answer.problems)
            yield answer


def open_listing(
    listing: Listing,
    source: Source,
    info: DatasetInfo,
    size: int | None,
    *,
    device: torch.device,
    split: float,
    workers: int,
    batch_size: int,
) -> DataSet:
    """Listed images: resident where they are uniform and fit, else streamed."""
    facts = facts_of(listing, source, info, size)
    count = facts.num_train + facts.num_test
    if listing.side is None or not fits(count, listing.side, facts.image_size, batch_size, device):
        return StreamedSet(listing, facts, info, device=device, split=split, workers=workers)
    decoder = Decoder(listing.root, listing.side, facts.image_size)
    train, test = (_decoded(decoder, files, listing.side) for files in (listing.train, listing.test))
    arrays = Arrays(facts, train, listing.train_labels, test, listing.test_labels)
    return ResidentSet(arrays, info, device=device, split=split)


def _decoded(decoder: Decoder, files: FileTable, side: int) -> Pixels:
    pixels = np.empty((len(files), side, side, 3), np.uint8)
    for target, file in zip(pixels, files, strict=True):
        target[:] = to_pixels(decoder.open(decoder.root / file.path))
    return pixels
