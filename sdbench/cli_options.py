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
        if error.errno not in OF_THE_MACHINE:
            raise
        where = f" {error.filename}" if error.filename else ""
        typer.echo(f"error: cannot write{where}: {error.strerror}; make room or give another folder", err=True)
        raise typer.Exit(3) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def show_answer(answer: Callable[[], str]) -> None:
    """Print what a function returns, or its errors."""
    with answers():
        say(answer())


def given(values: dict[str, Any], *others: str) -> dict[str, Any]:
    """What was typed, under the names of a request's fields."""
    return {key.rstrip("_"): value for key, value in values.items() if value not in (None, []) and key not in others}
