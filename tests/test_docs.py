"""What the documents say is run: doctests, README's commands, CONTRIBUTING's method."""

from __future__ import annotations

import doctest
import importlib
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sdbench.cli import app
from sdbench.cost.records import ProfileResult, ProfileRow
from sdbench.cost.request import ProfilePlan
from sdbench.train import provenance

ROOT = Path(__file__).resolve().parent.parent
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted((ROOT / "sdbench").rglob("*.py"))
    if path.stem != "__main__"
] + [f"sdbench.methods.{path.stem}" for path in sorted((ROOT / "methods").glob("*.py")) if path.stem != "__init__"]


@pytest.mark.parametrize("name", MODULES)
def test_doctests(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def code_blocks(path: Path) -> list[str]:
    """The indented and the fenced blocks of a document, without their indentation."""
    text = path.read_text()
    fenced = re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)
    indented = re.findall(r"(?:^    .*\n)+", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return [*fenced, *(re.sub(r"(?m)^    ", "", block) for block in indented)]


def commands(path: Path) -> list[list[str]]:
    """Every ``sdbench ...`` line of a document as arguments."""
    lines = [line.split("#")[0].strip() for block in code_blocks(path) for line in block.splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("sdbench ")]


def unmeasured(plan: ProfilePlan, told: object) -> ProfileResult:
    """A profile of what was planned, in which nothing was measured."""
    return ProfileResult(
        profile_id="unmeasured",
        setting=plan.setting,
        baseline=plan.contestants[0].name,
        rows=tuple(ProfileRow(method=c.name, params=dict(c.params)) for c in plan.contestants),
        load_start=0,
        load_end=0,
        seconds=0,
        provenance=provenance(plan.options, None, ""),
    )


def test_readme_opens_with_the_two_commands() -> None:
    first = next(block for block in code_blocks(ROOT / "README.md") if "pip" in block)
    assert first.splitlines() == ['pip install -e ".[dev]" && sdbench run', 'pip install -e ".[dev]" && pytest']


@pytest.mark.parametrize("arguments", commands(ROOT / "README.md"), ids=" ".join)
def test_readme_commands_are_understood(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each command is parsed and planned; training and measuring are left out, and data that are not here replaced."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sdbench.cost.commands.profile", unmeasured)
    arguments = ["glyphs" if a.startswith(("folder:", "cifar")) else a for a in arguments]
    if arguments[0] == "run":
        arguments = [*arguments, "--dry-run"]
    result = CliRunner().invoke(app, arguments)
    expected = {"leaderboard": 2, "doctor": None}.get(arguments[0], 0)  # there are no results in this folder yet
    assert result.exit_code == expected or (expected is None and result.exit_code in (0, 3)), result.output


def test_the_method_in_contributing_passes_the_checks(tmp_path: Path) -> None:
    from sdbench.checks import run_checks
    from sdbench.registry import load_plugin

    python = next(b for b in code_blocks(ROOT / "CONTRIBUTING.md") if "@register" in b)
    plugin = tmp_path / "my_method.py"
    plugin.write_text(re.sub(r"(?m)^   ", "", python))
    load_plugin(plugin)
    assert [f for f in run_checks("my_penalty", quick=True) if not f.passed] == []


def test_every_file_of_the_harness_is_on_readmes_map() -> None:
    text = (ROOT / "README.md").read_text()
    for path in sorted((ROOT / "sdbench").glob("*.py")):
        if not path.stem.startswith("__"):
            pattern = path.stem.split("_")[0] + "_*.py"
            assert path.name in text or pattern in text, f"README's file map lacks {path.name}"
