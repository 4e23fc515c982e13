"""ImageNet, iNaturalist 2021 and CUB-200-2011 as they lie around, in miniature."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from torch import Tensor
from torchvision.datasets import ImageFolder

from sdbench import data
from sdbench.data import fingerprints
from sdbench.data.listing import FileTable, images_below
from sdbench.data.matlab import read_structs
from sdbench.data.stream import StreamedSet
from sdbench.errors import UserError

CPU = torch.device("cpu")
WNIDS = ("n01440764", "n01443537", "n03995372")
VAL = tuple(f"ILSVRC2012_val_{n:08d}" for n in range(1, 7))
ANSWERS = (2, 0, 1, 1, 2, 0)
"""Class numbers of VAL."""


def paint(path: Path, shade: int, size: tuple[int, int] = (50, 40)) -> None:
    """A JPEG of one gray, so that an image can be told by its mean."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size[1], size[0], 3), shade, np.uint8)).save(path, "JPEG")


def shades(dataset: data.DataSet, part: str) -> list[tuple[int, int]]:
    """(gray, label) of each image in order."""
    info = data.DATASETS["imagenet"]
    mean, std = torch.tensor(info.mean), torch.tensor(info.std)

    def grays(images: Tensor) -> list[int]:
        return ((images.mean((2, 3)) * std + mean) * 255).mean(1).round().int().tolist()

    pairs = dataset.test_batches(4) if part == "test" else dataset.train_batches(4)
    return [pair for images, labels in pairs for pair in zip(grays(images), labels.tolist(), strict=True)]


@pytest.fixture
def imagenet(tmp_path: Path) -> Path:
    root = tmp_path / "imagenet"
    for label, wnid in enumerate(WNIDS):
        for n in range(2 + label):
            paint(root / "train" / wnid / f"{wnid}_{n}.JPEG", 10 * label + n)
    return root


def folders(root: Path) -> None:
    for n, (stem, label) in enumerate(zip(VAL, ANSWERS, strict=True)):
        paint(root / "val" / WNIDS[label] / f"{stem}.JPEG", 100 + n)


def flat(root: Path) -> None:
    for n, stem in enumerate(VAL):
        paint(root / "val" / f"{stem}.JPEG", 100 + n)


def devkit(root: Path) -> None:
    """Numbers in another order than the wnids', and a synset above the classes, as in the published meta.mat."""
    folder = root / "ILSVRC2012_devkit_t12" / "data"
    folder.mkdir(parents=True)
    number = {2: 1, 0: 2, 1: 3}
    kind = [("ILSVRC2012_ID", "f8"), ("WNID", "U9"), ("num_children", "f8")]
    rows = [(number[label], wnid, 0) for label, wnid in enumerate(WNIDS)]
    savemat(folder / "meta.mat", {"synsets": np.array([*rows, (1001, "n00001740", 3)], dtype=kind)})
    (folder / "ILSVRC2012_validation_ground_truth.txt").write_text("".join(f"{number[a]}\n" for a in ANSWERS))


def kaggle(root: Path) -> None:
    lines = [f"{stem},{WNIDS[a]} 85 1 499 272 {WNIDS[a]} 1 1 2 2 " for stem, a in zip(VAL, ANSWERS, strict=True)]
    (root / "LOC_val_solution.csv").write_text("\n".join(["ImageId,PredictionString", *reversed(lines)]))


def tensorflow(root: Path) -> None:
    (root / "imagenet_2012_validation_synset_labels.txt").write_text("".join(f"{WNIDS[a]}\n" for a in ANSWERS))


def caffe(root: Path) -> None:
    (root / "val" / "val.txt").write_text("".join(f"{s}.JPEG {a}\n" for s, a in zip(VAL, ANSWERS, strict=True)))


def test_imagenet_in_folders_is_what_torchvision_reads(imagenet: Path) -> None:
    folders(imagenet)
    loaded = data.load("imagenet", imagenet, 32, device=CPU)
    assert isinstance(loaded, StreamedSet)
    facts = data.inspect("imagenet", imagenet.parent)
    assert (facts.name, facts.num_classes, facts.num_train, facts.num_test) == ("imagenet", 3, 9, 6)
    assert (facts.image_size, facts.augment, facts.class_names) == (224, "resized-crop-flip", WNIDS)
    for part, name in (("train", "train"), ("test", "val")):
        theirs = ImageFolder(str(imagenet / name))
        expected = [(int(np.array(image).mean().round()), label) for image, label in theirs]
        assert shades(loaded, part) == expected


@pytest.mark.parametrize("mapping", [devkit, kaggle, tensorflow, caffe])
def test_a_flat_val_is_labelled_by_the_file_beside_it(imagenet: Path, mapping: Callable[[Path], None]) -> None:
    flat(imagenet)
    mapping(imagenet)
    loaded = data.load("imagenet", imagenet, 32, device=CPU)
    assert shades(loaded, "test") == [(100 + n, label) for n, label in enumerate(ANSWERS)]


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("number", ["f8", "f4", "u2", "i4", "u1", "O"])
def test_meta_mat_is_read_however_it_was_saved(tmp_path: Path, packed: bool, number: str) -> None:
    """SciPy writes it; children's numbers are vectors, as in the published one."""
    kind = [("words", "O"), ("ILSVRC2012_ID", number), ("children", "O"), ("WNID", "O")]
    rows = [("gr\u00fcn, x" * k, k, np.arange(k), f"n{k:08d}") for k in range(1, 250)]
    savemat(tmp_path / "meta.mat", {"other": "x", "synsets": np.array(rows, dtype=kind)}, do_compression=packed)
    found = read_structs((tmp_path / "meta.mat").read_bytes(), "synsets", ("ILSVRC2012_ID", "WNID"), 2**24)
    assert found == [{"ILSVRC2012_ID": float(k), "WNID": f"n{k:08d}"} for k in range(1, 250)]


def test_big_endian_matlab_files_are_read() -> None:
    """Written by hand after the format's description."""

    def element(kind: int, content: bytes) -> bytes:
        return struct.pack(">II", kind, len(content)) + content + b"\0" * (-len(content) % 8)

    def matrix(what: int, name: bytes, *rest: bytes) -> bytes:
        flags, dims = element(6, struct.pack(">II", what, 0)), element(5, struct.pack(">ii", 1, 1))
        return element(14, flags + dims + element(1, name) + b"".join(rest))

    small = struct.pack(">HHH2x", 2, 4, 515)  # two bytes in the tag itself: an unsigned 16-bit number
    fields = struct.pack(">HHi", 4, 5, 8) + element(1, b"id\0\0\0\0\0\0name\0\0\0\0")
    rows = matrix(6, b"", small), matrix(4, b"", element(17, "n\u00fc".encode("utf-16-be")))
    content = b" " * 124 + b"\x01\x00MI" + matrix(2, b"things", fields, *rows)
    assert read_structs(content, "things", ("id", "name"), 0) == [{"id": 515.0, "name": "n\u00fc"}]


def test_kaggles_whole_archive_is_found(imagenet: Path) -> None:
    flat(imagenet)
    top = imagenet.parent / "kaggle"
    (top / "ILSVRC" / "Data").mkdir(parents=True)
    imagenet.rename(top / "ILSVRC" / "Data" / "CLS-LOC")
    kaggle(top)
    assert data.inspect("imagenet", top).num_test == 6


def test_the_labels_of_a_flat_val_are_in_the_fingerprint(imagenet: Path) -> None:
    flat(imagenet)
    tensorflow(imagenet)
    before = data.inspect("imagenet", imagenet).fingerprint
    file = imagenet / "imagenet_2012_validation_synset_labels.txt"
    file.write_text("\n".join(reversed(file.read_text().split())))
    assert data.inspect("imagenet", imagenet).fingerprint != before


def test_what_is_wrong_with_imagenet_is_said(imagenet: Path, tmp_path: Path) -> None:
    def refused(words: str) -> None:
        with pytest.raises(UserError, match=words):
            data.inspect("imagenet", imagenet)

    refused("val: missing; expected train/<wnid>/")
    flat(imagenet)
    refused("nothing says their classes; put one of these into .*: ILSVRC2012_validation_ground_truth.txt.*val/<wnid>/")
    devkit(imagenet)
    (imagenet / "ILSVRC2012_devkit_t12" / "data" / "meta.mat").unlink()
    refused("put meta.mat of the development kit beside it")
    (imagenet / "ILSVRC2012_devkit_t12" / "data" / "ILSVRC2012_validation_ground_truth.txt").unlink()
    tensorflow(imagenet)
    labels = imagenet / "imagenet_2012_validation_synset_labels.txt"
    labels.write_text(labels.read_text() + "n01440764\n")
    refused("cannot be understood .7 lines for 6 images")
    labels.write_text("n99999999\n" * 6)
    refused("has class 'n99999999', which train/ lacks")
    labels.unlink()
    caffe(imagenet)
    (imagenet / "val" / "val.txt").write_text("ILSVRC2012_val_00000001.JPEG -1\n")
    refused("'-1' is no number of a class")
    (imagenet / "val" / "val.txt").write_text("ILSVRC2012_val_00000001.JPEG \u00b2\n")
    refused("'\u00b2' is no number of a class")
    (imagenet / "val" / "val.txt").write_text("ILSVRC2012_val_00000001.JPEG 3\n")
    refused("class 3 where train/ has 3, numbered from 0")
    (imagenet / "val" / "val.txt").write_text("ILSVRC2012_val_00000001.JPEG 1\n")
    refused("ILSVRC2012_val_00000002 is not listed")
    (imagenet / "train" / "cats").mkdir()
    refused("train/cats: expected folders named by wnids")
    with pytest.raises(UserError, match=r"there is no train/; unpack ILSVRC2012_img_train.tar there.*--data-dir"):
        data.inspect("imagenet", tmp_path / "nowhere")


SPECIES = ("00000_Animalia_Annelida_Lumbricus", "00001_Animalia_Annelida_Sabella", "00010_Plantae_Poa")


def inaturalist(root: Path, train: str = "train", val: str = "val") -> Path:
    for label, name in enumerate(SPECIES):
        for n in range(3):
            paint(root / train / name / f"{n}.jpg", 10 * label + n)
        paint(root / val / name / "x.jpg", 200 + label)
    return root


@pytest.mark.parametrize(
    ("train", "val"),
    [("train", "val"), ("train_mini", "val"), ("2021_train_mini", "2021_valid"), ("2021_train", "val")],
)
def test_inat21_as_published_and_as_torchvision_unpacks_it(tmp_path: Path, train: str, val: str) -> None:
    root = inaturalist(tmp_path / "inat21", train, val)
    for place in (root, tmp_path):
        facts = data.inspect("inat21", place)
        assert (facts.num_classes, facts.num_train, facts.num_test, facts.class_names) == (3, 9, 3, SPECIES)
    loaded = data.load("inat21", root, 32, device=CPU)
    assert shades(loaded, "test") == [(200, 0), (201, 1), (202, 2)]
    assert shades(loaded, "train") == [(10 * k + n, k) for k in range(3) for n in range(3)]


def test_the_whole_training_set_goes_before_the_mini_one(tmp_path: Path) -> None:
    root = inaturalist(tmp_path, "train_mini")
    paint(inaturalist(root) / "train" / SPECIES[0] / "more.jpg", 77)
    assert data.inspect("inat21", root).num_train == 10


def test_what_is_wrong_with_inat21_is_said(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"unpack train.tar.gz or train_mini.tar.gz and val.tar.gz of https.*--data-dir"
    ):
        data.inspect("inat21", tmp_path)
    root = inaturalist(tmp_path)
    paint(root / "train" / "birds" / "x.jpg", 0)
    with pytest.raises(UserError, match="train/birds: expected train/ or train_mini/"):
        data.inspect("inat21", root)
    (root / "train" / "birds").rename(root / "train" / "00002_Animalia")
    with pytest.raises(UserError, match="val: lacks the classes 00002_Animalia"):
        data.inspect("inat21", root)
    (root / "val").rename(root / "validation")
    with pytest.raises(UserError, match=r"has no val/; unpack val.tar.gz there as well"):
        data.inspect("inat21", root)


def birds(root: Path) -> Path:
    """Images out of order: the lists count, not the names."""
    rows = [
        (1, "002.Crow/b.jpg", 2, 1),
        (2, "001.Auk/z.jpg", 1, 0),
        (3, "001.Auk/a.jpg", 1, 1),
        (4, "002.Crow/a.jpg", 2, 0),
    ]
    root.mkdir(parents=True)
    for number, path, _, _ in rows:
        paint(root / "images" / path, 40 * number)
    (root / "images.txt").write_text("".join(f"{n} {path}\n" for n, path, _, _ in rows))
    (root / "image_class_labels.txt").write_text("".join(f"{n} {label}\n" for n, _, label, _ in rows))
    (root / "train_test_split.txt").write_text("".join(f"{n} {kept}\n" for n, _, _, kept in rows))
    return root


def test_cub200_follows_its_lists(tmp_path: Path) -> None:
    root = birds(tmp_path / "CUB_200_2011")
    for place in (root, tmp_path):
        facts = data.inspect("cub200", place)
        assert (facts.num_train, facts.num_test, facts.class_names) == (2, 2, ("001.Auk", "002.Crow"))
    loaded = data.load("cub200", tmp_path, 32, device=CPU)
    assert shades(loaded, "train") == [(40, 1), (120, 0)]
    assert shades(loaded, "test") == [(80, 0), (160, 1)]
    split = root / "train_test_split.txt"
    split.write_text("1 0\n2 1\n3 0\n4 1\n")
    assert data.inspect("cub200", root).fingerprint != facts.fingerprint


def test_what_is_wrong_with_cub200_is_said(tmp_path: Path) -> None:
    root = birds(tmp_path / "CUB_200_2011")

    def refused(file: str, content: str, words: str) -> None:
        before = (root / file).read_text()
        (root / file).write_text(content)
        with pytest.raises(UserError, match=words):
            data.inspect("cub200", root)
        (root / file).write_text(before)

    refused("train_test_split.txt", "1 1\n2 0\n3 1\n", "image 4 is not in both this list and images.txt")
    refused("train_test_split.txt", "1 1\n2 0\n3 1\n4 2\n", "expected 0 or 1 for image 4, found '2'")
    refused("train_test_split.txt", "1 1\n2 1\n3 1\n4 1\n", "expected images marked 0, found none")
    refused("image_class_labels.txt", "1 2\n2 1\n3 2\n4 2\n", "image 3 lies in 001.Auk, others of its class not")
    refused("image_class_labels.txt", "1 3\n2 1\n3 1\n4 3\n", "numbered from 1 without gaps")
    refused("image_class_labels.txt", "nonsense", "expected a line 'number value' for each image")
    refused("images.txt", "1 ../x/b.jpg\n2 a/z.jpg\n3 a/a.jpg\n4 b/a.jpg\n", "expected <class>/<image>")
    (root / "images" / "001.Auk" / "z.jpg").unlink()
    with pytest.raises(UserError, match=r"z.jpg: missing, though images.txt lists it; unpack CUB_200_2011.tgz"):
        data.inspect("cub200", root)
    with pytest.raises(UserError, match=r"cub200: expected CUB_200_2011/ with images/ and images.txt"):
        data.inspect("cub200", tmp_path / "nowhere")


def test_cub200s_numbers_may_have_zeros_before_them(tmp_path: Path) -> None:
    root = birds(tmp_path / "CUB_200_2011")
    facts = data.inspect("cub200", root)
    (root / "image_class_labels.txt").write_text("001\t002\n 2 1\n03 01\n4 00002\n")
    assert data.inspect("cub200", root) == facts


@pytest.mark.parametrize("label", ["\u00b2", "\u0662", "1_0", "-1", "0", "2.0", "1e9", "9" * 5000, "x"])
def test_cub200s_classes_are_whole_numbers(tmp_path: Path, label: str) -> None:
    root = birds(tmp_path / "CUB_200_2011")
    (root / "image_class_labels.txt").write_text(f"1 {label}\n2 1\n3 1\n4 {label}\n")
    with pytest.raises(UserError, match=r"image_class_labels\.txt: expected (numbers of classes|classes numbered)"):
        data.inspect("cub200", root)


@pytest.mark.parametrize("number", ["\u00b2", "1_0", "9" * 5000, "1.0"])
def test_cub200s_images_are_whole_numbers(tmp_path: Path, number: str) -> None:
    root = birds(tmp_path / "CUB_200_2011")
    (root / "train_test_split.txt").write_text(f"{number} 1\n2 0\n3 1\n4 0\n")
    with pytest.raises(UserError, match=r"train_test_split\.txt: expected a line 'number value' for each image, found"):
        data.inspect("cub200", root)


def test_cub200s_lists_say_one_thing_of_each_image(tmp_path: Path) -> None:
    root = birds(tmp_path / "CUB_200_2011")
    (root / "train_test_split.txt").write_text("1 1\n2 0\n3 1\n4 0\n1 0\n")
    with pytest.raises(UserError, match=r"train_test_split\.txt: says two things of image 1; unpack"):
        data.inspect("cub200", root)


def test_the_environment_names_the_folder(imagenet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders(imagenet)
    monkeypatch.setenv("SDBENCH_DATA", str(imagenet.parent))
    assert data.inspect("imagenet").num_train == 9


def test_a_table_of_files_gives_back_what_was_put_in() -> None:
    paths = ["a/x.jpg", "a/b/y.jpg", "z.jpg", "a/\udcff.jpg", "é/ü.png"]
    table = FileTable()
    for size, path in enumerate(paths):
        table.add(path, size)
    assert [(file.path, file.size) for file in table] == [(path, size) for size, path in enumerate(paths)]
    assert (len(table), table.total_bytes, table.path(3)) == (5, 10, paths[3])
    with pytest.raises(IndexError):
        table[5]


def test_files_are_in_the_order_of_their_paths_parts(tmp_path: Path) -> None:
    names = ["b.jpg", "a-b/x.jpg", "a/y.jpg", "a/B.jpg", "a/.hidden.jpg", ".trash/z.jpg", "a/notes.txt"]
    for name in names:
        (tmp_path / "class" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "class" / name).write_bytes(b"12345")
    seen = [p for p in sorted((tmp_path / "class").rglob("*.jpg")) if "/." not in str(p)]
    assert images_below(tmp_path, "class") == [(p.relative_to(tmp_path).as_posix(), 5) for p in seen]
    assert [p.name for p in seen] == ["B.jpg", "y.jpg", "x.jpg", "b.jpg"]


def test_large_sets_are_sampled(imagenet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths, sizes and some heads count; what is cut off is noticed by its size, and named where it is opened."""
    folders(imagenet)
    monkeypatch.setattr(fingerprints, "FILES_LIMIT", 5)
    seen = [data.inspect("imagenet", imagenet).fingerprint]
    assert seen[0].startswith("sample:")
    first = imagenet / "train" / WNIDS[0] / f"{WNIDS[0]}_0.JPEG"
    first.rename(first.with_name("other.JPEG"))
    seen.append(data.inspect("imagenet", imagenet).fingerprint)
    paint(first.with_name("other.JPEG"), 99)
    seen.append(data.inspect("imagenet", imagenet).fingerprint)
    monkeypatch.setattr(fingerprints, "SAMPLED", 2)
    middle = imagenet / "train" / WNIDS[2] / f"{WNIDS[2]}_1.JPEG"
    seen.append(data.inspect("imagenet", imagenet).fingerprint)
    middle.write_bytes(middle.read_bytes() + b"\0")
    seen.append(data.inspect("imagenet", imagenet).fingerprint)
    assert len(set(seen)) == len(seen)
    last = imagenet / "val" / WNIDS[2] / f"{VAL[4]}.JPEG"
    last.write_bytes(last.read_bytes()[:-30])
    with pytest.raises(UserError, match=f"{VAL[4]}.JPEG: expected a whole image"):
        data.inspect("imagenet", imagenet)


@pytest.mark.parametrize("odd", [False, True])
def test_uniform_images_are_recognized_in_large_sets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, odd: bool
) -> None:
    monkeypatch.setattr(fingerprints, "FILES_LIMIT", 3)
    monkeypatch.setattr(fingerprints, "SAMPLED", 2)
    for part in ("train", "val"):
        for label in ("a", "b"):
            for n in range(3):
                wide = odd and (part, label, n) == ("train", "b", 1)
                paint(tmp_path / "set" / part / label / f"{n}.jpg", n, (33, 32) if wide else (32, 32))
    assert data.inspect(f"folder:{tmp_path / 'set'}").image_size == (224 if odd else 32)
