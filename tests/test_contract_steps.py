"""What a step and an epoch of the harness do to a method's parts, compared with the same by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F

from sdbench.session import Session

OpenToy = Callable[[str], Session]


def test_views_and_partners_are_handed_over(open_toy: OpenToy) -> None:
    for name, views, partners, size in [
        ("toy_views", 1, 0, 12),
        ("toy_one_partner", 0, 1, 12),
        ("toy_two_partners", 0, 2, 12),
        ("toy_partners_in_batch", 0, 3, 3),
        ("toy_base", 0, 0, 12),
    ]:
        batch = next(open_toy(name).batches(0))
        assert (len(batch.views), len(batch.partners)) == (views, partners)
        assert batch.labels.shape == batch.index.shape == (size,)
        further = [*batch.views, *batch.partners]
        assert all(t.shape == batch.images.shape == (size, 3, 16, 16) for t in further)
        assert all(not torch.equal(t, batch.images) for t in further)


def test_an_auxiliary_head_is_trained(open_toy: OpenToy) -> None:
    session = open_toy("toy_head")
    before = {k: v.clone() for k, v in session.method.state_dict().items()}
    session.begin_epoch(0)
    session.step(next(session.batches(0)), 0.1, 0.0)
    assert all(not torch.equal(before[k], v) for k, v in session.method.state_dict().items())


def test_moving_average_follows_the_weights(open_toy: OpenToy) -> None:
    session = open_toy("toy_average")
    expected = [p.detach().double().clone() for p in session.network.parameters()]
    for epoch in range(2):
        session.begin_epoch(epoch)
        for batch in session.batches(epoch):
            session.step(batch, 0.05, 0.0)
            expected = [0.9 * m + 0.1 * p.detach() for m, p in zip(expected, session.network.parameters(), strict=True)]
        session.end_epoch()
    teacher = list(session.method.teacher.parameters())
    assert all(not p.requires_grad for p in teacher)
    for mean, wanted in zip(teacher, expected, strict=True):
        torch.testing.assert_close(mean.double(), wanted, rtol=1e-5, atol=1e-6)


def test_snapshot_is_that_of_the_last_epoch(open_toy: OpenToy) -> None:
    session = open_toy("toy_snapshot")
    for epoch in range(2):
        session.begin_epoch(epoch)
        for batch in session.batches(epoch):
            session.step(batch, 0.05, 0.0)
        assert not session.method.teacher.training
        session.end_epoch()
    end = session.network.state_dict()
    assert all(torch.equal(v, end[k]) for k, v in session.method.teacher.state_dict().items())


def test_memory_holds_what_each_image_was_given(open_toy: OpenToy) -> None:
    session = open_toy("toy_per_sample")
    seen = torch.zeros(26, 10)
    caught: list[torch.Tensor] = []
    session.network.register_forward_hook(lambda _m, _i, output: caught.append(output.logits.detach()))
    session.begin_epoch(0)
    for batch in session.batches(0):
        session.step(batch, 0.05, 0.0)
        seen[batch.index] = caught[-1].softmax(1)
    assert torch.equal(session.method.past, seen)
    assert (seen.sum(1) > 0.99).all()


def test_carried_batch_has_a_count_of_what_is_valid(open_toy: OpenToy) -> None:
    session = open_toy("toy_carry")
    session.begin_epoch(0)
    batches = list(session.batches(0))
    first = session.step(batches[0], 0.05, 0.0)["consistency"].item()
    later = session.step(batches[1], 0.05, 0.0)["consistency"].item()
    assert first == 0
    assert later > 0
    session.step(batches[2], 0.05, 0.0)
    assert int(session.method.valid) == len(batches[2].labels) == 2
    assert torch.equal(session.method.images[:2], batches[2].images)
    assert session.method.images.shape == (12, 3, 16, 16)


def test_teacher_is_frozen_and_survives(open_toy: OpenToy) -> None:
    session = open_toy("toy_three_generations")
    teacher = session.method.teacher
    before = copy.deepcopy(teacher.state_dict())
    for epoch in range(2):
        session.begin_epoch(epoch)
        for batch in session.batches(epoch):
            session.step(batch, 0.05, 0.0)
    assert not teacher.training
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    assert all(torch.equal(before[k], v) for k, v in teacher.state_dict().items())


def test_mixing_draws_are_those_of_the_epoch_alone(open_toy: OpenToy) -> None:
    """The stream of mixing is a function of the seed and the epoch, whatever was drawn before."""
    one, other = open_toy("toy_mix"), open_toy("toy_base+toy_mix")
    for batch in one.batches(0):
        one.begin_epoch(0)
        one.step(batch, 0.05, 0.0)
    losses = []
    for session in (one, other):
        session.network.load_state_dict(other.network.state_dict())
        session.begin_epoch(3)
        losses.append(session.step(next(session.batches(3)), 0.05, 0.0)["ce"].item())
    assert losses[0] == losses[1]


def test_edit_replaces_maps_on_their_way(open_toy: OpenToy) -> None:
    """The logits of an edited pass are those of the rest of the network on the edited map."""
    network = open_toy("toy_manifold").network.eval()
    images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    seen: list[int] = []

    def halve(stage: int, features: torch.Tensor) -> torch.Tensor:
        seen.append(stage)
        return features / 2 if stage == 1 else features

    with torch.no_grad():
        plain, edited = network(images), network(images, edit=halve)
        last = network.stages[2](plain.stages[1] / 2)
        expected = F.linear(last.mean((2, 3)), network.classifier.weight, network.classifier.bias)
    assert seen == [0, 1, 2]
    torch.testing.assert_close(edited.logits, expected)
    assert not torch.allclose(edited.logits, plain.logits)
