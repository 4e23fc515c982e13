"""Cross-entropy against the authors' numbers and cases worked by hand."""

import math

import pytest
import torch
from sdbench.methods.cross_entropy import CrossEntropy

from sdbench import Output, get
from sdbench.registry import baseline_name, core_names

PROGRESS = torch.tensor(0.0)


@pytest.mark.golden
def test_every_golden_case(golden, matches, leaf, logits_network, logits_batch):
    arrays = golden("ce_ls.npz")
    cases = [key.removesuffix("_logits") for key in arrays if key.endswith("_logits")]
    assert cases
    for case in cases:
        for precision in ("f32", "f64"):
            logits = leaf(arrays[f"{case}_logits"], precision)
            batch = logits_batch(logits, torch.from_numpy(arrays[f"{case}_labels"]))
            terms = CrossEntropy().loss(logits_network, batch, PROGRESS)
            terms["ce"].backward()
            matches(terms["ce"], arrays[f"{case}_ce_{precision}"], precision, case)
            matches(logits.grad, arrays[f"{case}_ce_grad_{precision}"], precision, f"{case} gradient")


def test_by_hand(logits_network, logits_batch):
    # p = (1/4, 3/4) and (1/2, 1/2); labels 1 and 0.
    logits = torch.tensor([[0.0, math.log(3)], [0.0, 0.0]])
    terms = CrossEntropy().loss(logits_network, logits_batch(logits, torch.tensor([1, 0])), PROGRESS)
    assert list(terms) == ["ce"]
    assert terms["ce"].item() == pytest.approx((math.log(4 / 3) + math.log(2)) / 2)


def test_low_precision_logits_are_cast_up(logits_batch):
    logits = torch.randn(4, 7).bfloat16()
    terms = CrossEntropy().criterion(
        Output(logits, logits[:, :0], ()), logits_batch(logits, torch.tensor([0, 1, 2, 3])), PROGRESS
    )
    assert terms["ce"].dtype == torch.float32
    by_hand = -torch.log_softmax(logits.double(), 1)[range(4), range(4)].mean()
    assert terms["ce"].item() == pytest.approx(by_hand.item(), rel=1e-6)


def test_it_is_the_one_baseline():
    assert get("ce") is CrossEntropy
    assert baseline_name() == "ce"
    assert core_names() == ["ce", "byot", "cskd", "ls", "pskd", "zipf"]
    assert not list(CrossEntropy().parameters())
    assert not list(CrossEntropy().buffers())
