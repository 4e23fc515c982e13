"""A command line as records keep it: one that a reader can follow, and that names neither machine nor user.

A path keeps its last part. What names a host, a folder that is called as its user is, and a path without a last part
are told as ``given``.
"""

from __future__ import annotations

import getpass
import os
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

GIVEN = "given"
HOSTS = ("address",)
"""Options whose value is a host."""

PLACES = ("results", "data-dir", "plugin", "config", "output", "into", "against", "directory", "tests")
"""Options whose value is a path, even where no separator is in it."""

SHORT = {"o": "results", "C": "config"}
FOLDER = "folder:"
HOMES = ("/home", "/Users")

_PART = re.compile(r"[^,\[\]=]+")
"""Of a value: items of a list, and names and values within brackets."""


def public_command(words: Iterable[str]) -> tuple[str, ...]:
    """The words of a command line, options as ``--option value``, ``--option=value``, ``-o value`` or ``-ovalue``.

    >>> public_command(["run", "--results=/data/x", "-d", "cifar100,folder:/data/birds", "--address", "host:6379"])
    ('run', '--results=x', '-d', 'cifar100,folder:birds', '--address', 'given')
    """
    return tuple(_words(words))


def _words(words: Iterable[str]) -> Iterator[str]:
    option = ""
    for word in words:
        if option:
            yield _value(option, word)
            option = ""
        elif word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            yield f"--{name}={_value(name, value)}" if equals else word
            option = name if not equals and name in (*HOSTS, *PLACES) else ""
        elif word.startswith("-") and len(word) > 1:
            option = SHORT.get(word[1], "")
            yield word[:2] + (_value(option, word[2:]) if word[2:] else "")
            option = "" if word[2:] else option
        else:
            yield _value("", word)


def _value(option: str, value: str) -> str:
    """What a record keeps of a value; option: its name, or empty for one that holds paths only where they show."""
    if option in HOSTS:
        return GIVEN
    if option in PLACES and option != "plugin":
        return public_path(value)
    return _PART.sub(lambda part: _part(part[0], option == "plugin"), value)


def _part(text: str, place: bool) -> str:
    if text.startswith(FOLDER):
        path = os.path.expanduser(text.removeprefix(FOLDER))  # noqa: PTH111  of no such user, the text stays
        return FOLDER + os.path.basename(os.path.abspath(path))  # noqa: PTH100, PTH119  as data sets are named
    return public_path(text) if place or "/" in text or text.startswith("~") else text


def public_path(text: str) -> str:
    """The last part of a path; ``given`` for a home folder, or where there is none."""
    path = Path(text)
    own = str(path.parent) in (*HOMES, *_homes()) or path.name == _user() or text == os.path.expanduser("~")  # noqa: PTH111
    return GIVEN if own or (not path.name and text != ".") or path.name.startswith("~") else path.name or text


@cache
def _user() -> str:
    """The user's name, or empty where the system has none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""


def _homes() -> tuple[str, ...]:
    """Where this machine keeps home folders, unless they lie where everything does."""
    above = str(Path(os.path.expanduser("~")).parent)  # noqa: PTH111
    return () if above in ("/", ".") else (above,)
