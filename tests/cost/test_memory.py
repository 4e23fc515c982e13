"""Live bytes against cases counted by hand, and planted memory that must come out to the byte."""

from collections.abc import Callable

import pytest
import torch

from sdbench import models
from sdbench.cost.memory import LiveTensors, MemoryJob, memory_of
from sdbench.cost.records import Memory, Setting

SMALL = Setting(network="resnet8", num_classes=10, num_train=200, image_size=16, augment="crop-flip", batch_size=16)


@pytest.fixture
def measured(planted: str) -> Callable[[str], Memory]:
    """The memory of a method's step, taken in a process of its own."""

    def measure(method: str) -> Memory:
        return memory_of(MemoryJob(setting=SMALL, method=method, params={}, plugins=(planted,)))

    return measure


def test_a_step_counted_by_hand() -> None:
    """w is 1,000 floats. y = exp(w) is 4,000 bytes, saved; z = y * y another 4,000; its sum 4. Backward: 4 bytes of
    root gradient, whose expansion is a view; for each factor of y * y a gradient of 4,000, z being gone, and their
    sum of 4,000 before both go; then that times y, 4,000, for w."""
    w = torch.zeros(1000, requires_grad=True)
    live = LiveTensors()
    live.seed("network", [w])
    with live:
        y = w.exp()
        assert live.total == 8_000
        z = y * y
        assert live.total == 12_000
        total = z.sum()
        assert live.total == 12_004
        del z, y
        assert live.total == 8_004  # y is kept for backward, z is not
        total.backward()
        del total
        w.grad = None
    assert live.total == 4_000
    assert live.peak == 4_000 + 4_000 + 4 + 4 + 3 * 4_000
    assert live.at_peak == {"network": 4_000, "activations": 16_008}


def test_views_and_in_place_results_count_once() -> None:
    x = torch.zeros(250)
    live = LiveTensors()
    live.seed("batch", [x, x.view(50, 5)])
    with live:
        x.add_(1)
        view = x.view(10, 25).t()
        halves = view.chunk(2)
        assert live.total == live.peak == 1_000
        copy = view.contiguous()
        assert live.total == 2_000
    del halves, view, copy
    assert live.total == 1_000


def test_planted_bytes_come_out_exactly_and_repeat(measured) -> None:
    plain = measured("ce")
    assert measured("ce").peak_bytes == plain.peak_bytes
    buffer = measured("planted_buffer")
    assert buffer.peak_bytes - plain.peak_bytes == 3 * 2**20
    assert buffer.split.method_state == 3 * 2**20
    activation = measured("planted_activation")
    assert activation.peak_bytes - plain.peak_bytes == 10 * 2**20
    assert activation.split.activations - plain.split.activations == 10 * 2**20
    assert activation.split.method_state == 0


def test_the_split_adds_up_and_knows_what_can_be_counted(measured) -> None:
    found = measured("byot")
    split = found.split
    assert sum(split.model_dump().values()) == found.peak_bytes
    # 16 images of 3 x 16 x 16 floats, with labels and index of 8 bytes each.
    assert split.batch == 16 * (3 * 16 * 16 * 4 + 16)
    # The momentum of every weight: those of the network without its BatchNorm statistics, and the heads'.
    network = models.build("resnet8", 10, 16)
    weights = sum(p.numel() for p in network.parameters())
    buffers = sum(b.numel() * b.element_size() for b in network.buffers())
    assert split.network == 4 * weights + buffers
    assert split.optimizer == 4 * weights + split.auxiliary_parameters
    assert found.peak_resident_bytes > found.peak_bytes


def test_what_is_kept_outside_buffers_is_found_too(measured) -> None:
    plain, kept = measured("ce"), measured("planted_attribute")
    assert kept.split.method_state == kept.peak_bytes - plain.peak_bytes == 3 * 2**20


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_storages_that_grow_and_sparse_tensors_are_counted() -> None:
    live = LiveTensors()
    with live:
        grown = torch.empty(10).resize_(1000)
        assert live.total == 4_000
        small = torch.empty(0)
        torch.add(grown, grown, out=small)
        assert live.total == 8_000
        sparse = torch.sparse_coo_tensor(torch.tensor([[0, 1]]), torch.tensor([1.0, 2.0]), (5,), check_invariants=True)
        assert live.total >= 8_000 + 16 + 8
    del grown, small, sparse
    assert live.total == 0


def test_tensors_that_nobody_named_count_when_an_operator_meets_them() -> None:
    hidden = torch.zeros(500)
    live = LiveTensors()
    with live:
        hidden.sum()
    assert live.total == 2_000


def test_partners_are_part_of_the_batch(measured) -> None:
    plain, pairs = measured("ce"), measured("cskd")
    assert pairs.split.batch - plain.split.batch == 16 * 3 * 16 * 16 * 4


def test_a_method_that_cannot_run_says_why(measured) -> None:
    assert measured("planted_failure") == "ZeroDivisionError: planted"
    assert "nosuch" in measured("nosuch")
