"""Arrays in the cache folder are found whole or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sdbench.data import cache

ARRAYS = {"a": np.arange(12, dtype=np.int64).reshape(3, 4), "b": np.full((2, 2, 3), 7, np.uint8)}


def test_arrays_come_back(tmp_path: Path) -> None:
    file = tmp_path / "new" / "arrays.safetensors"
    turned = {"a": ARRAYS["a"].T, "b": ARRAYS["b"]}  # not contiguous
    cache.store_arrays(file, turned)
    found = cache.read_arrays(file)
    assert found is not None
    assert found.keys() == ARRAYS.keys()
    assert np.array_equal(found["a"], ARRAYS["a"].T)
    assert found["b"].dtype == np.uint8
    found["b"][0] = 1  # a copy of one's own
    assert [p.name for p in file.parent.iterdir()] == [file.name]


def test_every_cut_and_every_changed_byte_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "arrays.safetensors"
    cache.store_arrays(file, ARRAYS)
    content = file.read_bytes()
    for end in range(0, len(content), 7):
        file.write_bytes(content[:end])
        assert cache.read_arrays(file) is None, end
    values = 12 * 8 + 12
    for place in range(len(content) - values, len(content)):
        changed = bytearray(content)
        changed[place] ^= 16
        file.write_bytes(changed)
        assert cache.read_arrays(file) is None, place
    file.write_bytes(content)
    assert cache.read_arrays(file) is not None


def test_what_is_not_there_is_none(tmp_path: Path) -> None:
    assert cache.read_arrays(tmp_path / "missing") is None
    assert cache.read_arrays(tmp_path) is None


def test_the_checksum_covers_names_types_shapes_and_bytes() -> None:
    a = np.arange(6, dtype=np.int32)
    variants = [{"a": a}, {"b": a}, {"a": a.reshape(2, 3)}, {"a": a.view(np.uint32)}, {"a": a[::-1]}, {}]
    assert len({cache.checksum(v) for v in variants}) == len(variants)
    assert cache.checksum({"a": a, "b": a[:1]}) == cache.checksum({"b": a[:1], "a": a})


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "arrays.safetensors"
    cache.store_arrays(file, ARRAYS)
    before = file.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        cache.store_arrays(file, {"a": np.zeros(3)})
    assert file.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["cache"] * (tmp_path / "cache").exists() + [file.name]


def test_a_reader_of_the_old_file_is_not_disturbed(tmp_path: Path) -> None:
    file = tmp_path / "arrays.safetensors"
    cache.store_arrays(file, ARRAYS)
    before = file.read_bytes()
    with file.open("rb") as reader:
        cache.store_arrays(file, {"a": np.zeros(99)})
        assert reader.read() == before
    assert file.read_bytes() != before


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDBENCH_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.cache_folder() == tmp_path / "own"
    monkeypatch.delenv("SDBENCH_CACHE")
    assert cache.cache_folder() == tmp_path / "xdg" / "sdbench"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.cache_folder() == tmp_path / ".cache" / "sdbench"
