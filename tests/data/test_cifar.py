"""CIFAR in miniature: archives of the published layout, served from this machine."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import shutil
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision import datasets

from sdbench import data
from sdbench.data import cifar
from sdbench.errors import UserError

NAMES = ["apple", "boat", "cat"]


# keras-team/keras@7e4b17c and @69b9ad0, file_hash in keras/src/datasets/cifar10.py and cifar100.py.
KERAS = {
    "cifar10": "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    "cifar100": "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
}


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Trap:
    """A pickle that leaves a mark when it is opened."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def contents() -> dict[str, bytes]:
    """The files of a CIFAR-100 with three classes, 12 training and 6 test images."""
    random = np.random.default_rng(0)

    def part(count: int) -> bytes:
        pixels = random.integers(0, 256, (count, 3072), dtype=np.uint8)
        return pickle.dumps({"data": pixels, "fine_labels": [n % 3 for n in range(count)]})

    return {"train": part(12), "test": part(6), "meta": pickle.dumps({"fine_label_names": NAMES})}


@pytest.fixture
def archive(contents: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The archive in a folder that a server on this machine hands out, with its sums published."""
    served = tmp_path / "served"
    served.mkdir()
    path = served / "cifar-100-python.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name, content in contents.items():
            entry = tarfile.TarInfo(f"cifar-100-python/{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    sums = {name: md5(content) for name, content in contents.items()}
    stronger = {name: sha256(content) for name, content in contents.items()} | {path.name: sha256(path.read_bytes())}
    published = replace(cifar.PUBLISHED["cifar100"], sums=sums, sha256=stronger, num_train=12, num_test=6)
    monkeypatch.setitem(cifar.PUBLISHED, "cifar100", published)
    monkeypatch.setattr(datasets.CIFAR100, "tgz_md5", md5(path.read_bytes()))
    monkeypatch.setattr(datasets.CIFAR100, "train_list", [["train", sums["train"]]])
    monkeypatch.setattr(datasets.CIFAR100, "test_list", [["test", sums["test"]]])
    monkeypatch.setattr(datasets.CIFAR100, "meta", datasets.CIFAR100.meta | {"md5": sums["meta"]})
    return path


@pytest.fixture
def server(archive: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    handler = partial(Quiet, directory=str(archive.parent))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}/{archive.name}"
    monkeypatch.setattr(datasets.CIFAR100, "url", address)
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def unpack(archive: Path, place: Path) -> Path:
    place.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive) as tar:
        tar.extractall(place, filter="data")
    return place / "cifar-100-python"


def test_published_sums_are_torchvisions() -> None:
    for published in cifar.PUBLISHED.values():
        theirs = getattr(datasets, published.torchvision)
        listed = [*theirs.train_list, *theirs.test_list, [theirs.meta["filename"], theirs.meta["md5"]]]
        assert list(published.sums.items()) == [tuple(entry) for entry in listed]
        assert (published.folder, published.archive) == (theirs.base_folder, theirs.filename)
        assert (published.names_file, published.names_key) == (theirs.meta["filename"], theirs.meta["key"])


def test_an_archive_has_the_sha256_that_others_publish() -> None:
    assert {name: published.sha256[published.archive] for name, published in cifar.PUBLISHED.items()} == KERAS


@pytest.mark.parametrize("place", ["data_dir", "the folder itself", "SDBENCH_DATA", "cache"])
def test_data_are_found_where_they_are(
    archive: Path,
    contents: dict[str, bytes],
    tmp_path: Path,
    cache_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
) -> None:
    home = cache_folder if place == "cache" else tmp_path / "data"
    folder = unpack(archive, home)
    given = {"data_dir": home, "the folder itself": folder}.get(place)
    if place == "SDBENCH_DATA":
        monkeypatch.setenv("SDBENCH_DATA", str(home))
    assert data.find("cifar100", given) == home
    facts = data.inspect("cifar100", given)
    assert (facts.num_classes, facts.num_train, facts.num_test) == (3, 12, 6)
    assert facts.class_names == tuple(NAMES)
    loaded = data.load("cifar100", given, device=torch.device("cpu"))
    assert loaded.fingerprint == facts.fingerprint
    [(images, labels)] = loaded.test_batches(10)
    assert labels.tolist() == [0, 1, 2, 0, 1, 2]
    stored = pickle.loads(contents["test"])["data"].reshape(6, 3, 32, 32) / 255
    mean, std = np.array(data.DATASETS["cifar100"].mean), np.array(data.DATASETS["cifar100"].std)
    expected = (stored - mean[:, None, None]) / std[:, None, None]
    np.testing.assert_allclose(images.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("damage", ["cut", "replaced", "missing"])
def test_a_wrong_file_is_named_and_never_opened(archive: Path, tmp_path: Path, damage: str) -> None:
    folder = unpack(archive, tmp_path / "data")
    file = folder / "train"
    expected, mark = md5(file.read_bytes()), tmp_path / "opened"
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-100])
    elif damage == "replaced":
        file.write_bytes(pickle.dumps(Trap(mark)))
    else:
        file.unlink()
    for call in (data.inspect, data.find, partial(data.load, device=torch.device("cpu"))):
        with pytest.raises(UserError) as error:
            call("cifar100", tmp_path / "data")
        assert str(file) in str(error.value)
        assert expected in str(error.value)
        assert "cifar-100-python.tar.gz" in str(error.value)  # what to do
        if damage != "missing":
            assert md5(file.read_bytes()) in str(error.value)
    assert not mark.exists()


def test_names_are_verified_before_they_are_opened(archive: Path, tmp_path: Path) -> None:
    folder = unpack(archive, tmp_path / "data")
    (folder / "meta").write_bytes(pickle.dumps(Trap(tmp_path / "opened")))
    with pytest.raises(UserError, match="meta: MD5"):
        data.inspect("cifar100", tmp_path / "data")
    assert not (tmp_path / "opened").exists()


@pytest.mark.parametrize("name", ["train", "meta"])
def test_a_file_with_the_right_md5_alone_is_never_opened(archive: Path, tmp_path: Path, name: str) -> None:
    folder = unpack(archive, tmp_path / "data")
    expected = sha256((folder / name).read_bytes())
    forged = pickle.dumps(Trap(tmp_path / "opened"))
    (folder / name).write_bytes(forged)
    cifar.PUBLISHED["cifar100"].sums[name] = md5(forged)  # as if two files had one sum
    for call in (data.inspect, data.find, partial(data.load, device=torch.device("cpu"))):
        with pytest.raises(UserError, match=f"{name}: SHA-256 {sha256(forged)} of .* expected {expected}"):
            call("cifar100", tmp_path / "data")
    with pytest.raises(UserError, match="changed while it was read"):
        cifar._contents(cifar.PUBLISHED["cifar100"], tmp_path / "data", name)
    assert not (tmp_path / "opened").exists()


def test_a_file_whose_sha256_nobody_knows_is_checked_by_its_md5(archive: Path, tmp_path: Path) -> None:
    folder = unpack(archive, tmp_path / "data")
    cifar.PUBLISHED["cifar100"].sha256.pop("train")
    assert data.load("cifar100", tmp_path / "data", device=torch.device("cpu")).num_train == 12
    (folder / "train").write_bytes(b"another")
    with pytest.raises(UserError, match="train: MD5"):
        data.inspect("cifar100", tmp_path / "data")


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("by_environment", [True, False])
def test_a_place_that_the_user_named_is_not_downloaded_to(
    tmp_path: Path, cache_folder: Path, monkeypatch: pytest.MonkeyPatch, by_environment: bool
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    if by_environment:
        monkeypatch.setenv("SDBENCH_DATA", str(empty))
    for call in (data.inspect, data.find):
        with pytest.raises(UserError, match=r"expected the folder cifar-100-python in .*empty.*--data-dir"):
            call("cifar100", None if by_environment else empty)
    assert list(empty.iterdir()) == []
    assert not cache_folder.exists()


def test_an_archive_that_was_not_unpacked_is_pointed_out(archive: Path) -> None:
    with pytest.raises(UserError, match="tar -xzf"):
        data.inspect("cifar100", archive.parent)


def test_a_download_happens_once(
    server: ThreadingHTTPServer, cache_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert data.find("cifar100") is None
    assert not cache_folder.exists()
    facts = data.inspect("cifar100")
    assert sorted(p.name for p in cache_folder.iterdir() if p.suffix != ".lock") == ["cifar-100-python"]
    server.shutdown()
    server.server_close()
    assert data.inspect("cifar100") == facts
    assert data.find("cifar100") == cache_folder
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err.count("Downloading http") == 1


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("trouble", ["cut", "garbage", "gone"])
def test_a_download_that_fails_leaves_nothing(archive: Path, cache_folder: Path, trouble: str) -> None:
    whole = archive.read_bytes()
    if trouble == "gone":
        archive.unlink()
    else:
        archive.write_bytes(whole[: len(whole) // 2] if trouble == "cut" else b"no archive")
    with pytest.raises(UserError, match=r"cifar100: downloading http.*failed.*--data-dir"):
        data.inspect("cifar100")
    assert [p.name for p in cache_folder.iterdir() if p.suffix != ".lock"] == []
    archive.write_bytes(whole)
    assert data.inspect("cifar100").num_train == 12


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("refusing", ["MD5", "SHA-256"])
def test_each_sum_of_an_archive_refuses_on_its_own(
    archive: Path, cache_folder: Path, monkeypatch: pytest.MonkeyPatch, refusing: str
) -> None:
    whole, strict = archive.read_bytes(), cifar.PUBLISHED["cifar100"].sha256
    forged = whole + b"\0"
    archive.write_bytes(forged)
    if refusing == "SHA-256":
        monkeypatch.setattr(datasets.CIFAR100, "tgz_md5", md5(forged))  # as if two archives had one sum
        found, expected = sha256(forged), strict[archive.name]
    else:
        monkeypatch.setitem(strict, archive.name, sha256(forged))
        found, expected = md5(forged), md5(whole)
    monkeypatch.setattr(cifar, "unpack", lambda *_: pytest.fail("it was opened"))
    with pytest.raises(UserError, match=f"{refusing} {found} of {len(forged):,} bytes, expected {expected}"):
        data.inspect("cifar100")
    assert [p.name for p in cache_folder.iterdir() if p.suffix != ".lock"] == []


def test_without_a_network_the_remedy_is_named(server: ThreadingHTTPServer, cache_folder: Path, archive: Path) -> None:
    server.shutdown()
    server.server_close()
    with pytest.raises(UserError, match="Check the network"):
        data.load("cifar100", device=torch.device("cpu"))
    unpack(archive, cache_folder)
    assert data.inspect("cifar100").num_test == 6


@pytest.mark.usefixtures("server")
def test_what_a_killed_download_left_is_swept_away(cache_folder: Path, archive: Path) -> None:
    left = cache_folder / ".cifar100-download-x1" / "cifar-100-python"
    left.mkdir(parents=True)
    (left / "train").write_bytes(b"half")
    assert data.inspect("cifar100").num_train == 12
    assert not left.parent.exists()


@pytest.mark.usefixtures("server")
def test_an_unwritable_destination_is_an_error_for_people(cache_folder: Path) -> None:
    cache_folder.write_text("in the way")
    with pytest.raises(UserError, match="--data-dir"):
        data.inspect("cifar100")


def test_fingerprints_follow_the_published_sums(archive: Path, tmp_path: Path) -> None:
    unpack(archive, tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    first = data.inspect("cifar100", tmp_path / "a").fingerprint
    assert first == data.inspect("cifar100", tmp_path / "b").fingerprint


REAL = os.environ.get("SDBENCH_DATA", "")


needs_cifar100 = pytest.mark.skipif(
    not (Path(REAL) / "cifar-100-python").is_dir() or not REAL, reason="SDBENCH_DATA has no CIFAR-100"
)


@needs_cifar100
def test_the_real_files_have_both_sums() -> None:
    published = cifar.PUBLISHED["cifar100"]
    assert set(published.sha256) == {*published.sums, published.archive}
    for name, expected in published.sums.items():
        content = (Path(REAL) / "cifar-100-python" / name).read_bytes()
        assert (md5(content), sha256(content)) == (expected, published.sha256[name])


@needs_cifar100
def test_the_real_one_has_the_statistics_it_is_normalized_by() -> None:
    loaded = data.load("cifar100", Path(REAL), device=torch.device("cpu"))
    assert (loaded.num_classes, loaded.num_train, loaded.num_test) == (100, 50_000, 10_000)
    images = torch.cat([b.images for b in loaded.epoch(0, stream="0", batch_size=5000, augment="none")])
    torch.testing.assert_close(images.mean((0, 2, 3)), torch.zeros(3), atol=2e-3, rtol=0)
    torch.testing.assert_close(images.std((0, 2, 3)), torch.ones(3), atol=2e-3, rtol=0)
