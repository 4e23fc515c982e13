"""How soon methods reach an accuracy, and how accurate they are at a time, from records and learning curves. Pure.

Seconds are wall time of training, evaluation left out, with those of earlier generations before them. Nobody knows the
accuracy between two evaluated epochs, so a time to a target is an upper bound. Not covered: trials that evaluated
at unlike epochs are bounded unlike closely, which is only noted.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from sdbench.comparison_pace_records import AtTime, Pace, ToTarget
from sdbench.curves import Curve, accuracy_at, curve_points, geometric_mean, time_to
from sdbench.errors import UserError
from sdbench.leaderboard_costs import Hardware, Spent
from sdbench.leaderboard_variants import Variant, seed_list
from sdbench.selectors import parse_duration
from sdbench.spec import TrialResult
from sdbench.statistics import MeanStd, mean_std, paired_difference

CurveOf = Callable[[TrialResult], Sequence[Mapping[str, Any]]]
"""The lines of a trial's curve, none where it has none; ValueError, with the reason, where they cannot be trusted."""

_LOG = "sdbench run --eval-every 1 --rerun all trains again and logs it after every epoch"
_ALONE = "sdbench run --rerun all, with nothing else on the machine, times again"
_ROUNDING = 1e-9
"""Accuracies are quotients of counts, whose last digit depends on how they were divided."""


@dataclass(frozen=True)
class Question:
    """target: a top-1 accuracy, a fraction; at: seconds of training; either may be None. curve_of: see CurveOf."""

    target: float | None = None
    at: float | None = None
    curve_of: CurveOf = lambda result: ()

    @property
    def asked(self) -> bool:
        return self.target is not None or self.at is not None


NOTHING = Question()


def read_question(target: str | None, at: str | None, curve_of: CurveOf) -> Question:
    """A question from texts: per cent such as ``40``, a duration such as ``300`` or ``5m``. Raises UserError."""
    return Question(None if target is None else parse_target(target), None if at is None else _at(at), curve_of)


def parse_target(text: str) -> float:
    """The fraction of a top-1 accuracy in per cent, in [1, 100]. Raises UserError.

    >>> parse_target("40"), parse_target("70.1%")
    (0.4, 0.701)
    """
    match = re.fullmatch(r"\s*(\d{1,3}(?:\.\d{1,12})?)\s*%?\s*", text)
    if match is None or not 1 <= Decimal(match[1]) <= 100:
        raise UserError(f"target {text!r}: expected a top-1 accuracy in per cent, 1 to 100, such as --target 40")
    return float(Decimal(match[1]).scaleb(-2))


def _at(text: str) -> float:
    try:
        seconds = parse_duration(text)
    except UserError as error:
        raise UserError(f"at: {error}; for example --at 300 or --at 5m") from error
    return seconds


@dataclass(frozen=True)
class _Course:
    """What is known of a seed's training. points: None where nothing is; empty where it failed. timed: whether their
    seconds count. problem: why not. epochs: those evaluated."""

    points: Curve | None
    hardware: Hardware | None = None
    timed: bool = False
    problem: str = ""
    epochs: tuple[object, ...] = ()


@dataclass(frozen=True)
class _Courses:
    """A variant's courses by seed, and seconds to the target and top-1 at the time of those that have them."""

    variant: Variant
    by_seed: Mapping[int, _Course]
    seconds: Mapping[int, float] = field(default_factory=dict)
    top1: Mapping[int, float] = field(default_factory=dict)

    def places(self, seeds: Mapping[int, float]) -> set[Hardware | None]:
        return {self.by_seed[seed].hardware for seed in seeds}

    def mean(self, values: Mapping[int, float]) -> MeanStd | None:
        """None for no value, and of unlike hardware."""
        return mean_std(values.values()) if len(self.places(values)) == 1 else None


def paces(
    question: Question, reference: Variant, others: Sequence[Variant]
) -> tuple[tuple[Pace, ...], tuple[str, ...]]:
    """A table's answers, the reference's first, and notes on what is missing; nothing where nothing was asked."""
    if not question.asked:
        return (), ()
    base = _courses(reference, question)
    found = [base, *(_courses(variant, question) for variant in others)]
    reasons: dict[str, list[str]] = defaultdict(list)
    for own in found:
        for reason, who in _missing(own, base, question):
            reasons[reason].append(who)
    notes = tuple(f"{', '.join(who)}: {reason}" for reason, who in reasons.items())
    return tuple(_pace(own, base, question) for own in found), notes


def _courses(variant: Variant, question: Question) -> _Courses:
    known = {
        seed: _course(result, variant.costs.get(seed), question.curve_of)
        for seed, result in variant.trials.items()
        if result.status != "interrupted"
    }
    timed = {seed: own.points for seed, own in known.items() if own.timed and own.points is not None}
    seconds = {seed: _time_to(points, question.target) for seed, points in timed.items()}
    top1 = {seed: None if question.at is None else accuracy_at(points, question.at) for seed, points in timed.items()}
    return _Courses(
        variant,
        known,
        {seed: value for seed, value in seconds.items() if value is not None},
        {seed: value for seed, value in top1.items() if value is not None},
    )


def _course(result: TrialResult, spent: Spent | None, curve_of: CurveOf) -> _Course:
    if result.status != "ok":
        return _Course(())
    if result.cost is None or spent is None or not (result.epochs_done and result.cost.labelled_images):
        return _Course(None, problem="its record says nothing of its cost")
    try:
        lines = curve_of(result)
        points = curve_points(lines, result.cost.labelled_images / result.epochs_done)
        time_to(points, 1.0)  # refuses a curve that is none
    except (ValueError, TypeError) as error:
        return _Course(None, problem=f"its curve cannot be used: {error}")
    if len(lines) != result.epochs_done:
        what = f"has {len(lines)} of {result.epochs_done} epochs" if lines else "is missing"
        return _Course(None, problem=f"its curve {what}; {_LOG}")
    if len(points) < min(2, result.epochs_done):
        what = "after its last epoch only" if points else "never"
        return _Course(None, problem=f"test accuracy was logged {what}; {_LOG}")
    epochs = tuple(line.get("epoch") for line in lines if line.get("top1") is not None)
    if spent.seconds is None:
        return _Course(points, spent.hardware, problem=f"timing does not count; {_ALONE}", epochs=epochs)
    return _Course([(spent.before_s + s, top1) for s, top1 in points], spent.hardware, timed=True, epochs=epochs)


def _time_to(points: Curve, target: float | None) -> float | None:
    return None if target is None else time_to(points, target - _ROUNDING)


def _pace(own: _Courses, base: _Courses, question: Question) -> Pace:
    return Pace(
        label=own.variant.label,
        caveat=own.variant.caveat,
        reference=own is base,
        to_target=None if question.target is None else _to_target(own, base, question.target),
        at_time=None if question.at is None else _at_time(own, base),
    )


def _to_target(own: _Courses, base: _Courses, target: float) -> ToTarget:
    known = {seed: course.points for seed, course in own.by_seed.items() if course.points is not None}
    reached = [seed for seed, points in known.items() if _time_to(points, target) is not None]
    common = _common(own, base, own.seconds, base.seconds)
    ratios = [own.seconds[seed] / base.seconds[seed] for seed in common if base.seconds[seed] > 0]
    places = own.places(own.seconds)
    whole = len(own.by_seed) == len(known) == len(own.seconds) > 0 and len(places) == 1
    return ToTarget(
        reached=len(reached),
        n=len(known),
        seconds=own.mean(own.seconds),
        ratio=geometric_mean(ratios) if ratios else None,
        seeds=tuple(common),
        cost=geometric_mean(own.seconds.values()) if whole else None,
        hardware="; ".join(sorted(place.label for place in places if place)),
    )


def _at_time(own: _Courses, base: _Courses) -> AtTime:
    common = _common(own, base, own.top1, base.top1)
    a, b = ({seed: values[seed] for seed in common} for values in (own.top1, base.top1))
    return AtTime(top1=own.mean(own.top1), difference=None if own is base else paired_difference(a, b))


def _common(own: _Courses, base: _Courses, a: Mapping[int, float], b: Mapping[int, float]) -> list[int]:
    """Seeds that have both values, from the same hardware."""
    shared = sorted(a.keys() & b.keys())
    return [seed for seed in shared if own.by_seed[seed].hardware == base.by_seed[seed].hardware]


def _missing(own: _Courses, base: _Courses, question: Question) -> list[tuple[str, str]]:
    """What is missing and why, with the seeds of which it is. Why a timing does not count is told with the costs."""
    reasons: dict[str, list[int]] = defaultdict(list)
    for seed, course in own.by_seed.items():
        if course.problem:
            reasons[f"seconds left out: {course.problem}"].append(seed)
        elif course.timed and question.at is not None and seed not in own.top1:
            reasons[f"no epoch was evaluated within {question.at:g} s, so top-1 then is not known"].append(seed)
        if difference := _unlike(course, base.by_seed.get(seed), base.variant.label):
            reasons[difference].append(seed)
    label = own.variant.label
    spread = [
        (f"seeds ran on unlike hardware, so there is no mean of {what}", label)
        for values, what in ((own.seconds, "seconds to the target"), (own.top1, "top-1 at the time"))
        if len(own.places(values)) > 1
    ]
    return [*((reason, f"{label} {seed_list(seeds)}") for reason, seeds in reasons.items()), *spread]


def _unlike(own: _Course, other: _Course | None, reference: str) -> str:
    """Why a seed's seconds cannot, or can hardly, be set against the reference's; empty where they can."""
    if other is None or not (own.timed and other.timed):
        return ""
    if own.hardware != other.hardware:
        return f"ran on other hardware than {reference}, so their seconds are not compared"
    return "" if own.epochs == other.epochs else f"other epochs evaluated than of {reference}: unlike close bounds"
