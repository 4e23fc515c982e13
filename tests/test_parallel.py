"""A trial on several processes gives what one process gives that goes through the shards of each batch in turn."""

from __future__ import annotations

import copy
import json
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from sdbench.account import pairing_of
from sdbench.assembly import open_session
from sdbench.engine import Job
from sdbench.method import Batch
from sdbench.plan import Plan, make_plan
from sdbench.request import Request
from sdbench.spec import Trial, TrialResult
from sdbench.store import Store, read_curve
from sdbench.workers import Shard

METHODS = (
    "ce", "ls", "zipf", "pskd", "ols", "cals", "byot", "dlb", "mean_teacher", "temporal_ensembling", "cskd",
    "ls_plus_plus",
)  # fmt: skip
EPOCHS, BATCH, RATE, MOMENTUM, DECAY = 3, 12, 0.01, 0.9, 5e-4
TOLERANCE = {"double": 1e-9, "float": 1e-4}
"""Largest difference of a weight, whose size is about 1, after all epochs. Training makes a difference in rounding
grow, in float32 faster than it could tell a mistake apart for methods that rank or select."""
WORKER = Path(__file__).parent / "parallel_worker.py"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory, make_pictures: Callable[..., Path]) -> Path:
    """85 images to train on: with batches of 12, the last one has a single image, fewer than there are shards."""
    return make_pictures(tmp_path_factory.mktemp("pictures"), (21, 21, 21, 22), 8, side=8)


def planned(pictures: Path, results: Path, **given: Any) -> Plan:
    fixed = {"protocol": "fixed", "epochs": str(EPOCHS), "batch_size": str(BATCH), "image_size": "8", "lr": str(RATE)}
    own = {"dataset": [f"folder:{pictures}"], "model": ["resnet8"], "results": str(results), "seeds": ["0"]}
    where = {"precision": "fp32", "engine": "local", "device": "cpu", "baseline": "false"}
    return make_plan(Request.gather({**fixed, **own, **where, **given}, None, {}))


def train_together(plan: Plan, folder: Path, size: int, until: int = 0, precision: str = "float") -> list[TrialResult]:
    """Train the plan's trials on ``size`` processes; until: steps after which each trial is stopped, or 0."""
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [Job(trial=t, options=plan.options, store=plan.results).model_dump(mode="json") for t in plan.trials]
    told = {"jobs": jobs, "size": size, "until": until, "plugins": list(plan.options.plugins)}
    how = {"double": precision == "double", "meeting": str(folder / f"meeting-{until}")}
    (folder / "told.json").write_text(json.dumps({**told, **how}))
    command = [sys.executable, "-W", "error::UserWarning", str(WORKER), str(folder / "told.json")]
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


Reached = tuple[dict[str, Tensor], dict[str, Tensor], list[float]]


def shards_of(count: int, size: int) -> list[slice]:
    """Equal parts of a batch; of a short one, parts of at least two images, by hand."""
    sizes = {(1, 2): [0, 1], (1, 3): [0, 0, 1], (2, 2): [0, 2], (5, 2): [2, 3]}.get(
        (count, size), [count // size] * size
    )
    assert sum(sizes) == count
    return [slice(sum(sizes[:k]), sum(sizes[: k + 1])) for k in range(size)]


def reference(trial: Trial, plan: Plan, size: int, precision: str) -> Reached:
    """One process that accumulates the gradients of ``size`` shards, by hand: the weights and the method's state at
    the end, and the mean loss of each epoch."""
    session = open_session(trial, Store(Path(plan.results)), plan.options)
    if precision == "double":
        session = runpy.run_path(str(WORKER))["in_double"](session)
    network, method, data = session.network, session.method, session.data
    epochs, batch_size = trial.spec.recipe.epochs, trial.spec.recipe.batch_size
    apart = "own" in method.joins.values()
    shards = Shards(network, method, size, apart=apart)
    trained = [*network.parameters(), *(p for p in method.parameters() if p.requires_grad)]
    speeds: list[Tensor | None] = [None] * len(trained)
    losses = []
    for epoch in range(epochs):
        rate = RATE * (0.1 if epoch >= 0.5 * epochs else 1) * (0.1 if epoch >= 0.75 * epochs else 1)
        network.train()
        for own in shards.methods:
            own.train()
            own.before_epoch(epoch, epochs)
        batches = data.epoch(
            epoch, stream=trial.spec.stream, batch_size=batch_size, augment=trial.spec.recipe.augment,
            views=method.views, partners=method.partners,
        )  # fmt: skip
        total, steps = 0.0, -(-data.num_train // batch_size)
        for step, batch in enumerate(batches):
            count = len(batch.labels)
            for parameter in trained:
                parameter.grad = None
            for k, rows in enumerate(shards_of(count, size)):
                if rows.start == rows.stop:
                    continue
                shards.put(shards.kept[k])
                progress = torch.tensor((epoch * steps + step) / (epochs * steps))
                share = (rows.stop - rows.start) / count
                terms = shards.methods[k].loss(network, rows_of(batch, rows), progress)
                loss = sum(t if n in method.summed_terms else share * t for n, t in terms.items())
                loss.backward()  # type: ignore[union-attr]
                total += float(loss.detach()) * count  # type: ignore[union-attr]
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
                pairs = [
                    (network(images).logits.float(), labels)
                    for images, labels in data.validation_batches(4 * batch_size)
                ]
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


Trained = Callable[[int, str], tuple[Plan, dict[str, TrialResult]]]


@pytest.fixture(scope="module")
def trained(pictures: Path, tmp_path_factory: pytest.TempPathFactory, deterministic: None) -> Trained:
    """``trained(2, "double")``: its methods of ``CASES`` on two processes, with checkpoints kept."""
    done: dict[tuple[int, str], tuple[Plan, dict[str, TrialResult]]] = {}

    def train(size: int, precision: str) -> tuple[Plan, dict[str, TrialResult]]:
        key = size, precision
        if key not in done:
            root = tmp_path_factory.mktemp(f"{precision}-{size}")
            given = {"gpus_per_trial": str(size), "keep_checkpoints": "true"}
            plan = planned(pictures, root / "results", methods=[n for *k, n in CASES if k == [*key]], **given)
            done[key] = plan, {r.spec.method: r for r in train_together(plan, root, size, precision=precision)}
        return done[key]

    return train


CASES = [
    *((2, "double", name) for name in METHODS),
    *((3, "double", name) for name in ("ce", "ols", "sfr[dls=instance]")),
    *((2, "float", name) for name in ("ce", "ls", "pskd")),
]


@pytest.mark.parametrize(("size", "precision", "method"), CASES)
def test_shards_on_processes_equal_shards_in_turn(trained: Trained, size: int, precision: str, method: str) -> None:
    plan, records = trained(size, precision)
    found = {name: records[name.split("[")[0]] for *_, name in CASES if name.split("[")[0] in records}
    most = TOLERANCE[precision]
    result = found[method]
    assert (result.status, result.reason, result.spec.shards) == ("ok", "", size)
    trial = next(t for t in plan.trials if t.id == result.trial_id)
    weights, state, losses = reference(trial, plan, size, precision)
    folder = Store(Path(plan.results)).folder(trial.spec, trial.id)
    ours = safetensors.torch.load_file(folder / "network.safetensors")
    assert ours.keys() == weights.keys()
    worst = max(float((ours[n].double() - weights[n].double()).abs().max()) for n in weights if "num_batches" not in n)
    lines = [line["loss"] for line in read_curve(folder / "curve.jsonl")]
    apart = np.abs(np.subtract(lines, losses)).max()
    print(f"\n{method} on {size} in {precision}: weights {worst:.1e}, loss {apart:.1e}")
    assert worst < most
    np.testing.assert_allclose(lines, losses, atol=max(most, 1e-6))  # the loss is added up in float32
    saved = torch.load(folder / "checkpoint" / f"epoch-{EPOCHS:06d}.pt", weights_only=True)["session"]["method"]
    for name, value in state.items():
        if "num_batches" not in name:
            torch.testing.assert_close(saved[name], value, atol=most, rtol=most, msg=f"{method}: {name}")


def test_a_short_batch_leaves_no_process_a_single_image(
    tmp_path: Path, make_pictures: Callable[..., Path], deterministic: None
) -> None:
    """Maps of ResNet-18 at 8 pixels are 1 x 1 in the end: BatchNorm has one value per image, and needs two."""
    pictures = make_pictures(tmp_path / "pictures", 10, 2, side=8)
    given: dict[str, Any] = {"methods": ["ce"], "model": ["resnet18"], "batch_size": "38", "epochs": "1"}
    plan = planned(pictures, tmp_path / "results", gpus_per_trial="2", **given)
    [result] = train_together(plan, tmp_path / "told", 2, precision="double")
    assert (result.status, result.reason) == ("ok", "")
    weights, _, losses = reference(plan.trials[0], plan, 2, "double")
    folder = Store(Path(plan.results)).folder(plan.trials[0].spec, result.trial_id)
    ours = safetensors.torch.load_file(folder / "network.safetensors")
    for name, value in weights.items():
        if "num_batches" not in name:
            torch.testing.assert_close(ours[name].double(), value, atol=1e-6, rtol=1e-6, msg=name)  # steep for two
    np.testing.assert_allclose([line["loss"] for line in read_curve(folder / "curve.jsonl")], losses, atol=1e-6)


def test_resumed_equals_uninterrupted_to_the_bit(pictures: Path, tmp_path: Path, deterministic: None) -> None:
    """Stopped in the second epoch: rows of memories, sums and what each process carries alone go on as they were."""
    names = ["pskd", "ols", "dlb"]
    plans = [planned(pictures, tmp_path / n, methods=names, gpus_per_trial="2") for n in ("straight", "stopped")]
    straight = train_together(plans[0], tmp_path / "a", 2)
    steps = -(-85 // BATCH)
    broken = train_together(plans[1], tmp_path / "b", 2, until=steps + 3)
    assert [r.status for r in broken] == ["interrupted"] * 3
    resumed = train_together(plans[1], tmp_path / "b", 2)
    for before, after in zip(straight, resumed, strict=True):
        assert (after.status, after.resumes, after.trial_id) == ("ok", (1,), before.trial_id)
        assert after.metrics == before.metrics
        weights = []
        for plan in plans:
            folder = Store(Path(plan.results)).folder(before.spec, before.trial_id)
            weights.append(safetensors.torch.load_file(folder / "network.safetensors"))
        assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
        assert before.cost is not None
        assert after.cost is not None
        assert after.cost.images_with_gradient == before.cost.images_with_gradient
        assert after.cost.labelled_images == before.cost.labelled_images == 85 * EPOCHS


def test_the_images_are_those_of_one_process(trained: Trained, pictures: Path, tmp_path: Path) -> None:
    """Paired with trials on one device: the same weights and the same first batch; each image is seen once."""
    _, records = trained(2, "float")
    plan = planned(pictures, tmp_path / "one", methods=["ce"], epochs="1")
    alone = open_session(plan.trials[0], Store(tmp_path / "one"), plan.options)
    pairing = records["ce"].pairing
    assert pairing is not None
    assert pairing.model_dump() == pairing_of(alone)
    assert records["ce"].trial_id != plan.trials[0].id
    arguments: dict[str, Any] = {"stream": "0", "batch_size": BATCH, "views": 2, "partners": 1}
    arguments |= {"augment": "crop-flip", "policy": "trivialaugment"}
    whole = list(alone.data.epoch(1, **arguments))
    parts = [list(alone.data.epoch(1, **arguments, shard=Shard(rank, 3))) for rank in range(3)]
    for batch, *own in zip(whole, *parts, strict=True):
        assert torch.equal(torch.cat([part.index for part in own]), batch.index)
        assert torch.equal(torch.cat([part.labels for part in own]), batch.labels)
        assert torch.equal(torch.cat([part.images for part in own]), batch.images)
        assert torch.equal(torch.cat([part.views[0] for part in own]), batch.views[0])
        assert torch.equal(torch.cat([part.partners[0] for part in own]), batch.partners[0])
    assert [len(part.labels) for part in (parts[0][-1], parts[1][-1], parts[2][-1])] == [0, 0, 1]
