"""Methods of which a batch is split as they say, each in another way."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdbench import Batch, Method, Network, Output, Task, Terms, register


@register("toy_says_it_couples")
class SaysItCouples(Method):
    """Relates images to each other, and says so."""

    couples_samples = "it centres the logits on the mean over the batch"

    def criterion(self, output: Output, batch: Batch, progress: Tensor) -> Terms:
        logits = output.logits.float()
        return {"ce": F.cross_entropy(logits, batch.labels), "spread": (logits - logits.mean(0)).square().mean()}


@register("toy_says_it_sums")
class SaysItSums(Method):
    """A sum over the batch, and counts that all processes add to."""

    summed_terms = ("energy",)
    joins = {"counts": "sum"}

    def setup(self, task: Task, network: Network) -> None:
        self.register_buffer("counts", torch.zeros(task.num_classes))

    def criterion(self, output: Output, batch: Batch, progress: Tensor) -> Terms:
        logits = output.logits.float()
        self.counts.index_add_(0, batch.labels, torch.ones(len(batch.labels)))
        return {"ce": F.cross_entropy(logits, batch.labels), "energy": 1e-4 * logits.square().sum()}


@register("toy_switches_modes")
class SwitchesModes(Method):
    """Looks at the images in eval mode first, as the network is to be left in train mode; its head normalizes."""

    def setup(self, task: Task, network: Network) -> None:
        self.norm = nn.BatchNorm1d(network.stage_shapes[-1][0])

    def loss(self, network: Network, batch: Batch, progress: Tensor) -> Terms:
        network.eval()
        with torch.no_grad():
            calm = network(batch.images).logits.float().softmax(1)
        network.train()
        output = network(batch.images)
        logits, pooled = output.logits.float(), self.norm(output.pooled.float())
        return {"ce": F.cross_entropy(logits, batch.labels), "calm": -(calm * logits.log_softmax(1)).sum(1).mean(),
                "pooled": pooled.square().mean() + (pooled - 1).square().mean()}  # fmt: skip


@register("toy_drops")
class DropsLogits(Method):
    """Draws a mask for each image, which no split of a batch can repeat."""

    def setup(self, task: Task, network: Network) -> None:
        self._generator = task.generator

    def criterion(self, output: Output, batch: Batch, progress: Tensor) -> Terms:
        logits = output.logits.float()
        kept = torch.rand(logits.shape, generator=self._generator, device=logits.device) < 0.8
        return {"ce": F.cross_entropy(logits, batch.labels), "dropped": 0.1 * (logits * kept).square().mean()}
