"""``cub200``: CUB-200-2011 as published.

CUB_200_2011/ holds images/<class>/*.jpg and three lists with a line ``number value`` for each image: images.txt (its
path below images/), image_class_labels.txt (its class, from 1) and train_test_split.txt (1 for training). Boxes, parts
and attributes are not used. The folder is in --data-dir or SDBENCH_DATA, or is that folder itself.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath

import numpy as np

from sdbench.data import cache
from sdbench.data.facts import Labels, Source
from sdbench.data.files import list_lines, plain_size
from sdbench.data.fingerprints import fingerprinted
from sdbench.data.listing import FileTable, Listing
from sdbench.errors import UserError

FOLDER = "CUB_200_2011"
LISTS = ("images.txt", "image_class_labels.txt", "train_test_split.txt")
NUMBER = re.compile(r"[0-9]{1,9}")
AGAIN = "unpack CUB_200_2011.tgz of https://data.caltech.edu/records/65de6-vp158 there again"


def place(source: Source, data_dir: Path | None) -> Path:
    """The published folder. UserError with where to get it if it is not there; nothing is downloaded."""
    named = cache.named_folder(data_dir) or cache.cache_folder()
    for root in (named, named / FOLDER, named / "cub200" / FOLDER):
        if (root / LISTS[0]).is_file() and (root / "images").is_dir():
            return root
    raise UserError(
        f"cub200: expected {FOLDER}/ with images/ and {', '.join(LISTS)} in {named}, and it is not there; unpack "
        "CUB_200_2011.tgz of https://data.caltech.edu/records/65de6-vp158 there, or give the folder that holds it with "
        "--data-dir or SDBENCH_DATA"
    )


def scan(source: Source, data_dir: Path | None) -> Listing:
    """List all images. UserError where a list or an image is missing, or the lists do not fit together."""
    root = place(source, data_dir)
    paths, texts, kept = (_read(root / name) for name in LISTS)
    for name, other in zip(LISTS[1:], (texts, kept), strict=True):
        if other.keys() != paths.keys():
            odd = min(other.keys() ^ paths.keys())
            raise UserError(f"{root / name}: image {odd} is not in both this list and {LISTS[0]}; {AGAIN}")
    labels = _numbers(root / LISTS[1], texts)
    classes = _classes(root, paths, labels)
    train, test = (_part(root, paths, labels, kept, wanted) for wanted in ("1", "0"))
    return fingerprinted(root, classes, train, test, context=train[1].tobytes() + test[1].tobytes())


def _read(path: Path) -> dict[int, str]:
    """The value of each numbered line."""
    try:
        lines = list_lines(path)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: expected a line 'number value' for each image ({error}); {AGAIN}") from error
    found: dict[int, str] = {}
    for line in filter(str.strip, lines):
        parts = line.split(None, 1)
        if len(parts) != 2 or not NUMBER.fullmatch(parts[0]):
            raise UserError(f"{path}: expected a line 'number value' for each image, found {line[:60]!r}; {AGAIN}")
        number, value = int(parts[0]), parts[1].strip()
        if found.setdefault(number, value) != value:
            raise UserError(f"{path}: says two things of image {number}; {AGAIN}")
    if not found:
        raise UserError(f"{path}: expected a line 'number value' for each image, found none; {AGAIN}")
    return found


def _numbers(path: Path, labels: dict[int, str]) -> dict[int, int]:
    """The class of each image, from 0."""
    strange = next((label for label in labels.values() if not NUMBER.fullmatch(label)), None)
    if strange is not None:
        raise UserError(f"{path}: expected numbers of classes, found {strange[:60]!r}; {AGAIN}")
    found = {number: int(label) - 1 for number, label in labels.items()}
    present = set(found.values())
    if present != set(range(len(present))):
        raise UserError(f"{path}: expected classes numbered from 1 without gaps; {AGAIN}")
    if len(present) < 2:
        raise UserError(f"{path}: expected at least two classes, found {len(present)}; {AGAIN}")
    return found


def _classes(root: Path, paths: dict[int, str], labels: dict[int, int]) -> tuple[str, ...]:
    """The folder of each class, in the order of the numbers. UserError where numbers and folders disagree."""
    named: dict[int, str] = {}
    for number, path in paths.items():
        parts = PurePosixPath(path).parts
        if len(parts) != 2 or ".." in parts or path.startswith("/") or "\0" in path:
            raise UserError(f"{root / LISTS[0]}: expected <class>/<image>, found {path[:200]!r}; {AGAIN}")
        if named.setdefault(labels[number], parts[0]) != parts[0]:
            raise UserError(f"{root / LISTS[1]}: image {number} lies in {parts[0]}, others of its class not; {AGAIN}")
    return tuple(named[label] for label in sorted(named))


def _part(
    root: Path, paths: dict[int, str], labels: dict[int, int], kept: dict[int, str], wanted: str
) -> tuple[FileTable, Labels]:
    table, found, missing = FileTable(), [], []
    for number, path in paths.items():
        if kept[number] not in ("0", "1"):
            raise UserError(f"{root / LISTS[2]}: expected 0 or 1 for image {number}, found {kept[number]!r}; {AGAIN}")
        if kept[number] != wanted:
            continue
        try:
            place = root / "images" / path
            table.add(f"images/{path}", plain_size(place, os.stat(place)))  # noqa: PTH116
        except OSError:
            missing.append(path)
        found.append(labels[number])
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(f"{root / 'images' / missing[0]}{more}: missing, though {LISTS[0]} lists it; {AGAIN}")
    if not found:
        raise UserError(f"{root / LISTS[2]}: expected images marked {wanted}, found none; {AGAIN}")
    return table, np.array(found, np.int64)
