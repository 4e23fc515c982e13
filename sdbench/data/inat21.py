"""``inat21``: iNaturalist 2021 as published.

train/ (or 2021_train/), else train_mini/ (or 2021_train_mini/), and val/ (or 2021_valid/), with folders such as
00000_Animalia_Annelida_Clitellata_Haplotaxida_Lumbricidae_Lumbricus_terrestris/, which are numbered by their first five
digits. The folder is --data-dir or SDBENCH_DATA, or inat21/ within it. val/ is the test set: the published test
images have no labels.
"""

from __future__ import annotations

import re
from pathlib import Path

from sdbench.data import cache
from sdbench.data.facts import Source
from sdbench.data.fingerprints import fingerprinted
from sdbench.data.listing import Listing, class_folders, class_images, common_classes
from sdbench.errors import UserError

TRAIN = ("train", "2021_train", "train_mini", "2021_train_mini")
TEST = ("val", "2021_valid")
SPECIES = re.compile(r"\d{5}_.+")
EXPECTED = "train/ or train_mini/, and val/, with a folder for each species, such as 00000_Animalia_Annelida_..."


def _find(data_dir: Path | None) -> tuple[Path, str, str]:
    """The folder, and the names of its training and test parts. UserError with where to get what is not there."""
    named = cache.named_folder(data_dir) or cache.cache_folder()
    for root in (named, named / "inat21"):
        parts = [next((name for name in names if (root / name).is_dir()), None) for names in (TRAIN, TEST)]
        if parts[0] and parts[1]:
            return root, parts[0], parts[1]
        if any(parts):
            missing = "train/ or train_mini/" if parts[1] else "val/"
            archive = f"{missing.partition('/')[0]}.tar.gz"
            raise UserError(f"inat21: {root} has no {missing}; unpack {archive} there as well")
    raise UserError(
        f"inat21: expected {EXPECTED} in {named}, and they are not there; unpack train.tar.gz or train_mini.tar.gz "
        "and val.tar.gz of https://github.com/visipedia/inat_comp/tree/master/2021 there, or give the folder with "
        "--data-dir or SDBENCH_DATA"
    )


def scan(source: Source, data_dir: Path | None) -> Listing:
    """List all images. UserError where the layout is another or files are missing."""
    root, *parts = _find(data_dir)
    names = [class_folders(root, part, EXPECTED) for part in parts]
    for part, found in zip(parts, names, strict=True):
        strange = [name for name in found if not SPECIES.fullmatch(name)]
        if strange:
            raise UserError(f"{root / part / strange[0]}: expected {EXPECTED}")
    classes = common_classes(root, (names[0], names[1]), (parts[0], parts[1]))
    train, test = (class_images(root, part, classes) for part in parts)
    return fingerprinted(root, classes, train, test)


def place(source: Source, data_dir: Path | None) -> Path:
    """The published folder. UserError where it is not there."""
    return _find(data_dir)[0]
