"""The confidence penalty against reference numbers, two public versions, and cases worked by hand."""

import json
import math

import pytest
import torch
from sdbench.methods.confidence_penalty import ConfidencePenalty, mean_entropy

PROGRESS = torch.tensor(0.0)


@pytest.mark.golden
def test_every_golden_case(matches, leaf, logits_network, logits_batch, golden_matches):
    """``meanNK`` arrays are of code that averages over the K classes: beta / K here. It also clamps
    p at eps, which moves each entry of p log p by up to -eps log eps."""
    pattern = r"(.+)\.(?:selfkdlib_beta([0-9.]+)_|official_|)(sumK|meanNK)_(loss|ce|entropy|grad_logits)_(f32|f64)"
    arrays, found = golden_matches("wide/confidence_penalty.npz", pattern)
    assert {(m[3], m[4]) for m in found} >= {("sumK", term) for term in ("loss", "entropy", "grad_logits")}
    for match in found:
        case, precision = match[1], match[5]
        logits = leaf(arrays[f"{case}.logits"], precision)
        share = 1 / logits.shape[1] if match[3] == "meanNK" else 1
        args = json.loads(str(arrays[f"{case}.args"]))
        beta = float(match[2] or args["beta"]) * share
        batch = logits_batch(logits, torch.from_numpy(arrays[f"{case}.labels"]))
        terms = ConfidencePenalty(beta=beta).loss(logits_network, batch, PROGRESS)
        loss = sum(terms.values())
        loss.backward()
        ours = {"loss": loss, "ce": terms["ce"], "entropy": mean_entropy(logits) * share, "grad_logits": logits.grad}
        if (match[3], match[4]) == ("meanNK", "entropy"):
            expected = pytest.approx(float(arrays[match[0]]), rel=1e-5, abs=-args["eps"] * math.log(args["eps"]))
            assert ours["entropy"].item() == expected, match[0]
        else:
            matches(ours[match[4]], arrays[match[0]], precision, match[0])


def test_entropy_by_hand():
    # Rows with p = (1/2, 1/4, 1/4) and (1/3, 1/3, 1/3).
    logits = torch.tensor([[math.log(2), 0.0, 0.0], [7.0, 7.0, 7.0]], dtype=torch.float64)
    expected = (1.5 * math.log(2) + math.log(3)) / 2
    assert mean_entropy(logits).item() == pytest.approx(expected, rel=1e-12)


def test_certain_predictions_have_no_entropy_and_finite_gradients():
    logits = torch.tensor([[1000.0, 0.0, -1000.0]], requires_grad=True)
    entropy = mean_entropy(logits)
    entropy.backward()
    assert entropy.item() == 0
    assert torch.equal(logits.grad, torch.zeros(1, 3))


def test_gradient_by_hand():
    # dH/dz_k = -p_k (log p_k + H); two classes with p = (3/4, 1/4).
    logits = torch.tensor([[math.log(3), 0.0]], dtype=torch.float64, requires_grad=True)
    mean_entropy(logits).backward()
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    expected = [[-0.75 * (math.log(0.75) + entropy), -0.25 * (math.log(0.25) + entropy)]]
    torch.testing.assert_close(logits.grad, torch.tensor(expected, dtype=torch.float64))


def test_it_rewards_entropy(logits_network, logits_batch):
    batch = logits_batch(torch.zeros(3, 4).bfloat16(), torch.tensor([0, 1, 2]))
    terms = ConfidencePenalty(beta=0.5).loss(logits_network, batch, PROGRESS)
    assert terms["ce"].item() == pytest.approx(math.log(4))
    assert terms["entropy"].item() == pytest.approx(-0.5 * math.log(4))


def test_without_beta_it_is_cross_entropy_to_the_bit(is_cross_entropy):
    method = ConfidencePenalty(**ConfidencePenalty.neutral)
    is_cross_entropy(method)


@pytest.mark.parametrize("beta", [-0.1, math.inf, math.nan])
def test_beta_outside_its_range_is_refused(beta):
    with pytest.raises(ValueError, match=r"beta must be in \[0, infinity\)"):
        ConfidencePenalty(beta=beta)
