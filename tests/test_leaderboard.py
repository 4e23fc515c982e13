"""Boards built from made-up records, against tables worked out by hand."""

import math
import random
import time
from typing import Any

import pytest

from sdbench.comparison_selection import choose
from sdbench.leaderboard import build_board
from sdbench.leaderboard_formats import SUFFIXES, render
from sdbench.leaderboard_records import Board, Row, Table
from sdbench.spec import (
    Cost,
    Identity,
    Metrics,
    Pairing,
    Provenance,
    Recipe,
    Scaled,
    TrialResult,
    TrialSpec,
    Tuning,
    digest,
)
from sdbench.statistics import MeanStd

RECIPE = Recipe(epochs=200)
BASE_SCALED = {"temperature": 2.0, "held_out": 50, "nll": 1.25, "ece": 0.02, "brier": 0.4, "aurc": 0.1, "eaurc": 0.05}
HALF_WIDTH = 0.95 / math.sqrt(2 * 0.975 * 0.025) / math.sqrt(3)
"""t_2(0.975) / sqrt(3) in closed form: half the interval of three differences with s = 1."""


def trial(
    method: str,
    seed: int,
    top1: float | None = 0.5,
    *,
    cost: dict[str, Any] | None = None,
    metrics: dict[str, float] | None = None,
    scaled: dict[str, float] | None = None,
    where: dict[str, Any] | None = None,
    source: str = "",
    version: str = "1",
    data: str = "d" * 64,
    pairing: str | None = None,
    status: str = "ok",
    reason: str = "",
    baseline: str = "ce",
    **spec: Any,
) -> TrialResult:
    """One record; what is not given is the same in all."""
    own = TrialSpec(
        **{"dataset": "cifar100", "network": "resnet20", "recipe": RECIPE, "protocol": "fixed", **spec},
        method=method,
        seed=seed,
    )
    identity = Identity(method_source=source or f"{method}-source", data_fingerprint=data, protocol_version=version)
    base_cost = {
        "train_s": 50.0, "process_s": 100.0, "eval_s": 1.0, "setup_s": 1.0, "labelled_images": 1000,
        "images_with_gradient": 1000, "images_without_gradient": 0, "peak_memory_bytes": 2**20,
        "auxiliary_parameters": 0, "state_bytes": 0, "timing_valid": True,
    }  # fmt: skip
    base_metrics = {"top1": top1, "top5": 0.9, "nll": 1.5, "ece": 0.05, "brier": 0.4, "aurc": 0.1, "eaurc": 0.05}
    provenance = {
        "versions": {"torch": "2.10.0"}, "device": "cpu", "cpu": "Example 9000",
        "started": "2026-01-01T00:00:00.000+00:00", "finished": "2026-01-01T01:00:00.000+00:00",
    }  # fmt: skip
    return TrialResult(
        trial_id=digest([own.model_dump(mode="json"), identity.model_dump(mode="json")]),
        status=status,
        reason=reason,
        baseline=baseline,
        spec=own,
        identity=identity,
        metrics=Metrics(**{**base_metrics, **(metrics or {})}) if status == "ok" else None,
        scaled=Scaled(**{**BASE_SCALED, **scaled}) if scaled is not None else None,
        cost=Cost(**{**base_cost, **(cost or {})}) if status == "ok" else None,
        pairing=Pairing(initial_weights=pairing, first_batch="b") if pairing else None,
        provenance=Provenance(**{**provenance, **(where or {})}),
    )


def only(board: Board) -> Table:
    assert len(board.tables) == 1
    return board.tables[0]


def row(table: Table, label: str) -> Row:
    return {r.label: r for r in table.rows}[label]


def test_a_table_by_hand() -> None:
    base = [trial("ce", s, t, cost={"process_s": p}) for s, t, p in [(0, 0.70, 100), (1, 0.72, 80), (2, 0.74, 50)]]
    other = [
        trial("zipf", s, t, cost={"process_s": p, "peak_memory_bytes": m}, metrics={"ece": e})
        for s, t, p, m, e in [(0, 0.71, 110, 2**20, 0.1), (1, 0.75, 84, 2**21, 0.2), (2, 0.76, 60, 3 * 2**20, 0.3)]
    ]
    table = only(build_board(base + other, baseline="ce"))
    assert [r.label for r in table.rows] == ["zipf", "ce"], "by mean top-1, the highest first"
    assert table.baseline == "ce"
    assert table.hardware == ("cpu (Example 9000), 1 thread, torch 2.10.0",)
    assert table.notes == ()
    zipf, ce = table.rows
    assert zipf.metrics["top1"].mean == pytest.approx(0.74, abs=1e-12)
    assert zipf.metrics["top1"].std == pytest.approx(math.sqrt((0.03**2 + 0.01**2 + 0.02**2) / 2), abs=1e-12)
    assert zipf.metrics["ece"].mean == pytest.approx(0.2, abs=1e-12)
    assert zipf.gain is not None
    assert zipf.gain.mean == pytest.approx(0.02, abs=1e-12)  # differences 0.01, 0.03, 0.02: s = 0.01
    assert zipf.gain.low == pytest.approx(0.02 - 0.01 * HALF_WIDTH, abs=1e-12)
    assert zipf.gain.high == pytest.approx(0.02 + 0.01 * HALF_WIDTH, abs=1e-12)
    assert zipf.gain.seeds == zipf.seeds == (0, 1, 2)
    assert zipf.costs[0].time is not None
    assert zipf.costs[0].time.mean == pytest.approx((1.1 + 1.05 + 1.2) / 3, abs=1e-12)
    assert zipf.costs[0].memory == MeanStd(2.0, 1.0, 3)
    assert zipf.statuses == {"ok": 3}
    assert (ce.baseline, ce.gain) == (True, None)
    assert ce.costs[0].time == MeanStd(1.0, 0.0, 3)


def test_metrics_after_temperature_scaling_stand_beside_those_before() -> None:
    ce = [trial("ce", s, 0.5, scaled={"temperature": t, "nll": n}) for s, t, n in [(0, 1.5, 1.0), (1, 2.5, 1.5)]]
    ls = [trial("ls", 0, 0.6, scaled={"temperature": 0.5, "ece": 0.0123}), trial("ls", 1, 0.6), trial("ls", 2, 0.6)]
    table = only(build_board([*ce, *ls, trial("zipf", 0, 0.4)], baseline="ce"))
    own = row(table, "ce")
    assert own.metrics["nll"] == MeanStd(1.5, 0.0, 2)
    assert own.scaled["scaled_nll"] == MeanStd(1.25, math.sqrt(0.125), 2)
    assert own.scaled["temperature"] == MeanStd(2.0, math.sqrt(0.5), 2)
    assert row(table, "ls").scaled["scaled_ece"] == MeanStd(0.0123, None, 1)
    assert row(table, "zipf").scaled == {}
    assert not any("temperature" in note for note in table.notes)


def test_a_temperature_at_an_end_of_its_range_is_noted() -> None:
    ends = [(0, 1e-3), (1, 1e3), (2, 1e-3), (3, 1.0)]
    table = only(build_board([trial("ls", s, scaled={"temperature": t}) for s, t in ends]))
    assert "ls seeds 0, 2: temperature at the end of its range, 0.001" in table.notes
    assert "ls seed 1: temperature at the end of its range, 1000" in table.notes


def test_gain_pairs_by_seed_only() -> None:
    results = [
        trial("ce", 0, 0.5),
        trial("ce", 1, 0.6),
        trial("ls", 1, 0.65),
        trial("ls", 2, 0.9),
        trial("ban", 7, 0.9),
    ]
    table = only(build_board(results, baseline="ce"))
    one = row(table, "ls").gain
    assert one is not None
    assert (one.mean, one.low, one.high, one.n) == (pytest.approx(0.05), None, None, 1)
    none = row(table, "ban").gain
    assert none is not None
    assert (none.mean, none.n) == (None, 0)
    assert any(
        n == "finished seeds differ between rows (seeds 0, 1: ce; seeds 1, 2: ls; seed 7: ban)" for n in table.notes
    )
    assert "+5.00 (n too small: 1)" in render(build_board(results, baseline="ce"), "text")


def test_on_a_gpu_time_is_wall_time() -> None:
    gpu = {"device": "NVIDIA H200"}
    results = [
        trial("ce", 0, cost={"train_s": 10.0, "process_s": 1.0}, where=gpu),
        trial("ls", 0, cost={"train_s": 15.0, "process_s": 1.0}, where=gpu),
    ]
    time_ratio = row(only(build_board(results, baseline="ce")), "ls").costs[0].time
    assert time_ratio == MeanStd(1.5, None, 1)


def test_invalid_timing_leaves_the_ratio_out_and_says_why() -> None:
    bad = {"timing_valid": False, "timing_problems": ("several trials shared the device",)}
    results = [
        trial("ce", 0, cost=bad),
        trial("ce", 1),
        trial("ls", 0, cost={"process_s": 300.0}),
        trial("ls", 1, cost={"process_s": 150.0, "peak_memory_bytes": 2**21}),
        trial("zipf", 0, cost=bad),
    ]
    table = only(build_board(results, baseline="ce"))
    assert row(table, "ls").costs[0].time == MeanStd(1.5, None, 1)
    assert row(table, "ls").costs[0].memory == MeanStd(1.5, pytest.approx(math.sqrt(0.5)), 2)
    assert row(table, "zipf").costs[0].time is None
    assert "ce seed 0: timing left out: several trials shared the device" in table.notes
    assert "zipf seed 0: timing left out: several trials shared the device" in table.notes
    assert "1.50 (1)" in render(build_board(results, baseline="ce"), "text"), "fewer seeds than top-1 are shown"


def test_unlike_hardware_never_shares_a_cost_column() -> None:
    slow, fast = {"cpu": "Slow"}, {"cpu": "Fast"}
    results = [
        *(trial("ce", s, cost={"process_s": 100.0}, where=slow) for s in (0, 1)),
        trial("ce", 2, cost={"process_s": 10.0}, where=fast),
        trial("ls", 0, cost={"process_s": 120.0}, where=slow),
        trial("ls", 1, cost={"process_s": 12.0}, where=fast),
        trial("ls", 2, cost={"process_s": 20.0}, where=fast),
        trial("ls", 3, cost={"process_s": 20.0}, where={"versions": {"torch": "9"}}),
        trial("zipf", 0, cost={"process_s": 130.0}, where=slow, threads=4),
    ]
    table = only(build_board(results, baseline="ce"))
    labels = [
        "cpu (Fast), 1 thread, torch 2.10.0",
        "cpu (Slow), 1 thread, torch 2.10.0",
        "cpu (Example 9000), 1 thread, torch 9",
        "cpu (Slow), 4 threads, torch 2.10.0",
    ]
    assert sorted(table.hardware) == sorted(labels)
    costs = {c.hardware: c.time for c in row(table, "ls").costs}
    assert costs == {
        labels[0]: MeanStd(2.0, None, 1),
        labels[1]: MeanStd(1.2, None, 1),
        labels[2]: None,
        labels[3]: None,
    }
    assert all(c.time is None for c in row(table, "zipf").costs)
    assert row(table, "ls").metrics["top1"].n == 4, "accuracy does not depend on where it was computed"
    assert "ls seeds 1, 3: no ce trial on the same hardware to set costs against" in table.notes
    text = render(build_board(results, baseline="ce"), "text")
    assert all(f"{kind} × {mark}" in text for kind in ("time", "memory") for mark in "ABCD")


@pytest.mark.parametrize(
    "other",
    [
        {"dataset": "cifar10"},
        {"network": "resnet8"},
        {"image_size": 64},
        {"protocol": "tuned"},
        {"version": "2"},
        {"recipe": Recipe(epochs=100)},
        {"recipe": Recipe(epochs=200, lr=0.05)},
        {"recipe": Recipe(epochs=200, augment="crop")},
        {"precision": "fp32"},
        {"split": "holdout-0.1"},
        {"data": "e" * 64},
    ],
)
def test_what_cannot_be_compared_never_shares_a_table(other: dict[str, Any]) -> None:
    board = build_board([trial("ce", 0), trial("ls", 0, **other)], baseline="ce")
    assert [len(t.rows) for t in board.tables] == [1, 1]
    lonely = next(t for t in board.tables if t.rows[0].label == "ls")
    assert lonely.rows[0].gain is None
    assert lonely.rows[0].costs[0].time is None
    assert lonely.baseline is None
    assert lonely.notes == (
        "no baseline: ce has no finished trial in this table, so gains and relative costs are left out",
    )


def test_failures_are_counted_and_explained() -> None:
    results = [
        trial("ce", 0),
        trial("ls", 0),
        trial("ls", 1, status="nan", reason="loss term ce is not finite\nin epoch 3"),
        trial("ls", 2, status="nan", reason="loss term ce is not finite in epoch 3"),
        trial("ls", 3, status="oom", reason="x" * 1000),
        *(trial("zipf", i, status=s) for i, s in enumerate(["failed", "timeout", "interrupted", "interrupted"])),
    ]
    table = only(build_board(results, baseline="ce"))
    assert row(table, "ls").statuses == {"ok": 1, "oom": 1, "nan": 2}
    assert row(table, "zipf").statuses == {"failed": 1, "timeout": 1, "interrupted": 2}
    assert table.rows[-1].label == "zipf", "rows without a mean come last"
    assert row(table, "zipf").metrics == {}
    assert "ls seeds 1, 2: nan: loss term ce is not finite in epoch 3" in table.notes
    assert "zipf seeds 2, 3: interrupted: no reason recorded" in table.notes
    long = next(n for n in table.notes if n.startswith("ls seed 3: oom: "))
    assert len(long) < 350
    assert sum(sum(r.statuses.values()) for r in table.rows) == len(results), "none is silently missing"
    for name in ("text", "md", "latex", "html"):
        assert "1 ok, 1 oom, 2 nan" in render(build_board(results, baseline="ce"), name)


def test_a_baseline_that_never_finished_is_no_baseline() -> None:
    table = only(build_board([trial("ce", 0, status="oom"), trial("ls", 0)], baseline="ce"))
    assert table.baseline is None
    assert row(table, "ce").statuses == {"oom": 1}
    assert any(n.startswith("no baseline: ce has no finished trial") for n in table.notes)


def test_baseline_defaults_to_what_the_records_name() -> None:
    results = [trial("plain", 0, 0.5, baseline="plain"), trial("ls", 0, 0.6, baseline="plain")]
    assert only(build_board(results)).baseline == "plain"
    assert only(build_board([trial("ls", 0, baseline="")])).notes == (
        "no baseline: no record names one, so gains and relative costs are left out",
    )


def test_variants_are_named_by_what_they_differ_in() -> None:
    results = [
        trial("ce", 0),
        *(trial("zipf", 0, t, params={"weight": w, "power": 1.0, "dense": d}) for t, w, d in
          [(0.1, 0.1, True), (0.2, 0.2, True), (0.3, 0.2, False)]),
        trial("ls", 0, params={"smoothing": 0.1}),
        trial("ls", 0, params={"smoothing": 0.1}, source="edited-later"),
    ]  # fmt: skip
    table = only(build_board(results, baseline="ce"))
    assert {r.label: r.metrics["top1"].mean for r in table.rows} == {
        "ce": 0.5,
        "zipf[dense=true,weight=0.1]": 0.1,
        "zipf[dense=true,weight=0.2]": 0.2,
        "zipf[dense=false,weight=0.2]": 0.3,
        "ls[source=ls-sourc]": 0.5,
        "ls[source=edited-l]": 0.5,
    }
    assert row(table, "zipf[dense=true,weight=0.1]").params == {"weight": 0.1, "power": 1.0, "dense": True}


TUNING = Tuning(trials=16, scheduler="asha", epochs=200, split="holdout-0.1", lr=0.1, weight_decay=5e-4, study="a" * 16)


def tuned(method: str, seed: int, top1: float, lr: float, day: int = 1, **spec: Any) -> TrialResult:
    made = {"finished": f"2026-01-{day:02}T00:00:00.000+00:00"}
    given = {"recipe": Recipe(epochs=200, lr=lr), "protocol": "tuned", "tuning": TUNING, "where": made, **spec}
    return trial(method, seed, top1, **given)


@pytest.mark.parametrize("others", [(0, 1), (2, 3)])
def test_what_one_study_chose_on_two_machines_is_never_averaged(others: tuple[int, int]) -> None:
    """Which trials ASHA stops depends on the order in which they arrive, and with them what is chosen."""
    results = [
        *(tuned("ce", seed, 0.8, 0.5) for seed in (0, 1)),
        *(tuned("ce", seed, 0.6, 0.05, day=2) for seed in others),
        *(tuned("ls", seed, 0.7, 0.5) for seed in (0, 1)),
    ]
    table = only(build_board(results, baseline="ce"))
    assert {r.label: (r.metrics["top1"].mean, r.seeds) for r in table.rows} == {
        "ce[lr=0.5]": (pytest.approx(0.8), (0, 1)),
        "ce[lr=0.05]": (pytest.approx(0.6), others),
        "ls": (pytest.approx(0.7), (0, 1)),
    }
    assert not any("ran more than once" in note for note in table.notes)
    assert "2 variants of ce: gains and costs are relative to the newest, ce[lr=0.05]" in table.notes
    contests, _, _ = choose({r.trial_id: r for r in results}, ["ce[lr=0.50]", "ls"], None)
    assert [contest.reference.label for contest in contests] == ["ce[lr=0.5]"]


def test_decays_and_studies_are_named_too() -> None:
    other = TUNING.model_copy(update={"study": "b" * 16})
    decayed = Recipe(epochs=200, lr=0.5, weight_decay=1e-4)
    results = [tuned("ce", 0, 0.8, 0.5), tuned("ce", 0, 0.7, 0.5, recipe=decayed)]
    assert {r.label for r in only(build_board(results)).rows} == {"ce[weight_decay=0.0005]", "ce[weight_decay=0.0001]"}
    results = [tuned("ce", 0, 0.8, 0.5), tuned("ce", 0, 0.7, 0.5, tuning=other)]
    assert {r.label for r in only(build_board(results)).rows} == {"ce[study=aaaaaaaa]", "ce[study=bbbbbbbb]"}
    chosen, _, _ = choose({r.trial_id: r for r in results}, ["ce[study=aaaa]", "ce[study=bbbb]"], None)
    assert [contest.reference.top1() for contest in chosen] == [{0: 0.8}]


def test_an_edited_baseline_pairs_with_its_newest_version() -> None:
    late = {"finished": "2026-06-01T00:00:00.000+00:00"}
    results = [trial("ce", 0, 0.5, source="old"), trial("ce", 0, 0.6, source="new", where=late), trial("ls", 0, 0.7)]
    table = only(build_board(results, baseline="ce"))
    assert table.baseline == "ce[source=new]"
    gain = row(table, "ls").gain
    assert gain is not None
    assert gain.mean == pytest.approx(0.1)
    assert "2 variants of ce: gains and costs are relative to the newest, ce[source=new]" in table.notes


def test_duplicates_count_once_and_the_newest_complete_one_wins() -> None:
    def at(day: int) -> dict[str, Any]:
        return {"finished": f"2026-01-{day:02}T00:00:00.000+00:00"}

    results = [
        trial("ce", 0, 0.1, where=at(1)),
        trial("ce", 0, 0.2, where=at(3)),
        trial("ce", 0, 0.3, where=at(2)),
        trial("ce", 0, status="oom", where=at(9)),
        trial("ls", 0, status="interrupted", where=at(9)),
        trial("ls", 0, status="nan", where=at(1)),
    ]
    board = build_board(results, baseline="ce")
    assert row(only(board), "ce").metrics["top1"] == MeanStd(0.2, None, 1)
    assert row(only(board), "ls").statuses == {"nan": 1}
    ids = sorted({r.trial_id for r in results})
    note = f"trials with more than one record, of which the newest complete one counts: {', '.join(ids)}"
    assert board.notes == (note,)


def test_a_seed_counts_once_per_variant() -> None:
    """Two trials of one variant and seed that differ in threads are not two seeds."""
    late = {"finished": "2026-06-01T00:00:00.000+00:00"}
    results = [trial("ce", 0, 0.5), trial("ce", 0, 0.7, threads=4, where=late), trial("ce", 1, 0.9)]
    table = only(build_board(results, baseline="ce"))
    assert row(table, "ce").metrics["top1"].n == 2
    assert row(table, "ce").metrics["top1"].mean == pytest.approx(0.8)
    assert any(n.startswith("ce seed 0: ran more than once") for n in table.notes)


def test_students_of_different_teachers_are_no_two_seeds_and_the_note_says_so() -> None:
    late = {"finished": "2026-06-01T00:00:00.000+00:00"}
    results = [trial("kd", 0, 0.5, teacher="aaaa"), trial("kd", 0, 0.7, teacher="bbbb", where=late)]
    table = only(build_board([*results, trial("ce", 0, 0.6)], baseline="ce"))
    assert row(table, "kd").metrics["top1"] == MeanStd(0.7, None, 1)
    (note,) = [n for n in table.notes if n.startswith("kd seed 0: ran more than once")]
    assert "another teacher (an earlier generation or a named network)" in note


def chain(last: dict[str, Any], middle: dict[str, Any], first: dict[str, Any]) -> list[TrialResult]:
    """Three generations: ce, then ban twice, each taught by the one before."""
    g0 = trial("ce", 0, 0.5, generation=0, **first)
    g1 = trial("ban", 0, 0.6, generation=1, teacher=g0.trial_id, **middle)
    return [g0, g1, trial("ban", 0, 0.7, teacher=g1.trial_id, **last)]


def test_earlier_generations_add_their_cost_and_are_no_rows() -> None:
    generations = chain(
        {"cost": {"process_s": 130.0, "images_without_gradient": 1000, "peak_memory_bytes": 3 * 2**20}},
        {"cost": {"process_s": 150.0, "images_without_gradient": 1000, "peak_memory_bytes": 4 * 2**20}},
        {"cost": {"process_s": 100.0}},
    )
    table = only(build_board([trial("ce", 0), *generations], baseline="ce"))
    assert [r.label for r in table.rows] == ["ban", "ce"]
    ban = row(table, "ban")
    assert ban.metrics["top1"].mean == 0.7
    assert ban.statuses == {"ok": 1}
    assert ban.costs[0].time == MeanStd(3.8, None, 1)
    assert ban.costs[0].memory == MeanStd(4.0, None, 1)
    assert ban.forward_per_image == 5.0
    assert row(table, "ce").forward_per_image == 1.0
    assert table.notes == ()


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ("missing", "is missing"),
        ("failed", "did not finish (failed)"),
        ("invalid", "timing left out: load 3.0 above 2 cores"),
        ("elsewhere", "its generations ran on unlike hardware"),
    ],
)
def test_a_chain_with_a_gap_has_no_cost_and_says_why(change: str, note: str) -> None:
    first: dict[str, Any] = {}
    if change == "failed":
        first = {"status": "failed", "reason": "boom"}
    elif change == "invalid":
        first = {"cost": {"timing_valid": False, "timing_problems": ("load 3.0 above 2 cores",)}}
    elif change == "elsewhere":
        first = {"where": {"cpu": "Other"}}
    generations = chain({}, {}, first)
    results = [trial("ce", 0), *(generations[1:] if change == "missing" else generations)]
    table = only(build_board(results, baseline="ce"))
    ban = row(table, "ban")
    assert ban.costs[0].time is None
    assert any(n.startswith("ban seed 0: timing left out") and note in n for n in table.notes)
    known = change in ("invalid", "elsewhere")
    assert ban.forward_per_image == (3.0 if known else None)
    assert ban.gain is not None
    assert ban.gain.mean == pytest.approx(0.2), "accuracy needs no cost"
    if change == "failed":
        assert "ce seed 0 generation 0: failed: boom" in table.notes


def test_records_that_teach_themselves_do_not_hang() -> None:
    one = trial("ban", 0, teacher="self").model_copy(update={"trial_id": "self"})
    table = only(build_board([trial("ce", 0), one], baseline="ce"))
    assert row(table, "ban").costs[0].time is None
    assert any("own descendant" in n for n in table.notes)


def test_earlier_generations_alone_give_no_table_but_their_failures_do() -> None:
    assert build_board([trial("ce", 0, generation=0)], baseline="ce").tables == ()
    table = only(build_board([trial("ce", 0, generation=0, status="oom", reason="full")], baseline="ce"))
    assert table.rows == ()
    assert "ce seed 0 generation 0: oom: full" in table.notes
    for name in SUFFIXES:
        render(build_board([trial("ce", 0, generation=0, status="oom")], baseline="ce"), name)


def test_pairs_that_did_not_start_alike_are_named() -> None:
    results = [
        trial("ce", 0, pairing="w0"),
        trial("ce", 1, pairing="w1"),
        trial("ls", 0, pairing="w0"),
        trial("ls", 1, pairing="other"),
    ]
    assert only(build_board(results, baseline="ce")).notes == ("ls seed 1: did not start from the same weights as ce",)


def test_auxiliary_parameters_and_state() -> None:
    results = [trial("ce", 0), trial("byot", 0, cost={"auxiliary_parameters": 2_020_000, "state_bytes": 19 * 2**20})]
    board = build_board(results, baseline="ce")
    byot = row(only(board), "byot")
    assert (byot.auxiliary_parameters, byot.state_bytes) == (2_020_000, 19 * 2**20)
    assert "2.02 M" in render(board, "text")
    assert "19.0 MiB" in render(board, "text")


def test_damaged_records_are_named() -> None:
    board = build_board([trial("ce", 0)], baseline="ce", damaged=["b: torn", "a: not JSON"])
    assert board.notes == ("record left out: a: not JSON", "record left out: b: torn")


def mixed_store() -> list[TrialResult]:
    generator = random.Random(0)
    results = [
        trial(m, s, generator.random(), dataset=d, cost={"process_s": 50 + 50 * generator.random()},
              where={"cpu": generator.choice(["A", "B"])}, params=p)
        for d in ("cifar10", "cifar100") for s in range(4)
        for m, p in (("ce", {}), ("ls", {"smoothing": 0.1}), ("zipf", {"weight": 0.1}), ("zipf", {"weight": 1.0}))
    ]  # fmt: skip
    results += [trial("ls", s, status="failed", reason=f"reason {s}", params={"smoothing": 0.1}) for s in (5, 6, 7)]
    results += chain({}, {}, {})
    return [*results, results[0].model_copy(update={"reason": "again"}), results[3]]


@pytest.mark.parametrize("name", list(SUFFIXES))
def test_the_order_of_records_does_not_matter(name: str) -> None:
    results = mixed_store()
    expected = render(build_board(results, baseline="ce"), name)
    for seed in range(5):
        shuffled = random.Random(seed).sample(results, len(results))
        assert render(build_board(shuffled, baseline="ce"), name) == expected


def test_ten_thousand_records_within_two_seconds() -> None:
    results = [
        trial(f"m{m}" if m else "ce", s, (m + s) / 100, dataset=f"d{d}")
        for d in range(10) for m in range(20) for s in range(10)
    ]  # fmt: skip
    many = [
        r.model_copy(
            update={"trial_id": f"{r.trial_id}{i}", "spec": r.spec.model_copy(update={"seed": 10 * i + r.spec.seed})}
        )
        for r in results
        for i in range(5)
    ]
    assert len(many) == 10_000
    began = time.process_time()
    board = build_board(many, baseline="ce")
    text = render(board, "text")
    elapsed = time.process_time() - began
    assert sum(len(t.rows) for t in board.tables) == 200
    assert "(50)" in text
    assert elapsed < 2
