"""Published numbers: figures typed by hand from their sources, the file's rules, and files that break them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from sdbench.errors import UserError
from sdbench.published import PublishedNumber, numbers_for, published_numbers
from sdbench.registry import names
from sdbench.zoo import MODELS

NUMBERS = published_numbers()
GOOD = """
[[number]]
method = "zipf"
dataset = "cifar100"
network = "preact_resnet18"
value = 77.38
spread = 0.32
protocol = "200 epochs"
selection = "last epoch"
seeds = 3
source = "owner/repository@1234567"
read = "log"
trust = "One run of somebody's."
"""

# method, data set, network, what the source's reference contains, metric, selection, value; typed from the sources.
PRINTED = [
    ("pskd", "cifar100", "preact_resnet18", "PS-KD-Pytorch", "top1", "best epoch on the test set", 100 - 20.82),
    ("pskd", "cifar100", "preact_resnet18", "PS-KD-Pytorch", "nll", "best epoch on the test set", 0.76),
    ("pskd", "cifar100", "preact_resnet18", "PS-KD-Pytorch", "ece", "best epoch on the test set", 1.77),
    ("ce", "cifar100", "preact_resnet18", "PS-KD-Pytorch", "top1", "best epoch on the test set", 100 - 24.18),
    ("cskd", "cifar100", "densenet121", "PS-KD-Pytorch", "top1", "best epoch on the test set", 100 - 20.47),
    ("pskd", "imagenet", "ResNet-152", "PS-KD-Pytorch", "top1", "best epoch on the test set", 100 - 21.41),
    ("bake", "cifar100", "preact_resnet18", "BAKE", "top1", "best epoch on the test set", 78.72),
    ("bake", "cifar100", "densenet121", "BAKE", "top1", "best epoch on the test set", 79.26),
    ("bake", "cifar100", "preact_resnet18", "Self-KD-Lib", "top1", "best epoch on the test set", 76.93),
    ("mixskd", "cifar100", "ResNet-18 of MixSKD", "Self-KD-Lib", "top1", "best epoch on the test set", 80.32),
    ("ls", "cifar100", "preact_resnet18", "Self-KD-Lib", "top1", "best epoch on the test set", 78.72),
    ("tfkd_reg", "cifar100", "CIFAR_ResNet50", "Self-KD-Lib", "top1", "last epoch", 79.54),
    ("cutmix", "cifar100", "CIFAR_ResNet50", "Self-KD-Lib", "top1", "best epoch on the test set", 82.47),
    ("ddgsd", "cifar100", "CIFAR_ResNet50", "Self-KD-Lib", "top1", "last epoch", 81.54),
    ("byot", "cifar100", "resnet18", "luanyunteng", "top1", "last epoch", 77.32),
    ("byot", "cifar100", "resnet50", "luanyunteng", "top1", "best epoch on the test set", 80.64),
    ("tfkd", "cifar100", "resnet18", "Teacher-free-Knowledge", "top1", "best epoch on the test set", 77.10),
    ("tfkd_reg", "cifar100", "resnet18", "Teacher-free-Knowledge", "top1", "best epoch on the test set", 77.36),
    ("ls", "cifar100", "resnet18", "Teacher-free-Knowledge", "top1", "best epoch on the test set", 77.26),
    ("zipf", "inat21", "resnet50", "2207.12980", "gain", "best epoch on the test set", 3.61),
    ("cskd", "cub200", "resnet18", "2076-3417", "top5", "best epoch on the test set", 100 - 13.07),
    ("cskd", "mit67", "resnet18", "2003.13964", "top1", "best epoch on the test set", 100 - 40.45),
    ("dks", "cifar100", "WRN-28-10", "DKS", "top1", "not stated", 82.76),
    ("ols", "cifar100", "ResNeXt-29 2x64d", "OnlineLabelSmoothing", "top1", "last epoch", 81.22),
    ("frskd", "cifar100", "WRN-16-2", "2103.08273", "top1", "not stated", 73.27),
    ("flsd", "cifar10", "resnet50", "focal_calibration", "ece", "last epoch", 1.55),
    ("focal", "cifar10", "resnet50", "focal_calibration", "top1", "last epoch", 100 - 5.25),
    ("uskd", "imagenet", "resnet18", "cls_KD", "top1", "not stated", 70.79),
    ("tffd", "imagenet", "resnet50", "Teacher-free-Distillation", "gain", "not stated", 1.84),
    ("label_refinery", "imagenet", "resnet18", "label-refinery", "top1", "not stated", 72.52),
]

# README of megvii-research/zipfls, typed row by row.
ZIPF = """
77.86±0.26 60.31±0.36 75.51±0.28 56.41±0.20
79.03±0.32 62.64±0.30 77.38±0.32 59.25±0.20
77.97±0.18 60.78±0.31 75.29±0.29 56.03±0.34
79.85±0.27 62.35±0.32 77.08±0.28 59.01±0.23
"""


@pytest.mark.parametrize(("method", "dataset", "network", "source", "metric", "selection", "value"), PRINTED)
def test_figures_as_printed(
    method: str, dataset: str, network: str, source: str, metric: str, selection: str, value: float
) -> None:
    found = [
        n.value
        for n in NUMBERS
        if (n.method, n.dataset, n.network, n.metric, n.selection) == (method, dataset, network, metric, selection)
        and source in n.source
    ]
    assert found == [pytest.approx(value, abs=1e-9)]


def test_the_table_of_zipf_is_there_with_its_spreads() -> None:
    columns = [
        ("densenet121", "cifar100"),
        ("densenet121", "tinyimagenet"),
        ("preact_resnet18", "cifar100"),
        ("preact_resnet18", "tinyimagenet"),
    ]
    for line, (method, framework) in zip(
        ZIPF.split("\n")[1:-1],
        [("ce", "PyTorch"), ("zipf", "PyTorch"), ("ce", "MegEngine"), ("zipf", "MegEngine")],
        strict=True,
    ):
        for cell, (network, dataset) in zip(line.split(), columns, strict=True):
            value, spread = map(float, cell.split("±"))
            rows = numbers_for(method, dataset=dataset, network=network, metric="top1")
            assert [(n.value, n.spread) for n in rows if framework in n.protocol] == [(value, spread)]


def test_best_epochs_of_a_run_are_never_below_its_last() -> None:
    pairs = [
        (best.value, last.value)
        for best in NUMBERS
        for last in NUMBERS
        if best.read == last.read == "log"
        and (best.method, best.network, best.source) == (last.method, last.network, last.source)
        and (best.selection, last.selection) == ("best epoch on the test set", "last epoch")
    ]
    assert len(pairs) == 15  # 13 methods of Self-KD-Lib, two networks of OLS
    assert all(best > last for best, last in pairs)


def test_every_method_is_registered() -> None:
    assert {n.method for n in NUMBERS} <= set(names())


def test_a_withdrawn_paper_has_no_number() -> None:
    assert numbers_for("sfr") == ()
    assert not any("2103.07350" in n.source for n in NUMBERS)


def test_what_is_wrong_with_a_number_is_said() -> None:
    def trust(method: str, source: str, network: str) -> str:
        return next(n.trust for n in numbers_for(method, network=network) if source in n.source)

    assert "softmax" in trust("bake", "Self-KD-Lib", "preact_resnet18")
    assert "another loss" in trust("tfkd_reg", "Self-KD-Lib", "preact_resnet18")
    mixskd = trust("mixskd", "Self-KD-Lib", "ResNet-18 of MixSKD")
    assert "another network" in mixskd
    assert "four classifiers" in mixskd
    for method in ("dks", "byot"):
        assert "2, 2, 2, 2 blocks" in trust(method, "Self-KD-Lib", "CIFAR_ResNet50")
    for number in NUMBERS:
        if number.selection == "best epoch on the test set" and number.read == "log":
            assert "best epoch on the test set" in number.trust
        if number.seeds == 1:
            assert re.search(r"[Oo]ne seed|single run|four classifiers", number.trust)
        assert (number.read == "recalled") == number.trust.startswith("Recalled")


def test_values_and_what_is_printed_agree() -> None:
    errors = [n for n in NUMBERS if n.printed.startswith("error ")]
    assert len(errors) > 50
    for number in errors:
        assert number.value + float(number.printed.removeprefix("error ")) == pytest.approx(100)
    for number in NUMBERS:
        if number.metric == "top1":
            assert 50 < number.value < 97
        assert re.fullmatch(r"https://\S+|[\w.-]+/[\w.-]+@[0-9a-f]{7}", number.source)


def test_networks_bear_their_names() -> None:
    ours = {re.sub("[^a-z0-9]", "", name) for name in MODELS}
    for network in {n.network for n in NUMBERS} - set(MODELS):
        plain = re.sub("[^a-z0-9]", "", network.lower())
        assert plain not in ours or network == "ResNet-18"  # which of the two is not known of a few papers


def test_selection_by_method_data_and_network(tmp_path: Path) -> None:
    file = tmp_path / "numbers.toml"
    other = GOOD.replace("cifar100", "cifar10").replace("77.38", "95.5")
    file.write_text(GOOD + other + GOOD.replace('"zipf"', '"ce"'))
    assert [n.value for n in numbers_for("zipf", path=file)] == [77.38, 95.5]
    assert [n.value for n in numbers_for("zipf", dataset="cifar10", path=file)] == [95.5]
    assert numbers_for("zipf", network="resnet50", path=file) == ()
    assert numbers_for("zipf", metric="ece", path=file) == ()
    assert numbers_for("nobody", path=file) == ()
    with pytest.raises(ValidationError, match="frozen"):
        published_numbers(file)[0].value = 1.0  # type: ignore[misc]


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    file = tmp_path / "broken.toml"
    file.write_text(
        'colour = "red"\n'
        + GOOD
        + GOOD.replace("77.38", '"77.38"').replace('"last epoch"', '"best"').replace("seeds", "seed")
        + GOOD.replace("77.38", "101.0")
        + GOOD.replace('"log"', '"recalled"')
        + GOOD.replace('protocol = "200 epochs"', 'protocol = " "').replace("spread = 0.32", "spread = -1")
        + GOOD.replace("[[number]]", "[[number]]\nmetric = 'gain'").replace("77.38", "nan")
        + GOOD
    )
    with pytest.raises(UserError) as caught:
        published_numbers(file)
    expected = [
        r"unknown key 'colour'; known: number$",
        r"number 2 \(zipf, cifar100, preact_resnet18\): value: .*got '77.38'$",
        r"number 2 .*selection: .*got 'best'$",
        r"number 2 .*seeds: Field required$",
        r"number 2 .*seed: .*known keys: method, dataset",
        r"number 3 .*top1 is 101, outside \[0, 100\]$",
        r"number 4 .*recalled must say so in trust$",
        r"number 5 .*protocol: ",
        r"number 5 .*spread: .*got -1$",
        r"number 6 .*value: .*finite",
        r"zipf on cifar100, preact_resnet18, 77.38 is there twice",
    ]
    assert len(caught.value.problems) == len(expected)
    for pattern in expected:
        assert len([p for p in caught.value.problems if re.search(pattern, p)]) == 1, pattern


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"[[number]\n", "not TOML.*line 1"),
        (b"x = '\xff'\n", "not TOML in UTF-8"),
        (b"", r"no \[\[number\]\] tables"),
        (b"number = 3\n", r"no \[\[number\]\] tables"),
        (b"number = [3]\n", "number 1: "),
        (b"[number]\nvalue = 3\n", r"no \[\[number\]\] tables"),
    ],
)
def test_files_of_another_kind(tmp_path: Path, content: bytes, problem: str) -> None:
    file = tmp_path / "numbers.toml"
    file.write_bytes(content)
    with pytest.raises(UserError, match=problem):
        published_numbers(file)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.toml: cannot be read \(No such file"):
        published_numbers(tmp_path / "nowhere.toml")


def test_the_package_brings_the_file_and_loads_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom sdbench.published import published_numbers\n"
        "print(len(published_numbers()), [m for m in ('torch', 'ray', 'scipy', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{len(NUMBERS)} []"


def test_fields_are_those_of_the_file() -> None:
    assert list(PublishedNumber.model_fields) == [
        "method", "dataset", "network", "metric", "value", "printed", "spread", "protocol", "selection", "seeds",
        "source", "read", "trust",
    ]  # fmt: skip
