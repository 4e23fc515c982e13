"""Methods that remember: a row per training image, the last batch, the epoch, validation accuracy."""

import torch
import torch.nn.functional as F
from torch import Tensor

from sdbench import Batch, Method, Network, Output, Task, Terms, register
from sdbench.losses import distillation_kl, soft_cross_entropy


@register("toy_per_sample")
class PerSample(Method):
    """Targets half the label, half the prediction made of the same image an epoch ago."""

    def setup(self, task: Task, network: Network) -> None:
        self.register_buffer("past", torch.zeros(task.num_train, task.num_classes))
        self.register_buffer("share", torch.zeros(()))

    def before_epoch(self, epoch: int, epochs: int) -> None:
        self.share.fill_(0.5 * (epoch > 0))

    def loss(self, network: Network, batch: Batch, progress: Tensor) -> Terms:
        logits = network(batch.images).logits.float()
        label = F.one_hot(batch.labels, logits.shape[1])
        targets = (1 - self.share) * label + self.share * self.past[batch.index]
        self.past[batch.index] = logits.detach().softmax(1)
        return {"soft": soft_cross_entropy(logits, targets)}


@register("toy_carry")
class Carry(Method):
    """The last batch is forwarded again and held to the logits that it had then."""

    def setup(self, task: Task, network: Network) -> None:
        self.register_buffer("images", torch.zeros(task.batch_size, 3, network.image_size, network.image_size))
        self.register_buffer("logits", torch.zeros(task.batch_size, task.num_classes))
        self.register_buffer("valid", torch.zeros((), dtype=torch.int64))

    def loss(self, network: Network, batch: Batch, progress: Tensor) -> Terms:
        logits = network(batch.images).logits
        consistency = logits.new_zeros(())
        if valid := int(self.valid):
            again = network(self.images[:valid].clone()).logits
            consistency = distillation_kl(again, self.logits[:valid], 3.0)
        count = len(batch.labels)
        self.images[:count] = batch.images
        self.logits[:count] = logits.detach()
        self.valid.fill_(count)
        return {"ce": F.cross_entropy(logits.float(), batch.labels), "consistency": consistency}


@register("toy_epoch")
class Epoch(Method):
    """Label smoothing that grows from 0 to 0.3 with the integer epoch, kept in a 0-d buffer."""

    def setup(self, task: Task, network: Network) -> None:
        self.register_buffer("smoothing", torch.zeros(()))

    def before_epoch(self, epoch: int, epochs: int) -> None:
        self.smoothing.fill_(0.3 * epoch / (epochs - 1))

    def criterion(self, output: Output, batch: Batch, progress: Tensor) -> Terms:
        log_p = F.log_softmax(output.logits.float(), 1)
        return {"soft": (1 - self.smoothing) * F.nll_loss(log_p, batch.labels) - self.smoothing * log_p.mean()}


@register("toy_validation")
class Validation(Method):
    """A penalty on large logits whose weight is the error rate on the held-out images."""

    wants_validation = True

    def setup(self, task: Task, network: Network) -> None:
        self.register_buffer("error", torch.ones(()))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def criterion(self, output: Output, batch: Batch, progress: Tensor) -> Terms:
        logits = output.logits.float()
        return {
            "ce": F.cross_entropy(logits, batch.labels),
            "size": 0.01 * self.error * logits.square().sum(1).mean(),
        }

    def after_validation(self, logits: Tensor, labels: Tensor) -> None:
        self.error.copy_((logits.argmax(1) != labels).float().mean())
        self.seen += len(labels)


@register("toy_classes")
class Classes(Method):
    """First-stage maps are pulled to the mean map of their class so far; sums and squares in a 5-d buffer."""

    def setup(self, task: Task, network: Network) -> None:
        self.register_buffer("sums", torch.zeros(2, task.num_classes, *network.stage_shapes[0]))
        self.register_buffer("counts", torch.zeros(task.num_classes))

    def criterion(self, output: Output, batch: Batch, progress: Tensor) -> Terms:
        maps, labels = output.stages[0].float(), batch.labels
        means = self.sums[0, labels] / self.counts[labels].clamp(min=1)[:, None, None, None]
        pull = (maps - means).square().mean((1, 2, 3)) * (self.counts[labels] > 0)
        for row, values in enumerate((maps.detach(), maps.detach().square())):
            self.sums[row] += torch.zeros_like(self.sums[row]).index_add(0, labels, values)
        self.counts += F.one_hot(labels, len(self.counts)).sum(0)
        return {"ce": F.cross_entropy(output.logits.float(), labels), "pull": 0.01 * pull.mean()}
