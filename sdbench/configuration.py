"""The configuration of a run in full: every value with where it came from. Defaults < protocol < configuration file
< SDBENCH_* variables < flags; of a method's coefficients default < recommended for the data set < given."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from sdbench import registry
from sdbench.plan import Plan, make_plan
from sdbench.preview import variant_names
from sdbench.public_command import GIVEN, public_path
from sdbench.request import Request, read_config
from sdbench.selectors import split_list
from sdbench.spec import Record, TrialSpec, canonical

UNSET = "-"
"""The value of an option that is not given and has none by default."""

ALIKE = {"num_seeds": "seeds"}
"""Options that give the value of another one."""

DEFAULTS = {
    "dataset": "glyphs", "results": "results", "per_gpu": "1", "gpus": "all", "cpus": "all", "cpus_per_trial": "1",
    "gpus_per_trial": "1", "iso_cost": "false", "temperature_scaling": "false", "rerun": "none", "baseline": "true",
    "keep_logits": "last",
}  # fmt: skip
PLACES = ("data_dir", "plugin", "results")
"""Options that name places of this machine, of which records keep the last part."""

BY_PROTOCOL = ("epochs", "batch_size", "lr", "weight_decay", "seeds", "model", "eval_every")


class Setting(Record):
    """One value in force. name: the option's, ``recipe.NAME`` or ``METHOD.NAME``. origin: default, protocol NAME,
    recommended for DATASET, file NAME, variable SDBENCH_NAME or flag."""

    name: str
    value: str
    origin: str


def resolved(
    flags: Mapping[str, Any],
    config: Path | None,
    environ: Mapping[str, str],
    command: Sequence[str],
    *,
    look: bool = False,
) -> tuple[Plan, list[Setting]]:
    """The plan of what was asked for and all settings; its trials' records will keep them. Raises as ``make_plan``."""
    request = Request.gather(flags, config, environ)
    plan = make_plan(request, command, look=look)
    settings = [*_options(request, plan, origins(flags, config, environ)), *_recipe(plan)]
    settings += _coefficients(plan, origins(flags, config, environ).get("methods", "default"))
    kept = {s.name: _public(s) for s in settings if s.value != UNSET and "." not in s.name}
    told = {s.name: s.origin for s in settings if s.name in kept and s.origin != "default"}
    options = plan.options.model_copy(update={"config": kept, "origins": told})
    return plan.model_copy(update={"options": options}), settings


def origins(flags: Mapping[str, Any], config: Path | None, environ: Mapping[str, str]) -> dict[str, str]:
    """Where each option that was given came from."""
    found = dict.fromkeys(read_config(config), f"file {config.name}") if config else {}
    for name in Request.model_fields:
        if environ.get(f"SDBENCH_{name.upper()}"):
            found[name] = f"variable SDBENCH_{name.upper()}"
    found.update({name: "flag" for name, value in flags.items() if value not in (None, [], ())})
    return found


def _options(request: Request, plan: Plan, given: Mapping[str, str]) -> Iterator[Setting]:
    """The options of ``run``, in the order of its help."""
    spec = plan.trials[0].spec
    known = _in_force(plan, spec)
    known["methods"] = ",".join(request.methods or registry.core_names())
    for name in Request.model_fields:
        own = getattr(request, name)
        typed = ",".join(own) if isinstance(own, tuple) else own
        value = known.get(name) or typed or DEFAULTS.get(name) or UNSET
        origin = given.get(name) or next((given[n] for n, other in ALIKE.items() if other == name and n in given), "")
        if name == "epochs" and not origin and "limit_steps" in given:
            origin = f"{given['limit_steps']} (limit_steps)"
        if not origin:
            origin = f"protocol {spec.protocol}" if name in BY_PROTOCOL else "default"
        yield Setting(name=name, value=value, origin=origin)


def _in_force(plan: Plan, spec: TrialSpec) -> dict[str, str]:
    """What options came to, by the plan."""
    options, recipe = plan.options, spec.recipe.model_dump(mode="json")
    found = {name: _text(value) for name, value in recipe.items() if name in Request.model_fields and name != "augment"}
    found["augment"] = spec.recipe.policy
    found |= {name: _text(getattr(options, name)) for name in ("device", "state", "compile", "eval_every", "state")}
    found["workers"] = "auto" if options.workers is None else str(options.workers)
    seeds = sorted({trial.spec.seed for trial in plan.trials})
    return found | {
        "dataset": ",".join(dict.fromkeys(trial.spec.dataset for trial in plan.trials)),
        "model": ",".join(dict.fromkeys(trial.spec.network for trial in plan.trials)),
        "seeds": ",".join(map(str, seeds)),
        "protocol": spec.protocol,
        "precision": spec.precision,
        "threads": str(spec.threads),
        "engine": plan.engine,
        "max_failures": str(options.max_failures),
        "keep_checkpoints": _text(options.keep_checkpoints),
        "weights": _text(options.keep_weights),
        "logits": _text(options.keep_logits),
    }


def _recipe(plan: Plan) -> Iterator[Setting]:
    """What of the recipe no option sets; augmentation goes with the data set."""
    spec = plan.trials[0].spec
    for name, value in spec.recipe.model_dump(mode="json").items():
        if name not in (*Request.model_fields, "augment", "policy"):
            yield Setting(name=f"recipe.{name}", value=_text(value), origin=f"protocol {spec.protocol}")
    for dataset, augment in {t.spec.dataset: t.spec.recipe.augment for t in plan.trials}.items():
        yield Setting(name="recipe.augment", value=augment, origin=f"data set {dataset}")


def _coefficients(plan: Plan, given: str) -> Iterator[Setting]:
    """The coefficients of every variant of every method on every data set."""
    names = variant_names(trial.spec for trial in plan.trials)
    seen = set()
    for spec in (trial.spec for trial in plan.trials):
        label = names[spec.method, canonical(spec.params)]
        if (label, spec.dataset) in seen:
            continue
        seen.add((label, spec.dataset))
        for name, value in spec.params.items():
            yield Setting(name=f"{label}.{name}", value=_text(value), origin=_coefficient(spec, name, value, given))


def _coefficient(spec: TrialSpec, name: str, value: object, given: str) -> str:
    """Where a coefficient's value comes from; ``a.b`` is coefficient b of the mixer a in ``base+a``."""
    member, _, own = name.rpartition(".")
    method = registry.get(member or spec.method.partition("+")[0])
    recommended = method.recommended.get(spec.dataset, {})
    if own in recommended and recommended[own] == value:
        return f"recommended for {spec.dataset}"
    default = registry.parameters(method)[own].default
    return "default" if default == value and own not in recommended else given


def _text(value: object) -> str:
    if isinstance(value, list | tuple):
        return ",".join(map(_text, value))
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def _public(setting: Setting) -> str:
    """A value as records keep it: no path, no address of this machine."""
    if setting.name == "address":
        return GIVEN
    if setting.name not in PLACES:
        return setting.value
    return ",".join(map(public_path, split_list([setting.value])))


def text(settings: Sequence[Setting], as_json: bool) -> str:
    """The settings as a table, or as a JSON list of objects."""
    if as_json:
        return json.dumps([setting.model_dump() for setting in settings], indent=1)
    rows = [[s.name, s.value, s.origin] for s in settings]
    return tabulate(rows, headers=["setting", "value", "origin"], tablefmt="simple", disable_numparse=True)
