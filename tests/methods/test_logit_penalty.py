"""The logit penalty against public code's numbers and cases worked by hand."""

import json
import math

import pytest
import torch
from sdbench.methods.logit_penalty import LogitPenalty, logit_norm_penalty

PROGRESS = torch.tensor(0.0)


@pytest.mark.golden
def test_every_golden_case(matches, leaf, logits_network, logits_batch, golden_matches):
    arrays, found = golden_matches("wide/logit_penalty.npz", r"(.+)\.official_(loss|grad_logits)_(f32|f64)")
    assert {match[2] for match in found} == {"loss", "grad_logits"}
    for match in found:
        case, precision = match[1], match[3]
        args = json.loads(str(arrays[f"{case}.args"]))
        logits = leaf(arrays[f"{case}.logits"], precision)
        batch = logits_batch(logits, torch.from_numpy(arrays[f"{case}.labels"]))
        terms = LogitPenalty(beta=args["beta"]).loss(logits_network, batch, PROGRESS)
        loss = args["weight"] * sum(terms.values())
        loss.backward()
        matches(loss if match[2] == "loss" else logits.grad, arrays[match[0]], precision, match[0])


def test_by_hand():
    logits = torch.tensor([[3.0, -4.0], [0.0, 1.0]], dtype=torch.float64, requires_grad=True)
    penalty = logit_norm_penalty(logits)
    penalty.backward()
    assert penalty.item() == (25 + 1) / 4
    assert torch.equal(logits.grad, logits.detach() / 2)


def test_the_class_weighs_it(logits_network, logits_batch):
    batch = logits_batch(torch.full((3, 4), 2.0).bfloat16(), torch.tensor([0, 1, 2]))
    terms = LogitPenalty(beta=0.5).loss(logits_network, batch, PROGRESS)
    assert terms["ce"].item() == pytest.approx(math.log(4))
    assert terms["penalty"].item() == 0.5 * 16 / 2
    assert terms["penalty"].dtype == torch.float32


def test_without_beta_it_is_cross_entropy_to_the_bit(is_cross_entropy):
    method = LogitPenalty(**LogitPenalty.neutral)
    is_cross_entropy(method)


@pytest.mark.parametrize("beta", [-0.1, math.inf, math.nan])
def test_beta_outside_its_range_is_refused(beta):
    with pytest.raises(ValueError, match=r"beta must be in \[0, infinity\)"):
        LogitPenalty(beta=beta)
