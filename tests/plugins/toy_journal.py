"""A method that writes down what the harness does to it."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sdbench import Batch, Method, Network, Task, Terms, register

JOURNAL: list[tuple[Any, ...]] = []


@register("toy_journal")
class Journal(Method):
    """Cross-entropy; every hook adds a line to ``JOURNAL``."""

    wants_validation = True

    def setup(self, task: Task, network: Network) -> None:
        JOURNAL.append(("setup", task))

    def before_epoch(self, epoch: int, epochs: int) -> None:
        JOURNAL.append(("before_epoch", epoch, epochs))

    def loss(self, network: Network, batch: Batch, progress: Tensor) -> Terms:
        JOURNAL.append(("loss", progress.item(), len(batch.labels), network.training, torch.is_grad_enabled()))
        return {"ce": F.cross_entropy(network(batch.images).logits.float(), batch.labels)}

    def after_step(self, network: Network) -> None:
        JOURNAL.append(("after_step", torch.is_grad_enabled()))

    def after_epoch(self, network: Network) -> None:
        JOURNAL.append(("after_epoch", torch.is_grad_enabled()))

    def after_validation(self, logits: Tensor, labels: Tensor) -> None:
        JOURNAL.append(("after_validation", tuple(logits.shape), tuple(labels.shape), torch.is_grad_enabled()))
