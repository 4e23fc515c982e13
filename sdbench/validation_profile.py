"""One profile's record against itself and its place. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sdbench.cost import archive
from sdbench.cost.records import ProfileResult, ProfileRow, Setting, profile_id
from sdbench.cost.verdict import judge
from sdbench.spec import digest
from sdbench.validation_files import Found
from sdbench.validation_records import Finding, error
from sdbench.validation_trial import place_findings

AGAIN = "profile it again, or take the record out"


def profile_findings(found: Found, record: ProfileResult) -> Iterator[Finding]:
    """All that one profile can tell."""
    yield from place_findings(found, archive.folder(Path(), record))
    if record.profile_id not in expected_ids(record):
        problem = f"profile_id {record.profile_id[:60]!r} is not the hash of what was measured, with what and when"
        yield error("identity", found.place, problem, AGAIN)
    for problem in _out_of_range(record):
        yield error("range", found.place, problem, AGAIN)


def expected_ids(record: ProfileResult) -> set[str]:
    """The hashes of what was measured, with what and when: by today's fields, and by those the record has."""
    methods = [row.method for row in record.rows]
    where = record.provenance.model_dump(mode="json", include={"versions", "device", "cpu", "started"})
    own = digest([record.setting.model_dump(mode="json", exclude_unset=True), methods, where])
    return {profile_id(record.setting, methods, record.provenance), own}


def _out_of_range(record: ProfileResult) -> Iterator[str]:
    methods = [row.method for row in record.rows]
    labels = [(row.method, tuple(sorted(row.params.items()))) for row in record.rows]
    if record.baseline not in methods:
        yield f"no row of the baseline {record.baseline[:60]!r}"
    elif methods[0] != record.baseline:
        yield f"the first row is {methods[0][:60]!r}, where the baseline {record.baseline[:60]!r} stands"
    if len(set(labels)) < len(labels):
        yield "two rows of one method with the same parameters"
    for row in record.rows:
        yield from (f"{row.method[:60]}: {problem}" for problem in _row(row, record.setting))


def _row(row: ProfileRow, setting: Setting) -> Iterator[str]:
    for name in ("time_ratio", "wall_ratio"):
        ratio = getattr(row, name)
        if ratio is None:
            continue
        if not ratio.low <= ratio.median <= ratio.high:
            yield f"{name} {ratio.median:g} lies outside its own interval [{ratio.low:g}, {ratio.high:g}]"
        if ratio.verdict not in ("inconclusive", judge(ratio.low, ratio.high, setting.margin)):
            yield f"{name} [{ratio.low:g}, {ratio.high:g}] is called {ratio.verdict}, at a margin of {setting.margin:g}"
    memory = row.memory
    if memory and memory.split and sum(memory.split.model_dump().values()) != memory.peak_bytes:
        yield "the parts of its peak memory do not add up to it"
    if row.flop_coverage is not None and row.flop_coverage > 1 + 1e-9:
        yield f"flop_coverage is {row.flop_coverage:g}, above 1"
