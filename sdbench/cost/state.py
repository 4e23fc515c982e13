"""How large a method's training state is on data sets that are too large to try."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from sdbench import models, registry
from sdbench.cost.records import Setting
from sdbench.cost.setting import Contestant
from sdbench.holdings import bytes_of, tensors_of
from sdbench.method import Task

LARGE = {
    "cifar100": (100, 50_000),
    "tinyimagenet": (200, 100_000),
    "imagenet": (1_000, 1_281_167),
    "inat21": (10_000, 2_686_843),
}
"""Classes and training images of the data sets that state is extrapolated to."""

SOLVED_AT = ((7, 640), (13, 640), (29, 640), (7, 1280), (13, 1280))
CHECKED_AT = ((29, 1280), (17, 960))


def _terms(num_classes: int, num_train: int) -> list[float]:
    """1, K, K^2, N and N K: what memories of classes, pairs of classes and images are made of."""
    return [1.0, num_classes, num_classes**2, num_train, num_train * num_classes]


@dataclass(frozen=True)
class StateSize:
    """Bytes as coefficients of 1, K, K^2, N and N K, for K classes and N training images."""

    coefficients: tuple[float, ...]

    def at(self, num_classes: int, num_train: int) -> int:
        pairs = zip(self.coefficients, _terms(num_classes, num_train), strict=True)
        return round(sum(c * t for c, t in pairs))


def fit(sizes: Mapping[tuple[int, int], int]) -> StateSize | None:
    """The size that explains the bytes found at ``SOLVED_AT`` and ``CHECKED_AT``, (classes, images) each; None
    where the latter are not met to the byte."""
    matrix = np.array([_terms(*point) for point in SOLVED_AT])
    solved = np.linalg.solve(matrix, np.array([sizes[point] for point in SOLVED_AT], dtype=np.float64))
    # Whole bytes, or simple fractions of one where K^2 is halved: what is beyond that is rounding.
    size = StateSize(tuple(round(float(c), 6) + 0.0 for c in solved))
    return size if all(size.at(*point) == sizes[point] for point in CHECKED_AT) else None


def state_at_large(setting: Setting, contestant: Contestant) -> dict[str, int | None]:
    """Bytes of state on each of ``LARGE``: the method is set up on the CPU for a few small numbers of classes and
    images, with the setting's network, batch and image size. None where they follow no such polynomial."""
    size = fit({point: _set_up(setting, contestant, *point) for point in (*SOLVED_AT, *CHECKED_AT)})
    return {name: size.at(*point) if size else None for name, point in LARGE.items()}


def _set_up(setting: Setting, contestant: Contestant, num_classes: int, num_train: int) -> int:
    network = models.build(setting.network, num_classes, setting.image_size)
    method = registry.build(contestant.name, contestant.params)
    method.setup(
        Task(
            num_classes=num_classes,
            num_train=num_train,
            batch_size=setting.batch_size,
            epochs=200,
            teacher=network.frozen_copy() if method.taught else None,
            generator=torch.Generator(),
        ),
        network,
    )
    trained = [p for p in method.parameters() if p.requires_grad]
    return bytes_of(tensors_of(method, [*network.parameters(), *network.buffers(), *trained]))
