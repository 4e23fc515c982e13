"""DDGSD (Xu and Liu, AAAI 2019): two distorted versions of an image teach each other."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from sdbench import Batch, LogUniform, Method, Network, Task, Terms, Uniform, register
from sdbench.errors import UserError
from sdbench.losses import distillation_kl, full_precision


def mutual_distillation_loss(logits: Tensor, other_logits: Tensor, temperature: float) -> Tensor:
    """KL_T(z, z') + KL_T(z', z) for the logits z and z' [N, K] of two views; a 0-d tensor.

    KL_T(s, t) = T^2 (1/N) sum_n KL(softmax(t_n / T) || softmax(s_n / T)), T > 0, with no gradient to t:
    each view gets the gradient of the one divergence in which it is the student.
    """
    forth = distillation_kl(logits, other_logits, temperature)
    return forth + distillation_kl(other_logits, logits, temperature)


def mean_discrepancy(pooled: Tensor, other_pooled: Tensor) -> Tensor:
    """sum_d ((1/N) sum_n g_nd - (1/N) sum_n g'_nd)^2 for features g and g' [N, D]; a 0-d tensor.

    The maximum mean discrepancy under a linear kernel, squared. Gradients flow into both.
    """
    difference = full_precision(pooled).mean(0) - full_precision(other_pooled).mean(0)
    return difference.square().sum()


@register("ddgsd", paper="https://doi.org/10.1609/aaai.v33i01.33015565", year=2019)
class DataDistortionGuided(Method):
    """Data-distortion guided self-distillation: agreement of two augmentations of one image.

    L = CE(z, y) + CE(z', y) + weight * [KL_T(z, z') + KL_T(z', z)] + discrepancy * ||mean_n g - mean_n g'||^2,
    with logits z, z' [N, K] and pooled features g, g' [N, D] of two independent augmentations of the
    same images, labels y [N], and KL_T(s, t) = T^2 (1/N) sum_n KL(softmax(t_n / T) || softmax(s_n / T))
    without gradient to t.

    temperature: T > 0; 1 compares the plain predictions.
    weight: in [0, infinity); 0 skips the mutual distillation.
    discrepancy: in [0, infinity); 0 skips the mean discrepancy of the features, so that a network
        which gives logits only will do.

    Two forward and two backward passes per labelled image; no state. Both views go through the
    network in one batch of 2N images, so that BatchNorm normalizes them together. No values are
    neutral: with both weights 0 cross-entropy of two views remains, at twice the usual scale.

    There is no official code; this is the paper's formula, 2019, with a weight of 1, a discrepancy of 0.0005
    and T = 1. The public versions compute something else and are not followed: winycg/Self-KD-Lib@ede3062
    halves the mean of both cross-entropies, takes T = 4, and averages features over images *and*
    channels before their difference is squared, which makes that term about 500 times weaker in
    gradient; youngerous/ddgsd-pytorch@d07d90c compares logits instead of features, averages the
    divergence over classes, and lets the gradient into both of its sides (T = 3 in its script).

    Published, CIFAR-100 top-1, ResNet-18: 76.55 -> 78.53 in the paper, quoted second-hand; 69.85 -> 73.40 in
    youngerous' and 76.24 -> 76.61 in Self-KD-Lib's repository (200 epochs, best test epoch, one seed),
    both for the other losses just described.
    """

    views = 2
    space = {
        "temperature": Uniform(0.5, 20.0),
        "weight": LogUniform(0.01, 100.0),
        "discrepancy": LogUniform(1e-5, 1.0),
    }
    recommended = {"cifar100": {"temperature": 1.0, "weight": 1.0, "discrepancy": 0.0005}}

    def __init__(self, *, temperature: float = 1.0, weight: float = 1.0, discrepancy: float = 0.0005) -> None:
        super().__init__()
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature must be positive and finite, got {temperature}")
        for name, value in (("weight", weight), ("discrepancy", discrepancy)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} must be in [0, infinity), got {value}")
        self.temperature = temperature
        self.weight = weight
        self.discrepancy = discrepancy
        if discrepancy:
            self.couples_samples = "its discrepancy compares means over the batch"

    def setup(self, task: Task, network: Network) -> None:
        if self.discrepancy and network.classifier is None:
            raise UserError(
                f"{network.label} gives logits only, and ddgsd compares pooled features. Use a network with stages "
                "(`sdbench list models`), or set discrepancy=0"
            )

    def loss(self, network: Network, batch: Batch, progress: Tensor) -> Terms:
        output = network(torch.cat([batch.images, batch.views[0]]))
        logits, other_logits = output.logits.chunk(2)
        # The mean over 2N rows, doubled, is the sum of both views' means.
        ce = 2 * F.cross_entropy(full_precision(output.logits), batch.labels.repeat(2))
        terms = {"ce": ce}
        if self.weight:
            terms["distillation"] = self.weight * mutual_distillation_loss(logits, other_logits, self.temperature)
        if self.discrepancy:
            terms["discrepancy"] = self.discrepancy * mean_discrepancy(*output.pooled.chunk(2))
        return terms
