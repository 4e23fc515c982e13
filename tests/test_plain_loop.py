"""README's training loop against the harness: one method for each hook, same batches, same weights at the end."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from sdbench import Batch, Task, registry
from sdbench.data.streams import derive_seed
from sdbench.method import Combination
from sdbench.network import StagedNetwork
from sdbench.spec import Options, Trial
from sdbench.store import Store
from sdbench.tiny import TinyTask
from sdbench.train import run_trial

ROOT = Path(__file__).resolve().parent.parent

HOOKS = {
    "ce": "the baseline",
    "zipf": "criterion, and the classifier at every position",
    "cskd": "loss with partners",
    "ddgsd": "views",
    "byot": "auxiliary heads",
    "dks": "copies of the later stages",
    "pskd": "a memory of every image",
    "ban": "a teacher of the generation before",
    "cutmix": "mixed images",
    "ls+mixup": "one method's criterion on another's mixed images",
    "manifold_mixup": "edited stages",
    "cals": "held-out images",
    "mean_teacher": "after_step",
    "ols": "after_epoch",
}


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
    """README's function ``train``; it wraps a ``Plain`` with its stages named."""
    import sdbench

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
    found: Callable[..., None] = scope["train"]
    return found


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """What a trial sets for the process is put back."""
    yield
    torch.use_deterministic_algorithms(False)


def make_trial(task: TinyTask, name: str) -> Trial:
    base, _, mixer = name.partition("+")
    own = registry.resolve(base, "tiny", {})
    mixed = {f"{mixer}.{k}": v for k, v in (registry.resolve(mixer, "tiny", {}) if mixer else {}).items()}
    trial = task.trial(name, own | mixed)
    constant = trial.spec.recipe.model_copy(update={"gamma": 1.0})  # the loop has no schedule
    return trial.model_copy(update={"spec": trial.spec.model_copy(update={"recipe": constant})})


@pytest.mark.parametrize("name", HOOKS)
def test_the_loop_ends_at_the_harness_weights(name: str, loop: Callable[..., None], tmp_path: Path) -> None:
    task = TinyTask(num_train=26, batch_size=12, epochs=3)
    trial, store = make_trial(task, name), Store(tmp_path)
    result = run_trial(trial, store, Options(device="cpu"), opener=task.open)
    assert result.status == "ok", result.reason
    weights = safetensors.torch.load_file(store.folder(trial.spec, trial.id) / "network.safetensors")

    session = task.session(trial)  # gives the batches and the initial weights; it trains nothing here
    stream, data = trial.spec.stream, session.data
    mixing, generator = torch.Generator(), torch.Generator().manual_seed(derive_seed(stream, "method"))
    model = Plain(session.network)  # type: ignore[arg-type]
    start = {k: v.clone() for k, v in model.state_dict().items()}
    torch.manual_seed(1)
    teacher = task.build_network().frozen_copy()

    def batches(epoch: int) -> Iterator[Batch]:
        mixing.manual_seed(derive_seed(stream, "mix", epoch))
        return session.batches(epoch)

    torch.manual_seed(derive_seed(stream, "setup"))
    method = registry.build(name, trial.spec.params)
    if isinstance(method, Combination):
        method.hand_generator(mixing)
    told = Task(
        num_classes=data.num_classes,
        num_train=data.num_train,
        batch_size=task.batch_size,
        epochs=task.epochs,
        teacher=teacher if method.generations > 1 else None,
        generator=generator,
    )
    held_out = [torch.cat(parts) for parts in zip(*data.validation_batches(48), strict=True)]
    loop(model, method, batches, told, lr=trial.spec.recipe.lr, image_size=task.image_size, held_out=held_out)
    assert any(not torch.equal(v, start[k]) for k, v in model.state_dict().items())
    assert model.state_dict().keys() == weights.keys()
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, weights[key], rtol=1e-4, atol=1e-5, msg=lambda m, key=key: f"{key}: {m}")


def test_methods_differ_by_more_than_the_comparison_allows(tmp_path: Path) -> None:
    """A loop that left a method out would be found out: each ends elsewhere than plain cross-entropy."""
    task = TinyTask(num_train=26, batch_size=12, epochs=3)
    ends = {}
    for name in HOOKS:
        trial, store = make_trial(task, name), Store(tmp_path)
        run_trial(trial, store, Options(device="cpu"), opener=task.open)
        file = store.folder(trial.spec, trial.id) / "network.safetensors"
        ends[name] = safetensors.torch.load_file(file)["classifier.weight"]
    for name, end in ends.items():
        assert name == "ce" or (end - ends["ce"]).abs().max() > 1e-4, name
