"""Which trials can be compared, and what they have in common."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from sdbench.leaderboard_costs import Hardware
from sdbench.leaderboard_records import Ground
from sdbench.leaderboard_variants import Variant
from sdbench.spec import Recipe, TrialResult, canonical


def comparable(by_id: Mapping[str, TrialResult]) -> list[list[TrialResult]]:
    """Trials in groups that can be compared, groups and the trials in them in a fixed order."""
    groups: dict[tuple[Any, ...], list[TrialResult]] = defaultdict(list)
    for trial_id in sorted(by_id):
        groups[table_key(by_id[trial_id])].append(by_id[trial_id])
    return [groups[key] for key in sorted(groups)]


@lru_cache(maxsize=1024)
def _text_of(recipe: Recipe) -> str:
    """A recipe as text, which thousands of trials share."""
    return canonical(recipe.model_dump(mode="json"))


def table_key(result: TrialResult, epochs: int | None = None) -> tuple[Any, ...]:
    """Equal for trials that can be compared. epochs: as if the trial were one of so many epochs."""
    spec, identity = result.spec, result.identity
    size = -1 if spec.image_size is None else spec.image_size
    whole = spec.common_recipe if epochs is None else spec.common_recipe.model_copy(update={"epochs": epochs})
    recipe = (whole.epochs, _text_of(whole))
    budget = canonical(spec.budget.model_dump(mode="json")) if spec.budget else ""
    rules = (spec.protocol, identity.protocol_version, *recipe, budget, spec.split, spec.precision, spec.shards)
    return (spec.dataset, spec.network, size, *rules, identity.data_fingerprint)


def ground(results: Sequence[TrialResult], num_classes: int | None) -> Ground:
    """What the trials of one group have in common."""
    spec, identity = results[0].spec, results[0].identity
    return Ground(
        dataset=spec.dataset,
        data_fingerprint=identity.data_fingerprint,
        image_size=spec.image_size,
        network=spec.network,
        num_classes=num_classes,
        protocol=spec.protocol,
        protocol_version=identity.protocol_version,
        split=spec.split,
        precision=spec.precision,
        recipe=spec.common_recipe,
        budget=spec.budget,
        shards=spec.shards,
    )


def hardware_in_use(found: Sequence[Variant]) -> list[Hardware]:
    """Where finished trials ran, the most used first."""
    used = Counter(cost.hardware for v in found for cost in v.costs.values())
    return sorted(used, key=lambda hardware: (-used[hardware], hardware))
