"""The learning rate of every step, as one pure function."""

import math

from sdbench.spec import Recipe


def learning_rate(recipe: Recipe, epoch: int, step: int, steps: int) -> float:
    """The rate of step ``step`` (from 0) of ``steps`` in epoch ``epoch`` (from 0).

    Warm-up: lr * (s + 1) / w for the s-th step of w = round(warmup_epochs * steps).
    "step": lr * gamma^k, k the number of milestones m with epoch >= m * epochs: the rate changes
    exactly at the start of an epoch. "cosine": lr * (1 + cos(pi t)) / 2, t in [0, 1) the share of
    the steps after warm-up that lie behind.

    >>> recipe = Recipe(epochs=200)
    >>> [learning_rate(recipe, e, 0, 391) for e in (0, 99, 100, 150)]
    [0.1, 0.1, 0.01, 0.001]
    """
    done = epoch * steps + step
    warmup = round(recipe.warmup_epochs * steps)
    if done < warmup:
        return recipe.lr * (done + 1) / warmup
    if recipe.schedule == "cosine":
        share = (done - warmup) / max(1, recipe.epochs * steps - warmup)
        return recipe.lr * (1 + math.cos(math.pi * share)) / 2
    passed = sum(epoch >= milestone * recipe.epochs for milestone in recipe.milestones)
    return float(f"{recipe.lr * recipe.gamma**passed:.15g}")  # 0.1 * 0.1 is 0.01, not 0.010000000000000002
