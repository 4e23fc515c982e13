"""sdbench tune: equal budgets, a choice on held-out images, fresh seeds, and boards that tell it all."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from sdbench import api, data, registry
from sdbench.boards import Filter, leaderboard
from sdbench.cli import app
from sdbench.data.dataset import DataSet
from sdbench.engine.job import Job
from sdbench.errors import EnvironmentProblem, UserError
from sdbench.protocol import TUNED_SPACE
from sdbench.spec import Metrics, Provenance, TrialResult, TrialSpec
from sdbench.store import Store, read_result
from sdbench.study import draw
from sdbench.study_records import StudyResult, Tried, choose, mark_stopped, read_study, stopped_after
from sdbench.study_values import at, values_of
from sdbench.train import run_trial
from sdbench.tuning import TuningPlan, plan_tuning
from sdbench.tuning_records import Budget
from sdbench.tuning_run import TuneOutcome, carry_through, closing_lines

LR, DECAY = "recipe.lr", "recipe.weight_decay"
BUDGET: dict[str, Any] = {"epochs": 2, "split": "holdout-0.1", "lr": 0.1, "weight_decay": 0.0005}


class Runner:
    """An engine without processes, which counts what it runs and may leave off early."""

    def __init__(self) -> None:
        self.specs: list[TrialSpec] = []
        self.most = 10_000

    def __call__(self, jobs: list[Job], resources: object, stop: object) -> None:
        for job in jobs[: self.most]:
            self.specs.append(job.trial.spec)
            run_trial(job.trial, Store(Path(job.store)), job.options)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory, make_pictures: Callable[..., Path]) -> str:
    """Three classes of brightness, 14 images each to train on, 4 to test."""
    root = make_pictures(tmp_path_factory.mktemp("data") / "shades", 14, 4, classes=3, mean=70, step=50)
    return f"folder:{root}"


def options(pictures: str, results: Path, **given: Any) -> dict[str, Any]:
    return {
        "dataset": pictures, "image_size": 16, "model": "resnet8", "epochs": 2, "batch_size": 16, "device": "cpu",
        "engine": "local", "results": results, "trials": 3, "seeds": "0-1", **given,
    }  # fmt: skip


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> Runner:
    made = Runner()
    monkeypatch.setattr("sdbench.run.ENGINES", {"local": made})
    return made


class World:
    """One search that is over, of ls, zipf with its power given, and cals; read by many tests, written to by none."""

    def __init__(self, results: Path, pictures: str) -> None:
        self.results, self.pictures, self.runner = results, pictures, Runner()
        self.done: TuneOutcome
        self.tested_in_search = 0

    def tune(self) -> None:
        methods = ["ls", "zipf[power=1.5]", "cals"]
        self.done = api.tune(**options(self.pictures, self.results, methods=methods))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, pictures: str) -> World:
    made = World(tmp_path_factory.mktemp("tuned") / "results", pictures)
    seen = DataSet.test_batches

    def test_batches(self: DataSet, *arguments: Any, **named: Any) -> Any:
        made.tested_in_search += made.runner.specs[-1].search
        return seen(self, *arguments, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sdbench.run.ENGINES", {"local": made.runner})
        patch.setattr(DataSet, "test_batches", test_batches)
        made.tune()
    return made


def studies_by_method(done: TuneOutcome) -> dict[str, StudyResult]:
    return {study.spec.method: study for study in done.studies}


def test_every_method_has_the_same_budget_and_the_default_point_comes_first(world: World) -> None:
    found = studies_by_method(world.done)
    assert set(found) == {"ce", "ls", "zipf", "cals"}
    for method, study in found.items():
        assert len(study.tried) == 3
        assert study.over
        assert study.budget == found["ce"].budget
        default = registry.resolve(method, "folder:shades", {"power": 1.5} if method == "zipf" else {})
        first = study.tried[0].values
        assert (first[LR], first[DECAY]) == (0.1, 0.0005)
        assert all(first[name] == default[name] for name in first if name not in TUNED_SPACE)
    assert set(found["ce"].space) == {LR, DECAY}
    assert set(found["ls"].space) == {LR, DECAY, "smoothing"}
    assert set(found["zipf"].space) == {LR, DECAY, "weight"}  # the power was given


def test_all_methods_are_offered_the_same_rates_and_decays(world: World) -> None:
    offered = {tuple((each.values[LR], each.values[DECAY]) for each in study.tried) for study in world.done.studies}
    assert len(offered) == 1
    (pairs,) = offered
    assert len(set(pairs)) == 3
    assert all(0.01 <= lr <= 1 and 5e-5 <= decay <= 5e-3 for lr, decay in pairs)


def test_the_search_never_sees_the_test_set_and_draws_from_no_final_stream(world: World) -> None:
    searched = [spec for spec in world.runner.specs if spec.search]
    final = [spec for spec in world.runner.specs if not spec.search]
    assert len(searched) == 4 * 3
    assert world.tested_in_search == 0
    assert {spec.split for spec in searched} == {"holdout-0.1"}
    assert {spec.protocol for spec in searched} == {"tuned-search"}
    assert not {spec.stream for spec in searched} & {spec.stream for spec in final}
    for study in world.done.studies:
        root = world.results / "tuning" / study.study_id
        for each in study.tried:
            (path,) = root.glob(f"trials/*/*/*/{each.trial_id}/trial.json")
            record = read_result(path)
            assert record.metrics is None
            assert record.scaled is None
            assert record.validation_top1 == each.validation_top1[2]
            assert {p.name for p in path.parent.iterdir()} <= {"trial.json", "started.json", "curve.jsonl", ".lock"}
            lines = [json.loads(line) for line in (path.parent / "curve.jsonl").read_text().splitlines()]
            assert not any("top1" in line for line in lines)


def test_search_trials_of_a_seed_start_alike(world: World) -> None:
    paths = world.results.glob("tuning/*/trials/*/*/*/*/trial.json")
    assert len({read_result(path).pairing for path in paths}) == 1  # type: ignore[type-var]
    finals = {r.spec.seed: r.pairing for r in world.done.outcome.results if r.spec.split == "full"}
    assert len(set(finals.values())) == 2


def test_what_scored_best_on_held_out_images_is_trained_with_fresh_seeds(world: World) -> None:
    for study in world.done.studies:
        scores = [each.validation_top1[2] for each in study.tried]
        assert study.chosen == scores.index(max(scores))
        best = study.tried[study.chosen]
        assert study.told is not None
        assert study.told.validation_top1 >= study.tried[0].validation_top1[2]
        own = [r for r in world.done.outcome.results if r.spec.method == study.spec.method]
        assert {r.spec.seed for r in own} == {0, 1}
        for record in own:
            assert record.status == "ok"
            assert record.metrics is not None
            assert record.spec.protocol == "tuned"
            assert record.spec.tuning is not None
            assert record.spec.tuning.study == study.study_id
            assert record.spec.tuning.trials == 3
            assert (record.spec.recipe.lr, record.spec.recipe.weight_decay) == (best.values[LR], best.values[DECAY])
            assert all(record.spec.params[n] == v for n, v in best.values.items() if n not in TUNED_SPACE)
            assert record.tuned == study.told
            assert record.tuned.epochs == 6
    splits = {(r.spec.method, r.spec.split) for r in world.done.outcome.results}
    assert splits == {("ce", "full"), ("ls", "full"), ("zipf", "full"), ("ce", "holdout-0.1"), ("cals", "holdout-0.1")}


def test_a_study_is_a_record_of_its_own(world: World) -> None:
    for study in world.done.studies:
        root = world.results / "tuning" / study.study_id
        read = read_study(root)
        assert read.model_copy(update={"checksums": {}}) == study
        assert read.checksums
    text = (root / "study.json").read_text()
    (root.parent.parent / "elsewhere").mkdir()
    (root.parent.parent / "elsewhere" / "study.json").write_text(text.replace('"trials": 3', '"trials": 4', 1))
    with pytest.raises(Exception, match="checksum does not match"):
        read_study(root.parent.parent / "elsewhere")


def test_the_same_command_again_trains_nothing(world: World, runner: Runner) -> None:
    before = {path: path.read_bytes() for path in world.results.rglob("trial.json")}
    again = api.tune(**options(world.pictures, world.results, methods=["ls", "zipf[power=1.5]", "cals"]))
    assert runner.specs == []
    assert again.exit_code == 0
    assert again.studies == world.done.studies
    assert {path: path.read_bytes() for path in world.results.rglob("trial.json")} == before


def test_where_results_are_merged_the_same_command_trains_nothing(world: World, tmp_path: Path, runner: Runner) -> None:
    api.merge(world.results, into=tmp_path / "copy")
    again = api.tune(**options(world.pictures, tmp_path / "copy", methods=["ls", "zipf[power=1.5]", "cals"]))
    assert runner.specs == []
    assert again.studies == world.done.studies
    for study in world.done.studies:
        assert read_study(tmp_path / "copy" / "tuning" / study.study_id) == read_study(
            world.results / "tuning" / study.study_id
        )


def test_the_board_groups_by_budget_and_tells_the_choice(world: World) -> None:
    board = api.leaderboard(results=world.results)
    by_split = {table.split: table for table in board.tables}
    assert set(by_split) == {"full", "holdout-0.1"}
    assert {row.label for row in by_split["full"].rows} == {"ce", "ls", "zipf"}
    assert {row.label for row in by_split["holdout-0.1"].rows} == {"ce", "cals"}
    for table in board.tables:
        assert table.baseline == "ce"
        assert table.budget is not None
        assert (table.budget.trials, table.budget.search, table.budget.scheduler) == (3, "random", "none")
        assert table.recipe.lr == 0.1
        for row in table.rows:
            assert row.tuned == studies_by_method(world.done)[row.method].told
            assert any(note.startswith(f"{row.label} tuned: lr ") for note in table.notes)
        assert any("6 epochs, as many as 3.0 trainings" in note for note in table.notes)
    assert not any("search" in row.label for table in board.tables for row in table.rows)
    text, code = leaderboard(str(world.results), "text", Filter())
    assert code == 0
    assert "Tuned: 3 search trials per method (random search, search seed 0) of 2 epochs" in text
    assert "lr tuned" in text
    rows = list(csv.DictReader(io.StringIO(leaderboard(str(world.results), "csv", Filter())[0])))
    for row in rows:
        told = studies_by_method(world.done)[row["method"]].told
        assert told is not None
        assert float(row["recipe_lr"]) == told.values[LR]
        assert float(row["recipe_weight_decay"]) == told.values[DECAY]


def test_other_commands_cope(world: World, tmp_path: Path) -> None:
    found = api.compare("ce", "ls", results=world.results)
    assert [table.budget is not None for table in found.tables] == [True]
    frame = api.leaderboard(results=world.results).to_pandas()
    told = studies_by_method(world.done)["ls"].told
    assert told is not None
    own = frame[frame["method"] == "ls"].iloc[0]
    assert own["lr"] == told.values[LR]
    assert own["tuning_trials"] == 3
    assert own["tuned_validation_top1"] == told.validation_top1
    trials = api.to_pandas(api.trials(world.results))
    assert set(trials["tuning_search"]) == {"random"}
    assert not trials["search"].any()
    checked = api.validate(world.results)
    assert checked.errors == ()
    assert not any("lr" in finding.problem for finding in checked.findings)
    study = world.results / "tuning" / world.done.studies[0].study_id
    assert api.validate(study).errors == ()
    assert api.report(tmp_path / "r.html", results=world.results).boards == 2
    page = (tmp_path / "r.html").read_text()
    assert "3 search trials per method" in page
    merged = api.merge(world.results, into=tmp_path / "copy")
    assert merged.count("copied") == len(world.done.outcome.results) + 4 * (3 + 1)  # four studies and their trials
    assert merged.count("refused") == 0
    assert api.merge(study, into=tmp_path / "copy" / "tuning" / study.name).count("already there") == 4
    shown = CliRunner().invoke(app, ["show", world.done.outcome.results[0].trial_id, "--results", str(world.results)])
    assert "held-out top-1" in shown.stdout


def test_search_trials_reach_no_board_even_if_asked_for(world: World) -> None:
    study = world.results / "tuning" / world.done.studies[0].study_id
    board = api.leaderboard(results=study)
    assert board.tables == ()
    assert board.notes == ("3 search trial(s) of tuning left out, which no board compares",)


def test_validate_sees_what_does_not_belong(world: World) -> None:
    from sdbench.validation_tuning import search_problems, tuning_problems

    final = next(r for r in world.done.outcome.results if r.spec.method == "ls")
    study = world.done.studies[0]
    path = next((world.results / "tuning" / study.study_id).glob("trials/*/*/*/*/trial.json"))
    search = read_result(path)

    def told(record: TrialResult, **spec: Any) -> str:
        changed = record.model_copy(update={"spec": record.spec.model_copy(update=spec)})
        return "; ".join([*search_problems(changed), *tuning_problems(changed)])

    assert told(final) == told(search) == ""
    assert "without a tuning study" in told(final, tuning=None)
    assert "not trained with the chosen recipe.lr" in told(
        final, recipe=final.spec.recipe.model_copy(update={"lr": 0.9})
    )
    assert "metrics" in told(search.model_copy(update={"metrics": final.metrics}))
    assert "full training set" in told(search, split="full")


def test_a_search_that_is_cut_short_goes_on_and_trains_nothing_before(
    pictures: str, tmp_path: Path, runner: Runner
) -> None:
    runner.most = 2
    given = options(pictures, tmp_path / "r", methods="ls", seeds=0)
    first = api.tune(**given)
    assert first.exit_code == 1
    assert first.outcome.results == []
    assert [study.chosen for study in first.studies] == [None, None]
    assert [each.status for each in first.studies[0].tried] == ["ok", "ok", "interrupted"]
    runner.most, runner.specs = 10_000, []
    second = api.tune(**given)
    assert second.exit_code == 0
    assert [(spec.method, spec.search) for spec in runner.specs] == [
        ("ce", True), ("ls", True), ("ce", False), ("ls", False)
    ]  # fmt: skip
    done = CliRunner().invoke(
        app,
        [
            "tune",
            "-m",
            "ls",
            *[w for k, v in given.items() if k != "methods" for w in (f"--{k.replace('_', '-')}", str(v))],
        ],
    )
    assert done.exit_code == 0
    assert "2 of 2 trials ok (2 of them done before)" in done.stderr
    assert "protocol tuned 1" in done.stdout


def test_several_data_sets_and_networks_are_tuned_at_once(
    tmp_path: Path, make_pictures: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each trial finds its own data, those of two folders too, whichever is named first."""

    def open_only(jobs: list[Job], resources: object, stop: object) -> None:
        for job in jobs:
            spec, store = job.trial.spec, Store(Path(job.store))
            facts = data.inspect(spec.dataset, job.options.place_of(spec.dataset), spec.image_size)
            found = facts.fingerprint == job.trial.identity.data_fingerprint
            made = Provenance(versions={}, device="cpu", cpu="c", started="2026-01-01", finished="2026-01-01")
            top1 = 0.5 if spec.search else None
            result = TrialResult(
                trial_id=job.trial.id, status="ok" if found else "failed", spec=spec, identity=job.trial.identity,
                epochs_done=1, validation_top1=top1, provenance=made,
            )  # fmt: skip
            store.write(result)

    monkeypatch.setattr("sdbench.run.ENGINES", {"local": open_only})
    folders = [make_pictures(tmp_path / name, 3 + i, 1, classes=3) for i, name in enumerate(("shades", "more"))]
    names = ["glyphs", *(f"folder:{folder}" for folder in folders)]
    given = options("", tmp_path / "r", methods="ce", trials=1, epochs=1, seeds=0, model="resnet8,preact_resnet18")
    done = api.tune(**{**given, "dataset": names, "image_size": 32, "batch_size": 2})
    assert {(r.spec.dataset, r.spec.network): r.status for r in done.outcome.results} == {
        (name, network): "ok"
        for name in ("glyphs", "folder:shades", "folder:more")
        for network in ("resnet8", "preact_resnet18")
    }
    twin = make_pictures(tmp_path / "elsewhere" / "more", 3, 1, classes=3)
    with pytest.raises(UserError, match="two folders of images are called folder:more"):
        planned("", tmp_path, dataset=[names[2], f"folder:{twin}"])


def test_a_method_whose_search_trials_all_fail_is_told_of_and_can_be_tried_again(
    pictures: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, ran = True, []

    def engine(jobs: list[Job], resources: object, stop: object) -> None:
        for job in jobs:
            spec, failed = job.trial.spec, broken and job.trial.spec.method == "ls"
            ran.append((spec.method, spec.search))
            made = Provenance(versions={}, device="cpu", cpu="c", started="2026-01-01", finished=f"2026-01-{len(ran)}")
            result = TrialResult(
                trial_id=job.trial.id, status="failed" if failed else "ok", reason="no such luck" if failed else "",
                spec=spec, identity=job.trial.identity, epochs_done=2, baseline="ce", provenance=made,
                validation_top1=0.5 if spec.search and not failed else None,
                metrics=None if failed or spec.search else dict.fromkeys(Metrics.model_fields, 0.5),
            )  # fmt: skip
            Store(Path(job.store)).write(result)

    def command(*more: str) -> Any:
        given = options(pictures, tmp_path / "r", methods="ls", seeds=0, trials=2).items()
        words = [word for key, value in given for word in (f"--{key.replace('_', '-')}", str(value))]
        return CliRunner().invoke(app, ["tune", *words, *more])

    monkeypatch.setattr("sdbench.run.ENGINES", {"local": engine})
    first = command()
    assert first.exit_code == 1
    said = "tuned ls on folder:shades/resnet8: none of its 2 search trials finished (2 failed: no such luck)"
    assert said in " ".join(first.stdout.split())
    board = " ".join((tmp_path / "r" / "leaderboard.md").read_text().replace("\\", "").split())
    assert said in board
    assert said in api.leaderboard(results=tmp_path / "r").notes
    told = first.stderr.splitlines()
    assert sum("failed: lr " in line and "no such luck" in line for line in told) == 2
    assert told[-1] == "next: the same command with --rerun failed, which runs failed search trials again"
    ran.clear()
    assert command().exit_code == 1
    assert ran == []
    broken = False
    again = command("--rerun", "failed")
    assert again.exit_code == 0
    assert ran == [("ls", True), ("ls", True), ("ls", False)]
    assert "none of its" not in again.stdout + again.stderr + (tmp_path / "r" / "leaderboard.md").read_text()


def test_a_command_that_finds_nothing_promises_nothing(
    pictures: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def engine(jobs: list[Job], resources: object, stop: object) -> None:
        for job in jobs:
            made = Provenance(versions={}, device="cpu", cpu="c", started="2026-01-01", finished="2026-01-01")
            result = TrialResult(
                trial_id=job.trial.id, status="nan", reason="the loss is NaN", spec=job.trial.spec,
                identity=job.trial.identity, provenance=made,
            )  # fmt: skip
            Store(Path(job.store)).write(result)

    monkeypatch.setattr("sdbench.run.ENGINES", {"local": engine})
    found = api.plan_tune(**options(pictures, tmp_path, methods="ce", seeds=0))
    done, finals, written = carry_through(found, quiet=True)
    assert done.exit_code == 1
    lines = closing_lines(done, finals, written)
    assert sum("the loss is NaN" in line for line in lines) == 3
    assert not any("sdbench leaderboard" in line for line in lines)
    assert lines[-1].startswith("next: the same command with --rerun failed")


def planned(pictures: str, results: Path, **given: Any) -> TuningPlan:
    return api.plan_tune(**options(pictures, results, **given))


def test_more_trials_continue_the_same_sequence(pictures: str, tmp_path: Path) -> None:
    few, many = (planned(pictures, tmp_path, methods="zipf", trials=n).studies[1] for n in (3, 6))
    assert many.points[:3] == few.points
    assert many.id != few.id
    assert planned(pictures, tmp_path, methods="zipf").studies[1].id == few.id
    other = planned(pictures, tmp_path, methods="zipf", search_seed=1).studies[1]
    assert other.points[0] == few.points[0]
    assert not {point[LR] for point in other.points[1:]} & {point[LR] for point in few.points[1:]}
    both = planned(pictures, tmp_path, methods="zipf,ls").studies
    assert few.id in {study.id for study in both}  # a study does not depend on what is tuned beside it


def test_draws_cover_the_space_on_its_scale(pictures: str, tmp_path: Path) -> None:
    study = planned(pictures, tmp_path, methods="ban", trials=2).studies[1]
    assert study.cell.method == "ban"
    points = draw(study.cell, study.space, 400, 0)
    rates = np.log10([float(point[LR]) for point in points])
    assert abs(rates.mean() + 1) < 0.1  # the middle of [-2, 0]
    assert abs(rates.std() - 2 / np.sqrt(12)) < 0.05
    assert {point["generations"] for point in points} == {2, 3, 4, 5}
    assert all(f"{point[LR]:.4g}" == f"{point[LR]:.10g}" for point in points)


def test_a_chain_of_generations_is_searched_as_a_whole(pictures: str, tmp_path: Path) -> None:
    study = planned(pictures, tmp_path, methods="ban", trials=2).studies[1]
    for chain in study.chains:
        assert len(chain) == chain[-1].spec.params["generations"]
        assert all(trial.spec.search for trial in chain)
        assert len({trial.spec.recipe for trial in chain}) == 1
        assert chain[-1].spec.stream == "0/search"
        assert chain[0].spec.stream == "0/search/generation-0"


def test_problems_are_told_together_and_before_anything_runs(pictures: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        planned(pictures, tmp_path, methods="zpf", trials=0, search="grid", scheduler="asah", epochs="many")
    told = " ".join(caught.value.problems)
    for part in ("did you mean 'zipf'", "--trials 0", "'grid'", "did you mean 'asha'", "--epochs 'many'"):
        assert part in told, part
    with pytest.raises(UserError, match="--scheduler asha: done by Ray Tune; leave out --engine local"):
        planned(pictures, tmp_path, scheduler="asha", methods="ls")
    with pytest.raises(UserError, match="several generations"):
        planned(pictures, tmp_path, scheduler="asha", methods="ban", engine="ray")
    with pytest.raises(UserError, match="`sdbench tune` does both"):
        api.plan(methods="ls", protocol="tuned", results=tmp_path)


@pytest.mark.parametrize(
    ("methods", "who"),
    [
        ("zipf,zipf[power=1]", "zipf and zipf[power=1]"),
        ("zipf[power=1],zipf[weight=0.1]", "zipf[power=1] and zipf[weight=0.1]"),
        ("zipf+cutmix,zipf+cutmix[alpha=1]", "zipf+cutmix and zipf+cutmix[alpha=1]"),
    ],
)
def test_variants_that_would_share_a_row_are_refused(methods: str, who: str, pictures: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        planned(pictures, tmp_path, methods=methods)
    assert all(who in problem for problem in caught.value.problems)
    studies = planned(pictures, tmp_path, methods="zipf,zipf[power=1.5]").studies
    assert [set(study.space) - {LR, DECAY} for study in studies] == [set(), {"weight", "power"}, {"weight"}]


def test_only_what_tune_offers_is_run_again(pictures: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--rerun"):
        planned(pictures, tmp_path, methods="ls", rerun="stale")


def test_optuna_is_asked_for_where_it_is_missing(
    pictures: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sdbench.engine.ray_search.optuna_available", lambda: False)
    with pytest.raises(EnvironmentProblem, match=r"pip install 'sdbench\[tune\]'"):
        planned(pictures, tmp_path, search="optuna", methods="ls", engine="ray")


def tried(status: str, *scores: float) -> Tried:
    return Tried.model_validate(
        {"trial_id": "t", "values": {}, "status": status, "validation_top1": {i + 1: s for i, s in enumerate(scores)}}
    )


@pytest.mark.parametrize(
    ("each", "expected"),
    [
        ([tried("ok", 0.1, 0.5), tried("ok", 0.2, 0.6), tried("stopped", 0.9)], 1),
        ([tried("ok", 0.1, 0.5), tried("ok", 0.9, 0.5)], 0),  # of equals the first, whatever came before
        ([tried("nan", 0.9), tried("failed"), tried("ok", 0.0, 0.1)], 2),
        ([tried("nan", 0.9), tried("stopped", 0.9)], None),
        ([tried("ok", 0.1, 0.5), tried("interrupted", 0.9)], None),  # not over
    ],
)
def test_the_choice_by_hand(each: list[Tried], expected: int | None) -> None:
    budget = Budget(trials=len(each), **BUDGET)
    assert choose(each, budget) == expected
    assert choose(each, Budget(trials=len(each) + 1, **BUDGET)) is None


def test_values_are_put_into_a_spec_and_read_back(pictures: str, tmp_path: Path) -> None:
    study = planned(pictures, tmp_path, methods="zipf+cutmix").studies[1]
    assert set(study.space) == {LR, DECAY, "weight", "power", "cutmix.alpha", "cutmix.probability"}
    spec = study.chain(study.points[0])[-1].spec
    for point in study.points:
        assert values_of(at(spec, point), study.space) == point
        assert at(spec, point) == study.chain(point)[-1].spec


def test_a_mark_that_is_no_mark_stops_nothing(tmp_path: Path) -> None:
    assert stopped_after(tmp_path) is None
    mark_stopped(tmp_path, "asha", 3)
    assert stopped_after(tmp_path) == 3
    for text in ("", "{", "[]", '{"epochs": "x"}', "\x00"):
        (tmp_path / "stopped.json").write_text(text)
        assert stopped_after(tmp_path) is None


def test_specs_without_a_search_are_written_as_before() -> None:
    spec = TrialSpec.model_validate(
        {
            "method": "ce",
            "dataset": "glyphs",
            "network": "resnet8",
            "recipe": {"epochs": 2},
            "protocol": "demo",
            "seed": 0,
        }
    )
    dumped = spec.model_dump_json()
    assert not any(word in dumped for word in ("search", "tuning", "policy"))
    assert spec.stream == "0"
    assert plan_tuning.__doc__
