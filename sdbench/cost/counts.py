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

OPERATOR_STEPS = 9
"""Steps of each contestant over which operators' times are taken, in turns."""
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


def count_passes(stepper: Stepper, steps: int = 1) -> Passes:
    """Real steps, with their passes through the network and its copies counted; the mean over them."""
    passes = stepper.session.network.passes
    before, loaded, labelled = vars(passes).copy(), 0, 0
    passes.watching = True
    try:
        for _ in range(steps):
            batch = stepper.batch()
            loaded, labelled = loaded + images_in(batch), labelled + len(batch.labels)
            stepper.train(batch)
    finally:
        passes.watching = False
    return Passes(
        loaded=loaded / labelled,
        with_gradient=(passes.with_gradient - before["with_gradient"]) / labelled,
        without_gradient=(passes.without_gradient - before["without_gradient"]) / labelled,
        backward=(passes.backward - before["backward"]) / labelled,
    )


def images_in(batch: Batch) -> int:
    """Images in a batch, further views and partners included."""
    return sum(map(len, (batch.images, *batch.views, *batch.partners)))


def count_work(stepper: Stepper, steps: int = 1) -> Work:
    """Real steps under torch's FLOP counter, then as many under the operator log; the mean over each. The making of
    batches is not counted."""
    flops, log = 0, OperatorLog()
    for _ in range(steps):
        batch, counter = stepper.batch(), FlopCounterMode(display=False)
        with counter:
            stepper.train(batch)
        flops += counter.get_total_flops()
    for _ in range(steps):
        batch = stepper.batch()
        with log:
            stepper.train(batch)
    return Work(
        flops=round(flops / steps),
        operators=round(sum(log.calls.values()) / steps),
        host_syncs=round(sum(log.waits.values()) / steps),
        kernels=_kernels(stepper) if stepper.session.device.type == "cuda" else None,
    )


class OperatorLog(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Calls and seconds of every operator that runs below autograd, by name, and those that wait.

    Seconds are host time on a CPU, where operators run as they are called; on a GPU they are between two
    events, so that they hold what the operator's launch leaves idle. A scalar that leaves the device, a boolean
    mask as an index, and a copy between a GPU and pageable memory of the host are waits. On a CPU copies are none, so
    that ``.cpu()`` and ``.tolist()`` are not seen there: the number is then the least that a GPU would wait.
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
        if name in WAITING or _masked(name, args) or _crosses(name, args, kwargs or {}):
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


def _crosses(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """A copy between a GPU and the host that the host waits for: to it, or from memory that is not pinned."""
    if name == "aten::_to_copy":
        source, target = args[0], torch.device(kwargs.get("device") or args[0].device)
        waits_not = kwargs.get("non_blocking", False)
    elif name == "aten::copy_" and isinstance(args[1], Tensor):
        source, target = args[1], args[0].device
        waits_not = args[2] if len(args) > 2 else kwargs.get("non_blocking", False)
    else:
        return False
    if source.device.type == "cuda":
        return target.type == "cpu"
    return target.type == "cuda" and not (waits_not and source.is_pinned())


@dataclass(frozen=True)
class OperatorSteps:
    """Seconds and calls by operator, a pair for each step that was logged."""

    seconds: tuple[Mapping[str, float], ...]
    calls: Mapping[str, int]

    def median(self) -> dict[str, float]:
        """Median seconds per step by operator."""
        keys = sorted(set().union(*self.seconds))
        return {key: median(step.get(key, 0.0) for step in self.seconds) for key in keys}


def log_step(stepper: Stepper) -> tuple[dict[str, float], Counter[str]]:
    """Seconds and calls by operator of one eager step, the making of its batch included."""
    log = OperatorLog(stepper.session.device)
    with log:
        stepper()
    return log.seconds(), log.calls


def costliest(own: OperatorSteps, baseline: OperatorSteps, scale: float = 1.0) -> tuple[Operator, ...]:
    """The operators that take most time beyond the baseline's, with their shares of all such excess.

    own, baseline: of steps taken in turns, paired by position. scale: steps of an epoch over the baseline's. An
    operator counts if in three quarters of the pairs it took longer; what is left out is as likely to be noise.
    """
    excess = {}
    for name in sorted(set().union(*own.seconds)):
        pairs = zip(own.seconds, baseline.seconds, strict=True)
        differences = sorted(scale * a.get(name, 0.0) - b.get(name, 0.0) for a, b in pairs)
        if differences[len(differences) // 4] > 0:
            excess[name] = median(differences)
    total = sum(excess.values())
    order = sorted(excess, key=lambda name: (-excess[name], name))[:SHOWN]
    return tuple(Operator(name=name, extra_ms=1000 * excess[name], share=excess[name] / total) for name in order)


def flop_coverage(seconds: Mapping[str, float]) -> float:
    """The share of operator time that went to operators whose FLOPs the counter knows, in [0, 1]."""
    known = {str(packet) for packet in flop_registry}
    total = sum(seconds.values())
    return sum(s for name, s in seconds.items() if name in known) / total if total else 0.0


def _kernels(stepper: Stepper) -> int | None:
    """GPU kernels that one eager step launches; None where the profiler is not told of any."""
    from torch.profiler import ProfilerActivity, profile

    batch = stepper.batch()
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as profiler:
        stepper.train(batch)
        torch.cuda.synchronize()
    events = cast(Callable[[], Any], profiler.events)()
    on_device = torch.autograd.DeviceType.CUDA  # type: ignore[attr-defined]
    kernels = [e for e in events if e.device_type == on_device and not e.is_user_annotation]
    return sum(not event.name.startswith(("Memcpy", "Memset")) for event in kernels) or None
