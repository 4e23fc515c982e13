"""Manifold mixup (Verma et al., ICML 2019): blend two images' features at a random depth."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sdbench import Batch, Choice, LogUniform, Method, Network, Task, Terms, register
from sdbench.errors import UserError
from sdbench.losses import mixed_cross_entropy
from sdbench.parts import symmetric_beta


class _Blend(torch.autograd.Function):
    """w h + (1 - w) h[order] with the gradient w g + (1 - w) g[inverse].

    The gradient of picking rows is in general a sum into a tensor of zeros; of a permutation it is the inverse
    permutation, several times faster, and nothing of the size of h is kept for it.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, order: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(order, weight)
        return features[order].lerp_(features, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        order, weight = ctx.saved_tensors
        return gradient[order.argsort()].lerp_(gradient, weight), None, None


def blended_at(features: Tensor, order: Tensor, share: Tensor, here: Tensor) -> Tensor:
    """share * h + (1 - share) * h[order] where ``here`` is true, else h, to the bit.

    features: h [N, C, H, W]. order: permutation [N]. share: 0-d in [0, 1]. here: 0-d bool. Both are read
    on the device, so that the work is the same whichever it is. No gradient flows into ``share``.
    """
    weight = torch.where(here, share, 1.0).to(features.dtype)
    blended: Tensor = _Blend.apply(features, order, weight)
    return blended


@register(
    "manifold_mixup",
    paper="https://arxiv.org/abs/1806.05236",
    official="vikasverma1077/manifold_mixup@83547a7",
    year=2019,
)
class ManifoldMixup(Method):
    """Manifold mixup: blend features at a random depth, and the loss under both labels alike.

    L = s CE(z, y) + (1 - s) CE(z, y[order]), with z [N, K] the logits of a pass in which the map h_l
    [N, C, H, W] is replaced by s h_l + (1 - s) h_l[order]: h_0 the images, h_l the output of stage l.
    labels y [N]; for each batch a random permutation ``order``, one share s ~ Beta(alpha, alpha) and one
    l, uniform on {0, ..., depth}, all drawn on the device.

    alpha: in [0, infinity); 0 mixes nothing and is plain cross-entropy, 1 draws s uniformly, and
        towards infinity every blend is half and half.
    depth: the deepest stage that is mixed at, counted from 1, in [0, number of stages]; 0 is mixup.

    One forward and one backward pass, no state. The choice of l stays on the device, so that every step
    does the same work: each of the depth + 1 maps is blended, with a share of 1 at all but one. The
    network must have stages. It mixes inside the network, so it neither lends its mixing to another
    method nor trains on another's.

    Source: the authors' code for pre-activation ResNets, 2018, which draws l from {0, 1, 2} and takes
    alpha = 2 for CIFAR and 0.2 for TinyImageNet. Deviation: their script averages the binary
    cross-entropy of softmax outputs over N and K; cross-entropy under both labels is the paper's
    loss, and that of winycg/Self-KD-Lib@ede3062.

    Mixed images are learned slowly at first: after the two epochs of a demonstration accuracy is a small
    part of cross-entropy's, which says nothing about trainings of the usual length.

    Published, CIFAR-100: top-1 error 16.45 -> 16.14 for PyramidNet-200 in clovaai/CutMix-PyTorch
    (300 epochs; mixup reaches 15.63 there). The authors train ResNets for 2000 epochs with a weight
    decay of 1e-4; their larger gains are not comparable and were not verified.
    """

    space = {"alpha": LogUniform(0.05, 10.0), "depth": Choice(0, 1, 2, 3, 4)}
    recommended = {
        "cifar10": {"alpha": 2.0, "depth": 2},
        "cifar100": {"alpha": 2.0, "depth": 2},
        "tinyimagenet": {"alpha": 0.2, "depth": 2},
    }
    neutral = {"alpha": 0.0}
    refuses_mixing = "it mixes images itself, inside the network"

    def __init__(self, *, alpha: float = 2.0, depth: int = 2) -> None:
        super().__init__()
        if not 0 <= alpha < math.inf:
            raise ValueError(f"alpha must be in [0, infinity), got {alpha}")
        if depth < 0:
            raise ValueError(f"depth must be at least 0, the images, got {depth}")
        self.alpha = alpha
        self.depth = depth
        if alpha:
            self.couples_samples = "it blends pairs of images from the whole batch"
        self._generator: torch.Generator | None = None

    def setup(self, task: Task, network: Network) -> None:
        self._generator = task.generator
        stages = len(network.stage_shapes)
        if self.depth > stages:
            raise UserError(f"manifold_mixup: depth {self.depth}, but {network.label} has {stages} stages; lower depth")

    def loss(self, network: Network, batch: Batch, progress: Tensor) -> Terms:
        if self.alpha == 0:
            return super().loss(network, batch, progress)
        device = batch.images.device
        share = symmetric_beta(self.alpha, self._generator, device)
        chosen = torch.randint(self.depth + 1, (), generator=self._generator, device=device)
        order = torch.randperm(len(batch.labels), generator=self._generator, device=device)

        def edit(stage: int, features: Tensor) -> Tensor:
            return blended_at(features, order, share, chosen == stage + 1) if stage < self.depth else features

        output = network(blended_at(batch.images, order, share, chosen == 0), edit)
        return {"ce": mixed_cross_entropy(output.logits, batch.labels, batch.labels[order], share)}
