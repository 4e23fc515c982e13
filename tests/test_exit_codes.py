"""Exit codes, each by a command that ends so, and the page that explains them. Of signals: tests/test_engine.py."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

import sdbench.cli
from sdbench.cli import app

Writer = Callable[..., Path]
PAGE = Path(__file__).resolve().parent.parent / "docs" / "commands.md"
CODES = {"0", "1", "2", "3", "4", "130", "143"}


@pytest.mark.parametrize(
    ("expected", "words"),
    [
        (0, ["list", "protocols"]),
        (0, ["plan", "--results", "RESULTS"]),
        (1, ["rescore", "--results", "RESULTS"]),
        (1, ["leaderboard", "--results", "DAMAGED"]),
        (2, ["run", "--methods", "zpf", "--results", "RESULTS"]),
        (2, ["gc", "--results", "DAMAGED"]),
        (2, ["run", "--progress", "loud", "--results", "RESULTS"]),
        (3, ["run", "--results", "BLOCKED"]),
        (3, ["merge", "RESULTS", "--into", "BLOCKED"]),
        (4, ["validate", "DAMAGED"]),
        (4, ["compare", "ce", "ls", "--fail-if", "top1<0", "--results", "RESULTS"]),
    ],
    ids=str,
)
def test_each_code(expected: int, words: list[str], tmp_path: Path, write_trial: Writer) -> None:
    for seed in range(3):
        write_trial(tmp_path / "RESULTS", "ce", seed, 0.5)
        write_trial(tmp_path / "RESULTS", "ls", seed, 0.4)
    damaged = write_trial(tmp_path / "DAMAGED", "ce", 0)
    write_trial(tmp_path / "DAMAGED", "ce", 1)
    (damaged / "trial.json").write_text("{")
    (tmp_path / "blocker").write_text("")
    places = {"RESULTS": tmp_path / "RESULTS", "DAMAGED": tmp_path / "DAMAGED", "BLOCKED": tmp_path / "blocker" / "r"}
    done = CliRunner().invoke(app, [str(places.get(word, word)) for word in words])
    assert done.exit_code == expected, done.output
    if expected in (2, 3):
        assert done.stderr.startswith("error: ")


def test_they_are_documented() -> None:
    rows = re.findall(r"^\| ([\d, ]+) \|", PAGE.read_text("utf-8"), re.MULTILINE)
    assert {code for row in rows for code in row.split(", ")} == CODES
    told = sdbench.cli.__doc__ or ""
    assert all(re.search(rf"\b{code}\b", told) for code in CODES)
