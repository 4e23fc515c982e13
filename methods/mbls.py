"""MbLS (Liu et al., CVPR 2022): label smoothing as a penalty on logits beyond a margin."""

import math

import torch.nn.functional as F
from torch import Tensor

from sdbench import Batch, LogUniform, Method, Output, Terms, Uniform, register
from sdbench.losses import full_precision


def margin_penalty(logits: Tensor, margin: float) -> Tensor:
    """(1/N) sum_n sum_k max(0, max_j z_nj - z_nk - margin) for logits z [N, K]; a 0-d tensor >= 0.

    margin: in [0, infinity). At 0 each row gives K (max_j z_nj - mean_k z_nk). Adding a constant
    to a row changes nothing. The gradient flows through the largest logit as well: it collects
    the others' with the opposite sign. Where several are largest, one of them does.
    """
    logits = full_precision(logits)
    largest = logits.max(dim=1, keepdim=True).values
    return F.relu(largest - logits - margin).sum(1).mean()


@register("mbls", paper="https://arxiv.org/abs/2111.15430", official="by-liu/MbLS@dc86503", year=2022)
class MarginLabelSmoothing(Method):
    """Margin-based label smoothing: logits may fall behind the largest by ``margin`` free of charge.

    L = CE(z, y) + weight (1/N) sum_n sum_k max(0, max_j z_nj - z_nk - margin) with logits z [N, K]
    and labels y [N].

    weight: in [0, infinity); 0 is plain cross-entropy, and towards infinity no logit is further
        than the margin from the largest.
    margin: in [0, infinity), in units of logits. At 0 label smoothing's pull towards equal logits
        acts on every logit; towards infinity the penalty vanishes.

    One forward and one backward pass, no state.

    The authors' code averages the penalty over the N K entries, the paper sums over classes, as
    here: their alpha is ``weight`` times K. Their alpha = 0.1 is 0.01 for 10 classes, 0.001 for 100
    (the default) and 0.0005 for 200, and their margin is 10; the commands that they publish are for
    TinyImageNet. There, and by default everywhere, their script clips gradients at norm 2, which no
    recipe here does. No number of theirs is for CIFAR-100.
    """

    space = {"weight": LogUniform(0.00001, 1.0), "margin": Uniform(0.0, 50.0)}
    recommended = {
        "cifar10": {"weight": 0.01, "margin": 10.0},
        "tinyimagenet": {"weight": 0.0005, "margin": 10.0},
    }
    neutral = {"weight": 0.0}

    def __init__(self, *, weight: float = 0.001, margin: float = 10.0) -> None:
        super().__init__()
        for key, value in {"weight": weight, "margin": margin}.items():
            if not 0 <= value < math.inf:
                raise ValueError(f"{key} must be in [0, infinity), got {value}")
        self.weight = weight
        self.margin = margin

    def criterion(self, output: Output, batch: Batch, progress: Tensor) -> Terms:
        ce = F.cross_entropy(full_precision(output.logits), batch.labels)
        return {"ce": ce, "margin": self.weight * margin_penalty(output.logits, self.margin)}
