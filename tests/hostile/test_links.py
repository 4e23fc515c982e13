"""Links in a results folder that lead out of it: nothing is written, emptied or deleted through them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from sdbench import kept
from sdbench.errors import EnvironmentProblem
from sdbench.spec import TrialResult
from sdbench.store import Store, read_result

from .conftest import tree

Sdbench = Callable[..., tuple[int, str, str]]


@pytest.fixture
def record(folders: list[Path]) -> TrialResult:
    return read_result(folders[0] / "trial.json")


@pytest.mark.parametrize("level", range(4))
def test_a_folder_that_is_a_link_is_not_written_into(
    results: Path, folders: list[Path], record: TrialResult, outside: Path, level: int
) -> None:
    """The trial's own, its method's, its network's, its data set's."""
    place = [folders[0], *folders[0].parents][level]
    shutil.rmtree(place)
    place.symlink_to(outside / "deep")
    before = tree(outside)
    for write in (lambda s: s.lock(s.folder(record.spec, record.trial_id)), lambda s: s.write(record)):
        with pytest.raises(EnvironmentProblem, match="link"):
            write(Store(results))
    assert tree(outside) == before


@pytest.mark.parametrize("name", ["checkpoint", "state", "epoch_logits", ".lock"])
def test_what_is_written_beside_a_record_is_no_link(
    results: Path, folders: list[Path], record: TrialResult, outside: Path, name: str
) -> None:
    path = folders[0] / name
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.symlink_to(outside / "precious.txt" if name == ".lock" else outside)
    before = tree(outside)
    store = Store(results)
    with pytest.raises(EnvironmentProblem, match="link"):
        store.lock(store.folder(record.spec, record.trial_id)).acquire()
    kept.cut_back(folders[0], 0)
    assert kept.epoch_files(folders[0]) == {}
    assert tree(outside) == before


def test_boards_take_a_links_place(results: Path, outside: Path, sdbench: Sdbench) -> None:
    """A board's file is replaced, not written through."""
    for suffix in ("md", "csv", "tex", "html", "json"):
        (results / f"leaderboard.{suffix}").symlink_to(outside / "precious.txt")
    (results / "report.html").symlink_to(outside / "precious.txt")
    before = tree(outside)
    assert sdbench("leaderboard", "--results", results)[0] == 0
    assert sdbench("report", "--results", results)[0] == 0
    assert tree(outside) == before
    assert not (results / "leaderboard.md").is_symlink()


@pytest.mark.parametrize("name", ["trial.json", "curve.jsonl", "network.safetensors", "checkpoint", ".lock", "log.txt"])
def test_merge_and_validate_follow_no_link(
    results: Path, folders: list[Path], outside: Path, name: str, sdbench: Sdbench
) -> None:
    path = folders[0] / name
    path.unlink(missing_ok=True)
    path.symlink_to(outside if name == "checkpoint" else outside / "precious.txt")
    before, inside = tree(outside), tree(results)
    into = outside.parent / "into"
    sdbench("merge", results, "--into", into)
    sdbench("validate", results)
    sdbench("merge", into, "--into", results)
    assert tree(outside) == before
    after = {k: v for k, v in tree(results / "trials").items() if not k.endswith("/.lock") or k in inside}
    assert after == {k: v for k, v in inside.items() if "/trials/" in k}, "but for the locks that merging takes"
    assert not any(p.is_symlink() for p in into.rglob("*"))
    assert "keep me" not in "".join(p.read_text() for p in into.rglob("*") if p.is_file() and p.suffix == ".json")


def test_a_merge_into_links_is_refused(results: Path, outside: Path, sdbench: Sdbench) -> None:
    into = outside.parent / "into"
    (into / "trials").mkdir(parents=True)
    (into / "trials" / "glyphs").symlink_to(outside)
    before = tree(outside)
    code, out, _ = sdbench("merge", results, "--into", into)
    assert code == 1
    assert "link" in out
    assert tree(outside) == before
