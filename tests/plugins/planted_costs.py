"""Methods whose cost is known: plain cross-entropy with something planted in it."""

import torch
import torch.nn.functional as F
from torch import Tensor

from sdbench import Batch, Choice, Method, Network, Output, Task, Terms, register

BUFFER_BYTES = 3 * 2**20
ACTIVATION_BYTES = 10 * 2**20


class _Plain(Method):
    def criterion(self, output: Output, batch: Batch, progress: Tensor) -> Terms:
        return {"ce": F.cross_entropy(output.logits.float(), batch.labels)}


@register("planted_pass")
class SecondForward(_Plain):
    """A second forward pass without gradient."""

    def loss(self, network: Network, batch: Batch, progress: Tensor) -> Terms:
        terms = self.criterion(network(batch.images), batch, progress)
        with torch.no_grad():
            network(batch.images)
        return terms


@register("planted_training_pass")
class SecondForwardAndBackward(_Plain):
    """Two forward and two backward passes."""

    def loss(self, network: Network, batch: Batch, progress: Tensor) -> Terms:
        first = self.criterion(network(batch.images), batch, progress)["ce"]
        second = self.criterion(network(batch.images), batch, progress)["ce"]
        return {"ce": (first + second) / 2}


@register("planted_buffer")
class Buffer(_Plain):
    """3 MiB of state."""

    def setup(self, task: Task, network: Network) -> None:
        self.register_buffer("planted", torch.zeros(BUFFER_BYTES, dtype=torch.uint8))


@register("planted_activation")
class Activation(_Plain):
    """10 MiB that live from the loss to the end of the step, freed before the next."""

    def loss(self, network: Network, batch: Batch, progress: Tensor) -> Terms:
        self._kept = torch.empty(ACTIVATION_BYTES, dtype=torch.uint8)
        return self.criterion(network(batch.images), batch, progress)

    def after_step(self, network: Network) -> None:
        del self._kept


@register("planted_copy")
class ModelCopy(_Plain):
    """A copy of the network that it makes by itself and asks for predictions."""

    def setup(self, task: Task, network: Network) -> None:
        self.teacher = network.frozen_copy()

    def loss(self, network: Network, batch: Batch, progress: Tensor) -> Terms:
        terms = self.criterion(network(batch.images), batch, progress)
        with torch.no_grad():
            self.teacher(batch.images)
        return terms


@register("planted_wait")
class Wait(_Plain):
    """Reads the loss on the host, which makes it wait for a GPU."""

    def criterion(self, output: Output, batch: Batch, progress: Tensor) -> Terms:
        terms = super().criterion(output, batch, progress)
        self.last = terms["ce"].item()
        return terms


@register("planted_sort")
class Sort(_Plain):
    """Work that no FLOP counter sees."""

    def criterion(self, output: Output, batch: Batch, progress: Tensor) -> Terms:
        torch.rand(2_000_000).sort()
        return super().criterion(output, batch, progress)


@register("planted_failure")
class Failure(_Plain):
    """Fails in a step of its own choice."""

    space = {"step": Choice(3, 12, 40)}

    def __init__(self, *, step: int = 3) -> None:
        super().__init__()
        self.fails_in = step
        self.steps = 0

    def criterion(self, output: Output, batch: Batch, progress: Tensor) -> Terms:
        self.steps += 1
        if self.steps == self.fails_in:
            raise ZeroDivisionError("planted")
        return super().criterion(output, batch, progress)


@register("planted_attribute")
class Attribute(_Plain):
    """3 MiB that it keeps in a container, where no buffer is."""

    def setup(self, task: Task, network: Network) -> None:
        self.kept = {"here": [torch.zeros(BUFFER_BYTES, dtype=torch.uint8)]}


@register("planted_every_fourth")
class EveryFourth(_Plain):
    """A second forward pass in every fourth step."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = 0

    def loss(self, network: Network, batch: Batch, progress: Tensor) -> Terms:
        terms = self.criterion(network(batch.images), batch, progress)
        self.steps += 1
        if self.steps % 4 == 0:
            with torch.no_grad():
                network(batch.images)
        return terms
