"""The command line: parse, call, print. Nothing heavy is imported before a command needs it.

stdout carries the answer, stderr progress and messages. Exit codes: 0 all ok, 1 some trials or
checks failed or a record is damaged, 2 bad input, 3 the machine lacks something, 130 / 143
interrupted by Ctrl-C / SIGTERM after everything was kept.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Optional

import typer

app = typer.Typer(
    name="sdbench",
    help="Compare self-distillation and label-softening methods: faithful methods, paired seeds, honest cost.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)

Many = Optional[list[str]]  # noqa: UP045  typer reads this form on every supported version
Text = Optional[str]  # noqa: UP045

Methods = Annotated[Many, typer.Option("--methods", "-m", help="names, globs, all, ^name, name\\[param=value]")]
Datasets = Annotated[Many, typer.Option("--dataset", "--datasets", "-d", help="see: sdbench list datasets")]
Models = Annotated[Many, typer.Option("--model", "--models", "-M", help="see: sdbench list models")]
Results = Annotated[Text, typer.Option("--results", "-o", help="results folder (default: results)")]
Plugins = Annotated[Many, typer.Option("--plugin", help="a Python file that registers methods; may be repeated")]
SCALING = "hold out a tenth of the training images for every method; NLL, ECE before and after scaling by them"
Json = Annotated[bool, typer.Option("--json", help="print JSON on stdout")]


@contextmanager
def _answers() -> Iterator[None]:
    """Turn errors for people into messages and exit codes."""
    from sdbench.errors import EnvironmentProblem, UserError

    try:
        yield
    except UserError as error:
        for problem in error.problems:
            typer.echo(f"error: {problem}", err=True)
        raise typer.Exit(3 if isinstance(error, EnvironmentProblem) else 2) from None
    except BrokenPipeError:
        raise typer.Exit(0) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def _version(wanted: bool) -> None:
    if wanted:
        from sdbench.doctor import version_line

        typer.echo(version_line())
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
    methods: Methods = None,
    dataset: Datasets = None,
    model: Models = None,
    seeds: Annotated[Many, typer.Option("--seeds", "-s", help="3, 0,7,11 or 0-4")] = None,
    num_seeds: Annotated[Text, typer.Option(help="seeds 0 to N-1")] = None,
    protocol: Annotated[Text, typer.Option(help="fixed, holdout or demo; see: sdbench list protocols")] = None,
    epochs: Annotated[Text, typer.Option(help="instead of the protocol's")] = None,
    batch_size: Annotated[Text, typer.Option("--batch-size", "-b", help="labelled images per step")] = None,
    lr: Annotated[Text, typer.Option(help="peak learning rate")] = None,
    weight_decay: Annotated[Text, typer.Option(help="on every parameter")] = None,
    precision: Annotated[Text, typer.Option(help="bf16 (autocast) or fp32")] = None,
    threads: Annotated[Text, typer.Option(help="CPU threads per trial")] = None,
    image_size: Annotated[Text, typer.Option(help="side in pixels, where the data set offers more than one")] = None,
    data_dir: Annotated[Text, typer.Option(help="where the data lie (or SDBENCH_DATA)")] = None,
    plugin: Plugins = None,
    results: Results = None,
    engine: Annotated[Text, typer.Option(help="auto, ray or local")] = None,
    device: Annotated[Text, typer.Option(help="auto, cpu or cuda")] = None,
    gpus: Annotated[Text, typer.Option(help="GPUs to use: all or a number")] = None,
    per_gpu: Annotated[Text, typer.Option(help="trials per GPU at once; above 1 timings do not count")] = None,
    cpus: Annotated[Text, typer.Option(help="CPUs to use")] = None,
    cpus_per_trial: Annotated[Text, typer.Option(help="CPUs that a trial occupies")] = None,
    address: Annotated[Text, typer.Option(help="an existing Ray cluster")] = None,
    timeout: Annotated[Text, typer.Option(help="limit per trial: 90, 15m, 6h")] = None,
    max_failures: Annotated[Text, typer.Option(help="restarts of a trial whose process dies")] = None,
    workers: Annotated[Text, typer.Option(help="decoding processes of a streamed data set")] = None,
    compile_: Annotated[Text, typer.Option("--compile", help="auto, off or graph (GPU): how steps run")] = None,
    eval_every: Annotated[Text, typer.Option(help="log test accuracy every N epochs; 0 never")] = None,
    rerun: Annotated[Text, typer.Option(help="none, failed or all")] = None,
    baseline: Annotated[bool, typer.Option("--baseline/--no-baseline", help="always add ce")] = True,
    keep_checkpoints: Annotated[bool, typer.Option("--keep-checkpoints", help="after the trial is done")] = False,
    temperature_scaling: Annotated[bool, typer.Option("--temperature-scaling", help=SCALING)] = False,
    weights: Annotated[bool, typer.Option("--weights/--no-weights", help="keep final weights")] = True,
    logits: Annotated[bool, typer.Option("--logits/--no-logits", help="keep test-set logits")] = True,
    config: Annotated[Text, typer.Option("--config", "-C", help="TOML file with these options as keys")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="say what would run, and stop")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="no progress")] = False,
    as_json: Json = False,
) -> None:
    """Train what is missing and print the leaderboard. The same command again resumes.

    Without arguments: the six core methods on the embedded data set glyphs, two seeds.
    """
    flags = _given(dict(locals()), "config", "dry_run", "quiet", "as_json")
    _switches(flags, True, "baseline", "weights", "logits")
    _switches(flags, False, "keep_checkpoints", "temperature_scaling")
    with _answers():
        from sdbench import commands

        code = commands.run(flags, config, sys.argv[1:], dry_run=dry_run, quiet=quiet, as_json=as_json)
    raise typer.Exit(code)


def _switches(flags: dict[str, Any], default: bool, *names: str) -> None:
    """A switch left at its default does not override a configuration file."""
    for name in names:
        flags[name] = None if flags[name] is default else str(flags[name]).lower()


@app.command("list")
def list_(
    kind: Annotated[str, typer.Argument(help="methods, datasets, models, protocols, metrics or runs")] = "methods",
    plugin: Plugins = None,
    results: Results = None,
    as_json: Json = False,
) -> None:
    """What there is: methods, datasets, models, protocols, metrics, runs."""
    _print(lambda: _catalog().listing(kind, plugin or [], results or "results", as_json))


@app.command()
def describe(
    name: Annotated[str, typer.Argument(help="a method, data set, network or protocol")],
    plugin: Plugins = None,
    as_json: Json = False,
) -> None:
    """The card of a method: formula, hyper-parameters with ranges, source, needs, deviations."""
    _print(lambda: _catalog().card(name, plugin or [], as_json))


def _catalog() -> Any:
    from sdbench import catalog

    return catalog


def _print(answer: Callable[[], str]) -> None:
    with _answers():
        typer.echo(answer())


@app.command()
def leaderboard(
    methods: Methods = None,
    dataset: Datasets = None,
    model: Models = None,
    protocol: Annotated[Text, typer.Option(help="only this protocol")] = None,
    format_: Annotated[Text, typer.Option("--format", "-f", help="text, md, csv, latex, html or json")] = None,
    results: Results = None,
    as_json: Json = False,
) -> None:
    """Print the board of all finished trials and write it under the results folder in all formats."""
    with _answers():
        from sdbench import boards

        wanted = "json" if as_json else format_ or "text"
        chosen = boards.Filter.read(methods, dataset, model, protocol)
        text, code = boards.leaderboard(results or "results", wanted, chosen)
        typer.echo(text, nl=not text.endswith("\n"))
    raise typer.Exit(code)


@app.command()
def profile(
    methods: Methods = None,
    dataset: Annotated[Text, typer.Option("--dataset", "-d", help="real images instead of noise")] = None,
    model: Annotated[Text, typer.Option("--model", "-M", help="a network (default: resnet20)")] = None,
    classes: Annotated[Text, typer.Option(help="number of classes (default: 100)")] = None,
    image_size: Annotated[Text, typer.Option(help="side in pixels (default: 32)")] = None,
    batch_size: Annotated[Text, typer.Option("--batch-size", "-b", help="labelled images per step (128)")] = None,
    precision: Annotated[Text, typer.Option(help="bf16 (autocast) or fp32")] = None,
    compile_: Annotated[Text, typer.Option("--compile", help="auto, off, graph (GPU) or inductor")] = None,
    rounds: Annotated[Text, typer.Option(help="least number of rounds (60); more until intervals are narrow")] = None,
    margin: Annotated[Text, typer.Option(help="ratios within 1 +- this are equal (0.03)")] = None,
    max_seconds: Annotated[Text, typer.Option(help="limit of a group's rounds: 480, 8m; 300 with several")] = None,
    memory: Annotated[bool, typer.Option("--memory/--no-memory", help="measure peak memory")] = True,
    sweep: Annotated[Text, typer.Option(help="classes=100,1000,10000 or batch-size=... or model=...")] = None,
    device: Annotated[Text, typer.Option(help="auto, cpu or cuda")] = None,
    data_dir: Annotated[Text, typer.Option(help="where the data lie (or SDBENCH_DATA)")] = None,
    plugin: Plugins = None,
    results: Results = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="no progress")] = False,
    as_json: Json = False,
) -> None:
    """What a training step costs, method beside ce in one process: time, memory, passes, FLOPs.

    Without arguments: the six core methods on a ResNet-20, in at most ten minutes. No data are needed.
    """
    given = _given(dict(locals()), "quiet", "as_json")
    with _answers():
        from sdbench.cost import commands
        from sdbench.cost.request import ProfileRequest

        request = ProfileRequest.model_validate(given)
        answer, code = commands.run_profile(request, sys.argv[1:], quiet=quiet, as_json=as_json)
        typer.echo(answer)
    raise typer.Exit(code)


@app.command()
def claims(
    methods: Methods = None,
    model: Annotated[Text, typer.Option("--model", "-M", help="a network (default: resnet20)")] = None,
    classes: Annotated[Text, typer.Option(help="number of classes (default: 100)")] = None,
    max_seconds: Annotated[Text, typer.Option(help="limit of measuring what no profile has yet: 480, 8m")] = None,
    measure: Annotated[bool, typer.Option("--measure/--no-measure", help="profile what is missing")] = True,
    device: Annotated[Text, typer.Option(help="auto, cpu or cuda")] = None,
    format_: Annotated[Text, typer.Option("--format", "-f", help="text, md or json")] = None,
    plugin: Plugins = None,
    results: Results = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="no progress")] = False,
    as_json: Json = False,
) -> None:
    """What papers claim about cost beside what was measured, with a verdict for each entry."""
    given = _given(dict(locals()), "quiet", "as_json", "format_", "measure")
    with _answers():
        from sdbench.cost import commands
        from sdbench.cost.request import ProfileRequest

        request, wanted = ProfileRequest.model_validate(given), "json" if as_json else format_ or "text"
        answer, code = commands.run_claims(request, sys.argv[1:], wanted, measure=measure, quiet=quiet)
        typer.echo(answer, nl=not answer.endswith("\n"))
    raise typer.Exit(code)


def _given(values: dict[str, Any], *others: str) -> dict[str, Any]:
    """What was typed, under the names of a request's fields."""
    return {key.rstrip("_"): value for key, value in values.items() if value not in (None, []) and key not in others}


@app.command()
def check(
    names: Annotated[Many, typer.Argument(help="methods, or all; without any, those of --plugin")] = None,
    plugin: Plugins = None,
    as_json: Json = False,
) -> None:
    """Check that a method keeps the contract: about twenty seconds each, on the CPU."""
    with _answers():
        from sdbench import commands

        code = commands.check(names or [], plugin or [], as_json)
    raise typer.Exit(code)


@app.command()
def doctor(
    results: Results = None,
    data_dir: Annotated[Text, typer.Option(help="where the data lie (or SDBENCH_DATA)")] = None,
    as_json: Json = False,
) -> None:
    """What this machine has, one line per fact with ok, warn or FAIL and the remedy."""
    with _answers():
        from sdbench import doctor as examination

        facts = examination.examine(results or "results", data_dir)
        typer.echo(examination.render(facts, as_json))
    raise typer.Exit(3 if any(fact.level == "FAIL" for fact in facts) else 0)


@app.command()
def show(
    trial: Annotated[str, typer.Argument(help="a trial's id, or the beginning of one, or its folder")],
    results: Results = None,
    as_json: Json = False,
) -> None:
    """One trial: what it was, how it went, what it cost, why it failed."""
    with _answers():
        from sdbench import boards

        text = boards.show(results or "results", trial, as_json)
        typer.echo(text)


def main() -> None:
    """Entry point of the command ``sdbench``."""
    app()
