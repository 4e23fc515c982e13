"""Reliability diagrams from the logits that trials keep. NumPy only; the bins are those of ``sdbench.evaluate``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.floating]
    Integers = NDArray[np.integer]

BINS = 15
"""As many as the calibration error that boards show has; a test compares the two."""

_ROWS = 4096
"""Samples worked on at a time, which bounds memory."""


@dataclass(frozen=True)
class Reliability:
    """Sums over the samples of one or more test sets, in equal bins (lo, hi] of the predicted class's confidence.

    counts: samples per bin. confidence, hits: sums of the confidences and of the correct predictions per bin.
    trials: how many test sets were pooled.
    """

    counts: tuple[int, ...]
    confidence: tuple[float, ...]
    hits: tuple[int, ...]
    trials: int = 1

    @property
    def total(self) -> int:
        return sum(self.counts)

    @property
    def ece(self) -> float:
        """sum_b |hits_b - confidence_b| / V over the pooled samples, in [0, 1]."""
        return sum(abs(h - c) for h, c in zip(self.hits, self.confidence, strict=True)) / max(1, self.total)

    def accuracy_at(self, b: int) -> float | None:
        """The share of correct predictions in bin b; None where it is empty."""
        return self.hits[b] / self.counts[b] if self.counts[b] else None

    def confidence_at(self, b: int) -> float | None:
        """The mean confidence in bin b; None where it is empty."""
        return self.confidence[b] / self.counts[b] if self.counts[b] else None


def reliability(logits: Floats, labels: Integers, bins: int = BINS) -> Reliability:
    """The diagram of logits [V, K] and labels [V] in [0, K).

    The confidence is the largest softmax probability; of equal logits the lowest index is predicted. Confidences and
    edges are compared in float32 (float64 for float64 logits), as ``sdbench.evaluate.calibration_error`` does.
    Raises ValueError for wrong shapes, labels out of range and logits that are not finite.
    """
    import numpy as np

    if logits.ndim != 2 or not len(logits) or logits.shape[1] < 2 or labels.shape != logits.shape[:1]:
        raise ValueError(f"need logits [V, K] and labels [V], got {list(logits.shape)} and {list(labels.shape)}")
    if int(labels.min()) < 0 or int(labels.max()) >= logits.shape[1]:
        raise ValueError(f"labels must lie in [0, {logits.shape[1]})")
    kind: np.dtype[np.floating] = np.dtype(np.float64) if logits.dtype == np.float64 else np.dtype(np.float32)
    edges = bin_edges(bins, kind)
    counts, hits = np.zeros(bins, dtype=np.int64), np.zeros(bins, dtype=np.int64)
    sums = np.zeros(bins)
    for start in range(0, len(logits), _ROWS):
        z, y = logits[start : start + _ROWS].astype(kind), labels[start : start + _ROWS]
        if not np.isfinite(z).all():
            raise ValueError("the logits are not all finite")
        with np.errstate(over="ignore"):  # logits further apart than the type reaches: the lower one counts nothing
            confidence = 1 / np.exp(z - z.max(axis=1, keepdims=True)).sum(axis=1, dtype=kind)
        where = np.clip(np.searchsorted(edges, confidence) - 1, 0, bins - 1)
        correct = z.argmax(axis=1) == y
        counts += np.bincount(where, minlength=bins)
        hits += np.bincount(where[correct], minlength=bins)
        sums += np.bincount(where, weights=confidence.astype(np.float64), minlength=bins)
    return Reliability(tuple(map(int, counts)), tuple(map(float, sums)), tuple(map(int, hits)))


def bin_edges(bins: int, kind: np.dtype[np.floating]) -> Floats:
    """0, 1/bins, ..., 1 as ``torch.linspace`` has them: steps from 0 in the lower half, from 1 in the upper, in float32
    rounded once at the end, in float64 to the last bit or one beside it."""
    import numpy as np

    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    i = np.arange(bins + 1)
    step = np.float64(kind.type(1) / kind.type(bins))
    edges: Floats = np.where(i < (bins + 1) // 2, i * step, 1 - (bins - i) * step).astype(kind)
    return edges


def pooled(found: Sequence[Reliability]) -> Reliability:
    """The diagram of all samples together, each test set with its own network. Raises ValueError for none."""
    if not found or len({len(r.counts) for r in found}) > 1:
        raise ValueError("need diagrams of equally many bins")
    return Reliability(
        tuple(map(sum, zip(*(r.counts for r in found), strict=True))),
        tuple(map(sum, zip(*(r.confidence for r in found), strict=True))),
        tuple(map(sum, zip(*(r.hits for r in found), strict=True))),
        sum(r.trials for r in found),
    )
