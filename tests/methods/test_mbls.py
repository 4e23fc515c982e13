"""MbLS against the authors' numbers and cases worked by hand."""

import json
import math

import pytest
import torch
from sdbench.methods.mbls import MarginLabelSmoothing, margin_penalty

PROGRESS = torch.tensor(0.0)


@pytest.mark.golden
def test_every_golden_case(matches, leaf, logits_network, logits_batch, golden_matches):
    arrays, found = golden_matches("wide/mbls.npz", r"(.+)\.official_(loss|ce|margin_meanNK|grad_logits)_(f32|f64)")
    assert {match[2] for match in found} == {"loss", "ce", "margin_meanNK", "grad_logits"}
    for match in found:
        case, precision = match[1], match[3]
        args = json.loads(str(arrays[f"{case}.args"]))
        logits = leaf(arrays[f"{case}.logits"], precision)
        num_classes, margin = logits.shape[1], args["margin"]
        batch = logits_batch(logits, torch.from_numpy(arrays[f"{case}.labels"]))
        assert args["alpha"] / num_classes == pytest.approx(args["alpha_sumK"])
        method = MarginLabelSmoothing(weight=args["alpha"] / num_classes, margin=margin)
        terms = method.loss(logits_network, batch, PROGRESS)
        loss, mean = sum(terms.values()), margin_penalty(logits, margin) / num_classes
        loss.backward()
        ours = {"loss": loss, "ce": terms["ce"], "margin_meanNK": mean, "grad_logits": logits.grad}
        matches(ours[match[2]], arrays[match[0]], precision, match[0])


def test_by_hand():
    # Distances (0, 1, 5) and (0, 0, 2.5) beyond a margin of 2: 3 and 0.5.
    logits = torch.tensor([[4.0, 3.0, -1.0], [1.0, 1.0, -1.5]], dtype=torch.float64, requires_grad=True)
    penalty = margin_penalty(logits, 2.0)
    penalty.backward()
    assert penalty.item() == 3.5 / 2
    assert logits.grad[0].tolist() == [0.5, 0.0, -0.5]
    assert logits.grad[1, 2].item() == -0.5
    assert logits.grad[1, :2].sum().item() == 0.5


def test_without_a_margin_it_is_the_distance_from_the_largest():
    logits = torch.randn(5, 7, dtype=torch.float64)
    expected = 7 * (logits.amax(1) - logits.mean(1)).mean()
    torch.testing.assert_close(margin_penalty(logits, 0.0), expected)
    torch.testing.assert_close(margin_penalty(logits + 3.0, 0.0), expected)


@pytest.mark.parametrize("size", [1, 3])
def test_the_class_weighs_it(size, logits_network, logits_batch):
    logits, labels = torch.tensor([[8.0, 0.0]] * size).bfloat16(), torch.zeros(size, dtype=torch.int64)
    terms = MarginLabelSmoothing(weight=0.5, margin=6.0).loss(logits_network, logits_batch(logits, labels), PROGRESS)
    assert terms["margin"].item() == 0.5 * 2
    assert terms["margin"].dtype == torch.float32
    assert terms["ce"].item() == pytest.approx(math.log1p(math.exp(-8)), rel=1e-4)


def test_without_weight_it_is_cross_entropy_to_the_bit(is_cross_entropy):
    method = MarginLabelSmoothing(**MarginLabelSmoothing.neutral, margin=0.1)
    is_cross_entropy(method)


@pytest.mark.parametrize("key", ["weight", "margin"])
@pytest.mark.parametrize("value", [-0.1, math.inf, math.nan])
def test_values_outside_their_range_are_refused(key, value):
    with pytest.raises(ValueError, match=rf"{key} must be in \[0, infinity\)"):
        MarginLabelSmoothing(**{key: value})
