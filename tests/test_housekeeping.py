"""``sdbench gc`` and ``sdbench rm`` against folders made by hand: what goes, what stays, and nothing outside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sdbench import api, attempts
from sdbench.cli import app
from sdbench.errors import UserError
from sdbench.housekeeping import litter
from sdbench.housekeeping_removal import carry_out
from sdbench.identity import method_source
from sdbench.protocol import PROTOCOLS
from sdbench.store import Store, read_result, write_atomic

Writer = Callable[..., Path]
HOLD = (
    "import sys, filelock\nwith filelock.FileLock(sys.argv[1]):\n    print('held', flush=True)\n    sys.stdin.read()\n"
)


def tree(root: Path) -> dict[str, bytes | str]:
    """Every file and link below a folder but locks, with its content or target."""
    paths = [p for p in sorted(root.rglob("*")) if p.name != ".lock" and (p.is_symlink() or p.is_file())]
    return {str(p.relative_to(root)): os.readlink(p) if p.is_symlink() else p.read_bytes() for p in paths}  # noqa: PTH115


def sdbench(*arguments: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, list(map(str, arguments)))
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout, done.stderr


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Another process has the trial's lock."""
    command = [sys.executable, "-c", HOLD, str(folder / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == b"held\n"
        try:
            yield
        finally:
            process.stdin.close()
            process.wait(60)


def checkpoint(folder: Path) -> Path:
    (folder / "checkpoint").mkdir()
    (folder / "checkpoint" / "epoch-000001.pt").write_bytes(b"x" * 1000)
    return folder / "checkpoint"


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "results"


def test_what_goes_and_what_stays(results: Path, write_trial: Writer) -> None:
    done, failed = write_trial(results, "ce", 0), write_trial(results, "ls", 0, status="timeout", metrics=None)
    going, kept = checkpoint(done), checkpoint(failed)
    temporary = done / ".trial.json.k3_x9a0b.tmp"
    temporary.write_bytes(b"12345")
    damaged = write_trial(results, "ls", 1) / "trial.json"
    damaged.write_text(damaged.read_text().replace('"top1": 0.5', '"top1": 0.9'))
    aside = done / "trial.json.damaged-1"
    aside.write_text("{")
    newer = write_trial(results, "ls", 2) / "trial.json"
    newer.write_text(newer.read_text().replace('"schema_version": 1', '"schema_version": 99'))
    before, others = tree(results), {"curve.jsonl", "logits.safetensors"}

    code, out, _ = sdbench("gc", "--dry-run", "--results", results)
    assert code == 0
    assert "4 piece(s)" in out
    assert tree(results) == before
    looked = api.gc(results=results)
    assert {piece.kind: piece.bytes for piece in looked.pieces if piece.kind != "damaged"} == {
        "checkpoint": 1000, "temporary": 5,
    }  # fmt: skip
    assert looked.bytes == 1005
    assert json.loads(sdbench("gc", "-n", "--json", "--results", results)[1]) == json.loads(looked.model_dump_json())

    code, out, err = sdbench("gc", "--results", results)  # nobody to ask
    assert code == 2
    assert "--yes" in err
    assert tree(results) == before

    code, out, _ = sdbench("gc", "--yes", "--results", results)
    assert code == 0
    assert "4 piece(s), 0.0 MiB freed" in out
    after = tree(results)
    moved = {f"quarantine/{path.relative_to(results)}": path for path in (damaged, aside)}
    gone = {str(p.relative_to(results)) for p in (going / "epoch-000001.pt", temporary, *moved.values())}
    assert after.keys() == (before.keys() - gone) | moved.keys()
    assert all(after[name] == before[name] for name in after if name in before)
    assert all(after[new] == before[str(old.relative_to(results))] for new, old in moved.items())
    assert kept.exists()
    assert {path.name for path in damaged.parent.iterdir()} == others
    assert sdbench("gc", "--yes", "--results", results)[1].startswith("0 piece(s)")
    damaged.write_text("{")  # damaged again: neither of the two is lost
    api.gc(results=results, dry_run=False)
    assert sorted(p.name for p in (results / "quarantine").rglob("trial.json*") if "damaged" not in p.name) == [
        "trial.json", "trial.json-1",
    ]  # fmt: skip


def test_a_trial_at_work_is_left_alone(results: Path, write_trial: Writer) -> None:
    folder = write_trial(results, "ce", 0)
    checkpoint(folder)
    with held(folder):
        before = tree(results)
        for verb in (("gc",), ("rm", "--methods", "ce")):
            code, out, _ = sdbench(*verb, "--yes", "--results", results)
            assert code == 0
            assert "a process works on it" in out
            assert tree(results) == before
    found = litter(results)
    assert len(found.pieces) == 1
    with held(folder):  # it began after we looked
        done = carry_out(found)
        assert done.pieces == ()
        assert tree(results) == before
    assert len(carry_out(found).pieces) == 1


def test_what_changed_after_the_look_stays(results: Path, write_trial: Writer) -> None:
    folder = write_trial(results, "ce", 0)
    checkpoint(folder)
    broken = write_trial(results, "ls", 0) / "trial.json"
    good = broken.read_text()
    broken.write_text("{")
    found = litter(results)
    write_trial(results, "ce", 0, status="interrupted", metrics=None)  # it runs again and was stopped
    write_atomic(broken, good)
    done = carry_out(found)
    assert done.pieces == ()
    assert len(done.left) == 2
    assert (folder / "checkpoint").exists()
    assert broken.exists()


def test_links_are_neither_followed_nor_removed(results: Path, tmp_path: Path, write_trial: Writer) -> None:
    outside = write_trial(tmp_path / "elsewhere", "ce", 0)
    checkpoint(outside)
    inside = write_trial(results, "ce", 1)
    (inside / "checkpoint").symlink_to(outside / "checkpoint")
    (inside / ".x.k3_x9a0b.tmp").symlink_to(outside / "trial.json")
    (inside / "trial.json.damaged-1").symlink_to(outside / "trial.json")
    (results / "trials" / "linked").symlink_to(outside.parents[2])
    (inside.parent / "deadbeef").symlink_to(outside)
    whole = write_trial(results, "ls", 1)
    (whole / "deep").mkdir()
    (whole / "deep" / "link").symlink_to(outside)
    before = tree(tmp_path)
    found = api.gc(results=results, dry_run=False)
    assert found.pieces == ()
    assert tree(tmp_path) == before
    assert sum("a link" in line for line in found.left) == 2
    api.rm(methods="ls", results=results, dry_run=False)
    assert not whole.exists()
    assert tree(tmp_path / "elsewhere") == {
        name.removeprefix("elsewhere/"): content for name, content in before.items() if name.startswith("elsewhere/")
    }
    # a quarantine that leads away is refused, and one that becomes a link after the look as well
    (inside / "trial.json").write_text("{")
    (results / "quarantine").symlink_to(tmp_path / "elsewhere")
    code, out, _ = sdbench("gc", "--yes", "--results", results)
    assert code == 1
    assert "could not go" in out
    assert "link" in out
    assert (inside / "trial.json").read_text() == "{"


def test_a_folder_that_becomes_a_link_after_the_look(results: Path, tmp_path: Path, write_trial: Writer) -> None:
    outside, inside = write_trial(tmp_path / "elsewhere", "ce", 0), write_trial(results, "ce", 0)
    checkpoint(outside)
    checkpoint(inside)
    found = litter(results)
    (inside.parent).rename(results / "moved")
    inside.parent.symlink_to(outside.parent)
    assert carry_out(found).pieces == ()
    assert (outside / "checkpoint").exists()


def test_stale_trials_go_once_they_are_superseded(results: Path, write_trial: Writer) -> None:
    store = Store(results)

    def made(seed: int, source: str, version: str = PROTOCOLS["demo"].version, **changes: Any) -> Path:
        folder = write_trial(results, "ls", seed, **changes)
        record = read_result(folder / "trial.json")
        identity = {"method_source": source, "data_fingerprint": "f", "protocol_version": version}
        changed = {"identity": identity, "trial_id": f"{source[:6]}{version}{seed}", **changes}
        record = type(record).model_validate({**record.model_dump(), **changed})
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
        store.write(record)
        return store.folder(record.spec, record.trial_id)

    today = method_source("ls")
    old, new = made(0, "older"), made(0, today)
    alone = made(1, "older")
    failed_after = made(2, "older")
    made(2, today, status="failed", metrics=None)
    by_rules = made(3, today, version="0")
    made(3, today)
    unknown = write_trial(results, "method_of_a_plugin", 0)
    assert api.gc(results=results).pieces == ()
    found = api.gc(results=results, stale=True, dry_run=False)
    assert {piece.place for piece in found.pieces} == {str(f.relative_to(results)) for f in (old, by_rules)}
    assert not old.exists()
    assert all(folder.exists() for folder in (new, alone, failed_after, unknown))


def test_rm_by_name_and_by_kind(results: Path, write_trial: Writer) -> None:
    ce = [write_trial(results, "ce", seed) for seed in range(2)]
    ls = [write_trial(results, "ls", seed, status=s, metrics=None) for seed, s in ((0, "oom"), (1, "nan"))]
    code, out, _ = sdbench("rm", ce[0].name[:6], "--yes", "--results", results)
    assert code == 0
    assert not ce[0].exists()
    assert "1 piece(s)" in out
    looked = api.rm(status=["oom", "nan"], results=results)
    assert {piece.place for piece in looked.pieces} == {str(f.relative_to(results)) for f in ls}
    assert all(folder.exists() for folder in ls)
    api.rm(status="oom", methods="*", results=results, dry_run=False)
    assert [f.exists() for f in (*ls, ce[1])] == [False, True, True]
    api.rm(methods="ls", results=results, dry_run=False)
    assert not ls[1].parent.exists()  # nothing is left of the method
    assert ce[1].exists()  # the baseline is no part of --methods ls
    api.rm(methods="c*", results=results, dry_run=False)
    assert list((results / "trials").iterdir()) == []


def test_a_teacher_stays_with_its_student(results: Path, write_trial: Writer) -> None:
    teacher = write_trial(results, "ce", 0, generation=0)
    student = write_trial(results, "ban", 0, teacher=teacher.name)
    found = api.rm(teacher.name, results=results, dry_run=False)
    assert found.pieces == ()
    assert student.name in found.left[0]
    assert len(api.rm(teacher.name, student.name, results=results, dry_run=False).pieces) == 2


def test_mistakes_are_named_together(results: Path, write_trial: Writer) -> None:
    folder = write_trial(results, "ce", 0)
    for arguments, parts in (
        ((), ["name trials"]),
        (("zzzzzz", "ab", "--status", "okay"), ["'zzzzzz'", "too short", "did you mean 'ok'", "together"]),
    ):
        code, out, err = sdbench("rm", *arguments, "--yes", "--results", results)
        assert (code, out) == (2, "")
        assert all(part in err for part in parts), err
    with pytest.raises(UserError, match="no results folder"):
        api.gc(results=results / "nowhere")
    assert folder.exists()


def test_leftovers_of_kills_wherever_they_lie(results: Path, write_trial: Writer) -> None:
    """As ``write_atomic`` names them, in every folder that the product writes to, tuning studies included."""
    stopped = write_trial(results, "ls", 0, status="interrupted", metrics=None)
    study = results / "tuning" / "0123456789abcdef"
    tried = write_trial(study, "ls", 0)
    checkpoint(tried)
    broken = write_trial(study, "ls", 1) / "trial.json"
    broken.write_text("{")
    homes = {
        stopped / "checkpoint": "epoch-000003.pt", stopped / "epoch_logits": "epoch-0001.safetensors",
        tried / "checkpoint": "epoch-000002.pt", study: "study.json", results: "leaderboard.md",
        results / "profiles" / "d" / "n" / "id": "profile.json", results / "budgets": "0123.json",
    }  # fmt: skip
    left = []
    for folder, name in homes.items():
        folder.mkdir(parents=True, exist_ok=True)
        left.append(folder / f".{name}.k3_x9a0b.tmp")
        left[-1].write_bytes(b"x" * 10)
    young = [path for path in left if path.parent in (study, results, results / "budgets") or "profiles" in path.parts]
    others = results / "published" / ".x.k3_x9a0b.tmp"  # no folder of the product's
    others.parent.mkdir()
    others.write_text("x")
    before = tree(results)
    with held(stopped):
        found = api.gc(results=results, dry_run=False)
    gone = {*(set(left) - set(young) - {p for p in left if p.is_relative_to(stopped)}), broken}
    gone.add(tried / "checkpoint" / "epoch-000001.pt")
    assert before.keys() - tree(results).keys() == {str(path.relative_to(results)) for path in gone}
    assert (results / "quarantine" / broken.relative_to(results)).read_text() == "{"
    assert any(stopped.name in line and "works on it" in line for line in found.left)
    for path in left:
        if path.exists():
            os.utime(path, (0, 0))
    api.gc(results=results, dry_run=False)
    assert [path for path in left if path.exists()] == []
    assert others.exists()
    assert (stopped / "checkpoint").is_dir()


def test_checkpoints_of_failed_trials_go_only_if_asked(results: Path, write_trial: Writer) -> None:
    failed = {s: write_trial(results, "ls", n, status=s, metrics=None) for n, s in enumerate(("failed", "oom"))}
    full = write_trial(results, "ls", 5, status="failed", metrics=None, resumable=True)
    nan = write_trial(results, "ls", 6, status="nan", metrics=None)
    stopped = write_trial(results, "ls", 7, status="interrupted", metrics=None)
    every = {folder: checkpoint(folder) for folder in (*failed.values(), full, nan, stopped)}
    api.gc(results=results, stale=True, dry_run=False)
    assert {folder for folder, kept in every.items() if not kept.exists()} == {nan}
    code, out, _ = sdbench("gc", "--failed", "--yes", "--results", results)
    assert code == 0
    assert "of a trial that ended as oom" in out
    assert {folder for folder, kept in every.items() if kept.exists()} == {full, stopped}


def test_attempts_to_run_a_trial_again(results: Path, write_trial: Writer) -> None:
    """One that was broken off stays with its rows, one that failed goes only if asked, one on another record goes."""
    folders = [write_trial(results, "ls", seed) for seed in range(3)]
    records = [read_result(folder / "trial.json") for folder in folders]
    for folder, record in zip(folders, records, strict=True):
        attempts.begin(folder, record)
        for name in ("again/checkpoint", "state"):
            (folder / name).mkdir()
            (folder / name / "part").write_text("rows")
    begun, failed, other = folders
    attempts.fail(failed, records[1], records[1].model_copy(update={"status": "oom", "metrics": None}))
    (other / "again" / "of.txt").write_text("1999-12-31T23:59:59+00:00\n")

    def kept() -> list[list[bool]]:
        return [[(folder / name).exists() for name in ("again", "state", "trial.json")] for folder in folders]

    api.gc(results=results, dry_run=False)
    assert kept() == [[True, True, True], [True, True, True], [False, False, True]]
    found = api.gc(results=results, failed=True, dry_run=False)
    assert kept() == [[True, True, True], [False, False, True], [False, False, True]]
    assert any("being run again" in line and begun.name in line for line in found.left)


def test_a_teacher_of_an_interrupted_student_is_not_stale(results: Path, write_trial: Writer) -> None:
    today, store = method_source("ls"), Store(results)
    folder = write_trial(results, "ls", 0)
    record = read_result(folder / "trial.json")
    version = PROTOCOLS["demo"].version
    for source in ("older", today):
        identity = {"method_source": source, "data_fingerprint": "f", "protocol_version": version}
        store.write(type(record).model_validate({**record.model_dump(), "identity": identity, "trial_id": source[:6]}))
    student = write_trial(results, "ban", 0, teacher="older", status="interrupted", metrics=None)
    (student / "trial.json").rename(student / "started.json")
    places = {Path(piece.place).name for piece in api.gc(results=results, stale=True).pieces}
    assert "older" not in places
    (student / "started.json").unlink()
    assert "older" in {Path(piece.place).name for piece in api.gc(results=results, stale=True).pieces}
