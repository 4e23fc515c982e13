"""DKS against the authors' numbers, cases worked by hand, and its branches."""

import math

import pytest
import torch
import torch.nn.functional as F
from sdbench.methods.dks import KnowledgeSynergy, synergy_loss

from sdbench import Task
from sdbench.errors import UserError

TASK = Task(num_classes=5, num_train=6, batch_size=6, epochs=2)
PROGRESS = torch.tensor(0.0)


@pytest.mark.golden
@pytest.mark.parametrize("source", ["official", "selfkdlib"])
def test_every_golden_case(matches, leaf, source, golden_cases):
    for case, args, own in golden_cases("wide/dks.npz"):
        labels = torch.from_numpy(own["labels"])
        tag, temperature, epsilon = "official", args["T"], args["epsilon"]
        if source == "selfkdlib":
            tag, temperature, epsilon = f"selfkdlib_T{args['selfkdlib_T']:g}", args["selfkdlib_T"], 0.0
        for precision in ("f32", "f64"):
            logits = [leaf(own[f"logits{b}"], precision) for b in range(args["branches"])]
            terms = synergy_loss(logits, labels, 1.0, temperature, epsilon=epsilon)
            total = sum(terms.values())
            total.backward()
            matches(total, own[f"{tag}_loss_{precision}"], precision, f"{case} {tag}")
            if f"{tag}_ce_{precision}" in own:
                matches(terms["ce"], own[f"{tag}_ce_{precision}"], precision, f"{case} {tag} ce")
            for b, z in enumerate(logits):
                key = f"{tag}_grad_logits{b}_{precision}"
                if key in own:
                    matches(z.grad, own[key], precision, f"{case}.{key}")


def test_by_hand():
    # At T = 2 the classifiers give (3/4, 1/4) and (1/2, 1/2).
    logits = [torch.tensor([z], dtype=torch.float64) for z in ([2 * math.log(3), 0.0], [0.0, 0.0])]
    terms = synergy_loss(logits, torch.tensor([1]), 0.5, 2.0, epsilon=0.0)
    assert terms["ce"].item() == pytest.approx(math.log(10) + math.log(2), rel=1e-12)
    one = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    other = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    assert terms["synergy"].item() == pytest.approx(0.5 * 4 * (one + other), rel=1e-12)
    # The authors' epsilon, large enough to be seen: P = (p + e) / (1 + 2 e).
    p, q = (0.75 + 0.1) / 1.2, (0.5 + 0.1) / 1.2
    both = sum(a * math.log(a / b) + (1 - a) * math.log((1 - a) / (1 - b)) for a, b in ((p, q), (q, p)))
    smoothed = synergy_loss(logits, torch.tensor([1]), 1.0, 2.0, epsilon=0.1)["synergy"]
    assert smoothed.item() == pytest.approx(4 * both, rel=1e-12)


def test_each_classifier_learns_as_a_student_of_every_other():
    logits = [torch.randn(4, 6, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    labels = torch.tensor([0, 1, 5, 5])
    synergy_loss(logits, labels, epsilon=0.0)["synergy"].backward()
    p = [z.detach().softmax(1) for z in logits]
    for b, z in enumerate(logits):  # the gradient of KL(P_a || P_b) in z_b is (P_b - P_a) / N
        expected = sum((p[b] - p[a]) / 4 for a in range(3) if a != b)
        torch.testing.assert_close(z.grad, expected)


def test_probabilities_of_nearly_zero_stay_finite():
    logits = [torch.tensor([[200.0, 0.0]], requires_grad=True), torch.tensor([[-200.0, 0.0]], requires_grad=True)]
    terms = synergy_loss(logits, torch.tensor([0]))
    sum(terms.values()).backward()
    assert all(t.isfinite() for t in terms.values())
    assert all(z.grad.isfinite().all() for z in logits)


def test_branches_are_the_remaining_stages(staged_network, image_batch):
    network, batch = staged_network(widths=(4, 6, 8, 10)), image_batch()
    method = KnowledgeSynergy(weight=0.7, temperature=2.0)
    method.setup(TASK, network)
    assert len(method.branches) == 2
    output = network(batch.images)
    expected = [output.logits]
    for branch, first in zip(method.branches, (2, 3), strict=True):
        own = [p.shape for stage in network.stages[first:] for p in stage.parameters()]
        assert [p.shape for p in branch.tail.parameters()] == own
        expected.append(branch.classifier(branch.tail(output.stages[first - 1]).mean((2, 3))))
    terms = method.criterion(output, batch, PROGRESS)
    for name, value in synergy_loss(expected, batch.labels, 0.7, 2.0).items():
        torch.testing.assert_close(terms[name], value)
    sum(terms.values()).backward()
    assert all(p.grad is not None for p in method.parameters())
    assert all(p.grad is not None for p in network.parameters())


def test_fewer_stages_get_fewer_branches(staged_network):
    for count, expected in ((1, 1), (2, 2), (3, 2)):
        method = KnowledgeSynergy(branches=count)
        method.setup(TASK, staged_network())
        assert len(method.branches) == expected


def test_without_branches_it_is_cross_entropy_to_the_bit(staged_network, image_batch):
    network, batch = staged_network(), image_batch()
    method = KnowledgeSynergy(**KnowledgeSynergy.neutral)
    method.setup(TASK, network)
    plain = F.cross_entropy(network(batch.images).logits, batch.labels)
    assert torch.equal(sum(method.loss(network, batch, PROGRESS).values()), plain)
    assert list(method.parameters()) == []


def test_one_stage_and_wrong_values_are_refused(staged_network):
    with pytest.raises(UserError, match="dks puts classifiers after stages before the last, and small network has 1 s"):
        KnowledgeSynergy().setup(TASK, staged_network(widths=(4,)))
    for key, value in {"branches": -1, "weight": -0.1, "temperature": 0.0}.items():
        with pytest.raises(ValueError, match=f"{key} must be"):
            KnowledgeSynergy(**{key: value})
