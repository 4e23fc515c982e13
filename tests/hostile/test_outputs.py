"""What hostile names look like where they come out: on a terminal, in tables of every format, in names of files."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sdbench.leaderboard_formats import SUFFIXES
from sdbench.progress import Monitor, Reporter, table
from sdbench.spec import Trial
from sdbench.store import Store, read_curve, read_result
from sdbench.terminal import visible

from .conftest import HOSTILE_TEXTS, tree

Sdbench = Callable[..., tuple[int, str, str]]
SHORT = [text for text in HOSTILE_TEXTS if len(text) < 1000]


@pytest.fixture
def hostile(results: Path, forge: Any) -> Path:
    """Every hostile text as a method, a reason, a log, a caveat, a parameter, a device and a command."""
    for number, text in enumerate(HOSTILE_TEXTS):

        def change(content: dict[str, Any], text: str = text, number: int = number) -> None:
            content.update(reason=text, log_tail=text * 2, caveat=text[:90], trial_id=f"{number:016x}", status="failed")
            content["spec"].update(method=text, params={text[:60]: text[:60]})
            content["provenance"].update(cpu=text, device=text, command=[text, text])

        forge(change, f"trials/x/y/z/{number}")
    return results


def printable(text: str) -> bool:
    return all(c.isprintable() or c in "\n\t" for c in text)


@pytest.mark.parametrize("name", SUFFIXES)
def test_boards_obey_nothing(hostile: Path, outside: Path, name: str, sdbench: Sdbench) -> None:
    before = tree(outside)
    code, out, _ = sdbench("leaderboard", "--results", hostile, "--format", name)
    assert code in (0, 1)
    assert printable(out)
    written = [out] if name == "text" else [out, (hostile / f"leaderboard.{SUFFIXES[name]}").read_text()]
    for text in written:
        assert "\x1b" not in text
        assert "\u202e" not in text
        if name in ("md", "html"):
            assert "<script>document" not in text
        if name == "md":
            assert not re.search(r"(?<!\\)\]\(javascript", text)
        if name == "latex":
            assert not re.search(r"\\(input|immediate|write)", text)
        if name == "json":
            json.loads(text)
    assert tree(outside) == before
    assert sorted(p.name for p in outside.parent.iterdir()) == ["outside", "results"]


def test_no_cell_of_a_csv_is_a_formula(hostile: Path, sdbench: Sdbench) -> None:
    """A spreadsheet takes what begins with one of these for a formula; numbers are no texts."""
    _, out, _ = sdbench("leaderboard", "--results", hostile, "--format", "csv")
    csv.field_size_limit(2**30)
    for row in csv.reader(io.StringIO(out)):
        for cell in row:
            if cell.lstrip().startswith(("=", "+", "-", "@")):
                float(cell)


@pytest.mark.parametrize(
    "words", [("show",), ("show", "--json"), ("list", "runs"), ("list", "runs", "--json"), ("compare",)]
)
def test_a_terminal_is_sent_printable_characters(hostile: Path, words: tuple[str, ...], sdbench: Sdbench) -> None:
    targets = [f"{n:016x}" for n in range(0, len(HOSTILE_TEXTS), 4)] if words[0] == "show" else [None]
    for target in targets:
        given = [words[0], *([target] if target else []), *words[1:], "--results", hostile]
        _, out, err = sdbench(*given)
        assert printable(out), given
        assert printable(err), given
        if "--json" in words:
            json.loads(out)


@pytest.mark.parametrize("text", [*SHORT, "\ud800", "\x7f", "\x9b31m", "\u200b", "\u2028"])
def test_what_is_visible_is_printable_and_says_the_same(text: str) -> None:
    shown = visible(text)
    assert printable(shown)
    assert visible(shown) == shown
    assert json.loads(visible(json.dumps(text, ensure_ascii=False))) == text
    shown.encode()


def test_progress_shows_names_as_text(hostile: Path) -> None:
    from rich.console import Console

    records = [read_result(path) for path in hostile.glob("trials/*/*/*/*/trial.json")]
    trials = [Trial(spec=record.spec, identity=record.identity) for record in records]
    monitor = Monitor(trials, Store(hostile))
    for watched in monitor.watched:
        watched.status = "running"
    out = io.StringIO()
    Console(file=out, width=400).print(table(monitor.watched))
    assert printable(out.getvalue())
    plain = io.StringIO()
    monitor.poll = lambda: [f"{w.trial.spec.title}: ok" for w in monitor.watched]  # type: ignore[method-assign]
    Reporter(monitor, plain)._tell()
    assert printable(plain.getvalue())
    assert "\\u001b[31m" in plain.getvalue()


def test_errors_are_printable(sdbench: Sdbench, tmp_path: Path) -> None:
    for words in (("describe", "\x1b[31m"), ("show", "\u202ex"), ("run", "--methods", "\x9bx"), ("validate", "\x1bx")):
        code, out, err = sdbench(*words, *(("--results", tmp_path / "r") if words[0] in ("show", "run") else ()))
        assert code == 2
        assert printable(out + err)
        assert len(err) < 10_000


@pytest.mark.parametrize("key", ["epoch", "lr", "loss", "top1", "images_per_s"])
def test_a_number_beyond_all_floats_in_a_curve(
    write_trial: Callable[..., Path], tmp_path: Path, sdbench: Sdbench, key: str
) -> None:
    """JSON has it and Python reads it; no table can show it."""
    folder = write_trial(tmp_path / "results", "ls", 0)
    first = '{"epoch": 0, "lr": 0.1, "loss": 0.5}'
    (folder / "curve.jsonl").write_text(f'{first}\n{{"{key}": 1{"0" * 400}}}\n')
    code, out, _ = sdbench("show", folder.name, "--results", tmp_path / "results")
    assert code == 0
    assert "0.5" in out
    assert read_curve(folder / "curve.jsonl") == [json.loads(first)]
