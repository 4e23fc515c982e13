"""USKD (Yang et al., ICCV 2023): soft targets for label and other classes, made from a weak classifier's ranks."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdbench import Batch, LogUniform, Method, Network, Output, Task, Terms, register
from sdbench.losses import full_precision, nontarget_log_softmax, soft_cross_entropy
from sdbench.parts import require_stages

Ranking = Literal["code", "paper"]

EPSILON = 1e-6
"""Added to both denominators of the ranking score, as the authors do."""


def _targets(labels: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Indices [N, M] of the target classes and their shares [N, M]: M = 1 for labels [N], and 2 for
    soft labels [N, K], of which the two largest count."""
    if labels.dim() == 1:
        return labels[:, None], torch.ones_like(labels, dtype=dtype)[:, None]
    shares, index = labels.to(dtype).topk(2, dim=1)
    return index, shares


def target_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """-mean_n sum_m sg[s_nm + p_nm^2 - mean_batch(p_m^2)] log p_nm over the target classes m; 0-d.

    logits: [N, K], p = softmax. labels: [N] int64, then s = 1 and m = y; or soft labels [N, K], then
    m runs over the two largest and s are their shares (a class with share 0 does not count).
    The weights depend on the whole batch and get no gradient.
    """
    logits = full_precision(logits)
    index, shares = _targets(labels, logits.dtype)
    log_p = F.log_softmax(logits, dim=1).gather(1, index)
    squares = log_p.detach().exp().square()
    weights = torch.where(shares == 0, 0.0, shares + squares - squares.mean(0, keepdim=True))
    return -(weights * log_p).sum(1).mean()


def weak_loss(weak_logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of the weak classifier with label smoothing: target 0.9 y + 0.1 / K; 0-d.

    weak_logits: [N, K]. labels: [N] int64 or soft labels [N, K].
    """
    weak_logits = full_precision(weak_logits)
    if labels.dim() == 1:
        return F.cross_entropy(weak_logits, labels, label_smoothing=0.1)
    return soft_cross_entropy(weak_logits, 0.9 * labels + 0.1 / weak_logits.shape[1])


@torch.no_grad()
def class_ranks(logits: Tensor, weak_logits: Tensor, labels: Tensor, ranking: Ranking = "code") -> Tensor:
    """Rank of every class by a score of both classifiers, the highest score 1: [N, K] int64.

    With p = softmax(z), w = softmax of the weak logits, p_y and w_y their sums over the target
    classes, both logits [N, K], e = 1e-6:
    "code": w_k / (1 - w_y + e) + log p_k / (1 - log p_y + e); target classes are ranked with the others.
    "paper": w_k / (1 - w_y) + p_k / (1 - p_y), with e in the denominators as well; target classes
    come last, so that the others have the ranks 1 .. K - M.
    Equal scores are ranked by class index.
    """
    if ranking not in ("code", "paper"):
        raise ValueError(f"ranking must be 'code' or 'paper', got {ranking!r}")
    logits = full_precision(logits)
    index, _ = _targets(labels, logits.dtype)
    weak = F.softmax(full_precision(weak_logits), dim=1).to(logits.dtype)
    own = F.log_softmax(logits, dim=1)
    if ranking == "paper":
        own = own.exp()
    score = sum(s / (1 - s.gather(1, index).sum(1, keepdim=True) + EPSILON) for s in (weak, own))
    assert isinstance(score, Tensor)
    if ranking == "paper":
        score = score.scatter(1, index, -torch.inf)
    order = score.argsort(dim=1, descending=True, stable=True)
    positions = torch.arange(1, score.shape[1] + 1, device=score.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, positions)


def nontarget_targets(ranks: Tensor, labels: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """q_nk = (1 / r_nk) / sum over the other classes, and 0 at the target classes; [N, K].

    ranks: [N, K] int64. labels: [N] int64 or soft labels [N, K].
    """
    index, _ = _targets(labels, dtype)
    weights = ranks.to(dtype).reciprocal().scatter(1, index, 0.0)
    return weights / weights.sum(1, keepdim=True)


def nontarget_loss(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """-mean_n sum_k q_nk log softmax(z without the target classes)_nk; 0-d.

    logits: z [N, K]. targets: q [N, K], 0 at the target classes, whose logits get no gradient.
    """
    logits = full_precision(logits)
    index, _ = _targets(labels, logits.dtype)
    return -(targets.detach() * nontarget_log_softmax(logits, index)).sum(1).mean()


def uskd_loss(
    logits: Tensor,
    weak_logits: Tensor,
    labels: Tensor,
    alpha: float,
    beta: float,
    mu: float,
    *,
    ranking: Ranking = "code",
) -> Terms:
    """Weighted terms "target", "nontarget" and "weak", all 0-d; cross-entropy is not among them.

    logits, weak_logits: [N, K] of the network and of the weak classifier. labels: [N] int64 or soft
    labels [N, K]. alpha, beta, mu: >= 0, the terms' weights. No gradient of "target" or "nontarget"
    reaches ``weak_logits``.
    """
    ranks = class_ranks(logits, weak_logits, labels, ranking)
    targets = nontarget_targets(ranks, labels, full_precision(logits).dtype)
    return {
        "target": alpha * target_loss(logits, labels),
        "nontarget": beta * nontarget_loss(logits, labels, targets),
        "weak": mu * weak_loss(weak_logits, labels),
    }


@register("uskd", paper="https://arxiv.org/abs/2303.13005", official="yzd-v/cls_KD@1e5d48f", year=2023)
class UniversalSelfDistillation(Method):
    """Universal self-knowledge distillation: a soft share for the label, Zipf's law for the others.

    L = CE(z, y) + alpha L_target + beta L_nontarget + mu L_weak, logits z [N, K], labels y [N],
    p = softmax(z), weak logits w [N, K] of an auxiliary linear layer on the pooled last stage but one:

    L_target = -(1/N) sum_n sg[1 + p_ny^2 - mean_batch(p_y^2)] log p_ny,
    L_nontarget = -(1/N) sum_n sum_{k != y} q_nk log softmax(z without the label's)_nk,
    q_nk proportional to 1 / r_nk without gradient, r [N, K] the rank of class k,
    L_weak = cross-entropy of w with label smoothing 0.1 (0.9 y + 0.1 / K).

    ranking: "code" ranks all K classes, the label included, by
        softmax(w)_k / (1 - softmax(w)_y) + log p_k / (1 - log p_y), as the authors' code does: the
        label's rank is then left out and leaves a gap. "paper" ranks the other classes by
        softmax(w)_k / (1 - softmax(w)_y) + p_k / (1 - p_y), as the text has it; L_nontarget differs clearly.
    alpha: in [0, infinity). beta: in [0, infinity). mu: in [0, infinity); at 0 there is no weak
        classifier, and then beta must be 0, since ranks of an untrained one mean nothing. All 0 is
        plain cross-entropy.

    One forward and one backward pass; no state; one linear layer as auxiliary parameters, whose
    cross-entropy also trains the stages under it. L_target depends on the whole batch, so that the
    short last one weighs slightly differently.

    Followed is the code, including that it ranks by log-probabilities on one side; the coefficients
    are those of its configuration for CIFAR-100 (ImageNet: 1, 0.1, 0.005).

    Published: ResNet-18 on ImageNet 70.79 against 69.90 (authors' README). A number for CIFAR-100
    is not verified.
    """

    space = {"alpha": LogUniform(0.01, 10.0), "beta": LogUniform(0.01, 10.0), "mu": LogUniform(1e-3, 1.0)}
    recommended = {
        "cifar100": {"alpha": 0.1, "beta": 0.1, "mu": 0.1},
        "imagenet": {"alpha": 1.0, "beta": 0.1, "mu": 0.005},
    }
    neutral = {"alpha": 0.0, "beta": 0.0, "mu": 0.0}

    def __init__(self, *, alpha: float = 0.1, beta: float = 0.1, mu: float = 0.1, ranking: Ranking = "code") -> None:
        super().__init__()
        for key, value in {"alpha": alpha, "beta": beta, "mu": mu}.items():
            if not 0 <= value < math.inf:
                raise ValueError(f"{key} must be in [0, infinity), got {value}")
        if mu == 0 and beta > 0:
            raise ValueError(f"mu must be positive where beta is: an untrained classifier ranks at random, got {beta=}")
        if ranking not in ("code", "paper"):
            raise ValueError(f"ranking must be 'code' or 'paper', got {ranking!r}")
        self.alpha, self.beta, self.mu = alpha, beta, mu
        self.ranking: Ranking = ranking
        self.weak_classifier: nn.Linear | None = None
        if alpha:
            self.couples_samples = "it sets each prediction against the mean over the batch"

    def setup(self, task: Task, network: Network) -> None:
        if self.mu == 0:
            return
        shapes = require_stages(network, 2, self.name, "puts a weak classifier on the last stage but one")
        device = next(network.parameters()).device
        self.weak_classifier = nn.Linear(shapes[-2][0], task.num_classes).to(device)

    def criterion(self, output: Output, batch: Batch, progress: Tensor) -> Terms:
        logits, labels = full_precision(output.logits), batch.labels
        ce = F.cross_entropy(logits, labels)
        if self.weak_classifier is None:
            return {"ce": ce} if self.alpha == 0 else {"ce": ce, "target": self.alpha * target_loss(logits, labels)}
        weak_logits = self.weak_classifier(output.stages[-2].mean((2, 3)))
        terms = uskd_loss(logits, weak_logits, labels, self.alpha, self.beta, self.mu, ranking=self.ranking)
        return {"ce": ce, **terms}
