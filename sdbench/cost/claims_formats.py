"""A paper's table beside the measured one as text, Markdown and JSON. The same table gives the same bytes.

The headline comes first in every format: the first line, and the first element of the JSON. What comes from
a record is treated as hostile, as in leaderboards.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Callable, Sequence

from sdbench.cost.claims_cells import (
    HEADER,
    LEGEND,
    MARKS_LEGEND,
    READINGS_HEADER,
    about,
    cells,
    headline,
    notes,
    reading_cells,
)
from sdbench.cost.claims_records import ClaimsTable
from sdbench.errors import UserError, unknown
from sdbench.leaderboard_cells import clean, markdown_text

TEXT_WIDTH = 138
NAME_WIDTH = 18
VERDICT_WIDTH = 12
"""Columns of a terminal, and those that a method's name and the last column take before they are broken."""
READINGS_TITLE = "Training iterations, by reading, per labelled image and relative to the baseline"
NOTES_TITLE = "Method by method"


def render(table: ClaimsTable, format_name: str) -> str:
    """The table as "text", "md" or "json". Raises UserError for an unknown format."""
    if format_name not in _RENDERERS:
        raise UserError(unknown("format", format_name, _RENDERERS))
    return _RENDERERS[format_name](table)


def _text(table: ClaimsTable) -> str:
    def wrapped(line: str, indent: str = "", hanging: str = "") -> str:
        return textwrap.fill(clean(line), TEXT_WIDTH, initial_indent=indent, subsequent_indent=hanging or indent)

    first, *because = headline(table.headline)
    told = []
    for note, reasons in notes(table):
        told += [wrapped(note, "- ", "  "), *(wrapped(reason, "    ", "      ") for reason in reasons)]
    blocks = [
        "\n".join([clean(first), *map(wrapped, because)]),
        "\n".join(map(wrapped, about(table))),
        _drawn(HEADER, [cells(table, row) for row in table.rows]),
        "\n".join(map(wrapped, (MARKS_LEGEND, *LEGEND))),
        f"{READINGS_TITLE}\n\n" + _drawn(READINGS_HEADER, [reading_cells(table, row) for row in table.rows]),
        "\n".join([NOTES_TITLE, *told]),
    ]
    return "\n\n".join(blocks) + "\n"


def _drawn(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    from tabulate import tabulate

    broken = []
    for name, *middle, last in rows:
        final = "\n".join(textwrap.wrap(last, VERDICT_WIDTH))
        broken.append([_broken(clean(name)), *map(clean, middle), final])
    return tabulate(broken, header, tablefmt="simple", disable_numparse=True)


def _broken(name: str) -> str:
    """A name in lines of at most ``NAME_WIDTH``, broken behind a blank, an underscore or a plus where it has them."""
    lines = [""]
    for part in re.findall(rf"[^ _+]{{1,{NAME_WIDTH - 1}}}[ _+]?|[ _+]", name):
        if len(lines[-1] + part.rstrip()) > NAME_WIDTH:
            lines.append("")
        lines[-1] += part
    return "\n".join(line.strip() for line in lines)


def _md(table: ClaimsTable) -> str:
    first, *because = headline(table.headline)
    told = []
    for note, reasons in notes(table):
        told += [f"- {markdown_text(note)}", *(f"  - {markdown_text(reason)}" for reason in reasons)]
    blocks = [
        f"**{markdown_text(first)}**",
        *map(markdown_text, (*because, *about(table))),
        _md_table(HEADER, [cells(table, row, words=True) for row in table.rows]),
        *map(markdown_text, LEGEND),
        f"## {READINGS_TITLE}",
        _md_table(READINGS_HEADER, [reading_cells(table, row) for row in table.rows]),
        f"## {NOTES_TITLE}",
        "\n".join(told),
    ]
    return "\n\n".join(blocks) + "\n"


def _md_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    from tabulate import tabulate

    escaped = [[markdown_text(cell) for cell in row] for row in rows]
    return tabulate(escaped, [markdown_text(h) for h in header], tablefmt="github", disable_numparse=True)


def _json(table: ClaimsTable) -> str:
    return json.dumps(table.model_dump(mode="json"), indent=1, allow_nan=False) + "\n"


_RENDERERS: dict[str, Callable[[ClaimsTable], str]] = {"text": _text, "md": _md, "json": _json}
