"""What a tuned trial and a search trial must say of themselves. No torch."""

from __future__ import annotations

from collections.abc import Iterator

from sdbench.spec import TrialResult
from sdbench.study_values import DECAY, LR

PROTOCOL, SUFFIX = "tuned", "-search"
SEARCHED = ("lr", "weight_decay")
"""Of a recipe, what a search chooses."""


def search_problems(record: TrialResult) -> Iterator[str]:
    """What a search trial says that it cannot know, and others that they cannot."""
    spec = record.spec
    if spec.search and (record.metrics or record.scaled):
        yield "a search trial, which never sees the test set, has metrics on it"
    if spec.search and spec.split == "full":
        yield "a search trial on the full training set, where nothing is held out to score it on"
    if not spec.search and record.validation_top1 is not None:
        yield "validation_top1, although it is no search trial"


def tuning_problems(record: TrialResult) -> Iterator[str]:
    """Whether protocol and record agree on how the values were chosen."""
    spec = record.spec
    if (spec.protocol == PROTOCOL) != (spec.tuning is not None):
        yield f"protocol {spec.protocol[:60]} {'without' if spec.tuning is None else 'with'} a tuning study"
    if (spec.protocol == PROTOCOL + SUFFIX) != spec.search:
        yield f"protocol {spec.protocol[:60]}, where search is {str(spec.search).lower()}"
    if record.tuned is not None and spec.tuning is None:
        yield "tuned, although no study chose its values"
    if record.tuned is not None:
        own = {**spec.params, LR: spec.recipe.lr, DECAY: spec.recipe.weight_decay}
        other = [name for name, value in record.tuned.values.items() if own.get(name) != value]
        if other and spec.generation is None:
            yield f"it was not trained with the chosen {', '.join(sorted(other))[:200]}"
