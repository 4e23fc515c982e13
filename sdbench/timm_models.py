"""Networks of timm by name, ``timm:NAME``, as they are there: untrained, and not fitted to small images.

timm is an optional extra; nothing here imports it before a name asks for it. Not covered: pretrained weights.
"""

from __future__ import annotations

from difflib import get_close_matches
from fnmatch import fnmatchcase
from importlib.util import find_spec
from typing import Any

from sdbench.errors import EnvironmentProblem, UserError

TIMM = "timm:"
"""What the names of timm's networks begin with."""

NEAR = 5


def available() -> bool:
    return find_spec("timm") is not None


def _timm(asked: str) -> Any:
    if not available():
        raise EnvironmentProblem(f"network {asked!r}: timm is not installed; pip install timm, or 'sdbench[timm]'")
    import timm

    return timm


def expand(item: str) -> list[str]:
    """The names that ``timm:NAME`` or ``timm:GLOB`` stands for, each with its prefix.

    Raises UserError with near matches for a name that timm does not have, EnvironmentProblem where timm is missing.
    """
    name, known = item.removeprefix(TIMM), _timm(item).list_models()
    if any(c in name for c in "*?"):
        found = [f"{TIMM}{other}" for other in known if fnmatchcase(other, name)]
        if not found:
            raise UserError(f"no network of timm matches {name!r}; timm.list_models() lists {len(known)}")
        return found
    if name in known:
        return [item]
    plain, _, tag = name.partition(".")
    if tag and plain in known:
        raise UserError(
            f"network {item!r}: {tag} names pretrained weights, and networks start untrained here; type {TIMM}{plain}"
        )
    near = get_close_matches(name.lower(), known, n=NEAR, cutoff=0.5)
    hint = f"did you mean {' or '.join(repr(TIMM + n) for n in near)}? " if near else ""
    raise UserError(
        f"unknown network {item!r}; {hint}timm.list_models('*resnet*') lists timm's {len(known)} by pattern"
    )


def create(item: str, num_classes: int, image_size: int) -> Any:
    """timm's module for ``timm:NAME``, freshly initialized from torch's global generator, in train mode.

    Transformers that are built for one size of images are built for ``image_size``; convolutional networks have the
    stem that timm gives them, also for small images. Raises UserError where timm cannot build it for these images.
    """
    expand(item)
    timm, name = _timm(item), item.removeprefix(TIMM)
    fixed = (timm.get_pretrained_cfg(name).to_dict() if timm.get_pretrained_cfg(name) else {}).get("fixed_input_size")
    size = {"img_size": image_size} if fixed else {}
    try:
        return timm.create_model(name, pretrained=False, num_classes=num_classes, **size)
    except (TypeError, ValueError, RuntimeError, AssertionError, ZeroDivisionError) as error:
        raise UserError(
            f"timm cannot build {name} for images of {image_size} pixels: {error}. Choose another network or image size"
        ) from error
