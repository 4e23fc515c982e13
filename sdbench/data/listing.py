"""The image files of a data set, listed compactly: a million of them take a hundred megabytes, not half a gigabyte."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path

import numpy as np

from sdbench.data.decode import SUFFIXES
from sdbench.data.facts import DataFacts, DatasetInfo, Labels, Source
from sdbench.data.files import ImageFile, closed, plain_size
from sdbench.errors import UserError

MAX_DEPTH = 64
"""Folders within folders below that of a class."""


class FileTable:
    """Files below a root, in the order in which they were added: folder, name and size of each."""

    __slots__ = ("_ends", "_folder", "_folders", "_names", "_number", "_sizes")

    def __init__(self) -> None:
        self._folders: list[str] = []
        self._number: dict[str, int] = {}
        self._folder = array("i")
        self._names = bytearray()
        self._ends = array("q", [0])
        self._sizes = array("q")

    def add(self, path: str, size: int) -> None:
        """A file's path below the root, with forward slashes, and its size in bytes."""
        folder, slash, name = path.rpartition("/")
        number = self._number.setdefault(folder + slash, len(self._folders))
        if number == len(self._folders):
            self._folders.append(folder + slash)
        self._folder.append(number)
        self._names += os.fsencode(name)
        self._ends.append(len(self._names))
        self._sizes.append(size)

    def __len__(self) -> int:
        return len(self._sizes)

    def path(self, position: int) -> str:
        """The path of one file below the root."""
        name = self._names[self._ends[position] : self._ends[position + 1]]
        return self._folders[self._folder[position]] + os.fsdecode(bytes(name))

    def __getitem__(self, position: int) -> ImageFile:
        if not 0 <= position < len(self):
            raise IndexError(position)
        return ImageFile(self.path(position), self._sizes[position])

    def __iter__(self) -> Iterator[ImageFile]:
        return (self[position] for position in range(len(self)))

    @property
    def total_bytes(self) -> int:
        """Bytes of all files together."""
        return sum(self._sizes)

    def digestible(self) -> Iterator[bytes]:
        """All that there is to say of the files, as bytes to be hashed."""
        yield repr((len(self), [os.fsencode(folder) for folder in self._folders])).encode()
        yield from (self._folder.tobytes(), bytes(self._names), self._ends.tobytes(), self._sizes.tobytes())


@dataclass(frozen=True)
class Listing:
    """All images of a data set and what they have in common.

    side: of every image, where they are uniform; else None.
    """

    root: Path
    classes: tuple[str, ...]
    train: FileTable
    train_labels: Labels
    test: FileTable
    test_labels: Labels
    fingerprint: str
    side: int | None


def class_folders(root: Path, part: str, expected: str) -> list[str]:
    """The sorted names of a part's folders. expected: the layout, in words, for the UserError where there are none."""
    if not (root / part).is_dir():
        raise UserError(f"{root / part}: missing; expected {expected}")
    found = sorted(p.name for p in (root / part).iterdir() if p.is_dir() and not p.name.startswith("."))
    if not found:
        raise UserError(f"{root / part}: expected one folder for each class with its images inside, found none")
    return found


def common_classes(root: Path, names: tuple[Sequence[str], Sequence[str]], parts: tuple[str, str]) -> tuple[str, ...]:
    """The classes ``names`` of both ``parts``. UserError where they differ or there are fewer than two."""
    train, test = names
    problems = []
    for part, other, lacking in (
        (parts[1], parts[0], set(train) - set(test)),
        (parts[0], parts[1], set(test) - set(train)),
    ):
        if lacking:
            shown = ", ".join(sorted(lacking)[:5]) + (f" and {len(lacking) - 5} more" if len(lacking) > 5 else "")
            problems.append(f"{root / part}: lacks the classes {shown}; {part} and {other} must have the same ones")
    if len(train) < 2 and not problems:
        problems.append(f"{root / parts[0]}: expected at least two classes, found one ({train[0]})")
    if problems:
        raise UserError(problems)
    return tuple(train)


def class_images(root: Path, part: str, classes: Iterable[str]) -> tuple[FileTable, Labels]:
    """The images of every class, at any depth below its folder, and their class numbers. UserError for empty ones."""
    table, counts, problems = FileTable(), [], []
    for name in classes:
        before = len(table)
        for path, size in images_below(root, f"{part}/{name}"):
            table.add(path, size)
        counts.append(len(table) - before)
        if not counts[-1]:
            problems.append(
                f"{root / part / name}: expected images ({', '.join(SUFFIXES)}), found none; add some or "
                "remove the class from both parts"
            )
    if problems:
        raise UserError(problems)
    labels = chain.from_iterable(repeat(label, count) for label, count in enumerate(counts))
    return table, np.fromiter(labels, np.int64, len(table))


def images_below(root: Path, folder: str) -> list[tuple[str, int]]:
    """Path below ``root`` and size of the images in a folder, in order of their paths; links to folders are followed,
    each folder entered once.

    Names that start with a dot, and files with other suffixes than images have, are passed over.
    """
    found: list[tuple[str, int]] = []
    deep = _gather(os.path.join(root, folder), folder, found)  # noqa: PTH118 (a million files)
    found.sort(key=(lambda item: item[0].split("/")) if deep else None)
    return found


def _gather(place: str, folder: str, found: list[tuple[str, int]]) -> bool:
    """Add a folder's images to ``found``; whether it has folders of its own. Raises UserError for one that is nested
    more than MAX_DEPTH deep. A folder is entered once, as a link to one above would be followed for ever."""
    entered: set[tuple[int, int]] = set()
    open_: list[tuple[Iterator[os.DirEntry[str]], str]] = []  # from the class's folder down to the one that is read
    deep = False
    with ExitStack() as stack:

        def enter(place: str, folder: str) -> None:
            status = os.stat(place)  # noqa: PTH116
            if (status.st_dev, status.st_ino) not in entered:
                entered.add((status.st_dev, status.st_ino))
                if len(open_) > MAX_DEPTH:
                    raise UserError(f"{place}: nested more than {MAX_DEPTH} folders deep; move it out of the data")
                open_.append((stack.enter_context(os.scandir(place)), folder))

        try:
            enter(place, folder)
            while open_:
                entries, folder = open_[-1]
                entry = next(entries, None)
                if entry is None:
                    open_.pop()
                elif entry.name.startswith("."):
                    continue
                elif entry.is_dir():
                    deep, place = True, entry.path
                    enter(place, f"{folder}/{entry.name}")
                elif entry.name.lower().endswith(SUFFIXES):
                    found.append((f"{folder}/{entry.name}", plain_size(entry.path, entry.stat())))
        except OSError as error:
            raise closed(Path(error.filename or place), error) from error
    return deep


def facts_of(listing: Listing, source: Source, info: DatasetInfo, size: int | None) -> DataFacts:
    """The facts of a listing, for images at ``size``, by default their own or else the data set's."""
    return DataFacts(
        name=source.name,
        fingerprint=listing.fingerprint,
        num_classes=len(listing.classes),
        num_train=len(listing.train),
        num_test=len(listing.test),
        image_size=size or listing.side or info.image_size,
        augment=info.augment,
        class_names=listing.classes,
    )
