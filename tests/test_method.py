"""The contract's own classes: defaults of Method, blending by Combination, and the documented plain loop."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdbench import Batch, Method, Mixed, Network, Output, Task, Terms, wrap
from sdbench.errors import UserError
from sdbench.method import Combination, mixes, mixing_obstacle

PROGRESS = torch.zeros(())


def batch_of(count: int = 6, classes: int = 3, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 3, 8, 8, generator=generator)
    return Batch(images, (), (), torch.arange(count) % classes, torch.arange(count))


def output_of(logits: Tensor) -> Output:
    return Output(logits, logits.new_zeros((len(logits), 0)), ())


class Mixer(Method):
    """Blends with the batch in reverse; the share of the batch's own images is drawn."""

    def mix(self, batch: Batch, generator: torch.Generator) -> Mixed:
        share = torch.rand((), generator=generator)
        return Mixed(share * batch.images + (1 - share) * batch.images.flip(0), batch.labels.flip(0), share)


class Counting(Method):
    """Counts the calls of its hooks; its criterion is twice the cross-entropy."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def setup(self, task: Task, network: Network) -> None:
        self.calls.append("setup")

    def criterion(self, output: Output, batch: Batch, progress: Tensor) -> Terms:
        self.calls.append("criterion")
        return {"twice": 2 * F.cross_entropy(output.logits, batch.labels)}

    def before_epoch(self, epoch: int, epochs: int) -> None:
        self.calls.append("before_epoch")

    def after_step(self, network: Network) -> None:
        self.calls.append("after_step")

    def after_epoch(self, network: Network) -> None:
        self.calls.append("after_epoch")

    def after_validation(self, logits: Tensor, labels: Tensor) -> None:
        self.calls.append("after_validation")


class CountingMixer(Counting):
    def mix(self, batch: Batch, generator: torch.Generator) -> Mixed:
        self.calls.append("mix")
        return Mixed(batch.images, batch.labels, 1.0)


def flat(classes: int = 3) -> Network:
    torch.manual_seed(0)
    return wrap(nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, classes)))


def call_all_hooks(method: Method, network: Network) -> None:
    method.setup(Task(num_classes=3, num_train=6, batch_size=6, epochs=1), network)
    method.before_epoch(0, 1)
    method.loss(network, batch_of(), PROGRESS)
    method.after_step(network)
    method.after_epoch(network)
    method.after_validation(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64))


def test_default_criterion_is_cross_entropy_by_hand() -> None:
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 0.0, 0.0]], requires_grad=True)
    batch = batch_of(2).with_labels(torch.tensor([1, 2]))
    terms = Method().criterion(output_of(logits), batch, PROGRESS)
    first = math.log(math.exp(2) + 1 + math.exp(-1))
    assert list(terms) == ["ce"]
    assert terms["ce"].item() == pytest.approx((first + math.log(3)) / 2, rel=1e-6)
    assert terms["ce"].dim() == 0


@pytest.mark.parametrize(
    ("given", "computed"),
    [(torch.float64, torch.float64), (torch.float32, torch.float32), (torch.bfloat16, torch.float32)],
)
def test_default_criterion_computes_in_float32_at_least(given: torch.dtype, computed: torch.dtype) -> None:
    terms = Method().criterion(output_of(torch.randn(6, 3).to(given)), batch_of(), PROGRESS)
    assert terms["ce"].dtype == computed


def test_default_loss_is_the_criterion_of_one_forward_pass() -> None:
    network, batch = flat(), batch_of()
    terms = Method().loss(network, batch, PROGRESS)
    expected = F.cross_entropy(network.module(batch.images), batch.labels)
    assert torch.equal(terms["ce"], expected)
    assert (network.passes.with_gradient, network.passes.without_gradient) == (6, 0)


def test_optional_hooks_do_nothing() -> None:
    method = Method()
    call_all_hooks(method, flat())
    assert method.state_dict() == {}
    assert [*method.parameters()] == []


def test_class_attributes_have_the_documented_defaults() -> None:
    method = Method()
    assert (method.views, method.partners, method.partners_in_batch, method.generations) == (1, 0, False, 1)
    assert (method.wants_validation, method.baseline, method.core) == (False, False, False)


def test_batch_and_task_are_frozen_and_batches_can_be_varied() -> None:
    batch = batch_of()
    with pytest.raises(dataclasses.FrozenInstanceError):
        batch.labels = batch.index  # type: ignore[misc]
    other = batch.with_labels(batch.labels.flip(0)).with_images(batch.images * 2)
    assert torch.equal(other.labels, batch.labels.flip(0))
    assert torch.equal(other.images, batch.images * 2)
    assert other.index is batch.index
    assert torch.equal(batch.labels, torch.arange(6) % 3)


def test_batch_does_not_check_the_rank_of_images() -> None:
    assert Batch(torch.zeros(4, 5), (), (), torch.zeros(4).long(), torch.arange(4)).images.dim() == 2


def test_a_method_that_does_not_mix_says_so() -> None:
    with pytest.raises(TypeError, match="Counting does not mix images; override mix"):
        Counting().mix(batch_of(), torch.Generator())
    assert not mixes(Counting())
    assert mixes(Mixer)
    assert mixes(Mixer())


def test_combination_blends_the_losses_of_both_label_sets() -> None:
    network, batch = flat(), batch_of()
    combined = Combination(Counting(), Mixer())
    combined.hand_generator(torch.Generator().manual_seed(5))
    terms = combined.loss(network, batch, PROGRESS)
    share = torch.rand((), generator=torch.Generator().manual_seed(5)).item()
    logits = network.module(share * batch.images + (1 - share) * batch.images.flip(0))
    own, other = F.cross_entropy(logits, batch.labels), F.cross_entropy(logits, batch.labels.flip(0))
    assert list(terms) == ["twice"]
    assert terms["twice"].item() == pytest.approx(2 * (share * own + (1 - share) * other).item(), rel=1e-5)
    assert network.passes.with_gradient == 6


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_share_of_one_is_the_batch_itself_and_of_zero_the_other(share: float) -> None:
    class Fixed(Method):
        def mix(self, batch: Batch, generator: torch.Generator) -> Mixed:
            return Mixed(batch.images, batch.labels.flip(0), share)

    network, batch = flat(), batch_of()
    mixer = Fixed()
    combined = Combination(mixer, mixer)
    combined.hand_generator(torch.Generator())
    labels = batch.labels if share else batch.labels.flip(0)
    expected = F.cross_entropy(network.module(batch.images), labels)
    torch.testing.assert_close(combined.loss(network, batch, PROGRESS)["ce"], expected)


def test_combination_calls_each_hook_once_per_member() -> None:
    base, mixer = Counting(), CountingMixer()
    combined = Combination(base, mixer)
    combined.hand_generator(torch.Generator())
    call_all_hooks(combined, flat())
    hooks = ["setup", "before_epoch", "after_step", "after_epoch", "after_validation"]
    assert [c for c in base.calls if c != "criterion"] == hooks
    assert base.calls.count("criterion") == 2
    assert [c for c in mixer.calls if c != "mix"] == hooks
    assert mixer.calls.count("mix") == 1
    alone = CountingMixer()
    twice_the_same = Combination(alone, alone)
    twice_the_same.hand_generator(torch.Generator())
    call_all_hooks(twice_the_same, flat())
    assert [c for c in alone.calls if c not in ("mix", "criterion")] == hooks


def test_combination_takes_over_what_its_base_needs() -> None:
    base = Counting()
    base.generations, base.wants_validation = 3, True
    combined = Combination(base, Mixer())
    assert (combined.generations, combined.wants_validation) == (3, True)
    assert (combined.views, combined.partners) == (1, 0)


def test_what_cannot_be_mixed_says_why() -> None:
    class TwoPasses(Method):
        def loss(self, network: Network, batch: Batch, progress: Tensor) -> Terms:
            return {"ce": network(batch.images).logits.sum()}

    class Remembers(Counting):
        refuses_mixing = "it keeps a row for each image"

    class Paired(Counting):
        partners = 1

    class Viewed(Counting):
        views = 2

    reasons = [mixing_obstacle(type(m), m) for m in (Counting(), TwoPasses(), Remembers(), Mixer(), Paired(), Viewed())]
    assert reasons[0] == ""
    assert "one forward pass" in reasons[1]
    assert reasons[2] == "it keeps a row for each image"
    assert "mixes images itself" in reasons[3]
    assert "partners" in reasons[4]
    assert "views" in reasons[5]


class Everything(Method):
    """An auxiliary head, a per-sample memory, an epoch buffer and a counter: all in one."""

    def setup(self, task: Task, network: Network) -> None:
        self.scale = nn.Parameter(torch.ones(()))
        self.register_buffer("past", torch.zeros(task.num_train, task.num_classes))
        self.register_buffer("share", torch.zeros(()))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def before_epoch(self, epoch: int, epochs: int) -> None:
        self.share.fill_(0.5 * epoch / epochs)

    def loss(self, network: Network, batch: Batch, progress: Tensor) -> Terms:
        logits = network(batch.images).logits * self.scale
        targets = (1 - self.share) * F.one_hot(batch.labels, 3) + self.share * self.past[batch.index]
        self.past[batch.index] = logits.detach().softmax(1)
        return {"soft": F.cross_entropy(logits, targets), "size": 1e-4 * (1 + progress) * logits.square().mean()}

    def after_step(self, network: Network) -> None:
        self.steps += 1


def test_the_documented_plain_loop_trains() -> None:
    """The loop of the module's docstring, on a module that gives logits only."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 3))
    network, method, batch = wrap(module), Everything(), batch_of()
    method.setup(Task(num_classes=3, num_train=6, batch_size=6, epochs=20), network)
    optimizer = torch.optim.SGD([*module.parameters(), *method.parameters()], lr=0.1)
    losses = []
    for epoch in range(20):
        method.before_epoch(epoch, 20)
        loss = torch.stack([*method.loss(network, batch, torch.tensor(epoch / 20)).values()]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        method.after_step(network)
        method.after_epoch(network)
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]
    assert int(method.steps) == 20
    assert (module(batch.images).argmax(1) == batch.labels).all()


def test_a_method_that_needs_stages_refuses_a_network_without() -> None:
    class NeedsStages(Method):
        def setup(self, task: Task, network: Network) -> None:
            self.head = nn.Linear(network.stage_shapes[0][0], task.num_classes)

    with pytest.raises(UserError, match=r"wrapped Sequential .* gives logits only, and this method needs") as caught:
        NeedsStages().setup(Task(3, 6, 6, 1), flat())
    assert "wrap(module, stages=" in str(caught.value), "what to type next"
