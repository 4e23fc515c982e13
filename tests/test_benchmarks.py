"""The benchmark scripts run, compare like with like, and judge by the whole interval. No timing is asserted."""

from __future__ import annotations

import ast
import importlib
import json
import math
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdbench import wrap
from sdbench.statistics import MedianInterval

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"
LONGEST_TIGHT_LOOP = 25


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """``script("step")`` imports a benchmark as it finds its neighbours when it is run."""
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """The scripts set up the whole process as the trainer does; the next test finds it as it was."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    filling = torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = filling


class Pixelwise(nn.Module):
    """A linear classifier that keeps the images it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * 32 * 32, 100)
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(images.detach())
        return self.linear(images.flatten(1))


def run_step(script: Callable[[str], ModuleType], file: Path, *more: str) -> dict[str, Any]:
    tiny = ["--rounds", "2", "--network", "resnet8", "--batch-size", "4", "--images", "12", "--device", "cpu"]
    script("step").main([*tiny, "--json", str(file), *more])
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def test_step_times_every_side(
    script: Callable[[str], ModuleType], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = run_step(script, tmp_path / "step.json")
    assert list(found["sides"]) == ["sdbench", "data", "tight", "sdbench fp32", "papers"]
    assert all(side["images_per_s"] == pytest.approx(4000 / side["step_ms"]) for side in found["sides"].values())
    wanted = ["sdbench / tight", "papers / sdbench", "papers / sdbench fp32", "data / sdbench"]
    assert [line["what"] for line in found["lines"]] == wanted
    assert all(line["n"] == 2 and 0 < line["low"] <= line["median"] <= line["high"] for line in found["lines"])
    assert found["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert found["device"] == "cpu"
    assert len(found["load"]) == 2
    printed = capsys.readouterr().out
    assert all(what in printed for what in wanted)


def test_step_leaves_out_what_is_not_asked_for(script: Callable[[str], ModuleType], tmp_path: Path) -> None:
    found = run_step(script, tmp_path / "step.json", "--against", "tight")
    assert [line["what"] for line in found["lines"]] == ["sdbench / tight", "data / sdbench"]


def test_streaming_reads_every_file_of_an_epoch_on_both_sides(
    script: Callable[[str], ModuleType], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = script("streaming")
    size = module.make_files(tmp_path, 24, 6)
    assert 60_000 < size < 160_000
    ours, theirs = (make(tmp_path, 0, 5, 32) for make in (module.sdbench_batches, module.torchvision_batches))
    assert [len(batch.labels) for batch in ours(1)] == [len(labels) for _, labels in theirs(1)] == [5, 5, 5, 5, 4]
    assert all(batch.images.shape[1:] == (3, 32, 32) for batch in ours(2))
    file = tmp_path / "streaming.json"
    tiny = ["--rounds", "2", "--images", "12", "--distinct", "3", "--workers", "0", "--batch-size", "4", "--size", "32"]
    module.main([*tiny, "--json", str(file)])
    found = json.loads(file.read_text())
    assert {name: len(rates) for name, rates in found["images_per_s"].items()} == {"sdbench": 2, "torchvision": 2}
    assert [line["verdict"] for line in found["lines"]] == ["too few rounds"]
    assert found["memory_bytes"]["last"] > 0
    assert "images per second" in capsys.readouterr().out


def test_quarters_are_medians_of_the_ends(script: Callable[[str], ModuleType]) -> None:
    assert script("streaming").quarters([1, 2, 9, 50, 50, 7, 8, 8]) == (1.5, 8.0)
    assert script("streaming").quarters([3]) == (3, 3)


@pytest.mark.parametrize(
    "arguments", [["--device", "cpu", "--step", "graph"], ["--images", "100", "--batch-size", "64"]]
)
def test_step_refuses_what_it_cannot_do(script: Callable[[str], ModuleType], arguments: list[str]) -> None:
    with pytest.raises(SystemExit):
        script("step").main(arguments)


def test_the_tight_loop_is_short() -> None:
    tree = ast.parse((FOLDER / "step.py").read_text())
    loop = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "tight_steps")
    assert loop.end_lineno is not None
    assert loop.end_lineno - loop.lineno + 1 <= LONGEST_TIGHT_LOOP


def crops(pixels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """All 162 crops of one image [32, 32, 3], mirrored or not, normalized: [162, 3, 32, 32]."""
    padded = F.pad(pixels.permute(2, 0, 1), (4, 4, 4, 4))
    plain = [padded[:, i : i + 32, j : j + 32] for i in range(9) for j in range(9)]
    every = torch.stack([*plain, *(c.flip(2) for c in plain)])
    return (every / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)


def test_the_tight_loop_trains_on_crops_of_every_image_once(script: Callable[[str], ModuleType]) -> None:
    pixels = torch.randint(0, 256, (6, 32, 32, 3), dtype=torch.uint8)
    mean, std = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.3, 0.4])
    inside = Pixelwise()
    before = inside.linear.weight.detach().clone()
    steps = script("step").tight_steps(wrap(inside), pixels, torch.arange(6), 2, mean, std)
    losses = [next(steps) for _ in range(3)]
    assert all(math.isfinite(float(loss)) for loss in losses)
    assert not torch.equal(inside.linear.weight, before)
    assert all(images.is_contiguous(memory_format=torch.channels_last) for images in inside.seen)
    possible = [crops(image, mean, std) for image in pixels]
    distance = torch.tensor(
        [[(p - shown).abs().amax((1, 2, 3)).min() for p in possible] for shown in torch.cat(inside.seen)]
    )
    origins = (distance < 1e-5).nonzero()[:, 1].tolist()
    assert sorted(origins) == list(range(6))


def test_the_papers_loop_trains_on_crops_in_full_precision(script: Callable[[str], ModuleType]) -> None:
    module, mean, std = script("papers_loop"), torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.3, 0.4])
    pixels = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    loader = module.images_loader(pixels, np.arange(6), 2, mean.tolist(), std.tolist(), workers=0, pinned=False)
    inside = Pixelwise()
    before = inside.linear.weight.detach().clone()
    steps = module.papers_steps(wrap(inside), loader, 0.01, torch.device("cpu"))
    assert all(0 <= next(steps) <= 1 for _ in range(3))
    assert not torch.equal(inside.linear.weight, before)
    assert all(images.is_contiguous() and images.dtype == torch.float32 for images in inside.seen)
    possible = [crops(torch.from_numpy(image), mean, std) for image in pixels]
    for shown in torch.cat(inside.seen):
        assert min(float((p - shown).abs().amax((1, 2, 3)).min()) for p in possible) < 1e-5


def test_a_turn_settles_outside_the_clock(script: Callable[[str], ModuleType]) -> None:
    step, numbers = script("step"), count()
    turn = step.Turn(numbers, steps=3, settling=4)
    seen: list[int] = []

    def clock(run: Callable[[], object]) -> tuple[float, float]:
        seen.append(next(numbers))
        run()
        seen.append(next(numbers))
        return 0.0, 0.0

    step.settled(clock)(turn)
    assert seen == [4, 8]


def test_both_zipf_losses_agree(
    script: Callable[[str], ModuleType], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "zipf.json"
    script("zipf_loss").main(["--rounds", "2", "--json", str(file)])
    found = json.loads(file.read_text())
    assert [size["classes"] for size in found["sizes"]] == [100, 1_000, 10_000]
    assert all(size["loss_difference"] <= 1e-6 and size["gradient_difference"] <= 1e-6 for size in found["sizes"])
    assert all(size["agree"] for size in found["sizes"])
    assert [line["goal"] for line in found["lines"]] == [">= 2", ">= 6", ">= 12"]
    assert "NO" not in capsys.readouterr().out


def test_the_zipf_reference_by_hand(script: Callable[[str], ModuleType]) -> None:
    """Six classes, label 2. Votes 0, 0, 0, 1 rank 1, 2, 3, 3, 3, 3, so that the others' targets are
    (6, 3, 2, 2, 2) / 15; equal logits make the others' softmax 1/5 and the cross-entropy log 6."""
    zipf = script("zipf_loss")
    case = zipf.Case(torch.zeros(1, 6, requires_grad=True), torch.tensor([2]), torch.tensor([[0, 0, 0, 1]]))
    targets = [6 / 15, 3 / 15, 2 / 15, 2 / 15, 2 / 15]
    divergence = sum(q * math.log(5 * q) for q in targets)
    for loss in (zipf.reference_loss, zipf.sdbench_loss()):
        value, gradient = zipf.forward_backward(loss, case)
        assert float(value) == pytest.approx(math.log(6) + 0.1 * divergence, rel=1e-6)
        others = [1 / 6 + 0.1 * (1 / 5 - q) for q in targets]
        assert gradient[0].tolist() == pytest.approx([*others[:2], -5 / 6, *others[2:]], abs=1e-7)


def test_a_wrong_zipf_loss_is_noticed(script: Callable[[str], ModuleType]) -> None:
    zipf = script("zipf_loss")
    cases = [zipf.draw_case(100, 0)]

    def shifted(case: Any) -> Tensor:
        return zipf.reference_loss(case) + 1e-4

    def scaled(case: Any) -> Tensor:
        value: Tensor = zipf.reference_loss(case)
        return value + 1e-4 * (case.logits.square().sum() - case.logits.detach().square().sum())

    assert zipf.disagreement(shifted, zipf.reference_loss, cases)[0] > zipf.TOLERANCE
    assert zipf.disagreement(scaled, zipf.reference_loss, cases)[1] > zipf.TOLERANCE


def test_half_of_the_images_vote_for_few_classes(script: Callable[[str], ModuleType]) -> None:
    case = script("zipf_loss").draw_case(1_000, 0)
    distinct = [len(set(votes.tolist())) for votes in case.votes]
    assert max(distinct[64:]) <= 3
    assert min(distinct[:64]) > 10
    assert 20 <= sum(int(label in votes) for label, votes in zip(case.labels[64:], case.votes[64:], strict=True)) <= 40


@pytest.mark.parametrize(
    ("low", "high", "n", "verdict"),
    [
        (1.00, 1.02, 40, "met"),
        (1.021, 1.03, 40, "missed"),
        (1.00, 1.03, 40, "inconclusive"),
        (0.50, 0.60, 39, "too few rounds"),
    ],
)
def test_a_verdict_takes_the_whole_interval(
    script: Callable[[str], ModuleType], low: float, high: float, n: int, verdict: str
) -> None:
    module = script("reporting")
    interval = MedianInterval((low + high) / 2, low, high, n)
    assert module.Line("a / b", module.Goal(1.02, at_most=True), interval).verdict == verdict
    assert module.Line("a / b", None, interval).verdict == "no goal"
    inverse = MedianInterval(2 / (low + high), 1 / high, 1 / low, n)
    assert module.Line("b / a", module.Goal(1 / 1.02, at_most=False), inverse).verdict == verdict
