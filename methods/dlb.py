"""DLB (Shen et al., CVPR 2022): the last mini-batch once more, imitating what was predicted for it then."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from sdbench import Batch, LogUniform, Method, Network, Task, Terms, Uniform, register
from sdbench.losses import distillation_kl, full_precision

Passes = Literal["separate", "joint"]


def last_batch_losses(
    logits: Tensor,
    labels: Tensor,
    carried_logits: Tensor,
    carried_labels: Tensor,
    past_logits: Tensor,
    temperature: float,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy, the mean over all N + M rows, and T^2 (1/M) sum_m KL(softmax(b_m / T) || softmax(c_m / T)).

    logits [N, K] and labels [N] of the new batch; carried_logits c [M, K] of the batch before it, seen anew,
    carried_labels [M], and past_logits b [M, K], which were computed for it one step ago; M > 0.
    temperature: T > 0. Both results are 0-d. No gradient flows into ``past_logits``.
    """
    both = torch.cat([full_precision(carried_logits), full_precision(logits)])
    ce = F.cross_entropy(both, torch.cat([carried_labels, labels]))
    return ce, distillation_kl(carried_logits, past_logits, temperature)


@dataclass
class _Rows:
    """How many rows are carried, for code that chooses shapes by it; ``past_rows`` says the same on the device.

    A step that is captured, which follows a full batch and carries a full one on, leaves it as it is.
    """

    count: int = 0


@register("dlb", paper="https://arxiv.org/abs/2203.16172", official="Meta-knowledge-Lab/DLB@8949a46", year=2022)
class LastMiniBatch(Method):
    """Self-distillation from the last mini-batch: each batch is trained on twice, in steps t and t + 1.

    L_t = CE(all of z(x_t, view 1), z(x_{t-1}, view 2)) + weight T^2 (1/M) sum_m KL(softmax(b_m / T) ||
    softmax(c_m / T)), with logits z(x_t, view 1) [N, K] of the new batch, c = z(x_{t-1}, view 2) [M, K] of
    the one before, and b = the logits [M, K] that step t - 1 computed for x_{t-1}, view 1, without gradient.
    Cross-entropy is the mean over the N + M rows. The very first step is CE(z(x_0, view 1)) alone.

    weight: in [0, infinity); at 0 each batch is still trained on twice, so no value is plain cross-entropy.
    temperature: T > 0; 1 compares the plain predictions, T -> infinity centred logits.
    passes: "separate" sends the new batch through the network first and the carried one after it, each
        normalized by its own statistics in BatchNorm; "joint" sends them as one batch of N + M.

    Two forward and two backward passes per labelled image. State: the second views, labels and logits of one
    batch, and how many rows of them are in use. They go on from one epoch to the next, a short last batch
    with as many rows as it has.

    "separate" is the authors' code and the default. The paper describes batches half of which are new; in
    the code all N are, so that a step costs twice the baseline's, which is followed. The code has no defaults;
    T = 3 and weight 1 are quoted from the paper, whose text was not checked.
    """

    views = 2
    space = {"temperature": Uniform(0.5, 20.0), "weight": LogUniform(0.01, 100.0)}
    recommended = {"cifar100": {"temperature": 3.0, "weight": 1.0}}
    joins = {"past_images": "own", "past_labels": "own", "past_logits": "own", "past_rows": "own"}

    past_images: Tensor
    past_labels: Tensor
    past_logits: Tensor
    past_rows: Tensor

    def __init__(self, *, temperature: float = 3.0, weight: float = 1.0, passes: Passes = "separate") -> None:
        super().__init__()
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature must be positive and finite, got {temperature}")
        if not 0 <= weight < math.inf:
            raise ValueError(f"weight must be in [0, infinity), got {weight}")
        if passes not in ("separate", "joint"):
            raise ValueError(f"passes must be 'separate' or 'joint', got {passes!r}")
        self.temperature = temperature
        self.weight = weight
        self.passes = passes
        self._rows = _Rows()

    def setup(self, task: Task, network: Network) -> None:
        """Room for a batch. Where a network does not say how large its images are, as one made by ``wrap``, room for
        images is made by the first step."""
        weight, size = next(network.parameters()), task.batch_size
        dtype = torch.promote_types(weight.dtype, torch.float32)
        side = getattr(network, "image_size", None)
        images = (0,) if side is None else (size, 3, side, side)
        self.register_buffer("past_images", torch.zeros(images, dtype=dtype, device=weight.device))
        self.register_buffer("past_labels", torch.zeros(size, dtype=torch.int64, device=weight.device))
        self.register_buffer("past_logits", torch.zeros(size, task.num_classes, dtype=dtype, device=weight.device))
        self.register_buffer("past_rows", torch.zeros((), dtype=torch.int64, device=weight.device))
        self._rows.count = 0

    def before_epoch(self, epoch: int, epochs: int) -> None:
        self._rows.count = int(self.past_rows)  # waits for the device, once an epoch: a resume may have set it

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        saved, own = state_dict.get(prefix + "past_images"), self._buffers.get("past_images")
        if saved is not None and own is not None and not own.numel():
            self.past_images = own.new_zeros(saved.shape)
        super()._load_from_state_dict(state_dict, prefix, *args)
        if own is not None:
            self._rows.count = int(self.past_rows)

    def loss(self, network: Network, batch: Batch, progress: Tensor) -> Terms:
        rows = self._rows.count
        if rows:
            logits, again = self._both_logits(network, batch.images, rows)
            ce, kd = last_batch_losses(
                logits, batch.labels, again, self.past_labels[:rows], self.past_logits[:rows].clone(), self.temperature
            )
        else:
            logits = network(batch.images).logits
            ce = F.cross_entropy(full_precision(logits), batch.labels)
            kd = ce.new_zeros(())
        self._carry(batch, logits.detach())
        return {"ce": ce, "consistency": self.weight * kd}

    def _both_logits(self, network: Network, images: Tensor, rows: int) -> tuple[Tensor, Tensor]:
        """Of the new batch and of the carried one."""
        # A copy, since the backward pass needs these images after the buffer has been given the next ones.
        carried = self.past_images[:rows].clone()
        if self.passes == "joint":
            logits = network(torch.cat([images, carried])).logits
            return logits[: len(images)], logits[len(images) :]
        return network(images).logits, network(carried).logits

    def _carry(self, batch: Batch, logits: Tensor) -> None:
        rows = len(logits)
        if not self.past_images.numel():
            size = len(self.past_labels)
            self.past_images = self.past_images.new_zeros(size, *batch.images.shape[1:])
        self.past_images[:rows].copy_(batch.views[0])
        self.past_labels[:rows].copy_(batch.labels)
        self.past_logits[:rows].copy_(logits)
        self.past_rows.fill_(rows)
        self._rows.count = rows
