"""mixup against the authors' numbers, Beta's own distribution, and cases worked by hand."""

import math

import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from sdbench.methods.mixup import Mixup, mixed_images, symmetric_beta

from sdbench import Batch
from sdbench.method import Combination

PROGRESS = torch.tensor(0.0)


@pytest.mark.golden
def test_every_golden_case(matches, golden_cases, blended_loss_matches):
    for case, args, own in golden_cases("wide/mixup.npz"):
        share, order = args["lam"], torch.from_numpy(own["perm"])
        for exact in (share, torch.tensor(share)):
            blended = mixed_images(torch.from_numpy(own["images"]), order, exact)
            matches(blended, own["mixed_images"], "f32", f"{case} images")
        blended_loss_matches(case, own, share)


@pytest.mark.parametrize("alpha", [0.4, 1.0, 3.0])
def test_shares_have_betas_distribution(alpha):
    generator = torch.Generator().manual_seed(3)
    draws = torch.stack([symmetric_beta(alpha, generator) for _ in range(3000)])
    assert stats.kstest(draws.double().numpy(), stats.beta(alpha, alpha).cdf).pvalue > 0.01
    assert stats.kstest(draws.double().numpy(), stats.beta(1.1 * alpha + 0.1, alpha).cdf).pvalue < 0.01  # it can fail


@pytest.mark.parametrize("alpha", [1e-4, 1e-2])
def test_tiny_alpha_gives_one_image_or_the_other(alpha):
    """Both gamma draws are below the smallest float32: their plain ratio would be 0 / 0."""
    generator = torch.Generator().manual_seed(3)
    draws = torch.stack([symmetric_beta(alpha, generator) for _ in range(500)]).double()
    assert draws.isfinite().all()
    middle = ((draws > 0.01) & (draws < 0.99)).double().mean().item()
    inside = stats.beta(alpha, alpha).cdf(0.99) - stats.beta(alpha, alpha).cdf(0.01)
    assert middle == pytest.approx(inside, abs=0.05)
    assert draws.mean().item() == pytest.approx(0.5, abs=0.1)


def test_large_alpha_blends_half_and_half():
    generator = torch.Generator().manual_seed(3)
    draws = torch.stack([symmetric_beta(1e6, generator) for _ in range(50)])
    assert (draws - 0.5).abs().max() < 5 * stats.beta(1e6, 1e6).std() + 1e-6


def test_images_by_hand():
    images = torch.tensor([1.0, 2.0, 4.0])[:, None, None, None].expand(3, 3, 2, 2)
    order = torch.tensor([1, 2, 0])
    blended = mixed_images(images, order, torch.tensor(0.25))
    assert blended[:, 0, 0, 0].tolist() == [0.25 + 1.5, 0.5 + 3.0, 1.0 + 0.75]
    assert torch.equal(mixed_images(images, order, torch.tensor(1.0)), images)
    assert torch.equal(mixed_images(images, order, torch.tensor(0.0)), images[order])


def test_images_labels_and_share_belong_together(image_batch):
    batch = image_batch()
    mixed = Mixup(alpha=1.0).mix(batch, torch.Generator().manual_seed(0))
    share = float(mixed.share)
    assert 0 < share < 1
    for row in range(len(batch.labels)):
        others = (mixed.images[row] - share * batch.images[row]) / (1 - share)
        distances = (batch.images - others).flatten(1).norm(dim=1)
        assert distances.min() < 1e-3
        assert mixed.labels_b[row] == batch.labels[distances.argmin()]


@pytest.mark.parametrize("classes", [2, 5])
def test_loss_is_the_blend_of_both_labels(classes, staged_network, image_batch):
    network, batch = staged_network(classes), image_batch(classes=classes)
    mixer = Mixup(alpha=1.0)
    method = Combination(mixer, mixer)
    method.hand_generator(torch.Generator().manual_seed(5))
    loss = method.loss(network, batch, PROGRESS)["ce"]
    mixed = Mixup(alpha=1.0).mix(batch, torch.Generator().manual_seed(5))
    log_p = F.log_softmax(network(mixed.images).logits, dim=1)
    one_hot = [F.one_hot(labels, classes) for labels in (batch.labels, mixed.labels_b)]
    targets = mixed.share * one_hot[0] + (1 - mixed.share) * one_hot[1]
    torch.testing.assert_close(loss, -(targets * log_p).sum(1).mean())


def test_one_image_alone_is_itself():
    batch = Batch(torch.randn(1, 3, 4, 4), (), (), torch.tensor([2]), torch.tensor([0]))
    mixed = Mixup().mix(batch, torch.Generator().manual_seed(0))
    torch.testing.assert_close(mixed.images, batch.images)
    assert torch.equal(mixed.labels_b, batch.labels)


def test_alpha_of_zero_mixes_nothing(image_batch):
    batch = image_batch()
    generator = torch.Generator().manual_seed(0)
    mixed = Mixup(**Mixup.neutral).mix(batch, generator)
    assert torch.equal(mixed.images, batch.images)
    assert mixed.share == 1


@pytest.mark.parametrize("alpha", [-0.1, math.inf, math.nan])
def test_alpha_outside_its_range_is_refused(alpha):
    with pytest.raises(ValueError, match=r"alpha must be in \[0, infinity\)"):
        Mixup(alpha=alpha)
