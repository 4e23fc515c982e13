"""The Python API: the commands' own answers as records, and frames of them."""

from __future__ import annotations

import inspect
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

import sdbench
from sdbench import api
from sdbench.api_options import ClaimsOptions, DistillOptions, ProfileOptions, RunOptions, command, typed
from sdbench.api_tune import TuneOptions
from sdbench.cli import app
from sdbench.cost.records import ProfileResult, ProfileRow
from sdbench.cost.request import ProfileRequest
from sdbench.engine.job import Job
from sdbench.errors import UserError
from sdbench.leaderboard_records import Board
from sdbench.request import Request
from sdbench.spec import TrialResult
from sdbench.store import Store
from sdbench.train import run_trial

Writer = Callable[..., Path]
PUBLISHED = Path(__file__).resolve().parent.parent / "results" / "published"
SIGNED = ("leaderboard", "compare", "validate", "merge", "schema", "report", "plot", "analyze")
SIGNED += ("check", "doctor", "describe", "prepare", "gc", "rm", "rescore", "export", "init")
"""Commands whose functions name their arguments themselves."""


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
    verbs = {verb.replace("-", "_") for verb in typer.main.get_command(app).commands} - {"list", "show"}  # type: ignore[attr-defined]
    assert verbs <= set(api.__all__), f"sdbench.api lacks {sorted(verbs - set(api.__all__))}"
    assert {"trial", "trials", "list_methods", "to_pandas"} <= set(api.__all__)
    for name in api.__all__:
        assert inspect.getdoc(getattr(api, name)), name


def test_keyword_arguments_are_named_as_options() -> None:
    assert RunOptions.__annotations__.keys() == Request.model_fields.keys()
    assert {*ProfileOptions.__annotations__, "sweep"} == ProfileRequest.model_fields.keys()
    assert ClaimsOptions.__annotations__.keys() <= ProfileRequest.model_fields.keys()
    group = typer.main.get_command(app)
    own = {verb: set(inspect.signature(getattr(api, verb)).parameters) for verb in SIGNED}
    own["leaderboard"] -= {"write"}
    own["distill"] = set(DistillOptions.__annotations__)
    own["tune"] = set(TuneOptions.__annotations__)
    for verb, names in own.items():
        names = names - {"dry_run"}
        options = {p.name.rstrip("_") for p in group.commands[verb].params}  # type: ignore[attr-defined]
        assert names == options - {"as_json", "format", "quiet", "dry_run", "show_config", "yes"}, verb


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
    plain = api.compare("ce", "ls", results=results, metric="ece")
    told = json.loads(cli("compare", "ce", "ls", "--metric", "ece", "--results", results, "--json"))
    assert told == plain.model_dump(mode="json")


def test_compare_looks_up_learning_curves(small_world: Any) -> None:
    found = api.compare("ce", "ls", target=30, at=0.5, results=small_world.results)
    words = ["compare", "ce", "ls", "--target", 30, "--at", 0.5, "--results", small_world.results, "--json"]
    assert json.loads(cli(*words)) == found.model_dump(mode="json")
    assert found != api.compare("ce", "ls", results=small_world.results)


def test_published_numbers_stand_on_the_board_where_asked_for(tmp_path: Path, write_trial: Writer) -> None:
    results = tmp_path / "results"
    for method in ("ce", "ls"):
        write_trial(results, method, dataset="cifar100")
    told = json.loads(cli("leaderboard", "--published", "--results", results, "--json"))
    board = api.leaderboard(results=results, published=True)
    own = {row.label: [each.model_dump(mode="json") for each in row.published] for row in board.tables[0].rows}
    assert {row["label"]: row["published"] for row in told["tables"][0]["rows"]} == own
    assert any(own.values())
    assert not any(row.published for row in api.leaderboard(results=results).tables[0].rows)


def test_analyses_are_those_of_the_command(small_world: Any, tmp_path: Path) -> None:
    own = {"results": small_world.results, "data_dir": small_world.pictures}
    found = api.analyze("ce", "ls", **own, classes=[2, 0, 1], output=tmp_path / "p.svg")
    words = ["analyze", "ce,ls", "--results", small_world.results, "--data-dir", small_world.pictures]
    told = json.loads(cli(*words, "--classes", "2,0,1", "--output", tmp_path / "p.svg", "--json"))
    assert told == [each.model_dump(mode="json") for each in found]
    (group,) = found
    assert [row.label for row in group.zipf] == [row.label for row in group.geometry] == ["ce", "ls"]
    assert group.classes == ("class2", "class0", "class1")
    assert set(group.pictures) == {"zipf", "calibration", "geometry"}
    assert {Path(path) for path in group.pictures.values()} == set(tmp_path.iterdir())
    (some,) = api.analyze("ls", kind="zipf", over="all", ranks="1-4", seeds=1, results=small_world.results)
    assert [row.seeds for row in some.zipf] == [(1,)]
    assert (some.last_rank, some.target_left_out, some.calibration, some.pictures) == (4, False, (), {})
    with pytest.raises(UserError) as caught:
        api.analyze("ce", kind="zpf", ranks="few", train_images=-1, results=small_world.results)
    assert len(caught.value.problems) == 3


def test_what_an_analysis_could_not_look_at_is_in_its_notes(small_world: Any, tmp_path: Path) -> None:
    root = shutil.copytree(small_world.results, tmp_path / "results")
    next(root.glob("trials/**/logits.safetensors")).unlink()
    (found,) = api.analyze(kind="zipf", results=root)
    assert len(found.notes) == 1
    assert "were not kept" in found.notes[0]
    assert sum(len(row.seeds) for row in found.zipf) == 3
    done = CliRunner().invoke(app, ["analyze", "--kind", "zipf", "--results", str(root), "--json"])
    assert done.exit_code == 1
    assert json.loads(done.stdout) == [found.model_dump(mode="json")]


def test_files_are_those_of_the_commands(small_world: Any, tmp_path: Path) -> None:
    page, figure = tmp_path / "r.html", tmp_path / "z.svg"
    written = api.report(page, results=small_world.results)
    first = page.read_bytes()
    told = json.loads(cli("report", "--output", page, "--results", small_world.results, "--json"))
    assert told == written.model_dump(mode="json")
    assert (written.trials, written.boards, written.damaged) == (4, 1, 0)
    assert (Path(written.output), written.bytes) == (page, len(first))
    assert page.read_bytes() == first

    drawn = api.plot("zipf", figure, methods="ls", results=small_world.results)
    words = ["plot", "zipf", "--output", figure, "--methods", "ls", "--results", small_world.results]
    assert json.loads(cli(*words, "--json")) == drawn.model_dump(mode="json")
    assert "<svg" in figure.read_text()
    assert cli(*words) == f"wrote {figure}\n{drawn.caption}\n"
    with pytest.raises(UserError, match="did you mean 'zipf'"):
        api.plot("zpf", figure, results=small_world.results)
    with pytest.raises(UserError, match="give a file"):
        api.plot("zipf", None, results=small_world.results)
    with pytest.raises(UserError, match="has to end with"):
        api.report(tmp_path / "r.pdf", results=small_world.results)


def test_a_report_of_damaged_records_warns(results: Path) -> None:
    next(results.glob("trials/*/*/*/*/trial.json")).write_text("{}")
    with pytest.warns(UserWarning, match="damaged record left out") as caught:
        written = api.report(results=results)
    assert (written.damaged, written.trials, Path(written.output)) == (1, 5, results / "report.html")
    assert caught[0].filename == __file__


def test_distill_returns_the_table(
    small_world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sdbench.run.ENGINES", {"local": run_here})
    root = shutil.copytree(small_world.results, tmp_path / "results")
    images = f"folder:{small_world.pictures}"
    options: dict[str, Any] = {
        "teachers": ["ce", "ls"], "temperatures": 4, "dataset": images, "results": root, "engine": "local",
        "device": "cpu", "seeds": 0,
    }  # fmt: skip
    plan = api.plan_distill(**options, alpha=[0.5, 1])
    assert [t.spec.method for t in plan.trials] == ["ce", "kd", "kd", "kd", "kd"]
    table = api.distill(**options)
    assert capfd.readouterr() == ("", "")
    assert [(row.teacher, row.temperature, row.alpha, row.seeds) for row in table.rows] == [
        ("ce", 4.0, 0.9, (0,)), ("ls", 4.0, 0.9, (0,)),
    ]  # fmt: skip
    words = ["distill", "--teachers", "ce,ls", "--temperatures", 4, "--dataset", images, "--results", root]
    words += ["--engine", "local", "--device", "cpu", "--seeds", 0, "--quiet", "--json"]
    assert json.loads(cli(*words)) == table.model_dump(mode="json")
    assert len(table.to_pandas()) == 2
    students = [each for each in api.trials(root) if each.spec.method == "kd"]
    assert len(students) == 2
    assert students[0].provenance.command[:3] == ("distill", "--teachers", "ce,ls")
    with pytest.raises(UserError) as caught:
        api.distill(**{**options, "temperatures": [0, "hot"]})
    assert len(caught.value.problems) == 2
    with pytest.raises(UserError, match="did you mean 'teachers'"):
        api.distill(**{**options, "teacher": "ce"})


def test_claims_without_measuring() -> None:
    table = api.claims(results=PUBLISHED, methods="zipf", model="resnet20", classes=100)
    assert [row.method for row in table.rows] == ["ce", "zipf"]  # the baseline, to which all else is relative
    told = json.loads(
        cli(
            "claims", "--results", PUBLISHED, "-m", "zipf", "-M", "resnet20", "--classes", 100, "--no-measure", "--json"
        )
    )
    assert told == table.model_dump(mode="json")


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
