"""Processes that decode images: how many, and how they are kept from one pass over the images to the next."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from multiprocessing import get_context
from multiprocessing.context import BaseContext
from typing import Any, Generic, TypeVar

import pynvml
import torch
from torch.utils.data import DataLoader, Dataset

from sdbench import environment

MOST = 16
"""Workers that are started unasked."""

Answer = TypeVar("Answer", covariant=True)


def spare_workers(*, on_gpu: bool, cpus_per_trial: int, threads: int, packed: bool) -> int:
    """How many workers a trial starts where nobody said: the processors that it has and does not train on.

    cpus_per_trial: what it was given, where that is more than one. Otherwise on a GPU its share of the machine's
    processors, half of that where several trials share the GPU, at least one; on a CPU, which is busy training, none.
    """
    if cpus_per_trial > 1:
        return max(0, min(MOST, cpus_per_trial - threads))
    if not on_gpu:
        return 0
    share = environment.cpu_count() // max(1, _gpus()) // (2 if packed else 1)
    return max(1, min(MOST, share - threads))


def _gpus() -> int:
    """GPUs of the machine, also of those that this process is not to see."""
    try:
        pynvml.nvmlInit()
        try:
            return int(pynvml.nvmlDeviceGetCount())
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return torch.cuda.device_count()


class Loaders(Generic[Answer]):
    """Answers to requests, in order, each made by ``decoder[request]`` in one of ``count`` processes.

    The processes stay from one pass to the next: to start them anew takes longer than a step. With ``count`` 0 there
    are none. They are started through a fork server, as forking the trial itself, with its threads and its CUDA
    context, is not safe. preload: the module that the server imports before it forks. pinned: answers lie in memory
    that a GPU can copy from by itself.
    """

    def __init__(self, decoder: Dataset[Answer], count: int, *, pinned: bool, preload: str) -> None:
        self._decoder = decoder
        self._count = count
        self._pinned = pinned
        self._preload = preload
        self._idle: list[_Line[Answer]] = []

    def answers(self, requests: Iterable[Any]) -> Iterator[Answer]:
        """One answer for each request. A pass may be given up, and another one begun before it has ended."""
        line = self._idle.pop() if self._idle else self._line()
        try:
            yield from line.loader_for(requests)
        except GeneratorExit:
            self._idle.append(line)  # what is still being decoded is thrown away when the next pass begins
            raise
        self._idle.append(line)

    def _line(self) -> _Line[Answer]:
        return _Line(self._decoder, self._count, _fork_server(self._preload) if self._count else None, self._pinned)


class _Line(Generic[Answer]):
    """A data loader whose requests change from pass to pass."""

    def __init__(self, decoder: Dataset[Answer], count: int, context: BaseContext | None, pinned: bool) -> None:
        self._requests: Iterable[Any] = ()
        self._loader: DataLoader[Answer] = DataLoader(
            decoder,
            batch_size=None,
            sampler=self,
            num_workers=count,
            persistent_workers=count > 0,
            collate_fn=_as_it_is,
            pin_memory=pinned,
            multiprocessing_context=context,
            # Its own generator: by default a loader would advance torch's global one.
            generator=torch.Generator(),
        )

    def loader_for(self, requests: Iterable[Any]) -> Iterable[Answer]:
        self._requests = requests
        return self._loader

    def __iter__(self) -> Iterator[Any]:
        return iter(self._requests)


def _as_it_is(answer: Any) -> Any:
    return answer


def _fork_server(preload: str) -> BaseContext:
    """A context whose server imports torch once, before it forks the first worker."""
    context = get_context("forkserver")
    context.set_forkserver_preload([preload])
    return context
