"""Damaged files of every kind: each is listed, hides no other, is never deleted, and the same command mends it."""

from __future__ import annotations

import json
import os
import shutil
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from sdbench import checkpoint
from sdbench.cli import app
from sdbench.engine.job import Job
from sdbench.engine.worker import work
from sdbench.plan import make_plan
from sdbench.request import Request
from sdbench.run import to_do
from sdbench.spec import Options, Trial, TrialResult
from sdbench.store import Store, read_result

DAMAGE: dict[str, Callable[[Path], object]] = {
    "truncated": lambda p: p.write_bytes(p.read_bytes()[: p.stat().st_size // 2]),
    "empty": lambda p: p.write_bytes(b""),
    "garbage": lambda p: p.write_bytes(bytes(range(256)) * 20),
    "zeros": lambda p: p.write_bytes(b"\0" * 4096),
    "not UTF-8": lambda p: p.write_bytes(b"\xff\xfe" + p.read_bytes()),
    "wrong schema": lambda p: p.write_text('{"status": "ok", "top1": 0.9}'),
    "other JSON": lambda p: p.write_text("[1, 2, 3]"),
    "newer schema": lambda p: p.write_text(p.read_text().replace('"schema_version": 1', '"schema_version": 2')),
    "NaN": lambda p: p.write_text(p.read_text().replace('"nll": 1.0', '"nll": NaN')),
    "infinity": lambda p: p.write_text(p.read_text().replace('"nll": 1.0', '"nll": Infinity')),
    "one digit": lambda p: p.write_text(p.read_text().replace('"top1": 0.5', '"top1": 0.6')),
    "folder": lambda p: (p.unlink(), p.mkdir(), (p / "inside").write_text("kept")),
    "link to nothing": lambda p: (p.unlink(), p.symlink_to("nowhere")),
    "link to itself": lambda p: (p.unlink(), p.symlink_to(p.name)),
    "pipe": lambda p: (p.unlink(), os.mkfifo(p)),
}


def command(*words: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, list(words))
    return done.exit_code, done.stdout, done.stderr


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_record_hides_no_other(
    write_trial: Callable[..., Path], tmp_path: Path, counted: Callable[..., None], damage: str
) -> None:
    counted(f"record: {damage}")
    root = tmp_path / "results"
    for method in ("ce", "ls", "zipf"):
        write_trial(root, method=method)
    bad = write_trial(root, method="pskd") / "trial.json"
    DAMAGE[damage](bad)
    before = sorted(str(p.relative_to(root)) for p in bad.parent.rglob("*"))
    code, out, err = command("leaderboard", "--results", str(root))
    assert code == 1
    assert all(f"{name} " in out for name in ("ce", "ls", "zipf"))
    assert str(bad) in err
    assert bad.parent.name in out
    for words in (["list", "runs"], ["compare", "ce", "ls"], ["report"]):
        code, out, err = command(*words, "--results", str(root))
        assert code in (0, 1), (words, out, err)
        assert "Traceback" not in out + err
    assert sorted(str(p.relative_to(root)) for p in bad.parent.rglob("*")) == before


@pytest.mark.parametrize("damage", DAMAGE)
def test_writing_sets_what_stands_in_the_way_aside(
    write_trial: Callable[..., Path], tmp_path: Path, counted: Callable[..., None], damage: str
) -> None:
    """Each file of a trial, damaged in each way, when the trial is recorded anew."""
    names = ("trial.json", "started.json", "curve.jsonl", "network.safetensors", "logits.safetensors", "log.txt")
    if damage in ("newer schema", "NaN", "infinity", "one digit"):
        names = names[:2]
    counted(f"each file of a trial, when it is recorded anew: {damage}", len(names))
    for name in names:
        root = tmp_path / name
        folder = write_trial(root)
        (result,) = Store(root).scan().results
        if not (folder / name).exists():
            shutil.copy(folder / "trial.json", folder / name)
        DAMAGE[damage](folder / name)
        Store(root).write(result)
        assert read_result(folder / "trial.json").metrics == result.metrics
        if name == "trial.json" or damage in ("folder", "pipe", "link to nothing", "link to itself"):
            assert os.path.lexists(folder / f"{name}.damaged-1"), "what was there is kept"


def test_as_another_user(write_trial: Callable[..., Path], tmp_path: Path, counted: Callable[..., None]) -> None:
    """A record and a whole folder without the right to read; a results folder without the right to write."""
    if os.getuid() != 0:
        pytest.skip("only root can become another user")
    counted("no right to read or write", 3)
    root = tmp_path / "results"
    folders = {method: write_trial(root, method=method) for method in ("ce", "ls", "zipf", "pskd")}
    (folders["ls"] / "trial.json").chmod(0)
    folders["zipf"].parent.chmod(0)
    for parent in [root, *root.parents]:
        if parent == Path("/tmp"):
            break
        parent.chmod(parent.stat().st_mode | 0o055)
    told = tmp_path / "told"
    told.write_text("")
    told.chmod(0o666)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            told.write_text(json.dumps(command("leaderboard", "--results", str(root))))
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    code, out, err = json.loads(told.read_text())
    assert code == 1
    assert "ce " in out
    assert "pskd " in out
    assert str(folders["ls"] / "trial.json") in err
    assert str(folders["zipf"].parent) in err, "a folder that cannot be listed is not silently empty"
    assert "boards not written" in err


@pytest.fixture
def trained(small_world: Any, tmp_path: Path) -> tuple[Path, Trial, Options]:
    """A trial of four epochs, broken off before its record: two checkpoints, a curve, started.json."""
    root = tmp_path / "results"
    given = {"methods": ["pskd"], "seeds": ["0"], "baseline": "false", "keep_checkpoints": "true"}
    plan = make_plan(Request.gather({**small_world.flags(**given), "results": str(root)}, None, {}))
    (trial,) = plan.trials
    return root, trial, plan.options


def train(root: Path, trial: Trial, options: Options, replaces: str = "") -> TrialResult:
    """What a trial's process does, in a process of its own; returns the record that it left."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        code = 1
        warnings.simplefilter("ignore")  # that a checkpoint is passed over
        try:
            job = Job(trial=trial, options=options, store=str(root), replaces=replaces)
            work(job, os.open(os.devnull, os.O_WRONLY), threading.Event())
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    return read_result(Store(root).folder(trial.spec, trial.id) / "trial.json")


BYTES = {name: DAMAGE[name] for name in ("truncated", "empty", "garbage", "zeros", "folder", "link to nothing", "pipe")}


def flip(path: Path) -> None:
    """One bit in the middle, where the tensors are."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def test_damaged_files_of_a_trial_that_goes_on(
    trained: tuple[Path, Trial, Options], tmp_path: Path, counted: Callable[..., None]
) -> None:
    """The newest checkpoint, both, the curve, started.json: the same bits in the end, from an older state."""
    root, trial, options = trained
    whole = train(root, trial, options)
    assert whole.status == "ok"
    folder = Store(root).folder(trial.spec, trial.id)
    weights = read_result(folder / "trial.json").checksums["network.safetensors"]
    (folder / "trial.json").unlink()
    kept = tmp_path / "kept"
    shutil.copytree(root, kept, symlinks=True)
    newest, older = "checkpoint/epoch-000004.pt", "checkpoint/epoch-000003.pt"
    cases = [((newest,), 3), ((newest, older), 0), (("curve.jsonl",), 4), (("started.json",), 4), (("checkpoint",), 0)]
    tried = 0
    for damage, do in {**BYTES, "one bit": flip}.items():
        for names, epoch in cases:
            if names == ("checkpoint",) and damage != "folder":
                continue
            shutil.rmtree(root)
            shutil.copytree(kept, root)
            for name in names:
                if name == "checkpoint":
                    shutil.rmtree(folder / name)
                    (folder / name).write_text("a file where a folder goes")
                else:
                    do(folder / name)
            found = train(root, trial, options)
            tried += 1
            assert found.status == "ok", (damage, names, found.reason)
            assert found.resumes == ((epoch,) if epoch else ()), (damage, names)
            assert (found.metrics, found.pairing) == (whole.metrics, whole.pairing), (damage, names)
            assert read_result(folder / "trial.json").checksums["network.safetensors"] == weights, (damage, names)
    counted("checkpoint, curve or start of a trial damaged", tried)


def test_a_checkpoint_with_one_changed_byte_is_refused(tmp_path: Path, counted: Callable[..., None]) -> None:
    """Wherever in its content it is; torch alone accepts most of them."""
    state = {"a": torch.arange(500.0), "b": {"c": torch.ones(40)}}
    checkpoint.save(tmp_path, 1, state)
    path = tmp_path / "epoch-000001.pt"
    sound = path.read_bytes()
    places = range(0, len(sound) - 100, 13)
    counted("one byte of a checkpoint changed", len(places))
    for place in places:
        data = bytearray(sound)
        data[place] ^= 0x20
        path.write_bytes(data)
        with pytest.warns(UserWarning, match="cannot be read"):
            assert checkpoint.load(tmp_path) is None
    path.write_bytes(sound)
    loaded = checkpoint.load(tmp_path)
    assert loaded is not None
    assert torch.equal(loaded["a"], state["a"])


def test_checkpoints_of_earlier_versions_are_read(tmp_path: Path) -> None:
    torch.save({"a": 1}, tmp_path / "epoch-000002.pt")
    assert checkpoint.load(tmp_path) == {"a": 1}


def test_a_new_start_is_not_deleted_by_what_lies_there(tmp_path: Path) -> None:
    """Later checkpoints, damaged or of a run that was not gone on from, go when an earlier epoch is saved again."""
    for epoch in (7, 8):
        checkpoint.save(tmp_path, epoch, {"epoch": epoch})
        flip(tmp_path / f"epoch-{epoch:06d}.pt")
    checkpoint.save(tmp_path, 1, {"epoch": 1})
    assert checkpoint.load(tmp_path) == {"epoch": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["epoch-000001.pt"]


CHAIN = '''
import torch.nn.functional as F

from sdbench import Method, register


@register("toy_taught")
class Taught(Method):
    """The last generation's softened labels."""

    generations = 2

    def setup(self, task, network):
        self.teacher = task.teacher

    def loss(self, network, batch, progress):
        output = network(batch.images)
        if self.teacher is None:
            return {"ce": F.cross_entropy(output.logits.float(), batch.labels)}
        target = F.softmax(self.teacher(batch.images).logits.float(), 1)
        return {"ce": F.cross_entropy(output.logits.float(), target)}
'''


@pytest.mark.parametrize("damage", ["one bit", "truncated", "gone", "folder"])
def test_a_teacher_is_what_was_recorded_or_is_trained_anew(
    small_world: Any, tmp_path: Path, own_registry: None, counted: Callable[..., None], damage: str
) -> None:
    counted(f"a teacher's weights: {damage}")
    (tmp_path / "chain.py").write_text(CHAIN)
    root = tmp_path / "results"
    given = {"methods": ["toy_taught"], "seeds": ["0"], "epochs": "1", "plugin": [str(tmp_path / "chain.py")]}
    plan = make_plan(Request.gather({**small_world.flags(**given), "results": str(root)}, None, {}))
    store = Store(root)
    by_teacher = {trial.spec.teacher is None and trial.spec.generation == 0: trial for trial in plan.trials}
    teacher, student = by_teacher[True], by_teacher[False]
    assert student.spec.teacher == teacher.id
    train(root, teacher, plan.options)
    weights = store.folder(teacher.spec, teacher.id) / "network.safetensors"
    sound = weights.read_bytes()
    {**DAMAGE, "one bit": flip, "gone": Path.unlink}[damage](weights)
    refused = train(root, student, plan.options)
    assert refused.status == "failed"
    assert "teacher" in refused.reason

    again = plan.model_copy(update={"rerun": "failed"})
    assert {t.id for t in to_do(again, store)} >= {teacher.id, student.id}
    before = store.result(teacher)
    assert before is not None
    train(root, teacher, plan.options, before.checksums["trial.json"])
    assert weights.read_bytes() == sound
    assert train(root, student, plan.options, refused.checksums["trial.json"]).status == "ok"
    assert to_do(plan.model_copy(update={"trials": (teacher, student)}), store) == []
