"""What ``sdbench profile`` and ``sdbench claims`` do, as functions that return a text and an exit code."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sdbench import environment, registry
from sdbench.cost import archive, formats
from sdbench.cost.claims import judge_claims, load_claims
from sdbench.cost.claims_formats import render
from sdbench.cost.claims_records import ClaimsTable
from sdbench.cost.evidence import Wanted, gains, profiled
from sdbench.cost.groups import groups, together
from sdbench.cost.profile import profile
from sdbench.cost.records import ProfileResult
from sdbench.cost.request import ProfilePlan, ProfileRequest, Sweep, make_plans
from sdbench.cost.setting import Told
from sdbench.errors import EnvironmentProblem, UserError, unknown
from sdbench.identity import method_source
from sdbench.leaderboard_costs import Hardware
from sdbench.paths import absolute_text, path_of
from sdbench.selectors import split_list
from sdbench.store import Store
from sdbench.terminal import visible

FAILED, INTERRUPTED = 1, 130
FORMATS = ("text", "md", "json")


def run_profile(request: ProfileRequest, command: Sequence[str], *, quiet: bool, as_json: bool) -> tuple[str, int]:
    """Profile a setting, or each of a sweep, keep the records and show them. Exit code 1 where a method failed,
    130 after Ctrl-C, when what was measured until then is kept. Many methods are measured in groups."""
    from sdbench.cost import scaling

    told = silent if quiet else to_stderr
    sweep, found, code = profiles(request, command, told)
    root = results_folder(request.results)
    if sweep.quantity:
        picture = scaling.plot(sweep, found, root / "profiles")
        told(f"drawn in {picture.relative_to(root.parent)}")
        answer = formats.json_text(scaling.document(sweep, found)) if as_json else scaling.text(sweep, found)
    else:
        answer = formats.json_text(formats.document(found[0])) if as_json else formats.text(found[0])
    return answer, code


def profiles(
    request: ProfileRequest, command: Sequence[str] = (), told: Told | None = None
) -> tuple[Sweep, list[ProfileResult], int]:
    """Profile a setting, or each of a sweep, and keep the records: the sweep, a profile per value (one without a
    sweep), those of several groups put together, and the exit code."""
    sweep, plans = make_plans(request, command)
    root = results_folder(request.results)
    require_device(plans[0].options.device)
    parts = [groups(plan, limited=request.max_seconds is not None) for plan in plans]
    kept, trouble = _measure([part for each in parts for part in each], root, told or silent)
    size = len(parts[0])
    found = [together(kept[i : i + size]) for i in range(0, len(kept), size)]
    return sweep, found, max(trouble, *map(exit_code, found))


def _measure(plans: Sequence[ProfilePlan], root: Path, told: Told) -> tuple[list[ProfileResult], int]:
    """Measure and keep each; after trouble, what there is by then and the exit code. Raises EnvironmentProblem or
    KeyboardInterrupt where there is nothing yet."""
    kept: list[ProfileResult] = []
    for plan in plans:
        try:
            result = measured(plan, told)
        except (EnvironmentProblem, KeyboardInterrupt) as error:
            if not kept:
                raise
            told(str(error) or "interrupted")
            return kept, INTERRUPTED if isinstance(error, KeyboardInterrupt) else FAILED
        told(f"kept as {archive.write(root, result).relative_to(root.parent)}")
        kept.append(result)
        if result.interrupted:
            break
    return kept, 0


def measured(plan: ProfilePlan, told: Told) -> ProfileResult:
    """A profile, with whatever plug-ins print sent to stderr: stdout is for the answer."""
    with contextlib.redirect_stdout(sys.stderr):
        return profile(plan, told)


def exit_code(result: ProfileResult) -> int:
    """0 all well, 1 a method failed, 130 interrupted."""
    if result.interrupted:
        return INTERRUPTED
    return FAILED if any(row.status != "ok" for row in result.rows) else 0


def run_claims(
    request: ProfileRequest, command: Sequence[str], format_name: str, *, measure: bool, quiet: bool
) -> tuple[str, int]:
    """What papers claim beside what was measured here, as text; as ``judged``."""
    if format_name not in FORMATS:
        raise UserError(unknown("format", format_name, FORMATS))
    table, code = judged(request, command, silent if quiet else to_stderr, measure=measure)
    return render(table, format_name), code


def judged(
    request: ProfileRequest, command: Sequence[str] = (), told: Told | None = None, *, measure: bool
) -> tuple[ClaimsTable, int]:
    """What papers claim beside what was measured here; with ``measure``, what no profile of this machine has yet is
    profiled first. Exit code as of ``profiles``."""
    known = set(registry.names())
    for plugin in request.plugin:
        registry.load_plugin(plugin)
    claims = load_claims()
    listed = [entry.name for entry in claims.entries if entry.name in registry.names()]
    asked = split_list(request.methods) or listed + sorted(set(registry.names()) - known)
    _, plans = make_plans(request.model_copy(update={"methods": tuple(asked), "plugin": ()}), command)
    plan = plans[0]
    root = results_folder(request.results) if measure else existing_folder(request.results)
    code = _measure_missing(plan, root, told or silent, request) if measure else 0
    chosen = request.model or request.classes
    wanted = _wanted(plan)
    if not measure:
        wanted = replace(wanted, setting=plan.setting if chosen else None, hardware=None, sources={})
    rows = profiled(archive.scan(root).results, wanted)
    table = judge_claims(claims, rows, gains(Store(root).scan().results, claims))
    if request.methods:
        shown = {c.name for c in plan.contestants}
        table = table.model_copy(update={"rows": tuple(row for row in table.rows if row.method in shown)})
    return table, code


def _measure_missing(plan: ProfilePlan, root: Path, told: Told, request: ProfileRequest) -> int:
    """Profile the methods that no profile of this machine and task has; returns the exit code."""
    require_device(plan.options.device)
    have = profiled(archive.scan(root).results, _wanted(plan))
    failed = [row for row, _ in have.values() if row.status != "ok"]
    for row in failed:
        told(f"{row.method}: {row.status}: {row.reason}; `sdbench profile --methods {row.method}` tries again")
    settled = {name for name, (row, _) in have.items() if row.timing_valid or row.status != "ok"}
    missing = [c for c in plan.contestants[1:] if c.name not in settled]
    if not missing:
        return FAILED if failed else 0
    told(f"no profile of {', '.join(c.name for c in missing)} here yet; measuring (--no-measure leaves it)")
    files = tuple(absolute_text(p) for p in request.plugin)
    options = plan.options.model_copy(update={"plugins": files})
    wanted = replace(plan, contestants=(plan.contestants[0], *missing), options=options)
    results, trouble = _measure(groups(wanted, limited=request.max_seconds is not None), root, told)
    for row in together(results).rows:
        if row.status != "ok":
            told(f"{row.method}: {row.status}: {row.reason}")
    return max(trouble, *map(exit_code, results))


def _wanted(plan: ProfilePlan) -> Wanted:
    """Profiles of this task, made on this machine with the methods as they are now."""
    return Wanted(
        setting=plan.setting,
        hardware=_here(plan.options.device, plan.setting.threads),
        params={c.name: c.params for c in plan.contestants},
        sources={c.name: method_source(c.name) for c in plan.contestants},
        baseline=plan.contestants[0].name,
    )


def _here(device: str, threads: int) -> Hardware:
    """This machine, as records name it."""
    name = environment.device_name(environment.choose_device(device))
    return Hardware(name, environment.cpu_model(), threads, environment.versions().get("torch", ""))


def existing_folder(given: str | None) -> Path:
    """The results folder. Raises UserError where there is none."""
    root = path_of(given or "results").absolute()
    if not root.is_dir():
        raise UserError(f"no results folder {root}; without --no-measure, `sdbench claims` makes one and measures")
    return root


def results_folder(given: str | None) -> Path:
    """The results folder, shown to be writable."""
    root = path_of(given or "results").absolute()
    Store(root).prepare()
    return root


def require_device(wanted: str) -> None:
    """Raises EnvironmentProblem where a GPU is asked for and torch sees none."""
    import torch

    if wanted == "cuda" and not torch.cuda.is_available():
        raise EnvironmentProblem("--device cuda: torch sees no GPU; see `sdbench doctor`, or use --device cpu")
    environment.choose_device(wanted)


def to_stderr(line: str) -> None:
    print(visible(line), file=sys.stderr, flush=True)


def silent(line: str) -> None:
    """Says nothing."""
