"""FLSD (Mukhoti et al., NeurIPS 2020): focal loss with a gamma that depends on the sample."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from sdbench import Batch, Method, Output, Terms, Uniform, register
from sdbench.losses import focal_mean, label_log_probabilities

Steps = Sequence[tuple[float, float]]
"""(bound, gamma) in increasing order of the bound: gamma holds below its bound and above the last."""


def sample_gammas(probabilities: Tensor, steps: Steps) -> Tensor:
    """gamma of each label probability p [N]: that of the first bound b with p < b; [N], no gradient.

    steps: (b, gamma) pairs, b increasing. From the last bound on the last gamma holds, so that a
        bound above 1 at the end says nothing more.
    """
    if not steps or any(steps[i][0] >= steps[i + 1][0] for i in range(len(steps) - 1)):
        raise ValueError(f"steps must be (bound, gamma) pairs with increasing bounds, got {list(steps)}")
    with torch.no_grad():
        gammas = torch.full_like(probabilities, steps[-1][1])
        for bound, gamma in reversed(steps[:-1]):
            gammas = torch.where(probabilities < bound, gamma, gammas)
    return gammas


def sample_dependent_focal_loss(logits: Tensor, labels: Tensor, steps: Steps) -> Tensor:
    """-(1/N) sum_n (1 - p_n[y_n])^gamma_n log p_n[y_n], logits [N, K], labels [N]; a 0-d tensor.

    steps: see ``sample_gammas``; all gammas in [0, infinity). No gradient flows through gamma_n.
    """
    log_probabilities = label_log_probabilities(logits, labels)
    return focal_mean(log_probabilities, sample_gammas(log_probabilities.detach().exp(), steps))


@register("flsd", paper="https://arxiv.org/abs/2002.09437", official="torrvision/focal_calibration@475422a", year=2020)
class SampleDependentFocalLoss(Method):
    """Focal loss whose gamma is larger for images with an improbable label; FLSD-53 by default.

    L = -(1/N) sum_n (1 - p_n[y_n])^gamma_n log p_n[y_n] with p = softmax(z), logits z [N, K],
    labels y [N], and gamma_n = gamma_low where p_n[y_n] < threshold, else gamma_high. In nats; no
    gradient flows through gamma_n, and the loss jumps where p crosses the threshold.

    gamma_low, gamma_high: in [0, infinity); both 0 is plain cross-entropy, both equal is ``focal``.
    threshold: in [0, 1]; at 0 gamma_high holds for all images, at 1 gamma_low for all with p < 1.

    One forward and one backward pass, no state.

    The authors' code has two bounds, 0.2 (below: 5) and 0.5 (below: 3), and its option gamma from
    there on; their runs set that to 3, so that the second bound does nothing and is left out here.
    The mean over the batch stands for their sum, which goes with gradients clipped at norm 2: what
    they publish (CIFAR-10, ResNet-50, 350 epochs: error 4.98 % and ECE 1.55 %, against 4.95 % and
    4.35 % for cross-entropy) comes from steps of nearly constant length, which no recipe here has.
    """

    space = {"gamma_low": Uniform(0.0, 10.0), "gamma_high": Uniform(0.0, 10.0), "threshold": Uniform(0.0, 1.0)}
    recommended = {
        "cifar10": {"gamma_low": 5.0, "gamma_high": 3.0, "threshold": 0.2},
        "cifar100": {"gamma_low": 5.0, "gamma_high": 3.0, "threshold": 0.2},
        "tinyimagenet": {"gamma_low": 5.0, "gamma_high": 3.0, "threshold": 0.2},
    }
    neutral = {"gamma_low": 0.0, "gamma_high": 0.0}

    def __init__(self, *, gamma_low: float = 5.0, gamma_high: float = 3.0, threshold: float = 0.2) -> None:
        super().__init__()
        for key, gamma in {"gamma_low": gamma_low, "gamma_high": gamma_high}.items():
            if not 0 <= gamma < math.inf:
                raise ValueError(f"{key} must be in [0, infinity), got {gamma}")
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold must be in [0, 1], got {threshold}")
        self.steps = ((threshold, gamma_low), (math.inf, gamma_high))

    def criterion(self, output: Output, batch: Batch, progress: Tensor) -> Terms:
        return {"focal": sample_dependent_focal_loss(output.logits, batch.labels, self.steps)}
