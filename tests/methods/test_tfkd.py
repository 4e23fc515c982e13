"""Tf-KD's self-training against the authors' numbers, cases worked by hand, and its published scales."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from sdbench.methods.tfkd import TeacherFreeSelfTraining

from sdbench import Task, registry
from sdbench.errors import UserError
from sdbench.parts import predecessor_loss

PROGRESS = torch.tensor(0.0)


@pytest.mark.golden
def test_every_golden_case(matches, leaf, golden_cases):
    for case, args, own in golden_cases("wide/tfkd_self.npz"):
        labels = torch.from_numpy(own["labels"])
        for precision in ("f32", "f64"):
            student, teacher = (leaf(own[who], precision) for who in ("logits", "teacher_logits"))
            # The authors' coefficients, from a mean over N and K to a mean over N.
            weight = args["alpha"] * args["multiplier"] / student.shape[1]
            terms = predecessor_loss(student, teacher, labels, 1 - args["alpha"], weight, args["temperature"])
            total = sum(terms.values())
            total.backward()
            assert teacher.grad is None
            matches(total, own[f"official_loss_{precision}"], precision, f"{case} loss {precision}")
            key = f"official_grad_logits_{precision}"
            if key in own:
                matches(student.grad, own[key], precision, f"{case}.{key}")
        assert "official_grad_logits_f64" in own


def test_by_hand():
    # T = 2: softened student (1/2, 1/2), softened teacher (1/4, 3/4); the second row agrees.
    student = torch.zeros(2, 2, dtype=torch.float64)
    teacher = torch.tensor([[0.0, 2 * math.log(3)], [0.0, 0.0]], dtype=torch.float64)
    terms = predecessor_loss(student, teacher, torch.tensor([1, 0]), 0.05, 0.5, 2.0)
    divergence = (0.25 * math.log(0.5) + 0.75 * math.log(1.5)) / 2
    assert terms["ce"].item() == pytest.approx(0.05 * math.log(2), rel=1e-12)
    assert terms["distillation"].item() == pytest.approx(0.5 * 4 * divergence, rel=1e-12)


def test_recommended_is_the_published_setting_of_resnet18():
    """alpha 0.95, T 6, multiplier 50, averaged over 100 classes: 0.05 CE + 17.1 KL."""
    values = registry.resolve("tfkd", "cifar100", {})
    assert values["ce_weight"] == pytest.approx(1 - 0.95)
    assert values["weight"] * values["temperature"] ** 2 == pytest.approx(17.1)


def test_the_teacher_sees_the_same_images_in_eval_mode(staged_network, image_batch):
    network, batch = staged_network(), image_batch()
    teacher = network.frozen_copy()
    torch.nn.init.normal_(teacher.classifier.weight)
    method = TeacherFreeSelfTraining(temperature=3.0, ce_weight=0.4, weight=2.0)
    method.setup(Task(num_classes=5, num_train=6, batch_size=6, epochs=1, teacher=teacher), network)
    target = F.softmax(teacher(batch.images).logits / 3, dim=1)
    logits = copy.deepcopy(network)(batch.images).logits
    method.train()
    network.passes.with_gradient = network.passes.without_gradient = 0
    terms = method.loss(network, batch, PROGRESS)
    kl = (target * (target.log() - F.log_softmax(logits / 3, dim=1))).sum() / len(logits)
    torch.testing.assert_close(terms["ce"], 0.4 * F.cross_entropy(logits, batch.labels))
    torch.testing.assert_close(terms["distillation"], 2 * 9 * kl)
    assert (network.passes.with_gradient, network.passes.without_gradient) == (6, 6)
    sum(terms.values()).backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert not teacher.training


def test_without_weight_it_is_one_pass_of_cross_entropy(staged_network, image_batch):
    network, batch = staged_network(), image_batch()
    method = TeacherFreeSelfTraining(**TeacherFreeSelfTraining.neutral)
    method.setup(Task(num_classes=5, num_train=6, batch_size=6, epochs=1, teacher=network.frozen_copy()), network)
    plain = F.cross_entropy(copy.deepcopy(network)(batch.images).logits, batch.labels)
    network.passes.without_gradient = 0
    assert torch.equal(sum(method.loss(network, batch, PROGRESS).values()), plain)
    assert network.passes.without_gradient == 0


def test_without_a_teacher_it_says_what_to_do(staged_network):
    with pytest.raises(UserError, match=r"Task\.teacher is None; train one"):
        TeacherFreeSelfTraining().setup(Task(num_classes=5, num_train=6, batch_size=6, epochs=1), staged_network())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"temperature": math.inf}, "temperature must be positive"),
        ({"weight": -1.0}, "weight must be in"),
        ({"ce_weight": math.nan}, "ce_weight must be in"),
    ],
)
def test_values_outside_their_range_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        TeacherFreeSelfTraining(**values)
