"""The base of all records, and the kinds of numbers in them. No torch, no Ray."""

from __future__ import annotations

import functools
from typing import Annotated, Any, Protocol, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    SerializerFunctionWrapHandler,
    model_serializer,
)

Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, le=2**53)]
"""Up to where every whole number is a float, so that ratios and means of counts stay finite."""
Seconds = Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]
Nats = Annotated[float, Field(ge=0, le=1e100, allow_inf_nan=False)]
MAX_WHOLE = 2**63
"""Of any whole number in a file that others may have made: more is no size, no count, and at last no float."""


def _whole(value: object) -> object:
    """Raises ValueError for a number beyond MAX_WHOLE, before one kind of number is taken for another."""
    if isinstance(value, int) and abs(value) > MAX_WHOLE:
        raise ValueError(f"a whole number beyond {MAX_WHOLE}")
    return value


Value = Annotated[bool | int | FiniteFloat | str, BeforeValidator(_whole)]
Size = Annotated[int, Field(ge=0, le=MAX_WHOLE)]
"""A number of bytes or of things that are not there: what would be, on larger data."""


class Record(BaseModel):
    """Base of all records."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, ser_json_inf_nan="null")


GAINED = {"gained_later": True}
"""Marks a field that a growing record gained after its first release: ``Field(default, json_schema_extra=GAINED)``."""


@functools.cache
def _gained(kind: type[BaseModel]) -> tuple[tuple[str, Any], ...]:
    """The marked fields of a record with their defaults."""
    fields = kind.model_fields.items()
    return tuple((name, field.default) for name, field in fields if field.json_schema_extra == GAINED)


class Growing(Record):
    """A part of a trial's identity, which may gain fields: those left at their defaults are not written.

    So a spec of an earlier version keeps its id, and a field that is used becomes part of it.
    """

    @model_serializer(mode="wrap")
    def _without_unused(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        unused = [name for name, default in _gained(type(self)) if getattr(self, name) == default]
        found: dict[str, Any] = serialize(self)
        return {name: value for name, value in found.items() if name not in unused} if unused else found


class Sealed(Protocol):
    """A record that carries the SHA-256 of its own text."""

    @property
    def schema_version(self) -> int: ...
    @property
    def checksums(self) -> dict[str, str]: ...
    def model_copy(self, *, update: dict[str, Any]) -> Self: ...
    def model_dump_json(self, *, indent: int) -> str: ...
    @classmethod
    def model_validate_json(cls, text: str) -> Self: ...
