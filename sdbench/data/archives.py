"""Archives from elsewhere: their hash is checked before they are opened, and they are unpacked within a folder."""

from __future__ import annotations

import hashlib
import lzma
import os
import tarfile
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import IO

CHUNK = 2**20
MAX_MEMBERS = 1_000_000


WORDS = {"md5": "MD5", "sha256": "SHA-256"}
"""How people write the algorithms that sums are published of."""


class Unsafe(ValueError):
    """An archive that is not unpacked, or a download that is not used; the text says why."""


class Comparison:
    """Bytes that come in pieces, compared with all that is published of them.

    sums: sum in hexadecimal digits by algorithm, of those in ``WORDS``; at least one.
    """

    def __init__(self, sums: Mapping[str, str]) -> None:
        if not sums:
            raise ValueError("nothing to compare with")
        self.size = 0
        self._expected = dict(sums)
        self._found = {name: hashlib.new(name, usedforsecurity=False) for name in sums}

    def add(self, piece: bytes) -> None:
        self.size += len(piece)
        for found in self._found.values():
            found.update(piece)

    def difference(self) -> str:
        """The first sum that differs, and what was expected; empty where all agree."""
        for name, expected in self._expected.items():
            found = self._found[name].hexdigest()
            if found != expected:
                return f"{WORDS[name]} {found} of {self.size:,} bytes, expected {expected}"
        return ""


def difference(file: IO[bytes], sums: Mapping[str, str]) -> str:
    """How the rest of an open file differs from its published sums, as ``Comparison`` says it; empty if it does not."""
    comparison = Comparison(sums)
    while chunk := file.read(CHUNK):
        comparison.add(chunk)
    return comparison.difference()


def fetch(address: str, path: Path, sums: Mapping[str, str], limit: int, timeout_s: float) -> None:
    """Download ``address`` to ``path``, which comes to be only when it is whole and has these sums (``Comparison``).

    Raises OSError and HTTPException for what the network does, Unsafe for more than ``limit`` bytes or another sum.
    """
    partial = path.with_name(f".{path.name}.part")
    comparison = Comparison(sums)
    try:
        request = urllib.request.Request(address, headers={"User-Agent": "sdbench"})
        with urllib.request.urlopen(request, timeout=timeout_s) as answer, partial.open("xb") as file:
            while chunk := answer.read(CHUNK):
                comparison.add(chunk)
                if comparison.size > limit:
                    raise Unsafe(f"{address} sends more than {limit} bytes")
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        if differs := comparison.difference():
            raise Unsafe(f"{address}: {differs}")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


BROKEN = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError)
OTHERS = (EOFError, ValueError, RuntimeError, NotImplementedError)
"""What the readers of archives raise, of their own and beside."""


def unpack(archive: Path, folder: Path, limit: int) -> None:
    """Unpack a tar archive, however compressed, or a zip archive into an empty or missing folder.

    Only folders and plain files are made, below ``folder``, of at most ``limit`` bytes in all. Raises Unsafe where a
    member is anything else (a link, a device), leaves the folder or comes twice, or there are too many bytes; what was
    unpacked till then stays. Raises OSError where it cannot be read or written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    room = limit
    try:
        with ExitStack() as stack:
            for count, (name, source) in enumerate(_members(archive, stack)):
                if count >= MAX_MEMBERS:
                    raise Unsafe(f"{archive.name}: more than {MAX_MEMBERS} members")
                target = folder / _inside(archive, name)
                if source is None:
                    target.mkdir(parents=True, exist_ok=True)
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                with source, target.open("xb") as file:
                    while chunk := source.read(min(CHUNK, room + 1)):
                        room -= len(chunk)
                        if room < 0:
                            raise Unsafe(f"{archive.name}: unpacks to more than {limit} bytes")
                        file.write(chunk)
    except FileExistsError as error:
        raise Unsafe(f"{archive.name}: {error.filename} comes twice, or was there before") from error
    except (*BROKEN, *OTHERS) as error:
        if isinstance(error, Unsafe):
            raise
        raise Unsafe(f"{archive.name}: cannot be unpacked ({error})") from error


def _members(archive: Path, stack: ExitStack) -> Iterator[tuple[str, IO[bytes] | None]]:
    """Name and content of each file, None for a folder. Raises Unsafe for any other member."""
    if zipfile.is_zipfile(archive):
        packed = stack.enter_context(zipfile.ZipFile(archive))
        for entry in packed.infolist():
            kind = entry.external_attr >> 28  # the upper bits of a Unix mode; 0 where none was stored
            if kind not in (0, 0o4, 0o10):
                raise Unsafe(f"{archive.name}: {entry.filename[:100]!r} is neither file nor folder")
            yield entry.filename, None if entry.is_dir() else packed.open(entry)
        return
    with tarfile.open(archive, "r|*") as tape:
        for member in tape:
            if not (member.isreg() or member.isdir()) or member.issparse():
                raise Unsafe(f"{archive.name}: {member.name[:100]!r} is neither file nor folder")
            yield member.name, tape.extractfile(member)


def _inside(archive: Path, name: str) -> PurePosixPath:
    """A member's name as a path below a folder."""
    path = PurePosixPath(name)
    odd = "\\" in name or ":" in name or not name.isprintable() or len(name) > 1000
    if path.is_absolute() or ".." in path.parts or odd:
        raise Unsafe(f"{archive.name}: {name[:100]!r} leads out of its folder, or nowhere")
    return path
