"""The learning rate against rates written down by hand."""

import math

import pytest

from sdbench.schedule import learning_rate
from sdbench.spec import Recipe


def test_step_schedule_drops_exactly_at_half_and_three_quarters() -> None:
    recipe = Recipe(epochs=200)
    rates = [learning_rate(recipe, epoch, 0, 391) for epoch in range(200)]
    assert rates == [0.1] * 100 + [0.01] * 50 + [0.001] * 50


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [(1, [0.1]), (2, [0.1, 0.01]), (3, [0.1, 0.1, 0.01]), (5, [0.1, 0.1, 0.1, 0.01, 0.001])],
)
def test_step_schedule_of_short_runs(epochs: int, expected: list[float]) -> None:
    """Epoch e drops when e >= 0.5 E and again when e >= 0.75 E, also where these are no whole numbers."""
    recipe = Recipe(epochs=epochs)
    assert [learning_rate(recipe, e, 0, 10) for e in range(epochs)] == expected


def test_rate_within_an_epoch_of_the_step_schedule_is_constant() -> None:
    recipe = Recipe(epochs=4)
    assert {learning_rate(recipe, 2, step, 7) for step in range(7)} == {0.01}


def test_warm_up_then_cosine() -> None:
    recipe = Recipe(epochs=4, schedule="cosine", warmup_epochs=1.0)
    rates = [learning_rate(recipe, e, s, 4) for e in range(4) for s in range(4)]
    assert rates[:4] == pytest.approx([0.025, 0.05, 0.075, 0.1])
    assert rates[4] == 0.1
    assert rates[10] == pytest.approx(0.05)  # half-way through the twelve steps that follow
    assert rates[-1] == pytest.approx(0.1 * (1 + math.cos(math.pi * 11 / 12)) / 2)
    assert min(rates) > 0
