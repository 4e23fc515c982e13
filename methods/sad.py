"""SAD (Hou et al., ICCV 2019): each stage's attention map learns from that of the next stage."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor

from sdbench import Batch, LogUniform, Method, Network, Output, Task, Terms, Uniform, register
from sdbench.losses import full_precision
from sdbench.parts import require_stages, spatial_softmax


def attention_distillation(maps: Sequence[Tensor]) -> Tensor:
    """sum_l mean_{n,p} (phi(f_l)_np - phi(up(f_{l+1}))_np)^2 over neighbouring maps; 0-d.

    maps: f_l [N, C_l, H_l, W_l], shallowest first. phi(f) [N, P], P = H W, is the softmax over
    positions of mean_c f^2; up is bilinear interpolation (align_corners False) to the shallower
    map's size. The mean is over the batch and the positions of the shallower map.

    No gradient flows into the deeper map of a pair. A single map gives 0.
    """
    total = full_precision(maps[0]).new_zeros(())
    for shallow, deep in pairwise(maps):
        teacher = full_precision(deep.detach())
        if teacher.shape[2:] != shallow.shape[2:]:
            teacher = F.interpolate(teacher, size=shallow.shape[2:], mode="bilinear", align_corners=False)
        total = total + (spatial_softmax(shallow) - spatial_softmax(teacher)).square().mean()
    return total


@register(
    "sad", paper="https://arxiv.org/abs/1908.00821", official="cardwing/Codes-for-Lane-Detection@a224eb4", year=2019
)
class SelfAttentionDistillation(Method):
    """Self-attention distillation: every stage imitates where the next one looks.

    L = CE(z, y) + weight [progress >= start] sum_l mean_{n,p} (phi(f_l) - phi(up(sg f_{l+1})))^2,
    logits z [N, K], labels y [N], stages f_l [N, C_l, H_l, W_l], l = 1 .. L - 1;
    phi(f) [N, H W] = softmax over positions of mean_c f^2, up = bilinear upsampling to the size of
    f_l, sg = no gradient, mean over the batch and the positions of f_l.

    weight: in [0, infinity); 0 is plain cross-entropy. phi sums to 1 over positions, so that its
        entries, and their squared differences all the more, shrink with the map: hence the size.
    start: in [0, 1]; the share of training before distillation starts. 0 distils from the first
        step, 1 never does. Until then the term is 0.

    One forward and one backward pass; no state, no auxiliary parameters.

    The method was published for lane detection; the authors' code is Lua Torch and has no
    classifier. What is common under this name for classification is winycg/Self-KD-Lib@ede3062,
    which is followed here: weight 1000, no late start, where the paper starts late in training.
    Deviation: the deeper map is interpolated to the shallower one's size, while that code doubles
    it; the same on networks whose stages halve.

    Published (Self-KD-Lib, CIFAR-100, pre-activation ResNet-18, 200 epochs, best epoch, one seed):
    76.40 against 76.24 of cross-entropy, ResNet-50 78.33 against 77.79. Differences of that size
    are within the noise of one seed; the paper has no number for classification.
    """

    space = {"weight": LogUniform(1.0, 1e5), "start": Uniform(0.0, 1.0)}
    recommended = {"cifar100": {"weight": 1000.0, "start": 0.0}}
    neutral = {"weight": 0.0}

    def __init__(self, *, weight: float = 1000.0, start: float = 0.0) -> None:
        super().__init__()
        if not 0 <= weight < math.inf:
            raise ValueError(f"weight must be in [0, infinity), got {weight}")
        if not 0 <= start <= 1:
            raise ValueError(f"start must be in [0, 1], got {start}")
        self.weight = weight
        self.start = start

    def setup(self, task: Task, network: Network) -> None:
        require_stages(network, 2, self.name, "compares each stage with the next")

    def criterion(self, output: Output, batch: Batch, progress: Tensor) -> Terms:
        ce = F.cross_entropy(full_precision(output.logits), batch.labels)
        if self.weight == 0:
            return {"ce": ce}
        attention = self.weight * attention_distillation(output.stages)
        if self.start > 0:
            attention = attention * (progress >= self.start)
        return {"ce": ce, "attention": attention}
