"""A task in memory, small enough to hold a method to its contract in seconds, through the real trainer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sdbench import models, registry
from sdbench.data.augment import crop_drawer, pad_width
from sdbench.data.streams import Draw, Group, Roster, draw_epoch, generator_for
from sdbench.method import Batch
from sdbench.network import Network
from sdbench.session import Session, assemble, configure
from sdbench.spec import Identity, Options, Recipe, Trial, TrialSpec, Value
from sdbench.store import Store

HELD_OUT = 6
"""Images in the validation set, and in the test set."""


@dataclass(frozen=True)
class TinyTask:
    """What a method is tried on.

    num_train: images in the training set. With the defaults the short last batch has two images, for
        batches of 12, 6, 4 and 3 alike: partners that share the batch leave room for that many.
    image_size: side in pixels. network: a key of ``models``. epochs: of a whole training.
    """

    num_classes: int = 10
    num_train: int = 26
    image_size: int = 16
    batch_size: int = 12
    network: str = "resnet8"
    epochs: int = 4

    def trial(self, name: str, params: Mapping[str, Value], *, precision: str = "fp32", seed: int = 0) -> Trial:
        """A trial of the method ``name`` with all of its hyper-parameters on this task."""
        spec = TrialSpec.model_validate(
            {
                "method": name,
                "params": dict(params),
                "dataset": "tiny",
                "image_size": self.image_size,
                "network": self.network,
                "recipe": Recipe(epochs=self.epochs, batch_size=self.batch_size, lr=0.02),
                "precision": precision,
                "protocol": "check",
                "seed": seed,
            }
        )
        identity = Identity(method_source="", data_fingerprint=self.fingerprint, protocol_version="0")
        return Trial(spec=spec, identity=identity)

    @property
    def fingerprint(self) -> str:
        """Names the data, which are the same on every machine."""
        return f"tiny:{self.num_classes}x{self.num_train}x{self.image_size}"

    def build_network(self) -> Network:
        """A fresh network, its weights drawn from torch's global generator."""
        return models.build(self.network, self.num_classes, self.image_size)

    def session(self, trial: Trial) -> Session:
        """The trial's session on the CPU; a method of several generations gets a teacher."""
        device = torch.device("cpu")
        configure(trial.spec, device)
        teacher = None
        if registry.build(trial.spec.method, trial.spec.params).generations > 1:
            torch.manual_seed(1)
            teacher = self.build_network().frozen_copy()
        return assemble(trial, device, TinyData(self), self.build_network, teacher)

    def open(self, trial: Trial, store: Store, options: Options) -> Session:
        """As ``session``, with the arguments that ``run_trial`` hands over."""
        return self.session(trial)


class TinyData:
    """Images that are a pattern per class and noise, with the interface of ``sdbench.data``."""

    def __init__(self, task: TinyTask) -> None:
        self.num_classes = task.num_classes
        self.num_train = task.num_train
        self.image_size = task.image_size
        self.fingerprint = task.fingerprint
        generator = generator_for(self.fingerprint)
        patterns = torch.randn(task.num_classes, 3, task.image_size, task.image_size, generator=generator)
        labels = torch.arange(task.num_train + 2 * HELD_OUT) % task.num_classes
        images = patterns[labels] + 0.5 * torch.randn(patterns[labels].shape, generator=generator)
        self._images, self._labels = images[: task.num_train], labels[: task.num_train]
        self._validation, self._test = (
            (images[start : start + HELD_OUT], labels[start : start + HELD_OUT])
            for start in (task.num_train, task.num_train + HELD_OUT)
        )
        self._roster = Roster(self._labels)

    def steps(self, batch_size: int, partners: int, partners_in_batch: bool) -> int:
        """Batches in an epoch, the short last one included."""
        return -(-self.num_train // _anchors(batch_size, partners, partners_in_batch))

    def epoch(
        self,
        epoch: int,
        *,
        stream: str,
        batch_size: int,
        augment: str,
        views: int,
        partners: int,
        partners_in_batch: bool,
        dtype: torch.dtype,
    ) -> Iterator[Batch]:
        """The batches of an epoch, by the same streams as those of a real data set."""
        drawer = crop_drawer(self.image_size, flips=True)
        first, *others = draw_epoch(self._roster, drawer, stream=stream, epoch=epoch, views=views, partners=partners)
        size = _anchors(batch_size, partners, partners_in_batch)
        for start in range(0, self.num_train, size):
            rows = slice(start, start + size)
            images, *further = self._augmented(first[rows], dtype)
            index = first.index[rows]
            same_class = tuple(self._augmented(group[rows], dtype)[0] for group in others)
            yield Batch(images, tuple(further), same_class, self._labels[index], index)

    def test_batches(self, batch_size: int, dtype: torch.dtype) -> Iterator[tuple[Tensor, Tensor]]:
        """The test set in one batch."""
        yield self._test[0].to(dtype), self._test[1]

    def validation_batches(self, batch_size: int, dtype: torch.dtype) -> Iterator[tuple[Tensor, Tensor]]:
        """The held-out images in one batch."""
        yield self._validation[0].to(dtype), self._validation[1]

    def _augmented(self, group: Group, dtype: torch.dtype) -> list[Tensor]:
        chosen = self._images[group.index].to(dtype)
        return [_crop(chosen, draw).contiguous(memory_format=torch.channels_last) for draw in group.draws]


def _crop(images: Tensor, draw: Draw) -> Tensor:
    """Zero-padded crops of images [B, 3, S, S], some mirrored, as drawn."""
    assert draw.offsets is not None
    assert draw.flips is not None
    size, width = images.shape[-1], pad_width(images.shape[-1])
    padded = F.pad(images, (width, width, width, width))
    corners = zip(padded, draw.offsets.tolist(), strict=True)
    crops = torch.stack([image[:, top : top + size, left : left + size] for image, (top, left) in corners])
    return torch.where(draw.flips[:, None, None, None], crops.flip(3), crops)


def _anchors(batch_size: int, partners: int, partners_in_batch: bool) -> int:
    """Labelled images in a full batch."""
    return batch_size // (1 + partners) if partners_in_batch else batch_size
