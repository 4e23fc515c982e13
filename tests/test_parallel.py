"""A trial on several processes gives what one process gives that goes through the shards of each batch in turn."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor, nn

from sdbench.assembly import open_session
from sdbench.engine import Job
from sdbench.method import Batch
from sdbench.plan import Plan, make_plan
from sdbench.request import Request
from sdbench.spec import Trial, TrialResult
from sdbench.store import Store, read_curve

METHODS = (
    "ce", "ls", "zipf", "pskd", "ols", "cals", "byot", "dlb", "mean_teacher", "temporal_ensembling", "cskd", "ls_plus_plus",
)  # fmt: skip
EPOCHS, BATCH, RATE, MOMENTUM, DECAY = 3, 12, 0.1, 0.9, 5e-4
TOLERANCE = 2e-5
"""Largest difference of a weight, whose size is about 1, after all epochs; float32 has a precision of 6e-8."""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """85 images to train on: with batches of 12, the last one has a single image, fewer than there are shards."""
    root, random = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for part, counts in (("train", (21, 21, 21, 22)), ("val", (8, 8, 8, 8))):
        for label, count in enumerate(counts):
            folder = root / part / f"class{label}"
            folder.mkdir(parents=True)
            for i in range(count):
                noise = random.normal(60 + 30 * label, 40, (8, 8, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(noise).save(folder / f"{i:03d}.png")
    return root


def planned(pictures: Path, results: Path, **given: Any) -> Plan:
    fixed = {"protocol": "fixed", "epochs": str(EPOCHS), "batch_size": str(BATCH), "image_size": "8"}
    own = {"dataset": [f"folder:{pictures}"], "model": ["resnet8"], "results": str(results), "seeds": ["0"]}
    where = {"precision": "fp32", "engine": "local", "device": "cpu", "baseline": "false"}
    return make_plan(Request.gather({**fixed, **own, **where, **given}, None, {}))


def train_together(plan: Plan, folder: Path, size: int, until: int = 0) -> list[TrialResult]:
    """Train the plan's trials on ``size`` processes; until: steps after which each trial is stopped, or 0."""
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [Job(trial=t, options=plan.options, store=plan.results).model_dump(mode="json") for t in plan.trials]
    told = {"jobs": jobs, "size": size, "until": until, "plugins": list(plan.options.plugins)}
    (folder / "told.json").write_text(json.dumps({**told, "meeting": str(folder / f"meeting-{until}")}))
    script = str(Path(__file__).parent / "parallel_worker.py")
    command = [sys.executable, "-W", "error::UserWarning", script, str(folder / "told.json")]
    processes = [
        subprocess.Popen([*command, str(rank)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for rank in range(size)
    ]
    said = [process.communicate(timeout=900)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * size, "\n".join(said)
    found = {r.trial_id: r for r in Store(Path(plan.results)).scan().results}
    return [found[t.id] for t in plan.trials]


class Shards:
    """What each shard has of its own: running statistics, and a method that carries something from step to step."""

    def __init__(self, network: nn.Module, method: Any, size: int, *, apart: bool) -> None:
        self.methods = [copy.deepcopy(method) if apart else method for _ in range(size)]
        self.layers = [m for m in [*network.modules(), *method.modules()] if isinstance(m, nn.BatchNorm2d)]
        self.kept = [self.now() for _ in range(size)]

    def now(self) -> list[tuple[Tensor, Tensor]]:
        return [(m.running_mean.clone(), m.running_var.clone()) for m in self.layers]  # type: ignore[union-attr]

    def put(self, values: list[tuple[Tensor, Tensor]]) -> None:
        for layer, (mean, var) in zip(self.layers, values, strict=True):
            layer.running_mean.copy_(mean)  # type: ignore[union-attr]
            layer.running_var.copy_(var)  # type: ignore[union-attr]

    def end_epoch(self) -> None:
        """The mean over the shards, for all of them."""
        means = [
            (torch.stack([k[i][0] for k in self.kept]).mean(0), torch.stack([k[i][1] for k in self.kept]).mean(0))
            for i in range(len(self.layers))
        ]
        self.put(means)
        self.kept = [self.now() for _ in self.kept]


def rows_of(batch: Batch, rows: slice) -> Batch:
    views, partners = (tuple(t[rows] for t in group) for group in (batch.views, batch.partners))
    return Batch(batch.images[rows], views, partners, batch.labels[rows], batch.index[rows])


def reference(trial: Trial, plan: Plan, size: int) -> tuple[dict[str, Tensor], dict[str, Tensor], list[float]]:
    """One process that accumulates the gradients of ``size`` shards, by hand: the weights and the method's state at
    the end, and the mean loss of each epoch."""
    session = open_session(trial, Store(Path(plan.results)), plan.options)
    network, method, data = session.network, session.method, session.data
    apart = "own" in method.joins.values()
    shards = Shards(network, method, size, apart=apart)
    trained = [*network.parameters(), *(p for p in method.parameters() if p.requires_grad)]
    speeds: list[Tensor | None] = [None] * len(trained)
    losses = []
    for epoch in range(EPOCHS):
        rate = RATE * (0.1 if epoch >= 0.5 * EPOCHS else 1) * (0.1 if epoch >= 0.75 * EPOCHS else 1)
        network.train()
        for own in shards.methods:
            own.train()
            own.before_epoch(epoch, EPOCHS)
        batches = data.epoch(
            epoch, stream=trial.spec.stream, batch_size=BATCH, augment=trial.spec.recipe.augment,
            views=method.views, partners=method.partners,
        )  # fmt: skip
        total, steps = 0.0, -(-data.num_train // BATCH)
        for step, batch in enumerate(batches):
            count = len(batch.labels)
            for parameter in trained:
                parameter.grad = None
            for k in range(size):
                rows = slice(count * k // size, count * (k + 1) // size)
                if rows.start == rows.stop:
                    continue
                shards.put(shards.kept[k])
                progress = torch.tensor((epoch * steps + step) / (EPOCHS * steps))
                share = (rows.stop - rows.start) / count
                terms = shards.methods[k].loss(network, rows_of(batch, rows), progress)
                loss = sum(t if n in method.summed_terms else share * t for n, t in terms.items())
                loss.backward()  # type: ignore[union-attr]
                total += float(loss) * count
                shards.kept[k] = shards.now()
            with torch.no_grad():
                for i, parameter in enumerate(trained):
                    if parameter.grad is not None:
                        slope = parameter.grad + DECAY * parameter
                        speeds[i] = slope if speeds[i] is None else MOMENTUM * speeds[i] + slope  # type: ignore[operator]
                        parameter -= rate * speeds[i]  # type: ignore[operator]
                for own in {id(m): m for m in shards.methods}.values():
                    own.after_step(network)
        with torch.no_grad():
            shards.end_epoch()
            for own in {id(m): m for m in shards.methods}.values():
                own.after_epoch(network)
            if method.wants_validation:
                network.eval()
                pairs = [(network(images).logits, labels) for images, labels in data.validation_batches(4 * BATCH)]
                network.train()
                method.after_validation(torch.cat([z for z, _ in pairs]), torch.cat([y for _, y in pairs]))
        losses.append(total / data.num_train)
    return network.state_dict(), {} if apart else method.state_dict(), losses


@pytest.fixture(scope="module")
def deterministic() -> Iterator[None]:
    before, threads = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    yield
    torch.use_deterministic_algorithms(before)
    torch.set_num_threads(threads)


Trained = Callable[[int], tuple[Plan, dict[str, TrialResult]]]


@pytest.fixture(scope="module")
def trained(pictures: Path, tmp_path_factory: pytest.TempPathFactory, deterministic: None) -> Trained:
    """``trained(2)``: all methods on two processes, with checkpoints kept."""
    done: dict[int, tuple[Plan, dict[str, TrialResult]]] = {}

    def train(size: int) -> tuple[Plan, dict[str, TrialResult]]:
        if size not in done:
            root = tmp_path_factory.mktemp(f"shards-{size}")
            names = [*METHODS] if size == 2 else ["ce", "pskd", "ols"]
            plan = planned(pictures, root / "results", methods=names, gpus_per_trial=str(size), keep_checkpoints="true")
            done[size] = plan, {r.spec.method: r for r in train_together(plan, root, size)}
        return done[size]

    return train


CASES = [*((2, name) for name in METHODS), (3, "ce"), (3, "pskd"), (3, "ols")]


@pytest.mark.parametrize(("size", "method"), CASES)
def test_shards_on_processes_equal_shards_in_turn(trained: Trained, size: int, method: str) -> None:
    plan, found = trained(size)
    result = found[method]
    assert (result.status, result.reason, result.spec.shards) == ("ok", "", size)
    trial = next(t for t in plan.trials if t.id == result.trial_id)
    weights, state, losses = reference(trial, plan, size)
    folder = Store(Path(plan.results)).folder(trial.spec, trial.id)
    ours = safetensors.torch.load_file(folder / "network.safetensors")
    assert ours.keys() == weights.keys()
    worst = max(float((ours[n].double() - weights[n].double()).abs().max()) for n in weights if "num_batches" not in n)
    lines = [line["loss"] for line in read_curve(folder / "curve.jsonl")]
    print(f"\n{method} on {size}: weights {worst:.1e}, loss {np.abs(np.subtract(lines, losses)).max():.1e}")
    assert worst < TOLERANCE
    np.testing.assert_allclose(lines, losses, atol=TOLERANCE)
    saved = torch.load(folder / "checkpoint" / f"epoch-{EPOCHS:06d}.pt", weights_only=True)["session"]["method"]
    for name, value in state.items():
        if "num_batches" not in name:
            torch.testing.assert_close(saved[name], value, atol=TOLERANCE, rtol=1e-4, msg=f"{method}: {name}")
