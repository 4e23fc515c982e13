"""The data set that is drawn on the spot."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from sdbench import data
from sdbench.data import glyphs, outlines, rendering


def square(left: float, bottom: float, side: float, *, clockwise: bool = False) -> NDArray[np.float64]:
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * side + np.array([left, bottom])
    corners = corners[::-1] if clockwise else corners
    return np.stack([corners, np.roll(corners, -1, 0)], 1)


def test_filling_measures_area_and_orientation() -> None:
    mask = outlines.fill(square(-0.5, 0.0, 0.5))  # left of the middle, above it
    expected = np.zeros((64, 64), np.uint8)
    expected[16:32, 16:32] = 16
    assert np.array_equal(mask, expected)


def test_filling_follows_the_nonzero_winding_rule() -> None:
    outer = square(-0.5, -0.5, 1.0)
    hole = outlines.fill(np.concatenate([outer, square(-0.25, -0.25, 0.5, clockwise=True)]))
    overlap = outlines.fill(np.concatenate([outer, square(-0.25, -0.25, 0.5)]))
    assert hole.sum() == 16 * (32**2 - 16**2)
    assert np.array_equal(overlap, outlines.fill(outer))


def test_partly_covered_pixels_count_their_samples() -> None:
    unit = 2 / 64
    mask = outlines.fill(square(unit / 2, unit / 4, unit))
    assert mask[31 - 1 : 32, 32:34].tolist() == [[2, 2], [6, 6]]
    assert mask.sum() == 16


@pytest.fixture(scope="module")
def masks() -> NDArray[np.uint8]:
    return outlines.glyph_masks()


@pytest.mark.parametrize("font", [0, 3, 5, 9, 12, 15])
def test_letters_look_as_a_font_renderer_draws_them(font: int) -> None:
    """Both stretched to the whole square, so that place and size do not count."""
    path = Path(mpl.get_data_path()) / "fonts" / "ttf" / f"{outlines.FONTS[font]}.ttf"
    face = ImageFont.truetype(str(path), 640)
    for letter in outlines.LETTERS:
        canvas = Image.new("L", (1000, 1000))
        ImageDraw.Draw(canvas).text((200, 100), letter, font=face, fill=255)
        stretched = canvas.crop(canvas.getbbox()).resize((64, 64), Image.Resampling.BOX)
        edges = outlines.outline(path, letter)
        low, high = edges.min((0, 1)), edges.max((0, 1))
        ours = outlines.fill((edges - low) / (high - low) * 2 - 1)
        assert np.abs(np.asarray(stretched) / 255 - ours / 16).mean() < 0.02, letter


def test_classes_of_a_family_share_their_letter_and_differ_above_it(masks: NDArray[np.uint8]) -> None:
    families = masks.reshape(16, 20, 5, 64, 64)
    plain, accented = families[:, :, 0], families[:, :, 1:]
    assert (accented >= plain[:, :, None]).all()
    extra = accented.astype(int) - plain[:, :, None]
    assert (extra.sum((3, 4)) > 16 * 20).all()  # no accent is smaller than twenty pixels of the mask
    top = (plain.sum(3) > 0).argmax(2)
    below = np.arange(64)[None, None, :, None] >= top[:, :, None, None]
    assert (extra * below[:, :, None]).sum() == 0
    for one in range(4):
        for other in range(one):
            assert (np.abs(extra[:, :, one] - extra[:, :, other]).sum((2, 3)) > 0).all()


def test_no_letter_touches_the_edge_of_its_mask(masks: NDArray[np.uint8]) -> None:
    assert masks[:, :, [0, -1]].sum() == 0
    assert masks[:, :, :, [0, -1]].sum() == 0


def test_names_and_numbers_agree() -> None:
    names = glyphs.class_names()
    assert len(set(names)) == 100
    assert names[:6] == ("A plain", "A acute", "A grave", "A circumflex", "A diaeresis", "B plain")


def test_small_sets_are_balanced_and_repeatable_for_any_number_of_threads() -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        first = glyphs.generate(3, 2)
        torch.set_num_threads(2)
        torch.manual_seed(9)
        second = glyphs.generate(3, 2)
    finally:
        torch.set_num_threads(threads)
    assert first.keys() == second.keys() == {"train_pixels", "train_labels", "test_pixels", "test_labels"}
    assert all(np.array_equal(first[key], second[key]) for key in first)
    assert np.bincount(first["train_labels"]).tolist() == [3] * 100
    assert np.bincount(first["test_labels"]).tolist() == [2] * 100
    assert first["train_pixels"].shape == (300, 32, 32, 3)
    assert not np.array_equal(first["train_pixels"][:200], first["test_pixels"])


def test_letters_are_lighter_than_their_surroundings(masks: NDArray[np.uint8]) -> None:
    """The same draws with and without ink: ink only ever brightens, and in most images by much."""
    labels = torch.arange(100)
    inked = rendering.render(torch.from_numpy(masks), labels, "test").int()
    blank = rendering.render(torch.zeros(16, 100, 64, 64, dtype=torch.uint8), labels, "test").int()
    assert int((inked - blank).min()) >= 0
    brightest = (inked - blank).float().mean(3).flatten(1).max(1).values
    assert float(brightest.min()) > 2
    assert float(brightest.median()) > 60


def test_the_whole_set_is_pinned_cached_and_normalized(cache_folder: Path) -> None:
    facts = data.inspect("glyphs")
    # Whoever changes the images changes this, raises VERSION and says so in the changelog.
    assert facts.fingerprint == "content:b5229678ee16fa159f7de3d2e7a035c3"
    assert (facts.num_train, facts.num_test, facts.num_classes, facts.augment) == (10_000, 2_000, 100, "crop")
    [file] = cache_folder.iterdir()
    written = file.stat().st_mtime_ns
    loaded = data.load("glyphs", device=torch.device("cpu"))
    assert loaded.fingerprint == facts.fingerprint
    assert file.stat().st_mtime_ns == written
    images = torch.cat([b.images for b in loaded.epoch(0, stream="0", batch_size=1000, augment="none")])
    torch.testing.assert_close(images.mean((0, 2, 3)), torch.zeros(3), atol=1e-3, rtol=0)
    torch.testing.assert_close(images.std((0, 2, 3)), torch.ones(3), atol=1e-3, rtol=0)
    code = "import sys, sdbench.data as d; d.inspect('glyphs'); print('torch' in sys.modules)"
    light = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert light.stdout.strip() == "False"


@pytest.fixture
def small(masks: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch) -> None:
    """Three hundred images, from masks drawn once."""
    monkeypatch.setattr(glyphs, "PER_CLASS", {"train": 2, "test": 1})
    monkeypatch.setattr(glyphs, "glyph_masks", lambda: masks)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("damage", ["cut", "garbage", "empty", "one byte"])
def test_a_damaged_cache_is_made_anew(cache_folder: Path, damage: str) -> None:
    sound = data.inspect("glyphs").fingerprint
    [file] = cache_folder.iterdir()
    content = bytearray(file.read_bytes())
    content[-1000] ^= 1
    file.write_bytes({"cut": content[:5000], "garbage": b"\xff" * 99, "empty": b"", "one byte": content}[damage])
    assert data.inspect("glyphs").fingerprint == sound
    assert bytes(content) != file.read_bytes()
    assert len(list(cache_folder.iterdir())) == 1


@pytest.mark.usefixtures("small")
def test_an_unusable_cache_folder_costs_time_only(cache_folder: Path) -> None:
    cache_folder.write_text("a file where the folder should be")
    facts = data.inspect("glyphs")
    assert facts.num_train == 200
    assert cache_folder.is_file()
