"""Tf-FD (Li, ECCV 2022): salient channels and deep stages teach the other features, without a teacher."""

import math
from collections.abc import Sequence
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor

from sdbench import Batch, LogUniform, Method, Network, Output, Task, Terms, register
from sdbench.losses import full_precision
from sdbench.parts import pool_to, require_stages


def channel_order(feature_map: Tensor) -> Tensor:
    """Channels of a map [N, C, H, W], the most salient first: [C] int64.

    Salience is the mean over batch and positions of f / ||f||, each image's channel divided by its
    Euclidean norm over positions (0 where that is 0). Equal ones, which maps of one position are full
    of, come in the order that ``torch.sort`` leaves them in on the device at hand.
    """
    scaled = F.normalize(full_precision(feature_map.detach()), dim=(2, 3))  # type: ignore[arg-type]
    return scaled.mean((0, 2, 3)).sort(descending=True).indices


def intra_distance(feature_map: Tensor, order: Tensor | None = None) -> Tensor:
    """Mean squared difference of the more and the less salient half of the channels, in order; 0-d.

    feature_map: [N, C, H, W] with C >= 2; with an odd C the middle channel is left out. order: [C],
    ``channel_order`` of the map if None. Both halves get a gradient.
    """
    order = channel_order(feature_map) if order is None else order
    ordered = full_precision(feature_map).index_select(1, order)
    half = feature_map.shape[1] // 2
    return (ordered[:, :half] - ordered[:, -half:]).square().mean()


def inter_distance(shallow: Tensor, deep: Tensor) -> Tensor:
    """Mean squared difference of a stage from a deeper one, which gets no gradient; 0-d.

    shallow: [N, C, H, W], deep: [N, C', H', W']. Both are average-pooled to the smaller size and cut
    to the first min(C, C') channels.
    """
    height, width = (min(shallow.shape[side], deep.shape[side]) for side in (2, 3))
    channels = min(shallow.shape[1], deep.shape[1])
    student = pool_to(full_precision(shallow[:, :channels]), height, width)
    teacher = pool_to(full_precision(deep.detach()[:, :channels]), height, width)
    return (student - teacher).square().mean()


def tffd_loss(
    maps: Sequence[Tensor], inter: float, intra: float, orders: Sequence[Tensor | None] | None = None
) -> Terms:
    """Weighted terms "inter" and "intra", both 0-d.

    maps: f_l [N, C_l, H_l, W_l] of two stages or more, shallowest first.
    "inter" is ``inter`` times the mean of ``inter_distance`` over all pairs of stages, "intra" is
    ``intra`` times the mean of ``intra_distance`` over all stages, with these channel orders if given.
    """
    pairs = torch.stack([inter_distance(shallow, deep) for shallow, deep in combinations(maps, 2)])
    orders = [None] * len(maps) if orders is None else orders
    stages = torch.stack([intra_distance(f, order) for f, order in zip(maps, orders, strict=True)])
    return {"inter": inter * pairs.mean(), "intra": intra * stages.mean()}


@register(
    "tffd",
    paper="https://doi.org/10.1007/978-3-031-19809-0_20",
    official="lliai/Teacher-free-Distillation@3427f98",
    year=2022,
)
class TeacherFreeFeatureDistillation(Method):
    """Teacher-free feature distillation: within a stage by salience, between stages by depth.

    L = CE(z, y) + inter mean_{l<m} mean (pool(f_l) - sg f_m)^2 + intra mean_l mean (a_l - b_l)^2,
    logits z [N, K], labels y [N], stages f_l [N, C_l, H_l, W_l]. Between stages: pool averages f_l
    to the size of f_m, the first min(C_l, C_m) channels are compared, sg = no gradient. Within a
    stage: a_l and b_l [N, C_l / 2, H_l, W_l] are the first and the second half of the channels,
    sorted by the mean over batch and positions of f_l / ||f_l||. All squared differences are means
    over batch, channels and positions.

    inter: in [0, infinity). intra: in [0, infinity). Both 0 is plain cross-entropy.

    One forward and one backward pass; no state, no auxiliary parameters. Channels are ranked over
    the batch, so that what an image contributes depends on the others.

    The authors' networks have three stages: their sums over three pairs and three stages, divided
    by 3, are the means here, which also fit other depths. Followed is their training script, with
    the coefficients of its README's command (the script's own defaults are 5e-3 and 4e-4). Not
    copied: the README's listing weights both parts by the coefficient of one; the script also runs
    a teacher network whose outputs it does not use. As in the script, and unlike an older version
    of it, neither half of the channels is held fixed.

    Published: +0.91 for ResNet-18 and +1.84 for ResNet-50 on ImageNet (README; protocol not stated
    there). No number for CIFAR-100 can be traced to a log.
    """

    space = {"inter": LogUniform(1e-5, 1.0), "intra": LogUniform(1e-5, 1.0)}
    recommended = {"cifar100": {"inter": 5e-4, "intra": 8e-4}}
    neutral = {"inter": 0.0, "intra": 0.0}

    def __init__(self, *, inter: float = 5e-4, intra: float = 8e-4) -> None:
        super().__init__()
        for key, value in {"inter": inter, "intra": intra}.items():
            if not 0 <= value < math.inf:
                raise ValueError(f"{key} must be in [0, infinity), got {value}")
        self.inter = inter
        self.intra = intra
        if intra:
            self.couples_samples = "it sorts channels by their mean over the batch"

    def setup(self, task: Task, network: Network) -> None:
        require_stages(network, 2, self.name, "compares every stage with the deeper ones")

    def criterion(self, output: Output, batch: Batch, progress: Tensor) -> Terms:
        ce = F.cross_entropy(full_precision(output.logits), batch.labels)
        if self.inter == self.intra == 0:
            return {"ce": ce}
        return {"ce": ce, **tffd_loss(output.stages, self.inter, self.intra)}
