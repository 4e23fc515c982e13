"""The contract of a method: what it is given, what it may hold, what it returns.

A :class:`Method` is an ``nn.Module``. Its trainable parameters are the *auxiliary parameters*
(moved, optimized, counted, never used at evaluation); all else that it holds, buffers and frozen
networks, is its *training state* (saved, resumed, counted in bytes). Nothing is declared twice.

A plain loop trains with any method::

    method.setup(task, network)
    for epoch in range(epochs):
        method.before_epoch(epoch, epochs)
        for batch in batches:
            loss = sum(method.loss(network, batch, progress).values())
            ...                                   # backward, optimizer.step()
            method.after_step(network)
        method.after_epoch(network)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdbench.errors import UserError
from sdbench.losses import full_precision
from sdbench.rows import row_files
from sdbench.space import Scalar, Space

if TYPE_CHECKING:
    from sdbench.network import Network
    from sdbench.shelf import Shelf

Terms = dict[str, Tensor]
"""Named 0-d loss terms, already weighted; the harness adds all of them."""

Joining = Literal["same", "sum", "rows", "own"]
"""How a buffer of a trial on several devices comes together: see ``sdbench.joining``."""


@dataclass(frozen=True, slots=True)
class Batch:
    """One training step's data, on the device.

    images: [N, 3, H, W], normalized; N is the batch size except in a short last batch.
    views: further augmentations of the same images, ``Method.views - 1`` tensors like ``images``,
        drawn independently of ``images`` and of each other.
    partners: ``Method.partners`` tensors like ``images``: row n of each holds an image of the same
        class as row n of ``images``, drawn uniformly with replacement, the image itself allowed.
    labels: [N] int64 in [0, K). They are the labels of views and partners as well.
    index: [N] int64, the position of each image in the training set, in [0, ``Task.num_train``).
    """

    images: Tensor
    views: tuple[Tensor, ...]
    partners: tuple[Tensor, ...]
    labels: Tensor
    index: Tensor

    def with_labels(self, labels: Tensor) -> Batch:
        """The same batch under other labels [N]."""
        return replace(self, labels=labels)

    def with_images(self, images: Tensor) -> Batch:
        """The same labels and index with other images [N, 3, H, W]."""
        return replace(self, images=images)


@dataclass(frozen=True, slots=True)
class Output:
    """What a network returns.

    logits: [N, K].
    pooled: [N, D], equal to ``stages[-1].mean((2, 3))`` and the input of the classifier.
    stages: ``stages[i]`` is [N, C_i, H_i, W_i], each stage's output as the next one sees it.

    A network made by ``wrap`` around a module that only gives logits has ``pooled`` of shape
    [N, 0] and no stages.
    """

    logits: Tensor
    pooled: Tensor
    stages: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class Mixed:
    """A blended batch: images [N, 3, H, W], the second label set [N], and the first one's share.

    share: 0-d tensor or float in [0, 1]; 1 means that only the batch's own labels count.
    """

    images: Tensor
    labels_b: Tensor
    share: Tensor | float


@dataclass(frozen=True, slots=True)
class Task:
    """What a method may know when it is set up.

    generator: lives on the training device; the only source of randomness besides the generators
        handed to hooks. It is part of the checkpoint.
    teacher: the last generation's trained network, or a named one (no gradient, eval mode), or None.
    shelf: decides where ``parts.keep_rows`` keeps a memory of every image; None for tensors on the device.
    """

    num_classes: int
    num_train: int
    batch_size: int
    epochs: int
    teacher: Network | None = None
    generator: torch.Generator | None = None
    shelf: Shelf | None = None


class Method(nn.Module):
    """Base class of all methods. Override ``criterion``, or ``loss``, or ``mix``.

    Hyper-parameters are the constructor's keyword arguments, each with a default; ``space`` holds
    their ranges. ``recommended`` gives the published values per data set (default < recommended <
    user): the method's own coefficients, never the training recipe.

    A coefficient of zero should give the baseline exactly; name it in ``neutral`` and the
    conformance checks hold the method to it.
    """

    space: ClassVar[Mapping[str, Space]] = {}
    recommended: ClassVar[Mapping[str, Mapping[str, Scalar]]] = {}
    neutral: ClassVar[Mapping[str, Scalar]] = {}
    """Hyper-parameters under which the loss equals plain cross-entropy; empty where none do."""

    views: int = 1
    """Independent augmentations of each image; ``Batch.views`` holds the ``views - 1`` further ones."""
    partners: int = 0
    """Same-class images per image."""
    partners_in_batch: bool = False
    """True: a batch is batch_size // (1 + partners) images with their partners, batch_size in all."""
    generations: int = 1
    """Trainings in a row, each taught by the one before; ``Task.teacher`` is the last one's network."""
    wants_teacher: bool = False
    """True: ``Task.teacher`` is a finished network that is named for each trial, of whatever architecture
    (``sdbench distill``), no earlier generation's."""
    wants_validation: bool = False
    """True: part of the training set is held out and ``after_validation`` sees its logits."""
    refuses_mixing: str = ""
    """Why this method's criterion cannot be blended over mixed images; empty where it can."""
    couples_samples: str = ""
    """Why a batch cannot be split into shards whose losses are averaged; empty where it can. Mixing need not say so."""
    summed_terms: tuple[str, ...] = ()
    """Terms that are sums over the batch, where the others are means."""
    joins: Mapping[str, Joining] = {}
    """How each buffer joins across the shards of a batch (``--gpus-per-trial``); running statistics need no word."""
    baseline: ClassVar[bool] = False
    core: ClassVar[bool] = False

    # Filled in by @register.
    name: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    official: ClassVar[str] = ""
    year: ClassVar[int] = 0
    caveat: ClassVar[str] = ""

    @property
    def taught(self) -> bool:
        """Whether ``Task.teacher`` is there: an earlier generation's network, or a named one."""
        return self.generations > 1 or self.wants_teacher

    def setup(self, task: Task, network: Network) -> None:
        """Build auxiliary heads (parameters) and memories (buffers), all at full size.

        Do not keep ``network`` or a module of it as an attribute: its parameters would become
        auxiliary ones. Keep a bound method (``network.classify``) or ``network.frozen_copy()``.
        """

    def criterion(self, output: Output, batch: Batch, progress: Tensor) -> Terms:
        """Loss terms of one forward pass, each the mean over the batch and the sum over classes.

        The default is plain cross-entropy, which is what a method that only mixes images wants.

        progress: 0-d float tensor on the device in [0, 1), the share of training done. It is
        updated in place, so that a compiled step stays valid.
        """
        return {"ce": F.cross_entropy(full_precision(output.logits), batch.labels)}

    def loss(self, network: Network, batch: Batch, progress: Tensor) -> Terms:
        """Loss terms of one step; call ``network(images)`` as often as the method needs."""
        return self.criterion(network(batch.images), batch, progress)

    def mix(self, batch: Batch, generator: torch.Generator) -> Mixed:
        """Blend the images of a batch. The harness runs one forward pass on ``Mixed.images`` and
        blends the criterion under both label sets: share * L(labels) + (1 - share) * L(labels_b)."""
        raise TypeError(f"{type(self).__name__} does not mix images; override mix() for that")

    def before_epoch(self, epoch: int, epochs: int) -> None:
        """Called before epoch ``epoch`` (from 0) of ``epochs``. Whatever depends on the integer
        epoch is computed here into a 0-d buffer."""

    def after_step(self, network: Network) -> None:
        """Called after each optimizer step, without gradient recording."""

    def after_epoch(self, network: Network) -> None:
        """Called after the last step of each epoch, without gradient recording."""

    def after_validation(self, logits: Tensor, labels: Tensor) -> None:
        """Called after each epoch with the bare network's logits [V, K] and labels [V] on the
        held-out images, if ``wants_validation``."""


def mixes(method: Method | type[Method]) -> bool:
    """Whether the method blends images (overrides ``mix``)."""
    cls = method if isinstance(method, type) else type(method)
    return cls.mix is not Method.mix


def mixing_obstacle(cls: type[Method], instance: Method) -> str:
    """Why this method's criterion cannot be trained on another's mixed images; empty if it can."""
    if instance.refuses_mixing:
        return instance.refuses_mixing
    if cls.mix is not Method.mix:
        return "it mixes images itself"
    if cls.loss is not Method.loss:
        return "it needs more than the one forward pass that mixing blends"
    if instance.partners or instance.views > 1:
        return "it needs partners or further views of each image"
    return ""


def refuse_other_than_terms(terms: object) -> None:
    """A loss is a dictionary of named 0-d tensors, so that each term can be logged by its name."""
    if not (
        isinstance(terms, dict) and terms and all(isinstance(t, Tensor) and t.numel() == 1 for t in terms.values())
    ):
        raise TypeError(
            "the loss must be a dictionary of named scalar tensors, such as {'ce': F.cross_entropy(logits, labels)}; "
            f"got {type(terms).__name__}. Take the mean over the batch, and give each term a name"
        )


class Combination(Method):
    """One method's criterion on another's mixed images (``zipf+cutmix``).

    Also stands for a method that mixes by itself, with ``base`` and ``mixer`` the same object.
    """

    def __init__(self, base: Method, mixer: Method) -> None:
        super().__init__()
        self.base = base
        self.mixer = mixer
        self.generations = base.generations
        self.wants_teacher = base.wants_teacher
        self.wants_validation = base.wants_validation
        self._generator: torch.Generator | None = None

    def hand_generator(self, generator: torch.Generator) -> None:
        """The stream that mixing draws from; the trainer re-seeds it each epoch."""
        self._generator = generator

    def _members(self) -> tuple[Method, ...]:
        return (self.base,) if self.mixer is self.base else (self.base, self.mixer)

    def setup(self, task: Task, network: Network) -> None:
        for member in self._members():
            member.setup(task, network)
        memory = [k for k, b in self.base.named_buffers() if b.dim() and len(b) == task.num_train != task.num_classes]
        memory += row_files(self.base)
        if memory and self.mixer is not self.base:
            raise UserError(
                f"{type(self.base).__name__} keeps {memory[0]} with one row per training image, which a blend of two "
                "images does not have; train it on images that are not mixed"
            )

    def loss(self, network: Network, batch: Batch, progress: Tensor) -> Terms:
        assert self._generator is not None, "hand_generator() comes before the first step"
        mixed = self.mixer.mix(batch, self._generator)
        output = network(mixed.images)
        blended = batch.with_images(mixed.images)
        first = self.base.criterion(output, blended, progress)
        second = self.base.criterion(output, blended.with_labels(mixed.labels_b), progress)
        return {key: mixed.share * first[key] + (1 - mixed.share) * second[key] for key in first}

    def before_epoch(self, epoch: int, epochs: int) -> None:
        for member in self._members():
            member.before_epoch(epoch, epochs)

    def after_step(self, network: Network) -> None:
        for member in self._members():
            member.after_step(network)

    def after_epoch(self, network: Network) -> None:
        for member in self._members():
            member.after_epoch(network)

    def after_validation(self, logits: Tensor, labels: Tensor) -> None:
        for member in self._members():
            member.after_validation(logits, labels)
