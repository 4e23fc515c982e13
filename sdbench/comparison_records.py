"""What a comparison consists of: frozen records, numbers in full precision, no formatting."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from sdbench.comparison_pace_records import Pace, Summary
from sdbench.leaderboard_records import CostRatio, Ground
from sdbench.spec import Record, Value
from sdbench.statistics import LEVEL, MeanStd, PairedDifference

if TYPE_CHECKING:
    import pandas as pd

Verdict = Literal["better", "worse", "not distinguishable", "n too small"]


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric that methods are compared by. scale: 100 where fractions are shown in per cent and their differences in
    points, else 1. digits: shown after the point. unit: of values; empty for bare numbers."""

    name: str
    title: str
    higher_is_better: bool
    scale: int
    digits: int

    @property
    def unit(self) -> str:
        """Of differences as they are shown."""
        return "points" if self.scale == 100 else "nats" if "nll" in self.name else ""


METRICS = {
    metric.name: metric
    for metric in (
        Metric("top1", "top-1 %", True, 100, 2),
        Metric("top5", "top-5 %", True, 100, 2),
        Metric("nll", "NLL", False, 1, 4),
        Metric("ece", "ECE %", False, 100, 2),
        Metric("brier", "Brier", False, 1, 4),
        Metric("scaled_nll", "NLL scaled", False, 1, 4),
        Metric("scaled_ece", "ECE % scaled", False, 100, 2),
        Metric("scaled_brier", "Brier scaled", False, 1, 4),
    )
}
"""By the names of ``sdbench list metrics``; scaled ones exist where trials held images out."""


class StepRatio(Record):
    """Cost of a training step relative to the reference's, both measured in one profile.

    time: ratio of times; None where a timing does not count. low, high: its 95 % interval over rounds; None where the
    reference is not the profile's baseline. memory: ratio of the peaks of live tensors.
    """

    profile_id: str
    hardware: str
    time: float | None
    low: float | None
    high: float | None
    memory: float | None


class Compared(Record):
    """One variant of a method beside the reference.

    label, caveat, method, params: as in a board's row. value: mean over its finished seeds. difference: value minus
    the reference's, paired by seed, in the metric's own unit (fractions, nats). mean_differences: means of
    the same under every metric that both have. p: of the paired t test, None below three common seeds; p_adjusted: by
    Holm over all comparisons made. costs: one per entry of ``ComparedTable.hardware``, of whole trainings. step:
    None where no profile has both.
    """

    label: str
    caveat: str = ""
    method: str
    params: dict[str, Value]
    value: MeanStd | None
    difference: PairedDifference
    mean_differences: dict[str, float]
    p: float | None
    p_adjusted: float | None
    verdict: Verdict
    costs: tuple[CostRatio, ...]
    step: StepRatio | None = None


class ComparedTable(Ground):
    """Comparisons on one data set, network, protocol, recipe; rows in the order in which methods were named. paces: the
    reference's and one per row, where a target or a time was asked for."""

    reference: str
    reference_value: MeanStd | None
    hardware: tuple[str, ...]
    rows: tuple[Compared, ...]
    paces: tuple[Pace, ...] = ()
    notes: tuple[str, ...]


class Outcome(Record):
    """A condition judged for one method in one table.

    where: the table's title. value: what was compared with the limit, in points for fractions; None where it is not
    known. holds: None where that cannot be decided, for the reason in ``reason``.
    """

    condition: str
    label: str
    where: str
    value: float | None
    holds: bool | None
    reason: str = ""


class Comparison(Record):
    """The whole answer. comparisons: how many were tested, over which p-values are adjusted. level: of a verdict.
    target: a top-1 to reach, a fraction; at: seconds of training at which top-1 is looked up; None where not asked for.
    summary: None where no method is in several tables."""

    metric: str
    higher_is_better: bool
    level: float = LEVEL
    comparisons: int
    tables: tuple[ComparedTable, ...]
    outcomes: tuple[Outcome, ...] = ()
    target: float | None = None
    at: float | None = None
    summary: Summary | None = None
    notes: tuple[str, ...]

    @property
    def failed(self) -> tuple[Outcome, ...]:
        """Conditions that hold or cannot be decided: a gate that cannot be judged does not open."""
        return tuple(outcome for outcome in self.outcomes if outcome.holds is not False)

    def to_pandas(self) -> pd.DataFrame:
        """A row per table and method that was compared, flat and typed; see ``sdbench.frames``."""
        from sdbench.frames import to_pandas

        return to_pandas(self)
