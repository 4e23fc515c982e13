"""``sdbench rescore``: trials that were really trained, and records made to disagree with their logits."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from typer.testing import CliRunner

from sdbench import api
from sdbench.cli import app
from sdbench.errors import UserError
from sdbench.rescoring import TOLERANCE
from sdbench.spec import Metrics
from sdbench.store import Store, read_result

Writer = Callable[..., Path]


def sdbench(*arguments: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, list(map(str, arguments)))
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout, done.stderr


@pytest.fixture
def trained(small_world: Any, tmp_path: Path) -> Path:
    """A copy of trials that were trained in float32, whose logits lose digits where they are kept."""
    shutil.copytree(small_world.results, tmp_path / "results")
    return tmp_path / "results"


def changed(folder: Path, **metrics: float) -> str:
    """Give a record other metrics, properly sealed; returns its checksum."""
    record = read_result(folder / "trial.json")
    assert record.metrics is not None
    Store(folder.parents[4]).write(record.model_copy(update={"metrics": record.metrics.model_copy(update=metrics)}))
    return read_result(folder / "trial.json").checksums["trial.json"]


def test_records_of_trained_trials_agree_and_nothing_is_written(trained: Path) -> None:
    before = {path: path.read_bytes() for path in sorted(trained.rglob("*")) if path.is_file()}
    found = api.rescore(results=trained, write=True)
    assert [trial.state for trial in found.trials] == ["agrees"] * 4
    assert 0 <= max(trial.largest or 0 for trial in found.trials) < 1 / 3
    assert {path: path.read_bytes() for path in sorted(trained.rglob("*")) if path.is_file()} == before
    code, out, _ = sdbench("rescore", "--results", trained)
    assert code == 0
    assert out == "4 finished trial(s): 4 agrees, 0 differs\n"
    assert json.loads(sdbench("rescore", "--results", trained, "--json")[1]) == json.loads(found.model_dump_json())


def test_a_record_that_does_not_follow_from_its_logits(trained: Path) -> None:
    victim, other = sorted(trained.glob("trials/*/*/ls/*"))
    truth = read_result(victim / "trial.json")
    assert truth.metrics is not None
    kept = other.joinpath("trial.json").read_bytes()
    seal = changed(victim, nll=truth.metrics.nll + 5 * TOLERANCE, top1=0.25)
    code, out, _ = sdbench("rescore", "--results", trained)
    assert code == 1
    assert f"differs: {truth.trial_id}" in out
    assert "top1 0.25 ->" in out
    assert "nll" in out
    assert "--write" in out
    assert read_result(victim / "trial.json").checksums["trial.json"] == seal

    code, out, _ = sdbench("rescore", victim.name[:8], "--write", "--results", trained)
    assert code == 0
    assert f"written: {truth.trial_id}" in out
    renewed = read_result(victim / "trial.json")
    assert renewed.rescored_from == seal
    assert renewed.metrics is not None
    assert renewed.metrics.top1 == truth.metrics.top1
    assert renewed.metrics.nll == pytest.approx(truth.metrics.nll, abs=TOLERANCE)
    assert renewed.model_copy(update={"metrics": None, "checksums": {}, "rescored_from": ""}) == truth.model_copy(
        update={"metrics": None, "checksums": {}}
    )
    assert other.joinpath("trial.json").read_bytes() == kept
    assert api.rescore(results=trained).agrees
    assert api.validate(trained).errors == ()


def test_no_damage_is_vouched_for(trained: Path) -> None:
    """A record that is written keeps the checksums of the files beside it: what was changed since stays noticed."""
    victim = sorted(trained.glob("trials/*/*/ls/*"))[0]
    changed(victim, top1=0.25)
    before, store = read_result(victim / "trial.json").checksums, Store(trained)
    assert store.teaches(victim.name)
    data = bytearray((victim / "network.safetensors").read_bytes())
    data[-500] ^= 4
    (victim / "network.safetensors").write_bytes(data)
    with (victim / "curve.jsonl").open("a") as curve:
        curve.write('{"epoch": 4, "top1": 0.99}\n')
    (victim / "epoch_logits" / "epoch-0003.safetensors").write_bytes(b"never made by this trial")
    assert sdbench("rescore", "--write", "--results", trained)[0] == 0
    after = read_result(victim / "trial.json")
    assert after.rescored_from == before["trial.json"]
    assert {**after.checksums, "trial.json": ""} == {**before, "trial.json": ""}
    assert not store.teaches(victim.name)
    told = str(api.validate(trained).errors)
    assert "network.safetensors" in told
    assert "curve.jsonl" in told


def test_metrics_are_those_of_the_logits(tmp_path: Path, write_trial: Writer) -> None:
    """Four images, three right: by hand."""
    folder = write_trial(tmp_path, "ce", 0)
    logits = torch.tensor([[4.0, 0, 0], [0, 4, 0], [0, 0, 4], [4, 0, 0]])
    tensors = {"logits": logits.half(), "labels": torch.tensor([0, 1, 2, 1])}
    safetensors.torch.save_file(tensors, folder / "logits.safetensors")
    Store(tmp_path).write(read_result(folder / "trial.json"))
    (found,) = api.rescore(results=tmp_path).trials
    assert found.state == "differs"
    right = torch.tensor(4.0).exp() / (torch.tensor(4.0).exp() + 2)
    assert found.found["top1"] == 0.75
    assert found.found["nll"] == pytest.approx(float(-right.log() + 4 / 4), rel=1e-6)
    assert found.found["ece"] == pytest.approx(float(right) - 0.75, rel=1e-5)
    assert found.found.keys() == Metrics.model_fields.keys()


def test_logits_that_cannot_be_used(trained: Path, tmp_path: Path, write_trial: Writer) -> None:
    first, second = sorted(trained.glob("trials/*/*/ce/*"))
    (first / "logits.safetensors").write_bytes(b"junk")
    target = (second / "logits.safetensors").rename(tmp_path / "elsewhere.safetensors")
    (second / "logits.safetensors").symlink_to(target)
    gone, unread = sorted(trained.glob("trials/*/*/ls/*"))
    (gone / "logits.safetensors").unlink()
    (unread / "logits.safetensors").write_bytes(b"\xff" * 100)
    Store(trained).write(read_result(unread / "trial.json"))  # sealed as it is
    found = api.rescore(results=trained, write=True)
    states = {trial.trial_id: trial for trial in found.trials}
    assert [states[f.name].state for f in (first, second, gone, unread)] == [
        "damaged", "damaged", "no logits", "damaged",
    ]  # fmt: skip
    for folder, why in ((first, "changed after"), (second, "link"), (gone, "not there"), (unread, "cannot be read")):
        assert why in states[folder.name].reason
    assert sdbench("rescore", "--results", trained)[0] == 1


def test_a_record_at_work_is_not_written(trained: Path) -> None:
    victim = sorted(trained.glob("trials/*/*/ls/*"))[0]
    seal = changed(victim, top1=0.25)
    with Store(trained).lock(victim):
        found = api.rescore(victim.name, results=trained, write=True)
    assert [trial.state for trial in found.trials] == ["busy"]
    assert not found.agrees
    assert read_result(victim / "trial.json").checksums["trial.json"] == seal


def test_mistakes(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothere"):
        api.rescore("nothere", results=trained)
    with pytest.raises(UserError, match="no finished trial"):
        api.rescore(dataset="cifar100", results=trained)
    assert sdbench("rescore", "--results", tmp_path / "nowhere")[0] == 2


@pytest.mark.parametrize(
    "tensors",
    [
        {"logits": torch.zeros(4, 3), "labels": torch.zeros(4)},
        {"logits": torch.zeros(4, 3), "labels": torch.full((4,), 3)},
        {"logits": torch.zeros(4, 3), "labels": torch.full((4,), -1)},
        {"logits": torch.zeros(4, 3), "labels": torch.zeros(5, dtype=torch.int64)},
        {"logits": torch.zeros(4), "labels": torch.zeros(4, dtype=torch.int64)},
        {"logits": torch.zeros(0, 3), "labels": torch.zeros(0, dtype=torch.int64)},
        {"logits": torch.zeros(4, 3, dtype=torch.complex64), "labels": torch.zeros(4, dtype=torch.int64)},
    ],
    ids=["labels in float", "label K", "label -1", "a label too many", "no classes", "no images", "complex"],
)
def test_sealed_tensors_that_are_no_logits_hide_no_other_trial(trained: Path, tensors: dict[str, torch.Tensor]) -> None:
    victim = sorted(trained.glob("trials/*/*/ls/*"))[0]
    safetensors.torch.save_file(tensors, victim / "logits.safetensors")
    Store(trained).write(read_result(victim / "trial.json"))
    code, out, _ = sdbench("rescore", "--results", trained)
    assert code == 1
    assert f"damaged: {victim.name}" in out
    assert "3 agrees" in out
