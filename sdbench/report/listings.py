"""The tables of the report as values for its template: boards, cost bars, failures, provenance, all trials."""

from __future__ import annotations

import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from sdbench.leaderboard_cells import MISSING, about, clean, marked, number, ratio_interval
from sdbench.leaderboard_columns import columns, legend
from sdbench.leaderboard_records import Row
from sdbench.leaderboard_variants import seed_list
from sdbench.report import charts
from sdbench.report.costs import Bars, bar_name
from sdbench.report.material import Group, Material, printable
from sdbench.spec import TrialResult

REASON_LENGTH = 2000
TAIL_LENGTH = 4000
TAILS = 200
"""Failures whose last output is shown."""
COMMANDS = 50

_UNITS = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "B": 1.0, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30}


@dataclass(frozen=True)
class Cell:
    """Text; whether it is left-aligned; the number by which it sorts, None where it sorts as text or last."""

    text: str
    left: bool
    value: float | None


@dataclass(frozen=True)
class BoardRow:
    """A line of a board; ``statuses`` are those of its trials, separated by spaces."""

    cells: tuple[Cell, ...]
    statuses: str
    baseline: bool


@dataclass(frozen=True)
class BoardTable:
    """A table of the leaderboard; ``sorted_by`` is the column by which its rows come, ``headers`` with left."""

    title: str
    dataset: str
    network: str
    about: tuple[str, ...]
    headers: tuple[tuple[str, bool], ...]
    sorted_by: int
    rows: tuple[BoardRow, ...]
    notes: tuple[str, ...]


def board_table(group: Group, rule: str) -> BoardTable:
    """A table with the columns that every format of the leaderboard has."""
    table = group.table
    chosen = columns(table)
    headers = tuple((clean(c.header), c.left) for c in chosen)

    def row(of: Row) -> BoardRow:
        texts = [printable(c.cell(of)) for c in chosen]
        cells = (Cell(t, c.left, None if c.left else sort_value(t)) for t, c in zip(texts, chosen, strict=True))
        return BoardRow(tuple(cells), " ".join(of.statuses), of.baseline)

    return BoardTable(
        title=group.title,
        dataset=printable(table.dataset),
        network=printable(table.network),
        about=tuple(printable(line, REASON_LENGTH) for line in about(table, rule)),
        headers=headers,
        sorted_by=next((i for i, (head, _) in enumerate(headers) if head.startswith("top-1")), -1),
        rows=tuple(row(r) for r in table.rows),
        notes=tuple(printable(note, REASON_LENGTH) for note in table.notes),
    )


def sort_value(text: str) -> float | None:
    """The number that a cell begins with, its prefix or unit counted; None where it begins with none.

    >>> sort_value("76.10 ± 0.20 (3)"), sort_value("2.02 M"), sort_value("<0.001"), sort_value("–")
    (76.1, 2020000.0, 0.0005, None)
    """
    match = re.match(r"(<?)([+-]?\d+(?:\.\d+)?)(?: (KiB|MiB|GiB|B|k|M|G)(?!\w))?", text)
    if match is None:
        return None
    return float(match[2]) * _UNITS[match[3] or ""] / (2 if match[1] else 1)


@dataclass(frozen=True)
class BarRow:
    """A method in a profile: its bar, and the same in numbers."""

    name: str
    svg: Markup
    cells: tuple[str, ...]


@dataclass(frozen=True)
class BarTable:
    """Cost bars of one task; headers are of ``BarRow.cells``."""

    task: str
    place: str
    baseline: str
    margin: float
    headers: tuple[str, ...]
    rows: tuple[BarRow, ...]
    notes: tuple[str, ...]


def bar_table(bars: Bars) -> BarTable:
    """Measured beside predicted cost, one line per method."""
    rows, notes = [], []
    for measured in bars.rows:
        row, name = measured.row, bar_name(measured.row, bars.rows)
        own = measured.reference
        time = row.time_ratio if measured.timed and not own else None
        shown = ("1" if own else MISSING) if time is None else ratio_interval(time, 3)
        told = "baseline" if own else row.status if row.status != "ok" else time.verdict if time else MISSING
        mark = " !" if row.flagged and time else ""
        cells = (shown, told, number(row.predicted_ratio, 3) + mark, number(row.memory_ratio, 3))
        svg = charts.bar(row.time_ratio if measured.timed else None, row.predicted_ratio, bars.margin, bars.largest)
        rows.append(BarRow(name, svg, cells))
        if row.status != "ok":
            notes.append(printable(f"{name}: {row.status}: {row.reason or 'no reason recorded'}", REASON_LENGTH))
        elif measured.untimed_because:
            notes.append(printable(f"{name}: timing left out: {measured.untimed_because}", REASON_LENGTH))
    headers = ("time × [95 %]", "verdict", "FLOPs ×", "peak ×")
    return BarTable(bars.task, bars.place, printable(bars.baseline), bars.margin, headers, tuple(rows), tuple(notes))


@dataclass(frozen=True)
class Failure:
    """Trials of one variant that did not finish for one reason, and the end of what the first printed."""

    name: str
    dataset: str
    network: str
    seeds: str
    status: str
    count: int
    reason: str
    tail: str


def variant_name(result: TrialResult) -> str:
    """A trial's method with its parameters and its caveat."""
    spec = result.spec
    params = ",".join(f"{key}={value}" for key, value in sorted(spec.params.items()))
    earlier = "" if spec.generation is None else f" generation {spec.generation}"
    return printable(marked(f"{spec.method}[{params}]{earlier}" if params else spec.method + earlier, result.caveat))


def failures(trials: Iterable[TrialResult]) -> tuple[Failure, ...]:
    """Every trial that did not finish, those with the same reason together."""
    found: dict[tuple[str, ...], list[TrialResult]] = defaultdict(list)
    for result in trials:
        if result.status != "ok":
            spec = result.spec
            reason = printable(" ".join(result.reason.split()) or "no reason recorded", REASON_LENGTH)
            where = (printable(spec.dataset), printable(spec.network))
            found[*where, variant_name(result), str(result.status), reason].append(result)
    listed = []
    for i, (key, results) in enumerate(sorted(found.items())):
        dataset, network, name, status, reason = key
        first = min(results, key=lambda r: (r.spec.seed, r.trial_id))
        tail = "\n".join(clean(line) for line in first.log_tail[-TAIL_LENGTH:].splitlines()) if i < TAILS else ""
        seeds = seed_list(r.spec.seed for r in results)
        listed.append(Failure(name, dataset, network, seeds, status, len(results), reason, tail))
    return tuple(listed)


def environments(trials: Iterable[TrialResult]) -> list[tuple[str, ...]]:
    """Where trials ran and with what: device, CPU, driver, versions, commit; how many, from when to when."""
    found: dict[tuple[str, ...], list[tuple[str, str]]] = defaultdict(list)
    for result in trials:
        where = result.provenance
        versions = ", ".join(f"{name} {version}" for name, version in sorted(where.versions.items()))
        commit = where.commit[:12] + (" with changes" if where.dirty else "") if where.commit else MISSING
        key = (where.device, where.cpu, where.driver or MISSING, versions, commit)
        found[tuple(map(printable, key))].append((where.started, where.finished))
    return [
        (*key, str(len(times)), printable(min(t[0] for t in times)[:10]), printable(max(t[1] for t in times)[:10]))
        for key, times in sorted(found.items())
    ]


def sources(trials: Iterable[TrialResult]) -> list[tuple[str, ...]]:
    """Per variant of a method the beginning of its source's hash, the plug-in's, and how many trials."""
    found = Counter(
        (variant_name(r), r.identity.method_source[:16], r.provenance.plugin_sha256[:16] or MISSING) for r in trials
    )
    return [(name, printable(source), printable(plugin), str(n)) for (name, source, plugin), n in sorted(found.items())]


def commands(trials: Iterable[TrialResult]) -> list[str]:
    """What was typed, each once."""
    found = sorted({shlex.join(r.provenance.command) for r in trials if r.provenance.command})
    listed = [printable(f"sdbench {line}", REASON_LENGTH) for line in found[:COMMANDS]]
    return listed + ([f"and {len(found) - COMMANDS} more"] if len(found) > COMMANDS else [])


def profiles(material: Material) -> list[tuple[str, ...]]:
    """Each profile: its id, what was measured, where, when."""
    rows = []
    for p in material.profiles:
        s = p.setting
        task = f"{s.network}, {s.num_classes} classes, {s.dataset}, batches of {s.batch_size}, {s.precision}"
        where = f"{p.provenance.device} ({p.provenance.cpu})"
        rows.append(tuple(map(printable, (p.profile_id, task, where, p.provenance.started[:10]))))
    return rows


TRIAL_COLUMNS = (
    ("trial", True), ("method", True), ("data set", True), ("network", True), ("protocol", True), ("seed", False),
    ("status", True), ("epochs", False), ("top-1 %", False), ("ECE %", False), ("NLL", False), ("training s", False),
    ("finished", True),
)  # fmt: skip
"""Headers of the table of all trials, and whether they are text."""


def trial_rows(trials: Iterable[TrialResult]) -> list[list[str | float | int | None]]:
    """All trials as plain values under ``TRIAL_COLUMNS``, in order of data set, network, method and seed."""
    ordered = sorted(trials, key=lambda r: (r.spec.dataset, r.spec.network, r.spec.method, r.spec.seed, r.trial_id))
    return [_trial_row(result) for result in ordered]


def _trial_row(result: TrialResult) -> list[str | float | int | None]:
    spec, metrics, cost = result.spec, result.metrics, result.cost
    return [
        *map(printable, (result.trial_id, variant_name(result), spec.dataset, spec.network, spec.protocol)),
        spec.seed,
        result.status,
        result.epochs_done,
        round(100 * metrics.top1, 4) if metrics else None,
        round(100 * metrics.ece, 4) if metrics else None,
        round(metrics.nll, 5) if metrics else None,
        round(cost.train_s, 2) if cost else None,
        printable(result.provenance.finished[:19]),
    ]


def legends(material: Material) -> Sequence[str]:
    """What the board's columns mean."""
    return legend(material.board) if material.board.tables else ()
