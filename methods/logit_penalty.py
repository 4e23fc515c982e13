"""Logit penalty (Kornblith et al., NeurIPS 2021): logits of small norm."""

import math

import torch.nn.functional as F
from torch import Tensor

from sdbench import Batch, LogUniform, Method, Output, Terms, register
from sdbench.losses import full_precision


def logit_norm_penalty(logits: Tensor) -> Tensor:
    """(1/2N) sum_n sum_k z_nk^2 for logits z [N, K]; a 0-d tensor >= 0 with gradient z / N."""
    return full_precision(logits).square().sum(1).mean() / 2


@register("logit_penalty", paper="https://arxiv.org/abs/2010.16402", year=2021)
class LogitPenalty(Method):
    """Cross-entropy plus the squared norm of the logits.

    L = CE(z, y) + beta (1/2N) sum_n sum_k z_nk^2 with logits z [N, K] and labels y [N].

    beta: in [0, infinity); 0 is plain cross-entropy, and towards infinity all logits become 0.

    One forward and one backward pass, no state.

    Followed is ``LogitPenalty`` of ZhouYuxuanYX/Maximum-Suppression-Regularization@5b7c0db, where
    it is a baseline; the paper's authors released no PyTorch code. Its second coefficient, which
    scales both terms alike, is 1 there and left out. Its beta for ImageNet and ResNet-50, 0.002, is
    the default. No number for CIFAR-100 was published with either.
    """

    space = {"beta": LogUniform(0.00001, 1.0)}
    recommended = {"imagenet": {"beta": 0.002}}
    neutral = {"beta": 0.0}

    def __init__(self, *, beta: float = 0.002) -> None:
        super().__init__()
        if not 0 <= beta < math.inf:
            raise ValueError(f"beta must be in [0, infinity), got {beta}")
        self.beta = beta

    def criterion(self, output: Output, batch: Batch, progress: Tensor) -> Terms:
        ce = F.cross_entropy(full_precision(output.logits), batch.labels)
        return {"ce": ce, "penalty": self.beta * logit_norm_penalty(output.logits)}
