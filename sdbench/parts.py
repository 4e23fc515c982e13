"""What more than one method builds on: maps made of stages, branches, memories, teachers, random shares.

Feature maps are [N, C, H, W], one stage's output. Maps of lower precision than float32 are computed on
in float32; float64 stays. Random numbers are drawn on construction, and where a generator is handed in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdbench.errors import UserError
from sdbench.losses import distillation_kl, full_precision
from sdbench.method import Batch, Method, Task, Terms
from sdbench.network import Network
from sdbench.rows import Rows as Rows
from sdbench.rows import read_rows as read_rows
from sdbench.rows import write_rows as write_rows


def energy_map(feature_map: Tensor) -> Tensor:
    """mean_c f_nchw^2 of a map [N, C, H, W], flattened over positions: [N, H * W], >= 0.

    The activation-based attention of Zagoruyko & Komodakis (ICLR 2017) with p = 2, before it is
    normalized over positions.
    """
    return full_precision(feature_map).square().mean(1).flatten(1)


def spatial_softmax(feature_map: Tensor) -> Tensor:
    """Softmax over positions of ``energy_map``: [N, C, H, W] -> [N, H * W], rows sum to 1."""
    return F.softmax(energy_map(feature_map), dim=1)


def unit_attention(feature_map: Tensor) -> Tensor:
    """``energy_map`` divided by its Euclidean norm over positions: [N, C, H, W] -> [N, H * W].

    A map that is 0 everywhere stays 0.
    """
    return F.normalize(energy_map(feature_map), dim=1)


def pool_to(feature_map: Tensor, height: int, width: int) -> Tensor:
    """Average pooling of a map [N, C, H, W] to [N, C, height, width]; the map itself if it has that size.

    Where H and W are multiples of the new size this is plain average pooling, whose gradient is the
    same in every run on a GPU; elsewhere the bins overlap as ``adaptive_avg_pool2d`` has it.
    """
    rows, columns = feature_map.shape[2:]
    if (rows, columns) == (height, width):
        return feature_map
    if rows % height == 0 and columns % width == 0:
        return F.avg_pool2d(feature_map, (rows // height, columns // width))
    return F.adaptive_avg_pool2d(feature_map, (height, width))


def require_stages(network: Network, least: int, method: str, reason: str) -> list[tuple[int, int, int]]:
    """(C, H, W) of every stage of a network with ``least`` stages or more.

    method: its name on the command line; reason: what it needs the stages for, as a verb phrase
    ("compares each stage with the next"). Raises UserError where the network has fewer, or none.
    """
    shapes = network.stage_shapes
    if len(shapes) < least:
        raise UserError(
            f"{method} {reason}, and {network.label} has {len(shapes)} stage{'s' * (len(shapes) != 1)}. "
            f"Use a network with {least} stages or more (`sdbench list models`)"
        )
    return shapes


class Branch(nn.Module):
    """An auxiliary classifier after a stage: a fresh copy of all later stages, average pooling, a linear layer.

    [N, C_i, H_i, W_i] -> (logits [N, K], last map [N, C_L, H_L, W_L]), C_L and H_L, W_L as in the
    network itself. Its weights are its own, freshly initialized, on the network's device.

    from_stage: index i in [0, L) of the stage that it reads; L - 1 is the linear layer alone.
    """

    def __init__(self, network: Network, from_stage: int, num_classes: int) -> None:
        super().__init__()
        channels = network.stage_shapes[-1][0]
        device = next(network.parameters()).device
        self.tail = network.tail(from_stage)
        self.classifier = nn.Linear(channels, num_classes).to(device)

    def forward(self, feature_map: Tensor) -> tuple[Tensor, Tensor]:
        last = self.tail(feature_map)
        return self.classifier(last.mean((2, 3))), last


def branches_before_last(network: Network, count: int, num_classes: int, method: str) -> nn.ModuleList:
    """A ``Branch`` after each of the ``count`` deepest stages but the last, the shallowest first.

    A network with fewer earlier stages gets one after each of them. method: its name on the command line. Raises
    UserError where the network has fewer than two stages.
    """
    stages = len(require_stages(network, 2, method, "puts classifiers after stages before the last"))
    return nn.ModuleList(Branch(network, i, num_classes) for i in range(max(0, stages - 1 - count), stages - 1))


def branch_outputs(branches: nn.ModuleList, stages: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """(logits [N, K], last map) of each of ``branches_before_last``, from all stages' maps."""
    own = stages[-1 - len(branches) : -1]
    return [branch(feature_map) for branch, feature_map in zip(branches, own, strict=True)]


def symmetric_beta(alpha: float, generator: torch.Generator | None, device: torch.device | None = None) -> Tensor:
    """One draw from Beta(alpha, alpha), alpha > 0; 0-d float32 on ``device``, by default the generator's.

    The ratio of two draws from Gamma(alpha), by their logarithms: Gamma(alpha) is Gamma(alpha + 1) times
    U^(1/alpha). So nothing underflows however small alpha is, where a plain ratio would be 0/0, and
    nothing waits for the device. ``torch.distributions`` and NumPy take no generator of a device.
    """
    if device is None and generator is not None:
        device = generator.device
    shape = torch.full((2,), alpha + 1, dtype=torch.float32, device=device)
    gamma = torch._standard_gamma(shape, generator=generator)
    log_gamma = gamma.log() - torch.empty_like(shape).exponential_(generator=generator) / alpha
    return torch.sigmoid(log_gamma[0] - log_gamma[1])


@torch.no_grad()
def add_hits(logits: Tensor, labels: Tensor, sums: Tensor, counts: Tensor) -> None:
    """Add p_n to sums[y_n] [K, K] and 1 to counts[y_n] [K], in place, for the rows that are classified right.

    logits [N, K], labels y [N]; p = softmax(z), T = 1. Right means that the label has the largest logit,
    of equal ones the first that ``argmax`` finds. No mask is indexed with, so shapes never depend on hits.
    """
    logits = full_precision(logits)
    hits = logits.argmax(1) == labels
    sums.index_add_(0, labels, (F.softmax(logits, dim=1) * hits[:, None]).to(sums.dtype))
    counts.index_add_(0, labels, hits.to(counts.dtype))


def mean_of_hits(sums: Tensor, counts: Tensor) -> Tensor:
    """sums_y / counts_y [K, K], rows as ``add_hits`` filled them, and 1/K where counts_y is 0."""
    means = sums / counts.clamp(min=1)[:, None]
    return torch.where(counts[:, None] > 0, means, 1 / len(sums))


def keep_rows(method: Method, name: str, task: Task, network: Network, fill: float = 0.0) -> None:
    """Give ``method`` a memory [num_train, K] of float32 as its attribute ``name``, every value ``fill`` at first.

    A buffer on the network's device, or where the harness finds it too large for that, a ``sdbench.rows.RowFile``;
    ``read_rows``, ``write_rows`` and ``exchange_rows`` take both, and the results are the same to the bit.
    """
    device = next(network.parameters()).device
    shape = (task.num_train, task.num_classes)
    file = task.shelf.offer(*shape, fill, device) if task.shelf else None
    if file is None:
        memory = torch.zeros(shape, device=device)
        method.register_buffer(name, memory.fill_(fill) if fill else memory)
    else:
        setattr(method, name, file)


def exchange_rows(memory: Rows, index: Tensor, rows: Tensor) -> Tensor:
    """The rows of a memory [num_train, K] at ``index`` [N], which are then overwritten with ``rows`` [N, K].

    What is returned is a copy, so that it is what was there before even if an image comes twice in a batch.
    """
    past = read_rows(memory, index)
    write_rows(memory, index, rows)
    return past


def require_teacher(task: Task, method: str) -> Network:
    """``task.teacher``; method: its name on the command line. Raises UserError where there is none."""
    if task.teacher is None:
        raise UserError(
            f"{method} learns from a network that was trained before, and Task.teacher is None; train one and hand "
            "over network.frozen_copy(), or let `sdbench run` train all generations"
        )
    return task.teacher


def predecessor_loss(
    logits: Tensor, teacher_logits: Tensor, labels: Tensor, ce_weight: float, weight: float, temperature: float
) -> Terms:
    """The two terms ``ce`` and ``distillation``, weighted, both 0-d.

    ce: ce_weight * (1/N) sum_n -log softmax(z_n)[y_n] for logits z [N, K] and labels y [N].
    distillation: weight * T^2 (1/N) sum_n KL(softmax(t_n / T) || softmax(z_n / T)) for teacher
        logits t [N, K], which get no gradient; T > 0.
    """
    return {
        "ce": ce_weight * F.cross_entropy(full_precision(logits), labels),
        "distillation": weight * distillation_kl(logits, teacher_logits, temperature),
    }


class PredecessorTaught(Method):
    """Base of methods that learn from the labels and from the network of the generation before.

    The loss is ``predecessor_loss`` with t the logits that ``Task.teacher``, in eval mode and without gradient, gives
    for the same augmented images. At weight 0 the teacher is not asked.

    ce_weight, weight: in [0, infinity). temperature: in (0, infinity). Raises ValueError outside of these.
    """

    generations = 2
    teacher: Network

    def __init__(self, ce_weight: float, weight: float, temperature: float) -> None:
        super().__init__()
        for name, value in (("ce_weight", ce_weight), ("weight", weight)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} must be in [0, infinity), got {value}")
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature must be positive and finite, got {temperature}")
        self.ce_weight, self.weight, self.temperature = ce_weight, weight, temperature

    def setup(self, task: Task, network: Network) -> None:
        self.teacher = require_teacher(task, self.name)

    def loss(self, network: Network, batch: Batch, progress: Tensor) -> Terms:
        if self.weight == 0:
            logits = full_precision(network(batch.images).logits)
            return {"ce": self.ce_weight * F.cross_entropy(logits, batch.labels)}
        with torch.no_grad():  # first, while the student keeps no maps for its backward pass yet
            teacher_logits = self.teacher(batch.images).logits
        logits = network(batch.images).logits
        return predecessor_loss(logits, teacher_logits, batch.labels, self.ce_weight, self.weight, self.temperature)
