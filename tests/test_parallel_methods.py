"""What methods say of themselves for several devices holds; what goes with ``--gpus-per-trial`` is judged at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sdbench import Batch, registry
from sdbench.boards import text_of
from sdbench.comparison import compare
from sdbench.comparison_text import render_comparison
from sdbench.engine import Resources
from sdbench.engine.local import slots
from sdbench.engine.ray_train import room
from sdbench.errors import EnvironmentProblem, UserError
from sdbench.joining import obstacle, undeclared_state
from sdbench.plan import Plan, make_plan
from sdbench.request import Request
from sdbench.space import Choice
from sdbench.spec import TrialResult, Value
from sdbench.store import read_result
from sdbench.tiny import TinyTask

registry.load_builtin()
NAMES = [name for name in registry.names() if registry.origin(name) == "built in"]
PLUGINS = Path(__file__).parent / "plugins"
COUPLED = {"bake", "ddgsd", "uskd", "tffd", "mixskd", "manifold_mixup", "mixup", "cutmix"}


COUPLED_SETTINGS: list[tuple[str, dict[str, Value]]] = [
    ("sfr", {"grouping": "activation_sorted"}),
    ("sfr", {"grouping": "activation_sorted", "emd": "sorted"}),
    ("sfr", {"grouping": "activation_sorted", "emd": "cdf"}),
    ("zipf", {"mask": True}),
    ("zipf", {"mask": True, "dense": False}),
]
"""What relates the images of a batch to each other only where a setting is not its default."""


def settings() -> list[tuple[str, dict[str, Value]]]:
    """Every built-in method by default and with each other value of a setting that is no coefficient, one at a time."""
    found: list[tuple[str, dict[str, Value]]] = [*COUPLED_SETTINGS]
    for name in NAMES:
        found.append((name, {}))
        base = registry.resolve(name, "tiny", {})
        for key, parameter in registry.parameters(registry.get(name)).items():
            others: tuple[Value, ...] = {bool: (True, False), int: (2, 3)}.get(parameter.type, ())
            if parameter.type is str and isinstance(parameter.range, Choice):
                others = parameter.range.values
            found += [(name, {key: v}) for v in others if v != base[key] and (name, {key: v}) not in found]
    return found


def spelled(value: object) -> str:
    return value if isinstance(value, str) else ",".join(f"{k}={v}" for k, v in value.items())  # type: ignore[attr-defined]


@pytest.mark.parametrize(("name", "setting"), settings(), ids=spelled)
def test_a_batch_is_the_sum_of_its_shards_unless_a_method_says_otherwise(name: str, setting: dict[str, Value]) -> None:
    """Without BatchNorm's own coupling, in eval mode: L(batch) = sum_k (n_k / n) L(shard k), or sums as they are."""
    task = TinyTask()
    session = task.session(task.trial(name, registry.resolve(name, "tiny", setting)))
    method, network = session.method, session.network
    if reason := obstacle(method):
        assert name in COUPLED or (name, setting) in COUPLED_SETTINGS, reason
        return
    assert name not in COUPLED
    assert (name, setting) not in COUPLED_SETTINGS
    assert undeclared_state(method, [*network.parameters(), *network.buffers()]) == []
    session.begin_epoch(1)
    network.double().eval()
    method.double().eval()
    for layer in [*network.modules(), *method.modules()]:  # a teacher may be pinned to batch statistics
        if isinstance(layer, nn.BatchNorm2d):
            layer.eval()
    state = {key: value.clone() for key, value in method.state_dict().items()}
    whole = next(session.batches(1))
    progress = torch.tensor(0.5, dtype=torch.float64)

    def terms_of(rows: slice) -> dict[str, float]:
        method.load_state_dict(state)
        views, partners = (tuple(t[rows].double() for t in group) for group in (whole.views, whole.partners))
        part = Batch(whole.images[rows].double(), views, partners, whole.labels[rows], whole.index[rows])
        return {key: float(term.detach()) for key, term in method.loss(network, part, progress).items()}

    together, first, second = terms_of(slice(12)), terms_of(slice(4)), terms_of(slice(4, 12))
    for key, value in together.items():
        shares = (1.0, 1.0) if key in method.summed_terms else (4 / 12, 8 / 12)
        assert shares[0] * first[key] + shares[1] * second[key] == pytest.approx(value, rel=1e-6), key


@pytest.mark.parametrize("name", sorted(COUPLED - {"mixup", "cutmix", "mixskd", "manifold_mixup"}))
def test_what_couples_a_batch_does_not_without_its_coefficient(name: str) -> None:
    neutral = {"bake": {"weight": 0.0}, "ddgsd": {"discrepancy": 0.0}, "uskd": {"alpha": 0.0}, "tffd": {"intra": 0.0}}
    assert obstacle(registry.get(name)())
    assert obstacle(registry.get(name)(**neutral[name])) == ""


@pytest.mark.parametrize(("name", "setting"), COUPLED_SETTINGS, ids=spelled)
def test_what_a_setting_couples_is_refused_and_free_again_without_its_weight(
    name: str, setting: dict[str, Value], plan: Callable[..., Plan]
) -> None:
    typed = ",".join(f"{key}={str(value).lower()}" for key, value in setting.items())
    with pytest.raises(UserError, match=f"{name} cannot be trained on several devices: it .* batch"):
        plan(methods=[f"{name}[{typed}]"], gpus_per_trial="2")
    assert obstacle(registry.get(name)(**setting, weight=0.0)) == ""


@pytest.fixture
def plan(small_world: Any) -> Callable[..., Plan]:
    def make(**given: Any) -> Plan:
        return make_plan(Request.gather(small_world.flags(**given), None, {}))

    return make


def test_all_problems_are_named_room(plan: Callable[..., Plan]) -> None:
    with pytest.raises(UserError) as caught:
        plan(methods=["ce", "bake", "mixup", "uskd"], gpus_per_trial="3", per_gpu="2", compile="graph", batch_size="16")
    told = "\n".join(caught.value.problems)
    for part in ("bake cannot", "mixup cannot", "uskd cannot", "--per-gpu 2", "--compile graph", "--batch-size 15"):
        assert part in told
    assert "ce cannot" not in told
    with pytest.raises(UserError, match="--gpus-per-trial 2 and --state disk together"):
        plan(methods=["ce"], device="cpu", gpus_per_trial="2", state="disk")
    assert plan(methods=["ce"], device="cpu", state="disk").options.state == "disk"
    with pytest.raises(UserError, match="expected a value in"):
        plan(gpus_per_trial="0")


def test_shards_are_part_of_a_trial_and_one_is_not(plan: Callable[..., Plan]) -> None:
    plain, one, two = (plan(methods=["ls"], **more) for more in ({}, {"gpus_per_trial": "1"}, {"gpus_per_trial": "2"}))
    assert [t.id for t in plain.trials] == [t.id for t in one.trials]
    assert not {t.id for t in plain.trials} & {t.id for t in two.trials}
    assert {(t.spec.method, t.spec.shards) for t in two.trials} == {("ce", 2), ("ls", 2)}
    assert two.resources["gpus_per_trial"] == 2


NEEDS_MANY = """
import torch.nn.functional as F

from sdbench import Method, register


@register("toy_needs_many")
class NeedsMany(Method):
    \"\"\"Raises on fewer than 32 images.\"\"\"

    def criterion(self, output, batch, progress):
        if len(batch.labels) < 32:
            raise ValueError("too few")
        return {"ce": F.cross_entropy(output.logits.float(), batch.labels)}
"""

PLUGIN = """
import torch
import torch.nn.functional as F

from sdbench import Method, register


class Toy(Method):
    def criterion(self, output, batch, progress):
        return {"ce": F.cross_entropy(output.logits.float(), batch.labels)}


@register("toy_stateless")
class Stateless(Toy):
    \"\"\"Holds nothing.\"\"\"


@register("toy_counts")
class Counts(Toy):
    \"\"\"Holds a buffer and does not say how it joins.\"\"\"

    def setup(self, task, network):
        self.register_buffer("seen", torch.zeros(task.num_classes))


@register("toy_hides")
class Hides(Toy):
    \"\"\"Holds a tensor where nobody looks.\"\"\"

    def setup(self, task, network):
        self.hidden = torch.zeros(3)
"""


def test_a_plugin_that_holds_state_has_to_say_how_it_joins(
    plan: Callable[..., Plan], own_registry: None, tmp_path: Path
) -> None:
    (tmp_path / "toys.py").write_text(PLUGIN)
    given: dict[str, Any] = {"plugin": [str(tmp_path / "toys.py")], "gpus_per_trial": "2"}
    assert len(plan(methods=["toy_stateless"], **given).trials) == 6
    with pytest.raises(UserError) as caught:
        plan(methods=["toy_*"], **given)
    told = caught.value.problems
    assert len(told) == 2
    assert "does not say how seen comes together; declare joins = {'seen': 'same'}" in told[0]
    assert "a tensor that is no buffer" in told[1]


def test_a_plugin_that_couples_a_batch_and_does_not_say_so_is_refused(
    plan: Callable[..., Plan], own_registry: None
) -> None:
    """So is one whose terms or memories join otherwise than it says; what is fine stays, and so do random numbers."""
    given: dict[str, Any] = {"plugin": [str(PLUGINS / "broken.py"), str(PLUGINS / "toy_splits.py")]}
    wrong = {"coupled": "term 'spread'", "coupled_gradient": "other gradients", "sum": "name it in summed_terms"}
    wrong |= {"joins": "buffer 'steps'", "rows": "buffer 'past'"}
    names = [f"toy_broken_{name}" for name in wrong]
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    with pytest.raises(UserError) as caught:
        plan(methods=[*names, "toy_says_it_sums", "toy_drops", "toy_switches_modes"], gpus_per_trial="2", **given)
    assert torch.equal(torch.rand(1), expected)
    problems = caught.value.problems
    assert len(problems) == len(wrong)
    for name, problem, words in zip(names, problems, wrong.values(), strict=True):
        assert problem.startswith(f"{name} cannot be trained on several devices: ")
        assert words in problem
    assert plan(methods=names, **given).trials  # on one device each all is well


def test_a_plugin_that_cannot_be_tried_on_a_small_task_is_not_refused(
    plan: Callable[..., Plan], own_registry: None, tmp_path: Path
) -> None:
    (tmp_path / "toys.py").write_text(NEEDS_MANY)
    assert plan(methods=["toy_needs_many"], plugin=[str(tmp_path / "toys.py")], gpus_per_trial="2").trials


def test_boards_keep_shards_apart(write_trial: Callable[..., Path], tmp_path: Path) -> None:
    folders = [write_trial(tmp_path, method, shards=k) for k in (1, 2) for method in ("ce", "ls")]
    results: list[TrialResult] = [read_result(folder / "trial.json") for folder in folders]
    text = " ".join(text_of(results, "ce", "text").split())
    assert text.count("Recipe: ") == 2
    assert text.count("each batch in 2 shards on a device each") == 1
    titles = [line for line in text_of(results, "ce", "text").splitlines() if ", protocol " in line]
    assert [line.endswith(", 2 processes per trial") for line in titles] == [False, True]
    told = render_comparison(compare(results, ["ce", "ls"]), "text")
    assert [line for line in told.splitlines() if ", protocol " in line] == titles
    lines = text_of(results, "ce", "csv").splitlines()
    assert {line.rsplit(",", 1)[1] for line in lines} == {"shards", "1", "2"}
    assert "shards" not in text_of(results[:2], "ce", "csv") + text_of(results[:2], "ce", "text")


def test_places_of_several_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3,6")
    assert slots(Resources(gpus_per_trial=2)) == ["0,1", "2,3"]
    assert slots(Resources(gpus=0, cpus=8, gpus_per_trial=2, cpus_per_trial=2)) == [None, None]
    assert room(Resources(gpus_per_trial=2), cpus=64, gpus=7) == 3
    assert room(Resources(gpus_per_trial=2, gpus=4), cpus=64, gpus=8) == 2
    assert room(Resources(gpus_per_trial=2), cpus=3, gpus=0) == 1
    assert room(Resources(gpus_per_trial=2), cpus=2, gpus=0) == 1, "it fits exactly"
    assert room(Resources(gpus_per_trial=4), cpus=4, gpus=4) == 1
    assert room(Resources(gpus_per_trial=2, cpus=4), cpus=64, gpus=0) == 2, "--cpus is kept"
    assert room(Resources(gpus_per_trial=2, cpus=5, cpus_per_trial=2), cpus=64, gpus=8) == 1
    assert room(Resources(gpus_per_trial=2, cpus=1), cpus=64, gpus=0) == 1, "as for trials of one process"
    assert room(Resources(gpus_per_trial=4, gpus=0), cpus=9, gpus=8) == 2
    with pytest.raises(EnvironmentProblem, match="2 CPUs and a GPU each"):
        room(Resources(gpus_per_trial=4, cpus_per_trial=2), cpus=64, gpus=2)


@pytest.mark.parametrize("how", ["option", "variable"])
def test_a_cluster_is_judged_by_its_own_devices(
    plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """More GPUs than there are here, and a graph: a cluster may have them, whichever way it was named."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    given = {"address": "10.0.0.1:6379"} if how == "option" else {}
    if how == "variable":
        monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    found = plan(methods=["ls"], engine="auto", device="cuda", gpus_per_trial="2", **given)
    assert (found.engine, found.resources["address"]) == ("ray", "10.0.0.1:6379")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert plan(methods=["ls"], engine="ray", device="auto", compile="graph", **given).options.compile == "graph"
    monkeypatch.setattr("sdbench.engine.ray_tune.available", lambda: False)
    with pytest.raises(EnvironmentProblem, match=r"--address 10.0.0.1:6379: Ray is not installed; pip install"):
        plan(methods=["ls"], engine="auto", **given)


def test_only_ray_joins_a_cluster(plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"--engine local and --address auto together.*drop one"):
        plan(methods=["ls"], engine="local", address="auto")
    with pytest.raises(UserError, match=r"ray://h:10001: Tune does not work through Ray clients"):
        plan(methods=["ls"], engine="ray", address="ray://h:10001")
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert plan(methods=["ls"], engine="local").resources["address"] is None
    assert plan(methods=["ls"], engine="ray", address="local").resources["address"] is None
