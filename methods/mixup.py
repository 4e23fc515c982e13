"""mixup (Zhang et al., ICLR 2018): convex combinations of two images and of their labels."""

import math

import torch
from torch import Tensor

from sdbench import Batch, LogUniform, Method, Mixed, register
from sdbench.parts import symmetric_beta


def mixed_images(images: Tensor, order: Tensor, share: Tensor | float) -> Tensor:
    """share * x + (1 - share) * x[order] for images x [N, 3, H, W] and a permutation ``order`` [N].

    share: 0-d tensor or float in [0, 1]; at 1 the images themselves, at 0 the others, to the bit.
    """
    weight = torch.as_tensor(share, dtype=images.dtype, device=images.device)
    return images[order].lerp_(images, weight)  # in place in the copy that picking rows makes


@register(
    "mixup", paper="https://arxiv.org/abs/1710.09412", official="facebookresearch/mixup-cifar10@1fe8c5e", year=2018
)
class Mixup(Method):
    """mixup: blend two images, and the loss under both labels in the same proportion.

    L = s CE(z, y) + (1 - s) CE(z, y[order]), with z [N, K] the logits of s x + (1 - s) x[order], images
    x [N, 3, H, W], labels y [N], a random permutation ``order`` of the batch and one share
    s ~ Beta(alpha, alpha) per batch. In ``base+mixup`` the criterion of ``base`` takes the place of
    cross-entropy.

    alpha: in [0, infinity); 0 mixes nothing and is plain cross-entropy, 1 draws s uniformly, and
        towards infinity every blend is half and half.

    One forward and one backward pass, no state.

    As in the authors' code, 2017: one share per batch, an image may meet itself, and the plain batch is
    not trained on. They take alpha = 1 for CIFAR, which is followed, and 0.2 for ImageNet; others
    use 0.4 (winycg/Self-KD-Lib@ede3062) and 0.2 (MingiJi/FRSKD@98b87e5) for CIFAR-100, and 0.2
    (vikasverma1077/manifold_mixup@83547a7) for TinyImageNet. At alpha = 0 Self-KD-Lib blends half and
    half; here nothing is blended, as in the authors' code.

    Mixed images are learned slowly at first: after the two epochs of a demonstration accuracy is a small
    part of cross-entropy's, which says nothing about trainings of the usual length.

    Published, CIFAR-100 top-1: 76.24 -> 78.68 for ResNet-18 and 77.79 -> 81.39 for ResNet-50 in
    Self-KD-Lib (200 epochs, best test epoch, one seed), top-1 error 16.45 -> 15.63 for PyramidNet-200
    in clovaai/CutMix-PyTorch (300 epochs).
    """

    space = {"alpha": LogUniform(0.05, 10.0)}
    recommended = {
        "cifar10": {"alpha": 1.0},
        "cifar100": {"alpha": 1.0},
        "tinyimagenet": {"alpha": 0.2},
        "imagenet": {"alpha": 0.2},
    }
    neutral = {"alpha": 0.0}

    def __init__(self, *, alpha: float = 1.0) -> None:
        super().__init__()
        if not 0 <= alpha < math.inf:
            raise ValueError(f"alpha must be in [0, infinity), got {alpha}")
        self.alpha = alpha

    def mix(self, batch: Batch, generator: torch.Generator) -> Mixed:
        if self.alpha == 0:
            return Mixed(batch.images, batch.labels, 1.0)
        share = symmetric_beta(self.alpha, generator)
        order = torch.randperm(len(batch.labels), generator=generator, device=generator.device)
        return Mixed(mixed_images(batch.images, order, share), batch.labels[order], share)
