"""The training loop that most repositories of the papers share, as the other side of a comparison.

PIL images, torchvision transforms one image at a time, a ``DataLoader``, float32 in NCHW layout, the
optimizer's default implementation, and the loss and the accuracy read from the device at every step.
Nothing here is slowed down on purpose.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from sdbench.network import Network

Loader = DataLoader[Any]
"""Gives images [N, 3, 32, 32] and labels [N]."""


class ImageSet(Dataset[tuple[Tensor, int]]):
    """Pixels uint8 [N, 32, 32, 3] and labels [N], one transformed PIL image at a time, as in
    ``torchvision.datasets.CIFAR100``."""

    def __init__(self, pixels: NDArray[np.uint8], labels: NDArray[np.int64], transform: transforms.Compose) -> None:
        self.pixels, self.labels, self.transform = pixels, labels.tolist(), transform

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[index])), self.labels[index]

    def __len__(self) -> int:
        return len(self.pixels)


def images_loader(
    pixels: NDArray[np.uint8],
    labels: NDArray[np.int64],
    batch_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    workers: int,
    pinned: bool,
) -> Loader:
    """Batches with padding, random crop and flip, shuffled anew each epoch.

    workers: processes that load; with 0 the training step does it. On a CPU that is the one way to see
    all of the work: processor time counts this process alone, and workers would take cores that the
    other sides of the comparison do without. pinned: copy batches to pinned memory, for a GPU.
    """
    augmented = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()]
    transform = transforms.Compose([*augmented, transforms.ToTensor(), transforms.Normalize(mean, std)])
    return DataLoader(
        ImageSet(pixels, labels, transform),
        batch_size=batch_size,
        shuffle=True,
        drop_last=True,  # so that all steps of a timing are of one size
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=pinned,
    )


def papers_steps(network: Network, loader: Loader, rate: float, device: torch.device) -> Iterator[float]:
    """One training step for each ``next``; gives the epoch's accuracy so far, in [0, 1].

    network: float32, in NCHW layout, on ``device``. rate: the learning rate.
    """
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(network.parameters(), lr=rate, momentum=0.9, weight_decay=5e-4)
    while True:
        train_loss, correct, total = 0.0, 0, 0
        for images, targets in loader:
            images, targets = images.to(device), targets.to(device)
            outputs = network(images).logits
            loss = criterion(outputs, targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            train_loss += loss.item()
            correct += outputs.argmax(1).eq(targets).sum().item()
            total += len(targets)
            yield correct / total
