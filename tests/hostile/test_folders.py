"""Folders nested without end, and archives broken in their middle."""

from __future__ import annotations

import contextlib
import io
import os
import random
import resource
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from sdbench import data
from sdbench.data.archives import Unsafe, unpack
from sdbench.data.listing import MAX_DEPTH, images_below
from sdbench.errors import UserError


@contextlib.contextmanager
def nested(top: Path, depth: int) -> Iterator[None]:
    """Folders within folders, made one by one and taken away the same way: ``shutil.rmtree`` goes only so deep."""
    folders = [os.open(top, os.O_DIRECTORY)]
    try:
        for _ in range(depth):
            os.mkdir("d", dir_fd=folders[-1])
            folders.append(os.open("d", os.O_DIRECTORY, dir_fd=folders[-1]))
        yield
    finally:
        while len(folders) > 1:
            os.close(folders.pop())
            os.rmdir("d", dir_fd=folders[-1])
        os.close(folders.pop())


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    for part in ("train", "val"):
        for name in "ab":
            (tmp_path / part / name).mkdir(parents=True)
            Image.new("RGB", (16, 16)).save(tmp_path / part / name / "0.png")
    return tmp_path


def test_folders_without_end_are_refused_in_words(photographs: Path) -> None:
    few = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    with (
        nested(photographs / "train" / "a", min(1200, few - 200)),
        pytest.raises(UserError, match=f"more than {MAX_DEPTH} folders deep"),
    ):
        data.inspect(f"folder:{photographs}")


def test_a_few_are_read_and_links_are_followed_once(photographs: Path) -> None:
    top = photographs / "train" / "a"
    innermost = top.joinpath(*["d"] * MAX_DEPTH)
    innermost.mkdir(parents=True)
    Image.new("RGB", (16, 16)).save(innermost / "1.png")
    (innermost / "loop").symlink_to(top)
    (top / "e").mkdir()
    Image.new("RGB", (16, 16)).save(top / "e" / "2.png")
    found = [path for path, _ in images_below(photographs / "train", "a")]
    assert found == ["a/0.png", "a/" + "d/" * MAX_DEPTH + "1.png", "a/e/2.png"]


def archive(kind: str) -> bytes:
    out, chance = io.BytesIO(), random.Random(0)
    content = bytes(chance.randrange(64) for _ in range(4000))
    if kind.startswith("zip"):
        packing = {"zip": zipfile.ZIP_DEFLATED, "zip-lzma": zipfile.ZIP_LZMA, "zip-bz2": zipfile.ZIP_BZIP2}[kind]
        with zipfile.ZipFile(out, "w", packing) as file:
            file.writestr("a/b", content)
    else:
        with tarfile.open(fileobj=out, mode=f"w:{kind}") as file:  # type: ignore[call-overload]
            member = tarfile.TarInfo("a/b")
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return out.getvalue()


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz", "zip", "zip-lzma", "zip-bz2"])
def test_a_broken_archive_is_no_error_of_its_reader(kind: str, tmp_path: Path) -> None:
    """Bytes changed at a hundred places: unpacked, or refused by what ``unpack`` documents."""
    whole, chance, refused = archive(kind), random.Random(1), 0
    for number in range(100):
        broken = bytearray(whole)
        for _ in range(chance.randint(1, 3)):
            broken[chance.randrange(len(broken))] = chance.randrange(256)
        (tmp_path / "archive").write_bytes(broken if number % 4 else broken[: chance.randrange(len(broken))])
        try:
            unpack(tmp_path / "archive", tmp_path / f"into-{number}", 2**20)
        except (Unsafe, OSError):
            refused += 1
    assert refused > 10
