"""The commands around a run: before it ``plan``, ``prepare``; after it ``gc``, ``rm``, ``rescore``, ``export``."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from sdbench import cli_options as option
from sdbench.cli_options import Many, Text, answers
from sdbench.terminal import json_of, say

if TYPE_CHECKING:
    from sdbench.housekeeping_records import Sweep

part = typer.Typer()

DryRun = Annotated[bool, typer.Option("--dry-run", "-n", help="say what would go, and stop")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="do not ask")]

LEFT_OUT = {"dry_run", "quiet", "progress", "verbose", "color"}
"""Options of ``run`` that mean nothing to ``plan``."""


def planning(run: Callable[..., None]) -> Callable[..., None]:
    """The command ``plan``: takes what ``run`` takes."""

    def plan(**typed: object) -> None:
        """What the same `run` would do: trials done, failed, stale, missing; time and disk. Starts nothing."""
        run(**typed, dry_run=True, quiet=True)

    signature = inspect.signature(run, eval_str=True)
    kept = [parameter for name, parameter in signature.parameters.items() if name not in LEFT_OUT]
    plan.__signature__ = signature.replace(parameters=kept)  # type: ignore[attr-defined]
    return plan


@part.command()
def prepare(
    datasets: Annotated[Many, typer.Argument(help="see: sdbench list datasets", metavar="DATASET...")] = None,
    data_dir: option.DataDir = None,
    image_size: option.ImageSize = None,
    as_json: option.Json = False,
) -> None:
    """Download, verify and decode data sets, so that a run needs no network. Again: only looks."""
    with answers():
        from sdbench import preparation

        ready = preparation.prepare(datasets or [], data_dir, image_size)
        if as_json:
            say(json.dumps([each.model_dump() for each in ready], indent=1))
        else:
            say("\n".join(each.text for each in ready))


@part.command()
def gc(
    stale: Annotated[bool, typer.Option("--stale", help="also trials that one of today's source superseded")] = False,
    failed: Annotated[
        bool, typer.Option("--failed", help="also checkpoints that --rerun failed would go on from")
    ] = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    plugin: option.Plugins = None,
    results: option.Results = None,
    as_json: option.Json = False,
) -> None:
    """Remove checkpoints of finished trials and leftovers of kills; move damaged records to quarantine/."""
    with answers():
        from sdbench import upkeep

        _swept(upkeep.gc(results or "results", stale=stale, failed=failed, plugins=plugin or []), dry_run, yes, as_json)


@part.command()
def rm(
    trials: Annotated[Many, typer.Argument(help="ids, or beginnings of four digits and more")] = None,
    methods: option.Methods = None,
    dataset: option.Datasets = None,
    model: option.Models = None,
    protocol: option.OnlyProtocol = None,
    status: Annotated[Many, typer.Option(help="ok, failed, oom, nan, timeout or interrupted")] = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    results: option.Results = None,
    as_json: option.Json = False,
) -> None:
    """Remove trials, by id or by what they are. Those that a process works on, and teachers, stay."""
    with answers():
        from sdbench import boards, upkeep

        chosen = boards.Filter.read(methods, dataset, model, protocol)

        _swept(upkeep.rm(results or "results", trials or [], chosen, status or []), dry_run, yes, as_json)


@part.command()
def rescore(
    trials: option.TrialIds = None,
    methods: option.Methods = None,
    dataset: option.Datasets = None,
    model: option.Models = None,
    protocol: option.OnlyProtocol = None,
    write: Annotated[bool, typer.Option("--write", help="renew records whose metrics are others")] = False,
    results: option.Results = None,
    as_json: option.Json = False,
) -> None:
    """Metrics once more from the kept logits, no training: do records agree? Exit 1 where one does not."""
    with answers():
        from sdbench import boards, upkeep

        chosen = boards.Filter.read(methods, dataset, model, protocol)
        found = upkeep.rescore(results or "results", trials or [], chosen, write=write)
        say(json_of(found) if as_json else found.text)
    raise typer.Exit(0 if found.agrees else 1)


@part.command()
def export(
    trials: option.TrialIds = None,
    output: Annotated[Text, typer.Option("--output", help="a .zip file (trials.zip)")] = None,
    methods: option.Methods = None,
    dataset: option.Datasets = None,
    model: option.Models = None,
    protocol: option.OnlyProtocol = None,
    results: option.Results = None,
    as_json: option.Json = False,
) -> None:
    """Records and curves of trials in one zip file, without tensors, for others to merge."""
    with answers():
        from sdbench import boards, upkeep

        chosen = boards.Filter.read(methods, dataset, model, protocol)
        found = upkeep.export(results or "results", trials or [], chosen, output)
        say(json_of(found) if as_json else found.text)


@part.command()
def init(
    context: typer.Context, file: Annotated[Text, typer.Argument(help="the file to write (sdbench.toml)")] = None
) -> None:
    """Write a configuration file with every option of `run`, commented."""
    with answers():
        from sdbench import starting

        options = context.find_root().command.commands["run"].params  # type: ignore[attr-defined]
        path = starting.init(file, {str(option.name).rstrip("_"): option.help or "" for option in options})
        say(f"wrote {path}; next: sdbench plan --config {path}")


@part.command("new-method")
def new_method(
    name: Annotated[str, typer.Argument(help="what the method is called on the command line")],
    kind: Annotated[str, typer.Option(help="criterion, state (a memory), views (two passes) or mix")] = "criterion",
    directory: Annotated[str, typer.Option(help="folder of the method's file")] = ".",
    tests: Annotated[str, typer.Option(help="folder of its test")] = ".",
    as_json: option.Json = False,
) -> None:
    """Write a method that works as it is, and the test of its formula, to be made yours."""
    with answers():
        from pathlib import Path

        from sdbench import scaffold

        written = scaffold.write(name, kind, Path(directory), Path(tests))
        say(json_of(written) if as_json else written.text)


def _swept(found: Sweep, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Tell what goes, ask, remove it, and tell what went."""
    from sdbench.housekeeping_removal import carry_out
    from sdbench.upkeep import agreed

    if not as_json:
        say(found.text)
    asked = (lambda question: typer.confirm(question, err=True)) if sys.stdin.isatty() and not as_json else None
    if agreed(found, yes=yes, dry_run=dry_run, ask=asked):
        known, found = found.left, carry_out(found)
        if not as_json:
            say("\n".join([*found.stayed(known), found.counted]))
    if as_json:
        say(json_of(found))
    if found.failed:
        raise typer.Exit(1)
