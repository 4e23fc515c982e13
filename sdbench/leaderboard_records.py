"""What a leaderboard consists of: frozen records, numbers in full precision, no formatting."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

from sdbench.cost.records import Ratio
from sdbench.published import PublishedNumber
from sdbench.spec import Budget, Recipe, Record, Status, Tuned, Value
from sdbench.statistics import LEAST_SEEDS, MeanStd, PairedDifference

if TYPE_CHECKING:
    import pandas as pd

RULE = "top-1 of the last epoch, mean ± std over n seeds; gain paired by seed, 95 % t interval"
STATUSES: tuple[Status, ...] = get_args(Status)


class CostRatio(Record):
    """Cost relative to the baseline on one kind of hardware: means of per-seed ratios, 1 = as costly."""

    hardware: str
    time: MeanStd | None
    memory: MeanStd | None


class StepCost(Record):
    """Cost of one training step relative to the baseline's, measured side by side in a profile.

    hardware: that entry of ``Table.hardware`` on which it was measured; the same in all rows of a table.
    batch_size: labelled images per step. time: None where the timing does not count. predicted: what the
    counted FLOPs of the two steps predict. memory: peak of live tensors (allocated memory on a GPU).
    flagged: the measured ratio is more than 5 % above the predicted one. Of a method of several
    generations all of it is of the last one. generations: trainings in a row.
    """

    profile_id: str
    hardware: str
    batch_size: int
    time: Ratio | None
    predicted: float | None
    memory: float | None
    flagged: bool
    generations: int = 1


class IsoCost(Record):
    """A method beside the baseline that was trained for as long as the method costs.

    epochs: of that baseline. gain: the row's top-1 minus that baseline's, a fraction, paired by seed.
    """

    epochs: int
    gain: PairedDifference


class Row(Record):
    """One variant of a method.

    label: the method's name, with the parameters in which the table's variants of it differ. caveat: what must be
    said beside it.
    seeds: those that finished. metrics: per name of ``Metrics``, as fractions and nats; empty where no
    seed finished. scaled: per name of ``Scaled.named``, over the seeds whose trials held images out; empty without
    any. gain: top-1 minus the baseline's, a fraction; None for the baseline and where there is
    none. gain_p: of the paired t test that the true gain is 0, adjusted by Holm over the table's methods; None where
    there are fewer than three common seeds. rank: 1 + the number of rows that are significantly better (``ranking``);
    None where n is too small. pareto: whether the row lies on the front of mean top-1 against the step's time; None
    where either is not known. costs: one per entry of ``Table.hardware``. forward_per_image: images forwarded per
    labelled image, earlier generations included, mean over seeds. auxiliary_parameters, state_bytes: the largest
    over seeds. step: None where no profile fits. iso_cost: None where the store has no such baseline. published: what
    others print for the method (``leaderboard_published``), where it was asked for. tuned: what its search found,
    where values were searched for. statuses: trials per status, over
    all seeds.
    """

    label: str
    caveat: str = ""
    method: str
    params: dict[str, Value]
    baseline: bool
    seeds: tuple[int, ...]
    metrics: dict[str, MeanStd]
    scaled: dict[str, MeanStd] = {}
    gain: PairedDifference | None
    gain_p: float | None = None
    rank: int | None = None
    costs: tuple[CostRatio, ...]
    forward_per_image: float | None
    auxiliary_parameters: int | None
    state_bytes: int | None
    step: StepCost | None = None
    pareto: bool | None = None
    iso_cost: IsoCost | None = None
    published: tuple[PublishedNumber, ...] = ()
    tuned: Tuned | None = None
    statuses: dict[str, int]

    @property
    def n_too_small(self) -> bool:
        """Whether fewer seeds finished, or have the baseline's beside them, than a test takes."""
        paired = len(self.seeds) if self.gain is None else self.gain.n
        return min(len(self.seeds), paired) < LEAST_SEEDS


class Ground(Record):
    """What trials have in common that can be compared. num_classes: None where nobody knows. budget: of the search
    that chose each method's values, under protocol ``tuned``; the recipe is then that of the default point. shards: of
    a batch."""

    dataset: str
    data_fingerprint: str
    image_size: int | None
    network: str
    num_classes: int | None = None
    protocol: str
    protocol_version: str
    split: str
    precision: str
    recipe: Recipe
    budget: Budget | None = None
    shards: int = 1


class Table(Ground):
    """Rows that can be compared.

    baseline: label of the row that gains and costs are relative to; None if there is none. hardware: where costs were
    measured; costs of unlike hardware are never put side by side.
    """

    baseline: str | None
    hardware: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]


class Board(Record):
    """All tables, the rule by which their numbers were picked, and notes on the records as a whole."""

    rule: str = RULE
    tables: tuple[Table, ...]
    notes: tuple[str, ...]

    def to_pandas(self) -> pd.DataFrame:
        """A row per table and method, flat and typed; see ``sdbench.frames``."""
        from sdbench.frames import to_pandas

        return to_pandas(self)
