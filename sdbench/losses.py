"""Formulas that more than one method uses. Tensors in, tensors out.

Notation: logits z [N, K], p = softmax(z); every loss is the mean over the batch and the sum over
classes. Logits of lower precision than float32 are computed on in float32; float64 stays.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def full_precision(logits: Tensor) -> Tensor:
    """Logits in float32 at least: bfloat16 and float16 are cast up, float64 stays."""
    return logits if logits.dtype in (torch.float32, torch.float64) else logits.float()


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """-(1/N) sum_n sum_k q_nk log p_nk for logits [N, K] and target rows q [N, K]; a 0-d tensor.

    Rows of ``targets`` usually sum to 1 but need not. The gradient with respect to the logits is
    (sum_k q_nk * p_n - q_n) / N; none flows into ``targets`` unless they carry one.
    """
    log_probabilities = F.log_softmax(full_precision(logits), dim=1)
    return -(targets.to(log_probabilities.dtype) * log_probabilities).sum(1).mean()


def distillation_kl(logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """T^2 (1/N) sum_n KL(softmax(t_n / T) || softmax(z_n / T)) for logits z and t, both [N, K].

    temperature: T > 0; T = 1 compares the plain softmax outputs, and T -> infinity compares
    centred logits. T^2 keeps the gradient's size independent of T. No gradient flows into
    ``teacher_logits``.
    """
    student = F.log_softmax(full_precision(logits) / temperature, dim=1)
    teacher = F.log_softmax(full_precision(teacher_logits.detach()) / temperature, dim=1)
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


def label_log_probabilities(logits: Tensor, labels: Tensor) -> Tensor:
    """log p_n[y_n] for logits [N, K] and labels y [N] in [0, K); [N], each <= 0."""
    return F.log_softmax(full_precision(logits), dim=1).gather(1, labels[:, None]).squeeze(1)


def focal_mean(log_probabilities: Tensor, gamma: float | Tensor) -> Tensor:
    """-(1/N) sum_n (1 - p_n)^gamma_n log p_n for log p [N], as of the labels; a 0-d tensor.

    gamma: >= 0, one number or one per image [N]. 0 is cross-entropy; larger values leave less to
        images whose label has a high probability, and towards infinity only those with p = 0 count.
    The gradient flows through both factors and is finite up to p = 1, where it is 0 for gamma > 0.
    None flows into ``gamma``.
    """
    # For gamma < 1 the slope of (1 - p)^gamma is infinite at p = 1, and there log p is 0.
    unlikeliness = (-torch.expm1(log_probabilities)).clamp(min=torch.finfo(log_probabilities.dtype).tiny)
    exponent = gamma.detach() if isinstance(gamma, Tensor) else gamma
    return -(unlikeliness**exponent * log_probabilities).mean()


def nontarget_log_softmax(logits: Tensor, targets: Tensor) -> Tensor:
    """log softmax of the logits without those of the target classes, and 0 at these; [N, K].

    logits: [N, K], float32 or float64. targets: [N, M] int64, M < K distinct classes per row, whose logits get no
    gradient. No infinity comes in, so that a target share of 0 gives a loss and a gradient of 0.
    """
    # A finite stand-in for minus infinity, and 0 afterwards, keep 0 * infinity out.
    others = logits.scatter(1, targets, torch.finfo(logits.dtype).min)
    return F.log_softmax(others, dim=1).scatter(1, targets, 0.0)


def mixed_cross_entropy(logits: Tensor, labels: Tensor, labels_b: Tensor, share: Tensor | float) -> Tensor:
    """share * CE(z, y) + (1 - share) * CE(z, y') for logits z [N, K], labels y and y' [N]; a 0-d tensor.

    share: 0-d tensor or float in [0, 1]. CE is the mean over the batch.
    """
    full = full_precision(logits)
    return share * F.cross_entropy(full, labels) + (1 - share) * F.cross_entropy(full, labels_b)


def squared_consistency(logits: Tensor, targets: Tensor) -> Tensor:
    """(1/N) sum_n sum_k (p_nk - t_nk)^2 with p = softmax(z) for logits z and targets t, both [N, K]; 0-d.

    In [0, 2] where the rows of t are distributions. No gradient flows into ``targets``.
    """
    probabilities = F.softmax(full_precision(logits), dim=1)
    return (probabilities - targets.detach().to(probabilities.dtype)).square().sum(1).mean()


def ramp_up(epoch: int, length: int) -> float:
    """exp(-5 (1 - epoch/length)^2) for 0 <= epoch < length, from 0.0067 at 0, and 1 from ``length`` on.

    length: in epochs, >= 0; 0 is 1 throughout. The ramp of Laine & Aila (ICLR 2017) for consistency terms.
    """
    return math.exp(-5 * (1 - max(epoch, 0) / length) ** 2) if epoch < length else 1.0
