"""Temperature scaling: one scalar, fitted on held-out images after training, that a network's logits are divided by.

Guo et al. 2017, https://arxiv.org/abs/1706.04599. Notation: logits z [V, K], labels y [V] int64 in [0, K), V >= 1,
K >= 2. With p(T) = softmax(z / T), the temperature is

    T = argmin over T in [1/1000, 1000] of -(1/V) sum_n log p(T)_{n, y_n}.

T > 1 softens, T < 1 sharpens, T = 1 changes nothing; whatever T, the classes keep their order. The mean is convex in
b = 1/T, with the slope (1/V) sum_n [sum_k p_nk z_nk - z_{n, y_n}], which grows from the mean of (mean_k z - z_y) at
b = 0 to the mean of (max_k z - z_y) at b = inf; the temperature is where it crosses 0. Hence, outside the range,

* T = 1/1000 where every label has its row's largest logit: the sharper the better, the optimum is 0. With held-out
  images that are all classified correctly nothing can be fitted, and the scaled NLL of the test set shows it;
* T = 1000 where labels' logits are no larger on average than those of a uniform guess: the optimum is infinite;
* T = 1 where every T in the range is equally good: logits that are equal within each row, or so far apart, with all
  labels right, that the slope underflows.

Multiplying the logits by c > 0 multiplies T by c, as long as both lie within the range.

Deviation: torrvision/focal_calibration@475422a and other authors' repositories search the grid 0.1, 0.2, ..., 10 and
minimize the calibration error by default, which is neither smooth nor convex in T; here it is the likelihood, as in
the paper, to full precision.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sdbench.evaluate import blocks, evaluate
from sdbench.spec import TEMPERATURES, Scaled


@torch.no_grad()
def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature in [1/1000, 1000] with the lowest mean NLL of softmax(logits / T) on held-out data.

    logits: [V, K], of any floating dtype, on any device; sums are taken in float64. labels: [V] int64. The end points
    and what leads to them: see the module. Raises ValueError for wrong shapes, labels out of range, and logits that
    are not finite.
    """
    from scipy.optimize import brentq

    parts = list(blocks(logits, labels))
    low, high = TEMPERATURES

    def slope(log_temperature: float) -> float:
        """Of the mean NLL, against b = 1/T; it falls as T grows."""
        return math.fsum(_slope(z, y, math.exp(log_temperature)) for z, y in parts) / len(labels)

    too_low, too_high = slope(math.log(low)) <= 0, slope(math.log(high)) >= 0
    if too_low and too_high:
        return 1.0
    if too_low or too_high:
        return low if too_low else high
    found = math.exp(brentq(slope, math.log(low), math.log(high), xtol=1e-13, rtol=1e-13))
    return min(max(found, low), high)


def rescore(logits: Tensor, labels: Tensor, held_out_logits: Tensor, held_out_labels: Tensor) -> Scaled:
    """Metrics of the test logits [V, K] after the temperature of the held-out ones [H, K]; labels [V] and [H]."""
    temperature = fit_temperature(held_out_logits, held_out_labels)
    after = evaluate(logits, labels, temperature)
    values = after.model_dump(exclude={"top1", "top5"})
    return Scaled(temperature=temperature, held_out=len(held_out_labels), **values)


def _slope(logits: Tensor, labels: Tensor, temperature: float) -> float:
    """sum_n [sum_k p_nk z_nk - z_{n, y_n}]; differences to the label's logit, so that equal rows give 0 exactly."""
    z = logits.double()
    gap = z - z.gather(1, labels[:, None])
    shifted = (gap - gap.amax(1, keepdim=True)) / temperature
    return (shifted.softmax(1) * gap).sum().item()
