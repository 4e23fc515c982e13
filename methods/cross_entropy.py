"""Plain cross-entropy, the baseline that every other method is compared with."""

import torch.nn.functional as F
from torch import Tensor

from sdbench import Batch, Method, Output, Terms, register
from sdbench.losses import full_precision


@register("ce")
class CrossEntropy(Method):
    """Cross-entropy with one-hot targets.

    L = -(1/N) sum_n log p_n[y_n], with p = softmax(z), logits z [N, K] and labels y [N]; 0-d, in nats.

    No hyper-parameters, no state, one forward and one backward pass.

    Logits below float32 are cast up first, so the loss under autocast is that of the rounded
    logits computed in float32.
    """

    baseline = True
    core = True

    def criterion(self, output: Output, batch: Batch, progress: Tensor) -> Terms:
        return {"ce": F.cross_entropy(full_precision(output.logits), batch.labels)}
