"""DDGSD against the reference numbers, cases worked by hand, and what the public versions do otherwise."""

import copy
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from sdbench.methods.ddgsd import DataDistortionGuided, mean_discrepancy, mutual_distillation_loss
from torch import nn

from sdbench import Network, Output, Task, wrap
from sdbench.errors import UserError

PROGRESS = torch.tensor(0.0)
TASK = Task(num_classes=5, num_train=6, batch_size=6, epochs=1)


class Given(Network):
    """Gives the logits and features that it holds, whatever the images."""

    classifier = None

    def __init__(self, logits, pooled):
        super().__init__()
        self.output = Output(logits, pooled, ())

    def _forward(self, images, edit):
        return self.output


def two_views(image_batch, size=6):
    batch = image_batch(size)
    return replace(batch, views=batch.partners, partners=())


@pytest.mark.golden
def test_every_golden_case(matches, leaf, logits_batch, golden_cases):
    for case, args, own in golden_cases("wide/ddgsd.npz"):
        labels = torch.from_numpy(own["labels"])
        method = DataDistortionGuided(temperature=args["T"], weight=args["lam"], discrepancy=args["mu"])
        for precision in ("f32", "f64"):
            names = ("logits_a", "logits_b", "feat_a", "feat_b")
            leaves = {name: leaf(own[name], precision) for name in names}
            network = Given(*(torch.cat([leaves[f"{kind}_a"], leaves[f"{kind}_b"]]) for kind in ("logits", "feat")))
            batch = replace(logits_batch(leaves["logits_a"].detach(), labels), views=(leaves["logits_b"].detach(),))
            terms = method.loss(network, batch, PROGRESS)
            total = sum(terms.values())
            total.backward()
            found = {
                "loss": total,
                "ce": terms["ce"],
                "kd": mutual_distillation_loss(leaves["logits_a"], leaves["logits_b"], args["T"]),
                "mmd": mean_discrepancy(leaves["feat_a"], leaves["feat_b"]),
                **{f"grad_{name}": tensor.grad for name, tensor in leaves.items()},
            }
            present = [name for name in found if f"reference_{name}_{precision}" in own]
            assert present[:4] == ["loss", "ce", "kd", "mmd"]
            for name in present:
                key = f"reference_{name}_{precision}"
                matches(found[name], own[key], precision, f"{case}.{key}")
        assert len(present) == 8  # all gradients in double precision


def test_mutual_distillation_by_hand():
    # T = 2: softened predictions (1/2, 1/2) and (1/4, 3/4); both divergences count.
    one = torch.zeros(1, 2, dtype=torch.float64)
    other = torch.tensor([[0.0, 2 * math.log(3)]], dtype=torch.float64)
    back = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    forth = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert mutual_distillation_loss(one, other, 2.0).item() == pytest.approx(4 * (back + forth), rel=1e-12)
    assert mutual_distillation_loss(other, one, 2.0).item() == pytest.approx(4 * (back + forth), rel=1e-12)
    assert mutual_distillation_loss(other, other, 2.0).item() == pytest.approx(0, abs=1e-15)


def test_each_view_learns_from_the_other_as_a_constant():
    one, other = torch.randn(2, 4, 3, dtype=torch.float64)
    one.requires_grad_(), other.requires_grad_()
    mutual_distillation_loss(one, other, 1.0).backward()
    # d KL(q || softmax(z)) / dz = (softmax(z) - q) / N where q is a constant.
    p, q = F.softmax(one.detach(), 1), F.softmax(other.detach(), 1)
    torch.testing.assert_close(one.grad, (p - q) / 4)
    torch.testing.assert_close(other.grad, (q - p) / 4)


def test_discrepancy_by_hand():
    # Means (1, 2, 0) and (0, 0, 1): squared distances 1 + 4 + 1, summed over channels, not averaged.
    one = torch.tensor([[0.0, 2.0, 0.0], [2.0, 2.0, 0.0]])
    other = torch.tensor([[1.0, -1.0, 1.0], [-1.0, 1.0, 1.0]])
    assert mean_discrepancy(one, other).item() == pytest.approx(6.0)


def test_both_views_go_through_the_network_together(staged_network, image_batch):
    network, batch = staged_network(), two_views(image_batch)
    by_hand = copy.deepcopy(network)
    output = by_hand(torch.cat([batch.images, batch.views[0]]))
    z, other = output.logits[:6], output.logits[6:]
    network.passes.with_gradient = 0
    terms = DataDistortionGuided(weight=0.5, discrepancy=0.1).loss(network, batch, PROGRESS)
    torch.testing.assert_close(terms["ce"], F.cross_entropy(z, batch.labels) + F.cross_entropy(other, batch.labels))
    torch.testing.assert_close(terms["distillation"], 0.5 * mutual_distillation_loss(z, other, 1.0))
    distance = (output.pooled[:6].mean(0) - output.pooled[6:].mean(0)).square().sum()
    torch.testing.assert_close(terms["discrepancy"], 0.1 * distance)
    assert (network.passes.with_gradient, network.passes.without_gradient) == (12, 0)


def test_without_its_weights_two_cross_entropies_remain(image_batch):
    network = wrap(nn.Sequential(nn.Flatten(), nn.Linear(192, 2)))
    batch = two_views(image_batch)
    batch = batch.with_labels(batch.labels % 2)
    method = DataDistortionGuided(weight=0.0, discrepancy=0.0)
    method.setup(TASK, network)
    terms = method.loss(network, batch, PROGRESS)
    expected = sum(F.cross_entropy(network.module(x), batch.labels) for x in (batch.images, batch.views[0]))
    assert list(terms) == ["ce"]
    torch.testing.assert_close(terms["ce"], expected)


def test_features_of_an_opaque_network_are_asked_for_in_words():
    network = wrap(nn.Sequential(nn.Flatten(), nn.Linear(192, 5)))
    with pytest.raises(UserError, match="gives logits only, and ddgsd compares pooled features"):
        DataDistortionGuided().setup(TASK, network)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"weight": -1.0}, "weight must be in"),
        ({"discrepancy": math.nan}, "discrepancy must be in"),
    ],
)
def test_values_outside_their_range_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        DataDistortionGuided(**values)
