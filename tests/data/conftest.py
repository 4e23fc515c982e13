"""A cache folder for each test, and small data sets on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Shape = tuple[int, int]


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test reads or writes the user's own cache folder."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("SDBENCH_CACHE", str(folder))
    monkeypatch.delenv("SDBENCH_DATA", raising=False)
    return folder


def picture(seed: int, shape: Shape) -> Image.Image:
    """A smooth random image: a few colours, magnified, so that resizing it is well conditioned."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((shape[1], shape[0]), Image.Resampling.BICUBIC)


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., Path]:
    """``make_folder(name, shapes, classes, train, test)``: an ImageFolder tree; image n of it all
    has shape ``shapes[n % len(shapes)]``."""

    def make(
        name: str = "birds",
        shapes: tuple[Shape, ...] = ((16, 16),),
        classes: tuple[str, ...] = ("auk", "crow", "dove"),
        train: int = 7,
        test: int = 3,
        suffix: str = ".png",
    ) -> Path:
        root = tmp_path / name
        number = 0
        for part, count in (("train", train), ("val", test)):
            for label in classes:
                (root / part / label).mkdir(parents=True)
                for n in range(count):
                    picture(number, shapes[number % len(shapes)]).save(root / part / label / f"{n}{suffix}")
                    number += 1
        return root

    return make
