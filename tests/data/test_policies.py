"""What is done to images beyond crops and flips: Cutout by hand, TrivialAugment against torchvision, image by image."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.transforms as transforms
import torchvision.transforms.functional as tv
from PIL import Image
from torch import Tensor

from sdbench.data import trivialaugment as trivial
from sdbench.data.policies import POLICIES, Policy, cutout, cutout_side
from sdbench.data.streams import Draw, Group
from sdbench.errors import UserError
from sdbench.method import Batch
from sdbench.spec import POLICIES as SPEC_POLICIES
from sdbench.tiny import TinyTask, tiny_data

SIZE = 32
REFERENCE = transforms.TrivialAugmentWide()


def pictures(count: int, size: int = SIZE) -> Tensor:
    """Smooth images with noise, one of a single value, one of two: uint8 [count, size, size, 3]."""
    rng = np.random.default_rng(0)
    place = np.arange(size)
    made = np.empty((count, size, size, 3))
    for i in range(count):
        wave = 90 * np.sin(place[:, None] * (i % 7 + 1) / 9 + np.arange(3))[:, None, :]
        made[i] = 128 + wave + 60 * np.cos(place[None, :, None] * (i % 5 + 1) / 7) + rng.normal(0, 12, (size, size, 3))
    pixels = torch.from_numpy(made.clip(0, 255).astype(np.uint8))
    pixels[0] = 77
    pixels[1, :4] = 20
    pixels[1, 4:] = 200
    return pixels


def reference(pixels: Tensor, name: str, strength: float) -> Tensor:
    """torchvision's operation on one image [S, S, 3], with the arguments that its TrivialAugmentWide uses."""
    image = pixels.permute(2, 0, 1)
    nearest = tv.InterpolationMode.NEAREST
    still: dict[str, Any] = {"scale": 1.0, "interpolation": nearest, "fill": None}
    slope = math.degrees(math.atan(strength))
    made = {
        "ShearX": lambda: tv.affine(image, 0.0, [0, 0], shear=[slope, 0.0], center=[0, 0], **still),
        "ShearY": lambda: tv.affine(image, 0.0, [0, 0], shear=[0.0, slope], center=[0, 0], **still),
        "TranslateX": lambda: tv.affine(image, 0.0, [int(strength), 0], shear=[0.0, 0.0], **still),
        "TranslateY": lambda: tv.affine(image, 0.0, [0, int(strength)], shear=[0.0, 0.0], **still),
        "Rotate": lambda: tv.rotate(image, strength, interpolation=nearest),
        "Brightness": lambda: tv.adjust_brightness(image, 1.0 + strength),
        "Color": lambda: tv.adjust_saturation(image, 1.0 + strength),
        "Contrast": lambda: tv.adjust_contrast(image, 1.0 + strength),
        "Sharpness": lambda: tv.adjust_sharpness(image, 1.0 + strength),
        "Posterize": lambda: tv.posterize(image, int(strength)),
        "Solarize": lambda: tv.solarize(image, strength),
        "AutoContrast": lambda: tv.autocontrast(image),
        "Equalize": lambda: tv.equalize(image),
        "Identity": lambda: image,
    }[name]()
    return made.permute(1, 2, 0)


def test_the_space_is_that_of_torchvision() -> None:
    theirs = REFERENCE._augmentation_space(trivial.BINS)
    own = trivial.strengths(SIZE)
    assert own.keys() == theirs.keys() == set(trivial.OPERATIONS)
    for name, (values, signed) in theirs.items():
        expected = values if values.ndim else values.expand(trivial.BINS)
        if name.startswith("Translate"):
            expected = expected.int()
        assert torch.equal(own[name], expected.float()), name
        assert signed == (name in (*trivial.GEOMETRIC, *trivial.BLENDS)), name


@pytest.mark.parametrize("name", trivial.OPERATIONS)
def test_each_operation_is_torchvisions(name: str) -> None:
    """All strengths and both signs, on images of which each step has several, in one batch."""
    space, signed = REFERENCE._augmentation_space(trivial.BINS)[name]
    bins = torch.arange(trivial.BINS).repeat(2)
    signs = torch.tensor([1.0, -1.0]).repeat_interleave(trivial.BINS)
    pixels = pictures(len(bins))
    kinds = torch.full_like(bins, trivial.OPERATIONS.index(name))
    step = 20
    chosen = trivial.arrange(kinds, bins, signs, step, SIZE)
    got = torch.cat([trivial.augmented(pixels[s : s + step], chosen, s // step, s) for s in range(0, len(bins), step)])
    assert got.dtype == torch.uint8
    differing = 0
    for i in range(len(bins)):
        strength = float(space[bins[i]]) if space.ndim else 0.0
        expected = reference(pixels[i], name, strength * float(signs[i]) if signed else strength)
        off = (got[i] != expected).any(2)
        differing += int(off.sum())
        if name not in trivial.GEOMETRIC:
            assert (got[i].int() - expected.int()).abs().max() <= 1, (i, strength)
    # A source halfway between two pixels may be rounded either way; a blend may fall on either side of a whole number.
    assert differing / (len(bins) * SIZE * SIZE) < 2e-3
    if name != "Identity":
        assert not torch.equal(got, pixels)


def test_operations_of_a_step_do_not_touch_each_others_images() -> None:
    pixels = pictures(40)
    generator = torch.Generator().manual_seed(3)
    kinds = torch.randint(len(trivial.OPERATIONS), (40,), generator=generator)
    bins = torch.randint(trivial.BINS, (40,), generator=generator)
    signs = torch.ones(40)
    chosen = trivial.arrange(kinds, bins, signs, 16, SIZE)
    together = torch.cat([trivial.augmented(pixels[s : s + 16], chosen, s // 16, s) for s in (0, 16, 32)])
    for i in range(40):
        alone = trivial.arrange(kinds[i : i + 1], bins[i : i + 1], signs[:1], 1, SIZE)
        assert torch.equal(trivial.augmented(pixels[i : i + 1], alone, 0, 0)[0], together[i]), i


def test_operations_and_strengths_are_uniform() -> None:
    count = 60_000
    drawn = trivial.draw(count, torch.arange(count), count, SIZE, torch.Generator().manual_seed(0))
    (counts,) = drawn.counts
    expected = count / len(trivial.OPERATIONS)
    assert sum(counts) == count
    assert all(abs(n - expected) < 6 * math.sqrt(expected) for n in counts)
    start = sum(counts[: trivial.OPERATIONS.index("Brightness")])
    weights = drawn.weight[start : start + counts[trivial.OPERATIONS.index("Brightness")]]
    assert weights.unique().numel() == 2 * trivial.BINS - 1
    assert abs(weights.mean() - 1) < 0.05


def test_cutout_by_hand() -> None:
    images = torch.ones(3, 3, 8, 8)
    centres = torch.tensor([[4, 4], [0, 7], [7, 1]])
    got = cutout(images, centres, 4)
    expected = torch.ones(3, 8, 8)
    expected[0, 2:6, 2:6] = 0
    expected[1, 0:2, 5:8] = 0
    expected[2, 5:8, 0:3] = 0
    assert torch.equal(got, expected[:, None].expand(3, 3, 8, 8))
    assert torch.equal(images, torch.ones(3, 3, 8, 8))


def test_cutouts_square_is_the_papers() -> None:
    assert (cutout_side(32, 10), cutout_side(32, 100), cutout_side(64, 200), cutout_side(224, 1000)) == (16, 8, 16, 56)


def batches(policy: str, **given: Any) -> list[Batch]:
    data = tiny_data(TinyTask())
    arguments: dict[str, Any] = {"stream": "0", "batch_size": 12, "augment": "crop-flip", "policy": policy, **given}
    return list(data.epoch(0, **arguments))


@pytest.mark.parametrize("policy", ["cutout", "trivialaugment"])
def test_a_policy_changes_neither_order_nor_crops_nor_others_draws(policy: str) -> None:
    plain, changed = batches("basic"), batches(policy)
    rich = batches(policy, views=2, partners=1)
    same = 0
    for a, b, c in zip(plain, changed, rich, strict=True):
        assert torch.equal(a.index, b.index)
        assert torch.equal(b.images, c.images)  # further views and partners draw for themselves
        assert b.images.is_contiguous(memory_format=torch.channels_last)
        assert b.images.dtype == torch.float32
        same += int((a.images == b.images).flatten(1).all(1).sum())
        assert not torch.equal(c.views[0], c.images)
        if policy == "cutout":
            kept = b.images != 0
            assert torch.equal(a.images[kept], b.images[kept])
            blank = (b.images == 0).all(1).sum((1, 2))
            assert (blank >= 4 * 4).all()  # 8x8 pixels of 16x16, cut off at most in both directions
    assert (same == 0) if policy == "cutout" else (0 < same < 26)


@pytest.mark.parametrize("policy", ["cutout", "trivialaugment"])
def test_views_of_a_policy_are_drawn_apart(policy: str) -> None:
    """Of images that are not augmented otherwise, two views differ by the policy alone."""
    first = batches(policy, augment="none", views=2, partners=1)[0]
    again = batches(policy, augment="none", views=2, partners=1)[0]
    later = next(tiny_data(TinyTask()).epoch(1, stream="0", batch_size=12, augment="none", policy=policy))
    other = batches(policy, augment="none", stream="1")[0]
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.views[0], again.views[0])
    assert not torch.equal(first.images, first.views[0])
    assert not torch.equal(first.images[:, :, 0], later.images[:, :, 0])
    assert not torch.equal(first.images, other.images)


def test_floating_pixels_of_resized_crops_become_bytes_first() -> None:
    group = Group(torch.arange(5), (Draw(),))
    arguments: dict[str, Any] = {
        "count": 5, "stream": "0", "epoch": 0, "step": 5, "size": SIZE, "num_classes": 10, "device": torch.device("cpu")
    }  # fmt: skip
    pixels = pictures(5)
    as_they_are = lambda each: each  # noqa: E731
    (([whole],),) = (Policy("trivialaugment", [group], group.index, **arguments).applied(0, [[pixels]], as_they_are),)
    (([near],),) = (
        Policy("trivialaugment", [group], group.index, **arguments).applied(0, [[pixels + 0.3]], as_they_are),
    )
    assert torch.equal(whole, near)


def test_evaluation_sees_images_as_they_are() -> None:
    data = tiny_data(TinyTask())
    before = [images.clone() for images, _ in data.test_batches(8)]
    list(data.epoch(0, stream="0", batch_size=12, augment="none", policy="cutout"))
    assert all(torch.equal(a, b) for a, (b, _) in zip(before, data.test_batches(8), strict=True))


def test_streamed_images_are_treated_as_resident_ones(tmp_path: Any) -> None:
    from sdbench import data

    rng = np.random.default_rng(0)
    for part, count in (("train", 6), ("val", 2)):
        for name in ("cat", "dog"):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / part / name / f"{i}.png")
    (tmp_path / "mixed").mkdir()
    resident = data.load(f"folder:{tmp_path}", None, 16, device=torch.device("cpu"))
    from sdbench.data.folder import scan
    from sdbench.data.listing import facts_of
    from sdbench.data.stream import StreamedSet

    source = data.parse(f"folder:{tmp_path}")
    listing = scan(source, None)
    facts = facts_of(listing, source, data.DATASETS["folder"], 16)
    streamed = StreamedSet(listing, facts, data.DATASETS["folder"], device=torch.device("cpu"), split=0.0, workers=0)
    for policy in POLICIES:
        arguments: dict[str, Any] = {"stream": "0", "batch_size": 5, "augment": "crop-flip", "policy": policy}
        for a, b in zip(resident.epoch(0, **arguments), streamed.epoch(0, **arguments), strict=True):
            assert torch.equal(a.images, b.images), policy


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(UserError, match="did you mean 'cutout'"):
        batches("cut-out")
    assert POLICIES == SPEC_POLICIES
