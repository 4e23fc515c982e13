"""``sdbench distill``: a student learns from finished networks, one after the other, at several temperatures.

Teachers are trials of the store; nothing is trained of them. A student starts as a plain trial of its seed does (same
weights, images and augmentation whoever teaches it) and keeps its teacher's recipe unless told otherwise, so that
students of one seed are paired, and a student alone, on the baseline's loss, is paired with them. A student's trial is
a trial like others, under a protocol of its own (``protocol.DISTILLED``), so that no board sets it beside plain ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdbench import registry
from sdbench.commands import carry_out, preview
from sdbench.distill_table import DistillTable, Lesson, build, render
from sdbench.errors import UserError
from sdbench.identity import method_source
from sdbench.paths import path_of
from sdbench.plan import Plan, make_plan
from sdbench.protocol import DISTILLED, PROTOCOLS
from sdbench.request import Problems, Request
from sdbench.run import Outcome, summary
from sdbench.selectors import split_list
from sdbench.spec import Identity, Trial, TrialResult, TrialSpec, Value, digest
from sdbench.store import Store
from sdbench.teachers import Teacher, find_teachers
from sdbench.variants import choose_variants

TEMPERATURES = ("1", "2", "4", "8")
ALPHA = ("0.9",)
OWN = ("teachers", "student", "temperatures", "alpha", "teacher_epochs")
"""What only this command takes; its other flags are those of a run."""


@dataclass(frozen=True)
class Distillation:
    """A plan of the students' trials, and of the students alone, with what each is for. alone: trial ids by seed."""

    plan: Plan
    lessons: tuple[Lesson, ...]
    alone: Mapping[int, str]


def run(
    flags: Mapping[str, Any],
    command: Sequence[str] = (),
    *,
    dry_run: bool = False,
    quiet: bool = False,
    as_json: bool = False,
) -> tuple[str, list[str], int]:
    """Train what is missing. Returns the table as text or JSON, closing lines, and the exit code as ``run`` has it."""
    found = plan_distillation(flags, command)
    if dry_run:
        return preview(found.plan, as_json), [], 0
    table, outcome, written = teach(found, quiet=quiet)
    return render(table, as_json), summary(found.plan, outcome, written), outcome.exit_code


def teach(found: Distillation, *, quiet: bool) -> tuple[DistillTable, Outcome, Path | None]:
    """Train the students that are missing and write the boards: the table, every trial's record, the board to see."""
    outcome, written = carry_out(found.plan, quiet=quiet)
    return build(found.lessons, found.alone, outcome.results, found.plan.baseline), outcome, written


def plan_distillation(flags: Mapping[str, Any], command: Sequence[str] = ()) -> Distillation:
    """Judge what was asked for. flags: those of ``Request``, as text, and ``OWN``; lists may be comma-separated.

    Raises UserError with the problems: teachers that the store lacks or holds in several settings, weights that are
    gone, values out of range, data that changed since the teachers were trained.
    """
    problems = Problems()
    plan_flags = {key: value for key, value in flags.items() if key not in OWN}
    request = Request.gather(plan_flags, None, {})
    store = Store(path_of(request.results or "results").absolute())
    teachers = problems.attempt(
        lambda: find_teachers(store, split_list(flags.get("teachers") or ()), request, flags.get("teacher_epochs"))
    )
    variants = _variants(flags, problems)
    if problems.found or not teachers:
        raise UserError(problems.found)
    plan = make_plan(_students(request, teachers, flags.get("student")), command)
    changed = [t.label for t in teachers if t.fingerprint != plan.trials[0].identity.data_fingerprint]
    if changed:
        raise UserError(f"the data set is not the one that {', '.join(changed)} learned from; give it with --data-dir")
    lessons = [
        _lesson(alone, teacher, teacher.trials[alone.spec.seed], params)
        for alone in plan.trials
        for teacher in teachers
        for params in variants
    ]
    trials = (*plan.trials, *(lesson.trial for lesson in lessons))
    alone = {trial.spec.seed: trial.id for trial in plan.trials}
    return Distillation(plan.model_copy(update={"trials": trials}), tuple(lessons), alone)


def _method() -> str:
    """The method that learns from a named teacher; of several, sdbench's own."""
    wanting = [name for name in registry.names() if registry.get(name).wants_teacher]
    return min(wanting, key=lambda name: registry.origin(name) != "built in")


def _variants(flags: Mapping[str, Any], problems: Problems) -> list[dict[str, Value]]:
    """Every pair of a weight and a temperature, each checked against its range."""
    known = registry.parameters(registry.get(_method()))
    values: dict[str, list[Value]] = {}
    for key, flag, default in (("alpha", "alpha", ALPHA), ("temperature", "temperatures", TEMPERATURES)):
        values[key] = []
        for text in dict.fromkeys(split_list(flags.get(flag) or default)):
            try:
                value = known[key].parse(text)
                trouble = known[key].problem(value)
            except ValueError as error:
                trouble = str(error)
            if trouble:
                problems.found.append(f"--{flag} {text}: {trouble}")
            elif value not in values[key]:
                values[key].append(value)
    return [{"alpha": a, "temperature": t} for a in values["alpha"] for t in values["temperature"]]


def _students(request: Request, teachers: Sequence[Teacher], student: str | None) -> Request:
    """The run of the students alone: the teachers' setting, with what the user set instead."""
    spec = next(iter(teachers[0].trials.values())).spec
    if spec.protocol not in PROTOCOLS:
        raise UserError(f"the teachers' protocol {spec.protocol!r} is none of {', '.join(PROTOCOLS)}; train others")
    recipe = spec.recipe
    scaled = spec.split != "full" and PROTOCOLS[spec.protocol].split == "full"
    theirs: dict[str, Any] = {
        "dataset": (spec.dataset,),
        "protocol": spec.protocol,
        "epochs": str(recipe.epochs),
        "batch_size": str(recipe.batch_size),
        "lr": repr(recipe.lr),
        "weight_decay": repr(recipe.weight_decay),
        "augment": recipe.policy,
        "precision": spec.precision,
        "threads": str(spec.threads),
        "image_size": None if spec.image_size is None else str(spec.image_size),
        "temperature_scaling": "true" if scaled else None,
    }
    given = {k: v for k, v in request.model_dump().items() if v not in (None, ())}
    seeds = tuple(map(str, teachers[0].trials))
    own = {"methods": (registry.baseline_name(),), "model": (student or spec.network,), "seeds": seeds}
    return Request.model_validate({**theirs, **given, **own})


def _lesson(alone: Trial, teacher: Teacher, taught_by: TrialResult, params: Mapping[str, Value]) -> Lesson:
    """The student of one teacher, else as the student alone."""
    name = _method()
    recipe, theirs = alone.spec.recipe, taught_by.spec.recipe
    other = "" if recipe == theirs else f" {theirs.epochs} epochs {digest(theirs.model_dump(mode='json'))[:4]}"
    split = f" on {taught_by.spec.shards} processes" if taught_by.spec.shards > 1 else ""
    label = f"{taught_by.spec.network}/{_named(taught_by)}{other}{split}"
    values = registry.resolve(name, alone.spec.dataset, {**params, "taught_by": label})
    spec = TrialSpec.model_validate(
        {
            **alone.spec.model_dump(),
            "method": name,
            "params": values,
            "protocol": alone.spec.protocol + DISTILLED,
            "teacher": taught_by.trial_id,
        }
    )
    identity = Identity(
        method_source=method_source(name),
        data_fingerprint=alone.identity.data_fingerprint,
        protocol_version=alone.identity.protocol_version,
    )
    trial = Trial(spec=spec, identity=identity, caveat=registry.caveat(name))
    return Lesson(teacher.label, teacher.method, taught_by, trial)


def _named(result: TrialResult) -> str:
    """A trial's method with the parameters that differ from its defaults, the same however it was asked for."""
    spec = result.spec
    usual = choose_variants([spec.method], [spec.dataset], Problems(), named_teachers=True)[spec.dataset]
    defaults = usual[0][1] if usual else {}  # none where its plug-in is not loaded
    differing = {key: value for key, value in sorted(spec.params.items()) if value != defaults.get(key)}
    listed = ",".join(f"{k}={str(v).lower() if isinstance(v, bool) else v}" for k, v in differing.items())
    return f"{spec.method}[{listed}]" if listed else spec.method
