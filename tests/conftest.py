"""Fixtures: numbers from the authors' code, small networks built by hand, and batches."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sdbench import Batch, Network, wrap
from sdbench.network import StagedNetwork

torch.set_num_threads(1)

Arrays = dict[str, NDArray[np.generic]]
RTOL = {"f32": 1e-5, "f64": 1e-6}
DTYPES = {"f32": torch.float32, "f64": torch.float64}


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test draws the same random numbers each time."""
    torch.manual_seed(0)


@pytest.fixture
def golden() -> Callable[[str], Arrays]:
    """``golden("byot.npz")`` reads a file of the folder that SDBENCH_GOLDEN names, or of tests/golden."""
    elsewhere = os.environ.get("SDBENCH_GOLDEN")

    def load(name: str) -> Arrays:
        path = Path(elsewhere or Path(__file__).parent / "golden") / name
        if elsewhere and not path.is_file():
            pytest.skip(f"{elsewhere} holds no {name}")
        with np.load(path) as file:
            return {key: file[key] for key in file.files}

    return load


@pytest.fixture
def matches() -> Callable[..., None]:
    """``matches(actual, expected, "f32", name)``; entries near 0 are held to the array's largest."""

    def check(actual: Tensor | None, expected: NDArray[np.generic], precision: str, name: str) -> None:
        assert actual is not None, name
        rtol, scale = RTOL[precision], float(np.abs(expected).max(initial=0.0))
        np.testing.assert_allclose(
            actual.detach().double().numpy(), expected, rtol=rtol, atol=rtol * scale, err_msg=name
        )

    return check


@pytest.fixture
def leaf() -> Callable[..., Tensor]:
    """``leaf(array, "f64")``: a tensor of that precision that records gradients."""

    def make(array: NDArray[np.generic], precision: str) -> Tensor:
        return torch.from_numpy(array).to(DTYPES[precision]).requires_grad_()

    return make


@pytest.fixture
def logits_network() -> Network:
    """A network whose logits are the images that it is given."""
    return wrap(nn.Identity())


@pytest.fixture
def logits_batch() -> Callable[..., Batch]:
    """``logits_batch(logits, labels, partner=None, index=None)`` for ``logits_network``."""

    def make(logits: Tensor, labels: Tensor, *, partner: Tensor | None = None, index: Tensor | None = None) -> Batch:
        partners = () if partner is None else (partner,)
        return Batch(logits, (), partners, labels, torch.arange(len(labels)) if index is None else index)

    return make


@pytest.fixture
def staged_network() -> Callable[..., StagedNetwork]:
    """``staged_network(classes=5, widths=(4, 6, 8))``: the first stage keeps the image's side, each
    further one halves it; all have BatchNorm."""

    def make(classes: int = 5, widths: tuple[int, ...] = (4, 6, 8), image_size: int = 8) -> StagedNetwork:
        torch.manual_seed(0)
        stem = nn.Conv2d(3, widths[0], 3, padding=1)
        stages: list[nn.Module] = []
        for i, width in enumerate(widths):
            before, stride = widths[max(0, i - 1)], 1 if i == 0 else 2
            convolution = nn.Conv2d(before, width, 3, stride=stride, padding=1)
            stages.append(nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU()))
        return StagedNetwork(stem, stages, nn.Linear(widths[-1], classes), image_size, "small network")

    return make


@pytest.fixture
def image_batch() -> Callable[..., Batch]:
    """``image_batch(size=6, classes=5)``: images [size, 3, 8, 8] with one partner each."""

    def make(size: int = 6, classes: int = 5, image_size: int = 8, seed: int = 1) -> Batch:
        generator = torch.Generator().manual_seed(seed)
        images, partner = torch.randn(2, size, 3, image_size, image_size, generator=generator)
        labels = torch.randint(classes, (size,), generator=generator)
        return Batch(images, (), (partner,), labels, torch.arange(size))

    return make
