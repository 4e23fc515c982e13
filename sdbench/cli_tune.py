"""The command that searches for values before it trains: ``tune``."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from sdbench.cli_options import Datasets, Json, Many, Methods, Models, Plugins, Quiet, Results, Text, answers, given

part = typer.Typer()


@part.command()
def tune(
    methods: Methods = None,
    trials: Annotated[Text, typer.Option(help="search trials of every method, ce included (16)")] = None,
    search: Annotated[Text, typer.Option(help="random (default) or optuna")] = None,
    scheduler: Annotated[Text, typer.Option(help="none (default), or asha: stop search trials early")] = None,
    search_seed: Annotated[Text, typer.Option(help="of what is drawn, and of the search trials (0)")] = None,
    dataset: Datasets = None,
    model: Models = None,
    seeds: Annotated[Many, typer.Option("--seeds", "-s", help="with the chosen values: 3, 0,7,11 or 0-4 (0-2)")] = None,
    num_seeds: Annotated[Text, typer.Option(help="seeds 0 to N-1")] = None,
    epochs: Annotated[Text, typer.Option(help="of every trial, instead of the protocol's")] = None,
    batch_size: Annotated[Text, typer.Option("--batch-size", "-b", help="labelled images per step")] = None,
    augment: Annotated[Text, typer.Option(help="basic, cutout or trivialaugment: beyond crops and flips")] = None,
    precision: Annotated[Text, typer.Option(help="bf16 (autocast) or fp32")] = None,
    threads: Annotated[Text, typer.Option(help="CPU threads per trial")] = None,
    image_size: Annotated[Text, typer.Option(help="side in pixels, where the data set offers more than one")] = None,
    data_dir: Annotated[Text, typer.Option(help="where the data lie (or SDBENCH_DATA)")] = None,
    plugin: Plugins = None,
    results: Results = None,
    engine: Annotated[Text, typer.Option(help="auto, ray or local; asha and optuna need ray")] = None,
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
    rerun: Annotated[Text, typer.Option(help="none, failed or all, of the trials with the chosen values")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="say what would run, and stop")] = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Search learning rate, weight decay and each method's own values; train with the best on fresh seeds.

    The same number of search trials for every method, chosen on held-out training images. The same command resumes.
    """
    flags = given(dict(locals()), "dry_run", "quiet", "as_json")
    with answers():
        from sdbench import tuning_run

        answer, told, code = tuning_run.run(flags, sys.argv[1:], dry_run=dry_run, quiet=quiet, as_json=as_json)
        if answer:
            typer.echo(answer)
        for line in told:
            typer.echo(line, err=True)
    raise typer.Exit(code)
