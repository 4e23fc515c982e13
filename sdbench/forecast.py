"""What a run will need: memory, disk and hours, before anything starts.

Hours and memory rest on a profile (``sdbench profile``) of the same method, network, classes, image size, precision and
machine; where there is none, the forecast says so and which command makes one. State and disk are counted, not
measured: the method is set up for the data set's real size without its memory being taken.

    step      epochs * (steps * step_ms + epoch_hooks_ms), and a third of a step's time for each image evaluated
    decode    images decoded / (rate of one processor * workers), where files are read while training; workers beyond
              a trial's share of the processors, which all trials at once have between them, count for nothing
    hours     the longest of both and of what the share takes for both together, its training threads included; their
              sum where no worker decodes
    memory    the profile's peak, its activations in proportion to the batch, its state replaced by the real one,
              and the images where they are held on the device; those of trials at once that share it are added up
    disk      three checkpoints at the moment when one is written (weights, momentum, the method's parameters and what
              it keeps in memory) and two files of each memory on disk, for every trial at once; and what all leave
              behind: weights, logits in fp16, labels

Not covered: the speed of the disk, other work on the machine, Ray clusters of other machines.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sdbench.checkpoint import KEEP
from sdbench.forecast_records import Forecast, Need
from sdbench.identity import method_source
from sdbench.leaderboard_costs import Hardware
from sdbench.leaderboard_profiles import Conditions, Measured, ProfileIndex, fitting
from sdbench.plan import Plan
from sdbench.shelf import SHARE_OF_FREE_MEMORY
from sdbench.spec import Trial, TrialSpec

EVALUATED = 1 / 3
"""Of a training step's time per image: a forward pass without its backward pass."""


@dataclass(frozen=True)
class DataSize:
    """What of a data set decides what a trial needs. resident_bytes: of images held on the device. decoded_per_s: by
    one processor, images that are read while training; None where none are, or nobody measured it."""

    num_classes: int
    num_train: int
    num_test: int
    image_size: int
    streamed: bool = False
    resident_bytes: int = 0
    decoded_per_s: float | None = None


@dataclass(frozen=True)
class Holdings:
    """What a method holds on a data set of a real size. weight_bytes: of the network, buffers included.
    auxiliary_bytes: of the method's parameters. state_bytes: of all else that it holds. row_bytes: of that, memories of
    every image. per_image: images that are decoded for one labelled one. validates: whether it sees held-out images
    after every epoch. unknown: why the second to the fourth are not known."""

    weight_bytes: int
    auxiliary_bytes: int
    state_bytes: int
    row_bytes: int
    per_image: int = 1
    validates: bool = False
    unknown: str = ""


@dataclass(frozen=True)
class Machine:
    """Where trials run. at_once: how many at a time. workers: that decode, for each. processors: that they have between
    them; None for as many as they ask for. sharing: how many at a time share ``free_memory``; None for all."""

    hardware: Hardware
    free_memory: int
    free_disk: int
    at_once: int
    workers: int
    processors: int | None = None
    sharing: int | None = None


def forecast(
    plan: Plan,
    profiles: ProfileIndex,
    facts: Mapping[str, DataSize],
    held: Mapping[str, Holdings],
    machine: Machine,
    running: Sequence[Trial],
) -> Forecast:
    """What the trials ``running`` of a plan need. Pure.

    facts: by data set. held: by ``key`` of a spec. profiles: all that there are, of whatever machine.
    """
    groups: dict[str, list[Trial]] = {}
    for trial in running:
        groups.setdefault(key(trial.spec), []).append(trial)
    at_once = min(machine.at_once, len(running))
    machine = replace(machine, at_once=at_once)
    needs = [
        _need(plan, found[0].spec, len(found), profiles, facts[found[0].spec.dataset], held[name], machine)
        for name, found in groups.items()
    ]
    busiest = max((need.training_bytes or 0 for need in needs), default=0)
    sharing = min(at_once, machine.sharing or at_once)
    memories = sorted(m for need in needs for m in [need.memory_bytes or 0] * min(need.trials, sharing))
    rates = {name: size.decoded_per_s for name, size in facts.items() if size.decoded_per_s}
    return Forecast(
        needs=tuple(needs),
        hours=sum(need.hours * need.trials for need in needs if need.hours is not None),
        untold=sum(need.trials for need in needs if need.hours is None),
        at_once=at_once,
        disk_bytes=at_once * busiest + sum(need.kept_bytes * need.trials for need in needs),
        free_disk_bytes=machine.free_disk,
        free_memory_bytes=machine.free_memory,
        decoded_per_s=rates,
        workers=machine.workers,
        sharing=sharing,
        shared_memory_bytes=sum(memories[-sharing:]),
    )


def key(spec: TrialSpec) -> str:
    """Equal for trials that need the same."""
    return spec.model_copy(update={"seed": 0, "teacher": None}).model_dump_json()


def _need(
    plan: Plan, spec: TrialSpec, count: int, profiles: ProfileIndex, size: DataSize, own: Holdings, machine: Machine
) -> Need:
    on_disk = spec.shards == 1 and (  # several processes join their memories, which are no files
        plan.options.state == "disk"
        or (plan.options.state == "auto" and own.row_bytes > SHARE_OF_FREE_MEMORY * machine.free_memory)
    )
    files = own.row_bytes if on_disk else 0
    sized = not own.unknown
    checkpoint = own.weight_bytes * 2 + own.auxiliary_bytes * 2 + own.state_bytes - files
    measured = _measured(spec, profiles, size, machine)
    step, decode = _step_hours(plan, spec, size, own, measured), _decode_hours(plan, spec, size, own, machine)
    return Need(
        dataset=spec.dataset,
        network=spec.network,
        method=spec.method,
        trials=count,
        memory_bytes=_memory(spec, size, own, files, measured),
        state_bytes=own.state_bytes if sized else None,
        row_bytes=own.row_bytes if sized else None,
        rows="unknown" if not sized else "none" if not own.row_bytes else "disk" if on_disk else "memory",
        training_bytes=(KEEP + 1) * checkpoint + 2 * files if sized else None,
        kept_bytes=_kept(plan, spec, size, own),
        step_hours=step,
        decode_hours=decode,
        hours=_hours(spec, size, step, decode, machine),
        profile=measured.profile.profile_id if measured else "",
        scaled=measured is not None and measured.profile.setting.batch_size != spec.recipe.batch_size,
        advice="" if measured else _advice(plan, spec, size),
        unknown=own.unknown,
    )


def _measured(spec: TrialSpec, profiles: ProfileIndex, size: DataSize, machine: Machine) -> Measured | None:
    task = Conditions(spec.network, size.num_classes, size.image_size, spec.precision, spec.recipe.batch_size, "")
    place = Hardware(machine.hardware.device, machine.hardware.cpu, spec.threads, machine.hardware.torch)
    found = fitting(spec.method, spec.params, {method_source(spec.method)}, task, place, profiles)
    return found if found is not None and found.row.step_ms is not None else None


def _advice(plan: Plan, spec: TrialSpec, size: DataSize) -> str:
    place = "" if Path(plan.results) == Path("results").absolute() else f" --results {shlex.quote(plan.results)}"
    return (
        f"sdbench profile --methods {spec.method} --model {spec.network} --classes {size.num_classes} --image-size "
        f"{size.image_size} --batch-size {spec.recipe.batch_size} --precision {spec.precision}{place}"
    )


def _passes(plan: Plan, spec: TrialSpec, size: DataSize, own: Holdings) -> tuple[int, float]:
    """Images trained on in an epoch, and images evaluated in all."""
    held_out = round(size.num_train * spec.holdout)
    every, epochs = plan.options.eval_every, spec.recipe.epochs
    tests = 1 + ((epochs - 1) // every if every else 0)
    validations = epochs * own.validates + (held_out > 0)
    return size.num_train - held_out, size.num_test * tests + held_out * validations


def _step_hours(plan: Plan, spec: TrialSpec, size: DataSize, own: Holdings, measured: Measured | None) -> float | None:
    if measured is None or measured.row.step_ms is None:
        return None
    row, batch = measured.row, spec.recipe.batch_size
    trained, evaluated = _passes(plan, spec, size, own)
    assert row.step_ms is not None
    step_ms = row.step_ms * batch / measured.profile.setting.batch_size
    steps = -(-trained // batch) * row.steps_ratio
    epoch_ms = steps * step_ms + (row.epoch_hooks_ms or 0.0)
    return (spec.recipe.epochs * epoch_ms + evaluated * EVALUATED * step_ms / batch) / 3.6e6


def _decode_hours(plan: Plan, spec: TrialSpec, size: DataSize, own: Holdings, machine: Machine) -> float | None:
    if not size.streamed or not size.decoded_per_s:
        return None
    trained, evaluated = _passes(plan, spec, size, own)
    images = spec.recipe.epochs * trained * own.per_image + evaluated
    return images / (size.decoded_per_s * _decoding(machine)) / 3600


def _share(machine: Machine) -> float:
    """Processors for each of the trials at once."""
    return float("inf") if machine.processors is None else machine.processors / max(1, machine.at_once)


def _decoding(machine: Machine) -> float:
    """Processors that decode for a trial, at most; with no worker it is its own, as much of one as it has."""
    return min(max(1, machine.workers), _share(machine))


def _hours(spec: TrialSpec, size: DataSize, step: float | None, decode: float | None, machine: Machine) -> float | None:
    if step is None or (size.streamed and decode is None):
        return None
    if decode is None:
        return step
    if not machine.workers:
        return step + decode
    together = (step * spec.threads + decode * _decoding(machine)) / _share(machine)
    return max(step, decode, together)


MAX_FORECAST_BYTES = 2**53
"""As much as a record can tell of."""


def _memory(spec: TrialSpec, size: DataSize, own: Holdings, files: int, measured: Measured | None) -> int | None:
    if measured is None or measured.row.memory is None or own.unknown:
        return None
    memory, row = measured.row.memory, measured.row
    before = row.state_bytes or 0
    fixed = min(memory.peak_bytes, 3 * own.weight_bytes + 3 * own.auxiliary_bytes + before)
    scale = spec.recipe.batch_size / measured.profile.setting.batch_size
    grown = fixed - before + (memory.peak_bytes - fixed) * scale  # a profile may be forged: any peak, any state
    return min(max(0, round(grown + own.state_bytes - files + size.resident_bytes)), MAX_FORECAST_BYTES)


def _kept(plan: Plan, spec: TrialSpec, size: DataSize, own: Holdings) -> int:
    options, epochs = plan.options, spec.recipe.epochs
    logits = 2 * size.num_test * size.num_classes + 8 * size.num_test
    times = int(options.keep_logits) + ((epochs - 1) // options.logits_every if options.logits_every else 0)
    weights = own.weight_bytes if options.keep_weights else 0
    return weights + times * logits + 2 * round(size.num_train * spec.holdout) * size.num_classes
