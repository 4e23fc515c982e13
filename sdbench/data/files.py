"""Files of image data sets: which there are, whether they are whole, and what they hash to."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from sdbench.bounded import read_plain
from sdbench.data.decode import TAIL_BYTES, looks_whole, read_image
from sdbench.errors import UserError

CONTENT_LIMIT = 2 * 2**30
"""Bytes up to which a fingerprint covers the whole content of every file."""
MAX_FILE_BYTES = 2**28
"""Of one image's file."""
MAX_LIST_BYTES = 16 * 2**20
"""Of a list of images or classes; ImageNet's largest has 2 MB."""
HEAD_BYTES = 4096
"""What it covers of each file beyond that, beside path and size."""


@dataclass(frozen=True)
class ImageFile:
    """One file: its path below the root, with forward slashes, and its size in bytes."""

    path: str
    size: int


def list_file(root: Path, path: Path) -> ImageFile:
    """The record of a file below ``root``. UserError where it cannot be read."""
    try:
        status = path.stat()
    except OSError as error:
        raise closed(path, error) from error
    return ImageFile(path.relative_to(root).as_posix(), plain_size(path, status))


def plain_size(path: str | Path, status: os.stat_result) -> int:
    """Bytes of a file, by its status. UserError where it is not plain, so that reading might not end, or too large."""
    if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_FILE_BYTES:
        raise UserError(f"{path}: not a plain file of at most {MAX_FILE_BYTES} bytes; replace the file or remove it")
    return status.st_size


def fingerprint(
    root: Path,
    files: Iterable[ImageFile],
    *,
    context: bytes = b"",
    look: Callable[[Path, bytes | None], None] | None = None,
) -> str:
    """A hash of all files that changes with any path or size and, up to 2 GiB in all, any byte.

    "content:" and 32 hexadecimal digits; "head:" where the files are larger and only the first
    4 KiB of each were read. context: hashed as well, for labels that the paths do not show.
    ``look(path, content)`` is called for each file; content is None where it was not read whole.
    UserError naming a file that is not a whole image.
    """
    ordered = sorted(files, key=lambda file: file.path)
    whole = sum(file.size for file in ordered) <= CONTENT_LIMIT
    state = hashlib.blake2b(context, digest_size=16)
    for file in ordered:
        path = root / file.path
        if whole:
            content = _read(path)
            _check(path, content)
        else:
            content = head_of(root, file, HEAD_BYTES)
        if look is not None:
            look(path, content if whole else None)
        digest = hashlib.blake2b(content, digest_size=16).digest()
        state.update(os.fsencode(file.path) + b"\0" + file.size.to_bytes(8, "big") + digest)
    return f"{'content' if whole else 'head'}:{state.hexdigest()}"


def list_lines(path: Path) -> list[str]:
    """The lines of a plain file of at most ``MAX_LIST_BYTES`` in UTF-8. Raises OSError, UnicodeDecodeError."""
    return read_plain(path, MAX_LIST_BYTES).decode().splitlines()


def _read(path: Path) -> bytes:
    try:
        return read_plain(path, MAX_FILE_BYTES)
    except OSError as error:
        raise closed(path, error) from error


def head_of(root: Path, file: ImageFile, limit: int) -> bytes:
    """The first ``limit`` bytes of a file whose end is looked at as well. UserError where it is not a whole image."""
    place = os.path.join(root, file.path)  # noqa: PTH118 (a million files)
    try:
        descriptor = os.open(place, os.O_RDONLY)
        try:
            head = os.pread(descriptor, limit, 0)
            tail = os.pread(descriptor, TAIL_BYTES, max(0, file.size - TAIL_BYTES))
        finally:
            os.close(descriptor)
    except OSError as error:
        raise closed(Path(place), error) from error
    if not looks_whole(head[:TAIL_BYTES], tail[-TAIL_BYTES:], file.size):
        read_image(Path(place), None)
    return head


def closed(path: Path, error: OSError) -> UserError:
    """What to say of a file that cannot be read."""
    return UserError(f"{path}: cannot be read ({error}); make it readable or remove it")


def _check(path: Path, content: bytes) -> None:
    """Decode a file only where its ends are not those of a whole image."""
    if not looks_whole(content[:TAIL_BYTES], content[-TAIL_BYTES:], len(content)):
        read_image(path, content)
