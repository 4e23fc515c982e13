"""A kill before every single step of every write: opening, flushing, renaming, deleting. Old or new, never neither."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch

from sdbench import boards, checkpoint
from sdbench.cost import archive
from sdbench.cost.records import ProfileResult, ProfileRow, Setting, profile_id
from sdbench.data.cache import read_arrays, store_arrays
from sdbench.engine import supervise
from sdbench.engine.job import Job
from sdbench.engine.worker import work
from sdbench.housekeeping_looks import leftovers
from sdbench.merging import merge
from sdbench.plan import make_plan
from sdbench.report.commands import write_report
from sdbench.request import Request
from sdbench.spec import Options, Provenance, Trial
from sdbench.store import Store, read_curve, read_result

EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.truncate", "shutil.rmtree"}


class Killer:
    """Kills its own process at the ``at``-th step of writing below ``root``. torn: with the file in hand cut short, as
    when its content has not reached the disk."""

    def __init__(self, root: Path, at: int, torn: bool) -> None:
        self.root, self.at, self.torn, self.count = str(root), at, torn, 0
        self.fsync = os.fsync

    def install(self) -> None:
        os.fsync = self.flush  # type: ignore[assignment]
        sys.addaudithook(self.hear)

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in EVENTS or not str(arguments[0]).startswith(self.root):
            return
        writes = os.O_WRONLY | os.O_RDWR | os.O_CREAT
        if event != "open" or (isinstance(arguments[2], int) and arguments[2] & writes):
            self.step(None)

    def flush(self, descriptor: int) -> None:
        self.step(descriptor)
        self.fsync(descriptor)

    def step(self, descriptor: int | None) -> None:
        self.count += 1
        if self.count != self.at:
            return
        if self.torn and descriptor is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, os.fstat(descriptor).st_size * 2 // 3)
        os.kill(os.getpid(), signal.SIGKILL)


def in_child(act: Callable[[], None], root: Path, at: int = 0, torn: bool = False) -> int:
    """Do something in a forked process that dies at a step of writing; 0 where it came to its end, else the signal.
    The number of steps is left in a file beside ``root``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads
        child = os.fork()
    if child == 0:
        code = 1
        try:
            killer = Killer(root, at, torn)
            killer.install()
            act()
            code = 0
            root.with_name("steps").write_text(str(killer.count))
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "it went wrong by itself"
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


@dataclass(frozen=True)
class Scenario:
    """old: makes what is there before. act: writes; done twice, it writes the same. content: what a reader finds."""

    old: Callable[[Path], object]
    act: Callable[[Path], object]
    content: Callable[[Path], Any]


def tree(root: Path) -> dict[str, bytes]:
    """All files that count: no temporaries, no locks, nothing staged."""
    paths = (p.relative_to(root) for p in sorted(root.rglob("*")) if p.is_file())
    return {str(p): (root / p).read_bytes() for p in paths if not any(part.startswith(".") for part in p.parts)}


def profile(seconds: float) -> ProfileResult:
    setting = Setting(
        network="n", num_classes=3, num_train=9, image_size=8, batch_size=4, augment="none", precision="fp32"
    )
    where = Provenance(versions={}, device="cpu", cpu="c", started="t0", finished="t1")
    return ProfileResult(
        profile_id=profile_id(setting, ["ce"], where), setting=setting, baseline="ce",
        rows=(ProfileRow(method="ce", params={}),), load_start=0, load_end=0, seconds=seconds, provenance=where,
    )  # fmt: skip


def arrays(value: int) -> dict[str, Any]:
    return {"a": np.full((50, 50), value, np.float32)}


@pytest.fixture
def scenarios(write_trial: Callable[..., Path]) -> dict[str, Scenario]:
    def first(root: Path) -> None:
        write_trial(root)

    def second(root: Path) -> None:
        write_trial(root, seed=1)
        write_trial(root, method="ls", top1=0.6)

    def board(root: Path) -> None:
        boards.write(Store(root))

    def stale_board(root: Path) -> None:
        first(root)
        board(root)
        second(root)

    def to_merge(root: Path) -> None:
        first(root)
        second(root.with_name("source"))

    def died(root: Path) -> None:
        """What the supervisor writes of a trial whose process left no record."""
        first(root)
        result = Store(root).scan().results[0]
        trial = Trial(spec=result.spec.model_copy(update={"seed": 5}), identity=result.identity)
        job = Job(trial=trial, options=Options(), store=str(root))
        supervise.write_end(Store(root), job, threading.Event(), "failed", "its process died", "log " * 99)

    def better(root: Path) -> None:
        (old,) = Store(root).scan().results
        assert old.metrics is not None
        Store(root).write(old.model_copy(update={"metrics": old.metrics.model_copy(update={"top1": 0.75})}))

    def timeless(root: Path) -> dict[str, Any]:
        """The records without their times and seals; other files as they are."""
        found: dict[str, Any] = dict(tree(root))
        for path in [path for path in found if path.endswith("trial.json")]:
            record = read_result(root / path)
            sums = {name: value for name, value in record.checksums.items() if name != "trial.json"}
            found[path] = (record.status, record.reason, record.log_tail, record.spec, record.metrics, sums)
        return found

    return {
        "boards": Scenario(stale_board, board, tree),
        "record": Scenario(first, better, tree),
        "record of a death": Scenario(first, died, timeless),
        "report": Scenario(first, lambda root: write_report(str(root), None, boards.Filter()), tree),
        "merge": Scenario(to_merge, lambda root: merge([str(root.with_name("source"))], str(root)), tree),
        "profile": Scenario(
            lambda root: archive.write(root, profile(1)), lambda root: archive.write(root, profile(2)), tree
        ),
        "cache": Scenario(
            lambda root: store_arrays(root / "a.safetensors", arrays(1)),
            lambda root: store_arrays(root / "a.safetensors", arrays(2)),
            lambda root: {k: v.mean() for k, v in (read_arrays(root / "a.safetensors") or {}).items()},
        ),
    }  # fmt: skip


NAMES = ["boards", "record", "record of a death", "report", "merge", "profile", "cache"]


@pytest.mark.parametrize("name", NAMES)
def test_a_kill_before_each_step_of_writing(
    scenarios: dict[str, Scenario], tmp_path: Path, counted: Callable[..., None], name: str
) -> None:
    """After it each file holds the old or the new, and doing it again ends as if nothing had happened."""
    scenario, root = scenarios[name], tmp_path / "results"
    scenario.old(root)
    kept = tmp_path / "kept"
    shutil.copytree(root, kept)
    old = scenario.content(root)
    assert in_child(lambda: scenario.act(root), root) == 0
    new = scenario.content(root)
    assert new != old
    steps = int((tmp_path / "steps").read_text())
    assert steps >= 3
    counted(f"kill -9 inside the writing of the {name}", 2 * steps)
    for at in range(1, steps + 1):
        for torn in (False, True):
            shutil.rmtree(root)
            shutil.copytree(kept, root)
            assert in_child(lambda: scenario.act(root), root, at, torn) == signal.SIGKILL, at
            found = scenario.content(root)
            assert set(found) <= set(old) | set(new)
            assert all(data in (old.get(path), new.get(path)) for path, data in found.items()), (at, torn)
            assert set(old) <= set(found)
            scan = Store(root).scan()
            assert scan.damaged == ()
            assert len(scan.results) >= len(Store(kept).scan().results)
            scenario.act(root)
            assert scenario.content(root) == new, (at, torn)


def jobs_of(world: Any, root: Path) -> tuple[Trial, Options]:
    flags = world.flags(methods=["pskd"], seeds=["0"], keep_logits="every:1", epochs="2", baseline="false")
    plan = make_plan(Request.gather({**flags, "results": str(root)}, None, {}))
    (trial,) = plan.trials
    return trial, plan.options


def whole(root: Path, trial: Trial) -> dict[str, Any]:
    """All that must be equal to the last bit in a finished trial."""
    record = Store(root).result(trial)
    assert record is not None
    assert record.status == "ok"
    lines = read_curve(Store(root).folder(trial.spec, trial.id) / "curve.jsonl")
    sums = {name: value for name, value in record.checksums.items() if name.endswith("safetensors")}
    assert len(sums) == 4
    return {"metrics": record.metrics, "sums": sums, "losses": [(line["epoch"], line["loss"]) for line in lines]}


@pytest.mark.parametrize("every", [9, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("again", [False, True], ids=["fresh", "rerun"])
def test_a_kill_before_each_step_of_a_trial(
    small_world: Any, tmp_path: Path, counted: Callable[..., None], again: bool, every: int
) -> None:
    """From the first file to the last checkpoint's deletion: started.json, checkpoints, curve, logits of epochs,
    weights, logits, record. every: how many steps lie between two kills."""
    root = tmp_path / "results"
    trial, options = jobs_of(small_world, root)
    store = Store(root)
    nowhere = os.open(os.devnull, os.O_WRONLY)

    def train(replaces: str = "") -> None:
        job = Job(trial=trial, options=options, store=str(root), replaces=replaces)
        work(job, nowhere, threading.Event())

    assert in_child(train, root) == 0
    reference = whole(root, trial)
    kept = tmp_path / "kept"
    shutil.copytree(root, kept) if again else Store(kept).prepare()
    replaces = store.result(trial).checksums["trial.json"] if again else ""  # type: ignore[union-attr]
    shutil.rmtree(root)
    shutil.copytree(kept, root)
    assert in_child(lambda: train(replaces), root) == 0
    steps = int((tmp_path / "steps").read_text())
    tried = 0
    for at in range(1 + every // 2, steps + 1, every):
        shutil.rmtree(root)
        shutil.copytree(kept, root)
        assert in_child(lambda: train(replaces), root, at, torn=at % 2 == 0) == signal.SIGKILL, at
        tried += 1
        folder = store.folder(trial.spec, trial.id)
        scan = store.scan()
        assert scan.damaged == ()
        if again:
            assert [(r.status, r.metrics) for r in scan.results] == [("ok", reference["metrics"])], at
        for path in [*folder.glob("*.safetensors"), *folder.glob("epoch_logits/*.safetensors")]:
            assert safetensors.torch.load_file(path)
        checkpoint.load(folder / "checkpoint")  # a warning would be an error
        assert in_child(train, root) == 0
        assert whole(root, trial) == reference, at
        assert again or leftovers(store.root) == []
    counted(f"kill -9 inside each write of a trial that is {'run again' if again else 'new'}", tried)
    os.close(nowhere)
