"""Leaderboards as comma-separated values: every number in full precision, for programs and spreadsheets."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence

from sdbench.leaderboard_cells import clean
from sdbench.leaderboard_records import Board, CostRatio, Row, Table
from sdbench.spec import Metrics, Recipe, Value

Cell = Value | None


def csv_text(board: Board) -> str:
    """One line per row of every table, numbers in full precision (fractions, nats, ratios), empty cells
    for what is missing. Costs on a table's second kind of hardware are in columns that end with ``_2``;
    those of steps, temperature scaling, equal cost, published numbers and shards are there where a row has any."""
    most = max((len(table.hardware) for table in board.tables), default=0)
    rows = [(table, row) for table in board.tables for row in table.rows]
    steps = any(row.step is not None for _, row in rows)
    scaled = next((list(row.scaled) for _, row in rows if row.scaled), [])
    equal = any(row.iso_cost is not None for _, row in rows)
    published = any(row.published for _, row in rows)
    sharded = any(table.shards > 1 for table in board.tables)
    records = [
        _csv_record(table, row, max(1, most))
        | _csv_scaled(row, scaled)
        | (_csv_step(row) if steps else {})
        | (_csv_iso_cost(row) if equal else {})
        | (_csv_published(row, table) if published else {})
        | ({"shards": table.shards} if sharded else {})
        for table, row in rows
    ]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    if records:
        writer.writerow(records[0])
    writer.writerows([_csv_cell(value) for value in record.values()] for record in records)
    return out.getvalue()


def _csv_cell(value: Cell) -> str:
    """Numbers by ``repr``, which reads back exactly. A leading quote keeps spreadsheets from taking a name
    for a formula."""
    if value is None:
        return ""
    if not isinstance(value, str):
        return repr(value)
    text = clean(value)
    return f"'{text}" if text.lstrip().startswith(("=", "+", "-", "@")) else text


def _csv_record(table: Table, row: Row, hardware: int) -> dict[str, Cell]:
    recipe = {f"recipe_{key}": _joined(getattr(table.recipe, key)) for key in Recipe.model_fields}
    if row.tuned is not None:
        recipe |= {f"recipe_{key}": row.tuned.values.get(f"recipe.{key}") for key in ("lr", "weight_decay")}
    record: dict[str, Cell] = {
        "dataset": table.dataset, "data_fingerprint": table.data_fingerprint, "image_size": table.image_size,
        "network": table.network, "protocol": table.protocol, "protocol_version": table.protocol_version,
        "split": table.split, "precision": table.precision, **recipe,
        "label": row.label, "caveat": row.caveat, "method": row.method,
        "params": json.dumps(row.params, sort_keys=True), "baseline": row.baseline,
        "seeds": " ".join(map(str, row.seeds)), "n": len(row.seeds),
    }  # fmt: skip
    for name in Metrics.model_fields:
        found = row.metrics.get(name)
        record |= {f"{name}_mean": found.mean if found else None, f"{name}_std": found.std if found else None}
    gain = row.gain
    record |= {"gain": gain.mean if gain else None, "gain_low": gain.low if gain else None}
    record |= {"gain_high": gain.high if gain else None, "gain_n": gain.n if gain else None}
    record |= {"gain_p_adjusted": row.gain_p, "rank": row.rank, "n_too_small": row.n_too_small}
    for i in range(hardware):
        record |= _csv_cost(row.costs[i] if i < len(row.costs) else None, f"_{i + 1}" if i else "")
    record |= {"forward_per_image": row.forward_per_image, "auxiliary_parameters": row.auxiliary_parameters}
    record |= {"state_bytes": row.state_bytes}
    return record | {
        f"num_{s}": row.statuses.get(s, 0) for s in ("ok", "failed", "oom", "nan", "timeout", "interrupted")
    }


def _csv_cost(cost: CostRatio | None, suffix: str) -> dict[str, Cell]:
    time, memory = (cost.time, cost.memory) if cost else (None, None)
    return {
        f"hardware{suffix}": cost.hardware if cost else None,
        f"time_ratio{suffix}": time.mean if time else None,
        f"time_ratio_std{suffix}": time.std if time else None,
        f"time_ratio_n{suffix}": time.n if time else None,
        f"memory_ratio{suffix}": memory.mean if memory else None,
        f"memory_ratio_n{suffix}": memory.n if memory else None,
    }


def _csv_scaled(row: Row, names: Sequence[str]) -> dict[str, Cell]:
    """Temperature and metrics after scaling, and the number of seeds that have them; nothing without names."""
    record: dict[str, Cell] = {"scaled_n": max((m.n for m in row.scaled.values()), default=0)} if names else {}
    for name in names:
        found = row.scaled.get(name)
        record |= {f"{name}_mean": found.mean if found else None, f"{name}_std": found.std if found else None}
    return record


def _csv_step(row: Row) -> dict[str, Cell]:
    """Columns of a training step's cost; a board without any leaves them out."""
    step = row.step
    time = step.time if step else None
    return {
        "step_time_ratio": time.median if time else None,
        "step_time_ratio_low": time.low if time else None,
        "step_time_ratio_high": time.high if time else None,
        "step_time_rounds": time.rounds if time else None,
        "step_time_verdict": time.verdict if time else None,
        "step_flops_ratio": step.predicted if step else None,
        "step_memory_ratio": step.memory if step else None,
        "step_flagged": step.flagged if step else None,
        "step_batch_size": step.batch_size if step else None,
        "step_hardware": step.hardware if step else None,
        "step_profile": step.profile_id if step else None,
        "pareto": row.pareto,
    }


def _csv_iso_cost(row: Row) -> dict[str, Cell]:
    """The gain over the baseline that costs the same, and that baseline's epochs."""
    gain = row.iso_cost.gain if row.iso_cost else None
    return {
        "iso_cost_epochs": row.iso_cost.epochs if row.iso_cost else None,
        "iso_cost_gain": gain.mean if gain else None,
        "iso_cost_gain_low": gain.low if gain else None,
        "iso_cost_gain_high": gain.high if gain else None,
        "iso_cost_gain_n": gain.n if gain else None,
    }


def _csv_published(row: Row, table: Table) -> dict[str, Cell]:
    """Published top-1 in per cent, as printed; measured figures are fractions."""
    values = [number.value for number in row.published]
    return {
        "published_top1_percent_min": min(values, default=None),
        "published_top1_percent_max": max(values, default=None),
        "published_n": len(values),
        "published_same_network": row.published[0].network == table.network if values else None,
    }


def _joined(value: Value | Sequence[Value]) -> Cell:
    return " ".join(map(str, value)) if isinstance(value, tuple) else value  # type: ignore[return-value]
