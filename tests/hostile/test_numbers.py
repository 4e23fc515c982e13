"""Whole numbers that no float holds, in every place of a record, a curve and a profile."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from sdbench.cost.records import ProfileResult
from sdbench.spec import TrialResult, Value
from sdbench.store import read_curve, read_result, seal

Sdbench = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).resolve().parents[2]
HUGE = 10**400


def test_a_value_keeps_its_kind() -> None:
    """A number is refused or stays what it is; it never becomes another kind of number, or text."""
    value: TypeAdapter[Any] = TypeAdapter(Value)
    for kept in (0, -1, True, False, 0.5, 1.0, 2**63, -(2**63), "1", 1e300):
        found = value.validate_json(json.dumps(kept))
        assert (type(found), found) == (type(kept), kept)
    for refused in (HUGE, -HUGE, 2**63 + 1, 2**64):
        with pytest.raises(ValidationError):
            value.validate_json(str(refused))


def numbers(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The places of all whole numbers."""
    if isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        return [place for key, inner in pairs for place in numbers(inner, (*path, key))]
    return [path] if isinstance(value, int) and not isinstance(value, bool) else []


@pytest.mark.parametrize("kind", [TrialResult, ProfileResult])
def test_no_whole_number_of_a_record_is_unbounded(kind: type[TrialResult] | type[ProfileResult]) -> None:
    name = "trial.json" if kind is TrialResult else "profile.json"
    paths = sorted([*(ROOT / "tests" / "records").rglob(name), *(ROOT / "results" / "published").rglob(name)])
    tried = set()
    for path in paths:
        content = json.loads(path.read_text())
        kind.model_validate(content)
        for place in numbers(content):
            if tuple("*" if isinstance(step, int) else step for step in place) in tried:
                continue
            tried.add(tuple("*" if isinstance(step, int) else step for step in place))
            changed = json.loads(path.read_text())
            inner = changed
            for step in place[:-1]:
                inner = inner[step]
            inner[place[-1]] = HUGE
            with pytest.raises(ValidationError):
                kind.model_validate(changed)
    assert len(tried) > 10


@pytest.mark.parametrize("key", ["top1", "loss", "images_per_s", "lr"])
def test_a_curve(key: str, results: Path, folders: list[Path], sdbench: Sdbench) -> None:
    for folder in folders:
        record = read_result(folder / "trial.json")
        lines = [
            {"epoch": e, "lr": 0.1, "loss": 1.5, "images_per_s": 9.0, "top1": 0.5} for e in range(record.epochs_done)
        ]
        lines[-1][key] = HUGE
        content = "".join(json.dumps(line) + "\n" for line in lines).encode()
        (folder / "curve.jsonl").write_bytes(content)
        assert read_curve(folder / "curve.jsonl") == lines[:-1]
        sums = {"curve.jsonl": hashlib.sha256(content).hexdigest()}
        (folder / "trial.json").write_text(seal(record.model_copy(update={"checksums": sums})))
    out = results.parent / "out"
    out.mkdir()
    for words in (
        ("compare", "ce", "ls", "--target", "40"),
        ("compare", "ce", "ls", "--at", "1h"),
        ("show", folders[0].name),
        ("report", "--output", out / "r.html"),
        ("plot", "curves", "--output", out / "c.svg"),
    ):
        code, said, err = sdbench(*words, "--results", results)
        assert code in (0, 2), (words, said, err)
    code, said, _ = sdbench("validate", results)
    assert code in (0, 4)


def test_a_parameter(results: Path, folders: list[Path], sdbench: Sdbench) -> None:
    """Such a record is damaged; the other is shown."""
    name = next(folder for folder in folders if folder.parent.name == "ls")
    content = json.loads((name / "trial.json").read_text())
    content["spec"]["params"]["smoothing"] = HUGE
    (name / "trial.json").write_text(json.dumps(content))
    for words in (
        ("analyze", "ls[smoothing=0.1]"),
        ("distill", "-n", "--teachers", "ls[smoothing=0.1]"),
        ("compare", "ce", "ls[smoothing=0.1]"),
    ):
        assert sdbench(*words, "--results", results)[0] == 2, words
    code, out, err = sdbench("leaderboard", "--results", results)
    assert code == 1
    assert "\nce " in out
    assert "damaged record left out" in err


@pytest.mark.parametrize("value", [str(HUGE), f"-{HUGE}", str(2**64)])
def test_a_coefficient_that_is_typed(value: str, results: Path, sdbench: Sdbench) -> None:
    for method in ("cals[rho_every={}]", "mean_teacher[ramp_epochs={}]", "ls[smoothing={}]"):
        code, _, err = sdbench("run", "-n", "--methods", method.format(value), "-o", results)
        assert code == 2
        assert err.startswith("error: ")
