"""Records about data sets. No torch: the command line lists and inspects data without loading it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
"""Images as bytes, [N, H, W, 3]."""
Labels = NDArray[np.int64]
"""Class numbers, [N], in [0, K)."""


@dataclass(frozen=True, slots=True)
class DatasetInfo:
    """What is known of a data set before it is opened.

    num_classes: K, or None where it depends on the files.
    image_size: side in pixels at which images are trained on by default.
    image_sizes: the sides that may be asked for; empty where any from 8 to 4,096 may.
    augment: the default recipe's augmentation.
    mean, std: of each channel (red, green, blue) of the training images scaled to [0, 1]; images
        are normalized to (x - mean) / std.
    source: where the data come from and how to get them.
    """

    name: str
    summary: str
    num_classes: int | None
    image_size: int
    image_sizes: tuple[int, ...]
    augment: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    source: str


@dataclass(frozen=True, slots=True)
class Source:
    """A data set's name taken apart.

    kind: a key of ``DATASETS``. name: what a record may hold, free of the host's paths.
    location: the folder that the name of a ``folder:`` data set gives, else None.
    """

    kind: str
    name: str
    location: Path | None = None


@dataclass(frozen=True, slots=True)
class DataFacts:
    """What is known of a data set once its files have been checked.

    fingerprint: changes whenever an image or a label does; names its scheme before a colon.
    num_train: before any hold-out. image_size: side in pixels of the images that a network sees.
    augment: the default recipe's augmentation.
    class_names: one per class, in the order of the labels.
    """

    name: str
    fingerprint: str
    num_classes: int
    num_train: int
    num_test: int
    image_size: int
    augment: str
    class_names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Arrays:
    """A data set of images of one size, in memory: pixels [N, S, S, 3] and labels [N] of each part."""

    facts: DataFacts
    train_pixels: Pixels
    train_labels: Labels
    test_pixels: Pixels
    test_labels: Labels
