"""What one step does: images forwarded and sent backward, FLOPs, operators, waits for the device, and
which operators cost more than the baseline's."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from sdbench.cost.records import Operator
from sdbench.cost.setting import Stepper
from sdbench.method import Batch

OPERATOR_STEPS = 5
"""Steps over which an operator's time is taken; its median over them counts."""
SHOWN = 3
"""Operators that a flagged method names."""
FLAG_ABOVE = 1.05
"""Measured over predicted ratio from which on a method names the operators that cost it."""

WAITING = {
    "aten::_local_scalar_dense",
    "aten::equal",
    "aten::is_nonzero",
    "aten::item",
    "aten::masked_select",
    "aten::nonzero",
    "aten::unique_consecutive",
    "aten::unique_dim",
    "aten::_unique2",
    "aten::repeat_interleave.Tensor",
    "aten::bincount",
}
"""Operators whose result, or its shape, the host has to wait for on a GPU."""


@dataclass(frozen=True)
class Passes:
    """Per labelled image: images loaded, forwarded with and without gradient, and sent backward."""

    loaded: float
    with_gradient: float
    without_gradient: float
    backward: float


@dataclass(frozen=True)
class Work:
    """Of one step: FLOPs, calls of operators, operators that wait, GPU kernels (None on a CPU)."""

    flops: int
    operators: int
    host_syncs: int
    kernels: int | None


def count_passes(stepper: Stepper) -> Passes:
    """One real step, with its passes through the network and its copies counted."""
    session = stepper.session
    passes = session.network.passes
    batch = stepper.batch()
    before = vars(passes).copy()
    passes.watching = True
    try:
        stepper.train(batch)
    finally:
        passes.watching = False
    labelled = len(batch.labels)
    return Passes(
        loaded=images_in(batch) / labelled,
        with_gradient=(passes.with_gradient - before["with_gradient"]) / labelled,
        without_gradient=(passes.without_gradient - before["without_gradient"]) / labelled,
        backward=(passes.backward - before["backward"]) / labelled,
    )


def images_in(batch: Batch) -> int:
    """Images in a batch, further views and partners included."""
    return sum(map(len, (batch.images, *batch.views, *batch.partners)))


def count_work(stepper: Stepper) -> Work:
    """Two real steps: one under torch's FLOP counter, one under the operator log. Its batch is not counted."""
    batch = stepper.batch()
    counter = FlopCounterMode(display=False)
    with counter:
        stepper.train(batch)
    batch = stepper.batch()
    log = OperatorLog()
    with log:
        stepper.train(batch)
    return Work(
        flops=counter.get_total_flops(),
        operators=sum(log.calls.values()),
        host_syncs=sum(log.waits.values()),
        kernels=_kernels(stepper) if stepper.session.device.type == "cuda" else None,
    )


class OperatorLog(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Calls and seconds of every operator that runs below autograd, by name, and those that wait.

    Seconds are host time on a CPU, where operators run as they are called; on a GPU they are between two
    events, so that they hold what the operator's launch leaves idle. A scalar that leaves the device, a boolean
    mask as an index, and a copy from the device to the host are waits, on a CPU too, where they would be.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        self._device = device
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.name()
        self.calls[str(func.overloadpacket)] += 1
        if name in WAITING or _masked(name, args) or _to_host(name, args, kwargs or {}):
            self.waits[name] += 1
        with self._timed(str(func.overloadpacket)):
            return func(*args, **(kwargs or {}))

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        if self._device is not None and self._device.type == "cuda":
            start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            start.record()
            yield
            end.record()
            self._events.append((name, start, end))
            return
        began = time.perf_counter_ns()
        yield
        self._seconds[name] += (time.perf_counter_ns() - began) / 1e9

    def seconds(self) -> dict[str, float]:
        """Seconds by operator."""
        found = dict(self._seconds)
        if self._events:
            torch.cuda.synchronize(self._device)
        for name, start, end in self._events:
            found[name] = found.get(name, 0.0) + start.elapsed_time(end) / 1000
        return found


def _masked(name: str, args: tuple[Any, ...]) -> bool:
    """Indexing by a boolean mask, whose result has a shape that only the device knows."""
    if name not in ("aten::index.Tensor", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"):
        return False
    return any(isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8) for i in args[1])


def _to_host(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """A copy from a GPU to the host that the host waits for."""
    if name == "aten::_to_copy":
        target = kwargs.get("device")
        return bool(target is not None and torch.device(target).type == "cpu" and args[0].device.type == "cuda")
    if name == "aten::copy_":
        return bool(args[0].device.type == "cpu" and isinstance(args[1], Tensor) and args[1].device.type == "cuda")
    return False


def operator_times(steppers: Mapping[str, Stepper]) -> dict[str, dict[str, float]]:
    """Seconds per step by operator, the median over ``OPERATOR_STEPS`` steps taken in turns."""
    samples: dict[str, list[dict[str, float]]] = {name: [] for name in steppers}
    for _ in range(OPERATOR_STEPS):
        for name, stepper in steppers.items():
            log = OperatorLog(stepper.session.device)
            with log:
                stepper()
            samples[name].append(log.seconds())
    return {name: _medians(found) for name, found in samples.items()}


def _medians(samples: list[dict[str, float]]) -> dict[str, float]:
    keys = sorted(set().union(*samples))
    return {key: median(sample.get(key, 0.0) for sample in samples) for key in keys}


def costliest(own: Mapping[str, float], baseline: Mapping[str, float]) -> tuple[Operator, ...]:
    """The operators that take most time beyond the baseline's, with their shares of all such excess.

    own, baseline: seconds per step by operator.
    """
    excess = {name: seconds - baseline.get(name, 0.0) for name, seconds in own.items()}
    more = {name: seconds for name, seconds in excess.items() if seconds > 0}
    total = sum(more.values())
    order = sorted(more, key=lambda name: (-more[name], name))[:SHOWN]
    return tuple(Operator(name=name, extra_ms=1000 * more[name], share=more[name] / total) for name in order)


def flop_coverage(seconds: Mapping[str, float]) -> float:
    """The share of operator time that went to operators whose FLOPs the counter knows, in [0, 1]."""
    known = {str(packet) for packet in flop_registry}
    total = sum(seconds.values())
    return sum(s for name, s in seconds.items() if name in known) / total if total else 0.0


def _kernels(stepper: Stepper) -> int:
    """GPU kernels that one eager step launches."""
    from torch.profiler import ProfilerActivity, profile

    batch = stepper.batch()
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as profiler:
        stepper.train(batch)
        torch.cuda.synchronize()
    events = cast(Callable[[], Any], profiler.events)()
    on_device = torch.autograd.DeviceType.CUDA  # type: ignore[attr-defined]
    return sum(1 for event in events if event.device_type == on_device and "mem" not in event.name.lower()[:3])
