"""SFR (Fan & Hou, 2021, withdrawn), reconstructed from its abstract: deep local features teach shallow ones."""

import math
from functools import partial
from itertools import combinations, pairwise
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from sdbench import Batch, LogUniform, Method, Network, Output, Task, Terms, Uniform, register
from sdbench.losses import full_precision
from sdbench.parts import add_hits, exchange_rows, keep_rows, mean_of_hits, pool_to, require_stages, spatial_softmax

Pairs = Literal["all_to_last", "adjacent", "all"]
Grouping = Literal["contiguous", "stride", "activation_sorted"]
Distance = Literal["sinkhorn", "sorted", "cdf"]
Dynamics = Literal["schedule", "class", "instance"]
Marginal = Literal["uniform", "cross"]
CHOICES = (Distance, Pairs, Grouping, Marginal, Dynamics)

NORM_EPSILON = 1e-6
RAMP_EPOCHS = 5
ABSORB_EVERY, LEAST_MASS = 10, 1e-30


def group_channels(deep: Tensor, channels: int, grouping: Grouping = "contiguous") -> Tensor:
    """Mean of each group of channels: [N, C', H, W] -> [N, channels, H, W], C' = r channels.

    "contiguous": group k holds channels k r .. k r + r - 1. "stride": channels k, k + C, k + 2 C, ...
    "activation_sorted": contiguous after sorting by the mean over batch and positions, largest first.
    Where r is no integer the channels are averaged over overlapping bins (adaptive average pooling),
    whatever the grouping.

    A shallow channel's squared distance to each channel of its group has, but for the factor r, the
    gradient of its distance to the group's mean.
    """
    images, count, height, width = deep.shape
    if count % channels:
        bins = F.adaptive_avg_pool1d(deep.flatten(2).transpose(1, 2), channels)
        return bins.transpose(1, 2).reshape(images, channels, height, width)
    if grouping == "stride":
        return deep.reshape(images, -1, channels, height, width).mean(1)
    if grouping == "activation_sorted":
        deep = deep.index_select(1, deep.mean((0, 2, 3)).sort(descending=True).indices)
    return deep.reshape(images, channels, -1, height, width).mean(2)


def local_descriptors(feature_map: Tensor) -> Tensor:
    """[N, C, H, W] -> [N, H W, C], each position's features divided by their Euclidean norm (0 stays 0)."""
    return F.normalize(feature_map.flatten(2).transpose(1, 2), dim=2, eps=NORM_EPSILON)


@torch.no_grad()
def sinkhorn_plan(cost: Tensor, rows: Tensor, columns: Tensor, regularization: float, iterations: int) -> Tensor:
    """Entropy-regularized transport plan between two distributions per image: [N, P, Q], no gradient.

    cost: [N, P, Q]. rows: [N, P] > 0 and columns: [N, Q] > 0, each row summing to 1. regularization:
    > 0, in units of the cost; towards 0 the plan becomes the cheapest one and needs more iterations.
    Sums over P equal ``columns`` exactly; sums over Q equal ``rows`` in the limit of many iterations.
    Sinkhorn's scaling (Cuturi, NeurIPS 2013), the scales taken up into logarithms every few iterations
    so that no cost is too large for it; iterating on logarithms alone takes five times as long.
    """
    kernel = -cost / regularization
    log_rows, log_columns = rows.log()[:, :, None], columns.log()[:, None, :]
    left = log_rows - kernel.logsumexp(2, keepdim=True)
    right = log_columns - (kernel + left).logsumexp(1, keepdim=True)
    for start in range(1, iterations, ABSORB_EVERY):
        plan = (kernel + left + right).exp()
        scale = torch.ones_like(log_columns)
        for _ in range(min(ABSORB_EVERY, iterations - start)):
            row_scale = rows[:, :, None] / (plan @ scale.mT).clamp(min=LEAST_MASS)
            scale = columns[:, None, :] / (row_scale.mT @ plan).clamp(min=LEAST_MASS)
        left, right = left + row_scale.log(), right + scale.log()
    return (kernel + left + right).exp()


def transport_cost(
    student: Tensor,
    teacher: Tensor,
    *,
    marginal: Marginal = "uniform",
    regularization: float = 0.05,
    iterations: int = 50,
) -> Tensor:
    """mean_n sum_ij plan_nij ||u_ni - v_nj||^2, the plan without gradient; 0-d.

    student: u [N, P, C], teacher: v [N, Q, C], without gradient.
    marginal: "uniform" gives every position the same mass; "cross" gives u_i the mass
        relu(u_i . mean_j v_j) + 1e-3 and v_j likewise by the mean of u, normalized.
    By the envelope theorem the gradient through the costs alone is that of the regularized optimum.
    """
    student, teacher = full_precision(student), full_precision(teacher.detach())
    squares = student.square().sum(2)[:, :, None] + teacher.square().sum(2)[:, None, :]
    with torch.autocast(student.device.type, enabled=False):  # products of lower precision would not do
        cost = (squares - 2 * student @ teacher.transpose(1, 2)).clamp(min=0)
        masses = _marginals(student.detach(), teacher, marginal)
        plan = sinkhorn_plan(cost.detach(), *masses, regularization, iterations)
    return (plan * cost).sum((1, 2)).mean()


def _marginals(student: Tensor, teacher: Tensor, marginal: Marginal) -> tuple[Tensor, Tensor]:
    one, other = (torch.ones_like(x[:, :, 0]) for x in (student, teacher))
    if marginal == "cross":
        one = F.relu((student * teacher.mean(1, keepdim=True)).sum(2)) + 1e-3
        other = F.relu((teacher * student.mean(1, keepdim=True)).sum(2)) + 1e-3
    return one / one.sum(1, keepdim=True), other / other.sum(1, keepdim=True)


def sorted_cost(student: Tensor, teacher: Tensor) -> Tensor:
    """mean_{n,i} sum_c (u_(i)c - v_(i)c)^2, each channel sorted over its positions by itself; 0-d.

    student: u [N, P, C], teacher: v [N, P, C], without gradient. This is the squared 2-Wasserstein
    distance of each channel's values, summed over channels.
    """
    student = full_precision(student).sort(dim=1).values
    teacher = full_precision(teacher.detach()).sort(dim=1).values
    return (student - teacher).square().sum(2).mean()


def histogram_cost(student: Tensor, teacher: Tensor) -> Tensor:
    """mean_n sum_p (cumulative phi(f)_np - cumulative phi(t)_np)^2, phi = ``spatial_softmax``; 0-d.

    student: f [N, C, H, W], teacher: t [N, C', H, W], without gradient. The squared earth mover's
    distance of Hou et al. (2016) between attention histograms, positions in reading order.
    """
    difference = spatial_softmax(student).cumsum(1) - spatial_softmax(teacher.detach()).cumsum(1)
    return difference.square().sum(1).mean()


def stage_distance(
    shallow: Tensor,
    deep: Tensor,
    *,
    emd: Distance = "sinkhorn",
    grouping: Grouping = "contiguous",
    marginal: Marginal = "uniform",
    side: int = 8,
) -> Tensor:
    """How far a stage's local features are from a deeper one's, which get no gradient; 0-d.

    shallow: [N, C, H, W], deep: [N, C', H', W']. Under "sinkhorn" both are pooled to at most side x side
    positions, under "sorted" and "cdf" to the smaller of the two as well; then deep channels are
    grouped to C, and "sinkhorn" and "sorted" compare unit descriptors.
    """
    shallow, deep = full_precision(shallow), full_precision(deep.detach())
    sizes = [[min(f.shape[d], side) for d in (2, 3)] for f in (shallow, deep)]
    if emd != "sinkhorn":
        sizes = [[min(a, b) for a, b in zip(*sizes, strict=True)]] * 2
    shallow, deep = (pool_to(f, *size) for f, size in zip((shallow, deep), sizes, strict=True))
    deep = group_channels(deep, shallow.shape[1], grouping)
    if emd == "cdf":
        return histogram_cost(shallow, deep)
    student, teacher = local_descriptors(shallow), local_descriptors(deep)
    return sorted_cost(student, teacher) if emd == "sorted" else transport_cost(student, teacher, marginal=marginal)


def stage_pairs(stages: int, pairs: Pairs) -> list[tuple[int, int]]:
    """Indices (shallow, deep): every stage with the last, with the next, or with all deeper ones."""
    if pairs == "all":
        return list(combinations(range(stages), 2))
    if pairs == "adjacent":
        return list(pairwise(range(stages)))
    return [(i, stages - 1) for i in range(stages - 1)]


def softened_cross_entropy(logits: Tensor, labels: Tensor, share: Tensor, soft: Tensor | None = None) -> Tensor:
    """Cross-entropy to (1 - e) onehot(y) + e r; 0-d.

    logits: [N, K]. labels: [N]. share: e, 0-d in [0, 1]. soft: r [N, K], rows sum to 1; 1 / K if None.
    """
    log_p = F.log_softmax(full_precision(logits), dim=1)
    expected = log_p.mean() if soft is None else (soft * log_p).sum(1).mean()
    return (1 - share) * F.nll_loss(log_p, labels) - share * expected


@register("sfr", paper="https://arxiv.org/abs/2103.07350", year=2021, caveat="reconstruction, paper withdrawn")
class SelfFeatureRegularization(Method):
    """SFR (reconstruction, paper withdrawn): deep local features teach shallow ones, with growing label smoothing.

    The paper was withdrawn by its authors for "significant errors in experimental data", no code was
    published, and only the abstract is known. From it: deep features supervise shallow ones in one
    network without a teacher, an "EMD-l2 loss" matches local features, channels are matched many to
    one, and label smoothing at the output is dynamic. **All that is more exact than this is a choice
    made here**, and no accuracy of this method may be quoted as the paper's. ``tffd`` is the
    published method of the same idea.

    L = -(1/N) sum_n sum_k q_nk log p_nk + weight ramp(t) mean_{(l,m)} D(f_l, sg f_m), p = softmax(z),
    logits z [N, K], labels y [N], stages f_l [N, C_l, H_l, W_l], q_n = (1 - e_t) onehot(y_n) + e_t r_n,
    e_t = smoothing t / E after t of E epochs, ramp(t) = min(1, t / 5), sg = no gradient: otherwise
    deep features would be drawn to shallow ones.

    weight: in [0, infinity). smoothing: in [0, 1), what e_t grows to. Both 0 is plain cross-entropy.
    dls: r, the soft part of the target: 1 / K ("schedule"); the mean prediction of last epoch's
        correctly classified images of the label's class ("class", as in OLS; a class without one has
        1 / K); the image's own prediction of last epoch ("instance", as in PS-KD). In the first
        epoch 1 / K.
    emd: D, after both stages are pooled to at most 8 x 8 positions and the C_m channels are
        averaged in groups to C_l.
        "sinkhorn": the cost sum_ij plan_ij ||u_i - v_j||^2 of moving the shallow stage's unit
        descriptors u_i [C_l] at its positions to the deep stage's v_j, by the transport plan with
        entropy 0.05 (50 Sinkhorn iterations, float32, plan without gradient). In [0, 4], and in
        [0, 2] for features that are not negative.
        "sorted": each channel's values sorted over positions, squared differences summed over channels.
        "cdf": squared difference of the cumulative attention maps (softmax over positions of mean_c f^2).
    pairs: (l, m) are every stage with the last ("all_to_last"), with the next ("adjacent"), or with
        all deeper ones ("all").
    grouping: which deep channels form a group: neighbours ("contiguous"), every C_l-th ("stride"), or
        neighbours after sorting by mean activation ("activation_sorted").
    marginal: mass of a position under "sinkhorn": equal ("uniform"), or by its similarity to the mean
        of the other side ("cross").

    One forward and one backward pass; no auxiliary parameters. State: none under "schedule", 2 K^2 + K
    floats under "class", num_train K under "instance".
    """

    space = {"weight": LogUniform(0.03, 1.0), "smoothing": Uniform(0.0, 0.9)}
    neutral = {"weight": 0.0, "smoothing": 0.0}
    joins = {"class_targets": "same", "class_sums": "sum", "class_counts": "sum", "predictions": "rows"}

    class_targets: Tensor
    class_sums: Tensor
    class_counts: Tensor
    predictions: Tensor  # or a file's rows, which exchange_rows takes as well

    def __init__(
        self,
        *,
        weight: float = 0.1,
        smoothing: float = 0.1,
        emd: Distance = "sinkhorn",
        pairs: Pairs = "all_to_last",
        grouping: Grouping = "contiguous",
        marginal: Marginal = "uniform",
        dls: Dynamics = "schedule",
    ) -> None:
        super().__init__()
        if not 0 <= weight < math.inf:
            raise ValueError(f"weight must be in [0, infinity), got {weight}")
        if not 0 <= smoothing < 1:
            raise ValueError(f"smoothing must be in [0, 1), got {smoothing}")
        for value, kind in zip((emd, pairs, grouping, marginal, dls), CHOICES, strict=True):
            if value not in get_args(kind):
                raise ValueError(f"expected one of {', '.join(get_args(kind))}, got {value!r}")
        self.weight, self.smoothing = weight, smoothing
        self.emd, self.pairs, self.grouping, self.marginal, self.dls = emd, pairs, grouping, marginal, dls
        self.epochs = 1
        if smoothing and dls != "schedule":
            self.refuses_mixing = "its soft targets are past predictions for single, unmixed images"
        if weight and grouping == "activation_sorted":
            self.couples_samples = "it sorts channels by their mean over the batch"

    def setup(self, task: Task, network: Network) -> None:
        self.epochs = task.epochs
        if self.weight:
            require_stages(network, 2, self.name, "compares shallow stages with deep ones")
        if not self.smoothing:
            return
        device, classes = next(network.parameters()).device, task.num_classes
        if self.dls == "class":
            self.register_buffer("class_targets", torch.full((classes, classes), 1 / classes, device=device))
            self.register_buffer("class_sums", torch.zeros(classes, classes, device=device))
            self.register_buffer("class_counts", torch.zeros(classes, device=device))
        elif self.dls == "instance":
            keep_rows(self, "predictions", task, network, fill=1 / classes)

    def criterion(self, output: Output, batch: Batch, progress: Tensor) -> Terms:
        logits = full_precision(output.logits)
        if self.smoothing == 0:
            terms = {"ce": F.cross_entropy(logits, batch.labels)}
        else:
            soft = self._soft_targets(logits.detach(), batch)
            terms = {"ce": softened_cross_entropy(logits, batch.labels, self.smoothing * progress, soft)}
        if self.weight:
            measure = partial(stage_distance, emd=self.emd, grouping=self.grouping, marginal=self.marginal)
            pairs = stage_pairs(len(output.stages), self.pairs)
            costs = [measure(output.stages[i], output.stages[j]) for i, j in pairs]
            ramp = (progress * self.epochs / RAMP_EPOCHS).clamp(max=1)
            terms["feature"] = self.weight * ramp * torch.stack(costs).mean()
        return terms

    @torch.no_grad()
    def _soft_targets(self, logits: Tensor, batch: Batch) -> Tensor | None:
        """r [N, K] of last epoch; what this batch adds to the next one's is written down."""
        if self.dls == "schedule":
            return None
        if self.dls == "instance":
            return exchange_rows(self.predictions, batch.index, F.softmax(logits, dim=1))
        add_hits(logits, batch.labels, self.class_sums, self.class_counts)
        return self.class_targets[batch.labels]

    def after_epoch(self, network: Network) -> None:
        if self.smoothing and self.dls == "class":
            self.class_targets.copy_(mean_of_hits(self.class_sums, self.class_counts))
            self.class_sums.zero_()
            self.class_counts.zero_()
