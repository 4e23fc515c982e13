"""Epochs and evaluation batches, resident and streamed."""

from __future__ import annotations

import gc
import multiprocessing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms
from torchvision.transforms import functional as reference

from sdbench import data
from sdbench.data import stream
from sdbench.data.augment import crop_box, seed_drawer
from sdbench.data.dataset import DataSet, anchors_per_step
from sdbench.data.facts import Arrays, DataFacts
from sdbench.data.resident import ResidentSet, fits
from sdbench.data.stream import StreamedSet
from sdbench.data.streams import generator_for
from sdbench.errors import UserError
from sdbench.method import Batch

Make = Callable[..., Path]
CPU = torch.device("cpu")
AUGMENTATIONS = ("none", "crop", "crop-flip", "resized-crop-flip")


def resident(count: int = 50, side: int = 16, split: float = 0.0, size: int | None = None) -> ResidentSet:
    """Image n has red n everywhere, which tells it apart in any crop's middle, and random green and blue."""
    facts = DataFacts("made", "made:0", 3, count, 6, size or side, "crop-flip", ("a", "b", "c"))
    pixels = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)
    pixels[..., 0] = np.arange(count, dtype=np.uint8)[:, None, None]
    labels = np.arange(count) % 3
    arrays = Arrays(facts, pixels, labels, pixels[:6].copy(), labels[:6].copy())
    return ResidentSet(arrays, data.DATASETS["folder"], device=CPU, split=split)


def values(images: Tensor) -> list[int]:
    """The byte in the middle of the red channel of each normalized image."""
    info = data.DATASETS["folder"]
    middle = images[:, 0, images.shape[2] // 2, images.shape[3] // 2]
    return ((middle * info.std[0] + info.mean[0]) * 255).round().int().tolist()


def batches(dataset: DataSet, epoch: int = 0, **changes: Any) -> list[Batch]:
    arguments = {"stream": "0", "batch_size": 16, "augment": "crop-flip", "dtype": torch.float32} | changes
    return list(dataset.epoch(epoch, **arguments))


@pytest.mark.parametrize("augment", AUGMENTATIONS)
@pytest.mark.parametrize("split", [0.0, 0.2])
def test_every_index_comes_once_with_its_image_and_label(augment: str, split: float) -> None:
    dataset = resident(split=split)
    found = batches(dataset, augment=augment)
    index = torch.cat([b.index for b in found])
    assert sorted(index.tolist()) == list(range(dataset.num_train))
    assert index.dtype == torch.int64
    shown = [v for b in found for v in values(b.images)]
    assert [v % 3 for v in shown] == [label for b in found for label in b.labels.tolist()]
    assert len(set(shown)) == dataset.num_train
    order = [v for _, v in sorted(zip(index.tolist(), shown, strict=True))]
    assert order == sorted(order)  # kept images keep their order


def test_the_short_last_batch_is_kept() -> None:
    dataset = resident(50)
    found = batches(dataset, batch_size=16, views=2, partners=1)
    assert [len(b.labels) for b in found] == [16, 16, 16, 2]
    assert all(len(t) == 2 for t in (found[-1].images, *found[-1].views, *found[-1].partners, found[-1].index))
    assert dataset.steps(16) == 4
    assert dataset.steps(25) == 2
    assert dataset.steps(1000) == len(batches(dataset, batch_size=1000)) == 1


@pytest.mark.parametrize(
    ("batch_size", "partners", "inside", "anchors"),
    [
        (128, 0, False, 128),
        (128, 1, False, 128),
        (128, 1, True, 64),
        (128, 3, True, 32),
        (16, 2, True, 5),
        (2, 3, True, 1),
    ],
)
def test_anchors_of_a_step(batch_size: int, partners: int, inside: bool, anchors: int) -> None:
    assert anchors_per_step(batch_size, partners, inside) == anchors
    dataset = resident(50)
    steps = dataset.steps(batch_size, partners, inside)
    assert steps == int(np.ceil(50 / anchors))
    found = batches(dataset, batch_size=batch_size, partners=partners, partners_in_batch=inside)
    assert len(found) == steps
    assert len(found[0].labels) == min(anchors, 50)
    assert all(len(b.partners) == partners for b in found)
    assert sorted(torch.cat([b.index for b in found]).tolist()) == list(range(50))


def test_partners_are_other_images_of_the_class_with_augmentation_of_their_own() -> None:
    dataset = resident(60)
    for batch in batches(dataset, augment="none", partners=2):
        for partner in batch.partners:
            assert partner.shape == batch.images.shape
            assert [v % 3 for v in values(partner)] == batch.labels.tolist()
    found = batches(dataset, partners=1, augment="crop-flip", batch_size=60)[0]
    same = torch.tensor(values(found.partners[0])) == torch.tensor(values(found.images))
    assert 0 < int(same.sum()) < 20  # one in twenty is its own partner
    crops = (found.partners[0][same] != found.images[same]).flatten(1).any(1)
    assert bool(crops.any())


@pytest.mark.parametrize("augment", AUGMENTATIONS[1:])
def test_images_do_not_depend_on_what_else_is_asked_for(augment: str) -> None:
    dataset = resident()
    alone = batches(dataset, augment=augment)
    more = batches(dataset, augment=augment, views=3, partners=2)
    for a, b in zip(alone, more, strict=True):
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.index, b.index)
        assert len(b.views) == 2
        assert not torch.equal(b.images, b.views[0])
        assert not torch.equal(b.views[0], b.views[1])
        assert values(b.views[0]) == values(b.views[1]) == values(b.images)
    inside = torch.cat([b.images for b in batches(dataset, augment=augment, partners=1, partners_in_batch=True)])
    assert torch.equal(inside, torch.cat([b.images for b in alone]))


def test_epochs_and_streams_differ_and_come_again() -> None:
    dataset = resident()
    first = batches(dataset)
    others = [batches(dataset, 1), batches(dataset, stream="1"), batches(dataset, stream="0/generation-1")]
    assert all(not torch.equal(first[0].index, other[0].index) for other in others)
    torch.manual_seed(3)
    for a, b in zip(first, batches(resident()), strict=True):
        assert torch.equal(a.images, b.images)
    half = next(dataset.epoch(0, stream="0", batch_size=16, augment="crop-flip"))
    assert torch.equal(half.images, first[0].images)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("augment", AUGMENTATIONS)
def test_layout_and_type(augment: str, dtype: torch.dtype) -> None:
    dataset = resident()
    for batch in batches(dataset, augment=augment, views=2, partners=1, dtype=dtype):
        for images in (batch.images, *batch.views, *batch.partners):
            assert images.dtype == dtype
            assert images.shape[1:] == (3, 16, 16)
            assert images.stride()[1:] == (1, 16 * 3, 3)
    for images, _ in dataset.test_batches(4, dtype):
        assert images.dtype == dtype
        assert images.stride()[1:] == (1, 16 * 3, 3)


def test_the_global_generator_is_left_alone(make_folder: Make) -> None:
    streamed = streamed_set(make_folder())
    before = torch.get_rng_state()
    for dataset in (resident(), streamed):
        batches(dataset, views=2, partners=1)
        list(dataset.test_batches(4))
    assert torch.equal(torch.get_rng_state(), before)


def test_evaluation_batches_come_in_order() -> None:
    dataset = resident(50, split=0.2)
    test = list(dataset.test_batches(4))
    assert [len(labels) for _, labels in test] == [4, 2]
    assert [v for images, _ in test for v in values(images)] == list(range(6))
    held = [v for images, _ in dataset.validation_batches(4) for v in values(images)]
    labels = torch.cat([labels for _, labels in dataset.validation_batches(4)]).tolist()
    assert dataset.num_validation == len(held) == 50 - dataset.num_train == 9
    assert held == sorted(held)
    assert [v % 3 for v in held] == labels
    trained = {v for b in batches(dataset) for v in values(b.images)}
    assert trained | set(held) == set(range(50))
    assert not trained & set(held)
    assert list(resident().validation_batches(4)) == []


def test_the_split_is_the_same_for_every_stream() -> None:
    first, second = ([v for i, _ in resident(split=0.1).validation_batches(9) for v in values(i)] for _ in range(2))
    assert first == second


def test_an_unknown_augmentation_is_refused(make_folder: Make) -> None:
    for dataset in (resident(), streamed_set(make_folder()), streamed_set(make_folder("ragged", MIXED))):
        with pytest.raises(UserError, match="did you mean 'crop-flip'"):
            batches(dataset, augment="crop-flop")


def test_deterministic_algorithms_and_a_training_step() -> None:
    """Under the trainer's settings: deterministic mode, autocast around the iteration."""
    torch.use_deterministic_algorithms(True)
    try:
        with torch.autocast("cpu", torch.bfloat16):
            found = batches(resident(), augment="resized-crop-flip")
    finally:
        torch.use_deterministic_algorithms(False)
    plain = batches(resident(), augment="resized-crop-flip")
    assert all(torch.equal(a.images, b.images) for a, b in zip(found, plain, strict=True))


def test_only_what_fits_is_held() -> None:
    assert fits(60_000, 32, 32, 128, CPU)
    assert not fits(10**12, 32, 32, 128, CPU)
    assert not fits(10, 32, 32, 10**12, CPU)


MIXED = ((40, 30), (30, 40), (64, 64), (25, 90), (100, 20))


def streamed_set(root: Path, size: int | None = None, split: float = 0.0, workers: int = 0) -> StreamedSet:
    """The folder opened as if it did not fit into memory."""
    original = stream.fits
    stream.fits = lambda *_: False
    try:
        found = data.load(f"folder:{root}", None, size, device=CPU, split=split, workers=workers)
    finally:
        stream.fits = original
    assert isinstance(found, StreamedSet)
    return found


def everything(dataset: DataSet, augment: str) -> Iterator[Tensor]:
    for batch in batches(dataset, 3, augment=augment, views=2, partners=2, batch_size=8):
        yield from (batch.images, *batch.views, *batch.partners, batch.labels, batch.index)
    for pairs in (dataset.test_batches(4), dataset.validation_batches(4)):
        for images, labels in pairs:
            yield from (images, labels)


@pytest.mark.parametrize("augment", AUGMENTATIONS)
@pytest.mark.parametrize("size", [None, 12, 24])
def test_resident_and_streamed_agree_bit_for_bit(make_folder: Make, augment: str, size: int | None) -> None:
    root = make_folder(suffix=".jpg")
    held = data.load(f"folder:{root}", None, size, device=CPU, split=0.3)
    assert isinstance(held, ResidentSet)
    read = streamed_set(root, size, split=0.3)
    assert (held.fingerprint, held.num_train) == (read.fingerprint, read.num_train)
    compared = 0
    for a, b in zip(everything(held, augment), everything(read, augment), strict=True):
        assert torch.equal(a, b)
        assert a.stride() == b.stride()
        compared += 1
    assert compared == 2 * 6 + 3 * 2 + 2 * 2


@pytest.mark.parametrize("shapes", [((16, 16),), MIXED])
def test_results_do_not_depend_on_the_number_of_workers(make_folder: Make, shapes: tuple[tuple[int, int], ...]) -> None:
    root = make_folder(shapes=shapes, train=4, test=2)
    alone = streamed_set(root, 32)
    helped = streamed_set(root, 32, workers=2)
    for a, b in zip(everything(alone, "resized-crop-flip"), everything(helped, "resized-crop-flip"), strict=True):
        assert torch.equal(a, b)
    left = next(helped.epoch(0, stream="0", batch_size=2, augment="crop"))  # given up after one batch
    assert torch.equal(left.images, next(alone.epoch(0, stream="0", batch_size=2, augment="crop")).images)
    started = multiprocessing.active_children()
    assert len(started) == 2, "the same two for every pass"
    del helped
    gc.collect()
    for process in started:
        process.join(60)
    assert not any(process.is_alive() for process in started)


def test_passes_may_overlap_and_be_given_up(make_folder: Make) -> None:
    """Two epochs side by side, one of them left after a batch, then others, by the same workers."""
    root = make_folder(shapes=MIXED, train=4, test=2)
    alone, helped = streamed_set(root, 32), streamed_set(root, 32, workers=1)

    def epoch(dataset: DataSet, number: int) -> Iterator[Tensor]:
        drawn = dataset.epoch(number, stream="0", batch_size=3, augment="resized-crop-flip")
        return (batch.images for batch in drawn)

    expected = {number: list(epoch(alone, number)) for number in range(3)}
    first, second = epoch(helped, 0), epoch(helped, 1)
    for position in range(3):
        assert torch.equal(next(first), expected[0][position])
        assert torch.equal(next(second), expected[1][position])
    del first
    third = list(epoch(helped, 2))
    assert all(torch.equal(a, b) for a, b in zip(third, expected[2], strict=True))
    assert torch.equal(next(second), expected[1][3])
    assert len(multiprocessing.active_children()) <= 2


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("shapes", [((16, 16),), MIXED])
def test_an_image_that_breaks_during_training_is_named(
    make_folder: Make, shapes: tuple[tuple[int, int], ...], workers: int
) -> None:
    root = make_folder(shapes=shapes)
    dataset = streamed_set(root, workers=workers)
    broken = root / "train" / "dove" / "4.png"
    broken.write_bytes(broken.read_bytes()[:60])
    with pytest.raises(UserError, match=r"dove/4.png: expected a whole image") as error:
        batches(dataset)
    assert "Traceback" not in str(error.value)


def test_an_image_that_changed_its_size_is_named(make_folder: Make) -> None:
    root = make_folder()
    dataset = streamed_set(root)
    Image.new("RGB", (17, 16)).save(root / "train" / "dove" / "4.png")
    with pytest.raises(UserError, match=r"dove/4.png.*17x16"):
        batches(dataset)


def normal(image: Image.Image) -> Tensor:
    info = data.DATASETS["folder"]
    return reference.normalize(reference.to_tensor(image), list(info.mean), list(info.std))


@pytest.mark.parametrize("size", [28, 32, 50])
def test_test_images_are_resized_and_cropped_as_torchvision_does_it(make_folder: Make, size: int) -> None:
    root = make_folder(shapes=MIXED, test=5)
    dataset = streamed_set(root, size)
    images = torch.cat([images for images, _ in dataset.test_batches(4)])
    view = transforms.Compose([transforms.Resize(size * 256 // 224), transforms.CenterCrop(size)])
    paths = sorted((root / "val").rglob("*.png"))
    assert len(paths) == len(images) == 15
    for found, path in zip(images, paths, strict=True):
        with Image.open(path) as image:
            torch.testing.assert_close(found, normal(view(image)), atol=1e-5, rtol=0)


def test_training_boxes_are_cut_as_torchvision_does_it(make_folder: Make) -> None:
    root = make_folder(shapes=MIXED)
    dataset = streamed_set(root, 24)
    paths = sorted((root / "train").rglob("*.png"))
    [batch] = batches(dataset, augment="resized-crop-flip", batch_size=100, views=2)
    for purpose, images in (("augment", batch.images), ("view-1", batch.views[0])):
        draw = seed_drawer(len(paths), generator_for("0", purpose, 0))
        assert draw.seeds is not None
        assert draw.flips is not None
        assert 0 < int(draw.flips.sum()) < len(paths)
        for n, position in enumerate(batch.index.tolist()):
            with Image.open(paths[position]) as image:
                box = crop_box(int(draw.seeds[n]), image.height, image.width)
                cut = reference.resized_crop(image, *box, [24, 24])
            cut = reference.hflip(cut) if draw.flips[n] else cut
            torch.testing.assert_close(images[n], normal(cut), atol=1e-5, rtol=0)


@pytest.mark.parametrize("augment", AUGMENTATIONS[:3])
def test_mixed_images_are_cropped_from_the_test_view(make_folder: Make, augment: str) -> None:
    dataset = streamed_set(make_folder(shapes=MIXED), 16)
    found = batches(dataset, augment=augment, views=2)
    plain = batches(dataset, augment="none")
    assert torch.equal(found[0].index, plain[0].index)
    assert (augment == "none") == torch.equal(found[0].images, plain[0].images)
    assert found[0].images.shape == (16, 3, 16, 16)


def test_small_uniform_images_are_held_without_being_asked(make_folder: Make) -> None:
    assert isinstance(data.load(f"folder:{make_folder('small')}", device=CPU), ResidentSet)
    mixed = data.load(f"folder:{make_folder('mixed', MIXED)}", device=CPU)
    assert isinstance(mixed, StreamedSet)
    assert mixed.image_size == 224


def test_shown_size_may_differ_from_the_stored_one() -> None:
    dataset = resident(side=16, size=24)
    for augment in AUGMENTATIONS:
        found = batches(dataset, augment=augment)
        assert found[0].images.shape == (16, 3, 24, 24)
        assert sorted(v for b in found for v in values(b.images)) == list(range(50))
    [(images, _)] = dataset.test_batches(9)
    assert values(images) == list(range(6))
