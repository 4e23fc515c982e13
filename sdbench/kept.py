"""The tensors that a trial keeps beside its record: written by the trainer, outside its clock, read by analyses.

    network.safetensors           state of the bare network after the last epoch
    logits.safetensors            ``logits`` [V, K] of the test set after the last epoch and ``labels`` [V]; where
                                  images were held out, ``validation_logits`` and ``validation_labels`` as well
    epoch_logits/epoch-0004.safetensors    ``logits`` and ``labels`` of the test set after four epochs, where
                                  ``--keep-logits every:N`` asked for them

Logits are in half precision: a relative error of at most 2^-11, and infinite beyond 65,504.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
from torch import Tensor

from sdbench.durable import make_folder
from sdbench.spec import Options
from sdbench.store import EPOCH_LOGITS, replacing, sync_folder
from sdbench.trial_folder import make_way_for

WEIGHTS, LOGITS = "network.safetensors", "logits.safetensors"


def write_last(folder: Path, options: Options, weights: Mapping[str, Tensor], logits: Mapping[str, Tensor]) -> None:
    """The network's weights, and logits with their labels, where they are to be kept. Where they are not, older ones
    are deleted, which the record would seal as its own."""
    for name, keeps in ((WEIGHTS, options.keep_weights), (LOGITS, options.keep_logits)):
        if not keeps:
            make_way_for(folder / name)
            (folder / name).unlink(missing_ok=True)
    if options.keep_weights:
        own = {k: v.detach().cpu().contiguous() for k, v in weights.items()}
        with replacing(folder / WEIGHTS) as temporary:
            safetensors.torch.save_file(own, temporary)
    if options.keep_logits:
        _write(folder / LOGITS, logits)


def wants(options: Options, epochs_done: int) -> bool:
    """Whether the logits after so many epochs are to be kept."""
    return options.logits_every > 0 and epochs_done % options.logits_every == 0


def write_epoch(folder: Path, epochs_done: int, logits: Tensor, labels: Tensor) -> None:
    """The test set's logits [V, K] and labels [V] after ``epochs_done`` epochs."""
    _write(folder / EPOCH_LOGITS / f"epoch-{epochs_done:04d}.safetensors", {"logits": logits, "labels": labels})


def cut_back(folder: Path, epochs_done: int) -> None:
    """Forget the epochs after ``epochs_done``, which a trial that is taken up again trains anew."""
    for epoch, path in epoch_files(folder).items():
        if epoch > epochs_done:
            path.unlink(missing_ok=True)


def take_over(folder: Path, again: Path, options: Options, epochs: int) -> None:
    """Move what a trial of so many epochs that was run again keeps from ``again`` to where the older files lie, and
    delete those of them that it does not keep. Done once more after a kill in between, it ends the same."""
    for name in ("curve.jsonl", WEIGHTS, LOGITS):
        if (again / name).exists():
            (again / name).replace(folder / name)
        else:
            (folder / name).unlink(missing_ok=True)
    for epoch, path in epoch_files(folder).items():
        if epoch > epochs or not wants(options, epoch):
            path.unlink(missing_ok=True)
    for path in epoch_files(again).values():
        make_folder(folder / EPOCH_LOGITS)
        path.replace(folder / EPOCH_LOGITS / path.name)
        sync_folder(folder / EPOCH_LOGITS)
    sync_folder(folder)


def epoch_files(folder: Path) -> dict[int, Path]:
    """The files of a trial's epochs by the number of epochs done, ascending; empty where none were kept."""
    if (folder / EPOCH_LOGITS).is_symlink():
        return {}
    matches = [(re.fullmatch(r"epoch-(\d{4,})\.safetensors", p.name), p) for p in (folder / EPOCH_LOGITS).glob("*")]
    return dict(sorted((int(match[1]), path) for match, path in matches if match))


def _write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    kept = {k: (v.half() if v.is_floating_point() else v).contiguous() for k, v in tensors.items()}
    make_way_for(path)
    with replacing(path) as temporary:
        safetensors.torch.save_file(kept, temporary)
