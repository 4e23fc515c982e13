"""Online label smoothing against the authors' numbers, and its statistics against ones kept by hand."""

import math
import re

import pytest
import torch
import torch.nn.functional as F
from sdbench.methods.ols import (
    FINE_GRAINED_FREEZE,
    OnlineLabelSmoothing,
    add_hits,
    next_matrix,
    online_smoothing_loss,
)

from sdbench import Task, wrap
from sdbench.method import mixing_obstacle

PROGRESS = torch.tensor(0.0)


def set_up(method, num_classes):
    method.setup(Task(num_classes=num_classes, num_train=8, batch_size=4, epochs=3), torch.nn.Linear(1, 1))
    return method


@pytest.mark.golden
def test_every_golden_loss(matches, leaf, golden_cases):
    found = 0
    for case, args, own in golden_cases("wide/ols.npz"):
        labels, matrix = torch.from_numpy(own["loss_labels"]), torch.from_numpy(own["loss_matrix"])
        pattern = re.compile(r"(cifar|finegrained)_(loss|hard|soft|grad_logits)_(f32|f64)")
        for match in filter(None, map(pattern.fullmatch, own)):
            logits = leaf(own["loss_logits"], match[3])
            hard, soft = F.cross_entropy(logits, labels), online_smoothing_loss(logits, labels, matrix)
            a = args["alpha"]
            loss = a * hard + (1 - a) * soft if match[1] == "cifar" else hard + soft
            loss.backward()
            ours = {"loss": loss, "hard": hard, "soft": soft, "grad_logits": logits.grad}[match[2]]
            matches(ours, own[match[0]], match[3], f"{case}.{match[0]}")
            found += 1
    assert found


@pytest.mark.golden
def test_every_golden_class_loss_and_gradient(matches, leaf, logits_network, logits_batch, golden_cases):
    for case, args, own in golden_cases("wide/ols.npz"):
        labels = torch.from_numpy(own["loss_labels"])
        for variant, tag in (("cifar", "cifar"), ("fine-grained", "finegrained")):
            if variant == "fine-grained" and args["alpha"] != 0.5:
                continue  # that script's weights are 1 and 1, whatever the other's are
            method = set_up(OnlineLabelSmoothing(alpha=args["alpha"], variant=variant), args["num_classes"])
            method.matrix.copy_(torch.from_numpy(own["loss_matrix"]))
            for precision in ("f32", "f64"):
                logits = leaf(own["loss_logits"], precision)
                loss = sum(method.loss(logits_network, logits_batch(logits, labels), PROGRESS).values())
                loss.backward()
                matches(loss, own[f"{tag}_loss_{precision}"], precision, f"{case}.{tag}")
                if f"{tag}_grad_logits_{precision}" in own:
                    matches(logits.grad, own[f"{tag}_grad_logits_{precision}"], precision, f"{case}.{tag}")


@pytest.mark.golden
@pytest.mark.parametrize("run", ["init_zeros", "init_uniform", "finegrained"])
@pytest.mark.parametrize("resumed", [False, True])
def test_every_golden_epoch(run, resumed, matches, logits_network, logits_batch, golden_cases):
    """Matrices, counts and losses of whole epochs; with ``resumed``, through a saved state before each batch."""
    found = 0
    for case, args, own in golden_cases("wide/ols.npz"):
        variant = "fine-grained" if run == "finegrained" else "cifar"
        method = set_up(OnlineLabelSmoothing(alpha=args["alpha"], variant=variant), args["num_classes"])
        if run == "init_zeros":
            method.matrix.zero_()
        for epoch in range(args["epochs"]):
            losses = []
            for logits, labels in zip(own["logits"][epoch], own["labels"][epoch], strict=True):
                if resumed:
                    state = {key: value.clone() for key, value in method.state_dict().items()}
                    method = set_up(OnlineLabelSmoothing(alpha=args["alpha"], variant=variant), args["num_classes"])
                    method.load_state_dict(state)
                batch = logits_batch(torch.from_numpy(logits), torch.from_numpy(labels))
                losses.append(sum(method.loss(logits_network, batch, PROGRESS).values()))
            if f"{run}_e{epoch}_batch_losses" in own:
                matches(torch.stack(losses), own[f"{run}_e{epoch}_batch_losses"], "f32", f"{case}.e{epoch}")
            matches(method.counts, own[f"e{epoch}_count"], "f32", f"{case}.e{epoch}_count")
            method.after_epoch(logits_network)
            matches(method.matrix, own[f"{run}_e{epoch}_matrix_after"], "f32", f"{case}.{run}_e{epoch}")
            assert not method.sums.any()
            assert not method.counts.any()
            found += 1
    assert found


def test_statistics_by_hand():
    # Rows 0 and 2 are right (class 0), row 1 is wrong, row 3 is right (class 2); nothing hits class 1.
    logits = torch.tensor([[3.0, 0.0, 0.0], [3.0, 0.0, 0.0], [1.0, 0.0, 0.5], [0.0, 0.0, 2.0]])
    labels = torch.tensor([0, 1, 0, 2])
    sums, counts = torch.zeros(3, 3), torch.zeros(3)
    add_hits(logits, labels, sums, counts)
    assert counts.tolist() == [2, 0, 1]
    p = logits.softmax(1)
    torch.testing.assert_close(sums, torch.stack([p[0] + p[2], torch.zeros(3), p[3]]))
    matrix = next_matrix(torch.eye(3), sums, counts)
    torch.testing.assert_close(matrix, torch.stack([(p[0] + p[2]) / 2, torch.full((3,), 1 / 3), p[3]]))
    # Frozen: row 0 is kept although it had hits, row 1 without a hit is reset all the same.
    old = torch.tensor([[0.88, 0.06, 0.06], [0.0, 1.0, 0.0], [0.07, 0.06, 0.87]])
    frozen = next_matrix(old, sums, counts, FINE_GRAINED_FREEZE)
    torch.testing.assert_close(frozen, torch.stack([old[0], torch.full((3,), 1 / 3), p[3]]))


def test_loss_by_hand():
    logits = torch.tensor([[0.0, math.log(3.0)]], dtype=torch.float64, requires_grad=True)
    matrix = torch.tensor([[0.5, 0.5], [0.25, 0.75]], dtype=torch.float64, requires_grad=True)
    loss = online_smoothing_loss(logits, torch.tensor([1]), matrix)
    assert loss.item() == pytest.approx(-(0.25 * math.log(0.25) + 0.75 * math.log(0.75)), rel=1e-12)
    loss.backward()
    assert matrix.grad is None
    assert logits.grad.abs().max() < 1e-12  # softmax(z) is the soft label


def test_the_first_epoch_is_label_smoothing(logits_network, logits_batch):
    logits, labels = torch.randn(5, 4, dtype=torch.float64), torch.tensor([0, 3, 1, 1, 2])
    method = set_up(OnlineLabelSmoothing(alpha=0.7), 4)
    loss = sum(method.loss(logits_network, logits_batch(logits, labels), PROGRESS).values())
    torch.testing.assert_close(loss, F.cross_entropy(logits, labels, label_smoothing=0.3), rtol=1e-12, atol=0)


def test_the_soft_labels_change_between_epochs_only(logits_network, logits_batch):
    method = set_up(OnlineLabelSmoothing(), 3)
    address = method.matrix.data_ptr()
    for size in (4, 1):  # a short last batch adds what it has
        batch = logits_batch(10 * torch.eye(3)[torch.arange(size) % 3], torch.arange(size) % 3)
        method.loss(logits_network, batch, PROGRESS)
        assert torch.equal(method.matrix, torch.full((3, 3), 1 / 3))
    assert method.counts.tolist() == [3, 1, 1]
    method.after_epoch(logits_network)
    torch.testing.assert_close(method.matrix, (10 * torch.eye(3)).softmax(1))
    assert method.matrix.data_ptr() == address


def test_alpha_one_is_cross_entropy_and_keeps_nothing(logits_network, logits_batch):
    logits, labels = torch.randn(6, 2), torch.tensor([0, 1, 0, 1, 1, 0])
    method = set_up(OnlineLabelSmoothing(**OnlineLabelSmoothing.neutral), 2)
    terms = method.loss(logits_network, logits_batch(logits, labels), PROGRESS)
    assert torch.equal(sum(terms.values()), F.cross_entropy(logits, labels))
    assert not method.counts.any()


def test_statistics_are_float32_under_bfloat16(logits_network, logits_batch):
    method = set_up(OnlineLabelSmoothing(), 3)
    logits = torch.tensor([[2.0, 0.0, 1.0]]).bfloat16()
    terms = method.loss(logits_network, logits_batch(logits, torch.tensor([0])), PROGRESS)
    assert {term.dtype for term in terms.values()} == {torch.float32}
    torch.testing.assert_close(method.sums[0], logits[0].float().softmax(0))


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_it_compiles_as_a_whole(logits_batch, compiles_alike):
    network = wrap(torch.nn.Linear(4, 3))
    batch = logits_batch(torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1]))
    methods = [set_up(OnlineLabelSmoothing(), 3) for _ in range(2)]
    compiles_alike(*methods, network, batch)
    torch.testing.assert_close(methods[1].sums, methods[0].sums)


def test_it_refuses_mixed_images():
    assert "mean predictions" in mixing_obstacle(OnlineLabelSmoothing, OnlineLabelSmoothing())


@pytest.mark.parametrize("alpha", [-0.1, 1.1, math.nan])
def test_alpha_outside_its_range_is_refused(alpha):
    with pytest.raises(ValueError, match=r"alpha must be in \[0, 1\]"):
        OnlineLabelSmoothing(alpha=alpha)


def test_unknown_variant_is_refused():
    with pytest.raises(ValueError, match="variant must be"):
        OnlineLabelSmoothing(variant="imagenet")
