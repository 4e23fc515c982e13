"""Under which licences the authors of methods publish their code. No torch.

They lie in ``methods/licences.toml``, by repository and commit, and not in the methods' own files: those are part of
trials' ids, which a licence has no part in.
"""

from __future__ import annotations

from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated

from pydantic import Field

from sdbench.bounded import parse_toml, read_plain
from sdbench.errors import UserError
from sdbench.spec import Record

MAX_BYTES = 2**16

Official = Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,39}/[\w.-]{1,100}@[0-9a-f]{1,40}$")]
"""``owner/repository@commit``, as a method registers it."""

Licence = Annotated[str, Field(pattern=r"^(none stated|unknown|[A-Za-z0-9][A-Za-z0-9.+-]{0,63})$")]
"""An SPDX identifier, "none stated" (nothing in the repository allows its use) or "unknown" (nobody could look)."""


class _File(Record):
    licences: dict[Official, Licence]


def known_licences(path: Path | None = None) -> dict[str, str]:
    """The licence of each repository in the file.

    path: a file with a table ``[licences]``; by default the one that comes with sdbench. Raises UserError where it
    cannot be read, is larger than ``MAX_BYTES`` or holds anything else.
    """
    file: Traversable = path or resources.files("sdbench.methods").joinpath("licences.toml")
    try:
        content = file.read_bytes() if path is None else read_plain(path, MAX_BYTES)
        return dict(_File.model_validate(parse_toml(content)).licences)
    except (OSError, ValueError) as error:  # TOML's and pydantic's own, and bytes that are not UTF-8
        raise UserError(
            f'{file}: not the licences of repositories ({error}); give a table [licences] of "owner/repository@commit" '
            "and an SPDX identifier, or install sdbench again if you did not write the file"
        ) from error


def licence_of(official: str) -> str:
    """The licence of ``owner/repository@commit``; empty where there is no such entry, as for most plug-ins."""
    return known_licences().get(official, "")
