"""The gain over the baseline that was trained for as long as the method costs (``sdbench run --iso-cost``).

Found among the trials, from nothing but records: the trials of the baseline whose conditions are a table's but for the
number of epochs, which is the table's times the step's measured cost ratio.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from sdbench.leaderboard_groups import table_key
from sdbench.leaderboard_profiles import iso_cost_epochs
from sdbench.leaderboard_records import IsoCost, StepCost
from sdbench.leaderboard_variants import Variant, newest_complete, variant_key
from sdbench.spec import TrialResult
from sdbench.statistics import paired_difference

Finished = Mapping[tuple[object, ...], Mapping[int, float]]
"""Top-1 by seed of finished trials, by table and variant."""


def finished(results: Iterable[TrialResult]) -> Finished:
    """Of trials that are no earlier generation of a chain; of several of one seed the newest complete one."""
    found: dict[tuple[object, ...], dict[int, TrialResult]] = defaultdict(dict)
    for result in results:
        if result.metrics is not None and result.status == "ok" and result.spec.generation is None:
            own = found[table_key(result), variant_key(result)]
            other = own.get(result.spec.seed)
            own[result.spec.seed] = result if other is None else max(other, result, key=newest_complete)
    return {key: {seed: r.metrics.top1 for seed, r in own.items() if r.metrics} for key, own in found.items()}


def iso_costs(
    found: Sequence[Variant], base: Variant | None, steps: Sequence[StepCost | None], index: Finished
) -> list[IsoCost | None]:
    """For each variant its gain at equal cost; None where the step's cost is not known or such trials are missing.

    A method that costs what the baseline does, or less than half an epoch more, is compared with the baseline's own
    row. All None where no other is: there is nothing to tell then that ``Row.gain`` does not tell.
    """
    made = [_of(variant, base, step, index) for variant, step in zip(found, steps, strict=True)]
    epochs = [trial.spec.recipe.epochs for variant in found for trial in variant.trials.values()][:1]
    return made if any(m and m.epochs not in epochs for m in made) else [None] * len(found)


def _of(variant: Variant, base: Variant | None, step: StepCost | None, index: Finished) -> IsoCost | None:
    if base is None or variant is base or step is None or step.time is None or not variant.trials or not base.trials:
        return None
    one = next(iter(variant.trials.values()))
    epochs = iso_cost_epochs(one.spec.recipe.epochs, step.time, step.generations)
    longer = index.get((table_key(one, epochs), variant_key(next(iter(base.trials.values())))), {})
    gain = paired_difference(variant.top1(), longer)
    return IsoCost(epochs=epochs, gain=gain) if gain.n else None
