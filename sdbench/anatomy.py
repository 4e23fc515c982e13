"""Where the stages and the classifier of a module are: read off its parts, without ever calling it.

Only modules whose class, or a class that it inherits from, is torchvision's or timm's are looked into: there it is
known that children run in the order in which they are listed. For any other module the names are given.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from sdbench.errors import UserError, unknown

Shape = tuple[int, int, int]

UNNAMED = "its stages are not named"
NAMED = (
    'Where it has stages, name them: wrap(module, stages=("layer1", "layer2"), classifier="fc"); they are found by '
    "themselves in networks of torchvision and timm alone"
)


@dataclass(frozen=True)
class Anatomy:
    """Names of a module's parts, as ``get_submodule`` takes them.

    stages: of the modules whose outputs are the stages' maps [N, C, H, W], in the order in which they run; empty
        where there are none. The last stage's map is taken later where more follows before the pooling.
    classifier: of the module that reads the pooled features; "" where nothing is known of one.
    head: of the module that takes a map of one position [M, D, 1, 1] to logits, where that is more than the
        classifier; "" where it is not.
    missing: why there are no stages, as a clause; "" where there are.
    remedy: what its caller can do about that, as a sentence; "" where nothing.
    """

    stages: tuple[str, ...] = ()
    classifier: str = ""
    head: str = ""
    missing: str = ""
    remedy: str = ""


def given(module: nn.Module, stages: Sequence[str], classifier: str | None) -> Anatomy:
    """The anatomy as a caller names it. Raises UserError for a name that the module does not have, one that comes
    twice, or stages without a classifier."""
    if isinstance(stages, str):
        raise UserError(f"stages={stages!r}: give the stages' names as a sequence, such as ({stages!r},)")
    parts = dict(module.named_modules(remove_duplicate=False))
    asked = [*(("stage", name) for name in stages), *([("classifier", classifier)] if classifier else [])]
    problems = [_no_such(kind, name, module, parts) for kind, name in asked if not name or name not in parts]
    problems += [
        f"stage {name!r} is named twice; drop one" for name in sorted({s for s in stages if _often(s, stages)})
    ]
    if stages and not classifier:
        problems.append('stages without a classifier; name the module that reads the pooled features: classifier="fc"')
    if problems:
        raise UserError(problems)
    head = "" if classifier is None or isinstance(parts[classifier], nn.Linear) else classifier
    if not stages:
        return Anatomy((), classifier or "", head, UNNAMED, NAMED)
    return Anatomy(tuple(stages), classifier or "", head)


def _often(name: str, names: Sequence[str]) -> bool:
    return list(names).count(name) > 1


def _no_such(kind: str, name: str, module: nn.Module, parts: Iterable[str]) -> str:
    near = [part for part in parts if part.count(".") <= max(1, name.count(".")) and part]
    return f"{type(module).__name__} has no such module: {unknown(kind, name, near)}"


def find(module: nn.Module) -> Anatomy:
    """The anatomy of a network of torchvision or timm; of any other module, that nothing is known."""
    homes = {cls.__module__.split(".")[0] for cls in type(module).__mro__}
    if "timm" in homes and isinstance(getattr(module, "default_cfg", None), dict):
        return _timm(module)
    if "torchvision" in homes:
        return _torchvision(module)
    return Anatomy(missing=UNNAMED, remedy=NAMED)


def _timm(module: nn.Module) -> Anatomy:
    """From ``feature_info``, which timm's networks have for that purpose."""
    configured: Any = module.default_cfg
    name = configured.get("classifier")
    if not isinstance(name, str) or not isinstance(_part(module, name), nn.Linear | nn.Conv2d):
        return Anatomy(missing="it has no single classifier")
    info: Any = getattr(module, "feature_info", None)
    entries = [f for f in getattr(info, "info", info) or () if _part(module, f.get("module") or "") is not None]
    if len({entry["reduction"] for entry in entries}) < 2:
        return Anatomy(classifier=name, missing="its maps do not shrink from stage to stage")
    if getattr(module, "output_fmt", "NCHW") != "NCHW":
        return Anatomy(classifier=name, missing="its maps have their channels last")
    by_size = {entry["reduction"]: entry["module"] for entry in entries}
    last = entries[-1]["module"]
    if _excites(module, last):
        return Anatomy(
            classifier=name, missing="it weighs channels by their means between its last stage and the pooling"
        )
    stages = tuple(path for path in by_size.values() if path == last or _is_stage(module, path))
    container = name.rpartition(".")[0]
    if isinstance(_part(module, container), nn.Sequential):
        return Anatomy(stages, container, container)
    return Anatomy(stages, name, _timm_head(module, name))


def _excites(module: nn.Module, last: str) -> bool:
    """Whether squeeze and excitation, whose pooling is not the classifier's, comes after the last stage."""
    paths = [path for path, _ in module.named_modules()]
    inside = [i for i, path in enumerate(paths) if path == last or path.startswith(f"{last}.")]
    names = [type(module.get_submodule(path)).__name__ for path in paths[inside[-1] + 1 :]]
    return any("Squeeze" in name or "SEModule" in name for name in names)


def _timm_head(module: nn.Module, name: str) -> str:
    """The part that takes a map of one position to logits, where more than a linear layer does that."""
    container = name.rpartition(".")[0]
    plain = isinstance(_part(module, name), nn.Linear)
    norm = getattr(_part(module, container), "norm", nn.Identity()) if container else nn.Identity()
    if plain and isinstance(norm, nn.Identity) and _after_pooling(module) is None:
        return ""
    return container or "forward_head"


def _after_pooling(module: nn.Module) -> nn.Module | None:
    """A convolution that some of timm's networks have between the pooling and the classifier."""
    names = [name for name, _ in module.named_children()]
    follows = "conv_head" in names and "global_pool" in names and names.index("conv_head") > names.index("global_pool")
    return _part(module, "conv_head") if follows else None


def _is_stage(module: nn.Module, path: str) -> bool:
    """Whether a part is more than a stem's: it has parts of its own, a convolution among them."""
    part = module.get_submodule(path)
    convolves = any(isinstance(inner, nn.Conv2d) for inner in part.modules() if inner is not part)
    return convolves and not path.startswith("stem")


def _part(module: nn.Module, path: str) -> nn.Module | None:
    try:
        return module.get_submodule(path) if path else None
    except AttributeError:
        return None


def _torchvision(module: nn.Module) -> Anatomy:
    """From the order of the children and their strides: a stage ends where the next child makes the map smaller."""
    name = next((n for n in ("fc", "classifier", "head", "heads") if _part(module, n) is not None), "")
    if not name:
        return Anatomy(missing="it has no classifier of a known name")
    part = module.get_submodule(name)
    linear = [m for m in part.modules() if isinstance(m, nn.Linear)]
    pooling = getattr(module, "avgpool", None)
    if not linear:
        return Anatomy(missing="its classifier is not linear")
    if getattr(pooling, "output_size", 1) not in (1, (1, 1)):
        return Anatomy(missing="its classifier reads a map of several positions, not their mean")
    if any(type(child).__name__ == "Permute" for child in module.children()):
        return Anatomy(classifier=name, missing="its maps have their channels last")
    stages = tuple(path for path in _chain_stages(module, name) if path)
    if not stages:
        return Anatomy(classifier=name, missing="no maps that shrink from stage to stage were found")
    plain = len(linear) == 1 and all(
        isinstance(m, nn.Linear | nn.Dropout | nn.Sequential | nn.Identity) for m in part.modules()
    )
    return Anatomy(stages, _path_of(module, linear[0]) if plain else name, "" if plain else name)


def _path_of(module: nn.Module, part: nn.Module) -> str:
    paths: dict[nn.Module, str] = {found: path for path, found in module.named_modules()}
    return paths[part]


def _chain_stages(module: nn.Module, classifier: str) -> list[str]:
    """The last part of each run of parts that share a size of the map and hold a block; the network's last too."""
    chain = _chain(module, classifier)
    starts = [i for i, path in enumerate(chain) if _reduces(module.get_submodule(path))]
    if len(starts) < 2:
        return []
    ends = [*starts[1:], len(chain)]
    runs = [chain[start:end] for start, end in zip(starts, ends, strict=True)]
    return [run[-1] for run in runs if any(list(module.get_submodule(path).children()) for path in run)]


def _chain(module: nn.Module, classifier: str) -> list[str]:
    """Paths of the children before the pooling and the classifier, containers of several sizes taken apart."""
    paths: list[str] = []
    for name, child in module.named_children():
        if name in (classifier, "avgpool", "dropout"):
            break
        if name.lower().startswith("aux"):
            continue
        inner = [key for key, part in child.named_children() if _reduces(part)]
        several = isinstance(child, nn.Sequential | nn.ModuleList) and len(inner) > 1
        paths += [f"{name}.{key}" for key, _ in child.named_children()] if several else [name]
    return paths


def _reduces(part: nn.Module) -> bool:
    """Whether a part holds a convolution or pooling of a stride above 1."""
    kinds = nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d
    strides = [m.stride for m in part.modules() if isinstance(m, kinds)]
    return any(s > 1 if isinstance(s, int) else max(s) > 1 for s in strides)
