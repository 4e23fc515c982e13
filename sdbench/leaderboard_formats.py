"""Leaderboards as text, Markdown, CSV, LaTeX, HTML and JSON. The same board gives the same bytes.

Everything that comes from a record is treated as hostile: control characters are taken out, and each
format escapes what it would otherwise obey.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from sdbench.errors import UserError, unknown
from sdbench.leaderboard_cells import about, clean, markdown_text, title
from sdbench.leaderboard_columns import columns, legend
from sdbench.leaderboard_csv import csv_text
from sdbench.leaderboard_records import Board, Table
from sdbench.store import write_atomic

SUFFIXES = {"text": "txt", "md": "md", "csv": "csv", "latex": "tex", "html": "html", "json": "json"}
"""The formats and how their files end."""

PUBLISHED = ("md", "csv", "latex", "html", "json")
EMPTY = "No trials yet."
TEXT_WIDTH = 118


def render(board: Board, format_name: str) -> str:
    """The whole board in one of the formats of ``SUFFIXES``; an empty board has an empty CSV.

    Raises UserError for an unknown format.
    """
    if format_name not in _RENDERERS:
        raise UserError(unknown("format", format_name, _RENDERERS))
    return _RENDERERS[format_name](board)


def write_boards(board: Board, folder: Path, formats: Iterable[str] = PUBLISHED) -> list[Path]:
    """Write ``leaderboard.<suffix>`` in each format, each file whole and durable. Returns the files.

    Raises UserError for an unknown format, before anything is written.
    """
    texts = {folder / f"leaderboard.{SUFFIXES.get(name, '')}": render(board, name) for name in formats}
    for path, text in texts.items():
        write_atomic(path, text)
    return list(texts)


def _text(board: Board) -> str:
    def wrapped(line: str, indent: str = "") -> str:
        return textwrap.fill(clean(line), TEXT_WIDTH, initial_indent=indent, subsequent_indent=" " * len(indent))

    blocks = []
    for table in board.tables:
        headers, rows = _plain_cells(table)
        drawn = drawn_table(headers, rows, [c.left for c in columns(table)])
        notes = [wrapped(note, "- ") for note in table.notes]
        blocks.append("\n".join([clean(title(table)), *map(wrapped, about(table, board.rule)), "", drawn, *notes]))
    blocks.append("\n".join(wrapped(line) for line in (legend(board) if board.tables else (EMPTY,))))
    blocks += ["\n".join(wrapped(note, "- ") for note in board.notes)] if board.notes else []
    return "\n\n".join(blocks) + "\n"


def drawn_table(headers: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[bool]) -> str:
    """A table for a terminal, columns as narrow as their cells; left: which are text."""
    from tabulate import tabulate

    rule = ["-" * max(map(len, column)) for column in zip(headers, *rows, strict=True)]
    align = ["left" if one else "right" for one in left]
    return tabulate([headers, rule, *rows], tablefmt="plain", disable_numparse=True, colalign=align)


def _plain_cells(table: Table, escape: Callable[[str], str] = clean) -> tuple[list[str], list[list[str]]]:
    chosen = columns(table)
    return [escape(c.header) for c in chosen], [[escape(c.cell(row)) for c in chosen] for row in table.rows]


def _md(board: Board) -> str:
    from tabulate import tabulate

    blocks = []
    for table in board.tables:
        headers, rows = _plain_cells(table, markdown_text)
        align = ["left" if c.left else "right" for c in columns(table)]
        drawn = tabulate(rows, headers, tablefmt="github", disable_numparse=True, colalign=align if rows else None)
        notes = "\n".join(f"- {markdown_text(note)}" for note in table.notes)
        above = [f"## {markdown_text(title(table))}", *map(markdown_text, about(table, board.rule))]
        blocks += [*above, drawn, *([notes] if notes else [])]
    blocks += map(markdown_text, legend(board) if board.tables else (EMPTY,))
    blocks += ["\n".join(f"- {markdown_text(note)}" for note in board.notes)] if board.notes else []
    return "# Leaderboard\n\n" + "\n\n".join(blocks) + "\n"


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "`": r"\textasciigrave{}", "'": r"\textquotesingle{}",
    "[": "{[}", "]": "{]}", "*": "{*}", "±": r"$\pm$", "×": r"$\times$", "–": "--", "…": r"\ldots{}",
}  # fmt: skip
"""Brackets and stars are wrapped because a row that begins with one would be read as an option of ``\\\\``."""


def _latex_escape(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in clean(text))


def _latex(board: Board) -> str:
    lines = [r"% Needs \usepackage{booktabs} and \usepackage{textcomp}."]
    for table in board.tables:
        headers, rows = _plain_cells(table, _latex_escape)
        spec = "".join("l" if c.left else "r" for c in columns(table))
        caption = " ".join(f"{_latex_escape(line)}." for line in (title(table), *about(table, board.rule)))
        lines += [r"\begin{table}", r"\centering", rf"\caption{{{caption}}}", rf"\begin{{tabular}}{{{spec}}}"]
        lines += [r"\toprule", " & ".join(headers) + r" \\", r"\midrule"]
        lines += [" & ".join(row) + r" \\" for row in rows]
        lines += [r"\bottomrule", r"\end{tabular}"]
        lines += [rf"\par\footnotesize {_latex_escape(note)}" for note in table.notes]
        lines += [r"\end{table}", ""]
    lines += [_latex_escape(line) + r"\par" for line in (legend(board) if board.tables else (EMPTY,))]
    lines += [_latex_escape(note) + r"\par" for note in board.notes]
    return "\n".join(lines) + "\n"


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>sdbench leaderboard</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 90rem; padding: 0 1rem;
  color: #1a1a1a; background: #fff }
section { margin-bottom: 3rem }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; white-space: nowrap }
th, td { padding: .3rem .8rem; text-align: right; border-bottom: 1px solid #ddd }
th { border-bottom: 2px solid #888; vertical-align: bottom }
.left { text-align: left }
p, li { max-width: 60rem; color: #444; margin: .2rem 0; overflow-wrap: anywhere }
</style>
</head>
<body>
<h1>Leaderboard</h1>
{% for table in tables %}
<section>
<h2>{{ table.title }}</h2>
{% for line in table.about %}<p>{{ line }}</p>
{% endfor %}<div class="wide"><table>
<thead><tr>{% for head, left in table.headers %}<th scope="col"{% if left %} class="left"{% endif %}>{{ head }}</th>
{%- endfor %}</tr></thead>
<tbody>
{% for row in table.rows %}<tr>{% for cell, left in row %}<td{% if left %} class="left"{% endif %}>{{ cell }}</td>
{%- endfor %}</tr>
{% endfor %}</tbody>
</table></div>
{% if table.notes %}<ul>
{% for note in table.notes %}<li>{{ note }}</li>
{% endfor %}</ul>
{% endif %}</section>
{% endfor %}{% for line in closing %}<p>{{ line }}</p>
{% endfor %}{% if notes %}<ul>
{% for note in notes %}<li>{{ note }}</li>
{% endfor %}</ul>
{% endif %}</body>
</html>
"""


def _html(board: Board) -> str:
    from jinja2 import Environment, StrictUndefined

    tables = []
    for table in board.tables:
        headers, rows = _plain_cells(table)
        left = [c.left for c in columns(table)]
        tables.append(
            {
                "title": clean(title(table)),
                "about": [clean(line) for line in about(table, board.rule)],
                "headers": list(zip(headers, left, strict=True)),
                "rows": [list(zip(row, left, strict=True)) for row in rows],
                "notes": [clean(note) for note in table.notes],
            }
        )
    page = Environment(autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True).from_string(_PAGE)
    closing = legend(board) if board.tables else (EMPTY,)
    return page.render(tables=tables, closing=closing, notes=[clean(note) for note in board.notes])


def _json(board: Board) -> str:
    return json.dumps(board.model_dump(mode="json"), indent=1, sort_keys=True, allow_nan=False) + "\n"


_RENDERERS: dict[str, Callable[[Board], str]] = {
    "text": _text,
    "md": _md,
    "csv": csv_text,
    "latex": _latex,
    "html": _html,
    "json": _json,
}
