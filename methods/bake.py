"""BAKE (Ge et al., 2021): the predictions of similar images of a batch are ensembled into soft targets."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from sdbench import Batch, Choice, LogUniform, Method, Network, Task, Terms, Uniform, register
from sdbench.errors import UserError
from sdbench.losses import full_precision

NEVER = -1e9
"""Similarity of an image with itself, so low that softmax gives it no share unless it is alone."""


def ensembled_targets(features: Tensor, logits: Tensor, temperature: float, omega: float) -> Tensor:
    """Q = (1 - omega) (I - omega A)^-1 softmax(z / T), [N, K]; rows are >= 0 and sum to 1.

    features: g [N, D]. logits: z [N, K]. temperature: T > 0. omega: in [0, 1).
    A [N, N] is the row softmax of the cosine similarities of g, each image's with itself left out.

    Q is the limit of Q <- omega A Q + (1 - omega) softmax(z / T): each image's own prediction,
    averaged again and again with those of images like it. omega = 0 gives softmax(z / T) back, and
    towards 1 all rows become alike. One image alone keeps its own prediction. Computed without
    gradient, in float32 at least.
    """
    with torch.no_grad(), torch.autocast(features.device.type, enabled=False):
        directions = F.normalize(full_precision(features), dim=1)
        own = torch.eye(len(features), dtype=torch.bool, device=features.device)
        affinity = F.softmax((directions @ directions.T).masked_fill(own, NEVER), dim=1)
        predictions = F.softmax(full_precision(logits) / temperature, dim=1)
        # Rows of omega A sum to omega < 1, so the matrix is regular; looking whether it is would wait for the device.
        solution = torch.linalg.solve_ex(own.to(affinity.dtype) - omega * affinity, predictions, check_errors=False)
        targets: Tensor = (1 - omega) * solution.result.clamp(min=0)
    return targets


def ensembling_loss(logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """T^2 (1/N) sum_n KL(Q_n || softmax(z_n / T)) for logits z [N, K]; a 0-d tensor.

    targets: Q [N, K], probabilities as ``ensembled_targets`` gives them: they take no further
        softmax, and no gradient flows into them. temperature: T > 0.
    """
    log_p = F.log_softmax(full_precision(logits) / temperature, dim=1)
    return F.kl_div(log_p, targets.detach().to(log_p.dtype), reduction="batchmean") * temperature**2


@register("bake", paper="https://arxiv.org/abs/2104.13298", official="yxgeee/BAKE@07c4f66", year=2021)
class BatchKnowledgeEnsembling(Method):
    """Batch knowledge ensembling: an image's target is the ensemble of predictions for images like it.

    L = CE(z, y) + weight T^2 (1/N) sum_n KL(Q_n || softmax(z_n / T)),
    Q = (1 - omega) (I - omega A)^-1 softmax(z / T) without gradient, with z [N, K] the logits and g [N, D] the
    pooled features of the anchors and their partners, all N of which carry labels y [N] and both terms;
    A [N, N] is the row softmax of the cosine similarities of g without its diagonal.

    partners: M, an integer >= 0, same-class images per anchor; 0 ensembles over a random batch.
    temperature: T > 0; larger values also compare small probabilities.
    omega: in [0, 1); 0 gives each image its own prediction as the target, and so no gradient; towards
        1 a batch shares one target.
    weight: in [0, infinity); 0 is cross-entropy, with M = 0 as well that of the plain batch.

    A batch of B images is B / (1 + M) anchors with their partners. Each anchor is visited once in an epoch,
    so **an epoch goes through (1 + M) times the images, in (1 + M) times the steps** of cross-entropy:
    4 times with the default. One forward and one backward pass per image, and an N x N system to solve;
    no state. The targets couple the images of a batch, so a short last batch has other neighbours.

    Followed is the authors' code for small images (200 epochs, weight decay 1e-4); the one for ImageNet gives
    the same targets. As there, cross-entropy is on anchors and partners alike, in one batch. Deviations: partners
    are drawn with replacement and may be the anchor itself, where the authors draw without either; the
    system is solved instead of inverted. Not copied from winycg/Self-KD-Lib@ede3062: there the targets, already
    probabilities, go through another softmax with T = 4, after which none exceeds 0.0128 at K = 100, whatever the
    network predicts, and a batch is 128 anchors instead of 32.

    Published: CIFAR-100 top-1 78.72 for ResNet-18 and 79.26 for DenseNet-121, TinyImageNet 58.29 and 62.93
    (authors' README, 200 epochs of four and two times the images, best test epoch); ImageNet ResNet-50 78.0
    (100 epochs, M = 1). Self-KD-Lib's 76.93 against 76.24 is the double softmax's.
    """

    partners = 3
    partners_in_batch = True
    refuses_mixing = "its targets couple the images of a batch, whose classes a blend would no longer tell apart"
    space = {
        "partners": Choice(0, 1, 2, 3, 4, 7),
        "temperature": Uniform(0.5, 20.0),
        "omega": Uniform(0.0, 0.99),
        "weight": LogUniform(0.01, 100.0),
    }
    recommended = {
        "cifar100": {"partners": 3, "temperature": 4.0, "omega": 0.5, "weight": 1.0},
        "tinyimagenet": {"partners": 1, "temperature": 4.0, "omega": 0.9, "weight": 1.0},
        "cub200": {"partners": 3, "temperature": 4.0, "omega": 0.5, "weight": 1.0},
        "imagenet": {"partners": 1, "temperature": 4.0, "omega": 0.5, "weight": 1.0},
    }
    neutral = {"weight": 0.0, "partners": 0}

    def __init__(self, *, partners: int = 3, temperature: float = 4.0, omega: float = 0.5, weight: float = 1.0) -> None:
        super().__init__()
        if partners < 0:
            raise ValueError(f"partners must be 0 or more, got {partners}")
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature must be positive and finite, got {temperature}")
        if not 0 <= omega < 1:
            raise ValueError(f"omega must be in [0, 1), got {omega}")
        if not 0 <= weight < math.inf:
            raise ValueError(f"weight must be in [0, infinity), got {weight}")
        self.partners = partners
        self.partners_in_batch = partners > 0
        self.temperature = temperature
        self.omega = omega
        self.weight = weight
        if weight:
            self.couples_samples = "its targets blend the predictions of all images of a batch"

    def setup(self, task: Task, network: Network) -> None:
        if self.weight and network.classifier is None:
            raise UserError(
                f"{network.label} gives logits only, and bake compares the pooled features of images. Use a network "
                "with stages (`sdbench list models`)"
            )

    def loss(self, network: Network, batch: Batch, progress: Tensor) -> Terms:
        output = network(torch.cat([batch.images, *batch.partners]) if batch.partners else batch.images)
        labels = batch.labels.repeat(1 + len(batch.partners))
        terms = {"ce": F.cross_entropy(full_precision(output.logits), labels)}
        if self.weight:
            targets = ensembled_targets(output.pooled, output.logits, self.temperature, self.omega)
            terms["ensembling"] = self.weight * ensembling_loss(output.logits, targets, self.temperature)
        return terms
