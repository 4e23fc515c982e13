"""A training step of every method on one task: the images, a session each, and endless batches.

All sessions share one data set and start from the same weights. The step is the trainer's own, with the
making of its batch: crop, flip, normalization, partners and further views.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from sdbench import data, models, registry
from sdbench.assembly import assemble, configure
from sdbench.cost.records import SYNTHETIC, Setting
from sdbench.data.dataset import DataSet
from sdbench.data.facts import Arrays, DataFacts, DatasetInfo
from sdbench.data.resident import ResidentSet
from sdbench.method import Batch, Terms
from sdbench.network import Network
from sdbench.session import Session
from sdbench.spec import Identity, Recipe, Trial, TrialSpec, Value

NUM_TRAIN = 50_000
"""Images of the synthetic training set, as many as CIFAR-100 has, where they fit in ``NOISE_BYTES``."""
NOISE_BYTES = 256 * 2**20
EPOCHS = 200
RATE = 0.01
"""Labels of noise cannot be learnt; a small rate keeps the weights in the range of real ones."""
PROGRESS = 0.5
"""Steps are those of the middle of training: what a method does only at first is not its cost."""


@dataclass(frozen=True)
class Contestant:
    """A method under measurement, with all of its hyper-parameters."""

    name: str
    params: Mapping[str, Value]


def noise_count(image_size: int, batch_size: int) -> int:
    """Images in the synthetic training set: ``NUM_TRAIN``, fewer where they are large, at least two batches."""
    return max(2 * batch_size, min(NUM_TRAIN, NOISE_BYTES // (3 * image_size**2)))


def noise(num_classes: int, num_train: int, image_size: int, device: torch.device) -> ResidentSet:
    """Uniformly random bytes as images [num_train, S, S, 3] with labels in turn; the same on every machine."""
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (num_train, image_size, image_size, 3), dtype=np.uint8)
    labels = np.arange(num_train) % num_classes
    facts = DataFacts(
        name=SYNTHETIC,
        fingerprint=f"noise:{num_classes}x{num_train}x{image_size}",
        num_classes=num_classes,
        num_train=num_train,
        num_test=num_classes,
        image_size=image_size,
        augment="crop-flip",
        class_names=tuple(map(str, range(num_classes))),
    )
    info = DatasetInfo(
        name=SYNTHETIC,
        summary="",
        num_classes=num_classes,
        image_size=image_size,
        image_sizes=(image_size,),
        augment="crop-flip",
        mean=(0.5, 0.5, 0.5),
        std=(0.29, 0.29, 0.29),
        source="",
    )
    few = slice(0, num_classes)
    return ResidentSet(Arrays(facts, pixels, labels, pixels[few], labels[few]), info, device=device, split=0.0)


def open_data(setting: Setting, device: torch.device, location: Path | None = None) -> DataSet:
    """The images of a setting: noise, or the data set that it names."""
    if setting.dataset == SYNTHETIC:
        return noise(setting.num_classes, setting.num_train, setting.image_size, device)
    return data.load(
        setting.dataset, location, setting.image_size, device=device, split=0.0, batch_size=setting.batch_size
    )


def trial_of(setting: Setting, contestant: Contestant, fingerprint: str) -> Trial:
    """The trial whose steps are measured; it is never stored."""
    recipe = Recipe.model_validate(
        {"epochs": EPOCHS, "batch_size": setting.batch_size, "lr": RATE, "augment": setting.augment}
    )
    spec = TrialSpec(
        method=contestant.name,
        params=dict(contestant.params),
        dataset=setting.dataset,
        image_size=setting.image_size,
        network=setting.network,
        recipe=recipe,
        precision=setting.precision,
        threads=setting.threads,
        protocol="profile",
        seed=0,
    )
    return Trial(spec=spec, identity=Identity(method_source="", data_fingerprint=fingerprint, protocol_version="0"))


def open_session(setting: Setting, contestant: Contestant, dataset: DataSet, device: torch.device) -> Session:
    """The contestant's session. Methods that are taught get a teacher with random weights.

    Raises whatever the method's constructor and ``setup`` raise.
    """
    trial = trial_of(setting, contestant, dataset.fingerprint)
    configure(trial.spec, device)

    def build_network() -> Network:
        return models.build(setting.network, dataset.num_classes, setting.image_size)

    teacher = None
    if registry.build(contestant.name, contestant.params).taught:
        torch.manual_seed(1)
        fresh: Network = build_network().to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        teacher = fresh.frozen_copy()
    return assemble(trial, device, dataset, build_network, teacher)


class Stepper:
    """Endless training steps of a session: ``stepper()`` makes a batch and trains on it.

    The first epoch is opened at once and left by ``settle``, after which steps are those of the middle of training
    and epochs follow each other without hooks, so that all steps do the same work.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.progress = 0.0
        self.hooks_s = 0.0
        self._epoch = 0
        session.begin_epoch(0)
        self._feed = self._batches()

    def settle(self) -> None:
        """Close the first epoch and open the middle one, timing the two hooks (on the host)."""
        began = time.perf_counter()
        self.session.end_epoch()
        self.session.begin_epoch(EPOCHS // 2)
        self._wait()
        self.hooks_s = time.perf_counter() - began
        self.progress = PROGRESS

    def batch(self) -> Batch:
        """The next full batch."""
        return next(self._feed)

    def close(self) -> None:
        """Let go of the data: no further batch can be asked for."""
        self._feed.close()

    def train(self, batch: Batch) -> Terms:
        return self.session.step(batch, RATE, self.progress)

    def __call__(self) -> None:
        self.train(self.batch())

    def _batches(self) -> Generator[Batch, None, None]:
        full = self.session.labelled_per_step
        while True:
            for batch in self.session.batches(self._epoch):
                if len(batch.labels) == full:
                    yield batch
            self._epoch += 1

    def _wait(self) -> None:
        if self.session.device.type == "cuda":
            torch.cuda.synchronize(self.session.device)


Told = Callable[[str], None]
"""Takes one line for people about how far the work is."""
