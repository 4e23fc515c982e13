"""Watching one forward pass of a module: its stages' maps, the map that is pooled, and what the classifier reads."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sdbench.anatomy import Anatomy
from sdbench.errors import UserError
from sdbench.network import Edit


def pools_all(function: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a call averages a map [N, C, H, W] over all its positions.

    Known: ``adaptive_avg_pool2d`` to 1, ``avg_pool2d`` over the whole map, ``mean`` over the last two dimensions.
    """
    if not args or not isinstance(args[0], Tensor) or args[0].dim() != 4:
        return False
    if function in (F.adaptive_avg_pool2d, torch._C._nn.adaptive_avg_pool2d):
        return _pair(_second(args, kwargs, "output_size")) == (1, 1)
    if function in (F.avg_pool2d, torch._C._nn.avg_pool2d):
        return _pair(_second(args, kwargs, "kernel_size")) == tuple(args[0].shape[2:])
    if function in (Tensor.mean, torch.mean):
        dims = _second(args, kwargs, "dim")
        return isinstance(dims, tuple | list) and {d % 4 for d in dims} == {2, 3}
    return False


def _second(args: tuple[Any, ...], kwargs: dict[str, Any], name: str) -> object:
    return args[1] if len(args) > 1 else kwargs.get(name)


def _pair(value: object) -> object:
    return tuple(value) if isinstance(value, tuple | list) else (value, value)


class Misfit(UserError):
    """A module's parts do not run as stages and classifier. reason: why, as a clause; label: of the module."""

    def __init__(self, label: str, reason: str) -> None:
        self.reason = reason
        super().__init__(
            f'{label} cannot be taken apart: {reason}. Name others, wrap(module, stages=("layer1", "layer2"), '
            'classifier="fc"), or take its logits alone, wrap(module, stages=())'
        )


class _Pooling(TorchFunctionMode):
    """Hands the map that is pooled to ``take``, which gives back what is pooled instead."""

    def __init__(self, take: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._take: Callable[[Tensor], Tensor] | None = take

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self._take is not None and pools_all(function, args, kwargs):
            take, self._take = self._take, None
            args = (take(args[0]), *args[1:])
        return function(*args, **kwargs)


class Watch:
    """One forward pass through a module with stages; a context, whose hooks are gone when it is left.

    at_pooling: the last stage's map is what is pooled, else what that stage gives. label: of the module, for messages.
    maps: what each stage gave, after ``edit``. pooled_map: what was pooled, after ``edit``; None where no pooling was
    seen. read: what the classifier read, [N, D]; None where it pools by itself.

    changed: stages whose map is changed in place by what follows (an activation, mostly). Of those a copy is kept,
    since a stage's map is what the stage gave. None where they are not known yet: it is found out, and set.
    """

    def __init__(
        self,
        module: nn.Module,
        anatomy: Anatomy,
        edit: Edit | None,
        *,
        at_pooling: bool = True,
        changed: frozenset[int] | None = frozenset(),
        label: str = "",
    ) -> None:
        self._module, self._anatomy, self._edit = module, anatomy, edit
        self._at_pooling, self._label, self.changed = at_pooling, label, changed
        self._copies: dict[int, Tensor] = {}
        self._versions: dict[int, int] = {}
        self.maps: dict[int, Tensor] = {}
        self.read: Tensor | None = None
        self.pooled_map: Tensor | None = None

    def __enter__(self) -> Watch:
        self._stack = ExitStack()
        for i, name in enumerate(self._anatomy.stages):
            hook = self._module.get_submodule(name).register_forward_hook(self._stage_hook(i, name))
            self._stack.callback(hook.remove)
        reader = self._module.get_submodule(self._anatomy.classifier).register_forward_pre_hook(self._classifier_hook)
        self._stack.callback(reader.remove)
        self._window = self._stack.enter_context(ExitStack())
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()
        self._put_back()

    def _stage_hook(self, i: int, name: str) -> Callable[[nn.Module, Any, Any], Tensor | None]:
        def hook(part: nn.Module, args: Any, value: Any) -> Tensor | None:
            if not isinstance(value, Tensor) or value.dim() != 4:
                raise Misfit(self._label, f"its stage {name!r} gives {told(value)}, not maps [N, C, H, W]")
            if i in self.maps:
                raise Misfit(self._label, f"its stage {name!r} runs twice in a forward pass")
            self.maps[i] = value
            if i == len(self._anatomy.stages) - 1 and self._at_pooling:
                self._window.enter_context(_Pooling(self._take))
                return None
            if self._edit is not None:
                self.maps[i] = self._edit(i, value)
            self._keep(i, self.maps[i])
            return self.maps[i]

        return hook

    def _keep(self, i: int, value: Tensor) -> None:
        # What goes on is the map itself: a copy there would have gradients be summed in another order.
        if self.changed is None or i in self.changed:
            self._copies[i] = value.clone()
        if self.changed is None and not value.is_inference():
            self._versions[i] = value._version

    def _put_back(self) -> None:
        if self.changed is None and len(self._versions) == len(self._copies):  # inference mode does not tell
            self.changed = frozenset(i for i, version in self._versions.items() if self.maps[i]._version > version)
        for i, value in self._copies.items():
            if self.changed is None or i in self.changed:
                self.maps[i] = value

    def _take(self, value: Tensor) -> Tensor:
        last = len(self._anatomy.stages) - 1
        self.pooled_map = value if self._edit is None else self._edit(last, value)
        return self.pooled_map

    def _classifier_hook(self, part: nn.Module, args: tuple[Any, ...]) -> None:
        if not holds_pooling(part):
            self._window.close()
            self.read = args[0].detach().flatten(1)


def holds_pooling(part: nn.Module) -> bool:
    """Whether a part holds a pooling module, of torch or of others."""
    return any("Pool" in type(inner).__name__ for inner in part.modules())


def told(value: object) -> str:
    """A value that was not expected, in words."""
    return f"a tensor {list(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
