"""``sdbench gc`` and ``rm`` beside runs, other users, kills and disks that refuse: nothing goes that is wanted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sdbench import api
from sdbench.cli import app
from sdbench.housekeeping import litter
from sdbench.housekeeping_removal import carry_out
from sdbench.spec import Trial, TrialResult
from sdbench.store import Store, read_result, write_curve

Writer = Callable[..., Path]
NOBODY = 65534
WRITER = """
import sys
from pathlib import Path
from sdbench.durable import write_atomic
folders = [Path(each) for each in sys.argv[1:]]
print("writing", flush=True)
while True:
    for folder in folders:
        write_atomic(folder / "curve.jsonl", "x" * 200)
        (folder / "checkpoint").mkdir()
        (folder / "checkpoint").rmdir()
"""


def sdbench(*arguments: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, list(map(str, arguments)))
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout, done.stderr


def forked(act: Callable[[], object], user: int | None = None) -> int:
    """How ``act`` ends in a process of its own: the negative of a signal, 0, or 1 for an error that is shown."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        code = 1
        try:
            if user is not None:
                os.setgroups([])
                os.setgid(user)
                os.setuid(user)
            act()
            code = 0
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def trial_of(folder: Path) -> Trial:
    record = read_result(folder / "trial.json")
    return Trial(spec=record.spec, identity=record.identity)


def checkpoint(folder: Path) -> Path:
    (folder / "checkpoint").mkdir()
    (folder / "checkpoint" / "epoch-000001.pt").write_bytes(b"x" * 1000)
    return folder / "checkpoint"


def started(folder: Path, root: Path) -> TrialResult:
    """As the process of a trial leaves it that has begun."""
    record = read_result(folder / "trial.json")
    begun = record.model_copy(update={"status": "interrupted", "metrics": None, "cost": None})
    Store(root).write(begun, "started.json")
    return begun


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "results"


@pytest.mark.parametrize("status", ["ok", "timeout"])
def test_a_finished_trial_that_was_being_run_again(
    results: Path, write_trial: Writer, counted: Callable[..., None], status: str
) -> None:
    """Its record stands and its curve is the new one's: the store says that it is to be done, before and after."""
    counted("gc after a finished trial was run again and killed")
    changes: dict[str, Any] = {} if status == "ok" else {"status": status, "metrics": None}
    folder = write_trial(results, "ls", 0, **changes)
    trial, store = trial_of(folder), Store(results)
    kept = checkpoint(folder)
    early = litter(results, failed=True)
    assert [piece.kind for piece in early.pieces] == ["checkpoint"]
    write_curve(folder / "curve.jsonl", [{"epoch": 0, "top1": 0.4}])
    assert store.result(trial) is None

    found = api.gc(results=results, failed=True, stale=True, dry_run=False)
    assert found.pieces == ()
    assert len(found.left) == (0 if status == "interrupted" else 1)
    assert "run again" in found.left[0]
    assert carry_out(early).pieces == ()  # looked at before
    assert kept.is_dir()
    assert store.result(trial) is None


def test_rm_takes_only_what_was_shown(results: Path, write_trial: Writer, counted: Callable[..., None]) -> None:
    counted("a trial finishes while rm asks")
    folder = write_trial(results, "ls", 0, status="failed", metrics=None)
    other = write_trial(results, "ls", 1, status="failed", metrics=None)
    shown = api.rm(status="failed", results=results)
    assert len(shown.pieces) == 2
    write_trial(results, "ls", 0)  # run --rerun failed
    done = carry_out(shown)
    assert [piece.place for piece in done.pieces] == [str(other.relative_to(results))]
    assert "changed meanwhile" in done.left[0]
    assert read_result(folder / "trial.json").status == "ok"


def test_rm_keeps_a_teacher_that_has_become_one(
    results: Path, write_trial: Writer, counted: Callable[..., None]
) -> None:
    counted("a trial becomes a teacher while rm asks")
    teacher = write_trial(results, "ce", 0, generation=0)
    shown = api.rm(teacher.name, results=results)
    student = write_trial(results, "ban", 0, teacher=teacher.name)
    done = carry_out(shown)
    assert done.pieces == ()
    assert student.name in done.left[0]
    both = api.rm(teacher.name, student.name, results=results)
    write_trial(results, "ban", 0, teacher=teacher.name, epochs_done=1)  # another record: it stays, and so must he
    done = carry_out(both)
    assert done.pieces == ()
    assert teacher.exists()
    assert student.exists()
    assert len(api.rm(teacher.name, student.name, results=results, dry_run=False).pieces) == 2


@pytest.mark.parametrize(
    ("old", "new"), [('"schema_version": 1', '"schema_version": 2'), ('"top1": 0.5', '"top1": 0.6')]
)
def test_rm_knows_no_trial_by_how_it_started(
    results: Path, write_trial: Writer, counted: Callable[..., None], old: str, new: str
) -> None:
    """A record of a newer sdbench, or a damaged one, beside a readable started.json: not an interrupted trial."""
    counted("rm of interrupted trials beside records that cannot be read")
    folder = write_trial(results, "ls", 0)
    started(folder, results)
    record = folder / "trial.json"
    record.write_text(record.read_text().replace(old, new))
    gone = write_trial(results, "ls", 1)
    started(gone, results)
    (gone / "trial.json").unlink()
    found = api.rm(status="interrupted", results=results, dry_run=False)
    assert [piece.place for piece in found.pieces] == [str(gone.relative_to(results))]
    assert "cannot be read" in found.left[0]
    assert record.exists()
    assert api.rm(folder.name, results=results, dry_run=False).pieces == ()
    assert record.exists()


def test_looks_beside_a_process_that_writes(results: Path, write_trial: Writer, counted: Callable[..., None]) -> None:
    counted("gc and rm look beside a process that writes", 40)
    folders = [write_trial(results, "ls", seed) for seed in range(10)]
    command = [sys.executable, "-c", WRITER, *map(str, folders)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"writing\n"
        try:
            for _ in range(20):
                assert sdbench("gc", "-n", "--results", results)[0] == 0
                assert sdbench("rm", "-m", "ls", "-n", "--results", results)[0] == 0
        finally:
            writer.kill()


def test_what_vanishes_while_it_is_looked_at(
    results: Path, write_trial: Writer, counted: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files go at the worst moment: between the listing of a folder and the look at them."""
    counted("files vanish while gc and rm look", 2)
    folder = write_trial(results, "ls", 0)
    checkpoint(folder)
    stat = Path.stat
    dying = {"epoch-000001.pt", ".curve.jsonl.k3_x9a0b.tmp", "network.safetensors"}

    def late(self: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        if self.name in dying:
            self.unlink(missing_ok=True)
        return stat(self, follow_symlinks=follow_symlinks)

    (folder / ".curve.jsonl.k3_x9a0b.tmp").write_text("x")
    monkeypatch.setattr(Path, "stat", late)
    assert sdbench("gc", "-n", "--results", results)[0] == 0
    (folder / "network.safetensors").write_text("x")
    assert sdbench("rm", "-m", "ls", "-n", "--results", results)[0] == 0
    assert not any((folder / name).exists() for name in dying - {"epoch-000001.pt"})


def test_the_trials_of_another_user(write_trial: Writer, counted: Callable[..., None]) -> None:
    """They are left alone with the reason; a folder that is closed hides no other."""
    if os.geteuid() != 0:
        pytest.skip("only root can be another user")
    counted("gc and rm on the results of another user", 4)
    with tempfile.TemporaryDirectory() as place:
        results = Path(place) / "results"
        ours, closed = write_trial(results, "ls", 0), write_trial(results, "ls", 1)
        for folder in (ours, closed):
            checkpoint(folder)
            (folder / ".lock").touch()
        for path in [Path(place), *results.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)
        closed.chmod(0o700)

        def look() -> None:
            for dry_run in (True, False):
                found = api.gc(results=results, dry_run=dry_run)
                assert found.pieces == (), found
                assert len(found.left) == 2, found
                assert "its lock cannot be opened (Permission denied)" in " ".join(found.left)
                found = api.rm(methods="ls", results=results, dry_run=dry_run)
                assert found.pieces == (), found
                assert "Permission denied" in " ".join(found.left)

        assert forked(look, NOBODY) == 0
        assert read_result(closed / "trial.json").status == "ok"


def test_looks_on_a_disk_that_cannot_be_written(
    small_world: Any, write_trial: Writer, disk: Callable[[str], Any], counted: Callable[..., None]
) -> None:
    counted("gc, rm and plan look at a read-only results folder", 5)
    with disk("4m") as place:
        root = place / "results"
        folder = write_trial(root, "ce", 0)
        checkpoint(folder)
        (folder / ".lock").touch()
        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
        for words in (("gc",), ("rm", "--methods", "ce")):
            code, out, err = sdbench(*words, "-n", "--results", root)
            assert (code, err) == (0, "")
            assert "1 piece(s)" in out
            code, out, err = sdbench(*words, "--yes", "--results", root)
            assert (code, err) == (1, "")
            assert "could not go" in out
            assert "Read-only" in out
        flags = {**small_world.flags(methods=["ls"], seeds=["0"]), "results": str(root)}
        assert api.preview(**flags).missing == 2
        assert folder.exists()


def test_what_cannot_go_stops_nothing_else(results: Path, write_trial: Writer, counted: Callable[..., None]) -> None:
    counted("gc where one piece cannot go")
    damaged = write_trial(results, "ce", 0) / "trial.json"
    damaged.write_text("{")
    kept = checkpoint(write_trial(results, "ls", 0))
    (results / "quarantine").write_text("a file")
    code, out, err = sdbench("gc", "--yes", "--results", results)
    assert (code, err) == (1, "")
    assert out.count("could not go: ") == 1
    assert "1 piece(s)" in out
    assert not kept.exists()
    assert damaged.read_text() == "{"


def test_kills_at_every_step_of_rm(results: Path, write_trial: Writer, counted: Callable[..., None]) -> None:
    """The trial is there whole, or not at all, and gc removes what was left."""
    tried = 0
    for step in range(1, 40):
        folder = write_trial(results, "ls", 0)
        (folder / ".lock").touch()
        (folder / "checkpoint").mkdir(exist_ok=True)
        names = sorted(path.name for path in folder.iterdir())

        def remove(last: int = step) -> None:
            steps = 0

            def hear(event: str, _: object) -> None:
                nonlocal steps
                if event in ("os.remove", "os.rmdir", "os.rename"):
                    steps += 1
                    if steps == last:
                        os.kill(os.getpid(), signal.SIGKILL)

            sys.addaudithook(hear)
            api.rm(methods="ls", results=results, dry_run=False)

        code = forked(remove)
        assert code in (0, -signal.SIGKILL)
        tried += 1
        if folder.exists():
            assert sorted(path.name for path in folder.iterdir()) == names
        else:
            assert Store(results).scan().results == ()
            assert api.validate(results).errors == ()
            api.gc(results=results, dry_run=False)
            assert list((results / "trials").glob(".*")) == []
        if code == 0:
            break
    assert tried > 5
    counted("kill -9 at a step of rm", tried)


def test_a_trial_that_begins_while_rm_deletes(results: Path, write_trial: Writer, counted: Callable[..., None]) -> None:
    """It gets a folder and a lock of its own, and nothing of it is deleted."""
    counted("a trial begins while rm deletes it")
    folder = write_trial(results, "ls", 0)
    (folder / ".lock").touch()
    code = """
import sys
from pathlib import Path
from sdbench.store import Store
folder = Path(sys.argv[2])
with Store(Path(sys.argv[1])).lock(folder, timeout=5):
    assert not (folder / "curve.jsonl").exists()
    (folder / "started.json").write_text("mine")
"""
    ended: list[int] = []

    def hear(event: str, _: object) -> None:
        if event == "os.remove" and not ended:
            ended.append(-1)
            ended[0] = subprocess.run([sys.executable, "-c", code, str(results), str(folder)]).returncode

    def remove() -> None:
        sys.addaudithook(hear)
        found = api.rm(methods="ls", results=results, dry_run=False)
        assert len(found.pieces) == 1
        assert ended == [0]

    assert forked(remove) == 0
    assert (folder / "started.json").read_text() == "mine"
    assert list((results / "trials").glob(".*")) == []
