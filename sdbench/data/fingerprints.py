"""What a large data set hashes to, without reading all of it.

Up to 200,000 files: all paths, sizes and contents ("content:", up to 2 GiB in all) or first 4 KiB ("head:"). Beyond
that, all paths, sizes and labels, and the first 4 KiB of 16,384 files, evenly spread ("sample:"): to open 2.7 million
files takes minutes on a warm disk and hours on a cold one, in every trial. So a file that was replaced by another of
the same size is noticed only by chance; one that was added, removed, renamed or cut off always is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import numpy as np

from sdbench.data.facts import Labels
from sdbench.data.files import HEAD_BYTES, ImageFile, fingerprint, head_of
from sdbench.data.listing import FileTable, Listing

FILES_LIMIT = 200_000
"""Files up to which each is opened."""
SAMPLED = 16_384
"""Files that are opened beyond that."""
READERS = 16
"""Threads that open them: on a disk or over a network each waits for its answer."""


class Looking:
    """Looks at files until it has seen enough."""

    @property
    def wanted(self) -> bool:
        """Whether it would look at another one."""
        return True

    def __call__(self, path: Path, content: bytes | None) -> None:
        """content: the file's bytes where they have been read whole."""


def fingerprinted(
    root: Path,
    classes: tuple[str, ...],
    train: tuple[FileTable, Labels],
    test: tuple[FileTable, Labels],
    *,
    context: bytes = b"",
    look: Looking | None = None,
) -> Listing:
    """The listing of two parts, images of any size, with what their files hash to; see ``fingerprint_tables``."""
    return Listing(
        root=root,
        classes=classes,
        train=train[0],
        train_labels=train[1],
        test=test[0],
        test_labels=test[1],
        fingerprint=fingerprint_tables(root, (train[0], test[0]), context=context, look=look),
        side=None,
    )


def fingerprint_tables(
    root: Path, tables: Sequence[FileTable], *, context: bytes = b"", look: Looking | None = None
) -> str:
    """The fingerprint of all files of ``tables``; as ``files.fingerprint`` where there are few.

    context: hashed as well, for labels that the paths do not show. UserError naming a file that was opened and is
    not a whole image.
    """
    count = sum(map(len, tables))
    if count <= FILES_LIMIT:
        return fingerprint(root, chain.from_iterable(tables), context=context, look=look)
    state = hashlib.blake2b(context, digest_size=16)
    for table in tables:
        for part in table.digestible():
            state.update(part)
    for head in _heads(root, [_at(tables, i) for i in np.linspace(0, count - 1, SAMPLED).round().astype(int).tolist()]):
        state.update(head)
    if look is not None:
        _show(root, tables, look)
    return f"sample:{state.hexdigest()}"


def _at(tables: Sequence[FileTable], position: int) -> ImageFile:
    for table in tables:
        if position < len(table):
            return table[position]
        position -= len(table)
    raise IndexError(position)


def _heads(root: Path, files: Sequence[ImageFile]) -> list[bytes]:
    def hashed(file: ImageFile) -> bytes:
        return hashlib.blake2b(head_of(root, file, HEAD_BYTES), digest_size=16).digest()

    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(hashed, files, chunksize=64))


def _show(root: Path, tables: Sequence[FileTable], look: Looking) -> None:
    for file in chain.from_iterable(tables):
        if not look.wanted:
            return
        look(root / file.path, None)
