"""``sdbench prepare``: data sets downloaded, verified and decoded before a run, which then needs no network."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from sdbench import data
from sdbench.errors import UserError
from sdbench.paths import path_of
from sdbench.request import Problems
from sdbench.selectors import split_list
from sdbench.spec import Count, Record


class Prepared(Record):
    """One data set, ready to be trained on. place: where its files are. fingerprint: what records name it by.
    image_size: side in pixels. found: whether it was there before. bytes: that its files take."""

    name: str
    place: str
    found: bool
    fingerprint: str
    num_classes: Count
    num_train: Count
    num_test: Count
    image_size: Count
    bytes: Count

    @property
    def text(self) -> str:
        what = "was there, verified" if self.found else "made ready"
        return (
            f"{self.name}: {what}; {self.num_classes} classes, {self.num_train:,} + {self.num_test:,} images of "
            f"{self.image_size} pixels, {self.bytes / 2**20:.1f} MiB in {self.place}; fingerprint {self.fingerprint}"
        )


def prepare(names: Sequence[str], data_dir: str | None = None, image_size: str | None = None) -> list[Prepared]:
    """Make every data set ready, which takes no network where it is ready already.

    Raises UserError with the problems of all of them: a name that is none before anything is downloaded; where one
    cannot be had, the others are ready all the same.
    """
    wanted = split_list(names)
    if not wanted:
        raise UserError(f"name the data sets to prepare: {', '.join(data.DATASETS)}; such as: sdbench prepare glyphs")
    if image_size is not None and not re.fullmatch(r"[0-9]{1,9}", image_size):
        raise UserError(f"--image-size {image_size!r}: expected a whole number of pixels")
    location, size = (
        path_of(data_dir).absolute() if data_dir else None,
        int(image_size) if image_size else None,
    )
    judged = Problems()
    for name in wanted:
        judged.attempt(lambda name=name: data.parse(name))  # type: ignore[misc]
    if judged.found:  # before any download
        raise UserError(judged.found)
    ready = [judged.attempt(lambda name=name: _prepare(name, location, size)) for name in dict.fromkeys(wanted)]  # type: ignore[misc]
    if judged.found:
        raise UserError(judged.found)
    return [each for each in ready if each is not None]


def _prepare(name: str, location: Path | None, size: int | None) -> Prepared:
    before = data.place(name, location).exists()
    try:
        facts = data.prepare(name, location, size)
    except OSError as error:
        raise UserError(f"{name}: {error}; make room or mend the rights there, and prepare it again") from error
    place = data.place(name, location)
    return Prepared(
        name=facts.name,
        place=str(place),
        found=before,
        fingerprint=facts.fingerprint,
        num_classes=facts.num_classes,
        num_train=facts.num_train,
        num_test=facts.num_test,
        image_size=facts.image_size,
        bytes=_size(place),
    )


def _size(place: Path) -> int:
    files = place.rglob("*") if place.is_dir() else [place] if place.exists() else []
    return sum(file.lstat().st_size for file in files if not file.is_dir())
