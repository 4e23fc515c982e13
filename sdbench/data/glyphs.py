"""``glyphs``: accented letters drawn from matplotlib's fonts, the data set that needs no download.

Twenty capital letters with five accents make 100 classes in 20 families of five, as CIFAR-100 has
20 superclasses: classes of one family share their letter and differ in a few pixels. Each image is
a letter in one of the sixteen text fonts of the DejaVu and STIX families, rotated, sheared, shifted,
light on a darker shaded background, blurred and noisy; 32x32 RGB, 100 training and 20 test images
per class. Images differ in difficulty: most are clear, some cannot be read by anyone.

What it is for: trying the harness, tests, and seeing methods differ within minutes on a CPU. What
it is not: natural images, a benchmark to quote, or evidence about either. Training and test images
share their fonts and the distribution of every disturbance, no label is wrong, and 100 images per
class are few. Two epochs of a ResNet-8 under the protocol ``demo`` get 69 and 77 percent of the test
images right (plain cross-entropy, seeds 0 and 1). Mirrored letters are other shapes, so its recipe
crops without flips.

Nothing in it depends on the type of CPU or the number of threads: outlines are flattened and filled
here rather than by a font renderer, and the rest is single additions, multiplications and
divisions, which IEEE arithmetic rounds alike everywhere.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from sdbench.data import cache
from sdbench.data.facts import Arrays, DataFacts, DatasetInfo, Source
from sdbench.data.outlines import ACCENTS, LETTERS, glyph_masks

PER_CLASS = {"train": 100, "test": 20}
VERSION = 1
"""Part of the name of the cached file; a change of the images raises it."""


def class_names() -> tuple[str, ...]:
    """Letter and accent of each class; class number = 5 * letter + accent, family = number // 5."""
    return tuple(f"{letter} {accent}" for letter in LETTERS for accent in ACCENTS)


def generate(train_per_class: int = 100, test_per_class: int = 20) -> dict[str, cache.Array]:
    """The images: ``train_pixels`` uint8 [100 train_per_class, 32, 32, 3], ``train_labels`` int64,
    and the same of the test part; image n has class n modulo 100.

    The same bytes at every call. A smaller set is not a part of a larger one.
    """
    import torch

    from sdbench.data.rendering import render

    masks = torch.from_numpy(glyph_masks())
    arrays = {}
    for part, per_class in (("train", train_per_class), ("test", test_per_class)):
        labels = torch.arange(per_class * masks.shape[1]) % masks.shape[1]
        arrays[f"{part}_labels"] = labels.numpy()
        arrays[f"{part}_pixels"] = render(masks, labels, part).numpy()
    return arrays


def place(source: Source, data_dir: Path | None) -> Path:
    """The file in the cache folder that keeps the images once they were made."""
    return cache.cache_folder() / f"glyphs-{VERSION}.safetensors"


def load_arrays(source: Source, info: DatasetInfo, data_dir: Path | None, image_size: int) -> Arrays:
    """The images, from the cache folder if a sound copy is there, else made and kept there.

    Where the cache folder cannot be written to they are made anew each time. ``data_dir`` is not
    looked into: there is nothing that a user could put there.
    """
    file = place(source, data_dir)
    arrays = cache.read_arrays(file)
    if arrays is None:
        arrays = generate(PER_CLASS["train"], PER_CLASS["test"])
        with contextlib.suppress(OSError):
            cache.store_arrays(file, arrays)
    facts = DataFacts(
        name=source.name,
        fingerprint=f"content:{cache.checksum(arrays)}",
        num_classes=len(class_names()),
        num_train=len(arrays["train_labels"]),
        num_test=len(arrays["test_labels"]),
        image_size=image_size,
        augment=info.augment,
        class_names=class_names(),
    )
    return Arrays(facts, arrays["train_pixels"], arrays["train_labels"], arrays["test_pixels"], arrays["test_labels"])


def inspect(source: Source, info: DatasetInfo, data_dir: Path | None, image_size: int) -> DataFacts:
    """What is known of the images, which are made if they are not in the cache."""
    return load_arrays(source, info, data_dir, image_size).facts
