"""Method state and running statistics of a trial on several processes, brought together at the end of each epoch.

Each process sees its own shard of every batch, so what a method writes down while it trains is at first only its own
part. A method says under ``joins``, buffer by buffer, how the parts become one:

"same"  each process comes to the same value by itself, from the epoch, the weights or the held-out logits;
"sum"   what was added since the epoch began, by all processes together;
"rows"  a row per training image, each taken, bit for bit, from the process that had the image in this epoch;
"own"   each process goes on with its own part, and the checkpoint holds all of them.

Sums and rows are joined before ``after_epoch``, which therefore finds them whole and does the same everywhere. Within
an epoch a method reads its own part: fit for what is written in one epoch and read in the next, and for nothing else.

Running statistics of BatchNorm need no word from anybody. Each shard normalizes by its own statistics and keeps running
ones of its own, from the common ones with which the epoch began; at its end all are replaced by their mean. As running
averages are linear, this is a running average of the means over the shards. Layers in eval mode are left alone.

After each epoch all processes compare bit sums of weights and state, and the plain values that the method holds: a
declaration that does not hold ends the trial as failed instead of giving a wrong number.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from sdbench import environment
from sdbench.errors import UserError
from sdbench.graph import plain_state
from sdbench.holdings import tensors_of
from sdbench.method import Combination, Joining, Method, mixes
from sdbench.network import Network
from sdbench.workers import Workers

CHUNK_BYTES = 2**26
"""Rows that are exchanged at once take up to so much memory."""

BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Whole numbers as wide as an element, through which its bits are read."""


def obstacle(method: Method) -> str:
    """Why a method's batches cannot be spread over several processes; empty where they can."""
    if mixes(method) or isinstance(method, Combination):
        return "it draws how to blend images for the whole batch"
    return method.couples_samples


def undeclared_state(method: Method, others: Iterable[Tensor] = ()) -> list[str]:
    """Names of the buffers of a method that was set up for which it does not say how they join.

    Not asked for: running statistics, and what lies within a ``Network`` that the method holds, which follows the
    weights. Tensors that are neither buffers nor parameters, but for ``others``, are named as well: nobody could join
    them.
    """
    exempt = _within_networks(method) | _running_statistics(method)
    names = [n for n, b in method.named_buffers() if n not in method.joins and id(b) not in exempt]
    known = [*method.parameters(), *method.buffers(), *others]
    return names + ["a tensor that is no buffer"] * bool(tensors_of(method, known))


def refuse_apart(name: str, method: Method, network: nn.Module) -> None:
    """Raises UserError where a method that was set up cannot be trained on several processes. name: of the method."""
    if reason := obstacle(method):
        raise UserError(f"{name} cannot be trained on several devices: {reason}; leave it out, or give it one")
    missing = undeclared_state(method, [*network.parameters(), *network.buffers()])
    if missing:
        raise UserError(
            f"{name} cannot be trained on several devices: it does not say how {', '.join(missing)} comes together; "
            f"declare joins = {{{missing[0]!r}: 'same'}}, or 'sum', 'rows', 'own'"
        )


def _within_networks(method: nn.Module) -> set[int]:
    return {id(b) for part in method.modules() if isinstance(part, Network) for b in part.buffers()}


def _running_statistics(*modules: nn.Module) -> set[int]:
    return {id(b) for layer in running_layers(*modules) for b in layer.buffers()}


def running_layers(*modules: nn.Module) -> list[_NormBase]:
    """Every layer with running statistics, once."""
    layers = {id(part): part for module in modules for part in module.modules() if isinstance(part, _NormBase)}
    return [layer for layer in layers.values() if layer.running_mean is not None]


class Joiner:
    """Brings together what the processes of one trial hold; does nothing where there is one.

    network, method: as they train, the method set up. num_train: rows of a memory.
    Raises ValueError where a declared buffer is not there or cannot join as it says.
    """

    def __init__(self, network: Network, method: Method, num_train: int, workers: Workers) -> None:
        self._network, self._method, self._workers = network, method, workers
        self._alone = workers.shard.size == 1
        self._seen: list[Tensor] = []
        self._bases: dict[str, Tensor] = {}
        self._peaks = [(0, 0)]
        for name, buffer in self._buffers("rows").items():
            if not self._alone and (not buffer.dim() or len(buffer) != num_train):
                raise ValueError(f"{name} is declared to join by rows and has no row per training image")

    def _buffers(self, joining: Joining) -> dict[str, Tensor]:
        """The buffers that join in this way; a setting of the method may leave some of them out."""
        return {n: b for n, b in self._method.named_buffers() if self._method.joins.get(n) == joining}

    def begin(self) -> None:
        """An epoch begins: sums are counted from here."""
        if not self._alone:
            self._seen.clear()
            self._bases = {name: buffer.clone() for name, buffer in self._buffers("sum").items()}

    def saw(self, index: Tensor) -> None:
        """This process trained on the images at these positions."""
        if not self._alone and self._buffers("rows"):
            self._seen.append(index.clone())

    def join(self) -> None:
        """An epoch's steps are done: every process comes to hold the same."""
        if self._alone:
            return
        self._join_counts()
        self._join_running_statistics()
        for name, buffer in self._buffers("sum").items():
            buffer.copy_(self._bases[name] + self._workers.sum(buffer - self._bases[name]))
        if rows := self._buffers("rows"):
            self._join_rows(list(rows.values()))

    def _join_counts(self) -> None:
        """Forward passes are added up and told of by the first process; what each takes of memory is noted."""
        passes = self._network.passes
        device = next(self._network.parameters()).device
        told = (passes.with_gradient, passes.without_gradient, environment.peak_memory(device))
        everyone = self._workers.gather(told)
        leads = self._workers.leads
        passes.with_gradient = sum(each[0] for each in everyone) if leads else 0
        passes.without_gradient = sum(each[1] for each in everyone) if leads else 0
        self._peaks = [each[2] for each in everyone]

    def peak_memory(self, device: torch.device) -> tuple[int, int]:
        """As ``environment.peak_memory``, of the process that takes most: now for this one, by the last epoch's end
        for the others."""
        live, reserved = zip(*self._peaks, environment.peak_memory(device), strict=True)
        return max(live), max(reserved)

    def _join_running_statistics(self) -> None:
        layers = [layer for layer in running_layers(self._network, self._method) if layer.training]
        values = [b for layer in layers for b in (layer.running_mean, layer.running_var) if b is not None]
        if values:
            flat = self._workers.sum(torch.cat(values)) / self._workers.shard.size
            for value, joined in zip(values, torch.split(flat, [len(v) for v in values]), strict=True):
                value.copy_(joined)
        for layer in layers:
            if layer.num_batches_tracked is not None:
                self._workers.most(layer.num_batches_tracked)

    def _join_rows(self, memories: list[Tensor]) -> None:
        """Each process in turn tells the rows that it wrote, a bounded number at a time."""
        device = memories[0].device
        own = torch.cat(self._seen) if self._seen else torch.zeros(0, dtype=torch.int64, device=device)
        widest = max(memory[0].numel() * memory.element_size() for memory in memories)
        most = max(1, CHUNK_BYTES // max(1, widest))
        for rank, count in enumerate(self._workers.gather(len(own))):
            tells = rank == self._workers.shard.rank
            for start in range(0, count, most):
                size = min(most, count - start)
                index = own[start : start + size].clone() if tells else own.new_empty(size)
                self._workers.from_rank(index, rank)
                for memory in memories:
                    rows = memory[index] if tells else memory.new_empty((size, *memory.shape[1:]))
                    self._workers.from_rank(rows, rank)
                    if not tells:
                        memory.index_copy_(0, index, rows)

    def own(self) -> dict[str, Tensor]:
        """The parts that stay apart, on the CPU; none where there is one process."""
        return {} if self._alone else {name: buffer.cpu() for name, buffer in self._buffers("own").items()}

    def refuse_differences(self, epoch: int) -> None:
        """Raises RuntimeError where processes that should hold the same do not, or are not in the same epoch."""
        if self._alone:
            return
        apart = [name for name, joining in self._method.joins.items() if joining == "own"]
        tensors = {f"the network's {n}": t for n, t in self._network.state_dict().items()}
        tensors |= {f"the method's {n}": t for n, t in self._method.state_dict().items() if n not in apart}
        sums = torch.stack([bit_sum(tensor) for tensor in tensors.values()]).tolist()
        told: dict[str, object] = {"the epoch": epoch, **dict(zip(tensors, sums, strict=True))}
        plain = {n: v for n, v in plain_state(self._method).items() if n not in apart and "tensor at" not in v}
        everyone = self._workers.gather(told | {f"the method's {n}": v for n, v in plain.items()})
        differ = [name for name in everyone[0] if any(each.get(name) != everyone[0][name] for each in everyone)]
        if differ:
            raise RuntimeError(
                f"{', '.join(differ[:5])} differs between the {len(everyone)} processes of the trial; the method has "
                "to say under joins how what it writes down comes together, or under couples_samples why it cannot"
            )


def bit_sum(tensor: Tensor) -> Tensor:
    """The sum of a tensor's elements, their bits read as whole numbers; 0-d int64, wherever the tensor is."""
    return tensor.detach().view(BITS[tensor.element_size()]).sum(dtype=torch.int64)
