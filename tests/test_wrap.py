"""Any module as a Network: against the module's own forward pass, its parts run by hand, and its own weights."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import load_file
from torch import Tensor, nn
from typer.testing import CliRunner

from sdbench import Batch, Network, Task, get, registry, wrap
from sdbench.anatomy import find
from sdbench.cli import app
from sdbench.errors import EnvironmentProblem, UserError
from sdbench.method import Output
from sdbench.remainder import remainder
from sdbench.spec import Options
from sdbench.store import Store
from sdbench.tiny import TinyTask
from sdbench.train import run_trial
from sdbench.wrapped import WrappedNetwork
from sdbench.zoo import choose

needs_timm = pytest.mark.skipif(find_spec("timm") is None, reason="timm, an optional extra, is not installed")

TORCHVISION = {
    "resnet18": 4,
    "densenet121": 4,
    "convnext_tiny": 4,
    "efficientnet_b0": 5,
    "mnasnet0_5": 4,
    "mobilenet_v2": 5,
    "mobilenet_v3_small": 5,
    "regnet_x_400mf": 5,
    "shufflenet_v2_x0_5": 4,
}
"""Networks whose classifier reads the mean over positions, and how many stages each has."""

TIMM = {
    "test_resnet": 4,
    "test_convnext": 4,
    "test_efficientnet": 5,
    "test_nfnet": 4,
    "test_byobnet": 4,
    "mobilenetv3_small_050": 4,
    "resnet10t": 4,
    "efficientvit_b0": 4,
}
STAGED = [*TORCHVISION, *(pytest.param(f"timm:{name}", marks=needs_timm) for name in TIMM)]


def module(name: str, num_classes: int = 7) -> nn.Module:
    torch.manual_seed(0)
    if name.startswith("timm:"):
        import timm

        built: nn.Module = timm.create_model(name.removeprefix("timm:"), num_classes=num_classes)
        return built
    return torchvision.models.get_model(name, weights=None, num_classes=num_classes)


class Small(nn.Module):
    """Two stages and a norm with ReLU before the pooling; counts its calls."""

    def __init__(self, pool: str = "mean") -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.layer1 = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.layer2 = nn.Sequential(nn.Conv2d(6, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8))
        self.norm = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 5)
        self.pool = pool
        self.calls: list[torch.Size] = []

    def forward(self, x: Tensor) -> Tensor:
        self.calls.append(x.shape)
        x = self.norm(self.layer2(self.layer1(self.stem(x))))
        x = x if self.pool == "flat, no relu" else x.relu()
        pooled = {
            "mean": lambda: x.mean((2, 3)),
            "keepdim": lambda: torch.mean(x, dim=[-1, -2], keepdim=True).flatten(1),
            "adaptive": lambda: nn.functional.adaptive_avg_pool2d(x, (1, 1)).flatten(1),
            "whole": lambda: nn.functional.avg_pool2d(x, x.shape[-1]).flatten(1),
            "flat": lambda: x.flatten(2).mean(-1),
        }[self.pool.split(",")[0]]()
        result: Tensor = self.fc(pooled)
        return result


def small(pool: str = "mean", **given: Any) -> tuple[Small, Network]:
    torch.manual_seed(0)
    inner = Small(pool)
    last = "norm" if "flat" in pool else "layer2"
    return inner, wrap(inner, stages=("layer1", last), classifier="fc", **given)


@pytest.mark.parametrize("name", STAGED)
def test_output_stages_and_classifier(name: str) -> None:
    own = module(name).eval()
    network = wrap(own, image_size=64)
    shapes = network.stage_shapes
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        out, plain = network(images), own(images)
        assert torch.equal(out.logits, plain)
        assert torch.equal(out.pooled, out.stages[-1].mean((2, 3)))
        torch.testing.assert_close(network.classify(out.pooled), plain, rtol=1e-3, atol=1e-4)
        everywhere = network.classify(out.stages[-1].flatten(2).mT)
    assert [tuple(s.shape[1:]) for s in out.stages] == shapes
    assert len(shapes) == (TORCHVISION | {f"timm:{k}": v for k, v in TIMM.items()})[name]
    assert everywhere.shape == (2, shapes[-1][1] * shapes[-1][2], 7)
    assert isinstance(network.classifier, nn.Module)
    sides = [height for _, height, _ in shapes]
    assert sides == sorted(sides, reverse=True)
    assert len(set(sides)) == len(sides), "one stage for each size of the map"


@pytest.mark.parametrize("name", STAGED)
def test_what_edit_gives_is_what_the_rest_sees(name: str) -> None:
    """Each image's maps handed to the other image at every stage: the logits change places once for each stage."""
    own = module(name).eval()
    network = wrap(own)
    images, seen = torch.randn(2, 3, 64, 64), []

    def swap(i: int, value: Tensor) -> Tensor:
        seen.append(i)
        return value.flip(0)

    with torch.no_grad():
        plain = own(images)
        edited = network(images, edit=swap)
    assert seen == list(range(len(edited.stages)))
    expected = plain.flip(0) if len(seen) % 2 else plain
    torch.testing.assert_close(edited.logits, expected, rtol=1e-3, atol=1e-4)
    assert torch.equal(edited.pooled, edited.stages[-1].mean((2, 3)))


@pytest.mark.parametrize("name", STAGED)
def test_a_tail_is_the_way_from_a_stage_to_the_last_map(name: str) -> None:
    """With the module's own weights the copied way gives the module's own last map; a tail has weights of its own."""
    own = module(name).eval()
    network = wrap(own, image_size=64)
    assert isinstance(network, WrappedNetwork)
    with torch.no_grad():
        out = network(torch.randn(2, 3, 64, 64))
        for i, stage in enumerate(out.stages[:-1]):
            way = remainder(own, network.anatomy.stages, i, network.anatomy.classifier, "it").eval()
            torch.testing.assert_close(way(stage), out.stages[-1], rtol=1e-3, atol=1e-4)
    tail = network.tail(0)
    assert tail(out.stages[0]).shape == out.stages[-1].shape
    assert not {id(p) for p in tail.parameters()} & {id(p) for p in own.parameters()}
    assert all(p.requires_grad for p in tail.parameters())
    assert not list(network.tail(len(out.stages) - 1).parameters())


def test_every_family_of_torchvision_has_stages_or_a_reason() -> None:
    names = torchvision.models.list_models(module=torchvision.models)
    families = {name.split("_")[0].rstrip("0123456789"): name for name in reversed(names)}
    del families["regnet"]  # they copy weights while they are built, which meta tensors cannot
    without = set()
    for family, name in families.items():
        with torch.device("meta"):
            given = {"aux_logits": False, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
            found = find(torchvision.models.get_model(name, weights=None, num_classes=7, **given))
        assert bool(found.stages) != bool(found.missing)
        if not found.stages:
            without.add(family)
    assert without == {"alexnet", "squeezenet", "swin", "vgg", "vit"}


@pytest.mark.parametrize("pool", ["mean", "keepdim", "adaptive", "whole"])
def test_a_module_with_named_stages(pool: str) -> None:
    """The last map is what is pooled: after the norm and ReLU that follow the last named stage, worked out by hand."""
    inner, network = small(pool)
    inner.eval()
    images = torch.randn(3, 3, 8, 8)
    with torch.no_grad():
        out = network(images)
        first = inner.layer1(inner.stem(images))
        last = inner.norm(inner.layer2(first)).relu()
    assert inner.calls == [images.shape]
    torch.testing.assert_close(out.stages[0], first)
    torch.testing.assert_close(out.stages[1], last)
    torch.testing.assert_close(out.logits, inner.fc(last.mean((2, 3))))
    assert network.stage_shapes == [(6, 8, 8), (8, 4, 4)]
    assert (network.tail(0).eval()(first) >= 0).all(), "the ReLU before the pooling is part of the tail"


def test_a_pooling_that_is_not_seen_is_no_silent_mistake() -> None:
    """``flatten(2).mean(-1)``: after a ReLU that no module does, the classifier reads another mean than the last
    stage's, which is found out. Where it reads that one, all is well."""
    _, network = small("flat")
    with pytest.raises(UserError, match="does not read the mean over positions"):
        network(torch.randn(3, 3, 8, 8))
    _, network = small("flat, no relu")
    images = torch.randn(3, 3, 8, 8)
    with pytest.raises(UserError, match="run one on real images first"):
        network(images, edit=lambda i, value: value.flip(0))
    network.eval()
    out = network(images)
    torch.testing.assert_close(network.classify(out.pooled), out.logits)
    torch.testing.assert_close(network(images, edit=lambda i, v: v.flip(0) if i else v).logits, out.logits.flip(0))


def test_the_module_itself_is_held_and_left_alone() -> None:
    inner = Small().double().eval()
    network = wrap(inner, stages=("layer1", "layer2"), classifier="fc", image_size=8)
    assert next(m for m in network.modules() if isinstance(m, Small)) is inner
    assert not network.training
    assert network.stage_shapes == [(6, 8, 8), (8, 4, 4)]
    assert inner.calls == [], "neither wrap nor stage_shapes calls the module"
    assert network.classifier is inner.fc
    before = {k: v.clone() for k, v in inner.state_dict().items()}
    network(torch.randn(2, 3, 8, 8, dtype=torch.double))
    assert inner.calls == [(2, 3, 8, 8)]
    assert all(torch.equal(before[k], v) for k, v in inner.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in inner.modules()), "no hook stays"
    assert len(network.state_dict()) == len(inner.state_dict())


def test_shapes_are_those_of_the_first_images_where_no_size_is_given() -> None:
    _, network = small()
    with pytest.raises(UserError, match=r"wrap\(module, image_size=32\)"):
        _ = network.stage_shapes
    network(torch.randn(2, 3, 12, 12))
    assert network.stage_shapes == [(6, 12, 12), (8, 6, 6)]


def test_passes_copies_and_gradients() -> None:
    inner, network = small()
    images = torch.randn(4, 3, 8, 8)
    network(images).pooled.sum().backward()
    assert inner.stem.weight.grad is not None
    teacher = network.frozen_copy()
    assert not teacher(images).logits.requires_grad
    assert (network.passes.with_gradient, network.passes.without_gradient) == (4, 4)
    assert len(inner.calls) == 1, "a copy is another module"
    duplicate = copy.deepcopy(network)
    assert torch.equal(duplicate.eval()(images).logits, network.eval()(images).logits)


def test_hooks_are_gone_after_an_error() -> None:
    inner, network = small()
    with pytest.raises(RuntimeError):
        network(torch.randn(2, 5, 8, 8))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in inner.modules())
    with torch.no_grad():
        assert torch.isfinite(network(torch.randn(2, 3, 8, 8)).logits).all()


def test_dropout_between_pooling_and_classifier() -> None:
    """``pooled`` is before it, ``classify`` leaves it out, training keeps it."""
    network = wrap(module("mobilenet_v2"), image_size=32)
    torch.manual_seed(1)
    images = torch.randn(8, 3, 32, 32)
    out = network(images)
    assert not torch.allclose(out.logits, network.classify(out.pooled))
    network.eval()
    out = network(images)
    torch.testing.assert_close(out.logits, network.classify(out.pooled), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"stages": ("layer1", "layer_2"), "classifier": "fc"}, "did you mean 'layer2'"),
        ({"stages": ("layer1",), "classifier": "fcc"}, "did you mean 'fc'"),
        ({"stages": ("layer1", "layer1"), "classifier": "fc"}, "named twice"),
        ({"stages": ("layer1",)}, "stages without a classifier"),
        ({"stages": "layer1", "classifier": "fc"}, "as a sequence"),
    ],
)
def test_wrong_names_are_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        wrap(Small(), **given)


@pytest.mark.parametrize(
    ("change", "stages", "words"),
    [
        (lambda m: None, ("stem", "fc"), "not maps"),
        (lambda m: setattr(m, "layer2", nn.Identity()), ("layer1",), None),
        (lambda m: setattr(m, "unused", nn.Conv2d(1, 1, 1)), ("layer1", "unused"), "did not run"),
        (lambda m: setattr(m, "layer2", nn.Sequential(m.layer2[0], m.norm)), ("layer1", "norm"), "runs twice"),
    ],
)
def test_stages_that_do_not_run_as_stages(
    change: Callable[[Small], None], stages: tuple[str, ...], words: str | None
) -> None:
    inner = Small()
    change(inner)
    if words is None:
        inner.norm, inner.fc = nn.BatchNorm2d(6), nn.Linear(6, 5)
    network = wrap(inner, stages=stages, classifier="fc")
    if words is None:
        assert network(torch.randn(2, 3, 8, 8)).pooled.shape == (2, 6)
        return
    with pytest.raises(UserError, match=words):
        network(torch.randn(2, 3, 8, 8))


@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_a_stage_that_is_changed_in_place_afterwards(activation: str) -> None:
    """A stage's map is what the stage gave; the activation belongs to what follows, and is applied once there."""

    class InPlace(Small):
        def forward(self, x: Tensor) -> Tensor:
            x = getattr(nn.functional, activation)(self.layer1[0](self.stem(x)), inplace=True)
            logits: Tensor = self.fc(self.layer2(x).relu().mean((2, 3)))
            return logits

    inner = InPlace().eval()
    network = wrap(inner, stages=("layer1.0", "layer2"), classifier="fc", image_size=8)
    assert isinstance(network, WrappedNetwork)
    images = torch.randn(2, 3, 8, 8)
    for _ in range(2):
        out = network(images)
        assert torch.equal(out.logits, inner(images))
        torch.testing.assert_close(out.stages[0], inner.layer1[0](inner.stem(images)))
        way = remainder(inner, network.anatomy.stages, 0, "fc", "it").eval()
        torch.testing.assert_close(way(out.stages[0].clone()), out.stages[1])
        swapped = network(images, edit=lambda i, value: value if i else value.flip(0))
        torch.testing.assert_close(swapped.logits, out.logits.flip(0))
    tail = network.tail(0)
    out.logits.sum().add(tail(out.stages[0]).sum()).backward()
    assert inner.stem.weight.grad is not None


@needs_timm
@pytest.mark.parametrize(("name", "words"), [("hrnet_w18_small", "gives a list"), ("lowformer_b0", "does not read")])
def test_parts_that_are_no_stages_after_all_are_not_taken(name: str, words: str) -> None:
    """Found out on a copy without weights; what works on logits trains, and what needs stages says why not."""
    own = module(f"timm:{name}").eval()
    network, images = wrap(own, image_size=64), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        out = network(images)
        assert torch.equal(out.logits, own(images))
    assert out.stages == ()
    assert network.classifier is None
    for method in ("zipf", "byot"):
        with pytest.raises(UserError, match=words):
            get(method)().setup(Task(num_classes=7, num_train=10, batch_size=2, epochs=1), network)
    with pytest.raises(UserError, match=rf"{words}.*stages=\(\)"), torch.no_grad():
        wrap(own)(images)


def test_a_compiled_loss_runs_the_wrapped_network_eagerly() -> None:
    inner, network = small(image_size=8)
    images = torch.randn(2, 3, 8, 8)
    compiled = torch.compile(lambda x: network(x).logits.square().sum(), backend="eager")
    with torch.no_grad():
        assert torch.equal(compiled(images), inner(images).square().sum())
    assert network.stage_shapes == [(6, 8, 8), (8, 4, 4)]


@needs_timm
def test_a_trial_of_a_network_of_timm_resumes_to_the_same_bits(tmp_path: Any) -> None:
    task, params = TinyTask(network="timm:test_resnet", image_size=32, epochs=2), registry.resolve("byot", "tiny", {})
    trial, steps = task.trial("byot", params), iter(range(100))
    ends = []
    for folder, stops in (("whole", False), ("in parts", True)):
        store = Store(tmp_path / folder)
        if stops:  # in the second epoch
            stopped = run_trial(trial, store, Options(device="cpu"), opener=task.open, stop=lambda: next(steps) >= 4)
            assert stopped.status == "interrupted"
        result = run_trial(trial, store, Options(device="cpu"), opener=task.open)
        assert (result.status, len(result.resumes)) == ("ok", int(stops)), result.reason
        ends.append(load_file(store.folder(trial.spec, trial.id) / "network.safetensors"))
    torch.use_deterministic_algorithms(False)
    assert all(torch.equal(value, ends[1][key]) for key, value in ends[0].items())


def test_a_tail_has_nothing_of_the_modules_own_weights() -> None:
    """Parts with a way of their own to start afresh use it, those that nobody here knows too."""

    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(8, 1, 1))

        def reset_parameters(self) -> None:
            nn.init.ones_(self.weight)

        def forward(self, x: Tensor) -> Tensor:
            return x * self.weight

    inner, network = small(image_size=8)
    inner.layer2.append(Scale())
    with torch.no_grad():
        for parameter in inner.parameters():
            parameter.fill_(5)
    parameters = dict(network.tail(0).named_parameters())
    assert parameters
    assert not any((p == 5).any() for p in parameters.values())


def test_a_module_that_gives_no_logits_is_refused() -> None:
    class Pair(Small):
        def forward(self, x: Tensor) -> Any:
            return super().forward(x), x

    with pytest.raises(UserError, match="gives a tuple, not logits"):
        wrap(Pair())(torch.randn(2, 3, 8, 8))


@pytest.mark.parametrize(
    "name", ["vit_b_32", "alexnet", "swin_t", "squeezenet1_1", pytest.param("timm:test_vit", marks=needs_timm)]
)
def test_without_stages_methods_say_why(name: str) -> None:
    size = {"timm:test_vit": 160, "vit_b_32": 224}.get(name, 64)
    network = wrap(module(name).eval(), image_size=size)
    out = network(torch.randn(1, 3, size, size))
    assert isinstance(out, Output)
    assert out.stages == ()
    assert out.logits.shape == (1, 7)
    assert network.classifier is None
    task = Task(num_classes=7, num_train=10, batch_size=2, epochs=1)
    for method, reason in [("zipf", "logits only"), ("sad", "logits only"), ("byot", "logits only")]:
        with pytest.raises(UserError, match=reason) as caught:
            get(method)().setup(task, network)
        assert find(network.module).missing in str(caught.value)  # type: ignore[arg-type, union-attr]
    if name in ("vit_b_32", "timm:test_vit"):
        linear = [m for m in network.modules() if isinstance(m, nn.Linear)][-1]
        torch.testing.assert_close(linear(out.pooled), out.logits)


def test_stages_can_be_left_out_on_purpose() -> None:
    network = wrap(module("resnet18"), stages=())
    assert network(torch.randn(2, 3, 32, 32)).stages == ()


@pytest.mark.parametrize("name", ["byot", "zipf", "dks", "sad", "manifold_mixup", "frskd"])
@pytest.mark.parametrize("network_name", ["mobilenet_v3_small", pytest.param("timm:test_convnext", marks=needs_timm)])
def test_methods_that_read_stages_train_wrapped_networks(name: str, network_name: str) -> None:
    network = wrap(module(network_name), image_size=64)
    method = get(name)()
    method.setup(Task(7, 20, 4, 2, generator=torch.Generator().manual_seed(0)), network)
    method.before_epoch(0, 2)
    images = torch.randn(4, 3, 64, 64)
    batch = Batch(images, (), (), torch.tensor([0, 3, 6, 3]), torch.arange(4))
    terms = method.loss(network, batch, torch.tensor(0.5))
    torch.stack(list(terms.values())).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.parameters() if p.requires_grad)
    grads = [p.grad for p in network.parameters()]
    assert grads[0] is not None
    assert grads[0].isfinite().all()


def test_names_of_networks() -> None:
    assert choose(["resnet*", "^resnet5*", "mobilenet_v2"]) == ["resnet8", "resnet20", "resnet18", "mobilenet_v2"]
    with pytest.raises(UserError, match="did you mean 'resnet20'"):
        choose(["resnet-20"])


@needs_timm
def test_names_of_timms_networks() -> None:
    assert choose(["timm:resnet18", "resnet8"]) == ["timm:resnet18", "resnet8"]
    assert choose(["timm:test_resne*"])[0].startswith("timm:test_resne")
    assert "timm:resnet18" not in choose(["timm:resnet1?", "^timm:resnet18"])
    with pytest.raises(UserError, match=r"did you mean .*'timm:resnet18'"):
        choose(["timm:resnet_18"])
    with pytest.raises(UserError, match=r"pretrained weights.*type timm:resnet18"):
        choose(["timm:resnet18.a1_in1k"])
    with pytest.raises(UserError) as caught:
        choose(["timm:nosuch1", "timm:nosuch2"])
    assert len(caught.value.problems) == 2


def test_without_timm_what_to_type_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.setattr("sdbench.timm_models.find_spec", lambda name: None)
    with pytest.raises(EnvironmentProblem, match="pip install timm"):
        choose(["timm:resnet18"])
    done = CliRunner().invoke(app, ["run", "--model", "timm:resnet18", "--results", str(tmp_path), "--dry-run"])
    assert done.exit_code != 0
    assert "pip install timm" in done.output
    assert "timm:NAME" in CliRunner().invoke(app, ["list", "models"]).stdout
