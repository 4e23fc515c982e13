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
from dataclasses import replace
from pathlib import Path

from sdbench.data.decode import image_size
from sdbench.data.facts import Source
from sdbench.data.fingerprints import Looking, fingerprinted
from sdbench.data.listing import Listing, class_folders, class_images, common_classes
from sdbench.errors import UserError
from sdbench.paths import path_of

UNIFORM_LIMIT = 96
"""Largest side, in pixels, of images that are augmented whole on the device."""


class _Sizes(Looking):
    """Looks at images until it is clear whether all are square, of one size and small."""

    def __init__(self) -> None:
        self.side = 0
        self.uniform = True

    @property
    def wanted(self) -> bool:
        return self.uniform

    def __call__(self, path: Path, content: bytes | None) -> None:
        if not self.uniform:
            return
        height, width = image_size(path, content)
        self.side = self.side or height
        self.uniform = height == width == self.side <= UNIFORM_LIMIT


def place(source: Source, data_dir: Path | None) -> Path:
    """The folder of a data set: ``data_dir`` where it carries the name that ``source`` was reduced
    to, else the path in the name. UserError where there is no such folder."""
    given = path_of(data_dir).absolute() if data_dir else None
    assert source.location is not None
    bare = source.location.parent == Path()
    root = given if given and bare and _own_name(given) == source.location.name else source.location
    root = path_of(root).absolute()
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
    root = place(source, data_dir)
    test_part = "val" if (root / "val").is_dir() or not (root / "test").is_dir() else "test"
    expected = f"the layout {root.name}/train/<class>/<image> and {root.name}/val/<class>/<image>"
    names = [class_folders(root, part, expected) for part in ("train", test_part)]
    classes = common_classes(root, (names[0], names[1]), ("train", test_part))
    train, test = (class_images(root, part, classes) for part in ("train", test_part))
    sizes = _Sizes()
    found = fingerprinted(root, classes, train, test, look=sizes)
    return replace(found, side=sizes.side if sizes.uniform else None)
