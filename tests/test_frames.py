"""Frames of records: one row each, typed columns, the same whatever is in them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from sdbench import api
from sdbench.cost.records import ProfileResult, ProfileRow
from sdbench.distill_table import DistillTable, StudentRow
from sdbench.frames_columns import fields_of, types_of
from sdbench.leaderboard_records import Board, IsoCost, Table
from sdbench.spec import TrialResult
from sdbench.statistics import MeanStd, PairedDifference

Writer = Callable[..., Path]
PUBLISHED = Path(__file__).resolve().parent.parent / "results" / "published"


@pytest.fixture
def results(tmp_path: Path, write_trial: Writer) -> Path:
    root = tmp_path / "results"
    for seed in range(3):
        write_trial(root, "ce", seed, 0.25)
        write_trial(root, "ls", seed, (0.5, 0.75, 0.25)[seed], params={"smoothing": 0.1, "spread": "all"})
    return root


def test_a_frame_of_trials(results: Path) -> None:
    trials = api.trials(results)
    frame = api.to_pandas(trials)
    assert len(frame) == 6
    assert frame.columns.is_unique
    assert frame["trial_id"].tolist() == [t.trial_id for t in trials]
    expected = {
        "method": "string", "seed": "Int64", "status": "string", "epochs": "Int64", "lr": "float64", "top1": "float64",
        "scaled_nll": "float64", "temperature": "float64", "held_out": "Int64", "timing_valid": "boolean",
        "generation": "Int64", "finished": "datetime64[us, UTC]", "train_s": "float64", "param.smoothing": "float64",
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
    return sum(leaves(own) if what == "record" else what == "plain" for what, own in fields_of(kind).values())


@pytest.mark.parametrize("kind", [TrialResult, ProfileRow, ProfileResult])
def test_no_two_fields_share_a_column(kind: type[Any]) -> None:
    assert len(types_of(kind)) == leaves(kind)


def test_a_frame_of_profiles_loses_no_column_of_a_profile_to_its_rows() -> None:
    whole, row = types_of(ProfileResult), types_of(ProfileRow)
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


def test_the_gain_at_equal_cost_has_columns(results: Path) -> None:
    board = api.leaderboard(results=results)
    table = board.tables[0]
    equal = IsoCost(epochs=3, gain=PairedDifference(0.125, -0.5, 0.75, 2, (0, 1)))
    rows = tuple(row.model_copy(update={"iso_cost": None if row.baseline else equal}) for row in table.rows)
    frame = board.model_copy(update={"tables": (table.model_copy(update={"rows": rows}),)}).to_pandas()
    names = ["iso_cost_epochs", "iso_cost_gain", "iso_cost_gain_low", "iso_cost_gain_high", "iso_cost_gain_n"]
    frame = frame.set_index("method")[names]
    assert frame.loc["ls"].tolist() == [3, 0.125, -0.5, 0.75, 2]
    assert frame.loc["ce"].isna().all()


def test_a_frame_of_a_comparison(results: Path) -> None:
    """ls is 0.25, 0.5 and 0 above ce: mean 0.25, t interval 0.25 -+ 4.303 * 0.25 / sqrt(3), p of t = sqrt(3)."""
    found = api.compare("ce", "ls", results=results)
    frame = found.to_pandas()
    assert frame.equals(api.to_pandas(found))
    assert frame.columns.is_unique
    assert len(frame) == 1
    row = frame.iloc[0]
    assert (row["reference"], row["method"], row["label"], row["metric"]) == ("ce", "ls", "ls", "top1")
    assert (row["reference_value"], row["value"], row["value_std"]) == pytest.approx((0.25, 0.5, 0.25))
    half = 4.302652729749464 * 0.25 / math.sqrt(3)
    assert row["difference_low"] == pytest.approx(0.25 - half)
    assert row["difference_high"] == pytest.approx(0.25 + half)
    assert (row["n"], row["difference_n"], row["verdict"]) == (3, 3, "not distinguishable")
    assert row["p"] == pytest.approx(0.2254033)  # 1 - 0.7745967, as t^2 / (t^2 + 2) is 0.6
    assert row["p_adjusted"] == row["p"]
    assert json.loads(row["mean_differences"])["top1"] == pytest.approx(0.25)
    assert (row["param.smoothing"], row["param.spread"]) == (0.1, "all")
    assert (row["dataset"], row["network"], row["epochs"]) == ("glyphs", "resnet8", 2)
    dtypes = {name: str(frame[name].dtype) for name in ("difference", "n", "verdict", "step_time", "image_size")}
    assert dtypes == {
        "difference": "float64", "n": "Int64", "verdict": "string", "step_time": "float64", "image_size": "Int64",
    }  # fmt: skip
    none = found.model_copy(update={"tables": ()}).to_pandas()
    assert none.dtypes.equals(frame.dtypes[[c for c in frame.columns if not c.startswith("param.")]])


def test_a_frame_of_students() -> None:
    difference = PairedDifference(-0.03, -0.05, -0.01, 3, (0, 1, 2))
    unknown = PairedDifference(None, None, None, 0, ())
    row = StudentRow(
        teacher="ls", teacher_network="resnet20", temperature=4, alpha=0.9, seeds=(0, 1, 2),
        teacher_top1=MeanStd(0.6, 0.01, 3), student_top1=MeanStd(0.5, None, 1), to_teacher=difference, to_alone=unknown,
        to_plain=None, statuses={"failed": 1}, teacher_trials=("a", "b", "c"),
    )  # fmt: skip
    table = DistillTable(
        student="resnet8", dataset="glyphs", protocol="demo-distill", epochs=2, baseline="ce",
        alone=MeanStd(0.4, 0.02, 4), rows=(row, row.model_copy(update={"temperature": 1.0})), notes=("a note",),
    )  # fmt: skip
    frame = table.to_pandas()
    assert frame.equals(api.to_pandas(table))
    assert frame.columns.is_unique
    assert frame["temperature"].tolist() == [4.0, 1.0]
    first = frame.iloc[0]
    expected = {
        "student": "resnet8", "dataset": "glyphs", "protocol": "demo-distill", "epochs": 2, "baseline": "ce",
        "alone": 0.4, "alone_std": 0.02, "alone_n": 4, "teacher": "ls", "teacher_network": "resnet20", "alpha": 0.9,
        "n": 3, "seeds": "[0, 1, 2]", "teacher_top1": 0.6, "teacher_top1_std": 0.01, "student_top1": 0.5,
        "to_teacher": -0.03, "to_teacher_low": -0.05, "to_teacher_high": -0.01, "to_teacher_n": 3, "to_alone_n": 0,
        "statuses": '{"failed": 1}', "teacher_trials": '["a", "b", "c"]',
    }  # fmt: skip
    assert {name: first[name] for name in expected} == expected
    missing = {"student_top1_std", "to_alone", "to_alone_low", "to_alone_high"}
    missing |= {"to_plain", "to_plain_low", "to_plain_high", "to_plain_n"}
    assert {name for name in frame.columns if pd.isna(first[name])} == missing
    assert frame.columns.size == len(expected) + len(missing) + 1  # and the temperature
    assert (str(frame["to_plain"].dtype), str(frame["to_plain_n"].dtype)) == ("float64", "Int64")
    assert table.model_copy(update={"rows": ()}).to_pandas().dtypes.equals(frame.dtypes)


def test_other_things_make_no_frame(results: Path) -> None:
    mixed = [*api.trials(results), *api.profiles(PUBLISHED)]
    for wrong in (mixed, ["trial"], [1]):
        with pytest.raises(TypeError, match="to_pandas"):
            api.to_pandas(wrong)  # type: ignore[arg-type]
