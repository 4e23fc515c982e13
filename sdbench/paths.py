"""Paths as they are typed: one place says what none can be."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from sdbench.errors import EnvironmentProblem, UserError

LOOKED_AT = (FileNotFoundError, NotADirectoryError)
"""What says that nothing is there yet, which is for the command to judge."""

UNFIT = (errno.ENAMETOOLONG, errno.ELOOP)
"""Errors of a path that is the user's to mend, not the machine's."""


def path_of(text: str | Path) -> Path:
    """The path that was typed, with ``~`` and ``~user`` spelled out. It need not exist.

    Raises UserError where it can be none (no such user, a name longer than the file system takes, a null character) or
    lies where this user may not look; EnvironmentProblem where the machine cannot tell.
    """
    try:
        path = Path(text).expanduser()
    except RuntimeError as error:
        raise UserError(f"{text}: no such user, or one without a home folder; give the path itself") from error
    try:
        os.lstat(path)
    except LOOKED_AT:
        pass
    except PermissionError as error:
        raise UserError(
            f"{path}: {error.strerror}; mend the rights of the folders above it, or give another"
        ) from error
    except OSError as error:
        kind = UserError if error.errno in UNFIT else EnvironmentProblem
        raise kind(f"{_short(path)}: {error.strerror}; give another path") from error
    except ValueError as error:  # a null character
        raise UserError(f"{_short(path)!r}: {error}; give another path") from error
    return path


def absolute_text(text: str | Path) -> str:
    """The whole path as text, which the processes of trials are given. Raises UserError as ``path_of`` does, and where
    a name in it is not UTF-8."""
    path = str(path_of(text).absolute())
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{readable(path)}: not UTF-8, so trials cannot be told of it; rename it") from error
    return path


def readable(path: str) -> str:
    """A path as text that any encoder takes: what is not UTF-8 in it is spelled out."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _short(path: Path) -> str:
    text = str(path)
    return text if len(text) <= 200 else f"{text[:200]}..."
