"""Tf-KD's virtual teacher against the authors' numbers, and against label smoothing, which it is."""

import json
import math
import re

import pytest
import torch
import torch.nn.functional as F
from sdbench.methods.label_smoothing import label_smoothing_loss
from sdbench.methods.tfkd_reg import VirtualTeacher, virtual_teacher, virtual_teacher_kl

from sdbench import registry

PROGRESS = torch.tensor(0.0)


def built_target(labels, num_classes, correct_prob, temperature):
    """[N, K] of the two values that ``virtual_teacher`` gives."""
    label, other = virtual_teacher(num_classes, correct_prob, temperature)
    return torch.full((len(labels), num_classes), other, dtype=torch.float64).scatter(1, labels[:, None], label)


@pytest.mark.golden
def test_every_golden_case(matches, leaf, logits_network, logits_batch, golden_matches):
    arrays, found = golden_matches("wide/tfkd_reg.npz", r"(.+)\.official_(loss|grad_logits)_(f32|f64)")
    assert {match[2] for match in found} == {"loss", "grad_logits"}
    for match in found:
        case, precision = match[1], match[3]
        args = json.loads(str(arrays[f"{case}.args"]))
        logits = leaf(arrays[f"{case}.logits"], precision)
        # The conversion that the documentation gives, from the authors' own arguments.
        ce_weight, kl_weight = 1 - args["reg_alpha"], args["reg_alpha"] * args["multiplier"] / logits.shape[1]
        assert (ce_weight, kl_weight) == pytest.approx((args["w_ce"], args["w_kl_sumK"]))
        method = VirtualTeacher(
            ce_weight=ce_weight,
            kl_weight=kl_weight,
            correct_prob=args["correct_prob"],
            temperature=float(args["reg_temperature"]),
        )
        batch = logits_batch(logits, torch.from_numpy(arrays[f"{case}.labels"]))
        loss = sum(method.loss(logits_network, batch, PROGRESS).values())
        loss.backward()
        matches(loss if match[2] == "loss" else logits.grad, arrays[match[0]], precision, match[0])


@pytest.mark.golden
def test_every_golden_target(golden, matches):
    arrays = golden("wide/tfkd_reg.npz")
    found = [match for match in (re.fullmatch(r"(.+)\.virtual_target_f64", key) for key in arrays) if match]
    assert found
    for match in found:
        args, expected = json.loads(str(arrays[f"{match[1]}.args"])), arrays[match[0]]
        labels = torch.from_numpy(arrays[f"{match[1]}.labels"])
        ours = built_target(labels, expected.shape[1], args["correct_prob"], args["reg_temperature"])
        matches(ours, expected, "f64", match[0])


def effective_target(method, num_classes, logits_network, logits_batch):
    """(total weight, target per entry) of the method for one image of each class, read off its gradient.

    The gradient of -sum_k w q_k log p_k is w (p - q) for any q that sums to 1.
    """
    logits = torch.randn(num_classes, num_classes, dtype=torch.float64, requires_grad=True)
    labels = torch.arange(num_classes)
    loss = sum(method.loss(logits_network, logits_batch(logits, labels), PROGRESS).values())
    (gradient,) = torch.autograd.grad(loss, logits)
    weight = method.ce_weight + method.kl_weight
    return weight, logits.detach().softmax(1) - gradient * num_classes / weight


def test_published_resnet18_coefficients_are_label_smoothing(logits_network, logits_batch):
    """Each of the 100 x 100 entries of the target, and so each gradient, to 1e-7."""
    values = registry.resolve("tfkd_reg", "cifar100", {})
    assert values == {"ce_weight": 0.9, "kl_weight": 0.1, "correct_prob": 0.99, "temperature": 20.0}
    smoothing, num_classes = 0.0999493, 100
    weight, target = effective_target(VirtualTeacher(**values), num_classes, logits_network, logits_batch)
    smoothed = torch.full((num_classes, num_classes), smoothing / num_classes, dtype=torch.float64)
    smoothed += (1 - smoothing) * torch.eye(num_classes, dtype=torch.float64)
    assert weight == pytest.approx(1, abs=1e-12)
    assert (target - smoothed).abs().max() < 1e-7

    logits, labels = torch.randn(64, num_classes, dtype=torch.float64, requires_grad=True), torch.arange(64)
    ours = sum(VirtualTeacher(**values).loss(logits_network, logits_batch(logits, labels), PROGRESS).values())
    ls = label_smoothing_loss(logits, labels, smoothing, "all")
    ours_gradient, ls_gradient = (torch.autograd.grad(loss, logits)[0] for loss in (ours, ls))
    assert (ours_gradient - ls_gradient).abs().max() * len(logits) < 1e-7
    # Their values differ by the entropy of the virtual target, a constant.
    p = built_target(labels, num_classes, 0.99, 20.0)
    torch.testing.assert_close(ls - ours, -0.1 * (p * p.log()).sum(1).mean(), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("smoothing", "is_it"), [(0.0999493, True), (0.1, False), (0.0999, False)])
def test_that_smoothing_and_no_other(smoothing, is_it, logits_network, logits_batch):
    _, target = effective_target(VirtualTeacher(), 100, logits_network, logits_batch)
    off_label = target[0, 1:]
    assert bool(((off_label - smoothing / 100).abs() < 1e-7).all()) == is_it


@pytest.mark.parametrize(
    "values",
    [
        {"ce_weight": 0.05, "kl_weight": 0.0095, "temperature": 40.0},  # MobileNetV2
        {"ce_weight": 0.05, "kl_weight": 0.0095, "temperature": 10.0},  # ShuffleNetV2
        {"ce_weight": 0.9, "kl_weight": 0.05, "temperature": 40.0},  # GoogLeNet
        {"ce_weight": 0.5, "kl_weight": 2.0, "temperature": 0.3, "correct_prob": 0.7},
    ],
)
def test_the_documented_smoothing_for_any_coefficients(values, logits_network, logits_batch):
    method = VirtualTeacher(**values)
    logits, labels = torch.randn(9, 100, dtype=torch.float64, requires_grad=True), torch.arange(9)
    ours = sum(method.loss(logits_network, logits_batch(logits, labels), PROGRESS).values())
    weight = method.ce_weight + method.kl_weight
    other = virtual_teacher(100, method.correct_prob, method.temperature)[1]
    ls = weight * F.cross_entropy(logits, labels, label_smoothing=100 * method.kl_weight * other / weight)
    torch.testing.assert_close(*(torch.autograd.grad(x, logits)[0] for x in (ours, ls)), rtol=1e-9, atol=1e-13)


def test_what_users_are_told():
    text = " ".join((VirtualTeacher.__doc__ or "").split())
    assert "This is label smoothing." in text
    assert "smoothing 0.0999493" in text
    # And of MobileNetV2.
    other = virtual_teacher(100, 0.99, 40.0)[1]
    assert f"{100 * 0.0095 * other / 0.0595:.4f}" == "0.1596"
    assert "smoothing 0.1596" in text


def test_teacher_by_hand():
    # Three classes, v = (0.8, 0.1, 0.1): softmax(v / T) with T = 0.7 / log 2 is (2, 1, 1) / 4.
    assert virtual_teacher(3, 0.8, 0.7 / math.log(2)) == pytest.approx((0.5, 0.25))
    assert virtual_teacher(4, 0.25, 3.0) == pytest.approx((0.25, 0.25))
    assert virtual_teacher(2, 1.0, 1e-6) == (1.0, 0.0)
    assert virtual_teacher(2, 0.0, 1e-6) == (0.0, 1.0)
    assert virtual_teacher(3, 0.9, 1e9) == pytest.approx((1 / 3, 1 / 3))


def test_divergence_by_hand():
    # q = (1/2, 1/4, 1/4) as above, p = (1/4, 1/2, 1/4).
    logits = torch.tensor([[0.0, math.log(2), 0.0]], dtype=torch.float64)
    loss = virtual_teacher_kl(logits, torch.tensor([0]), 0.8, 0.7 / math.log(2))
    assert loss.item() == pytest.approx(0.5 * math.log(2) + 0.25 * math.log(0.5))
    same = virtual_teacher_kl(logits, torch.tensor([1]), 0.8, 0.7 / math.log(2))
    assert same.item() == pytest.approx(0, abs=1e-12)
    one_hot = virtual_teacher_kl(logits, torch.tensor([0]), 1.0, 1e-6)
    assert one_hot.item() == pytest.approx(math.log(4))


@pytest.mark.parametrize("size", [1, 3])
def test_two_classes_in_bfloat16(size, logits_network, logits_batch):
    batch = logits_batch(torch.zeros(size, 2).bfloat16(), torch.zeros(size, dtype=torch.int64))
    terms = VirtualTeacher(ce_weight=0.5, kl_weight=2.0, temperature=1e9).loss(logits_network, batch, PROGRESS)
    assert terms["ce"].item() == pytest.approx(0.5 * math.log(2))
    assert terms["kl"].item() == pytest.approx(0, abs=1e-6)
    assert {term.dtype for term in terms.values()} == {torch.float32}


def test_without_the_teacher_it_is_cross_entropy_to_the_bit(is_cross_entropy):
    method = VirtualTeacher(**VirtualTeacher.neutral)
    is_cross_entropy(method)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"ce_weight": -0.1}, "ce_weight must be in"),
        ({"kl_weight": math.inf}, "kl_weight must be in"),
        ({"correct_prob": 1.1}, "correct_prob must be in"),
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"temperature": math.nan}, "temperature must be positive"),
    ],
)
def test_values_outside_their_range_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        VirtualTeacher(**values)
