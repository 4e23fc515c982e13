"""Paths that no file can have, or that may not be looked at: every command answers in words, exit code 2 or 3."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sdbench.cli_options import answers
from sdbench.errors import EnvironmentProblem, UserError
from sdbench.paths import path_of

Sdbench = Callable[..., tuple[int, str, str]]

SOUND = Path(__file__).resolve().parents[1] / "records" / "with-temperature"
LONG = "a" * 300
ODD = ("~nosuchuser-of-this-machine/x", LONG, f"{LONG}/x")
COMMANDS = {
    "leaderboard": ("leaderboard", "-o", "PATH"),
    "show": ("show", "a3", "-o", "PATH"),
    "list": ("list", "runs", "-o", "PATH"),
    "validate": ("validate", "PATH"),
    "validate-against": ("validate", "SOUND", "--against", "PATH"),
    "merge": ("merge", "PATH", "--into", "OTHER"),
    "merge-into": ("merge", "SOUND", "--into", "PATH"),
    "doctor": ("doctor", "-o", "PATH"),
    "doctor-data": ("doctor", "--data-dir", "PATH"),
    "report": ("report", "-o", "PATH"),
    "report-output": ("report", "-o", "SOUND", "--output", "PATH.html"),
    "export": ("export", "-o", "PATH", "--output", "OTHER.zip"),
    "export-output": ("export", "-o", "SOUND", "--output", "PATH.zip"),
    "run": ("run", "-n", "-o", "PATH"),
    "run-plugin": ("run", "-n", "-o", "OTHER", "--plugin", "PATH"),
    "run-folder": ("run", "-n", "-o", "OTHER", "--dataset", "folder:PATH"),
    "run-data": ("run", "-n", "-o", "OTHER", "--dataset", "cifar10", "--data-dir", "PATH"),
    "run-config": ("run", "-n", "-o", "OTHER", "--config", "PATH"),
    "run-configured": ("run", "-n", "--config", "CONFIG"),
    "tune": ("tune", "-n", "--methods", "ce", "-o", "PATH"),
    "distill": ("distill", "-n", "--teachers", "ce", "-o", "PATH"),
    "gc": ("gc", "--dry-run", "-o", "PATH"),
    "rm": ("rm", "--dry-run", "--methods", "ce", "-o", "PATH"),
    "rescore": ("rescore", "-o", "PATH"),
    "compare": ("compare", "ce", "ls", "-o", "PATH"),
    "plot": ("plot", "pareto", "-o", "PATH", "--output", "OTHER.svg"),
    "plot-output": ("plot", "pareto", "-o", "SOUND", "--output", "PATH.svg"),
    "analyze": ("analyze", "-o", "PATH"),
    "prepare": ("prepare", "folder:PATH"),
    "prepare-data": ("prepare", "cifar10", "--data-dir", "PATH"),
    "claims": ("claims", "--no-measure", "-o", "PATH"),
    "profile": ("profile", "-o", "PATH"),
    "new-method": ("new-method", "mine", "--directory", "PATH"),
    "init": ("init", "PATH"),
}


@pytest.fixture
def closed() -> Iterator[Path]:
    """A place in a folder into which this user may not look, whoever runs the tests."""
    root = os.geteuid() == 0
    with tempfile.TemporaryDirectory() as place:  # not below pytest's own, which is root's alone
        folder = Path(place) / "closed"
        (folder / "x").mkdir(parents=True)
        shutil.copytree(SOUND, Path(place) / "results")
        Path(place).chmod(0o777)
        folder.chmod(0o700 if root else 0)
        if root:
            os.seteuid(65534)
        try:
            yield folder / "x"
        finally:
            if root:
                os.seteuid(0)
            folder.chmod(0o700)


def typed(words: tuple[str, ...], path: str, results: Path, folder: Path) -> list[str]:
    (folder / "asked.toml").write_text(f'results = "{path}"\n')
    places = {"SOUND": str(results), "OTHER": str(folder / "other"), "CONFIG": str(folder / "asked.toml"), "PATH": path}
    for name, place in places.items():
        words = tuple(word.replace(name, place) for word in words)
    return list(words)


@pytest.mark.parametrize("path", ODD, ids=("user", "long", "below-long"))
@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
def test_a_path_that_can_be_none(
    words: tuple[str, ...], path: str, results: Path, tmp_path: Path, sdbench: Sdbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = sdbench(*typed(words, path, results, tmp_path))
    assert code == 2, out + err
    assert err.startswith("error: "), err
    assert path[:20] in err
    assert ";" in err, "what to type next"
    assert not list(tmp_path.glob("~*"))


@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
def test_a_path_that_may_not_be_looked_at(
    words: tuple[str, ...], closed: Path, sdbench: Sdbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = closed.parent.parent
    monkeypatch.chdir(folder)
    code, out, err = sdbench(*typed(words, str(closed), folder / "results", folder))
    assert code == 2, out + err
    assert err.startswith("error: ")
    assert "Permission denied" in err


def test_a_results_folder_that_may_not_be_entered(closed: Path, sdbench: Sdbench) -> None:
    """It can be seen, what is in it cannot: the machine's answer, exit code 3."""
    for words in (("leaderboard", "-o"), ("gc", "--dry-run", "-o"), ("validate",)):
        code, _, err = sdbench(*words, closed.parent)
        assert code in (2, 3)
        assert err.startswith("error: ")


def test_every_error_of_the_machine_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    for error, expected in (
        (PermissionError(13, "Permission denied", "/x"), "error: /x: Permission denied; mend its rights"),
        (OSError(36, "File name too long", "/x"), "error: /x: File name too long; look at"),
        (OSError(28, "No space left on device"), "error: cannot write: No space left on device; make room"),
        (OSError(30, "Read-only file system", "/x"), "error: cannot write /x: Read-only file system; make room"),
        (ConnectionRefusedError("nobody listens"), "error: nobody listens; look at"),
    ):
        with pytest.raises(BaseException) as left, answers():  # noqa: PT011  typer's own
            raise error
        assert getattr(left.value, "exit_code", None) == 3
        assert capsys.readouterr().err.startswith(expected)


def test_what_is_not_there_yet_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert path_of("~/new/deep") == tmp_path / "new" / "deep"
    (tmp_path / "file").write_text("")
    assert path_of(tmp_path / "file" / "below") == tmp_path / "file" / "below"
    (tmp_path / "loop").symlink_to("loop")
    assert path_of(tmp_path / "loop") == tmp_path / "loop"
    for odd in (tmp_path / "loop" / "below", tmp_path / "a\0b"):
        with pytest.raises(UserError) as found:
            path_of(odd)
        assert not isinstance(found.value, EnvironmentProblem)
