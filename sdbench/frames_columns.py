"""Columns of records: the type of each, and a record's values under their names; see ``sdbench.frames``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from sdbench.cost.records import Setting
from sdbench.spec import Record

FLOAT, INT, TEXT, SWITCH, TIME = "float64", "Int64", "string", "boolean", "datetime64[us, UTC]"
PLAIN = {float: FLOAT, int: INT, str: TEXT, bool: SWITCH}
TIMES = ("started", "finished")
PREFIXES = {
    "scaled": "scaled_",
    "wall_ratio": "wall_ratio_",
    "time_ratio": "time_ratio_",
    "memory": "memory_",
    "split": "memory_split_",
    "tuning": "tuning_",
    "tuned": "tuned_",
    "budget": "tuning_",
}
"""What stands before the columns of a part, where others have fields of the same name."""

RENAMED: dict[tuple[type[Record], str], str] = {(Setting, "step"): "step_asked"}

Cells = dict[str, Any]
Types = dict[str, str]


@cache
def fields_of(kind: type[Record]) -> dict[str, tuple[str, Any]]:
    """Of each field: "record" and its class, "params" for hyper-parameters, or "plain" and the type of its column."""
    found: dict[str, tuple[str, Any]] = {}
    for name, field in kind.model_fields.items():
        own = _bare(field.annotation)
        if name == "params":
            found[name] = ("params", None)
        elif isinstance(own, type) and issubclass(own, Record):
            found[name] = ("record", own)
        else:
            found[name] = ("plain", TIME if name in TIMES and own is str else PLAIN.get(own, TEXT))
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
    for name, (what, own) in fields_of(kind).items():
        if what == "record":
            found |= types_of(own, PREFIXES.get(name, prefix))
        elif what == "plain":
            found[_column(kind, prefix, name)] = own
    return found


def _column(kind: type[Record], prefix: str, name: str) -> str:
    plain = prefix == "scaled_" and name in ("temperature", "held_out")
    return name if plain else prefix + RENAMED.get((kind, name), name)


def cells_of(record: Record, prefix: str = "", kind: type[Record] | None = None) -> Iterator[tuple[str, Any]]:
    """Columns and values of a record. kind: only the fields of that class, which the record's own is derived from."""
    kind = kind or type(record)
    for name, (what, _) in fields_of(kind).items():
        value = getattr(record, name)
        if what == "record":
            if value is not None:
                yield from cells_of(value, PREFIXES.get(name, prefix))
        elif what == "params":
            yield from ((f"param.{key}", each) for key, each in value.items())
        elif isinstance(value, tuple | dict):
            yield _column(kind, prefix, name), json.dumps(record.model_dump(mode="json", include={name})[name])
        else:
            yield _column(kind, prefix, name), value
