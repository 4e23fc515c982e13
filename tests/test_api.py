"""The Python API: the commands' own answers as records, and frames of them."""

from __future__ import annotations

import inspect
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import typer.main
from typer.testing import CliRunner

import sdbench
from sdbench import api, frames
from sdbench.api_options import ClaimsOptions, ProfileOptions, RunOptions, command, typed
from sdbench.cli import app
from sdbench.cost.records import ProfileResult, ProfileRow
from sdbench.cost.request import ProfileRequest
from sdbench.engine.job import Job
from sdbench.errors import UserError
from sdbench.leaderboard_records import Board, Table
from sdbench.request import Request
from sdbench.spec import TrialResult
from sdbench.store import Store
from sdbench.train import run_trial

Writer = Callable[..., Path]
PUBLISHED = Path(__file__).resolve().parent.parent / "results" / "published"
WITHOUT_FUNCTION = {"list": "list_methods and others", "show": "trial", "schema": "schema"}


def cli(*arguments: object) -> str:
    """The stdout of a command."""
    done = CliRunner().invoke(app, list(map(str, arguments)))
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture
def results(tmp_path: Path, write_trial: Writer) -> Path:
    root = tmp_path / "results"
    for seed in range(3):
        write_trial(root, "ce", seed, 0.25)
        write_trial(root, "ls", seed, (0.5, 0.75, 0.25)[seed], params={"smoothing": 0.1, "spread": "all"})
    return root


def test_it_is_exported_lazily_and_loads_nothing_heavy() -> None:
    code = (
        "import sys, sdbench\nassert 'sdbench.api' not in sys.modules\nsdbench.api.run\nsdbench.api.trials('nowhere')\n"
        "print([m for m in ('torch', 'ray', 'pandas', 'scipy', 'typer') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert "api" in dir(sdbench)


def test_every_command_has_a_function() -> None:
    verbs = set(typer.main.get_command(app).commands) - {"list", "show"}  # type: ignore[attr-defined]
    assert verbs <= set(api.__all__), f"sdbench.api lacks {sorted(verbs - set(api.__all__))}"
    assert {"trial", "trials", "list_methods", "to_pandas"} <= set(api.__all__)
    for name in api.__all__:
        assert inspect.getdoc(getattr(api, name)), name


def test_keyword_arguments_are_named_as_options() -> None:
    assert RunOptions.__annotations__.keys() == Request.model_fields.keys()
    assert {*ProfileOptions.__annotations__, "sweep"} == ProfileRequest.model_fields.keys()
    assert ClaimsOptions.__annotations__.keys() <= ProfileRequest.model_fields.keys()
    group = typer.main.get_command(app)
    for verb in (
        "leaderboard",
        "compare",
        "doctor",
        "describe",
        "validate",
        "merge",
        "check",
        "report",
        "plot",
        "analyze",
    ):
        options = {p.name.rstrip("_") for p in group.commands[verb].params}  # type: ignore[attr-defined]
        own = set(inspect.signature(getattr(api, verb)).parameters) if hasattr(api, verb) else set()
        assert own <= options | {"write", "paths", "sources"}, verb


@pytest.mark.parametrize("options", [{"metods": "ce"}, {"methods": "ce", "lrr": 1}])
def test_a_misspelt_option_is_answered(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="did you mean"):
        api.plan(**options)


def test_options_are_read_as_the_command_line_reads_them(tmp_path: Path) -> None:
    into = tmp_path / "r"
    plan = api.plan(
        methods=["zipf[weight=0.5]", "ls"], seeds=range(2), epochs=1, lr=0.05, model="resnet20", baseline=False,
        temperature_scaling=True, engine="local", weights=False, results=into, dataset=None, gpus=0,
    )  # fmt: skip
    words = ["run", "--methods", "zipf[weight=0.5],ls", "--seeds", "0,1", "--epochs", "1", "--lr", "0.05"]
    words += ["--model", "resnet20", "--no-baseline", "--temperature-scaling", "--engine", "local", "--no-weights"]
    told = json.loads(cli(*words, "--results", into, "--gpus", 0, "--dry-run", "--json"))
    assert [t["trial_id"] for t in told["trials"]] == [t.id for t in plan.trials]
    assert len(plan.trials) == 4
    assert not plan.options.keep_weights
    assert plan.options.command[: len(words)] == tuple(words)
    assert into.name in plan.options.command
    assert str(tmp_path) not in " ".join(plan.options.command)
    with pytest.raises(UserError) as caught:
        api.plan(methods="zpf", epochs="many", results=into)
    assert len(caught.value.problems) == 2


def test_a_configuration_file_and_the_environment_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "c.toml"
    config.write_text('methods = "ls"\nepochs = 3\nseeds = [5]\n')
    monkeypatch.setenv("SDBENCH_EPOCHS", "4")
    plan = api.plan(config=config, seeds=6, results=tmp_path / "r")
    assert {(t.spec.method, t.spec.recipe.epochs, t.spec.seed) for t in plan.trials} == {("ce", 4, 6), ("ls", 4, 6)}


def test_typed_values() -> None:
    known = ("a", "b", "c", "d", "e", "f")
    given = {"a": None, "b": True, "c": 0, "d": [1, "x"], "e": Path("p"), "f": "1,2"}
    assert typed(given, known) == {"b": "true", "c": "0", "d": ["1", "x"], "e": "p", "f": "1,2"}
    assert command("run", {"d": ["1", "x"], "weights": "false"}) == ["run", "--d", "1,x", "--no-weights"]


def run_here(jobs: list[Job], resources: object, stop: object) -> None:
    """An engine without processes."""
    for job in jobs:
        run_trial(job.trial, Store(Path(job.store)), job.options)


@pytest.fixture
def tiny_images(tmp_path: Path) -> str:
    """A data set of a few small images of noise, two classes."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for part, count in (("train", 4), ("val", 2)):
        for name in ("cat", "dog"):
            (tmp_path / "noise" / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "noise" / part / name / f"{i}.png")
    return f"folder:{tmp_path / 'noise'}"


def test_run_trains_and_returns_the_records(
    tmp_path: Path, tiny_images: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sdbench.run.ENGINES, "local", run_here)  # type: ignore[attr-defined]
    options: dict[str, Any] = {
        "methods": "ls", "dataset": tiny_images, "image_size": 16, "model": "resnet8", "protocol": "demo", "epochs": 1,
        "batch_size": 4, "seeds": [0], "engine": "local", "device": "cpu", "results": tmp_path / "r",
    }  # fmt: skip
    outcome = api.run(**options)
    assert [(r.spec.method, r.status) for r in outcome.results] == [("ce", "ok"), ("ls", "ok")]
    assert (outcome.exit_code, outcome.reused) == (0, 0)
    assert api.run(**options).reused == 2
    assert api.trials(tmp_path / "r") == sorted(outcome.results, key=lambda r: r.spec.method)
    assert api.trial(outcome.results[0].trial_id[:6], tmp_path / "r") == outcome.results[0]
    assert (tmp_path / "r" / "leaderboard.md").exists()
    assert api.validate(tmp_path / "r").errors == ()
    assert capfd.readouterr() == ("", "")


def test_answers_are_those_of_the_commands(results: Path, tmp_path: Path) -> None:
    board = api.leaderboard(results=results)
    told = json.loads(cli("leaderboard", "--results", results, "--json"))
    assert Board.model_validate_json(board.model_dump_json()) == board
    assert [row["label"] for row in told["tables"][0]["rows"]] == [row.label for row in board.tables[0].rows]
    assert told["tables"][0]["rows"][0]["metrics"]["top1"]["mean"] == board.tables[0].rows[0].metrics["top1"].mean
    assert {row.method for row in api.leaderboard(results=results, methods="ls").tables[0].rows} == {"ce", "ls"}

    found = api.validate(results)
    assert json.loads(cli("validate", results, "--json")) == json.loads(found.model_dump_json())
    merged = api.merge(results, into=tmp_path / "copy")
    assert merged.count("copied") == 6
    assert json.loads(cli("merge", results, "--into", tmp_path / "again", "--json"))["records"] == [
        json.loads(each.model_dump_json()) for each in merged.records
    ]
    shown = json.loads(cli("show", api.trials(results)[0].trial_id, "--results", results, "--json"))
    assert TrialResult.model_validate(shown) == api.trial(api.trials(results)[0].trial_id, results)
    assert json.loads(cli("schema", "profile")) == api.schema("profile")
    assert json.loads(cli("describe", "ls", "--json")) == json.loads(api.describe("ls").model_dump_json())
    assert json.loads(cli("list", "protocols", "--json")) == api.list_protocols()
    assert {fact["name"] for fact in json.loads(cli("doctor", "--results", results, "--json"))} == {
        fact.name for fact in api.doctor(results=results)
    }


def test_compare_returns_the_comparison(results: Path) -> None:
    found = api.compare("ce", "ls", results=results, fail_if="top1>1")
    row = found.tables[0].rows[0]
    assert row.label == "ls"
    assert row.difference.mean == pytest.approx(0.25)  # (0.25 + 0.5 + 0) / 3
    assert len(found.failed) == 1
    told = json.loads(CliRunner().invoke(app, ["compare", "ce", "ls", "--results", str(results), "--json"]).stdout)
    assert told["tables"][0]["rows"][0]["difference"]["mean"] == row.difference.mean


def test_claims_without_measuring() -> None:
    table = api.claims(results=PUBLISHED, methods="zipf", model="resnet20", classes=100)
    assert [row.method for row in table.rows] == ["zipf"]
    told = json.loads(
        cli(
            "claims", "--results", PUBLISHED, "-m", "zipf", "-M", "resnet20", "--classes", 100, "--no-measure", "--json"
        )
    )
    assert told["rows"] == json.loads(table.model_dump_json())["rows"]


def test_profiles_are_kept_and_returned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = api.profiles(PUBLISHED)
    asked = []

    def unmeasured(plan: Any, told: object) -> ProfileResult:
        asked.append(plan)
        rows = tuple(ProfileRow(method=c.name, params=dict(c.params)) for c in plan.contestants)
        setting = {"setting": plan.setting, "profile_id": f"p{len(asked)}", "rows": rows}
        return kept[0].model_copy(update=setting)

    monkeypatch.setattr("sdbench.cost.commands.profile", unmeasured)
    found = api.profile(methods=["ls", "zipf"], model="resnet8", rounds=5, memory=False, results=tmp_path)
    assert [row.method for row in found.rows] == ["ce", "ls", "zipf"]
    assert asked[0].setting.rounds == 5
    assert not asked[0].memory
    assert [r.profile_id for r in api.profiles(tmp_path)] == ["p1"]
    swept = api.profile_sweep("classes=10,20", methods="ls", model="resnet8", results=tmp_path)
    assert [each.setting.num_classes for each in swept] == [10, 20]
    with pytest.raises(UserError, match="did you mean"):
        api.profile(round=5)  # type: ignore[call-arg]


def test_check_returns_findings_by_method() -> None:
    found = api.check("ls")
    assert list(found) == ["ls"]
    assert all(finding.passed for finding in found["ls"])
    assert len(found["ls"]) > 5


def test_a_damaged_record_is_a_warning(results: Path) -> None:
    path = next(results.glob("trials/*/*/*/*/trial.json"))
    path.write_text("{}")
    with pytest.warns(UserWarning, match="damaged record left out"):
        assert len(api.trials(results)) == 5


def test_a_frame_of_trials(results: Path) -> None:
    trials = api.trials(results)
    frame = api.to_pandas(trials)
    assert len(frame) == 6
    assert frame.columns.is_unique
    assert frame["trial_id"].tolist() == [t.trial_id for t in trials]
    expected = {
        "method": "string", "seed": "Int64", "status": "string", "epochs": "Int64", "lr": "float64", "top1": "float64",
        "scaled_nll": "float64", "temperature": "float64", "held_out": "Int64", "timing_valid": "boolean",
        "generation": "Int64", "finished": "datetime64[ns, UTC]", "train_s": "float64", "param.smoothing": "float64",
        "param.spread": "string", "versions": "string", "initial_weights": "string", "num_classes": "Int64",
    }  # fmt: skip
    assert {name: str(frame[name].dtype) for name in expected} == expected
    by_method = frame.groupby("method")["top1"].mean()
    assert by_method["ls"] == pytest.approx(0.5)
    assert by_method["ce"] == pytest.approx(0.25)
    assert frame.loc[frame["method"] == "ce", "param.smoothing"].isna().all()
    assert math.isnan(frame["scaled_nll"].iloc[0])
    assert json.loads(frame["versions"].iloc[0]) == {"torch": "2.10.0"}
    assert frame["finished"].iloc[0] == pd.Timestamp("2026-01-01T01:00:00Z")


def test_frames_have_the_same_columns_whatever_is_in_them(results: Path, tmp_path: Path, write_trial: Writer) -> None:
    some = api.to_pandas(api.trials(results)).dtypes
    none = api.to_pandas([]).dtypes
    plain = some[[name for name in some.index if not name.startswith("param.")]]
    assert plain.equals(none)
    write_trial(tmp_path / "one", status="nan", metrics=None, cost=None, pairing=None)
    assert api.to_pandas(api.trials(tmp_path / "one")).dtypes.equals(none)


def leaves(kind: type[Any]) -> int:
    """Fields of a record, those of its parts counted instead of the part; parameters not."""
    return sum(leaves(own) if what == "record" else what == "plain" for what, own in frames._fields(kind).values())


@pytest.mark.parametrize("kind", [TrialResult, ProfileRow, ProfileResult])
def test_no_two_fields_share_a_column(kind: type[Any]) -> None:
    assert len(frames.types_of(kind)) == leaves(kind)


def test_a_frame_of_profiles_loses_no_column_of_a_profile_to_its_rows() -> None:
    whole, row = frames.types_of(ProfileResult), frames.types_of(ProfileRow)
    assert whole.keys() & row.keys() == set()
    frame = api.to_pandas(api.profiles(PUBLISHED))
    published = api.profiles(PUBLISHED)
    assert len(frame) == sum(len(each.rows) for each in published)
    zipf = frame[(frame["method"] == "zipf") & (frame["num_classes"] == 10000)]
    row_of = next(p for p in published if p.setting.num_classes == 10000).row("zipf")
    assert row_of is not None
    assert row_of.time_ratio is not None
    assert zipf["time_ratio_median"].tolist() == [row_of.time_ratio.median]
    assert zipf["memory_peak_bytes"].tolist() == [row_of.memory.peak_bytes if row_of.memory else None]


def test_a_frame_of_a_board(results: Path) -> None:
    board = api.leaderboard(results=results)
    frame = board.to_pandas()
    assert frame.equals(api.to_pandas(board))
    assert frame["method"].tolist() == [row.method for row in board.tables[0].rows]
    ls = frame[frame["method"] == "ls"].iloc[0]
    assert ls["top1"] == pytest.approx(0.5)
    assert ls["top1_std"] == pytest.approx(0.25)  # of 0.5, 0.75, 0.25
    assert ls["gain"] == pytest.approx(0.25)
    assert (ls["n"], ls["gain_n"], ls["trials_ok"], ls["trials_failed"]) == (3, 3, 3, 0)
    assert ls["gain_low"] < 0.25 < ls["gain_high"]
    assert (ls["dataset"], ls["network"], ls["epochs"]) == ("glyphs", "resnet8", 2)
    dtypes = {name: str(frame[name].dtype) for name in ("baseline", "rank", "top1", "label", "image_size", "step_time")}
    assert dtypes == {
        "baseline": "boolean", "rank": "Int64", "top1": "float64", "label": "string", "image_size": "Int64",
        "step_time": "float64",
    }  # fmt: skip
    assert frame.columns.is_unique
    assert (
        Board(tables=(), notes=())
        .to_pandas()
        .dtypes.equals(frame.dtypes[[c for c in frame.columns if not c.startswith("param.")]])
    )
    assert isinstance(board.tables[0], Table)


def test_other_things_make_no_frame(results: Path) -> None:
    mixed = [*api.trials(results), *api.profiles(PUBLISHED)]
    for wrong in (mixed, ["trial"], [1]):
        with pytest.raises(TypeError, match="to_pandas"):
            api.to_pandas(wrong)  # type: ignore[arg-type]
