"""The command line: parse, call, print. Nothing heavy is imported before a command needs it.

stdout carries the answer, stderr progress and messages. Exit codes: 0 all ok, 1 some trials or
checks failed or a record is damaged, 2 bad input, 3 the machine lacks something, 4 records are
invalid or a condition of --fail-if holds, 130 / 143 interrupted by Ctrl-C / SIGTERM after everything was kept.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer

from sdbench import cli_care, cli_cost, cli_evidence, cli_tune
from sdbench import cli_options as option
from sdbench.cli_options import Many, Text, answers, given, open_streams, show_answer
from sdbench.terminal import say

app = typer.Typer(
    name="sdbench",
    help="Compare self-distillation and label-softening methods: faithful methods, paired seeds, honest cost.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)

NOT_IN_FILES = ("config", "dry_run", "show_config", "progress", "verbose", "color", "quiet", "as_json")
"""Options of ``run`` that are no part of a configuration: what is asked for now, and how it is shown."""

ISO_COST = "also ce for as many epochs as each method costs by its profile: what longer training alone would give"
SCALING = "hold out a tenth of the training images for every method; NLL, ECE before and after scaling by them"


def _version(wanted: bool) -> None:
    if wanted:
        from sdbench.doctor import version_line

        say(version_line())
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", "-V", help="versions on one line", callback=_version, is_eager=True)
    ] = False,
) -> None:
    pass


@app.command()
def run(
    methods: option.Methods = None,
    dataset: option.Datasets = None,
    model: option.Models = None,
    seeds: Annotated[Many, typer.Option("--seeds", "-s", help="3, 0,7,11 or 0-4")] = None,
    num_seeds: option.NumSeeds = None,
    protocol: Annotated[Text, typer.Option(help="fixed, holdout or demo; see: sdbench list protocols")] = None,
    epochs: Annotated[Text, typer.Option(help="instead of the protocol's")] = None,
    limit_steps: Annotated[Text, typer.Option(help="smoke test: one epoch (--epochs) of N steps, never ranked")] = None,
    batch_size: option.BatchSize = None,
    lr: Annotated[Text, typer.Option(help="peak learning rate")] = None,
    weight_decay: Annotated[Text, typer.Option(help="on every parameter")] = None,
    augment: option.Augment = None,
    precision: option.Precision = None,
    threads: option.Threads = None,
    image_size: option.ImageSize = None,
    data_dir: option.DataDir = None,
    plugin: option.Plugins = None,
    results: option.Results = None,
    engine: option.EngineName = None,
    device: option.Device = None,
    gpus: option.Gpus = None,
    per_gpu: option.PerGpu = None,
    gpus_per_trial: Annotated[Text, typer.Option(help="GPUs, or processes, that share each batch of a trial")] = None,
    cpus: option.Cpus = None,
    cpus_per_trial: option.CpusPerTrial = None,
    jobs: Annotated[Text, typer.Option("--jobs", "-j", help="trials at once, at most")] = None,
    address: option.Address = None,
    timeout: option.Timeout = None,
    budget: Annotated[Text, typer.Option(help="limit of all trials together: 6h, 40gpu-h, 30cpu-h")] = None,
    max_failures: option.MaxFailures = None,
    workers: Annotated[Text, typer.Option(help="processes that decode images; default: spare CPUs")] = None,
    state: Annotated[Text, typer.Option(help="memories of every image: auto, memory or disk")] = None,
    compile_: option.Compile = None,
    eval_every: Annotated[Text, typer.Option(help="log test accuracy every N epochs; 0 never")] = None,
    keep_logits: Annotated[Text, typer.Option(help="every:N: test-set logits every N epochs too")] = None,
    rerun: Annotated[Text, typer.Option(help="none, failed, stale (only these) or all")] = None,
    baseline: Annotated[bool, typer.Option("--baseline/--no-baseline", help="always add ce")] = True,
    iso_cost: Annotated[bool, typer.Option("--iso-cost", help=ISO_COST)] = False,
    keep_checkpoints: Annotated[bool, typer.Option("--keep-checkpoints", help="after the trial is done")] = False,
    temperature_scaling: Annotated[bool, typer.Option("--temperature-scaling", help=SCALING)] = False,
    weights: Annotated[bool, typer.Option("--weights/--no-weights", help="keep final weights")] = True,
    logits: Annotated[bool, typer.Option("--logits/--no-logits", help="keep test-set logits")] = True,
    config: Annotated[Text, typer.Option("--config", "-C", help="TOML file with these options as keys")] = None,
    dry_run: option.DryRun = False,
    show_config: Annotated[bool, typer.Option("--show-config", help="every value and its origin, and stop")] = False,
    progress: Annotated[str, typer.Option(help="auto, rich (live table), plain (lines) or none")] = "auto",
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="a line for every epoch")] = False,
    color: Annotated[bool, typer.Option("--color/--no-color", help="in the live table; also NO_COLOR")] = True,
    quiet: option.Quiet = False,
    as_json: option.Json = False,
) -> None:
    """Train what is missing and print the leaderboard. The same command again resumes.

    Without arguments: the six core methods on the embedded data set glyphs, two seeds.
    """
    flags = given(dict(locals()), *NOT_IN_FILES)
    _switches(flags, True, "baseline", "weights", "logits")
    _switches(flags, False, "iso_cost", "keep_checkpoints", "temperature_scaling")
    with answers():
        from sdbench import commands
        from sdbench.progress import Shown

        code = commands.run(
            flags, config, sys.argv[1:], dry_run=dry_run, show_config=show_config, quiet=quiet,
            shown=Shown(progress, verbose, color), as_json=as_json,
        )  # fmt: skip
    raise typer.Exit(code)


def _switches(flags: dict[str, Any], default: bool, *names: str) -> None:
    """A switch left at its default does not override a configuration file."""
    for name in names:
        flags[name] = None if flags[name] is default else str(flags[name]).lower()


@app.command("list")
def list_(
    kind: Annotated[str, typer.Argument(help="methods, datasets, models, protocols, metrics or runs")] = "methods",
    plugin: option.Plugins = None,
    results: option.Results = None,
    as_json: option.Json = False,
) -> None:
    """What there is: methods, datasets, models, protocols, metrics, runs."""
    show_answer(lambda: _catalog().listing(kind, plugin or [], results or "results", as_json))


@app.command()
def describe(
    name: Annotated[str, typer.Argument(help="a method, data set, network or protocol")],
    plugin: option.Plugins = None,
    as_json: option.Json = False,
) -> None:
    """The card of a method: formula, hyper-parameters with ranges, source, needs, deviations."""
    show_answer(lambda: _catalog().card(name, plugin or [], as_json))


def _catalog() -> Any:
    from sdbench import catalog

    return catalog


@app.command()
def leaderboard(
    methods: option.Methods = None,
    dataset: option.Datasets = None,
    model: option.Models = None,
    protocol: option.OnlyProtocol = None,
    format_: Annotated[Text, typer.Option("--format", "-f", help="text, md, csv, latex, html or json")] = None,
    published: Annotated[bool, typer.Option("--published", help="what papers print beside it, never ranked")] = False,
    results: option.Results = None,
    as_json: option.Json = False,
) -> None:
    """Print the board of all finished trials and write it under the results folder in all formats."""
    with answers():
        from sdbench import boards

        wanted = "json" if as_json else format_ or "text"
        chosen = boards.Filter.read(methods, dataset, model, protocol)
        text, code = boards.leaderboard(results or "results", wanted, chosen, published=published)
        say(text, nl=not text.endswith("\n"))
    raise typer.Exit(code)


@app.command()
def check(
    names: Annotated[Many, typer.Argument(help="methods, or all; without any, those of --plugin")] = None,
    plugin: option.Plugins = None,
    as_json: option.Json = False,
) -> None:
    """Check that a method keeps the contract: about twenty seconds each, on the CPU."""
    with answers():
        from sdbench import commands

        code = commands.check(names or [], plugin or [], as_json)
    raise typer.Exit(code)


@app.command()
def doctor(
    results: option.Results = None,
    data_dir: option.DataDir = None,
    as_json: option.Json = False,
) -> None:
    """What this machine has, one line per fact with ok, warn or FAIL and the remedy."""
    with answers():
        from sdbench import doctor as examination

        facts = examination.examine(results or "results", data_dir)
        say(examination.render(facts, as_json))
    raise typer.Exit(3 if any(fact.level == "FAIL" for fact in facts) else 0)


@app.command()
def show(
    trial: Annotated[str, typer.Argument(help="a trial's id, or the beginning of one, or its folder")],
    results: option.Results = None,
    as_json: option.Json = False,
) -> None:
    """One trial: what it was, how it went, what it cost, why it failed."""
    with answers():
        from sdbench import showing

        say(showing.show(results or "results", trial, as_json))


app.command("plan")(cli_care.planning(run))
for _part in (cli_care.part, cli_cost.part, cli_evidence.part, cli_tune.part):
    app.registered_commands += _part.registered_commands


def main() -> None:
    """Entry point of the command ``sdbench``."""
    open_streams()
    command = typer.main.get_command(app)
    if "_SDBENCH_COMPLETE" in os.environ:
        from sdbench import completion

        completion.attach(command.commands)  # type: ignore[attr-defined]
    command()
