"""Zipf's label smoothing (Liang et al., ECCV 2022): non-target mass by the rank of local predictions."""

import math
from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from sdbench import Batch, LogUniform, Method, Network, Output, Task, Terms, Uniform, register
from sdbench.errors import UserError
from sdbench.losses import full_precision, nontarget_log_softmax

FEW_CLASSES = 128
"""Up to here the plain formulation is as fast as the one that builds no target. Forward and backward
with cross-entropy, N = 128, 16 votes, one thread, ms: 0.39 and 0.44 for 100 classes, 0.43 and 0.43
for 128, 0.48 and 0.43 for 160, 1.7 and 0.69 for 1,000, 17 and 3.1 for 10,000."""

STEEPEST = 100.0
"""Powers above are taken as this one: 2^-100 is representable in float32 and rank 3 has already
less than 1e-17 of rank 2, so that nothing changes but underflow to 0/0 is ruled out."""


def rank_votes(votes: Tensor, num_classes: int) -> Tensor:
    """Competition rank of every class by its number of votes: 1 + the number of classes with more.

    votes: [N, P] int64 class indices in [0, num_classes). Returns [N, num_classes] int64; ties share
    the smaller rank (1, 2, 2, 4), as in ``scipy.stats.rankdata(-counts, "min")``; all classes
    without a vote share the last one.
    """
    counts = votes.new_zeros(len(votes), num_classes).scatter_add_(1, votes, torch.ones_like(votes))
    histogram = votes.new_zeros(len(votes), votes.shape[1] + 1)
    histogram.scatter_add_(1, counts, torch.ones_like(counts))
    ranks = num_classes + 1 - histogram.cumsum(1)  # 1 + classes with more than 0, 1, .. P votes
    return ranks.gather(1, counts)


def rank_logits(logits: Tensor) -> Tensor:
    """Competition rank of every class by its logit: [N, K] -> [N, K] int64, equal logits share a rank."""
    ordered, order = logits.sort(dim=1, descending=True)
    starts = torch.ones_like(order, dtype=torch.bool)
    starts[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    position = torch.arange(1, logits.shape[1] + 1, device=logits.device)
    rank = torch.where(starts, position, 0).cummax(dim=1).values
    return torch.empty_like(order).scatter_(1, order, rank)


def zipf_targets(ranks: Tensor, labels: Tensor, power: float, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """q_nk = r_nk^-power / sum_{j != y_n} r_nj^-power for k != y_n, and 0 at the label; [N, K].

    ranks: [N, K] over all classes, the label's included: it is ranked, then left out. labels: [N].
    power: >= 0; 0 is uniform over the other classes, large values keep only the best-ranked.
    """
    weights = ranks.to(dtype).pow(-min(power, STEEPEST)).scatter(1, labels[:, None], 0.0)
    return weights / weights.sum(1, keepdim=True)


def nontarget_kl(logits: Tensor, labels: Tensor, targets: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """mean_n KL(q_n || softmax of the logits without the label's); 0-d.

    logits: [N, K]. targets: q [N, K] with 0 at the label. mask: [N] bool, the images to average
    over (None for all); the result is 0 where it selects none. The label's logit gets no gradient.
    """
    log_probabilities = nontarget_log_softmax(full_precision(logits), labels[:, None])
    # q log q with 0 for q = 0; torch.xlogy does the same and takes several times as long on a CPU.
    log_targets = targets.clamp(min=torch.finfo(targets.dtype).tiny).log()
    rows = (targets * (log_targets - log_probabilities)).sum(1)
    return rows.mean() if mask is None else torch.where(mask, rows, 0.0).sum() / mask.sum().clamp(min=1)


def zipf_loss(logits: Tensor, labels: Tensor, votes: Tensor, power: float, *, mask: Tensor | None = None) -> Tensor:
    """KL of the other classes' softmax to the Zipf targets of ``votes``; 0-d, in nats.

    logits: [N, K]. labels: [N] int64. votes: [N, P] int64 class indices. power: >= 0.
    mask: [N] bool, the images to average over (None for all); 0 where it selects none.

    Equal to ``nontarget_kl(logits, labels, zipf_targets(rank_votes(votes, K), labels, power), mask=mask)``
    and computed so for few classes; for many, no [N, K] target is built. The gradient is
    (softmax without the label - q) / N, exactly 0 at the label. Differentiable once for many classes.
    """
    if logits.shape[1] > FEW_CLASSES:
        return _both_terms(logits, labels, votes, power, mask)[1]
    ranks = rank_votes(votes, logits.shape[1])
    targets = zipf_targets(ranks, labels, power, dtype=full_precision(logits).dtype)
    return nontarget_kl(logits, labels, targets, mask=mask)


def _both_terms(
    logits: Tensor, labels: Tensor, votes: Tensor, power: float, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Cross-entropy and ``zipf_loss``: for many classes both come out of one softmax."""
    logits = full_precision(logits)
    if logits.shape[1] <= FEW_CLASSES:
        return F.cross_entropy(logits, labels), zipf_loss(logits, labels, votes, power, mask=mask)
    kept = (torch.ones_like(labels) if mask is None else mask)[:, None].to(logits.dtype)
    share = kept / kept.sum().clamp(min=1)
    terms = _ManyClasses.apply(logits, labels[:, None], votes, min(power, STEEPEST), share)
    return cast(tuple[Tensor, Tensor], terms)


def _voted_targets(
    votes: Tensor, label: Tensor, power: float, num_classes: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Zipf targets where they differ: (at each vote [N, P], of a class without votes [N, 1],
    the share of each vote in its class, 0 for the label [N, P], sum_k q_k log q_k [N, 1]).

    At most P classes have votes and all others share one weight, so that nothing is K wide but
    a table of counts. A sum over voted classes is a sum over votes, each divided by its class's count.
    """
    one = torch.ones_like(votes, dtype=torch.int32)
    table = one.new_zeros(len(votes), num_classes).scatter_add_(1, votes, one)
    counts = table.gather(1, votes).long()
    per_vote = 1 / counts.to(dtype)
    classes = per_vote.new_zeros(len(votes), votes.shape[1] + 1).scatter_add_(1, counts, per_vote)
    classes = classes.round().long()  # thirds and the like add up to whole classes but for rounding
    ranks = 1 + classes.sum(1, keepdim=True) - classes.cumsum(1)  # by number of votes, 0 .. P
    log_weights = ranks.to(dtype).log() * -power
    log_voted, log_unvoted = log_weights.gather(1, counts), log_weights[:, :1]
    share = torch.where(votes == label, 0.0, per_vote)
    unvoted = num_classes - 1 - share.sum(1, keepdim=True).round()
    total = (share * log_voted.exp()).sum(1, keepdim=True) + unvoted * log_unvoted.exp()
    voted_target, unvoted_target = log_voted.exp() / total, log_unvoted.exp() / total
    mean_log = (share * voted_target * log_voted).sum(1, keepdim=True) + unvoted * unvoted_target * log_unvoted
    return voted_target, unvoted_target, share, mean_log - total.log()


class _ManyClasses(torch.autograd.Function):
    """(cross-entropy, zipf_loss) by analytic gradients: one softmax, static shapes, no host sync.

    With s the log-sum-exp of the logits without the label's, cross-entropy is softplus(s - z_y), and
    KL needs of the K classes only their plain sum and a gather at the P votes.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, label: Tensor, votes: Tensor, power: float, share: Tensor) -> Any:
        voted, unvoted, per_vote, negentropy = _voted_targets(votes, label, power, logits.shape[1], logits.dtype)
        others = logits.scatter(1, label, torch.finfo(logits.dtype).min)
        probabilities = F.softmax(others, dim=1)
        log_sum = others.amax(1, keepdim=True) - probabilities.amax(1, keepdim=True).log()
        label_logit = logits.gather(1, label)
        # sum_k q_k log p_k: the unvoted target for every class, and at the votes what is above it.
        everywhere = logits.sum(1, keepdim=True) - label_logit - (logits.shape[1] - 1) * log_sum
        above = per_vote * (voted - unvoted) * (logits.gather(1, votes) - log_sum)
        divergence = negentropy - unvoted * everywhere - above.sum(1, keepdim=True)
        not_label = torch.sigmoid(log_sum - label_logit)
        ctx.save_for_backward(probabilities, label, votes, voted, unvoted, share, not_label)
        return -F.logsigmoid(label_logit - log_sum).mean(), (share * divergence).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        for_cross_entropy, for_divergence = gradients
        probabilities, label, votes, voted, unvoted, share, not_label = ctx.saved_tensors
        by_label = for_cross_entropy * not_label / len(label)
        by_target = for_divergence * share
        scale = by_label + by_target
        gradient = probabilities * scale
        gradient -= by_target * unvoted
        # Votes for one class write one and the same value, so the order does not matter.
        gradient.scatter_(1, votes, probabilities.gather(1, votes) * scale - by_target * voted)
        gradient.scatter_(1, label, -by_label)
        return gradient, None, None, None, None


@torch.no_grad()
def local_votes(feature_map: Tensor, classify: Callable[[Tensor], Tensor], upsample: int = 1) -> Tensor:
    """The class predicted at each position of a map [N, D, H, W]: [N, H * W * upsample^2] int64.

    classify: [..., D] -> [..., K], the classifier that reads the pooled map.
    upsample: factor by which the positions' logits are interpolated bilinearly first; 1 for none.
    A linear classifier commutes with the interpolation, so this equals upsampling the map, cheaper.
    """
    logits = classify(feature_map.permute(0, 2, 3, 1))
    if upsample > 1:
        by_class = full_precision(logits).permute(0, 3, 1, 2)
        wide = F.interpolate(by_class, scale_factor=upsample, mode="bilinear", align_corners=False)
        logits = wide.permute(0, 2, 3, 1)
    elif logits.device.type == "cpu":
        logits = full_precision(logits)  # argmax of bfloat16 is slower by far there
    return logits.argmax(-1).flatten(1)


@register("zipf", paper="https://arxiv.org/abs/2207.12980", official="megvii-research/zipfls@108e27a", year=2022)
class ZipfLabelSmoothing(Method):
    """Zipf's label smoothing: the other classes' mass follows their rank among local predictions.

    L = CE(z, y) + weight (1/N) sum_n KL(q_n || p~_n), logits z [N, K], labels y [N],
    p~ = softmax of the K - 1 logits other than the label's, q_nk = r_nk^-power normalized over
    k != y_n. r [N, K] is the competition rank over all classes, the label's included, of the votes:
    v [N, P], the class that the network's own classifier predicts at each of the P = H W positions
    of the last stage. Classes without a vote share the last rank, and each has its full weight.

    weight: in [0, infinity); 0 is plain cross-entropy.
    power: in [0, infinity); 0 spreads the mass evenly over the other classes, 1 is Zipf's law, and
        towards infinity all of it goes to the best-ranked other class.
    dense: False ranks the logits z themselves instead of votes; needs no stages.
    upsample: factor, >= 1, of bilinear upsampling before voting; 1 for none, 2 for 4 P votes.
    mask: True averages KL over the images that are classified correctly (0 if there are none).
    deep_layers: number of stages that vote, counted from the last, >= 1. Each further stage gets an
        auxiliary linear classifier, whose votes at its positions join in.
    aux_weight: in (0, infinity); weight of the cross-entropy on each auxiliary classifier's logits
        for its pooled stage. Only deep_layers > 1 has any.

    One forward and one backward pass; no state; no auxiliary parameter unless deep_layers > 1. No
    gradient flows through votes and targets.

    Published: weight 0.1 for CIFAR-100 and ImageNet, 1.0 for TinyImageNet and INAT21, power 1. The
    authors' two versions differ. PyTorch, by its README's commands: the last stage alone, for
    CIFAR-100 and TinyImageNet (not DenseNet) upsampled, ``upsample=2``. MegEngine: no upsampling,
    all heads vote, as with ``deep_layers=2, aux_weight=0.1`` on a ResNet-18. The defaults are what
    both share: the last stage, not upsampled. Upsampling is applied to the positions' logits, which
    gives the same votes as upsampling the map. The authors' DenseNet-121 and MobileNetV2 for 224
    pixels vote through a layer that is never trained; here every network votes by its classifier.
    """

    core = True
    space = {"weight": LogUniform(0.01, 10.0), "power": Uniform(0.0, 4.0)}
    recommended = {
        "cifar100": {"weight": 0.1},
        "tinyimagenet": {"weight": 1.0},
        "imagenet": {"weight": 0.1},
        "inat21": {"weight": 1.0},
    }
    neutral = {"weight": 0.0, "deep_layers": 1}

    def __init__(
        self,
        *,
        weight: float = 0.1,
        power: float = 1.0,
        dense: bool = True,
        upsample: int = 1,
        mask: bool = False,
        deep_layers: int = 1,
        aux_weight: float = 0.1,
    ) -> None:
        super().__init__()
        for key, value in {"weight": weight, "power": power}.items():
            if not 0 <= value < math.inf:
                raise ValueError(f"{key} must be in [0, infinity), got {value}")
        for key, count in {"upsample": upsample, "deep_layers": deep_layers}.items():
            if count < 1 or (count > 1 and not dense):
                raise ValueError(f"{key} must be 1 or more, and 1 without dense votes, got {count}")
        if not 0 < aux_weight < math.inf:
            raise ValueError(f"aux_weight must be positive: untrained heads vote at random, got {aux_weight}")
        self.weight, self.power, self.dense, self.mask = weight, power, dense, mask
        self.upsample, self.deep_layers, self.aux_weight = upsample, deep_layers, aux_weight
        self.heads = nn.ModuleList()
        if weight and mask:
            self.couples_samples = "it divides by the number of correctly classified images in the batch"

    def setup(self, task: Task, network: Network) -> None:
        if not self.dense:
            return
        if network.classifier is None:
            raise UserError(
                f"zipf lets every position of the last stage vote, and {network.label} gives logits only. "
                "Use a network with stages (`sdbench list models`), or rank the logits with dense=false"
            )
        self._classify = network.classify  # a bound method, so that the weights stay the network's
        if self.deep_layers > 1:
            shapes = network.stage_shapes
            if self.deep_layers > len(shapes):
                raise UserError(f"zipf: deep_layers={self.deep_layers}, but {network.label} has {len(shapes)} stages")
            channels = [shape[0] for shape in shapes[-self.deep_layers : -1]]
            self.heads = nn.ModuleList(nn.Linear(c, task.num_classes) for c in channels)
            self.heads.to(next(network.parameters()).device)

    def criterion(self, output: Output, batch: Batch, progress: Tensor) -> Terms:
        logits, labels = full_precision(output.logits), batch.labels
        auxiliary = self._auxiliary_terms(output.stages, labels)
        if self.weight == 0:
            return {"ce": F.cross_entropy(logits, labels), **auxiliary}
        mask = logits.detach().argmax(1) == labels if self.mask else None
        if self.dense:
            ce, divergence = _both_terms(logits, labels, self._votes(output.stages), self.power, mask)
        else:
            targets = zipf_targets(rank_logits(logits.detach()), labels, self.power, dtype=logits.dtype)
            ce = F.cross_entropy(logits, labels)
            divergence = nontarget_kl(logits, labels, targets, mask=mask)
        return {"ce": ce, "zipf": self.weight * divergence, **auxiliary}

    def _auxiliary_terms(self, stages: tuple[Tensor, ...], labels: Tensor) -> Terms:
        """Comes before the votes: autocast caches the weights that it casts, and those cast under
        ``no_grad`` would carry no gradient."""
        if not self.heads:
            return {}
        pairs = zip(self.heads, stages[-self.deep_layers : -1], strict=True)
        losses = [F.cross_entropy(full_precision(head(s.mean((2, 3)))), labels) for head, s in pairs]
        return {"aux": self.aux_weight * torch.stack(losses).sum()}

    def _votes(self, stages: tuple[Tensor, ...]) -> Tensor:
        """[N, P] votes of the last stage and of the earlier ones that have a head."""
        votes = [local_votes(stages[-1], self._classify, self.upsample)]
        pairs = zip(self.heads, stages[-self.deep_layers : -1], strict=True)
        votes += [local_votes(feature_map, head, self.upsample) for head, feature_map in pairs]
        return torch.cat(votes, dim=1)
