"""Small files that sdbench looks at on its way, and words that stand for numbers: no reader waits, fills the memory or
ends in a traceback."""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from sdbench import completion
from sdbench.analysis.planes import parse_classes
from sdbench.analysis.questions import read_asked
from sdbench.budget import _read_ledger
from sdbench.curve_lines import curve_line, shares
from sdbench.data.archives import Unsafe, unpack
from sdbench.data.cache import read_arrays
from sdbench.engine import fence
from sdbench.errors import UserError
from sdbench.kept_logits import UnusableLogits, read_logits
from sdbench.preparation import prepare
from sdbench.rows import RowFile
from sdbench.shelf import RowFiles
from sdbench.study_records import mark_stopped, stopped_after

from .conftest import ODD_FILES

Sdbench = Callable[..., tuple[int, str, str]]
Odd = Callable[[Path, str], None]

READERS = {
    "stopped.json": ("from sdbench.study_records import stopped_after", "stopped_after(path.parent)"),
    ".holder": ("from sdbench.engine.fence import lost", "lost(path.parent, 'me') or None"),
    "plugin.py": (
        "from sdbench.completion import method_names",
        "set(method_names({'plugin': [path]})) - set(method_names({})) or None",
    ),
    "arrays.safetensors": ("from sdbench.data.cache import read_arrays", "read_arrays(path)"),
    "glyphs.json": ("from sdbench.budget import _read_ledger", "_read_ledger(path) or None"),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("kind", sorted(set(ODD_FILES) - {"/etc/passwd"}))
def test_an_odd_file_says_nothing(tmp_path: Path, name: str, kind: str, odd_file: Odd, bounded: Any) -> None:
    odd_file(tmp_path / "there" / name, kind)
    ready, code = READERS[name]
    said = bounded(
        f"from pathlib import Path\npath = Path(sys.argv[1])\nprint({code})", tmp_path / "there" / name, ready=ready
    )
    assert said.strip() == "None"


def test_what_stopped_a_trial_is_read(tmp_path: Path) -> None:
    mark_stopped(tmp_path, "asha", 3)
    assert stopped_after(tmp_path) == 3


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{}",
        "[]",
        "null",
        '{"epochs": null}',
        '{"epochs": 1e999}',
        '{"epochs": NaN}',
        '{"epochs": "' + "9" * 5000,
        "[" * 900,
        '{"epochs": ' + "9" * 900 + "e999}",
        "\x00",
        '{"epochs": []}',
    ],
)
def test_what_stopped_a_trial_may_be_anything(tmp_path: Path, content: str) -> None:
    (tmp_path / "stopped.json").write_text(content)
    assert stopped_after(tmp_path) is None


@pytest.mark.parametrize("seconds", ["1" + "0" * 400, "1e999", "NaN", "-1", "null", "[]", '"x"'])
def test_a_ledger_of_impossible_times_counts_nothing(tmp_path: Path, seconds: str) -> None:
    (tmp_path / "ledger.json").write_text(f'{{"seconds": {seconds}}}')
    assert _read_ledger(tmp_path / "ledger.json") == 0.0


@pytest.mark.parametrize(
    "line",
    [
        {"epoch": 10**400},
        {"epoch": 0, "loss": 10**400},
        {"epoch": 0, "top1": -(10**30)},
        {"epoch": "0"},
        {"epoch": 0.5},
        {"epoch": None},
        {"epoch": -1},
        {"epoch": 0, "terms": {"ce": 2**63 + 1}},
        {"epoch": True},
    ],
)
def test_a_line_of_impossible_numbers_is_none(line: dict[str, Any]) -> None:
    assert curve_line(json.dumps(line).encode()) is None


def test_accuracies_of_a_curve_are_shares_by_epochs_done() -> None:
    lines: list[dict[str, Any]] = [
        {"epoch": 0, "v": 0.25},
        {"epoch": 1},
        {"v": 0.5},
        {"epoch": 2, "v": "x"},
        {"epoch": 3, "v": 1},
        {"epoch": 4, "v": 2},
    ]
    assert shares(lines, "v") == {1: 0.25, 4: 1.0}


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "int32"])
def test_logits_of_types_that_numpy_lacks_are_not_drawn(tmp_path: Path, dtype: str) -> None:
    tensors = {"logits": torch.ones(3, 2).to(getattr(torch, dtype)), "labels": torch.zeros(3, dtype=torch.int64)}
    safetensors.torch.save_file(tensors, tmp_path / "logits.safetensors")
    assert read_arrays(tmp_path / "logits.safetensors") is None
    with pytest.raises(UnusableLogits, match="cannot be read"):
        read_logits(tmp_path / "logits.safetensors")


@pytest.mark.parametrize(
    "tensors",
    [
        {"logits": torch.ones(3, 2), "labels": torch.zeros(3)},
        {"logits": torch.ones(3, 2).long(), "labels": torch.zeros(3).long()},
        {"logits": torch.ones(3, 2), "labels": torch.full((3,), 7)},
        {"logits": torch.ones(3), "labels": torch.zeros(3).long()},
        {"logits": torch.ones(0, 2), "labels": torch.zeros(0).long()},
        {"logits": torch.ones(3, 2, 2), "labels": torch.zeros(3).long()},
        {"logits": torch.full((3, 2), torch.nan), "labels": torch.zeros(3).long()},
    ],
)
def test_sealed_logits_that_are_none_are_damaged(forge: Any, results: Path, sdbench: Sdbench, tensors: Any) -> None:
    content = safetensors.torch.save(tensors)

    def change(record: dict[str, Any]) -> None:
        record["checksums"] = {"logits.safetensors": hashlib.sha256(content).hexdigest()}

    folder = forge(change)
    (folder / "logits.safetensors").write_bytes(content)
    code, out, _ = sdbench("rescore", "--results", results)
    assert (code, "1 damaged" in out or "damaged: " in out) == (1, True)


NOTE: dict[str, Any] = {"file": "m-epoch-000001.bin", "bytes": 48, "columns": 3, "check": "0" * 32}


@pytest.mark.parametrize(
    "change",
    [
        {"columns": 0},
        {"columns": -3},
        {"columns": 2.0},
        {"columns": 5},
        {"columns": 2**70},
        {"bytes": -48},
        {"bytes": True},
        {"file": "../m-epoch-000001.bin"},
        {"file": 7},
        {"file": "m\0"},
        {"check": None},
        {"more": 1},
    ],
)
def test_what_a_checkpoint_says_of_a_file_may_be_anything(tmp_path: Path, change: dict[str, Any]) -> None:
    method = torch.nn.Module()
    method.m = RowFile(4, 3)  # type: ignore[assignment]
    files = RowFiles(method, tmp_path)
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / NOTE["file"]).write_bytes(bytes(48))
    assert "other content" in files.problem({"m": NOTE}), "all else is right"  # type: ignore[dict-item]
    for name in ("m", "another"):
        assert files.problem({name: {**NOTE, **change}})  # type: ignore[dict-item]
    for none in ([], None, 7, "x"):
        assert files.problem({"m": none})  # type: ignore[dict-item]
        assert files.problem(none) or none == []  # type: ignore[arg-type]


def test_what_an_unpacker_stumbles_over_is_unsafe(tmp_path: Path) -> None:
    for packing in (zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2):
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", packing) as archive:
            archive.writestr("a", os.urandom(5000) + bytes(5000))
        content = bytearray(out.getvalue())
        for place in range(31, 2000, 97):
            content[place] ^= 0xFF
        (tmp_path / "archive").write_bytes(content)
        with pytest.raises((Unsafe, OSError), match=r"archive|Invalid"):
            unpack(tmp_path / "archive", tmp_path / f"into-{packing}", 2**20)


@pytest.mark.parametrize("kind", ODD_FILES)
def test_an_odd_curve_is_not_exported(
    results: Path, folders: list[Path], tmp_path: Path, kind: str, odd_file: Odd, bounded: Any
) -> None:
    odd_file(folders[0] / "curve.jsonl", kind)
    code = "print(len(api.export(results=sys.argv[1], output=sys.argv[2]).left))"
    assert bounded(code, results, tmp_path / "out.zip", ready="from sdbench import api").strip() == "1"


LONG = "x" * 300


@pytest.mark.parametrize(
    "words",
    [
        ("run", "--dry-run", "--dataset", f"folder:{LONG}/a"),
        ("run", "--dry-run", "--plugin", f"{LONG}.py"),
        ("validate", LONG),
        ("merge", LONG, "--into", "results"),
        ("leaderboard", "--results", LONG),
        ("report", "--results", LONG),
        ("gc", "--results", LONG),
        ("compare", "ce", "ls", "--results", LONG),
        ("rescore", "--results", LONG),
        ("check", "--plugin", LONG),
        *[
            ("run", "--dry-run", "--dataset", n, "--data-dir", LONG)
            for n in ("imagenet", "inat21", "cub200", "tinyimagenet", "cifar10")
        ],
    ],
)
def test_a_name_that_the_system_does_not_take_is_said(
    words: tuple[str, ...], sdbench: Sdbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = sdbench(*words)
    assert code == 2
    assert LONG[:40] in err.replace("\n", "")
    assert "File name too long; give another path" in err


NO_NUMBERS = ("²", "٣", "1_0", "9" * 5000, "-1", "1.0", "")


@pytest.mark.parametrize("text", NO_NUMBERS)
def test_words_that_are_no_numbers(text: str) -> None:
    with pytest.raises(UserError, match=r"--train-images.*expected a whole number"):
        read_asked("geometry", train_images=text)
    with pytest.raises(UserError, match=r"--image-size.*expected a whole number"):
        prepare(["glyphs"], image_size=text)
    if text:
        with pytest.raises(UserError, match="--classes"):
            parse_classes(f"0,1,{text}", ["a", "b", "c", "d"])


def test_numbers_are_still_numbers() -> None:
    assert parse_classes("2, 01,d", ["a", "b", "c", "d"]) == (2, 1, 3)
    assert read_asked("geometry", train_images="0020").train_images == 20


def test_a_plugins_names_are_completed(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text('@register("of_my_own")\nclass A: ...\n')
    assert "of_my_own" in completion.method_names({"plugin": [str(tmp_path / "mine.py")]})
    assert not fence.lost(tmp_path, "x")
