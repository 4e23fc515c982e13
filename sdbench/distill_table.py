"""What students of different teachers are worth: pure, from records to a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tabulate import tabulate

from sdbench.leaderboard_cells import MISSING, gain_text
from sdbench.leaderboard_variants import seed_list
from sdbench.spec import Record, Trial, TrialResult
from sdbench.statistics import LEAST_SEEDS, MeanStd, PairedDifference, mean_std, paired_difference

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Lesson:
    """One student's trial and the finished trial that teaches it. label: the teacher, as it was asked for."""

    label: str
    method: str
    teacher: TrialResult
    trial: Trial


class StudentRow(Record):
    """The students of one teacher at one temperature, one per seed.

    teacher_top1, student_top1: over the seeds whose student finished; fractions. to_teacher, to_alone: student minus
    its teacher, and minus the student that learned alone. to_plain: minus the student that the baseline's network
    taught at the same temperature and weight; None for that row itself and where no such teacher was asked for.
    Differences are paired by seed, in fractions, with 95 % t intervals. statuses: students that did not finish.
    """

    teacher: str
    teacher_network: str
    temperature: float
    alpha: float
    seeds: tuple[int, ...]
    teacher_top1: MeanStd | None
    student_top1: MeanStd | None
    to_teacher: PairedDifference
    to_alone: PairedDifference
    to_plain: PairedDifference | None
    statuses: dict[str, int] = {}
    teacher_trials: tuple[str, ...]


class DistillTable(Record):
    """Rows in the order in which teachers were asked for. alone: top-1 of the student without a teacher."""

    student: str
    dataset: str
    protocol: str
    epochs: int
    baseline: str
    alone: MeanStd | None
    rows: tuple[StudentRow, ...]
    notes: tuple[str, ...]

    def to_pandas(self) -> pd.DataFrame:
        """A row per teacher, temperature and weight, flat and typed; see ``sdbench.frames``."""
        from sdbench.frames import to_pandas

        return to_pandas(self)


_Key = tuple[str, float, float]


def build(
    lessons: Sequence[Lesson], alone: Mapping[int, str], results: Iterable[TrialResult], baseline: str
) -> DistillTable:
    """The table of all lessons. alone: the trial of the student without a teacher by seed. results: what was trained;
    trials without a record count as missing. baseline: the method whose network is the plain teacher."""
    by_id = {r.trial_id: r for r in results}
    groups: dict[_Key, list[Lesson]] = {}
    for lesson in lessons:
        params = lesson.trial.spec.params
        groups.setdefault((lesson.label, float(params["temperature"]), float(params["alpha"])), []).append(lesson)
    scores = {key: _top1(((x.trial.spec.seed, x.trial.id) for x in own), by_id) for key, own in groups.items()}
    plain = {key[1:]: scores[key] for key, own in groups.items() if own[0].method == baseline}
    by_itself = _top1(alone.items(), by_id)
    rows = [
        _row(key, own, scores[key], by_itself, plain.get(key[1:]) if own[0].method != baseline else None, by_id)
        for key, own in groups.items()
    ]
    spec = lessons[0].trial.spec
    return DistillTable(
        student=spec.network,
        dataset=spec.dataset,
        protocol=spec.protocol,
        epochs=spec.recipe.epochs,
        baseline=baseline,
        alone=mean_std(by_itself.values()) if by_itself else None,
        rows=tuple(rows),
        notes=tuple(_notes(rows, spec.network, baseline)),
    )


def _top1(trials: Iterable[tuple[int, str]], by_id: Mapping[str, TrialResult]) -> dict[int, float]:
    """Top-1 by seed of those that finished."""
    found = ((seed, by_id.get(trial_id)) for seed, trial_id in trials)
    return {seed: r.metrics.top1 for seed, r in found if r is not None and r.status == "ok" and r.metrics}


def _row(
    key: _Key,
    lessons: Sequence[Lesson],
    own: Mapping[int, float],
    alone: Mapping[int, float],
    plain: Mapping[int, float] | None,
    by_id: Mapping[str, TrialResult],
) -> StudentRow:
    label, temperature, alpha = key
    taught_by = {x.trial.spec.seed: x.teacher for x in lessons}
    teachers = {seed: r.metrics.top1 for seed, r in taught_by.items() if r.metrics and seed in own}
    ended = Counter(by_id[x.trial.id].status if x.trial.id in by_id else "missing" for x in lessons)
    return StudentRow(
        teacher=label,
        teacher_network=lessons[0].teacher.spec.network,
        temperature=temperature,
        alpha=alpha,
        seeds=tuple(sorted(own)),
        teacher_top1=mean_std(teachers.values()) if teachers else None,
        student_top1=mean_std(own.values()) if own else None,
        to_teacher=paired_difference(own, teachers),
        to_alone=paired_difference(own, alone),
        to_plain=None if plain is None else paired_difference(own, plain),
        statuses={status: n for status, n in sorted(ended.items()) if status != "ok"},
        teacher_trials=tuple(taught_by[seed].trial_id for seed in sorted(taught_by)),
    )


def _notes(rows: Sequence[StudentRow], student: str, baseline: str) -> list[str]:
    notes = ["temperatures are swept, not selected: no row was picked, by the test set or otherwise"]
    if any(row.teacher_network == student for row in rows):
        notes.append(
            "teacher and student have the same network: those of one seed start from the same weights and see the same "
            "images in the same order, whoever the teacher is"
        )
    judged = [row for row in rows if row.to_plain is not None]
    small = [row for row in judged if row.to_plain is not None and row.to_plain.n < LEAST_SEEDS]
    if small:
        notes.append(f"n too small: below {LEAST_SEEDS} seeds the interval says little, and nothing is concluded")
    clear = [row.to_plain for row in judged if row.to_plain is not None and row.to_plain.n >= LEAST_SEEDS]
    if clear:
        below = sum(d.high is not None and d.high < 0 for d in clear)
        above = sum(d.low is not None and d.low > 0 for d in clear)
        notes.append(
            f"against students of {baseline}'s networks at the same temperature: {below} of {len(clear)} rows worse, "
            f"{above} better, {len(clear) - below - above} not distinguishable (95 % intervals, each for itself)"
        )
    for row in rows:
        if row.statuses:
            told = ", ".join(f"{n} {status}" for status, n in row.statuses.items())
            notes.append(f"students of {row.teacher} at T = {row.temperature:g}: {told}")
    return notes


def render(table: DistillTable, as_json: bool) -> str:
    """The table for people, or as JSON."""
    if as_json:
        return table.model_dump_json(indent=1)
    headers = [
        "teacher",
        "T",
        "alpha",
        "teacher top-1 %",
        "student top-1 % (n)",
        "to its teacher",
        "to the student alone",
        f"to {table.baseline}'s student",
    ]
    cells = [
        [
            f"{row.teacher_network}/{row.teacher}",
            f"{row.temperature:g}",
            f"{row.alpha:g}",
            _percent(row.teacher_top1),
            f"{_percent(row.student_top1)} ({len(row.seeds)})",
            gain_text(row.to_teacher),
            gain_text(row.to_alone),
            gain_text(row.to_plain),
        ]
        for row in table.rows
    ]
    align = ("left", *["right"] * (len(headers) - 1))
    shown = tabulate(cells, headers=headers, tablefmt="simple", disable_numparse=True, colalign=align)
    seeds = {seed for row in table.rows for seed in row.seeds}
    n = table.alone.n if table.alone else 0
    title = f"student {table.student} on {table.dataset}, {table.protocol}, {table.epochs} epochs"
    lines = [f"{title}, {seed_list(seeds) if seeds else 'no seed finished'}", "", shown, ""]
    lines.append(f"the student alone ({table.baseline}, same recipe): {_percent(table.alone)} % ({n})")
    lines.append("differences in points of top-1, paired by seed, with 95 % t intervals; (n) seeds")
    return "\n".join([*lines, *(f"* {note}" for note in table.notes)])


def _percent(value: MeanStd | None) -> str:
    if value is None:
        return MISSING
    return f"{100 * value.mean:.2f}" + (f" ± {100 * value.std:.2f}" if value.std is not None else "")
