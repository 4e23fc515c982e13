"""Trials that go wrong in every way: each is its own row, with a reason, and harms no other."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sdbench.engine import Resources
from sdbench.engine.local import slots
from sdbench.run import waves
from sdbench.spec import Identity, Recipe, Status, Trial, TrialResult, TrialSpec
from sdbench.store import Store

PLUGIN = '''
import os
import signal
import time

import torch

from sdbench import Method, register


class Toy(Method):
    """Cross-entropy and some mischief."""

    def criterion(self, output, batch, progress):
        self.mischief(output)
        return {"ce": torch.nn.functional.cross_entropy(output.logits.float(), batch.labels)}


@register("toy_raises")
class Raises(Toy):
    """Raises in its loss."""

    def mischief(self, output):
        raise KeyError("no such head")


@register("toy_oom")
class OutOfMemory(Toy):
    """Asks for more memory than there is."""

    def mischief(self, output):
        torch.empty(2**60, dtype=torch.uint8)


@register("toy_exits")
class Exits(Toy):
    """Takes its process down."""

    def mischief(self, output):
        os._exit(7)


@register("toy_killed")
class Killed(Toy):
    """Is killed, as the system does when memory runs out."""

    def mischief(self, output):
        os.kill(os.getpid(), signal.SIGKILL)


@register("toy_hangs")
class Hangs(Toy):
    """Never comes back."""

    def mischief(self, output):
        time.sleep(10_000)


@register("toy_chatty")
class Chatty(Toy):
    """Prints very much, and then fails."""

    def mischief(self, output):
        for _ in range(3000):
            print("x" * 10_000)
        raise ValueError("said enough")


@register("toy_nan")
class NaN(Method):
    """Its loss is not a number."""

    def criterion(self, output, batch, progress):
        return {"ce": output.logits.float().mean(), "broken": output.logits.float().mean() * float("nan")}


@register("toy_unused")
class Unused(Method):
    """Holds an auxiliary parameter that no loss reaches."""

    def setup(self, task, network):
        self.head = torch.nn.Linear(3, 3)

    def criterion(self, output, batch, progress):
        return {"ce": torch.nn.functional.cross_entropy(output.logits.float(), batch.labels)}
'''

EXPECTED: dict[str, tuple[Status, str]] = {
    "ce": ("ok", ""),
    "toy_raises": ("failed", "KeyError: 'no such head'"),
    "toy_oom": ("oom", "memory"),
    "toy_exits": ("failed", "exit code 7"),
    "toy_killed": ("failed", "SIGKILL"),
    "toy_hangs": ("timeout", "--timeout"),
    "toy_chatty": ("failed", "said enough"),
    "toy_nan": ("nan", "broken"),
    "toy_unused": ("failed", "got no gradient"),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str], list[str]]:
    """One run of all the mischief beside the baseline."""
    root = tmp_path_factory.mktemp("mischief")
    random = np.random.default_rng(0)
    for part in ("train", "val"):
        for label in range(2):
            (root / "data" / part / str(label)).mkdir(parents=True)
            for i in range(24):
                pixels = random.integers(0, 255, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / "data" / part / str(label) / f"{i}.png")
    (root / "toys.py").write_text(PLUGIN)
    arguments = [
        sys.executable, "-m", "sdbench", "run", "--plugin", str(root / "toys.py"), "--methods", "toy_*",
        "--dataset", f"folder:{root / 'data'}", "--image-size", "16", "--model", "resnet8", "--epochs", "8",
        "--batch-size", "16", "--seeds", "0", "--results", str(root / "results"), "--engine", "local",
        "--timeout", "25",
    ]  # fmt: skip
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=400, check=False)
    return root / "results", done, arguments


def records(results: Path) -> dict[str, TrialResult]:
    return {r.spec.method: r for r in Store(results).scan().results}


@pytest.mark.parametrize("method", sorted(EXPECTED))
def test_every_mischief_is_a_row_with_its_reason(
    finished: tuple[Path, subprocess.CompletedProcess[str], list[str]], method: str
) -> None:
    results, done, _ = finished
    status, reason = EXPECTED[method]
    found = records(results)[method]
    assert found.status == status, found
    assert reason in found.reason
    assert f"{method} " in done.stdout.replace("|", " "), "it is on the board"
    if status != "ok":
        assert found.metrics is None
        assert reason.split(":")[0] in done.stderr


def test_the_command_says_so(finished: tuple[Path, subprocess.CompletedProcess[str], list[str]]) -> None:
    _, done, _ = finished
    assert done.returncode == 1
    assert "1 of 9 trials ok" in done.stderr
    assert "--rerun failed" in done.stderr


def test_what_it_printed_is_kept_in_bounds(
    finished: tuple[Path, subprocess.CompletedProcess[str], list[str]],
) -> None:
    results, _, _ = finished
    chatty = records(results)["toy_chatty"]
    log = Store(results).folder(chatty.spec, chatty.trial_id) / "log.txt"
    assert 0 < log.stat().st_size < 100_000


def test_failures_are_not_repeated_unless_asked(
    finished: tuple[Path, subprocess.CompletedProcess[str], list[str]],
) -> None:
    results, _, arguments = finished
    before = {m: r.provenance.finished for m, r in records(results).items()}
    again = subprocess.run(arguments, capture_output=True, text=True, timeout=100, check=False)
    assert again.returncode == 1
    assert {m: r.provenance.finished for m, r in records(results).items()} == before
    chosen = [a if a != "toy_*" else "toy_raises" for a in arguments]
    once = subprocess.run([*chosen, "--rerun", "failed"], capture_output=True, text=True, timeout=200, check=False)
    assert once.returncode == 1
    after = {m: r.provenance.finished for m, r in records(results).items()}
    assert {m for m in before if after[m] != before[m]} == {"toy_raises"}


def test_show_tells_why(finished: tuple[Path, subprocess.CompletedProcess[str], list[str]]) -> None:
    results, _, _ = finished
    record = records(results)["toy_raises"]
    command = [sys.executable, "-m", "sdbench", "show", record.trial_id[:8], "--results", str(results)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "no such head" in shown.stdout
    parsed = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    assert json.loads(parsed.stdout)["status"] == "failed"


def make(method: str, teacher: str | None = None, generation: int | None = None) -> Trial:
    spec = TrialSpec(
        method=method, dataset="d", network="n", recipe=Recipe(epochs=1), protocol="p", seed=0,
        teacher=teacher, generation=generation,
    )  # fmt: skip
    return Trial(spec=spec, identity=Identity(method_source="", data_fingerprint="", protocol_version=""))


def test_students_wait_for_their_teachers() -> None:
    first = make("a", generation=0)
    second = make("b", teacher=first.id, generation=1)
    third = make("b", teacher=second.id)
    alone = make("c")
    found = waves([third, alone, second, first])
    assert [{t.id for t in wave} for wave in found] == [{first.id, alone.id}, {second.id}, {third.id}]


def test_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert slots(Resources(per_gpu=2)) == ["2", "5", "2", "5"]
    assert slots(Resources(gpus=1)) == ["2"]
    assert slots(Resources(gpus=0, cpus=4, cpus_per_trial=2)) == [None, None]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert slots(Resources(cpus=3)) == [None] * 3
    assert slots(Resources(cpus=1, cpus_per_trial=4)) == [None]


CHAINS = '''
import torch
import torch.nn.functional as F

from sdbench import Method, Mixed, register


@register("toy_chain")
class Chain(Method):
    """Taught by the generation before; keeps validation logits' mean as state."""

    generations = 3

    def setup(self, task, network):
        assert task.teacher is not None
        self.teacher = task.teacher

    def loss(self, network, batch, progress):
        output = network(batch.images)
        target = F.softmax(self.teacher(batch.images).logits.float(), 1)
        return {"ce": F.cross_entropy(output.logits.float(), target)}


@register("toy_validated")
class Validated(Method):
    """Wants held-out data."""

    wants_validation = True

    def setup(self, task, network):
        self.register_buffer("seen", torch.zeros(()))

    def criterion(self, output, batch, progress):
        return {"ce": F.cross_entropy(output.logits.float(), batch.labels) + 0 * self.seen}

    def after_validation(self, logits, labels):
        self.seen += len(labels)


@register("toy_blend")
class Blend(Method):
    """Mixup with a fixed share."""

    def mix(self, batch, generator):
        order = torch.randperm(len(batch.labels), generator=generator, device=batch.labels.device)
        return Mixed(0.7 * batch.images + 0.3 * batch.images[order], batch.labels[order], 0.7)
'''


def test_generations_validation_and_mixtures_from_the_command_line(
    finished: tuple[Path, subprocess.CompletedProcess[str], list[str]], tmp_path: Path
) -> None:
    """Chains of teachers, a hold-out with a baseline of its own, a criterion on another's mixed images."""
    _, _, arguments = finished
    plugin = tmp_path / "chains.py"
    plugin.write_text(CHAINS)
    chosen = {"toy_*": "toy_chain,toy_validated,ls+toy_blend", "8": "2"}
    command = [chosen.get(a, a) for a in arguments]
    command[command.index("--plugin") + 1] = str(plugin)
    command[command.index("--results") + 1] = str(tmp_path / "results")
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found = {(r.spec.method, r.spec.generation, r.spec.split): r for r in Store(tmp_path / "results").scan().results}
    assert set(found) == {
        ("ce", None, "full"), ("ce", 0, "full"), ("toy_chain", 1, "full"), ("toy_chain", None, "full"),
        ("ce", None, "holdout-0.1"), ("toy_validated", None, "holdout-0.1"), ("ls+toy_blend", None, "full"),
    }  # fmt: skip
    first, last = found["ce", 0, "full"], found["toy_chain", None, "full"]
    assert found["toy_chain", 1, "full"].spec.teacher == first.trial_id
    assert last.spec.teacher == found["toy_chain", 1, "full"].trial_id
    assert last.pairing == found["ce", None, "full"].pairing != first.pairing
    assert found["toy_validated", None, "holdout-0.1"].pairing == found["ce", None, "holdout-0.1"].pairing
    tables = json.loads(done.stdout)["tables"]
    rows = {(table["split"], row["label"]): row for table in tables for row in table["rows"]}
    # One training of the first teacher with one forward per image, then two of student and teacher.
    assert rows["full", "toy_chain"]["forward_per_image"] == 1 + 2 + 2
    assert rows["holdout-0.1", "toy_validated"]["gain"]["n"] == 1


def test_what_cannot_be_combined_is_refused_before_any_work(tmp_path: Path) -> None:
    plugin = tmp_path / "chains.py"
    plugin.write_text(CHAINS.replace('"toy_', '"toy2_'))
    command = [sys.executable, "-m", "sdbench", "run", "--plugin", str(plugin), "--results", str(tmp_path / "r")]
    wrong = "pskd+toy2_blend,zipf+ls,cskd+toy2_blend,toy2_chain+toy2_blend"
    done = subprocess.run([*command, "--methods", wrong], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 4
    assert "ls does not hand mixed images" in done.stderr
    assert "partners" in done.stderr or "more than the one forward" in done.stderr
