"""Tf-KD_reg (Yuan et al., CVPR 2020): a virtual teacher that is right with probability 0.99."""

import math

import torch.nn.functional as F
from torch import Tensor

from sdbench import Batch, LogUniform, Method, Output, Terms, Uniform, register
from sdbench.losses import full_precision


def virtual_teacher(num_classes: int, correct_prob: float, temperature: float) -> tuple[float, float]:
    """The teacher's target for (the label, each other class): softmax(v / T), v = correct_prob at
    the label and (1 - correct_prob) / (K - 1) elsewhere, K = num_classes >= 2.

    The softmax is taken of probabilities, not of logits. correct_prob: in [0, 1].
    temperature: T > 0; towards infinity the target is uniform.
    """
    advantage = (correct_prob - (1 - correct_prob) / (num_classes - 1)) / temperature
    # Only the exponential of a negative number is taken, which cannot overflow.
    label, other = math.exp(min(advantage, 0.0)), math.exp(min(-advantage, 0.0))
    total = label + (num_classes - 1) * other
    return label / total, other / total


def virtual_teacher_kl(logits: Tensor, labels: Tensor, correct_prob: float, temperature: float) -> Tensor:
    """(1/N) sum_n sum_k q_nk (log q_nk - log p_nk) for logits [N, K] and labels [N]; a 0-d tensor >= 0.

    q: ``virtual_teacher`` of K classes. p = softmax(logits), without a temperature. No target is
    built: q has two values, so the label's log-probability and the row's sum are all it takes.
    """
    num_classes = logits.shape[1]
    label, other = virtual_teacher(num_classes, correct_prob, temperature)
    log_probabilities = F.log_softmax(full_precision(logits), dim=1)
    of_label = -F.nll_loss(log_probabilities, labels)
    of_all = log_probabilities.sum(1).mean()
    negentropy = sum(count * q * math.log(q) for count, q in ((1, label), (num_classes - 1, other)) if q > 0)
    return negentropy - (label - other) * of_label - other * of_all


@register(
    "tfkd_reg",
    paper="https://arxiv.org/abs/1909.11723",
    official="yuanli2333/Teacher-free-Knowledge-Distillation@d000ab3",
    year=2020,
)
class VirtualTeacher(Method):
    """Teacher-free distillation from a virtual teacher; in effect label smoothing.

    L = ce_weight CE(z, y) + kl_weight (1/N) sum_n KL(q_n || p_n) with p = softmax(z), logits
    z [N, K], labels y [N] and q_n = softmax(v_n / T), v_n = correct_prob at y_n and
    (1 - correct_prob) / (K - 1) elsewhere. v are probabilities, not logits, so at T = 20 q is
    uniform to within five per cent; the network's softmax has no temperature.

    This is label smoothing. The gradient equals that of (ce_weight + kl_weight) times ``ls``
    with spread "all" and smoothing K kl_weight q_other / (ce_weight + kl_weight), q_other being q
    off the label. With the published coefficients for ResNet-18 on CIFAR-100, the defaults, this is
    smoothing 0.0999493 at full weight: expect what ``ls`` gives at 0.1. For MobileNetV2 it is
    smoothing 0.1596, with the whole loss scaled by 0.0595 against weight decay, so that the
    published gain there is not one of the target alone.

    ce_weight, kl_weight: in [0, infinity); 1 and 0 is plain cross-entropy.
    correct_prob: in [0, 1]; the teacher's probability for the label, before T.
    temperature: T > 0; towards infinity q is uniform, towards 0 it is one-hot (if correct_prob > 1/K).

    One forward and one backward pass, no state.

    The authors' code is followed, and its mean over the N K entries converted: with its alpha and
    multiplier, ce_weight = 1 - alpha and kl_weight = alpha multiplier / K. Its settings, for
    CIFAR-100, as (ce_weight, kl_weight, temperature): ResNet-18 (0.9, 0.1, 20), MobileNetV2
    (0.05, 0.0095, 40), ShuffleNetV2 (0.05, 0.0095, 10), GoogLeNet (0.9, 0.05, 40). correct_prob is
    0.99 in all. Published top-1 on CIFAR-100 (200 epochs, best test epoch): ResNet-18 75.87 to
    77.36, where their label smoothing gave 77.26. winycg/Self-KD-Lib@ede3062 has another loss of the
    same name (the network's logits divided by T as well, no T^2), which sharpens instead of
    smoothing and is not followed.
    """

    space = {
        "ce_weight": Uniform(0.0, 1.0),
        "kl_weight": LogUniform(0.001, 10.0),
        "correct_prob": Uniform(0.0, 1.0),
        "temperature": LogUniform(0.01, 1000.0),
    }
    recommended = {"cifar100": {"ce_weight": 0.9, "kl_weight": 0.1, "correct_prob": 0.99, "temperature": 20.0}}
    neutral = {"ce_weight": 1.0, "kl_weight": 0.0}

    def __init__(
        self,
        *,
        ce_weight: float = 0.9,
        kl_weight: float = 0.1,
        correct_prob: float = 0.99,
        temperature: float = 20.0,
    ) -> None:
        super().__init__()
        for key, value in {"ce_weight": ce_weight, "kl_weight": kl_weight}.items():
            if not 0 <= value < math.inf:
                raise ValueError(f"{key} must be in [0, infinity), got {value}")
        if not 0 <= correct_prob <= 1:
            raise ValueError(f"correct_prob must be in [0, 1], got {correct_prob}")
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature must be positive and finite, got {temperature}")
        self.ce_weight, self.kl_weight = ce_weight, kl_weight
        self.correct_prob, self.temperature = correct_prob, temperature

    def criterion(self, output: Output, batch: Batch, progress: Tensor) -> Terms:
        divergence = virtual_teacher_kl(output.logits, batch.labels, self.correct_prob, self.temperature)
        ce = F.cross_entropy(full_precision(output.logits), batch.labels)
        return {"ce": self.ce_weight * ce, "kl": self.kl_weight * divergence}
