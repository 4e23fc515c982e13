"""CutMix (Yun et al., ICCV 2019): a box of one image is pasted into another."""

import math

import torch
from torch import Tensor

from sdbench import Batch, LogUniform, Method, Mixed, Uniform, register
from sdbench.parts import symmetric_beta


def interval(size: int, share: Tensor, center: Tensor) -> tuple[Tensor, Tensor]:
    """First position of the box along one side of the image, and the first one after it; 0-d int64.

    size: pixels along that side, S. share: 0-d, drawn share s in [0, 1] of the image that stays.
    center: 0-d integer in [0, S). The box has half-width floor(floor(S sqrt(1 - s)) / 2) and is clipped
    to the image, so that an odd length loses a pixel and a box at the border is smaller.
    """
    half = (size * torch.sqrt(1 - share.double())).long() // 2
    return (center - half).clamp(0, size), (center + half).clamp(0, size)


def pasted_images(images: Tensor, order: Tensor, share: Tensor, center: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """x with one box, the same for all, taken from x[order]; and the share of pixels that stay x.

    images: x [N, C, H, W]. order: permutation [N]. share: 0-d tensor in [0, 1], the drawn share of x;
    1 pastes nothing. center: 0-d integers, row in [0, H) and column in [0, W).
    Returns images [N, C, H, W] and a 0-d float32 in [0, 1], which counts pixels and so differs from the
    drawn share where the box was rounded or clipped.
    """
    height, width = images.shape[2:]
    top, bottom = interval(height, share, center[0])
    left, right = interval(width, share, center[1])
    rows = torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device)
    inside = ((rows >= top) & (rows < bottom))[:, None] & ((columns >= left) & (columns < right))
    area = (bottom - top) * (right - left)
    return torch.where(inside, images[order], images), 1 - area.float() / (height * width)


@register("cutmix", paper="https://arxiv.org/abs/1905.04899", official="clovaai/CutMix-PyTorch@9dc8245", year=2019)
class CutMix(Method):
    """CutMix: paste a box of another image, and weigh both labels by the pixels that each has.

    L = s' CE(z, y) + (1 - s') CE(z, y[order]), with z [N, K] the logits of images x [N, 3, H, W] in which
    one box, the same for the whole batch, comes from x[order]; labels y [N], a random permutation
    ``order`` of the batch, and s' the share of pixels outside the box. The box has sides
    H sqrt(1 - s) and W sqrt(1 - s) with s ~ Beta(alpha, alpha), rounded down to even numbers, around a
    pixel drawn uniformly, and is clipped to the image. In ``base+cutmix`` the criterion of ``base``
    takes the place of cross-entropy.

    alpha: in (0, infinity); 1 draws s uniformly.
    probability: in [0, 1]; that a batch is cut at all. 0 is plain cross-entropy.

    One forward and one backward pass, no state.

    As in the authors' code, 2019, with the share recomputed from the box (its first version used the drawn
    share). They take alpha = 1 throughout, probability 0.5 for CIFAR-100, which is recommended, and 1
    for ImageNet; winycg/Self-KD-Lib@ede3062 cuts every batch of CIFAR-100. Their code writes the box
    into the batch in place; here the batch is left alone.

    Mixed images are learned slowly at first: after the two epochs of a demonstration accuracy is a small
    part of cross-entropy's, which says nothing about trainings of the usual length.

    Published, CIFAR-100: top-1 error 16.45 -> 14.23 for PyramidNet-200 in the authors' repository
    (300 epochs, probability 0.5); top-1 76.24 -> 80.17 for ResNet-18 and 77.79 -> 82.47 for ResNet-50 in
    Self-KD-Lib (200 epochs, probability 1, best test epoch, one seed; last epoch 77.66 -> 81.78).
    """

    space = {"alpha": LogUniform(0.05, 10.0), "probability": Uniform(0.0, 1.0)}
    recommended = {
        "cifar10": {"alpha": 1.0, "probability": 0.5},
        "cifar100": {"alpha": 1.0, "probability": 0.5},
        "imagenet": {"alpha": 1.0, "probability": 1.0},
    }
    neutral = {"probability": 0.0}

    def __init__(self, *, alpha: float = 1.0, probability: float = 1.0) -> None:
        super().__init__()
        if not 0 < alpha < math.inf:
            raise ValueError(f"alpha must be positive and finite, got {alpha}; probability=0 cuts nothing")
        if not 0 <= probability <= 1:
            raise ValueError(f"probability must be in [0, 1], got {probability}")
        self.alpha = alpha
        self.probability = probability

    def mix(self, batch: Batch, generator: torch.Generator) -> Mixed:
        if self.probability == 0:
            return Mixed(batch.images, batch.labels, 1.0)
        device = generator.device
        share = symmetric_beta(self.alpha, generator)
        if self.probability < 1:  # a share of 1 is an empty box: which batches are cut is left to the device
            cut = torch.rand((), generator=generator, device=device) < self.probability
            share = torch.where(cut, share, 1.0)
        row, column = (torch.randint(side, (), generator=generator, device=device) for side in batch.images.shape[2:])
        order = torch.randperm(len(batch.labels), generator=generator, device=device)
        images, kept = pasted_images(batch.images, order, share, (row, column))
        return Mixed(images, batch.labels[order], kept)
