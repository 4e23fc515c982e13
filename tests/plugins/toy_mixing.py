"""Methods that blend images, that can be blended, and that refuse to be."""

import torch
import torch.nn.functional as F
from torch import Tensor

from sdbench import Batch, Method, Mixed, Network, Output, Task, Terms, register


@register("toy_mix")
class Mix(Method):
    """x~ = s x + (1 - s) x[permutation], one s ~ U[1 - width, 1] per batch. width: in [0, 1]; 0 mixes nothing."""

    neutral = {"width": 0.0}

    def __init__(self, *, width: float = 0.5) -> None:
        super().__init__()
        self.width = width

    def mix(self, batch: Batch, generator: torch.Generator) -> Mixed:
        share = 1 - self.width * torch.rand((), generator=generator, device=generator.device)
        order = torch.randperm(len(batch.labels), generator=generator, device=generator.device)
        return Mixed(share * batch.images + (1 - share) * batch.images[order], batch.labels[order], share)


@register("toy_base")
class Base(Method):
    """CE and a decaying pull to uniform outputs; counts its epochs in a buffer. Can be mixed."""

    def __init__(self, *, weight: float = 0.1) -> None:
        super().__init__()
        self.weight = weight

    def setup(self, task: Task, network: Network) -> None:
        self.register_buffer("epochs_done", torch.zeros(()))

    def criterion(self, output: Output, batch: Batch, progress: Tensor) -> Terms:
        logits = output.logits.float()
        uniform = -F.log_softmax(logits, 1).mean()
        return {
            "ce": F.cross_entropy(logits, batch.labels),
            "uniform": self.weight / (1 + self.epochs_done) * uniform,
        }

    def after_epoch(self, network: Network) -> None:
        self.epochs_done += 1


@register("toy_unmixable")
class Unmixable(Method):
    """Remembers each image's last loss, which blended labels would spoil."""

    refuses_mixing = "it remembers each image's own loss"

    def setup(self, task: Task, network: Network) -> None:
        self.register_buffer("last", torch.zeros(task.num_train))

    def criterion(self, output: Output, batch: Batch, progress: Tensor) -> Terms:
        losses = F.cross_entropy(output.logits.float(), batch.labels, reduction="none")
        harder = (losses.detach() > self.last[batch.index]).float()
        self.last[batch.index] = losses.detach()
        return {"ce": (losses * (1 + harder)).mean()}
