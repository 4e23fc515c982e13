"""What a comparison says of accuracy over training time: frozen records, numbers in full precision, no formatting."""

from __future__ import annotations

from sdbench.spec import Record
from sdbench.statistics import MeanStd, PairedDifference

TAUS = (1.0, 1.1, 1.5, 2.0)
"""Factors of the best method's cost at which performance profiles are read."""


class ToTarget(Record):
    """A method's way to a target accuracy. Seconds are wall time of training, earlier generations included, until the
    first evaluated epoch with at least that top-1: upper bounds.

    n: seeds of which it is known whether they reached it: finished with evaluated epochs, or failed (not reached).
    reached: how many did. seconds: over those that did and whose timing counts; None for none and where they ran on
    unlike hardware. ratio: geometric mean of the ratio to the reference's seconds over the ``seeds`` of which both
    reached it on the same hardware; 1 for the reference itself, None without such a seed. cost: geometric mean of
    the seconds over all n seeds; None unless each reached it and all of their timings count, on the same ``hardware``.
    """

    reached: int
    n: int
    seconds: MeanStd | None
    ratio: float | None
    seeds: tuple[int, ...]
    cost: float | None
    hardware: str

    @property
    def unsolved(self) -> bool:
        """Whether a seed is known not to have reached it."""
        return self.reached < self.n


class AtTime(Record):
    """Top-1 (fractions) at the last evaluated epoch within a time of training.

    top1: over the seeds of which it is known; None for none and where they ran on unlike hardware. difference: to the
    reference's, paired by seed over seeds that both ran on the same hardware; None for the reference itself.
    """

    top1: MeanStd | None
    difference: PairedDifference | None


class Pace(Record):
    """One variant in one table; ``reference`` marks the one that ratios and differences are to."""

    label: str
    caveat: str = ""
    reference: bool = False
    to_target: ToTarget | None = None
    at_time: AtTime | None = None


class Overall(Record):
    """One method over all tables that have it.

    name: as it was asked for, where that is one variant in every table, else its label. tables: how many have it.
    step: geometric mean over ``step_tables`` tables of the cost of a training step relative to the reference's; time:
    the same of seconds to the target, over ``time_tables``. profile: share of the summary's ``profile_tables`` in which
    its cost of reaching the target is within each of TAUS times that of the best; None where it takes no part.
    """

    name: str
    caveat: str = ""
    reference: bool = False
    tables: int
    step: float | None
    step_tables: int
    time: float | None
    time_tables: int
    profile: tuple[float, ...] | None


class Summary(Record):
    """Methods over several tables, the reference first. profile_tables: how many tables performance profiles rest on;
    0 without a target."""

    tables: int
    taus: tuple[float, ...] = TAUS
    profile_tables: int
    rows: tuple[Overall, ...]
    notes: tuple[str, ...]
