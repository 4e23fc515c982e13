"""Methods with auxiliary heads, noise of their own, edited maps, and progress in the formula."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdbench import Batch, Method, Network, Output, Task, Terms, register


@register("toy_head")
class Head(Method):
    """A linear classifier on the first stage's pooled map learns beside the network."""

    def setup(self, task: Task, network: Network) -> None:
        self.head = nn.Linear(network.stage_shapes[0][0], task.num_classes)

    def criterion(self, output: Output, batch: Batch, progress: Tensor) -> Terms:
        early = self.head(output.stages[0].mean((2, 3)))
        return {
            "ce": F.cross_entropy(output.logits.float(), batch.labels),
            "early": F.cross_entropy(early.float(), batch.labels),
        }


@register("toy_noise")
class Noise(Method):
    """A dropout mask on the pooled features, drawn from the task's generator."""

    def setup(self, task: Task, network: Network) -> None:
        self.generator = task.generator
        self.classify = network.classify

    def criterion(self, output: Output, batch: Batch, progress: Tensor) -> Terms:
        mask = torch.rand(output.pooled.shape, generator=self.generator, device=output.pooled.device) < 0.5
        noisy = self.classify(2 * mask * output.pooled)
        return {
            "ce": F.cross_entropy(output.logits.float(), batch.labels),
            "noisy": F.cross_entropy(noisy.float(), batch.labels),
        }


@register("toy_manifold")
class Manifold(Method):
    """Maps after the second stage are blended half and half with those of a shuffled batch."""

    def setup(self, task: Task, network: Network) -> None:
        self.generator = task.generator

    def loss(self, network: Network, batch: Batch, progress: Tensor) -> Terms:
        order = torch.randperm(len(batch.labels), generator=self.generator, device=batch.labels.device)

        def blend(stage: int, features: Tensor) -> Tensor:
            return (features + features[order]) / 2 if stage == 1 else features

        logits = network(batch.images, edit=blend).logits.float()
        mine, others = (F.cross_entropy(logits, y) for y in (batch.labels, batch.labels[order]))
        return {"mine": mine / 2, "others": others / 2}


@register("toy_progress")
class Progress(Method):
    """CE with a confidence penalty that grows with the share of training done."""

    def criterion(self, output: Output, batch: Batch, progress: Tensor) -> Terms:
        logits = output.logits.float()
        entropy = torch.distributions.Categorical(logits=logits).entropy().mean()
        return {"ce": F.cross_entropy(logits, batch.labels), "entropy": -0.1 * progress * entropy}
