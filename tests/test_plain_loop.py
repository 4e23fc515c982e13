"""README's training loop against the harness: one method for each hook, same batches, the same bits at the end.

Both take SGD's fused step. Its last bit differs from the plain one's, and the classifiers of dks after four stages
blow that up to 2e-3 within nine steps where a ReLU falls to the other side of zero; in float64 it stays at 1e-16.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

import sdbench
from sdbench import Batch, Task, registry
from sdbench.data.streams import derive_seed
from sdbench.method import Combination
from sdbench.network import StagedNetwork
from sdbench.spec import Options, Trial, Value
from sdbench.store import Store
from sdbench.tiny import TinyTask
from sdbench.train import run_trial

ROOT = Path(__file__).resolve().parent.parent

HOOKS = {
    "ce": "the baseline",
    "zipf": "criterion, and the classifier at every position",
    "cskd": "loss with partners",
    "bake": "partners within the batch",
    "ddgsd": "views",
    "dlb": "the batch before",
    "byot": "auxiliary heads",
    "dks": "copies of the later stages",
    "sad": "progress, and stages alone",
    "pskd": "a memory of every image",
    "ban": "a teacher of the generation before",
    "cutmix": "mixed images",
    "ls+mixup": "one method's criterion on another's mixed images",
    "manifold_mixup": "edited stages",
    "cals": "held-out images",
    "mean_teacher": "after_step",
    "ols": "after_epoch",
}

FELT: dict[str, dict[str, Value]] = {
    "cals": {"weight": 0.003, "margin": 0.1},
    "sad": {"weight": 1.0, "start": 0.3},
}
"""Coefficients with which a method acts within three epochs: the logits of a network that has hardly learned do not
come near the margin of 10 that CALS starts from."""

TASK = TinyTask(num_train=26, batch_size=12, epochs=3)
Weights = dict[str, Tensor]


class Plain(nn.Module):
    """The harness's network as a module that gives logits and knows nothing of sdbench."""

    def __init__(self, source: StagedNetwork) -> None:
        super().__init__()
        self.stem, self.stages, self.classifier = source.stem, source.stages, source.classifier

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        logits: Tensor = self.classifier(x.mean((2, 3)))
        return logits


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """README's function ``train``; it wraps a ``Plain`` with its stages named, and takes SGD's fused step."""
    block = next(
        b for b in re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL) if "wrap(" in b
    )
    function = block[: block.index("\n\nimages, labels = ")]
    assert 15 <= len(function.split("def train")[1].strip().splitlines()) <= 25, "some fifteen lines"
    scope: dict[str, Any] = {}
    exec(compile(function, "README.md", "exec"), scope)
    own = sdbench.wrap
    names = {"stages": ("stages.0", "stages.1", "stages.2"), "classifier": "classifier"}
    monkeypatch.setattr(sdbench, "wrap", lambda model, **given: own(model, **names, **given))
    monkeypatch.setattr(torch.optim, "SGD", partial(torch.optim.SGD, fused=True))
    found: Callable[..., None] = scope["train"]
    return found


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """What a trial sets for the process is put back."""
    yield
    torch.use_deterministic_algorithms(False)


def make_trial(name: str) -> Trial:
    base, _, mixer = name.partition("+")
    own = registry.resolve(base, "tiny", FELT.get(base, {}))
    mixed = {f"{mixer}.{k}": v for k, v in (registry.resolve(mixer, "tiny", {}) if mixer else {}).items()}
    trial = TASK.trial(name, own | mixed)
    constant = trial.spec.recipe.model_copy(update={"gamma": 1.0})  # the loop has no schedule
    return trial.model_copy(update={"spec": trial.spec.model_copy(update={"recipe": constant})})


@pytest.fixture(scope="module")
def by_harness(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Weights]:
    """The weights that the harness ends at with a method."""
    store = Store(tmp_path_factory.mktemp("harness"))

    @cache
    def run(name: str) -> Weights:
        trial = make_trial(name)
        result = run_trial(trial, store, Options(device="cpu"), opener=TASK.open)
        assert result.status == "ok", result.reason
        return safetensors.torch.load_file(store.folder(trial.spec, trial.id) / "network.safetensors")

    return run


def by_loop(loop: Callable[..., None], name: str, without: str = "") -> Weights:
    """The weights that the loop ends at from the harness's own, with its batches; ``without``: a hook to leave out."""
    trial = make_trial(name)
    session = TASK.session(trial)  # gives the batches and the initial weights; it trains nothing here
    stream, data = trial.spec.stream, session.data
    mixing, generator = torch.Generator(), torch.Generator().manual_seed(derive_seed(stream, "method"))
    model = Plain(session.network)  # type: ignore[arg-type]
    torch.manual_seed(1)
    teacher = TASK.build_network().frozen_copy()

    def batches(epoch: int) -> Iterator[Batch]:
        mixing.manual_seed(derive_seed(stream, "mix", epoch))
        return session.batches(epoch)

    torch.manual_seed(derive_seed(stream, "setup"))
    method = registry.build(name, trial.spec.params)
    if isinstance(method, Combination):
        method.hand_generator(mixing)
    if without:
        setattr(method, without, lambda *given: None)
    told = Task(
        num_classes=data.num_classes,
        num_train=data.num_train,
        batch_size=TASK.batch_size,
        epochs=TASK.epochs,
        teacher=teacher if method.generations > 1 else None,
        generator=generator,
    )
    held_out = [torch.cat(parts) for parts in zip(*data.validation_batches(48), strict=True)]
    given = {"lr": trial.spec.recipe.lr, "image_size": TASK.image_size, "held_out": held_out}
    loop(model, method, batches, session.steps, told, **given)
    return model.state_dict()


def same(left: Weights, right: Weights) -> bool:
    assert left.keys() == right.keys()
    return all(torch.equal(value, right[key]) for key, value in left.items())


@pytest.mark.parametrize("name", HOOKS)
def test_the_loop_ends_at_the_harness_weights(
    name: str, loop: Callable[..., None], by_harness: Callable[[str], Weights]
) -> None:
    ends = by_loop(loop, name)
    differing = {k: (v - by_harness(name)[k]).abs().max().item() for k, v in ends.items() if v.is_floating_point()}
    assert same(ends, by_harness(name)), differing
    assert name == "ce" or not same(ends, by_harness("ce")), f"{name} changes nothing in so short a training"


@pytest.mark.parametrize(
    ("name", "hook"),
    [("pskd", "before_epoch"), ("mean_teacher", "after_step"), ("ols", "after_epoch"), ("cals", "after_validation")],
)
def test_a_loop_without_a_hook_ends_elsewhere(
    name: str, hook: str, loop: Callable[..., None], by_harness: Callable[[str], Weights]
) -> None:
    assert not same(by_loop(loop, name, without=hook), by_harness(name))
