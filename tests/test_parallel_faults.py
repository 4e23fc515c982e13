"""Trials on several processes that go wrong: each ends with its reason, none hangs; and a whole run through Ray."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sdbench.spec import Status, TrialResult
from sdbench.store import Store

PLUGIN = '''
import os
import signal
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F

from sdbench import Method, register


class Toy(Method):
    """Cross-entropy, and some mischief in the second epoch on the second process."""

    epoch = 0
    joins = {"seen": "same"}

    def setup(self, task, network):
        self.register_buffer("seen", torch.zeros(()))

    def before_epoch(self, epoch, epochs):
        self.epoch = epoch

    def criterion(self, output, batch, progress):
        if self.epoch == 1 and dist.get_rank() == 1:
            self.mischief(batch)
        return {"ce": F.cross_entropy(output.logits.float(), batch.labels)}


@register("toy_raises")
class Raises(Toy):
    """One process raises."""

    def mischief(self, batch):
        raise KeyError("no such head")


@register("toy_oom")
class OutOfMemory(Toy):
    """One process asks for more memory than there is."""

    def mischief(self, batch):
        torch.empty(2**60, dtype=torch.uint8)


@register("toy_dies")
class Dies(Toy):
    """One process is killed, the first time that it gets here."""

    def mischief(self, batch):
        mark = Path(__file__).with_name("died")
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)


@register("toy_hangs")
class Hangs(Toy):
    """One process never comes back."""

    def mischief(self, batch):
        time.sleep(10_000)


@register("toy_lies")
class Lies(Toy):
    """Says that a buffer is the same everywhere, and it is not."""

    def mischief(self, batch):
        self.seen.add_(len(batch.labels))


@register("toy_nan")
class NaN(Toy):
    """One process's loss is not a number."""

    def criterion(self, output, batch, progress):
        bad = float("nan") if dist.get_rank() == 1 else 1.0
        ce = F.cross_entropy(output.logits.float(), batch.labels)
        return {"ce": ce, "broken": output.logits.float().mean() * bad}
'''

EXPECTED: dict[str, tuple[Status, str]] = {
    "ce": ("ok", ""),
    "toy_raises": ("failed", "KeyError: 'no such head'"),
    "toy_oom": ("oom", "memory"),
    "toy_dies": ("ok", ""),
    "toy_hangs": ("timeout", "--timeout"),
    "toy_lies": ("failed", "the method's seen differs between the 2 processes"),
    "toy_nan": ("nan", "broken"),
}


def small_pictures(root: Path) -> Path:
    random = np.random.default_rng(0)
    for part in ("train", "val"):
        for label in range(2):
            folder = root / part / str(label)
            folder.mkdir(parents=True)
            for i in range(20):
                Image.fromarray(random.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return root


def arguments(root: Path, engine: str, *more: str) -> list[str]:
    return [
        sys.executable, "-m", "sdbench", "run", "--dataset", f"folder:{root / 'pictures'}", "--image-size", "8",
        "--model", "resnet8", "--protocol", "fixed", "--epochs", "2", "--batch-size", "8", "--lr", "0.01", "--seeds",
        "0", "--precision", "fp32", "--device", "cpu", "--gpus-per-trial", "2", "--engine", engine, "--results",
        str(root / engine), *more,
    ]  # fmt: skip


def records(results: Path) -> dict[str, TrialResult]:
    return {r.spec.method: r for r in Store(results).scan().results}


@pytest.fixture(scope="module")
def mischief(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, TrialResult], str]:
    root = tmp_path_factory.mktemp("mischief")
    small_pictures(root / "pictures")
    (root / "toys.py").write_text(PLUGIN)
    more = ("--plugin", str(root / "toys.py"), "--methods", "toy_*", "--timeout", "90", "--cpus", "8")
    (root / "temporary").mkdir()
    environ = {**os.environ, "TMPDIR": str(root / "temporary")}
    command = arguments(root, "local", *more)
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 1, done.stderr
    assert not list((root / "temporary").glob("sdbench-*")), "whatever happened, nothing stays behind"
    return records(root / "local"), done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("method", sorted(EXPECTED))
def test_one_process_that_fails_ends_the_trial(mischief: tuple[dict[str, TrialResult], str], method: str) -> None:
    found, shown = mischief
    status, reason = EXPECTED[method]
    assert found[method].status == status, found[method]
    assert reason in found[method].reason
    assert f"{method} " in shown
    assert found[method].resumes == ((1,) if method == "toy_dies" else ())


@pytest.mark.slow
@pytest.mark.ray
def test_a_run_through_ray_gives_what_one_without_it_gives(tmp_path: Path) -> None:
    small_pictures(tmp_path / "pictures")
    done = {}
    for engine in ("local", "ray"):
        command = arguments(tmp_path, engine, "--methods", "ce,pskd", "--json")
        finished = subprocess.run(command, capture_output=True, text=True, timeout=1500, check=False)
        assert finished.returncode == 0, finished.stderr
        assert json.loads(finished.stdout)["tables"][0]["shards"] == 2
        done[engine] = records(tmp_path / engine)
        assert not list((tmp_path / engine).glob(".train-*"))
    for method in ("ce", "pskd"):
        ours, theirs = done["ray"][method], done["local"][method]
        assert (ours.status, ours.spec.shards, ours.trial_id) == ("ok", 2, theirs.trial_id)
        assert ours.metrics == theirs.metrics
        assert ours.checksums["network.safetensors"] == theirs.checksums["network.safetensors"]
        assert ours.cost is not None
        assert ours.cost.labelled_images == 80


def test_a_trial_on_two_processes_from_the_command_line(tmp_path: Path) -> None:
    small_pictures(tmp_path / "pictures")
    command = arguments(tmp_path, "local", "--methods", "ce", "--json")
    finished = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert finished.returncode == 0, finished.stderr
    shown = json.loads(finished.stdout)["tables"][0]
    assert (shown["shards"], shown["recipe"]["batch_size"], shown["recipe"]["lr"]) == (2, 8, 0.01)
    result = records(tmp_path / "local")["ce"]
    card = [sys.executable, "-m", "sdbench", "show", result.trial_id, "--results", str(tmp_path / "local")]
    text = subprocess.run(card, capture_output=True, text=True, check=True, timeout=300).stdout
    assert "shards" in text
    assert "batch_size=8" in text
