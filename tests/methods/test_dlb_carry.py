"""What DLB carries from step to step and over epochs, against a plain loop without buffers."""

import copy

import pytest
import torch
import torch.nn.functional as F
from sdbench.methods.dlb import LastMiniBatch
from torch import nn

from sdbench.graph import plain_state
from sdbench.network import PassCounter

PROGRESS = torch.tensor(0.0)


def by_hand(network, batches, temperature=3.0, weight=1.0):
    """A plain loop without buffers: losses of every step."""
    optimizer, carried, losses = torch.optim.SGD(network.parameters(), lr=0.2), None, []
    for batch in batches:
        z = network(batch.images).logits
        if carried is None:
            loss = F.cross_entropy(z, batch.labels)
        else:
            before, past = carried
            again = network(before.views[0]).logits
            target = (past / temperature).softmax(1)
            kl = (target * (target.log() - (again / temperature).log_softmax(1))).sum() / len(past)
            ce = F.cross_entropy(torch.cat([z, again]), torch.cat([batch.labels, before.labels]))
            loss = ce + weight * temperature**2 * kl
        carried = (batch, z.detach())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


def ours(method, network, batches, steps_per_epoch):
    optimizer, losses = torch.optim.SGD(network.parameters(), lr=0.2), []
    for step, batch in enumerate(batches):
        if step % steps_per_epoch == 0:
            method.before_epoch(step // steps_per_epoch, 4)
        terms = method.loss(network, batch, PROGRESS)
        assert list(terms) == ["ce", "consistency"]
        optimizer.zero_grad()
        sum(terms.values()).backward()
        optimizer.step()
        losses.append(sum(terms.values()).detach())
    return torch.stack(losses)


@pytest.fixture
def batches(image_batch, logits_batch):
    """Two epochs of two full batches and a short one."""

    def make(classes=5):
        found = []
        for seed, size in enumerate((6, 6, 2) * 2):
            batch = image_batch(size=size, classes=classes, seed=seed)
            found.append(logits_batch(batch.images, batch.labels, view=batch.partners[0]))
        return found

    return make


@pytest.mark.parametrize("classes", [2, 5])
def test_a_short_batch_is_carried_into_the_next_epoch_as_it_is(classes, staged_network, batches, begun):
    network, steps = staged_network(classes=classes), batches(classes)
    other = copy.deepcopy(network)
    other.passes = PassCounter()  # a copy counts with its original otherwise
    method = begun(LastMiniBatch(), network, 6, classes)
    addresses = [value.data_ptr() for value in method.buffers()]
    torch.testing.assert_close(ours(method, network, steps, 3), by_hand(other, steps))
    for key, value in other.state_dict().items():
        torch.testing.assert_close(network.state_dict()[key], value, msg=key)
    assert {int(m.num_batches_tracked) for m in network.modules() if isinstance(m, nn.BatchNorm2d)} == {11}
    # Six new batches, 28 images, and five carried ones, 26 images.
    assert (network.passes.with_gradient, network.passes.without_gradient) == (54, 0)
    assert int(method.past_rows) == 2
    assert [value.data_ptr() for value in method.buffers()] == addresses


@pytest.mark.parametrize("done", [1, 3, 4])
def test_a_saved_state_goes_on_bit_for_bit(done, staged_network, batches, begun, reloaded):
    """Saved after the first step, after a short batch, and in the middle of the second epoch."""
    steps = batches()
    network = staged_network()
    method = begun(LastMiniBatch(), network, 6, 5)
    expected = ours(method, network, steps, 99)
    network = staged_network()
    method = begun(LastMiniBatch(), network, 6, 5)
    ours(method, network, steps[:done], 99)
    again = reloaded(method, lambda: begun(LastMiniBatch(), network, 6, 5))
    assert torch.equal(ours(again, network, steps[done:], 99), expected[done:])


def test_both_batches_in_one_pass(staged_network, batches, begun):
    """Other statistics in BatchNorm, one pass a step, the same number of images."""
    network = staged_network()
    method = begun(LastMiniBatch(passes="joint"), network, 6, 5)
    first, second = batches()[:2]
    past = copy.deepcopy(network)(first.images).logits.detach()
    method.loss(network, first, PROGRESS)
    both = copy.deepcopy(network)(torch.cat([second.images, first.views[0]])).logits
    terms = method.loss(network, second, PROGRESS)
    torch.testing.assert_close(terms["ce"], F.cross_entropy(both, torch.cat([second.labels, first.labels])))
    target = (past / 3).softmax(1)
    kl = (target * (target.log() - (both[6:] / 3).log_softmax(1))).sum() / 6
    torch.testing.assert_close(terms["consistency"], 9 * kl)
    assert {int(m.num_batches_tracked) for m in network.modules() if isinstance(m, nn.BatchNorm2d)} == {2}


def test_a_full_step_after_a_full_step_changes_no_plain_value(staged_network, batches, begun):
    """What a recording of such a step would freeze."""
    network = staged_network()
    method = begun(LastMiniBatch(), network, 6, 5)
    method.loss(network, batches()[0], PROGRESS)
    state, rows = plain_state(method), copy.copy(method._rows)
    method.loss(network, batches()[1], PROGRESS)
    assert plain_state(method) == state
    assert method._rows == rows


def test_no_gradient_into_the_carry_and_float32_under_bfloat16(staged_network, batches, begun):
    network = staged_network()
    method = begun(LastMiniBatch(), network, 6, 5)
    for batch in batches()[:3]:
        with torch.autocast("cpu", torch.bfloat16):
            terms = method.loss(network, batch, PROGRESS)
        assert {term.dtype for term in terms.values()} == {torch.float32}
        sum(terms.values()).backward()
    assert not [key for key, value in method.named_buffers() if value.requires_grad]
    assert method.past_logits.dtype == torch.float32
    assert torch.equal(method.past_images[:2], batches()[2].views[0])


# What torch's own tracer does to autograd functions in 2.11:
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_it_compiles_as_a_whole(staged_network, batches, begun, compiles_alike):
    network = staged_network()
    network.eval()  # so that BatchNorm leaves both runs the same input
    eager, traced = (begun(LastMiniBatch(), network, 6, 5) for _ in range(2))
    # The first step, one after a full batch, a short one, one after it.
    compiles_alike(eager, traced, network, *batches()[:4])
    for key, value in eager.state_dict().items():
        torch.testing.assert_close(traced.state_dict()[key], value, msg=key)
