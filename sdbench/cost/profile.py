"""All methods take turns with the baseline in this process; then each one's memory in a process of its own.

The record that comes out says what a step of each method costs relative to plain cross-entropy, with an
interval, what its FLOPs predict, and whether the machine was quiet enough for the timing to count.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch

from sdbench import environment
from sdbench.cost.counts import FLAG_ABOVE, Passes, Work, costliest, count_passes, count_work, flop_coverage
from sdbench.cost.counts import operator_times as time_operators
from sdbench.cost.energy import joules_per_1000_images
from sdbench.cost.memory import MemoryJob, memory_of
from sdbench.cost.records import Memory, ProfileResult, ProfileRow, Ratio, profile_id
from sdbench.cost.request import ProfilePlan
from sdbench.cost.setting import Contestant, Stepper, Told, open_data, open_session
from sdbench.cost.state import LARGE, state_at_large
from sdbench.cost.timing import Rounds, clock_for, take_turns
from sdbench.cost.verdict import ratio_of
from sdbench.graph import FIRST_EAGER
from sdbench.identity import method_source
from sdbench.spec import StepKind
from sdbench.train import explain, is_out_of_memory, provenance

EAGER_STEPS = 2
"""Steps before anything is counted."""
SETTLED_STEPS = FIRST_EAGER + 2
"""Steps after the kind of step was chosen: a capture or a compilation is over by then."""


@dataclass
class Measured:
    """A contestant while it is measured. ``failure`` stops it and leaves the others alone."""

    contestant: Contestant
    failure: str = ""
    out_of_memory: bool = False
    stepper: Stepper | None = None
    passes: Passes | None = None
    work: Work | None = None
    operators: dict[str, float] = field(default_factory=dict)
    warmup_s: float | None = None
    step_reason: str = ""
    joules: float | None = None

    def attempt(self, action: Callable[[], Any]) -> Any:
        """Do it unless something failed before; a failure is kept, not raised."""
        if self.failure:
            return None
        try:
            return action()
        except Exception as error:  # a plug-in may raise anything; it becomes a row that says so
            self.failure, self.out_of_memory = explain(error), is_out_of_memory(error)
            return None

    @property
    def live(self) -> Stepper:
        assert self.stepper is not None
        return self.stepper


def profile(plan: ProfilePlan, told: Told = lambda line: None) -> ProfileResult:
    """Measure one setting. Raises RuntimeError where the baseline itself cannot run."""
    began, started, load = time.perf_counter(), environment.now(), os.getloadavg()[0]
    device = environment.choose_device(plan.options.device)
    problems = environment.timing_problems(device, packed=False)
    told(f"{plan.setting.network}, {plan.setting.num_classes} classes, batch {plan.setting.batch_size}: opening")
    contestants = _open(plan, device)
    baseline = contestants[0]
    for each in contestants:
        each.attempt(lambda each=each: _prepare(each, plan, device))  # type: ignore[misc]
    _time_operators(contestants)
    if baseline.failure:
        raise RuntimeError(f"the baseline {baseline.contestant.name} cannot run here: {baseline.failure}")
    rounds = _turns(plan, contestants, device, told)
    problems += environment.timing_problems(device, packed=False)
    if device.type == "cuda" and not problems and not rounds.interrupted:
        for each in contestants:
            each.joules = each.attempt(lambda each=each: _energy(each, device))  # type: ignore[misc]
    load_end = os.getloadavg()[0]
    facts = {each.contestant.name: _facts(each, rounds, plan, contestants, problems) for each in contestants}
    for each in contestants:
        each.stepper = None  # its memory is free before others' is measured
    measure = plan.memory and not rounds.interrupted
    memories = _memories(plan, contestants, device, told) if measure else {}
    origin = provenance(plan.options, device, started)
    return ProfileResult(
        profile_id=profile_id(plan.setting, [c.name for c in plan.contestants], origin),
        setting=plan.setting,
        baseline=baseline.contestant.name,
        rows=tuple(_row(each, facts[each.contestant.name], memories, plan) for each in contestants),
        load_start=load,
        load_end=load_end,
        seconds=time.perf_counter() - began,
        gpus=1 if device.type == "cuda" else 0,
        provenance=origin,
        interrupted=rounds.interrupted,
    )


def _open(plan: ProfilePlan, device: torch.device) -> list[Measured]:
    """A session for every contestant on shared data, the baseline first."""
    dataset = open_data(plan.setting, device, plan.location)
    found = [Measured(contestant) for contestant in plan.contestants]
    for each in found:
        each.stepper = each.attempt(
            lambda each=each: Stepper(open_session(plan.setting, each.contestant, dataset, device))  # type: ignore[misc]
        )
    return found


def _prepare(each: Measured, plan: ProfilePlan, device: torch.device) -> None:
    """First steps, counts in eager steps of the middle of training, then steps as asked for."""
    stepper = each.live
    for _ in range(EAGER_STEPS):
        stepper()
    stepper.settle()
    each.passes, each.work = count_passes(stepper), count_work(stepper)
    stepper.session.refuse_unused_parameters()
    began = time.perf_counter()
    each.step_reason = _choose(stepper, plan.step_kind(device.type))
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    each.warmup_s = time.perf_counter() - began


def _choose(stepper: Stepper, kind: StepKind) -> str:
    """Run steps as ``kind`` from now on; why they are eager where they cannot."""
    stepper.session.choose_step(kind)
    try:
        for _ in range(SETTLED_STEPS):
            stepper()
    except Exception as error:  # a compiler may raise anything
        if kind == "eager":
            raise
        stepper.session.choose_step("eager")
        stepper()
        return f"cannot be compiled: {explain(error)[:300]}"
    return stepper.session.step_kind[1]


def _time_operators(contestants: Sequence[Measured]) -> None:
    """Eager time by operator, of all that work, in turns."""
    working = [each for each in contestants if not each.failure]
    times = time_operators({each.contestant.name: each.live for each in working})
    for each in working:
        each.operators = times[each.contestant.name]


def _turns(plan: ProfilePlan, contestants: Sequence[Measured], device: torch.device, told: Told) -> Rounds:
    setting = plan.setting

    def look(count: int, widths: Sequence[float]) -> None:
        told(f"{count} rounds, widest half-width {max(widths, default=0.0):.4f} of {setting.half_width:g}")

    working = {each.contestant.name: each for each in contestants if not each.failure}
    return take_turns(
        {name: lambda each=each: each.attempt(each.live) for name, each in working.items()},  # type: ignore[misc]
        clock_for(device),
        baseline=contestants[0].contestant.name,
        rounds=setting.rounds,
        half_width=setting.half_width,
        max_seconds=setting.max_seconds,
        order=random.Random(0),
        told=look,
    )


def _energy(each: Measured, device: torch.device) -> float | None:
    return joules_per_1000_images(each.live, each.live.session.labelled_per_step, device)


def _facts(
    each: Measured, rounds: Rounds, plan: ProfilePlan, contestants: Sequence[Measured], problems: Sequence[str]
) -> dict[str, Any]:
    """What the session, the counts and the rounds say, as fields of a row."""
    known = {"timing_valid": not problems, "timing_problems": tuple(dict.fromkeys(problems))}
    baseline = contestants[0]
    if each.failure or baseline.work is None or each.work is None or each.passes is None:
        return known
    session = each.live.session
    if not bool(session.finite()):
        each.failure = "its weights are no longer finite"
        return known
    name, scale = each.contestant.name, session.steps / baseline.live.session.steps
    time_ratio = _ratio(rounds.work, name, plan, scale)
    predicted = scale * each.work.flops / baseline.work.flops
    flagged = time_ratio is not None and not problems and time_ratio.median > FLAG_ABOVE * predicted
    return {
        **known,
        "time_ratio": time_ratio,
        "wall_ratio": _ratio(rounds.wall, name, plan, scale),
        "predicted_ratio": predicted,
        "step_ms": 1000 * median(rounds.work[name]),
        "step": session.step_kind[0],
        "step_reason": each.step_reason or session.step_kind[1],
        "warmup_s": each.warmup_s,
        "steps_ratio": scale,
        "images_loaded": each.passes.loaded,
        "forward_images": each.passes.with_gradient + each.passes.without_gradient,
        "forward_images_without_gradient": each.passes.without_gradient,
        "backward_images": each.passes.backward,
        "flops": each.work.flops,
        "flop_coverage": flop_coverage(each.operators),
        "flagged": flagged,
        "operators": costliest(each.operators, baseline.operators) if flagged else (),
        "operators_launched": each.work.operators,
        "kernels_launched": each.work.kernels,
        "host_syncs": each.work.host_syncs,
        "auxiliary_parameters": session.auxiliary_parameters(),
        "state_bytes": session.state_bytes(),
        "epoch_hooks_ms": 1000 * each.live.hooks_s,
        "generations": session.method.generations,
        "joules_per_1000_images": each.joules,
    }


def _ratio(seconds: dict[str, list[float]], name: str, plan: ProfilePlan, scale: float) -> Ratio | None:
    own, base = seconds[name], seconds[plan.contestants[0].name]
    count = min(len(own), len(base))
    if not count or min(own) <= 0 or min(base) <= 0:
        return None
    return ratio_of(own[:count], base[:count], plan.setting.margin, scale)


def _memories(
    plan: ProfilePlan, contestants: Sequence[Measured], device: torch.device, told: Told
) -> dict[str, Memory | str]:
    found: dict[str, Memory | str] = {}
    for each in contestants:
        if each.failure:
            continue
        name = each.contestant.name
        told(f"peak memory of {name}, in a process of its own")
        found[name] = memory_of(
            MemoryJob(
                setting=plan.setting,
                method=name,
                params=dict(each.contestant.params),
                plugins=plan.options.plugins,
                data_dir=plan.options.data_dir,
                device=device.type,
            )
        )
    return found


def _row(each: Measured, facts: dict[str, Any], memories: dict[str, Memory | str], plan: ProfilePlan) -> ProfileRow:
    """A contestant's row of the record."""
    name, own, base = each.contestant.name, memories.get(each.contestant.name), memories.get(plan.contestants[0].name)
    ratio = own.peak_bytes / base.peak_bytes if isinstance(own, Memory) and isinstance(base, Memory) else None
    try:
        at_large = {} if each.failure else state_at_large(plan.setting, each.contestant)
    except Exception:  # a method that cannot be set up at other sizes has no extrapolation, and that is all
        at_large = dict.fromkeys(LARGE)
    return ProfileRow.model_validate(
        {
            "method": name,
            "params": dict(each.contestant.params),
            "source": method_source(name),
            "status": "oom" if each.out_of_memory else ("failed" if each.failure else "ok"),
            "reason": each.failure,
            "memory": own if isinstance(own, Memory) else None,
            "memory_reason": own if isinstance(own, str) else "",
            "memory_ratio": ratio,
            "state_bytes_at": at_large,
            **facts,
        }
    )
