"""Maps and modules that methods share, against cases worked by hand and torch's own."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sdbench import wrap
from sdbench.errors import UserError
from sdbench.parts import Branch, energy_map, pool_to, require_stages, spatial_softmax, unit_attention


def test_attention_maps_by_hand():
    # Two channels at two positions: mean squares (9 + 7) / 2 = 8 and (0 + 12) / 2 = 6.
    maps = torch.tensor([[[[3.0, 0.0]], [[-math.sqrt(7), math.sqrt(12)]]]], dtype=torch.float64)
    torch.testing.assert_close(energy_map(maps), torch.tensor([[8.0, 6.0]], dtype=torch.float64))
    torch.testing.assert_close(unit_attention(maps), torch.tensor([[0.8, 0.6]], dtype=torch.float64))
    share = 1 / (1 + math.exp(-2))
    torch.testing.assert_close(spatial_softmax(maps), torch.tensor([[share, 1 - share]], dtype=torch.float64))


def test_attention_of_an_empty_map_has_a_gradient():
    maps = torch.zeros(2, 3, 4, 4, requires_grad=True)
    assert not unit_attention(maps).any()
    (unit_attention(maps).sum() + spatial_softmax(maps).square().sum()).backward()
    assert maps.grad.isfinite().all()


def test_low_precision_is_computed_in_float32():
    maps = torch.randn(2, 3, 4, 4).bfloat16()
    for function in (energy_map, unit_attention, spatial_softmax):
        torch.testing.assert_close(function(maps), function(maps.float()), rtol=0, atol=0)
        assert function(maps.double()).dtype == torch.float64


@pytest.mark.parametrize(("before", "after"), [(8, 4), (6, 2), (7, 4), (3, 1), (5, 5), (2, 3)])
def test_pooling_is_adaptive_average_pooling(before, after):
    maps = torch.randn(2, 3, before, before + 1, dtype=torch.float64, requires_grad=True)
    ours, theirs = pool_to(maps, after, 2), F.adaptive_avg_pool2d(maps, (after, 2))
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(p.square().sum(), maps)[0] for p in (ours, theirs)))
    assert pool_to(maps, before, before + 1) is maps


def test_stages_that_are_missing_are_asked_for(staged_network):
    assert require_stages(staged_network(), 3, "sad", "compares stages") == [(4, 8, 8), (6, 4, 4), (8, 2, 2)]
    with pytest.raises(UserError, match=r"sad compares stages, and small network has 3 stages. Use a network with 4"):
        require_stages(staged_network(), 4, "sad", "compares stages")
    with pytest.raises(UserError, match="gives logits only"):
        require_stages(wrap(nn.Linear(2, 2)), 2, "sad", "compares stages")


def test_a_branch_is_the_rest_of_the_network_with_weights_of_its_own(staged_network):
    network = staged_network()
    branch = Branch(network, 0, 7)
    maps = torch.randn(3, 4, 8, 8)
    logits, last = branch(maps)
    assert logits.shape == (3, 7)
    assert last.shape == (3, 8, 2, 2)
    torch.testing.assert_close(logits, branch.classifier(last.mean((2, 3))))
    ours = {p.data_ptr() for p in branch.parameters()}
    assert not ours & {p.data_ptr() for p in network.parameters()}
    # Given the network's own weights it computes what the network does.
    branch.tail.load_state_dict(nn.Sequential(*network.stages[1:]).state_dict())
    images = torch.randn(2, 3, 8, 8)
    network.eval()
    branch.eval()
    stages = network(images).stages
    torch.testing.assert_close(branch(stages[0])[1], stages[-1])
    assert torch.equal(Branch(network, 2, 7)(last)[1], last)  # nothing comes after the last stage
