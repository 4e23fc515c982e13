"""Whether a machine has a data set, without reading all of it or downloading any."""

from __future__ import annotations

from pathlib import Path

from sdbench import data
from sdbench.data import folder
from sdbench.errors import UserError


def refuse_absent(name: str, data_dir: Path | None, image_size: int | None, fingerprint: str) -> None:
    """Raise UserError where a data set is not here, or is plainly another one.

    name: as records hold it. fingerprint: as it was planned with; compared where the images are made on the spot.
    Files are compared by each trial when it opens them.
    """
    source = data.parse(name)
    if source.kind in data.LOCAL_FIRST:
        if data.find(name, data_dir) is None:
            raise UserError(f"{name}: not here; nothing is downloaded where trials run")
    elif source.kind == "folder":
        root = folder.place(source, data_dir)
        if not (root / "train").is_dir():
            raise UserError(f"{name}: {root} has no folder train/")
    elif source.kind in data.LISTED:
        data.place(name, data_dir)
    else:
        found = data.inspect(name, data_dir, image_size).fingerprint
        if found != fingerprint:
            raise UserError(f"{name}: its images are other ones ({found}, not {fingerprint})")
