"""Focal loss against the authors' numbers and cases worked by hand."""

import math

import pytest
import torch
import torch.nn.functional as F
from sdbench.methods.focal import FocalLoss, focal_loss

PROGRESS = torch.tensor(0.0)


@pytest.mark.golden
def test_every_golden_case(matches, leaf, golden_matches):
    arrays, found = golden_matches(
        "wide/focal.npz", r"(.+)\.(?:selfkdlib_)?gamma([0-9.]+)(_mean|_sum|)_(loss|grad_logits)_(f32|f64)"
    )
    assert {match[4] for match in found} == {"loss", "grad_logits"}
    for match in found:
        case, precision = match[1], match[5]
        logits = leaf(arrays[f"{case}.logits"], precision)
        loss = focal_loss(logits, torch.from_numpy(arrays[f"{case}.labels"]), float(match[2]))
        loss = loss * len(logits) if match[3] == "_sum" else loss
        loss.backward()
        matches(loss if match[4] == "loss" else logits.grad, arrays[match[0]], precision, match[0])


def test_by_hand():
    # p = (1/2, 1/4, 1/4), labels 0 and 1, gamma = 2.
    logits = torch.tensor([[math.log(2), 0.0, 0.0]] * 2, dtype=torch.float64)
    expected = (0.25 * math.log(2) + 0.5625 * math.log(4)) / 2
    assert focal_loss(logits, torch.tensor([0, 1]), 2.0).item() == pytest.approx(expected, rel=1e-12)


def test_gradient_by_hand():
    # K = 2, p = 1/2, gamma = 1: d/dz_y [-(1 - p) log p] = p (1 - p) (log p - (1 - p) / p).
    logits = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    focal_loss(logits, torch.tensor([1]), 1.0).backward()
    slope = 0.25 * (math.log(0.5) - 1)
    torch.testing.assert_close(logits.grad, torch.tensor([[-slope, slope]], dtype=torch.float64))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
def test_certain_and_hopeless_images_have_finite_gradients(gamma, precision):
    logits = torch.tensor([[1000.0, 0.0], [0.0, 1000.0]], dtype=precision, requires_grad=True)
    loss = focal_loss(logits, torch.tensor([0, 0]), gamma)
    loss.backward()
    assert loss.item() == pytest.approx(500.0)
    # The certain image teaches nothing, the hopeless one as much as under cross-entropy.
    torch.testing.assert_close(logits.grad, torch.tensor([[0.0, 0.0], [-0.5, 0.5]], dtype=precision))


def test_without_gamma_it_is_cross_entropy(logits_network, logits_batch):
    logits, labels = torch.randn(33, 10, requires_grad=True), torch.randint(10, (33,))
    terms = FocalLoss(**FocalLoss.neutral).loss(logits_network, logits_batch(logits, labels), PROGRESS)
    plain = F.cross_entropy(logits, labels)
    torch.testing.assert_close(terms["focal"], plain, rtol=1e-6, atol=0)
    (ours,), (theirs,) = (torch.autograd.grad(loss, logits) for loss in (terms["focal"], plain))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("size", [1, 7])
def test_the_class_passes_on_its_gamma(size, logits_network, logits_batch):
    logits, labels = torch.randn(size, 2).bfloat16(), torch.zeros(size, dtype=torch.int64)
    terms = FocalLoss(gamma=1.5).loss(logits_network, logits_batch(logits, labels), PROGRESS)
    p = logits.float().softmax(1)[:, 0]
    assert terms["focal"].dtype == torch.float32
    torch.testing.assert_close(terms["focal"], -((1 - p) ** 1.5 * p.log()).mean())


@pytest.mark.parametrize("gamma", [-0.1, math.inf, math.nan])
def test_gamma_outside_its_range_is_refused(gamma):
    with pytest.raises(ValueError, match=r"gamma must be in \[0, infinity\)"):
        FocalLoss(gamma=gamma)
