"""Folders of images: layout, facts, damage."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder

from sdbench import data
from sdbench.data import files
from sdbench.errors import UserError

Make = Callable[..., Path]
CPU = torch.device("cpu")


def test_facts_of_uniform_and_of_mixed_images(make_folder: Make) -> None:
    small = data.inspect(f"folder:{make_folder('small')}")
    assert (small.name, small.num_classes, small.num_train, small.num_test) == ("folder:small", 3, 21, 9)
    assert (small.image_size, small.class_names) == (16, ("auk", "crow", "dove"))
    assert small.fingerprint.startswith("content:")
    for name, shapes in {"mixed": ((16, 16), (16, 17)), "oblong": ((16, 20),), "large": ((97, 97),)}.items():
        assert data.inspect(f"folder:{make_folder(name, shapes)}").image_size == 224, name
    assert data.inspect(f"folder:{make_folder('edge', ((96, 96),), train=1, test=1)}").image_size == 96
    assert data.inspect(f"folder:{make_folder('asked')}", image_size=40).image_size == 40


def test_the_path_may_come_apart_from_the_name(make_folder: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_folder("birds")
    by_name = data.inspect(f"folder:{root}")
    assert data.inspect("folder:birds", root) == by_name
    assert data.load("folder:birds", root, device=CPU).fingerprint == by_name.fingerprint
    assert data.inspect(f"folder:{root}", root.parent) == by_name  # a --data-dir for other data sets
    monkeypatch.chdir(root.parent)
    assert data.inspect("folder:birds") == by_name
    assert data.inspect("folder:./birds/") == by_name


def test_images_and_labels_are_those_of_torchvision(make_folder: Make) -> None:
    root = make_folder()
    deep = root / "train" / "crow" / "more" / "deeper"
    deep.mkdir(parents=True)
    shutil.copy(root / "train" / "crow" / "3.png", deep / "x.PNG")
    (root / "train" / "crow" / "notes.txt").write_text("not an image")
    loaded = data.load(f"folder:{root}", device=CPU)
    theirs = ImageFolder(str(root / "train"))
    assert loaded.num_train == len(theirs) == 22
    [batch] = loaded.epoch(0, stream="0", batch_size=50, augment="none")
    info = data.DATASETS["folder"]
    mean, std = (torch.tensor(v)[:, None, None] for v in (info.mean, info.std))
    own = {
        ((image * std + mean) * 255).round().to(torch.uint8).numpy().tobytes() + bytes([int(label)])
        for image, label in zip(batch.images, batch.labels, strict=True)
    }
    expected = {np.asarray(image).transpose(2, 0, 1).tobytes() + bytes([label]) for image, label in theirs}
    assert own == expected


def test_the_test_folder_stands_in_for_val(make_folder: Make) -> None:
    root = make_folder()
    facts = data.inspect(f"folder:{root}")
    (root / "val").rename(root / "test")
    renamed = data.inspect(f"folder:{root}")
    assert renamed.num_test == facts.num_test
    shutil.rmtree(root / "test")
    with pytest.raises(UserError, match=r"val: missing; expected the layout"):
        data.inspect(f"folder:{root}")


def test_hidden_files_and_folders_are_passed_over(make_folder: Make) -> None:
    root = make_folder()
    before = data.inspect(f"folder:{root}")
    (root / "train" / ".checkpoints").mkdir()
    (root / "train" / "auk" / "._0.png").write_bytes(b"what another system leaves")
    assert data.inspect(f"folder:{root}") == before


def test_broken_layouts_are_explained(make_folder: Make, tmp_path: Path) -> None:
    def without_train(root: Path) -> None:
        shutil.rmtree(root / "train")

    def without_a_test_class(root: Path) -> None:
        shutil.rmtree(root / "val" / "crow")

    def with_a_new_test_class(root: Path) -> None:
        shutil.copytree(root / "val" / "crow", root / "val" / "emu")

    def with_an_empty_class(root: Path) -> None:
        shutil.rmtree(root / "train" / "dove")
        (root / "train" / "dove").mkdir()

    def flat(root: Path) -> None:
        for place in list((root / "train").iterdir()):
            shutil.rmtree(place)
        Image.new("RGB", (8, 8)).save(root / "train" / "a.png")

    cases = {
        r"train: missing; expected the layout .*/train/<class>": without_train,
        r"val: lacks the classes crow": without_a_test_class,
        r"train: lacks the classes emu": with_a_new_test_class,
        r"dove: expected images .* found none": with_an_empty_class,
        r"one folder for each class": flat,
    }
    for n, (message, damage) in enumerate(cases.items()):
        root = make_folder(f"case{n}")
        damage(root)
        with pytest.raises(UserError, match=message):
            data.inspect(f"folder:{root}")
    with pytest.raises(UserError, match="at least two classes, found one"):
        data.inspect(f"folder:{make_folder('lonely', classes=('auk',))}")
    with pytest.raises(UserError, match="is not a folder"):
        data.inspect(f"folder:{tmp_path / 'nowhere'}")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".ppm", ".tiff"])
@pytest.mark.parametrize("damage", ["cut", "garbage", "empty"])
def test_a_broken_image_is_named_before_training(make_folder: Make, suffix: str, damage: str) -> None:
    root = make_folder(suffix=suffix, train=2, test=1)
    assert data.inspect(f"folder:{root}").num_train == 6
    broken = root / "train" / "crow" / f"1{suffix}"
    content = broken.read_bytes()
    broken.write_bytes({"cut": content[: len(content) * 2 // 3], "garbage": b"GIF or what?" * 50, "empty": b""}[damage])
    with pytest.raises(UserError, match=rf"crow/1\{suffix}: expected a whole image.*replace the file"):
        data.inspect(f"folder:{root}")


@pytest.mark.parametrize("limit", [2**31, 0])
def test_fingerprints_change_with_content_path_and_size(
    make_folder: Make, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(files, "CONTENT_LIMIT", limit)
    root = make_folder()

    def found() -> str:
        return data.inspect(f"folder:{root}").fingerprint

    seen = [found()]
    os.utime(root / "train" / "auk" / "0.png")
    moved = root.with_name("elsewhere")
    shutil.copytree(root, moved)
    assert data.inspect(f"folder:{moved}").fingerprint == found() == seen[0]
    # The last file of one class becomes the first of the next: the order of all files stays.
    (root / "train" / "auk" / "6.png").rename(root / "train" / "auk" / "zero.png")
    seen.append(found())
    (root / "train" / "auk" / "zero.png").rename(root / "train" / "crow" / "!.png")
    seen.append(found())
    shutil.copy(root / "train" / "crow" / "!.png", root / "val" / "auk" / "0.png")
    seen.append(found())
    assert len(set(seen)) == 4
    assert all(s.startswith("content:" if limit else "head:") for s in seen)


def test_large_collections_are_judged_by_heads_and_tails(make_folder: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "CONTENT_LIMIT", 0)
    monkeypatch.setattr(files, "HEAD_BYTES", 64)
    root = make_folder(suffix=".jpg")
    assert data.inspect(f"folder:{root}").image_size == 16
    broken = root / "val" / "dove" / "2.jpg"
    broken.write_bytes(broken.read_bytes()[:-30])
    with pytest.raises(UserError, match=r"dove/2.jpg"):
        data.inspect(f"folder:{root}")


def test_a_swap_of_two_labels_changes_the_fingerprint(make_folder: Make) -> None:
    root = make_folder()
    before = data.inspect(f"folder:{root}").fingerprint
    one, other = root / "train" / "auk" / "0.png", root / "train" / "crow" / "0.png"
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    assert data.inspect(f"folder:{root}").fingerprint != before


def test_images_that_are_not_rgb_are_converted(make_folder: Make) -> None:
    root = make_folder(train=6)
    base = Image.open(root / "train" / "auk" / "0.png")
    palette = base.convert("P")
    palette.info["transparency"] = bytes(range(256))
    kinds = [base.convert("L"), base.convert("RGBA"), base.convert("1"), base.convert("LA"), palette]
    for n, image in enumerate(kinds):
        image.save(root / "train" / "auk" / f"{n}.png")
    base.convert("CMYK").save(root / "train" / "auk" / "5.jpg")
    (root / "train" / "auk" / "5.png").unlink()
    loaded = data.load(f"folder:{root}", device=CPU)
    [batch] = loaded.epoch(0, stream="0", batch_size=99, augment="none")
    gray = batch.images[batch.index == 0][0]
    info = data.DATASETS["folder"]
    raw = gray * torch.tensor(info.std)[:, None, None] + torch.tensor(info.mean)[:, None, None]
    torch.testing.assert_close(raw[0], torch.from_numpy(np.array(base.convert("L"))) / 255, atol=1e-5, rtol=0)
    torch.testing.assert_close(raw[0], raw[2], atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [0, 7, 5000, -3])
def test_sizes_outside_the_range_are_refused(make_folder: Make, size: int) -> None:
    with pytest.raises(UserError, match="from 8 to 4096"):
        data.inspect(f"folder:{make_folder()}", image_size=size)
