"""The rules by which an entry of a paper's table is judged. Pure; no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction
from itertools import pairwise

from sdbench.cost.claims_records import ClaimVerdict, DataSize
from sdbench.statistics import PairedDifference

COUNT_TOLERANCE = 0.005
"""Counts are exact; what is allowed for is a short last batch."""
BYTES_PER_WEIGHT = 12
"""An auxiliary float32 weight with its gradient and its momentum, 4 bytes each."""
LEAST_SEEDS = 3
STATE_TOLERANCE = 64
"""Bytes by which extrapolated sizes of a state may be off through rounding."""


def combine(verdicts: Iterable[ClaimVerdict]) -> ClaimVerdict:
    """One verdict on a claim that can be read in several ways, from the verdicts on its readings.

    The first that holds: *not measured* where no reading was. *Depends on the reading* where one is confirmed and
    another refuted, or one already depends: no measurement of the others can mend that. *Confirmed* or *refuted*
    where every reading is. *Inconclusive* otherwise: those that were settled agree, but one reading is inconclusive
    or was not measured, and could still side with them or against them.
    """
    found = set(verdicts)
    if found <= {"not measured"}:
        return "not measured"
    if found >= {"confirmed", "refuted"} or "depends on the reading" in found:
        return "depends on the reading"
    if found == {"confirmed"}:
        return "confirmed"
    return "refuted" if found == {"refuted"} else "inconclusive"


def of_chain(value: float, generations: int) -> float:
    """The cost of a whole chain of G trainings of which the first is the baseline's: 1 + (G - 1) value.

    value: the last generation's cost over the baseline's. With G = 1 there is no chain, and it stays.
    """
    return value if generations == 1 else 1 + (generations - 1) * value


def judge_count(value: float, claimed: float) -> ClaimVerdict:
    """*Confirmed* where the count is within 0.5 % of what is claimed (end included), else *refuted*."""
    return judge_ratio(value, claimed, COUNT_TOLERANCE)


def judge_ratio(value: float, claimed: float, margin: float) -> ClaimVerdict:
    """*Confirmed* where |value - claimed| <= margin * claimed, else *refuted*: for figures without spread."""
    rounding = 1e-12 * claimed  # so that the end points belong to the band
    return "confirmed" if abs(value - claimed) <= margin * claimed + rounding else "refuted"


def judge_interval(low: float, high: float, claimed: float, margin: float) -> ClaimVerdict:
    """Where the interval [low, high] lies against the band [claimed (1 - margin), claimed (1 + margin)].

    *Confirmed*: within it, its ends included. *Refuted*: wholly outside, on either side. *Inconclusive*: it
    crosses an edge.
    """
    bottom, top = claimed * (1 - margin), claimed * (1 + margin)
    if bottom <= low and high <= top:
        return "confirmed"
    return "refuted" if high < bottom or low > top else "inconclusive"


def judge_gain(difference: PairedDifference, claimed: float) -> ClaimVerdict:
    """What a measured gain makes of a claimed one, in points of top-1.

    difference: of fractions. With fewer than three seeds *inconclusive*, with none *not measured*. *Refuted* where
    the interval leaves out the claimed gain. *Confirmed* where it holds the claimed gain and leaves out 0.
    *Inconclusive* where it holds both.
    """
    if difference.mean is None:
        return "not measured"
    if difference.n < LEAST_SEEDS or difference.low is None or difference.high is None:
        return "inconclusive"
    low, high = 100 * difference.low, 100 * difference.high
    if not low <= claimed <= high:
        return "refuted"
    return "inconclusive" if low <= 0 <= high else "confirmed"


def grows_with_images(state_bytes_at: Mapping[str, int | None], sizes: Mapping[str, DataSize]) -> bool | None:
    """Whether a state's size depends on the number of training images; None where that cannot be told.

    state_bytes_at: bytes by data set, None where unknown. sizes: of data sets; others are left out.

    Told by the first of these that there is: two data sets with as many classes but unlike numbers of images;
    the same bytes on all of at least two; four unlike numbers of classes, where bytes that depend on classes alone
    follow a polynomial of degree two in them, a table of classes by classes being the largest of such states.
    """
    known = {name: size for name, size in sizes.items() if state_bytes_at.get(name) is not None}
    points: dict[tuple[int, int], int] = {
        (s.num_classes, s.num_train): state_bytes_at[name] or 0 for name, s in known.items()
    }
    ordered = sorted(points)
    same_classes = [(points[a], points[b]) for a, b in pairwise(ordered) if a[0] == b[0]]
    if same_classes:
        return any(_differ(a, b) for a, b in same_classes)
    if len(ordered) > 1 and not _differ(min(points.values()), max(points.values())):
        return False
    if len(ordered) < 4:
        return None
    nodes = [ordered[0], ordered[len(ordered) // 2], ordered[-1]]
    return any(_differ(_quadratic(nodes, points, point[0]), points[point]) for point in ordered)


def _differ(a: int | Fraction, b: int | Fraction) -> bool:
    return abs(Fraction(a) - Fraction(b)) > STATE_TOLERANCE


def _quadratic(nodes: list[tuple[int, int]], points: Mapping[tuple[int, int], int], classes: int) -> Fraction:
    """Lagrange's polynomial in the number of classes through three points, exactly."""
    terms = []
    for node in nodes:
        term = Fraction(points[node])
        for other in nodes:
            term *= Fraction(classes - other[0], node[0] - other[0]) if other != node else 1
        terms.append(term)
    return sum(terms, Fraction(0))
