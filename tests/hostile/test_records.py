"""Records and curves that are none: every command that reads them answers, and leaves everything as it was."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sdbench.store import DamagedRecord, read_curve, read_result

from .conftest import ODD_FILES, tree

Sdbench = Callable[..., tuple[int, str, str]]

SHAPES = {
    "brackets": "[" * 2**22,
    "pairs": "[[]," * 2**20,
    "nested": '{"a":' * 2**20,
    "digits": '{"schema_version":' + "9" * 2**22,
    "spaces": " " * 2**23,
    "marks": '"schema_version"' + " " * 2**22 + '"trial.json": "' * 1000,
    "null": "\x00" * 2**20,
    "surrogates": '{"trial_id": "\\ud800"}',
    "class": '{"__class__": "os.system", "__init__": {"__globals__": "touch owned"}}',
    "call": '{"py/object": "os.system", "!!python/object/apply:os.system": ["touch owned"], "_target_": "os.system"}',
    "pickle": "cposix\nsystem\n(S'touch owned'\ntR.",
}


def reading(results: Path, other: Path) -> list[tuple[object, ...]]:
    return [
        ("leaderboard", "--results", results),
        ("leaderboard", "--results", results, "--json"),
        ("list", "runs", "--results", results),
        ("show", "a3", "--results", results),
        ("compare", "ce", "ls", "--results", results),
        ("report", "--results", results, "--output", other / "report.html"),
        ("validate", results),
        ("validate", results, "--json"),
        ("merge", results, "--into", other / "merged"),
    ]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_is_no_record(results: Path, folders: list[Path], shape: str, sdbench: Sdbench) -> None:
    (folders[0] / "trial.json").write_text(SHAPES[shape])
    with pytest.raises(DamagedRecord):
        read_result(folders[0] / "trial.json")
    code, out, err = sdbench("leaderboard", "--results", results)
    assert code == 1, "a record is damaged"
    assert "damaged record left out" in err
    assert "\nls " in out, "the other record is shown"
    assert not list(Path.cwd().glob("owned*"))


@pytest.mark.parametrize(
    "kind", [k if k in ("fifo", "/dev/zero") else pytest.param(k, marks=pytest.mark.slow) for k in ODD_FILES]
)
def test_an_odd_file_neither_blocks_nor_fills(
    results: Path, outside: Path, kind: str, forge: Any, odd_file: Any, bounded: Any
) -> None:
    """In the place of each file of a trial; all commands in one child, whose memory and time are bounded."""
    for seed, name in enumerate(("trial.json", "started.json", "curve.jsonl", "logits.safetensors"), start=10):
        folder = forge(lambda content, s=seed: content["spec"].update(seed=s), f"trials/glyphs/resnet8/ce/{seed}")
        if name == "started.json":
            (folder / "trial.json").unlink()
        if kind != "sparse" or name in ("trial.json", "started.json"):  # others are hashed as far as they are sealed
            odd_file(folder / name, kind)
    before, inside = tree(outside), tree(results / "trials")
    target = outside.parent / "made"
    target.mkdir()
    code = (
        "for words in json.loads(sys.argv[1]):\n"
        "    done = CliRunner().invoke(app, words)\n"
        "    assert done.exception is None or isinstance(done.exception, SystemExit), (words, done.exception)\n"
        "    assert done.exit_code in (0, 1, 2, 4), (words, done.exit_code)\n"
        "print('answered')"
    )
    words = [[str(word) for word in each] for each in reading(results, target)]
    ready = "import json, sdbench.boards\nfrom typer.testing import CliRunner\nfrom sdbench.cli import app"
    assert bounded(code, json.dumps(words), ready=ready).strip() == "answered"
    assert tree(outside) == before
    assert tree(results / "trials") == inside, "reading changes nothing"


@pytest.mark.parametrize(
    "line",
    [
        b'{"epoch": 0, "loss": [[[[1]]]]}', b'{"epoch": 0, "top1": 1e999}', b'{"epoch": 0, "top1": NaN}', b"[1]",
        b'{"epoch": 0, "terms": {"a": {"b": 1}}}', b'{"epoch": "' + b"a" * 2000 + b'"}',
        b'{"epoch": ' + b"9" * 5000 + b"}",
        b"\xff\xfe", b'{"a":' * 100_000,
    ],
)  # fmt: skip
def test_a_curve_ends_before_a_line_that_is_none(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "curve.jsonl"
    path.write_bytes(b'{"epoch": 0, "loss": 1.5}\n' + line + b'\n{"epoch": 2}\n')
    assert read_curve(path) == [{"epoch": 0, "loss": 1.5}]


@pytest.mark.parametrize("unit", [b"{}\n", b"\n", b"1\n", b'{"a":1}\n'])
def test_a_curve_of_millions_of_lines_takes_little(tmp_path: Path, unit: bytes, bounded: Any) -> None:
    path = tmp_path / "curve.jsonl"
    path.write_bytes(unit * (30 * 2**20 // len(unit)))
    code = (
        "from pathlib import Path\nfrom sdbench.report.curves import read_thinned\n"
        "print(len(read_curve(Path(sys.argv[1]))), len(read_thinned(Path(sys.argv[1]), 50)))"
    )
    read, thinned = map(int, bounded(code, path, ready="from sdbench.store import read_curve").split())
    assert read <= 100_001
    assert thinned <= 102


def test_ids_and_names_are_no_way_out(results: Path, outside: Path, forge: Any, sdbench: Sdbench) -> None:
    """A record whose names are paths is refused by merge or copied under names of one component."""
    before = tree(outside)
    for field in ("dataset", "network", "method"):
        forge(
            lambda content, f=field: content["spec"].update({f: "../../../outside/precious.txt"}),
            f"trials/x/y/z/{field}",
        )
    forge(lambda content: content.update(trial_id="../../../../outside/owned"), "trials/x/y/z/id")
    into = outside.parent / "into"
    code, out, _ = sdbench("merge", results, "--into", into)
    assert code == 1
    assert "refused" in out
    assert tree(outside) == before
    assert all(path.is_relative_to(into.resolve()) for path in (p.resolve() for p in into.rglob("*")))
    assert sorted(p.name for p in outside.parent.iterdir()) == ["into", "outside", "results"]


def test_what_a_record_seals_is_no_way_out(results: Path, outside: Path, forge: Any, sdbench: Sdbench) -> None:
    names = (
        "../../../../../../outside/precious.txt",
        "/etc/passwd",
        "epoch_logits/epoch-1/../../../../../../outside/x",
    )
    for name in names:
        forge(lambda content, n=name: content.update(checksums={n: "0" * 64}))
        code, out, _ = sdbench("validate", results)
        assert code == 4
        assert "no file beside it" in out
        assert sdbench("analyze", "all", "--kind", "zipf", "--results", results)[0] in (0, 1, 2)


def test_a_stores_worth_of_odd_names_is_listed(results: Path, sdbench: Sdbench) -> None:
    """Folders beside the trials with names that no store makes."""
    for name in ("a\nb", "\x1b[31mred", "\u202e", "-rf", "$(touch owned)", "a" * 200):
        shutil.copytree(min(results.glob("trials/*/*/*/*")), results / "trials" / name / "x" / "y" / "z")
    for words in (("leaderboard", "--results", results), ("validate", results), ("list", "runs", "--results", results)):
        _, out, err = sdbench(*words)
        assert all(c.isprintable() or c in "\n\t" for c in out + err)
