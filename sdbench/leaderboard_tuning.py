"""What a board says of tuned trials: the budget, what was chosen, what the search cost."""

from __future__ import annotations

from collections.abc import Mapping

from sdbench.leaderboard_records import Ground
from sdbench.leaderboard_variants import Variant
from sdbench.spec import Value
from sdbench.tuning_records import Budget, Tuned

NAMES = {"recipe.lr": "lr", "recipe.weight_decay": "weight decay"}


def budget_line(budget: Budget) -> str:
    """The budget of every method of a table, in one sentence."""
    stopping = ", stopped early by ASHA" if budget.scheduler == "asha" else ""
    return (
        f"Tuned: {budget.trials} search trials per method ({budget.search} search{stopping}, search seed "
        f"{budget.seed}) of {budget.epochs} epochs on split {budget.split}, chosen by top-1 on the held-out images "
        f"after the last epoch; the first at lr {budget.lr:g}, weight decay {budget.weight_decay:g} and the published "
        "coefficients"
    )


def values_text(values: Mapping[str, Value]) -> str:
    """Chosen values for people.

    >>> values_text({"recipe.lr": 0.25, "smoothing": 0.1})
    'lr 0.25, smoothing 0.1'
    """
    return ", ".join(f"{NAMES.get(name, name)} {_plain(value)}" for name, value in values.items())


def tuned_text(told: Tuned) -> str:
    """How good the choice was where it was made, and how many search trials were what."""
    default = told.default_validation_top1
    beside = f", default point {default:.2%}" if default is not None else ", the default point did not finish"
    counts = {"finished": told.finished, "stopped": told.stopped, "failed": told.failed}
    ended = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    return f"held-out top-1 {told.validation_top1:.2%}{beside}; {ended}"


def tuning_notes(variant: Variant, ground: Ground) -> list[str]:
    """What was chosen for a row, and what finding it cost beside one training."""
    found = {r.tuned.model_dump_json(): r.tuned for r in variant.trials.values() if r.tuned}
    epochs = ground.recipe.epochs
    return [
        f"{variant.label} tuned: {values_text(told.values)}; {tuned_text(told)}; the search took {told.epochs} epochs, "
        f"as many as {told.epochs / epochs:.1f} trainings"
        for _, told in sorted(found.items())
    ]


def _plain(value: Value) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
