"""A method while it is measured, and what was measured of it as a row of the record."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from sdbench.cost.counts import (
    FLAG_ABOVE,
    OperatorSteps,
    Passes,
    Work,
    costliest,
    count_passes,
    count_work,
    flop_coverage,
)
from sdbench.cost.records import Memory, ProfileRow, Ratio
from sdbench.cost.setting import Contestant, Stepper
from sdbench.cost.timing import Rounds
from sdbench.cost.verdict import ratio_of
from sdbench.identity import method_source
from sdbench.outcomes import explain, is_out_of_memory
from sdbench.registry import caveat

BLOCK = 10
"""Rounds whose times are added up where a method's steps differ: a median of single ratios would miss the rare ones."""
RECOUNTED = 20
"""Steps over which such a method is counted."""


@dataclass
class Measured:
    """One contestant. A failure stops it and leaves the others alone."""

    contestant: Contestant
    failure: str = ""
    out_of_memory: bool = False
    stepper: Stepper | None = None
    passes: Passes | None = None
    work: Work | None = None
    logged: list[tuple[dict[str, float], dict[str, int]]] = field(default_factory=list)
    warmup_s: float | None = None
    step_reason: str = ""
    steps_differ: bool = False

    @property
    def name(self) -> str:
        return self.contestant.name

    @property
    def live(self) -> Stepper:
        assert self.stepper is not None
        return self.stepper

    @property
    def operators(self) -> OperatorSteps:
        calls = self.logged[-1][1] if self.logged else {}
        return OperatorSteps(tuple(seconds for seconds, _ in self.logged), calls)

    def attempt(self, action: Callable[[], Any]) -> Any:
        """Do it unless something failed before; a failure is kept, not raised."""
        if self.failure:
            return None
        try:
            return action()
        except (Exception, SystemExit) as error:  # a plug-in may raise anything; it becomes a row that says so
            self.failure, self.out_of_memory = explain(error), isinstance(error, Exception) and is_out_of_memory(error)
            return None

    def forwarded(self) -> int:
        """Images forwarded so far, with and without gradient."""
        passes = self.live.session.network.passes
        return passes.with_gradient + passes.without_gradient

    def recount(self, forwarded: int, steps: int) -> None:
        """Count again, over more steps, where ``steps`` timed ones forwarded another number of images than the one
        that was counted. A compiled step counts nothing and is taken at the eager one's word."""
        if self.passes is None or not forwarded or not steps:
            return
        counted = self.passes.with_gradient + self.passes.without_gradient
        mean = forwarded / (steps * self.live.session.labelled_per_step)
        if abs(mean - counted) > 0.005 * counted:
            self.steps_differ = True
            self.live.session.choose_step("eager")
            self.passes, self.work = count_passes(self.live, RECOUNTED), count_work(self.live, RECOUNTED)


def seconds_per_block(seconds: Sequence[float], size: int) -> list[float]:
    """Sums over blocks of ``size`` rounds; a rest that fills no block is left out, unless there is no block."""
    if len(seconds) < size:
        return [sum(seconds)]
    return [sum(seconds[i : i + size]) for i in range(0, len(seconds) - size + 1, size)]


def ratio(
    own: Sequence[float], base: Sequence[float], each: Measured, scale: float, margin: float, *, counts: bool
) -> Ratio | None:
    """A contestant's ratio from the seconds of the same rounds; None where there are none."""
    count = min(len(own), len(base))
    if not count or min(own) <= 0 or min(base) <= 0:
        return None
    own, base = own[:count], base[:count]
    if each.steps_differ:
        own, base = seconds_per_block(own, BLOCK), seconds_per_block(base, BLOCK)
    return ratio_of(own, base, margin, scale, counts=counts)


def facts(each: Measured, baseline: Measured, rounds: Rounds, margin: float, problems: Sequence[str]) -> dict[str, Any]:
    """What the session, the counts and the rounds say, as fields of a row."""
    known = {"timing_valid": not problems, "timing_problems": tuple(dict.fromkeys(problems))}
    if each.failure or baseline.work is None or each.work is None or each.passes is None:
        return known
    session = each.live.session
    if not bool(session.finite()):
        each.failure = "its weights are no longer finite"
        return known
    scale = session.steps / baseline.live.session.steps
    time, wall = (
        ratio(seconds[each.name], seconds[baseline.name], each, scale, margin, counts=not problems)
        for seconds in (rounds.work, rounds.wall)
    )
    predicted = scale * each.work.flops / baseline.work.flops
    flagged = time is not None and not problems and time.median > FLAG_ABOVE * predicted
    kind, reason = session.step_kind
    return {
        **known,
        "time_ratio": time,
        "wall_ratio": wall,
        "predicted_ratio": predicted,
        "step_ms": 1000 * median(rounds.work[each.name]),
        "step": kind,
        "step_reason": each.step_reason or reason,
        "steps_differ": each.steps_differ,
        "warmup_s": each.warmup_s,
        "steps_ratio": scale,
        "images_loaded": each.passes.loaded,
        "forward_images": each.passes.with_gradient + each.passes.without_gradient,
        "forward_images_without_gradient": each.passes.without_gradient,
        "backward_images": each.passes.backward,
        "flops": each.work.flops,
        "flop_coverage": flop_coverage(each.operators.median()),
        "flagged": flagged,
        "operators": costliest(each.operators, baseline.operators, scale) if flagged else (),
        "operators_launched": each.work.operators,
        "kernels_launched": each.work.kernels,
        "host_syncs": each.work.host_syncs,
        "auxiliary_parameters": session.auxiliary_parameters(),
        "state_bytes": session.state_bytes(),
        "epoch_hooks_ms": 1000 * each.live.hooks_s,
        "generations": session.method.generations,
    }


def row_of(
    each: Measured,
    found: dict[str, Any],
    own: Memory | str | None,
    base: Memory | str | None,
    state_at: dict[str, int | None],
) -> ProfileRow:
    """A contestant's row of the record. own, base: its memory and the baseline's, or why there is none."""
    ratio = own.peak_bytes / base.peak_bytes if isinstance(own, Memory) and isinstance(base, Memory) else None
    return ProfileRow.model_validate(
        {
            "method": each.name,
            "caveat": caveat(each.name),
            "params": dict(each.contestant.params),
            "source": method_source(each.name),
            "status": "oom" if each.out_of_memory else ("failed" if each.failure else "ok"),
            "reason": each.failure,
            "memory": own if isinstance(own, Memory) else None,
            "memory_reason": own if isinstance(own, str) else "",
            "memory_ratio": ratio,
            "state_bytes_at": state_at,
            **found,
        }
    )
