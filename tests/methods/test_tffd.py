"""Tf-FD against the authors' numbers, and cases worked by hand."""

import pytest
import torch
import torch.nn.functional as F
from sdbench.methods.tffd import (
    TeacherFreeFeatureDistillation,
    channel_order,
    inter_distance,
    intra_distance,
    tffd_loss,
)

from sdbench import Task
from sdbench.errors import UserError

TASK = Task(num_classes=5, num_train=6, batch_size=6, epochs=2)
PROGRESS = torch.tensor(0.0)


@pytest.mark.golden
def test_every_golden_case(matches, leaf, golden_cases):
    for case, args, own in golden_cases("wide/tffd.npz"):
        depths = range(1, 1 + sum(key.startswith("feat") for key in own))
        for precision in ("f32", "f64"):
            maps = [leaf(own[f"feat{i}"], precision) for i in depths]
            # Equally salient channels have no order of their own; take the one that was drawn then.
            orders = [torch.from_numpy(own[f"channel_order{i}"]) for i in depths]
            total = sum(tffd_loss(maps, args["lambda_inter"], args["lambda_intra"], orders).values())
            total.backward()
            plain = tffd_loss(maps, 1.0, 1.0, orders)
            values = {"loss": total, "inter_over3": plain["inter"], "intra_over3": plain["intra"]}
            values |= {f"intra{i}": intra_distance(*pair) for i, *pair in zip(depths, maps, orders, strict=True)}
            for name, value in values.items():
                matches(value, own[f"official_{name}_{precision}"], precision, f"{case} {name}")
            for i, f, order in zip(depths, maps, orders, strict=True):
                salience = (f / f.square().sum((2, 3), keepdim=True).sqrt().clamp(min=1e-12)).mean((0, 2, 3)).detach()
                torch.testing.assert_close(salience[channel_order(f)], salience[order])
                assert channel_order(f).sort().values.tolist() == list(range(f.shape[1]))
                key = f"official_grad_feat{i}_{precision}"
                if key in own:
                    matches(f.grad, own[key], precision, f"{case}.{key}")


def test_channels_are_ordered_by_what_is_left_after_dividing_by_the_norm():
    # Over positions: (3, 4) / 5 -> mean 0.7, (0, 100) / 100 -> mean 0.5, (1, 1) / sqrt 2 -> mean 0.707, 0 stays 0.
    maps = torch.tensor([[[[3.0, 4.0]], [[0.0, 100.0]], [[1.0, 1.0]], [[0.0, 0.0]]]])
    assert channel_order(maps).tolist() == [2, 0, 1, 3]


def test_intra_distance_by_hand():
    # In order: channels 2, 0 against 1, 3: (1, 1) - (0, 100) and (3, 4) - (0, 0).
    maps = torch.tensor([[[[3.0, 4.0]], [[0.0, 100.0]], [[1.0, 1.0]], [[0.0, 0.0]]]], requires_grad=True)
    distance = intra_distance(maps)
    assert distance.item() == pytest.approx((1 + 99**2 + 9 + 16) / 4)
    distance.backward()
    assert (maps.grad[0, :, 0, 1] != 0).all()  # no half is held fixed
    # With three channels the middle one, in order, is left out.
    assert intra_distance(maps.detach()[:, :3]).item() == pytest.approx((1 + 99**2) / 2)


def test_inter_distance_by_hand():
    shallow = torch.tensor([[[[1.0, 3.0], [5.0, 7.0]], [[0.0, 0.0], [0.0, 0.0]]]], requires_grad=True)
    deep = torch.tensor([[[[2.0]], [[1.0]], [[9.0]]]], requires_grad=True)
    distance = inter_distance(shallow, deep)  # (4 - 2)^2 and (0 - 1)^2; the third channel has no partner
    assert distance.item() == pytest.approx(2.5)
    distance.backward()
    assert deep.grad is None
    torch.testing.assert_close(shallow.grad[0, 0], torch.full((2, 2), 0.5))  # 2 * 2 / 2 channels / 4 positions
    # A deeper map that is larger is pooled itself.
    assert inter_distance(deep.detach(), shallow.detach()).item() == pytest.approx(((2 - 4) ** 2 + 1) / 2)


def test_pairs_and_stages_are_averaged():
    maps = [torch.randn(2, 4, s, s, dtype=torch.float64) for s in (8, 4, 4, 2)]
    pairs = [inter_distance(maps[i], maps[j]) for i in range(4) for j in range(i + 1, 4)]
    terms = tffd_loss(maps, 3.0, 5.0)
    torch.testing.assert_close(terms["inter"], 3 * sum(pairs) / 6)
    torch.testing.assert_close(terms["intra"], 5 * sum(map(intra_distance, maps)) / 4)


def test_without_weights_it_is_cross_entropy_to_the_bit(staged_network, image_batch):
    network, batch = staged_network(), image_batch()
    method = TeacherFreeFeatureDistillation(**TeacherFreeFeatureDistillation.neutral)
    method.setup(TASK, network)
    plain = F.cross_entropy(network(batch.images).logits, batch.labels)
    assert torch.equal(sum(method.loss(network, batch, PROGRESS).values()), plain)


def test_the_class_weights_its_terms(staged_network, image_batch):
    network, batch = staged_network(), image_batch()
    method = TeacherFreeFeatureDistillation(inter=0.3, intra=0.0)
    method.setup(TASK, network)
    output = network(batch.images)
    terms = method.criterion(output, batch, PROGRESS)
    torch.testing.assert_close(terms["inter"], tffd_loss(output.stages, 0.3, 0.0)["inter"])
    assert terms["intra"].item() == 0
    assert list(method.parameters()) == []


def test_one_stage_and_wrong_values_are_refused(staged_network):
    with pytest.raises(UserError, match=r"tffd compares every stage with the deeper ones, .* has 1 stage"):
        TeacherFreeFeatureDistillation().setup(TASK, staged_network(widths=(4,)))
    for key in ("inter", "intra"):
        with pytest.raises(ValueError, match=f"{key} must be in"):
            TeacherFreeFeatureDistillation(**{key: -0.1})
