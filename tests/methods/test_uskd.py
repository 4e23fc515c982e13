"""USKD against the authors' numbers, and cases worked by hand."""

import math

import pytest
import torch
import torch.nn.functional as F
from sdbench.methods.uskd import (
    UniversalSelfDistillation,
    class_ranks,
    nontarget_loss,
    nontarget_targets,
    target_loss,
    uskd_loss,
    weak_loss,
)

from sdbench import Task
from sdbench.errors import UserError

TASK = Task(num_classes=5, num_train=6, batch_size=6, epochs=2)
PROGRESS = torch.tensor(0.0)


@pytest.mark.golden
@pytest.mark.parametrize("precision", ["f32", "f64"])
@pytest.mark.parametrize(("tag", "labels_key"), [("official", "labels"), ("official_softlabels", "soft_labels")])
def test_every_golden_case(golden, matches, leaf, precision, tag, labels_key, golden_cases):
    arrays = golden("wide/uskd.npz")
    for case, args, _ in golden_cases("wide/uskd.npz"):
        if f"{case}.{tag}_loss_{precision}" not in arrays:
            continue
        labels = torch.from_numpy(arrays[f"{case}.{labels_key}"])
        inputs = {name: leaf(arrays[f"{case}.{name}"], precision) for name in ("logits", "weak_logits")}
        values = {"loss": sum(uskd_loss(**inputs, labels=labels, **args).values())}
        values["loss"].backward()
        plain = uskd_loss(**inputs, labels=labels, alpha=1.0, beta=1.0, mu=1.0)
        for name, value in {**values, **plain}.items():
            if f"{case}.{tag}_{name}_{precision}" in arrays:
                matches(value, arrays[f"{case}.{tag}_{name}_{precision}"], precision, f"{case} {tag} {name}")
        for name, tensor in inputs.items():
            key = f"{case}.{tag}_grad_{name}_{precision}"
            if key in arrays:
                matches(tensor.grad, arrays[key], precision, key)


@pytest.mark.golden
@pytest.mark.parametrize("precision", ["f32", "f64"])
def test_every_golden_case_of_the_papers_ranking(golden, matches, leaf, precision, golden_cases):
    arrays = golden("wide/uskd.npz")
    for case, *_ in golden_cases("wide/uskd.npz"):
        stem = f"{case}.reference_paper_rank"
        labels = torch.from_numpy(arrays[f"{case}.labels"])
        logits, weak = (leaf(arrays[f"{case}.{name}"], precision) for name in ("logits", "weak_logits"))
        ranks = class_ranks(logits, weak, labels, "paper")
        targets = nontarget_targets(ranks, labels, logits.dtype)
        others = F.one_hot(labels, logits.shape[1]) == 0
        assert ranks[others].reshape(len(labels), -1).tolist() == arrays[f"{stem}_rank_{precision}"].tolist()
        matches(targets[others].reshape(len(labels), -1), arrays[f"{stem}_q_{precision}"], precision, f"{case} q")
        loss = nontarget_loss(logits, labels, targets)
        loss.backward()
        matches(loss, arrays[f"{stem}_nontarget_{precision}"], precision, f"{case} nontarget")
        if f"{stem}_grad_logits_{precision}" in arrays:
            matches(logits.grad, arrays[f"{stem}_grad_logits_{precision}"], precision, f"{case} gradient")


def log(*rows):
    return torch.tensor(rows, dtype=torch.float64).log()


def test_target_loss_by_hand():
    # p_y = 1/2 and 1/4, squares 1/4 and 1/16, their mean 5/32.
    logits = log([0.5, 0.3, 0.2], [0.5, 0.25, 0.25])
    expected = ((1 + 1 / 4 - 5 / 32) * math.log(2) + (1 + 1 / 16 - 5 / 32) * math.log(4)) / 2
    assert target_loss(logits, torch.tensor([0, 1])).item() == pytest.approx(expected, rel=1e-12)
    # Soft labels that are one-hot are labels.
    hard = torch.eye(3, dtype=torch.float64)[[0, 1]]
    assert target_loss(logits, hard).item() == pytest.approx(expected, rel=1e-12)


def test_the_weights_of_the_target_term_are_fixed():
    logits = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 3, 1])
    target_loss(logits, labels).backward()
    p = logits.detach().softmax(1)
    squares = p.gather(1, labels[:, None]).square()
    expected = (1 + squares - squares.mean()) * (p - F.one_hot(labels, 4)) / 3
    torch.testing.assert_close(logits.grad, expected)


def test_ranks_by_hand():
    # Label 0. The weak classifier alone says 1, 2, 3; the other logits are even and change nothing.
    weak, even = log([0.4, 0.3, 0.2, 0.1]), torch.zeros(1, 4, dtype=torch.float64)
    for ranking in ("code", "paper"):
        ranks = class_ranks(even, weak, torch.tensor([0]), ranking)
        assert ranks.tolist() == [[1, 2, 3, 4] if ranking == "code" else [4, 1, 2, 3]]
    ranks = class_ranks(even, weak, torch.tensor([2]), "code")  # the label is ranked where it stands
    assert ranks.tolist() == [[1, 2, 3, 4]]
    q = nontarget_targets(ranks, torch.tensor([2]), torch.float64)
    expected = torch.tensor([[1, 1 / 2, 0, 1 / 4]], dtype=torch.float64) / (1 + 1 / 2 + 1 / 4)  # with its gap
    torch.testing.assert_close(q, expected)


def test_code_and_paper_weigh_the_networks_own_side_differently():
    # Class 1: w = 0.1, p = 0.3; class 2: w = 0.3, p = 0.003. Label 0 with w = 0.6, p = 0.697.
    weak, own, label = log([0.6, 0.1, 0.3]), log([0.697, 0.3, 0.003]), torch.tensor([0])
    paper = [0.1 / 0.4 + 0.3 / 0.303, 0.3 / 0.4 + 0.003 / 0.303]
    code = [0.1 / 0.4 + math.log(0.3) / (1 - math.log(0.697)), 0.3 / 0.4 + math.log(0.003) / (1 - math.log(0.697))]
    assert paper[0] > paper[1]
    assert code[0] > code[1]
    assert class_ranks(own, weak, label, "paper").tolist() == [[3, 1, 2]]
    assert class_ranks(own, weak, label, "code").tolist() == [[1, 2, 3]]
    own = log([0.1, 0.45, 0.45])  # now the weak classifier decides
    assert class_ranks(own, weak, label, "paper").tolist() == [[3, 2, 1]]


def test_nontarget_loss_by_hand_leaves_the_labels_logit_alone():
    logits = log([0.5, 0.3, 0.2], [0.2, 0.2, 0.6]).requires_grad_()
    labels = torch.tensor([0, 2])
    q = torch.tensor([[0, 0.75, 0.25], [0.5, 0.5, 0]], dtype=torch.float64)
    loss = nontarget_loss(logits, labels, q)
    assert loss.item() == pytest.approx(-(0.75 * math.log(0.6) + 0.25 * math.log(0.4) + math.log(0.5)) / 2)
    loss.backward()
    expected = torch.tensor([[0, 0.6 - 0.75, 0.4 - 0.25], [0, 0, 0]], dtype=torch.float64) / 2
    torch.testing.assert_close(logits.grad, expected)


def test_weak_loss_by_hand():
    logits = log([0.5, 0.25, 0.25])
    expected = -((0.9 + 0.1 / 3) * math.log(0.5) + 0.2 / 3 * math.log(0.25))
    assert weak_loss(logits, torch.tensor([0])).item() == pytest.approx(expected, rel=1e-12)
    soft = torch.tensor([[0.5, 0.5, 0.0]], dtype=torch.float64)
    expected = -((0.45 + 0.1 / 3) * (math.log(0.5) + math.log(0.25)) + 0.1 / 3 * math.log(0.25))
    assert weak_loss(logits, soft).item() == pytest.approx(expected, rel=1e-12)


def test_the_weak_classifier_learns_from_its_own_term_alone():
    logits, weak = (torch.randn(4, 5, requires_grad=True) for _ in range(2))
    terms = uskd_loss(logits, weak, torch.tensor([0, 1, 2, 2]), 1.0, 1.0, 1.0)
    (terms["target"] + terms["nontarget"]).backward(retain_graph=True)
    assert weak.grad is None
    logits.grad = None
    terms["weak"].backward()
    assert logits.grad is None
    assert weak.grad.abs().sum() > 0


def test_two_classes_leave_nothing_to_rank():
    logits = torch.randn(3, 2, requires_grad=True)
    terms = uskd_loss(logits, torch.randn(3, 2), torch.tensor([0, 1, 1]), 1.0, 1.0, 1.0)
    terms["nontarget"].backward()
    assert terms["nontarget"].item() == 0
    assert not logits.grad.any()


def test_the_class_reads_the_last_stage_but_one(staged_network, image_batch):
    network, batch = staged_network(), image_batch()
    method = UniversalSelfDistillation(alpha=0.2, beta=0.3, mu=0.4, ranking="paper")
    method.setup(TASK, network)
    output = network(batch.images)
    weak = method.weak_classifier(output.stages[1].mean((2, 3)))
    expected = uskd_loss(output.logits, weak, batch.labels, 0.2, 0.3, 0.4, ranking="paper")
    terms = method.criterion(output, batch, PROGRESS)
    torch.testing.assert_close(terms, {"ce": F.cross_entropy(output.logits, batch.labels), **expected})


def test_without_weights_it_is_cross_entropy_to_the_bit(staged_network, image_batch):
    network, batch = staged_network(), image_batch()
    method = UniversalSelfDistillation(**UniversalSelfDistillation.neutral)
    method.setup(TASK, network)
    plain = F.cross_entropy(network(batch.images).logits, batch.labels)
    assert torch.equal(sum(method.loss(network, batch, PROGRESS).values()), plain)
    assert list(method.parameters()) == []


def test_the_target_term_needs_no_weak_classifier(staged_network, image_batch):
    network, batch = staged_network(widths=(4,)), image_batch()
    method = UniversalSelfDistillation(alpha=0.5, beta=0.0, mu=0.0)
    method.setup(TASK, network)
    terms = method.loss(network, batch, PROGRESS)
    torch.testing.assert_close(terms["target"], 0.5 * target_loss(network(batch.images).logits, batch.labels))


def test_one_stage_and_wrong_values_are_refused(staged_network):
    with pytest.raises(UserError, match=r"uskd puts a weak classifier on the last stage but one, .* has 1 stage"):
        UniversalSelfDistillation().setup(TASK, staged_network(widths=(4,)))
    for key in ("alpha", "beta", "mu"):
        with pytest.raises(ValueError, match=f"{key} must be in"):
            UniversalSelfDistillation(**{key: math.inf})
    with pytest.raises(ValueError, match="mu must be positive where beta is"):
        UniversalSelfDistillation(mu=0.0)
    with pytest.raises(ValueError, match="ranking must be 'code' or 'paper'"):
        UniversalSelfDistillation(ranking="text")
    with pytest.raises(ValueError, match="ranking must be 'code' or 'paper'"):
        class_ranks(torch.zeros(1, 2), torch.zeros(1, 2), torch.tensor([0]), "text")
