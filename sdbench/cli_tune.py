"""The command that searches for values before it trains: ``tune``."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from sdbench import cli_options as option
from sdbench.cli_options import Many, Text, answers, given
from sdbench.terminal import tell

part = typer.Typer()


@part.command()
def tune(
    methods: option.Methods = None,
    trials: Annotated[Text, typer.Option(help="search trials of every method, ce included (16)")] = None,
    search: Annotated[Text, typer.Option(help="random (default) or optuna")] = None,
    scheduler: Annotated[Text, typer.Option(help="none (default), or asha: stop search trials early")] = None,
    search_seed: Annotated[Text, typer.Option(help="of what is drawn, and of the search trials (0)")] = None,
    dataset: option.Datasets = None,
    model: option.Models = None,
    seeds: Annotated[Many, typer.Option("--seeds", "-s", help="with the chosen values: 3, 0,7,11 or 0-4 (0-2)")] = None,
    num_seeds: option.NumSeeds = None,
    epochs: Annotated[Text, typer.Option(help="of every trial, instead of the protocol's")] = None,
    batch_size: option.BatchSize = None,
    augment: option.Augment = None,
    precision: option.Precision = None,
    threads: option.Threads = None,
    image_size: option.ImageSize = None,
    data_dir: option.DataDir = None,
    plugin: option.Plugins = None,
    results: option.Results = None,
    engine: Annotated[Text, typer.Option(help="auto, ray or local; asha and optuna need ray")] = None,
    device: option.Device = None,
    gpus: option.Gpus = None,
    per_gpu: option.PerGpu = None,
    cpus: option.Cpus = None,
    cpus_per_trial: option.CpusPerTrial = None,
    address: option.Address = None,
    timeout: option.Timeout = None,
    max_failures: option.MaxFailures = None,
    workers: Annotated[Text, typer.Option(help="decoding processes of a streamed data set")] = None,
    compile_: option.Compile = None,
    rerun: Annotated[Text, typer.Option(help="none, failed (search trials too) or all (but search trials)")] = None,
    dry_run: option.DryRun = False,
    quiet: option.Quiet = False,
    as_json: option.Json = False,
) -> None:
    """Search learning rate, weight decay and each method's own values; train with the best on fresh seeds.

    The same number of search trials for every method, chosen on held-out training images. The same command resumes.
    """
    flags = given(dict(locals()), "dry_run", "quiet", "as_json")
    with answers():
        from sdbench import tuning_run

        answer, told, code = tuning_run.run(flags, sys.argv[1:], dry_run=dry_run, quiet=quiet, as_json=as_json)
        tell(answer, told)
    raise typer.Exit(code)
