"""Networks against known parameter counts, torchvision's own forward, and what methods rely on."""

import copy
import itertools
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import models as torchvision_models
from torchvision.models import resnet as torchvision_resnet

from sdbench import models
from sdbench.errors import UserError
from sdbench.method import Output
from sdbench.network import StagedNetwork, wrap
from sdbench.zoo import MODELS

TORCHVISION = [
    ("resnet18", 11_689_512),
    ("resnet50", 25_557_032),
    ("resnext50_32x4d", 25_028_904),
    ("densenet121", 7_978_856),
    ("mobilenet_v2", 3_504_872),
]
"""torchvision's networks and the parameters that its documentation gives."""

SMALL = ["resnet8", "resnet20", "preact_resnet18", "resnet18"]


def build(name: str, num_classes: int = 10, image_size: int = 16) -> StagedNetwork:
    torch.manual_seed(0)
    return models.build(name, num_classes, image_size)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def cifar_resnet_parameters(blocks: int, classes: int) -> int:
    """Counted on paper: 3x3 convolutions, two BatchNorm vectors each, projections, classifier."""
    total = 3 * 16 * 9 + 2 * 16
    width = 16
    for channels in (16, 32, 64):
        for block in range(blocks):
            before = width if block == 0 else channels
            total += before * channels * 9 + channels * channels * 9 + 4 * channels
            if before != channels:
                total += before * channels + 2 * channels
        width = channels
    return total + 64 * classes + classes


@pytest.mark.parametrize(("name", "blocks"), [("resnet8", 1), ("resnet20", 3), ("resnet56", 9)])
def test_parameters_of_small_image_resnets(name: str, blocks: int) -> None:
    assert count(build(name)) == cifar_resnet_parameters(blocks, 10)
    assert count(build(name, 100)) == cifar_resnet_parameters(blocks, 100)


def test_published_parameter_counts() -> None:
    # He et al., table 6: 0.27 M for ResNet-20 and 0.85 M for ResNet-56, with parameter-free shortcuts;
    # projections add 16*32 + 32*64 weights and their BatchNorm.
    projections = 16 * 32 + 32 * 64 + 2 * (32 + 64)
    assert round((count(build("resnet20")) - projections) / 1e6, 2) == 0.27
    assert round((count(build("resnet56")) - projections) / 1e6, 2) == 0.85


@pytest.mark.parametrize(("name", "parameters"), TORCHVISION)
def test_parameters_at_224_pixels_are_torchvisions(name: str, parameters: int) -> None:
    assert count(build(name, 1000, 224)) == parameters


def test_parameters_of_the_papers_network() -> None:
    # 11.2 M at 100 classes. Counted from the block's definition: every convolution is followed or preceded
    # by one BatchNorm, projections have none.
    channels = [64, 64, 128, 256, 512]
    total = 3 * 64 * 9 + 2 * 64
    for before, width in itertools.pairwise(channels):
        total += 2 * before + before * width * 9 + 2 * width + width * width * 9
        total += 2 * (2 * width + width * width * 9)
        total += before * width if before != width else 0
    assert count(build("preact_resnet18", 100)) == total + 512 * 100 + 100
    assert round(total / 1e6, 1) == 11.2


def load_torchvision(network: StagedNetwork, source: nn.Module) -> None:
    """Copy torchvision's weights by walking both networks in the order of their modules."""
    own = list(network.state_dict().values())
    other = list(source.state_dict().values())
    assert [v.shape for v in own] == [v.shape for v in other]
    for target, value in zip(own, other, strict=True):
        target.copy_(value)


@pytest.mark.parametrize("name", [name for name, _ in TORCHVISION])
def test_forward_equals_torchvisions_for_equal_weights(name: str) -> None:
    network = build(name, 7, 64)
    torch.manual_seed(1)
    source = getattr(torchvision_models, name)(num_classes=7)
    for part in source.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0  # sdbench's networks have none
    images = torch.randn(2, 3, 64, 64)
    assert not torch.allclose(network(images).logits, source(images))
    load_torchvision(network, source)
    for mode in (True, False):
        network.train(mode)
        source.train(mode)
        torch.testing.assert_close(network(images).logits, source(images), rtol=1e-4, atol=1e-5)


def test_torchvisions_initialization_is_kept() -> None:
    torch.manual_seed(0)
    source = torchvision_resnet.resnet18(num_classes=10)
    network = build("resnet18", 10, 64)
    for own, other in zip(network.parameters(), source.parameters(), strict=True):
        assert torch.equal(own, other)


@pytest.mark.parametrize("name", list(MODELS))
def test_output_of_every_network(name: str) -> None:
    network = build(name, 5)
    out = network(torch.randn(2, 3, 16, 16))
    assert isinstance(out, Output)
    assert out.logits.shape == (2, 5)
    assert out.pooled.shape == (2, network.classifier.in_features)
    assert torch.equal(out.pooled, out.stages[-1].mean((2, 3)))
    torch.testing.assert_close(out.logits, F.linear(out.pooled, network.classifier.weight, network.classifier.bias))
    assert [tuple(s.shape[1:]) for s in out.stages] == network.stage_shapes
    assert network.label == name
    assert network.image_size == 16
    assert network.training


@pytest.mark.parametrize(
    ("name", "size", "shapes"),
    [
        ("resnet20", 32, [(16, 32, 32), (32, 16, 16), (64, 8, 8)]),
        ("preact_resnet18", 32, [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4)]),
        ("resnet18", 32, [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4)]),
        ("resnet50", 63, [(256, 63, 63), (512, 32, 32), (1024, 16, 16), (2048, 8, 8)]),
        ("resnet50", 64, [(256, 16, 16), (512, 8, 8), (1024, 4, 4), (2048, 2, 2)]),
        ("resnext50_32x4d", 32, [(256, 32, 32), (512, 16, 16), (1024, 8, 8), (2048, 4, 4)]),
        ("densenet121", 32, [(256, 32, 32), (512, 16, 16), (1024, 8, 8), (1024, 4, 4)]),
        ("densenet121", 64, [(256, 16, 16), (512, 8, 8), (1024, 4, 4), (1024, 2, 2)]),
        ("mobilenet_v2", 32, [(16, 32, 32), (24, 16, 16), (32, 8, 8), (96, 4, 4), (1280, 2, 2)]),
        ("mobilenet_v2", 224, [(16, 112, 112), (24, 56, 56), (32, 28, 28), (96, 14, 14), (1280, 7, 7)]),
        ("resnet18", 224, [(64, 56, 56), (128, 28, 28), (256, 14, 14), (512, 7, 7)]),
    ],
)
def test_stage_shapes(name: str, size: int, shapes: list[tuple[int, int, int]]) -> None:
    network = build(name, 10, size)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    assert network.stage_shapes == shapes
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())


def reference_preact(weights: dict[str, Tensor], x: Tensor, strides: list[int]) -> Tensor:
    """The papers' network in train mode, written flat from its definition; weights in module order."""
    w = iter(weights.values())

    def norm_relu(value: Tensor) -> Tensor:
        mean, variance = value.mean((0, 2, 3)), value.var((0, 2, 3), correction=0)
        scale, shift = next(w), next(w)
        hat = (value - mean[:, None, None]) / (variance[:, None, None] + 1e-5).sqrt()
        return (hat * scale[:, None, None] + shift[:, None, None]).clamp(min=0)

    x = norm_relu(F.conv2d(x, next(w), padding=1))
    for stride in strides:
        activated = norm_relu(x)
        out = F.conv2d(activated, next(w), stride=stride, padding=1)
        out = F.conv2d(norm_relu(out), next(w), padding=1)
        x = out + (F.conv2d(activated, next(w), stride=2) if stride == 2 else activated)
    return F.linear(x.mean((2, 3)), next(w), next(w))


def test_preact_resnet18_is_the_papers_network() -> None:
    network = build("preact_resnet18", 6, 16).double()
    weights = dict(network.named_parameters())
    with torch.no_grad():
        for name, value in weights.items():
            if "bn" in name:
                value.add_(0.3 * torch.randn_like(value))
    images = torch.randn(3, 3, 16, 16, dtype=torch.double)
    expected = reference_preact(weights, images, [1, 1, 2, 1, 2, 1, 2, 1])
    out = network(images)
    torch.testing.assert_close(out.logits, expected, rtol=1e-9, atol=1e-9)
    assert (out.stages[-1] < 0).any(), "the last map is the raw block output, without ReLU"


def test_initialization_follows_the_global_generator() -> None:
    for name in SMALL:
        first, again = build(name), build(name)
        assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
        torch.manual_seed(1)
        other = models.build(name, 10, 16)
        assert not torch.equal(first.classifier.weight, other.classifier.weight)


def test_small_image_resnets_have_he_initialization() -> None:
    for module in build("resnet56").modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 5000:
            fan_out = module.out_channels * module.kernel_size[0] ** 2
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.06)


def test_wrong_arguments() -> None:
    with pytest.raises(UserError, match="did you mean 'resnet20'"):
        models.build("resnet-20", 10, 32)
    with pytest.raises(ValueError, match="num_classes >= 2"):
        models.build("resnet20", 1, 32)


def test_every_listed_network_can_be_built_and_listing_is_cheap() -> None:
    assert set(models._BUILDERS) == set(MODELS)
    assert all(info.name == name and info.summary for name, info in MODELS.items())
    code = "import sys, sdbench.zoo; assert 'torch' not in sys.modules, 'torch'"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", SMALL)
def test_tail_continues_from_every_stage_with_fresh_trainable_weights(name: str) -> None:
    network = build(name)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.fill_(3.0)  # as after training
    network.requires_grad_(False)
    out = network(torch.randn(2, 3, 16, 16))
    for i, stage in enumerate(out.stages):
        tail = network.tail(i)
        assert tail(stage).shape == out.stages[-1].shape
        own = list(tail.parameters())
        assert all(p.requires_grad for p in own)
        originals = [p for s in network.stages[i + 1 :] for p in s.parameters()]
        assert [p.shape for p in own] == [p.shape for p in originals]
        assert not {id(p) for p in own} & {id(p) for p in network.parameters()}
        for a, b in zip(own, originals, strict=True):
            if b.dim() == 4:
                assert not torch.equal(a, b), "a tail starts from weights of its own"
        for module in tail.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert torch.equal(module.weight, torch.ones_like(module.weight))
                assert module.num_batches_tracked == (1 if i < len(out.stages) - 1 else 0)
    assert not list(network.tail(len(out.stages) - 1).parameters())
    for wrong in (-1, len(out.stages)):
        with pytest.raises(ValueError, match="from_stage"):
            network.tail(wrong)


class Holder(nn.Module):
    def __init__(self, child: nn.Module) -> None:
        super().__init__()
        self.child = child


@pytest.mark.parametrize("train_mode", [False, True])
def test_frozen_copy_keeps_its_mode_has_no_gradient_and_counts_with_the_original(train_mode: bool) -> None:
    network = build("resnet8")
    images = torch.randn(4, 3, 16, 16)
    network(images).logits.sum().backward()
    teacher = network.frozen_copy(train_mode=train_mode)
    assert all(not p.requires_grad and p.grad is None for p in teacher.parameters())
    holder = Holder(teacher)
    for mode in (True, False, True):
        holder.train(mode)
        assert all(m.training == train_mode for m in teacher.modules())
    before = network.passes.without_gradient, network.passes.with_gradient
    assert not teacher(images).logits.requires_grad
    assert (network.passes.without_gradient, network.passes.with_gradient) == (before[0] + 4, before[1])
    with torch.no_grad():
        network.classifier.weight.add_(1.0)
    assert not torch.equal(teacher.classifier.weight, network.classifier.weight)


def test_passes_are_counted_by_images_and_gradient() -> None:
    network = build("resnet8")
    network(torch.randn(3, 3, 16, 16))
    with torch.no_grad():
        network(torch.randn(2, 3, 16, 16))
    assert (network.passes.with_gradient, network.passes.without_gradient) == (3, 2)


def test_edit_replaces_a_stage_on_the_way() -> None:
    network = build("resnet20").eval()
    images = torch.randn(2, 3, 16, 16)
    plain = network(images)
    seen: list[int] = []

    def swap(i: int, value: Tensor) -> Tensor:
        seen.append(i)
        return value.flip(0) if i == 1 else value

    edited = network(images, edit=swap)
    assert seen == [0, 1, 2]
    torch.testing.assert_close(edited.stages[0], plain.stages[0])
    torch.testing.assert_close(edited.stages[1], plain.stages[1].flip(0))
    torch.testing.assert_close(edited.logits, plain.logits.flip(0))


@pytest.mark.parametrize("name", SMALL)
def test_gradients_reach_every_weight_and_copies_are_equal(name: str) -> None:
    network = build(name)
    duplicate = copy.deepcopy(network)
    images = torch.randn(4, 3, 16, 16)
    network(images).logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())
    fresh = duplicate(images)
    torch.testing.assert_close(fresh.logits, build(name)(images).logits)


def test_channels_last_and_bfloat16_agree_with_float32() -> None:
    network = build("preact_resnet18").eval()
    images = torch.randn(2, 3, 16, 16)
    expected = network(images).logits
    network.to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        out = network(images.to(memory_format=torch.channels_last)).logits
    assert (out.float() - expected).norm() < 0.05 * expected.norm()


def test_wrap_holds_the_module_itself_and_leaves_it_alone() -> None:
    class Inner(nn.Module):
        calls = 0

        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(12, 4, dtype=torch.double)

        def forward(self, images: Tensor) -> Tensor:
            self.calls += 1
            result: Tensor = self.linear(images.flatten(1))
            return result

    inner = Inner().eval()
    network = wrap(inner)
    assert next(m for m in network.modules() if isinstance(m, Inner)) is inner
    assert not network.training
    assert not inner.training
    assert inner.linear.weight.dtype == torch.double
    assert inner.calls == 0, "wrap never probes the module"
    out = network(torch.ones(5, 3, 2, 2, dtype=torch.double))
    assert out.logits.shape == (5, 4)
    assert out.pooled.shape == (5, 0)
    assert out.stages == ()
    with pytest.raises(UserError, match="gives logits only"):
        network.tail(0)
    with pytest.raises(UserError, match="gives logits only"):
        _ = network.stage_shapes
    with pytest.raises(UserError, match="gives logits only"):
        network.classify(torch.ones(1, 4))
    assert wrap(network) is network
