"""What a method sees of a network: stages, classifier, tails, frozen copies, counted passes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdbench.errors import UserError
from sdbench.method import Output

Edit = Callable[[int, Tensor], Tensor]
"""``edit(stage_index, map) -> map`` replaces a stage's output on its way to the next stage."""


@dataclass
class PassCounter:
    """Images that went through a network and all its copies so far, frozen or not.

    backward: images whose forward pass a backward pass went through, once for each time; counted only
    while ``watching``, since it takes hooks.
    """

    with_gradient: int = 0
    without_gradient: int = 0
    backward: int = 0
    watching: bool = False

    def add(self, images: int, *, gradient: bool) -> None:
        if gradient:
            self.with_gradient += images
        else:
            self.without_gradient += images

    def watch(self, output: Output, images: int) -> None:
        """Count a backward pass through this output, whichever part of it the loss reads.

        The first stage is on the way of every gradient, so the hook that fires most often tells how
        often the pass was gone through.
        """
        fired = [0]

        def hook(seen: list[int]) -> Callable[[Tensor], None]:
            def count(_: Tensor) -> None:
                seen[0] += 1
                if seen[0] > fired[0]:
                    fired[0] = seen[0]
                    self.backward += images

            return count

        for part in (output.logits, output.pooled, *output.stages):
            if part.requires_grad:
                part.register_hook(hook([0]))  # type: ignore[no-untyped-call]

    def __deepcopy__(self, memo: dict[int, object]) -> PassCounter:
        """A copy of a network counts with the original: whoever made it, its passes are a cost."""
        return self


class Network(nn.Module):
    """Base of all networks: ``network(images, edit=None) -> Output``.

    Subclasses give ``_forward``. ``classifier`` is the last linear layer [K, D], or None where the
    module inside is opaque; ``stage_shapes`` lists (C, H, W) of every stage.
    """

    classifier: nn.Linear | None

    def __init__(self) -> None:
        super().__init__()
        self.passes = PassCounter()
        self._pinned_mode: bool | None = None

    def _forward(self, images: Tensor, edit: Edit | None) -> Output:
        raise NotImplementedError(f"{type(self).__name__} must define _forward(images, edit)")

    def forward(self, images: Tensor, edit: Edit | None = None) -> Output:
        if torch.compiler.is_compiling():  # a compiled step is counted once, in an eager one like it
            return self._forward(images, edit)
        gradient = torch.is_grad_enabled() and self._pinned_mode is None
        self.passes.add(len(images), gradient=gradient)
        output = self._forward(images, edit)
        if self.passes.watching:
            self.passes.watch(output, len(images))
        return output

    @property
    def label(self) -> str:
        """What to call this network in a message."""
        return type(self).__name__

    @property
    def stage_shapes(self) -> list[tuple[int, int, int]]:
        """(C, H, W) of each stage's output for the images it was built for."""
        raise UserError(self._opaque("the shapes of its stages"))

    def classify(self, features: Tensor) -> Tensor:
        """The classifier applied to the last dimension of ``features`` [..., D] -> [..., K]."""
        if self.classifier is None:
            raise UserError(self._opaque("its classifier"))
        return F.linear(features, self.classifier.weight, self.classifier.bias)

    def tail(self, from_stage: int) -> nn.Module:
        """A freshly initialized copy of all stages after ``from_stage``: [N, C_i, H_i, W_i] -> last map."""
        raise UserError(self._opaque("stages that can be copied"))

    def _opaque(self, what: str) -> str:
        return (
            f"{self.label} gives logits only, and this method needs {what}. "
            "Use a network with stages (`sdbench list models`), or a method that works on logits"
        )

    def frozen_copy(self, *, train_mode: bool = False) -> Network:
        """A copy without gradients, pinned to eval mode (or train mode, so that its BatchNorm uses
        batch statistics); its passes count with the original's, as passes without gradient."""
        duplicate = copy.deepcopy(self)
        duplicate.requires_grad_(False)
        duplicate._pinned_mode = train_mode
        duplicate.train(train_mode)
        for parameter in duplicate.parameters():
            parameter.grad = None
        return duplicate

    def train(self, mode: bool = True) -> Network:
        """As in torch; a frozen copy stays in the mode that it was pinned to."""
        super().train(mode if self._pinned_mode is None else self._pinned_mode)
        return self


class StagedNetwork(Network):
    """stem -> stages -> global average pooling -> linear classifier.

    ``pooled == stages[-1].mean((2, 3))`` holds by construction, so the classifier can be applied
    at every position of the last map.
    """

    classifier: nn.Linear

    def __init__(
        self, stem: nn.Module, stages: list[nn.Module], classifier: nn.Linear, image_size: int, label: str
    ) -> None:
        super().__init__()
        self.stem = stem
        self.stages = nn.ModuleList(stages)
        self.classifier = classifier
        self.image_size = image_size
        self._label = label
        self._stage_shapes: list[tuple[int, int, int]] | None = None

    @property
    def label(self) -> str:
        return self._label

    def _forward(self, images: Tensor, edit: Edit | None) -> Output:
        x = self.stem(images)
        maps = []
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if edit is not None:
                x = edit(i, x)
            maps.append(x)
        pooled = x.mean((2, 3))
        return Output(self.classifier(pooled), pooled, tuple(maps))

    @property
    def stage_shapes(self) -> list[tuple[int, int, int]]:
        if self._stage_shapes is None:
            # On the meta device: shapes without arithmetic, and no BatchNorm statistic is touched.
            probe = copy.deepcopy(self).to("meta").eval()
            with torch.no_grad():
                maps = probe._forward(torch.empty(1, 3, self.image_size, self.image_size, device="meta"), None)
            self._stage_shapes = [(s.shape[1], s.shape[2], s.shape[3]) for s in maps.stages]
        return list(self._stage_shapes)

    def tail(self, from_stage: int) -> nn.Module:
        if not 0 <= from_stage < len(self.stages):
            raise ValueError(f"from_stage must be in [0, {len(self.stages)}), got {from_stage}")
        fresh = copy.deepcopy(nn.Sequential(*list(self.stages)[from_stage + 1 :]))
        initialize(fresh)
        return fresh.requires_grad_(True)


def wrap(
    module: nn.Module,
    *,
    stages: Sequence[str] | None = None,
    classifier: str | None = None,
    image_size: int | None = None,
) -> Network:
    """A :class:`Network` of any module that returns logits [N, K].

    It holds the module itself (no copy) and leaves its mode, dtype, layout and device alone; the module is never called
    with a made-up image. A Network is returned as it is.

    stages: names of the modules, as ``get_submodule`` takes them, that give the stages' maps [N, C, H, W] one after the
        other, such as ("layer1", "layer2"). None: networks of torchvision and timm are looked into, others have none.
        The last one's map is taken at the global average pooling, so a norm, activation or convolution after it counts.
    classifier: name of the module that reads the pooled features [N, D], or of a head that starts with the pooling.
    image_size: side in pixels of the square images that come. Methods that build heads ask for ``stage_shapes`` before
        the first image: they are worked out on a copy without weights or arithmetic. None: known after the first pass.

    Without stages the network gives logits only, with pooled features where the classifier is known (ViT), and a method
    that needs stages refuses it, saying why. Raises UserError where a name is unknown.
    """
    from sdbench import anatomy
    from sdbench.wrapped import WrappedNetwork, fitted

    if isinstance(module, Network):
        return module
    if stages is None and classifier is None:
        return fitted(module, anatomy.find(module), image_size)
    return WrappedNetwork(module, anatomy.given(module, stages or (), classifier), image_size)


def initialize(module: nn.Module) -> None:
    """He initialization of convolutions (fan out, ReLU); every other part that has one, its own ``reset_parameters``.

    Random numbers come from torch's global generator; the trainer seeds it.
    """
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif callable(reset := getattr(part, "reset_parameters", None)):
            reset()
