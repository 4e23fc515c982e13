"""CIFAR-10 and CIFAR-100 as published, never opened before their sums are checked.

The published files are pickles, which can run code when they are opened: the very bytes that are opened are compared
with the published sums first, and nothing but arrays and plain values can come of them. A download goes into a folder
of its own; the archive is checked before it is unpacked, the files after, and the folder is moved into place whole,
so that one that broke off is never used.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import shutil
import sys
import tempfile
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from sdbench.bounded import open_plain, read_plain
from sdbench.data.archives import Unsafe, difference, fetch, unpack
from sdbench.data.cache import cache_folder, named_folder
from sdbench.data.facts import Arrays, DataFacts, DatasetInfo, Labels, Pixels, Source
from sdbench.errors import UserError

MAX_BYTES = 2**29
"""Of an archive, and of all that it holds; the published ones have less than half of that."""

NEEDED = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}
"""All that the published files name, and what stands for bytes in newer pickles of the same arrays."""

TIMEOUT_S = 60.0
"""Longest silence of the server during a download."""


@dataclass(frozen=True)
class Published:
    """One published archive. sums: MD5 of each file in ``folder``, in torchvision's order.

    torchvision: the class's name in ``torchvision.datasets``. names_file, names_key: where the
    class names are. sha256: of the archive, and of those files in it of which it is known, by name.
    num_train, num_test: images in each part.
    """

    torchvision: str
    folder: str
    archive: str
    sums: dict[str, str]
    names_file: str
    names_key: str
    sha256: dict[str, str]
    num_train: int = 50_000
    num_test: int = 10_000

    def expected(self, file: str) -> dict[str, str]:
        """All that is known of a file in ``folder``: its sums by algorithm."""
        return {"md5": self.sums[file]} | ({"sha256": self.sha256[file]} if file in self.sha256 else {})


# SHA-256 of the archives: keras-team/keras, `file_hash` in keras/src/datasets/cifar10.py (7e4b17c) and cifar100.py
# (69b9ad0); the same in pytorch/vision@0b02d42, torchvision/prototype/datasets/_builtin/cifar.py.
# SHA-256 of CIFAR-100's files: computed from files that have torchvision's MD5.
PUBLISHED = {
    "cifar10": Published(
        torchvision="CIFAR10",
        folder="cifar-10-batches-py",
        archive="cifar-10-python.tar.gz",
        sums={
            "data_batch_1": "c99cafc152244af753f735de768cd75f",
            "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "data_batch_4": "634d18415352ddfa80567beed471001a",
            "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
            "test_batch": "40351d587109b95175f43aff81a1287e",
            "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
        },
        names_file="batches.meta",
        names_key="label_names",
        sha256={"cifar-10-python.tar.gz": "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"},
    ),
    "cifar100": Published(
        torchvision="CIFAR100",
        folder="cifar-100-python",
        archive="cifar-100-python.tar.gz",
        sums={
            "train": "16019d7e3df5f24257cddd939b257f8d",
            "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
            "meta": "7973b15100ade9c7d40fb424638fde48",
        },
        names_file="meta",
        names_key="fine_label_names",
        sha256={
            "cifar-100-python.tar.gz": "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
            "train": "735e79b04f092ca3d2e6d07f368c0a7d70d48c48d28865950cc24454cf45129b",
            "test": "4b67687d9933c4db8f0831104447f15b93774f4f464bd0516f0f0f2ac83b7864",
            "meta": "a5d4786345c961390f865e93b434dbd5c6904ce880667e0cb888c97d449f28b9",
        },
    ),
}


def find(name: str, data_dir: Path | None) -> Path | None:
    """The folder that holds the published folder of ``name``, its files verified; None where the
    default place has none yet. Nothing is downloaded.

    data_dir: where the user said the data are, else the environment's SDBENCH_DATA says so, else
    the cache folder is the default place. UserError where the user named a place without the data,
    or a file is missing or is not the published one.
    """
    published = PUBLISHED[name]
    named = named_folder(data_dir)
    root = cache_folder() if named is None else named.parent if named.name == published.folder else named
    if (root / published.folder).is_dir():
        _verify(published, root)
        return root
    if named is None:
        return None
    packed = root / published.archive
    remedy = (
        f"unpack it there: tar -xzf {packed} -C {root}"
        if packed.is_file()
        else (f"unpack {published.archive} there, or leave --data-dir and SDBENCH_DATA out to have it downloaded")
    )
    raise UserError(f"{name}: expected the folder {published.folder} in {named}, and it is not there; {remedy}")


def _verify(published: Published, root: Path) -> None:
    """Compare every file with its published sums. UserError names all that differ."""
    problems = []
    for file, expected in published.sums.items():
        path = root / published.folder / file
        try:
            with open_plain(path) as opened:
                differs = difference(opened, published.expected(file))
        except FileNotFoundError:
            problems.append(f"{path}: missing; expected the published file with MD5 {expected}")
        except OSError as error:
            problems.append(f"{path}: cannot be read ({error}); expected the published file with MD5 {expected}")
        else:
            if differs:
                problems.append(f"{path}: {differs}; the file is cut off or is another one")
    if problems:
        folder = root / published.folder
        problems.append(
            f"remove the folder {folder}, then unpack {published.archive} there again, or run the command without "
            "--data-dir and SDBENCH_DATA to have it downloaded"
        )
        raise UserError(problems)


def _obtain(name: str, data_dir: Path | None) -> Path:
    """The folder that holds the verified data, downloaded now if the default place lacks them."""
    return find(name, data_dir) or _download(name, PUBLISHED[name])


def _download(name: str, published: Published) -> Path:
    from torchvision import datasets

    torchvision_class = getattr(datasets, published.torchvision)
    root = cache_folder()
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f".{name}.lock"):
            for left_over in root.glob(f".{name}-download-*"):
                shutil.rmtree(left_over)
            if not (root / published.folder).is_dir():  # another process may have been faster
                with tempfile.TemporaryDirectory(dir=root, prefix=f".{name}-download-") as temporary:
                    print(f"Downloading {torchvision_class.url} ...", file=sys.stderr)
                    packed = Path(temporary) / published.archive
                    sums = {"md5": torchvision_class.tgz_md5, "sha256": published.sha256[published.archive]}
                    fetch(torchvision_class.url, packed, sums, MAX_BYTES, TIMEOUT_S)
                    unpack(packed, Path(temporary), MAX_BYTES)
                    _verify(published, Path(temporary))
                    (Path(temporary) / published.folder).replace(root / published.folder)
    except (OSError, HTTPException, Unsafe) as error:
        raise UserError(
            f"{name}: downloading {torchvision_class.url} to {root} failed ({error}). Check the network and run the "
            f"command again, or get {published.archive} by other means, unpack it in a folder and give that "
            "folder with --data-dir"
        ) from error
    _verify(published, root)
    return root


def place(source: Source, data_dir: Path | None) -> Path:
    """The published folder, or where a download would put it."""
    return (find(source.kind, data_dir) or cache_folder()) / PUBLISHED[source.kind].folder


def inspect(source: Source, info: DatasetInfo, data_dir: Path | None, image_size: int) -> DataFacts:
    """What is known of the verified files, which are downloaded first if need be."""
    return _facts(source, info, _obtain(source.kind, data_dir), image_size)


def _facts(source: Source, info: DatasetInfo, root: Path, image_size: int) -> DataFacts:
    published = PUBLISHED[source.kind]
    names = _contents(published, root, published.names_file)[published.names_key]
    sums = hashlib.blake2b("".join(sorted(published.sums.values())).encode(), digest_size=16)
    return DataFacts(
        name=source.name,
        fingerprint=f"published:{sums.hexdigest()}",
        num_classes=len(names),
        num_train=published.num_train,
        num_test=published.num_test,
        image_size=image_size,
        augment=info.augment,
        class_names=tuple(names),
    )


def load_arrays(source: Source, info: DatasetInfo, data_dir: Path | None, image_size: int) -> Arrays:
    """The verified images and labels, in memory."""
    root = _obtain(source.kind, data_dir)
    train, test = (_part(PUBLISHED[source.kind], root, train=train) for train in (True, False))
    return Arrays(_facts(source, info, root, image_size), *train, *test)


def _part(published: Published, root: Path, *, train: bool) -> tuple[Pixels, Labels]:
    names = [name for name in published.sums if name != published.names_file and name.startswith("test") != train]
    found = [_contents(published, root, name) for name in names]
    labels = [each.get("labels", each.get("fine_labels")) for each in found]
    pixels = np.vstack([each["data"] for each in found]).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(pixels), np.concatenate([np.array(each, np.int64) for each in labels])


class _Reader(pickle.Unpickler):
    """Makes arrays and plain values only."""

    def find_class(self, module: str, name: str) -> Any:
        if (module.replace("numpy._core", "numpy.core"), name) in NEEDED:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} is not part of the published files")


def _contents(published: Published, root: Path, name: str) -> dict[str, Any]:
    """What a published file holds. Its bytes are compared with their sums once more, then opened."""
    path = root / published.folder / name
    content = read_plain(path, MAX_BYTES)
    if difference(io.BytesIO(content), published.expected(name)):
        raise UserError(f"{path}: changed while it was read; run the command again")
    found: dict[str, Any] = _Reader(io.BytesIO(content), encoding="latin1").load()
    return found
