"""A task in memory, small enough to hold a method to its contract in seconds, through the real trainer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from sdbench import models, registry
from sdbench.assembly import assemble, configure
from sdbench.data.facts import Arrays, DataFacts, DatasetInfo, Labels, Pixels
from sdbench.data.resident import ResidentSet
from sdbench.network import Network
from sdbench.session import Session
from sdbench.shelf import Shelf
from sdbench.spec import Identity, Options, Recipe, Trial, TrialSpec, Value
from sdbench.store import Store
from sdbench.workers import ALONE, Workers

AUGMENT = "crop-flip"
LEAST_SPLIT = 1e-9
"""A share that holds out exactly one image of each class."""


@dataclass(frozen=True)
class TinyTask:
    """What a method is tried on.

    num_train: images in the training set, at least as many as classes. With the defaults the short last
        batch has two images, for batches of 12, 6, 4 and 3 alike, as partners in the batch need them.
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

    def session(self, trial: Trial, shelf: Shelf | None = None, workers: Workers = ALONE) -> Session:
        """The trial's session on the CPU; a method that is taught gets a teacher."""
        device = torch.device("cpu")
        configure(trial.spec, device)
        teacher = None
        if registry.build(trial.spec.method, trial.spec.params).taught:
            torch.manual_seed(1)
            teacher = self.build_network().frozen_copy()
        return assemble(trial, device, tiny_data(self), self.build_network, teacher, shelf, workers)

    def open(self, trial: Trial, store: Store, options: Options, workers: Workers = ALONE) -> Session:
        """As ``session``, with the arguments that ``run_trial`` hands over."""
        return self.session(trial, Shelf(store.folder(trial.spec, trial.id), options.state), workers)


def tiny_data(task: TinyTask) -> ResidentSet:
    """Images that are a pattern per class and noise: ``task.num_train`` to train on, and one of each class
    held out, whether or not the method asks for them."""
    classes, side = task.num_classes, task.image_size
    random = np.random.default_rng(0)
    patterns = random.normal(0, 40, (classes, side, side, 3))

    def part(count: int) -> tuple[Pixels, Labels]:
        labels = np.arange(count) % classes
        noisy = 128 + patterns[labels] + random.normal(0, 20, (count, side, side, 3))
        return noisy.clip(0, 255).astype(np.uint8), labels

    facts = DataFacts(
        name="tiny",
        fingerprint=task.fingerprint,
        num_classes=classes,
        num_train=task.num_train + classes,
        num_test=2 * classes,
        image_size=side,
        augment=AUGMENT,
        class_names=tuple(map(str, range(classes))),
    )
    info = DatasetInfo(
        name="tiny",
        summary="",
        num_classes=classes,
        image_size=side,
        image_sizes=(side,),
        augment=AUGMENT,
        mean=(0.5, 0.5, 0.5),
        std=(0.2, 0.2, 0.2),
        source="",
    )
    arrays = Arrays(facts, *part(facts.num_train), *part(facts.num_test))
    return ResidentSet(arrays, info, device=torch.device("cpu"), split=LEAST_SPLIT)
