"""The commands that measure and judge cost: ``profile`` and ``claims``."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from sdbench import cli_options as option
from sdbench.cli_options import Text, answers, given
from sdbench.terminal import say

part = typer.Typer()


@part.command()
def profile(
    methods: option.Methods = None,
    dataset: Annotated[Text, typer.Option("--dataset", "-d", help="real images instead of noise")] = None,
    model: Annotated[Text, typer.Option("--model", "-M", help="a network (default: resnet20)")] = None,
    classes: Annotated[Text, typer.Option(help="number of classes (default: 100)")] = None,
    image_size: Annotated[Text, typer.Option(help="side in pixels (default: 32)")] = None,
    batch_size: Annotated[Text, typer.Option("--batch-size", "-b", help="labelled images per step (128)")] = None,
    precision: option.Precision = None,
    compile_: Annotated[Text, typer.Option("--compile", help="auto, off, graph (GPU) or inductor")] = None,
    rounds: Annotated[Text, typer.Option(help="least number of rounds (60); more until intervals are narrow")] = None,
    margin: Annotated[Text, typer.Option(help="ratios within 1 +- this are equal (0.03)")] = None,
    max_seconds: Annotated[Text, typer.Option(help="limit of a group's rounds: 480, 8m; 300 with several")] = None,
    memory: Annotated[bool, typer.Option("--memory/--no-memory", help="measure peak memory")] = True,
    sweep: Annotated[Text, typer.Option(help="classes=100,1000,10000 or batch-size=... or model=...")] = None,
    device: option.Device = None,
    data_dir: option.DataDir = None,
    plugin: option.Plugins = None,
    results: option.Results = None,
    quiet: option.Quiet = False,
    as_json: option.Json = False,
) -> None:
    """What a training step costs, method beside ce in one process: time, memory, passes, FLOPs.

    Without arguments: the six core methods on a ResNet-20, in at most ten minutes. No data are needed.
    """
    typed = given(dict(locals()), "quiet", "as_json")
    with answers():
        from sdbench.cost import commands
        from sdbench.cost.request import ProfileRequest

        request = ProfileRequest.model_validate(typed)
        answer, code = commands.run_profile(request, sys.argv[1:], quiet=quiet, as_json=as_json)
        say(answer)
    raise typer.Exit(code)


@part.command()
def claims(
    methods: option.Methods = None,
    model: Annotated[Text, typer.Option("--model", "-M", help="a network (default: resnet20)")] = None,
    classes: Annotated[Text, typer.Option(help="number of classes (default: 100)")] = None,
    max_seconds: Annotated[Text, typer.Option(help="limit of measuring what no profile has yet: 480, 8m")] = None,
    measure: Annotated[bool, typer.Option("--measure/--no-measure", help="profile what is missing")] = True,
    device: option.Device = None,
    format_: option.Format = None,
    plugin: option.Plugins = None,
    results: option.Results = None,
    quiet: option.Quiet = False,
    as_json: option.Json = False,
) -> None:
    """What papers claim about cost beside what was measured, with a verdict for each entry."""
    typed = given(dict(locals()), "quiet", "as_json", "format_", "measure")
    with answers():
        from sdbench.cost import commands
        from sdbench.cost.request import ProfileRequest

        request, wanted = ProfileRequest.model_validate(typed), "json" if as_json else format_ or "text"
        answer, code = commands.run_claims(request, sys.argv[1:], wanted, measure=measure, quiet=quiet)
        say(answer, nl=not answer.endswith("\n"))
    raise typer.Exit(code)
