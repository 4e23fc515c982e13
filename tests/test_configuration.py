"""``--show-config``: every value with its origin, and what records keep of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sdbench import api
from sdbench.cli import app
from sdbench.configuration import resolved
from sdbench.request import Request


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "sdbench.toml"
    path.write_text('lr = 0.2\nseeds = [3]\nepochs = 9\nmethods = ["zipf[power=1.5]", "pskd"]\n')
    return path


def test_each_layer_is_named(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDBENCH_EPOCHS", "4")
    monkeypatch.setenv("SDBENCH_THREADS", "2")
    words = ["--threads", "1", "--dataset", "glyphs", "--results", str(tmp_path / "deep" / "r"), "--no-weights"]
    done = CliRunner().invoke(app, ["run", "-C", str(config), "--show-config", "--json", *words])
    assert done.exit_code == 0, done.output
    told = {row["name"]: (row["value"], row["origin"]) for row in json.loads(done.stdout)}
    assert told["lr"] == ("0.2", "file sdbench.toml")
    assert told["seeds"] == ("3", "file sdbench.toml")
    assert told["epochs"] == ("4", "variable SDBENCH_EPOCHS")
    assert told["threads"] == ("1", "flag")
    assert told["weights"] == ("false", "flag")
    assert told["logits"] == ("true", "default")
    assert told["batch_size"] == ("32", "protocol demo")
    assert told["model"] == ("resnet8", "protocol demo")
    assert told["recipe.momentum"] == ("0.9", "protocol demo")
    assert told["recipe.augment"] == ("crop", "data set glyphs")
    assert told["zipf.power"] == ("1.5", "file sdbench.toml")
    assert told["zipf.weight"] == ("0.1", "default")
    assert told["address"] == ("-", "default")
    assert Request.model_fields.keys() <= told.keys()
    assert not (tmp_path / "deep" / "r" / "leaderboard.md").exists()
    same = CliRunner().invoke(app, ["plan", "-C", str(config), "--show-config", "--json", *words])
    assert same.stdout == done.stdout
    text = CliRunner().invoke(app, ["run", "-C", str(config), "--show-config", *words]).stdout
    assert "variable SDBENCH_EPOCHS" in text


def test_what_is_recommended_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from sdbench import data
    from sdbench.data import DataFacts

    facts = DataFacts("tinyimagenet", "content:0", 200, 100_000, 10_000, 32, "crop-flip", ())
    monkeypatch.setattr(data, "inspect", lambda *_: facts)
    told = {s.name: s for s in api.config(methods="zipf", dataset="tinyimagenet", results=tmp_path)}
    assert (told["zipf.weight"].value, told["zipf.weight"].origin) == ("1", "recommended for tinyimagenet")
    assert told["protocol"].value == "fixed"
    assert told["epochs"] == told["epochs"].model_copy(update={"value": "200", "origin": "protocol fixed"})


def test_records_keep_it_without_paths_or_hosts(config: Path, tmp_path: Path) -> None:
    flags = {"results": str(tmp_path / "r"), "data_dir": str(tmp_path / "pictures"), "address": "10.1.2.3:6379"}
    plan, _ = resolved({**flags, "compile": "off"}, config, {"SDBENCH_MAX_FAILURES": "3"}, ["run"])
    kept, told = plan.options.config, plan.options.origins
    assert (kept["results"], kept["data_dir"], kept["address"], kept["lr"]) == ("r", "pictures", "given", "0.2")
    assert (told["lr"], told["max_failures"], told["epochs"]) == (
        "file sdbench.toml", "variable SDBENCH_MAX_FAILURES", "file sdbench.toml",
    )  # fmt: skip
    assert "precision" in kept
    assert "precision" not in told
    assert "10.1.2.3" not in plan.options.model_dump_json()
    assert str(tmp_path) not in json.dumps([kept, told])
