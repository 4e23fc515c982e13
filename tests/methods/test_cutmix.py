"""CutMix against the authors' numbers, cases worked by hand, and a simulation with NumPy."""

import math

import numpy as np
import pytest
import torch
from sdbench.methods.cutmix import CutMix, interval, pasted_images

from sdbench import Batch

PROGRESS = torch.tensor(0.0)


@pytest.mark.golden
def test_every_golden_case(golden_cases, blended_loss_matches):
    for case, args, own in golden_cases("wide/cutmix.npz"):
        drawn = torch.tensor(args["lam_drawn"], dtype=torch.float64)
        center = (torch.tensor(args["center_dim2"]), torch.tensor(args["center_dim3"]))
        images = torch.from_numpy(own["images"])
        order = torch.from_numpy(own["perm"])
        (top, bottom), (left, right) = (interval(images.shape[2 + i], drawn, center[i]) for i in (0, 1))
        box = own["bbox_dim2lo_dim3lo_dim2hi_dim3hi"]
        assert [int(edge) for edge in (top, left, bottom, right)] == box.tolist()
        pasted, kept = pasted_images(images, order, drawn, center)
        assert np.array_equal(pasted.numpy(), own["mixed_images"])
        assert kept.item() == pytest.approx(float(own["lam_adjusted"]), rel=1e-6)
        blended_loss_matches(case, own, kept)


@pytest.mark.parametrize(
    ("share", "center", "rows", "columns"),
    [
        (0.75, (1, 2), (0, 2), (1, 3)),  # half of 4 and of 6 pixels: 2 and 3, half-widths 1 and 1
        (0.0, (2, 3), (0, 4), (0, 6)),  # everything
        (0.0, (0, 0), (0, 2), (0, 3)),  # clipped at the corner
        (0.75, (3, 5), (2, 4), (4, 6)),  # clipped at the other corner: one pixel beyond the center only
        (0.99, (1, 1), (0, 0), (0, 0)),  # a box of less than two pixels is none
        (1.0, (1, 1), (0, 0), (0, 0)),
    ],
)
def test_boxes_by_hand(share, center, rows, columns):
    images = torch.arange(2.0)[:, None, None, None].expand(2, 1, 4, 6)
    where = (torch.tensor(center[0]), torch.tensor(center[1]))
    pasted, kept = pasted_images(images, torch.tensor([1, 0]), torch.tensor(share), where)
    expected = torch.zeros(4, 6)
    expected[slice(*rows), slice(*columns)] = 1
    assert torch.equal(pasted[0, 0], expected)
    assert torch.equal(pasted[1, 0], 1 - expected)
    assert kept.item() == pytest.approx(1 - expected.mean().item())
    assert kept.dtype == torch.float32


@pytest.mark.parametrize(("size", "share", "half"), [(10, 0.51, 3), (10, 0.64, 3), (32, 0.36, 12), (100, 0.9999, 0)])
def test_rounding_is_that_of_double_precision(size, share, half):
    """sqrt(1 - 0.51) is 0.7 and 10 times it is 7, whose half is 3: no rounding error may make it 6."""
    first, last = interval(size, torch.tensor(share, dtype=torch.float64), torch.tensor(size // 2))
    assert half == int(size * math.sqrt(1 - share)) // 2
    assert (int(first), int(last)) == (size // 2 - half, size // 2 + half)


def simulated(alpha: float, side: int, draws: int) -> np.ndarray:
    """Shares that stay, drawn and clipped by NumPy."""
    random = np.random.default_rng(0)
    share = random.beta(alpha, alpha, draws)
    half = (side * np.sqrt(1 - share)).astype(int) // 2
    lengths = []
    for _ in range(2):
        center = random.integers(side, size=draws)
        lengths.append(np.clip(center + half, 0, side) - np.clip(center - half, 0, side))
    return 1 - lengths[0] * lengths[1] / side**2


@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_shares_are_those_of_a_simulation(alpha):
    batch = Batch(torch.zeros(2, 3, 16, 16), (), (), torch.tensor([0, 1]), torch.arange(2))
    generator = torch.Generator().manual_seed(1)
    method = CutMix(alpha=alpha)
    ours = np.array([float(method.mix(batch, generator).share) for _ in range(2000)])
    truth = simulated(alpha, 16, 200_000)
    assert abs(ours.mean() - truth.mean()) < 4 * truth.std() / math.sqrt(len(ours))
    assert abs((ours == 1).mean() - (truth == 1).mean()) < 4 * math.sqrt(0.25 / len(ours))
    assert abs(np.median(ours) - np.median(truth)) < 0.05


def test_only_a_share_of_the_batches_is_cut():
    batch = Batch(torch.zeros(2, 3, 32, 32), (), (), torch.tensor([0, 1]), torch.arange(2))
    generator = torch.Generator().manual_seed(1)
    method = CutMix(alpha=8.0, probability=0.3)  # boxes of some size whenever there is one
    cut = np.mean([float(method.mix(batch, generator).share) < 1 for _ in range(800)])
    assert cut == pytest.approx(0.3, abs=0.06)


def test_images_labels_and_share_belong_together(image_batch):
    batch = image_batch()
    mixed = CutMix(alpha=8.0).mix(batch, torch.Generator().manual_seed(2))
    changed = (mixed.images != batch.images).any(1)
    assert 0 < changed.float().mean() < 1
    for row in range(len(batch.labels)):
        source = [(mixed.images[row][:, changed[row]] == image[:, changed[row]]).all() for image in batch.images]
        if changed[row].any():
            assert mixed.labels_b[row] == batch.labels[source.index(True)]
            assert float(mixed.share) == pytest.approx(1 - changed[row].float().mean().item())
        else:
            assert mixed.labels_b[row] == batch.labels[row]


def test_probability_of_zero_cuts_nothing(image_batch):
    batch = image_batch()
    mixed = CutMix(**CutMix.neutral).mix(batch, torch.Generator().manual_seed(0))
    assert torch.equal(mixed.images, batch.images)
    assert mixed.share == 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"alpha": 0.0}, "alpha must be positive"),
        ({"alpha": math.nan}, "alpha must be positive"),
        ({"probability": 1.1}, r"probability must be in \[0, 1\]"),
        ({"probability": math.nan}, r"probability must be in \[0, 1\]"),
    ],
)
def test_values_outside_their_range_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        CutMix(**values)
