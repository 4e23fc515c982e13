"""All methods take turns with the baseline in this process; then each one's memory in a process of its own.

The record that comes out says what a step of each method costs relative to plain cross-entropy, with an
interval, what its FLOPs predict, and whether the machine was quiet enough for the timing to count.
"""

from __future__ import annotations

import gc
import os
import random
import time
from collections.abc import Sequence
from typing import Any

import torch

from sdbench import environment
from sdbench.cost.contestant import Measured, facts, row_of
from sdbench.cost.counts import OPERATOR_STEPS, count_passes, count_work, log_step
from sdbench.cost.energy import joules_per_1000_images
from sdbench.cost.memory import MemoryJob, memory_of
from sdbench.cost.records import Memory, ProfileResult, profile_id
from sdbench.cost.request import ProfilePlan
from sdbench.cost.setting import Stepper, Told, open_data, open_session
from sdbench.cost.state import LARGE, state_at_large
from sdbench.cost.timing import Rounds, clock_for, take_turns
from sdbench.errors import EnvironmentProblem
from sdbench.graph import FIRST_EAGER
from sdbench.outcomes import explain, provenance
from sdbench.spec import StepKind

EAGER_STEPS = 2
"""Steps before anything is counted."""
SETTLED_STEPS = FIRST_EAGER + 2
"""Steps after the kind of step was chosen: a capture or a compilation is over by then."""


def profile(plan: ProfilePlan, told: Told = lambda line: None) -> ProfileResult:
    """Measure one setting. Raises EnvironmentProblem where the baseline itself cannot run.

    After the first counted round a Ctrl-C ends the measuring, not the profile: what is known by then is returned,
    marked as interrupted.
    """
    began, started, load = time.perf_counter(), environment.now(), os.getloadavg()[0]
    device = environment.choose_device(plan.options.device)
    problems = environment.timing_problems(device, packed=False)
    told(f"{plan.setting.network}, {plan.setting.num_classes} classes, batch {plan.setting.batch_size}: opening")
    contestants = _open(plan, device)
    baseline = contestants[0]
    for each in contestants:
        each.attempt(lambda each=each: _count(each))  # type: ignore[misc]
    _log_operators(contestants)
    for each in contestants:
        each.attempt(lambda each=each: _choose(each, plan.step_kind(device.type)))  # type: ignore[misc]
    if baseline.failure:
        raise EnvironmentProblem(
            f"the baseline {baseline.name} cannot run here: {baseline.failure}; try a smaller --batch-size or --model"
        )
    rounds = _turns(plan, contestants, device, told)
    problems += environment.timing_problems(device, packed=False) + _threads(plan)
    load_end = os.getloadavg()[0]
    found = {each.name: facts(each, baseline, rounds, plan.setting.margin, problems) for each in contestants}
    interrupted = rounds.interrupted
    memories: dict[str, Memory | str] = {}
    try:
        if device.type == "cuda" and not problems and not interrupted:
            _energies(contestants, device, found)
        _let_go(contestants, device)
        if plan.memory and not interrupted:
            _memories(plan, contestants, device, memories, told)
    except KeyboardInterrupt:
        interrupted = True
    states = {each.name: {} if interrupted or each.failure else _state(plan, each) for each in contestants}
    origin = provenance(plan.options, device, started)
    base = memories.get(baseline.name)
    return ProfileResult(
        profile_id=profile_id(plan.setting, [c.name for c in plan.contestants], origin),
        setting=plan.setting,
        baseline=baseline.name,
        rows=tuple(row_of(e, found[e.name], memories.get(e.name), base, states[e.name]) for e in contestants),
        load_start=load,
        load_end=load_end,
        seconds=time.perf_counter() - began,
        gpus=1 if device.type == "cuda" else 0,
        provenance=origin,
        interrupted=interrupted,
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


def _count(each: Measured) -> None:
    """First steps, then counts in eager steps of the middle of training."""
    stepper = each.live
    for _ in range(EAGER_STEPS):
        stepper()
    stepper.settle()
    each.passes, each.work = count_passes(stepper), count_work(stepper)
    stepper.session.refuse_unused_parameters()


def _log_operators(contestants: Sequence[Measured]) -> None:
    """Eager time by operator, in turns of random order."""
    order, names = random.Random(1), list(contestants)
    for _ in range(OPERATOR_STEPS):
        order.shuffle(names)
        for each in names:
            logged = each.attempt(lambda each=each: log_step(each.live))  # type: ignore[misc]
            if logged is not None:
                each.logged.append(logged)


def _choose(each: Measured, kind: StepKind) -> None:
    """Run steps as ``kind`` from now on, or eagerly with the reason; the first ones are taken here and timed."""
    stepper, began = each.live, time.perf_counter()
    stepper.session.choose_step(kind)
    try:
        for _ in range(SETTLED_STEPS):
            stepper()
    except Exception as error:  # a compiler may raise anything
        if kind == "eager":
            raise
        each.step_reason = f"cannot be compiled: {explain(error)[:300]}"
        stepper.session.choose_step("eager")
        stepper()
    if stepper.session.device.type == "cuda":
        torch.cuda.synchronize(stepper.session.device)
    each.warmup_s = time.perf_counter() - began


def _turns(plan: ProfilePlan, contestants: Sequence[Measured], device: torch.device, told: Told) -> Rounds:
    setting = plan.setting

    def look(count: int, widths: Sequence[float]) -> None:
        told(f"{count} rounds, widest half-width {max(widths, default=0.0):.4f} of {setting.half_width:g}")

    working = {each.name: each for each in contestants if not each.failure}
    before = {name: each.forwarded() for name, each in working.items()}
    steps = contestants[0].live.session.steps
    taken = dict.fromkeys(working, 0)

    def step(each: Measured) -> None:
        each.attempt(each.live)
        taken[each.name] += 1

    rounds = take_turns(
        {name: lambda each=each: step(each) for name, each in working.items()},  # type: ignore[misc]
        clock_for(device),
        baseline=contestants[0].name,
        rounds=setting.rounds,
        half_width=setting.half_width,
        max_seconds=setting.max_seconds,
        order=random.Random(0),
        scales={name: each.live.session.steps / steps for name, each in working.items()},
        failed=lambda: [name for name, each in working.items() if each.failure],
        told=look,
    )
    if not rounds.interrupted:  # else a step was broken off
        for name, each in working.items():
            each.attempt(lambda n=name, e=each: e.recount(e.forwarded() - before[n], taken[n]))  # type: ignore[misc]
    return rounds


def _threads(plan: ProfilePlan) -> list[str]:
    """Whether a method changed what all of them ran with."""
    threads = torch.get_num_threads()
    return [f"a method set the number of threads to {threads}"] if threads != plan.setting.threads else []


def _energies(contestants: Sequence[Measured], device: torch.device, found: dict[str, dict[str, Any]]) -> None:
    """Put joules per 1,000 images into ``found``, unless somebody came to the device meanwhile."""
    joules = {each.name: each.attempt(lambda each=each: _energy(each, device)) for each in contestants}  # type: ignore[misc]
    if not environment.timing_problems(device, packed=False):
        for name, value in joules.items():
            found[name]["joules_per_1000_images"] = value


def _energy(each: Measured, device: torch.device) -> float | None:
    return joules_per_1000_images(each.live, each.live.session.labelled_per_step, device)


def _let_go(contestants: Sequence[Measured], device: torch.device) -> None:
    """Free what was measured here, before others' memory is."""
    for each in contestants:
        each.stepper = None
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _memories(
    plan: ProfilePlan,
    contestants: Sequence[Measured],
    device: torch.device,
    found: dict[str, Memory | str],
    told: Told,
) -> None:
    """Put each contestant's memory, or why there is none, into ``found``."""
    known = environment.gpu_process_ids(device) if device.type == "cuda" else ()
    for each in contestants:
        if each.failure:
            continue
        told(f"peak memory of {each.name}, in a process of its own")
        found[each.name] = memory_of(
            MemoryJob(
                setting=plan.setting,
                method=each.name,
                params=dict(each.contestant.params),
                plugins=plan.options.plugins,
                data_dir=plan.options.data_dir,
                device=device.type,
                known=known,
            )
        )


def _state(plan: ProfilePlan, each: Measured) -> dict[str, int | None]:
    """State on large data sets; a method that cannot be set up at other sizes has no extrapolation, and that is all."""
    try:
        return state_at_large(plan.setting, each.contestant)
    except Exception:  # a plug-in may raise anything
        return dict.fromkeys(LARGE)
