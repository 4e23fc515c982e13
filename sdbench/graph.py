"""A training step captured once per epoch and replayed: the same kernels, launched as one.

On a GPU an eager step of a small network waits for its launches. A captured step launches one graph,
which runs the very kernels that were recorded, on the tensors that they were recorded on. It therefore
fits only steps that do the same work every time; whatever else a method does is noticed in eager steps
at the beginning of each epoch, and such a method keeps running eagerly, with the reason on record.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sdbench.method import Batch, Terms
from sdbench.network import PassCounter

REGISTERS_GENERATORS = tuple(map(int, torch.__version__.split(".")[:2])) < (2, 15)
"""Whether a graph has to be told of the generators that it draws from; later versions find out by themselves."""

FIRST_EAGER = 3
"""Eager steps before the first capture: optimizer state comes to be and kernels are chosen."""

Stateful = Callable[[], tuple[nn.Module, tuple[torch.Generator, ...]]]
"""The method and the generators that it may draw from."""


class Recorder(Protocol):
    """Records work without doing it, and gives back what does it."""

    def record(self, work: Callable[[], Terms], generators: tuple[torch.Generator, ...]) -> Callable[[], Terms]:
        """A function that repeats ``work`` on the same memory. Raises RuntimeError where it cannot be recorded."""
        ...

    def watched(self, work: Callable[[], Terms]) -> tuple[Terms, str]:
        """Do the work eagerly; also why it could not be recorded, or nothing."""
        ...


class CudaRecorder:
    """Records a CUDA graph."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def record(self, work: Callable[[], Terms], generators: tuple[torch.Generator, ...]) -> Callable[[], Terms]:
        graph = torch.cuda.CUDAGraph()
        if REGISTERS_GENERATORS:
            for generator in generators:
                graph.register_generator_state(generator)
        torch.cuda.synchronize(self._device)
        stream = torch.cuda.current_stream(self._device)
        try:
            # Another thread's calls, such as a data loader's that pins memory, must not spoil the capture.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                terms = work()
        except RuntimeError:
            self._recover(stream, generators)
            raise

        def replay() -> Terms:
            graph.replay()
            return terms

        return replay

    def _recover(self, stream: torch.cuda.Stream, generators: tuple[torch.Generator, ...]) -> None:
        """After a capture that failed: older torch leaves its stream current and the generators capturing."""
        torch.cuda.set_stream(stream)
        default = torch.cuda.default_generators[torch.cuda.current_device()]
        for generator in (*generators, default):
            generator.graphsafe_set_state(generator.clone_state())

    def watched(self, work: Callable[[], Terms]) -> tuple[Terms, str]:
        before = torch.cuda.get_sync_debug_mode()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                terms = work()
            finally:
                torch.cuda.set_sync_debug_mode(before)
        waits = [str(w.message) for w in caught if "called a synchronizing" in str(w.message)]
        return terms, f"its step waits for the device {len(waits)} time(s)" if waits else ""


class CapturedStep:
    """Calls ``work(batch)`` from a recording wherever that does the same.

    work: one training step on a batch. passes: counted on in Python, so a replay adds what the recorded
    step had added. obstacle: why steps stay eager; empty while they need not.
    """

    def __init__(
        self, work: Callable[[Batch], Terms], passes: PassCounter, stateful: Stateful, recorder: Recorder
    ) -> None:
        self._work = work
        self._passes = passes
        self._stateful = stateful
        self._recorder = recorder
        self._eager_left = FIRST_EAGER
        self._replay: Callable[[], Terms] | None = None
        self._batch: Batch | None = None
        self._counted = (0, 0)
        self.obstacle = ""

    def forget(self) -> None:
        """Record anew, after one more eager step."""
        self._replay = None
        self._eager_left = max(self._eager_left, 1)

    def __call__(self, batch: Batch) -> Terms:
        if self.obstacle:
            return self._work(batch)
        if self._eager_left:
            self._eager_left -= 1
            return self._work(batch) if self._eager_left else self._eagerly(batch)
        if self._replay is None:
            self._capture(batch)
            if self._replay is None:
                return self._work(batch)
        assert self._batch is not None
        _copy(batch, self._batch)
        terms = self._replay()
        self._passes.with_gradient += self._counted[0]
        self._passes.without_gradient += self._counted[1]
        return terms

    def _eagerly(self, batch: Batch) -> Terms:
        """The last eager step, looking for what a recording would freeze; earlier ones may still set things up."""
        method, _ = self._stateful()
        before, draws = plain_state(method), torch.get_rng_state()
        terms, waits = self._recorder.watched(lambda: self._work(batch))
        changed = sorted(k for k, v in plain_state(method).items() if before.get(k) != v)
        if changed:
            self.obstacle = f"its step changes {changed[0]}, which a recording would freeze"
        elif not torch.equal(draws, torch.get_rng_state()):
            self.obstacle = "its step draws random numbers on the host"
        elif waits:
            self.obstacle = waits
        return terms

    def _capture(self, batch: Batch) -> None:
        generators = tuple(g for g in self._stateful()[1] if g.device.type == "cuda")
        static = each_tensor(batch, torch.clone)
        before = (self._passes.with_gradient, self._passes.without_gradient)
        try:
            self._replay = self._recorder.record(lambda: self._work(static), generators)
        except RuntimeError as error:
            cause = error.__context__ or error  # the end of a capture says only that something went wrong before
            self.obstacle = f"it cannot be captured: {(str(cause) or repr(cause)).splitlines()[0]}"
        finally:
            after = (self._passes.with_gradient, self._passes.without_gradient)
            self._counted = (after[0] - before[0], after[1] - before[1])
            self._passes.with_gradient, self._passes.without_gradient = before
        self._batch = static


def plain_state(module: nn.Module) -> dict[str, str]:
    """The plain values (numbers, texts, truth values, containers of them, and where tensors and buffers lie) that a
    module and its parts hold as attributes: what Python code may branch on, or replace by another tensor."""
    found: dict[str, str] = {}
    for prefix, part in module.named_modules():
        for key, value in {**vars(part), **part._buffers, **part._parameters}.items():
            if key not in ("_parameters", "_buffers", "_modules") and (told := _plain(value)):
                found[f"{prefix}.{key}".lstrip(".")] = told
    return found


def _plain(value: object) -> str:
    """A value as text; empty for objects that are neither plain nor made of plain values."""
    if isinstance(value, Tensor):
        return f"tensor at {value.data_ptr()}"
    if isinstance(value, dict):
        value = [item for pair in value.items() for item in pair]
    if isinstance(value, list | tuple | deque):
        return f"{len(value)}: {', '.join(map(_plain, value))}"
    return repr(value) if value is None or isinstance(value, bool | int | float | str) else ""


def each_tensor(batch: Batch, change: Callable[[Tensor], Tensor]) -> Batch:
    """The batch with every tensor changed by ``change``."""
    fields: dict[str, Any] = {
        "images": change(batch.images),
        "views": tuple(map(change, batch.views)),
        "partners": tuple(map(change, batch.partners)),
        "labels": change(batch.labels),
        "index": change(batch.index),
    }
    return replace(batch, **fields)


def _copy(source: Batch, target: Batch) -> None:
    """Put one batch's values where another's are."""
    pairs = [(source.images, target.images), (source.labels, target.labels), (source.index, target.index)]
    pairs += [*zip(source.views, target.views, strict=True), *zip(source.partners, target.partners, strict=True)]
    for new, old in pairs:
        old.copy_(new)
