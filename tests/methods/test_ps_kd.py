"""PS-KD against the authors' numbers, and its memory against one kept by hand."""

import copy
import math
import re

import pytest
import torch
import torch.nn.functional as F
from sdbench.methods.ps_kd import ProgressiveSelfDistillation, progressive_targets

from sdbench import Task
from sdbench.losses import soft_cross_entropy
from sdbench.method import Output, mixing_obstacle
from sdbench.network import PassCounter

PROGRESS = torch.tensor(0.0)
NUMBER = r"([0-9.e+-]+)"


@pytest.mark.golden
def test_every_golden_target(golden, matches):
    arrays = golden("pskd_loss.npz")
    found = [match for match in (re.fullmatch(rf"soft_target_a{NUMBER}", key) for key in arrays) if match]
    assert found
    labels, past = (torch.from_numpy(arrays[key]) for key in ("labels", "prev_predictions"))
    for match in found:
        for alpha in (float(match[1]), torch.tensor(float(match[1]))):
            matches(progressive_targets(labels, past, alpha), arrays[match[0]], "f32", match[0])


@pytest.mark.golden
def test_every_golden_loss(golden, matches, leaf):
    arrays = golden("pskd_loss.npz")
    found = [m for m in (re.fullmatch(rf"(loss|grad)_a{NUMBER}_(f32|f64)", key) for key in arrays) if m]
    assert {match[1] for match in found} == {"loss", "grad"}
    labels, past = (torch.from_numpy(arrays[key]) for key in ("labels", "prev_predictions"))
    for match in found:
        logits = leaf(arrays["logits"], match[3])
        loss = soft_cross_entropy(logits, progressive_targets(labels, past, float(match[2])))
        loss.backward()
        matches(loss if match[1] == "loss" else logits.grad, arrays[match[0]], match[3], match[0])


@pytest.mark.golden
def test_the_class_gives_the_golden_loss(golden, matches, leaf, logits_network, logits_batch):
    arrays = golden("pskd_loss.npz")
    found = [m for m in (re.fullmatch(rf"loss_a{NUMBER}_f32", key) for key in arrays) if m]
    assert found
    labels, past = (torch.from_numpy(arrays[key]) for key in ("labels", "prev_predictions"))
    for match in found:
        logits = leaf(arrays["logits"], "f32")
        method = ProgressiveSelfDistillation(alpha_final=float(match[1]))
        set_up(method, past.shape[0], past.shape[1])
        method.predictions.copy_(past)
        method.before_epoch(9, 10)  # the last epoch: alpha is alpha_final
        terms = method.loss(logits_network, logits_batch(logits, labels), PROGRESS)
        matches(sum(terms.values()), arrays[match[0]], "f32", match[0])


def set_up(method, num_train, num_classes, network=None):
    """Any module with a parameter will do as the network: only its device is asked for."""
    network = network or torch.nn.Linear(1, 1)
    method.setup(Task(num_classes=num_classes, num_train=num_train, batch_size=2, epochs=4), network)
    return method


def test_targets_by_hand():
    past = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]])
    targets = progressive_targets(torch.tensor([0, 1]), past, 0.4)
    torch.testing.assert_close(targets, torch.tensor([[0.8, 0.1, 0.1], [0.04, 0.68, 0.28]]))
    assert torch.equal(progressive_targets(torch.tensor([0, 1]), past, 0.0), torch.eye(3)[:2])
    assert torch.equal(progressive_targets(torch.tensor([0, 1]), past, torch.tensor(1.0)), past)
    assert not progressive_targets(torch.tensor([0, 1]), past.requires_grad_(), 0.4).requires_grad


def test_alpha_grows_linearly_from_the_second_epoch_on():
    method = ProgressiveSelfDistillation(alpha_final=0.6)
    seen = []
    for epoch in range(4):
        method.before_epoch(epoch, 4)
        seen.append(method.alpha.item())
    assert seen == pytest.approx([0.0, 0.3, 0.45, 0.6])


def test_memory_over_three_epochs_against_one_kept_by_hand(logits_network, logits_batch):
    num_train, classes, epochs = 7, 4, 3
    labels = torch.arange(num_train) % classes
    method = set_up(ProgressiveSelfDistillation(alpha_final=0.9), num_train, classes)
    remembered = {n: F.one_hot(labels[n], classes).double() for n in range(num_train)}
    for epoch in range(epochs):
        method.before_epoch(epoch, epochs)
        written = {}
        for index in torch.randperm(num_train, generator=torch.Generator().manual_seed(epoch)).split(3):
            logits = torch.randn(len(index), classes, requires_grad=True)
            terms = method.loss(logits_network, logits_batch(logits, labels[index], index=index), PROGRESS)
            alpha = 0.9 * (epoch + 1) / epochs
            expected = 0.0
            for row, n in enumerate(index.tolist()):
                target = (1 - alpha) * F.one_hot(labels[n], classes).double() + alpha * remembered[n]
                expected -= (target * logits[row].double().log_softmax(0)).sum() / len(index)
                written[n] = logits[row].detach().double().softmax(0)
            assert list(terms) == ["soft_ce"]
            torch.testing.assert_close(terms["soft_ce"].double(), expected, rtol=1e-6, atol=0)
            remembered.update({n: written[n] for n in index.tolist()})
    for n in range(num_train):
        torch.testing.assert_close(method.predictions[n].double(), remembered[n], rtol=1e-6, atol=1e-7)


def test_what_is_read_is_last_epochs_even_if_an_image_comes_twice(logits_network, logits_batch):
    method = set_up(ProgressiveSelfDistillation(alpha_final=1.0), 2, 3)
    method.predictions.copy_(torch.tensor([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0]]))
    method.before_epoch(1, 2)
    logits = torch.tensor([[3.0, 0.0, 0.0], [0.0, 0.0, 3.0]])
    batch = logits_batch(logits, torch.tensor([0, 0]), index=torch.tensor([0, 0]))
    loss = method.loss(logits_network, batch, PROGRESS)["soft_ce"]
    expected = -(torch.tensor([0.2, 0.3, 0.5]) * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(method.predictions[0], logits[1].softmax(0))
    assert torch.equal(method.predictions[1], torch.tensor([1.0, 0.0, 0.0]))


def test_the_first_epoch_is_cross_entropy_whatever_the_memory_holds(logits_network, logits_batch):
    method = set_up(ProgressiveSelfDistillation(), 4, 5)
    method.predictions.uniform_()
    method.before_epoch(0, 3)
    logits, labels = torch.randn(4, 5, dtype=torch.float64), torch.tensor([4, 0, 2, 2])
    terms = method.loss(logits_network, logits_batch(logits, labels), PROGRESS)
    torch.testing.assert_close(sum(terms.values()), F.cross_entropy(logits, labels), rtol=1e-12, atol=0)


def test_memory_is_float32_state_that_survives_saving(logits_network, logits_batch):
    method = set_up(ProgressiveSelfDistillation(), 6, 3)
    assert method.predictions.shape == (6, 3)
    assert method.predictions.dtype == torch.float32
    assert not list(method.parameters())
    method.before_epoch(1, 2)
    method.loss(logits_network, logits_batch(torch.randn(6, 3).bfloat16(), torch.zeros(6, dtype=torch.int64)), PROGRESS)
    resumed = set_up(ProgressiveSelfDistillation(), 6, 3)
    resumed.load_state_dict(method.state_dict())
    assert torch.equal(resumed.predictions, method.predictions)
    assert method.predictions.sum(1).allclose(torch.ones(6))


def test_past_model_teaches_in_eval_mode_as_it_was_at_the_end_of_the_epoch(staged_network, image_batch):
    network = staged_network()
    method = set_up(ProgressiveSelfDistillation(past="model"), 6, 5, network)
    assert not [p for p in method.parameters() if p.requires_grad]
    batch, optimizer = image_batch(), torch.optim.SGD(network.parameters(), lr=0.5)
    past = None
    for epoch in range(3):
        method.before_epoch(epoch, 3)
        for _ in range(2):
            by_hand = copy.deepcopy(network)
            by_hand.passes = PassCounter()  # a copy counts with its original otherwise
            terms = method.loss(network, batch, PROGRESS)
            log_p = by_hand(batch.images).logits.log_softmax(1)
            target = F.one_hot(batch.labels, 5).float()
            if past is not None:
                alpha = 0.8 * (epoch + 1) / 3
                target = (1 - alpha) * target + alpha * past(batch.images).logits.softmax(1).detach()
            torch.testing.assert_close(sum(terms.values()), -(target * log_p).sum(1).mean())
            assert list(terms) == ["soft_ce"]
            optimizer.zero_grad()
            sum(terms.values()).backward()
            optimizer.step()
        method.after_epoch(network)
        method.train()
        past = copy.deepcopy(network).eval()
        past.passes = PassCounter()
        for ours, theirs in zip(method.past_network.state_dict().values(), past.state_dict().values(), strict=True):
            assert torch.equal(ours, theirs)
    # Six passes with gradient; none of the past model in the first epoch, one a step afterwards.
    assert (network.passes.with_gradient, network.passes.without_gradient) == (6 * 6, 4 * 6)


@pytest.mark.parametrize("past", ["predictions", "model"])
def test_without_alpha_it_is_cross_entropy_to_the_bit(past, staged_network, image_batch):
    network, batch = staged_network(), image_batch()
    method = ProgressiveSelfDistillation(**ProgressiveSelfDistillation.neutral, past=past)
    set_up(method, 6, 5, network)
    method.before_epoch(2, 3)
    plain = F.cross_entropy(copy.deepcopy(network)(batch.images).logits, batch.labels)
    assert torch.equal(sum(method.loss(network, batch, PROGRESS).values()), plain)
    assert network.passes.without_gradient == 0


def test_it_refuses_mixed_images():
    for past in ("predictions", "model"):
        method = ProgressiveSelfDistillation(past=past)
        assert "past predictions" in mixing_obstacle(ProgressiveSelfDistillation, method)


def test_no_gradient_into_memory(logits_batch):
    method = set_up(ProgressiveSelfDistillation(), 2, 3)
    method.before_epoch(1, 2)
    logits = torch.randn(2, 3, requires_grad=True)
    output = Output(logits, logits[:, :0], ())
    for _ in range(2):
        sum(method.criterion(output, logits_batch(logits, torch.tensor([0, 1])), PROGRESS).values()).backward()
    assert not method.predictions.requires_grad


@pytest.mark.parametrize("alpha_final", [-0.1, 1.1, math.nan])
def test_alpha_outside_its_range_is_refused(alpha_final):
    with pytest.raises(ValueError, match=r"alpha_final must be in \[0, 1\]"):
        ProgressiveSelfDistillation(alpha_final=alpha_final)


def test_unknown_past_is_refused():
    with pytest.raises(ValueError, match="past must be 'predictions' or 'model'"):
        ProgressiveSelfDistillation(past="weights")
