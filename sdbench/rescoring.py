"""``sdbench rescore``: the metrics of finished trials once more, from the test-set logits that they keep.

Shows that records follow from their logits, and brings them up to date where the definition of a metric has changed.
Nothing is trained and no data set is opened. Logits are kept in half precision (a relative error of at most 2^-11), so
that figures agree to ``TOLERANCE`` and not to the last bit; trials in bfloat16, whose logits have fewer digits than
that, agree exactly. Not covered: whether the logits are those of the trial, which only training it again shows.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from filelock import Timeout

from sdbench.kept_logits import UnusableLogits, read_held_out, read_logits
from sdbench.spec import Metrics, Record, Scaled, TrialResult
from sdbench.store import Store, read_result, sha256

if TYPE_CHECKING:
    from torch import Tensor

    from sdbench.kept_logits import Floats, Integers

LOGITS = "logits.safetensors"
TOLERANCE = 2e-3
"""Of a metric; of one above 1, relative. Half precision moved none by more than a third of it in the tests."""

State = Literal["agrees", "differs", "written", "no logits", "damaged", "busy"]


class Rescored(Record):
    """One trial. state: whether the recorded metrics are those of its logits; written: they differed, and the record
    now has those of the logits. recorded, found: metrics by name, those after temperature scaling as ``scaled_NAME``.
    largest: the largest difference over the tolerance; 1 is just agreement. reason: where nothing could be compared.
    """

    trial_id: str
    title: str
    state: State
    recorded: dict[str, float] = {}
    found: dict[str, float] = {}
    largest: float | None = None
    reason: str = ""

    @property
    def text(self) -> str:
        """One line; the metrics that differ are named."""
        line = f"{self.state}: {self.trial_id} {self.title}"
        if self.state in ("differs", "written"):
            apart = [n for n in self.found if _apart(self.recorded.get(n), self.found[n]) > 1]
            told = [f"{n} {self.recorded[n]:.6g} -> {self.found[n]:.6g}" for n in apart if n in self.recorded]
            told += [f"{n} {self.found[n]:.6g} is new" for n in apart if n not in self.recorded]
            line += ": " + ", ".join(told)
        return f"{line}: {self.reason}" if self.reason else line


class Rescoring(Record):
    """All trials that were looked at, in the order of their folders."""

    trials: tuple[Rescored, ...]

    def count(self, *states: State) -> int:
        return sum(trial.state in states for trial in self.trials)

    @property
    def agrees(self) -> bool:
        """Whether no record differs from its logits or is damaged."""
        return self.count("differs", "damaged", "busy") == 0

    @property
    def text(self) -> str:
        """A line for every trial that does not simply agree, then the counts."""
        lines = [trial.text for trial in self.trials if trial.state != "agrees"]
        told = ", ".join(f"{self.count(s)} {s}" for s in get_args(State) if self.count(s) or s in ("agrees", "differs"))
        lines.append(f"{len(self.trials)} finished trial(s): {told}")
        if self.count("differs"):
            lines.append("next: sdbench rescore --write, if the definition of a metric changed")
        return "\n".join(lines)


def rescore(store: Store, chosen: Callable[[TrialResult], bool], *, write: bool = False) -> Rescoring:
    """Score every finished trial that is chosen. write: give records that differ the metrics of their logits, in one
    atomic step under the trial's lock; the checksum of the record before stays in it, under ``rescored_from``."""
    found = []
    for result in store.scan().results:
        if result.status == "ok" and result.metrics is not None and chosen(result):
            found.append(_rescored(store, result, write))
    return Rescoring(trials=tuple(found))


def _rescored(store: Store, result: TrialResult, write: bool) -> Rescored:
    own = Rescored(trial_id=result.trial_id, title=result.spec.title, state="no logits", recorded=dict(_values(result)))
    path = store.folder(result.spec, result.trial_id) / LOGITS
    if LOGITS not in result.checksums:
        return own
    if not os.path.lexists(path):
        return own.model_copy(update={"reason": "its record seals them, and they are not there"})
    try:
        metrics, scaled = _scores(path, result.checksums[LOGITS], result)
    except (UnusableLogits, OSError, ValueError) as error:
        return own.model_copy(update={"state": "damaged", "reason": str(error)[:300]})
    renewed = result.model_copy(update={"metrics": metrics, "scaled": scaled})
    values = dict(_values(renewed))
    largest = max(_apart(own.recorded.get(name), value) for name, value in values.items())
    state: State = "agrees" if largest <= 1 else "differs"
    if state == "differs" and write:
        state = _write(store, result, renewed)
    return own.model_copy(update={"state": state, "found": values, "largest": largest})


def _write(store: Store, old: TrialResult, new: TrialResult) -> State:
    folder = store.folder(old.spec, old.trial_id)
    try:
        with store.lock(folder, timeout=0):
            before = old.checksums["trial.json"]
            if read_result(folder / "trial.json").checksums["trial.json"] != before:
                return "busy"  # written by another process meanwhile
            if sha256(folder / LOGITS) != old.checksums[LOGITS]:
                return "busy"  # so were its logits
            store.reseal(new.model_copy(update={"rescored_from": before}))
    except Timeout:
        return "busy"
    return "written"


def _scores(path: Path, checksum: str, result: TrialResult) -> tuple[Metrics, Scaled | None]:
    """Raises UnusableLogits for logits that are not those recorded, ValueError for those that cannot be scored."""
    import torch

    from sdbench.evaluate import evaluate
    from sdbench.temperature import rescore as after_temperature

    if path.is_symlink():
        raise UnusableLogits("its logits are a link, which is not followed")

    def tensors(found: tuple[Floats, Integers]) -> tuple[Tensor, Tensor]:
        logits, labels = torch.from_numpy(found[0]).float(), torch.from_numpy(found[1]).long()
        if not 0 <= int(labels.min()) <= int(labels.max()) < logits.shape[1]:
            raise UnusableLogits("its labels are no numbers of classes")
        return logits, labels

    logits, labels = tensors(read_logits(path, checksum))
    held_out = read_held_out(path) if result.scaled else None
    scaled = after_temperature(logits, labels, *tensors(held_out)) if held_out else result.scaled
    return evaluate(logits, labels), scaled


def _values(result: TrialResult) -> Iterator[tuple[str, float]]:
    """All metrics of a record by name."""
    if result.metrics:
        yield from result.metrics.model_dump().items()
    if result.scaled:
        yield from result.scaled.named.items()


def _apart(recorded: float | None, found: float) -> float:
    """A difference over the tolerance; infinite for a metric that the record lacks."""
    return float("inf") if recorded is None else abs(recorded - found) / (TOLERANCE * max(1.0, abs(recorded)))
