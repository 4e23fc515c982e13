"""Data sets from elsewhere: images, lists, pickles, archives."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import pickle
import struct
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from sdbench import data
from sdbench.data import cifar
from sdbench.data.archives import Unsafe, fetch, unpack
from sdbench.data.decode import MAX_PIXELS, image_size, read_image
from sdbench.errors import UserError

from .conftest import tree


def png(width: int, height: int, rows: int) -> bytes:
    """A PNG that declares a size, with so many rows of zeros behind it."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    packer = zlib.compressobj(1)
    packed = b"".join(packer.compress(b"\0" * (1 + 3 * width)) for _ in range(rows)) + packer.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(owned) (w) file\nshowpage\n"


@pytest.fixture
def images(tmp_path: Path) -> Callable[..., Path]:
    """A folder data set of eight small images; one more file where the test wants it."""

    def make(content: bytes | None = None, name: str = "bad.png") -> Path:
        root = tmp_path / "set"
        for n, part in enumerate(("train", "val")):
            for label in ("a", "<b>"):
                (root / part / label).mkdir(parents=True)
                for i in range(2):
                    Image.new("RGB", (16, 16), (n * 9, i * 9, 9)).save(root / part / label / f"{i}.png")
        if content is not None:
            (root / "train" / "a" / name).write_bytes(content)
        return root

    return make


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (png(60_000, 60_000, 1), "bad.png"),
        (png(9000, 9000, 9000), "bad.png"),
        (png(2**31 - 1, 1, 1), "bad.png"),
        (EPS, "bad.png"),
        (EPS, "bad.jpg"),
        (b"GIF89a" + b"\0" * 100, "bad.png"),
        (b"%PDF-1.4", "bad.png"),
        (b"P6\n99999 99999\n255\n", "bad.ppm"),
        (b"II*\0\xff\xff\xff\x7f", "bad.tif"),
        (b"RIFF\xff\xff\xff\x7fWEBPVP8X", "bad.webp"),
        (b"", "bad.png"),
        (png(16, 16, 16)[:-30], "bad.png"),
    ],
)
def test_a_hostile_image_is_named(images: Any, tmp_path: Path, content: bytes, name: str, bounded: Any) -> None:
    root = images(content, name)
    before = tree(tmp_path)
    code = (
        "from pathlib import Path\nfor look in (read_image, image_size):\n"
        "    try:\n        look(Path(sys.argv[1]))\n    except UserError as error:\n        print('refused')"
    )
    ready = "from sdbench.data.decode import read_image, image_size\nfrom sdbench.errors import UserError"
    assert bounded(code, root / "train" / "a" / name, ready=ready, room=2**28).startswith("refused")
    assert tree(tmp_path) == before


def test_an_image_at_the_limit_is_read_within_a_gigabyte(tmp_path: Path, bounded: Any) -> None:
    side = int(MAX_PIXELS**0.5)
    path = tmp_path / "large.png"
    path.write_bytes(png(side, side, side))
    code = "from pathlib import Path\nprint(read_image(Path(sys.argv[1])).size)"
    assert bounded(code, path, ready="from sdbench.data.decode import read_image").strip() == f"({side}, {side})"


VIEWED = """
from pathlib import Path
root, view, size = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
drawn = (((7,),), ((True,),)) if view == "box" else ()
wanted = Wanted(("bad.png",), *drawn)
answer = Decoder(root, None, size)[Request(view, (wanted,))]
print(*answer.problems if isinstance(answer, Refusal) else {tuple(t.shape) for group in answer for t in group})
"""
VIEWER = "from sdbench.data.stream import Decoder, Refusal, Request, Wanted"


@pytest.mark.parametrize(
    ("view", "size", "width", "height", "scaled"),
    [
        ("central", 224, 8, 131_072, "256x4194304"),
        ("central", 224, 131_072, 8, "4194304x256"),
        ("central", 224, 1, 66_000, "256x16896000"),
        ("central", 224, 16, 16_385, "256x262160"),
        ("central", 4096, 100, 400, "4681x18724"),
        ("scaled", 224, 1, 2**20, "224x1048576"),
    ],
)
def test_a_long_narrow_image_is_not_scaled_beyond_the_limit(
    tmp_path: Path, bounded: Any, view: str, size: int, width: int, height: int, scaled: str
) -> None:
    """A few kilobytes of PNG, whose test view would be cut from gigabytes."""
    (tmp_path / "bad.png").write_bytes(png(width, height, height))
    said = bounded(VIEWED, tmp_path, view, size, ready=VIEWER, room=2**28)
    assert said.startswith(f"{tmp_path / 'bad.png'}: expected an image that can be shown within {MAX_PIXELS} pixels")
    assert f"found one of {width}x{height}, for which {scaled} would be made; crop it, remove it" in said


@pytest.mark.parametrize(
    ("view", "size", "width", "height"),
    [
        ("central", 224, 16, 16_384),
        ("central", 224, 16_384, 16),
        ("central", 224, 4096, 16_384),
        ("central", 224, 1, 1024),
        ("box", 224, 1, 2**22),
        ("box", 224, 2**22, 1),
        ("box", 4096, 5000, 5000),
    ],
)
def test_what_can_be_scaled_is_scaled_within_a_gigabyte(
    tmp_path: Path, bounded: Any, view: str, size: int, width: int, height: int
) -> None:
    (tmp_path / "bad.png").write_bytes(png(width, height, height))
    said = bounded(VIEWED, tmp_path, view, size, ready=VIEWER, room=2**30)
    assert said.strip() == str((1, size, size, 3))


def test_a_test_view_that_is_too_large_ends_a_trial_with_its_name(images: Any) -> None:
    root = images()
    (root / "val" / "a" / "long.png").write_bytes(png(131_072, 8, 8))
    with pytest.raises(UserError, match=r"long\.png: .*131072x8, for which 4194304x256 would be made"):
        list(data.load(f"folder:{root}", device=torch.device("cpu")).test_batches(4))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "LA", "I", "I;16", "F", "CMYK", "YCbCr"])
def test_odd_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "image.tif"
    Image.new(mode, (8, 8)).save(path)
    assert read_image(path).mode == "RGB"
    assert image_size(path) == (8, 8)


@pytest.mark.parametrize("kind", ["fifo", "/dev/zero", "loop", "sparse"])
def test_an_odd_file_is_no_image(images: Any, kind: str, odd_file: Any) -> None:
    root = images()
    odd_file(root / "train" / "a" / "odd.png", kind)
    with pytest.raises(UserError, match=r"odd\.png"):
        data.inspect(f"folder:{root}")


def test_links_that_lead_upwards_end(images: Any) -> None:
    root = images()
    for name in ("up", "again"):
        (root / "train" / "a" / name).symlink_to(root / "train")
    assert data.inspect(f"folder:{root}").num_classes == 2


@pytest.mark.parametrize("wnid", ["../../../outside", "/etc", "a\0b", "a/b", "x" * 5000, "<b>"])
def test_tiny_imagenets_lists_are_no_way_out(tmp_path: Path, wnid: str, outside: Path) -> None:
    root = tmp_path / "tiny-imagenet-200"
    root.mkdir()
    (root / "wnids.txt").write_text(f"n01443537\n{wnid}\n")
    with pytest.raises(UserError, match="no class"):
        data.inspect("tinyimagenet", tmp_path)


@pytest.mark.parametrize("kind", ["fifo", "/dev/zero", "sparse"])
def test_tiny_imagenets_lists_are_plain_files(tmp_path: Path, kind: str, odd_file: Any) -> None:
    odd_file(tmp_path / "tiny-imagenet-200" / "wnids.txt", kind)
    with pytest.raises(UserError, match=r"wnids\.txt"):
        data.inspect("tinyimagenet", tmp_path)


def birds(root: Path) -> Path:
    """CUB-200-2011 with four images."""
    folder = root / "CUB_200_2011"
    for n, name in enumerate(("a/1.jpg", "a/2.jpg", "b/3.jpg", "b/4.jpg"), start=1):
        path = folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (n, n, n)).save(path)
    (folder / "images.txt").write_text("1 a/1.jpg\n2 a/2.jpg\n3 b/3.jpg\n4 b/4.jpg\n")
    (folder / "image_class_labels.txt").write_text("1 1\n2 1\n3 2\n4 2\n")
    (folder / "train_test_split.txt").write_text("1 1\n2 0\n3 1\n4 0\n")
    return folder


def wordnet(root: Path) -> Path:
    """ImageNet of two classes, its val/ without folders."""
    folder = root / "imagenet"
    for name in (
        "train/n01440764/a",
        "train/n01443537/b",
        "val/ILSVRC2012_val_00000001",
        "val/ILSVRC2012_val_00000002",
    ):
        path = folder / f"{name}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (9, 9, 9)).save(path, "JPEG")
    return folder


def meta_mat(*, packed: bool = True) -> bytes:
    out = io.BytesIO()
    rows = np.array([(1, "n01440764"), (2, "n01443537")], dtype=[("ILSVRC2012_ID", "O"), ("WNID", "O")])
    savemat(out, {"synsets": rows}, do_compression=packed)
    return out.getvalue()


LOOK = """
from pathlib import Path
try:
    print(data.inspect(sys.argv[1], Path(sys.argv[2])).num_classes)
except UserError as error:
    print("refused:", error)
"""
LOOKER = (
    "from sdbench import data\nfrom sdbench.errors import UserError\nimport sdbench.data.imagenet, sdbench.data.cub200"
)


@pytest.mark.parametrize("kind", ["fifo", "/dev/zero", "sparse", "loop", "folder"])
@pytest.mark.parametrize("name", ["images.txt", "image_class_labels.txt", "train_test_split.txt"])
def test_cubs_lists_are_plain_files(tmp_path: Path, kind: str, name: str, odd_file: Any, bounded: Any) -> None:
    root = birds(tmp_path)
    odd_file(root / name, kind)
    said = bounded(LOOK, "cub200", root, ready=LOOKER, room=2**28)
    assert said.startswith(f"refused: {root / name}: " if name != "images.txt" else "refused: ")


@pytest.mark.parametrize("path", ["a/1.jpg\0", "a/../1.jpg", "/etc/passwd", "a/" + "x" * 5000, "a/."])
def test_cubs_lists_are_no_way_out(tmp_path: Path, path: str) -> None:
    root = birds(tmp_path)
    (root / "images.txt").write_text(f"1 {path}\n2 a/2.jpg\n3 b/3.jpg\n4 b/4.jpg\n")
    with pytest.raises(UserError, match=r"expected <class>/<image>|missing, though images\.txt lists it"):
        data.inspect("cub200", root)


@pytest.mark.parametrize("kind", ["fifo", "/dev/zero", "sparse", "loop", "folder"])
@pytest.mark.parametrize(
    "name",
    ["ILSVRC2012_validation_ground_truth.txt", "LOC_val_solution.csv", "imagenet_2012_validation_synset_labels.txt",
     "val.txt", "meta.mat"],
)  # fmt: skip
def test_imagenets_lists_are_plain_files(tmp_path: Path, kind: str, name: str, odd_file: Any, bounded: Any) -> None:
    root = wordnet(tmp_path)
    odd_file(root / name, kind)
    if name == "meta.mat":
        (root / "ILSVRC2012_validation_ground_truth.txt").write_text("1\n2\n")
    assert bounded(LOOK, "imagenet", root, ready=LOOKER, room=2**28).startswith("refused: ")


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 500, b"\xff\xfe" * 99, b"x", b"1\n2\n3\n", b"\xc2\xb2\n1\n", b"1_0\n2\n"]
)
@pytest.mark.parametrize(
    "name",
    ["ILSVRC2012_validation_ground_truth.txt", "LOC_val_solution.csv", "imagenet_2012_validation_synset_labels.txt",
     "val.txt"],
)  # fmt: skip
def test_garbage_is_no_list_of_imagenets(tmp_path: Path, name: str, content: bytes) -> None:
    root = wordnet(tmp_path)
    (root / "meta.mat").write_bytes(meta_mat())
    (root / name).write_bytes(content)
    with pytest.raises(UserError, match=name):
        data.inspect("imagenet", root)


def mat(*elements: tuple[int, bytes]) -> bytes:
    """A file of level 5."""
    return b" " * 124 + b"\0\1IM" + b"".join(struct.pack("<II", kind, len(body)) + body for kind, body in elements)


BOMB = zlib.compress(struct.pack("<II", 14, 2**31) + b"\0" * 2**30, 9)
LONG_TEXT = struct.pack("<IIIIIIii", 6, 8, 4, 0, 5, 8, 1, 2**31 - 1) + struct.pack("<IIII", 1, 0, 16, 0)
METAS = {
    "empty": b"",
    "garbage": b"garbage" * 100,
    "cut in its header": meta_mat()[:100],
    "cut": meta_mat()[:-20],
    "cut, not compressed": meta_mat(packed=False)[:-20],
    "level 7.3": b"MATLAB 7.3 MAT-file" + b" " * 97 + b"\0" * 8 + b"\0\2IM" + b"\x89HDF\r\n\x1a\n",
    "other content": mat((14, b"")),
    "a bomb": mat((15, BOMB)),
    "many bombs": mat(*[(15, zlib.compress(struct.pack("<II", 6, 2**26 - 100) + b"\0" * (2**26 - 100)))] * 16),
    "a text of two gigabytes": mat((14, LONG_TEXT)),
    "a terabyte declared": mat() + struct.pack("<II", 14, 2**32 - 1),
}


@pytest.mark.parametrize("content", METAS.values(), ids=METAS)
def test_a_hostile_meta_mat_is_named(tmp_path: Path, content: bytes, bounded: Any) -> None:
    root = wordnet(tmp_path)
    (root / "ILSVRC2012_validation_ground_truth.txt").write_text("1\n2\n")
    (root / "meta.mat").write_bytes(content)
    said = bounded(LOOK, "imagenet", root, ready=LOOKER, room=2**29)
    assert said.startswith(f"refused: {root / 'meta.mat'}: cannot be understood (")


@pytest.mark.parametrize("packed", [True, False])
def test_a_changed_byte_of_meta_mat_never_ends_in_a_traceback(tmp_path: Path, packed: bool) -> None:
    root, sound = wordnet(tmp_path), meta_mat(packed=packed)
    (root / "ILSVRC2012_validation_ground_truth.txt").write_text("1\n2\n")
    (root / "meta.mat").write_bytes(sound)
    assert data.inspect("imagenet", root).num_classes == 2
    for place in range(116, len(sound)):
        for change in (0xFF, 0x01):
            (root / "meta.mat").write_bytes(sound[:place] + bytes([sound[place] ^ change]) + sound[place + 1 :])
            with contextlib.suppress(UserError):
                data.inspect("imagenet", root)


class Call:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.what = function, arguments

    def __reduce__(self) -> Any:
        return self.what


@pytest.mark.parametrize(
    "call", [Call(os.mkdir, "owned"), Call(eval, "1"), Call(np.load, "owned"), Call(getattr, "a", "b")]
)
def test_cifars_pickles_call_nothing_even_with_the_right_sum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    """As if somebody had found a file with the published sums."""
    monkeypatch.chdir(tmp_path)
    published = cifar.PUBLISHED["cifar100"]
    folder = tmp_path / published.folder
    folder.mkdir()
    for name in published.sums:
        (folder / name).write_bytes(pickle.dumps({"fine_label_names": call, "data": call, "fine_labels": []}))
        monkeypatch.setitem(published.sums, name, hashlib.md5((folder / name).read_bytes()).hexdigest())
        monkeypatch.setitem(published.sha256, name, hashlib.sha256((folder / name).read_bytes()).hexdigest())
    with pytest.raises(pickle.UnpicklingError, match="not part of the published files"):
        data.inspect("cifar100", tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [published.folder]


def tar(*members: tuple[str, bytes, bytes, str]) -> bytes:
    """name, type, content, where a link leads."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, kind, content, link in members:
            entry = tarfile.TarInfo(name)
            entry.type, entry.size, entry.linkname = kind, len(content), link
            archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def zipped(*members: tuple[str, bytes], mode: int = 0o100644, packing: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", packing) as archive:
        for name, content in members:
            entry = zipfile.ZipInfo(name)
            entry.external_attr, entry.compress_type = mode << 16, packing
            archive.writestr(entry, content)
    return out.getvalue()


REG, SYM, LNK = tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE
ARCHIVES = {
    "..": tar(("../outside/owned", REG, b"x", "")),
    "absolute": tar(("/tmp/sdbench-owned", REG, b"x", "")),
    "deep ..": tar(("a/../../outside/owned", REG, b"x", "")),
    "link": tar(("a", SYM, b"", "../outside"), ("a/owned", REG, b"x", "")),
    "hard link": tar(("a", LNK, b"", "../outside/precious.txt"), ("a", REG, b"x", "")),
    "device": tar(("a", tarfile.CHRTYPE, b"", "")),
    "pipe": tar(("a", tarfile.FIFOTYPE, b"", "")),
    "twice": tar(("a", REG, b"x", ""), ("a", REG, b"y", "")),
    "bomb": tar(*[(f"{n}", REG, b"\0" * 2**22, "") for n in range(8)]),
    "line": tar(("a\nb", REG, b"x", "")),
    "backslash": tar(("..\\outside\\owned", REG, b"x", "")),
    "cut": tar(("a", REG, os.urandom(10_000), ""))[:5000],
    "garbage": b"no archive",
    "empty": b"",
    "zip ..": zipped(("../outside/owned", b"x")),
    "zip absolute": zipped(("/tmp/sdbench-owned", b"x")),
    "zip link": zipped(("a", b"../outside"), mode=0o120777),
    "zip device": zipped(("a", b""), mode=0o020644),
    "zip bomb": zipped(("a", b"\0" * 2**25)),
    "zip twice": zipped(("a/b", b"x"), ("a/./b", b"x")),
    "zip cut": zipped(("a", os.urandom(10_000)), packing=zipfile.ZIP_STORED)[:5000],
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_an_archive_does_not_leave_its_folder(tmp_path: Path, outside: Path, name: str) -> None:
    archive = tmp_path / "archive"
    archive.write_bytes(ARCHIVES[name])
    before = tree(outside)
    with pytest.raises(Unsafe, match="archive"):
        unpack(archive, tmp_path / "into", 2**24)
    assert tree(outside) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["archive", "into", "outside"]
    assert not Path("/tmp/sdbench-owned").exists()
    assert sum(p.stat().st_size for p in (tmp_path / "into").rglob("*") if p.is_file()) <= 2**24
    assert not any(p.is_symlink() for p in (tmp_path / "into").rglob("*"))


@pytest.mark.parametrize(
    "content", [tar(("a/b", REG, b"x", "")), zipped(("a/", b""), ("a/b", b"x"))], ids=["tar", "zip"]
)
def test_an_archive_is_unpacked(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "archive").write_bytes(content)
    unpack(tmp_path / "archive", tmp_path / "into", 2**20)
    assert (tmp_path / "into" / "a" / "b").read_bytes() == b"x"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "file").write_bytes(b"content" * 1000)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "served")))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/file"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_download_is_used_only_with_its_hash_and_within_its_size(tmp_path: Path, address: str) -> None:
    right = {name: hashlib.new(name, b"content" * 1000).hexdigest() for name in ("md5", "sha256")}
    for sums, limit in ((right | {"md5": "0" * 32}, 2**20), (right | {"sha256": "0" * 64}, 2**20), (right, 6999)):
        with pytest.raises(Unsafe):
            fetch(address, tmp_path / "file", sums, limit, 60)
        assert [p.name for p in tmp_path.iterdir()] == ["served"], "nothing is left of it"
    fetch(address, tmp_path / "file", right, 7000, 60)
    assert (tmp_path / "file").read_bytes() == b"content" * 1000
