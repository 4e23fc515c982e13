"""Boards, comparisons and tables of students as rows of frames; see ``sdbench.frames``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache

from sdbench.comparison_records import Compared, Comparison
from sdbench.cost.records import Ratio
from sdbench.distill_table import DistillTable, StudentRow
from sdbench.frames_columns import FLOAT, INT, PREFIXES, SWITCH, TEXT, Cells, Types, cells_of, types_of
from sdbench.leaderboard_records import STATUSES, Board, CostRatio, Ground, Row
from sdbench.spec import Metrics, Scaled, Tuned
from sdbench.statistics import MeanStd, PairedDifference

STEP_TIME = {f"step_time{end}": FLOAT for end in ("", "_low", "_high")}
COSTS = {"hardware": TEXT, "time": FLOAT, "memory": FLOAT}


def board_rows(board: Board) -> Iterator[Cells]:
    """A row per table and method. Costs are those on the hardware that was used most."""
    for table in board.tables:
        shared = dict(cells_of(table, kind=Ground))
        yield from (shared | _row_cells(row) for row in table.rows)


def comparison_rows(comparison: Comparison) -> Iterator[Cells]:
    """A row per table and method that was compared. Costs are those on the hardware that was used most."""
    for table in comparison.tables:
        shared = {**dict(cells_of(table, kind=Ground)), "metric": comparison.metric, "reference": table.reference}
        shared |= _mean_cells("reference_value", table.reference_value)
        yield from (shared | _compared_cells(row) for row in table.rows)


def student_rows(table: DistillTable) -> Iterator[Cells]:
    """A row per teacher, temperature and weight."""
    shared: Cells = {name: getattr(table, name) for name in ("student", "dataset", "protocol", "epochs", "baseline")}
    shared |= {**_mean_cells("alone", table.alone), "alone_n": table.alone.n if table.alone else 0}
    yield from (shared | _student_cells(row) for row in table.rows)


@cache
def board_types() -> Types:
    own = {"method": TEXT, "label": TEXT, "caveat": TEXT, "baseline": SWITCH, "rank": INT, "n": INT, "seeds": TEXT}
    scaled = [f"scaled_{name}" for name in Scaled.model_fields if name not in ("temperature", "held_out")]
    metrics: Types = {}
    for name in (*Metrics.model_fields, "temperature", *scaled):
        metrics |= _mean_types(name)
    gain = {**_difference_types("gain"), "gain_p": FLOAT}
    equal = {"iso_cost_epochs": INT, **_difference_types("iso_cost_gain")}
    sizes = {"forward_per_image": FLOAT, "auxiliary_parameters": INT, "state_bytes": INT, "pareto": SWITCH}
    step = {**STEP_TIME, "step_verdict": TEXT, "step_predicted": FLOAT, "step_memory": FLOAT, "profile_id": TEXT}
    trials = {f"trials_{status}": INT for status in STATUSES}
    tuned = types_of(Tuned, PREFIXES["tuned"])
    return {**types_of(Ground), **own, **metrics, **gain, **equal, **COSTS, **sizes, **step, **tuned, **trials}


@cache
def comparison_types() -> Types:
    against = {"metric": TEXT, "reference": TEXT, **_mean_types("reference_value")}
    own = {"method": TEXT, "label": TEXT, "caveat": TEXT, "n": INT, **_mean_types("value")}
    tested = {"mean_differences": TEXT, "p": FLOAT, "p_adjusted": FLOAT, "verdict": TEXT}
    step = {**STEP_TIME, "step_memory": FLOAT, "profile_id": TEXT}
    return {**types_of(Ground), **against, **own, **_difference_types("difference"), **tested, **COSTS, **step}


@cache
def student_types() -> Types:
    setting = {"student": TEXT, "dataset": TEXT, "protocol": TEXT, "epochs": INT, "baseline": TEXT}
    alone = {**_mean_types("alone"), "alone_n": INT}
    own = {"teacher": TEXT, "teacher_network": TEXT, "temperature": FLOAT, "alpha": FLOAT, "n": INT, "seeds": TEXT}
    top1 = {**_mean_types("teacher_top1"), **_mean_types("student_top1")}
    to = {**_difference_types("to_teacher"), **_difference_types("to_alone"), **_difference_types("to_plain")}
    return {**setting, **alone, **own, **top1, **to, "statuses": TEXT, "teacher_trials": TEXT}


def _row_cells(row: Row) -> Cells:
    cells: Cells = {name: getattr(row, name) for name in ("method", "label", "caveat", "baseline", "rank", "pareto")}
    cells |= {name: getattr(row, name) for name in ("forward_per_image", "auxiliary_parameters", "state_bytes")}
    cells |= {"n": len(row.seeds), "seeds": json.dumps(row.seeds), "gain_p": row.gain_p}
    for name, value in {**row.metrics, **row.scaled}.items():
        cells |= _mean_cells(name, value)
    cells |= {**_difference_cells("gain", row.gain), **_cost_cells(row.costs)}
    if row.iso_cost:
        cells |= {"iso_cost_epochs": row.iso_cost.epochs, **_difference_cells("iso_cost_gain", row.iso_cost.gain)}
    if row.step:
        cells |= {"step_predicted": row.step.predicted, "step_memory": row.step.memory}
        cells |= {"profile_id": row.step.profile_id, **_ratio_cells(row.step.time)}
    if row.tuned:
        cells |= dict(cells_of(row.tuned, PREFIXES["tuned"]))
        cells |= {name: row.tuned.values.get(f"recipe.{name}") for name in ("lr", "weight_decay")}
    cells |= {f"trials_{status}": row.statuses.get(status, 0) for status in STATUSES}
    return cells | {f"param.{name}": value for name, value in row.params.items()}


def _compared_cells(row: Compared) -> Cells:
    cells: Cells = {name: getattr(row, name) for name in ("method", "label", "caveat", "p", "p_adjusted", "verdict")}
    cells |= {"n": row.value.n if row.value else 0, "mean_differences": json.dumps(row.mean_differences)}
    cells |= {**_mean_cells("value", row.value), **_difference_cells("difference", row.difference)}
    cells |= _cost_cells(row.costs)
    if row.step:
        cells |= {"step_time": row.step.time, "step_time_low": row.step.low, "step_time_high": row.step.high}
        cells |= {"step_memory": row.step.memory, "profile_id": row.step.profile_id}
    return cells | {f"param.{name}": value for name, value in row.params.items()}


def _student_cells(row: StudentRow) -> Cells:
    cells: Cells = {name: getattr(row, name) for name in ("teacher", "teacher_network", "temperature", "alpha")}
    cells |= {"n": len(row.seeds), "seeds": json.dumps(row.seeds)}
    cells |= {**_mean_cells("teacher_top1", row.teacher_top1), **_mean_cells("student_top1", row.student_top1)}
    for name in ("to_teacher", "to_alone", "to_plain"):
        cells |= _difference_cells(name, getattr(row, name))
    return cells | {"statuses": json.dumps(row.statuses), "teacher_trials": json.dumps(row.teacher_trials)}


def _mean_types(name: str) -> Types:
    return {name: FLOAT, f"{name}_std": FLOAT}


def _mean_cells(name: str, value: MeanStd | None) -> Cells:
    return {name: value.mean, f"{name}_std": value.std} if value else {}


def _difference_types(name: str) -> Types:
    return {name: FLOAT, f"{name}_low": FLOAT, f"{name}_high": FLOAT, f"{name}_n": INT}


def _difference_cells(name: str, found: PairedDifference | None) -> Cells:
    """Mean, ends of the interval and number of seeds."""
    if found is None:
        return {}
    return {name: found.mean, f"{name}_low": found.low, f"{name}_high": found.high, f"{name}_n": found.n}


def _cost_cells(costs: tuple[CostRatio, ...]) -> Cells:
    if not costs:
        return {}
    first = costs[0]
    time, memory = (value.mean if value else None for value in (first.time, first.memory))
    return {"hardware": first.hardware, "time": time, "memory": memory}


def _ratio_cells(ratio: Ratio | None) -> Cells:
    if ratio is None:
        return {}
    ends = {"step_time_low": ratio.low, "step_time_high": ratio.high}
    return {"step_time": ratio.median, **ends, "step_verdict": ratio.verdict}
