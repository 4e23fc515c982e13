"""The commands that read finished trials: what they show, and how sure of it one may be."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from sdbench import cli_options as option
from sdbench.cli_options import Many, Text, answers, given
from sdbench.terminal import json_of, say, tell

part = typer.Typer()


@part.command()
def distill(
    teachers: Annotated[Many, typer.Option(help="finished methods, name or name\\[param=value]")] = None,
    student: Annotated[Text, typer.Option(help="the student's network (default: the teachers')")] = None,
    temperatures: Annotated[Many, typer.Option(help="swept, not selected (1,2,4,8)")] = None,
    alpha: Annotated[Many, typer.Option(help="weight of the teacher, in [0, 1] (0.9)")] = None,
    dataset: option.Datasets = None,
    model: option.Models = None,
    seeds: Annotated[Many, typer.Option("--seeds", "-s", help="of the teachers (default: those all have)")] = None,
    protocol: Annotated[Text, typer.Option(help="of the teachers; the student's as well")] = None,
    teacher_epochs: Annotated[Text, typer.Option(help="which teachers, where the store has several")] = None,
    epochs: Annotated[Text, typer.Option(help="of the student (default: the teachers')")] = None,
    data_dir: option.DataDir = None,
    results: option.Results = None,
    engine: option.EngineName = None,
    device: option.Device = None,
    gpus: option.Gpus = None,
    cpus: option.Cpus = None,
    compile_: option.Compile = None,
    timeout: option.Timeout = None,
    rerun: Annotated[Text, typer.Option(help="none, failed, stale or all")] = None,
    dry_run: option.DryRun = False,
    quiet: option.Quiet = False,
    as_json: option.Json = False,
) -> None:
    """Train a student on each finished teacher, temperatures swept, and table what each teaches.

    --model and --dataset say which teachers; the same command again resumes.
    """
    flags = given(dict(locals()), "dry_run", "quiet", "as_json")
    with answers():
        from sdbench import distill as distillation

        answer, told, code = distillation.run(flags, sys.argv[1:], dry_run=dry_run, quiet=quiet, as_json=as_json)
        tell(answer, told)
    raise typer.Exit(code)


@part.command()
def compare(
    names: Annotated[Many, typer.Argument(help="methods, name\\[param=value], labels of the board, all")] = None,
    reference: Annotated[Text, typer.Option(help="what others are compared with (default: the first name)")] = None,
    metric: Annotated[Text, typer.Option(help="top1 (default), top5, nll, ece, brier or scaled_nll, ...")] = None,
    fail_if: Annotated[Many, typer.Option(help="'top1<-0.3' (points), 'time>1.1'; may be repeated; exit 4")] = None,
    target: Annotated[Text, typer.Option(help="time to this top-1 in per cent, such as 40 (--eval-every runs)")] = None,
    at: Annotated[Text, typer.Option(help="top-1 at this time of training: 300, 5m, 1h")] = None,
    dataset: option.Datasets = None,
    model: option.Models = None,
    protocol: option.OnlyProtocol = None,
    format_: option.Format = None,
    results: option.Results = None,
    as_json: option.Json = False,
) -> None:
    """Differences to a reference, paired by seed, with intervals, tests, cost ratios and verdicts.

    Exit 4 where a condition of --fail-if holds for a method, or cannot be decided; it is on the mean difference.
    """
    with answers():
        from sdbench import boards

        text, code = boards.compare(
            results or "results", names or [], boards.Filter.read(None, dataset, model, protocol),
            reference=reference, metric=metric or "top1", fail_if=fail_if or [], target=target, at=at,
            format_name="json" if as_json else format_ or "text",
        )  # fmt: skip
        say(text, nl=False)
    raise typer.Exit(code)


@part.command()
def validate(
    paths: Annotated[Many, typer.Argument(help="results folders, trials' folders, records", metavar="PATH...")] = None,
    against: Annotated[Text, typer.Option(help="a results folder: none of its trials removed or changed")] = None,
    as_json: option.Json = False,
) -> None:
    """Check records: schema, checksums, ranges, places, duplicates, protocol, seeds, pairing. Exit 4 if invalid."""
    with answers():
        from sdbench import validation

        found = validation.validate(paths or [], against)
        say(json_of(found) if as_json else found.text)
    raise typer.Exit(0 if found.valid else validation.INVALID)


@part.command()
def merge(
    sources: Annotated[Many, typer.Argument(help="results folders to copy from", metavar="SRC...")] = None,
    into: Annotated[Text, typer.Option(help="the results folder to copy to")] = None,
    keep: Annotated[Text, typer.Option(help="newest, oldest or fail: of two finished records of one trial")] = None,
    as_json: option.Json = False,
) -> None:
    """Copy trials and profiles of other results folders into one. Exit 1 where a record is refused."""
    with answers():
        from sdbench import merging

        done = merging.merge(sources or [], into, keep or "newest")
        say(json_of(done) if as_json else done.text)
    raise typer.Exit(1 if done.count("refused") else 0)


@part.command()
def schema(kind: Annotated[str, typer.Argument(help="trial, profile or study")] = "trial") -> None:
    """The JSON Schema of a record, as installed with sdbench."""
    with answers():
        from sdbench import schemas

        say(schemas.text(kind), nl=False)


@part.command()
def report(
    output: Annotated[
        Text, typer.Option("--output", help="an HTML file (default: report.html beside the trials)")
    ] = None,
    methods: option.Methods = None,
    dataset: option.Datasets = None,
    model: option.Models = None,
    protocol: option.OnlyProtocol = None,
    results: option.Results = None,
    as_json: option.Json = False,
) -> None:
    """One HTML file of everything: board, figures, costs, failures, provenance. Opens from disk, without a network."""
    with answers():
        from sdbench.boards import Filter
        from sdbench.report import commands

        chosen = Filter.read(methods, dataset, model, protocol)
        answer, code = commands.report(results or "results", output, chosen, as_json)
        say(answer)
    raise typer.Exit(code)


@part.command()
def plot(
    kind: Annotated[str, typer.Argument(help="pareto, curves, reliability, cost or zipf")],
    output: Annotated[Text, typer.Option("--output", help="an .svg, .pdf or .png file")] = None,
    methods: option.Methods = None,
    dataset: option.Datasets = None,
    model: option.Models = None,
    protocol: option.OnlyProtocol = None,
    results: option.Results = None,
    as_json: option.Json = False,
) -> None:
    """A figure for a paper, one column wide; its caption is printed."""
    with answers():
        from sdbench.boards import Filter
        from sdbench.report import commands

        chosen = Filter.read(methods, dataset, model, protocol)
        answer, code = commands.plot(kind, results or "results", output, chosen, as_json)
        say(answer)
    raise typer.Exit(code)


@part.command()
def analyze(
    trials: Annotated[Many, typer.Argument(help="methods, globs, all, or trials by id or folder (all)")] = None,
    kind: Annotated[str, typer.Option(help="zipf, calibration, geometry or all")] = "all",
    ranks: Annotated[Text, typer.Option(help="zipf: FIRST-LAST (1-32)")] = None,
    over: Annotated[Text, typer.Option(help="zipf: others (than the label) or all classes")] = None,
    classes: Annotated[Text, typer.Option(help="geometry: three, by number or name (0,1,2)")] = None,
    train_images: Annotated[Text, typer.Option(help="geometry: at most so many; 0 all (10000)")] = None,
    output: Annotated[Text, typer.Option("--output", help="a picture: F.svg, F.pdf or F.png")] = None,
    dataset: option.Datasets = None,
    model: option.Models = None,
    seeds: Annotated[Many, typer.Option("--seeds", "-s", help="3, 0,7,11 or 0-4")] = None,
    data_dir: option.DataDir = None,
    device: Annotated[Text, typer.Option(help="geometry: auto, cpu or cuda")] = None,
    results: option.Results = None,
    as_json: option.Json = False,
) -> None:
    """The papers' questions: do outputs follow Zipf's law, are they calibrated, how tight are the classes?

    Reads the logits and weights that finished trials keep. Trains nothing.
    """
    with answers():
        from sdbench.analysis import questions
        from sdbench.analysis.trials import Choice

        asked = questions.read_asked(kind, ranks, over, classes, train_images, data_dir, device, output)
        choice = Choice(trials or (), dataset or (), model or (), seeds or ())
        answer, told, code = questions.analyze(results or "results", choice, asked, as_json=as_json)
        tell(answer, told)
    raise typer.Exit(code)
