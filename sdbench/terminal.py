"""Text on its way to a terminal, which obeys what it is sent: nothing but printable characters gets there."""

from __future__ import annotations

import json
from collections.abc import Iterable


def visible(text: str) -> str:
    r"""Line breaks and tabs as they are; every other character that is not printable spelled out as in JSON.

    Control characters, escapes, marks of direction, half surrogates. JSON stays the same JSON.

    >>> print(visible("\x1b[31mred\u202e"))
    \u001b[31mred\u202e
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else json.dumps(c)[1:-1] for c in text)


def say(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Print an answer to standard output, or a remark to standard error."""
    import typer

    typer.echo(visible(text), err=err, nl=nl)


def tell(answer: str, remarks: Iterable[str]) -> None:
    """An answer, unless it is empty, to standard output; then remarks, a line each, to standard error."""
    if answer:
        say(answer)
    for line in remarks:
        say(line, err=True)
