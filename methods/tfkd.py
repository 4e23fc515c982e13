"""Tf-KD, self-training (Yuan et al., CVPR 2020): a network teaches a fresh copy of itself, softly."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from sdbench import Batch, LogUniform, Method, Network, Task, Terms, Uniform, register
from sdbench.errors import UserError
from sdbench.losses import distillation_kl, full_precision


def self_training_loss(
    logits: Tensor, teacher_logits: Tensor, labels: Tensor, ce_weight: float, weight: float, temperature: float
) -> Terms:
    """The two terms ``ce`` and ``distillation``, weighted, both 0-d.

    ce: ce_weight * (1/N) sum_n -log softmax(z_n)[y_n] for logits z [N, K] and labels y [N].
    distillation: weight * T^2 (1/N) sum_n KL(softmax(t_n / T) || softmax(z_n / T)) for teacher
        logits t [N, K], which get no gradient; T > 0.
    """
    return {
        "ce": ce_weight * F.cross_entropy(full_precision(logits), labels),
        "distillation": weight * distillation_kl(logits, teacher_logits, temperature),
    }


@register(
    "tfkd", paper="https://arxiv.org/abs/1909.11723", official="yuanli2333/Teacher-free-Knowledge-Distillation@d000ab3"
)
class TeacherFreeSelfTraining(Method):
    """Teacher-free distillation, self-training: a plainly trained network teaches one of its kind.

    L = ce_weight * CE(z, y) + weight * T^2 (1/N) sum_n KL(softmax(t_n / T) || softmax(z_n / T)), with
    logits z [N, K], labels y [N] and t [N, K] the logits of the same architecture trained before
    with cross-entropy, in eval mode, without gradient, on the same augmented images. The student
    starts from fresh weights.

    temperature: T > 0; 1 compares the plain predictions, T -> infinity centred logits.
    ce_weight: in [0, infinity); the labels' share, 0 leaves them out.
    weight: in [0, infinity), summed over classes; 0 skips the teacher's pass and is, with ce_weight 1,
        plain cross-entropy. The weights need not sum to 1, and the published ones do not.

    Two trainings; in the second, two forward passes (one without gradient) and one backward pass;
    one copy of the weights.

    Source: the authors' ``loss_kd_self``, 2020. It averages the divergence over N *and* K and multiplies
    it by alpha and a ``multiplier``, with 1 - alpha on cross-entropy; here it is summed over classes, as
    everywhere, so that ce_weight = 1 - alpha and weight = alpha * multiplier / K. Their settings for
    CIFAR-100 differ by network, in (ce_weight, weight, T): ResNet-18 (0.05, 0.475, 6), the default;
    MobileNetV2 and ShuffleNetV2 (0.05, 0.0095, 20); GoogLeNet (0.6, 0.2, 20); DenseNet-121
    (0.1, 0.45, 20); ResNeXt-29 (0.1, 0.9, 20). With T^2, the divergence counts 3.8 times
    (MobileNetV2) to 360 times (ResNeXt-29) what it does at weight 1 and T = 1: a table with one
    setting for all networks does not show the published method.

    Published, CIFAR-100 top-1, one run, best test epoch, 200 epochs: ResNet-18 75.87 -> 77.10,
    MobileNetV2 68.38 -> 70.96, ShuffleNetV2 70.34 -> 72.23, GoogLeNet 78.72 -> 80.17,
    DenseNet-121 79.04 -> 80.26, ResNeXt-29 81.03 -> 82.08. Epochs chosen on the test set flatter all.
    """

    generations = 2
    space = {
        "temperature": Uniform(0.5, 40.0),
        "ce_weight": Uniform(0.0, 10.0),
        "weight": LogUniform(0.001, 100.0),
    }
    recommended = {"cifar100": {"temperature": 6.0, "ce_weight": 0.05, "weight": 0.475}}
    neutral = {"ce_weight": 1.0, "weight": 0.0}

    teacher: Network

    def __init__(self, *, temperature: float = 6.0, ce_weight: float = 0.05, weight: float = 0.475) -> None:
        super().__init__()
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature must be positive and finite, got {temperature}")
        for name, value in (("ce_weight", ce_weight), ("weight", weight)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} must be in [0, infinity), got {value}")
        self.temperature = temperature
        self.ce_weight = ce_weight
        self.weight = weight

    def setup(self, task: Task, network: Network) -> None:
        if task.teacher is None:
            raise UserError(
                "tfkd learns from a network that was trained before, and Task.teacher is None; train one and hand over "
                "network.frozen_copy(), or let `sdbench run` train both generations"
            )
        self.teacher = task.teacher

    def loss(self, network: Network, batch: Batch, progress: Tensor) -> Terms:
        if self.weight == 0:
            logits = full_precision(network(batch.images).logits)
            return {"ce": self.ce_weight * F.cross_entropy(logits, batch.labels)}
        with torch.no_grad():  # first, while the student keeps no maps for its backward pass yet
            teacher_logits = self.teacher(batch.images).logits
        logits = network(batch.images).logits
        return self_training_loss(logits, teacher_logits, batch.labels, self.ce_weight, self.weight, self.temperature)
