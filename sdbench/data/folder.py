"""``folder:PATH``: any images in torchvision's ImageFolder layout.

PATH/train/<class>/... and PATH/val/<class>/... (or PATH/test where there is no val), with the same
classes in both; class numbers follow the sorted class names. Files with the suffixes of
torchvision's ImageFolder are images at any depth below a class; other files, and names that start
with a dot, are passed over.

Square images of one size with a side of at most 96 are *uniform*: they are augmented on the device,
and held there whole if they fit into half of the memory that is free. All others are streamed from
disk. Whether uniform images are held or streamed changes no bit of what a network sees.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from sdbench.data.decode import SUFFIXES, image_size
from sdbench.data.facts import DataFacts, DatasetInfo, Source
from sdbench.data.files import ImageFile, fingerprint, list_file
from sdbench.errors import UserError

UNIFORM_LIMIT = 96
"""Largest side, in pixels, of images that are augmented whole on the device."""


@dataclass(frozen=True)
class Listing:
    """All images of a folder and what they have in common.

    side: of every image, where they are uniform; else None.
    """

    root: Path
    classes: tuple[str, ...]
    train: tuple[ImageFile, ...]
    train_labels: tuple[int, ...]
    test: tuple[ImageFile, ...]
    test_labels: tuple[int, ...]
    fingerprint: str
    side: int | None


class _Sizes:
    """Looks at images until it is clear whether all are square, of one size and small."""

    def __init__(self) -> None:
        self.side = 0
        self.uniform = True

    def __call__(self, path: Path, content: bytes | None) -> None:
        if not self.uniform:
            return
        height, width = image_size(path, content)
        self.side = self.side or height
        self.uniform = height == width == self.side <= UNIFORM_LIMIT


def locate(source: Source, data_dir: Path | None) -> Path:
    """The folder of a data set: ``data_dir`` where it carries the name that ``source`` was reduced
    to, else the path in the name. UserError where there is no such folder."""
    given = data_dir.expanduser().absolute() if data_dir else None
    assert source.location is not None
    bare = source.location.parent == Path()
    root = given if given and bare and _own_name(given) == source.location.name else source.location
    root = root.expanduser().absolute()
    if not root.is_dir():
        raise UserError(
            f"{source.name}: {root} is not a folder; give the folder that holds train/ and val/, as in folder:PATH"
        )
    return root


def _own_name(path: Path) -> str:
    return os.path.basename(os.path.abspath(path))  # noqa: PTH100, PTH119 (".." is to be taken as text)


def scan(source: Source, data_dir: Path | None) -> Listing:
    """List and hash all images. UserError where the layout is another, a class has no images, the
    parts differ in their classes, or a file is not a whole image."""
    root = locate(source, data_dir)
    test_part = "val" if (root / "val").is_dir() or not (root / "test").is_dir() else "test"
    parts = {part: _classes(root, part) for part in ("train", test_part)}
    classes = _common_classes(root, parts["train"], parts[test_part], test_part)
    (train, train_labels), (test, test_labels) = (_images(root, part, classes) for part in parts)
    sizes = _Sizes()
    return Listing(
        root=root,
        classes=classes,
        train=train,
        train_labels=train_labels,
        test=test,
        test_labels=test_labels,
        fingerprint=fingerprint(root, [*train, *test], look=sizes),
        side=sizes.side if sizes.uniform else None,
    )


def _classes(root: Path, part: str) -> list[str]:
    if not (root / part).is_dir():
        raise UserError(
            f"{root / part}: missing; expected the layout {root.name}/train/<class>/<image> and "
            f"{root.name}/val/<class>/<image>"
        )
    found = sorted(p.name for p in (root / part).iterdir() if p.is_dir() and not p.name.startswith("."))
    if not found:
        raise UserError(f"{root / part}: expected one folder for each class with its images inside, found none")
    return found


def _common_classes(root: Path, train: list[str], test: list[str], test_part: str) -> tuple[str, ...]:
    problems = []
    for part, names in ((test_part, set(train) - set(test)), ("train", set(test) - set(train))):
        if names:
            shown = ", ".join(sorted(names)[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
            problems.append(f"{root / part}: lacks the classes {shown}; train and {test_part} must have the same ones")
    if len(train) < 2 and not problems:
        problems.append(f"{root / 'train'}: expected at least two classes, found one ({train[0]})")
    if problems:
        raise UserError(problems)
    return tuple(train)


def _images(root: Path, part: str, classes: tuple[str, ...]) -> tuple[tuple[ImageFile, ...], tuple[int, ...]]:
    files: list[ImageFile] = []
    labels: list[int] = []
    problems = []
    for label, name in enumerate(classes):
        found = [list_file(root, path) for path in _below(root / part / name)]
        if not found:
            problems.append(
                f"{root / part / name}: expected images ({', '.join(SUFFIXES)}), found none; add some or "
                "remove the class from both parts"
            )
        files += found
        labels += [label] * len(found)
    if problems:
        raise UserError(problems)
    return tuple(files), tuple(labels)


def _below(folder: Path) -> list[Path]:
    """The image files of one class in sorted order, links to folders followed, each folder entered once."""
    found: list[Path] = []
    entered: set[tuple[int, int]] = set()  # a link to a folder above would be followed for ever
    for place, folders, names in os.walk(folder, followlinks=True):
        status = Path(place).stat()
        if (status.st_dev, status.st_ino) in entered:
            folders.clear()
            continue
        entered.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(place) / name for name in names if name.lower().endswith(SUFFIXES) and not name.startswith(".")]
    return sorted(found)


def facts_of(listing: Listing, source: Source, info: DatasetInfo, size: int | None) -> DataFacts:
    """The facts of a listing, for images at ``size``, by default their own or else 224."""
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


def place(source: Source, data_dir: Path | None) -> Path:
    """The folder of images. UserError where there is none."""
    return locate(source, data_dir)


def inspect(source: Source, info: DatasetInfo, data_dir: Path | None, size: int | None) -> DataFacts:
    """What is known of the files after reading, not decoding, all of them."""
    return facts_of(scan(source, data_dir), source, info, size)
