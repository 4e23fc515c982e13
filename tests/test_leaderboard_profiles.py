"""Profiles beside trials: which one is taken, what a board shows of it, and what it never shows."""

from __future__ import annotations

import csv
import io
import json
import random
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sdbench import boards
from sdbench.cli import app
from sdbench.cost import archive
from sdbench.cost.records import ProfileResult, ProfileRow, Ratio, Setting
from sdbench.errors import UserError
from sdbench.leaderboard import build_board
from sdbench.leaderboard_formats import SUFFIXES, render
from sdbench.leaderboard_profiles import same_work
from sdbench.leaderboard_records import Board, Row, Table
from sdbench.published import PublishedNumber
from sdbench.spec import Cost, Identity, Metrics, Options, Provenance, Recipe, TrialResult, TrialSpec, digest
from sdbench.store import Store

HERE = {"device": "cpu", "cpu": "Example 9000", "versions": {"torch": "2.10.0"}}
LABEL = "cpu (Example 9000), 1 thread, torch 2.10.0"


def provenance(given: dict[str, Any] | None = None, day: int = 1) -> Provenance:
    at = f"2026-01-{day:02}T00:00:00.000+00:00"
    return Provenance(**{**HERE, "started": at, "finished": at, **(given or {})})


def trial(
    method: str, seed: int = 0, *, params: dict[str, Any] | None = None, num_classes: int | None = None,
    where: dict[str, Any] | None = None, baseline: str = "ce", source: str = "", status: str = "ok", **spec: Any,
) -> TrialResult:  # fmt: skip
    """One record; what is not given is the same in all."""
    rules = {"dataset": "cifar100", "network": "resnet20", "recipe": Recipe(epochs=200), "protocol": "fixed"}
    own = TrialSpec(**{**rules, **spec}, method=method, params=params or {}, seed=seed)
    identity = Identity(method_source=source or method, data_fingerprint="d" * 64, protocol_version="1")
    cost = Cost(
        train_s=50, process_s=100, eval_s=1, setup_s=1, labelled_images=1000, images_with_gradient=1000,
        images_without_gradient=0, peak_memory_bytes=2**20, auxiliary_parameters=0, state_bytes=0, timing_valid=True,
    )  # fmt: skip
    ok = status == "ok"
    return TrialResult(
        trial_id=digest([own.model_dump(mode="json"), identity.model_dump(mode="json")]),
        status=status,
        baseline=baseline,
        spec=own,
        identity=identity,
        metrics=Metrics(top1=0.5, top5=0.9, nll=1.5, ece=0.05, brier=0.4, aurc=0.1, eaurc=0.05) if ok else None,
        cost=cost if ok else None,
        provenance=provenance(where),
        num_classes=num_classes,
    )


def measured(method: str, median: float = 1.02, **given: Any) -> ProfileRow:
    """A row whose interval is median -0.01, +0.01."""
    time_ratio = Ratio(median=median, low=median - 0.01, high=median + 0.01, rounds=60, verdict="equal")
    figures = {"time_ratio": time_ratio, "predicted_ratio": 1.005, "memory_ratio": 1.25, **given}
    return ProfileRow(**figures, method=method)


def profile(
    *rows: ProfileRow, name: str = "p1", day: int = 1, where: dict[str, Any] | None = None, baseline: str = "ce",
    **setting: Any,
) -> ProfileResult:  # fmt: skip
    usual = {"network": "resnet20", "num_classes": 100, "num_train": 50_000, "image_size": 32, "batch_size": 128}
    return ProfileResult(
        profile_id=name,
        setting=Setting(**{**usual, "augment": "crop-flip", **setting}),
        baseline=baseline,
        rows=(measured("ce", 1.0, predicted_ratio=1.0, memory_ratio=1.0), *rows),
        load_start=0.1,
        load_end=0.2,
        seconds=60,
        provenance=provenance(where, day),
    )


def only(board: Board) -> Table:
    assert len(board.tables) == 1
    return board.tables[0]


def row(table: Table, label: str) -> Row:
    return {r.label: r for r in table.rows}[label]


def taken(profiles: list[ProfileResult], label: str = "zipf", trials: list[TrialResult] | None = None) -> str | None:
    """The id of the profile that a row's step cost is from."""
    step = row(only(build_board(trials or [trial("ce"), trial("zipf")], profiles=profiles)), label).step
    return step.profile_id if step else None


def test_a_board_with_a_profile_by_hand() -> None:
    unsure = Ratio(median=1.034, low=0.986, high=1.066, rounds=80, verdict="inconclusive")
    rows = [measured("zipf", 1.024), measured("byot", time_ratio=unsure, flagged=True, memory_ratio=None)]
    board = build_board([trial("ce"), trial("zipf"), trial("byot"), trial("ls")], profiles=[profile(*rows)])
    table = only(board)
    step = row(table, "zipf").step
    assert step is not None
    assert step.time == Ratio(median=1.024, low=1.014, high=1.034, rounds=60, verdict="equal")
    assert (step.predicted, step.memory, step.flagged) == (1.005, 1.25, False)
    assert (step.profile_id, step.hardware, step.batch_size) == ("p1", LABEL, 128)
    assert row(table, "ls").step is None
    assert table.num_classes == 100
    assert table.notes == (
        "step costs of byot, ce, zipf: profile p1 (synthetic images of 32 pixels, margin 0.03)",
    )  # fmt: skip
    text = render(board, "text")
    lines = {line.split()[0]: " ".join(line.split()) for line in text.splitlines() if " ok" in line}
    header = next(line for line in text.splitlines() if line.startswith("method"))
    assert " ".join(header.split()).endswith(
        "time × memory × step × [95 %] FLOPs × peak × Pareto images aux state trials"
    )
    cost = "1.00 1.00"  # of whole trainings
    rest = "1.00 0 0 B 1 ok"
    assert lines["ce"].endswith(f" – – 5.00 1.500 {cost} 1.00 [0.99, 1.01] 1.00 1.00 yes {rest}")
    assert lines["zipf"].endswith(f"{cost} 1.02 [1.01, 1.03] 1.00 1.25 no {rest}"), "as accurate and costlier"
    assert lines["byot"].endswith(f"{cost} 1.03 [0.99, 1.07] ? 1.00 ! – no {rest}")
    assert lines["ls"].endswith(f"{cost} – – – – {rest}")
    assert [row(table, label).pareto for label in ("ce", "zipf", "byot", "ls")] == [True, False, False, None]
    assert "all generations but the last, which time × and memory × include." in " ".join(text.split())


def test_without_a_profile_there_are_no_columns_of_steps() -> None:
    trials = [trial("ce"), trial("zipf")]
    bare = build_board(trials)
    other = build_board(trials, profiles=[profile(measured("zipf"), num_classes=10)])
    for name in SUFFIXES:
        assert render(other, name) == render(bare, name)
        assert "FLOPs" not in render(bare, name)
        assert "step_time_ratio" not in render(bare, name)


@pytest.mark.parametrize("name", ["md", "latex", "html"])
def test_formats_for_people_show_them(name: str) -> None:
    board = build_board([trial("ce"), trial("zipf")], profiles=[profile(measured("zipf", 1.5, flagged=True))])
    text = render(board, name).replace("{[}", "[").replace("{]}", "]").replace("\\", "").replace("$times$", "×")
    for part in ("step × [95 %]", "FLOPs ×", "peak ×", "1.50 [1.49, 1.51]", "1.00 !", "profile p1", "margin around 1"):
        assert part in text, part


def test_csv_and_json_hold_full_precision() -> None:
    board = build_board([trial("ce"), trial("zipf"), trial("ls")], profiles=[profile(measured("zipf", 1 / 0.97))])
    read = {r["label"]: r for r in csv.DictReader(io.StringIO(render(board, "csv")))}
    zipf = read["zipf"]
    assert [float(zipf[f"step_time_ratio{end}"]) for end in ("", "_low", "_high")] == [
        1 / 0.97,
        1 / 0.97 - 0.01,
        1 / 0.97 + 0.01,
    ]
    assert (zipf["step_time_rounds"], zipf["step_time_verdict"], zipf["step_flagged"]) == ("60", "equal", "False")
    assert (zipf["step_flops_ratio"], zipf["step_memory_ratio"]) == ("1.005", "1.25")
    assert (zipf["step_profile"], zipf["step_batch_size"], zipf["step_hardware"]) == ("p1", "128", LABEL)
    assert {read["ls"][key] for key in zipf if key.startswith("step_")} == {""}
    rows = {r["label"]: r for r in json.loads(render(board, "json"))["tables"][0]["rows"]}
    assert rows["zipf"]["step"]["time"]["median"] == 1 / 0.97
    assert rows["ls"]["step"] is None
    assert Board.model_validate_json(render(board, "json")) == board


@pytest.mark.parametrize(
    "other",
    [
        {"network": "resnet18"},
        {"num_classes": 10},
        {"image_size": 64},
        {"precision": "fp32"},
        {"threads": 2},
        {"where": {"device": "NVIDIA H200"}},
        {"where": {"cpu": "Other"}},
        {"where": {"versions": {"torch": "2.11.0"}}},
        {"baseline": "ls"},
    ],
    ids=str,
)
def test_what_is_unlike_never_joins(other: dict[str, Any]) -> None:
    assert taken([profile(measured("zipf"), **other)]) is None
    assert taken([profile(measured("zipf"), **other), profile(measured("zipf"), name="fits")]) == "fits"


@pytest.mark.parametrize("same", [{"dataset": "cifar100"}, {"num_train": 1000}, {"augment": "none"}, {"step": "off"}])
def test_what_does_not_have_to_be_alike(same: dict[str, Any]) -> None:
    assert taken([profile(measured("zipf"), **same)]) == "p1"


def test_number_of_classes_is_the_records_or_the_data_sets() -> None:
    def at(num_classes: int | None, dataset: str) -> str | None:
        trials = [trial(m, num_classes=num_classes, dataset=dataset) for m in ("ce", "zipf")]
        return taken([profile(measured("zipf"), num_classes=7), profile(measured("zipf"), name="p100")], trials=trials)

    assert at(7, "folder:birds") == "p1"
    assert at(None, "folder:birds") is None, "nobody knows"
    assert at(None, "cifar100") == "p100"
    assert at(None, "cifar10") is None
    assert at(100, "folder:birds") == "p100"
    mixed = [trial("ce"), trial("zipf", num_classes=100, dataset="folder:x"), trial("ce", dataset="folder:x")]
    board = build_board(mixed, profiles=[profile(measured("zipf"))])
    assert [t.num_classes for t in board.tables] == [100, 100], "one record that knows is enough"


def test_image_size_of_the_trials_counts() -> None:
    trials = [trial(m, image_size=64, dataset="tinyimagenet") for m in ("ce", "zipf")]
    small, large = (profile(measured("zipf"), name=f"s{s}", image_size=s, num_classes=200) for s in (32, 64))
    assert taken([small, large], trials=trials) == "s64"
    assert taken([small], trials=trials) is None
    own = [trial(m, dataset="tinyimagenet") for m in ("ce", "zipf")]
    assert taken([small, large], trials=own) == "s32", "the data set's own size"


@pytest.mark.parametrize(
    ("a", "b", "alike"),
    [
        ({"weight": 0.1}, {"weight": 1.0}, True),
        ({"weight": 0.1}, {"weight": 1}, True),
        ({"weight": 0.0}, {"weight": 1.0}, False),
        ({"weight": 0.0}, {"weight": 0.0}, True),
        ({"weight": 0.1}, {"weight": 0.1, "dense": False}, False),
        ({"views": 2}, {"views": 3}, False),
        ({"dense": True}, {"dense": False}, False),
        ({"dense": True}, {"dense": 1}, False),
        ({"spread": "all"}, {"spread": "others"}, False),
        ({"spread": "0.1"}, {"spread": 0.1}, False),
        ({"weight": 0.1, "spread": "all"}, {"weight": -0.2, "spread": "all"}, True),
        ({}, {}, True),
    ],
)
def test_same_work(a: dict[str, Any], b: dict[str, Any], alike: bool) -> None:
    assert same_work(a, b) is alike
    assert same_work(b, a) is alike


def test_variants_take_their_own_row_and_say_where_coefficients_differ() -> None:
    def params(weight: float, dense: bool = True) -> dict[str, Any]:
        return {"weight": weight, "dense": dense}

    trials = [trial("ce"), *(trial("zipf", params=params(w, d)) for w, d in [(0.1, True), (0.2, True), (0.1, False)])]
    rows = [measured("zipf", 1.1, params=params(0.3)), measured("zipf", 1.2, params=params(0.2))]
    table = only(build_board(trials, profiles=[profile(*rows)]))
    medians = {r.label: r.step.time.median for r in table.rows if r.step and r.step.time}
    assert medians == {"ce": 1.0, "zipf[dense=true,weight=0.1]": 1.1, "zipf[dense=true,weight=0.2]": 1.2}
    assert "zipf[dense=true,weight=0.1]: its step was profiled with weight=0.3" in table.notes
    assert not any("weight=0.2]: its step" in note for note in table.notes)


def test_the_recipes_batch_size_first_then_the_newest() -> None:
    old, new = (profile(measured("zipf"), name=f"day{d}", day=d) for d in (2, 3))
    other = profile(measured("zipf"), name="batch64", day=9, batch_size=64)
    for order in ([old, new, other], [other, new, old]):
        assert taken(order) == "day3"
    table = only(build_board([trial("ce"), trial("zipf")], profiles=[other]))
    assert table.notes == (
        "step costs of ce, zipf: profile batch64 (synthetic images of 32 pixels, batch size 64, the recipe's is 128, "
        "margin 0.03)",
    )


def test_a_timing_that_does_not_count_is_never_shown() -> None:
    bad = {"timing_valid": False, "timing_problems": ("load 3.0 above 2 cores",), "flagged": True}
    invalid = profile(measured("zipf", 1.77, **bad), name="bad", day=5)
    assert taken([invalid, profile(measured("zipf"), name="good", day=1)]) == "good", "a valid one goes first"
    board = build_board([trial("ce"), trial("zipf")], profiles=[invalid])
    step = row(only(board), "zipf").step
    assert step is not None
    assert (step.time, step.flagged) == (None, False)
    assert (step.memory, step.predicted) == (1.25, 1.005), "neither is a timing"
    assert "zipf: timing of its step left out: load 3.0 above 2 cores" in only(board).notes
    for name in SUFFIXES:
        assert "1.77" not in render(board, name)
        assert "1.76" not in render(board, name)


def test_rows_that_did_not_run_and_profiles_of_the_baseline_alone_tell_nothing() -> None:
    assert taken([profile(ProfileRow(method="zipf", status="oom", reason="full"))]) is None
    assert taken([profile()], "ce") is None
    failed = profile(ProfileRow(method="zipf", status="failed"), name="new", day=9)
    assert taken([failed, profile(measured("zipf"), name="old")]) == "old"


def test_a_method_that_never_finished_training_still_shows_its_step() -> None:
    assert taken([profile(measured("zipf"))], trials=[trial("ce"), trial("zipf", status="oom")]) == "p1"


def test_of_several_kinds_of_hardware_one_fills_the_column() -> None:
    gpu = {"device": "NVIDIA H200"}
    trials = [
        *(trial(m, s) for m in ("ce", "zipf", "ls") for s in (0, 1)),
        *(trial(m, 2, where=gpu) for m in ("ce", "ls")),
    ]
    on_gpu = profile(measured("zipf", 1.5), measured("ls", 1.6), name="gpu", where=gpu)
    on_cpu = profile(measured("zipf", 1.2), name="cpu")
    both = build_board(trials, profiles=[on_gpu, on_cpu])
    steps = {r.label: r.step.time.median for r in only(both).rows if r.step and r.step.time}
    assert steps == {"ce": 1.0, "zipf": 1.2}, "the most used first; ls was not profiled there"
    assert "step × [95 %] A" in render(both, "text")
    assert any(f"profile cpu on {LABEL} (" in note for note in only(both).notes)
    alone = build_board(trials, profiles=[on_gpu, profile(name="baseline")])
    assert {r.step.profile_id for r in only(alone).rows if r.step} == {"gpu"}
    assert "step × [95 %] B" in render(alone, "text")


def test_order_does_not_matter() -> None:
    trials = [trial(m, s) for m in ("ce", "zipf", "ls") for s in (0, 1)]
    profiles = [profile(measured("zipf", 1 + d / 100), measured("ls"), name=f"p{d}", day=1 + d % 3) for d in range(9)]
    expected = render(build_board(trials, profiles=profiles), "json")
    assert '"profile_id": "p8"' in expected
    for seed in range(5):
        shuffled = random.Random(seed).sample(profiles, len(profiles))
        assert render(build_board(trials, profiles=shuffled), "json") == expected


def test_ten_thousand_trials_and_a_thousand_profiles_within_two_seconds() -> None:
    names = ["ce", *(f"m{i}" for i in range(19))]
    trials = [trial(m, s, network=f"n{n}") for n in range(10) for m in names for s in range(50)]
    profiles = [
        profile(*map(measured, names[1:]), network=f"n{n}", name=f"{n}-{i}", day=1 + i % 28, batch_size=64 + i)
        for n in range(10) for i in range(100)
    ]  # fmt: skip
    assert len(trials) == 10_000
    began = time.process_time()
    board = build_board(trials, profiles=profiles)
    text = render(board, "text")
    assert time.process_time() - began < 2
    assert "profile 9-64 (" in " ".join(text.split())
    assert all(r.step and r.step.batch_size == 128 for t in board.tables for r in t.rows)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A results folder with two trials and a profile that fits them."""
    for one in (trial("ce"), trial("zipf")):
        Store(tmp_path).write(one)
    archive.write(tmp_path, profile(measured("zipf")))
    return tmp_path


def test_the_command_joins_profiles(results: Path) -> None:
    done = CliRunner().invoke(app, ["leaderboard", "--results", str(results)])
    assert done.exit_code == 0, done.output
    assert "1.02 [1.01, 1.03]" in done.output
    assert "1.02 [1.01, 1.03]" in (results / "leaderboard.md").read_text()
    boards.write(Store(results))
    assert "1.02 [1.01, 1.03]" in (results / "leaderboard.html").read_text()
    some = [trial("ce"), trial("zipf")]
    assert "1.02 [1.01, 1.03]" in boards.text_of(some, "ce", "text", results)
    assert "FLOPs" not in boards.text_of(some, "ce", "text")


def test_a_damaged_profile_is_reported_and_left_out(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = next(results.glob("profiles/*/*/*/profile.json"))
    path.write_text(path.read_text().replace('"median": 1.02', '"median": 0.52'))
    text, code = boards.leaderboard(str(results), "text", boards.Filter())
    assert code == 1
    assert "0.52" not in text
    assert "record left out: profiles/synthetic-100/resnet20/p1/profile.json: its checksum does not match" in text
    told = capsys.readouterr().err
    assert f"damaged record left out: {path}: its checksum does not match" in told
    assert "profile it again" in told


def test_profiles_without_a_trial_point_to_the_claims(tmp_path: Path) -> None:
    archive.write(tmp_path, profile(measured("zipf")))
    with pytest.raises(UserError, match=r"no trial under .*only 1 profile.*`sdbench claims`"):
        boards.leaderboard(str(tmp_path), "text", boards.Filter())


def test_old_records_without_the_number_of_classes_are_read(tmp_path: Path) -> None:
    assert TrialResult.model_validate(trial("ce").model_dump(exclude={"num_classes"})).num_classes is None
    Store(tmp_path).write(trial("ce", num_classes=100))
    assert [r.num_classes for r in Store(tmp_path).scan().results] == [100]


def test_the_trainer_records_the_number_of_classes(tmp_path: Path) -> None:
    from sdbench.tiny import TinyTask
    from sdbench.train import run_trial

    task = TinyTask(num_classes=6, epochs=1)
    done = run_trial(task.trial("ce", {}), Store(tmp_path), Options(device="cpu"), opener=task.open)
    assert (done.status, done.num_classes) == ("ok", 6)

    def broken(*_: object) -> Any:
        raise OSError("no data")

    dead = run_trial(task.trial("ce", {}, seed=1), Store(tmp_path), Options(device="cpu"), opener=broken)
    assert (dead.status, dead.num_classes) == ("failed", None)


def scored(method: str, seed: int, top1: float, epochs: int = 200, **given: Any) -> TrialResult:
    result = trial(method, seed, recipe=Recipe(epochs=epochs), **given)
    assert result.metrics is not None
    return result.model_copy(update={"metrics": result.metrics.model_copy(update={"top1": top1})})


def iso_cost_trials() -> list[TrialResult]:
    """CS-KD at 200 epochs, the baseline at 200, and at the 266 that cost as much at 1.33 a step."""
    found = [scored("ce", s, t) for s, t in enumerate((0.50, 0.51, 0.52))]
    found += [scored("cskd", s, t) for s, t in enumerate((0.54, 0.54, 0.54))]
    return found + [scored("ce", s, t, 266) for s, t in enumerate((0.53, 0.54, 0.52))]


COSTLIER = Ratio(median=1.33, low=1.32, high=1.34, rounds=60, verdict="costlier")


def test_the_gain_at_equal_cost_by_hand() -> None:
    """Gains 4, 3, 2 points at equal epochs; 1, 0, 2 at equal cost: mean 1, t(2, 97.5 %) = 4.30265, s = 1."""
    profiles = [profile(measured("cskd", time_ratio=COSTLIER), measured("ls"))]
    board = build_board([*iso_cost_trials(), scored("ls", 0, 0.52)], profiles=profiles)
    short = next(t for t in board.tables if t.recipe.epochs == 200)
    own = row(short, "cskd").iso_cost
    assert own is not None
    assert (own.epochs, own.gain.n) == (266, 3)
    assert own.gain.mean == pytest.approx(0.01)
    assert own.gain.low == pytest.approx(0.01 - 0.0430265 / 3**0.5, abs=1e-7)
    assert row(short, "cskd").gain.mean == pytest.approx(0.03)
    equal = row(short, "ls").iso_cost
    assert equal is not None, "costs as much as the baseline: its own row is the one at equal cost"
    assert (equal.epochs, equal.gain) == (200, row(short, "ls").gain)
    assert row(short, "ce").iso_cost is None
    long = next(t for t in board.tables if t.recipe.epochs == 266)
    assert [r.iso_cost for r in long.rows] == [None]
    lines = render(board, "text").splitlines()
    assert any("gain at equal cost" in line for line in lines)
    assert any("+1.00 [-1.48, +3.48] (3) [266]" in line for line in lines)
    first = next(r for r in csv.DictReader(io.StringIO(render(board, "csv"))) if r["method"] == "cskd")
    assert (first["iso_cost_epochs"], first["iso_cost_gain_n"]) == ("266", "3")
    assert float(first["iso_cost_gain"]) == own.gain.mean
    frame = board.to_pandas().set_index(
        ["recipe_epochs" if "recipe_epochs" in board.to_pandas() else "epochs", "label"]
    )
    assert frame.loc[(200, "cskd"), "iso_cost_gain"] == own.gain.mean


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 265}, {"network": "resnet8"}, {"precision": "fp32"}, {"split": "holdout-0.1"}, {"params": {"a": 1}},
        {"status": "nan"},
    ],
)  # fmt: skip
def test_another_training_is_no_iso_cost_baseline(change: dict[str, Any]) -> None:
    trials = [r for r in iso_cost_trials() if r.spec.recipe.epochs == 200]
    recipe = Recipe(epochs=change.pop("epochs", 266))
    trials += [trial("ce", seed, recipe=recipe, **change) for seed in range(3)]
    board = build_board(trials, profiles=[profile(measured("cskd", time_ratio=COSTLIER))])
    assert [r.iso_cost for t in board.tables for r in t.rows] == [None] * sum(len(t.rows) for t in board.tables)
    assert "equal cost" not in render(board, "text")


def test_the_longer_baseline_is_of_the_same_source_and_the_newest() -> None:
    """Trials of the baseline's older source, and older records of the same, change nothing, in whatever order."""
    trials = iso_cost_trials()
    longer = [r for r in trials if r.spec.recipe.epochs == 266]
    older = [
        r.model_copy(update={"trial_id": f"{r.trial_id[:-1]}x", "provenance": provenance(day=1)})
        for r in (scored("ce", s, 0.1, 266, source="older") for s in range(3))
    ]
    again = [
        scored("ce", s, 0.2, 266).model_copy(update={"trial_id": f"again{s}", "provenance": provenance(day=1)})
        for s in range(3)
    ]
    newest = [r.model_copy(update={"provenance": provenance(day=5)}) for r in longer]
    others = [r for r in trials if r not in longer]
    profiles = [profile(measured("cskd", time_ratio=COSTLIER))]
    for order in ([*older, *again, *newest, *others], [*others, *newest, *again, *older]):
        table = next(t for t in build_board(order, profiles=profiles).tables if t.recipe.epochs == 200)
        own = row(table, "cskd").iso_cost
        assert own is not None
        assert own.gain.mean == pytest.approx(0.01)


def test_without_a_step_cost_no_gain_is_at_equal_cost() -> None:
    assert all(r.iso_cost is None for t in build_board(iso_cost_trials()).tables for r in t.rows)


def published(method: str, value: float, network: str = "resnet18", **given: Any) -> PublishedNumber:
    facts = {"dataset": "cifar100", "protocol": "200 epochs", "selection": "best epoch on the test set", "seeds": 1}
    where = {"source": "someone/code@1234567", "read": "readme", "trust": "One seed, best epoch."}
    return PublishedNumber(method=method, network=network, value=value, **{**facts, **where, **given})


def test_published_numbers_stand_beside_and_change_nothing() -> None:
    trials = iso_cost_trials()
    numbers = [
        published("cskd", 78.0), published("cskd", 80.5, "densenet121", spread=0.3), published("ce", 90.0, "resnet20"),
        published("ce", 99.0), published("cskd", 3.0, metric="gain"), published("cskd", 55.0, dataset="tinyimagenet"),
        published("zipf", 70.0),
    ]  # fmt: skip
    bare, shown = build_board(trials), build_board(trials, published=numbers)
    without = [t.model_copy(update={"notes": (), "rows": ()}) for t in shown.tables]
    assert without == [t.model_copy(update={"notes": (), "rows": ()}) for t in bare.tables]
    for one, other in zip(bare.tables, shown.tables, strict=True):
        assert [r.model_copy(update={"published": ()}) for r in other.rows] == list(one.rows), "also in order and rank"
    table = next(t for t in shown.tables if t.recipe.epochs == 200)
    assert [n.value for n in row(table, "cskd").published] == [78.0, 80.5]
    assert [n.value for n in row(table, "ce").published] == [90.0], "of the same network, where there are any"
    text = render(shown, "text")
    assert "78.00 to 80.50 (2, other networks)" in text
    assert "90.00 (1)" in text
    words = " ".join(text.split())
    assert "published, cskd: resnet18 78, densenet121 80.5 ± 0.3 (best epoch on the test set, 1 seed;" in words
    assert "never compared, ranked or averaged" in words
    first = next(r for r in csv.DictReader(io.StringIO(render(shown, "csv"))) if r["method"] == "cskd")
    assert (first["published_top1_percent_max"], first["published_same_network"]) == ("80.5", "False")
    assert "published" not in render(bare, "text") + render(bare, "csv")


def test_the_command_shows_published_numbers_and_files_stay_without(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for result in iso_cost_trials():
        store.write(result)
    asked = CliRunner().invoke(app, ["leaderboard", "--published", "--results", str(tmp_path)])
    assert asked.exit_code == 0, asked.output
    assert "published, cskd:" in asked.stdout
    assert "published" not in (tmp_path / "leaderboard.md").read_text()
