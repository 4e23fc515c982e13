"""Comparisons of made-up records, against figures worked out by hand and by SciPy."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from typer.testing import CliRunner

from sdbench import boards
from sdbench.cli import app
from sdbench.comparison import compare
from sdbench.comparison_gate import parse_conditions
from sdbench.comparison_records import METRICS, Compared, Comparison
from sdbench.comparison_text import FORMATS, render_comparison
from sdbench.cost import archive
from sdbench.cost.records import ProfileResult, ProfileRow, Ratio, Setting
from sdbench.errors import UserError
from sdbench.spec import Cost, Identity, Metrics, Provenance, Recipe, Scaled, TrialResult, TrialSpec, digest
from sdbench.statistics import MeanStd, holm
from sdbench.store import Store

HALF_WIDTH = 0.95 / math.sqrt(2 * 0.975 * 0.025) / math.sqrt(3)
"""t_2(0.975) / sqrt(3) in closed form: half the interval of three differences with s = 1."""
HERE = {"device": "cpu", "cpu": "Example 9000", "versions": {"torch": "2.10.0"}}
AT = "2026-01-01T00:00:00.000+00:00"


def trial(
    method: str, seed: int, top1: float = 0.5, *, seconds: float = 100.0, peak: int = 2**20, timed: bool = True,
    metrics: dict[str, float] | None = None, scaled_nll: float | None = None, status: str = "ok", source: str = "",
    reason: str = "", cpu: str = "Example 9000", epochs: int = 200, **spec: Any,
) -> TrialResult:  # fmt: skip
    """One record; what is not given is the same in all."""
    rules = {"dataset": "cifar100", "network": "resnet20", "recipe": Recipe(epochs=epochs), "protocol": "fixed"}
    own = TrialSpec(**{**rules, **spec}, method=method, seed=seed)
    identity = Identity(method_source=source or method, data_fingerprint="d" * 64, protocol_version="1")
    others = {"top5": 0.9, "nll": 1.5, "ece": 0.05, "brier": 0.4, "aurc": 0.1, "eaurc": 0.05}
    after = {"temperature": 2, "held_out": 50, "nll": scaled_nll, "ece": 0.02, "brier": 0.4, "aurc": 0.1, "eaurc": 0.05}
    ok = status == "ok"
    cost = Cost(
        train_s=1, process_s=seconds, eval_s=1, setup_s=1, labelled_images=1000, images_with_gradient=1000,
        images_without_gradient=0, peak_memory_bytes=peak, auxiliary_parameters=0, state_bytes=0, timing_valid=timed,
        timing_problems=() if timed else ("load 3.0 above 2 cores",),
    )  # fmt: skip
    return TrialResult(
        trial_id=digest([own.model_dump(mode="json"), identity.model_dump(mode="json")]),
        status=status,
        reason=reason,
        baseline="ce",
        spec=own,
        identity=identity,
        metrics=Metrics(**{"top1": top1, **others, **(metrics or {})}) if ok else None,
        scaled=Scaled(**after) if ok and scaled_nll is not None else None,
        cost=cost if ok else None,
        provenance=Provenance(**{**HERE, "cpu": cpu}, started=AT, finished=AT),
    )


def series(method: str, values: list[float], **given: Any) -> list[TrialResult]:
    return [trial(method, seed, value, **given) for seed, value in enumerate(values)]


CE = series("ce", [0.70, 0.72, 0.74])


def profile(*rows: tuple[str, float], baseline: str = "ce", **setting: Any) -> ProfileResult:
    """Rows of method and median; intervals are median -0.01, +0.01, peaks 2 x median."""
    usual = {"network": "resnet20", "num_classes": 100, "num_train": 50_000, "image_size": 32, "batch_size": 128}
    made = [
        ProfileRow(
            method=method,
            time_ratio=Ratio(median=median, low=median - 0.01, high=median + 0.01, rounds=60, verdict="equal"),
            memory_ratio=2 * median,
        )
        for method, median in rows
    ]
    return ProfileResult(
        profile_id="p1",
        setting=Setting(**{**usual, "augment": "crop-flip", **setting}),
        baseline=baseline,
        rows=(ProfileRow(method=baseline, memory_ratio=1.0), *made),
        load_start=0,
        load_end=0,
        seconds=60,
        provenance=Provenance(**HERE, started=AT, finished=AT),
    )


def only_row(comparison: Comparison) -> Compared:
    assert len(comparison.tables) == 1
    assert len(comparison.tables[0].rows) == 1
    return comparison.tables[0].rows[0]


def rows(comparison: Comparison) -> dict[str, Compared]:
    assert len(comparison.tables) == 1
    return {row.label: row for row in comparison.tables[0].rows}


def test_a_comparison_by_hand() -> None:
    """Differences 0.01, 0.03, 0.02: mean 0.02, s = 0.01, t = 2 sqrt(3), p = 1 - t / sqrt(2 + t^2) for two degrees."""
    other = [
        trial("zipf", s, v, seconds=t, peak=m)
        for s, v, t, m in [(0, 0.71, 110, 2**20), (1, 0.75, 105, 2**21), (2, 0.76, 120, 3 * 2**20)]
    ]
    found = compare([*CE, *other], ["ce", "zipf"])
    row = only_row(found)
    assert found.tables[0].reference == "ce"
    assert found.tables[0].reference_value == MeanStd(pytest.approx(0.72), pytest.approx(0.02), 3)
    assert row.value is not None
    assert row.value.mean == pytest.approx(0.74)
    assert row.difference.mean == pytest.approx(0.02, abs=1e-12)
    assert row.difference.low == pytest.approx(0.02 - 0.01 * HALF_WIDTH, abs=1e-12)
    assert row.difference.high == pytest.approx(0.02 + 0.01 * HALF_WIDTH, abs=1e-12)
    t = 2 * math.sqrt(3)
    assert row.p == row.p_adjusted == pytest.approx(1 - t / math.sqrt(2 + t * t), abs=1e-9)
    assert row.verdict == "not distinguishable", "p is 0.074"
    assert row.costs[0].time == MeanStd(pytest.approx((1.1 + 1.05 + 1.2) / 3), pytest.approx(0.0763762616), 3)
    assert row.costs[0].memory == MeanStd(2.0, 1.0, 3)
    assert found.comparisons == 1
    text = render_comparison(found, "text")
    line = next(" ".join(line.split()) for line in text.splitlines() if line.startswith("zipf"))
    assert line == "zipf 74.00 ± 2.65 (3) +2.00 [-0.48, +4.48] (3) 0.074 not distinguishable 1.12 2.00"
    assert "Reference: ce, top-1 % 72.00 ± 2.00 (3)" in text


def test_the_first_name_is_the_reference_unless_another_is_named() -> None:
    other = series("zipf", [0.80, 0.821, 0.84])
    forth, back = compare([*CE, *other], ["ce", "zipf"]), compare([*CE, *other], ["zipf", "ce"])
    assert only_row(forth).verdict == "better"
    assert only_row(back).verdict == "worse"
    assert only_row(back).difference.mean == pytest.approx(-0.101, abs=1e-3)
    assert compare([*CE, *other], ["zipf"], reference="ce") == forth
    assert compare([*CE, *other], ["zipf", "ce"], reference="ce") == forth


@pytest.mark.parametrize("metric", list(METRICS))
def test_the_metric_says_which_direction_is_better(metric: str) -> None:
    name = metric.removeprefix("scaled_")
    own, other = ([0.20, 0.22, 0.24, 0.26], [0.10, 0.121, 0.14, 0.161])
    results = []
    for method, values in (("ce", own), ("ls", other)):
        for seed, value in enumerate(values):
            one = trial(method, seed, metrics={name: value}, scaled_nll=0.5)
            assert one.scaled is not None
            results.append(one.model_copy(update={"scaled": one.scaled.model_copy(update={name: value})}))
    row = only_row(compare(results, ["ce", "ls"], metric=metric))
    assert row.difference.mean == pytest.approx(-0.0995)
    assert row.verdict == ("worse" if metric in ("top1", "top5") else "better")


def test_holm_is_over_all_comparisons_of_the_answer() -> None:
    generator = np.random.default_rng(0)
    table = {
        (method, data): 0.7 + shift + generator.normal(0, 0.01, 5)
        for method, shift in (("ce", 0.0), ("ls", 0.02), ("zipf", 0.01))
        for data in ("cifar10", "cifar100")
    }
    results = [r for (method, data), v in table.items() for r in series(method, v.tolist(), dataset=data)]
    found = compare(results, ["ce", "ls", "zipf"])
    pairs = [(m, d) for d in ("cifar10", "cifar100") for m in ("ls", "zipf")]
    expected = [float(stats.ttest_rel(table[m, d], table["ce", d]).pvalue) for m, d in pairs]
    assert [row.p for t in found.tables for row in t.rows] == pytest.approx(expected, rel=1e-9)
    assert [row.p_adjusted for t in found.tables for row in t.rows] == pytest.approx(holm(expected), rel=1e-9)
    assert found.comparisons == 4
    assert "adjusted by Holm over the 4 tests made" in " ".join(render_comparison(found, "text").split())


def test_too_few_seeds_are_said_aloud() -> None:
    results = [
        *CE,
        *series("two", [0.9, 0.9]),
        *series("one", [0.9]),
        trial("none", 7, 0.9),
        trial("dead", 0, status="oom"),
    ]
    found = rows(compare(results, ["ce", "two", "one", "none", "dead"]))
    assert {row.verdict for row in found.values()} == {"n too small"}
    assert {label: row.difference.n for label, row in found.items()} == {"two": 2, "one": 1, "none": 0, "dead": 0}
    assert all(row.p is None for row in found.values())
    text = " ".join(render_comparison(compare(results, ["ce", "two", "none", "dead"]), "text").split())
    assert "(n too small: 2) – n too small" in text
    assert "– (n too small: 0) – n too small" in text
    assert "over the no test made" in text
    assert "dead seed 0: oom: no reason recorded" in text


def test_differences_without_spread_are_told() -> None:
    found = compare([*series("ce", [0.5, 0.25, 0.75]), *series("ls", [0.5, 0.25, 0.75])], ["ce", "ls"])
    assert only_row(found).p == 1.0
    assert only_row(found).verdict == "not distinguishable"
    assert any("the same for all 3 seeds" in note for note in found.tables[0].notes)
    shifted = compare([*series("ce", [0.5, 0.25, 0.75]), *series("ls", [0.625, 0.375, 0.875])], ["ce", "ls"])
    assert (only_row(shifted).p, only_row(shifted).verdict) == (0.0, "better")


VARIANTS = [
    *CE,
    *series("zipf", [0.8, 0.81, 0.82], params={"weight": 0.1, "dense": True}),
    *series("zipf", [0.9, 0.91, 0.92], params={"weight": 0.2, "dense": True}),
    *series("zipf", [0.6, 0.61, 0.62], params={"weight": 0.2, "dense": False}),
    *series("ls+cutmix", [0.5, 0.5, 0.5], params={"smoothing": 0.1, "cutmix.alpha": 1.0}),
    *series("ls+cutmix", [0.5, 0.5, 0.5], params={"smoothing": 0.1, "cutmix.alpha": 0.5}),
    *series("byot", [0.5] * 3, source="aaaabbbbcccc"),
    *series("byot", [0.6] * 3, source="ddddeeeeffff"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["ce", "zipf[dense=true,weight=0.1]"], ["zipf[dense=true,weight=0.1]"]),
        (["ce", "zipf[weight=0.10,dense=True]"], ["zipf[dense=true,weight=0.1]"]),
        (["ce", "zipf[weight=0.1]"], ["zipf[dense=true,weight=0.1]"]),
        (["ce", "zipf[weight=0.2]"], ["zipf[dense=false,weight=0.2]", "zipf[dense=true,weight=0.2]"]),
        (["ce", "zipf[dense=false]", "zipf"],
         ["zipf[dense=false,weight=0.2]", "zipf[dense=true,weight=0.1]", "zipf[dense=true,weight=0.2]"]),
        (["zipf[dense=false]", "zipf[weight=0.2]"], ["zipf[dense=true,weight=0.2]"]),
        (["ce", "ls+cutmix[alpha=0.5]"], ["ls+cutmix[cutmix.alpha=0.5]"]),
        (["ce", "ls[smoothing=0.1]+cutmix[alpha=1]"], ["ls+cutmix[cutmix.alpha=1.0]"]),
        (["ce", "byot[source=dddd]"], ["byot[source=ddddeeee]"]),
        (["ce", "b*"], ["byot[source=aaaabbbb]", "byot[source=ddddeeee]"]),
    ],
)  # fmt: skip
def test_names_select_variants(names: list[str], labels: list[str]) -> None:
    assert sorted(rows(compare(VARIANTS, names))) == sorted(labels)


def test_all_stands_for_every_other_variant() -> None:
    assert len(rows(compare(VARIANTS, ["ce", "all"]))) == 7


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        ([], "a comparison takes two methods; for example: sdbench compare ce zipf"),
        (["ce"], "a comparison takes two methods"),
        (["ce", "ce"], "a comparison takes two methods"),
        (["ce", "zpf"], "unknown method 'zpf'; did you mean 'zipf'"),
        (["ec", "zipf[dense=false]"], "unknown method 'ec'; did you mean"),
        (["ce", "zipf[weight=0.3]"], r"unknown method 'zipf\[weight=0.3\]'; did you mean 'zipf\[dense"),
        (["zipf", "ce"], "3 variants of zipf on cifar100, .*name one with --reference"),
        (["ce", "zipf[weight]"], "write param=value"),
    ],
)
def test_names_that_select_nothing(names: list[str], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        compare(VARIANTS, names)


def test_tables_are_those_of_the_board() -> None:
    results = [
        *CE,
        *series("ls", [0.7, 0.71, 0.73]),
        *series("ce", [0.1, 0.2, 0.3], dataset="cifar10"),
        *series("zipf", [0.1, 0.2, 0.3], dataset="cifar10"),
        *series("ls", [0.1, 0.2, 0.3], network="resnet8"),
        *series("zipf", [0.1, 0.2, 0.3], epochs=10),
    ]
    found = compare(results, ["ce", "ls", "zipf"])
    assert [(t.dataset, t.network, [r.label for r in t.rows]) for t in found.tables] == [
        ("cifar10", "resnet20", ["zipf"]),
        ("cifar100", "resnet20", ["ls"]),
    ]
    assert "ls has no trial here" in found.tables[0].notes
    assert found.notes == (
        "left out: cifar100, resnet20, protocol fixed 1, 10 epochs has zipf, but no ce",
        "left out: cifar100, resnet8, protocol fixed 1, 200 epochs has ls, but no ce",
    )
    with pytest.raises(UserError, match="no table has both ce and zipf") as error:
        compare([r for r in results if r.spec.dataset == "cifar100"], ["ce", "zipf"])
    assert "10 epochs has zipf, but no ce" in str(error.value)


def test_costs_count_only_where_timings_do() -> None:
    found = compare([*CE, *series("ls", [0.7, 0.71, 0.73], timed=False, peak=2**21)], ["ce", "ls"])
    assert only_row(found).costs[0].time is None
    assert only_row(found).costs[0].memory == MeanStd(2.0, 0.0, 3)
    assert any("load 3.0 above 2 cores" in note for note in found.tables[0].notes)
    elsewhere = compare([*CE, *series("ls", [0.7, 0.71, 0.73], cpu="Other")], ["ce", "ls"])
    assert [cost.time for cost in only_row(elsewhere).costs] == [None, None]
    assert len(elsewhere.tables[0].hardware) == 2


def test_the_step_is_of_one_profile() -> None:
    results = [*CE, *series("ls", [0.7, 0.71, 0.73]), *series("zipf", [0.7, 0.71, 0.73])]
    measured = [profile(("ls", 1.25), ("zipf", 1.5))]
    ls = rows(compare(results, ["ce", "ls", "zipf"], profiles=measured))["ls"].step
    assert ls is not None
    assert (ls.time, ls.low, ls.high, ls.memory) == (1.25, 1.24, 1.26, 2.5)
    found = compare(results, ["ls", "zipf", "ce"], profiles=measured)
    zipf, ce = (rows(found)[label].step for label in ("zipf", "ce"))
    assert zipf is not None
    assert ce is not None
    assert (zipf.time, zipf.low, zipf.high, zipf.memory) == (1.2, None, None, 1.2)
    assert ce.time is None, "the baseline's record has no ratio to itself here"
    assert "step × of zipf: the quotient of two ratios to ce, so without an interval" in found.tables[0].notes
    assert "1.25 [1.24, 1.26]" in render_comparison(compare(results, ["ce", "ls"], profiles=measured), "text")
    assert "step ×" not in render_comparison(compare(results, ["ce", "ls"]), "text")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("top1<-0.3", ("top1", "<", -0.3)),
        (" time > 1.1 ", ("time", ">", 1.1)),
        ("ece>=.5", ("ece", ">=", 0.5)),
        ("scaled_nll<=1e-3", ("scaled_nll", "<=", 0.001)),
        ("step>+2.", ("step", ">", 2.0)),
    ],
)
def test_conditions_are_read(text: str, expected: tuple[str, str, float]) -> None:
    (found,) = parse_conditions([text])
    assert (found.quantity, found.sign, found.limit) == expected


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("top1", "cannot read the condition 'top1'"),
        ("top1=-0.3", "cannot read"),
        ("top1<", "cannot read"),
        ("top1<nan", "cannot read"),
        ("top1<-0.3%", "cannot read"),
        ("tpo1<0", "unknown quantity 'tpo1'; did you mean 'top1'"),
        ("top1<1e999", "too large"),
    ],
)
def test_conditions_that_cannot_be_read_come_with_an_example(text: str, problem: str) -> None:
    with pytest.raises(UserError, match=re.escape(problem)) as error:
        parse_conditions(["time>1", text])
    assert "--fail-if 'top1<-0.3'" in str(error.value)


@pytest.mark.parametrize(
    ("condition", "value", "holds"),
    [
        ("top1<-0.3", -0.3, False),  # exactly there
        ("top1<=-0.3", -0.3, True),
        ("top1<-0.2", -0.3, True),
        ("top1>-0.4", -0.3, True),
        ("ece>1", 2.0, True),
        ("nll>0.2", 0.25, True),
        ("nll<0", 0.25, False),
        ("time>1.1", 1.5, True),
        ("time>1.5", 1.5, False),
        ("memory<1", 2.0, False),
        ("step>1.2", 1.25, True),
        ("peak>2.5", 2.5, False),
        ("scaled_nll>0", None, None),
    ],
)
def test_conditions_are_judged_by_the_mean(condition: str, value: float | None, holds: bool | None) -> None:
    """Differences of top-1: -0.4, -0.2, -0.3 points; of ECE 2 points; of NLL 0.25."""
    own = [
        trial("ls", s, v, seconds=150, peak=2**21, metrics={"ece": 0.07, "nll": 1.75})
        for s, v in enumerate([0.696, 0.718, 0.737])
    ]
    found = compare([*CE, *own], ["ce", "ls"], fail_if=parse_conditions([condition]), profiles=[profile(("ls", 1.25))])
    (outcome,) = found.outcomes
    assert outcome.value == (None if value is None else pytest.approx(value, abs=1e-12))
    assert outcome.holds is holds
    assert bool(found.failed) == (holds is not False), "what cannot be decided counts as failure"


def test_a_condition_of_few_seeds_is_judged_and_says_so() -> None:
    found = compare([*CE, trial("ls", 0, 0.6)], ["ce", "ls"], fail_if=parse_conditions(["top1<-5", "top1<-50"]))
    assert [(o.holds, o.reason) for o in found.outcomes] == [(True, "n too small: 1"), (False, "n too small: 1")]


def test_a_condition_on_costs_holds_where_it_does_on_any_hardware() -> None:
    results = [
        *(trial("ce", s, seconds=100, cpu=cpu) for s, cpu in enumerate("AAB")),
        *(trial("ls", s, seconds=t, cpu=cpu) for s, (cpu, t) in enumerate([("A", 105), ("A", 105), ("B", 130)])),
    ]
    found = compare(results, ["ce", "ls"], fail_if=parse_conditions(["time>1.2", "time<1.1", "time>1.3"]))
    assert [(o.value, o.holds) for o in found.outcomes] == [(1.3, True), (1.05, True), (1.3, False)]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    for one in [*CE, *series("ls", [0.696, 0.718, 0.737]), *series("zipf", [0.8, 0.821, 0.84])]:
        Store(tmp_path).write(one)
    archive.write(tmp_path, profile(("ls", 1.25)))
    return tmp_path


def command(*arguments: str | Path) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["compare", *map(str, arguments)])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout, done.stderr


def test_the_command_and_its_exit_codes(results: Path) -> None:
    code, out, err = command("ce", "ls", "zipf", "--results", results)
    assert (code, err) == (0, "")
    assert "zipf" in out
    assert "better" in out
    code, out, err = command("ce", "ls,zipf", "-o", results, "--fail-if", "top1<-0.2", "--fail-if", "time>1.1")
    assert code == 4
    assert "fail-if top1<-0.2: holds for ls on cifar100" in err
    assert "zipf" not in err
    assert "fail-if time>1.1: no for ls" in " ".join(out.split())
    assert command("ce", "ls", "-o", results, "--fail-if", "top1<-0.4")[0] == 0
    assert command("ce", "ls", "-o", results, "--fail-if", "top1<-0.4,step>1.2")[0] == 4
    code, _, err = command("ce", "zipf", "-o", results, "--fail-if", "step>9")
    assert code == 4
    assert "cannot be decided for zipf" in err
    assert "this counts as failure" in err


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["ce", "zpf"], "did you mean 'zipf'"),
        (["ce"], "a comparison takes two methods"),
        (["ce", "ls", "--fail-if", "top1~3"], "for example --fail-if"),
        (["ce", "ls", "--metric", "top2"], "unknown metric 'top2'; did you mean"),
        (["ce", "ls", "--format", "mdd"], "unknown format 'mdd'; did you mean 'md'"),
        (["ce", "ls", "-d", "cifar10"], "unknown dataset 'cifar10'; did you mean 'cifar100'"),
        (["ce", "ls", "-M", "resnet21"], "unknown network 'resnet21'; did you mean 'resnet20'"),
        (["ce", "ls", "--protocol", "fixd"], "unknown protocol 'fixd'; did you mean 'fixed'"),
    ],
)
def test_mistakes_are_usage_errors(results: Path, arguments: list[str], problem: str) -> None:
    code, out, err = command(*arguments, "-o", results)
    assert (code, out) == (2, "")
    assert problem in err


def test_no_folder_and_an_empty_one(tmp_path: Path) -> None:
    assert "no results folder" in command("ce", "ls", "-o", tmp_path / "none")[2]
    code, _, err = command("ce", "ls", "-o", tmp_path)
    assert code == 2
    assert "no trial under" in err


def test_a_damaged_record_is_told_and_exits_1(results: Path) -> None:
    path = next(results.glob("trials/*/*/ls/*/trial.json"))
    path.write_text(path.read_text().replace('"top1": 0.', '"top1": 1.'))
    code, out, err = command("ce", "zipf", "-o", results)
    assert code == 1
    assert "record left out" in out
    assert "damaged record left out" in err


def test_json_holds_everything(results: Path) -> None:
    code, out, _ = command("ce", "ls", "zipf", "-o", results, "--json", "--metric", "nll", "--fail-if", "top1<-0.2")
    assert code == 4
    found = json.loads(out)
    assert (found["metric"], found["higher_is_better"], found["comparisons"]) == ("nll", False, 2)
    row = found["tables"][0]["rows"][0]
    assert (row["label"], row["difference"]["n"], row["difference"]["seeds"]) == ("ls", 3, [0, 1, 2])
    assert row["mean_differences"]["top1"] == pytest.approx(-0.003)
    assert row["step"]["time"] == 1.25
    assert [o["holds"] for o in found["outcomes"]] == [True, False]
    assert Comparison.model_validate_json(out)
    assert command("ce", "ls", "-o", results, "-f", "json")[1] == command("ce", "ls", "-o", results, "--json")[1]


def test_markdown_keeps_its_columns_and_hostile_names_do_no_harm() -> None:
    bad = ["a|b", "<script>alert(1)</script>", "two\nlines", "\x1b[31mred"]
    results = [*CE, *(r for name in bad for r in series(name, [0.7, 0.71, 0.73]))]
    found = compare(results, ["all"], reference="ce")
    text = render_comparison(found, "md")
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(bad)
    assert {len(re.split(r"(?<!\\)\|", line)) for line in lines} == {9}
    assert not re.search(r"<[a-zA-Z/]", text)
    for name in FORMATS:
        assert "\x1b" not in render_comparison(found, name)
    with pytest.raises(UserError, match="unknown format"):
        render_comparison(found, "csv")


def test_the_order_of_records_does_not_matter() -> None:
    forth, back = compare(VARIANTS, ["ce", "all"]), compare(VARIANTS[::-1], ["ce", "all"])
    assert render_comparison(forth, "json") == render_comparison(back, "json")


def test_boards_compare_is_the_command(results: Path) -> None:
    text, code = boards.compare(str(results), ["ce", "ls"], boards.Filter())
    assert (text, code) == (command("ce", "ls", "-o", results)[1], 0)


def test_a_method_that_is_compared_nowhere_does_not_pass_a_gate() -> None:
    """pskd was trained at other epochs than the reference: nobody measured it against that."""
    trials = [*CE, *series("zipf", [0.71, 0.73, 0.75]), *series("pskd", [0.1, 0.1, 0.1], epochs=4)]
    conditions = parse_conditions(["top1<-0.3", "time>9"])
    found = compare(trials, ["ce", "zipf", "pskd"], fail_if=conditions)
    judged = {(o.label, o.condition): o.holds for o in found.outcomes}
    assert judged == {
        ("zipf", "top1<-0.3"): False, ("zipf", "time>9"): False, ("pskd", "top1<-0.3"): None, ("pskd", "time>9"): None
    }  # fmt: skip
    assert {o.label for o in found.failed} == {"pskd"}
    assert compare(trials, ["ce", "zipf", "pskd"]).outcomes == ()
    assert {o.label for o in compare(trials, ["ce", "z*"], fail_if=conditions).outcomes} == {"zipf"}


def test_differences_that_are_equal_but_for_rounding_are_said_to_be() -> None:
    found = compare([*series("ce", [0.1, 0.2, 0.3]), *series("ls", [0.2, 0.3, 0.4])], ["ce", "ls"])
    assert any("is the same for all 3 seeds" in note for note in found.tables[0].notes)
