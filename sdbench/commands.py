"""What ``run`` and ``check`` do, as functions that return records or an exit code. Both need torch."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from sdbench import boards, registry
from sdbench.cli_options import unread
from sdbench.errors import UserError
from sdbench.plan import Plan, make_plan
from sdbench.request import Request
from sdbench.run import Outcome, execute, summary, to_do
from sdbench.selectors import select, split_list
from sdbench.store import Store

if TYPE_CHECKING:
    from sdbench.checks import Finding


def run(
    flags: Mapping[str, Any],
    config: str | None,
    command: Sequence[str],
    *,
    dry_run: bool = False,
    quiet: bool = False,
    as_json: bool = False,
) -> int:
    """Plan, train what is missing, write and print the board of what was asked for."""
    request = Request.gather(flags, Path(config) if config else None, os.environ)
    plan = make_plan(request, command)
    if dry_run:
        typer.echo(preview(plan, as_json))
        return 0
    outcome, written = carry_out(plan, quiet=quiet)
    board = boards.text_of(outcome.results, plan.baseline, "json" if as_json else "text", Path(plan.results))
    with unread():
        typer.echo(board, nl=False)
    for line in summary(plan, outcome, written):
        typer.echo(line, err=True)
    return outcome.exit_code


def carry_out(plan: Plan, *, quiet: bool) -> tuple[Outcome, Path | None]:
    """Run what is missing and write the boards; returns every trial's record, and the board to look at, None where
    none could be written, of which the outcome tells."""
    outcome = execute(plan, quiet=quiet)
    try:
        return outcome, boards.write(Store(Path(plan.results)))
    except OSError as error:
        outcome.problem = f"boards not written: {error.strerror or error}"
        return outcome, None


def preview(plan: Plan, as_json: bool) -> str:
    """What a run would do: per method, data set and network how many trials are done and missing."""
    missing = {trial.id for trial in to_do(plan, Store(Path(plan.results)))}
    rows = []
    for trial in plan.trials:
        spec = trial.spec
        state = "missing" if trial.id in missing else "done"
        rows.append({"trial_id": trial.id, "state": state, "spec": spec.model_dump(mode="json")})
    if as_json:
        return json.dumps({"trials": rows, "missing": len(missing), "engine": plan.engine}, indent=1)
    counts: dict[tuple[str, ...], Counter[str]] = {}
    for trial in plan.trials:
        spec = trial.spec
        key = (spec.dataset, spec.network, spec.protocol, str(spec.recipe.epochs), spec.method)
        counts.setdefault(key, Counter())["missing" if trial.id in missing else "done"] += 1
    from tabulate import tabulate

    lines = [[*key, count["done"], count["missing"]] for key, count in counts.items()]
    headers = ["dataset", "network", "protocol", "epochs", "method", "done", "missing"]
    table = tabulate(lines, headers=headers, tablefmt="simple", disable_numparse=True)
    return f"{table}\n{len(missing)} of {len(plan.trials)} trials to run, engine {plan.engine}; nothing was started"


def check(names: Sequence[str], plugins: Sequence[str], as_json: bool) -> int:
    """Run the conformance checks and print what they find; 0 if all passed."""

    def told(name: str, findings: Sequence[Finding]) -> None:
        for finding in findings:
            mark = "ok  " if finding.passed else "FAIL"
            detail = "" if finding.passed else f": {finding.message}"
            typer.echo(f"{mark} {name}: {finding.check} ({finding.seconds:.1f} s){detail}")

    report = checked(names, plugins, _silent if as_json else told)
    passed = [finding.passed for findings in report.values() for finding in findings]
    if as_json:
        typer.echo(json.dumps({name: [vars(f) for f in findings] for name, findings in report.items()}, indent=1))
    else:
        typer.echo(f"{sum(passed)} of {len(passed)} checks passed for {', '.join(report)}")
    return 0 if all(passed) else 1


def _silent(name: str, findings: Sequence[Finding]) -> None:
    """Says nothing."""


def checked(
    names: Sequence[str], plugins: Sequence[str], told: Callable[[str, Sequence[Finding]], None] = _silent
) -> dict[str, list[Finding]]:
    """The findings of the conformance checks by method; ``told`` hears of each method when it is done."""
    from sdbench.checks import run_checks

    known_before = set(registry.names())
    for plugin in plugins:
        registry.load_plugin(plugin)
    wanted = split_list(names) or sorted(set(registry.names()) - known_before)
    if not wanted:
        raise UserError("name the methods to check, or all, or give --plugin FILE; see `sdbench list methods`")
    chosen = select("method", wanted, registry.names())
    report = {}
    for name in chosen:
        report[name] = run_checks(name)
        told(name, report[name])
    return report
