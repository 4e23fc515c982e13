"""How a board's rows stand: ranks, tests of gains, the Pareto front, and what is said where n is too small."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest
from scipy import stats

from sdbench.cost.records import ProfileResult, ProfileRow, Ratio, Setting
from sdbench.leaderboard import build_board
from sdbench.leaderboard_formats import SUFFIXES, render
from sdbench.leaderboard_records import Board, Row, Table
from sdbench.spec import Identity, Metrics, Provenance, Recipe, TrialResult, TrialSpec, digest

AT = "2026-01-01T00:00:00.000+00:00"
WHERE = Provenance(device="cpu", cpu="Example 9000", versions={"torch": "2.10.0"}, started=AT, finished=AT)


def series(method: str, values: list[float], seeds: range | None = None, **spec: Any) -> list[TrialResult]:
    """Finished trials of a method, seeds from 0 on."""
    found = []
    for seed, top1 in zip(seeds or range(len(values)), values, strict=True):
        rules = {"dataset": "cifar100", "network": "resnet20", "recipe": Recipe(epochs=200), "protocol": "fixed"}
        own = TrialSpec(**{**rules, **spec}, method=method, seed=seed)
        identity = Identity(method_source=method, data_fingerprint="d" * 64, protocol_version="1")
        cost = {
            "train_s": 1, "process_s": 1, "eval_s": 1, "setup_s": 1, "labelled_images": 1, "images_with_gradient": 1,
            "images_without_gradient": 0, "peak_memory_bytes": 1, "auxiliary_parameters": 0, "state_bytes": 0,
            "timing_valid": True,
        }  # fmt: skip
        made = {
            "trial_id": digest([own.model_dump(mode="json"), identity.model_dump(mode="json")]),
            "status": "ok", "baseline": "ce", "spec": own, "identity": identity, "cost": cost, "provenance": WHERE,
            "metrics": Metrics(top1=top1, top5=0.9, nll=1.5, ece=0.05, brier=0.4, aurc=0.1, eaurc=0.05),
        }  # fmt: skip
        found.append(TrialResult(**made))
    return found


def step(method: str, median: float, **given: Any) -> ProfileRow:
    ratio = Ratio(median=median, low=median - 0.01, high=median + 0.01, rounds=60, verdict="equal")
    return ProfileRow(**{"time_ratio": ratio, **given}, method=method)


def profile(*rows: ProfileRow) -> ProfileResult:
    usual = {"network": "resnet20", "num_classes": 100, "num_train": 50_000, "image_size": 32, "batch_size": 128}
    return ProfileResult(
        profile_id="p1",
        setting=Setting(**usual, augment="crop-flip"),
        baseline="ce",
        rows=(ProfileRow(method="ce"), *rows),
        load_start=0,
        load_end=0,
        seconds=60,
        provenance=WHERE,
    )


def only(board: Board) -> Table:
    assert len(board.tables) == 1
    return board.tables[0]


def by_label(board: Board) -> dict[str, Row]:
    return {row.label: row for row in only(board).rows}


CE = [0.70, 0.72, 0.68, 0.71]
LS = [0.7105, 0.7295, 0.6900, 0.7210]
"""Gains of 1.05, 0.95, 1.00 and 1.10 points: far from 0 at this spread."""
ZIPF = [0.72, 0.70, 0.71, 0.73]
"""Gains of 2, -2, 3 and 2 points: not told from 0."""
TRIALS = [*series("ce", CE), *series("ls", LS), *series("zipf", ZIPF)]


def p_of(a: list[float], b: list[float]) -> float:
    return float(stats.ttest_rel(a, b).pvalue)


def test_ranks_and_p_by_hand() -> None:
    rows = by_label(build_board(TRIALS))
    assert [row.label for row in only(build_board(TRIALS)).rows] == ["zipf", "ls", "ce"], "ordered by the mean"
    assert {label: row.rank for label, row in rows.items()} == {"zipf": 1, "ls": 1, "ce": 2}, "ls alone beats ce"
    first, second = sorted([p_of(LS, CE), p_of(ZIPF, CE)])
    assert rows["ls"].gain_p == pytest.approx(2 * first, rel=1e-9)
    assert rows["zipf"].gain_p == pytest.approx(second, rel=1e-9)
    assert rows["ce"].gain_p is None
    assert not any(row.n_too_small for row in rows.values())


def test_variants_count_as_methods_of_their_own() -> None:
    variants = [*series("ls", LS, params={"smoothing": 0.1}), *series("ls", ZIPF, params={"smoothing": 0.2})]
    rows = by_label(build_board([*series("ce", CE), *variants]))
    assert rows["ls[smoothing=0.1]"].gain_p == pytest.approx(2 * p_of(LS, CE), rel=1e-9)
    assert rows["ls[smoothing=0.2]"].gain_p == pytest.approx(p_of(ZIPF, CE), rel=1e-9)
    assert rows["ls[smoothing=0.2]"].rank == 1


def test_each_table_is_ranked_by_itself() -> None:
    board = build_board([*TRIALS, *series("ce", CE, network="resnet8"), *series("ls", LS, network="resnet8")])
    ranks = {(t.network, row.label): row.rank for t in board.tables for row in t.rows}
    assert ranks["resnet8", "ce"] == 2
    p_values = {t.network: row.gain_p for t in board.tables for row in t.rows if row.label == "ls"}
    assert p_values["resnet8"] == pytest.approx(p_of(LS, CE), rel=1e-9), "one test, nothing to adjust for"


@pytest.mark.parametrize("name", ["text", "md", "latex", "html"])
def test_formats_for_people_show_them(name: str) -> None:
    text = render(build_board(TRIALS), name)
    for part in ("rank", "p (Holm)", f"{p_of(ZIPF, CE):.3f}", "share a rank", "Holm over all pairs"):
        assert part in " ".join(text.split()), part
    assert "Pareto" not in text, "no step was profiled"
    small = {"text": "<0.001", "md": "&lt;0.001", "latex": r"\textless{}0.001", "html": "&lt;0.001"}
    assert small[name] in text
    if name == "md":
        lines = [[c.strip() for c in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
        at = {header: i for i, header in enumerate(lines[0])}
        assert [line[at["rank"]] for line in lines[2:]] == ["1", "1", "2"]
        assert [line[at["p (Holm)"]] for line in lines[2:]] == [f"{p_of(ZIPF, CE):.3f}", "&lt;0.001", "–"]


def test_csv_and_json_hold_full_precision() -> None:
    board = build_board(TRIALS)
    read = {r["label"]: r for r in csv.DictReader(io.StringIO(render(board, "csv")))}
    assert {label: record["rank"] for label, record in read.items()} == {"zipf": "1", "ls": "1", "ce": "2"}
    assert float(read["ls"]["gain_p_adjusted"]) == by_label(board)["ls"].gain_p
    assert (read["ce"]["gain_p_adjusted"], read["ce"]["n_too_small"]) == ("", "False")
    assert "pareto" not in read["ce"]
    rows = {row["label"]: row for row in json.loads(render(board, "json"))["tables"][0]["rows"]}
    assert rows["ls"]["gain_p"] == by_label(board)["ls"].gain_p
    assert (rows["ls"]["rank"], rows["ls"]["pareto"]) == (1, None)
    assert Board.model_validate_json(render(board, "json")) == board


def test_two_seeds_have_no_rank_and_this_is_said() -> None:
    board = build_board([*series("ce", CE[:2]), *series("ls", LS[:2])])
    rows = by_label(board)
    assert {(row.rank, row.gain_p, row.n_too_small) for row in rows.values()} == {(None, None, True)}
    for name in ("text", "md", "latex", "html"):
        text = " ".join(render(board, name).split())
        assert "(n too small: 2)" in text
        assert "n too small, fewer than 3 common seeds, to rank any row" in text
    read = {r["label"]: r for r in csv.DictReader(io.StringIO(render(board, "csv")))}
    assert {(r["rank"], r["gain_p_adjusted"], r["n_too_small"]) for r in read.values()} == {("", "", "True")}
    assert {row["rank"] for row in json.loads(render(board, "json"))["tables"][0]["rows"]} == {None}


def test_rows_with_few_seeds_are_left_out_of_the_ranks_of_others() -> None:
    few = [*series("few", [0.99, 0.99]), *series("apart", [0.99] * 4, seeds=range(10, 14))]
    board = build_board([*TRIALS, *few])
    rows = by_label(board)
    assert {label: row.rank for label, row in rows.items()} == {"few": None, "apart": None, "zipf": 1, "ls": 1, "ce": 2}
    assert {label for label, row in rows.items() if row.n_too_small} == {"few", "apart"}
    assert rows["ls"].gain_p == by_label(build_board(TRIALS))["ls"].gain_p, "tests that were not made do not count"
    assert "n too small, fewer than 3 common seeds, to rank apart, few" in render(board, "text")


def test_without_a_baseline_rows_still_have_ranks() -> None:
    rows = by_label(build_board([*series("ls", LS), *series("zipf", CE)], baseline="ce"))
    assert {label: (row.rank, row.gain_p) for label, row in rows.items()} == {"ls": (1, None), "zipf": (2, None)}


def test_the_front_of_accuracy_against_the_steps_time() -> None:
    """Means: ce and twin 0.7025, ls 0.71275, zipf 0.715, old 0.6; steps: ce 1, old 1.05, ls 1.1, twin 1.2, zipf 1.3."""
    trials = [*TRIALS, *series("old", [0.6] * 4), *series("twin", CE), *series("unknown", [0.9] * 4)]
    measured = profile(step("ls", 1.1), step("zipf", 1.3), step("old", 1.05), step("twin", 1.2))
    board = build_board(trials, profiles=[measured])
    front = {label: row.pareto for label, row in by_label(board).items()}
    assert front == {"ce": True, "ls": True, "zipf": True, "old": False, "twin": False, "unknown": None}
    text = render(board, "md")
    lines = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("|")}
    at = [cell.strip() for cell in lines["method"].split("|")].index("Pareto")
    shown = {label: lines[label].split("|")[at].strip() for label in front}
    assert shown == {"ce": "yes", "ls": "yes", "zipf": "yes", "old": "no", "twin": "no", "unknown": "–"}
    read = {r["label"]: r["pareto"] for r in csv.DictReader(io.StringIO(render(board, "csv")))}
    assert (read["ce"], read["old"], read["unknown"]) == ("True", "False", "")
    assert "yes where no other row" in render(board, "html")


def test_a_timing_that_does_not_count_is_off_the_front_and_keeps_none_off() -> None:
    bad = step("zipf", 0.5, timing_valid=False, timing_problems=("load",))
    rows = by_label(build_board(TRIALS, profiles=[profile(bad, step("ls", 1.1))]))
    assert {label: row.pareto for label, row in rows.items()} == {"ce": True, "ls": True, "zipf": None}


@pytest.mark.parametrize("name", list(SUFFIXES))
def test_the_order_of_records_does_not_matter(name: str) -> None:
    measured = [profile(step("ls", 1.1), step("zipf", 1.3))]
    forth, back = build_board(TRIALS, profiles=measured), build_board(TRIALS[::-1], profiles=measured)
    assert render(forth, name) == render(back, name)


def test_equal_differences_are_taken_at_their_word() -> None:
    values = [0.5, 0.25, 0.75]
    rows = by_label(build_board([*series("ce", values), *series("ls", [v + 0.125 for v in values])]))
    assert (rows["ls"].rank, rows["ce"].rank, rows["ls"].gain_p) == (1, 2, 0.0)
