"""The commands around a run: before it ``plan``, ``prepare``; after it ``gc``, ``rm``, ``rescore``, ``export``."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from typing import Annotated

import typer

from sdbench.cli_options import Json, Many, Text, answers
from sdbench.terminal import say

part = typer.Typer()

LEFT_OUT = {"dry_run", "quiet"}
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
    data_dir: Annotated[Text, typer.Option(help="where the data lie (or SDBENCH_DATA)")] = None,
    image_size: Annotated[Text, typer.Option(help="side in pixels, where the data set offers more than one")] = None,
    as_json: Json = False,
) -> None:
    """Download, verify and decode data sets, so that a run needs no network. Again: only looks."""
    with answers():
        from sdbench import preparation

        ready = preparation.prepare(datasets or [], data_dir, image_size)
        if as_json:
            say(json.dumps([each.model_dump() for each in ready], indent=1))
        else:
            say("\n".join(each.text for each in ready))
