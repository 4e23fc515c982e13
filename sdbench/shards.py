"""Whether what was asked for can be trained with each batch spread over several processes (``--gpus-per-trial``)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch

from sdbench import registry
from sdbench.coupling import coupling
from sdbench.data.dataset import anchors_per_step
from sdbench.environment import choose_device
from sdbench.errors import UserError
from sdbench.joining import refuse_apart
from sdbench.request import Problems, Request
from sdbench.spec import Recipe, Value
from sdbench.tiny import TinyTask

MOST = 1024


def count(request: Request, problems: Problems) -> int:
    """K of ``--gpus-per-trial K``, 1 where it is not given; what does not go with it is a problem."""
    wanted: int = problems.number("gpus_per_trial", request.gpus_per_trial, int, 1, MOST) or 1
    if wanted == 1:
        return 1
    with_it = f"--gpus-per-trial {wanted}"
    if request.per_gpu not in (None, "1"):
        problems.found.append(f"{with_it} and --per-gpu {request.per_gpu} together; a trial has whole GPUs or a part")
    if request.compile == "graph":
        problems.found.append(f"{with_it} and --compile graph together: such steps are not captured; drop one")
    if request.state == "disk":
        problems.found.append(
            f"{with_it} and --state disk together: the processes of a trial join their memories of every image, which "
            "are not kept in files; drop one"
        )
    gpus = None if request.address else _gpus(request.device or "auto")
    if gpus is not None and gpus < wanted:
        problems.found.append(
            f"{with_it}: this machine has {gpus} GPU{'s' * (gpus != 1)}; give fewer, --address of a Ray cluster, or "
            "--device cpu to train on as many processes of the CPU"
        )
    elif request.gpus is not None and request.gpus.isdecimal() and 0 < int(request.gpus) < wanted:
        problems.found.append(f"{with_it} and --gpus {request.gpus}: a trial does not fit on that many GPUs")
    return wanted


def _gpus(device: str) -> int | None:
    """GPUs of this machine, where trials are to run on them."""
    return torch.cuda.device_count() if choose_device(device).type == "cuda" else None


def judge(
    shards: int,
    variants: Mapping[str, Sequence[tuple[str, dict[str, Value]]]],
    recipes: Mapping[str, Recipe],
    problems: Problems,
) -> None:
    """Name every method whose batches cannot be spread, and every batch that cannot be shared out evenly.

    variants: methods with all hyper-parameters by data set. recipes: by data set.
    """
    if shards == 1:
        return
    for dataset, chosen in variants.items():
        for name, params in chosen:
            problems.attempt(lambda n=name, p=params: refuse(n, p))  # type: ignore[misc]
            if dataset in recipes:
                _share_out(shards, name, params, recipes[dataset].batch_size, problems)


def refuse(name: str, params: Mapping[str, Value]) -> None:
    """Raises UserError where a method, set up beside a small network, does not say how its state comes together, or
    where its loss on a batch there is not that of the parts together."""
    task = TinyTask()
    with _settings_kept():
        try:
            session = task.session(task.trial(name, params))
        except Exception:  # it needs another task; it is asked again when its trial starts
            return
        refuse_apart(name, session.method, session.network)
        try:
            found = coupling(session)
        except Exception:  # it cannot be trained on this task: so it is not tried
            return
    if found:
        raise UserError(f"{name} cannot be trained on several devices: {found}")


@contextmanager
def _settings_kept() -> Iterator[None]:
    """Puts back what a session sets for its whole process, and torch's generator."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)


def _share_out(shards: int, name: str, params: Mapping[str, Value], batch_size: int, problems: Problems) -> None:
    method = registry.build(name, dict(params))
    labelled = anchors_per_step(batch_size, method.partners, method.partners_in_batch)
    if labelled % shards:
        nearest = max(1, round(batch_size / shards)) * shards
        problems.found.append(
            f"--gpus-per-trial {shards}: the {labelled} labelled images of a batch of {batch_size} cannot be shared "
            f"out evenly; take a multiple, such as --batch-size {nearest}"
        )
