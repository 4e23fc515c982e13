"""Completion as a shell asks for it: a process of its own, which may import nothing heavy."""

from __future__ import annotations

import os
import subprocess
import sys
import typing
from collections.abc import Callable
from pathlib import Path

import pytest
import typer.main

from sdbench import completion, registry, schemas
from sdbench.catalog import KINDS
from sdbench.cli import app
from sdbench.comparison_records import METRICS
from sdbench.data import DATASETS
from sdbench.protocol import PROTOCOLS
from sdbench.spec import Options

Writer = Callable[..., Path]
LIGHT = (
    "import sys, atexit\n"
    "atexit.register(lambda: print(*[m for m in ('torch', 'ray', 'scipy') if m in sys.modules], file=sys.stderr))\n"
    "sys.argv = ['sdbench']\nfrom sdbench.cli import main\nmain()"
)


def ask(line: str, cwd: Path, shell: str = "bash") -> list[str]:
    """What would be offered at the end of a line."""
    words = line.split(" ")
    asked = {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1), "_TYPER_COMPLETE_ARGS": line}
    asked["_TYPER_COMPLETE_FISH_ACTION"] = "get-args"
    environ = {
        **os.environ,
        "_SDBENCH_COMPLETE": f"complete_{shell}",
        **asked,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    command = [sys.executable, "-c", LIGHT]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=environ)
    assert done.stderr.strip() == "", done.stderr
    return done.stdout.split()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_methods(tmp_path: Path, shell: str) -> None:
    assert "zipf" in " ".join(ask("sdbench run --methods ce,zi", tmp_path, shell))
    assert any("pskd" in offered for offered in ask("sdbench describe psk", tmp_path, shell))


def test_names_of_all_kinds(tmp_path: Path, write_trial: Writer) -> None:
    folder = write_trial(tmp_path / "results", "ce", 0)
    for line, expected in (
        ("sdbench run --dataset cifar1", ["cifar10", "cifar100"]),
        ("sdbench plan -M preact", ["preact_resnet18"]),
        ("sdbench run --protocol h", ["holdout"]),
        ("sdbench plot par", ["pareto"]),
        (f"sdbench show {folder.name[:5]}", [folder.name]),
        ("sdbench rm zz", []),
        ("sdbench run --rerun st", ["stale"]),
        ("sdbench resc", ["rescore"]),
    ):
        assert ask(line, tmp_path) == expected, line


def test_a_plugin_on_the_line_is_read_and_not_run(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text('raise SystemExit("ran")\n\n@register("my_own_method")\nclass A: ...\n')
    assert ask("sdbench run --plugin mine.py --methods my_", tmp_path) == ["my_own_method"]


def test_every_word_that_is_offered_is_one() -> None:
    assert set(completion.method_names({})) - {"all"} == {
        n for n in registry.names() if registry.origin(n) == "built in"
    }
    assert list(PROTOCOLS) == completion.protocol_names({})
    assert [name.rstrip(":") for name in completion.dataset_names({})] == list(DATASETS)
    assert tuple(METRICS) == completion.METRICS
    assert completion.RUN_KINDS == KINDS
    assert completion.ARGUMENTS["schema", "kind"]({}) == tuple(schemas.KINDS)
    assert completion.OPTIONS["state"]({}) == typing.get_args(Options.model_fields["state"].annotation)
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    names = {str(p.name).rstrip("_") for command in commands.values() for p in command.params}
    assert completion.OPTIONS.keys() <= names
    for verb, name in completion.ARGUMENTS:
        assert name in {str(p.name).rstrip("_") for p in commands[verb].params}, (verb, name)


def test_trials_are_found_without_following_links(tmp_path: Path, write_trial: Writer) -> None:
    folder = write_trial(tmp_path, "ce", 0)
    (folder.parent / "link").symlink_to(folder)
    (folder.parent / ".hidden").mkdir()
    assert completion.trial_ids({"results": str(tmp_path)}) == [folder.name]
    assert completion.trial_ids({"results": str(tmp_path / "nowhere")}) == []
