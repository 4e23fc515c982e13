"""A paper's comparison table as data, and that table set beside measurements. Frozen records; no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, FiniteFloat

from sdbench.cost.records import NotNegative, Positive, Ratio, Setting
from sdbench.spec import Count, Record
from sdbench.statistics import PairedDifference

ClaimVerdict = Literal["confirmed", "refuted", "inconclusive", "depends on the reading", "not measured"]
"""What measurement makes of an entry of the paper."""

MemoryClaim = Literal["x1", "x1+O(M)", "x1+O(D)", "x2"]
"""M: auxiliary parameters. D: the data set."""


class PaperEntry(Record):
    """One row of the paper's table.

    name: the method's name in sdbench. label: as printed. sample_level, non_uniform: the paper's ticks, kept
    and not measured. pretrained_teacher, contrastive_samples, auxiliary_parameters: whether the method needs
    them. training_iterations: times the baseline's. gain: points of top-1 over the baseline; None for the
    baseline itself.
    """

    name: str
    label: str
    sample_level: bool
    non_uniform: bool
    pretrained_teacher: bool
    contrastive_samples: bool
    auxiliary_parameters: bool
    training_iterations: Positive
    memory: MemoryClaim
    gain: FiniteFloat | None = None


class Headline(Record):
    """The claim in words that is judged first, and the method that it is about."""

    method: str
    text: str


class DataSize(Record):
    """Classes and training images of a data set."""

    num_classes: Annotated[int, Field(ge=1)]
    num_train: Annotated[int, Field(ge=1)]


class Claims(Record):
    """A paper's table.

    dataset, networks: where its gains were had, by sdbench's names; any of the networks counts as the paper's.
    network_label: the network as the paper calls it. epochs: of its trainings. baseline_top1: per cent.
    sizes: of data sets by name, for ``ProfileRow.state_bytes_at``.
    """

    source: str
    address: str
    dataset: str
    networks: tuple[str, ...]
    network_label: str
    epochs: Annotated[int, Field(ge=1)]
    baseline_top1: Annotated[float, Field(ge=0, le=100)]
    headline: Headline
    entries: tuple[PaperEntry, ...]
    sizes: dict[str, DataSize] = {}

    def entry(self, method: str) -> PaperEntry | None:
        """What the paper says of a method, or None."""
        return next((entry for entry in self.entries if entry.name == method), None)


class MeasuredGain(Record):
    """Top-1 over the baseline's, paired by seed, and where it was measured.

    difference: of fractions in [0, 1]. epochs: None where they are not told, and then not compared with the paper's.
    """

    dataset: str
    network: str
    epochs: Annotated[int, Field(ge=1)] | None = None
    protocol: str = ""
    difference: PairedDifference


class Entry(Record):
    """One cell: what the paper says, what was measured, and what the second makes of the first.

    paper: a need as true or false, a multiple, points, or the words as printed; None where the paper says nothing.
    value, low, high: what was measured and its 95 % interval, where there are any: trainings, images,
    weights, ratios, points. verdict: None where there is no claim to judge.
    """

    paper: bool | FiniteFloat | str | None = None
    value: FiniteFloat | None = None
    low: FiniteFloat | None = None
    high: FiniteFloat | None = None
    verdict: ClaimVerdict | None = None
    reason: str = ""


class Need(Entry):
    """needed: what was measured, as an answer; None where it was not."""

    needed: bool | None = None


class MethodClaims(Record):
    """One row of the printed table.

    label: as the paper prints it, empty where the method is not in it. caveat: what must be said wherever the
    method is shown. profile: id of the profile that its costs come from, empty where it was not profiled.
    pretrained_teacher: trainings in a row. contrastive_samples: images loaded per labelled image.
    auxiliary_parameters: weights. iterations: all readings together, from the smallest to the largest. readings: by
    name, in ``READINGS``' order. memory: ratio of peaks. gain: points. one_pass: whether the method is one-pass with
    no overhead, which is asked of all.
    """

    method: str
    label: str = ""
    caveat: str = ""
    profile: str = ""
    pretrained_teacher: Need
    contrastive_samples: Need
    auxiliary_parameters: Need
    iterations: Entry
    readings: dict[str, Entry]
    memory: Entry
    gain: Entry
    one_pass: Entry


class HeadlineClaim(Record):
    """The headline, its verdict, and the numbers that it rests on, which are None where they are missing.

    images_loaded, forward_images, backward_images: per labelled image. time: step over the baseline's step.
    """

    text: str
    method: str
    verdict: ClaimVerdict
    reason: str
    images_loaded: NotNegative | None = None
    forward_images: NotNegative | None = None
    backward_images: NotNegative | None = None
    generations: Annotated[int, Field(ge=1)] = 1
    time: Ratio | None = None
    memory_ratio: Positive | None = None


class ProfileUsed(Record):
    """Where costs were measured. rounds: the most that a ratio of it rests on; 0 where there is none."""

    profile_id: str
    setting: Setting
    device: str
    cpu: str
    torch: str
    started: str
    rounds: Count


class ClaimsTable(Record):
    """The paper's table beside the measured one: the headline first, then where, then a row per method."""

    headline: HeadlineClaim
    source: str
    address: str
    dataset: str
    network: str
    epochs: int
    baseline_top1: float
    profiles: tuple[ProfileUsed, ...]
    rows: tuple[MethodClaims, ...]
