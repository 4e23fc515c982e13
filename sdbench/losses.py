"""Formulas that more than one method uses. Tensors in, tensors out.

Notation: logits z [N, K], p = softmax(z); every loss is the mean over the batch and the sum over
classes. Logits of lower precision than float32 are computed on in float32; float64 stays.
"""

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
