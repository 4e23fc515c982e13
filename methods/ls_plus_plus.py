"""LS++ (Chhabra et al., BMVC 2024): label smoothing whose share for other classes is learned."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdbench import Batch, LogUniform, Method, Network, Output, Task, Terms, Uniform, register
from sdbench.losses import full_precision, nontarget_log_softmax, soft_cross_entropy


def learned_log_shares(scores: Tensor, labels: Tensor) -> Tensor:
    """log c_n, c_n = softmax of the row scores[y_n] without its own class; [N, K], 0 at the label.

    scores: [K, K], row = label, column = class; its diagonal is not used and gets no gradient.
    labels: [N].
    """
    return nontarget_log_softmax(scores[labels], labels[:, None])


def learned_targets(scores: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """q_nk = 1 - s at the label and s c_nk elsewhere, without gradient; [N, K], rows sum to 1.

    scores: [K, K] and labels [N], see ``learned_log_shares``. smoothing: s in [0, 1].
    """
    shares = learned_log_shares(scores.detach(), labels).exp()
    return (smoothing * shares).scatter(1, labels[:, None], 1 - smoothing)


def reverse_cross_entropy(scores: Tensor, logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """-(1/N) sum_n sum_k p_nk log q_nk; 0-d. It teaches the targets q; none flows into the logits.

    scores: [K, K]; logits [N, K], p = softmax(logits), detached here; labels [N].
    smoothing: s in (0, 1). In nats; the gradient for the score of (y, k), k != y, is
    (1/N) sum over the images with label y of (1 - p_ny) c_yk - p_nk.
    """
    probabilities = F.softmax(full_precision(logits.detach()), dim=1)
    of_label = probabilities.gather(1, labels[:, None]).squeeze(1)
    of_others = (probabilities * learned_log_shares(scores, labels)).sum(1)
    return -(of_label * math.log(1 - smoothing) + (1 - of_label) * math.log(smoothing) + of_others).mean()


@register("ls_plus_plus", paper="https://arxiv.org/abs/2509.05307", official="s-chh/LSPP@6af943e", year=2024)
class LearnedLabelSmoothing(Method):
    """Label Smoothing++: each class learns how its non-target share is spread over the others.

    L = weight [-(1/N) sum_n sum_k sg(q_nk) log p_nk  -  (1/N) sum_n sum_k sg(p_nk) log q_nk] with
    p = softmax(z), logits z [N, K], labels y [N], sg for no gradient, and q_nk = 1 - s at k = y_n,
    s C[y_n, k] elsewhere. Row y of C [K, K] is a softmax over the K - 1 classes other than y of
    auxiliary parameters that start at 0 (so q starts as ``ls`` with spread "others"), and is 0 at
    y. The first term teaches the network, the second one C.

    smoothing: s in [0, 1); the share that other classes get. 0 leaves cross-entropy times
        ``weight`` and no C; towards 1 the label loses its say.
    weight: in (0, infinity), of both terms. 1 with smoothing 0 is plain cross-entropy.

    One forward and one backward pass; K^2 auxiliary parameters (the K on the diagonal stay 0), in
    the network's optimizer, with its weight decay. With two classes C is fixed.

    The authors' code, which has s = 0.1 and weight = 1/2 for all data sets and decays C by default,
    is followed: at weight 1/2 the network's gradient is half of cross-entropy's, as theirs. They
    hold C as K (K - 1) numbers, which comes to the same. Deviation: they add 1e-6 to p and to q
    inside the logarithms; here both logarithms are exact, so that images with p[y] below 1e-6 keep
    their gradient. Their script trains CIFAR-100 for 300 epochs and keeps the best test epoch; its
    repository gives no accuracies.
    """

    space = {"smoothing": LogUniform(0.01, 0.9), "weight": Uniform(0.1, 2.0)}
    recommended = {
        "cifar10": {"smoothing": 0.1, "weight": 0.5},
        "cifar100": {"smoothing": 0.1, "weight": 0.5},
        "tinyimagenet": {"smoothing": 0.1, "weight": 0.5},
    }
    neutral = {"smoothing": 0.0, "weight": 1.0}

    scores: nn.Parameter

    def __init__(self, *, smoothing: float = 0.1, weight: float = 0.5) -> None:
        super().__init__()
        if not 0 <= smoothing < 1:
            raise ValueError(f"smoothing must be in [0, 1), got {smoothing}")
        if not 0 < weight < math.inf:
            raise ValueError(f"weight must be positive and finite, got {weight}")
        self.smoothing = smoothing
        self.weight = weight

    def setup(self, task: Task, network: Network) -> None:
        if self.smoothing > 0:
            device = next(network.parameters()).device
            self.scores = nn.Parameter(torch.zeros(task.num_classes, task.num_classes, device=device))

    def criterion(self, output: Output, batch: Batch, progress: Tensor) -> Terms:
        logits, labels = full_precision(output.logits), batch.labels
        if self.smoothing == 0:
            return {"ce": self.weight * F.cross_entropy(logits, labels)}
        targets = learned_targets(self.scores, labels, self.smoothing)
        reverse = reverse_cross_entropy(self.scores, logits, labels, self.smoothing)
        return {"ce": self.weight * soft_cross_entropy(logits, targets), "reverse": self.weight * reverse}
