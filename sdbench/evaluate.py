"""Metrics of a classifier's logits on a test set: pure functions, ``evaluate`` puts them together.

Notation: logits z [V, K], labels y [V] int64 in [0, K), V >= 1, K >= 2; p = softmax(z); the confidence
c_n = max_k p_nk; e_n = 1 where argmax_k z_nk != y_n, else 0. Where several classes share the largest
logit, the one with the lowest index is predicted. Logits of any floating dtype, on any device; sums are
taken in float64. Every function raises ValueError for wrong shapes, labels out of range, and logits that
are not finite.

Why not torchmetrics: its calibration error uses bins [lo, hi), puts a confidence of exactly 1 into a bin
of its own, takes logits that happen to lie in [0, 1] for probabilities, and works in float32; its top-k
accuracy leaves ties to ``topk``, so that top-5 can be *lower* than top-1 (bfloat16 logits do tie), and
needs several [V, K] integer tensors. The tests compare with it where the two definitions agree.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sdbench.losses import full_precision
from sdbench.spec import Metrics

BINS = 15
"""Bins of the calibration error that a board shows."""

_CHUNK = 2**22
"""Logits worked on at a time, so that a large test set needs no float64 copy of itself."""


@dataclass(frozen=True, slots=True)
class _Samples:
    """Per sample: rank of the label [V] (0 is the prediction), -log p_y, sum_k (p - onehot)^2, and the
    confidence twice, in float64 and in the logits' own precision."""

    rank: Tensor
    nll: Tensor
    brier: Tensor
    confidence: Tensor
    own_confidence: Tensor

    @property
    def wrong(self) -> Tensor:
        return (self.rank > 0).double()


def evaluate(logits: Tensor, labels: Tensor, temperature: float = 1.0) -> Metrics:
    """All metrics of a board, in one pass. top5 counts the label among min(5, K) classes.

    temperature: in (0, inf), p = softmax(z / temperature); it touches neither top1 nor top5. Raises ValueError
    for others.
    """
    samples = _samples(logits, labels, temperature)
    return Metrics(
        top1=_top_k(samples, 1),
        top5=_top_k(samples, 5),
        nll=samples.nll.mean().item(),
        ece=_calibration_error(samples, BINS),
        brier=samples.brier.mean().item(),
        aurc=_aurc(samples),
        eaurc=_aurc(samples) - _lowest_aurc(samples),
    )


def top_k_accuracy(logits: Tensor, labels: Tensor, k: int) -> float:
    """Share of samples whose label is among the k classes with the largest logits, in [0, 1].

    1 where k >= K. Equal logits are ordered by class index, so that the result is the same on every
    device and never falls as k grows. Raises ValueError for k < 1.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    return _top_k(_samples(logits, labels), k)


def nll(logits: Tensor, labels: Tensor) -> float:
    """Negative log-likelihood, -(1/V) sum_n log p_{n,y_n}, in nats, >= 0."""
    return _samples(logits, labels).nll.mean().item()


def calibration_error(logits: Tensor, labels: Tensor, bins: int = BINS) -> float:
    """Expected calibration error of the predicted class, in [0, 1] (Naeini et al. 2015; Guo et al. 2017).

    sum_b |sum_{n in b} ((1 - e_n) - c_n)| / V over ``bins`` >= 1 equal bins (lo, hi] of [0, 1]. As in
    torrvision/focal_calibration@475422a, confidences and bin edges are compared in the logits' own
    precision (float32 at least): on an edge, such as 1/3 for three equal logits, only that is exact.
    """
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    return _calibration_error(_samples(logits, labels), bins)


def brier(logits: Tensor, labels: Tensor) -> float:
    """Brier score (1/V) sum_n sum_k (p_nk - [k = y_n])^2, in [0, 2]: summed over classes."""
    return _samples(logits, labels).brier.mean().item()


def aurc(logits: Tensor, labels: Tensor) -> float:
    """Area under the risk-coverage curve, in [0, 1] (Geifman et al., https://arxiv.org/abs/1805.08206).

    Samples sorted by decreasing confidence; (1/V) sum_i (e_1 + ... + e_i) / i, the mean error rate among
    the i most confident. Equal confidences (in float64) keep the order in which they were given.
    """
    return _aurc(_samples(logits, labels))


def excess_aurc(logits: Tensor, labels: Tensor) -> float:
    """AURC minus that of a perfect ranking of the same errors, (1/V) sum_{i=1}^{m} i / (V - m + i) with m
    errors; >= 0 up to rounding, 0 where every error is less confident than every hit."""
    samples = _samples(logits, labels)
    return _aurc(samples) - _lowest_aurc(samples)


def _top_k(samples: _Samples, k: int) -> float:
    return (samples.rank < k).double().mean().item()


def _calibration_error(samples: _Samples, bins: int) -> float:
    confidence = samples.own_confidence
    edges = torch.linspace(0, 1, bins + 1, dtype=confidence.dtype, device=confidence.device)
    # The number of edges below c, less one, is the index b of (edge_b, edge_{b+1}].
    index = (torch.bucketize(confidence, edges) - 1).clamp(0, bins - 1)
    gap = 1 - samples.wrong - confidence.double()
    totals = torch.zeros(bins, dtype=torch.float64, device=gap.device).index_add_(0, index, gap)
    return min(1.0, totals.abs().sum().item() / len(gap))


def _aurc(samples: _Samples) -> float:
    order = samples.confidence.argsort(descending=True, stable=True)
    errors = samples.wrong[order].cumsum(0)
    return (errors / torch.arange(1, len(errors) + 1, device=errors.device)).mean().item()


def _lowest_aurc(samples: _Samples) -> float:
    total = len(samples.rank)
    count = int(samples.wrong.sum().item())
    i = torch.arange(1, count + 1, dtype=torch.float64)
    return (i / (total - count + i)).sum().item() / total


def blocks(logits: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Consecutive rows of logits [V, K] with their labels [V], checked; raises ValueError as said above."""
    if logits.dim() != 2 or len(logits) < 1 or logits.shape[1] < 2 or labels.shape != logits.shape[:1]:
        raise ValueError(
            f"need logits [V, K] with V >= 1, K >= 2 and labels [V], got {list(logits.shape)} and {list(labels.shape)}"
        )
    if int(labels.min()) < 0 or int(labels.max()) >= logits.shape[1]:
        raise ValueError(f"labels must lie in [0, {logits.shape[1]})")
    rows = max(1, _CHUNK // logits.shape[1])
    for z, y in zip(torch.split(logits, rows), torch.split(labels, rows), strict=True):
        if not bool(z.isfinite().all()):
            raise ValueError("the logits are not all finite")
        yield z, y


@torch.no_grad()
def _samples(logits: Tensor, labels: Tensor, temperature: float = 1.0) -> _Samples:
    """What all metrics are made of, a block of rows at a time."""
    if not 0 < temperature < math.inf:
        raise ValueError(f"the temperature must be positive and finite, got {temperature}")
    found = [_block(z, y, temperature) for z, y in blocks(logits, labels)]
    return _Samples(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def _block(logits: Tensor, labels: Tensor, temperature: float) -> tuple[Tensor, ...]:
    """The fields of ``_Samples`` for a block of rows."""
    label = labels[:, None]
    own = logits.gather(1, label)
    before = torch.arange(logits.shape[1], device=logits.device) < label
    rank = ((logits > own) | ((logits == own) & before)).sum(1)  # not of the quotients, which rounding may make equal
    log_p = _divided(logits.double(), temperature).log_softmax(1)
    log_p_label = log_p.gather(1, label).squeeze(1)
    p = log_p.exp_()
    # sum_k (p_k - [k = y])^2 without a one-hot [V, K]
    score = p.square().sum(1) - p.gather(1, label).squeeze(1).mul(2) + 1
    own_confidence = _divided(full_precision(logits), temperature).softmax(1).amax(1)
    return rank, 0.0 - log_p_label, score.clamp(0, 2), p.amax(1), own_confidence


def _divided(logits: Tensor, temperature: float) -> Tensor:
    """Logits with the same softmax as z / temperature, the largest of each row 0, so that no quotient overflows
    upwards; at temperature 1 the logits themselves."""
    return logits if temperature == 1 else (logits - logits.amax(1, keepdim=True)) / temperature
