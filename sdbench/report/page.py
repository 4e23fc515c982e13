"""The report: one HTML file that opens from disk and asks nothing of a network. The same records give the same bytes.

Everything from a record is escaped by Jinja or by ``svg.tag``, control and direction characters are taken out, and a
content security policy lets nothing run but the page's own script, named by its hash.
"""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from sdbench.report import listings
from sdbench.report.costs import bars
from sdbench.report.figures import DIAGRAM_SEEDS, DIAGRAM_TRIALS, Budget, figures
from sdbench.report.material import Material, printable

ROWS = 200
"""Lines of a board, and of the table of all trials, that are laid out at first."""


def render(material: Material) -> str:
    """The whole page."""
    style, script = _template("report.css"), _template("report.js")
    rows = sum(len(group.entries) for group in material.groups)
    budget = Budget(per_row=max(1, min(DIAGRAM_SEEDS, DIAGRAM_TRIALS // max(1, rows))))
    boards = [listings.board_table(group, material.board.rule) for group in material.groups]
    methods = {e.row.method for group in material.groups for e in group.entries}
    shown_bars = bars(material.profiles, sorted(methods) if methods else None)
    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True).from_string(
        _template("report.html")
    )
    return (
        page.render(
            policy=f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
            "base-uri 'none'; form-action 'none'",
            style=Markup(style),
            script=Markup(script),
            summary=_summary(material),
            boards=boards,
            row_limit=ROWS,
            choices=_choices(material),
            legend=listings.legends(material),
            figures=[figures(material.store, group, f"g{i}", budget) for i, group in enumerate(material.groups)],
            bars=[table for table in map(listings.bar_table, shown_bars) if len(table.rows) > 1],
            failures=listings.failures(material.trials),
            notes=[printable(note, listings.REASON_LENGTH) for note in material.board.notes],
            environments=listings.environments(material.trials),
            sources=listings.sources(material.trials),
            commands=listings.commands(material.trials),
            profiles=listings.profiles(material),
            trials={"columns": listings.TRIAL_COLUMNS, "rows": listings.trial_rows(material.trials), "limit": ROWS},
        )
        + "\n"
    )


def _summary(material: Material) -> str:
    done = sum(r.status == "ok" for r in material.trials)
    return (
        f"{_count(len(material.trials), 'trial')}, of which {done} finished, on {_count(len(material.groups), 'board')}"
        f"; {_count(len(material.profiles), 'profile')}"
    )


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def _choices(material: Material) -> dict[str, list[str]]:
    """What the filters offer."""
    trials = material.trials
    return {
        "data set": sorted({printable(r.spec.dataset) for r in trials}),
        "network": sorted({printable(r.spec.network) for r in trials}),
        "status": sorted({r.status for r in trials}),
    }


def _template(name: str) -> str:
    return files("sdbench.report").joinpath("templates", name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
