"""Rounds in which all contestants take one step each, in random order, and the clocks that time a step.

What stands close in time shares the machine's mood: the ratio of two steps of one round is far steadier
than either step. Knows nothing of methods; ``benchmarks/`` times other things with it.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch

from sdbench.cost.verdict import LEAST_ROUNDS
from sdbench.statistics import median_interval

WARMUP_ROUNDS = 5
"""Rounds before the counted ones: memory is allocated, caches and kernels are chosen."""
CHECK_EVERY = 10
"""Counted rounds between two looks at the intervals."""


class Clock(Protocol):
    """Times one call: (seconds of work, seconds elapsed)."""

    def __call__(self, step: Callable[[], object]) -> tuple[float, float]: ...


def cpu_clock(step: Callable[[], object]) -> tuple[float, float]:
    """Processor time of this process, all threads, and wall time."""
    wall, process = time.perf_counter(), time.process_time()
    step()
    return time.process_time() - process, time.perf_counter() - wall


class CudaClock:
    """Time between two events on the device's stream, and wall time until the device is done.

    The host waits before and after the step, never within it.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        self._end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]

    def __call__(self, step: Callable[[], object]) -> tuple[float, float]:
        torch.cuda.synchronize(self._device)
        wall = time.perf_counter()
        self._start.record()
        step()
        self._end.record()
        torch.cuda.synchronize(self._device)
        return self._start.elapsed_time(self._end) / 1000, time.perf_counter() - wall


def clock_for(device: torch.device) -> Clock:
    return CudaClock(device) if device.type == "cuda" else cpu_clock


@dataclass
class Rounds:
    """Seconds per counted round and contestant, as lists that belong together by position."""

    work: dict[str, list[float]] = field(default_factory=dict)
    wall: dict[str, list[float]] = field(default_factory=dict)
    interrupted: bool = False

    @property
    def count(self) -> int:
        return min(map(len, self.work.values()), default=0)

    def half_widths(self, baseline: str, scales: Mapping[str, float] | None = None) -> dict[str, float]:
        """Half the bootstrap interval of each contestant's median ratio to the baseline, times its scale, or 1."""
        found = {}
        for name in self.work:
            if name != baseline:
                scale = (scales or {}).get(name, 1.0)
                pairs = zip(self.work[name][: self.count], self.work[baseline][: self.count], strict=True)
                interval = median_interval([scale * a / b for a, b in pairs])
                found[name] = (interval.high - interval.low) / 2
        return found


def take_turns(
    steps: Mapping[str, Callable[[], object]],
    clock: Clock,
    *,
    baseline: str,
    rounds: int,
    half_width: float,
    max_seconds: float,
    order: random.Random,
    warmup: int = WARMUP_ROUNDS,
    scales: Mapping[str, float] | None = None,
    failed: Callable[[], Collection[str]] = tuple,
    told: Callable[[int, Sequence[float]], None] = lambda count, half_widths: None,
) -> Rounds:
    """Time every contestant once a round, in an order drawn anew each round.

    steps: one call is one step. baseline: a key of ``steps``. After ``warmup`` uncounted rounds at least ``rounds``
    are counted, and at least ``LEAST_ROUNDS`` unless ``half_width`` is infinite, then more until the half-width of
    every ratio's interval is below it. No round begins after ``max_seconds``, except the first counted one.
    order: shuffles the turns.
    scales: what ratios are multiplied with, by contestant. failed: those whose times no longer count.
    told: called at every look at the intervals with the rounds so far and their half-widths.
    A Ctrl-C ends the counting after the last whole round, if there is one.
    """
    began = time.perf_counter()
    found = Rounds({name: [] for name in steps}, {name: [] for name in steps})
    names = list(steps)
    least = rounds if math.isinf(half_width) else max(rounds, LEAST_ROUNDS)
    try:
        for turn in range(-warmup, 10**9):
            late = time.perf_counter() - began > max_seconds
            if late and found.count:
                break
            order.shuffle(names)
            timed = {name: clock(steps[name]) for name in names}
            if turn < 0 and not late:
                continue
            for name, (work, wall) in timed.items():
                found.work[name].append(work)
                found.wall[name].append(wall)
            if found.count == least or (found.count > least and found.count % CHECK_EVERY == 0):
                widths = [w for name, w in found.half_widths(baseline, scales).items() if name not in failed()]
                told(found.count, widths)
                if max(widths, default=0.0) < half_width:
                    break
    except KeyboardInterrupt:
        if not found.count:
            raise
        found.interrupted = True
    return found
