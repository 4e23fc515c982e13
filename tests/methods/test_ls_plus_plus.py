"""LS++ against its published formula written out, cases worked by hand, and what its matrix learns."""

import math

import pytest
import torch
import torch.nn.functional as F
from sdbench.methods.ls_plus_plus import (
    LearnedLabelSmoothing,
    learned_log_shares,
    learned_targets,
    reverse_cross_entropy,
)

from sdbench import Task

PROGRESS = torch.tensor(0.0)


def set_up(method, classes):
    method.setup(Task(classes, 8, 4, 1), torch.nn.Linear(1, 1))
    return method


def written_out(scores, logits, labels, smoothing):
    """Both cross-entropies, entry by entry, from the softmax of each row without its diagonal."""
    num_classes, forward, reverse = logits.shape[1], 0.0, 0.0
    for row, label in zip(logits, labels.tolist(), strict=True):
        others = [k for k in range(num_classes) if k != label]
        log_p = row.log_softmax(0)
        shares = smoothing * scores[label, others].softmax(0)
        targets = [(label, torch.tensor(1.0 - smoothing)), *zip(others, shares, strict=True)]
        for k, target in targets:
            forward = forward - target.detach() * log_p[k]
            reverse = reverse - log_p[k].exp().detach() * target.log()
    return forward / len(logits), reverse / len(logits)


@pytest.mark.parametrize("classes", [3, 7])
def test_loss_and_gradients_are_those_of_the_formula(classes, logits_network, logits_batch):
    logits = torch.randn(6, classes, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, classes - 1, 1, 1, 0, classes - 1])
    method = set_up(LearnedLabelSmoothing(smoothing=0.3, weight=0.7), classes).double()
    with torch.no_grad():
        method.scores.copy_(torch.randn(classes, classes))
    terms = method.loss(logits_network, logits_batch(logits, labels), PROGRESS)
    expected = written_out(method.scores, logits, labels, 0.3)
    torch.testing.assert_close(terms["ce"], 0.7 * expected[0])
    torch.testing.assert_close(terms["reverse"], 0.7 * expected[1])
    inputs = (logits, method.scores)
    ours, theirs = (torch.autograd.grad(loss, inputs) for loss in (sum(terms.values()), 0.7 * sum(expected)))
    torch.testing.assert_close(ours, theirs)
    assert method.scores.shape == (classes, classes)
    assert not ours[1].diagonal().any()


def test_each_term_teaches_one_side_only():
    logits = torch.randn(4, 5, requires_grad=True)
    scores = torch.randn(5, 5, requires_grad=True)
    labels = torch.tensor([0, 1, 4, 4])
    assert not learned_targets(scores, labels, 0.1).requires_grad
    reverse_cross_entropy(scores, logits, labels, 0.1).backward()
    assert logits.grad is None
    assert scores.grad[[0, 1, 4]].any(1).all()
    assert not scores.grad[[2, 3]].any()


def test_targets_by_hand():
    # Row 2 without its diagonal has softmax (1/4, 3/4); a large diagonal does not matter.
    scores = torch.zeros(3, 3, dtype=torch.float64)
    scores[2] = torch.tensor([0.0, math.log(3), 50.0])
    targets = learned_targets(scores, torch.tensor([2, 0]), 0.2)
    expected = torch.tensor([[0.05, 0.15, 0.8], [0.8, 0.1, 0.1]], dtype=torch.float64)
    torch.testing.assert_close(targets, expected)
    log_shares = learned_log_shares(scores, torch.tensor([2]))
    torch.testing.assert_close(log_shares, torch.tensor([[0.25, 0.75, 1.0]], dtype=torch.float64).log())


def test_reverse_cross_entropy_by_hand():
    # p = (1/2, 1/4, 1/4), label 0, q = (0.8, 0.05, 0.15); its gradient is (1 - p_y) c - p off the label.
    scores = torch.tensor([[9.0, 0.0, math.log(3)]] * 3, dtype=torch.float64, requires_grad=True)
    logits = torch.tensor([[math.log(2), 0.0, 0.0]], dtype=torch.float64)
    loss = reverse_cross_entropy(scores, logits, torch.tensor([0]), 0.2)
    loss.backward()
    expected = -(0.5 * math.log(0.8) + 0.25 * math.log(0.05) + 0.25 * math.log(0.15))
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    torch.testing.assert_close(scores.grad[0], torch.tensor([0.0, -0.125, 0.125], dtype=torch.float64))


def test_it_starts_as_label_smoothing_at_half_weight(logits_network, logits_batch):
    logits, labels = torch.randn(9, 10, requires_grad=True), torch.randint(10, (9,))
    terms = set_up(LearnedLabelSmoothing(), 10).loss(logits_network, logits_batch(logits, labels), PROGRESS)
    # A share of 0.1 for the other classes is torch's smoothing 0.1 K / (K - 1).
    smoothed = 0.5 * F.cross_entropy(logits, labels, label_smoothing=0.1 * 10 / 9)
    torch.testing.assert_close(terms["ce"], smoothed)
    torch.testing.assert_close(*(torch.autograd.grad(x, logits)[0] for x in (sum(terms.values()), smoothed)))


def test_the_matrix_learns_the_mean_prediction(logits_network, logits_batch):
    # At the optimum of the reverse term, c is the mean of p over a class's images, without the label.
    logits = torch.randn(6, 4)
    labels = torch.tensor([1, 1, 1, 3, 3, 3])
    method = set_up(LearnedLabelSmoothing(weight=1.0), 4)
    optimizer = torch.optim.SGD(method.parameters(), lr=5.0)
    for _ in range(500):
        optimizer.zero_grad()
        sum(method.loss(logits_network, logits_batch(logits, labels), PROGRESS).values()).backward()
        optimizer.step()
    for label in (1, 3):
        mean = logits.softmax(1)[labels == label].mean(0)
        mean[label] = 0
        learned = learned_targets(method.scores, torch.tensor([label]), 0.1)[0]
        expected = 0.1 * mean / mean.sum()
        expected[label] = 0.9
        torch.testing.assert_close(learned, expected, rtol=1e-3, atol=1e-5)
    assert not method.scores[[0, 2]].any()
    assert not method.scores.diagonal().any()


@pytest.mark.parametrize("size", [1, 3])
def test_two_classes_leave_nothing_to_learn(size, logits_network, logits_batch):
    logits = torch.randn(size, 2).bfloat16().requires_grad_()
    labels = torch.zeros(size, dtype=torch.int64)
    method = set_up(LearnedLabelSmoothing(smoothing=0.1, weight=1.0), 2)
    terms = method.loss(logits_network, logits_batch(logits, labels), PROGRESS)
    torch.testing.assert_close(terms["ce"], F.cross_entropy(logits.float(), labels, label_smoothing=0.2))
    assert {term.dtype for term in terms.values()} == {torch.float32}
    sum(terms.values()).backward()
    assert torch.equal(method.scores.grad, torch.zeros(2, 2))
    assert logits.grad.isfinite().all()


def test_extreme_logits_keep_their_gradient(logits_network, logits_batch):
    logits = torch.tensor([[-500.0, 500.0, 0.0]], requires_grad=True)
    method = set_up(LearnedLabelSmoothing(smoothing=0.1, weight=1.0), 3)
    terms = method.loss(logits_network, logits_batch(logits, torch.tensor([0])), PROGRESS)
    sum(terms.values()).backward()
    torch.testing.assert_close(logits.grad, torch.tensor([[-0.9, 0.95, -0.05]]))
    assert method.scores.grad.isfinite().all()


def test_without_smoothing_it_is_cross_entropy_to_the_bit(logits_network, logits_batch):
    logits, labels = torch.randn(33, 10, requires_grad=True), torch.randint(10, (33,))
    method = set_up(LearnedLabelSmoothing(**LearnedLabelSmoothing.neutral), 10)
    loss = sum(method.loss(logits_network, logits_batch(logits, labels), PROGRESS).values())
    plain = F.cross_entropy(logits, labels)
    assert torch.equal(loss, plain)
    assert torch.equal(*(torch.autograd.grad(x, logits)[0] for x in (loss, plain)))
    assert not list(method.parameters())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"smoothing": 1.0}, r"smoothing must be in \[0, 1\)"),
        ({"smoothing": math.nan}, r"smoothing must be in \[0, 1\)"),
        ({"weight": 0.0}, "weight must be positive"),
        ({"weight": math.inf}, "weight must be positive"),
    ],
)
def test_values_outside_their_range_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        LearnedLabelSmoothing(**values)
