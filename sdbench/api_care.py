"""The functions of ``sdbench.api`` around a run, as ``sdbench.cli_care`` has the commands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdbench.api_options import Many, One, given, texts

if TYPE_CHECKING:
    from sdbench.preparation import Prepared


def prepare(datasets: Many = None, *, data_dir: One = None, image_size: One = None) -> list[Prepared]:
    """Download, verify and decode data sets, ``sdbench prepare``: where each is, and its fingerprint. Raises UserError
    with the problems of all of them; the others are ready then."""
    from sdbench import preparation

    return preparation.prepare(texts(datasets), given(data_dir), given(image_size))
