"""Seeds, epoch draws, partners and the held-out split."""

from __future__ import annotations

import hashlib

import pytest
import torch
from scipy import stats
from torch import Tensor

from sdbench.data.augment import crop_drawer, no_drawer
from sdbench.data.streams import Draw, Group, Roster, derive_seed, draw_epoch, hold_out


def test_a_seed_is_the_top_63_bits_of_a_hash() -> None:
    whole = int.from_bytes(hashlib.blake2b(b"3/order/17", digest_size=8).digest(), "big")
    assert derive_seed("3", "order", 17) == whole // 2
    assert derive_seed(3, "order", 17) == whole // 2


def test_seeds_differ_and_fit_a_generator() -> None:
    seeds = {derive_seed(stream, purpose, epoch) for stream in range(8) for purpose in "ab" for epoch in range(32)}
    assert len(seeds) == 8 * 2 * 32
    assert max(seeds) < 2**63
    assert max(seeds) > 2**62  # the whole range is used
    torch.Generator().manual_seed(max(seeds))


def tensors(group: Group) -> list[Tensor]:
    found = [group.index]
    for draw in group.draws:
        found += [t for t in (draw.offsets, draw.flips) if t is not None]
    return found


LABELS = torch.tensor([2, 0, 1] * 20 + [2] * 5)


def epoch(views: int = 1, partners: int = 0, *, stream: str = "0", number: int = 0) -> list[Group]:
    drawer = crop_drawer(32, flips=True)
    return draw_epoch(Roster(LABELS), drawer, stream=stream, epoch=number, views=views, partners=partners)


def test_an_epoch_passes_once_over_all_images() -> None:
    assert sorted(epoch()[0].index.tolist()) == list(range(len(LABELS)))


@pytest.mark.parametrize(("views", "partners"), [(2, 0), (1, 1), (3, 2)])
def test_first_view_and_order_do_not_depend_on_what_else_is_asked_for(views: int, partners: int) -> None:
    alone, more = epoch(), epoch(views, partners)
    assert len(more) == 1 + partners
    assert len(more[0].draws) == views
    first = Group(more[0].index, more[0].draws[:1])
    assert all(torch.equal(a, b) for a, b in zip(tensors(alone[0]), tensors(first), strict=True))


def test_fewer_views_and_partners_are_a_part_of_more() -> None:
    some, more = epoch(2, 1), epoch(3, 2)
    for a, b in zip(some, more, strict=False):
        assert all(torch.equal(x, y) for x, y in zip(tensors(a), tensors(b), strict=False))


def test_every_stream_epoch_and_purpose_draws_anew() -> None:
    runs = [epoch(2, 1), epoch(2, 1, stream="1"), epoch(2, 1, number=1), epoch(2, 1, stream="0/generation-1")]
    for what in ("order", "offsets", "view"):
        found = {
            "order": [run[0].index for run in runs],
            "offsets": [run[0].draws[0].offsets for run in runs],
            "view": [run[0].draws[1].offsets for run in runs],
        }[what]
        assert len({str(t.tolist()) for t in found if t is not None}) == len(runs), what
    own, view, partner = runs[0][0].draws[0], runs[0][0].draws[1], runs[0][1].draws[0]
    assert own.offsets is not None
    assert view.offsets is not None
    assert partner.offsets is not None
    assert not torch.equal(own.offsets, view.offsets)
    assert not torch.equal(own.offsets, partner.offsets)
    assert not torch.equal(view.offsets, partner.offsets)


def test_the_same_draws_come_again_whatever_else_was_drawn() -> None:
    first = epoch(2, 2, number=5)
    torch.rand(7)
    epoch(1, 3, number=4)
    again = epoch(2, 2, number=5)
    for a, b in zip(first, again, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(tensors(a), tensors(b), strict=True))


def test_global_random_state_is_left_alone() -> None:
    before = torch.get_rng_state()
    epoch(2, 2)
    hold_out(LABELS, 0.2)
    assert torch.equal(torch.get_rng_state(), before)


def test_partners_are_of_the_same_class() -> None:
    own, first, second = epoch(1, 2)
    for group in (first, second):
        assert torch.equal(LABELS[group.index], LABELS[own.index])
    assert not torch.equal(first.index, second.index)


def test_partners_are_uniform_over_the_class_with_replacement_and_the_image_itself() -> None:
    labels = torch.tensor([0, 1, 1, 0, 1, 1, 1, 2])
    roster = Roster(labels)
    anchors = torch.full((20_000,), 4)
    drawn = roster.partners(anchors, torch.Generator().manual_seed(1))
    counts = torch.bincount(drawn, minlength=8)
    assert counts[[0, 3, 7]].sum() == 0
    assert stats.chisquare(counts[[1, 2, 4, 5, 6]].numpy()).pvalue > 1e-3
    pairs = drawn.view(-1, 2)
    repeated = (pairs[:, 0] == pairs[:, 1]).sum().item()
    assert stats.binomtest(int(repeated), len(pairs), 1 / 5).pvalue > 1e-3


def test_the_only_image_of_a_class_is_its_own_partner() -> None:
    labels = torch.tensor([0, 0, 3, 0])
    anchors = torch.tensor([2, 2])
    assert Roster(labels).partners(anchors, torch.Generator()).tolist() == [2, 2]


def test_draws_are_sliced_together() -> None:
    draw = Draw(offsets=torch.arange(10).view(5, 2), flips=torch.tensor([True, False, True, False, True]))
    part = draw[1:3]
    assert part.offsets is not None
    assert part.offsets.tolist() == [[2, 3], [4, 5]]
    assert part.flips is not None
    assert part.flips.tolist() == [False, True]
    assert part.boxes is None
    assert no_drawer(3, torch.Generator()) == Draw()


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.93])
def test_hold_out_is_stratified(share: float) -> None:
    labels = torch.tensor([0] * 40 + [1] * 17 + [2] * 3)[torch.randperm(60, generator=torch.Generator().manual_seed(0))]
    kept, held = hold_out(labels, share)
    assert sorted(kept.tolist() + held.tolist()) == list(range(60))
    assert kept.tolist() == sorted(kept.tolist())
    assert held.tolist() == sorted(held.tolist())
    for label, size in ((0, 40), (1, 17), (2, 3)):
        out = int((labels[held] == label).sum())
        assert abs(out - share * size) <= 0.5 or out in (1, size - 1)
        assert 1 <= out <= size - 1


def test_hold_out_is_a_function_of_labels_and_share() -> None:
    labels = torch.arange(1000) % 10
    first = hold_out(labels, 0.1)[1]
    torch.manual_seed(5)
    assert torch.equal(first, hold_out(labels.clone(), 0.1)[1])
    places = (first // 10).float()  # not simply the first or the last of each class
    assert stats.kstest(places.numpy() / 100, "uniform").pvalue > 1e-3


def test_hold_out_of_nothing_and_of_a_class_with_one_image() -> None:
    labels = torch.tensor([0, 0, 0, 0, 4])
    kept, held = hold_out(labels, 0.0)
    assert kept.tolist() == [0, 1, 2, 3, 4]
    assert held.tolist() == []
    kept, held = hold_out(labels, 0.5)
    assert 4 in kept.tolist()
    assert len(held) == 2


@pytest.mark.parametrize("share", [-0.1, 1.0, 1.5, float("nan")])
def test_hold_out_refuses_other_shares(share: float) -> None:
    with pytest.raises(ValueError, match="held-out share"):
        hold_out(torch.zeros(4, dtype=torch.int64), share)
