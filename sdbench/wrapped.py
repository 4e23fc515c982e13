"""Any module as a :class:`Network`: it runs as it is, and is watched while it runs.

A forward pass calls the module once, under torch.compile too, where it runs eagerly. Hooks that are there for that
pass alone read, and replace where ``edit`` asks for it, what its stages give. The last stage's map is what the global
average pooling is given: where a norm, an activation or a convolution comes after the last named stage, they belong to
it.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdbench.anatomy import Anatomy, Shape
from sdbench.errors import UserError
from sdbench.method import Output
from sdbench.network import Edit, Network, initialize
from sdbench.remainder import remainder
from sdbench.watching import Misfit, Watch, holds_pooling, told

CLOSE = 0.05
"""Relative distance within which the classifier's input counts as the pooled map; bfloat16 stays far below."""


class WrappedNetwork(Network):
    """A network around any module that returns logits; holds the module itself.

    anatomy: where its stages and classifier are. image_size: side in pixels of the square images that ``stage_shapes``
    are worked out for; None where they are those of the first images that come. Without stages it gives logits, and
    pooled features where the classifier is known.
    """

    def __init__(
        self, module: nn.Module, anatomy: Anatomy | None = None, image_size: int | None = None, label: str = ""
    ) -> None:
        super().__init__()
        self.module = module
        self.anatomy = anatomy or Anatomy()
        self.image_size = image_size
        self.pools_unseen = False
        self._label = label
        self._checked = False
        self._changed: frozenset[int] | None = None
        self._stage_shapes: list[Shape] | None = None
        # nn.Module starts in train mode; a wrapper must not claim a mode the module is not in.
        self.training = module.training

    @property
    def label(self) -> str:
        name = self._label or f"the wrapped {type(self.module).__name__}"
        return f"{name} ({self.anatomy.missing})" if self.anatomy.missing else name

    def _opaque(self, what: str) -> str:
        told = super()._opaque(what)
        return f"{told}. {self.anatomy.remedy}" if self.anatomy.remedy else told

    @property
    def classifier(self) -> nn.Module | None:  # type: ignore[override]
        """The module's own last linear layer, or head; None where there are no stages at whose positions to use it."""
        if not self.anatomy.stages:
            return None
        return self.module.get_submodule(self.anatomy.classifier)

    def _forward(self, images: Tensor, edit: Edit | None) -> Output:
        if self.anatomy.stages or self.anatomy.classifier or edit is not None:
            watched: Output = self._watched(images, edit)
            return watched
        logits = self._logits(images)
        return Output(logits, logits.new_zeros((len(logits), 0)), ())

    @torch.compiler.disable(reason="hooks watch it while it runs")  # type: ignore[untyped-decorator, no-untyped-call]
    def _watched(self, images: Tensor, edit: Edit | None) -> Output:
        if not self.anatomy.stages:
            return self._without_stages(images, edit)
        at_pooling = not self.pools_unseen
        watch = Watch(self.module, self.anatomy, edit, at_pooling=at_pooling, changed=self._changed, label=self.label)
        with watch:
            logits = self._logits(images)
        if missed := [name for i, name in enumerate(self.anatomy.stages) if i not in watch.maps]:
            raise Misfit(self.label, f"its stage {missed[0]!r} did not run in a forward pass")
        self._changed = watch.changed
        last = watch.maps[len(watch.maps) - 1] if watch.pooled_map is None else watch.pooled_map
        pooled = last.mean((2, 3))
        maps = (*(watch.maps[i] for i in range(len(watch.maps) - 1)), last)
        if not self._checked:
            self._check(watch, pooled, edit is not None)
        if self._stage_shapes is None:
            self._stage_shapes = [(m.shape[1], m.shape[2], m.shape[3]) for m in maps]
        return Output(logits, pooled, maps)

    def _without_stages(self, images: Tensor, edit: Edit | None) -> Output:
        if edit is not None:
            raise UserError(self._opaque("to edit its stages"))
        seen: list[Tensor] = []
        part = self.module.get_submodule(self.anatomy.classifier)
        hook = part.register_forward_pre_hook(lambda part, args: seen.append(args[0]))
        try:
            logits = self._logits(images)
        finally:
            hook.remove()
        pooled = seen[0] if len(seen) == 1 and seen[0].dim() == 2 else logits.new_zeros((len(logits), 0))
        return Output(logits, pooled, ())

    def _logits(self, images: Tensor) -> Tensor:
        logits = self.module(images)
        if not isinstance(logits, Tensor) or logits.dim() != 2:
            raise UserError(
                f"{self.label} gives {told(logits)}, not logits [N, K]; wrap a module that returns logits alone "
                "(networks with auxiliary heads: build them without, aux_logits=False)"
            )
        return logits

    @torch.no_grad()
    def _check(self, watch: Watch, pooled: Tensor, edited: bool) -> None:
        """Once, in the first pass: the classifier reads the mean of the last map, dropout aside; its width on meta."""
        if watch.pooled_map is None:
            if edited and not self.pools_unseen:
                raise UserError(
                    f"{self.label} pools its last stage in a way that was not seen, so its first forward pass cannot "
                    "be edited; run one on real images first"
                )
            self.pools_unseen = True
        read, pooled = watch.read, pooled.detach().float()
        at_pooled = self.anatomy.head in ("", self.anatomy.classifier)  # else more comes before the last linear layer
        fits = self._proportional if pooled.device.type != "meta" else lambda read, pooled: read.shape == pooled.shape
        if read is not None and at_pooled and not fits(read.float(), pooled):
            name = self.anatomy.classifier
            raise Misfit(
                self.label, f"its classifier {name!r} does not read the mean over positions of its last stage's map"
            )
        self._checked = True

    @staticmethod
    def _proportional(read: Tensor, pooled: Tensor) -> bool:
        """Whether ``read`` is ``pooled``, up to a factor and zeros: dropout between them zeroes and scales."""
        if read.shape != pooled.shape:
            return False
        kept = pooled * (read != 0)
        factor = (read * kept).sum() / kept.square().sum().clamp(min=1e-30)
        return bool((read - factor * kept).norm() <= CLOSE * read.norm())

    @property
    def stage_shapes(self) -> list[Shape]:
        """(C, H, W) of each stage's map for images of ``image_size``, or else as in the first forward pass."""
        if not self.anatomy.stages:
            raise UserError(self._opaque("the shapes of its stages"))
        if self._stage_shapes is None:
            self._stage_shapes = self._shapes_without_images()
        return list(self._stage_shapes)

    def _shapes_without_images(self) -> list[Shape]:
        """Of a copy on the meta device: shapes without arithmetic; the module itself is not called."""
        if self.image_size is None:
            raise UserError(
                f"the shapes of the stages of {self.label} are not known before its first forward pass; say for what "
                "images they are: wrap(module, image_size=32)"
            )
        probe = copy.deepcopy(self).to("meta").eval()
        dtype = next(probe.parameters()).dtype
        images = torch.empty(1, 3, self.image_size, self.image_size, device="meta", dtype=dtype)
        try:
            with torch.no_grad():
                maps = probe._forward(images, None).stages
        except Misfit:
            raise
        except (RuntimeError, NotImplementedError, ValueError, AssertionError) as error:
            raise UserError(
                f"the shapes of the stages of {self.label} cannot be worked out for images of {self.image_size} "
                f"pixels: {str(error) or type(error).__name__}. Give another image_size, or leave it out and run one "
                "pass on real images first"
            ) from error
        return [(m.shape[1], m.shape[2], m.shape[3]) for m in maps]

    def classify(self, features: Tensor) -> Tensor:
        """All that follows the pooling, without dropout, applied to the last dimension of [..., D] -> [..., K]."""
        if not self.anatomy.stages:
            raise UserError(self._opaque("its classifier"))
        if not self.anatomy.head:
            linear = self.module.get_submodule(self.anatomy.classifier)
            assert isinstance(linear, nn.Linear)
            return F.linear(features, linear.weight, linear.bias)
        rows = features.reshape(-1, features.shape[-1])
        if self.anatomy.head == "forward_head":
            call: Any = self.module.forward_head
            logits: Tensor = call(rows[:, :, None, None])
        else:
            head = self.module.get_submodule(self.anatomy.head)
            logits = _applied(head, rows[:, :, None, None] if _flattens(head) else rows)
        return logits.reshape(*features.shape[:-1], -1)

    def tail(self, from_stage: int) -> nn.Module:
        """A freshly initialized copy of all that runs between a stage and the pooling: [N, C_i, H_i, W_i] -> last map.

        Not covered: parameters that their module has no ``reset_parameters`` for (scales of layers, positions) start
        from the module's own.
        Raises UserError where the module's way from there on cannot be followed (``remainder`` says when).
        """
        names = self.anatomy.stages
        if not names:
            raise UserError(self._opaque("stages that can be copied"))
        if not 0 <= from_stage < len(names):
            raise ValueError(f"from_stage must be in [0, {len(names)}), got {from_stage}")
        if from_stage == len(names) - 1:
            return nn.Sequential()
        fresh = remainder(self.module, names, from_stage, self.anatomy.classifier, self.label)
        initialize(fresh)
        return fresh.requires_grad_(True).train()


def fitted(module: nn.Module, found: Anatomy, image_size: int | None, label: str = "") -> WrappedNetwork:
    """A network with the stages that were found, or without where they turn out not to run as stages.

    That is tried where ``image_size`` is known, on a copy without weights or arithmetic.
    """
    network = WrappedNetwork(module, found, image_size, label)
    if found.stages and image_size is not None:
        try:
            network._stage_shapes = network._shapes_without_images()
        except Misfit as error:
            return WrappedNetwork(module, replace(found, stages=(), head="", missing=error.reason), image_size, label)
        except UserError:
            pass  # told to whoever asks for the shapes: some modules run with real images alone
    return network


def _applied(head: nn.Module, value: Tensor) -> Tensor:
    """A head without its dropout."""
    for part in head if isinstance(head, nn.Sequential) else [head]:
        if not isinstance(part, nn.Dropout):
            value = part(value)
    return value.flatten(1)


def _flattens(head: nn.Module) -> bool:
    """Whether a head takes maps: it flattens, pools, or convolves."""
    return holds_pooling(head) or any(isinstance(part, nn.Flatten | nn.Conv2d) for part in head.modules())
