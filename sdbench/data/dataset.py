"""What a trial asks of its data: epochs of batches, and images to evaluate on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from sdbench.data.augment import AUGMENTATIONS, Normalizer
from sdbench.data.facts import DataFacts, DatasetInfo
from sdbench.data.policies import Policy
from sdbench.data.streams import Drawer, Group, Roster, draw_epoch, hold_out, to_device
from sdbench.errors import UserError, unknown
from sdbench.method import Batch
from sdbench.workers import WHOLE, Shard

Part = Literal["train", "test"]


def anchors_per_step(batch_size: int, partners: int, partners_in_batch: bool) -> int:
    """Labelled images per step: the batch size, or with ``partners_in_batch`` so many that they and
    their partners make up a batch; at least one."""
    return max(1, batch_size // (1 + partners)) if partners_in_batch else batch_size


def in_chunks(tensor: Tensor, size: int) -> Iterator[Tensor]:
    """Consecutive rows, ``size`` at a time, the last chunk short; nothing for an empty tensor."""
    return (tensor[start : start + size] for start in range(0, len(tensor), size))


class DataSet(ABC):
    """A data set opened for training on one device.

    num_train: images kept for training; ``Batch.index`` lies in [0, num_train).
    num_validation, num_test: held-out and test images. image_size: side of the images in pixels.
    class_names: one per class. fingerprint: as ``inspect`` gives it.
    """

    def __init__(
        self,
        facts: DataFacts,
        info: DatasetInfo,
        labels: Mapping[Part, Sequence[int] | Tensor],
        *,
        device: torch.device,
        split: float,
    ) -> None:
        self.device = device
        self.num_classes = facts.num_classes
        self.image_size = facts.image_size
        self.fingerprint = facts.fingerprint
        self.class_names = facts.class_names
        train = torch.as_tensor(labels["train"], dtype=torch.int64)
        self._kept, self._held = hold_out(train, split)
        self._roster = Roster(train[self._kept])
        self._labels = self._roster.labels.to(device)
        self._validation_labels = train[self._held].to(device)
        self._test_labels = torch.as_tensor(labels["test"], dtype=torch.int64).to(device)
        self._normalize = Normalizer(info.mean, info.std, facts.image_size, device)

    @property
    def num_train(self) -> int:
        return len(self._kept)

    @property
    def num_validation(self) -> int:
        return len(self._held)

    @property
    def num_test(self) -> int:
        return len(self._test_labels)

    def steps(self, batch_size: int, partners: int = 0, partners_in_batch: bool = False) -> int:
        """Steps in an epoch; the last batch may be short."""
        return -(-self.num_train // anchors_per_step(batch_size, partners, partners_in_batch))

    def epoch(
        self,
        epoch: int,
        *,
        stream: str,
        batch_size: int,
        augment: str,
        policy: str = "basic",
        views: int = 1,
        partners: int = 0,
        partners_in_batch: bool = False,
        dtype: torch.dtype = torch.float32,
        shard: Shard = WHOLE,
    ) -> Iterator[Batch]:
        """All training images once, in an order and with augmentation that (stream, epoch) fix.

        Images are [N, 3, S, S] in channels_last layout, normalized, of ``dtype`` float32 or
        bfloat16, on the device. policy: of ``sdbench.data.policies``, beyond ``augment``. ``views`` and
        ``partners`` change neither order nor images: they draw from streams of their own. Everything is
        drawn when the first batch is asked for; after that no step waits for a GPU. ``shard`` takes its rows of
        each batch, which has as many steps, the last one possibly without images; nothing is drawn, decoded or
        augmented differently for it.
        """
        drawer = self._drawer(augment)
        groups = draw_epoch(self._roster, drawer, stream=stream, epoch=epoch, views=views, partners=partners)
        anchors = anchors_per_step(batch_size, partners, partners_in_batch)
        mine = shard.positions(self.num_train, anchors)
        if shard != WHOLE:
            groups, anchors = [group[mine] for group in groups], anchors // shard.size
        order = to_device(groups[0].index, self.device)
        labels = self._labels.index_select(0, order)
        starts = range(0, len(order), anchors)
        beyond = Policy(
            policy, groups, mine, count=self.num_train, stream=stream, epoch=epoch, step=anchors,
            size=self.image_size, num_classes=self.num_classes, device=self.device,
        )  # fmt: skip
        for start, images in zip(starts, self._augmented(groups, anchors, augment), strict=True):
            rows = slice(start, start + anchors)
            own, *others = beyond.applied(start, images, lambda pixels: self._normalize(pixels, dtype))
            yield Batch(
                images=own[0],
                views=tuple(own[1:]),
                partners=tuple(versions[0] for versions in others),
                labels=labels[rows],
                index=order[rows],
            )
        if len(starts) < self.steps(batch_size, partners, partners_in_batch):
            none = torch.empty((0, 3, self.image_size, self.image_size), dtype=dtype, device=self.device)
            yield Batch(none, (none,) * (views - 1), (none,) * partners, labels[:0], order[:0])

    def test_batches(self, batch_size: int, dtype: torch.dtype = torch.float32) -> Iterator[tuple[Tensor, Tensor]]:
        """The test images, without augmentation and in a fixed order, with their labels."""
        everything = torch.arange(self.num_test)
        return self._labelled("test", everything, self._test_labels, batch_size, dtype)

    def train_batches(
        self, batch_size: int, dtype: torch.dtype = torch.float32, most: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The training images as they are, without augmentation and in a fixed order, with their labels.

        most: that many of them at most, the same ones each time, drawn without regard to their classes.
        """
        chosen = torch.arange(self.num_train)
        if most is not None and most < self.num_train:
            chosen = torch.randperm(self.num_train, generator=torch.Generator().manual_seed(0))[:most].sort().values
        labels = self._labels.index_select(0, chosen.to(self.device))
        return self._labelled("train", self._kept[chosen], labels, batch_size, dtype)

    def validation_batches(
        self, batch_size: int, dtype: torch.dtype = torch.float32
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The held-out training images, without augmentation, with their labels; none without a split."""
        return self._labelled("train", self._held, self._validation_labels, batch_size, dtype)

    def _labelled(
        self, part: Part, positions: Tensor, labels: Tensor, batch_size: int, dtype: torch.dtype
    ) -> Iterator[tuple[Tensor, Tensor]]:
        images = self._plain(part, positions, batch_size)
        for batch, answers in zip(images, in_chunks(labels, batch_size), strict=True):
            yield self._normalize(batch, dtype), answers

    @abstractmethod
    def _drawer(self, augment: str) -> Drawer:
        """How the draws of an augmentation are made for these images."""

    @abstractmethod
    def _augmented(self, groups: list[Group], anchors: int, augment: str) -> Iterator[list[list[Tensor]]]:
        """For each step, each group and each of its versions, images [B, S, S, 3] on the device."""

    @abstractmethod
    def _plain(self, part: Part, positions: Tensor, batch_size: int) -> Iterator[Tensor]:
        """Images at ascending ``positions`` of a part, not augmented: [B, S, S, 3] on the device."""


def known_augmentation(augment: str) -> str:
    """``augment`` itself. UserError with near matches where there is no such augmentation."""
    if augment not in AUGMENTATIONS:
        raise UserError(unknown("augmentation", augment, AUGMENTATIONS))
    return augment
