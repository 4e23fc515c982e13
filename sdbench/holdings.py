"""Every tensor that a method holds, wherever it keeps it: buffers, frozen networks, plain attributes, containers."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn


def tensors_of(module: nn.Module, excluded: Iterable[Tensor] = ()) -> list[Tensor]:
    """The tensors that ``module`` holds, each storage once, but for those that share one with ``excluded``.

    Looked through: attributes of the module and its parts, mappings, lists, tuples, sets, deques, dataclasses, and
    modules within them. Not looked through: functions and bound methods (``network.classify`` holds no tensor of the
    method's), generators, other objects. Gradients do not count.
    """
    taken = {_storage(tensor) for tensor in excluded}
    found = []
    for tensor in _walk(module, set()):
        key = _storage(tensor)
        if key not in taken:
            taken.add(key)
            found.append(tensor)
    return found


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """Bytes of the storages of ``tensors``, each once."""
    return sum({_storage(t): t.untyped_storage().nbytes() for t in tensors}.values())


def dense_parts(tensor: Tensor) -> tuple[Tensor, ...]:
    """The tensor itself, or what a sparse one (COO) is made of; sparse tensors have no storage of their own."""
    return (tensor._indices(), tensor._values()) if tensor.layout == torch.sparse_coo else (tensor,)


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _walk(value: object, seen: set[int]) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield from dense_parts(value)
        return
    inner: Iterable[object]
    if isinstance(value, Mapping):
        inner = list(value.values())
    elif isinstance(value, list | tuple | set | frozenset | deque):
        inner = list(value)
    elif isinstance(value, nn.Module):
        inner = list(vars(value).values())
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        inner = [getattr(value, field.name) for field in dataclasses.fields(value)]
    else:
        return
    if id(value) in seen:
        return
    seen.add(id(value))
    for item in inner:
        yield from _walk(item, seen)
