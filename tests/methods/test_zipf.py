"""Zipf's label smoothing against the authors' numbers, SciPy's ranks and a plain formulation in NumPy."""

import math
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata
from sdbench.methods import zipf as module
from sdbench.methods.zipf import nontarget_kl, rank_logits, rank_votes, zipf_loss, zipf_targets
from torch import Tensor

NUMBER = r"([0-9.e+-]+)"


@pytest.fixture(params=["few classes", "many classes"])
def formulation(request, monkeypatch):
    """Every test that asks for this runs both formulations of the loss, whatever the number of classes."""
    monkeypatch.setattr(module, "FEW_CLASSES", 10**9 if request.param == "few classes" else 0)
    return request.param


def expected_loss(logits: Tensor, labels: Tensor, votes: Tensor, power: float, mask=None) -> float:
    """Image by image, class by class, in NumPy and float64, from the formula alone."""
    losses = []
    for n, label in enumerate(labels.tolist()):
        if mask is not None and not mask[n]:
            continue
        counts = np.bincount(votes[n].numpy(), minlength=logits.shape[1])
        others = np.arange(logits.shape[1]) != label
        weights = rankdata(-counts, "min")[others].astype(float) ** -power
        q = weights / weights.sum()
        z = logits[n].detach().double().numpy()[others]
        log_p = z - z.max() - np.log(np.exp(z - z.max()).sum())
        losses.append((q[q > 0] * np.log(q[q > 0])).sum() - (q * log_p).sum())
    return float(np.mean(losses)) if losses else 0.0


def ranks_of(arrays, case, kind, num_classes):
    if kind == "dense":
        return rank_votes(torch.from_numpy(arrays[f"{case}_votes"]), num_classes)
    return rank_logits(torch.from_numpy(arrays[f"{case}_logits"]))


@pytest.mark.golden
def test_every_golden_target(golden, matches):
    arrays = golden("zipf_targets.npz")
    pattern = re.compile(rf"(.+)_(dense|nodense)_p{NUMBER}_(target|withtarget)")
    found = [match for match in map(pattern.fullmatch, arrays) if match]
    assert {match[2] for match in found} == {"dense", "nodense"}
    for match in found:
        case, kind, power = match[1], match[2], float(match[3])
        labels, num_classes = torch.from_numpy(arrays[f"{case}_labels"]), arrays[f"{case}_logits"].shape[1]
        targets = zipf_targets(ranks_of(arrays, case, kind, num_classes), labels, power)
        if match[4] == "target":
            others = torch.arange(num_classes) != labels[:, None]
            targets = targets[others].view(len(labels), num_classes - 1)
        matches(targets, arrays[match[0]], "f32", match[0])


@pytest.mark.golden
def test_every_golden_loss(golden, matches, leaf, formulation):
    arrays = golden("zipf_targets.npz")
    pattern = re.compile(rf"(.+)_(dense|nodense)_p{NUMBER}_(loss|grad)(64)?_mask([01])")
    found = [match for match in map(pattern.fullmatch, arrays) if match]
    assert {match[2] for match in found} == {"dense", "nodense"}
    assert {match[4] for match in found} == {"loss", "grad"}
    for match in found:
        case, kind, power, precision = match[1], match[2], float(match[3]), "f64" if match[5] else "f32"
        logits, labels = leaf(arrays[f"{case}_logits"], precision), torch.from_numpy(arrays[f"{case}_labels"])
        mask = logits.argmax(1) == labels if match[6] == "1" else None
        if kind == "dense":
            loss = zipf_loss(logits, labels, torch.from_numpy(arrays[f"{case}_votes"]), power, mask=mask)
        else:
            targets = zipf_targets(rank_logits(logits.detach()), labels, power, dtype=logits.dtype)
            loss = nontarget_kl(logits, labels, targets, mask=mask)
        loss.backward()
        assert loss.dtype == logits.dtype
        matches(loss if match[4] == "loss" else logits.grad, arrays[match[0]], precision, match[0])


def test_targets_by_hand():
    votes = torch.tensor([[0, 0, 0, 1], [2, 2, 0, 1], [2, 2, 2, 2], [5, 5, 2, 2], [0, 0, 1, 1]])
    ranks = [[1, 2, 3, 3, 3, 3], [2, 2, 1, 4, 4, 4], [2, 2, 1, 2, 2, 2], [3, 3, 1, 3, 3, 1], [1, 1, 3, 3, 3, 3]]
    assert rank_votes(votes, 6).tolist() == ranks
    targets = zipf_targets(torch.tensor(ranks), torch.full((5,), 2), 1.0, dtype=torch.float64)
    expected = torch.tensor(
        [
            [6 / 15, 3 / 15, 0, 2 / 15, 2 / 15, 2 / 15],
            [2 / 7, 2 / 7, 0, 1 / 7, 1 / 7, 1 / 7],
            [1 / 5, 1 / 5, 0, 1 / 5, 1 / 5, 1 / 5],
            [1 / 7, 1 / 7, 0, 1 / 7, 1 / 7, 3 / 7],
            [1 / 3, 1 / 3, 0, 1 / 9, 1 / 9, 1 / 9],
        ],
        dtype=torch.float64,
    )
    torch.testing.assert_close(targets, expected)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 12), st.integers(0, 20), st.integers(0, 2**31))
def test_ranks_of_votes_are_scipys(num_classes, positions, seed):
    generator = torch.Generator().manual_seed(seed)
    votes = torch.randint(num_classes, (5, positions), generator=generator)
    counts = np.stack([np.bincount(row, minlength=num_classes) for row in votes.numpy()])
    ranks = rank_votes(votes, num_classes)
    assert ranks.dtype == torch.int64
    np.testing.assert_array_equal(ranks.numpy(), rankdata(-counts, "min", axis=1))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 15), st.integers(1, 6), st.integers(0, 2**31))
def test_ranks_of_logits_are_scipys(num_classes, distinct, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randint(-distinct, distinct, (4, num_classes), generator=generator) / 2  # many ties
    ranks = rank_logits(logits)
    assert ranks.dtype == torch.int64
    np.testing.assert_array_equal(ranks.numpy(), rankdata(-logits.numpy(), "min", axis=1))


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 3.0, 40.0, 1e4])
def test_rows_of_targets_sum_to_one_and_leave_out_the_label(power):
    votes, labels = torch.randint(30, (8, 16)), torch.randint(30, (8,))
    votes[0] = labels[0]  # every vote for the label
    targets = zipf_targets(rank_votes(votes, 30), labels, power)
    torch.testing.assert_close(targets.sum(1), torch.ones(8))
    assert targets.min() >= 0
    assert (targets[range(8), labels] == 0).all()
    torch.testing.assert_close(targets[0], (torch.arange(30) != labels[0]) / 29)


@pytest.mark.parametrize("positions", [1, 4, 49])
@pytest.mark.parametrize("num_classes", [2, 3, 10, 150])
@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.5, 12.0])
def test_loss_against_numpy(formulation, num_classes, positions, power):
    generator = torch.Generator().manual_seed(num_classes * 1000 + positions)
    logits = 4 * torch.randn(9, num_classes, generator=generator, dtype=torch.float64)
    labels = torch.randint(num_classes, (9,), generator=generator)
    votes = torch.randint(num_classes, (9, positions), generator=generator)
    votes[0] = labels[0]
    votes[1] = (labels[1] + 1) % num_classes
    some = torch.rand(9, generator=generator) > 0.5
    for mask in (None, some, ~some, torch.zeros(9, dtype=torch.bool), torch.ones(9, dtype=torch.bool)):
        expected = expected_loss(logits, labels, votes, power, mask)
        double = zipf_loss(logits, labels, votes, power, mask=mask)
        single = zipf_loss(logits.float(), labels, votes, power, mask=mask)
        assert (double.dtype, single.dtype) == (torch.float64, torch.float32)
        assert double.item() == pytest.approx(expected, rel=1e-10, abs=1e-12)
        assert single.item() == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_extreme_powers_stay_finite(formulation):
    logits, labels = torch.randn(3, 20, requires_grad=True), torch.tensor([0, 1, 2])
    votes = torch.tensor([[0, 0, 5, 5, 7], [1, 1, 1, 1, 1], [3, 3, 4, 2, 2]])
    loss = zipf_loss(logits, labels, votes, 1e6)
    loss.backward()
    # All mass on the best-ranked other classes: 5; the 19 that nobody voted for; 3.
    log_p = [F.log_softmax(logits.detach()[n, torch.arange(20) != n].double(), 0) for n in range(3)]
    rows = [-log_p[0][4], -log_p[1].mean() - math.log(19), -log_p[2][2]]
    assert loss.item() == pytest.approx(float(sum(rows)) / 3, rel=1e-5)
    assert logits.grad.isfinite().all()


def test_two_classes_leave_nothing_to_learn(formulation):
    logits = torch.randn(5, 2, requires_grad=True)
    loss = zipf_loss(logits, torch.tensor([0, 1, 0, 1, 1]), torch.randint(2, (5, 16)), 1.0)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert logits.grad.abs().max() < 1e-6


@pytest.mark.parametrize("masked", [False, True])
def test_gradient_is_exact(formulation, masked):
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(5, 11, generator=generator, dtype=torch.float64, requires_grad=True)
    labels, votes = torch.tensor([0, 3, 3, 10, 5]), torch.randint(11, (5, 7), generator=generator)
    votes[0], votes[1] = 0, 4
    mask = torch.tensor([True, False, True, True, False]) if masked else None
    assert torch.autograd.gradcheck(lambda z: zipf_loss(z, labels, votes, 1.3, mask=mask), logits)
    zipf_loss(logits, labels, votes, 1.3, mask=mask).backward()
    assert (logits.grad[range(5), labels] == 0).all()
    # (softmax without the label - q) / N, from the definition.
    kept = torch.ones(5, dtype=torch.bool) if mask is None else mask
    p = torch.where(torch.arange(11) == labels[:, None], -math.inf, logits.detach()).softmax(1)
    q = zipf_targets(rank_votes(votes, 11), labels, 1.3, dtype=torch.float64)
    torch.testing.assert_close(logits.grad, (p - q) * kept[:, None] / kept.sum())


def test_gradient_scales_with_what_follows(formulation):
    logits, labels, votes = torch.randn(4, 9, requires_grad=True), torch.tensor([0, 1, 2, 3]), torch.randint(9, (4, 6))
    (once,) = torch.autograd.grad(zipf_loss(logits, labels, votes, 1.0), logits)
    (scaled,) = torch.autograd.grad(-2.5 * zipf_loss(logits, labels, votes, 1.0), logits)
    torch.testing.assert_close(scaled, -2.5 * once)


def test_one_softmax_gives_cross_entropy_too(formulation):
    logits = (6 * torch.randn(7, 200, dtype=torch.float64)).requires_grad_()
    labels, votes = logits.argmax(1), torch.randint(200, (7, 16))
    labels[3:] = torch.arange(4)
    ours, _ = module._both_terms(logits, labels, votes, 1.0, None)
    torchs = F.cross_entropy(logits, labels)
    torch.testing.assert_close(ours, torchs, rtol=1e-12, atol=0)
    torch.testing.assert_close(
        *(torch.autograd.grad(loss, logits)[0] for loss in (ours, torchs)), rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize("logit", [1e4, 3e37])
def test_huge_logits_stay_finite(formulation, logit):
    logits = torch.zeros(2, 6)
    logits[0, 1], logits[1, 3] = logit, -logit
    logits.requires_grad_()
    loss = zipf_loss(logits, torch.tensor([1, 1]), torch.tensor([[1, 2], [2, 2]]), 1.0)
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


def test_low_precision_logits_are_cast_up(formulation):
    logits = torch.randn(4, 20).bfloat16()
    labels, votes = torch.tensor([0, 1, 2, 3]), torch.randint(20, (4, 9))
    loss = zipf_loss(logits, labels, votes, 1.0)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected_loss(logits, labels, votes, 1.0), rel=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.parametrize("masked", [False, True])
def test_it_compiles_into_one_graph(formulation, masked):
    logits, labels, votes = (
        torch.randn(4, 300, requires_grad=True),
        torch.tensor([0, 1, 2, 3]),
        torch.randint(9, (4, 6)),
    )
    mask = torch.tensor([True, False, True, True]) if masked else None
    torch.compiler.reset()
    compiled = torch.compile(zipf_loss, fullgraph=True)(logits, labels, votes, 1.0, mask=mask)
    eager = zipf_loss(logits, labels, votes, 1.0, mask=mask)
    torch.testing.assert_close(compiled, eager)
    torch.testing.assert_close(*(torch.autograd.grad(loss, logits)[0] for loss in (compiled, eager)))
