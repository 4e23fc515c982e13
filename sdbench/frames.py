"""Records as pandas frames: one row per trial, per row of a board, or per method of a profile; flat and typed.

Columns are named as the fields of the records; those of parts (spec, recipe, metrics, cost, provenance) stand beside
each other without the part's name, except that what is after temperature scaling begins with ``scaled_`` (but
``temperature`` and ``held_out``), and hyper-parameters with ``param.``. Numbers that may be missing are float64 with
NaN or Int64 with <NA>; texts are ``string``, switches ``boolean``, times datetime64 in UTC; lists and mappings are
JSON in a ``string``. pandas is imported when a frame is made.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from functools import cache
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

from sdbench.cost.records import ProfileResult, ProfileRow, Ratio, Setting
from sdbench.leaderboard_records import STATUSES, Board, Row, Table
from sdbench.spec import Metrics, Record, Scaled, TrialResult
from sdbench.statistics import MeanStd

if TYPE_CHECKING:
    import pandas as pd

FLOAT, INT, TEXT, SWITCH, TIME = "float64", "Int64", "string", "boolean", "datetime64[ns, UTC]"
PLAIN = {float: FLOAT, int: INT, str: TEXT, bool: SWITCH}
TIMES = ("started", "finished")
PREFIXES = {
    "scaled": "scaled_",
    "wall_ratio": "wall_ratio_",
    "time_ratio": "time_ratio_",
    "memory": "memory_",
    "split": "memory_split_",
}
"""What stands before the columns of a part, where others have fields of the same name."""

RENAMED: dict[tuple[type[Record], str], str] = {(Setting, "step"): "step_asked"}

Cells = dict[str, Any]
Types = dict[str, str]


def to_pandas(records: Board | TrialResult | ProfileResult | Iterable[TrialResult | ProfileResult]) -> pd.DataFrame:
    """A frame of a board (a row per table and method), of trials (a row each) or of profiles (a row per method).

    An empty list gives a frame of trials without rows. Raises TypeError for anything else, and for trials and profiles
    together.
    """
    if isinstance(records, Board):
        return _frame(_board_types(), [row for table in records.tables for row in _board_rows(table)])
    several = [records] if isinstance(records, Record) else list(records)
    if all(isinstance(record, TrialResult) for record in several):
        return _frame(types_of(TrialResult), [dict(cells_of(record)) for record in several])
    if all(isinstance(record, ProfileResult) for record in several):
        types = {name: dtype for name, dtype in types_of(ProfileResult).items() if name != "rows"}
        rows = [row for record in several if isinstance(record, ProfileResult) for row in _profile_rows(record)]
        return _frame(types | types_of(ProfileRow), rows)
    raise TypeError("to_pandas takes a Board, trials or profiles, and not trials and profiles together")


def _frame(types: Types, rows: list[Cells]) -> pd.DataFrame:
    """Rows as a frame whose columns have these types, whether or not there are rows, and those of parameters after."""
    import pandas as pd

    params = sorted({name for row in rows for name in row if name.startswith("param.")})
    columns = {}
    for name, dtype in types.items():
        values = [row.get(name) for row in rows]
        if dtype == TIME:
            columns[name] = pd.to_datetime(pd.Series(values, dtype=object), utc=True, errors="coerce", format="ISO8601")
            columns[name] = columns[name].astype("datetime64[ns, UTC]")
        else:
            columns[name] = pd.Series(values, dtype=dtype)
    for name in params:
        columns[name] = _params([row.get(name) for row in rows])
    return pd.DataFrame(columns)


def _params(values: list[Any]) -> pd.Series[Any]:
    """Values of one hyper-parameter over methods: numbers where all are, else texts."""
    import pandas as pd

    known = [value for value in values if value is not None]
    if all(isinstance(value, bool) for value in known):
        return pd.Series(values, dtype=SWITCH)
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in known):
        return pd.Series(values, dtype=INT if all(isinstance(value, int) for value in known) else FLOAT)
    return pd.Series([None if value is None else str(value) for value in values], dtype=TEXT)


@cache
def _fields(kind: type[Record]) -> dict[str, tuple[str, Any]]:
    """Of each field: "record" and its class, "dict" for parameters, or "plain" and the type of its column."""
    found: dict[str, tuple[str, Any]] = {}
    for name, field in kind.model_fields.items():
        own = _bare(field.annotation)
        if name == "params":
            found[name] = ("params", None)
        elif isinstance(own, type) and issubclass(own, Record):
            found[name] = ("record", own)
        else:
            found[name] = ("plain", TIME if name in TIMES else PLAIN.get(own, TEXT))
    return found


def _bare(annotation: Any) -> Any:
    """The type without None and without bounds; str for literals."""
    origin = get_origin(annotation)
    if origin in (Union, UnionType):
        others = [each for each in get_args(annotation) if each is not NoneType]
        return _bare(others[0]) if len(others) == 1 else annotation
    if origin is Annotated:
        return _bare(get_args(annotation)[0])
    return str if origin is Literal else annotation


def types_of(kind: type[Record], prefix: str = "") -> Types:
    """Column types of a record, its parts' fields in their place."""
    found: Types = {}
    for name, (what, own) in _fields(kind).items():
        if what == "record":
            found |= types_of(own, PREFIXES.get(name, prefix))
        elif what == "plain":
            found[_column(kind, prefix, name)] = own
    return found


def _column(kind: type[Record], prefix: str, name: str) -> str:
    plain = prefix == "scaled_" and name in ("temperature", "held_out")
    return name if plain else prefix + RENAMED.get((kind, name), name)


def cells_of(record: Record, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Columns and values of a record."""
    for name, (what, _) in _fields(type(record)).items():
        value = getattr(record, name)
        if what == "record":
            if value is not None:
                yield from cells_of(value, PREFIXES.get(name, prefix))
        elif what == "params":
            yield from ((f"param.{key}", each) for key, each in value.items())
        elif isinstance(value, tuple | dict):
            yield _column(type(record), prefix, name), json.dumps(record.model_dump(mode="json", include={name})[name])
        else:
            yield _column(type(record), prefix, name), value


def _profile_rows(record: ProfileResult) -> Iterator[Cells]:
    shared = dict(cells_of(record))
    shared.pop("rows")
    for row in record.rows:
        yield shared | dict(cells_of(row))


GROUND = ("rows", "notes", "hardware", "baseline")
"""Fields of a table that no row of the frame takes as they are."""


@cache
def _board_types() -> Types:
    ground = {name: dtype for name, dtype in types_of(Table).items() if name not in GROUND}
    own = {"method": TEXT, "label": TEXT, "caveat": TEXT, "baseline": SWITCH, "rank": INT, "n": INT, "seeds": TEXT}
    means = [*Metrics.model_fields, "temperature", *(f"scaled_{name}" for name in _scaled_names())]
    metrics = {f"{name}{end}": FLOAT for name in means for end in ("", "_std")}
    gain = {"gain": FLOAT, "gain_low": FLOAT, "gain_high": FLOAT, "gain_n": INT, "gain_p": FLOAT}
    cost = {"hardware": TEXT, "time": FLOAT, "memory": FLOAT, "forward_per_image": FLOAT}
    sizes = {"auxiliary_parameters": INT, "state_bytes": INT, "pareto": SWITCH}
    ratio = {f"step_time{end}": FLOAT for end in ("", "_low", "_high")}
    step = {**ratio, "step_verdict": TEXT, "step_predicted": FLOAT, "step_memory": FLOAT, "profile_id": TEXT}
    return {**ground, **own, **metrics, **gain, **cost, **sizes, **step, **{f"trials_{s}": INT for s in STATUSES}}


def _scaled_names() -> list[str]:
    return [name for name in Scaled.model_fields if name not in ("temperature", "held_out")]


def _board_rows(table: Table) -> Iterator[Cells]:
    shared = {name: value for name, value in cells_of(table) if name not in GROUND}
    for row in table.rows:
        yield {**shared, **_row_cells(row)}


def _row_cells(row: Row) -> Cells:
    """One row of a board. Costs are those on the hardware that was used most."""
    cells: Cells = {name: getattr(row, name) for name in ("method", "label", "caveat", "baseline", "rank", "pareto")}
    cells |= {name: getattr(row, name) for name in ("forward_per_image", "auxiliary_parameters", "state_bytes")}
    cells |= {"n": len(row.seeds), "seeds": json.dumps(row.seeds), "gain_p": row.gain_p}
    for name, value in {**row.metrics, **row.scaled}.items():
        cells |= {name: value.mean, f"{name}_std": value.std}
    if row.gain:
        cells |= {"gain": row.gain.mean, "gain_low": row.gain.low, "gain_high": row.gain.high, "gain_n": row.gain.n}
    if row.costs:
        first = row.costs[0]
        cells |= {"hardware": first.hardware, "time": _mean(first.time), "memory": _mean(first.memory)}
    if row.step:
        cells |= {"step_predicted": row.step.predicted, "step_memory": row.step.memory}
        cells |= {"profile_id": row.step.profile_id, **_ratio_cells(row.step.time)}
    cells |= {f"trials_{status}": row.statuses.get(status, 0) for status in STATUSES}
    return cells | {f"param.{name}": value for name, value in row.params.items()}


def _mean(value: MeanStd | None) -> float | None:
    return value.mean if value else None


def _ratio_cells(ratio: Ratio | None) -> Cells:
    if ratio is None:
        return {}
    ends = {"step_time_low": ratio.low, "step_time_high": ratio.high}
    return {"step_time": ratio.median, **ends, "step_verdict": ratio.verdict}
