"""Methods that each break one rule of the contract."""

import random

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdbench import Batch, LogUniform, Method, Mixed, Network, Output, Task, Terms, Uniform, register


def cross_entropy(output: Output, batch: Batch) -> Tensor:
    return F.cross_entropy(output.logits.float(), batch.labels)


class Plain(Method):
    """Correct, so that each class below breaks one thing only."""

    def criterion(self, output: Output, batch: Batch, progress: Tensor) -> Terms:
        return {"ce": cross_entropy(output, batch)}


@register("toy_broken_init")
class RaisesInInit(Plain):
    def __init__(self, *, weight: float = 1.0) -> None:
        super().__init__()
        raise ZeroDivisionError("no weight suits me")


@register("toy_broken_exit")
class LeavesInInit(Plain):
    def __init__(self) -> None:
        raise SystemExit(3)


@register("toy_broken_default")
class DefaultOutOfRange(Plain):
    space = {"weight": Uniform(0, 1)}

    def __init__(self, *, weight: float = 7.0) -> None:
        super().__init__()


@register("toy_broken_recommended")
class RecommendedOutOfRange(Plain):
    space = {"weight": LogUniform(0.1, 1)}
    recommended = {"cifar100": {"weight": 2.0}}

    def __init__(self, *, weight: float = 0.0) -> None:
        super().__init__()


@register("toy_broken_views")
class NoViews(Plain):
    views = 0


@register("toy_broken_setup")
class RaisesInSetup(Plain):
    def setup(self, task: Task, network: Network) -> None:
        raise RuntimeError("no such stage")


@register("toy_broken_holder")
class HoldsNetwork(Plain):
    def setup(self, task: Task, network: Network) -> None:
        self.network = network


@register("toy_broken_view")
class HoldsWeights(Plain):
    def setup(self, task: Task, network: Network) -> None:
        self.register_buffer("prototypes", network.classifier.weight.detach())


@register("toy_broken_loss")
class RaisesInLoss(Plain):
    def loss(self, network: Network, batch: Batch, progress: Tensor) -> Terms:
        return self._inner(batch)

    def _inner(self, batch: Batch) -> Terms:
        raise IndexError("off by one")


@register("toy_broken_tensor")
class ReturnsTensor(Plain):
    def criterion(self, output: Output, batch: Batch, progress: Tensor) -> Terms:
        return cross_entropy(output, batch)


@register("toy_broken_vector")
class ReturnsVector(Plain):
    def criterion(self, output: Output, batch: Batch, progress: Tensor) -> Terms:
        return {"ce": F.cross_entropy(output.logits.float(), batch.labels, reduction="none")}


@register("toy_broken_number")
class ReturnsNumber(Plain):
    def criterion(self, output: Output, batch: Batch, progress: Tensor) -> Terms:
        return {"ce": cross_entropy(output, batch), "extra": 0.5}


@register("toy_broken_detached")
class Detaches(Plain):
    def criterion(self, output: Output, batch: Batch, progress: Tensor) -> Terms:
        return {"ce": cross_entropy(output, batch).detach()}


@register("toy_broken_nan")
class NotANumber(Plain):
    def criterion(self, output: Output, batch: Batch, progress: Tensor) -> Terms:
        return {"ce": cross_entropy(output, batch), "log": (output.logits.mean() * 0).log() * 0}


@register("toy_broken_nan_gradient")
class GradientNotANumber(Plain):
    def criterion(self, output: Output, batch: Batch, progress: Tensor) -> Terms:
        return {"ce": cross_entropy(output, batch), "root": (output.logits * 0).square().sum().sqrt()}


@register("toy_broken_names")
class ChangesNames(Plain):
    def setup(self, task: Task, network: Network) -> None:
        self.register_buffer("step", torch.zeros(()))

    def criterion(self, output: Output, batch: Batch, progress: Tensor) -> Terms:
        self.step += 1
        return {"odd" if int(self.step) % 2 else "even": cross_entropy(output, batch)}


@register("toy_broken_aside")
class TeachesOnlyItsHead(Method):
    def setup(self, task: Task, network: Network) -> None:
        self.head = nn.Linear(network.stage_shapes[-1][0], task.num_classes)

    def criterion(self, output: Output, batch: Batch, progress: Tensor) -> Terms:
        return {"head": F.cross_entropy(self.head(output.pooled.detach()).float(), batch.labels)}


@register("toy_broken_unused")
class UnusedParameter(Plain):
    def setup(self, task: Task, network: Network) -> None:
        self.temperature = nn.Parameter(torch.ones(()))


@register("toy_broken_neutral")
class NotNeutral(Plain):
    neutral = {"weight": 0.0}

    def __init__(self, *, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def criterion(self, output: Output, batch: Batch, progress: Tensor) -> Terms:
        return {"ce": cross_entropy(output, batch), "size": (self.weight + 0.01) * output.logits.square().mean()}


@register("toy_broken_neutral_gradient")
class NotNeutralInGradient(NotNeutral):
    def criterion(self, output: Output, batch: Batch, progress: Tensor) -> Terms:
        logits = output.logits.float() + 0.1 * (output.logits - output.logits.detach())
        return {"ce": F.cross_entropy(logits, batch.labels)}


@register("toy_broken_labels")
class WritesLabels(Plain):
    def criterion(self, output: Output, batch: Batch, progress: Tensor) -> Terms:
        loss = cross_entropy(output, batch)
        batch.labels.zero_()
        return {"ce": loss}


@register("toy_broken_images")
class WritesImagesLater(Plain):
    """Keeps the last batch and writes into it a step later."""

    def setup(self, task: Task, network: Network) -> None:
        self.last = None

    def loss(self, network: Network, batch: Batch, progress: Tensor) -> Terms:
        if self.last is not None:
            self.last.mul_(0.5)
        self.last = batch.images
        return super().loss(network, batch, progress)


@register("toy_broken_progress")
class WritesProgress(Plain):
    def criterion(self, output: Output, batch: Batch, progress: Tensor) -> Terms:
        return {"ce": cross_entropy(output, batch) * progress.add_(1)}


@register("toy_broken_mode")
class LeavesEvalMode(Plain):
    def after_step(self, network: Network) -> None:
        network.eval()


@register("toy_broken_frozen")
class FreezesNetwork(Plain):
    def after_step(self, network: Network) -> None:
        network.classifier.bias.requires_grad_(False)


@register("toy_broken_top3")
class NeedsThreeClasses(Plain):
    def criterion(self, output: Output, batch: Batch, progress: Tensor) -> Terms:
        third = output.logits.topk(3).values[:, 2]
        return {"ce": cross_entropy(output, batch), "third": 0.1 * third.mean()}


@register("toy_broken_full_batch")
class NeedsFullBatch(Plain):
    def setup(self, task: Task, network: Network) -> None:
        self.register_buffer("last", torch.zeros(task.batch_size, task.num_classes))

    def criterion(self, output: Output, batch: Batch, progress: Tensor) -> Terms:
        moved = (output.logits.float() - self.last).square().mean()
        self.last.copy_(output.logits.detach())
        return {"ce": cross_entropy(output, batch), "moved": 0.1 * moved}


@register("toy_broken_bf16")
class NeedsFloat32(Plain):
    """Stores logits without a cast: a bfloat16 row does not go into a float32 table."""

    def setup(self, task: Task, network: Network) -> None:
        self.register_buffer("past", torch.zeros(task.num_train, task.num_classes))

    def criterion(self, output: Output, batch: Batch, progress: Tensor) -> Terms:
        self.past[batch.index] = output.logits.detach()
        return {"ce": cross_entropy(output, batch)}


@register("toy_broken_seed")
class DrawsFromPython(Plain):
    def criterion(self, output: Output, batch: Batch, progress: Tensor) -> Terms:
        return {"ce": cross_entropy(output, batch) * (1 + random.random())}


@register("toy_broken_dropout")
class DrawsFromTorch(Plain):
    def criterion(self, output: Output, batch: Batch, progress: Tensor) -> Terms:
        noisy = output.logits.float() * (torch.rand_like(output.logits.float()) < 0.5)
        return {"ce": F.cross_entropy(noisy, batch.labels)}


@register("toy_broken_attribute")
class ForgetsAttribute(Plain):
    """Keeps its state in a plain attribute, which no checkpoint holds."""

    def setup(self, task: Task, network: Network) -> None:
        self.mean = torch.zeros(task.num_classes)

    def criterion(self, output: Output, batch: Batch, progress: Tensor) -> Terms:
        logits = output.logits.float()
        pulled = (logits - self.mean).square().mean()
        self.mean = 0.9 * self.mean + 0.1 * logits.detach().mean(0)
        return {"ce": cross_entropy(output, batch), "pulled": 0.1 * pulled}


@register("toy_broken_late")
class BuildsLate(Plain):
    """Registers its buffer in the first epoch instead of in setup()."""

    def before_epoch(self, epoch: int, epochs: int) -> None:
        if epoch == 1:
            self.register_buffer("memory", torch.ones(3))


@register("toy_broken_mix")
class MixesOutside(Method):
    def mix(self, batch: Batch, generator: torch.Generator) -> Mixed:
        return Mixed(batch.images, batch.labels, 1.5)


@register("toy_broken_mix_tuple")
class MixesToTuple(Method):
    def mix(self, batch: Batch, generator: torch.Generator) -> Mixed:
        return batch.images, batch.labels, 0.5


@register("toy_broken_mix_in_place")
class MixesInPlace(Method):
    def mix(self, batch: Batch, generator: torch.Generator) -> Mixed:
        batch.images.mul_(0.5)
        return Mixed(batch.images, batch.labels.flip(0), 0.5)


@register("toy_broken_mix_random")
class MixesByGlobalGenerator(Method):
    def mix(self, batch: Batch, generator: torch.Generator) -> Mixed:
        return Mixed(batch.images, batch.labels.flip(0), torch.rand(()))


@register("toy_broken_coupled")
class CentresOnTheBatch(Plain):
    def criterion(self, output: Output, batch: Batch, progress: Tensor) -> Terms:
        logits = output.logits.float()
        return {"ce": cross_entropy(output, batch), "spread": 0.1 * (logits - logits.mean(0)).square().mean()}


@register("toy_broken_sum")
class SumsUnsaid(Plain):
    def criterion(self, output: Output, batch: Batch, progress: Tensor) -> Terms:
        return {"ce": cross_entropy(output, batch), "energy": 1e-3 * output.logits.float().square().sum()}


@register("toy_broken_mean")
class SaysSumOfAMean(Plain):
    summed_terms = ("ce",)


@register("toy_broken_coupled_gradient")
class DividesByItself(Plain):
    """Its value is 1 whatever the images are."""

    def criterion(self, output: Output, batch: Batch, progress: Tensor) -> Terms:
        ce = cross_entropy(output, batch)
        return {"ce": ce / ce.detach()}


@register("toy_broken_joins")
class CountsStepsAsSum(Plain):
    joins = {"steps": "sum"}

    def setup(self, task: Task, network: Network) -> None:
        self.register_buffer("steps", torch.zeros(()))

    def criterion(self, output: Output, batch: Batch, progress: Tensor) -> Terms:
        self.steps += 1
        return {"ce": cross_entropy(output, batch)}


@register("toy_broken_rows")
class KeepsCentredRows(Plain):
    """What it writes down of an image depends on the others of its batch, and is read in the next epoch."""

    joins = {"past": "rows"}

    def setup(self, task: Task, network: Network) -> None:
        self.register_buffer("past", torch.zeros(task.num_train, task.num_classes))

    def criterion(self, output: Output, batch: Batch, progress: Tensor) -> Terms:
        logits = output.logits.float()
        past = self.past[batch.index]
        self.past[batch.index] = (logits - logits.mean(0)).detach()
        return {"ce": cross_entropy(output, batch), "past": 0.1 * (logits - past).square().mean()}
