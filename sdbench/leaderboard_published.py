"""Published numbers beside measured ones, for people to read: no rank, gain or order takes them into account."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from sdbench.leaderboard_cells import MISSING, fixed
from sdbench.leaderboard_records import Ground, Row
from sdbench.published import PublishedNumber


def beside(method: str, ground: Ground, numbers: Sequence[PublishedNumber]) -> tuple[PublishedNumber, ...]:
    """The published top-1 of a method on a table's data set: on its network where there are any, else on others."""
    found = [n for n in numbers if (n.method, n.dataset, n.metric) == (method, ground.dataset, "top1")]
    return tuple([n for n in found if n.network == ground.network] or found)


def published_text(row: Row, network: str) -> str:
    """Lowest to highest, how many, and whether they are of other networks; a dash where there are none."""
    if not row.published:
        return MISSING
    values = sorted({n.value for n in row.published})
    span = " to ".join(fixed(value, 2) for value in dict.fromkeys((values[0], values[-1])))
    others = "" if row.published[0].network == network else ", other networks"
    return f"{span} ({len(row.published)}{others})"


def published_notes(rows: Sequence[Row]) -> list[str]:
    """Where a table's published numbers come from: a line for each method and source."""
    notes: dict[str, None] = {}
    for row in rows:
        by_source: dict[tuple[str, ...], list[str]] = defaultdict(list)
        for n in row.published:
            spread = "" if n.spread is None else f" ± {n.spread:g}"
            seeds = f"{n.seeds} seeds" if n.seeds > 1 else "1 seed" if n.seeds else "seeds not stated"
            by_source[n.source, n.read, n.selection, seeds].append(f"{n.network} {n.value:g}{spread}")
        for (source, read, selection, seeds), values in by_source.items():
            notes[f"published, {row.method}: {', '.join(values)} ({selection}, {seeds}; {source}, {read})"] = None
    return list(notes)
