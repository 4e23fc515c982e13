"""CS-KD (Yun et al., CVPR 2020): an image imitates the prediction for another of its class."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from sdbench import Batch, LogUniform, Method, Network, Terms, Uniform, register
from sdbench.losses import distillation_kl, full_precision


def class_consistency_loss(logits: Tensor, partner_logits: Tensor, temperature: float) -> Tensor:
    """T^2 (1/N) sum_n KL(softmax(z'_n / T) || softmax(z_n / T)); a 0-d tensor.

    logits: z [N, K] of the images. partner_logits: z' [N, K] of same-class partners, detached here.
    temperature: T > 0.
    """
    return distillation_kl(logits, partner_logits, temperature)


@register("cskd", paper="https://arxiv.org/abs/2003.13964", official="alinlab/cs-kd@b447f25", year=2020)
class ClassWiseSelfDistillation(Method):
    """Class-wise self-knowledge distillation: match a same-class partner's softened prediction.

    L = CE(z, y) + weight * T^2 (1/N) sum_n KL(softmax(z'_n / T) || softmax(z_n / T)), with logits
    z [N, K] of the images, y [N] their labels and z' [N, K] the logits of one partner each, taken
    without gradient. Cross-entropy is on the images alone, never on the partners.

    temperature: T > 0; 1 compares the plain predictions, larger values also compare small
        probabilities, and T -> infinity compares centred logits.
    weight: in [0, infinity); 0 is plain cross-entropy and skips the partners' forward pass.

    Two forward passes (one without gradient) and one backward pass; no state. The partner is drawn
    uniformly from the whole class, the image itself included, augmented anew.

    As in the authors' code, the partners go through the network after the images, in train mode
    and by themselves: BatchNorm normalizes them by their own batch and updates its running
    statistics twice a step. The paper searched temperature in {1, 4} and weight in {1, 2, 3, 4};
    the code fixes T = 4, which is followed, with weight 1 for CIFAR-100 and 3 for CUB-200-2011.
    """

    core = True
    partners = 1
    space = {"temperature": Uniform(0.5, 20.0), "weight": LogUniform(0.01, 100.0)}
    recommended = {
        "cifar100": {"temperature": 4.0, "weight": 1.0},
        "cub200": {"temperature": 4.0, "weight": 3.0},
    }
    neutral = {"weight": 0.0}

    def __init__(self, *, temperature: float = 4.0, weight: float = 1.0) -> None:
        super().__init__()
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature must be positive and finite, got {temperature}")
        if not 0 <= weight < math.inf:
            raise ValueError(f"weight must be in [0, infinity), got {weight}")
        self.temperature = temperature
        self.weight = weight

    def loss(self, network: Network, batch: Batch, progress: Tensor) -> Terms:
        # The images go first: running statistics end on the partners, and autocast caches the
        # weights that it casts while a gradient is wanted.
        logits = network(batch.images).logits
        terms = {"ce": F.cross_entropy(full_precision(logits), batch.labels)}
        if self.weight == 0:
            return terms
        with torch.no_grad():
            partner_logits = network(batch.partners[0]).logits
        consistency = class_consistency_loss(logits, partner_logits, self.temperature)
        return {**terms, "consistency": self.weight * consistency}
