"""Modules and maps that more than one method builds on: what is made of a network's stages.

Feature maps are [N, C, H, W], one stage's output. Maps of lower precision than float32 are computed on
in float32; float64 stays. Nothing here draws random numbers except on construction.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from sdbench.errors import UserError
from sdbench.losses import full_precision
from sdbench.network import Network


def energy_map(feature_map: Tensor) -> Tensor:
    """mean_c f_nchw^2 of a map [N, C, H, W], flattened over positions: [N, H * W], >= 0.

    The activation-based attention of Zagoruyko & Komodakis (ICLR 2017) with p = 2, before it is
    normalized over positions.
    """
    return full_precision(feature_map).square().mean(1).flatten(1)


def spatial_softmax(feature_map: Tensor) -> Tensor:
    """Softmax over positions of ``energy_map``: [N, C, H, W] -> [N, H * W], rows sum to 1."""
    return F.softmax(energy_map(feature_map), dim=1)


def unit_attention(feature_map: Tensor) -> Tensor:
    """``energy_map`` divided by its Euclidean norm over positions: [N, C, H, W] -> [N, H * W].

    A map that is 0 everywhere stays 0.
    """
    return F.normalize(energy_map(feature_map), dim=1)


def pool_to(feature_map: Tensor, height: int, width: int) -> Tensor:
    """Average pooling of a map [N, C, H, W] to [N, C, height, width]; the map itself if it has that size.

    Where H and W are multiples of the new size this is plain average pooling, whose gradient is the
    same in every run on a GPU; elsewhere the bins overlap as ``adaptive_avg_pool2d`` has it.
    """
    rows, columns = feature_map.shape[2:]
    if (rows, columns) == (height, width):
        return feature_map
    if rows % height == 0 and columns % width == 0:
        return F.avg_pool2d(feature_map, (rows // height, columns // width))
    return F.adaptive_avg_pool2d(feature_map, (height, width))


def require_stages(network: Network, least: int, method: str, reason: str) -> list[tuple[int, int, int]]:
    """(C, H, W) of every stage of a network with ``least`` stages or more.

    method: its name on the command line; reason: what it needs the stages for, as a verb phrase
    ("compares each stage with the next"). Raises UserError where the network has fewer, or none.
    """
    shapes = network.stage_shapes
    if len(shapes) < least:
        raise UserError(
            f"{method} {reason}, and {network.label} has {len(shapes)} stage{'s' * (len(shapes) != 1)}. "
            f"Use a network with {least} stages or more (`sdbench list models`)"
        )
    return shapes


class Branch(nn.Module):
    """An auxiliary classifier after a stage: a fresh copy of all later stages, average pooling, a linear layer.

    [N, C_i, H_i, W_i] -> (logits [N, K], last map [N, C_L, H_L, W_L]), C_L and H_L, W_L as in the
    network itself. Its weights are its own, freshly initialized, on the network's device.

    from_stage: index i in [0, L) of the stage that it reads; L - 1 is the linear layer alone.
    """

    def __init__(self, network: Network, from_stage: int, num_classes: int) -> None:
        super().__init__()
        channels = network.stage_shapes[-1][0]
        device = next(network.parameters()).device
        self.tail = network.tail(from_stage)
        self.classifier = nn.Linear(channels, num_classes).to(device)

    def forward(self, feature_map: Tensor) -> tuple[Tensor, Tensor]:
        last = self.tail(feature_map)
        return self.classifier(last.mean((2, 3))), last
