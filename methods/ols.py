"""Online label smoothing (Zhang et al., TIP 2021): a class's soft label is what it was predicted as last epoch."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from sdbench import Batch, Method, Network, Output, Task, Terms, Uniform, register
from sdbench.losses import full_precision, soft_cross_entropy
from sdbench.parts import add_hits, mean_of_hits

Variant = Literal["cifar", "fine-grained"]

FINE_GRAINED_FREEZE = 0.88
"""The row maximum from which on the authors' fine-grained script leaves a soft label as it is."""


def online_smoothing_loss(logits: Tensor, labels: Tensor, matrix: Tensor) -> Tensor:
    """-(1/N) sum_n sum_k S_{y_n k} log p_nk for logits [N, K] and labels y [N]; a 0-d tensor.

    matrix: S [K, K], one row per target class. Rows need not sum to 1: a row of zeros gives no loss. It
        gets no gradient.
    """
    return soft_cross_entropy(logits, matrix.detach()[labels])


def next_matrix(matrix: Tensor, sums: Tensor, counts: Tensor, freeze_at: float | None = None) -> Tensor:
    """The soft labels of the next epoch [K, K]: sums_y / counts_y, and 1/K where counts_y is 0.

    matrix: [K, K] of the epoch that ends. sums [K, K], counts [K]: see ``add_hits``.
    freeze_at: rows of ``matrix`` whose maximum is at least this stay as they are, if their class had a
        hit; None replaces all.
    """
    fresh = mean_of_hits(sums, counts)
    if freeze_at is None:
        return fresh
    frozen = (matrix.amax(1) >= freeze_at) & (counts > 0)
    return torch.where(frozen[:, None], matrix, fresh)


@register(
    "ols", paper="https://arxiv.org/abs/2011.12562", official="zhangchbin/OnlineLabelSmoothing@7eaf70c", year=2021
)
class OnlineLabelSmoothing(Method):
    """Cross-entropy with labels and with the mean prediction for each class in the epoch before.

    L = alpha CE(z, y) + (1 - alpha) (1/N) sum_n -sum_k S_{y_n k} log p_nk with p = softmax(z), logits
    z [N, K], labels y [N] and soft labels S [K, K], one row per target class. During an epoch, each image
    that is classified right (argmax z_n = y_n, the training step's own logits) adds p_n to U_{y_n}; at the
    end S_y = U_y / (number of images added), and 1/K for a class without any. S is uniform in the first
    epoch, in which the loss is label smoothing with smoothing 1 - alpha.

    alpha: in [0, 1]. 1 is plain cross-entropy and keeps no statistics; at 0 the labels count only through
        the soft labels.
    variant: "cifar" is the formula above, from the authors' CIFAR script. "fine-grained"
        follows their fine-grained one: both weights are doubled (1 and 1 at alpha = 0.5), and a row whose
        maximum has reached 0.88 is kept, unless its class had no hit, which resets it to 1/K.

    One forward and one backward pass; 2 K^2 + K floats of state.

    The authors' CIFAR script starts from S = 0, which halves the loss of the first epoch; their fine-grained
    script starts from 1/K, which is followed. From the second epoch on the two agree.
    The script fixes alpha at 0.5 whatever its option says; the value here is used. Of other public
    versions: ZhouYuxuanYX/Maximum-Suppression-Regularization leaves a row of zeros for a class without a
    hit and starts from smoothed labels, which is not followed.
    """

    space = {"alpha": Uniform(0.0, 1.0)}
    recommended = {"cifar100": {"alpha": 0.5}, "cub200": {"alpha": 0.5, "variant": "fine-grained"}}
    neutral = {"alpha": 1.0}
    refuses_mixing = "its soft labels are mean predictions for single, unmixed images"
    joins = {"matrix": "same", "sums": "sum", "counts": "sum"}

    matrix: Tensor
    sums: Tensor
    counts: Tensor

    def __init__(self, *, alpha: float = 0.5, variant: Variant = "cifar") -> None:
        super().__init__()
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha must be in [0, 1], got {alpha}")
        if variant not in ("cifar", "fine-grained"):
            raise ValueError(f"variant must be 'cifar' or 'fine-grained', got {variant!r}")
        self.alpha = alpha
        self.variant = variant

    def setup(self, task: Task, network: Network) -> None:
        device, classes = next(network.parameters()).device, task.num_classes
        self.register_buffer("matrix", torch.full((classes, classes), 1 / classes, device=device))
        self.register_buffer("sums", torch.zeros(classes, classes, device=device))
        self.register_buffer("counts", torch.zeros(classes, device=device))

    def criterion(self, output: Output, batch: Batch, progress: Tensor) -> Terms:
        hard = F.cross_entropy(full_precision(output.logits), batch.labels)
        scale = 1.0 if self.variant == "cifar" else 2.0
        if self.alpha == 1:
            return {"ce": scale * hard}
        add_hits(output.logits.detach(), batch.labels, self.sums, self.counts)
        soft = online_smoothing_loss(output.logits, batch.labels, self.matrix)
        return {"ce": scale * self.alpha * hard, "soft_ce": scale * (1 - self.alpha) * soft}

    def after_epoch(self, network: Network) -> None:
        freeze_at = None if self.variant == "cifar" else FINE_GRAINED_FREEZE
        # In place, so that a captured step goes on reading the same tensors.
        self.matrix.copy_(next_matrix(self.matrix, self.sums, self.counts, freeze_at))
        self.sums.zero_()
        self.counts.zero_()
