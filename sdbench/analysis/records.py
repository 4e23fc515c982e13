"""What an analysis found: frozen records, numbers in full precision, no formatting."""

from __future__ import annotations

from sdbench.spec import Record
from sdbench.statistics import MeanStd

SCORES = ("nll", "ece", "brier", "aurc", "eaurc")
"""The metrics that a temperature may change, as ``sdbench.spec.Metrics`` names them."""


class ZipfFigures(Record):
    """Over n seeds: exponent and R^2 of the line, and KL of three laws (``sdbench.analysis.zipf``).

    r_squared: None where the outputs of some seed are all equal.
    """

    exponent: MeanStd
    r_squared: MeanStd | None
    kl_zipf: MeanStd
    kl_exponential: MeanStd
    kl_log_normal: MeanStd


class ZipfEpoch(Record):
    """The same after some epochs."""

    epoch: int
    figures: ZipfFigures


class ZipfRow(Record):
    """One variant of a method. outputs: averaged sorted softmax outputs from rank 1 on, mean over seeds. epochs: those
    whose logits were kept, ascending."""

    label: str
    seeds: tuple[int, ...]
    figures: ZipfFigures
    outputs: tuple[float, ...]
    epochs: tuple[ZipfEpoch, ...] = ()


class Bin(Record):
    """Samples of all seeds whose confidence lies in (low, high]. confidence, accuracy: means; None for no samples."""

    low: float
    high: float
    count: int
    confidence: float | None
    accuracy: float | None


class CalibrationRow(Record):
    """One variant of a method. before, after: per name of ``SCORES``, as recorded, from float32 logits; ``after`` with
    the temperature that held-out images gave, empty without any. reliability: bins before and after, all seeds
    together, from the half-precision logits that are kept; empty where they were not. half: per score the largest
    difference, over seeds and both sides, between what those logits give and what is recorded."""

    label: str
    seeds: tuple[int, ...]
    before: dict[str, MeanStd]
    after: dict[str, MeanStd] = {}
    temperature: MeanStd | None = None
    held_out: int | None = None
    reliability: tuple[Bin, ...] = ()
    reliability_after: tuple[Bin, ...] = ()
    half: dict[str, float] = {}


class Tightness(Record):
    """Ratio of within-class to between-class scatter over n seeds: of all classes in the space of features, and of the
    three classes in the plane of their templates."""

    all_classes: MeanStd
    in_plane: MeanStd
    samples: int


class GeometryRow(Record):
    """One variant of a method. parts: "train" (images without augmentation) and "test"."""

    label: str
    seeds: tuple[int, ...]
    parts: dict[str, Tightness]


class Analysis(Record):
    """All answers on one group of trials that can be compared. notes: what could not be looked at, and what was used
    instead. pictures: the files that were drawn, by kind; empty unless they were asked for."""

    title: str
    first_rank: int | None = None
    last_rank: int | None = None
    target_left_out: bool = True
    zipf: tuple[ZipfRow, ...] = ()
    calibration: tuple[CalibrationRow, ...] = ()
    geometry: tuple[GeometryRow, ...] = ()
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    pictures: dict[str, str] = {}
