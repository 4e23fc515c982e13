"""``imagenet``: ILSVRC 2012 in the layouts in which it lies around.

train/<wnid>/*.JPEG, and val/<wnid>/*.JPEG or, as published, val/ILSVRC2012_val_00000001.JPEG and so on beside one of
the files that say their classes (``MAPPINGS``). Classes are numbered in the sorted order of their wnids, as everywhere.
The folder is --data-dir or SDBENCH_DATA, or within it imagenet/, ILSVRC2012/ or ILSVRC/Data/CLS-LOC/.
val/ is the test set: the published test images have no labels.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from sdbench.bounded import read_plain
from sdbench.data import cache
from sdbench.data.facts import Labels, Source
from sdbench.data.files import MAX_LIST_BYTES, list_lines
from sdbench.data.fingerprints import fingerprinted
from sdbench.data.listing import (
    FileTable,
    Listing,
    class_folders,
    class_images,
    common_classes,
    images_below,
)
from sdbench.data.matlab import Value, read_structs
from sdbench.errors import UserError

PLACES = ("", "imagenet", "ImageNet", "ILSVRC2012", "ILSVRC/Data/CLS-LOC", "Data/CLS-LOC")
"""Where train/ and val/ are looked for below the folder that the user named."""
MAX_UNPACKED_BYTES = 4 * MAX_LIST_BYTES
"""Of meta.mat, which is compressed."""
WNID = re.compile(r"n\d{8}")
EXPECTED = "train/<wnid>/<image>.JPEG and val/, with a folder for each wnid or the published 50,000 files"


def place(source: Source, data_dir: Path | None) -> Path:
    """The folder that holds train/. UserError with where to get it if it is not there; nothing is downloaded."""
    named = cache.named_folder(data_dir) or cache.cache_folder()
    for below in PLACES:
        if (named / below / "train").is_dir():
            return named / below
    raise UserError(
        f"imagenet: expected {EXPECTED} in {named}, and there is no train/; unpack ILSVRC2012_img_train.tar there, one "
        "folder for each wnid, and ILSVRC2012_img_val.tar into val/, or give the folder with --data-dir or SDBENCH_DATA"
    )


def scan(source: Source, data_dir: Path | None) -> Listing:
    """List all images. UserError where the layout is another or files are missing."""
    root = place(source, data_dir)
    names = class_folders(root, "train", EXPECTED)
    strange = [name for name in names if not WNID.fullmatch(name)]
    if strange:
        raise UserError(f"{root / 'train' / strange[0]}: expected folders named by wnids, such as n01440764")
    if not (root / "val").is_dir():
        raise UserError(f"{root / 'val'}: missing; expected {EXPECTED}")
    flat = not any(WNID.fullmatch(path.name) and path.is_dir() for path in (root / "val").iterdir())
    found = names if flat else class_folders(root, "val", EXPECTED)
    classes = common_classes(root, (names, found), ("train", "val"))
    train = class_images(root, "train", classes)
    test = _flat(root, classes) if flat else class_images(root, "val", classes)
    return fingerprinted(root, classes, train, test, context=test[1].tobytes() if flat else b"")


def _flat(root: Path, classes: tuple[str, ...]) -> tuple[FileTable, Labels]:
    """The images of a val/ without folders, in order of their names, and their class numbers."""
    images = images_below(root, "val")
    if not images:
        raise UserError(f"{root / 'val'}: expected {EXPECTED}; found no image")
    stems = [Path(path).stem for path, _ in images]
    file, wnids = _mapping(root, stems, classes)
    number = {wnid: label for label, wnid in enumerate(classes)}
    table, labels = FileTable(), []
    for (path, size), stem in zip(images, stems, strict=True):
        wnid = wnids.get(stem)
        if wnid not in number:
            what = f"has class {wnid!r}, which train/ lacks" if wnid else "is not listed"
            raise UserError(f"{file}: {stem} {what}; unpack ImageNet again, or arrange val/ in folders, val/<wnid>/")
        table.add(path, size)
        labels.append(number[wnid])
    return table, np.array(labels, np.int64)


def _mapping(root: Path, stems: list[str], classes: tuple[str, ...]) -> tuple[Path, Mapping[str, str]]:
    """The file that says the wnid of each image of a flat val/, and what it says, by the image's name."""
    places = (root, root / "val", *root.parents[:3])
    beside = ("", "ILSVRC2012_devkit_t12/data", "devkit/data", "data")
    for name, read in MAPPINGS.items():
        for path in (place / folder / name for place in places for folder in beside):
            if path.is_file():
                try:
                    return path, read(path, stems, classes)
                except UserError:
                    raise
                except (OSError, ValueError, IndexError, KeyError) as error:
                    raise UserError(f"{path}: cannot be understood ({error}); get it again, or remove it") from error
    raise UserError(
        f"{root / 'val'}: holds images without folders, and nothing says their classes; put one of these into {root}: "
        f"{', '.join(MAPPINGS)} (with meta.mat of the development kit beside the first), or move the images into "
        "val/<wnid>/"
    )


def _from_devkit(path: Path, stems: list[str], classes: tuple[str, ...]) -> dict[str, str]:
    """Line i is the ILSVRC number of the i-th image; meta.mat beside it has the wnid of each number."""
    meta = path.with_name("meta.mat")
    if not meta.is_file():
        raise UserError(f"{path}: says classes by numbers; put meta.mat of the development kit beside it")
    try:
        rows = read_structs(read_plain(meta, MAX_LIST_BYTES), "synsets", ("ILSVRC2012_ID", "WNID"), MAX_UNPACKED_BYTES)
        wnid = {_whole(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in rows}
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{meta}: cannot be understood ({error}); get the development kit again") from error
    numbers = [_count(word) for word in _words(path)]
    strange = next((number for number in numbers if number not in wnid), None)
    if strange is not None:
        raise ValueError(f"class {strange} is not in {meta.name}")
    return _in_order(stems, [wnid[number] for number in numbers])


def _whole(value: Value) -> int:
    if not isinstance(value, float) or not value.is_integer():
        raise ValueError(f"{value!r} is no number of a class")
    return int(value)


def _words(path: Path) -> list[str]:
    return [word for line in list_lines(path) for word in line.split()]


def _from_wnids(path: Path, stems: list[str], classes: tuple[str, ...]) -> dict[str, str]:
    """Line i is the wnid of the i-th image."""
    return _in_order(stems, _words(path))


def _in_order(stems: list[str], wnids: list[str]) -> dict[str, str]:
    if len(stems) != len(wnids):
        raise ValueError(f"{len(wnids)} lines for {len(stems)} images")
    return dict(zip(stems, wnids, strict=True))


def _from_solution(path: Path, stems: list[str], classes: tuple[str, ...]) -> dict[str, str]:
    """Lines ``ILSVRC2012_val_00048981,n03995372 85 1 499 272``, the boxes of one image after each other."""
    lines = (line.split(",") for line in list_lines(path)[1:])
    return {stem: boxes.split()[0] for stem, boxes in lines}


def _from_pairs(path: Path, stems: list[str], classes: tuple[str, ...]) -> dict[str, str]:
    """Lines ``ILSVRC2012_val_00000001.JPEG 65``: the number of the class among the sorted wnids, from 0."""
    pairs = (line.split() for line in list_lines(path) if line.strip())
    labels = {Path(name).stem: _count(number) for name, number in pairs}
    if max(labels.values(), default=0) >= len(classes):
        raise ValueError(f"class {max(labels.values())} where train/ has {len(classes)}, numbered from 0")
    return {stem: classes[label] for stem, label in labels.items()}


def _count(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise ValueError(f"{text[:60]!r} is no number of a class")
    return int(text)


MAPPINGS: dict[str, Callable[[Path, list[str], tuple[str, ...]], dict[str, str]]] = {
    "ILSVRC2012_validation_ground_truth.txt": _from_devkit,
    "LOC_val_solution.csv": _from_solution,
    "imagenet_2012_validation_synset_labels.txt": _from_wnids,
    "val.txt": _from_pairs,
}
"""Files that say the classes of a flat val/: the development kit's, Kaggle's, TensorFlow's and Caffe's."""
