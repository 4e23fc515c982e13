"""Methods that ask for more images: further views, partners of the same class, partners in the batch."""

import torch
import torch.nn.functional as F
from torch import Tensor

from sdbench import Batch, Method, Network, Terms, register
from sdbench.losses import distillation_kl


@register("toy_views")
class Views(Method):
    """Two views agree: CE(z) + weight * KL(z' || z), z' detached, of the further view."""

    views = 2
    neutral = {"weight": 0.0}

    def __init__(self, *, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def loss(self, network: Network, batch: Batch, progress: Tensor) -> Terms:
        logits, other = network(batch.images).logits, network(batch.views[0]).logits
        agreement = self.weight * distillation_kl(logits, other, 1.0)
        return {"ce": F.cross_entropy(logits.float(), batch.labels), "agreement": agreement}


class Partners(Method):
    """CE(z) + the mean over the partners of KL(partner || z)."""

    def loss(self, network: Network, batch: Batch, progress: Tensor) -> Terms:
        logits = network(batch.images).logits
        others = torch.stack([network(partner).logits for partner in batch.partners])
        pulls = torch.stack([distillation_kl(logits, other, 2.0) for other in others.unbind()])
        return {"ce": F.cross_entropy(logits.float(), batch.labels), "pull": pulls.mean()}


@register("toy_one_partner")
class OnePartner(Partners):
    """One partner beside each image."""

    partners = 1


@register("toy_two_partners")
class TwoPartners(Partners):
    """Two partners beside each image."""

    partners = 2


@register("toy_partners_in_batch")
class PartnersInBatch(Method):
    """Three partners within the batch, all in one forward pass, each with a loss of its own."""

    partners = 3
    partners_in_batch = True

    def loss(self, network: Network, batch: Batch, progress: Tensor) -> Terms:
        images = torch.cat([batch.images, *batch.partners])
        labels = batch.labels.repeat(1 + len(batch.partners))
        return {"ce": F.cross_entropy(network(images).logits.float(), labels)}
