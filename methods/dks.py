"""DKS (Sun et al., CVPR 2019): classifiers after several stages teach one another, each pair both ways."""

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from sdbench import Batch, Choice, LogUniform, Method, Network, Output, Task, Terms, Uniform, register
from sdbench.losses import full_precision
from sdbench.parts import branch_outputs, branches_before_last

EPSILON = 1e-8
"""Added to each probability before its logarithm, as the authors do."""


def synergy_loss(
    logits: Sequence[Tensor],
    labels: Tensor,
    weight: float = 1.0,
    temperature: float = 1.0,
    *,
    epsilon: float = EPSILON,
) -> Terms:
    """Terms "ce" and "synergy", both 0-d.

    "ce" = sum_b CE(z_b, y). "synergy" = weight T^2 sum_{a != b} mean_n KL(sg P_a || P_b) over all
    ordered pairs, P_b = (softmax(z_b / T) + epsilon) / (1 + K epsilon).

    logits: z_b [N, K] of each classifier, in any order. labels: [N]. weight: >= 0.
    temperature: T > 0. epsilon: >= 0; 0 takes log P from a log-softmax.

    P_a gets no gradient as a teacher. One classifier has "synergy" 0.
    """
    logits = [full_precision(z) for z in logits]
    zero = logits[0].new_zeros(())
    ce = sum((F.cross_entropy(z, labels) for z in logits), zero)
    if epsilon == 0:
        log_p = [F.log_softmax(z / temperature, dim=1) for z in logits]
    else:
        total = 1 + logits[0].shape[1] * epsilon
        log_p = [((F.softmax(z / temperature, dim=1) + epsilon) / total).log() for z in logits]
    pairs = [
        F.kl_div(log_p[b], log_p[a].detach(), reduction="batchmean", log_target=True)
        for b in range(len(logits))
        for a in range(len(logits))
        if a != b
    ]
    return {"ce": ce, "synergy": weight * temperature**2 * sum(pairs, zero)}


@register("dks", paper="https://arxiv.org/abs/1906.00675", official="sundw2014/DKS@2853541", year=2019)
class KnowledgeSynergy(Method):
    """Deeply-supervised knowledge synergy: branches after earlier stages, and KL between all of them.

    L = sum_b CE(z_b, y) + weight T^2 sum_{a != b} (1/N) sum_n KL(sg P_a || P_b),
    z_b [N, K] logits of the network and of each branch, y [N] labels, sg = no gradient,
    P_b = (softmax(z_b / T) + 1e-8) / (1 + 1e-8 K). Each branch is a copy of the stages after its
    own, freshly initialized, with average pooling and a linear layer of its own.

    branches: an integer >= 0, the number of branches, after the deepest stages but the last; a
        network with fewer earlier stages gets one after each of them. 0 is plain cross-entropy.
    weight: in [0, infinity); 0 is deep supervision without exchange.
    temperature: T in (0, infinity); larger values also compare small probabilities.

    One forward and one backward pass through the network and the branches; no state; as auxiliary
    parameters every later stage once or twice (2 branches on a ResNet-18: 1.7 times its own number).
    Evaluation uses none of them.

    Followed is the authors' code for wide ResNets: two branches, T = 1, all weights 1. Deviation:
    each branch has exactly the remaining stages' depth and width, where they halve the last stage
    of one branch and double the width of the other. Self-KD-Lib (winycg, @ede3062) takes T = 4
    with T^2, which weighs the exchange about 16 times as much: ``temperature=4``.

    Published: WRN-28-10 on CIFAR-100, 200 epochs, mean of 5 runs: 82.76 against 81.28 (authors'
    README). Self-KD-Lib, one seed, T = 4: ResNet-18 78.64 against 76.24, best epoch; ResNet-50
    80.75 against 77.79, last epoch 80.31 against 77.66.
    """

    space = {
        "branches": Choice(0, 1, 2, 3),
        "weight": LogUniform(0.01, 10.0),
        "temperature": Uniform(0.5, 20.0),
    }
    recommended = {"cifar100": {"branches": 2, "weight": 1.0, "temperature": 1.0}}
    neutral = {"branches": 0}

    def __init__(self, *, branches: int = 2, weight: float = 1.0, temperature: float = 1.0) -> None:
        super().__init__()
        if branches < 0:
            raise ValueError(f"branches must be 0 or more, got {branches}")
        if not 0 <= weight < math.inf:
            raise ValueError(f"weight must be in [0, infinity), got {weight}")
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature must be positive and finite, got {temperature}")
        self.num_branches = branches
        self.weight = weight
        self.temperature = temperature
        self.branches = nn.ModuleList()

    def setup(self, task: Task, network: Network) -> None:
        if self.num_branches == 0:
            return
        self.branches = branches_before_last(network, self.num_branches, task.num_classes, self.name)

    def criterion(self, output: Output, batch: Batch, progress: Tensor) -> Terms:
        if not self.branches:
            return {"ce": F.cross_entropy(full_precision(output.logits), batch.labels)}
        logits = [output.logits, *(z for z, _ in branch_outputs(self.branches, output.stages))]
        return synergy_loss(logits, batch.labels, self.weight, self.temperature)
