"""Time a training step of sdbench with plain cross-entropy against two hand-written loops.

    python benchmarks/step.py [--rounds N] [--network NAME] [--device auto|cpu|cuda] [--step eager|graph]

All sides take turns in one process, in an order drawn anew each round, so that they share the machine's
mood; the figure is the median of the rounds' ratios with a bootstrap interval. Noise as images of
32x32 pixels, 100 classes, SGD with momentum. One processor thread.

sdbench      a step as the trainer does it: batch, ``Session.step``, loss terms summed; bf16, channels_last
sdbench fp32 the same in float32
tight        ``tight_steps`` below: the same network, precision, layout and augmentation, nothing else
papers       ``papers_loop.py``: PIL, data loader, float32, NCHW, two ``.item()`` each step
data         sdbench's ``next(batches)`` alone

On a CPU the figures are processor time of this process and a turn is one step. On a GPU they are time on
the device's stream from the first step of a turn to the last, waiting for the host included; before each
turn the data loader's workers are brought out of their head start, which they gain during others' turns.
What happens once per epoch (drawing its order and crops) is outside nearly all turns and hence outside
the medians; with 50,000 images it is some milliseconds per epoch.
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from papers_loop import images_loader, papers_steps
from reporting import Goal, Line, arguments, load, paired_ratio, table, verdicts, write
from torch import Tensor

from sdbench import environment, models
from sdbench.assembly import assemble, configure
from sdbench.cost.setting import noise
from sdbench.cost.timing import Clock, Rounds, clock_for, take_turns
from sdbench.data.resident import ResidentSet
from sdbench.method import Batch, Terms
from sdbench.network import Network
from sdbench.session import Session
from sdbench.spec import Identity, Recipe, Trial, TrialSpec

NUM_CLASSES = 100
SIZE = 32
RATE = 0.01
"""Learning rate of all sides: noise cannot be learnt, and a small rate keeps weights in the range of real ones."""
MEAN, STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
GPU_STEPS = 20
"""Steps of a turn on a GPU: many against the batches that workers hold ready, few against a mood of the machine."""
GPU_WORKERS = 4
LOADED_AHEAD = 2
"""Batches that each worker of a data loader holds ready (torch's default)."""


def tight_steps(
    network: Network, pixels: Tensor, labels: Tensor, batch_size: int, mean: Tensor, std: Tensor
) -> Iterator[Tensor]:
    """One training step for each ``next``, as fast as plain PyTorch goes; gives the loss."""
    device, n = pixels.device, len(pixels)
    optimizer = torch.optim.SGD(network.parameters(), RATE, momentum=0.9, weight_decay=5e-4, fused=True)
    padded = F.pad(pixels, (0, 0, 4, 4, 4, 4)).view(-1, 3)
    scale, shift = (1 / (255 * std)).repeat(32), (-mean / std).repeat(32)
    steps = torch.arange(32, device=device)
    while True:
        order = torch.randperm(n, device=device)
        top, left = torch.randint(0, 9, (2, n, 1), device=device)
        columns = left + torch.where(torch.rand(n, 1, device=device) < 0.5, steps, 31 - steps)
        rows = (order[:, None] * 40 + top + steps) * 40
        for k in range(0, n - batch_size + 1, batch_size):
            b = slice(k, k + batch_size)
            chosen = padded.index_select(0, (rows[b, :, None] + columns[b, None, :]).view(-1)).view(-1, 32, 96)
            images = torch.addcmul(shift, chosen.float(), scale).view(-1, 32, 32, 3).permute(0, 3, 1, 2)
            with torch.autocast(device.type, torch.bfloat16):
                logits = network(images).logits
            loss = F.cross_entropy(logits.float(), labels[order[b]])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield loss.detach()


def open_session(data: ResidentSet, network: str, batch_size: int, precision: str, device: torch.device) -> Session:
    """What a run of ``ce`` on the images would open."""
    spec = TrialSpec.model_validate(
        {
            "method": "ce",
            "dataset": "noise",
            "network": network,
            "recipe": Recipe(epochs=200, batch_size=batch_size, lr=RATE),
            "precision": precision,
            "protocol": "benchmark",
            "seed": 0,
        }
    )
    configure(spec, device)
    identity = Identity(method_source="", data_fingerprint=data.fingerprint, protocol_version="0")
    trial = Trial(spec=spec, identity=identity)
    return assemble(trial, device, data, lambda: models.build(network, NUM_CLASSES, SIZE))


def full_batches(session: Session) -> Iterator[Batch]:
    """Epoch after epoch, without the short last batches, so that all steps of a timing are of one size."""
    return (b for epoch in count() for b in session.batches(epoch) if len(b.labels) == session.batch_size)


def trainer_steps(session: Session) -> Iterator[Terms]:
    """One step for each ``next``, with what the trainer does around it; gives the sums of the loss terms."""
    session.begin_epoch(0)
    recipe, sums = session.spec.recipe, dict[str, Tensor]()
    for step, batch in enumerate(full_batches(session)):
        progress = (step % session.steps) / session.steps
        for name, term in session.step(batch, recipe.lr, progress).items():
            value = term.detach().double() * len(batch.labels)
            sums[name] = sums[name] + value if name in sums else value
        yield sums


@dataclass(frozen=True)
class Turn:
    """``steps`` steps at once, after ``settling`` others that the clock does not see."""

    source: Iterator[object]
    steps: int = 1
    settling: int = 0

    def __call__(self) -> None:
        for _ in range(self.steps):
            next(self.source)

    def settle(self) -> None:
        for _ in range(self.settling):
            next(self.source)


def sides(options: argparse.Namespace, network: str, device: torch.device) -> dict[str, Turn]:
    """Every side by name; each has weights of its own and trains on."""
    batch_size: int = options.batch_size
    data = noise(NUM_CLASSES, options.images, SIZE, device)
    pixels = np.random.default_rng(1).integers(0, 256, (options.images, SIZE, SIZE, 3), dtype=np.uint8)
    labels = np.arange(options.images) % NUM_CLASSES
    steps, workers = (GPU_STEPS, GPU_WORKERS) if device.type == "cuda" else (1, 0)

    def build() -> Network:
        return models.build(network, NUM_CLASSES, SIZE).to(device)

    def trainer(precision: str) -> tuple[Session, Turn]:
        session = open_session(data, network, batch_size, precision, device)
        session.choose_step(options.step)
        return session, Turn(trainer_steps(session), steps)

    session, turn = trainer("bf16")
    found = {"sdbench": turn, "data": Turn(full_batches(session), steps)}
    if options.against != "papers":
        fast = build().to(memory_format=torch.channels_last)
        images, targets = (torch.from_numpy(a).to(device) for a in (pixels, labels))
        mean, std = (torch.tensor(values, device=device) for values in (MEAN, STD))
        found["tight"] = Turn(tight_steps(fast, images, targets, batch_size, mean, std), steps)
    if options.against != "tight":
        found["sdbench fp32"] = trainer("fp32")[1]
        loader = images_loader(pixels, labels, batch_size, MEAN, STD, workers=workers, pinned=device.type == "cuda")
        loop = papers_steps(build(), loader, RATE, device)
        found["papers"] = Turn(loop, steps, settling=workers * LOADED_AHEAD)
    return found


def settled(clock: Clock) -> Clock:
    """``clock``, started when the turn has settled."""

    def timed(step: Callable[[], object]) -> tuple[float, float]:
        if isinstance(step, Turn):
            step.settle()
        return clock(step)

    return timed


def lines(work: Mapping[str, list[float]], network: str, device: torch.device, step: str) -> list[Line]:
    """The comparisons of the sides that were timed. Goals that hold for one network are left out for others."""
    cpu = device.type == "cpu"
    faster = 2.5 if cpu else 3.0 if step == "graph" else 2.0
    stated = network == ("resnet20" if cpu else "resnet18")
    wanted = [
        ("sdbench / tight", "sdbench", "tight", Goal(1.02, at_most=True)),
        ("papers / sdbench", "papers", "sdbench", Goal(faster, at_most=False) if stated else None),
        ("papers / sdbench fp32", "papers", "sdbench fp32", Goal(1.05, at_most=False)),
        ("data / sdbench", "data", "sdbench", Goal(0.02 if cpu else 0.03, at_most=True) if stated else None),
    ]
    return [
        Line(what, goal, paired_ratio(work[above], work[below]))
        for what, above, below, goal in wanted
        if above in work and below in work
    ]


def speeds(rounds: Rounds, turns: Mapping[str, Turn], batch_size: int) -> dict[str, dict[str, float]]:
    """Median milliseconds of a step, by the clock and by the wall, and images per second by the clock."""
    found = {}
    for name, turn in turns.items():
        step, wall = (float(np.median(s[name])) / turn.steps for s in (rounds.work, rounds.wall))
        found[name] = {"step_ms": 1000 * step, "wall_ms": 1000 * wall, "images_per_s": batch_size / step}
    return found


def main(given: list[str] | None = None) -> None:
    parser = arguments(__doc__, rounds=40)
    parser.add_argument("--network", help="by default resnet20 on a CPU and resnet18 on a GPU, as the goals are stated")
    parser.add_argument("--batch-size", type=int, default=128, help="images per step")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to train")
    parser.add_argument("--step", choices=("eager", "graph"), default="eager", help="how sdbench launches its steps")
    parser.add_argument("--against", choices=("both", "tight", "papers"), default="both", help="which loops to time")
    parser.add_argument("--images", type=int, default=50_000, help="images in the training set")
    options = parser.parse_args(given)
    torch.set_num_threads(1)
    device = environment.choose_device(options.device)
    network = options.network or ("resnet20" if device.type == "cpu" else "resnet18")
    if options.step == "graph" and device.type != "cuda":
        parser.error("a CUDA graph needs a GPU: leave --step at eager")
    if options.images < 2 * options.batch_size:
        parser.error(f"--images must be at least {2 * options.batch_size}, two batches")
    began = load()
    turns = sides(options, network, device)
    rounds = take_turns(
        turns,
        settled(clock_for(device)),
        baseline="sdbench",
        rounds=options.rounds,
        half_width=math.inf,
        max_seconds=math.inf,
        order=random.Random(0),
    )
    found, per_side = lines(rounds.work, network, device, options.step), speeds(rounds, turns, options.batch_size)
    record: dict[str, Any] = {
        "network": network,
        "step": options.step,
        "batch_size": options.batch_size,
        "device": environment.device_name(device),
        "cpu": environment.cpu_model(),
        "versions": environment.versions(),
        "load": [began, load()],
        "lines": [line.record() for line in found],
        "sides": per_side,
    }
    rows = [(name, *(f"{v:,.2f}" for v in values.values())) for name, values in per_side.items()]
    print(f"{network}, batch {options.batch_size}, {record['device']}, torch {record['versions']['torch']}\n")
    print(table(("side", "step ms", "wall ms", "images/s"), rows), verdicts(found), sep="\n\n")
    print(f"\nload {began:.1f} at the start, {record['load'][1]:.1f} at the end, {environment.cpu_count()} cores")
    write(options.json, record)


if __name__ == "__main__":
    main()
