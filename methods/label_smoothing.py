"""Label smoothing (Szegedy et al., CVPR 2016): part of the target's mass goes to all classes."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from sdbench import Batch, LogUniform, Method, Output, Terms, register
from sdbench.losses import full_precision

Spread = Literal["all", "others"]


def label_smoothing_loss(logits: Tensor, labels: Tensor, smoothing: float, spread: Spread = "all") -> Tensor:
    """-(1/N) sum_n sum_k q_nk log p_nk for logits [N, K] and labels [N]; a 0-d tensor.

    smoothing: s in [0, 1). 0 is cross-entropy; towards 1 the label no longer matters under "all"
        and becomes the one class without mass under "others".
    spread: "all" gives s/K to every class and 1 - s more to the label; "others" gives s/(K-1) to
        every class but the label, which keeps 1 - s. "others" at s equals "all" at s K/(K-1).

    No target is built: both conventions need only the label's log-probability and the row's sum.
    """
    if spread not in ("all", "others"):
        raise ValueError(f"spread must be 'all' or 'others', got {spread!r}")
    num_classes = logits.shape[1]
    log_probabilities = F.log_softmax(full_precision(logits), dim=1)
    label_term = F.nll_loss(log_probabilities, labels)
    all_classes = -log_probabilities.sum(1).mean()
    if spread == "all":
        return (1 - smoothing) * label_term + smoothing / num_classes * all_classes
    return (1 - smoothing) * label_term + smoothing / (num_classes - 1) * (all_classes - label_term)


@register("ls", paper="https://arxiv.org/abs/1512.00567", official="megvii-research/zipfls@108e27a", year=2016)
class LabelSmoothing(Method):
    """Cross-entropy with a target that is uniform for a share ``smoothing`` of its mass.

    L = -(1/N) sum_n sum_k q_nk log p_nk with p = softmax(z), logits z [N, K], labels y [N], and
    q_nk = (1 - s) [k = y_n] + s/K (``spread="all"``) or
    q_nk = 1 - s at the label and s/(K-1) elsewhere (``spread="others"``).

    smoothing: s in [0, 1); 0 is plain cross-entropy, towards 1 the labels lose their say.
    spread: which classes share s. The two conventions agree at s_all = s_others K/(K-1): at
        s = 0.1 and K = 100 the step is one per cent of s, at K = 2 it is a factor of two.

    One forward and one backward pass, no state.

    The default spread is the paper's, which is also ``torch.nn.CrossEntropyLoss(label_smoothing=s)``.
    The authors released no PyTorch code; the repositories whose label-smoothing baselines are
    usually quoted (megvii-research/zipfls, winycg/Self-KD-Lib) use "others", and their numbers are
    reproduced by that setting. The published smoothing is 0.1 in both.
    """

    core = True
    space = {"smoothing": LogUniform(0.01, 0.9)}
    recommended = {"cifar100": {"smoothing": 0.1}, "tinyimagenet": {"smoothing": 0.1}}
    neutral = {"smoothing": 0.0}

    def __init__(self, *, smoothing: float = 0.1, spread: Spread = "all") -> None:
        super().__init__()
        if not 0 <= smoothing < 1:
            raise ValueError(f"smoothing must be in [0, 1), got {smoothing}")
        if spread not in ("all", "others"):
            raise ValueError(f"spread must be 'all' or 'others', got {spread!r}")
        self.smoothing = smoothing
        self.spread = spread

    def criterion(self, output: Output, batch: Batch, progress: Tensor) -> Terms:
        return {"ce": label_smoothing_loss(output.logits, batch.labels, self.smoothing, self.spread)}
