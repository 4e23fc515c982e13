"""Tiny ImageNet in a miniature of its published layout."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional as reference

from sdbench import data
from sdbench.data import tinyimagenet
from sdbench.errors import UserError

WNIDS = ("n02", "n01", "n03")  # not in sorted order
CPU = torch.device("cpu")


def photograph(seed: int, side: int = 64, mode: str = "RGB") -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC).convert(mode)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three classes, four training images each, five test images; one is gray."""
    root = tmp_path / "data" / "tiny-imagenet-200"
    seed = 0
    for wnid in WNIDS:
        images = root / "train" / wnid / "images"
        images.mkdir(parents=True)
        for n in range(4):
            photograph(seed, mode="L" if seed == 5 else "RGB").save(images / f"{wnid}_{n}.JPEG", quality=95)
            seed += 1
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text(
            "".join(f"{wnid}_{n}.JPEG\t0\t0\t63\t63\n" for n in range(4))
        )
    (root / "val" / "images").mkdir(parents=True)
    lines = []
    for n, wnid in enumerate(("n03", "n01", "n02", "n01", "n03")):
        photograph(100 + n).save(root / "val" / "images" / f"val_{n}.JPEG", quality=95)
        lines.append(f"val_{n}.JPEG\t{wnid}\t0\t32\t44\t62\n")
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    (root / "wnids.txt").write_text("\n".join(WNIDS) + "\n")
    (root / "test" / "images").mkdir(parents=True)  # unlabelled; not looked at
    return root


def test_facts(root: Path) -> None:
    facts = data.inspect("tinyimagenet", root.parent)
    assert (facts.num_classes, facts.num_train, facts.num_test, facts.image_size) == (3, 12, 5, 32)
    assert facts.class_names == ("n01", "n02", "n03")
    assert facts.augment == "resized-crop-flip"
    assert data.inspect("tinyimagenet", root) == facts
    assert data.inspect("tinyimagenet", root, 64).image_size == 64


@pytest.mark.parametrize("size", [32, 64])
def test_test_images_are_resized_without_a_crop(root: Path, size: int) -> None:
    loaded = data.load("tinyimagenet", root, size, device=CPU)
    [(images, labels)] = loaded.test_batches(8)
    assert labels.tolist() == [2, 0, 1, 0, 2]
    info = data.DATASETS["tinyimagenet"]
    for n, found in enumerate(images):
        with Image.open(root / "val" / "images" / f"val_{n}.JPEG") as image:
            resized = reference.to_tensor(reference.resize(image, [size, size]))
        torch.testing.assert_close(
            found, reference.normalize(resized, list(info.mean), list(info.std)), atol=1e-5, rtol=0
        )


@pytest.mark.parametrize("size", [32, 64])
def test_training_images_are_boxes_of_the_original_resolution(root: Path, size: int) -> None:
    loaded = data.load("tinyimagenet", root, size, device=CPU)
    [batch] = loaded.epoch(0, stream="0", batch_size=12, augment="resized-crop-flip")
    assert batch.images.shape == (12, 3, size, size)
    assert batch.labels.tolist() == [n // 4 for n in batch.index.tolist()]
    [draw] = tinyimagenet_draws(12, size)
    paths = [root / "train" / wnid / "images" / f"{wnid}_{n}.JPEG" for wnid in sorted(WNIDS) for n in range(4)]
    info = data.DATASETS["tinyimagenet"]
    for n, position in enumerate(batch.index.tolist()):
        with Image.open(paths[position]) as image:
            pixels = reference.pil_to_tensor(image.convert("RGB")).float()
        top, left, height, width = (int(v) for v in draw[0][n].tolist())
        expected = reference.resized_crop(pixels, top, left, height, width, [size, size], antialias=True) / 255
        expected = reference.hflip(expected) if draw[1][n] else expected
        expected = reference.normalize(expected, list(info.mean), list(info.std))
        torch.testing.assert_close(batch.images[n], expected, atol=1e-4, rtol=0)


def tinyimagenet_draws(count: int, size: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The boxes and flips of epoch 0 of stream 0, which do not depend on the size shown."""
    from sdbench.data.augment import resized_crop_drawer
    from sdbench.data.streams import generator_for

    draw = resized_crop_drawer(64)(count, generator_for("0", "augment", 0))
    assert draw.boxes is not None
    assert draw.flips is not None
    return [(draw.boxes, draw.flips)]


def test_crops_start_from_resized_images(root: Path) -> None:
    loaded = data.load("tinyimagenet", root, device=CPU)
    [plain] = loaded.epoch(0, stream="0", batch_size=12, augment="none")
    [cropped] = loaded.epoch(0, stream="0", batch_size=12, augment="crop")
    assert plain.images.shape == cropped.images.shape == (12, 3, 32, 32)
    assert torch.equal(plain.index, cropped.index)


def test_images_are_decoded_once(root: Path, cache_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = data.load("tinyimagenet", root, device=CPU)
    [file] = cache_folder.glob("tinyimagenet-*")

    def refuse(*_: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(tinyimagenet, "_decode", refuse)
    second = data.load("tinyimagenet", root, 64, device=CPU)
    assert first.fingerprint == second.fingerprint
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(AssertionError, match="decoded again"):
        data.load("tinyimagenet", root, device=CPU)


def test_the_fingerprint_changes_with_every_image_and_label(root: Path) -> None:
    found = [data.inspect("tinyimagenet", root).fingerprint]
    photograph(99).save(root / "val" / "images" / "val_0.JPEG", quality=95)
    found.append(data.inspect("tinyimagenet", root).fingerprint)
    annotations = root / "val" / "val_annotations.txt"
    annotations.write_text(annotations.read_text().replace("val_1.JPEG\tn01", "val_1.JPEG\tn02"))
    found.append(data.inspect("tinyimagenet", root).fingerprint)
    photograph(98).save(root / "train" / "n01" / "images" / "n01_0.JPEG", quality=95)
    found.append(data.inspect("tinyimagenet", root).fingerprint)
    assert len(set(found)) == 4
    assert all(fingerprint.startswith("content:") for fingerprint in found)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def test_damage_is_named(root: Path, tmp_path: Path) -> None:
    train, val = root / "train" / "n01", root / "val"
    cases = {
        "n01_2.JPEG": lambda: cut(train / "images" / "n01_2.JPEG"),
        "val_3.JPEG": lambda: (val / "images" / "val_3.JPEG").write_bytes(b"<html>not found</html>"),
        "images: expected the": lambda: shutil.rmtree(train / "images"),
        "n01_1.JPEG: missing": lambda: (train / "images" / "n01_1.JPEG").unlink(),
        "val_0.JPEG: missing": lambda: (val / "images" / "val_0.JPEG").unlink(),
        "val_annotations.txt": lambda: (val / "val_annotations.txt").unlink(),
        "wnids.txt": lambda: (root / "wnids.txt").unlink(),
        "'n03'": lambda: (root / "wnids.txt").write_text("n01\nn02\n"),
    }
    whole = tmp_path / "whole"
    shutil.copytree(root, whole)
    for message, damage in cases.items():
        shutil.rmtree(root)
        shutil.copytree(whole, root)
        damage()
        for call in (data.inspect, lambda name, place: data.load(name, place, device=CPU)):
            with pytest.raises(UserError) as error:
                call("tinyimagenet", root)
            assert message in str(error.value)


def test_an_image_of_another_size_is_named(root: Path) -> None:
    photograph(3, side=32).save(root / "train" / "n02" / "images" / "n02_1.JPEG")
    with pytest.raises(UserError, match=r"n02_1.JPEG.*32x32, not 64x64"):
        data.load("tinyimagenet", root, device=CPU)


def test_missing_data_say_where_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tiny-imagenet-200 in .*cs231n.*--data-dir"):
        data.inspect("tinyimagenet")
    with pytest.raises(UserError, match=str(tmp_path)):
        data.inspect("tinyimagenet", tmp_path)


@pytest.mark.parametrize("size", [16, 48, 224])
def test_other_sizes_are_refused(root: Path, size: int) -> None:
    with pytest.raises(UserError, match="32 or 64"):
        data.inspect("tinyimagenet", root, size)
