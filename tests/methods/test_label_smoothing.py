"""Label smoothing against the authors' numbers, torch's own, and cases worked by hand."""

import math
import re

import pytest
import torch
import torch.nn.functional as F
from sdbench.methods.label_smoothing import LabelSmoothing, label_smoothing_loss

PROGRESS = torch.tensor(0.0)


@pytest.mark.golden
def test_every_golden_case(golden, matches, leaf):
    arrays = golden("ce_ls.npz")
    pattern = re.compile(r"(.+)_ls([0-9.e+-]+)_(zipfls|skdlib|torchbuiltin|torchbuiltin_eqv)_(grad_)?(f32|f64)")
    found = [match for match in map(pattern.fullmatch, arrays) if match]
    assert {bool(match[4]) for match in found} == {True, False}  # values and gradients
    for match in found:
        case, source, precision = match[1], match[3], match[5]
        logits = leaf(arrays[f"{case}_logits"], precision)
        smoothing, num_classes = float(match[2]), logits.shape[1]
        if source == "torchbuiltin_eqv":
            smoothing *= num_classes / (num_classes - 1)
        spread = "all" if source.startswith("torchbuiltin") else "others"
        loss = label_smoothing_loss(logits, torch.from_numpy(arrays[f"{case}_labels"]), smoothing, spread)
        loss.backward()
        matches(logits.grad if match[4] else loss, arrays[match[0]], precision, match[0])


def test_by_hand():
    # p = (1/2, 1/4, 1/4), label 0; s = 0.3.
    logits = torch.tensor([[math.log(2), 0.0, 0.0]], dtype=torch.float64)
    label = torch.tensor([0])
    of_all = 0.8 * math.log(2) + 0.1 * math.log(4) * 2
    of_others = 0.7 * math.log(2) + 0.15 * math.log(4) * 2
    assert label_smoothing_loss(logits, label, 0.3).item() == pytest.approx(of_all, rel=1e-12)
    assert label_smoothing_loss(logits, label, 0.3, "others").item() == pytest.approx(of_others, rel=1e-12)


@pytest.mark.parametrize("classes", [2, 3, 50])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7])
def test_spread_over_all_classes_is_torchs(classes, smoothing):
    logits = torch.randn(9, classes, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(classes, (9,))
    ours = label_smoothing_loss(logits, labels, smoothing)
    torchs = F.cross_entropy(logits, labels, label_smoothing=smoothing)
    torch.testing.assert_close(ours, torchs, rtol=1e-12, atol=0)
    (mine,), (theirs,) = (torch.autograd.grad(loss, logits) for loss in (ours, torchs))
    torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-14)


def test_others_with_all_mass_but_the_labels_share_is_uniform_there():
    # Two classes, s = 0.9 on the other: cross-entropy of (0.1, 0.9).
    logits = torch.tensor([[0.4, -1.0]], dtype=torch.float64)
    log_p = torch.log_softmax(logits, 1)[0]
    expected = -(0.1 * log_p[0] + 0.9 * log_p[1])
    torch.testing.assert_close(label_smoothing_loss(logits, torch.tensor([0]), 0.9, "others"), expected)


@pytest.mark.parametrize("spread", ["all", "others"])
def test_without_smoothing_it_is_cross_entropy_to_the_bit(spread, logits_network, logits_batch):
    logits = torch.randn(33, 10, requires_grad=True)
    labels = torch.randint(10, (33,))
    method = LabelSmoothing(**LabelSmoothing.neutral, spread=spread)
    terms = method.loss(logits_network, logits_batch(logits, labels), PROGRESS)
    plain = F.cross_entropy(logits, labels)
    assert torch.equal(sum(terms.values()), plain)
    assert torch.equal(*(torch.autograd.grad(loss, logits)[0] for loss in (terms["ce"], plain)))


def test_the_class_passes_on_its_convention(logits_network, logits_batch):
    logits, labels = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    batch = logits_batch(logits, labels)
    one, other = (
        LabelSmoothing(smoothing=0.2, spread=s).loss(logits_network, batch, PROGRESS) for s in ("all", "others")
    )
    assert one["ce"].item() == pytest.approx(F.cross_entropy(logits, labels, label_smoothing=0.2).item())
    assert other["ce"].item() == pytest.approx(F.cross_entropy(logits, labels, label_smoothing=0.3).item())


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, math.nan])
def test_smoothing_outside_its_range_is_refused(smoothing):
    with pytest.raises(ValueError, match=r"smoothing must be in \[0, 1\)"):
        LabelSmoothing(smoothing=smoothing)


def test_unknown_spread_is_refused():
    with pytest.raises(ValueError, match="spread must be 'all' or 'others'"):
        LabelSmoothing(spread="some")
    with pytest.raises(ValueError, match="spread must be 'all' or 'others'"):
        label_smoothing_loss(torch.zeros(1, 2), torch.tensor([0]), 0.1, "some")
