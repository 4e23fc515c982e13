"""What commands have in common: options that several take, errors as messages and exit codes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
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


@contextmanager
def answers() -> Iterator[None]:
    """Turn errors for people into messages and exit codes."""
    from sdbench.errors import EnvironmentProblem, UserError

    try:
        yield
    except UserError as error:
        for problem in error.problems:
            say(f"error: {problem}", err=True)
        raise typer.Exit(3 if isinstance(error, EnvironmentProblem) else 2) from None
    except BrokenPipeError:
        raise typer.Exit(0) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def show_answer(answer: Callable[[], str]) -> None:
    """Print what a function returns, or its errors."""
    with answers():
        say(answer())


def given(values: dict[str, Any], *others: str) -> dict[str, Any]:
    """What was typed, under the names of a request's fields."""
    return {key.rstrip("_"): value for key, value in values.items() if value not in (None, []) and key not in others}
