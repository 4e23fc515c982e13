"""``sdbench analyze``: ask every question of every group of trials, and show the answers."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sdbench.analysis import tables, zipf
from sdbench.analysis.logits import calibration_row, zipf_row
from sdbench.analysis.records import Analysis
from sdbench.analysis.trials import Choice, Group, choose
from sdbench.errors import UserError, unknown
from sdbench.paths import path_of
from sdbench.store import Store

KINDS = ("zipf", "calibration", "geometry")
TRAIN_IMAGES = 10_000
"""Training images whose features are looked at, at most, unless told otherwise."""


@dataclass(frozen=True)
class Asked:
    """What to ask. ranks: first and last. others: leave the label's class out. classes: three, as typed. train_images:
    at most so many; None for all. output: where the picture goes; with several, each kind and group gets a file."""

    kinds: tuple[str, ...] = KINDS
    ranks: tuple[int, int] = zipf.RANKS
    others: bool = True
    classes: str | None = None
    train_images: int | None = TRAIN_IMAGES
    data_dir: str | None = None
    device: str = "auto"
    output: Path | None = None


@dataclass
class Answer:
    """One group's analysis and its pictures by kind, while they are made. notes: what could not be looked at."""

    found: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    pictures: dict[str, Any] = field(default_factory=dict)


def read_asked(
    kind: str = "all",
    ranks: str | None = None,
    over: str | None = None,
    classes: str | None = None,
    train_images: str | None = None,
    data_dir: str | None = None,
    device: str | None = None,
    output: str | None = None,
) -> Asked:
    """What was typed, judged. Raises UserError with every problem."""
    problems = []
    if kind != "all" and kind not in KINDS:
        problems.append("--kind: " + unknown("kind", kind, (*KINDS, "all")))
    match = re.fullmatch(r"(\d{1,9})-(\d{1,9})", ranks or "{}-{}".format(*zipf.RANKS))
    pair = (int(match[1]), int(match[2])) if match else (0, 0)
    if pair[0] < 1 or pair[1] < pair[0] + 2:
        problems.append(f"--ranks {ranks!r}: expected FIRST-LAST with three ranks at least, such as 1-32")
    if over not in (None, "others", "all"):
        problems.append("--over: " + unknown("choice of classes", over or "", ("others", "all")))
    if train_images is not None and not re.fullmatch(r"[0-9]{1,9}", train_images):
        problems.append(f"--train-images {train_images!r}: expected a whole number; 0 for all")
    if device not in (None, "auto", "cpu", "cuda"):
        problems.append("--device: " + unknown("value", device or "", ("auto", "cpu", "cuda")))
    if problems:
        raise UserError(problems)
    from sdbench.analysis.pictures import checked

    most = TRAIN_IMAGES if train_images is None else int(train_images) or None
    place = checked(path_of(output)) if output else None
    kinds = KINDS if kind == "all" else (kind,)
    return Asked(kinds, pair, over != "all", classes, most, data_dir, device or "auto", place)


def analyze(results: str, choice: Choice, asked: Asked, *, as_json: bool = False) -> tuple[str, list[str], int]:
    """The answers (``analyses``) as text or JSON, the pictures that were written, and 1 where something could not be
    looked at, else 0."""
    found = analyses(results, choice, asked)
    if as_json:
        shown = json.dumps([a.model_dump(mode="json") for a in found], indent=1)
    else:
        shown = "\n\n\n".join(tables.text(a) for a in found)
    pictures = [path for a in found for path in a.pictures.values()]
    return shown, [f"picture: {path}" for path in pictures], int(any(a.notes for a in found))


def analyses(results: str, choice: Choice, asked: Asked) -> list[Analysis]:
    """The answers, a record for each group of trials that can be set side by side; pictures are written where they are
    asked for. Raises UserError where no trial is meant, or none of what was asked has an answer."""
    store = Store(path_of(results).absolute())
    groups = choose(store, choice)
    answers = [_answer(store, group, asked) for group in groups]
    if not any(answer.found for answer in answers):
        raise UserError([note for answer in answers for note in answer.notes] or "nothing to analyze")
    written = _write(answers, asked)
    return [
        Analysis(title=group.title, notes=tuple(answer.notes), pictures=pictures, **answer.found)
        for group, answer, pictures in zip(groups, answers, written, strict=True)
    ]


def _answer(store: Store, group: Group, asked: Asked) -> Answer:
    questions = {"zipf": _ask_zipf, "calibration": _ask_calibration, "geometry": _ask_geometry}
    answer = Answer()
    for kind in asked.kinds:
        questions[kind](store, group, asked, answer)
    return answer


def _note(answer: Answer, notes: Sequence[str]) -> None:
    answer.notes += [note for note in notes if note not in answer.notes]


def _ask_zipf(store: Store, group: Group, asked: Asked, answer: Answer) -> None:
    rows, looked_at = [], asked.ranks
    for variant in group.variants:
        row, ranks, notes = zipf_row(store, variant, asked.ranks, asked.others)
        _note(answer, notes)
        if row is not None and ranks is not None:
            rows.append(row)
            looked_at = ranks
    if not rows:
        return
    first, last = looked_at
    answer.found |= {"zipf": tuple(rows), "first_rank": first, "last_rank": last, "target_left_out": asked.others}
    if asked.output:
        from sdbench.analysis import pictures

        answer.pictures["zipf"] = pictures.zipf(rows, first, last, group.title)


def _ask_calibration(store: Store, group: Group, asked: Asked, answer: Answer) -> None:
    rows = []
    for variant in group.variants:
        row, notes = calibration_row(store, variant)
        _note(answer, notes)
        rows.append(row)
    answer.found["calibration"] = tuple(rows)
    if asked.output and any(row.reliability for row in rows):
        from sdbench.analysis import pictures

        answer.pictures["calibration"] = pictures.reliability(rows, group.title)


def _ask_geometry(store: Store, group: Group, asked: Asked, answer: Answer) -> None:
    from sdbench.analysis.features import open_data
    from sdbench.analysis.planes import geometry_row, parse_classes

    try:
        one = next(iter(group.variants[0].trials.values()))
        dataset = open_data(one, asked.data_dir, asked.device)
        classes = parse_classes(asked.classes, dataset.class_names)
    except UserError as error:
        _note(answer, [f"no geometry: {problem}" for problem in error.problems])
        return
    rows, drawings = [], []
    for variant in group.variants:
        row, drawing, notes = geometry_row(store, variant, dataset, classes, asked.train_images)
        _note(answer, notes)
        if row is not None and drawing is not None:
            rows.append(row)
            drawings.append(drawing)
    if not rows:
        return
    names = tuple(f"{dataset.class_names[k]}" for k in classes)
    answer.found |= {"geometry": tuple(rows), "classes": names}
    if asked.output:
        from sdbench.analysis import pictures

        answer.pictures["geometry"] = pictures.geometry(drawings, names, group.title)


def _write(answers: Sequence[Answer], asked: Asked) -> list[dict[str, str]]:
    """Write the pictures; with several kinds or groups, the kind or the group's number goes into the file's name.
    Returns the files by kind, of each answer."""
    written: list[dict[str, str]] = [{} for _ in answers]
    if asked.output is None:
        return written
    from sdbench.analysis import pictures

    for number, answer in enumerate(answers, start=1):
        for kind, figure in answer.pictures.items():
            marks = [*([kind] if len(asked.kinds) > 1 else []), *([str(number)] if len(answers) > 1 else [])]
            path = asked.output.with_stem("-".join([asked.output.stem, *marks]))
            pictures.save(figure, path)
            written[number - 1][kind] = str(path)
    return written
