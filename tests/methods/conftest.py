"""Fixtures: what the tests of several methods judge alike."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from sdbench import Batch, Method, Mixed, Network, Task
from sdbench.method import Combination

Arrays = dict[str, NDArray[np.generic]]
PROGRESS = torch.tensor(0.0)


@pytest.fixture
def is_cross_entropy(logits_network: Network, logits_batch: Callable[..., Batch]) -> Callable[[Method], None]:
    """``is_cross_entropy(method)``: its loss and gradient are plain cross-entropy's to the bit."""

    def check(method: Method) -> None:
        logits, labels = torch.randn(33, 10, requires_grad=True), torch.randint(10, (33,))
        loss = sum(method.loss(logits_network, logits_batch(logits, labels), PROGRESS).values())
        plain = F.cross_entropy(logits, labels)
        assert torch.equal(loss, plain)
        assert torch.equal(*(torch.autograd.grad(x, logits)[0] for x in (loss, plain)))

    return check


class FixedMix(Method):
    """Mixes as it is told."""

    def __init__(self, order: Tensor, share: Tensor | float) -> None:
        super().__init__()
        self.order, self.share = order, share

    def mix(self, batch: Batch, generator: torch.Generator) -> Mixed:
        return Mixed(batch.images, batch.labels[self.order], self.share)


@pytest.fixture
def blended_loss_matches(
    matches: Callable[..., None],
    leaf: Callable[..., Tensor],
    logits_network: Network,
    logits_batch: Callable[..., Batch],
) -> Callable[[str, Arrays, Tensor | float], None]:
    """``blended_loss_matches(case, own, share)``: cross-entropy under the case's two label sets, in both precisions."""

    def check(case: str, own: Arrays, share: Tensor | float) -> None:
        labels, order = (torch.from_numpy(own[name]) for name in ("labels", "perm"))
        for precision in ("f32", "f64"):
            logits = leaf(own["logits"], precision)
            mixer = FixedMix(order, share.to(logits.dtype) if isinstance(share, Tensor) else share)
            method = Combination(mixer, mixer)
            method.hand_generator(torch.Generator())
            loss = method.loss(logits_network, logits_batch(logits, labels), PROGRESS)["ce"]
            loss.backward()
            matches(loss, own[f"official_loss_{precision}"], precision, f"{case} loss {precision}")
            key = f"official_grad_logits_{precision}"
            if key in own:
                matches(logits.grad, own[key], precision, f"{case}.{key}")
        assert "official_grad_logits_f64" in own

    return check


@pytest.fixture
def begun() -> Callable[[Method, Network, int, int], Method]:
    """``begun(method, network, batch_size, num_classes)``: set up for twenty images, in the first of four epochs."""

    def begin(method: Method, network: Network, batch_size: int, num_classes: int) -> Method:
        method.setup(Task(num_classes=num_classes, num_train=20, batch_size=batch_size, epochs=4), network)
        method.before_epoch(0, 4)
        return method

    return begin


@pytest.fixture
def reloaded() -> Callable[[Method, Callable[[], Method]], Method]:
    """``reloaded(method, build)``: what ``build`` makes, with a copy of the saved state of ``method``."""

    def reload(method: Method, build: Callable[[], Method]) -> Method:
        state = {key: value.clone() for key, value in method.state_dict().items()}
        fresh = build()
        fresh.load_state_dict(state)
        return fresh

    return reload


@pytest.fixture
def compiles_alike() -> Callable[..., None]:
    """``compiles_alike(eager, traced, network, *batches)``: the second method's loss compiles as a whole, and its
    terms are those that the first one gives, step by step; the two may be one."""

    def check(eager: Method, traced: Method, network: Network, *batches: Batch) -> None:
        compiled = torch.compile(traced.loss, fullgraph=True, backend="aot_eager")
        for batch in batches:
            plain, other = eager.loss(network, batch, PROGRESS), compiled(network, batch, PROGRESS)
            assert plain.keys() == other.keys()
            for name, value in plain.items():
                torch.testing.assert_close(other[name], value)
        torch._dynamo.reset()

    return check
