"""Fixtures: numbers from the authors' code, small networks built by hand, batches, and toy methods."""

import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from sdbench import Batch, Network, registry, wrap
from sdbench.network import StagedNetwork
from sdbench.plan import make_plan
from sdbench.protocol import PROTOCOLS
from sdbench.request import Request
from sdbench.session import Session
from sdbench.spec import Identity, Trial, TrialResult, TrialSpec
from sdbench.store import Store, write_curve
from sdbench.tiny import TinyTask
from sdbench.train import run_trial

torch.set_num_threads(1)

Arrays = dict[str, NDArray[np.generic]]
Case = tuple[str, dict[str, Any], Arrays]
TOYS = sorted((Path(__file__).parent / "plugins").glob("toy_*.py"))
RTOL = {"f32": 1e-5, "f64": 1e-6}
DTYPES = {"f32": torch.float32, "f64": torch.float64}


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test draws the same random numbers each time."""
    torch.manual_seed(0)


@pytest.fixture
def golden() -> Callable[[str], Arrays]:
    """``golden("byot.npz")`` reads a file of the folder that SDBENCH_GOLDEN names, or of tests/golden."""
    elsewhere = os.environ.get("SDBENCH_GOLDEN")

    def load(name: str) -> Arrays:
        path = Path(elsewhere or Path(__file__).parent / "golden") / name
        if elsewhere and not path.is_file():
            pytest.skip(f"{elsewhere} holds no {name}")
        with np.load(path) as file:
            return {key: file[key] for key in file.files}

    return load


def case_names(arrays: Arrays) -> list[str]:
    """The names before ``.args`` in the keys, of which there must be one at least."""
    found = [key.removesuffix(".args") for key in arrays if key.endswith(".args")]
    assert found, "no case in this file"
    return found


@pytest.fixture
def golden_cases(golden: Callable[[str], Arrays]) -> Callable[[str], list[Case]]:
    """``golden_cases("byot.npz")``: (name, arguments, its arrays without the name) of every case in the file."""

    def load(name: str) -> list[Case]:
        arrays, found = golden(name), []
        for case in case_names(arrays):
            own = {key.removeprefix(case + "."): v for key, v in arrays.items() if key.startswith(case + ".")}
            found.append((case, json.loads(str(own["args"])), own))
        return found

    return load


@pytest.fixture
def golden_matches(golden: Callable[[str], Arrays]) -> Callable[[str, str], tuple[Arrays, list[re.Match[str]]]]:
    """``golden_matches("focal.npz", pattern)``: all arrays, and the matches of their whole keys, whose first group
    is the case; no case of the file is without one."""

    def load(name: str, pattern: str) -> tuple[Arrays, list[re.Match[str]]]:
        arrays = golden(name)
        found = [match for match in (re.fullmatch(pattern, key) for key in arrays) if match]
        assert {match[1] for match in found} == set(case_names(arrays))
        return arrays, found

    return load


@pytest.fixture
def matches() -> Callable[..., None]:
    """``matches(actual, expected, "f32", name)``; entries near 0 are held to the array's largest."""

    def check(actual: Tensor | None, expected: NDArray[np.generic], precision: str, name: str) -> None:
        assert actual is not None, name
        rtol, scale = RTOL[precision], float(np.abs(expected).max(initial=0.0))
        np.testing.assert_allclose(
            actual.detach().double().numpy(), expected, rtol=rtol, atol=rtol * scale, err_msg=name
        )

    return check


@pytest.fixture
def leaf() -> Callable[..., Tensor]:
    """``leaf(array, "f64")``: a tensor of that precision that records gradients."""

    def make(array: NDArray[np.generic], precision: str) -> Tensor:
        return torch.from_numpy(array).to(DTYPES[precision]).requires_grad_()

    return make


@pytest.fixture
def logits_network() -> Network:
    """A network whose logits are the images that it is given."""
    return wrap(nn.Identity())


@pytest.fixture
def logits_batch() -> Callable[..., Batch]:
    """``logits_batch(logits, labels, view=None, partner=None, index=None)`` for ``logits_network``."""

    def make(
        logits: Tensor,
        labels: Tensor,
        *,
        view: Tensor | None = None,
        partner: Tensor | None = None,
        index: Tensor | None = None,
    ) -> Batch:
        views, partners = (() if other is None else (other,) for other in (view, partner))
        return Batch(logits, views, partners, labels, torch.arange(len(labels)) if index is None else index)

    return make


@pytest.fixture
def staged_network() -> Callable[..., StagedNetwork]:
    """``staged_network(classes=5, widths=(4, 6, 8))``: the first stage keeps the image's side, each
    further one halves it; all have BatchNorm."""

    def make(classes: int = 5, widths: tuple[int, ...] = (4, 6, 8), image_size: int = 8) -> StagedNetwork:
        torch.manual_seed(0)
        stem = nn.Conv2d(3, widths[0], 3, padding=1)
        stages: list[nn.Module] = []
        for i, width in enumerate(widths):
            before, stride = widths[max(0, i - 1)], 1 if i == 0 else 2
            convolution = nn.Conv2d(before, width, 3, stride=stride, padding=1)
            stages.append(nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU()))
        return StagedNetwork(stem, stages, nn.Linear(widths[-1], classes), image_size, "small network")

    return make


@pytest.fixture
def image_batch() -> Callable[..., Batch]:
    """``image_batch(size=6, classes=5)``: images [size, 3, 8, 8] with one partner each."""

    def make(size: int = 6, classes: int = 5, image_size: int = 8, seed: int = 1) -> Batch:
        generator = torch.Generator().manual_seed(seed)
        images, partner = torch.randn(2, size, 3, image_size, image_size, generator=generator)
        labels = torch.randint(classes, (size,), generator=generator)
        return Batch(images, (), (partner,), labels, torch.arange(size))

    return make


@pytest.fixture
def write_trial() -> Callable[..., Path]:
    """``write_trial(root, method="ce", seed=0, top1=0.5, **changes)``: a finished trial with its files in the results
    folder ``root``, as the trainer leaves it; returns its folder. changes: fields of the spec or of the record."""

    def write(root: Path, method: str = "ce", seed: int = 0, top1: float = 0.5, **changes: Any) -> Path:
        recipe = PROTOCOLS["demo"].recipe_for("crop", changes.pop("recipe", {}))
        own = {key: changes.pop(key) for key in list(changes) if key in TrialSpec.model_fields}
        named = {"dataset": "glyphs", "network": "resnet8", "protocol": "demo", **own}
        spec = TrialSpec.model_validate({"method": method, "seed": seed, "recipe": recipe, **named})
        identity = Identity(method_source=f"{method}-source", data_fingerprint="f", protocol_version="1")
        trial, store = Trial(spec=spec, identity=identity), Store(root)
        metrics = {"top1": top1, "top5": 1, "nll": 1 + seed / 8, "ece": 0.1, "brier": 0.4, "aurc": 0.2, "eaurc": 0.1}
        cost = {"train_s": 1, "process_s": 1, "eval_s": 1, "setup_s": 1, "labelled_images": 8, "state_bytes": 0}
        cost |= {"images_with_gradient": 8, "images_without_gradient": 0, "peak_memory_bytes": 1}
        values = {
            "trial_id": trial.id, "status": "ok", "baseline": "ce", "spec": spec, "identity": identity,
            "metrics": metrics, "cost": {**cost, "auxiliary_parameters": 0, "timing_valid": True}, "num_classes": 3,
            "pairing": {"initial_weights": f"w{seed}", "first_batch": f"b{seed}"}, "epochs_done": recipe.epochs,
            "provenance": {
                "versions": {"torch": "2.10.0"}, "device": "cpu", "cpu": "Example 9000",
                "started": "2026-01-01T00:00:00.000+00:00", "finished": "2026-01-01T01:00:00.000+00:00",
            },
        }  # fmt: skip
        result = TrialResult.model_validate({**values, **changes})
        folder = store.folder(spec, trial.id)
        if not folder.exists():
            write_curve(folder / "curve.jsonl", [{"epoch": e, "top1": top1} for e in range(recipe.epochs)])
            logits = {"logits": torch.zeros(4, 3, dtype=torch.float16), "labels": torch.zeros(4, dtype=torch.int64)}
            safetensors.torch.save_file(logits, folder / "logits.safetensors")
        store.write(result)
        return folder

    return write


@pytest.fixture
def own_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test registers, and the plug-ins that it loads, are forgotten after it."""
    registry.load_builtin()
    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))
    monkeypatch.setattr(registry, "_ORIGIN", dict(registry._ORIGIN))
    yield
    for name in [n for n in sys.modules if n.startswith("sdbench_plugin_")]:
        del sys.modules[name]


@pytest.fixture
def toys(own_registry: None) -> Iterator[None]:
    """The toy methods, known for the time of one test; what a trial sets for the process is put back."""
    for path in TOYS:
        registry.load_plugin(path)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def toy_task() -> TinyTask:
    """Batches of 12, 12 and 2 images, in four epochs."""
    return TinyTask(num_train=26, batch_size=12, epochs=4)


@pytest.fixture
def toy_trial(toys: None, toy_task: TinyTask) -> Callable[[str], Trial]:
    """``toy_trial("toy_base+toy_mix")``: with the values that each method has by default."""

    def trial(name: str) -> Trial:
        base, _, mixer = name.partition("+")
        own = registry.resolve(base, "tiny", {})
        mixed = {f"{mixer}.{k}": v for k, v in (registry.resolve(mixer, "tiny", {}) if mixer else {}).items()}
        return toy_task.trial(name, own | mixed)

    return trial


@pytest.fixture
def open_toy(toy_trial: Callable[[str], Trial], toy_task: TinyTask) -> Callable[[str], Session]:
    """``open_toy("toy_base")``: a session of its trial, the network and the method fresh."""
    return lambda name: toy_task.session(toy_trial(name))


def noisy_pictures(
    root: Path,
    train: int | tuple[int, ...],
    val: int,
    *,
    classes: int = 4,
    side: int = 16,
    mean: int = 60,
    step: int = 30,
) -> Path:
    """A folder data set of noisy images whose class is their mean colour. train, val: images of each class."""
    random = np.random.default_rng(0)
    for part, count in (("train", train), ("val", val)):
        for label in range(classes):
            folder = root / part / f"class{label}"
            folder.mkdir(parents=True)
            for i in range(count if isinstance(count, int) else count[label]):
                noise = random.normal(mean + step * label, 40, (side, side, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(noise).save(folder / f"{i:03d}.png")
    return root


@pytest.fixture(scope="session")
def make_pictures() -> Callable[..., Path]:
    """``make_pictures(root, 16, 6)``, as ``noisy_pictures`` has it."""
    return noisy_pictures


class SmallWorld:
    """A folder data set of noisy images whose class is their mean colour, and a results folder."""

    def __init__(self, root: Path) -> None:
        self.results, self.pictures = root / "results", noisy_pictures(root / "pictures", 20, 8, side=8)

    def flags(self, **given: Any) -> dict[str, Any]:
        """Flags of a run on these images: resnet8, four epochs, float32."""
        own = {"dataset": [f"folder:{self.pictures}"], "model": ["resnet8"], "results": str(self.results)}
        fixed = {"protocol": "fixed", "epochs": "4", "batch_size": "16", "image_size": "8", "precision": "fp32"}
        return {**own, **fixed, "engine": "local", "device": "cpu", **given}

    def train(self, **given: Any) -> list[TrialResult]:
        """Train all trials of a run in this process."""
        plan = make_plan(Request.gather(self.flags(**given), None, {}))
        return [run_trial(trial, Store(self.results), plan.options) for trial in plan.trials]


@pytest.fixture(scope="session")
def small_world(tmp_path_factory: pytest.TempPathFactory) -> SmallWorld:
    """ce and ls, seeds 0 and 1, with logits of every second epoch; not to be written to."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    world = SmallWorld(tmp_path_factory.mktemp("world"))
    with torch.random.fork_rng(devices=[]):
        world.train(methods=["ls"], seeds=["0-1"], keep_logits="every:2")
    torch.use_deterministic_algorithms(deterministic)
    return world
