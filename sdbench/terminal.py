"""Text on its way to a terminal, which obeys what it is sent: nothing but printable characters gets there."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Protocol


class Dumped(Protocol):
    """A record, which this module need not know."""

    def model_dump(self, *, mode: str) -> dict[str, Any]: ...


def visible(text: str) -> str:
    r"""Line breaks and tabs as they are; every other character that is not printable spelled out as in JSON.

    Control characters, escapes, marks of direction, half surrogates. JSON stays the same JSON.

    >>> print(visible("\x1b[31mred\u202e"))
    \u001b[31mred\u202e
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else json.dumps(c)[1:-1] for c in text)


def json_of(record: Dumped) -> str:
    """A record as JSON, names of files that are not UTF-8 included: they are spelled out when it is shown."""
    return json.dumps(record.model_dump(mode="json"), indent=1, ensure_ascii=False)


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
