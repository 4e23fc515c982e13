"""A sound results folder, what a tree of files looks like from outside, and children with a bound on their memory."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sdbench.cli import app
from sdbench.spec import TrialResult
from sdbench.store import Store, seal

ROOT = Path(__file__).resolve().parents[2]
GIB = 2**30
PATIENCE_S = 300
"""Far above what anything here takes; what never ends is found all the same."""

HOSTILE_TEXTS = (
    "<script>document.title='owned'</script>",
    "\x1b[31m\x1b]0;owned\x07\x9b2J",
    "\u202egnp.exe\u2066",
    "../../../../owned",
    "/etc/owned",
    "null\x00byte",
    "=cmd|' /C calc'!A0",
    "+1+1", "-2", "@SUM(A1)", "\t=1", "\r=1", "a\nb\r\nc|d",
    r"\input{/etc/passwd}$\immediate\write18{touch owned}%&#_^~",
    "__import__('os').system('touch owned')",
    "[x](javascript:alert(1)) `${7*7}` {{7*7}} {% raw %}",
    "x" * 200_000,
)  # fmt: skip

Tree = dict[str, tuple[int, str]]


def tree(*roots: Path) -> Tree:
    """Every entry below some folders: its mode, and its content's hash or where it leads. Nothing is followed."""
    found: Tree = {}
    for root in roots:
        for place, folders, files in os.walk(root):
            for name in (*folders, *files):
                path = Path(place) / name
                status = path.lstat()
                what = os.readlink(path) if stat.S_ISLNK(status.st_mode) else ""  # noqa: PTH115
                if stat.S_ISREG(status.st_mode) and status.st_size < 2**24:
                    what = hashlib.sha256(path.read_bytes()).hexdigest()
                found[str(path)] = (status.st_mode, what)
    return found


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """What lies beside the results folder and must stay as it is."""
    folder = tmp_path / "outside"
    (folder / "deep").mkdir(parents=True)
    (folder / "precious.txt").write_text("keep me\n")
    (folder / "epoch-000001.pt").write_text("keep me\n")
    (folder / "epoch-0009.safetensors").write_text("keep me\n")
    return folder


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Two finished trials."""
    folder = tmp_path / "results"
    shutil.copytree(ROOT / "tests" / "records" / "with-temperature", folder)
    return folder


@pytest.fixture
def folders(results: Path) -> list[Path]:
    """The trials' folders."""
    return sorted(path.parent for path in results.glob("trials/*/*/*/*/trial.json"))


@pytest.fixture
def forge(results: Path) -> Callable[..., Path]:
    """``forge(change)`` writes a changed copy of a finished trial, sealed, where it belongs; returns its folder."""

    def make(change: Callable[[dict[str, Any]], None], place: str | None = None) -> Path:
        source = min((ROOT / "tests" / "records" / "with-temperature").glob("trials/*/*/*/*/trial.json"))
        content = json.loads(source.read_text())
        content["checksums"] = {}
        change(content)
        record = TrialResult.model_validate(content)
        folder = results / place if place else Store(results).folder(record.spec, record.trial_id)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "trial.json").write_text(seal(record))
        return folder

    return make


@pytest.fixture
def sdbench() -> Callable[..., tuple[int, str, str]]:
    """``sdbench("show", "x")``: exit code, standard output, standard error. An exception that gets out is raised."""

    def call(*words: object) -> tuple[int, str, str]:
        done = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
        return done.exit_code, done.stdout, done.stderr

    return call


@pytest.fixture
def bounded(tmp_path: Path) -> Callable[..., str]:
    """``bounded(code, *arguments)`` runs Python in a child that may grow by ``room`` bytes once it has imported what
    ``ready`` says, and returns what it prints. The child may open nothing without an answer for long."""

    def call(code: str, *arguments: object, ready: str = "pass", room: int = GIB) -> str:
        peak = "next(int(l.split()[1]) for l in open('/proc/self/status') if l.startswith('VmHWM'))"
        script = f"import sys\n{ready}\nbefore = {peak}\n{code}\nassert {peak} - before < {room // 1024}, 'memory'\n"
        done = subprocess.run(
            [sys.executable, "-c", script, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    return call


@pytest.fixture
def odd_file(tmp_path: Path) -> Callable[[Path, str], None]:
    """``odd_file(path, kind)`` puts something in the place of a file: a kind of ``ODD_FILES``."""

    def put(path: Path, kind: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        if kind == "fifo":
            os.mkfifo(path)
        elif kind in ("/dev/zero", "/etc/passwd"):
            path.symlink_to(kind)
        elif kind == "loop":
            path.symlink_to(path.name)
        elif kind == "folder":
            path.mkdir()
        else:
            assert kind == "sparse"
            with path.open("wb") as file:
                file.truncate(2**37)

    return put


ODD_FILES = ("fifo", "/dev/zero", "/etc/passwd", "loop", "folder", "sparse")
