"""BAKE against the authors' numbers, the fixed point that its targets are, and batches of groups."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sdbench.methods.bake import BatchKnowledgeEnsembling, ensembled_targets, ensembling_loss
from torch import nn

from sdbench import Batch, Task, wrap
from sdbench.errors import UserError

TASK = Task(num_classes=5, num_train=12, batch_size=12, epochs=2)
PROGRESS = torch.tensor(0.0)


@pytest.mark.golden
@pytest.mark.parametrize("precision", ["f32", "f64"])
def test_every_golden_case(golden_cases, matches, leaf, precision):
    for case, args, arrays in golden_cases("wide/bake.npz"):
        logits, features = (leaf(arrays[name], precision) for name in ("logits", "features"))
        targets = ensembled_targets(features, logits, args["temperature"], args["omega"])
        ce = F.cross_entropy(logits, torch.from_numpy(arrays["labels"]))
        kd = ensembling_loss(logits, targets, args["temperature"])
        loss = ce + args["lam"] * kd
        loss.backward()
        for name, value in {"targets": targets, "loss": loss, "ce": ce, "kd": kd}.items():
            matches(value, arrays[f"official_{name}_{precision}"], precision, f"{case} {name}")
        gradients = {"logits": logits.grad, "features": torch.zeros_like(features)}
        assert features.grad is None
        for name, value in gradients.items():
            key = f"official_grad_{name}_{precision}"
            if key in arrays:
                matches(value, arrays[key], precision, key)


@pytest.mark.golden
def test_targets_take_no_second_softmax(golden_cases):
    """The known bug would leave them nearly uniform."""
    for _case, args, arrays in golden_cases("wide/bake.npz"):
        logits, features = (torch.from_numpy(arrays[name]).double() for name in ("logits", "features"))
        targets = ensembled_targets(features, logits, args["temperature"], args["omega"])
        again = F.softmax(targets / args["temperature"], dim=1)
        assert np.abs(again.numpy() - arrays["official_targets_f64"]).max() > 0.02
        assert targets.max() > 1.5 * again.max()


def test_two_images_by_hand():
    """A swaps the two, so Q = (1 - w) / (1 - w^2) [[1, w], [w, 1]] P."""
    logits = 2 * torch.tensor([[math.log(3), 0.0], [0.0, math.log(7)]], dtype=torch.float64)
    targets = ensembled_targets(torch.randn(2, 3).double(), logits, 2.0, 0.5)
    first, second = torch.tensor([[0.75, 0.25], [0.125, 0.875]], dtype=torch.float64)
    expected = torch.stack([first + 0.5 * second, 0.5 * first + second]) / 1.5
    torch.testing.assert_close(targets, expected)
    divergence = sum(
        q * math.log(q / p)
        for row, own in zip(expected.tolist(), ((0.75, 0.25), (0.125, 0.875)), strict=True)
        for q, p in zip(row, own, strict=True)
    )
    assert ensembling_loss(logits, targets, 2.0).item() == pytest.approx(4 * divergence / 2, rel=1e-12)


@pytest.mark.parametrize("omega", [0.0, 0.3, 0.5, 0.9])
def test_targets_are_the_limit_of_repeated_averaging(omega):
    features, logits = torch.randn(7, 4).double(), 5 * torch.randn(7, 3).double()
    directions = features / features.norm(dim=1, keepdim=True)
    affinity = (directions @ directions.T).exp() * (1 - torch.eye(7))
    affinity = affinity / affinity.sum(1, keepdim=True)
    own = (logits / 4).softmax(1)
    limit = own
    for _ in range(400):
        limit = omega * affinity @ limit + (1 - omega) * own
    torch.testing.assert_close(ensembled_targets(features, logits, 4.0, omega), limit)


@pytest.mark.parametrize("omega", [0.5, 0.99])
@pytest.mark.parametrize("classes", [2, 100])
def test_targets_are_probabilities_even_of_one_hot_predictions(omega, classes):
    logits = (500 * torch.randn(64, classes)).requires_grad_()
    targets = ensembled_targets(torch.randn(64, 8).relu(), logits, 1.0, omega)
    assert targets.dtype == torch.float32
    assert (targets >= 0).all()
    torch.testing.assert_close(targets.sum(1), torch.ones(64))
    loss = ensembling_loss(logits, targets, 1.0)
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


def test_gradient_is_the_difference_to_the_targets():
    features = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    logits = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    targets = ensembled_targets(features, logits, 4.0, 0.5)
    assert not targets.requires_grad
    ensembling_loss(logits, targets, 4.0).backward()
    torch.testing.assert_close(logits.grad, 4.0 * ((logits / 4).softmax(1) - targets) / 6)
    assert features.grad is None
    passed = targets.clone().requires_grad_()
    assert torch.autograd.grad(ensembling_loss(logits, passed, 4.0), passed, allow_unused=True) == (None,)


def test_one_image_alone_keeps_its_own_prediction():
    features, logits = torch.randn(1, 4), torch.randn(1, 5)
    targets = ensembled_targets(features, logits, 4.0, 0.5)
    torch.testing.assert_close(targets, (logits / 4).softmax(1))
    # Features of zero, as dead units give them, are like all others.
    targets = ensembled_targets(torch.zeros(3, 4), torch.randn(3, 5), 4.0, 0.5)
    assert targets.isfinite().all()


def test_lower_precision_is_computed_on_in_float32():
    features, logits = torch.randn(16, 8).bfloat16(), (4 * torch.randn(16, 5)).bfloat16()
    expected = ensembled_targets(features.double(), logits.double(), 4.0, 0.9)
    with torch.autocast("cpu", torch.bfloat16):
        targets = ensembled_targets(features, logits, 4.0, 0.9)
    assert targets.dtype == torch.float32
    torch.testing.assert_close(targets.double(), expected, rtol=1e-5, atol=1e-7)


def groups(anchors=3, partners=3, classes=5):
    images = torch.randn(1 + partners, anchors, 3, 8, 8)
    labels = torch.arange(anchors) % classes
    return Batch(images[0], (), tuple(images[1:]), labels, torch.arange(anchors))


@pytest.mark.parametrize(("partners", "classes"), [(3, 5), (1, 2)])
def test_anchors_and_partners_are_one_batch(staged_network, partners, classes):
    network, batch = staged_network(classes), groups(3, partners, classes)
    method = BatchKnowledgeEnsembling(partners=partners, temperature=2.0, omega=0.3, weight=0.7)
    method.setup(TASK, network)
    assert (method.partners, method.partners_in_batch) == (partners, True)
    terms = method.loss(network, batch, PROGRESS)
    assert network.passes.with_gradient == 3 * (1 + partners)
    output = network(torch.cat([batch.images, *batch.partners]))
    labels = torch.cat([batch.labels] * (1 + partners))
    log_p = F.log_softmax(output.logits, dim=1)
    expected = -sum(log_p[n, labels[n]] for n in range(len(labels))) / len(labels)
    torch.testing.assert_close(terms["ce"], expected)
    targets = ensembled_targets(output.pooled, output.logits, 2.0, 0.3)
    torch.testing.assert_close(terms["ensembling"], 0.7 * ensembling_loss(output.logits, targets, 2.0))
    assert list(method.parameters()) == list(method.buffers()) == []


def test_a_short_batch_of_one_group_works(staged_network):
    network = staged_network()
    terms = BatchKnowledgeEnsembling().loss(network, groups(1), PROGRESS)
    sum(terms.values()).backward()
    assert all(p.grad.isfinite().all() for p in network.parameters())


def test_neutral_is_cross_entropy_of_the_plain_batch_to_the_bit(staged_network):
    network, batch = staged_network(), groups(6, 0)
    method = BatchKnowledgeEnsembling(**BatchKnowledgeEnsembling.neutral)
    method.setup(TASK, network)
    assert (method.partners, method.partners_in_batch) == (0, False)
    plain = F.cross_entropy(network(batch.images).logits, batch.labels)
    assert torch.equal(sum(method.loss(network, batch, PROGRESS).values()), plain)


def test_omega_of_zero_teaches_nothing_more(staged_network):
    network, batch = staged_network(), groups()
    terms = BatchKnowledgeEnsembling(omega=0.0).loss(network, batch, PROGRESS)
    assert terms["ensembling"].abs() < 1e-6
    gradients = torch.autograd.grad(terms["ensembling"], list(network.parameters()), allow_unused=True)
    assert max(g.abs().max() for g in gradients if g is not None) < 1e-6


# What torch's own tracer does to autograd functions in 2.11:
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_it_compiles_as_a_whole(staged_network):
    network, batch, method = staged_network().eval(), groups(), BatchKnowledgeEnsembling()
    compiled = torch.compile(method.loss, fullgraph=True, backend="aot_eager")(network, batch, PROGRESS)
    for name, value in method.loss(network, batch, PROGRESS).items():
        torch.testing.assert_close(compiled[name], value)
    torch._dynamo.reset()


def test_logits_alone_and_wrong_values_are_refused():
    network = wrap(nn.Sequential(nn.Flatten(), nn.Linear(192, 5)))
    with pytest.raises(UserError, match="gives logits only, and bake compares the pooled features"):
        BatchKnowledgeEnsembling().setup(TASK, network)
    BatchKnowledgeEnsembling(weight=0.0).setup(TASK, network)
    for key, value in {"partners": -1, "temperature": 0.0, "omega": 1.0, "weight": math.inf}.items():
        with pytest.raises(ValueError, match=f"{key} must be"):
            BatchKnowledgeEnsembling(**{key: value})
