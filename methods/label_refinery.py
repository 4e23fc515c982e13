"""Label refinery (Bagherinezhad et al., 2018): a trained network's predictions replace the labels."""

import torch
import torch.nn.functional as F
from torch import Tensor

from sdbench import Batch, Choice, Method, Network, Task, Terms, register
from sdbench.losses import full_precision, soft_cross_entropy
from sdbench.parts import require_teacher


def refinery_loss(logits: Tensor, refinery_logits: Tensor) -> Tensor:
    """-(1/N) sum_n sum_k softmax(r_n)_k log softmax(z_n)_k for logits z and r, both [N, K]; a 0-d tensor.

    No gradient flows into ``refinery_logits``.
    """
    return soft_cross_entropy(logits, F.softmax(full_precision(refinery_logits.detach()), dim=1))


@register(
    "label_refinery", paper="https://arxiv.org/abs/1805.02641", official="hessamb/label-refinery@e64f194", year=2018
)
class LabelRefinery(Method):
    """Label refinery: train on the labels that the last generation's network gives to each crop.

    L = -(1/N) sum_n sum_k softmax(r_n)_k log p_nk, with p = softmax(z), logits z [N, K] and r [N, K] the
    logits that the last generation's trained network, without gradient, gives for the same augmented
    images. The data set's labels are not used, except by the first generation, which is plain
    cross-entropy. No coefficient turns the method off, so none is neutral. Every generation starts
    from fresh weights.

    generations: trainings in a row, at least 2; with 5, labels are refined four times.
    batch_statistics: False applies the refinery in eval mode. True normalizes by the statistics of the
        current batch, as the authors' training script does: nothing in it calls ``eval()``.

    Two forward passes (one without gradient) and one backward pass in each generation but the first;
    one copy of the weights, two with ``batch_statistics``. All generations count as cost.

    Source: the authors' ``RefineryLoss``, 2018. Deviations: eval mode by default (their refinery's BatchNorm
    keeps on adapting, which the paper does not mention), and the recipe of the benchmark instead of
    theirs, which has no weight decay by default and a learning-rate schedule of its own per model.
    Published: ImageNet only. AlexNet refined by itself, top-1 57.93 -> 59.97 -> 60.87 -> 61.22 ->
    61.37; the often quoted ResNet-18 69.7 -> 72.52 has a ResNet-50 as its refinery and is not
    self-distillation. No CIFAR-100 number is published.
    """

    generations = 2
    space = {"generations": Choice(2, 3, 4, 5)}

    refinery: Network

    def __init__(self, *, generations: int = 2, batch_statistics: bool = False) -> None:
        super().__init__()
        if generations < 2:
            raise ValueError(f"generations must be at least 2, a refinery and a student, got {generations}")
        self.generations = generations
        self.batch_statistics = batch_statistics

    def setup(self, task: Task, network: Network) -> None:
        teacher = require_teacher(task, self.name)
        self.refinery = teacher.frozen_copy(train_mode=True) if self.batch_statistics else teacher

    def loss(self, network: Network, batch: Batch, progress: Tensor) -> Terms:
        with torch.no_grad():  # first, while the student keeps no maps for its backward pass yet
            refinery_logits = self.refinery(batch.images).logits
        return {"refined_ce": refinery_loss(network(batch.images).logits, refinery_logits)}
