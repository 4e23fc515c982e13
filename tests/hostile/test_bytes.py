"""Names of files that are not UTF-8: shown and written as they are, or refused in words before any work."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

Sdbench = Callable[..., tuple[int, str, str]]
ODD = os.fsdecode(b"\xff")


@pytest.fixture
def odd(results: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The results folder under a name that is not UTF-8."""
    try:
        results.rename(results.with_name(ODD))
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    monkeypatch.chdir(results.parent)
    return ODD


def test_what_trials_would_be_told_is_refused_before_any_work(odd: str, sdbench: Sdbench) -> None:
    (Path(odd) / "mine.py").write_text("raise SystemExit")
    before = sorted(Path(odd).iterdir())
    for words in (
        ("run", "--methods", "ce", "-o", odd),
        ("run", "-n", "--data-dir", odd, "-o", "new"),
        ("run", "-n", "--plugin", f"{odd}/mine.py", "-o", "new"),
        ("tune", "-n", "--methods", "ce", "-o", odd),
        ("distill", "-n", "--teachers", "ce", "-o", odd),
        ("profile", "--methods", "ls", "--data-dir", odd, "-o", "new"),
    ):
        code, out, err = sdbench(*words)
        assert code == 2, (words, out, err)
        assert "UTF-8" in err
    assert sorted(Path(odd).iterdir()) == before
    assert not Path("new").exists()


def test_so_is_a_folder_above(odd: str, sdbench: Sdbench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(odd)
    code, _, err = sdbench("run", "--methods", "ce", "-o", "below")
    assert code == 2
    assert "not UTF-8" in err


def test_what_is_written_there_is_told_as_json(odd: str, tmp_path: Path, sdbench: Sdbench) -> None:
    (tmp_path / "made").mkdir()
    made = f"made/{odd}"
    for words, key in (
        (("report", "-o", odd, "--output", f"{made}.html"), "output"),
        (("plot", "cost", "-o", odd, "--output", f"{made}.svg"), "output"),
        (("export", "-o", odd, "--output", f"{made}.zip"), "file"),
    ):
        code, out, err = sdbench(*words, "--json")
        if words[0] == "plot" and code == 2:
            assert "nothing" in err or "no " in err
            continue
        assert code == 0, err
        assert ODD in json.loads(out)[key] or "\\xff" in json.loads(out)[key]
    Path(made).mkdir()
    code, out, err = sdbench("new-method", "mine", "--directory", made, "--tests", made, "--json")
    assert code == 0, err
    assert json.loads(out)["name"] == "mine"
    assert (Path(made) / "mine.py").is_file()


def test_what_is_removed_and_validated_is_told_as_json(odd: str, sdbench: Sdbench) -> None:
    shutil.copytree(min(Path(odd).glob("trials/*/*/*/*")), f"{odd}/trials/{ODD}/x/y/z")
    for words in (
        ("gc", "--dry-run", "-o", odd),
        ("rm", "--methods", "ce", "--dry-run", "-o", odd),
        ("rescore", "-o", odd),
        ("leaderboard", "-o", odd),
        ("list", "runs", "-o", odd),
        ("validate", odd),
        ("merge", odd, "--into", "merged"),
    ):
        code, out, err = sdbench(*words, *(["--json"] if words[0] != "leaderboard" else ["--format", "json"]))
        assert code in (0, 1, 4), (words, err)
        json.loads(out)
