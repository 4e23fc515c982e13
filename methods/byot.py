"""BYOT (Zhang et al., ICCV 2019): the deepest classifier teaches one after each earlier stage."""

import math
from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from sdbench import Batch, LogUniform, Method, Network, Output, Task, Terms, Uniform, register
from sdbench.errors import UserError
from sdbench.losses import distillation_kl, full_precision, soft_cross_entropy
from sdbench.network import initialize

Variant = Literal["luanyunteng", "paper"]


def byot_loss(
    logits: Sequence[Tensor],
    features: Sequence[Tensor],
    labels: Tensor,
    temperature: float,
    alpha: float,
    beta: float,
    *,
    variant: Variant = "luanyunteng",
) -> Terms:
    """Weighted terms "ce", "kd" and "feature" and their sum "total", all 0-d.

    logits: of each classifier, deepest first, [N, K] each.
    features: what each classifier reads, in the same order, [N, D] or [N, D, 1, 1] each.
    labels: [N]. temperature: T > 0. alpha: in [0, 1]. beta: >= 0.
    variant: the two sets of formulas stated in :class:`BeYourOwnTeacher`.

    No gradient reaches the deepest logits and features as teachers. With a single classifier "kd"
    and "feature" are 0.
    """
    if variant not in ("luanyunteng", "paper"):
        raise ValueError(f"variant must be 'luanyunteng' or 'paper', got {variant!r}")
    if not logits or len(logits) != len(features):
        raise ValueError(f"give one tensor of features per classifier, got {len(logits)} and {len(features)}")
    deepest, shallow = full_precision(logits[0]), [full_precision(z) for z in logits[1:]]
    zero = deepest.new_zeros(())
    deepest_ce = F.cross_entropy(deepest, labels)
    ce = (deepest_ce if variant == "paper" else (1 - alpha) * deepest_ce) + (1 - alpha) * sum(
        (F.cross_entropy(z, labels) for z in shallow), zero
    )
    if variant == "paper":
        kd = sum((distillation_kl(z, deepest, temperature) for z in shallow), zero)
    else:
        teacher = F.softmax(deepest.detach() / temperature, dim=1)
        kd = sum((soft_cross_entropy(z / temperature, teacher) * temperature**2 for z in shallow), zero)
    hints = [_feature_distance(f, features[0], gate=variant == "luanyunteng") for f in features[1:]]
    terms = {"ce": ce, "kd": alpha * kd, "feature": beta * sum(hints, zero)}
    return {**terms, "total": terms["ce"] + terms["kd"] + terms["feature"]}


def _feature_distance(features: Tensor, teacher: Tensor, *, gate: bool) -> Tensor:
    """Squared distance summed over batch and channels; ``gate`` leaves out what is <= 0 on both sides."""
    student = full_precision(features).flatten(1)
    teacher = full_precision(teacher.detach()).flatten(1)
    distance = (student - teacher).square()
    if gate:
        distance = distance * ((student > 0) | (teacher > 0))
    return distance.sum()


class ShallowClassifier(nn.Module):
    """The auxiliary head after an earlier stage: [N, C, H, W] -> logits [N, K], features [N, D].

    1x1 convolution to D/4, k x k convolution of stride k, 1x1 convolution to D, each followed by
    BatchNorm and ReLU; global average pooling gives the features; a linear layer the logits.
    k = floor(H / H_last) (and likewise for W), at least 1, takes the map to the last one's size.
    The convolutions have no bias, which BatchNorm would cancel.
    """

    def __init__(self, shape: tuple[int, int, int], last_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        (channels, height, width), (depth, last_height, last_width) = shape, last_shape
        middle = max(1, depth // 4)
        kernel = (max(1, height // last_height), max(1, width // last_width))
        self.bottleneck = nn.Sequential(
            nn.Conv2d(channels, middle, 1, bias=False),
            nn.BatchNorm2d(middle),
            nn.ReLU(),
            nn.Conv2d(middle, middle, kernel, stride=kernel, bias=False),
            nn.BatchNorm2d(middle),
            nn.ReLU(),
            nn.Conv2d(middle, depth, 1, bias=False),
            nn.BatchNorm2d(depth),
            nn.ReLU(),
        )
        self.classifier = nn.Linear(depth, num_classes)

    def forward(self, feature_map: Tensor) -> tuple[Tensor, Tensor]:
        features = self.bottleneck(feature_map).mean((2, 3))
        return self.classifier(features), features


@register(
    "byot",
    paper="https://arxiv.org/abs/1905.08094",
    official="luanyunteng/pytorch-be-your-own-teacher@8045079",
    year=2019,
)
class BeYourOwnTeacher(Method):
    """Be your own teacher: classifiers after the earlier stages learn from the deepest one.

    Notation: z_0 [N, K] logits and F_0 [N, D] pooled features of the network, z_i and F_i those of
    the auxiliary head after each earlier stage, y [N] labels, a = alpha, b = beta, T = temperature,
    q_i = softmax(z_i / T), H cross-entropy between distributions; all means over the batch.

    ``variant="luanyunteng"`` (default):
    L = (1-a) [CE(z_0, y) + sum_i CE(z_i, y)] + a sum_i T^2 H(q_0, q_i)
      + b sum_i sum_n,d (F_i - F_0)^2 [F_i > 0 or F_0 > 0].

    ``variant="paper"``:
    L = CE(z_0, y) + sum_i [(1-a) CE(z_i, y) + a T^2 KL(q_0 || q_i) + b sum_n,d (F_i - F_0)^2].

    z_0 and F_0 are detached wherever they teach. The feature term is a *sum* over the batch, as its
    authors have it, so that its weight grows with the batch size.

    temperature: T > 0; larger values also compare small probabilities.
    alpha: in [0, 1]; 0 is plain deep supervision, at 1 the heads (and under "luanyunteng" the
        network itself) see no label.
    beta: in [0, infinity); 0 leaves the features alone.

    One forward and one backward pass; no state; a head per stage but the last (see
    ``ShallowClassifier``), which evaluation does not use: the score is the deepest classifier's.
    No setting is plain cross-entropy, because the heads also train the stages under them.

    The conference code was never released. The default follows the reproduction named under
    ``official`` with its coefficients for CIFAR-100, without its unused downsampling branches and
    without biases that BatchNorm cancels. It departs from the paper in three points, which
    "paper" undoes: the paper weights the deepest cross-entropy by 1, distils by KL (same gradient,
    lower value) and has no gate. T^2 and the sum over the batch are kept in both variants, so
    that alpha and beta mean the same. The author's later journal code (learned adapters,
    attention, AutoAugment) is another method and not offered.
    """

    core = True
    space = {
        "temperature": Uniform(0.5, 20.0),
        "alpha": Uniform(0.0, 1.0),
        "beta": LogUniform(1e-9, 1.0),
    }
    recommended = {"cifar100": {"temperature": 3.0, "alpha": 0.1, "beta": 1e-6}}
    summed_terms = ("feature",)

    def __init__(
        self,
        *,
        temperature: float = 3.0,
        alpha: float = 0.1,
        beta: float = 1e-6,
        variant: Variant = "luanyunteng",
    ) -> None:
        super().__init__()
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature must be positive and finite, got {temperature}")
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha must be in [0, 1], got {alpha}")
        if not 0 <= beta < math.inf:
            raise ValueError(f"beta must be in [0, infinity), got {beta}")
        if variant not in ("luanyunteng", "paper"):
            raise ValueError(f"variant must be 'luanyunteng' or 'paper', got {variant!r}")
        self.temperature = temperature
        self.alpha = alpha
        self.beta = beta
        self.variant = variant
        self.heads = nn.ModuleList()

    def setup(self, task: Task, network: Network) -> None:
        *earlier, last = network.stage_shapes
        if not earlier:
            raise UserError(
                f"byot puts a classifier after every stage but the last, and {network.label} has one stage. "
                "Use a network with two stages or more (`sdbench list models`)"
            )
        self.heads = nn.ModuleList(ShallowClassifier(shape, last, task.num_classes) for shape in earlier)
        initialize(self.heads)
        self.heads.to(next(network.parameters()).device)

    def criterion(self, output: Output, batch: Batch, progress: Tensor) -> Terms:
        logits, features = [output.logits], [output.pooled]
        for head, feature_map in zip(reversed(self.heads), reversed(output.stages[:-1]), strict=True):
            head_logits, head_features = head(feature_map)
            logits.append(head_logits)
            features.append(head_features)
        terms = byot_loss(logits, features, batch.labels, self.temperature, self.alpha, self.beta, variant=self.variant)
        del terms["total"]  # the harness adds the others
        return terms
