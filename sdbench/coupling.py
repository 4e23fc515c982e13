"""Whether a batch can be split, tried out: what ``--gpus-per-trial`` rests on and what a method may get wrong unsaid.

For a batch of n images in parts of n_k, with a method's terms L, means over the batch but for ``summed_terms``:

    L(batch) = sum_k (n_k / n) L(part k), or sum_k L(part k), and so for the gradients of all that is trained

and what the loss writes into buffers on the batch is what it writes on the parts, joined as ``joins`` says. Layers with
running statistics are held to those: what they couple is known, and part of what a trial with shards is.

Not covered: what depends on random numbers that the loss draws; state that each process keeps for itself ("own"), which
is as after the set-up; hooks other than the loss; another task than the one it is tried on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sdbench.joining import obstacle, running_layers
from sdbench.method import Batch, Joining
from sdbench.session import Session
from sdbench.subject import train

EPOCHS = 1
"""Of training before the batch that is split, so that memories hold something."""

TERM_TOLERANCE = 1e-4
"""Relative difference of a term that rounding in float32 may make, beside ``ROUNDING`` of the whole loss."""
ROUNDING = 3e-7
GRADIENT_TOLERANCE = 1e-3
"""Difference of the gradients relative to their norm."""
STATE_TOLERANCE = 1e-4
"""Difference in a buffer relative to its largest element."""

ADVICE = "say why in couples_samples (on the instance where a setting decides)"


@dataclass(frozen=True)
class _Tried:
    """What the loss is on some images. gradient: flat, of the terms weighted by the share of the batch."""

    terms: Mapping[str, float]
    gradient: Tensor
    state: Mapping[str, Tensor]


def coupling(session: Session) -> str:
    """What shows that batches of a method cannot be split as it says; empty where nothing does, or where it says that
    they cannot. Trains the session, which is of no use afterwards. Raises what the method raises."""
    method = session.method
    if obstacle(method):
        return ""
    own = {n: b.clone() for n, b in method.named_buffers() if method.joins.get(n) == "own"}
    for _ in train(session, EPOCHS):
        pass
    method.load_state_dict(own, strict=False)
    session.begin_epoch(EPOCHS)
    for layer in running_layers(session.network, method):
        layer.eval()
        layer.train = lambda mode=True, layer=layer: layer  # type: ignore[method-assign, misc]
    before = {n: value.clone() for n, value in method.state_dict().items()}
    batch = next(session.batches(EPOCHS))
    count = len(batch.labels)
    cut = max(1, count // 3)
    whole, again = (_try(session, before, batch, slice(count), seed) for seed in (1, 2))
    parts = [_try(session, before, batch, rows, 1) for rows in (slice(cut), slice(cut, count))]
    steady = {n for n in whole.terms if whole.terms[n] == again.terms.get(n)}
    found = _terms_apart(whole, parts, (cut / count, 1 - cut / count), steady, method.summed_terms)
    if found or steady != set(whole.terms):  # the rest would differ for the random numbers alone
        return found
    sizes = f"on a batch of {count} and on its parts of {cut} and {count - cut}"
    gradient = parts[0].gradient + parts[1].gradient
    if (gradient - whole.gradient).norm() > GRADIENT_TOLERANCE * whole.gradient.norm():
        return f"the loss has other gradients {sizes} together: it relates images to each other; {ADVICE}"
    indices = batch.index[:cut], batch.index[cut:]
    apart = [
        name
        for name, joining in method.joins.items()
        if name in before and _state_apart(joining, name, before, whole, parts, indices)
    ]
    return "".join(
        f"buffer {name!r} is declared to join as {method.joins[name]!r} and comes to something else {sizes}; mend "
        "joins, or say why in couples_samples"
        for name in apart[:1]
    )


def _try(session: Session, before: Mapping[str, Tensor], whole: Batch, rows: slice, seed: int) -> _Tried:
    """The loss on some rows of a batch, with the state as it was before."""
    method, network = session.method, session.network
    method.load_state_dict(before)
    torch.manual_seed(seed)
    session.generator.manual_seed(seed)
    views, partners = (tuple(images[rows].clone() for images in group) for group in (whole.views, whole.partners))
    part = Batch(whole.images[rows].clone(), views, partners, whole.labels[rows].clone(), whole.index[rows].clone())
    terms = method.loss(network, part, torch.tensor(0.5))
    share = len(part.labels) / len(whole.labels)
    trained = [p for p in [*network.parameters(), *method.parameters()] if p.requires_grad]
    for parameter in trained:
        parameter.grad = None
    weighted = [term if n in method.summed_terms else share * term for n, term in terms.items()]
    torch.stack([term.reshape(()).float() for term in weighted]).sum().backward()  # type: ignore[no-untyped-call]
    gradient = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in trained])
    state = {n: value.clone() for n, value in method.state_dict().items()}
    return _Tried({n: float(term.detach()) for n, term in terms.items()}, gradient, state)


def _terms_apart(
    whole: _Tried, parts: list[_Tried], shares: tuple[float, float], steady: set[str], summed: tuple[str, ...]
) -> str:
    """The first term that is not what its parts come to."""
    noise = ROUNDING * sum(map(abs, whole.terms.values()))
    for name in sorted(steady):
        value, own = whole.terms[name], [part.terms.get(name, 0.0) for part in parts]
        slack = TERM_TOLERANCE * abs(value) + noise
        mean, total = shares[0] * own[0] + shares[1] * own[1], own[0] + own[1]
        got, other = (total, mean) if name in summed else (mean, total)
        if not abs(got - value) > slack:  # what is not finite is another check's
            continue
        told = f"term {name!r} is {value:.6g} on a batch and {got:.6g} from its parts together"
        if abs(other - value) <= slack and all(own):  # a part without any share tells neither
            kind = "a mean over the batch: take it out of" if name in summed else "a sum over the batch: name it in"
            return f"{told}; it is {kind} summed_terms"
        return f"{told}: it relates images to each other; {ADVICE}"
    return ""


def _state_apart(
    joining: Joining,
    name: str,
    before: Mapping[str, Tensor],
    whole: _Tried,
    parts: list[_Tried],
    indices: tuple[Tensor, Tensor],
) -> bool:
    """Whether a buffer, joined as it says, is not what the loss on the whole batch leaves."""
    expected, base = whole.state[name].double(), before[name].double()
    own = [part.state[name].double() for part in parts]
    if joining == "own":
        return False
    if joining == "sum":
        joined = [own[0] + own[1] - base]
    elif joining == "rows":
        joined = [base.clone()]
        for index, rows in zip(indices, own, strict=True):
            joined[0][index] = rows[index]
    else:
        joined = own
    slack = STATE_TOLERANCE * max(float(expected.abs().max()) if expected.numel() else 0.0, 1e-12)
    return any(bool(((value - expected).abs() > slack).any()) for value in joined)
