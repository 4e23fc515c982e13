"""The networks that can be asked for by name. No torch here: listing them must cost nothing."""

from collections.abc import Sequence
from dataclasses import dataclass

from sdbench.errors import EnvironmentProblem, UserError
from sdbench.selectors import select
from sdbench.timm_models import TIMM, expand


@dataclass(frozen=True)
class ModelInfo:
    """One network: the name to type and what it is, in one line."""

    name: str
    summary: str


MODELS: dict[str, ModelInfo] = {
    info.name: info
    for info in (
        ModelInfo("resnet8", "He et al.'s network for small images, 16-32-64 channels, 1 block a stage"),
        ModelInfo("resnet20", "He et al.'s network for small images, 16-32-64 channels, 3 blocks a stage"),
        ModelInfo("resnet56", "He et al.'s network for small images, 16-32-64 channels, 9 blocks a stage"),
        ModelInfo("preact_resnet18", "pre-activation ResNet-18 of the self-distillation papers, 11.2 M weights"),
        ModelInfo("resnet18", "torchvision's ResNet-18; 3x3 stem without pooling below 64 pixels"),
        ModelInfo("resnet50", "torchvision's ResNet-50; 3x3 stem without pooling below 64 pixels"),
        ModelInfo("resnext50_32x4d", "torchvision's ResNeXt-50 32x4d; 3x3 stem without pooling below 64 pixels"),
        ModelInfo("densenet121", "torchvision's DenseNet-121; 3x3 stem without pooling below 64 pixels"),
        ModelInfo("mobilenet_v2", "torchvision's MobileNetV2 without dropout; 3x3 stem of stride 1 below 64 pixels"),
    )
}
"""Residual networks in the order of their size, then the others."""

PATTERNS = (
    ModelInfo(
        f"{TIMM}NAME", "any network of timm as it is there, untrained, stem not fitted to small images (extra: timm)"
    ),
)
"""Networks that are not listed one by one."""


def choose(items: Sequence[str]) -> list[str]:
    """The networks that items of ``--model`` stand for: names, globs, ``all`` (those listed here), ``^name``.

    Raises UserError where an item names no network, EnvironmentProblem where timm is named and missing.
    """
    asked: list[str] = []
    known = list(MODELS)
    problems: list[str] = []
    for item in items:
        sign, name = ("^", item[1:]) if item.startswith("^") else ("", item)
        try:
            names = expand(name) if name.startswith(TIMM) else [name]
        except EnvironmentProblem:
            raise
        except UserError as error:
            problems += error.problems
            continue
        asked += [f"{sign}{each}" for each in names]
        known += [each for each in names if each.startswith(TIMM)]
    if problems:
        raise UserError(problems)
    return select("network", asked, known)
