"""PS-KD (Kim et al., ICCV 2021): targets move from the labels to last epoch's predictions."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from sdbench import Batch, Method, Network, Output, Task, Terms, Uniform, register
from sdbench.losses import full_precision, soft_cross_entropy
from sdbench.parts import Rows, exchange_rows, keep_rows


def progressive_targets(labels: Tensor, past_predictions: Tensor, alpha: float | Tensor) -> Tensor:
    """(1 - alpha) onehot(y) + alpha P for labels [N] and past predictions P [N, K]; [N, K].

    alpha: float or 0-d tensor in [0, 1]; 0 gives the labels exactly, 1 the past predictions.
    Rows sum to 1 where those of P do. The result has the dtype of P and no gradient.
    """
    past = past_predictions.detach()
    kept = torch.as_tensor(1 - alpha, dtype=past.dtype, device=past.device).expand(len(labels), 1)
    return (alpha * past).scatter_add(1, labels[:, None], kept)


@register("pskd", paper="https://arxiv.org/abs/2006.12000", official="lgcnsai/PS-KD-Pytorch@9aa0828", year=2021)
class ProgressiveSelfDistillation(Method):
    """Progressive self-knowledge distillation: soften each label by its own past prediction.

    L = -(1/N) sum_n sum_k q_nk log p_nk with p = softmax(z), logits z [N, K], labels y [N] and
    q_n = (1 - alpha_t) onehot(y_n) + alpha_t P_n, where P [N, K] are the predictions of the epoch
    before and alpha_t = alpha_final (t + 1) / E in epoch t = 0 .. E - 1. No temperature. In epoch 0
    there are no past predictions: q is one-hot exactly.

    alpha_final: in [0, 1]; the weight of the past in the last epoch. 0 is plain cross-entropy, at 1
        the last epoch sees no label.
    past: where P comes from.
        "predictions": a float32 memory [num_train, K], written in each step with the softmax of
        that step's own logits (train mode, augmented view, before the weights change) and read
        one epoch later. No further forward pass; 4 num_train K bytes (CIFAR-100 20 MB, ImageNet
        5.1 GB, iNat21 107 GB) on the training device, or on disk where they do not fit there.
        "model": a frozen copy of the network as it was at the end of the epoch before, applied to
        the current images in eval mode, so that neither batch statistics nor running statistics
        are disturbed. One more forward pass without gradient; one copy of the weights.

    The authors' code is "predictions" and is the default; it keeps the memory on the host. The
    paper describes the past model, for which they released no code: "model" follows the text.
    They write one-hot rows into P in epoch 0, for which alpha = 0 stands here. Their published
    alpha_final is 0.8 throughout, with 300 epochs.
    """

    core = True
    space = {"alpha_final": Uniform(0.0, 1.0)}
    recommended = {"cifar100": {"alpha_final": 0.8}, "imagenet": {"alpha_final": 0.8}}
    neutral = {"alpha_final": 0.0}
    refuses_mixing = "its targets are past predictions for single, unmixed images"
    joins = {"alpha": "same", "predictions": "rows"}

    alpha: Tensor
    predictions: Rows
    past_network: Network

    def __init__(self, *, alpha_final: float = 0.8, past: Literal["predictions", "model"] = "predictions") -> None:
        super().__init__()
        if not 0 <= alpha_final <= 1:
            raise ValueError(f"alpha_final must be in [0, 1], got {alpha_final}")
        if past not in ("predictions", "model"):
            raise ValueError(f"past must be 'predictions' or 'model', got {past!r}")
        self.alpha_final = alpha_final
        self.past = past
        self.first_epoch = True
        self.register_buffer("alpha", torch.zeros(()))

    def setup(self, task: Task, network: Network) -> None:
        device = next(network.parameters()).device
        self.alpha = self.alpha.to(device)
        if self.past == "model":
            self.past_network = network.frozen_copy()
        else:
            keep_rows(self, "predictions", task, network)

    def before_epoch(self, epoch: int, epochs: int) -> None:
        self.first_epoch = epoch == 0
        self.alpha.fill_(0.0 if self.first_epoch else self.alpha_final * (epoch + 1) / epochs)

    def loss(self, network: Network, batch: Batch, progress: Tensor) -> Terms:
        if self.past == "predictions" or self.alpha_final == 0:
            return super().loss(network, batch, progress)
        logits = network(batch.images).logits
        if self.first_epoch:
            return {"soft_ce": F.cross_entropy(full_precision(logits), batch.labels)}
        with torch.no_grad():
            past = F.softmax(full_precision(self.past_network(batch.images).logits), dim=1)
        return {"soft_ce": soft_cross_entropy(logits, progressive_targets(batch.labels, past, self.alpha))}

    def criterion(self, output: Output, batch: Batch, progress: Tensor) -> Terms:
        if self.alpha_final == 0:
            return {"soft_ce": F.cross_entropy(full_precision(output.logits), batch.labels)}
        current = F.softmax(full_precision(output.logits.detach()), dim=1)
        past = exchange_rows(self.predictions, batch.index, current)
        targets = progressive_targets(batch.labels, past, self.alpha)
        return {"soft_ce": soft_cross_entropy(output.logits, targets)}

    def after_epoch(self, network: Network) -> None:
        if self.past == "model":
            # In place, so that a compiled or captured step goes on reading the same tensors.
            self.past_network.load_state_dict(network.state_dict())
