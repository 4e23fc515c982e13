"""Tf-KD, self-training (Yuan et al., CVPR 2020): a network teaches a fresh copy of itself, softly."""

from sdbench import LogUniform, Uniform, register
from sdbench.parts import PredecessorTaught


@register(
    "tfkd",
    paper="https://arxiv.org/abs/1909.11723",
    official="yuanli2333/Teacher-free-Knowledge-Distillation@d000ab3",
    year=2020,
)
class TeacherFreeSelfTraining(PredecessorTaught):
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

    space = {
        "temperature": Uniform(0.5, 40.0),
        "ce_weight": Uniform(0.0, 10.0),
        "weight": LogUniform(0.001, 100.0),
    }
    recommended = {"cifar100": {"temperature": 6.0, "ce_weight": 0.05, "weight": 0.475}}
    neutral = {"ce_weight": 1.0, "weight": 0.0}

    def __init__(self, *, temperature: float = 6.0, ce_weight: float = 0.05, weight: float = 0.475) -> None:
        super().__init__(ce_weight, weight, temperature)
