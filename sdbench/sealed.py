"""Records as files: the text that carries its own SHA-256, and what is checked before one is believed. No torch."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from sdbench.bounded import open_plain, read_plain
from sdbench.record import Sealed
from sdbench.spec import SCHEMA_VERSION, TrialResult

MAX_RECORD_BYTES = 16 * 2**20
MAX_RECORD_VALUES = 100_000
"""Commas in a record's text: a bound of what reading it can take, which bytes alone do not give."""

_ZERO = "0" * 64

AnyRecord = TypeVar("AnyRecord", bound=Sealed)


class DamagedRecord(Exception):
    """A record that cannot be trusted; the text says why. kind: "unreadable", "schema", "newer" or "checksum"."""

    def __init__(self, reason: str, kind: str = "unreadable") -> None:
        super().__init__(reason)
        self.kind = kind


def sha256(path: Path) -> str:
    """SHA-256 of a plain file's content, in hexadecimal. Raises OSError for a pipe, a device, a folder."""
    with open_plain(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


def seal(record: Sealed, name: str = "trial.json") -> str:
    """The text of a record, with its own SHA-256 (taken with 64 zeros in its place) under ``name``."""
    open_ = record.model_copy(update={"checksums": {**record.checksums, name: _ZERO}})
    text = open_.model_dump_json(indent=1) + "\n"
    mark = f'"{name}": "'
    return text.replace(mark + _ZERO, mark + hashlib.sha256(text.encode()).hexdigest())


def read_sealed(path: Path, kind: type[AnyRecord], newest_schema: int) -> AnyRecord:
    """Read and check one record; its seal stands under its file's name. Raises DamagedRecord where it
    cannot be trusted, FileNotFoundError where there is none."""
    name = "trial.json" if kind is TrialResult else path.name
    try:
        text = read_plain(path, MAX_RECORD_BYTES).decode()
        if text.count(",") > MAX_RECORD_VALUES:
            raise DamagedRecord(f"more than {MAX_RECORD_VALUES} values")
        # Before its fields are looked at, which a newer one need not have as they are here.
        version = re.search(r'"schema_version"\s*:\s*(\d{1,9})\s*[,}]', text)
        if version:
            _refuse_newer(int(version[1]), newest_schema)
        record = kind.model_validate_json(text)
        _refuse_newer(record.schema_version, newest_schema)
    except FileNotFoundError as error:
        if path.is_symlink():
            raise DamagedRecord("a link to nothing") from error
        raise
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the record"
        fault = "unreadable" if first["type"] == "json_invalid" else "schema"
        raise DamagedRecord(f"{where}: {first['msg']}", fault) from error
    except OSError as error:
        raise DamagedRecord(error.strerror or str(error)) from error
    except (ValueError, RecursionError) as error:
        raise DamagedRecord(f"{type(error).__name__}: {error}") from error
    mark = f'"{name}": "'
    expected = record.checksums.get(name, "")
    opened = text.replace(mark + expected, mark + _ZERO)
    if hashlib.sha256(opened.encode()).hexdigest() != expected:
        raise DamagedRecord("its checksum does not match: it was changed after it was written", "checksum")
    return record


def _refuse_newer(version: int, newest: int) -> None:
    if version > newest:
        raise DamagedRecord(f"schema {version} is newer than this sdbench reads ({newest}); upgrade sdbench", "newer")


def read_result(path: Path) -> TrialResult:
    """Read and check one trial's record, as ``read_sealed`` does."""
    return read_sealed(path, TrialResult, SCHEMA_VERSION)
