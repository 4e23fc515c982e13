"""Numbers that others have published, with what is known against each. Frozen records; no torch.

They lie in ``results/published.toml``, one ``[[number]]`` table each, and are never mixed with measurements: they
come from other code, other networks and other rules of selection than those that trials are compared under.
"""

from __future__ import annotations

from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, FiniteFloat, StringConstraints, ValidationError, model_validator

from sdbench.bounded import parse_toml, read_plain
from sdbench.errors import UserError
from sdbench.spec import Record

PublishedMetric = Literal["top1", "top5", "gain", "ece", "nll"]
"""top1, top5, ece: per cent. gain: points of top-1 over the baseline of the same source. nll: nats."""

Selection = Literal["last epoch", "best epoch on the test set", "best epoch on held-out images", "not stated"]
"""Which epoch's network the number is of."""

Reading = Literal["code", "readme", "log", "paper", "recalled"]
"""Where the number was read. readme: a repository's pages, its figures and issues included. recalled: nowhere."""

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Sentence = Annotated[str, StringConstraints(strip_whitespace=True, min_length=10, pattern=r"\.$")]
Number = Annotated[FiniteFloat, Field(strict=True)]

MAX_BYTES = 2**20

LARGEST = {"top1": 100.0, "top5": 100.0, "ece": 100.0, "gain": 100.0, "nll": 100.0}
"""What a value cannot exceed; the smallest is 0, and for a gain -100."""


class PublishedNumber(Record):
    """One number of one source.

    method: its name in sdbench. dataset: likewise where sdbench has it. network: likewise where the source's
    network is the same, else in the source's word. metric, value: see ``PublishedMetric``. printed: how the
    source prints the value, where it prints another quantity, such as an error. spread: as printed, in the
    value's unit. protocol: epochs, batch size, learning rate, weight decay in short. seeds: how many the value
    is the mean of; 0 where the source does not say. source: address of a paper or page, or
    ``owner/repository@commit``. trust: one sentence on what is known to be wrong or confounded.
    """

    method: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
    dataset: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*$")]
    network: Text
    metric: PublishedMetric = "top1"
    value: Number
    printed: str = ""
    spread: Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)] | None = None
    protocol: Text
    selection: Selection
    seeds: Annotated[int, Field(strict=True, ge=0)]
    source: Text
    read: Reading
    trust: Sentence

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        least = -LARGEST[self.metric] if self.metric == "gain" else 0.0
        if not least <= self.value <= LARGEST[self.metric]:
            raise ValueError(f"{self.metric} is {self.value:g}, outside [{least:g}, {LARGEST[self.metric]:g}]")
        if self.read == "recalled" and "recalled" not in self.trust.lower():
            raise ValueError("a number that is recalled must say so in trust")
        return self


def published_numbers(path: Path | None = None) -> tuple[PublishedNumber, ...]:
    """All published numbers in the file's order.

    path: a file of ``[[number]]`` tables; by default the one that comes with sdbench. Raises UserError with every
    problem of the file, each with the position of its table, counted from 1.
    """
    file: Traversable = path or resources.files("sdbench.evidence").joinpath("published.toml")
    try:
        content = parse_toml(file.read_bytes() if path is None else read_plain(path, MAX_BYTES))
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); give a TOML file of [[number]] tables") from error
    except ValueError as error:  # TOML's own, and bytes that are not UTF-8
        raise UserError(f"{file}: not TOML in UTF-8: {error}") from error
    problems = [f"{file}: unknown key {key!r}; known: number" for key in content if key != "number"]
    tables = content.get("number", [])
    if not isinstance(tables, list) or not tables:
        raise UserError([*problems, f"{file}: no [[number]] tables; give each number one"])
    found: list[PublishedNumber] = []
    for position, table in enumerate(tables, start=1):
        try:
            found.append(PublishedNumber.model_validate(table))
        except ValidationError as error:
            problems += [f"{file}: {_place(position, table)}: {line}" for line in _lines(error)]
    problems += [f"{file}: {line}" for line in _repeated(found)]
    if problems:
        raise UserError(problems)
    return tuple(found)


def numbers_for(
    method: str,
    *,
    dataset: str | None = None,
    network: str | None = None,
    metric: PublishedMetric | None = None,
    path: Path | None = None,
) -> tuple[PublishedNumber, ...]:
    """The published numbers of a method, fewer where a data set, network or metric is given.

    Empty where there are none, as for every plug-in. Raises UserError as ``published_numbers`` does.
    """
    wanted = {"method": method, "dataset": dataset, "network": network, "metric": metric}
    given = {key: value for key, value in wanted.items() if value is not None}
    return tuple(n for n in published_numbers(path) if all(getattr(n, key) == value for key, value in given.items()))


def _place(position: int, table: Any) -> str:
    names = [str(table[key]) for key in ("method", "dataset", "network") if key in table] if type(table) is dict else []
    return f"number {position}" + (f" ({', '.join(names)})" if names else "")


def _lines(error: ValidationError) -> list[str]:
    """One line per problem: the key, what is wrong with it, and what was given."""
    lines = []
    for problem in error.errors(include_url=False):
        key = ".".join(str(part) for part in problem["loc"])
        what = problem["msg"].removeprefix("Value error, ")
        given = "" if problem["type"] in ("missing", "value_error") else f", got {problem['input']!r}"
        hint = (
            f"; known keys: {', '.join(PublishedNumber.model_fields)}" if problem["type"] == "extra_forbidden" else ""
        )
        lines.append((f"{key}: " if key else "") + what + given + hint)
    return lines


def _repeated(numbers: list[PublishedNumber]) -> list[str]:
    """A sentence per table that says again what an earlier one says, word for word."""
    lines, seen = [], set()
    for number in numbers:
        words = number.model_dump_json()
        if words in seen:
            lines.append(
                f"{number.method} on {number.dataset}, {number.network}, {number.value:g} is there twice; drop one"
            )
        seen.add(words)
    return lines
