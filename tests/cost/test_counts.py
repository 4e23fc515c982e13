"""Passes, FLOPs, operators and waits of steps whose costs are known."""

import pytest
import torch

from sdbench import registry
from sdbench.cost.counts import OperatorLog, OperatorSteps, costliest, count_passes, count_work, flop_coverage, log_step
from sdbench.cost.setting import Contestant
from sdbench.cost.state import CHECKED_AT, LARGE, SOLVED_AT, fit, state_at_large

from .conftest import SMALL


def settled(stepper, method: str):
    found = stepper(method)
    found()
    found.settle()
    return found


@pytest.mark.parametrize(
    ("method", "loaded", "with_gradient", "without_gradient", "backward"),
    [
        ("ce", 1, 1, 0, 1),
        ("zipf", 1, 1, 0, 1),
        ("byot", 1, 1, 0, 1),
        ("pskd", 1, 1, 0, 1),
        ("cskd", 2, 1, 1, 1),
        ("planted_pass", 1, 1, 1, 1),
        ("planted_training_pass", 1, 2, 0, 2),
        ("planted_copy", 1, 1, 1, 1),
    ],
)
def test_images_per_labelled_image(stepper, method, loaded, with_gradient, without_gradient, backward) -> None:
    found = count_passes(settled(stepper, method))
    assert vars(found) == {
        "loaded": loaded,
        "with_gradient": with_gradient,
        "without_gradient": without_gradient,
        "backward": backward,
    }


def test_counting_leaves_no_hook_behind(stepper) -> None:
    found = settled(stepper, "ce")
    count_passes(found)
    before = found.session.network.passes.backward
    found()
    assert found.session.network.passes.backward == before


def test_a_backward_pass_counts_whichever_part_of_the_output_it_comes_from(stepper) -> None:
    """From a stage alone; from two losses of one forward pass; and none where nothing is trained."""
    network = stepper("ce").session.network
    images = torch.randn(4, 3, 16, 16)
    network.passes.watching = True
    network(images).stages[0].sum().backward()
    assert network.passes.backward == 4
    output = network(images)
    output.logits.sum().backward(retain_graph=True)
    output.pooled.sum().backward()
    assert network.passes.backward == 12
    with torch.no_grad():
        network(images)
    network(images)
    assert network.passes.backward == 12


def convolution_flops(num_classes: int, batch: int, side: int) -> int:
    """ResNet-8's FLOPs by hand: a multiplication and an addition per weight and output position; backward twice
    that, but for the first layer, which needs no gradient of its input."""
    layers = [(3, 16, 3, side, False)]
    channels, size = 16, side
    for width in (16, 32, 64):
        stride = 1 if width == 16 else 2
        size //= stride
        layers += [(channels, width, 3, size, True), (width, width, 3, size, True)]
        if stride == 2:
            layers.append((channels, width, 1, size, True))
        channels = width
    forward = [2 * batch * cin * cout * k * k * s * s for cin, cout, k, s, _ in layers]
    backward = [f * (2 if both else 1) for f, (*_, both) in zip(forward, layers, strict=True)]
    classifier = 2 * batch * 64 * num_classes
    return sum(forward) + sum(backward) + 3 * classifier


def test_flops_of_a_step_by_hand(stepper) -> None:
    by_hand = convolution_flops(num_classes=10, batch=16, side=16)
    assert count_work(settled(stepper, "ce")).flops == by_hand
    # The second forward pass adds a forward pass and nothing else.
    forward = count_work(settled(stepper, "planted_pass")).flops - by_hand
    first_layer = 2 * 16 * 3 * 16 * 9 * 16 * 16
    assert 3 * forward - first_layer == by_hand


@pytest.mark.parametrize("method", registry.core_names())
def test_no_step_of_the_core_methods_waits_for_a_gpu(stepper, method: str) -> None:
    assert count_work(settled(stepper, method)).host_syncs == 0


def test_waits_are_seen() -> None:
    log = OperatorLog()
    values = torch.arange(6.0)
    with log:
        values.sum().item()
        values[values > 2]
        values.nonzero()
        values[torch.tensor([1, 2])]
        torch.where(values > 2, values, 0.0)
    assert sum(log.waits.values()) >= 3
    assert set(log.waits) == {"aten::_local_scalar_dense", "aten::index.Tensor", "aten::nonzero"}


def test_a_wait_planted_in_a_method_is_counted(stepper) -> None:
    assert count_work(settled(stepper, "planted_wait")).host_syncs == 1


def test_the_costliest_operators_are_differences() -> None:
    step = {"conv": 0.010, "sort": 0.006, "exp": 0.002, "add": 0.001}
    own = steps(*[{**step, "conv": conv} for conv in (0.010, 0.013, 0.010, 0.013)])
    base = steps(*[{"conv": 0.011, "exp": 0.001, "add": 0.001}] * 4)
    sort, exp = costliest(own, base)  # conv takes longer in half of the steps: noise
    assert (sort.name, sort.extra_ms, sort.share) == ("sort", pytest.approx(6.0), pytest.approx(6 / 7))
    assert (exp.name, exp.extra_ms, exp.share) == ("exp", pytest.approx(1.0), pytest.approx(1 / 7))
    assert costliest(base, base) == ()
    assert costliest(base, base, scale=4.0)[0].extra_ms == pytest.approx(33.0)


def steps(*seconds: dict[str, float]) -> OperatorSteps:
    return OperatorSteps(seconds, {})


def test_planted_work_without_flops_is_found_by_its_name(stepper) -> None:
    plain, sorting = settled(stepper, "ce"), settled(stepper, "planted_sort")
    pairs = [(log_step(plain)[0], log_step(sorting)[0]) for _ in range(5)]
    base, own = (steps(*each) for each in zip(*pairs, strict=True))
    assert costliest(own, base)[0].name == "aten.sort"
    assert flop_coverage(own.median()) < flop_coverage(base.median())


def test_coverage_is_the_share_of_time() -> None:
    assert flop_coverage({"aten.convolution": 3.0, "aten.sort": 1.0}) == 0.75
    assert flop_coverage({}) == 0.0


def test_counts_over_several_steps_are_means(stepper) -> None:
    found = settled(stepper, "planted_every_fourth")
    assert count_passes(found, 8).without_gradient == 0.25
    forward = convolution_flops(10, 16, 16)
    one = (forward + 2 * 16 * 3 * 16 * 9 * 16 * 16) / 3
    assert count_work(found, 4).flops == pytest.approx(forward + one / 4, abs=1)


def test_state_is_extrapolated_by_classes_and_images() -> None:
    """PS-KD keeps a float per class and image, and one number of 4 bytes."""
    pskd = state_at_large(SMALL, Contestant("pskd", registry.resolve("pskd", "cifar100", {})))
    assert pskd == {name: 4 * k * n + 4 for name, (k, n) in LARGE.items()}
    assert pskd["cifar100"] == 20_000_004
    assert set(state_at_large(SMALL, Contestant("ce", {})).values()) == {0}
    assert set(state_at_large(SMALL, Contestant("planted_buffer", {})).values()) == {3 * 2**20}


def test_state_that_follows_no_such_law_is_not_extrapolated() -> None:
    points = [*SOLVED_AT, *CHECKED_AT]
    assert fit({(k, n): 8 * k * k + 4 * n for k, n in points}).at(1000, 10**6) == 8 * 10**6 + 4 * 10**6
    assert fit({(k, n): k**3 for k, n in points}) is None
    assert fit({(k, n): min(n, 700) for k, n in points}) is None
