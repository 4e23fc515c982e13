"""How the values of a tuned trial were chosen: what of it is identity, and what is only evidence. No torch, no Ray."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sdbench.record import Count, Fraction, Growing, Record, Seconds, Value

Search = Literal["random", "optuna"]
Scheduler = Literal["none", "asha"]
Rate = Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)]
Decay = Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)]


class Budget(Growing):
    """What a method's search was allowed: equal for all methods of a table.

    trials: configurations tried, the default point among them. seed: of the configurations drawn, and of the search
    trials' own random streams. epochs: of a search trial that is not stopped. split: on which search trials train;
    its held-out images choose. lr, weight_decay: of the default point; the chosen ones stand in the recipe.
    """

    trials: Annotated[int, Field(ge=1, le=100_000)]
    search: Search = "random"
    scheduler: Scheduler = "none"
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    epochs: Annotated[int, Field(ge=1, le=100_000)]
    split: Annotated[str, Field(pattern=r"^holdout-0\.\d+$")]
    lr: Rate
    weight_decay: Decay


class Tuning(Budget):
    """A budget and the id of the study that it was spent in, which covers the method's space and default point."""

    study: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]


class Tuned(Record):
    """What a study found, as told with the trials that train with it.

    values: the chosen ones that were searched over, ``recipe.lr`` and ``recipe.weight_decay`` among them.
    validation_top1: of the chosen configuration, default_validation_top1: of the default point, on the held-out images
    after the last epoch; None where that trial did not finish. finished, stopped, failed: search trials. epochs,
    train_s: trained in all of them, earlier generations included.
    """

    values: dict[str, Value]
    validation_top1: Fraction
    default_validation_top1: Fraction | None = None
    finished: Count
    stopped: Count
    failed: Count
    epochs: Count
    train_s: Seconds
