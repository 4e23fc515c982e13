"""What commands have in common: options that several take, errors as messages and exit codes."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from sdbench.terminal import say

Many = Optional[list[str]]  # noqa: UP045  typer reads this form on every supported version
Text = Optional[str]  # noqa: UP045

Methods = Annotated[Many, typer.Option("--methods", "-m", help="names, globs, all, ^name, name\\[param=value]")]
Datasets = Annotated[Many, typer.Option("--dataset", "--datasets", "-d", help="see: sdbench list datasets")]
Models = Annotated[Many, typer.Option("--model", "--models", "-M", help="see: sdbench list models")]
Results = Annotated[Text, typer.Option("--results", "-o", help="results folder (default: results)")]
Plugins = Annotated[Many, typer.Option("--plugin", help="a Python file that registers methods; may be repeated")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="no progress")]
Json = Annotated[bool, typer.Option("--json", help="print JSON on stdout")]
OnlyProtocol = Annotated[Text, typer.Option(help="only this protocol")]
BatchSize = Annotated[Text, typer.Option("--batch-size", "-b", help="labelled images per step")]
Augment = Annotated[Text, typer.Option(help="basic, cutout or trivialaugment: beyond crops and flips")]
Precision = Annotated[Text, typer.Option(help="bf16 (autocast) or fp32")]
Threads = Annotated[Text, typer.Option(help="CPU threads per trial")]
ImageSize = Annotated[Text, typer.Option(help="side in pixels, where the data set offers more than one")]
DataDir = Annotated[Text, typer.Option(help="where the data lie (or SDBENCH_DATA)")]
EngineName = Annotated[Text, typer.Option(help="auto, ray or local")]
Device = Annotated[Text, typer.Option(help="auto, cpu or cuda")]
Gpus = Annotated[Text, typer.Option(help="GPUs to use: all or a number")]
PerGpu = Annotated[Text, typer.Option(help="trials per GPU at once; above 1 timings do not count")]
Cpus = Annotated[Text, typer.Option(help="CPUs to use")]
CpusPerTrial = Annotated[Text, typer.Option(help="CPUs that a trial occupies")]
Address = Annotated[Text, typer.Option(help="an existing Ray cluster")]
Timeout = Annotated[Text, typer.Option(help="limit per trial: 90, 15m, 6h")]
MaxFailures = Annotated[Text, typer.Option(help="restarts of a trial whose process dies")]
Compile = Annotated[Text, typer.Option("--compile", help="auto, off or graph (GPU): how steps run")]
NumSeeds = Annotated[Text, typer.Option(help="seeds 0 to N-1")]
Format = Annotated[Text, typer.Option("--format", "-f", help="text, md or json")]
DryRun = Annotated[bool, typer.Option("--dry-run", "-n", help="say what would run, and stop")]
TrialIds = Annotated[Many, typer.Argument(help="ids, or beginnings of four digits and more (all)")]


OF_THE_MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)


def open_streams() -> None:
    """Where the caller closed standard input, output or error, put /dev/null: no other file may get their numbers."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, this one
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("r" if number == 0 else "w"))  # noqa: SIM115  as long as Python


def _drop_output() -> None:
    """For what Python still flushes when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


@contextmanager
def unread() -> Iterator[None]:
    """Printing that may go unread, as by ``| head -1``, without a word; what comes after it is still done."""
    try:
        yield
    except BrokenPipeError:
        _drop_output()


@contextmanager
def answers() -> Iterator[None]:
    """Turn errors for people into messages and exit codes. An answer that nobody reads to its end is all right."""
    from sdbench.errors import EnvironmentProblem, UserError

    try:
        yield
    except UserError as error:
        for problem in error.problems:
            say(f"error: {problem}", err=True)
        raise typer.Exit(3 if isinstance(error, EnvironmentProblem) else 2) from None
    except BrokenPipeError:
        _drop_output()
        raise typer.Exit(0) from None
    except OSError as error:
        say(f"error: {_trouble(error)}", err=True)
        raise typer.Exit(3) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def _trouble(error: OSError) -> str:
    """What the machine did not let a command do, and what to type next. Paths as they were typed are judged before."""
    why = error.strerror or str(error) or type(error).__name__
    where = f"{error.filename}: " if error.filename else ""
    if error.errno in OF_THE_MACHINE:
        return f"cannot write{' ' * bool(where)}{where or ': '}{why}; make room or give another folder"
    if isinstance(error, PermissionError):
        return f"{where}{why}; mend its rights, or give another path"
    return f"{where}{why}; look at what is there, or give another path"


def show_answer(answer: Callable[[], str]) -> None:
    """Print what a function returns, or its errors."""
    with answers():
        say(answer())


def given(values: dict[str, Any], *others: str) -> dict[str, Any]:
    """What was typed, under the names of a request's fields."""
    return {key.rstrip("_"): value for key, value in values.items() if value not in (None, []) and key not in others}
