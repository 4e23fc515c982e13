"""Networks by name, each stem -> stages -> global average pooling -> linear classifier.

Every one of those listed is a :class:`StagedNetwork`, so ``pooled == stages[-1].mean((2, 3))`` holds by construction.
Weights are drawn from torch's global generator, which the trainer seeds; there are no pretrained ones.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from sdbench import anatomy, timm_models
from sdbench.errors import UserError, unknown
from sdbench.network import Network, StagedNetwork, initialize
from sdbench.timm_models import TIMM
from sdbench.zoo import MODELS

SMALL_IMAGE = 64
"""Below this side, in pixels, torchvision's networks get a stem that keeps the resolution."""


def build(name: str, num_classes: int, image_size: int) -> Network:
    """A freshly initialized network with float32 weights, in train mode, on torch's default device.

    name: a key of ``MODELS``, or ``timm:NAME``. num_classes: K >= 2, the width of the logits. image_size: side of the
    square images in pixels, >= 1; it sets the stem of torchvision's networks and ``stage_shapes``, and other
    sizes can still be forwarded. Raises UserError for an unknown name, ValueError for a bad number.
    """
    foreign = name.startswith(TIMM)
    if name not in MODELS and not foreign:
        raise UserError(unknown("network", name, MODELS) + ". See `sdbench list models`")
    if num_classes < 2 or image_size < 1:
        raise ValueError(f"need num_classes >= 2 and image_size >= 1, got {num_classes} and {image_size}")
    return _of_timm(name, num_classes, image_size) if foreign else _BUILDERS[name](name, num_classes, image_size)


def _of_timm(name: str, num_classes: int, image_size: int) -> Network:
    """timm's network, its initialization and its stem included; without stages where it has none that can be used."""
    from sdbench.wrapped import fitted

    module = timm_models.create(name, num_classes, image_size)
    return fitted(module, anatomy.find(module), image_size, label=name)


def _conv3x3(channels_in: int, channels_out: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)


def _conv1x1(channels_in: int, channels_out: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, 1, stride, bias=False)


def _stem(channels: int) -> nn.Sequential:
    """conv3x3, BatchNorm, ReLU, all at the images' resolution: [N, 3, H, W] -> [N, channels, H, W]."""
    return nn.Sequential(_conv3x3(3, channels), nn.BatchNorm2d(channels), nn.ReLU(inplace=True))


class BasicBlock(nn.Module):
    """Post-activation block: relu(BN(conv(relu(BN(conv(x))))) + shortcut(x)).

    [N, C_in, H, W] -> [N, C_out, H / stride, W / stride], rounded up. The shortcut is the identity where
    the shape stays, otherwise conv1x1 with BatchNorm (He et al. 2016, option B).
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv3x3(channels_in, channels_out, stride)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = _conv3x3(channels_out, channels_out)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(_conv1x1(channels_in, channels_out, stride), nn.BatchNorm2d(channels_out))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.bn1(self.conv1(x)).relu_()
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        return out.relu_()


class PreActBlock(nn.Module):
    """Pre-activation block: a = relu(BN(x)); conv(relu(BN(conv(a)))) + shortcut(a).

    Shapes as in :class:`BasicBlock`. The shortcut is the identity where the shape stays, otherwise conv1x1
    without BatchNorm. As in the papers' code it starts from the activated input in every block, where
    He et al. 2016 (https://arxiv.org/abs/1603.05027) add x itself. Nothing follows the sum, so outputs may
    be negative.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.conv1 = _conv3x3(channels_in, channels_out, stride)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.conv2 = _conv3x3(channels_out, channels_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = _conv1x1(channels_in, channels_out, stride)

    def forward(self, x: Tensor) -> Tensor:
        activated = self.bn1(x).relu_()
        out: Tensor = self.conv1(activated)
        out = self.conv2(self.bn2(out).relu_())
        out += self.shortcut(activated)
        return out


def _stages(
    block: Callable[[int, int, int], nn.Module], channels: list[int], blocks: int, channels_in: int
) -> list[nn.Module]:
    """One stage per entry of ``channels``, each of ``blocks`` blocks; all but the first halve the map."""
    stages: list[nn.Module] = []
    for i, width in enumerate(channels):
        first = block(channels_in, width, 1 if i == 0 else 2)
        stages.append(nn.Sequential(first, *(block(width, width, 1) for _ in range(blocks - 1))))
        channels_in = width
    return stages


def _cifar_resnet(name: str, num_classes: int, image_size: int) -> StagedNetwork:
    """ResNet-n for small images, n = 6 blocks + 2 layers (He et al., https://arxiv.org/abs/1512.03385,
    section 4.2), with projection shortcuts instead of the paper's zero-padded ones, so that a stage has
    a defined shape to copy. He initialization."""
    depth = int(name.removeprefix("resnet"))
    stages = _stages(BasicBlock, [16, 32, 64], (depth - 2) // 6, 16)
    network = StagedNetwork(_stem(16), stages, nn.Linear(64, num_classes), image_size, name)
    initialize(network)
    return network


def _preact_resnet18(name: str, num_classes: int, image_size: int) -> StagedNetwork:
    """CIFAR_ResNet18 of alinlab/cs-kd@b447f25, megvii-research/zipfls@108e27a, lgcnsai/PS-KD-Pytorch@9aa0828.

    Blocks 2-2-2-2 of 64-128-256-512 channels after a 3x3 stem with BatchNorm and ReLU; no BatchNorm or
    ReLU before pooling. Weights keep torch's default initialization, as there. Deviation: the mean over
    the whole last map instead of 4x4 average pooling, which is the same for images of 32x32. zipfls also
    holds two linear layers that it does not use (38.6 k weights at 100 classes); they are left out.
    """
    stages = _stages(PreActBlock, [64, 128, 256, 512], 2, 64)
    return StagedNetwork(_stem(64), stages, nn.Linear(512, num_classes), image_size, name)


def _torchvision_resnet(name: str, num_classes: int, image_size: int) -> StagedNetwork:
    """torchvision's network, its initialization included, with its layers regrouped.

    For images of 64 pixels and more the stem is the original one (conv7x7 stride 2, BatchNorm, ReLU, 3x3
    max pooling stride 2); below that it is conv3x3 with BatchNorm and ReLU at stride 1.
    """
    from torchvision.models import resnet as source

    net = getattr(source, name)(weights=None, num_classes=num_classes)
    stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
    return StagedNetwork(
        _small(stem, image_size, 64), [net.layer1, net.layer2, net.layer3, net.layer4], net.fc, image_size, name
    )


def _densenet121(name: str, num_classes: int, image_size: int) -> StagedNetwork:
    """torchvision's DenseNet-121 (Huang et al., https://arxiv.org/abs/1608.06993) with its initialization.

    Growth 32. Four stages: a dense block each, with the transition that halves the map before it (none before the
    first); the last BatchNorm and ReLU belong to the last stage, whose maps the classifier reads. Below 64 pixels
    the stem is conv3x3 with BatchNorm and ReLU at stride 1.
    """
    from torchvision.models import densenet121

    net = densenet121(weights=None, num_classes=num_classes)
    parts = dict(net.features.named_children())
    stages: list[nn.Module] = [nn.Sequential(parts["denseblock1"])]
    stages += [nn.Sequential(parts[f"transition{i - 1}"], parts[f"denseblock{i}"]) for i in (2, 3, 4)]
    stages[-1] = nn.Sequential(*stages[-1], parts["norm5"], nn.ReLU(inplace=True))  # type: ignore[misc]
    stem = nn.Sequential(parts["conv0"], parts["norm0"], parts["relu0"], parts["pool0"])
    return StagedNetwork(_small(stem, image_size, 64), stages, net.classifier, image_size, name)


def _mobilenet_v2(name: str, num_classes: int, image_size: int) -> StagedNetwork:
    """torchvision's MobileNetV2 (Sandler et al., https://arxiv.org/abs/1801.04381), its initialization included.

    Five stages, one for each size of the map; the last holds the final conv1x1 to 1,280 channels. Below 64 pixels
    the stem keeps the resolution, so that images of 32 pixels end at 2x2. Deviation: no dropout before the
    classifier, which could otherwise not be applied at every position of the last map.
    """
    from torchvision.models import mobilenet_v2

    net = mobilenet_v2(weights=None, num_classes=num_classes)
    blocks = list(net.features)
    ends = (2, 4, 7, 14, len(blocks))
    stages: list[nn.Module] = [nn.Sequential(*blocks[start:end]) for start, end in zip((1, *ends), ends, strict=False)]
    return StagedNetwork(_small(blocks[0], image_size, 32), stages, net.classifier[1], image_size, name)


def _small(stem: nn.Module, image_size: int, channels: int) -> nn.Module:
    """A stem, or below 64 pixels one of as many channels that keeps the resolution, He-initialized."""
    if image_size >= SMALL_IMAGE:
        return stem
    fresh = _stem(channels)
    initialize(fresh)
    return fresh


_BUILDERS: dict[str, Callable[[str, int, int], StagedNetwork]] = {
    "resnet8": _cifar_resnet,
    "resnet20": _cifar_resnet,
    "resnet56": _cifar_resnet,
    "preact_resnet18": _preact_resnet18,
    "resnet18": _torchvision_resnet,
    "resnet50": _torchvision_resnet,
    "resnext50_32x4d": _torchvision_resnet,
    "densenet121": _densenet121,
    "mobilenet_v2": _mobilenet_v2,
}
