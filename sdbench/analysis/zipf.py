"""Do sorted softmax outputs follow Zipf's law? Liang et al. 2022, https://arxiv.org/abs/2207.12980.

The paper's observation: once a network is trained, its softmax outputs, sorted by magnitude and averaged over samples,
fall with the rank as r^-s does. Its method applies the law to the classes other than the label, so that is the default
here; the supplement (https://arxiv.org/abs/2210.14507) draws ranks 1 to 32, which are the default ranks.

Notation: m_r, r = 1..R, the averaged sorted outputs; ranks [first, last] are looked at, of which there are at least
three; q_r = m_r / sum of m over them. Two kinds of fit:

* the line log m_r = c - s log r by least squares over the ranks, each counting once: exponent s, and
  R^2 = 1 - sum (log m_r - fit)^2 / sum (log m_r - mean)^2;
* three laws on the same ranks, each fitted by its own likelihood, the maximum of sum_r q_r log f_r, which is the
  minimum of KL(q || f) = sum_r q_r log(q_r / f_r) in nats:

      Zipf            f_r ~ r^-s
      exponential     f_r ~ exp(-rate r)
      log-normal      f_r ~ (1/r) exp(-(log r - mu)^2 / (2 sigma^2))

  All are densities at whole ranks, normalized over them (discretized and truncated). Zipf and the exponential have one
  parameter and are rivals. The log-normal has two and holds Zipf's law as its limit for sigma -> infinity, so its KL is
  never the larger one; what counts is how much smaller it is. Where that limit is the best fit, mu and sigma are None.

The supplement's table 1, on softmax outputs of Gaussian logits, has KL 0.0000667 for Zipf, 0.315 for an exponential
and 0.0219 for a log-normal; it gives no conventions of the fits. Laws truncated to the ranks drawn, as here, come
closer to such data: on standard normal logits (1,000 classes, 10,000 samples, three draws) 0.00005 to 0.00006 for
Zipf, and for the log-normal, whose best fit is that limit, and 0.0136 to 0.0140 for the exponential.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

RANKS = (1, 32)
"""Ranks of the supplement's figure; cut to the number of ranks that there are."""

_CHUNK = 2**22
_BRACKET = 1e3


@dataclass(frozen=True, slots=True)
class Line:
    """The straight line through log m against log r. r_squared: None where all m are equal."""

    exponent: float
    log_constant: float
    r_squared: float | None


@dataclass(frozen=True, slots=True)
class Law:
    """A law fitted by likelihood. parameters: as in the module; kl: KL(q || law), nats. r_squared: of log q, as the
    line's, but of this law; it may be negative, and is None where all q are equal."""

    parameters: dict[str, float | None]
    kl: float
    r_squared: float | None


@dataclass(frozen=True, slots=True)
class ZipfFit:
    """All fits over ranks first..last, both ends included."""

    first: int
    last: int
    line: Line
    zipf: Law
    exponential: Law
    log_normal: Law


def sorted_outputs(logits: NDArray[Any], labels: NDArray[Any] | None = None) -> Floats:
    """Softmax outputs, sorted within each sample from the largest to the smallest and averaged over samples.

    logits: [V, K], finite, of any floating dtype; computed in float64. labels: [V] in [0, K), or None. With labels the
    label's class is taken out first and the rest normalized, p = softmax of the K - 1 other logits: [K - 1]. Without:
    [K]. Values sum to 1 and do not increase. Raises ValueError for wrong shapes, labels out of range, and logits that
    are not finite.
    """
    if logits.ndim != 2 or len(logits) < 1 or logits.shape[1] < 3:
        raise ValueError(f"need logits [V, K] with V >= 1 and K >= 3, got {list(logits.shape)}")
    if labels is not None:
        if labels.shape != logits.shape[:1]:
            raise ValueError(f"need labels [{len(logits)}], got {list(labels.shape)}")
        if int(labels.min()) < 0 or int(labels.max()) >= logits.shape[1]:
            raise ValueError(f"labels must lie in [0, {logits.shape[1]})")
    classes = logits.shape[1]
    total = np.zeros(classes if labels is None else classes - 1)
    rows = max(1, _CHUNK // classes)
    for start in range(0, len(logits), rows):
        z = logits[start : start + rows].astype(np.float64)
        if not np.isfinite(z).all():
            raise ValueError("the logits are not all finite")
        if labels is not None:
            others = np.arange(classes) != labels[start : start + rows, None]
            z = z[others].reshape(len(z), classes - 1)
        z = -np.sort(-z, axis=1)
        with np.errstate(over="ignore"):  # further apart than the type reaches: a weight of 0
            weights = np.exp(z - z[:, :1])
        total += (weights / weights.sum(1, keepdims=True)).sum(0)
    return total / len(logits)


def fit(values: Floats, first: int = RANKS[0], last: int = RANKS[1]) -> ZipfFit:
    """The line and the three laws on ranks first..last of ``values`` [R], where value r - 1 belongs to rank r.

    last is cut to R. Raises ValueError where fewer than three ranks are left, or a value on them is not positive and
    finite (outputs that underflow to 0 have no logarithm).
    """
    last = min(last, len(values))
    if first < 1 or last < first + 2:
        raise ValueError(f"need three ranks at least, from 1 on, got ranks {first} to {last} of {len(values)}")
    ranks = np.arange(first, last + 1, dtype=np.float64)
    kept = np.asarray(values[first - 1 : last], dtype=np.float64)
    if not (np.isfinite(kept).all() and (kept > 0).all()):
        raise ValueError(f"values on ranks {first} to {last} must be positive and finite")
    shares = kept / math.fsum(kept)
    logs = np.log(ranks)
    s = _one_parameter(shares, logs)
    rate = _one_parameter(shares, ranks)
    tilt, bend = _two_parameters(shares, logs, s)
    spread = None if bend == 0 else 1 / math.sqrt(2 * bend)
    middle = None if spread is None else (1 - tilt) * spread**2
    return ZipfFit(
        first=first,
        last=last,
        line=_line(logs, np.log(kept)),
        zipf=_law(shares, -s * logs, {"exponent": s}),
        exponential=_law(shares, -rate * ranks, {"rate": rate}),
        log_normal=_law(shares, -tilt * logs - bend * logs**2, {"mu": middle, "sigma": spread}),
    )


def _line(x: Floats, y: Floats) -> Line:
    dx, dy = x - x.mean(), y - y.mean()
    slope = float(dx @ dy / (dx @ dx))
    return Line(-slope, float(y.mean() - slope * x.mean()), _r_squared(y, y.mean() + slope * dx))


def _r_squared(y: Floats, fitted: Floats) -> float | None:
    spread = float(((y - y.mean()) ** 2).sum())
    rounding = len(y) * (1e-13 * max(1.0, float(np.abs(y).max()))) ** 2
    return 1 - float(((y - fitted) ** 2).sum()) / spread if spread > rounding else None


def _log_normalized(exponents: Floats) -> Floats:
    shifted = exponents - exponents.max()
    normalized: Floats = shifted - math.log(np.exp(shifted).sum())
    return normalized


def _law(shares: Floats, exponents: Floats, parameters: dict[str, float | None]) -> Law:
    log_f = _log_normalized(exponents)
    log_q = np.log(shares)
    return Law(parameters, max(0.0, math.fsum(shares * (log_q - log_f))), _r_squared(log_q, log_f))


def _one_parameter(shares: Floats, t: Floats) -> float:
    """a of f ~ exp(-a t) with the greatest likelihood: where the mean of t under f is that under ``shares``."""
    from scipy.optimize import brentq

    wanted = float(shares @ t)
    return float(brentq(lambda a: float(np.exp(_log_normalized(-a * t)) @ t) - wanted, -_BRACKET, _BRACKET, xtol=1e-13))


def _two_parameters(shares: Floats, t: Floats, start: float) -> tuple[float, float]:
    """(a, b) of f ~ exp(-a t - b t^2), b >= 0, with the greatest likelihood, by Newton's method with halved steps.

    -log f is convex in (a, b). start: the best a for b = 0, which is returned with b = 0 where no b > 0 is better.
    """
    features = np.stack([t, t**2])
    wanted = features @ shares
    at = np.array([start, 0.0])

    def loss(point: Floats) -> float:
        return -float(shares @ _log_normalized(-point @ features))

    for _ in range(200):
        f = np.exp(_log_normalized(-at @ features))
        means = features @ f
        gradient = wanted - means
        centred = features - means[:, None]
        step = np.linalg.lstsq((centred * f) @ centred.T, -gradient, rcond=None)[0]  # all on one rank is singular
        size = 1.0
        while size > 1e-10 and loss(at + size * step) > loss(at):
            size /= 2
        at = at + size * step
        if np.abs(size * step).max() <= 1e-12 * (1 + np.abs(at).max()):
            break
    return (float(at[0]), float(at[1])) if at[1] > 1e-9 else (start, 0.0)
