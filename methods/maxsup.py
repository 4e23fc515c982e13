"""MaxSup (Zhou et al., NeurIPS 2025): suppress the largest logit, whichever class it belongs to."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from sdbench import Batch, Method, Network, Output, Task, Terms, Uniform, register
from sdbench.losses import full_precision


def max_suppression(logits: Tensor) -> Tensor:
    """(1/N) sum_n (max_k z_nk - (1/K) sum_k z_nk) for logits z [N, K]; a 0-d tensor >= 0.

    The gradient is ([k is the largest] - 1/K) / N; where several are largest, one of them has it.
    """
    logits = full_precision(logits)
    return (logits.max(dim=1).values - logits.mean(1)).mean()


@register(
    "maxsup",
    paper="https://arxiv.org/abs/2502.15798",
    official="ZhouYuxuanYX/Maximum-Suppression-Regularization@5b7c0db",
    year=2025,
)
class MaxSuppression(Method):
    """Cross-entropy plus the distance of the largest logit from the mean logit.

    L = CE(z, y) + lambda_t (1/N) sum_n (max_k z_nk - (1/K) sum_k z_nk) with logits z [N, K],
    labels y [N] and lambda_t = begin_lambda + (end_lambda - begin_lambda) t / E in epoch
    t = 0 .. E - 1. Label smoothing s, spread over all classes, is the same with the label's logit
    in place of the largest and lambda = s; so the two differ for images that are misclassified.

    begin_lambda, end_lambda: in [0, infinity); both 0 is plain cross-entropy. Weights near 1 and
        above push all logits together.

    One forward and one backward pass; the state is lambda_t.

    The authors' code has two schedules. The class for their ImageNet runs, ``MaxSuppression``,
    divides the epoch by E and never arrives at end_lambda; it is followed. Their other scripts
    (long-tailed data, corrupted CIFAR-10, torchvision's recipe) divide by E - 1, which is the same
    as end_lambda = begin_lambda + (end_lambda - begin_lambda) E / (E - 1) here. Both go from 0.1
    to 0.2. They publish no number for plain CIFAR-100.
    """

    space = {"begin_lambda": Uniform(0.0, 1.0), "end_lambda": Uniform(0.0, 1.0)}
    recommended = {"imagenet": {"begin_lambda": 0.1, "end_lambda": 0.2}}
    neutral = {"begin_lambda": 0.0, "end_lambda": 0.0}
    joins = {"weight": "same"}

    weight: Tensor

    def __init__(self, *, begin_lambda: float = 0.1, end_lambda: float = 0.2) -> None:
        super().__init__()
        for key, value in {"begin_lambda": begin_lambda, "end_lambda": end_lambda}.items():
            if not 0 <= value < math.inf:
                raise ValueError(f"{key} must be in [0, infinity), got {value}")
        self.begin_lambda = begin_lambda
        self.end_lambda = end_lambda
        self.register_buffer("weight", torch.tensor(float(begin_lambda)))

    def setup(self, task: Task, network: Network) -> None:
        self.weight = self.weight.to(next(network.parameters()).device)

    def before_epoch(self, epoch: int, epochs: int) -> None:
        self.weight.fill_(self.begin_lambda + (self.end_lambda - self.begin_lambda) * epoch / epochs)

    def criterion(self, output: Output, batch: Batch, progress: Tensor) -> Terms:
        ce = F.cross_entropy(full_precision(output.logits), batch.labels)
        return {"ce": ce, "maxsup": self.weight * max_suppression(output.logits)}
