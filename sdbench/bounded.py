"""Files that others may have made, read within bounds: plain files only, and never more than was agreed.

A pipe in a file's place would never answer and a device never end; a file of a terabyte of zeros costs nothing to send.
"""

from __future__ import annotations

import errno
import os
import stat
import tomllib
from pathlib import Path
from typing import Any, BinaryIO

MAX_INTEGER_BITS = 10_000
"""More digits than Python prints; in hexadecimal it reads any number."""

MAX_TOML_LINE = 2000
"""Characters of a line of TOML. Python's reader takes the square of the number of parts of a dotted key."""


def open_plain(path: Path) -> BinaryIO:
    """A plain file opened for reading, links followed. Raises OSError for anything else, at once."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # before it is opened: opening a device may do something
            raise OSError(errno.EINVAL, "not a plain file", str(path))
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError as error:  # a null character in the path
        raise OSError(errno.EINVAL, str(error)) from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a plain file", str(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_plain(path: Path, limit: int) -> bytes:
    """The whole of a plain file of at most ``limit`` bytes. Raises OSError."""
    with open_plain(path) as file:
        size = os.fstat(file.fileno()).st_size
        content = file.read(limit + 1) if size <= limit else b""
    if size > limit or len(content) > limit:
        raise OSError(errno.EFBIG, f"larger than {limit} bytes", str(path))
    return content


def parse_toml(content: bytes) -> dict[str, Any]:
    """TOML in UTF-8. Raises ValueError for whatever is wrong with it, nesting that is too deep included."""
    text = content.decode()
    if any(len(line) > MAX_TOML_LINE for line in text.split("\n")):
        raise ValueError(f"a line of more than {MAX_TOML_LINE} characters; break it")
    try:
        found = tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    waiting: list[Any] = [found]
    while waiting:
        value = waiting.pop()
        if isinstance(value, int) and value.bit_length() > MAX_INTEGER_BITS:
            raise ValueError("a number of thousands of digits")
        waiting += value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return found
