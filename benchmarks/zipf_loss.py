"""Time Zipf's label smoothing as sdbench computes it against a straightforward NumPy and SciPy version.

    python benchmarks/zipf_loss.py [--rounds N] [--json FILE]

What is timed is the loss alone, cross-entropy + 0.1 KL, forward and backward down to the logits, for
128 images with 16 votes each and 100, 1,000 and 10,000 classes, on one processor thread. Both sides get
the same logits, labels and votes, take turns in an order drawn anew each round, and have to agree.
Half of the images vote as at the beginning of training, all over the classes; the others vote as a
trained network does, for three classes, often the label's. The votes' own cost is not part of this.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from reporting import Goal, Line, arguments, load, paired_ratio, table, verdicts, write
from scipy.stats import rankdata
from sdbench.methods.zipf import ZipfLabelSmoothing
from torch import Tensor

from sdbench import Batch, Output, environment
from sdbench.cost.timing import Rounds, cpu_clock, take_turns

IMAGES, VOTES = 128, 16
WEIGHT, POWER = 0.1, 1.0
GOALS = {100: 2.0, 1_000: 6.0, 10_000: 12.0}
REPEATS = {100: 10, 1_000: 3, 10_000: 1}
"""Losses per turn: a turn should be long against the clock's own cost."""
CASES = 4
"""Drawn inputs that the turns go through in circles."""
TOLERANCE = 1e-6
"""Of the larger of 1 and the loss, and of the largest gradient."""


@dataclass(frozen=True)
class Case:
    """Logits [N, K] that take a gradient, labels [N], votes [N, P]."""

    logits: Tensor
    labels: Tensor
    votes: Tensor


Loss = Callable[[Case], Tensor]


def draw_case(num_classes: int, seed: int) -> Case:
    """Random logits and labels; the first half of the images votes at random, the other for three classes
    in the proportion 6 : 3 : 1, of which the first is the label in half of the cases."""
    drawn = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(IMAGES, num_classes, generator=drawn)
    labels = torch.randint(num_classes, (IMAGES,), generator=drawn)
    votes = torch.randint(num_classes, (IMAGES, VOTES), generator=drawn)
    candidates = torch.randint(num_classes, (IMAGES, 3), generator=drawn)
    candidates[::2, 0] = labels[::2]
    chosen = torch.multinomial(torch.tensor([0.6, 0.3, 0.1]), IMAGES * VOTES, replacement=True, generator=drawn)
    concentrated = candidates.gather(1, chosen.view(IMAGES, VOTES))
    votes[IMAGES // 2 :] = concentrated[IMAGES // 2 :]
    return Case(logits.requires_grad_(), labels, votes)


def reference_loss(case: Case) -> Tensor:
    """The loss as the paper words it: count votes, rank the classes, leave out the label, compare."""
    images, classes = case.logits.shape
    rows = np.arange(images)
    counts = np.bincount((case.votes.numpy() + rows[:, None] * classes).ravel(), minlength=images * classes)
    ranks = rankdata(-counts.reshape(images, classes), method="min", axis=1)
    others = np.ones((images, classes), dtype=bool)
    others[rows, case.labels.numpy()] = False
    weights = (ranks**-POWER)[others].reshape(images, classes - 1)
    targets = torch.from_numpy(weights / weights.sum(1, keepdims=True)).float()
    rest = case.logits[torch.from_numpy(others)].view(images, classes - 1)
    divergence = F.kl_div(F.log_softmax(rest, dim=1), targets, reduction="batchmean")
    return F.cross_entropy(case.logits, case.labels) + WEIGHT * divergence


class GivenVotes(ZipfLabelSmoothing):
    """The method with its votes handed over in the place of feature maps."""

    def _votes(self, stages: tuple[Tensor, ...]) -> Tensor:
        return stages[-1]


def sdbench_loss() -> Loss:
    """The sum of the method's terms, as the trainer adds them."""
    method, progress = GivenVotes(weight=WEIGHT, power=POWER), torch.zeros(())

    def loss(case: Case) -> Tensor:
        output = Output(case.logits, case.logits, (case.votes,))
        batch = Batch(case.logits, (), (), case.labels, case.labels)
        return torch.stack(list(method.criterion(output, batch, progress).values())).sum()

    return loss


def forward_backward(loss: Loss, case: Case) -> tuple[Tensor, Tensor]:
    """The loss and its gradient with respect to the logits."""
    case.logits.grad = None
    value = loss(case)
    value.backward()
    assert case.logits.grad is not None
    return value.detach(), case.logits.grad


def disagreement(own: Loss, other: Loss, cases: Sequence[Case]) -> tuple[float, float]:
    """Largest difference of the losses, relative to the larger of 1 and the loss, and of the gradients,
    relative to the largest gradient."""
    values, gradients = [], []
    for case in cases:
        (a, by_a), (b, by_b) = forward_backward(own, case), forward_backward(other, case)
        values.append(float((a - b).abs() / b.abs().clamp(min=1)))
        gradients.append(float((by_a - by_b).abs().max() / by_b.abs().max()))
    return max(values), max(gradients)


def turn(loss: Loss, cases: Sequence[Case], repeats: int) -> Callable[[], None]:
    """A step for ``take_turns``: the next case, ``repeats`` times."""
    following: Iterator[Case] = cycle(cases)

    def run() -> None:
        case = next(following)
        for _ in range(repeats):
            forward_backward(loss, case)

    return run


def time_both(own: Loss, cases: Sequence[Case], repeats: int, rounds: int) -> Rounds:
    sides = {"sdbench": turn(own, cases, repeats), "reference": turn(reference_loss, cases, repeats)}
    return take_turns(
        sides,
        cpu_clock,
        baseline="sdbench",
        rounds=rounds,
        half_width=math.inf,
        max_seconds=math.inf,
        order=random.Random(0),
    )


def main(given: list[str] | None = None) -> None:
    options = arguments(__doc__, rounds=100).parse_args(given)
    torch.set_num_threads(1)
    began, lines, per_size = load(), list[Line](), list[dict[str, Any]]()
    for classes, bound in GOALS.items():
        own, cases = sdbench_loss(), [draw_case(classes, seed) for seed in range(CASES)]
        by_value, by_gradient = disagreement(own, reference_loss, cases)
        found = time_both(own, cases, REPEATS[classes], options.rounds).work
        ratio = paired_ratio(found["reference"], found["sdbench"])
        lines.append(Line(f"reference / sdbench, {classes:,} classes", Goal(bound, at_most=False), ratio))
        per_size.append(
            {
                "classes": classes,
                **{f"{name}_ms": 1000 * float(np.median(times)) / REPEATS[classes] for name, times in found.items()},
                "loss_difference": by_value,
                "gradient_difference": by_gradient,
                "agree": by_value <= TOLERANCE and by_gradient <= TOLERANCE,
            }
        )
    record: dict[str, Any] = {
        "images": IMAGES,
        "votes": VOTES,
        "cpu": environment.cpu_model(),
        "versions": environment.versions(),
        "load": [began, load()],
        "lines": [line.record() for line in lines],
        "sizes": per_size,
    }
    rows = []
    for size in per_size:
        times = [f"{size[side]:.2f}" for side in ("sdbench_ms", "reference_ms")]
        differences = [f"{size[what]:.1e}" for what in ("loss_difference", "gradient_difference")]
        rows.append((f"{size['classes']:,}", *times, *differences, "yes" if size["agree"] else "NO"))
    header = ("classes", "sdbench ms", "reference ms", "loss differs by", "gradient by", f"within {TOLERANCE:g}")
    print(f"{IMAGES} images, {VOTES} votes each, one thread, torch {record['versions']['torch']}\n")
    print(table(header, rows), verdicts(lines), sep="\n\n")
    print(f"\nload {began:.1f} at the start, {record['load'][1]:.1f} at the end, {environment.cpu_count()} cores")
    write(options.json, record)


if __name__ == "__main__":
    main()
