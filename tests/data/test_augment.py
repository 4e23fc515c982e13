"""Batched augmentation against one image at a time, and against torchvision."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torchvision import transforms
from torchvision.transforms import functional as reference

from sdbench.data import augment
from sdbench.data.streams import Draw


def random_pixels(count: int, side: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8, generator=generator(seed))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("side", "width"), [(32, 4), (64, 8), (20, 2), (8, 1), (5, 0)])
def test_padding_is_an_eighth_of_the_side_in_black(side: int, width: int) -> None:
    pixels = random_pixels(2, side)
    padded = augment.pad(pixels)
    expected = F.pad(pixels.permute(0, 3, 1, 2), (width,) * 4).permute(0, 2, 3, 1)
    assert torch.equal(padded, expected)


@pytest.mark.parametrize("flipping", [True, False])
@pytest.mark.parametrize("side", [32, 20, 5])
def test_crop_and_flip_equal_a_loop_over_images(side: int, flipping: bool) -> None:
    pixels = random_pixels(9, side)
    index = torch.tensor([3, 0, 8, 8, 5, 1])
    draw = augment.crop_drawer(side, flips=flipping)(len(index), generator())
    assert draw.offsets is not None
    found = augment.apply(augment.pad(pixels), index, draw, side)
    width = side // 8
    for n, position in enumerate(index.tolist()):
        image = F.pad(pixels[position].permute(2, 0, 1), (width,) * 4)
        top, left = draw.offsets[n].tolist()
        image = image[:, top : top + side, left : left + side]
        if draw.flips is not None and draw.flips[n]:
            image = torch.flip(image, [2])
        assert torch.equal(found[n], image.permute(1, 2, 0))


def test_crop_offsets_and_flips_are_uniform() -> None:
    draw = augment.crop_drawer(32, flips=True)(20_000, generator())
    assert draw.offsets is not None
    assert draw.flips is not None
    for column in draw.offsets.T:
        assert stats.chisquare(torch.bincount(column, minlength=9).numpy()).pvalue > 1e-3
        assert column.max() == 8
    assert stats.binomtest(int(draw.flips.sum()), 20_000, 0.5).pvalue > 1e-3
    assert augment.crop_drawer(32, flips=False)(3, generator()).flips is None


@pytest.mark.parametrize(("source", "size"), [(32, 32), (64, 32), (64, 64), (24, 40), (7, 16)])
def test_resized_crop_equals_torchvision(source: int, size: int) -> None:
    pixels = random_pixels(5, source)
    index = torch.tensor([4, 1, 1, 0, 3, 2, 2, 2])
    draw = augment.resized_crop_drawer(source)(len(index), generator(3))
    assert draw.boxes is not None
    assert draw.flips is not None
    found = augment.apply(pixels, index, draw, size)
    assert found.shape == (8, size, size, 3)
    for n, position in enumerate(index.tolist()):
        top, left, height, width = (int(v) for v in draw.boxes[n].tolist())
        image = pixels[position].permute(2, 0, 1).float()
        image = reference.resized_crop(image, top, left, height, width, [size, size], antialias=True)
        if draw.flips[n]:
            image = reference.hflip(image)
        torch.testing.assert_close(found[n], image.permute(1, 2, 0), atol=1e-3, rtol=0)


def test_resized_crop_of_the_whole_image_and_of_one_pixel() -> None:
    pixels = random_pixels(1, 16)
    boxes = torch.tensor([[0.0, 0, 16, 16], [5, 9, 1, 1]])
    index = torch.tensor([0, 0])
    found = augment.resized_crop(pixels, index, boxes, None, 16)
    torch.testing.assert_close(found[0], pixels[0].float())
    torch.testing.assert_close(found[1], pixels[0, 5, 9].float().expand(16, 16, 3))


def test_resized_crop_stays_precise_under_autocast() -> None:
    pixels = random_pixels(4, 16)
    draw = augment.resized_crop_drawer(16)(4, generator())
    plain = augment.apply(pixels, torch.arange(4), draw, 16)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(augment.apply(pixels, torch.arange(4), draw, 16), plain)


def boxes_of(height: int, width: int, count: int, seed: int = 0) -> Tensor:
    uniforms = torch.rand((count, augment.BOX_UNIFORMS), dtype=torch.float64, generator=generator(seed))
    return augment.crop_boxes(uniforms, height, width)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 64), (48, 100), (90, 40)])
def test_boxes_have_torchvisions_distribution(height: int, width: int) -> None:
    own = boxes_of(height, width, 3000)
    torch.manual_seed(0)
    image = torch.zeros(1, height, width)
    theirs = torch.tensor(
        [transforms.RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(3000)]
    )
    for column in range(4):
        assert stats.ks_2samp(own[:, column].numpy(), theirs[:, column].numpy()).pvalue > 1e-3, column
    for mine, other in (
        (own[:, 2] * own[:, 3], theirs[:, 2] * theirs[:, 3]),
        (own[:, 3] / own[:, 2], theirs[:, 3] / theirs[:, 2]),
    ):
        assert stats.ks_2samp(mine.numpy(), other.numpy()).pvalue > 1e-3


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 3), (5, 200), (200, 5), (64, 64)])
def test_boxes_lie_inside_the_image(height: int, width: int) -> None:
    top, left, h, w = boxes_of(height, width, 2000, seed=1).T
    assert bool(((top >= 0) & (left >= 0) & (h >= 1) & (w >= 1)).all())
    assert bool(((top + h <= height) & (left + w <= width)).all())


def test_extreme_uniform_numbers_stay_inside() -> None:
    ends = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    for value in ends:
        top, left, h, w = augment.crop_boxes(value.expand(1, augment.BOX_UNIFORMS), 37, 41)[0].tolist()
        assert top >= 0
        assert left >= 0
        assert top + h <= 37
        assert left + w <= 41


@pytest.mark.parametrize(("height", "width"), [(8, 400), (400, 8)])
def test_a_box_that_never_fits_is_torchvisions_central_one(height: int, width: int) -> None:
    theirs = transforms.RandomResizedCrop.get_params(torch.zeros(1, height, width), [0.08, 1.0], [3 / 4, 4 / 3])
    assert boxes_of(height, width, 3).tolist() == [list(theirs)] * 3
    assert augment.crop_box(5, height, width) == theirs


def test_the_box_of_a_seed_is_its_own_and_within_the_image() -> None:
    found = [augment.crop_box(seed, 300, 200) for seed in range(200)]
    assert found == [augment.crop_box(seed, 300, 200) for seed in range(200)]
    assert len(set(found)) > 190


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_normalization_equals_torchvisions(dtype: torch.dtype) -> None:
    mean, std = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
    pixels = random_pixels(3, 8)
    found = augment.Normalizer(mean, std, 8, torch.device("cpu"))(pixels, dtype)
    expected = reference.normalize(pixels.permute(0, 3, 1, 2).float() / 255, list(mean), list(std))
    tolerance = 1e-5 if dtype == torch.float32 else 2**-8 * float(expected.abs().max())
    torch.testing.assert_close(found.float(), expected, atol=tolerance, rtol=0)
    assert found.dtype == dtype
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert found.stride() == (8 * 8 * 3, 1, 8 * 3, 3)


def test_pixels_are_left_untouched() -> None:
    pixels = random_pixels(4, 16)
    before = pixels.clone()
    index = torch.arange(4)
    normalize = augment.Normalizer((0.5,) * 3, (0.2,) * 3, 16, torch.device("cpu"))
    for drawer in (augment.no_drawer, augment.resized_crop_drawer(16), augment.seed_drawer):
        normalize(augment.apply(pixels, index, drawer(4, generator()), 16), torch.float32)
    crop = augment.crop_drawer(16, flips=True)(4, generator())
    normalize(augment.apply(augment.pad(pixels), index, crop, 16), torch.float32)
    assert torch.equal(pixels, before)


def test_mirroring_alone() -> None:
    pixels = random_pixels(3, 4)
    found = augment.apply(pixels, torch.arange(3), Draw(flips=torch.tensor([True, False, True])), 4)
    assert torch.equal(found[0], torch.flip(pixels[0], [1]))
    assert torch.equal(found[1], pixels[1])


@pytest.mark.parametrize("kind", ["none", "crop-flip", "resized-crop-flip", "seeds"])
def test_nothing_waits_for_a_gpu(kind: str) -> None:
    """Tensors without values, on a pretended GPU: whatever read a value or mixed devices would fail."""
    with FakeTensorMode():
        cuda = torch.device("cuda")
        pixels = torch.empty((9, 16, 16, 3), dtype=torch.uint8, device=cuda)
        flips = torch.empty(5, dtype=torch.bool, device=cuda)
        draw = {
            "none": Draw(),
            "crop-flip": Draw(offsets=torch.empty((5, 2), dtype=torch.int64, device=cuda), flips=flips),
            "resized-crop-flip": Draw(boxes=torch.empty((5, 4), device=cuda), flips=flips),
            "seeds": Draw(seeds=torch.empty(5, dtype=torch.int64, device=cuda), flips=flips),
        }[kind]
        index = torch.empty(5, dtype=torch.int64, device=cuda)
        source = augment.pad(pixels) if kind == "crop-flip" else pixels
        images = augment.apply(source, index, draw, 16)
        normal = augment.Normalizer((0.5,) * 3, (0.2,) * 3, 16, cuda)(images, torch.bfloat16)
        assert normal.device.type == "cuda"
        assert normal.shape == (5, 3, 16, 16)
