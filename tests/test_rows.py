"""Memories of every image in files: the same bits as in memory, whatever happens in between."""

from __future__ import annotations

import errno
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch import Tensor

from sdbench import Task, get, rows, shelf
from sdbench.graph import CapturedStep
from sdbench.method import Batch, Combination, Method
from sdbench.network import wrap
from sdbench.parts import exchange_rows, keep_rows
from sdbench.rows import RowFile
from sdbench.shelf import RowFiles, Shelf
from sdbench.spec import Options, Trial, TrialResult
from sdbench.store import Store
from sdbench.tiny import TinyTask
from sdbench.train import run_trial

TASK = TinyTask(epochs=4)
STEPS = 3
KEEPERS: dict[str, dict[str, Any]] = {
    "pskd": {},
    "temporal_ensembling": {"ramp_epochs": 2},
    "sfr": {"dls": "instance"},
}
CPU = torch.device("cpu")


def trained(name: str, root: Path, state: str, **given: Any) -> tuple[TrialResult, Path]:
    trial, store = TASK.trial(name, KEEPERS[name]), Store(root)
    options = Options.model_validate({"device": "cpu", "state": state, **given.pop("options", {})})
    return run_trial(trial, store, options, opener=TASK.open, **given), store.folder(trial.spec, trial.id)


def bits(result: TrialResult, folder: Path) -> tuple[Any, ...]:
    curve = [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]
    losses = [(line["epoch"], line["loss"], line["terms"]) for line in curve]
    return result.status, result.metrics, losses, (folder / "network.safetensors").read_bytes()


@pytest.fixture
def file(tmp_path: Path) -> RowFile:
    found = RowFile(11, 3, 0.25)
    found.place(tmp_path / "state", "memory")
    return found


def test_a_file_does_what_a_tensor_does(file: RowFile) -> None:
    """Reads and writes in any order, rows left out or met twice, over five epochs."""
    random = torch.Generator().manual_seed(1)
    tensor = torch.full((11, 3), 0.25)
    for epoch in range(5):
        file.begin(f"epoch-{epoch}")
        for _ in range(4):
            index = torch.randint(11, (4,), generator=random).unique()
            new = torch.rand(len(index), 3, generator=random)
            assert torch.equal(file.read(index), tensor[index])
            assert torch.equal(exchange_rows(file, index, new), exchange_rows(tensor, index, new))
            assert torch.equal(file.read(torch.arange(11)), tensor)
        file.finish()
        file.retire()
        assert torch.equal(file.read(torch.arange(11)), tensor)


def test_what_is_read_is_a_copy(file: RowFile) -> None:
    file.begin("one")
    file.write(torch.tensor([2]), torch.ones(1, 3))
    read = file.read(torch.tensor([2, 2]))
    file.write(torch.tensor([2]), torch.zeros(1, 3))
    assert torch.equal(read, torch.ones(2, 3))
    file.write(torch.tensor([4, 4]), torch.tensor([[1.0] * 3, [2.0] * 3]))
    assert torch.equal(file.read(torch.tensor([4])), torch.full((1, 3), 2.0))


def test_two_files_at_most_and_no_more_than_needed(file: RowFile, tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    (folder / "memory-epoch-000007.bin").write_bytes(b"left by a process that was killed")
    for epoch in range(3):
        file.begin(f"epoch-{epoch:06d}")
        note = file.finish()
        assert note is not None
        assert note["bytes"] == file.nbytes == 4 * 11 * 3 == (folder / note["file"]).stat().st_size
        assert len(list(folder.iterdir())) == min(2, epoch + 1)
        file.retire()
        assert [path.name for path in folder.iterdir()] == [f"memory-epoch-{epoch:06d}.bin"]


def test_rows_are_written_within_epochs_only(file: RowFile) -> None:
    with pytest.raises(RuntimeError, match="outside of an epoch"):
        file.write(torch.tensor([0]), torch.zeros(1, 3))


def test_memory_stays_flat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of 160 MB, gone through twice, keeps some 16 MB of it in memory."""
    monkeypatch.setattr(rows, "MAPPED_BYTES", 8 * 2**20)
    large = RowFile(4_000, 10_000)
    large.place(tmp_path, "large")
    process, order = psutil.Process(), torch.randperm(4_000)
    peak = before = process.memory_info().rss
    for epoch in range(2):
        large.begin(f"epoch-{epoch}")
        for index in order.split(50):
            exchange_rows(large, index, torch.full((len(index), 10_000), float(epoch)))
            peak = max(peak, process.memory_info().rss)
        large.finish()
        large.retire()
    assert large.nbytes == 160_000_000
    assert peak - before < 80 * 2**20
    assert torch.equal(large.read(torch.tensor([0, 3_999])), torch.ones(2, 10_000))


@pytest.mark.parametrize("name", KEEPERS)
def test_on_disk_or_in_memory_the_bits_are_the_same(name: str, tmp_path: Path) -> None:
    held, kept = (trained(name, tmp_path / state, state) for state in ("memory", "disk"))
    assert bits(*held) == bits(*kept)
    assert held[0].status == "ok"
    assert held[0].cost is not None
    assert kept[0].cost is not None
    assert held[0].cost.state_bytes == kept[0].cost.state_bytes >= 4 * 26 * 10
    assert not (kept[1] / "state").exists()


@pytest.mark.parametrize("name", KEEPERS)
def test_every_method_with_a_row_per_image_can_keep_it_on_disk(name: str, tmp_path: Path) -> None:
    session = TASK.session(TASK.trial(name, KEEPERS[name]), Shelf(tmp_path, "disk"))
    assert len(session.rows.files) == 1
    assert not [k for k, b in session.method.named_buffers() if b.dim() and len(b) == 26]


def test_no_other_method_holds_a_row_per_image() -> None:
    from sdbench import registry

    for name in set(registry.names()) - set(KEEPERS):
        if registry.origin(name) == "built in":
            task = TinyTask(num_train=31)
            method = task.session(task.trial(name, {})).method
            assert not [k for k, b in method.named_buffers() if b.dim() == 2 and len(b) == 31], name


class Killed(KeyboardInterrupt):
    """Ends a trial as abruptly as a process can be ended within it."""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ...]:
    return bits(*trained("pskd", tmp_path_factory.mktemp("undisturbed"), "memory"))


MOMENTS = ("begin", "read", "write", "finish", "retire")


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_trial_that_ends_at_any_moment_goes_on_exactly(
    moment: str, after: bool, tmp_path: Path, undisturbed: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = itertools.count()
    last = 2 * STEPS + 1 if moment in ("read", "write") else 2
    original = getattr(RowFile, moment)

    def ends(self: RowFile, *given: Any) -> Any:
        now = next(calls) == last
        if now and not after:
            raise Killed
        found = original(self, *given)
        if now:
            raise Killed
        return found

    with monkeypatch.context() as patched:
        patched.setattr(RowFile, moment, ends)
        with pytest.raises(Killed):
            trained("pskd", tmp_path, "disk")
    again = trained("pskd", tmp_path, "disk")
    assert bits(*again) == undisturbed
    assert again[0].resumes == ((3,) if moment == "retire" else (2,))


SCRIPT = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[4])
import test_rows
from sdbench import checkpoint
from sdbench.rows import RowFile
owner, name, last = {"write": (RowFile, "write", 7), "save": (checkpoint, "save", 2)}[sys.argv[2]]
original, calls = getattr(owner, name), []
def dies(*given, **more):
    found = original(*given, **more)
    calls.append(0)
    if len(calls) == last:
        os.kill(os.getpid(), signal.SIGKILL)
    return found
if sys.argv[3] == "dies":
    setattr(owner, name, dies)
test_rows.trained("pskd", Path(sys.argv[1]), "disk")
"""


@pytest.mark.parametrize("moment", ["write", "save"])
def test_kill_9_loses_nothing(moment: str, tmp_path: Path, undisturbed: tuple[Any, ...]) -> None:
    """Half-way through an epoch, and between a checkpoint and the deletion of what it makes superfluous."""
    words = [sys.executable, "-c", SCRIPT, str(tmp_path), moment, "dies", str(Path(__file__).parent)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == -9, done.stderr
    again = trained("pskd", tmp_path, "disk")
    assert bits(*again) == undisturbed
    assert again[0].resumes == (2,)


@pytest.mark.parametrize(("first", "second"), [("disk", "memory"), ("memory", "disk")])
@pytest.mark.parametrize("name", KEEPERS)
def test_a_trial_goes_on_where_the_memory_is_kept_elsewhere(name: str, first: str, second: str, tmp_path: Path) -> None:
    straight, asked = trained(name, tmp_path / "straight", "memory"), itertools.count()
    stopped, folder = trained(name, tmp_path, first, stop=lambda: next(asked) >= 2 * STEPS + 1)
    assert stopped.status == "interrupted"
    assert bool(list(folder.glob("state/*.bin"))) == (first == "disk")
    again = trained(name, tmp_path, second)
    assert again[0].resumes == (2,)
    assert bits(*again) == bits(*straight)
    assert not (folder / "state").exists()


def interrupted(root: Path) -> Path:
    asked = itertools.count()
    _, folder = trained("pskd", root, "disk", stop=lambda: next(asked) >= 2 * STEPS)
    return folder / "state" / "predictions-epoch-000001.bin"


def test_a_damaged_file_is_noticed_and_training_starts_again(tmp_path: Path, undisturbed: tuple[Any, ...]) -> None:
    damages = {
        "missing": lambda path: path.unlink(),
        "another size": lambda path: path.write_bytes(path.read_bytes()[:-4]),
        "other content": lambda path: path.write_bytes(path.read_bytes()[:-4] + b"\0\0\x80?"),
    }
    for number, (words, damage) in enumerate(damages.items()):
        damage(interrupted(tmp_path / str(number)))
        with pytest.warns(UserWarning, match=f"cannot be gone on from .*{words}"):
            again = trained("pskd", tmp_path / str(number), "disk")
        assert bits(*again) == undisturbed
        assert again[0].resumes == ()


def test_a_full_disk_is_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    result, folder = trained("pskd", tmp_path, "disk")
    assert result.status == "failed"
    assert "give a larger one with --results FOLDER): predictions-epoch-000000.bin was not written" in result.reason
    assert not list(folder.glob("state/*"))


def test_a_disk_without_room_for_two_files_is_refused_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage:
        free = 2 * 4 * 26 * 10 - 1

    monkeypatch.setattr(shelf.shutil, "disk_usage", lambda path: Usage)
    result, _ = trained("pskd", tmp_path, "disk")
    assert (result.status, result.epochs_done) == ("failed", 0)
    assert "1.04e-06 GB" in result.reason
    Usage.free += 1
    assert trained("pskd", tmp_path / "enough", "disk")[0].status == "ok"


@pytest.mark.parametrize(("free", "expected"), [(4 * 1040, False), (4 * 1040 - 1, True)])
def test_auto_takes_a_quarter_of_what_is_free(
    free: int, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shelf, "free_memory", lambda device: free)
    own = Shelf(tmp_path)
    assert (own.offer(26, 10, 0.0, CPU) is not None) is expected
    assert expected or own.offer(1, 1, 0.0, CPU) is not None, "what was placed before counts"


def test_without_a_harness_it_is_a_tensor() -> None:
    method = get("pskd")()
    method.setup(Task(num_classes=3, num_train=5, batch_size=2, epochs=1), wrap(torch.nn.Linear(1, 3)))
    assert isinstance(method.predictions, Tensor)
    assert torch.equal(method.state_dict()["predictions"], torch.zeros(5, 3))


def test_steps_on_files_are_not_recorded(tmp_path: Path) -> None:
    session = TASK.session(TASK.trial("pskd", {}), Shelf(tmp_path, "disk"))
    assert session.rows.obstacle == "its predictions is kept on disk"
    counted: list[Batch] = []

    def work(batch: Batch) -> dict[str, Tensor]:
        counted.append(batch)
        return {}

    step = CapturedStep(work, session.network.passes, session._stateful, None)  # type: ignore[arg-type]
    step.obstacle = session.rows.obstacle
    session.begin_epoch(0)
    batch = next(session.batches(0))
    for _ in range(5):
        step(batch)
    assert counted == [batch] * 5


class Rememberer(Method):
    """Keeps a row per image, and does not say that it cannot be mixed."""

    def setup(self, task: Task, network: Any) -> None:
        keep_rows(self, "memory", task, network)


def test_a_file_refuses_mixed_images_as_a_tensor_does(tmp_path: Path) -> None:
    for place in (None, Shelf(tmp_path, "disk")):
        task = Task(num_classes=3, num_train=5, batch_size=2, epochs=1, shelf=place)
        with pytest.raises(Exception, match="keeps memory with one row per training image"):
            Combination(Rememberer(), get("mixup")()).setup(task, wrap(torch.nn.Linear(1, 3)))


def test_names_tell_the_files_of_parts_apart(tmp_path: Path) -> None:
    task = Task(num_classes=3, num_train=5, batch_size=2, epochs=1, shelf=Shelf(tmp_path, "disk"))
    both = torch.nn.ModuleDict({"one": Rememberer(), "two": Rememberer()})
    for part in both.values():
        part.setup(task, wrap(torch.nn.Linear(1, 3)))
    files = RowFiles(both, tmp_path)
    files.begin(0)
    files.files["one.memory"].write(torch.tensor([1]), torch.ones(1, 3))
    assert sorted(note["file"] for note in files.notes().values()) == [
        "one.memory-epoch-000000.bin",
        "two.memory-epoch-000000.bin",
    ]
    assert float(files.files["two.memory"].read(torch.tensor([1])).sum()) == 0


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    deterministic = torch.are_deterministic_algorithms_enabled()
    yield
    torch.use_deterministic_algorithms(deterministic)


def test_the_option_is_no_part_of_a_trials_identity() -> None:
    assert "state" in Options.model_fields
    assert "state" not in Trial.model_fields["spec"].annotation.model_fields  # type: ignore[union-attr]
