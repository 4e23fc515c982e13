"""The processes that train one network together: who they are, and all that they tell each other.

A trial with K shards trains on K processes. Each sees its own contiguous part of every batch; after each backward
pass the weighted gradients are added up, so that all take the same step. ``ALONE`` is the one process of every other
trial, for which each exchange is the identity.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")
Pair = tuple[Tensor, Tensor]


class PeerLost(RuntimeError):
    """Another process of the trial ended, so that an exchange with it cannot be."""


@dataclass(frozen=True)
class Shard:
    """Part ``rank``, from 0, of ``size`` equal contiguous parts of every batch.

    A last batch may be short. Where it has fewer than two images for each part, only as many parts as can have two
    get any, the last ones: BatchNorm cannot normalize one value per channel, which is all that a single image has
    where maps are 1 x 1. A batch of one image is one image, as it is for one process.
    """

    rank: int = 0
    size: int = 1

    def bounds(self, rows: int) -> tuple[int, int]:
        """First row and the one behind the last, of a batch of ``rows``: where these cannot be shared out evenly, as
        in a short last batch, sizes of parts that have any differ by one at most.

        >>> [Shard(rank, 3).bounds(8) for rank in range(3)], [Shard(rank, 3).bounds(4) for rank in range(3)]
        ([(0, 2), (2, 5), (5, 8)], [(0, 0), (0, 2), (2, 4)])
        >>> [Shard(rank, 2).bounds(2) for rank in range(2)], [Shard(rank, 2).bounds(1) for rank in range(2)]
        ([(0, 0), (0, 2)], [(0, 0), (0, 1)])
        """
        parts = min(self.size, max(1, rows // 2))
        number = max(0, self.rank - (self.size - parts))
        last = max(0, self.rank + 1 - (self.size - parts))
        return rows * number // parts, rows * last // parts

    def positions(self, count: int, step: int) -> Tensor:
        """Which of ``count`` rows in batches of ``step`` belong to this shard, ascending; int64."""
        parts = []
        for start in range(0, count, step):
            first, last = self.bounds(min(step, count - start))
            parts.append(torch.arange(start + first, start + last))
        return torch.cat(parts) if parts else torch.arange(0)


WHOLE = Shard()


class Workers:
    """One process alone: every exchange gives back what it was given."""

    shard = WHOLE
    device_index = 0

    @property
    def leads(self) -> bool:
        """Whether this process writes the records: the first one does."""
        return self.shard.rank == 0

    def add_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Replace each gradient by the sum over all processes; None where no process has one."""

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, the same bits on each."""
        return tensor

    def most(self, tensor: Tensor) -> Tensor:
        """The largest over all processes, element by element."""
        return tensor

    def from_rank(self, tensor: Tensor, rank: int) -> Tensor:
        """What process ``rank`` holds; the others give a tensor of the same shape, which is overwritten."""
        return tensor

    def gather(self, value: T) -> list[T]:
        """What each process holds, in order of rank; plain values and tensors on the CPU."""
        return [value]

    def led(self, work: Callable[[], Pair]) -> Pair:
        """What ``work`` gives on the first process, which alone does it; on the CPU where there are more."""
        return work()


ALONE = Workers()


class ProcessGroup(Workers):
    """Processes that ``torch.distributed`` has joined. device_index: which of the GPUs that it sees this one uses.
    Raises PeerLost where one of them is gone."""

    def __init__(self, device_index: int = 0) -> None:
        self.shard = Shard(dist.get_rank(), dist.get_world_size())
        self.device_index = device_index
        self._bucket: Tensor | None = None

    def add_gradients(self, parameters: Sequence[Tensor]) -> None:
        """One flat bucket, all gradients one after the other and behind them, for each, whether there is one: a
        parameter that no loss reached anywhere keeps None and is not decayed, as in a single process."""
        bucket, views, present = self._room(parameters)
        for parameter, view, mark in zip(parameters, views, present, strict=True):
            mark.fill_(parameter.grad is not None)
            if parameter.grad is None:
                view.zero_()
            else:
                view.copy_(parameter.grad)
        self.sum(bucket)
        complete = all(parameter.grad is not None for parameter in parameters)
        holders = [1.0] * len(parameters) if complete else present.tolist()  # waits for the device only where it must
        for parameter, view, held in zip(parameters, views, holders, strict=True):
            if parameter.grad is not None:
                parameter.grad.copy_(view)
            elif held:
                parameter.grad = torch.empty_like(parameter).copy_(view)

    def _room(self, parameters: Sequence[Tensor]) -> tuple[Tensor, list[Tensor], Tensor]:
        sizes = [p.numel() for p in parameters]
        if self._bucket is None:
            dtype = torch.float64 if any(p.dtype == torch.float64 for p in parameters) else torch.float32
            self._bucket = torch.zeros(sum(sizes) + len(sizes), dtype=dtype, device=parameters[0].device)
        flat = self._bucket[: sum(sizes)]
        views = [part.view(p.shape) for part, p in zip(torch.split(flat, sizes), parameters, strict=True)]
        return self._bucket, views, self._bucket[sum(sizes) :]

    def sum(self, tensor: Tensor) -> Tensor:
        with _peers():
            dist.all_reduce(tensor)
        return tensor

    def most(self, tensor: Tensor) -> Tensor:
        with _peers():
            dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return tensor

    def from_rank(self, tensor: Tensor, rank: int) -> Tensor:
        with _peers():
            dist.broadcast(tensor, rank)
        return tensor

    def gather(self, value: T) -> list[T]:
        found: list[Any] = [None] * self.shard.size
        with _peers():
            dist.all_gather_object(found, value)
        return found

    def led(self, work: Callable[[], Pair]) -> Pair:
        found: list[Any] = [tuple(tensor.cpu() for tensor in work()) if self.leads else None]
        with _peers():
            dist.broadcast_object_list(found, 0)
        first, second = found[0]
        return first, second


@contextmanager
def _peers() -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise PeerLost(f"another process of the trial is gone: {str(error).splitlines()[0]}") from error
