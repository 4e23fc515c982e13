"""CALS (Liu et al., CVPR 2023): logit margins as constraints, each class with a multiplier of its own."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from sdbench import Batch, LogUniform, Method, Network, Output, Task, Terms, Uniform, register
from sdbench.losses import full_precision

Penalty = Literal["phr", "p2", "p3"]


def margin_excess(logits: Tensor, margin: float, *, normalize: bool = True) -> Tensor:
    """h_nk = (max_j z_nj - z_nk - m) / m, or without "/ m"; [N, K] for logits [N, K].

    At least -1 (normalized), which the largest logit has; positive where the distance to it exceeds m > 0.
    """
    logits = full_precision(logits)
    excess = logits.amax(1, keepdim=True) - logits - margin
    return excess / margin if normalize else excess


def penalty_and_slope(
    excess: Tensor, multipliers: Tensor, strengths: Tensor, penalty: Penalty = "phr"
) -> tuple[Tensor, Tensor]:
    """P(h, lambda, rho) and dP/dh for h [N, K], multipliers lambda > 0 [K] and strengths rho > 0 [K]; [N, K] each.

    "phr": (x^2 - lambda^2) / (2 rho) where x = lambda + rho h >= 0, else -lambda^2 / (2 rho).
    "p2": lambda h + lambda rho h^2 + rho^2 h^3 / 6 where h >= 0, else lambda h / (1 - rho h).
    "p3": lambda h + lambda rho h^2 where h >= 0, else lambda h / (1 - rho h).
    """
    if penalty not in ("phr", "p2", "p3"):
        raise ValueError(f"penalty must be 'phr', 'p2' or 'p3', got {penalty!r}")
    if penalty == "phr":
        # The squares would cancel: x^2 - lambda^2 = rho h (2 lambda + rho h).
        raised = (multipliers + strengths * excess) >= 0
        value = excess * (multipliers + strengths * excess / 2)
        flat = -multipliers.square() / (2 * strengths)
        return torch.where(raised, value, flat), (multipliers + strengths * excess).clamp(min=0)
    cubic = strengths.square() / 6 if penalty == "p2" else torch.zeros_like(strengths)
    above = excess * (multipliers + excess * (multipliers * strengths + cubic * excess))
    slope = multipliers + excess * (2 * multipliers * strengths + 3 * cubic * excess)
    room = 1 - strengths * excess.clamp(max=0)  # where h > 1/rho would divide by 0
    violated = excess >= 0
    value = torch.where(violated, above, multipliers * excess / room)
    return value, torch.where(violated, slope, multipliers / room.square())


def margin_penalty(logits: Tensor, multipliers: Tensor, strengths: Tensor, margin: float, penalty: Penalty) -> Tensor:
    """(1/N) sum_n sum_k P(h_nk, lambda_k, rho_k) for logits [N, K]; a 0-d tensor, which may be negative."""
    return penalty_and_slope(margin_excess(logits, margin), multipliers, strengths, penalty)[0].sum(1).mean()


def next_multipliers(
    excess: Tensor,
    multipliers: Tensor,
    strengths: Tensor,
    penalty: Penalty = "phr",
    bounds: tuple[float, float] = (1e-6, 1e6),
) -> Tensor:
    """lambda_k = the mean over held-out samples of dP/dh_nk, clamped to ``bounds`` before and after; [K].

    excess: h [V, K] of the held-out samples; multipliers, strengths: lambda and rho [K] until now.
    """
    slope = penalty_and_slope(excess, multipliers, strengths, penalty)[1]
    return slope.clamp(*bounds).mean(0).clamp(*bounds)


def next_strengths(
    strengths: Tensor,
    mean_excess: Tensor,
    past_mean_excess: Tensor,
    growth: float = 1.2,
    tolerance: float = 0.9,
    bounds: tuple[float, float] = (1.0, 10.0),
) -> Tensor:
    """rho_k, ``growth`` times as large where the constraint did not shrink to ``tolerance`` of what it was; [K].

    mean_excess, past_mean_excess: signed means of h [K] over the held-out samples, now and one epoch before:
    rho_k grows where mean_k > tolerance * max(past_k, 0). The result is clamped to ``bounds``.
    """
    unsolved = mean_excess > tolerance * past_mean_excess.clamp(min=0)
    return torch.where(unsolved, growth * strengths, strengths).clamp(*bounds)


@register("cals", paper="https://arxiv.org/abs/2211.15088", official="by-liu/CALS@d72b31f", year=2023)
class ClassAdaptiveLabelSmoothing(Method):
    """Cross-entropy under a margin constraint per class, by an augmented Lagrangian on held-out images.

    L = CE(z, y) + weight (1/N) sum_n sum_k P(h_nk, lambda_k, rho_k) with logits z [N, K], labels y [N],
    h_nk = (max_j z_nj - z_nk - m) / m and P one of the three penalties of ``penalty_and_slope``.
    After each epoch, with h of the held-out images: lambda_k becomes the mean of dP/dh_nk, clamped to
    [1e-6, 1e6] per sample and as a mean; then, in every ``rho_every``-th epoch but the first, rho_k grows
    by ``growth``, to 10 at most, where mean h_k > tolerance max(last epoch's mean h_k, 0).
    At first lambda = 1e-6 and rho = 1.

    weight: in [0, infinity), of the sum over classes; 0 is plain cross-entropy.
    margin: m > 0, in logits; towards 0 all logits are pulled together, large ones constrain nothing.
    penalty: "phr", "p2" or "p3".
    rho_every: in epochs, >= 1. growth: > 1. tolerance: in (0, 1]; at 1 any shrinking is enough.

    One forward and one backward pass, one pass over the held-out images per epoch; 3 K floats of state.
    Part of the training set is held out, so compare with a baseline on the same split.

    The authors' code takes the mean over N and K where the sum over K stands here: its weight of 1 is 1/K
    (0.005 for Tiny-ImageNet, 0.001 for ImageNet). Their margin is 10 in the README's commands and 20 in the
    configuration; 10 is the default. Nothing is published for CIFAR-100, whose margin needs a search; the
    default weight is 1/100. Not followed: gradient clipping, without which their loop, outside of mixed
    precision, takes no optimizer step at all; and the penalty of their code that is called "relu" but
    cannot be chosen there.
    """

    wants_validation = True
    space = {
        "weight": LogUniform(1e-4, 1.0),
        "margin": LogUniform(1.0, 50.0),
        "growth": Uniform(1.01, 3.0),
        "tolerance": Uniform(0.1, 1.0),
    }
    recommended = {"tinyimagenet": {"weight": 0.005, "margin": 10.0, "penalty": "phr", "rho_every": 10}}
    neutral = {"weight": 0.0}
    joins = {"multipliers": "same", "strengths": "same", "past_mean_excess": "same"}

    multipliers: Tensor
    strengths: Tensor
    past_mean_excess: Tensor

    def __init__(
        self,
        *,
        weight: float = 0.01,
        margin: float = 10.0,
        penalty: Penalty = "phr",
        rho_every: int = 10,
        growth: float = 1.2,
        tolerance: float = 0.9,
    ) -> None:
        super().__init__()
        if not 0 <= weight < math.inf:
            raise ValueError(f"weight must be in [0, infinity), got {weight}")
        if not 0 < margin < math.inf:
            raise ValueError(f"margin must be positive and finite, got {margin}")
        if penalty not in ("phr", "p2", "p3"):
            raise ValueError(f"penalty must be 'phr', 'p2' or 'p3', got {penalty!r}")
        if rho_every < 1:
            raise ValueError(f"rho_every must be at least 1, got {rho_every}")
        if not 1 < growth < math.inf:
            raise ValueError(f"growth must be in (1, infinity), got {growth}")
        if not 0 < tolerance <= 1:
            raise ValueError(f"tolerance must be in (0, 1], got {tolerance}")
        self.weight = weight
        self.margin = margin
        self.penalty: Penalty = penalty
        self.rho_every = rho_every
        self.growth = growth
        self.tolerance = tolerance
        self.strengthens = False

    def setup(self, task: Task, network: Network) -> None:
        device = next(network.parameters()).device
        self.register_buffer("multipliers", torch.full((task.num_classes,), 1e-6, device=device))
        self.register_buffer("strengths", torch.ones(task.num_classes, device=device))
        self.register_buffer("past_mean_excess", torch.zeros(task.num_classes, device=device))

    def before_epoch(self, epoch: int, epochs: int) -> None:
        self.strengthens = epoch > 0 and (epoch + 1) % self.rho_every == 0

    def criterion(self, output: Output, batch: Batch, progress: Tensor) -> Terms:
        terms = {"ce": F.cross_entropy(full_precision(output.logits), batch.labels)}
        if self.weight == 0:
            return terms
        penalty = margin_penalty(output.logits, self.multipliers, self.strengths, self.margin, self.penalty)
        return {**terms, "margin": self.weight * penalty}

    def after_validation(self, logits: Tensor, labels: Tensor) -> None:
        excess = margin_excess(logits, self.margin)
        mean_excess = excess.mean(0)
        # In place, so that a captured step goes on reading the same tensors.
        self.multipliers.copy_(next_multipliers(excess, self.multipliers, self.strengths, self.penalty))
        if self.strengthens:
            grown = next_strengths(self.strengths, mean_excess, self.past_mean_excess, self.growth, self.tolerance)
            self.strengths.copy_(grown)
        self.past_mean_excess.copy_(mean_excess)
