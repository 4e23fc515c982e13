"""What a tuning study leaves behind: every configuration that was tried, what became of it, and which was chosen.

    RESULTS/tuning/<study id>/study.json    sealed, atomic; written anew after every search
    RESULTS/tuning/<study id>/trials/...    the search trials, laid out as in a results folder. No board reads them
        .../stopped.json                    beside a trial that the scheduler stopped

No torch, no Ray.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from sdbench.record import Count, Fraction, Record, Seconds, Value
from sdbench.spec import Identity, Status, TrialSpec
from sdbench.store import DamagedRecord, read_curve, read_sealed, seal, write_atomic
from sdbench.tuning_records import Budget, Tuned, Tuning

FOLDER = "tuning"
"""Below the results folder, beside the trials that boards read."""

FILE = "study.json"
STOPPED = "stopped.json"
STUDY_SCHEMA_VERSION = 1
REASON_LENGTH, MOST_ENDS = 200, 5
"""Characters of a failed search trial's reason, and different ends, in a sentence on all."""


Ended = Status | Literal["stopped"]


class Tried(Record):
    """One configuration. status: "stopped" where the scheduler ended it, however far it got before it heard of that.
    epochs: trained, earlier generations included. validation_top1: on the held-out images, by the number of epochs
    done; only what was measured, and of a stopped trial only what the scheduler had seen."""

    trial_id: str
    values: dict[str, Value]
    status: Ended
    reason: str = ""
    epochs: Count = 0
    train_s: Seconds = 0.0
    validation_top1: dict[int, Fraction] = {}


class StudyResult(Record):
    """study.json. spec, identity: of the default point's search trial. space: the range of each value searched for, as
    text. tried: the default point first. chosen: the place in ``tried`` of the configuration with the highest top-1
    on the held-out images among those that reached the last epoch, the first of equals; None where none did, and while
    the search is not over."""

    schema_version: Annotated[int, Field(ge=1)] = STUDY_SCHEMA_VERSION
    study_id: str
    budget: Budget
    spec: TrialSpec
    identity: Identity
    space: dict[str, str]
    tried: tuple[Tried, ...]
    chosen: Count | None
    checksums: dict[str, str] = {}

    @property
    def epochs(self) -> int:
        """Trained in all search trials."""
        return sum(each.epochs for each in self.tried)

    @property
    def tuning(self) -> Tuning:
        """What stands in the specs of the trials that train with the chosen values."""
        return Tuning(**self.budget.model_dump(), study=self.study_id)

    @property
    def over(self) -> bool:
        """Whether the budget is spent."""
        return is_over(self.tried, self.budget.trials)

    @property
    def fruitless_text(self) -> str:
        """How a study ended that chose nothing, in a sentence."""
        ends = Counter((each.status, " ".join(each.reason.split())[:REASON_LENGTH]) for each in self.tried)
        parts = [f"{n} {status}{': ' + reason if reason else ''}" for (status, reason), n in ends.most_common()]
        more = f"; and {len(parts) - MOST_ENDS} other ends" if len(parts) > MOST_ENDS else ""
        who = f"{self.spec.method} on {self.spec.dataset}/{self.spec.network}"
        count = self.budget.trials
        return f"tuned {who}: none of its {count} search trials finished ({'; '.join(parts[:MOST_ENDS])}{more})"

    def counted(self, *statuses: str) -> int:
        """How many configurations ended so."""
        return sum(each.status in statuses for each in self.tried)

    @property
    def told(self) -> Tuned | None:
        """What is told with those trials; None where nothing was chosen."""
        if self.chosen is None:
            return None
        last, best, default = self.budget.epochs, self.tried[self.chosen], self.tried[0]
        finished, stopped = self.counted("ok"), self.counted("stopped")
        return Tuned(
            values=best.values,
            validation_top1=best.validation_top1[last],
            default_validation_top1=default.validation_top1.get(last) if default.status == "ok" else None,
            finished=finished,
            stopped=stopped,
            failed=len(self.tried) - finished - stopped,
            epochs=self.epochs,
            train_s=sum(each.train_s for each in self.tried),
        )


def is_over(tried: Sequence[Tried], trials: int) -> bool:
    """Whether so many configurations have ended, well or not."""
    return len(tried) >= trials and all(each.status != "interrupted" for each in tried[:trials])


def choose(tried: Sequence[Tried], budget: Budget) -> int | None:
    """The place of the best configuration of a search that is over, among the first of its budget; see
    ``StudyResult``."""
    epochs = budget.epochs
    finished = [
        i for i, each in enumerate(tried[: budget.trials]) if each.status == "ok" and epochs in each.validation_top1
    ]
    if not is_over(tried, budget.trials):
        return None
    return max(finished, key=lambda i: tried[i].validation_top1[epochs], default=None)


def read_study(root: Path) -> StudyResult:
    """Read and check a study's record. Raises DamagedRecord, FileNotFoundError."""
    return read_sealed(root / FILE, StudyResult, STUDY_SCHEMA_VERSION)


def fruitless(results: Path) -> list[str]:
    """Sentences on the studies below a results folder that are over and chose nothing, which therefore have no row."""
    told = []
    for path in sorted((results / FOLDER).glob(f"*/{FILE}")):
        with contextlib.suppress(DamagedRecord, FileNotFoundError):
            study = read_study(path.parent)
            if study.over and study.chosen is None:
                told.append(study.fruitless_text)
    return told


def write_study(root: Path, study: StudyResult) -> Path:
    """Write a study's record."""
    write_atomic(root / FILE, seal(study, FILE))
    return root / FILE


def mark_stopped(folder: Path, scheduler: str, epochs: int) -> None:
    """Note beside a search trial that the scheduler stopped it after so many epochs."""
    write_atomic(folder / STOPPED, json.dumps({"scheduler": scheduler, "epochs": epochs}) + "\n")


def accuracies(folder: Path) -> dict[int, float]:
    """The top-1 on the held-out images in a search trial's curve, by the number of epochs done."""
    lines = read_curve(folder / "curve.jsonl")
    return {int(line["epoch"]) + 1: line["validation_top1"] for line in lines if "validation_top1" in line}


def stopped_after(folder: Path) -> int | None:
    """The epochs after which the scheduler stopped a search trial; None where it did not."""
    try:
        said = json.loads((folder / STOPPED).read_bytes())
        return int(said["epochs"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
