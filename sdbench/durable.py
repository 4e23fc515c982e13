"""Files that hold their old content or their new, whole, after a kill or a power cut at any moment."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FULL_BYTES = 2**20
"""With less than this left, a write that failed for no other known reason failed for want of space."""

_TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}\.tmp", re.DOTALL)


class WriteProblem(OSError):
    """A file could not be written; ``errno`` says why. The machine's fault (a full disk), not that of what wrote."""


def sync_folder(folder: Path) -> None:
    """Make renames in ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Create a folder, and those above it, durably."""
    missing = []
    for one in (folder, *folder.parents):
        if one.exists():
            break
        missing.append(one)
    folder.mkdir(parents=True, exist_ok=True)
    for one in missing:
        sync_folder(one.parent)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside ``path`` that takes its place, durably, when the block ends well.

    Where it does not, the temporary is deleted and the error goes on: as WriteProblem, if it is the machine's.
    """
    temporary: Path | None = None
    try:
        make_folder(path.parent)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        os.close(descriptor)
        temporary = Path(name)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
        sync_folder(path.parent)
    except BaseException as error:
        problem = _write_problem(error, path)  # before the space is given back
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
        if problem is not None:
            raise problem from error
        raise


def write_atomic(path: Path, data: str | bytes) -> None:
    """Write a whole file: after a kill or a power cut it holds the old content or the new."""
    with replacing(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


def append_line(path: Path, line: dict[str, Any]) -> None:
    """Append one line of JSON and make it durable. A kill may tear it, which ``read_curve`` knows."""
    text = json.dumps(line, allow_nan=False) + "\n"
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise _write_problem(error, path) or error from error


def _write_problem(error: BaseException, path: Path) -> WriteProblem | None:
    """What the machine did to a write, or None. Writers of tensors say it in words, or not at all."""
    if isinstance(error, OSError):
        number = error.errno
    elif told := re.search(r"\bos error (\d{1,4})\b", str(error)):
        number = int(told[1])
    else:
        number = errno.ENOSPC if isinstance(error, Exception) and _is_full(path.parent) else None
    return None if number is None else WriteProblem(number, os.strerror(number), str(path))


def _is_full(folder: Path) -> bool:
    with contextlib.suppress(OSError):
        return shutil.disk_usage(folder).free < FULL_BYTES
    return False


def is_temporary(name: str) -> bool:
    """Whether a file of this name is what a kill inside ``replacing`` leaves behind.

    >>> is_temporary(".trial.json.k3_x9a0b.tmp"), is_temporary("trial.json"), is_temporary("notes.tmp")
    (True, False, False)
    """
    return _TEMPORARY.fullmatch(name) is not None


def temporaries(folder: Path, depth: int = 1) -> list[Path]:
    """What kills have left in a folder and ``depth`` levels below it, sorted; of a process at work, its files too.
    Neither links nor hidden folders are entered, and what cannot be listed has none."""
    found, level = list[Path](), [folder]
    for _ in range(depth + 1):
        inside = [entry for one in level for entry in entries(one)]
        found += [Path(e.path) for e in inside if is_temporary(e.name) and e.is_file(follow_symlinks=False)]
        level = [Path(e.path) for e in inside if e.is_dir(follow_symlinks=False) and not e.name.startswith(".")]
    return sorted(found)


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """What lies in a folder, by name; nothing where it is gone or cannot be listed."""
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: entry.name)
    except OSError:
        return []


def sweep(folder: Path, name: str = "") -> None:
    """Delete the temporaries of a folder, those of files whose name begins with ``name``; the caller holds its lock."""
    for path in temporaries(folder):
        if path.name.startswith(f".{name}"):
            with contextlib.suppress(OSError):
                path.unlink()


def set_aside(path: Path) -> None:
    """Keep what lies at ``path`` under a name that nothing reads: nothing damaged is deleted."""
    number = 1
    while os.path.lexists(aside := path.with_name(f"{path.name}.damaged-{number}")):
        number += 1
    path.rename(aside)
