"""FLSD against the authors' numbers and cases worked by hand."""

import json
import math
import re

import pytest
import torch
import torch.nn.functional as F
from sdbench.methods.flsd import SampleDependentFocalLoss, sample_dependent_focal_loss, sample_gammas

PROGRESS = torch.tensor(0.0)


@pytest.mark.golden
def test_every_golden_case(matches, leaf, golden_matches):
    arrays, found = golden_matches("wide/focal.npz", r"(.+)\.flsd\d+_mean_(loss|grad_logits)_(f32|f64)")
    assert {match[2] for match in found} == {"loss", "grad_logits"}
    for match in found:
        case, precision = match[1], match[3]
        steps = json.loads(str(arrays[f"{case}.args"]))["flsd"]
        logits = leaf(arrays[f"{case}.logits"], precision)
        loss = sample_dependent_focal_loss(logits, torch.from_numpy(arrays[f"{case}.labels"]), steps)
        loss.backward()
        matches(loss if match[2] == "loss" else logits.grad, arrays[match[0]], precision, match[0])


@pytest.mark.golden
def test_every_golden_gamma(golden, matches):
    arrays = golden("wide/focal.npz")
    found = [match for match in (re.fullmatch(r"(.+)\.flsd\d+_gamma", key) for key in arrays) if match]
    assert found
    for match in found:
        logits, labels = (torch.from_numpy(arrays[f"{match[1]}.{key}"]) for key in ("logits", "labels"))
        steps = json.loads(str(arrays[f"{match[1]}.args"]))["flsd"]
        p = logits.softmax(1).gather(1, labels[:, None]).squeeze(1)
        matches(sample_gammas(p, steps), arrays[match[0]], "f32", match[0])


def test_gammas_by_hand():
    p = torch.tensor([0.0, 0.19, 0.2, 0.49, 0.5, 1.0])
    steps = [(0.2, 5.0), (0.5, 4.0), (0.9, 3.0), (1.01, 2.0)]
    assert sample_gammas(p, steps).tolist() == [5.0, 5.0, 4.0, 4.0, 3.0, 2.0]
    assert sample_gammas(p, steps[:1]).tolist() == [5.0] * 6
    for wrong in ([], [(0.5, 3.0), (0.2, 5.0)]):
        with pytest.raises(ValueError, match="increasing bounds"):
            sample_gammas(p, wrong)


def test_by_hand(logits_network, logits_batch):
    # p = (3/4, 1/8, 1/8); FLSD-53 has gamma 3 for label 0 and 5 for label 1.
    logits = torch.tensor([[math.log(6), 0.0, 0.0]] * 2, dtype=torch.float64)
    batch = logits_batch(logits, torch.tensor([0, 1]))
    expected = (0.25**3 * math.log(4 / 3) + 0.875**5 * math.log(8)) / 2
    loss = SampleDependentFocalLoss().loss(logits_network, batch, PROGRESS)["focal"]
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    # At threshold 0.8 both are below, at 0.1 neither is.
    for threshold, gammas in ((0.8, (2.0, 2.0)), (0.1, (1.0, 1.0)), (0.0, (1.0, 1.0)), (1.0, (2.0, 2.0))):
        method = SampleDependentFocalLoss(gamma_low=2.0, gamma_high=1.0, threshold=threshold)
        expected = (0.25 ** gammas[0] * math.log(4 / 3) + 0.875 ** gammas[1] * math.log(8)) / 2
        assert method.loss(logits_network, batch, PROGRESS)["focal"].item() == pytest.approx(expected, rel=1e-12)


def test_no_gradient_through_gamma():
    # As if gamma were the number that it is: -(1 - p)^5 log p at p = 1/9.
    logits = torch.tensor([[math.log(8), 0.0]], dtype=torch.float64, requires_grad=True)
    sample_dependent_focal_loss(logits, torch.tensor([1]), [(0.2, 5.0), (1.01, 3.0)]).backward()
    p = 1 / 9
    slope = (5 * (1 - p) ** 4 * math.log(p) - (1 - p) ** 5 / p) * p * (1 - p)
    torch.testing.assert_close(logits.grad, torch.tensor([[-slope, slope]], dtype=torch.float64))


def test_certain_images_have_finite_gradients():
    logits = torch.tensor([[1000.0, 0.0], [0.0, 1000.0]], requires_grad=True)
    sample_dependent_focal_loss(logits, torch.tensor([0, 0]), [(0.2, 0.5), (1.0, 0.5)]).backward()
    torch.testing.assert_close(logits.grad, torch.tensor([[0.0, 0.0], [-0.5, 0.5]]))


def test_without_gammas_it_is_cross_entropy(logits_network, logits_batch):
    logits, labels = torch.randn(33, 10, requires_grad=True), torch.randint(10, (33,))
    method = SampleDependentFocalLoss(**SampleDependentFocalLoss.neutral)
    loss = method.loss(logits_network, logits_batch(logits, labels), PROGRESS)["focal"]
    plain = F.cross_entropy(logits, labels)
    torch.testing.assert_close(loss, plain, rtol=1e-6, atol=0)
    torch.testing.assert_close(*(torch.autograd.grad(x, logits)[0] for x in (loss, plain)), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("values", [{"gamma_low": -1.0}, {"gamma_high": math.nan}, {"threshold": 1.1}])
def test_values_outside_their_range_are_refused(values):
    with pytest.raises(ValueError, match=f"{next(iter(values))} must be in"):
        SampleDependentFocalLoss(**values)
