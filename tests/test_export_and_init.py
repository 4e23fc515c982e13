"""``sdbench export``, whose file others can merge, ``init``, whose file a run can read, ``new-method``."""

from __future__ import annotations

import json
import resource
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sdbench import api
from sdbench.cli import app
from sdbench.errors import UserError
from sdbench.request import Request, read_config
from sdbench.starting import EXAMPLES
from sdbench.store import Store, read_result

Writer = Callable[..., Path]


def sdbench(*arguments: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, list(map(str, arguments)))
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout, done.stderr


def test_what_is_exported_can_be_merged(tmp_path: Path, write_trial: Writer) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for seed in range(3):
        write_trial(here, "ce", seed, 0.5)
        write_trial(here, "ls", seed, 0.6)
    write_trial(here, "ls", 3, status="oom", metrics=None)
    write_trial(here, "ls", 4, status="interrupted", metrics=None)
    first = api.export(results=here, output=tmp_path / "a.zip")
    second = api.export(results=here, output=tmp_path / "b.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    assert (first.trials, first.left, first.bytes) == (7, (), second.bytes)
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert {Path(name).name for name in archive.namelist()} == {"trial.json", "curve.jsonl"}
        assert all(name.startswith("trials/glyphs/resnet8/") for name in archive.namelist())
        archive.extractall(tmp_path / "unpacked")
    assert api.validate(tmp_path / "unpacked").errors == ()
    assert api.merge(tmp_path / "unpacked", into=there).count("copied") == 7
    boards = [api.leaderboard(results=root).tables[0].rows for root in (here, there)]
    assert [(r.method, r.seeds, r.metrics, r.gain) for r in boards[0]] == [
        (r.method, r.seeds, r.metrics, r.gain) for r in boards[1]
    ]


def test_what_is_chosen_and_what_is_left(tmp_path: Path, write_trial: Writer) -> None:
    one = write_trial(tmp_path / "r", "ce", 0)
    changed, broken = write_trial(tmp_path / "r", "ls", 0), write_trial(tmp_path / "r", "ls", 1)
    (changed / "curve.jsonl").write_text("{}")
    (broken / "trial.json").write_text("{")
    outside = tmp_path / "secret.json"
    outside.write_text((one / "trial.json").read_text())
    (one.parent / "0123").mkdir()
    (one.parent / "0123" / "trial.json").symlink_to(outside)
    code, out, _ = sdbench("export", "--results", tmp_path / "r", "--output", tmp_path / "x.zip", "--json")
    told = json.loads(out)
    assert (code, told["trials"]) == (0, 2)
    assert len(told["left"]) == 2
    assert "changed after" in " ".join(told["left"])
    assert "damaged" in " ".join(told["left"])
    code, out, _ = sdbench("export", one.name[:6], "--results", tmp_path / "r", "--output", tmp_path / "y.zip")
    assert code == 0
    assert "1 trial(s)" in out
    with zipfile.ZipFile(tmp_path / "y.zip") as archive:
        assert archive.read(f"trials/glyphs/resnet8/ce/{one.name}/trial.json") == (one / "trial.json").read_bytes()


def test_a_curve_that_no_reader_takes_is_left_out(tmp_path: Path, write_trial: Writer) -> None:
    """Of two gigabytes that take no room on the disk, sealed as it is: export reads no more than readers do."""
    folder, other = write_trial(tmp_path / "r", "ls", 0), write_trial(tmp_path / "r", "ce", 0)
    with (folder / "curve.jsonl").open("wb") as file:
        file.truncate(2 * 2**30)
    Store(tmp_path / "r").write(read_result(folder / "trial.json"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = api.export(results=tmp_path / "r", output=tmp_path / "x.zip")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20  # KiB: half of the curve
    assert found.trials == 2
    assert "larger than" in " ".join(found.left) or "too large" in " ".join(found.left)
    with zipfile.ZipFile(tmp_path / "x.zip") as archive:
        names = {name.removeprefix("trials/glyphs/resnet8/") for name in archive.namelist()}
    assert names == {f"ls/{folder.name}/trial.json", *(f"ce/{other.name}/{n}" for n in ("trial.json", "curve.jsonl"))}


def test_export_mistakes_are_named_together(tmp_path: Path, write_trial: Writer) -> None:
    write_trial(tmp_path / "r", "ce", 0)
    (tmp_path / "kept.txt").write_text("mine")
    code, out, err = sdbench("export", "--output", tmp_path / "kept.txt", "-m", "zipf", "-d", "x", "-o", tmp_path / "r")
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 3
    assert (tmp_path / "kept.txt").read_text() == "mine"
    assert list(tmp_path.glob("*.zip")) == []


def test_init_writes_what_a_run_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = sdbench("init")
    assert code == 0
    assert "sdbench plan --config sdbench.toml" in out
    text = (tmp_path / "sdbench.toml").read_text()
    assert read_config(Path("sdbench.toml")) == {}
    assert EXAMPLES.keys() == Request.model_fields.keys()
    keys = [line.removeprefix("# ") for line in text.splitlines() if line.startswith("# ") and " = " in line]
    opened = tomllib.loads("\n".join(keys))
    assert [key.replace("-", "_") for key in opened] == list(Request.model_fields)
    usable = [k for k in keys if not k.startswith(("num-seeds", "address", "plugin", "data-dir", "timeout"))]
    (tmp_path / "mine.toml").write_text("\n".join(usable))
    plan = api.plan(config="mine.toml")
    assert {t.spec.method for t in plan.trials} == {"ce", "zipf", "pskd"}
    assert len(plan.trials) == 15
    before = (tmp_path / "sdbench.toml").read_bytes()
    assert sdbench("init")[0] == 2
    assert (tmp_path / "sdbench.toml").read_bytes() == before
    assert api.init("other.toml").read_text().count("\n") == text.count("\n")
    with pytest.raises(UserError, match="no folder"):
        api.init("no/where.toml")


def test_new_method_writes_a_plugin_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = sdbench("new-method", "mine", "--kind", "views")
    assert code == 0
    assert out.endswith("    sdbench check mine --plugin mine.py\n    pytest test_mine.py\n")
    assert '@register("mine"' in (tmp_path / "mine.py").read_text()
    code, out, err = sdbench("new-method", "mine", "--kind", "vews")
    assert (code, out) == (2, "")
    assert "did you mean 'views'" in err
    assert sdbench("new-method", "ce", "--directory", "nowhere")[0] == 2
    told = api.new_method("other", tests=tmp_path)
    assert (told.method, told.test, told.plugin) == ("other.py", "test_other.py", True)
