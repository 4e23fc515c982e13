"""Conformance checks of what a method computes: finite, paired with the baseline, resumable, repeatable.

Each function trains on a tiny task. It returns nothing where the method conforms, raises :class:`Failed`
where it does not, and lets through whatever the method's own code raises.
"""

from __future__ import annotations

import random
import tempfile
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdbench import checkpoint, registry
from sdbench.coupling import coupling
from sdbench.method import Method
from sdbench.session import Session
from sdbench.spec import Options
from sdbench.store import Store
from sdbench.subject import Failed, Subject, total, train
from sdbench.train import run_trial

NEUTRAL_TOLERANCE = 1e-4
"""Relative difference from the baseline that a neutral method may have after some float32 steps."""

_WHENCE_NAN = "look for a logarithm or a division at 0, or an exponential of logits that softmax should have met"


def stays_finite(subject: Subject) -> None:
    """Loss terms, gradients and weights are finite over two epochs."""
    _stays_finite(subject.session(), epochs=2)


def _stays_finite(session: Session, epochs: int) -> None:
    for step, (_, terms) in enumerate(train(session, epochs)):
        for name, term in terms.items():
            if not bool(term.isfinite()):
                raise Failed(f"term {name!r} is {term.item()} in step {step}; {_WHENCE_NAN}")
        for name, parameter in _parameters(session):
            if parameter.grad is not None and not bool(parameter.grad.isfinite().all()):
                raise Failed(f"the gradient of {name} is not finite in step {step}; {_WHENCE_NAN}")
    if not bool(session.finite()):
        raise Failed(f"the network's weights are not finite after {epochs} epochs; {_WHENCE_NAN}")


_WHENCE_NAN = "look for a logarithm or a division at 0, or an exponential of logits that softmax should have met"


def _parameters(session: Session) -> list[tuple[str, torch.nn.Parameter]]:
    own = [(f"the network's {name}", p) for name, p in session.network.named_parameters()]
    return own + [(f"the auxiliary parameter {name}", p) for name, p in session.auxiliary.items()]


def reaches_network(subject: Subject) -> None:
    """The loss teaches the network: some weight of it gets a gradient other than zero."""
    session = subject.session()
    next(train(session, epochs=1))
    if not any(p.grad is not None and bool(p.grad.any()) for p in session.network.parameters()):
        raise Failed("no weight of the network gets a gradient; does the loss detach every output of network()?")


def takes_two_classes(subject: Subject) -> None:
    """Two classes are enough: nothing takes a third-best class or divides by K - 2."""
    _stays_finite(subject.session(num_classes=2), epochs=1)


def takes_short_batch(subject: Subject) -> None:
    """A last batch of two images works (one alone is more than BatchNorm itself can take)."""
    _stays_finite(subject.session(short=True), epochs=2)


def computes_in_bf16(subject: Subject) -> None:
    """Under bfloat16 autocast, as trials run by default, loss and gradients are finite."""
    _stays_finite(subject.session(precision="bf16"), epochs=1)


def splits_over_devices(subject: Subject) -> None:
    """A batch's loss, gradients and state are those of its parts together, unless couples_samples says why not."""
    if found := coupling(subject.session()):
        raise Failed(found)


def neutral_is_baseline(subject: Subject) -> None:
    """With its neutral values, if it names any, the method has the loss and the gradients of plain cross-entropy."""
    neutral = registry.get(subject.members[0]).neutral
    if not neutral or len(subject.members) > 1:
        return
    subject = replace(subject, params={**subject.params, **neutral})
    session, baseline = subject.session(), subject.session()
    baseline.method = Method()
    values = ", ".join(f"{key}={value}" for key, value in neutral.items())
    for step, (batch, terms) in enumerate(train(session, epochs=1)):
        expected = total(baseline.step(batch, session.spec.recipe.lr, 0.0))
        if not torch.isclose(total(terms), expected, rtol=NEUTRAL_TOLERANCE):
            raise Failed(
                f"with {values} the loss of step {step} is {total(terms):.6f}, plain cross-entropy {expected:.6f}; "
                "mend the loss, or leave `neutral` empty if no values switch the method off"
            )
        ours, theirs = (_gradient(s.network) for s in (session, baseline))
        if (ours - theirs).norm() > NEUTRAL_TOLERANCE * theirs.norm():
            raise Failed(
                f"with {values} the loss equals plain cross-entropy but its gradient does not (relative difference "
                f"{(ours - theirs).norm() / theirs.norm():.1e} in step {step}); a detach() is missing or too many"
            )


def _gradient(network: torch.nn.Module) -> Tensor:
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in network.parameters()])


def resumes(subject: Subject) -> None:
    """Interrupted after two epochs and resumed, four epochs end as they do in one go, bit for bit."""
    with tempfile.TemporaryDirectory(prefix="sdbench-check-") as folder:
        straight = _trained(subject, Path(folder) / "straight", interrupt=False)
        resumed = _trained(subject, Path(folder) / "resumed", interrupt=True)
    where = difference(straight, resumed)
    if where:
        raise Failed(
            f"after a resume {where} differs from an uninterrupted run: something that the method keeps was lost. "
            "Keep state in buffers (register_buffer in setup()), not in plain attributes"
        )


def _trained(subject: Subject, folder: Path, *, interrupt: bool) -> dict[str, Any]:
    """Everything that a finished trial of four epochs comes to."""
    trial = subject.task.trial(subject.name, subject.params)
    store, options = Store(folder), Options(device="cpu", keep_checkpoints=True)
    if interrupt:
        asked, steps = count(), subject.session(short=True).steps
        run_trial(trial, store, options, stop=lambda: next(asked) >= 2 * steps, opener=subject.task.open)
    result = run_trial(trial, store, options, opener=subject.task.open)
    if result.status != "ok":
        again = "a resumed trial" if interrupt else "a trial"
        advice = "Build buffers and heads in setup(), each at its full size" if interrupt else "Mend that first"
        raise Failed(f"{again} ends as {result.status}: {result.reason}. {advice}")
    state = checkpoint.load(store.folder(trial.spec, trial.id) / "checkpoint")
    assert state is not None
    curve = [{k: v for k, v in line.items() if k != "images_per_s"} for line in state["progress"]["curve"]]
    return {"the curve": curve, **state["session"], "metrics": dict(result.metrics or {})}


def difference(one: Any, other: Any, path: str = "") -> str:
    """Where two nested values differ first, bit for bit; empty where they do not. NaN equals NaN."""
    if isinstance(one, dict) and isinstance(other, dict):
        if one.keys() != other.keys():
            return f"{path} (its keys)"
        return next((d for k in one if (d := difference(one[k], other[k], f"{path}.{k}".strip(".")))), "")
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return next((d for i, v in enumerate(one) if (d := difference(v, other[i], f"{path}[{i}]"))), "")
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        alike = one.shape == other.shape and one.dtype == other.dtype
        return "" if alike and torch.allclose(one, other, rtol=0, atol=0, equal_nan=True) else path
    return "" if type(one) is type(other) and one == other else path


def repeats(subject: Subject) -> None:
    """Trained twice from one seed, the loss is the same in every step, bit for bit."""
    first, second = ([total(terms) for _, terms in train(subject.session(), epochs=1)] for _ in range(2))
    if not torch.equal(torch.stack(first), torch.stack(second)):
        raise Failed(
            "the same seed gives another loss: something is random or kept outside the method. Draw from "
            "task.generator; keep state in buffers, not in the class or the module"
        )


def draws_from_its_generator(subject: Subject) -> None:
    """After setup() nothing depends on the global generators of torch, NumPy and random."""

    def losses(seed: int) -> Tensor:
        return torch.stack(
            [t for _, terms in train(subject.session(), 2, lambda: _seed_all(seed)) for t in [total(terms)]]
        )

    if not torch.equal(losses(1), losses(2)):
        raise Failed(
            "the loss depends on a global random generator. Pass generator=task.generator to torch.rand, randperm, "
            "bernoulli and the like, and replace nn.Dropout by a mask that is drawn from it"
        )


def _seed_all(seed: int) -> None:
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)
