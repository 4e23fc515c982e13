"""Penultimate features of a trial's network, rebuilt from its weights. No pickle is read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sdbench import data, environment, models
from sdbench.errors import UserError
from sdbench.network import Network
from sdbench.paths import path_of
from sdbench.spec import TrialResult
from sdbench.store import Store, sha256

WEIGHTS = "network.safetensors"
BATCH = 256


@dataclass(frozen=True)
class Features:
    """parts: per part ("train", "test") features [V, D] with labels [V]. templates [K, D], bias [K] or None."""

    parts: dict[str, tuple[NDArray[Any], NDArray[Any]]]
    templates: NDArray[Any]
    bias: NDArray[Any] | None


def open_data(result: TrialResult, data_dir: str | None, device: str = "auto") -> data.DataSet:
    """The data set of a trial, with its split. Raises UserError where it is not there or has changed."""
    spec = result.spec
    location = path_of(data_dir).absolute() if data_dir else None
    chosen = environment.choose_device(device)
    found = data.load(spec.dataset, location, spec.image_size, device=chosen, split=spec.holdout)
    if found.fingerprint != result.identity.data_fingerprint:
        raise UserError(f"data set {spec.dataset} is not the one that trial {result.trial_id} learned from")
    return found


def load_network(store: Store, result: TrialResult, dataset: data.DataSet) -> Network:
    """The trained network, in eval mode, float32. Raises UserError where its weights are gone or changed."""
    path = store.folder(result.spec, result.trial_id) / WEIGHTS
    if not path.is_file():
        raise UserError(f"trial {result.trial_id}: its weights were not kept; run it again without --no-weights")
    if sha256(path) != result.checksums.get(WEIGHTS):
        raise UserError(f"trial {result.trial_id}: its weights are not those that were recorded")
    network = models.build(result.spec.network, dataset.num_classes, dataset.image_size)
    try:
        network.load_state_dict(safetensors.torch.load_file(path))
    except (safetensors.SafetensorError, RuntimeError, OSError) as error:
        raise UserError(f"trial {result.trial_id}: its weights are not those of a {result.spec.network}") from error
    return network.to(dataset.device).eval()


def features(network: Network, dataset: data.DataSet, most_train: int | None) -> Features:
    """Features of the training images, without augmentation and ``most_train`` at most, and of all test images."""
    if network.classifier is None:
        raise UserError(f"{network.label} gives logits only, and templates are rows of a classifier's weights")
    if not _reads_pooled(network, next(dataset.test_batches(BATCH, torch.float32))[0]):
        raise UserError(f"{network.label}: its classifier does not read the pooled features, so they have no templates")
    parts = {
        "train": penultimate(network, dataset.train_batches(BATCH, torch.float32, most_train)),
        "test": penultimate(network, dataset.test_batches(BATCH, torch.float32)),
    }
    layer = network.classifier
    bias = None if layer.bias is None else layer.bias.detach().cpu().numpy()
    return Features(parts, layer.weight.detach().cpu().numpy(), bias)


@torch.no_grad()
def _reads_pooled(network: Network, images: Tensor) -> bool:
    """Whether the logits are the last layer of the pooled features, up to the rounding of float32; other networks have
    a norm or further layers between them. Values that are not finite tell nothing."""
    output, layer = network(images), network.classifier
    if not isinstance(layer, nn.Linear) or output.pooled.shape[-1] != layer.in_features:
        return False
    apart = (layer(output.pooled) - output.logits).abs().max()
    return not bool(apart > 1e-4 * output.logits.abs().max())


@torch.no_grad()
def penultimate(network: Network, batches: Iterator[tuple[Tensor, Tensor]]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Pooled features [V, D] and labels [V] of all batches, in float32, as the network stands (its mode included)."""
    pairs = [(network(images).pooled.float().cpu().numpy(), labels.cpu().numpy()) for images, labels in batches]
    return np.concatenate([x for x, _ in pairs]), np.concatenate([y for _, y in pairs])
