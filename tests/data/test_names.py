"""Names of data sets, and what can be said of them without opening them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sdbench import data
from sdbench.data.augment import AUGMENTATIONS
from sdbench.errors import UserError

NAMED = ["glyphs", "cifar10", "cifar100", "tinyimagenet", "imagenet", "inat21", "cub200"]


def test_names_are_known() -> None:
    assert list(data.DATASETS) == [*NAMED, "folder"]
    for name, info in data.DATASETS.items():
        assert info.name == name
        assert info.augment in AUGMENTATIONS
        assert all(0 < v < 1 for v in (*info.mean, *info.std))
    for name in NAMED:
        source = data.parse(name)
        assert (source.kind, source.name, source.location) == (name, name, None)


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("folder:/a/b/birds", "folder:birds"),
        ("folder:/a/b/birds/", "folder:birds"),
        ("folder:birds", "folder:birds"),
        ("folder:../x/birds/.", "folder:birds"),
        ("folder:~/birds", "folder:birds"),
        ("folder:C:odd", "folder:C:odd"),
    ],
)
def test_a_folders_name_holds_no_path(name: str, canonical: str) -> None:
    assert data.canonical_name(name) == canonical
    assert data.canonical_name(canonical) == canonical


def test_a_link_keeps_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "target")
    assert data.canonical_name(f"folder:{tmp_path / 'link'}") == "folder:link"


def test_here_is_a_name_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "birds"
    place.mkdir()
    monkeypatch.chdir(place)
    assert data.canonical_name("folder:.") == "folder:birds"


@pytest.mark.parametrize(("name", "near"), [("cifar", "cifar10"), ("glyph", "glyphs"), ("CIFAR100", "cifar100")])
def test_a_wrong_name_lists_near_ones(name: str, near: str) -> None:
    for call in (data.parse, data.inspect, data.canonical_name):
        with pytest.raises(UserError, match=f"did you mean .*'{near}'"):
            call(name)


@pytest.mark.parametrize("name", ["", "folder", "folder:", "folder:/", "glyphs:x", "imagenet:/data", "cifar100:/data"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="folder:"):
        data.parse(name)


@pytest.mark.parametrize("name", ["glyphs", "cifar10", "cifar100"])
def test_sets_of_one_size_say_so(name: str) -> None:
    with pytest.raises(UserError, match=f"{name}: --image-size is 32 pixels, got 64"):
        data.inspect(name, None, 64)


def test_listing_loads_no_torch() -> None:
    code = (
        "import sys, sdbench.data as d; d.parse('folder:x'); list(d.DATASETS)\n"
        "print([m for m in ('torch', 'torchvision', 'matplotlib', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
