"""Everything that the command line does, as functions that return records.

Each function does what the command of its name does, by the same code, and takes the command's options as keyword
arguments; where a command prints, it returns what is printed. Errors are ``sdbench.errors.UserError``, with every
problem that was found. Nothing is printed but progress, and that only with ``quiet=False``.

>>> from sdbench import api
>>> api.describe("ls").name
'ls'
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from sdbench.api_options import ClaimsOptions, Many, One, ProfileOptions, RunOptions, command, text, texts, typed
from sdbench.frames import to_pandas

if TYPE_CHECKING:
    from sdbench.cards import MethodCard
    from sdbench.checks import Finding
    from sdbench.comparison_records import Comparison
    from sdbench.cost.claims_records import ClaimsTable
    from sdbench.cost.records import ProfileResult
    from sdbench.cost.request import ProfileRequest
    from sdbench.doctor import Fact
    from sdbench.leaderboard_records import Board
    from sdbench.merging import Merge
    from sdbench.plan import Plan
    from sdbench.run import Outcome
    from sdbench.spec import TrialResult
    from sdbench.validation_records import Validation

__all__ = [
    "check",
    "claims",
    "compare",
    "describe",
    "doctor",
    "leaderboard",
    "list_datasets",
    "list_methods",
    "list_metrics",
    "list_models",
    "list_protocols",
    "merge",
    "plan",
    "profile",
    "profile_sweep",
    "profiles",
    "run",
    "schema",
    "to_pandas",
    "trial",
    "trials",
    "validate",
]


def plan(*, config: One = None, **options: Unpack[RunOptions]) -> Plan:
    """What ``run`` would do, ``sdbench run --dry-run``: all its trials, whether they are done or not.

    config: a TOML file; SDBENCH_* variables count as well. Raises UserError with every problem, EnvironmentProblem
    where the machine lacks something.
    """
    from sdbench.plan import make_plan
    from sdbench.request import Request

    flags = typed(options, Request.model_fields)
    request = Request.gather(flags, None if config is None else Path(text(config)), os.environ)
    return make_plan(request, command("run", flags))


def run(*, config: One = None, quiet: bool = True, **options: Unpack[RunOptions]) -> Outcome:
    """Train what is missing, ``sdbench run``: ``.results`` are the records of all trials, ``.missing`` those not run.

    Trials run in processes of their own; calling it again resumes. The boards under the results folder are written.
    """
    from sdbench.commands import carry_out

    outcome, _ = carry_out(plan(config=config, **options), quiet=quiet)
    return outcome


def trials(results: One = "results") -> list[TrialResult]:
    """All trials of a results folder, ``sdbench list runs``, in order of their folders; a damaged record is a
    warning. Empty where there is no such folder."""
    from sdbench.store import Store

    scan = Store(_folder(results)).scan()
    for damaged in scan.damaged:
        warnings.warn(f"damaged record left out: {damaged.path}: {damaged.reason}", stacklevel=2)
    return list(scan.results)


def trial(name: One, results: One = "results") -> TrialResult:
    """One trial by its id, the beginning of one, or its folder, ``sdbench show``."""
    from sdbench import boards

    return boards.find_trial(text(results), text(name))


def profiles(results: One = "results") -> list[ProfileResult]:
    """All profiles of a results folder, the oldest first; a damaged record is a warning."""
    from sdbench.cost import archive

    found = archive.scan(_folder(results))
    for damaged in found.damaged:
        warnings.warn(f"damaged record left out: {damaged.path}: {damaged.reason}", stacklevel=2)
    return list(found.results)


def leaderboard(
    *,
    methods: Many = None,
    dataset: Many = None,
    model: Many = None,
    protocol: str | None = None,
    results: One = "results",
    write: bool = False,
) -> Board:
    """The board of all finished trials, ``sdbench leaderboard``. write: also under the results folder, as files."""
    from sdbench import boards

    chosen = boards.Filter.read(texts(methods), texts(dataset), texts(model), protocol)
    return boards.read_board(text(results), chosen, write_files=write)[0]


def compare(
    *names: str,
    reference: str | None = None,
    metric: str = "top1",
    fail_if: Many = None,
    dataset: Many = None,
    model: Many = None,
    protocol: str | None = None,
    results: One = "results",
) -> Comparison:
    """Differences to a reference paired by seed, ``sdbench compare``; ``.failed`` are the conditions that hold."""
    from sdbench import boards

    chosen = boards.Filter.read(None, texts(dataset), texts(model), protocol)
    return boards.compared(text(results), names, chosen, reference=reference, metric=metric, fail_if=texts(fail_if))[0]


def profile(**options: Unpack[ProfileOptions]) -> ProfileResult:
    """What a training step of each method costs beside the baseline's, ``sdbench profile``; the record is kept.

    Many methods are measured in groups and returned as one record.
    """
    from sdbench.cost import commands

    _, found, _ = commands.profiles(_profile_request(dict(options)), command("profile", typed(options, options)))
    return found[0]


def profile_sweep(sweep: str, **options: Unpack[ProfileOptions]) -> list[ProfileResult]:
    """A profile for each value of ``sweep``, such as "classes=100,1000", ``sdbench profile --sweep``."""
    from sdbench.cost import commands

    asked = {"sweep": sweep, **options}
    return commands.profiles(_profile_request(asked), command("profile", typed(asked, asked)))[1]


def claims(*, measure: bool = False, **options: Unpack[ClaimsOptions]) -> ClaimsTable:
    """What papers claim about cost beside what was measured, ``sdbench claims``. measure: profile what is missing."""
    from sdbench.cost import commands

    words = command("claims", typed(options, ClaimsOptions.__annotations__))
    return commands.judged(_profile_request(dict(options)), words, measure=measure)[0]


def _profile_request(options: dict[str, Any]) -> ProfileRequest:
    from sdbench.cost.request import ProfileRequest

    found = typed(options, ProfileRequest.model_fields)
    for name in ("methods", "plugin"):
        if name in found:
            found[name] = texts(found[name])
    if "memory" in found:
        found["memory"] = found["memory"] == "true"
    return ProfileRequest.model_validate(found)


def check(*names: str, plugin: Many = None) -> dict[str, list[Finding]]:
    """Whether methods keep the contract, ``sdbench check``: what each check found, by method."""
    from sdbench.commands import checked

    return checked(names, texts(plugin))


def doctor(*, results: One = "results", data_dir: One = None) -> list[Fact]:
    """What this machine has, ``sdbench doctor``: facts with a level, ok, warn or FAIL, and the remedy."""
    from sdbench.doctor import examine

    return examine(text(results), None if data_dir is None else text(data_dir))


def describe(name: str, *, plugin: Many = None) -> MethodCard | Any:
    """All that is known of a method, ``sdbench describe``; for other names the record of a data set, network or
    protocol."""
    from sdbench import catalog

    return catalog.entry(name, texts(plugin))


def list_methods(*, plugin: Many = None) -> list[dict[str, Any]]:
    """All methods as rows of plain values, ``sdbench list methods --json``; needs and passes are counted, which takes
    a quarter of a second each."""
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


def validate(*paths: One, against: One = None) -> Validation:
    """Whether records are what they say, ``sdbench validate``: findings, and ``.valid``."""
    from sdbench import validation

    return validation.validate([text(path) for path in paths], None if against is None else text(against))


def merge(*sources: One, into: One, keep: str = "newest") -> Merge:
    """Copy trials and profiles of other results folders into one, ``sdbench merge``: what became of each record."""
    from sdbench import merging

    return merging.merge([text(source) for source in sources], None if into is None else text(into), keep)


def schema(kind: str = "trial") -> dict[str, Any]:
    """The JSON Schema of trial.json or profile.json, ``sdbench schema``."""
    from sdbench import schemas

    return schemas.schema(kind)


def _folder(results: One) -> Path:
    return Path(text(results)).expanduser().absolute()
