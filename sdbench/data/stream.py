"""Data sets streamed from image files: workers decode and crop, the device does the rest.

Workers are told everything that is random (which images, which seed for each crop), so results do
not depend on how many there are. They are started through a fork server: forking the trial itself,
with its threads and its CUDA context, is not safe.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sdbench.data import augment as augmentation
from sdbench.data.dataset import DataSet, Part, known_augmentation
from sdbench.data.decode import central, cropped, read_image, scaled, to_pixels, unreadable
from sdbench.data.facts import Arrays, DataFacts, DatasetInfo, Pixels, Source
from sdbench.data.folder import Listing, facts_of, scan
from sdbench.data.resident import ResidentSet, fits, pads, uniform_drawer
from sdbench.data.streams import Drawer, Group
from sdbench.errors import UserError

View = Literal["native", "scaled", "central", "box"]
"""What a worker makes of an image: nothing, the whole of it at the size shown, the usual test view
at the size shown, or a random box of it at the size shown."""


@dataclass(frozen=True)
class Wanted:
    """Images of one part, B of them: their positions and, for boxes, B seeds for each version."""

    positions: tuple[int, ...]
    seeds: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class Request:
    """What a worker is asked for at once: one step's images."""

    part: Part
    view: View
    groups: tuple[Wanted, ...]


@dataclass(frozen=True)
class Refusal:
    """What a worker answers where a file cannot be used; raised as UserError by the trial."""

    problems: tuple[str, ...]


Answer = list[list[Tensor]]
"""For each group, one tensor uint8 [B, H, W, 3], or one for each version if versions are cropped."""


class Decoder(Dataset[Answer | Refusal]):
    """Answers requests; workers hold a copy."""

    def __init__(self, listing: Listing, size: int) -> None:
        self.root, self.side, self.size = listing.root, listing.side, size
        self.paths = {
            "train": tuple(file.path for file in listing.train),
            "test": tuple(file.path for file in listing.test),
        }

    def __getitem__(self, request: Request) -> Answer | Refusal:
        try:
            return [self._group(request, wanted) for wanted in request.groups]
        except UserError as error:
            return Refusal(error.problems)

    def _group(self, request: Request, wanted: Wanted) -> list[Tensor]:
        paths = self.paths[request.part]
        images = [self.open(self.root / paths[position]) for position in wanted.positions]
        if request.view != "box":
            return [_stack([self._seen(image, request.view) for image in images])]
        return [
            _stack([self._box(image, seed) for image, seed in zip(images, seeds, strict=True)])
            for seeds in wanted.seeds
        ]

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

    def _box(self, image: Image.Image, seed: int) -> Image.Image:
        return cropped(image, augmentation.crop_box(seed, image.height, image.width), self.size)


def _stack(images: list[Image.Image]) -> Tensor:
    return torch.from_numpy(np.stack([to_pixels(image) for image in images]))


def _as_it_is(answer: Answer | Refusal) -> Answer | Refusal:
    return answer


class Requests:
    """An iterable that builds each request when it is due, so that large epochs stay small."""

    def __init__(self, part: Part, view: View, groups: list[Group], count: int, step: int) -> None:
        self.part, self.view, self.groups, self.count, self.step = part, view, groups, count, step

    def __iter__(self) -> Iterator[Request]:
        for start in range(0, self.count, self.step):
            groups = tuple(self._wanted(group[start : start + self.step]) for group in self.groups)
            yield Request(self.part, self.view, groups)

    def _wanted(self, group: Group) -> Wanted:
        seeds = (draw.seeds for draw in group.draws)
        return Wanted(tuple(group.index.tolist()), tuple(tuple(s.tolist()) for s in seeds if s is not None))


class StreamedSet(DataSet):
    """Image files decoded when they are needed, uniform or not.

    Uniform images are augmented as a ``ResidentSet`` does it, to the same bits. Of others, workers
    cut boxes (resized crops) or take the usual test view, and the device mirrors, crops and
    normalizes. workers: processes that decode; with 0 the trial decodes between its steps.
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
        labels: dict[Part, tuple[int, ...]] = {"train": listing.train_labels, "test": listing.test_labels}
        super().__init__(facts, info, labels, device=device, split=split)
        self._side = listing.side
        self._workers = workers
        self._decoder = Decoder(listing, facts.image_size)

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
        requests = Requests("train", self._view(augment), files, count, anchors)
        starts = range(0, count, anchors)
        for start, answer in zip(starts, self._answers(requests), strict=True):
            step = [group[start : start + anchors] for group in moved]
            yield [self._finish(group, pixels, augment) for group, pixels in zip(step, answer, strict=True)]

    def _finish(self, group: Group, decoded: list[Tensor], augment: str) -> list[Tensor]:
        """All versions of one group: from one tensor, or each from the boxes cut for it."""
        pixels = [tensor.to(self.device, non_blocking=True) for tensor in decoded]
        if pads(augment):
            pixels = [augmentation.pad(tensor) for tensor in pixels]
        own = torch.arange(len(group.index), device=self.device)
        sources = pixels if len(pixels) == len(group.draws) else pixels * len(group.draws)
        return [
            augmentation.apply(source, own, draw, self.image_size)
            for source, draw in zip(sources, group.draws, strict=True)
        ]

    def _plain(self, part: Part, positions: Tensor, batch_size: int) -> Iterator[Tensor]:
        view: View = "central" if self._side is None else "scaled"
        requests = Requests(part, view, [Group(positions, ())], len(positions), batch_size)
        for [[pixels]] in self._answers(requests):
            yield pixels.to(self.device, non_blocking=True)

    def _answers(self, requests: Iterable[Request]) -> Iterator[Answer]:
        loader: DataLoader[Answer | Refusal] = DataLoader(
            self._decoder,
            batch_size=None,
            sampler=requests,
            num_workers=self._workers,
            collate_fn=_as_it_is,
            pin_memory=self.device.type == "cuda",
            multiprocessing_context=_fork_server() if self._workers else None,
            # Its own generator: by default a loader would advance torch's global one.
            generator=torch.Generator(),
        )
        for answer in loader:
            if isinstance(answer, Refusal):
                raise UserError(answer.problems)
            yield answer


def _fork_server() -> BaseContext:
    """A context whose server imports torch once, before it forks the first worker."""
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def open_folder(
    source: Source,
    info: DatasetInfo,
    data_dir: Path | None,
    size: int | None,
    *,
    device: torch.device,
    split: float,
    workers: int,
    batch_size: int,
) -> DataSet:
    """A folder's images: resident where they are uniform and fit, else streamed."""
    listing = scan(source, data_dir)
    facts = facts_of(listing, source, info, size)
    count = facts.num_train + facts.num_test
    if listing.side is None or not fits(count, listing.side, facts.image_size, batch_size, device):
        return StreamedSet(listing, facts, info, device=device, split=split, workers=workers)
    decoder = Decoder(listing, facts.image_size)
    train, test = (_decoded(decoder, decoder.paths[part], listing.side) for part in ("train", "test"))
    labels = (np.array(v, np.int64) for v in (listing.train_labels, listing.test_labels))
    train_labels, test_labels = labels
    return ResidentSet(Arrays(facts, train, train_labels, test, test_labels), info, device=device, split=split)


def _decoded(decoder: Decoder, paths: tuple[str, ...], side: int) -> Pixels:
    pixels = np.empty((len(paths), side, side, 3), np.uint8)
    for target, path in zip(pixels, paths, strict=True):
        target[:] = to_pixels(decoder.open(decoder.root / path))
    return pixels
