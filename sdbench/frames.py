"""Records as pandas frames, flat and typed: one row per trial, per method of a profile, or per row of a table.

Columns are named as the fields of the records; those of parts (spec, recipe, metrics, cost, provenance) stand beside
each other without the part's name, except that what is after temperature scaling begins with ``scaled_`` (but
``temperature`` and ``held_out``), and hyper-parameters with ``param.``. Numbers that may be missing are float64 with
NaN or Int64 with <NA>; texts are ``string``, switches ``boolean``, times datetime64 in UTC; lists and mappings are
JSON in a ``string``. pandas is imported when a frame is made.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from sdbench.comparison_records import Comparison
from sdbench.cost.records import ProfileResult, ProfileRow
from sdbench.distill_table import DistillTable
from sdbench.frames_columns import FLOAT, INT, SWITCH, TEXT, TIME, Cells, Types, cells_of, types_of
from sdbench.frames_tables import (
    board_rows,
    board_types,
    comparison_rows,
    comparison_types,
    student_rows,
    student_types,
)
from sdbench.leaderboard_records import Board
from sdbench.spec import Record, TrialResult

if TYPE_CHECKING:
    import pandas as pd

    Framed = Board | Comparison | DistillTable | TrialResult | ProfileResult | Iterable[TrialResult | ProfileResult]


def to_pandas(records: Framed) -> pd.DataFrame:
    """A frame: of a board or a comparison (a row per table and method), of a table of students (a row per teacher,
    temperature and weight), of trials (a row each) or of profiles (a row per method).

    An empty list gives a frame of trials without rows. Raises TypeError for anything else, and for trials and profiles
    together.
    """
    if isinstance(records, Board):
        return _frame(board_types(), list(board_rows(records)))
    if isinstance(records, Comparison):
        return _frame(comparison_types(), list(comparison_rows(records)))
    if isinstance(records, DistillTable):
        return _frame(student_types(), list(student_rows(records)))
    several = [records] if isinstance(records, Record) else list(records)
    if all(isinstance(record, TrialResult) for record in several):
        return _frame(types_of(TrialResult), [dict(cells_of(record)) for record in several])
    if all(isinstance(record, ProfileResult) for record in several):
        types = {name: dtype for name, dtype in types_of(ProfileResult).items() if name != "rows"}
        rows = [row for record in several if isinstance(record, ProfileResult) for row in _profile_rows(record)]
        return _frame(types | types_of(ProfileRow), rows)
    takes = "a Board, a Comparison, a DistillTable, trials or profiles"
    raise TypeError(f"to_pandas takes {takes}, and not trials and profiles together")


def _frame(types: Types, rows: list[Cells]) -> pd.DataFrame:
    """Rows as a frame whose columns have these types, whether or not there are rows, and those of parameters after."""
    import pandas as pd

    params = sorted({name for row in rows for name in row if name.startswith("param.")})
    columns = {}
    for name, dtype in types.items():
        values = [row.get(name) for row in rows]
        if dtype == TIME:
            columns[name] = pd.to_datetime(pd.Series(values, dtype=object), utc=True, errors="coerce", format="ISO8601")
            columns[name] = columns[name].astype("datetime64[us, UTC]")
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
        whole = all(isinstance(value, int) and abs(value) < 2**63 for value in known)
        return pd.Series(
            values if whole else [None if v is None else float(v) for v in values], dtype=INT if whole else FLOAT
        )
    return pd.Series([None if value is None else str(value) for value in values], dtype=TEXT)


def _profile_rows(record: ProfileResult) -> Iterator[Cells]:
    shared = dict(cells_of(record))
    shared.pop("rows")
    for row in record.rows:
        yield shared | dict(cells_of(row))
