"""Born-again networks against the reference numbers, cases worked by hand, and what a teacher costs."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from sdbench.methods.ban import BornAgain

from sdbench import Task
from sdbench.errors import UserError
from sdbench.parts import predecessor_loss

PROGRESS = torch.tensor(0.0)


def taught(method, network, teacher=None):
    """The method after setup, taught by a copy of the network with other weights, or by ``teacher``."""
    if teacher is None:
        teacher = network.frozen_copy()
        with torch.no_grad():
            for parameter in teacher.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
    method.setup(Task(num_classes=5, num_train=6, batch_size=6, epochs=1, teacher=teacher), network)
    return method


@pytest.mark.golden
def test_every_golden_case(matches, leaf, golden_cases):
    for case, args, own in golden_cases("wide/born_again.npz"):
        labels = torch.from_numpy(own["labels"])
        for precision in ("f32", "f64"):
            student, teacher = (leaf(own[who], precision) for who in ("logits", "teacher_logits"))
            terms = predecessor_loss(student, teacher, labels, args["ce_weight"], 1.0, args["T"])
            total = terms["ce"] + terms["distillation"]
            total.backward()
            assert teacher.grad is None
            found = {
                "loss": total,
                "ce": terms["ce"] / args["ce_weight"] if args["ce_weight"] else None,
                "kl": terms["distillation"],
                "grad_logits": student.grad,
            }
            seen = 0
            for term, value in found.items():
                key = f"reference_{term}_{precision}"
                if key in own and value is not None:
                    matches(value, own[key], precision, f"{case}.{key}")
                    seen += 1
            assert seen >= 3
        assert "reference_grad_logits_f64" in own


def test_by_hand():
    # p = (1/2, 1/2), teacher (1/4, 3/4), label 1; two classes.
    student = torch.zeros(1, 2, dtype=torch.float64)
    teacher = torch.tensor([[0.0, math.log(3)]], dtype=torch.float64)
    terms = predecessor_loss(student, teacher, torch.tensor([1]), ce_weight=0.5, weight=2.0, temperature=1.0)
    divergence = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    assert terms["ce"].item() == pytest.approx(0.5 * math.log(2), rel=1e-12)
    assert terms["distillation"].item() == pytest.approx(2 * divergence, rel=1e-12)


def test_the_teacher_sees_the_same_images_in_eval_mode(staged_network, image_batch):
    network, batch = staged_network(), image_batch()
    method = taught(BornAgain(ce_weight=0.7, weight=1.5), network)
    before = copy.deepcopy(method.teacher.state_dict())
    target = F.softmax(method.teacher.eval()(batch.images).logits, dim=1)
    logits = copy.deepcopy(network)(batch.images).logits
    method.train()
    network.passes.with_gradient = network.passes.without_gradient = 0
    terms = method.loss(network, batch, PROGRESS)
    kl = (target * (target.log() - F.log_softmax(logits, dim=1))).sum() / len(logits)
    torch.testing.assert_close(terms["ce"], 0.7 * F.cross_entropy(logits, batch.labels))
    torch.testing.assert_close(terms["distillation"], 1.5 * kl)
    assert (network.passes.with_gradient, network.passes.without_gradient) == (6, 6)
    sum(terms.values()).backward()
    assert all(p.grad is None for p in method.teacher.parameters())
    assert all(p.grad is not None for p in network.parameters())
    assert all(torch.equal(before[k], v) for k, v in method.teacher.state_dict().items())


def test_a_student_that_equals_its_teacher_learns_from_labels_alone(staged_network, image_batch):
    network, batch = staged_network().eval(), image_batch()
    terms = taught(BornAgain(), network, network.frozen_copy()).loss(network, batch, PROGRESS)
    assert terms["distillation"].abs() < 1e-6
    pull = torch.autograd.grad(terms["distillation"], network.parameters())
    assert max(g.abs().max() for g in pull) < 1e-6


def test_without_weight_it_is_one_pass_of_cross_entropy(staged_network, image_batch):
    network, batch = staged_network(), image_batch()
    method = taught(BornAgain(**BornAgain.neutral), network)
    plain = F.cross_entropy(copy.deepcopy(network)(batch.images).logits, batch.labels)
    network.passes.without_gradient = 0
    assert torch.equal(sum(method.loss(network, batch, PROGRESS).values()), plain)
    assert network.passes.without_gradient == 0


def test_its_generations_are_its_own():
    assert (BornAgain.generations, BornAgain().generations, BornAgain(generations=4).generations) == (2, 2, 4)


def test_without_a_teacher_it_says_what_to_do(staged_network):
    with pytest.raises(UserError, match=r"Task\.teacher is None; train one"):
        BornAgain().setup(Task(num_classes=5, num_train=6, batch_size=6, epochs=1), staged_network())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"weight": -1.0}, "weight must be in"),
        ({"weight": math.nan}, "weight must be in"),
        ({"ce_weight": math.inf}, "ce_weight must be in"),
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"generations": 1}, "generations must be at least 2"),
    ],
)
def test_values_outside_their_range_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        BornAgain(**values)
