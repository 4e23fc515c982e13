"""A method under test, and training it with every hook called where the trainer calls it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sdbench.method import Batch, Terms
from sdbench.session import Session
from sdbench.spec import Value
from sdbench.tiny import TinyTask


class Failed(Exception):
    """The method does not conform: what happened, why, and what to mend."""


@dataclass(frozen=True)
class Subject:
    """The method under test, with all of its hyper-parameters, and the task that it is tried on."""

    name: str
    params: Mapping[str, Value]
    task: TinyTask

    @property
    def members(self) -> list[str]:
        """The registered names: one, or the base and the mixer."""
        return self.name.split("+")

    def session(self, *, precision: str = "fp32", num_classes: int | None = None, short: bool = False) -> Session:
        """A fresh session, the same each time. short: with the short last batch that the task has."""
        size, classes = self.task.batch_size, num_classes or self.task.num_classes
        task = replace(self.task, num_classes=classes, num_train=self.task.num_train if short else 3 * size)
        return task.session(task.trial(self.name, self.params, precision=precision))


def train(
    session: Session, epochs: int, before_step: Callable[[], None] = lambda: None
) -> Iterator[tuple[Batch, Terms]]:
    """Train with every hook called where the trainer calls it; yields after each step."""
    recipe = session.spec.recipe
    for epoch in range(epochs):
        before_step()
        session.begin_epoch(epoch)
        for step, batch in enumerate(session.batches(epoch)):
            before_step()
            done = (epoch * session.steps + step) / (recipe.epochs * session.steps)
            yield batch, session.step(batch, recipe.lr, done)
        session.end_epoch()
        session.validate()


def total(terms: Terms) -> Tensor:
    """The loss that is minimized, a 0-d float32 tensor without gradient."""
    return torch.stack([term.detach().float() for term in terms.values()]).sum()
