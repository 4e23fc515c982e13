"""Manifold mixup against a pass done by hand, stage by stage, and the golden losses of blended labels."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from sdbench.methods.manifold_mixup import ManifoldMixup, blended_at, mixed_cross_entropy, symmetric_beta
from torch import nn

from sdbench import Task, wrap
from sdbench.errors import UserError

PROGRESS = torch.tensor(0.0)


def set_up(network, seed=0, **values):
    method = ManifoldMixup(**values)
    generator = torch.Generator().manual_seed(seed)
    method.setup(Task(num_classes=5, num_train=6, batch_size=6, epochs=1, generator=generator), network)
    return method


@pytest.mark.golden
@pytest.mark.parametrize("file", ["mixup", "cutmix"])
def test_every_golden_loss_of_blended_labels(file, matches, leaf, golden_cases):
    for case, args, own in golden_cases(f"wide/{file}.npz"):
        drawn = args.get("lam")
        share = float(own["lam_adjusted"]) if drawn is None else drawn
        labels, order = (torch.from_numpy(own[name]) for name in ("labels", "perm"))
        for precision in ("f32", "f64"):
            logits = leaf(own["logits"], precision)
            loss = mixed_cross_entropy(logits, labels, labels[order], share)
            loss.backward()
            matches(loss, own[f"official_loss_{precision}"], precision, f"{case} loss {precision}")
            key = f"official_grad_logits_{precision}"
            if key in own:
                matches(logits.grad, own[key], precision, f"{case}.{key}")
        if file == "mixup":
            images = torch.from_numpy(own["images"])
            blended = blended_at(images, order, torch.tensor(share), torch.tensor(True))
            matches(blended, own["mixed_images"], "f32", f"{case} images")
            assert torch.equal(blended_at(images, order, torch.tensor(share), torch.tensor(False)), images)


def by_hand(network, batch, share, order, depth):
    """The loss where the map at ``depth`` alone is blended: 0 the images, then the stages' outputs."""
    x = batch.images
    for place in range(4):
        if place == depth:
            x = share * x + (1 - share) * x[order]
        if place == 0:
            x = network.stem(x)
        if place < 3:
            x = network.stages[place](x)
    log_p = F.log_softmax(network.classifier(x.mean((2, 3))), dim=1)
    targets = share * F.one_hot(batch.labels, 5) + (1 - share) * F.one_hot(batch.labels[order], 5)
    return -(targets * log_p).sum(1).mean()


@pytest.mark.parametrize("depth", [0, 2, 3])
def test_one_map_is_blended(depth, staged_network, image_batch):
    network, batch = staged_network(), image_batch()
    seen = set()
    for seed in range(24):
        method = set_up(network, seed, alpha=1.0, depth=depth)
        loss = method.loss(copy.deepcopy(network), batch, PROGRESS)["ce"]
        generator = torch.Generator().manual_seed(seed)
        share = symmetric_beta(1.0, generator, torch.device("cpu"))
        chosen = int(torch.randint(depth + 1, (), generator=generator))
        order = torch.randperm(6, generator=generator)
        expected = {d: by_hand(copy.deepcopy(network), batch, share, order, d) for d in range(4)}
        torch.testing.assert_close(loss, expected[chosen])
        others = [value for d, value in expected.items() if d != chosen]
        if not torch.equal(order, torch.arange(6)):
            assert all(abs(loss - value) > 1e-4 for value in others)
        seen.add(chosen)
    assert seen == set(range(depth + 1))


def test_gradients_are_those_of_the_pass_by_hand(staged_network, image_batch):
    network, other, batch = staged_network(), staged_network(), image_batch()
    seed = 4
    set_up(network, seed, alpha=1.0).loss(network, batch, PROGRESS)["ce"].backward()
    generator = torch.Generator().manual_seed(seed)
    share = symmetric_beta(1.0, generator, torch.device("cpu"))
    chosen = int(torch.randint(3, (), generator=generator))
    by_hand(other, batch, share, torch.randperm(6, generator=generator), chosen).backward()
    for ours, theirs in zip(network.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("here", [True, False])
def test_gradient_of_a_blend(here):
    features = torch.randn(5, 2, 3, 1, dtype=torch.float64, requires_grad=True)
    order, share = torch.tensor([3, 0, 4, 2, 1]), torch.tensor(0.3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda h: blended_at(h, order, share, torch.tensor(here)), features)
    kept = features.detach().clone()
    expected = 0.3 * kept + 0.7 * kept[order] if here else kept
    torch.testing.assert_close(blended_at(features, order, share, torch.tensor(here)).detach(), expected)


@pytest.mark.parametrize("alpha", [0.4, 2.0])
def test_shares_have_betas_distribution(alpha):
    generator = torch.Generator().manual_seed(3)
    draws = torch.stack([symmetric_beta(alpha, generator, torch.device("cpu")) for _ in range(2000)])
    assert stats.kstest(draws.double().numpy(), stats.beta(alpha, alpha).cdf).pvalue > 0.01


def test_one_pass_with_gradient_and_no_draw_from_elsewhere(staged_network, image_batch):
    network, batch = staged_network(), image_batch()
    state = torch.get_rng_state()
    set_up(network).loss(network, batch, PROGRESS)
    assert torch.equal(torch.get_rng_state(), state)
    assert (network.passes.with_gradient, network.passes.without_gradient) == (6, 0)


def test_alpha_of_zero_is_plain_cross_entropy(staged_network, image_batch):
    network, batch = staged_network(), image_batch()
    plain = F.cross_entropy(copy.deepcopy(network)(batch.images).logits, batch.labels)
    assert torch.equal(set_up(network, **ManifoldMixup.neutral).loss(network, batch, PROGRESS)["ce"], plain)


def test_a_network_must_be_deep_enough(staged_network):
    with pytest.raises(UserError, match="depth 4, but small network has 3 stages; lower depth"):
        set_up(staged_network(), depth=4)
    with pytest.raises(UserError, match="gives logits only"):
        set_up(wrap(nn.Flatten()))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"alpha": -1.0}, r"alpha must be in \[0, infinity\)"),
        ({"alpha": math.nan}, r"alpha must be in \[0, infinity\)"),
        ({"depth": -1}, "depth must be at least 0"),
    ],
)
def test_values_outside_their_range_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        ManifoldMixup(**values)
