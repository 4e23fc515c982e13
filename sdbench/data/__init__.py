"""Data sets: names, checks before training, and batches on the device.

``import sdbench.data`` loads no torch, and neither does ``inspect`` where nothing has to be made.
"""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from sdbench.data.facts import DataFacts, DatasetInfo, Source
from sdbench.errors import UserError, unknown
from sdbench.paths import path_of

if TYPE_CHECKING:
    import torch

    from sdbench.data.dataset import DataSet as DataSet
    from sdbench.data.listing import Listing

__all__ = [
    "DATASETS",
    "LISTED",
    "LOCAL_FIRST",
    "DataFacts",
    "DataSet",
    "DatasetInfo",
    "Source",
    "canonical_name",
    "find",
    "inspect",
    "listed",
    "load",
    "parse",
    "place",
    "prepare",
]

LONGEST_NAME = 4096

IMAGE_SIZES = range(8, 4097)
"""Sides in pixels that may be asked for where the data set leaves the choice."""


def _photographs(name: str, summary: str, num_classes: int | None, source: str) -> DatasetInfo:
    """Image files of any size, shown as ImageNet's are by custom: crops of 224 pixels, its mean and deviation."""
    return DatasetInfo(
        name=name,
        summary=summary,
        num_classes=num_classes,
        image_size=224,
        image_sizes=(),
        augment="resized-crop-flip",
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        source=source,
    )


DATASETS: dict[str, DatasetInfo] = {
    info.name: info
    for info in (
        DatasetInfo(
            name="glyphs",
            summary="accented letters, 100 classes in 20 families, 10,000 + 2,000 images; made on the spot",
            num_classes=100,
            image_size=32,
            image_sizes=(32,),
            augment="crop",
            mean=(0.2753, 0.2742, 0.2761),
            std=(0.1763, 0.1764, 0.1764),
            source="drawn from the fonts that come with matplotlib; not natural images, not to be quoted",
        ),
        DatasetInfo(
            name="cifar10",
            summary="CIFAR-10, 10 classes, 50,000 + 10,000 images",
            num_classes=10,
            image_size=32,
            image_sizes=(32,),
            augment="crop-flip",
            mean=(0.4914, 0.4822, 0.4465),
            std=(0.2470, 0.2435, 0.2616),
            source="https://www.cs.toronto.edu/~kriz/cifar.html; downloaded at first use",
        ),
        DatasetInfo(
            name="cifar100",
            summary="CIFAR-100, 100 classes in 20 superclasses, 50,000 + 10,000 images",
            num_classes=100,
            image_size=32,
            image_sizes=(32,),
            augment="crop-flip",
            mean=(0.5071, 0.4865, 0.4409),
            std=(0.2673, 0.2564, 0.2762),
            source="https://www.cs.toronto.edu/~kriz/cifar.html; downloaded at first use",
        ),
        DatasetInfo(
            name="tinyimagenet",
            summary="Tiny ImageNet, 200 classes, 100,000 + 10,000 images of 64x64, shown at 32x32",
            num_classes=200,
            image_size=32,
            image_sizes=(32, 64),
            augment="resized-crop-flip",
            mean=(0.4802, 0.4481, 0.3975),
            std=(0.2770, 0.2691, 0.2821),
            source="http://cs231n.stanford.edu/tiny-imagenet-200.zip; unpack it and give --data-dir",
        ),
        _photographs(
            name="imagenet",
            summary="ImageNet (ILSVRC 2012), 1,000 classes, 1,281,167 + 50,000 images",
            num_classes=1_000,
            source="https://www.image-net.org, on request; train/<wnid>/ and val/ below --data-dir",
        ),
        _photographs(
            name="inat21",
            summary="iNaturalist 2021, 10,000 species, 2,686,843 + 100,000 images (train_mini: 500,000)",
            num_classes=10_000,
            source="https://github.com/visipedia/inat_comp/tree/master/2021; train/ or train_mini/, and val/",
        ),
        _photographs(
            name="cub200",
            summary="CUB-200-2011, 200 species of birds, 5,994 + 5,794 images",
            num_classes=200,
            source="https://data.caltech.edu/records/65de6-vp158; CUB_200_2011/ below --data-dir",
        ),
        _photographs(
            name="folder",
            summary="folder:PATH, your own images in PATH/train/<class>/ and PATH/val/<class>/",
            num_classes=None,
            source="a folder in torchvision's ImageFolder layout; normalized as ImageNet is",
        ),
    )
}

LOCAL_FIRST = ("cifar10", "cifar100")
"""Data sets that are looked for on this machine and downloaded if they are not there."""

LISTED = ("imagenet", "inat21", "cub200", "folder")
"""Data sets of image files that are read while training, unless they are small."""

_MODULES = {
    "glyphs": "sdbench.data.glyphs",
    "cifar10": "sdbench.data.cifar",
    "cifar100": "sdbench.data.cifar",
    "tinyimagenet": "sdbench.data.tinyimagenet",
    "imagenet": "sdbench.data.imagenet",
    "inat21": "sdbench.data.inat21",
    "cub200": "sdbench.data.cub200",
    "folder": "sdbench.data.folder",
}


def parse(name: str) -> Source:
    """A data set's name taken apart: one of ``DATASETS``, or ``folder:PATH``.

    UserError with near matches for any other name, or where the path is empty.
    """
    if len(name) > LONGEST_NAME or "\0" in name:
        raise UserError(
            f"data set {name[:40]!r}...: a name has at most {LONGEST_NAME} characters, and no null among them"
        )
    kind, colon, place = name.partition(":")
    if kind == "folder":
        location = path_of(place)
        # The path is taken as text: what a link points to must not change the data set's name.
        own_name = os.path.basename(os.path.abspath(location))  # noqa: PTH100, PTH119
        if not place or not own_name:
            raise UserError(f"data set {name!r}: give the path of a folder of images, for example folder:data/birds")
        return Source("folder", f"folder:{own_name}", location)
    if colon or kind not in DATASETS:
        raise UserError(unknown("data set", name, [*(k for k in DATASETS if k != "folder"), "folder:PATH"]))
    return Source(kind, kind)


def canonical_name(name: str) -> str:
    """The name that records hold, without the host's paths.

    >>> canonical_name("folder:/a/b/birds")
    'folder:birds'
    """
    return parse(name).name


def _checked_size(source: Source, info: DatasetInfo, image_size: int | None) -> int | None:
    allowed = info.image_sizes or IMAGE_SIZES
    if image_size is not None and image_size not in allowed:
        choice = (
            "is " + " or ".join(map(str, info.image_sizes))
            if info.image_sizes
            else f"is from {IMAGE_SIZES.start} to {IMAGE_SIZES.stop - 1}"
        )
        raise UserError(f"{source.name}: --image-size {choice} pixels, got {image_size}")
    return image_size if image_size or source.kind == "folder" else info.image_size


def _opened(name: str, image_size: int | None) -> tuple[Any, Source, DatasetInfo, int | None]:
    source = parse(name)
    info = DATASETS[source.kind]
    return import_module(_MODULES[source.kind]), source, info, _checked_size(source, info, image_size)


def inspect(name: str, data_dir: Path | None = None, image_size: int | None = None) -> DataFacts:
    """What is known of a data set once its files have been found, downloaded or made, and checked.

    data_dir: the folder that holds the data; None for the environment's SDBENCH_DATA, or else the
    cache folder. For a name as ``canonical_name`` gives it, the folder of images itself.
    image_size: side in pixels at which images are shown; None for the data set's own.
    UserError names each file that is missing, cut off or not the expected one, and what to do.
    """
    module, source, info, size = _opened(name, image_size)
    if source.kind in LISTED:
        from sdbench.data.listing import facts_of

        return facts_of(module.scan(source, data_dir), source, info, size)
    return cast(DataFacts, module.inspect(source, info, data_dir, size))


def find(name: str, data_dir: Path | None = None) -> Path | None:
    """Where a data set of ``LOCAL_FIRST`` is, verified; None where it would have to be downloaded.
    UserError where a folder that the user named lacks it or holds other files."""
    from sdbench.data import cifar

    return cifar.find(parse(name).kind, data_dir)


def place(name: str, data_dir: Path | None = None) -> Path:
    """Where the files of a data set are, or will be once they were downloaded or made."""
    module, source, _, _ = _opened(name, None)
    return cast(Path, module.place(source, data_dir))


def prepare(name: str, data_dir: Path | None = None, image_size: int | None = None) -> DataFacts:
    """As ``inspect``, and whatever a run would decode and keep in the cache folder is there afterwards."""
    module, source, info, size = _opened(name, image_size)
    if source.kind in LISTED:
        return inspect(name, data_dir, image_size)
    return cast(DataFacts, module.load_arrays(source, info, data_dir, size).facts)


def listed(name: str, data_dir: Path | None = None) -> Listing | None:
    """The files of a data set of ``LISTED``, found and checked; None for others."""
    source = parse(name)
    if source.kind not in LISTED:
        return None
    return cast("Listing", import_module(_MODULES[source.kind]).scan(source, data_dir))


def load(
    name: str,
    data_dir: Path | None = None,
    image_size: int | None = None,
    *,
    device: torch.device,
    split: float = 0.0,
    workers: int = 0,
    batch_size: int = 128,
) -> DataSet:
    """A data set opened for training on ``device``; the first three arguments as for ``inspect``.

    split: share of the training images held out, in [0, 1): stratified, and the same for every
    method and seed. workers: processes that decode images where they are streamed. batch_size: for
    which memory is set aside where it is decided whether images can be held on the device.
    """
    from sdbench.data.resident import ResidentSet
    from sdbench.data.stream import open_listing

    module, source, info, size = _opened(name, image_size)
    if source.kind in LISTED:
        return open_listing(
            module.scan(source, data_dir),
            source,
            info,
            size,
            device=device,
            split=split,
            workers=workers,
            batch_size=batch_size,
        )
    arrays = module.load_arrays(source, info, data_dir, size)
    return ResidentSet(arrays, info, device=device, split=split)


def __getattr__(name: str) -> Any:
    if name == "DataSet":
        from sdbench.data.dataset import DataSet

        return DataSet
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
