"""Methods over several tables of a comparison: geometric means of ratios, performance profiles. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sdbench.comparison_pace_records import TAUS, Overall, Summary, ToTarget
from sdbench.comparison_records import ComparedTable
from sdbench.curves import geometric_mean, performance_profile
from sdbench.leaderboard_cells import full_title


@dataclass(frozen=True)
class _Entry:
    """A method in one table. step: of its cost relative to the reference's."""

    caveat: str
    step: float | None
    to_target: ToTarget | None

    @property
    def judged(self) -> bool:
        """Whether its cost of reaching the target is known, or that it does not reach it."""
        return self.to_target is not None and (self.to_target.unsolved or self.to_target.cost is not None)

    @property
    def cost(self) -> float | None:
        return self.to_target.cost if self.to_target else None

    @property
    def hardware(self) -> str:
        return self.to_target.hardware if self.to_target else ""


_Found = Mapping[str, Mapping[int, _Entry]]
"""By method, the reference first, and number of the table."""


def summarize(tables: Sequence[ComparedTable], called: Sequence[Mapping[str, str]]) -> Summary | None:
    """All tables in one line per method; None where none but the reference is in several.

    called: for each table, what each label in it goes by over all of them.
    """
    reference = called[0][tables[0].reference] if tables else ""
    found: dict[str, dict[int, _Entry]] = {reference: {}}
    for i, (table, names) in enumerate(zip(tables, called, strict=True)):
        pace = {pace.label: pace.to_target for pace in table.paces}
        found[reference][i] = _Entry("", None, pace.get(table.reference))
        for row in table.rows:
            step = row.step.time if row.step else None
            found.setdefault(names[row.label], {})[i] = _Entry(row.caveat, step, pace.get(row.label))
    if not any(len(own) > 1 for name, own in found.items() if name != reference):
        return None
    profiles, count, notes = _profiles(tables, found)
    return Summary(
        tables=len(tables),
        profile_tables=count,
        rows=tuple(_overall(name, own, name == reference, profiles.get(name)) for name, own in found.items()),
        notes=tuple(notes),
    )


def _overall(name: str, own: Mapping[int, _Entry], reference: bool, profile: Sequence[float] | None) -> Overall:
    steps = [entry.step for entry in own.values() if entry.step is not None]
    times = [entry.to_target.ratio for entry in own.values() if entry.to_target and entry.to_target.ratio is not None]
    return Overall(
        name=name,
        caveat=next((entry.caveat for entry in own.values() if entry.caveat), ""),
        reference=reference,
        tables=len(own),
        step=_mean(steps),
        step_tables=len(steps),
        time=_mean(times),
        time_tables=len(times),
        profile=None if profile is None else tuple(profile),
    )


def _mean(ratios: Sequence[float]) -> float | None:
    return geometric_mean(ratios) if ratios else None


def _profiles(tables: Sequence[ComparedTable], found: _Found) -> tuple[dict[str, list[float]], int, list[str]]:
    """Profiles by method, over how many tables, and notes on what is left out.

    A cost that nobody measured is not a target that was missed, so a table counts only where all methods are judged, on
    the same hardware; methods that are judged in no table take no part.
    """
    if not any(entry.to_target for own in found.values() for entry in own.values()):
        return {}, 0, []
    part = {name: own for name, own in found.items() if any(entry.judged for entry in own.values())}
    alone = [name for name in found if name not in part]
    notes = [f"no part in performance profiles, for want of seconds: {', '.join(alone)}"] if alone else []
    counted = []
    for i, table in enumerate(tables):
        why = _left_out(i, part)
        notes += [f"no part in performance profiles: {full_title(table)}: {why}"] if why else []
        counted += [] if why else [i]
    if not counted or not part:
        return {}, 0, notes
    costs = {name: {str(i): own[i].cost for i in counted} for name, own in part.items()}
    return performance_profile(costs, TAUS), len(counted), notes


def _left_out(i: int, part: _Found) -> str:
    """Why a table does not count; empty where it does."""
    absent = [name for name, own in part.items() if i not in own]
    unknown = [name for name, own in part.items() if i in own and not own[i].judged]
    if absent or unknown:
        told = [_told(absent, "no trial of"), _told(unknown, "seconds not known of")]
        return "; ".join(filter(None, told))
    places = {own[i].hardware for own in part.values() if own[i].cost is not None}
    return "methods ran on unlike hardware" if len(places) > 1 else ""


def _told(names: Iterable[str], what: str) -> str:
    listed = ", ".join(names)
    return f"{what} {listed}" if listed else ""
