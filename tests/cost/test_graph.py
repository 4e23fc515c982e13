"""Captured steps, with a recorder that repeats the work where a GPU would replay a graph."""

import pytest
import torch
from torch import nn

from sdbench import registry
from sdbench.graph import FIRST_EAGER, CapturedStep, plain_state
from sdbench.method import Terms

DRAWING = ("cutmix", "manifold_mixup", "mixskd", "mixup")
"""Methods whose loss draws from a torch.Generator, which torch's tracer cannot follow."""


class Repeater:
    """Stands in for a CUDA graph: what is recorded is undone, and repeated on the same memory at each replay."""

    def __init__(self, session, problem: str = "") -> None:
        self.session, self.problem = session, problem
        self.recorded = self.replayed = 0

    def record(self, work, generators):
        if self.problem:
            raise RuntimeError(self.problem)
        state = {k: v.clone() for k, v in self.session.network.state_dict().items()}
        held = self.session.optimizer.state_dict()
        momentum = {k: v["momentum_buffer"].clone() for k, v in held["state"].items()}
        method = {k: v.clone() for k, v in self.session.method.state_dict().items()}
        drawn = [(g, g.get_state()) for g in self.session._stateful()[1]]
        work()  # a capture runs the Python code; the device does nothing
        self.session.network.load_state_dict(state)
        self.session.method.load_state_dict(method)
        for generator, stream in drawn:
            generator.set_state(stream)
        for k, v in self.session.optimizer.state_dict()["state"].items():
            v["momentum_buffer"].copy_(momentum[k])
        self.recorded += 1

        def replay() -> Terms:
            self.replayed += 1
            before = vars(self.session.network.passes).copy()
            terms = work()
            vars(self.session.network.passes).update(before)  # a replay runs no Python code
            return terms

        return replay

    def watched(self, work):
        return work(), ""


def captured(stepper, method: str, problem: str = ""):
    found = stepper(method)
    session = found.session
    recorder = Repeater(session, problem)
    session._captured = CapturedStep(session._work, session.network.passes, session._stateful, recorder)
    return found, recorder


@pytest.mark.parametrize("method", registry.names())
def test_replayed_steps_train_as_eager_ones_do(stepper, method: str) -> None:
    """Two epochs: weights, state and counted passes end the same, bit for bit."""
    eager = stepper(method)
    replayed, recorder = captured(stepper, method)
    for each in (eager, replayed):
        for _ in range(8):
            each()
        each.settle()
        for _ in range(5):
            each()
    assert recorder.recorded == 2
    assert recorder.replayed == (8 - FIRST_EAGER) + (5 - 1)
    for key, value in eager.session.network.state_dict().items():
        assert torch.equal(value, replayed.session.network.state_dict()[key]), key
    for key, value in eager.session.method.state_dict().items():
        assert torch.equal(value, replayed.session.method.state_dict()[key]), key
    assert vars(eager.session.network.passes) == vars(replayed.session.network.passes)
    assert replayed.session.step_kind == ("graph", "")


def test_a_short_batch_runs_eagerly(stepper) -> None:
    found, recorder = captured(stepper, "ce")
    for _ in range(FIRST_EAGER + 1):
        found()
    batch = found.batch()
    short = type(batch)(batch.images[:5], (), (), batch.labels[:5], batch.index[:5])
    found.train(short)
    assert recorder.replayed == 1
    found()
    assert recorder.replayed == 2


def test_what_cannot_be_captured_runs_eagerly_and_says_why(stepper) -> None:
    found, _ = captured(stepper, "ce", problem="operation not permitted when stream is capturing\nmore")
    for _ in range(6):
        found()
    kind, reason = found.session.step_kind
    assert kind == "eager"
    assert reason == "it cannot be captured: operation not permitted when stream is capturing"
    assert found.session.network.passes.with_gradient == 6 * 16


def test_python_state_that_a_step_changes_is_noticed(stepper) -> None:
    found, recorder = captured(stepper, "planted_wait")
    for _ in range(6):
        found()
    assert recorder.recorded == 0
    assert found.session.step_kind == ("eager", "its step changes last, which a recording would freeze")


def test_random_numbers_of_the_host_are_noticed(stepper) -> None:
    found, recorder = captured(stepper, "planted_sort")
    for _ in range(6):
        found()
    assert recorder.recorded == 0
    assert found.session.step_kind == ("eager", "its step draws random numbers on the host")


def test_plain_state_sees_values_and_replaced_tensors() -> None:
    module = nn.Linear(2, 2)
    module.register_buffer("memory", torch.zeros(3))
    module.inner = nn.Identity()
    before = plain_state(module)
    module.memory.add_(1)
    assert plain_state(module) == before
    module.inner._count = 1
    module.memory = torch.zeros(3)
    module.seen = {"steps": [1]}
    changed = {k for k, v in plain_state(module).items() if before.get(k) != v}
    assert changed == {"inner._count", "memory", "seen"}
    before = plain_state(module)
    module.seen["steps"].append(2)
    assert plain_state(module)["seen"] != before["seen"]


def test_a_graph_needs_a_gpu(stepper) -> None:
    with pytest.raises(ValueError, match="needs a GPU"):
        stepper("ce").session.choose_step("graph")


# What torch's own tracer does to autograd functions in 2.11:
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize(
    ("method", "num_classes"), [("zipf", 10), *((m, 300) for m in registry.names() if m not in DRAWING)]
)
def test_losses_compile_without_a_graph_break(stepper, method: str, num_classes: int) -> None:
    """Traced as a whole (fullgraph) and run without a code generator: the same loss and gradients."""
    from .conftest import SMALL

    setting = SMALL.model_copy(update={"num_classes": num_classes, "num_train": 2 * num_classes, "precision": "fp32"})
    found = stepper(method, setting)
    session, batch = found.session, found.batch()
    progress = torch.tensor(0.5)
    session.network.eval()  # so that BatchNorm leaves both runs the same input
    results = []
    state = {k: v.clone() for k, v in session.method.state_dict().items()}
    for loss in (session.method.loss, torch.compile(session.method.loss, fullgraph=True, backend="aot_eager")):
        session.method.load_state_dict({k: v.clone() for k, v in state.items()})
        session.network.zero_grad()
        terms = loss(session.network, batch, progress)
        sum(terms.values()).backward()
        results.append((terms, [p.grad.clone() for p in session.network.parameters()]))
    torch._dynamo.reset()
    (eager, own), (compiled, other) = results
    assert set(eager) == set(compiled)
    for name in eager:
        torch.testing.assert_close(eager[name], compiled[name])
    for a, b in zip(own, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
