"""What ``run`` and ``check`` do, as functions that return records or an exit code. Both need torch."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdbench import boards, configuration, registry
from sdbench.cli_options import unread
from sdbench.errors import UserError, unknown
from sdbench.paths import path_of
from sdbench.plan import Plan
from sdbench.preview import preview_of
from sdbench.progress import AUTOMATIC, STYLES, Shown
from sdbench.run import Outcome, execute, summary
from sdbench.selectors import select, split_list
from sdbench.store import Store
from sdbench.terminal import json_of, say

if TYPE_CHECKING:
    from sdbench.checks import Finding


def run(
    flags: Mapping[str, Any],
    config: str | None,
    command: Sequence[str],
    *,
    dry_run: bool = False,
    show_config: bool = False,
    quiet: bool = False,
    shown: Shown = AUTOMATIC,
    as_json: bool = False,
) -> int:
    """Plan, train what is missing, write and print the board of what was asked for."""
    if shown.style not in STYLES:
        raise UserError(f"--progress: {unknown('style', shown.style, STYLES)}")
    look = dry_run or show_config
    plan, settings = configuration.resolved(flags, path_of(config) if config else None, os.environ, command, look=look)
    if show_config:
        say(configuration.text(settings, as_json))
        return 0
    if dry_run:
        say(preview(plan, as_json))
        return 0
    outcome, written = carry_out(plan, quiet=quiet, shown=shown)
    board = boards.text_of(outcome.results, plan.baseline, "json" if as_json else "text", Path(plan.results))
    with unread():
        say(board, nl=False)
    for line in summary(plan, outcome, written):
        say(line, err=True)
    return outcome.exit_code


def carry_out(plan: Plan, *, quiet: bool, shown: Shown = AUTOMATIC) -> tuple[Outcome, Path | None]:
    """Run what is missing and write the boards; returns every trial's record, and the board to look at, None where
    none could be written, of which the outcome tells."""
    outcome = execute(plan, quiet=quiet, shown=shown)
    try:
        return outcome, boards.write(Store(Path(plan.results)))
    except OSError as error:
        outcome.problem = f"boards not written: {error.strerror or error}"
        return outcome, None


def preview(plan: Plan, as_json: bool) -> str:
    """What a run would do, as text or JSON."""
    found = preview_of(plan)
    return json_of(found) if as_json else found.text


def check(names: Sequence[str], plugins: Sequence[str], as_json: bool) -> int:
    """Run the conformance checks and print what they find; 0 if all passed."""

    def told(name: str, findings: Sequence[Finding]) -> None:
        for finding in findings:
            mark = "ok  " if finding.passed else "FAIL"
            detail = "" if finding.passed else f": {finding.message}"
            say(f"{mark} {name}: {finding.check} ({finding.seconds:.1f} s){detail}")

    report = checked(names, plugins, _silent if as_json else told)
    passed = [finding.passed for findings in report.values() for finding in findings]
    if as_json:
        say(json.dumps({name: [vars(f) for f in findings] for name, findings in report.items()}, indent=1))
    else:
        say(f"{sum(passed)} of {len(passed)} checks passed for {', '.join(report)}")
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
