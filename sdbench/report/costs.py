"""Which measured cost a figure sets accuracy against, and measured beside predicted cost from profiles. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sdbench.cost.records import ProfileResult, ProfileRow
from sdbench.leaderboard_cells import marked
from sdbench.leaderboard_profiles import Measured, newest_timed, profiled_on
from sdbench.leaderboard_records import Row
from sdbench.ranking import pareto_front
from sdbench.report.material import Entry, Group, printable
from sdbench.spec import canonical


@dataclass(frozen=True)
class Spot:
    """A row as a point: its cost with an interval where there is one, its top-1 as fractions, n seeds."""

    entry: Entry
    cost: float
    low: float
    high: float
    top1: float
    std: float | None
    n: int
    front: bool


@dataclass(frozen=True)
class Tradeoff:
    """Accuracy against one kind of cost. axis: what the cost is. about: how it was had. missing: rows without one."""

    axis: str
    about: str
    spots: tuple[Spot, ...]
    missing: tuple[Entry, ...]


def tradeoff(group: Group) -> Tradeoff | None:
    """Accuracy against the best cost known in a table: steps measured side by side, else whole trainings, else the
    images forwarded. None where no row but the baseline has a cost and an accuracy."""
    for axis, about, cost in (
        (
            "time of a training step relative to the baseline's",
            "measured side by side (sdbench profile), median with 95 % interval",
            _step,
        ),
        (
            "training time relative to the baseline's",
            "mean over seeds of whole trainings on the same hardware",
            _training,
        ),
        (
            "images forwarded per labelled image",
            "counted, as no timing that counts is there: sdbench profile measures steps",
            _forwards,
        ),
    ):
        known = [(entry, cost(entry.row)) for entry in group.entries]
        if any(c is not None and e.row.metrics and not e.row.baseline for e, c in known):
            return _tradeoff(axis, about, known)
    return None


Interval = tuple[float, float, float]
"""A value and the ends of its interval, which are the value itself where there is none."""


def _step(row: Row) -> Interval | None:
    time = row.step.time if row.step else None
    return (time.median, time.low, time.high) if time else None


def _training(row: Row) -> Interval | None:
    time = row.costs[0].time if row.costs else None
    return (time.mean, time.mean, time.mean) if time else None


def _forwards(row: Row) -> Interval | None:
    value = row.forward_per_image
    return (value, value, value) if value is not None else None


def _tradeoff(axis: str, about: str, known: Sequence[tuple[Entry, Interval | None]]) -> Tradeoff:
    shown = [(e, c) for e, c in known if c is not None and e.row.metrics]
    front = pareto_front([(e.row.metrics["top1"].mean, c[0]) for e, c in shown])
    spots = []
    for (entry, (cost, low, high)), on in zip(shown, front, strict=True):
        top1 = entry.row.metrics["top1"]
        spots.append(Spot(entry, cost, low, high, top1.mean, top1.std, top1.n, bool(on)))
    missing = tuple(e for e, c in known if c is None and e.row.metrics)
    return Tradeoff(axis, about, tuple(spots), missing)


@dataclass(frozen=True)
class Bars:
    """What profiles of one task on one kind of hardware say: per variant the newest row whose timing counts."""

    task: str
    place: str
    baseline: str
    margin: float
    rows: tuple[Measured, ...]

    @property
    def largest(self) -> float:
        """The largest ratio that a bar shows."""
        found = [1.0]
        for measured in self.rows:
            row = measured.row
            found += [row.time_ratio.high] if measured.timed and row.time_ratio else []
            found += [row.predicted_ratio] if row.predicted_ratio else []
        return max(found)


def bars(profiles: Iterable[ProfileResult], methods: Sequence[str] | None = None) -> tuple[Bars, ...]:
    """Measured and predicted cost, the newest task first. methods: those to show beside the baseline; None for all."""
    tasks: dict[tuple[object, ...], list[ProfileResult]] = defaultdict(list)
    for profile in profiles:
        setting = profile.setting
        task = (setting.network, setting.dataset, setting.num_classes, setting.image_size, setting.batch_size)
        tasks[(*task, setting.precision, setting.step, profiled_on(profile), profile.baseline)].append(profile)
    newest = sorted(tasks.values(), key=lambda found: max(_began(p) for p in found), reverse=True)
    return tuple(_bars(found, methods) for found in newest)


def _began(profile: ProfileResult) -> tuple[str, str]:
    return profile.provenance.started, profile.profile_id


def _bars(profiles: Sequence[ProfileResult], methods: Sequence[str] | None) -> Bars:
    found: dict[str, list[Measured]] = defaultdict(list)
    order: list[str] = []
    for profile in sorted(profiles, key=_began):
        for row in profile.rows:
            if methods is None or row.method in methods or row.method == profile.baseline:
                key = f"{row.method} {canonical(row.params)}"
                order += [key] if key not in found else []
                found[key].append(Measured(profile, row))
    chosen = [newest_timed([m for m in found[key] if m.row.status == "ok"] or found[key]) for key in order]
    last = max(profiles, key=_began)
    setting = last.setting
    images = f"{setting.dataset} images of {setting.image_size} pixels"
    batch = f"batches of {setting.batch_size}, {setting.precision}"
    task = f"{setting.network}, {setting.num_classes} classes, {images}, {batch}"
    rows = tuple(m for m in chosen if m is not None)
    return Bars(printable(task), printable(profiled_on(last).label), last.baseline, setting.margin, rows)


def bar_name(row: ProfileRow, others: Iterable[Measured]) -> str:
    """A row's method, with its parameters where another row is of the same one, and its caveat."""
    twins = sum(m.row.method == row.method for m in others) > 1
    params = ",".join(f"{key}={value}" for key, value in sorted(row.params.items())) if twins else ""
    return printable(marked(f"{row.method}[{params}]" if params else row.method, row.caveat))
