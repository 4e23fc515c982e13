"""Label refinery against the authors' numbers, a case worked by hand, and what the refinery is left alone in."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from sdbench.methods.label_refinery import LabelRefinery, refinery_loss

from sdbench import Task
from sdbench.errors import UserError

PROGRESS = torch.tensor(0.0)


def set_up(network, **values):
    """The method with a refinery of other weights."""
    refinery = network.frozen_copy()
    torch.nn.init.normal_(refinery.classifier.weight)
    method = LabelRefinery(**values)
    method.setup(Task(num_classes=5, num_train=6, batch_size=6, epochs=1, teacher=refinery), network)
    network.passes.with_gradient = network.passes.without_gradient = 0
    return method.train()


@pytest.mark.golden
def test_every_golden_case(matches, leaf, golden_cases):
    for case, _, own in golden_cases("wide/label_refinery.npz"):
        for precision in ("f32", "f64"):
            student, refinery = (leaf(own[who], precision) for who in ("logits", "refinery_logits"))
            loss = refinery_loss(student, refinery)
            loss.backward()
            assert refinery.grad is None
            matches(loss, own[f"official_loss_{precision}"], precision, f"{case} loss {precision}")
            key = f"official_grad_logits_{precision}"
            if key in own:
                matches(student.grad, own[key], precision, f"{case}.{key}")
        assert "official_grad_logits_f64" in own


def test_by_hand():
    # Refined labels (1/4, 3/4) and (1/2, 1/2); p = (2/3, 1/3) in both rows.
    student = torch.tensor([[math.log(2), 0.0]] * 2, dtype=torch.float64)
    refinery = torch.tensor([[0.0, math.log(3)], [7.0, 7.0]], dtype=torch.float64)
    first = 0.25 * math.log(1.5) + 0.75 * math.log(3)
    second = 0.5 * math.log(1.5) + 0.5 * math.log(3)
    assert refinery_loss(student, refinery).item() == pytest.approx((first + second) / 2, rel=1e-12)


def test_labels_have_no_say(staged_network, image_batch):
    network, batch = staged_network().eval(), image_batch()
    method = set_up(network)
    one, other = (
        method.loss(network, batch.with_labels(labels), PROGRESS)["refined_ce"]
        for labels in (batch.labels, (batch.labels + 1) % 5)
    )
    assert torch.equal(one, other)


def test_a_confident_refinery_is_cross_entropy_with_its_labels(staged_network, image_batch):
    network, batch = staged_network(), image_batch()
    method = set_up(network)
    with torch.no_grad():
        method.refinery.classifier.weight.mul_(1e4)
        named = method.refinery(batch.images).logits.argmax(1)
    expected = F.cross_entropy(copy.deepcopy(network)(batch.images).logits, named)
    torch.testing.assert_close(method.loss(network, batch, PROGRESS)["refined_ce"], expected)


def test_the_refinery_is_frozen_and_in_eval_mode(staged_network, image_batch):
    network, batch = staged_network(), image_batch()
    method = set_up(network)
    before = copy.deepcopy(method.refinery.state_dict())
    method.loss(network, batch, PROGRESS)["refined_ce"].backward()
    assert not method.refinery.training
    assert all(torch.equal(before[k], v) for k, v in method.refinery.state_dict().items())
    assert all(p.grad is None for p in method.refinery.parameters())
    assert all(p.grad is not None for p in network.parameters())
    assert (network.passes.with_gradient, network.passes.without_gradient) == (6, 6)


def test_batch_statistics_normalize_by_the_batch(staged_network, image_batch):
    network, batch = staged_network(), image_batch()
    method = set_up(network, batch_statistics=True)
    by_hand = copy.deepcopy(method.refinery)
    refined = F.softmax(by_hand(batch.images).logits, dim=1)
    logits = copy.deepcopy(network)(batch.images).logits
    expected = -(refined * F.log_softmax(logits, dim=1)).sum(1).mean()
    torch.testing.assert_close(method.loss(network, batch, PROGRESS)["refined_ce"], expected)
    assert method.refinery.training
    assert {int(m.num_batches_tracked) for m in method.refinery.modules() if hasattr(m, "num_batches_tracked")} == {1}
    plain = set_up(network).loss(network, batch, PROGRESS)["refined_ce"]
    assert not torch.allclose(plain, expected)


def test_its_generations_are_its_own():
    assert (LabelRefinery.generations, LabelRefinery(generations=5).generations) == (2, 5)
    with pytest.raises(ValueError, match="generations must be at least 2"):
        LabelRefinery(generations=1)


def test_without_a_teacher_it_says_what_to_do(staged_network):
    with pytest.raises(UserError, match=r"Task\.teacher is None; train one"):
        LabelRefinery().setup(Task(num_classes=5, num_train=6, batch_size=6, epochs=1), staged_network())
