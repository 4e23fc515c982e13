"""Temporal ensembling (Laine & Aila, ICLR 2017): predictions stay near their own average over the epochs."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from sdbench import Batch, LogUniform, Method, Network, Output, Task, Terms, Uniform, register
from sdbench.losses import full_precision, ramp_up, squared_consistency
from sdbench.parts import Rows, keep_rows, read_rows, write_rows


def accumulate(ensemble: Tensor, predictions: Tensor, decay: float) -> Tensor:
    """decay Z + (1 - decay) p for rows Z and p [N, K]; decay in [0, 1), 0 keeps the newest alone."""
    return decay * ensemble + (1 - decay) * predictions.to(ensemble.dtype)


def start_correction(decay: float, epochs_done: int) -> float:
    """1 / (1 - decay^t) after t epochs, by which an average that started from 0 is too small; 1 at t = 0."""
    return 1 / (1 - decay**epochs_done) if epochs_done else 1.0


@register(
    "temporal_ensembling", paper="https://arxiv.org/abs/1610.02242", official="smlaine2/tempens@a32743a", year=2017
)
class TemporalEnsembling(Method):
    """Cross-entropy, and the squared distance to a moving average of each image's past predictions.

    L = CE(z, y) + w_e (1/N) sum_n sum_k (p_nk - t_nk)^2 with p = softmax(z), logits z [N, K], labels y [N].
    In epoch e = 0, 1, ... the targets are t = Z / (1 - decay^e) with Z [num_train, K] a moving average that
    starts from 0; each step then sets Z_n = decay Z_n + (1 - decay) p_n, with the step's own predictions
    (train mode, augmented view, before the weights change), which the next epoch reads.
    w_e = weight exp(-5 (1 - e / ramp_epochs)^2) for 0 < e < ramp_epochs and weight afterwards; w_0 = 0,
    since nothing has been predicted yet.

    weight: in [0, infinity), of the sum over classes; 0 is plain cross-entropy, and keeps nothing.
    decay: in [0, 1); 0 compares with the last epoch alone, near 1 with the mean over all epochs.
    ramp_epochs: >= 0; 0 applies the whole weight from the second epoch on. It counts epochs and does not
        shrink with a short training: in one of 20 epochs, 80 never reach a tenth of the weight.

    One forward and one backward pass; a float32 memory of 4 num_train K bytes (CIFAR-100 20 MB), on disk where it
    does not fit on the device.

    The authors' code takes the mean over N and K where the sum over K stands here: their published weights
    are divided by K (CIFAR-10 30/10, CIFAR-100 100/100). It was made for few labels and many images
    without; here every image has its label, for which their code, too, leaves the weight unscaled. Not
    followed: Adam with ramps of its own, input noise, ZCA, weight normalization (the recipe is the
    harness's); Z is kept in float32, theirs in float64.
    """

    space = {"weight": LogUniform(0.01, 100.0), "decay": Uniform(0.0, 0.99)}
    recommended = {
        "cifar10": {"weight": 3.0, "decay": 0.6, "ramp_epochs": 80},
        "cifar100": {"weight": 1.0, "decay": 0.6, "ramp_epochs": 80},
    }
    neutral = {"weight": 0.0}
    refuses_mixing = "its targets are past predictions for single, unmixed images"
    joins = {"current_weight": "same", "correction": "same", "ensemble": "rows"}

    current_weight: Tensor
    correction: Tensor
    ensemble: Rows

    def __init__(self, *, weight: float = 1.0, decay: float = 0.6, ramp_epochs: int = 80) -> None:
        super().__init__()
        if not 0 <= weight < math.inf:
            raise ValueError(f"weight must be in [0, infinity), got {weight}")
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be in [0, 1), got {decay}")
        if ramp_epochs < 0:
            raise ValueError(f"ramp_epochs must be at least 0, got {ramp_epochs}")
        self.weight = weight
        self.decay = decay
        self.ramp_epochs = ramp_epochs
        self.register_buffer("current_weight", torch.zeros(()))
        self.register_buffer("correction", torch.ones(()))

    def setup(self, task: Task, network: Network) -> None:
        self.to(next(network.parameters()).device)
        keep_rows(self, "ensemble", task, network)

    def before_epoch(self, epoch: int, epochs: int) -> None:
        self.current_weight.fill_(self.weight * ramp_up(epoch, self.ramp_epochs) if epoch else 0.0)
        self.correction.fill_(start_correction(self.decay, epoch))

    def criterion(self, output: Output, batch: Batch, progress: Tensor) -> Terms:
        terms = {"ce": F.cross_entropy(full_precision(output.logits), batch.labels)}
        if self.weight == 0:
            return terms
        # What is read is a copy, so it is last epoch's even if an image comes twice in a batch.
        past = read_rows(self.ensemble, batch.index)
        current = F.softmax(full_precision(output.logits.detach()), dim=1)
        write_rows(self.ensemble, batch.index, accumulate(past, current, self.decay))
        consistency = squared_consistency(output.logits, past * self.correction)
        return {**terms, "consistency": self.current_weight * consistency}
