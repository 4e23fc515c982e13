"""Methods with a second network: an earlier generation, a moving average, last epoch's weights."""

import torch
import torch.nn.functional as F
from torch import Tensor

from sdbench import Batch, Method, Network, Task, Terms, register
from sdbench.losses import distillation_kl


class Taught(Method):
    """CE(z) + KL(teacher || z)."""

    teacher: Network

    def loss(self, network: Network, batch: Batch, progress: Tensor) -> Terms:
        logits = network(batch.images).logits
        with torch.no_grad():
            taught = self.teacher(batch.images).logits
        ce = F.cross_entropy(logits.float(), batch.labels)
        return {"ce": ce, "distillation": distillation_kl(logits, taught, 2.0)}


@register("toy_two_generations")
class TwoGenerations(Taught):
    """Taught by the generation before."""

    generations = 2

    def setup(self, task: Task, network: Network) -> None:
        assert task.teacher is not None
        self.teacher = task.teacher


@register("toy_three_generations")
class ThreeGenerations(TwoGenerations):
    """The same over three generations."""

    generations = 3


@register("toy_average")
class Average(Taught):
    """Taught by a moving average of the weights: m <- decay m + (1 - decay) w after each step."""

    def __init__(self, *, decay: float = 0.9) -> None:
        super().__init__()
        self.decay = decay

    def setup(self, task: Task, network: Network) -> None:
        self.teacher = network.frozen_copy(train_mode=True)

    def after_step(self, network: Network) -> None:
        for mean, weight in zip(self.teacher.parameters(), network.parameters(), strict=True):
            mean.lerp_(weight, 1 - self.decay)


@register("toy_snapshot")
class Snapshot(Taught):
    """Taught by the network as it was at the end of the last epoch."""

    def setup(self, task: Task, network: Network) -> None:
        self.teacher = network.frozen_copy()

    def after_epoch(self, network: Network) -> None:
        self.teacher.load_state_dict(network.state_dict())
