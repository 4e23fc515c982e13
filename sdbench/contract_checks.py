"""Conformance checks of a method's form: what it accepts, returns, and must leave alone.

Each function tries one thing on a tiny task. It returns nothing where the method conforms, raises
:class:`Failed` where it does not, and lets through whatever the method's own code raises.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sdbench import registry
from sdbench.method import Batch, Combination, Method, Mixed
from sdbench.space import LogUniform
from sdbench.subject import Failed, Subject, train
from sdbench.train import GRADIENT_DEADLINE


def constructs(subject: Subject) -> None:
    """The constructor takes its defaults, the recommended and the neutral values, all within their ranges."""
    for name in subject.members:
        cls = registry.get(name)
        known = registry.parameters(cls)
        for key, parameter in known.items():
            off = isinstance(parameter.range, LogUniform) and parameter.default == 0
            if trouble := parameter.problem(parameter.default):
                raise Failed(
                    f"{key}: the default is {parameter.default!r}: {trouble}; mend the annotation or the default"
                )
            if parameter.range is not None and not off and parameter.default not in parameter.range:
                raise Failed(
                    f"{key}: the default {parameter.default!r} is outside space[{key!r}] = {parameter.range}; "
                    "widen the range or change the default"
                )
        sources = {"neutral": cls.neutral, **{f"recommended[{d!r}]": v for d, v in cls.recommended.items()}}
        for source, values in {"the defaults": {}, **sources}.items():
            for key, value in values.items():
                if trouble := known[key].problem(value):
                    raise Failed(f"{source}: {key}: {trouble}; widen space[{key!r}] or change the value")
            _judge_attributes(cls(**{key: p.default for key, p in known.items()} | dict(values)))


def _judge_attributes(method: Method) -> None:
    for attribute, least in (("views", 1), ("partners", 0), ("generations", 1)):
        value = getattr(method, attribute)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise Failed(f"{attribute} is {value!r}; set it to an integer of at least {least}")
    if method.partners_in_batch and not method.partners:
        raise Failed("partners_in_batch is True but partners is 0; set partners to the number of same-class images")


def sets_up(subject: Subject) -> None:
    """setup() builds heads and memories, and keeps neither the network nor a view of its weights."""
    session = subject.session()
    weights = {p.untyped_storage().data_ptr(): name for name, p in session.network.named_parameters()}
    for name, state in [*session.method.named_parameters(), *session.method.named_buffers()]:
        shared = weights.get(state.untyped_storage().data_ptr()) if state.numel() else None
        if shared:
            raise Failed(
                f"{name!r} shares its memory with the network's weight {shared!r}, so it changes as the network "
                "trains and does not survive a resume; keep a copy: .detach().clone(), or network.frozen_copy()"
            )


def mixes_within_bounds(subject: Subject) -> None:
    """mix(), if there is one, returns Mixed with images and labels like the batch's and a share in [0, 1]."""
    session = subject.session()
    if not isinstance(session.method, Combination):
        return
    session.begin_epoch(0)
    for batch in session.batches(0):
        kept = batch.images.clone()
        first, again = (session.method.mixer.mix(batch, torch.Generator().manual_seed(7)) for _ in range(2))
        _judge_mixed(first, batch, session.data.num_classes)
        if not torch.equal(kept, batch.images):
            raise Failed("mix() wrote into batch.images; blend into a new tensor, or clone() first")
        same = torch.equal(first.images, again.images) and torch.equal(first.labels_b, again.labels_b)
        if not same or float(first.share) != float(again.share):
            raise Failed("mix() gives another result for the same generator; take every random number from it")


def _judge_mixed(mixed: object, batch: Batch, num_classes: int) -> None:
    if not isinstance(mixed, Mixed):
        raise Failed(f"mix() returned {_kind(mixed)}; return sdbench.Mixed(images, labels_b, share)")
    if mixed.images.shape != batch.images.shape or mixed.images.dtype != batch.images.dtype:
        raise Failed(
            f"mix() returned images {_shape(mixed.images)}; they must be like the batch's, {_shape(batch.images)}"
        )
    labels = mixed.labels_b
    if labels.shape != batch.labels.shape or labels.dtype != torch.int64:
        raise Failed(
            f"mix() returned labels_b {_shape(labels)}; they must be like batch.labels, {_shape(batch.labels)}"
        )
    if not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise Failed(f"mix() returned labels_b outside [0, {num_classes}); take them from batch.labels")
    if isinstance(mixed.share, Tensor) and mixed.share.dim():
        raise Failed(f"mix() returned a share {_shape(mixed.share)}; one number per batch is blended: give it 0-d")
    if not 0 <= float(mixed.share) <= 1:
        raise Failed(f"mix() returned share {float(mixed.share)}; it must lie in [0, 1]")


def returns_terms(subject: Subject) -> None:
    """The loss is a dict of named 0-d tensors, at least one of which depends on the network."""
    session = subject.session()
    session.begin_epoch(0)
    batch, progress = next(session.batches(0)), torch.tensor(0.0)
    if isinstance(session.method, Combination):
        base = session.method.base
        _judge_terms(base.criterion(session.network(batch.images), batch, progress), "criterion()")
    _judge_terms(session.method.loss(session.network, batch, progress), "the loss")


def _judge_terms(terms: object, source: str) -> None:
    if not isinstance(terms, dict) or not terms:
        raise Failed(f"{source} returned {_kind(terms)}; return a dict of named terms, such as {{'ce': loss}}")
    for name, term in terms.items():
        if not isinstance(name, str):
            raise Failed(f"{source} returned a term named {name!r}; name each with a string")
        if not isinstance(term, Tensor) or not term.is_floating_point():
            raise Failed(f"term {name!r} is {_kind(term)}; make it a 0-d floating-point tensor")
        if term.dim():
            raise Failed(f"term {name!r} is {_shape(term)}; take the mean over the batch, so that it is 0-d")
    if not any(term.requires_grad for term in terms.values()):
        raise Failed(f"no term of {source} has a gradient; something is detached, or computed under no_grad()")


def names_terms_alike(subject: Subject) -> None:
    """The names of the terms stay the same within an epoch; the very first step may lack some."""
    session = subject.session()
    names = [sorted(terms) for _, terms in train(session, epochs=2)]
    first, second = names[1 : session.steps], names[session.steps :]
    for epoch in (first, second):
        for other in epoch[1:]:
            if other != epoch[0]:
                raise Failed(
                    f"the terms are {epoch[0]} in one step and {other} in another of the same epoch, so that their "
                    "means would mislead; return every term each time, 0 where it is off"
                )


def uses_its_parameters(subject: Subject) -> None:
    """Every auxiliary parameter gets a gradient within the first ten steps."""
    session = subject.session()
    for step, _ in enumerate(train(session, session.spec.recipe.epochs), start=1):
        if step == GRADIENT_DEADLINE:
            break
    try:
        session.refuse_unused_parameters()
    except RuntimeError as error:
        raise Failed(str(error)) from error


def leaves_batch_alone(subject: Subject) -> None:
    """Images, views, partners, labels, index and progress are the same after a step as before, bit for bit."""
    session = subject.session()
    session.begin_epoch(0)
    seen: list[tuple[str, Tensor, Tensor]] = []
    for batch in session.batches(0):
        seen += [(name, tensor, tensor.clone()) for name, tensor in _tensors(batch)]
        try:
            session.step(batch, session.spec.recipe.lr, 0.0)
        except RuntimeError:  # autograd, too, notices that a tensor it keeps was written to, but cannot name it
            _judge_unchanged(seen)
            raise
    progress = torch.tensor(0.25)
    seen.append(("progress", progress, progress.clone()))
    session.method.loss(session.network, batch, progress)
    session.end_epoch()
    _judge_unchanged(seen)


def _judge_unchanged(seen: list[tuple[str, Tensor, Tensor]]) -> None:
    for name, tensor, before in seen:
        if not torch.equal(tensor, before):
            raise Failed(f"the method wrote into {name}; other code sees that too: clone() it first")


def _tensors(batch: Batch) -> list[tuple[str, Tensor]]:
    several = [
        (f"batch.{field}[{i}]", t) for field in ("views", "partners") for i, t in enumerate(getattr(batch, field))
    ]
    return [*((f"batch.{field}", getattr(batch, field)) for field in ("images", "labels", "index")), *several]


def leaves_network_alone(subject: Subject) -> None:
    """After each step the network is in train mode and all of its weights still want a gradient."""
    session = subject.session()
    for _ in train(session, epochs=1):
        if not all(module.training for module in session.network.modules()):
            raise Failed(
                "a step leaves the network in eval mode; use network.frozen_copy(), or call network.train() after"
            )
        frozen = [name for name, p in session.network.named_parameters() if not p.requires_grad]
        if frozen:
            raise Failed(f"a step leaves the weight {frozen[0]!r} without requires_grad; use network.frozen_copy()")
        if not torch.is_grad_enabled():
            raise Failed("a step leaves gradients switched off; use `with torch.no_grad():`")


def _kind(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor {_shape(value)}"
    nothing = value is None or (isinstance(value, dict) and not value)
    return "nothing" if nothing else f"a {type(value).__name__}"


def _shape(tensor: Tensor) -> str:
    return f"of shape {list(tensor.shape)}, {tensor.dtype}".replace("torch.", "")
