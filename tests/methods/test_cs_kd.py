"""CS-KD against the authors' numbers, cases worked by hand, and what it does to BatchNorm."""

import copy
import math
import re

import pytest
import torch
import torch.nn.functional as F
from sdbench.methods.cs_kd import ClassWiseSelfDistillation, class_consistency_loss

from sdbench.network import PassCounter

PROGRESS = torch.tensor(0.0)


@pytest.mark.golden
def test_every_golden_consistency(golden, matches, leaf):
    arrays = golden("cskd_loss.npz")
    pattern = re.compile(r"kl_T([0-9.e+-]+)_(grad_|zipfls_|skdlib_)?(f32|f64)")
    found = [match for match in map(pattern.fullmatch, arrays) if match]
    assert {match[2] for match in found} >= {None, "grad_"}
    for match in found:
        student, teacher = (leaf(arrays[f"{who}_logits"], match[3]) for who in ("student", "teacher"))
        loss = class_consistency_loss(student, teacher, float(match[1]))
        loss.backward()
        assert teacher.grad is None
        matches(student.grad if match[2] == "grad_" else loss, arrays[match[0]], match[3], match[0])


@pytest.mark.golden
def test_every_golden_total(golden, matches, leaf, logits_network, logits_batch):
    arrays = golden("cskd_loss.npz")
    pattern = re.compile(r"total_T([0-9.e+-]+)_lam([0-9.e+-]+)_(grad_)?(f32|f64)")
    found = [match for match in map(pattern.fullmatch, arrays) if match]
    assert {match[3] for match in found} == {None, "grad_"}
    for match in found:
        student, teacher = (leaf(arrays[f"{who}_logits"], match[4]) for who in ("student", "teacher"))
        batch = logits_batch(student, torch.from_numpy(arrays["labels"]), partner=teacher)
        method = ClassWiseSelfDistillation(temperature=float(match[1]), weight=float(match[2]))
        total = sum(method.loss(logits_network, batch, PROGRESS).values())
        total.backward()
        matches(student.grad if match[3] else total, arrays[match[0]], match[4], match[0])


def test_consistency_by_hand():
    # T = 2: softened student (1/2, 1/2), softened partner (1/4, 3/4).
    partner = torch.tensor([[0.0, 2 * math.log(3)]], dtype=torch.float64)
    expected = 4 * (0.25 * math.log(0.5) + 0.75 * math.log(1.5))
    loss = class_consistency_loss(torch.zeros(1, 2, dtype=torch.float64), partner, 2.0)
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    # A second row that agrees halves the mean.
    two = class_consistency_loss(torch.zeros(2, 2, dtype=torch.float64), torch.cat([partner, 0 * partner]), 2.0)
    assert two.item() == pytest.approx(expected / 2, rel=1e-12)


def test_partners_take_a_pass_of_their_own_in_train_mode(staged_network, image_batch):
    network, batch = staged_network(), image_batch()
    by_hand = copy.deepcopy(network)
    by_hand.passes = PassCounter()  # a copy counts with its original otherwise
    terms = ClassWiseSelfDistillation(temperature=4.0, weight=2.0).loss(network, batch, PROGRESS)

    z = by_hand(batch.images).logits
    target = F.softmax(by_hand(batch.partners[0]).logits.detach() / 4, dim=1)
    kl = (target * (target.log() - F.log_softmax(z / 4, dim=1))).sum() / len(z)
    torch.testing.assert_close(terms["consistency"], 2 * 16 * kl)
    torch.testing.assert_close(terms["ce"], F.cross_entropy(z, batch.labels))
    assert network.training
    for ours, theirs in zip(network.buffers(), by_hand.buffers(), strict=True):
        assert torch.equal(ours, theirs)  # running statistics: images first, partners second
    assert {int(m.num_batches_tracked) for m in network.modules() if hasattr(m, "num_batches_tracked")} == {2}
    assert (network.passes.with_gradient, network.passes.without_gradient) == (6, 6)


def test_no_gradient_through_the_partners(staged_network, image_batch):
    network, batch = staged_network(), image_batch()
    batch.images.requires_grad_()
    batch.partners[0].requires_grad_()
    sum(ClassWiseSelfDistillation().loss(network, batch, PROGRESS).values()).backward()
    assert batch.partners[0].grad is None
    assert batch.images.grad.abs().sum() > 0


def test_gradients_under_bfloat16_autocast(staged_network, image_batch):
    network = staged_network()
    with torch.autocast("cpu", torch.bfloat16):
        terms = ClassWiseSelfDistillation().loss(network, image_batch(), PROGRESS)
    assert {term.dtype for term in terms.values()} == {torch.float32}
    sum(terms.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_without_weight_it_is_one_pass_of_cross_entropy(staged_network, image_batch):
    network, batch = staged_network(), image_batch()
    plain = F.cross_entropy(copy.deepcopy(network)(batch.images).logits, batch.labels)
    terms = ClassWiseSelfDistillation(**ClassWiseSelfDistillation.neutral).loss(network, batch, PROGRESS)
    assert torch.equal(sum(terms.values()), plain)
    assert network.passes.without_gradient == 0


@pytest.mark.parametrize(
    ("coefficients", "message"),
    [
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"temperature": math.inf}, "temperature must be positive"),
        ({"weight": -1.0}, "weight must be in"),
        ({"weight": math.nan}, "weight must be in"),
    ],
)
def test_coefficients_outside_their_range_are_refused(coefficients, message):
    with pytest.raises(ValueError, match=message):
        ClassWiseSelfDistillation(**coefficients)
