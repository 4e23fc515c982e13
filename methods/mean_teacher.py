"""Mean teacher (Tarvainen & Valpola, NeurIPS 2017): agree with the moving average of one's own weights."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from sdbench import Batch, LogUniform, Method, Network, Task, Terms, Uniform, register
from sdbench.losses import distillation_kl, full_precision, ramp_up, squared_consistency

Distance = Literal["mse", "kl"]


def consistency_loss(logits: Tensor, teacher_logits: Tensor, distance: Distance = "mse") -> Tensor:
    """How far the student's predictions p are from the teacher's q; mean over N, sum over K; a 0-d tensor.

    logits, teacher_logits: [N, K]; no gradient flows into the teacher's.
    distance: "mse" is (1/N) sum_n sum_k (p_nk - q_nk)^2, in [0, 2]; "kl" is (1/N) sum_n KL(q_n || p_n).
    """
    if distance not in ("mse", "kl"):
        raise ValueError(f"distance must be 'mse' or 'kl', got {distance!r}")
    if distance == "kl":
        return distillation_kl(logits, teacher_logits, 1.0)
    return squared_consistency(logits, F.softmax(full_precision(teacher_logits.detach()), dim=1))


def average_decay(step: Tensor, ema_decay: float) -> Tensor:
    """min(1 - 1/(s + 1), ema_decay) at step s = 1, 2, ..., a 0-d tensor: the true mean while that is shorter."""
    return (1 - 1 / (step + 1)).clamp(max=ema_decay)


@torch.no_grad()
def update_average(averages: list[Tensor], weights: list[Tensor], decay: Tensor) -> None:
    """averages = decay * averages + (1 - decay) * weights, in place, for tensors of one dtype.

    decay: 0-d, best in float64: 1 - decay is taken before it is rounded to the weights' precision.
    """
    dtype = averages[0].dtype
    torch._foreach_mul_(averages, decay.to(dtype))
    torch._foreach_add_(averages, torch._foreach_mul(weights, (1 - decay).to(dtype)))


@register(
    "mean_teacher", paper="https://arxiv.org/abs/1703.01780", official="CuriousAI/mean-teacher@546348f", year=2017
)
class MeanTeacher(Method):
    """Cross-entropy, and consistency with a teacher whose weights are the student's moving average.

    L = CE(z, y) + w_e D(p, q) with logits z [N, K] of the images, labels y [N], p = softmax(z), and q the
    prediction of the teacher for a second, independent view. D is the squared distance or the divergence of
    ``consistency_loss``; w_e = weight exp(-5 (1 - e/ramp_epochs)^2) in epoch e < ramp_epochs, then weight.
    After optimizer step s = 1, 2, ... the teacher's weights become d theta' + (1 - d) theta with
    d = min(1 - 1/(s + 1), ema_decay).

    weight: in [0, infinity), of the sum over classes; 0 is plain cross-entropy without the teacher's pass.
    ema_decay: in [0, 1); 0 is the student of the step before, near 1 the teacher hardly moves.
    ramp_epochs: >= 0; 0 applies the whole weight at once.
    distance: "mse" (the paper's choice for CIFAR-10) or "kl" (the authors' ImageNet script).

    Two forward passes (one without gradient) and one backward pass; one copy of the network, and a counter.

    As in the authors' code the teacher runs in train mode, so that its BatchNorm uses batch statistics, and
    only weights are averaged. The code's "mse" takes the mean over N and K: its published 100 for CIFAR-10
    is 10 here. Nothing is published for CIFAR-100; the default 1 is that 100 at K = 100. ema_decay is the
    code's default 0.999; its CIFAR-10 script has 0.99 (4,000 labels), its ImageNet one 0.9997.
    Not followed: the second classifier with a distance cost between the two, images without labels, a
    teacher initialized apart from the student; and the student is evaluated, not the teacher.
    """

    views = 2
    space = {"weight": LogUniform(0.01, 100.0), "ema_decay": Uniform(0.9, 0.9999)}
    recommended = {
        "cifar10": {"weight": 10.0, "ema_decay": 0.99, "ramp_epochs": 5, "distance": "mse"},
        "imagenet": {"weight": 10.0, "ema_decay": 0.9997, "ramp_epochs": 5, "distance": "kl"},
    }
    neutral = {"weight": 0.0}
    joins = {"current_weight": "same", "steps": "same"}

    current_weight: Tensor
    steps: Tensor
    teacher: Network

    def __init__(
        self, *, weight: float = 1.0, ema_decay: float = 0.999, ramp_epochs: int = 5, distance: Distance = "mse"
    ) -> None:
        super().__init__()
        if not 0 <= weight < math.inf:
            raise ValueError(f"weight must be in [0, infinity), got {weight}")
        if not 0 <= ema_decay < 1:
            raise ValueError(f"ema_decay must be in [0, 1), got {ema_decay}")
        if ramp_epochs < 0:
            raise ValueError(f"ramp_epochs must be at least 0, got {ramp_epochs}")
        if distance not in ("mse", "kl"):
            raise ValueError(f"distance must be 'mse' or 'kl', got {distance!r}")
        self.weight = weight
        self.ema_decay = ema_decay
        self.ramp_epochs = ramp_epochs
        self.distance: Distance = distance
        self.register_buffer("current_weight", torch.zeros(()))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def setup(self, task: Task, network: Network) -> None:
        self.to(next(network.parameters()).device)
        if self.weight:
            self.teacher = network.frozen_copy(train_mode=True)

    def before_epoch(self, epoch: int, epochs: int) -> None:
        self.current_weight.fill_(self.weight * ramp_up(epoch, self.ramp_epochs))

    def loss(self, network: Network, batch: Batch, progress: Tensor) -> Terms:
        logits = network(batch.images).logits
        terms = {"ce": F.cross_entropy(full_precision(logits), batch.labels)}
        if self.weight == 0:
            return terms
        with torch.no_grad():
            teacher_logits = self.teacher(batch.views[0]).logits
        consistency = consistency_loss(logits, teacher_logits, self.distance)
        return {**terms, "consistency": self.current_weight * consistency}

    def after_step(self, network: Network) -> None:
        if self.weight == 0:
            return
        self.steps.add_(1)
        decay = average_decay(self.steps.double(), self.ema_decay)
        update_average(list(self.teacher.parameters()), list(network.parameters()), decay)
