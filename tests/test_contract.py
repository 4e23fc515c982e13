"""The harness keeps its side of the contract: toy methods that use every hook, through the real trainer."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import pytest
import torch

from sdbench import checkpoint, registry
from sdbench.session import Session
from sdbench.spec import Options, Trial, TrialResult
from sdbench.store import Store
from sdbench.tiny import TinyTask
from sdbench.train import run_trial

STEPS = 3
OpenToy = Callable[[str], Session]

# Images forwarded per labelled image, with and without gradient. "toy_carry" is worked out in its own test.
PASSES = {
    "toy_average": (1, 1),
    "toy_base": (1, 0),
    "toy_base+toy_mix": (1, 0),
    "toy_classes": (1, 0),
    "toy_drops": (1, 0),
    "toy_epoch": (1, 0),
    "toy_head": (1, 0),
    "toy_journal": (1, 0),
    "toy_manifold": (1, 0),
    "toy_mix": (1, 0),
    "toy_noise": (1, 0),
    "toy_one_partner": (2, 0),
    "toy_partners_in_batch": (4, 0),
    "toy_per_sample": (1, 0),
    "toy_progress": (1, 0),
    "toy_says_it_couples": (1, 0),
    "toy_says_it_sums": (1, 0),
    "toy_switches_modes": (1, 1),
    "toy_snapshot": (1, 1),
    "toy_three_generations": (1, 1),
    "toy_two_generations": (1, 1),
    "toy_two_partners": (3, 0),
    "toy_unmixable": (1, 0),
    "toy_validation": (1, 0),
    "toy_views": (2, 0),
}
TOYS = sorted([*PASSES, "toy_carry"])


pytestmark = pytest.mark.usefixtures("toys")


class Run(Protocol):
    """Trains a method in a folder; interrupted in the middle of the epoch after ``interrupt_after``."""

    def __call__(self, name: str, folder: Path, interrupt_after: int | None = None) -> tuple[TrialResult, Path]: ...


@pytest.fixture
def run(open_toy: OpenToy, toy_trial: Callable[[str], Trial], toy_task: TinyTask) -> Run:
    """Through the trainer, to the end."""

    def train(name: str, folder: Path, interrupt_after: int | None = None) -> tuple[TrialResult, Path]:
        trial, store = toy_trial(name), Store(folder)
        options = Options(device="cpu", keep_checkpoints=True)
        if interrupt_after is not None:
            steps = open_toy(name).steps
            asked = itertools.count()
            limit = interrupt_after * steps + steps // 2
            stopped = run_trial(trial, store, options, stop=lambda: next(asked) >= limit, opener=toy_task.open)
            assert stopped.status == "interrupted"
            assert stopped.epochs_done == interrupt_after
        result = run_trial(trial, store, options, opener=toy_task.open)
        assert result.status == "ok", result.reason
        return result, store.folder(trial.spec, trial.id)

    return train


def method_state(folder: Path) -> dict[str, torch.Tensor]:
    state = checkpoint.load(folder / "checkpoint")
    assert state is not None
    return state["session"]["method"]


def curve(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "images_per_s"} for line in lines]


def test_every_toy_is_listed_here() -> None:
    """A new toy must be added to the table, or it would not be tried."""
    toys = {name for name in registry.names() if name.startswith("toy_")}
    assert {part for name in TOYS for part in name.split("+")} == toys


@pytest.mark.parametrize("name", TOYS)
def test_interrupted_and_resumed_equals_straight(name: str, tmp_path: Path, run: Run) -> None:
    straight, one = run(name, tmp_path / "one")
    resumed, other = run(name, tmp_path / "other", interrupt_after=2)
    assert resumed.resumes == (2,)
    assert straight.resumes == ()
    assert (one / "network.safetensors").read_bytes() == (other / "network.safetensors").read_bytes()
    assert (one / "logits.safetensors").read_bytes() == (other / "logits.safetensors").read_bytes()
    assert straight.metrics == resumed.metrics
    assert curve(one) == curve(other)
    before, after = method_state(one), method_state(other)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    counted = ("labelled_images", "images_with_gradient", "images_without_gradient", "auxiliary_parameters")
    assert all(getattr(straight.cost, key) == getattr(resumed.cost, key) for key in counted)


def test_weights_depend_on_the_method_and_training_moves_them(tmp_path: Path, open_toy: OpenToy, run: Run) -> None:
    """The comparisons above would pass for a trainer that does nothing."""
    digests = {
        (run(n, tmp_path / n)[1] / "network.safetensors").read_bytes() for n in ("toy_base", "toy_head", "toy_mix")
    }
    assert len(digests) == 3
    session = open_toy("toy_base")
    before = copy.deepcopy(session.network.state_dict())
    session.begin_epoch(0)
    session.step(next(session.batches(0)), 0.1, 0.0)
    assert all(not torch.equal(before[k], p) for k, p in session.network.named_parameters())


@pytest.mark.parametrize("name", sorted(PASSES))
def test_images_forwarded_are_counted(name: str, tmp_path: Path, run: Run) -> None:
    cost = run(name, tmp_path)[0].cost
    assert cost is not None
    assert cost.labelled_images == 4 * 26
    assert (cost.images_with_gradient, cost.images_without_gradient) == tuple(104 * n for n in PASSES[name])


def test_carried_images_are_counted(tmp_path: Path, run: Run) -> None:
    """Batches of 12, 12 and 2: each step forwards its own images and those of the step before."""
    cost = run("toy_carry", tmp_path)[0].cost
    assert cost is not None
    own = [12, 12, 2] * 4
    assert cost.images_with_gradient == sum(own) + sum(own[:-1])


@pytest.mark.parametrize(
    ("name", "parameters", "state_bytes"),
    [
        ("toy_base", 0, 4),
        ("toy_head", 16 * 10 + 10, 0),
        ("toy_per_sample", 0, 4 * (26 * 10 + 1)),
        ("toy_carry", 0, 4 * 12 * (3 * 16 * 16 + 10) + 8),
        ("toy_base+toy_mix", 0, 4),
        ("toy_classes", 0, 4 * 10 * (2 * 16 * 16 * 16 + 1)),
    ],
)
def test_parameters_and_state_are_counted(name: str, parameters: int, state_bytes: int, open_toy: OpenToy) -> None:
    session = open_toy(name)
    assert session.auxiliary_parameters() == parameters
    assert session.state_bytes() == state_bytes


def test_a_frozen_network_is_state_and_never_trained(open_toy: OpenToy) -> None:
    session = open_toy("toy_snapshot")
    whole = sum(t.numel() * t.element_size() for t in session.network.state_dict().values())
    assert session.state_bytes() == whole
    assert session.auxiliary_parameters() == 0


def test_hooks_are_called_in_order(tmp_path: Path, run: Run) -> None:
    journal = registry.load_plugin(Path(__file__).parent / "plugins" / "toy_journal.py").JOURNAL
    journal.clear()
    run("toy_journal", tmp_path)
    (first, task), *rest = journal
    assert first == "setup"
    assert (task.num_classes, task.num_train, task.batch_size, task.epochs) == (10, 26, 12, 4)
    assert task.teacher is None
    assert isinstance(task.generator, torch.Generator)
    expected: list[tuple[Any, ...]] = []
    for epoch in range(4):
        expected.append(("before_epoch", epoch, 4))
        for step, size in enumerate((12, 12, 2)):
            progress = torch.tensor((epoch * 3 + step) / 12).item()
            expected += [("loss", progress, size, True, True), ("after_step", False)]
        expected += [("after_epoch", False), ("after_validation", (10, 10), (10,), False)]
    assert rest == expected


def test_methods_of_one_seed_are_paired(tmp_path: Path, run: Run) -> None:
    """Same weights and same first images, whatever else a method asks for or builds."""
    results = [
        run(name, tmp_path / name)[0] for name in ("toy_base", "toy_views", "toy_head", "toy_mix", "toy_average")
    ]
    assert len({result.pairing for result in results if result.pairing}) == 1


def test_class_counts_are_those_of_the_training_set(tmp_path: Path, run: Run) -> None:
    counts = method_state(run("toy_classes", tmp_path)[1])["counts"]
    assert counts.sum().item() == 4 * 26
    assert set(counts.tolist()) == {8.0, 12.0}  # 26 images of 10 classes: four have two, six have three


def test_epoch_buffer_has_the_value_of_its_epoch(tmp_path: Path, run: Run) -> None:
    _, folder = run("toy_epoch", tmp_path)
    assert method_state(folder)["smoothing"].item() == pytest.approx(0.3)


def test_validation_error_is_measured_on_held_out_images(tmp_path: Path, open_toy: OpenToy, run: Run) -> None:
    _, folder = run("toy_validation", tmp_path)
    state = method_state(folder)
    assert int(state["seen"]) == 4 * 10
    session = open_toy("toy_validation")
    session.network.load_state_dict(checkpoint.load(folder / "checkpoint")["session"]["network"])
    session.network.eval()
    images, labels = next(session.data.validation_batches(99, torch.float32))
    with torch.no_grad():
        wrong = session.network(images).logits.argmax(1) != labels
    assert state["error"].item() == pytest.approx(wrong.float().mean().item())


def test_a_bf16_trial_resumes_too(tmp_path: Path, toy_task: TinyTask) -> None:
    trial = toy_task.trial("toy_carry", {}, precision="bf16")
    options, asked = Options(device="cpu"), itertools.count()
    straight, interrupted = Store(tmp_path / "one"), Store(tmp_path / "other")
    first = run_trial(trial, straight, options, opener=toy_task.open)
    run_trial(trial, interrupted, options, stop=lambda: next(asked) >= 2 * STEPS, opener=toy_task.open)
    second = run_trial(trial, interrupted, options, opener=toy_task.open)
    assert (first.status, second.status, second.resumes) == ("ok", "ok", (2,))
    one, other = (store.folder(trial.spec, trial.id) / "network.safetensors" for store in (straight, interrupted))
    assert one.read_bytes() == other.read_bytes()
