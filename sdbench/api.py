"""Everything that the command line does, as functions that return records.

Each function does what the command of its name does, by the same code, and takes the command's options as keyword
arguments; where a command prints, it returns what is printed. Errors are ``sdbench.errors.UserError``, with every
problem that was found in ``.problems``, and its kind ``EnvironmentProblem``, where the machine lacks something. Nothing
is printed but progress, and that only with ``quiet=False``; a damaged record is a warning, or a line on stderr.

>>> from sdbench import api
>>> api.describe("ls").name
'ls'
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Unpack

from sdbench.api_care import export, gc, init, new_method, prepare, rescore, rm
from sdbench.api_cost import claims, profile, profile_sweep, profiles
from sdbench.api_evidence import (
    analyze,
    compare,
    distill,
    leaderboard,
    merge,
    plan_distill,
    plot,
    report,
    schema,
    validate,
)
from sdbench.api_options import Many, One, RunOptions, command, folder, given, text, texts, typed, warn
from sdbench.api_tune import plan_tune, tune
from sdbench.frames import to_pandas
from sdbench.paths import path_of

if TYPE_CHECKING:
    from sdbench.cards import MethodCard
    from sdbench.checks import Finding
    from sdbench.configuration import Setting
    from sdbench.doctor import Fact
    from sdbench.plan import Plan
    from sdbench.preview import Preview
    from sdbench.run import Outcome
    from sdbench.spec import TrialResult

__all__ = [
    "analyze",
    "check",
    "claims",
    "compare",
    "config",
    "describe",
    "distill",
    "doctor",
    "export",
    "gc",
    "init",
    "leaderboard",
    "list_datasets",
    "list_methods",
    "list_metrics",
    "list_models",
    "list_protocols",
    "merge",
    "new_method",
    "plan",
    "plan_distill",
    "plan_tune",
    "plot",
    "prepare",
    "preview",
    "profile",
    "profile_sweep",
    "profiles",
    "report",
    "rescore",
    "rm",
    "run",
    "schema",
    "to_pandas",
    "trial",
    "trials",
    "tune",
    "validate",
]


def plan(*, config: One = None, **options: Unpack[RunOptions]) -> Plan:
    """What ``run`` would do, ``sdbench run --dry-run``: all its trials, whether they are done or not.

    config: a TOML file; SDBENCH_* variables count as well. Raises UserError with every problem, EnvironmentProblem
    where the machine lacks something.
    """
    return _resolved(config, dict(options))[0]


def config(*, config: One = None, **options: Unpack[RunOptions]) -> list[Setting]:
    """Every value of a run with where it came from, ``sdbench run --show-config``. Raises as ``plan``."""
    return _resolved(config, dict(options), look=True)[1]


def _resolved(config: One, options: dict[str, Any], *, look: bool = False) -> tuple[Plan, list[Setting]]:
    from sdbench import configuration
    from sdbench.request import Request

    flags = typed(options, Request.model_fields)
    file = None if config is None else path_of(text(config))
    return configuration.resolved(flags, file, os.environ, command("run", flags), look=look)


def run(*, config: One = None, quiet: bool = True, **options: Unpack[RunOptions]) -> Outcome:
    """Train what is missing, ``sdbench run``: ``.results`` are the records of all trials, ``.missing`` those not run.

    Trials run in processes of their own; calling it again resumes. The boards under the results folder are written. A
    trial that fails raises nothing: its record says why. Raises as ``plan``.
    """
    from sdbench.commands import carry_out

    outcome, _ = carry_out(plan(config=config, **options), quiet=quiet)
    return outcome


def preview(*, config: One = None, **options: Unpack[RunOptions]) -> Preview:
    """What ``run`` would do, ``sdbench plan``: the state of every trial, time and disk by finished trials. Raises as
    ``plan``."""
    from sdbench.preview import preview_of

    return preview_of(_resolved(config, dict(options), look=True)[0])


def trials(results: One = "results") -> list[TrialResult]:
    """All trials of a results folder, ``sdbench list runs``, in order of their folders; a damaged record is a
    warning. Empty where there is no such folder."""
    from sdbench.store import Store

    scan = Store(folder(results)).scan()
    warn(scan.damaged)
    return list(scan.results)


def trial(name: One, results: One = "results") -> TrialResult:
    """One trial by its id, the beginning of one, or its folder, ``sdbench show``. Raises UserError where none or
    several match."""
    from sdbench import showing

    return showing.find_trial(text(results), text(name))


def check(*names: str, plugin: Many = None) -> dict[str, list[Finding]]:
    """Whether methods keep the contract, ``sdbench check``: what each check found, by method. plugin: files whose
    methods are known as well, and checked where no name is given. Raises UserError for an unknown name, and for none.
    """
    from sdbench.commands import checked

    return checked(names, texts(plugin))


def doctor(*, results: One = "results", data_dir: One = None) -> list[Fact]:
    """What this machine has, ``sdbench doctor``: facts with a level, ok, warn or FAIL, and the remedy. Raises nothing
    for what is missing."""
    from sdbench.doctor import examine

    return examine(text(results), given(data_dir))


def describe(name: str, *, plugin: Many = None) -> MethodCard | Any:
    """All that is known of a method, ``sdbench describe``; for other names the record of a data set, network or
    protocol. Raises UserError for an unknown name."""
    from sdbench import catalog

    return catalog.entry(name, texts(plugin))


def list_methods(*, plugin: Many = None) -> list[dict[str, Any]]:
    """All methods as rows of plain values, ``sdbench list methods --json``; needs and passes are counted, which takes
    a quarter of a second each. Raises UserError for a plug-in that cannot be loaded."""
    return _listed("methods", plugin)


def list_datasets() -> list[dict[str, Any]]:
    """All data sets, ``sdbench list datasets --json``."""
    return _listed("datasets")


def list_models() -> list[dict[str, Any]]:
    """All networks, ``sdbench list models --json``."""
    return _listed("models")


def list_protocols() -> list[dict[str, Any]]:
    """All protocols, ``sdbench list protocols --json``."""
    return _listed("protocols")


def list_metrics() -> list[dict[str, Any]]:
    """What each metric means, ``sdbench list metrics --json``."""
    return _listed("metrics")


def _listed(kind: str, plugin: Many = None) -> list[dict[str, Any]]:
    from sdbench import catalog

    return catalog.rows(kind, texts(plugin), "results", counted=True)
