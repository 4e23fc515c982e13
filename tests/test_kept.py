"""Logits of epochs: what is kept, that keeping them changes nothing, and that a resumed trial keeps the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from typer.testing import CliRunner

from sdbench.cli import app
from sdbench.kept import epoch_files
from sdbench.spec import Options, Trial, TrialResult
from sdbench.store import Store, sha256
from sdbench.tiny import TinyTask
from sdbench.train import run_trial


@pytest.fixture
def task() -> TinyTask:
    return TinyTask(num_train=26, batch_size=12, epochs=5)


@pytest.fixture
def trial(task: TinyTask, toys: None) -> Trial:
    return task.trial("toy_base", {})


def folder_of(root: Path, trial: Trial) -> Path:
    return Store(root).folder(trial.spec, trial.id)


def train(root: Path, task: TinyTask, trial: Trial, every: int, stop_after: int | None = None) -> TrialResult:
    steps = [0]

    def stop() -> bool:
        steps[0] += 1
        return stop_after is not None and steps[0] > stop_after

    return run_trial(trial, Store(root), Options(logits_every=every), stop=stop, opener=task.open)


def test_every_second_epoch_is_kept_and_changes_nothing(tmp_path: Path, task: TinyTask, trial: Trial) -> None:
    plain, kept = train(tmp_path / "plain", task, trial, 0), train(tmp_path / "kept", task, trial, 2)
    assert plain.status == kept.status == "ok"
    folder = folder_of(tmp_path / "kept", trial)
    assert sorted(p.name for p in (folder / "epoch_logits").iterdir()) == [
        "epoch-0002.safetensors",
        "epoch-0004.safetensors",
    ]
    assert epoch_files(folder_of(tmp_path / "plain", trial)) == {}
    own = {name: value for name, value in kept.checksums.items() if name != "trial.json"}
    assert own == {}  # the returned record is the one before sealing
    sealed = json.loads((folder / "trial.json").read_text())["checksums"]
    for epoch in (2, 4):
        name = f"epoch_logits/epoch-{epoch:04d}.safetensors"
        assert sealed[name] == sha256(folder / name)
    assert sha256(folder / "network.safetensors") == sha256(
        folder_of(tmp_path / "plain", trial) / "network.safetensors"
    )
    assert plain.metrics == kept.metrics
    assert kept.cost is not None
    assert plain.cost is not None
    assert kept.cost.images_with_gradient == plain.cost.images_with_gradient
    assert kept.cost.images_without_gradient == plain.cost.images_without_gradient


def test_the_last_epochs_file_holds_the_final_logits(tmp_path: Path, task: TinyTask, trial: Trial) -> None:
    train(tmp_path, task, trial, 5)
    folder = folder_of(tmp_path, trial)
    last = safetensors.torch.load_file(folder / "epoch_logits" / "epoch-0005.safetensors")
    final = safetensors.torch.load_file(folder / "logits.safetensors")
    assert last["logits"].dtype == torch.float16
    assert torch.equal(last["logits"], final["logits"])
    assert torch.equal(last["labels"], final["labels"])


@pytest.mark.parametrize("steps", [4, 7, 11])
def test_a_resumed_trial_keeps_the_same(tmp_path: Path, task: TinyTask, trial: Trial, steps: int) -> None:
    """Three steps an epoch: stopped in the second, third and fourth."""
    train(tmp_path / "straight", task, trial, 1)
    straight, folder = folder_of(tmp_path / "straight", trial), folder_of(tmp_path / "cut", trial)
    assert train(tmp_path / "cut", task, trial, 1, stop_after=steps).status == "interrupted"
    assert list(epoch_files(folder)) == list(range(1, steps // 3 + 1))
    # As after a kill between an epoch's logits and its checkpoint, with something else in the file.
    beyond = folder / "epoch_logits" / f"epoch-{steps // 3 + 1:04d}.safetensors"
    far = folder / "epoch_logits" / "epoch-0999.safetensors"
    for stale in (beyond, far):
        stale.write_bytes(b"of a run that went on")
    done = train(tmp_path / "cut", task, trial, 1)
    assert done.resumes == (steps // 3,)
    assert not far.exists()
    assert [sha256(p) for p in epoch_files(folder).values()] == [sha256(p) for p in epoch_files(straight).values()]
    assert list(epoch_files(folder)) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--keep-logits", "sometimes"], "expected every:N"),
        (["--keep-logits", "every:0"], "expected a value in [1, 100000]"),
        (["--keep-logits", "every:x"], "expected a whole number"),
        (["--keep-logits", "every:2", "--no-logits"], "drop one"),
    ],
)
def test_what_is_refused(tmp_path: Path, arguments: list[str], told: str) -> None:
    result = CliRunner().invoke(app, ["run", "--dry-run", "--results", str(tmp_path), *arguments])
    assert result.exit_code == 2
    assert told in result.stderr
