"""MaxSup against the authors' numbers, both of their schedules, and cases worked by hand."""

import json
import math

import pytest
import torch
import torch.nn.functional as F
from sdbench.methods.maxsup import MaxSuppression, max_suppression

from sdbench import Task

PROGRESS = torch.tensor(0.0)


@pytest.mark.golden
def test_every_golden_case(matches, leaf, logits_network, logits_batch, golden_matches):
    arrays, found = golden_matches("wide/maxsup.npz", r"(.+)\.(official|longtail_script)_(loss|grad_logits)_(f32|f64)")
    assert {match[3] for match in found if match[2] == "official"} == {"loss", "grad_logits"}
    for match in found:
        case, precision = match[1], match[4]
        args = json.loads(str(arrays[f"{case}.args"]))
        begin, end, epochs = args["begin_lambda"], args["end_lambda"], args["epochs"]
        if match[2] == "longtail_script":  # from 0.1 to 0.2 at the last epoch, whatever the arguments
            begin, end = 0.1, 0.1 + 0.1 * epochs / (epochs - 1)
        logits = leaf(arrays[f"{case}.logits"], precision)
        method = MaxSuppression(begin_lambda=begin, end_lambda=end)
        method.before_epoch(args["epoch"], epochs)
        lam = args["lam_longtail" if match[2] == "longtail_script" else "lam"]
        assert method.weight.item() == pytest.approx(lam, rel=1e-6)
        batch = logits_batch(logits, torch.from_numpy(arrays[f"{case}.labels"]))
        loss = sum(method.loss(logits_network, batch, PROGRESS).values())
        loss.backward()
        matches(loss if match[3] == "loss" else logits.grad, arrays[match[0]], precision, match[0])


def test_by_hand():
    # Rows of mean 1 and -1 with largest 4 and 0.
    logits = torch.tensor([[4.0, 0.0, -1.0], [-3.0, 0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    penalty = max_suppression(logits)
    penalty.backward()
    assert penalty.item() == (3 + 1) / 2
    torch.testing.assert_close(logits.grad[0], torch.tensor([2, -1, -1], dtype=torch.float64) / 6)
    assert logits.grad[1, 0].item() == pytest.approx(-1 / 6)
    assert logits.grad[1, 1:].sum().item() == pytest.approx(1 / 6)


def test_it_is_label_smoothing_where_the_label_has_the_largest_logit(logits_network, logits_batch):
    logits = torch.randn(20, 6, dtype=torch.float64, requires_grad=True)
    labels = logits.argmax(1)
    method = MaxSuppression(begin_lambda=0.3, end_lambda=0.3)
    loss = sum(method.loss(logits_network, logits_batch(logits, labels), PROGRESS).values())
    smoothed = F.cross_entropy(logits, labels, label_smoothing=0.3)
    torch.testing.assert_close(loss, smoothed, rtol=1e-7, atol=0)
    torch.testing.assert_close(*(torch.autograd.grad(x, logits)[0] for x in (loss, smoothed)), rtol=1e-6, atol=1e-9)


def test_its_weight_grows_by_epoch_and_is_kept():
    method = MaxSuppression(begin_lambda=0.1, end_lambda=0.5)
    method.setup(Task(2, 4, 2, 4), torch.nn.Linear(1, 1))
    buffer, seen = method.weight, []
    for epoch in range(4):
        method.before_epoch(epoch, 4)
        seen.append(method.weight.item())
    assert seen == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert method.weight is buffer
    assert method.state_dict()["weight"].shape == ()
    assert not list(method.parameters())


@pytest.mark.parametrize("size", [1, 3])
def test_two_classes_in_bfloat16(size, logits_network, logits_batch):
    logits, labels = torch.tensor([[8.0, 0.0]] * size).bfloat16(), torch.zeros(size, dtype=torch.int64)
    terms = MaxSuppression(begin_lambda=0.5).loss(logits_network, logits_batch(logits, labels), PROGRESS)
    assert terms["maxsup"].item() == 2
    assert {term.dtype for term in terms.values()} == {torch.float32}


def test_without_weights_it_is_cross_entropy_to_the_bit(is_cross_entropy):
    method = MaxSuppression(**MaxSuppression.neutral)
    method.before_epoch(3, 5)
    is_cross_entropy(method)


@pytest.mark.parametrize("key", ["begin_lambda", "end_lambda"])
@pytest.mark.parametrize("value", [-0.1, math.inf, math.nan])
def test_values_outside_their_range_are_refused(key, value):
    with pytest.raises(ValueError, match=rf"{key} must be in \[0, infinity\)"):
        MaxSuppression(**{key: value})
