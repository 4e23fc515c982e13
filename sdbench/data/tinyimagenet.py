"""``tinyimagenet``: Tiny ImageNet in its published layout, decoded once and kept in the cache folder.

``tiny-imagenet-200/`` holds wnids.txt, one class a line; train/<wnid>/images/*.JPEG; val/images and
val/val_annotations.txt, whose lines start with a file name and its class. Classes are numbered in
the sorted order of their wnids. val/ is the test set: the published test/ has no labels.

Images are 64x64. As in the papers, networks see 32x32 by default: training images through
RandomResizedCrop(32) and flips, test images through Resize(32) without a crop. With an image size
of 64 training images go through RandomResizedCrop(64) and flips, and test images are left as they are.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sdbench.data import cache
from sdbench.data.decode import read_image, to_pixels, unreadable
from sdbench.data.facts import Arrays, DataFacts, DatasetInfo, Pixels, Source
from sdbench.data.files import ImageFile, fingerprint, list_file, list_lines
from sdbench.errors import UserError

FOLDER = "tiny-imagenet-200"
SIDE = 64
ADDRESS = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"


@dataclass(frozen=True)
class Layout:
    """The files of one copy, checked to be complete, and the class number of each."""

    root: Path
    wnids: tuple[str, ...]
    train: tuple[ImageFile, ...]
    train_labels: tuple[int, ...]
    test: tuple[ImageFile, ...]
    test_labels: tuple[int, ...]


def find(data_dir: Path | None) -> Path:
    """The published folder in ``data_dir``, else in SDBENCH_DATA, else in the cache folder. UserError
    with where to get it if it is not there; nothing is downloaded."""
    named = cache.named_folder(data_dir) or cache.cache_folder()
    root = named if named.name == FOLDER else named / FOLDER
    if not root.is_dir():
        raise UserError(
            f"tinyimagenet: expected the folder {FOLDER} in {named}, and it is not there; get {ADDRESS}, unpack it, "
            "and give the folder that holds it with --data-dir"
        )
    return root


def scan(root: Path) -> Layout:
    """List all files. UserError names every class or annotated image whose files are missing."""
    wnids = tuple(sorted({line.strip() for line in _lines(root / "wnids.txt")} - {""}))
    odd = [wnid for wnid in wnids if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", wnid)]
    if odd:
        raise UserError(f"{root / 'wnids.txt'}: {odd[0][:60]!r} is no class; {_again()}")
    if len(wnids) < 2:
        raise UserError(f"{root / 'wnids.txt'}: expected at least two classes, found {len(wnids)}; {_again()}")
    problems: list[str] = []
    train, train_labels = _training_files(root, wnids, problems)
    test, test_labels = _test_files(root, wnids, problems)
    if problems:
        shown = problems[:5] + ([f"and {len(problems) - 5} more like these"] if len(problems) > 5 else [])
        raise UserError([*shown, f"tinyimagenet: {root} is not complete; {_again()}"])
    return Layout(root, wnids, tuple(train), tuple(train_labels), tuple(test), tuple(test_labels))


def _again() -> str:
    return f"unpack {ADDRESS} there again"


def _lines(path: Path) -> list[str]:
    try:
        return list_lines(path)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path}: expected a list of the published layout, and it cannot be read ({error}); {_again()}"
        ) from error


def _training_files(root: Path, wnids: tuple[str, ...], problems: list[str]) -> tuple[list[ImageFile], list[int]]:
    files: list[ImageFile] = []
    labels: list[int] = []
    for label, wnid in enumerate(wnids):
        folder = root / "train" / wnid / "images"
        found = sorted(folder.glob("*.JPEG"))
        if not found:
            problems.append(f"{folder}: expected the *.JPEG files of class {wnid}, found none")
        boxes = root / "train" / wnid / f"{wnid}_boxes.txt"  # names every image where it is there
        if boxes.is_file():
            present = {path.name for path in found}
            listed = (line.split("\t")[0].strip() for line in _lines(boxes))
            problems += [f"{folder / name}: missing" for name in listed if name and name not in present]
        files += [list_file(root, path) for path in found]
        labels += [label] * len(found)
    return files, labels


def _test_files(root: Path, wnids: tuple[str, ...], problems: list[str]) -> tuple[list[ImageFile], list[int]]:
    number = {wnid: label for label, wnid in enumerate(wnids)}
    annotations = root / "val" / "val_annotations.txt"
    files: list[ImageFile] = []
    labels: list[int] = []
    for line in _lines(annotations):
        if not line.strip():
            continue
        name, _, rest = line.partition("\t")
        wnid = rest.split("\t")[0].strip()
        path = root / "val" / "images" / Path(name).name
        if wnid not in number:
            problems.append(f"{annotations}: {name} has class {wnid!r}, which wnids.txt does not list")
        elif not path.is_file():
            problems.append(f"{path}: missing, though {annotations.name} lists it")
        else:
            files.append(list_file(root, path))
            labels.append(number[wnid])
    if not files and not problems:
        problems.append(f"{annotations}: expected a line for each test image, found none")
    return files, labels


def place(source: Source, data_dir: Path | None) -> Path:
    """The published folder. UserError where it is not there."""
    return find(data_dir)


def inspect(source: Source, info: DatasetInfo, data_dir: Path | None, image_size: int) -> DataFacts:
    """What is known of the files after reading, not decoding, all of them."""
    return _facts(source, info, scan(find(data_dir)), image_size)


def _facts(source: Source, info: DatasetInfo, layout: Layout, image_size: int) -> DataFacts:
    labels = ",".join(map(str, (*layout.train_labels, -1, *layout.test_labels)))
    return DataFacts(
        name=source.name,
        fingerprint=fingerprint(layout.root, [*layout.train, *layout.test], context=labels.encode()),
        num_classes=len(layout.wnids),
        num_train=len(layout.train),
        num_test=len(layout.test),
        image_size=image_size,
        augment=info.augment,
        class_names=layout.wnids,
    )


def load_arrays(source: Source, info: DatasetInfo, data_dir: Path | None, image_size: int) -> Arrays:
    """All images at 64x64: from the cache folder where files with this fingerprint have been decoded
    before, else decoded now and kept there if it can be written to."""
    layout = scan(find(data_dir))
    facts = _facts(source, info, layout, image_size)
    file = cache.cache_folder() / f"tinyimagenet-{facts.fingerprint.partition(':')[2]}.safetensors"
    arrays = cache.read_arrays(file)
    if arrays is None:
        arrays = {"train": _decode(layout.root, layout.train), "test": _decode(layout.root, layout.test)}
        with contextlib.suppress(OSError):
            cache.store_arrays(file, arrays)
    train_labels, test_labels = (np.array(v, np.int64) for v in (layout.train_labels, layout.test_labels))
    return Arrays(facts, arrays["train"], train_labels, arrays["test"], test_labels)


def _decode(root: Path, files: tuple[ImageFile, ...]) -> Pixels:
    pixels = np.empty((len(files), SIDE, SIDE, 3), np.uint8)
    for target, file in zip(pixels, files, strict=True):
        image = read_image(root / file.path)
        if image.size != (SIDE, SIDE):
            raise unreadable(root / file.path, f"it is {image.width}x{image.height}, not {SIDE}x{SIDE}")
        target[:] = to_pixels(image)
    return pixels
