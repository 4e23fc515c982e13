"""The files of a new method work untouched: checked, tested, linted and typed; what is refused writes nothing."""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sdbench import registry
from sdbench.checks import CHECKS, run_checks

ROOT = Path(__file__).resolve().parent.parent
TOOL = ROOT / "tools" / "new_method.py"
KINDS = sorted(path.name for path in (ROOT / "sdbench" / "templates").iterdir())
LONGEST = {kind: (kind + 32 * "_x")[:64] for kind in KINDS}
ODD = ("batch", "none", "a")
"""Such as would be an imported class, a keyword, and next to nothing."""


def command(*arguments: str | Path, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    """Without the current folder on the path, so that ``sdbench`` is the installed one."""
    line, known = [sys.executable, "-P", *map(str, arguments)], {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(line, capture_output=True, text=True, check=False, cwd=cwd, env=known)


def new_method(*arguments: str | Path) -> int:
    """The tool's exit status, in this process."""
    try:
        runpy.run_path(str(TOOL))["main"]([str(argument) for argument in arguments])
    except SystemExit as left:
        return left.code if isinstance(left.code, int) else 1
    return 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder laid out as the repository is, with a method of each kind and each odd name as plug-ins."""
    made = tmp_path_factory.mktemp("outside")
    (made / "tests").mkdir()
    shutil.copy(ROOT / "pyproject.toml", made)
    (made / "sdbench").symlink_to(ROOT / "sdbench")  # where ruff looks for what is first-party
    for kind in KINDS:
        for name in (f"new_{kind}", LONGEST[kind]):
            assert new_method(name, "--kind", kind, "--directory", made, "--tests", made / "tests") == 0
    for name in ODD:
        assert new_method(name, "--directory", made, "--tests", made / "tests") == 0
    return made


@pytest.mark.usefixtures("own_registry")
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_passes_the_checks_untouched(kind: str, folder: Path) -> None:
    registry.load_plugin(folder / f"new_{kind}.py")
    assert registry.get(f"new_{kind}").neutral
    findings = run_checks(f"new_{kind}", quick=True)
    assert [f"{f.check}: {f.message}" for f in findings if not f.passed] == []
    assert [f.check for f in findings] == [check.name for check in CHECKS]


def test_the_tests_pass_untouched(folder: Path) -> None:
    done = command("-m", "pytest", "-q", "-p", "no:cacheprovider", folder / "tests", cwd=folder)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_the_tests_notice_another_formula(folder: Path, tmp_path: Path) -> None:
    """A factor in what the first function returns fails the case by hand of each kind."""
    (tmp_path / "tests").mkdir()
    for kind in KINDS:
        shutil.copy(folder / "tests" / f"test_new_{kind}.py", tmp_path / "tests")
        before, returned, after = (folder / f"new_{kind}.py").read_text().partition("    return ")
        (tmp_path / f"new_{kind}.py").write_text(f"{before}{returned}1.01 * {after}")
    done = command("-m", "pytest", "-q", "-p", "no:cacheprovider", "-rf", tmp_path / "tests", cwd=tmp_path)
    for kind in KINDS:
        assert f"FAILED tests/test_new_{kind}.py::test_by_hand" in done.stdout
        assert f"FAILED tests/test_new_{kind}.py::test_gradient_by_hand" in done.stdout


def test_they_are_clean_and_formatted(folder: Path) -> None:
    files = [*folder.glob("*.py"), *folder.glob("tests/*.py")]
    assert len(files) == 2 * (2 * len(KINDS) + len(ODD))
    for check in (["check"], ["format", "--check"]):
        done = command("-m", "ruff", *check, "--no-cache", *files, cwd=folder)
        assert done.returncode == 0, done.stdout


def test_they_are_strictly_typed(folder: Path) -> None:
    done = command("-m", "mypy", *folder.glob("*.py"))
    assert done.returncode == 0, done.stdout


def test_in_a_checkout(tmp_path: Path) -> None:
    """Without a folder named, the files go to ``methods/`` and ``tests/methods/``, and nothing else is edited."""
    checkout, path = tmp_path / "checkout", tmp_path / "path" / "sdbench"
    for name in ("methods", "tools"):
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    (checkout / "tests" / "methods").mkdir(parents=True)
    shutil.copy(ROOT / "pyproject.toml", checkout)
    (checkout / "sdbench").symlink_to(ROOT / "sdbench")
    path.mkdir(parents=True)
    for entry in [*ROOT.glob("sdbench/[!_]*"), ROOT / "sdbench" / "__init__.py", checkout / "methods"]:
        (path / entry.name).symlink_to(entry)
    before = {file: file.read_bytes() for file in checkout.rglob("*") if file.is_file()}

    def run(*arguments: str | Path) -> str:
        done = command(*arguments, cwd=checkout, PYTHONPATH=str(path.parent), PYTHONDONTWRITEBYTECODE="1")
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    name = LONGEST["criterion"]
    said = run("tools/new_method.py", name)
    files = [checkout / "methods" / f"{name}.py", checkout / "tests" / "methods" / f"test_{name}.py"]
    assert f"    sdbench check {name}\n    pytest tests/methods/test_{name}.py\n" in said
    after = {file: file.read_bytes() for file in checkout.rglob("*") if file.is_file()}
    assert after == {**before, **{file: file.read_bytes() for file in files}}
    run("-m", "pytest", "-q", "-p", "no:cacheprovider", files[1])
    assert run("-c", f"from sdbench import registry; print(registry.origin({name!r}))") == "built in\n"
    for check in (["check"], ["format", "--check"]):
        run("-m", "ruff", *check, "--no-cache", *files)


def test_it_says_what_to_type_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert new_method("mine", "--directory", ".", "--tests", ".") == 0
    assert capsys.readouterr().out.endswith("    sdbench check mine --plugin mine.py\n    pytest test_mine.py\n")
    assert '@register("mine", paper="", official="")\nclass Mine(Method):\n' in (tmp_path / "mine.py").read_text()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("My-Method", ["'My-Method': 1 to 64 of a-z", "my_method"]),
        ("1st", ["'1st'", "a letter first"]),
        ("a" * 65, ["1 to 64"]),
        ("", ["method name ''"]),
        ("../above", ["'../above'"]),
        ("no/where", ["'no/where'"]),
        ("all", ["'all' means something else", "all_method"]),
        ("class", ["'class' means something else", "class_method"]),
        ("ce", ["'ce' is taken (built in)", "my_ce"]),
        ("kept", ["/kept.py exists", "/test_kept.py exists", "give another name or move it"]),
    ],
)
def test_what_is_refused_writes_nothing(
    name: str, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "lab"
    folder.mkdir()
    for file in ("kept.py", "test_kept.py"):
        (folder / file).write_text("mine")
    assert new_method(name, "--directory", folder, "--tests", folder) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == (2 if name == "kept" else 1)
    for word in words:
        assert word in said.err
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"kept.py": "mine", "test_kept.py": "mine"}
    assert list(tmp_path.iterdir()) == [folder]


def test_all_problems_are_said_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "test_ce.py").write_text("mine")
    assert new_method("ce", "--directory", tmp_path / "no where", "--tests", tmp_path) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("new_method: ") for line in lines)
    assert f"type `mkdir -p '{tmp_path / 'no where'}'`" in lines[2]
    assert [path.name for path in tmp_path.iterdir()] == ["test_ce.py"]


def test_an_unknown_kind_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert new_method("mine", "--kind", "stat", "--directory", tmp_path, "--tests", tmp_path) == 2
    said = capsys.readouterr().err
    assert all(kind in said for kind in KINDS)
    assert list(tmp_path.iterdir()) == []
