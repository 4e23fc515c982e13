"""SFR's parts against SciPy's optimal transport, identities and cases worked by hand: there are no authors' numbers."""

import math

import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from sdbench.methods.sfr import (
    SelfFeatureRegularization,
    group_channels,
    histogram_cost,
    local_descriptors,
    sinkhorn_plan,
    softened_cross_entropy,
    sorted_cost,
    stage_distance,
    stage_pairs,
    transport_cost,
)

from sdbench import Output, Task, registry
from sdbench.checks import run_checks
from sdbench.errors import UserError
from sdbench.method import mixing_obstacle

TASK = Task(num_classes=5, num_train=6, batch_size=6, epochs=10)
DOUBLE = {"dtype": torch.float64}


def descriptors(*shape):
    return F.normalize(torch.randn(*shape, **DOUBLE), dim=2)


def even(images, positions):
    return torch.full((images, positions), 1 / positions, **DOUBLE)


def test_it_is_marked_as_a_reconstruction():
    first = registry.get("sfr").__doc__.splitlines()[0]
    assert "reconstruction" in first
    assert "withdrawn" in first
    assert SelfFeatureRegularization.official == ""
    assert not SelfFeatureRegularization.recommended


def test_plans_have_their_marginals_and_match_one_iterated_by_hand():
    cost = torch.rand(2, 6, 4, **DOUBLE) * 2
    rows, columns = torch.rand(2, 6, **DOUBLE) + 0.1, torch.rand(2, 4, **DOUBLE) + 0.1
    rows, columns = rows / rows.sum(1, keepdim=True), columns / columns.sum(1, keepdim=True)
    plan = sinkhorn_plan(cost, rows, columns, 0.1, 200)
    torch.testing.assert_close(plan.sum(1), columns)
    torch.testing.assert_close(plan.sum(2), rows)
    by_hand = (-cost / 0.1).exp()
    for iteration in range(25):  # scale rows and columns in turn
        by_hand = by_hand * (rows / by_hand.sum(2))[:, :, None]
        by_hand = by_hand * (columns / by_hand.sum(1))[:, None, :]
        plan = sinkhorn_plan(cost, rows, columns, 0.1, iteration + 1)
        torch.testing.assert_close(plan, by_hand, rtol=1e-9, atol=1e-12)


def test_costs_far_apart_for_the_regularization_stay_finite():
    cost = torch.tensor([[[0.0, 4.0], [4.0, 4.0]]])
    half = torch.full((1, 2), 0.5)
    plan = sinkhorn_plan(cost, half, half, 0.002, 50)
    torch.testing.assert_close(plan, torch.tensor([[[0.5, 0.0], [0.0, 0.5]]]), rtol=0, atol=0.01)


def test_with_little_regularization_the_cost_is_that_of_the_best_assignment():
    student, teacher = descriptors(3, 7, 4), descriptors(3, 7, 4)
    expected = []
    for u, v in zip(student, teacher, strict=True):
        cost = (u[:, None] - v[None]).square().sum(2)
        rows, columns = linear_sum_assignment(cost.numpy())
        expected.append(cost[rows, columns].mean().item())
    found = transport_cost(student, teacher, regularization=0.005, iterations=3000)
    assert found.item() == pytest.approx(sum(expected) / 3, rel=2e-3)


def test_equal_sets_are_no_distance_apart_and_order_does_not_matter():
    student, teacher = descriptors(2, 5, 3), descriptors(2, 6, 3)
    shuffled = student[:, torch.randperm(5)]
    assert transport_cost(student, shuffled, regularization=0.002, iterations=200).item() == pytest.approx(0, abs=1e-6)
    torch.testing.assert_close(transport_cost(student, teacher), transport_cost(shuffled, teacher))
    torch.testing.assert_close(
        transport_cost(student, teacher), transport_cost(student, teacher[:, [5, 3, 1, 0, 2, 4]])
    )
    assert sorted_cost(student, shuffled).item() == 0


def test_one_channel_is_transported_in_order():
    student, teacher = torch.randn(2, 6, 1, **DOUBLE), torch.randn(2, 6, 1, **DOUBLE)
    transported = transport_cost(student, teacher, regularization=0.01, iterations=3000)
    assert transported.item() == pytest.approx(sorted_cost(student, teacher).item(), rel=1e-2)
    by_hand = torch.tensor([[[3.0], [1.0]]]), torch.tensor([[[0.0], [5.0]]])
    assert sorted_cost(*by_hand).item() == pytest.approx((1 + 4) / 2)  # 1 to 0, 3 to 5


def test_masses_follow_similarity_to_the_other_side():
    # Three orthogonal descriptors; only the first resembles the teacher's single one.
    student, teacher = torch.eye(3, **DOUBLE)[None], torch.tensor([[[1.0, 0.0, 0.0]]], **DOUBLE)
    even_cost = transport_cost(student, teacher)  # (0 + 2 + 2) / 3
    assert even_cost.item() == pytest.approx(4 / 3)
    cross = transport_cost(student, teacher, marginal="cross")
    assert cross.item() == pytest.approx(2 * 2 * 0.001 / 1.003)


@pytest.mark.parametrize("emd", ["sinkhorn", "sorted", "cdf"])
def test_no_gradient_reaches_the_deep_stage(emd):
    shallow, deep = (torch.rand(2, c, s, s, requires_grad=True) for c, s in ((3, 8), (6, 4)))
    stage_distance(shallow, deep, emd=emd).backward()
    assert deep.grad is None
    assert shallow.grad.abs().sum() > 0


def test_gradient_flows_through_the_costs_alone():
    student, teacher = descriptors(2, 5, 3).requires_grad_(), descriptors(2, 4, 3)
    transport_cost(student, teacher).backward()
    cost = (student.detach()[:, :, None] - teacher[:, None]).square().sum(3)
    plan = sinkhorn_plan(cost, even(2, 5), even(2, 4), 0.05, 50)
    expected = (plan[..., None] * 2 * (student.detach()[:, :, None] - teacher[:, None])).sum(2) / 2
    torch.testing.assert_close(student.grad, expected)


def test_channel_groups_by_hand():
    deep = torch.tensor([1.0, 3.0, 10.0, 30.0])[None, :, None, None].expand(2, 4, 2, 3)
    assert group_channels(deep, 2)[0, :, 0, 0].tolist() == [2.0, 20.0]
    assert group_channels(deep, 2, "stride")[0, :, 0, 0].tolist() == [5.5, 16.5]
    assert group_channels(deep, 2, "activation_sorted")[0, :, 0, 0].tolist() == [20.0, 2.0]
    assert torch.equal(group_channels(deep, 4), deep)
    assert group_channels(deep, 3)[1, :, 1, 2].tolist() == [2.0, 6.5, 20.0]  # bins 0-1, 1-2, 2-3
    assert group_channels(deep, 8)[0, :, 0, 0].tolist() == [1.0, 1.0, 3.0, 3.0, 10.0, 10.0, 30.0, 30.0]


def test_matching_many_to_one_is_matching_their_mean():
    student = torch.randn(2, 3, 4, 4, **DOUBLE, requires_grad=True)
    deep = torch.randn(2, 6, 4, 4, **DOUBLE)
    many = (student[:, :, None] - deep.reshape(2, 3, 2, 4, 4)).square().sum()
    one = 2 * (student - group_channels(deep, 3)).square().sum()
    torch.testing.assert_close(*(torch.autograd.grad(loss, student)[0] for loss in (many, one)))


def test_histogram_cost_by_hand():
    # Attention (3/4, 1/4) against (1/2, 1/2): cumulative sums differ by 1/4 and 0.
    shallow = torch.tensor([[[[math.sqrt(math.log(3)), 0.0]]]], **DOUBLE)
    assert histogram_cost(shallow, torch.ones(1, 3, 1, 2, **DOUBLE)).item() == pytest.approx(1 / 16)


def test_stages_are_pooled_grouped_and_normalized():
    shallow, deep = torch.rand(2, 3, 16, 16, **DOUBLE), torch.rand(2, 6, 4, 4, **DOUBLE)
    u = F.normalize(F.avg_pool2d(shallow, 2).flatten(2).transpose(1, 2), dim=2)
    v = F.normalize(deep.reshape(2, 3, 2, 4, 4).mean(2).flatten(2).transpose(1, 2), dim=2)
    torch.testing.assert_close(stage_distance(shallow, deep), transport_cost(u, v))
    u = F.normalize(F.avg_pool2d(shallow, 4).flatten(2).transpose(1, 2), dim=2)
    torch.testing.assert_close(stage_distance(shallow, deep, emd="sorted"), sorted_cost(u, v))
    assert local_descriptors(torch.zeros(1, 2, 2, 2)).abs().sum() == 0


def test_pairs_of_stages():
    assert stage_pairs(4, "all_to_last") == [(0, 3), (1, 3), (2, 3)]
    assert stage_pairs(4, "adjacent") == [(0, 1), (1, 2), (2, 3)]
    assert stage_pairs(3, "all") == [(0, 1), (0, 2), (1, 2)]


def test_softened_cross_entropy_by_hand():
    logits, labels = torch.tensor([[0.5, 0.25, 0.25]], **DOUBLE).log(), torch.tensor([0])
    share = torch.tensor(0.3, **DOUBLE)
    expected = 0.8 * math.log(2) + 0.2 * math.log(4)
    assert softened_cross_entropy(logits, labels, share).item() == pytest.approx(expected)
    soft = torch.tensor([[0.0, 1.0, 0.0]], **DOUBLE)
    expected = 0.7 * math.log(2) + 0.3 * math.log(4)
    assert softened_cross_entropy(logits, labels, share, soft).item() == pytest.approx(expected)


def test_smoothing_and_features_come_in_gradually(staged_network, image_batch):
    network, batch = staged_network(), image_batch()
    method = SelfFeatureRegularization(weight=0.2, smoothing=0.4, pairs="adjacent")
    method.setup(TASK, network)
    output = network(batch.images)
    cost = sum(stage_distance(output.stages[i], output.stages[i + 1]) for i in range(2)) / 2
    for progress, ramp in ((0.0, 0.0), (0.25, 0.5), (0.5, 1.0), (0.75, 1.0)):  # five of ten epochs
        terms = method.criterion(output, batch, torch.tensor(progress))
        smoothed = F.cross_entropy(output.logits, batch.labels, label_smoothing=0.4 * progress)
        torch.testing.assert_close(terms["ce"], smoothed)
        torch.testing.assert_close(terms["feature"], 0.2 * ramp * cost)


def test_without_coefficients_it_is_cross_entropy_to_the_bit(staged_network, image_batch):
    network, batch = staged_network(), image_batch()
    for dls in ("schedule", "class", "instance"):
        method = SelfFeatureRegularization(**SelfFeatureRegularization.neutral, dls=dls)
        method.setup(TASK, network)
        plain = F.cross_entropy(network(batch.images).logits, batch.labels)
        assert torch.equal(sum(method.loss(network, batch, torch.tensor(0.7)).values()), plain)
        assert list(method.state_dict()) == []


def as_output(logits):
    return Output(logits, logits.new_zeros(len(logits), 0), ())


def test_class_targets_are_last_epochs_mean_of_the_hits(logits_network, logits_batch):
    method = SelfFeatureRegularization(weight=0.0, smoothing=0.5, dls="class")
    method.setup(Task(num_classes=3, num_train=4, batch_size=4, epochs=4), torch.nn.Linear(1, 1))
    logits = torch.tensor([[2.0, 0.0, 0.0], [3.0, 1.0, 0.0], [0.0, 0.0, 4.0], [0.0, 1.0, 0.0]])
    labels = torch.tensor([0, 0, 0, 1])  # two hits of class 0, one of class 1, none of class 2
    batch, progress = logits_batch(logits, labels), torch.tensor(0.5)
    first = method.criterion(as_output(logits), batch, progress)["ce"]
    torch.testing.assert_close(first, F.cross_entropy(logits, labels, label_smoothing=0.25))
    method.after_epoch(logits_network)
    p = logits.softmax(1)
    expected = torch.stack([(p[0] + p[1]) / 2, p[3], torch.full((3,), 1 / 3)])
    torch.testing.assert_close(method.class_targets, expected)
    assert not method.class_counts.any()
    second = method.criterion(as_output(logits), batch, progress)["ce"]
    target = 0.75 * F.one_hot(labels, 3) + 0.25 * expected[labels]
    torch.testing.assert_close(second, -(target * logits.log_softmax(1)).sum(1).mean())


def test_instance_targets_are_the_images_own_last_predictions(logits_batch):
    method = SelfFeatureRegularization(weight=0.0, smoothing=1 - 2**-20, dls="instance")
    method.setup(Task(num_classes=3, num_train=9, batch_size=2, epochs=4), torch.nn.Linear(1, 1))
    one, other = torch.randn(2, 2, 3)
    labels, index, progress = torch.tensor([1, 2]), torch.tensor([7, 3]), torch.tensor(1.0)
    first = method.criterion(as_output(one), logits_batch(one, labels, index=index), progress)["ce"]
    torch.testing.assert_close(first, -one.log_softmax(1).mean(), rtol=1e-4, atol=0)
    second = method.criterion(as_output(other), logits_batch(other, labels, index=index), progress)["ce"]
    expected = -(one.softmax(1) * other.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(second, expected, rtol=1e-4, atol=0)
    torch.testing.assert_close(method.predictions[7], other[0].softmax(0))


@pytest.mark.parametrize("dls", ["class", "instance"])
def test_past_predictions_survive_a_resume(dls):
    findings = run_checks("sfr", {"dls": dls, "emd": "cdf"}, quick=True)
    assert [f"{f.check}: {f.message}" for f in findings if not f.passed] == []
    assert "resumes" in [f.check for f in findings]


def test_past_predictions_refuse_mixed_images():
    for dls, refused in (("schedule", False), ("class", True), ("instance", True)):
        method = SelfFeatureRegularization(dls=dls)
        assert bool(mixing_obstacle(SelfFeatureRegularization, method)) == refused


def test_one_stage_and_wrong_values_are_refused(staged_network):
    with pytest.raises(UserError, match=r"sfr compares shallow stages with deep ones, .* has 1 stage"):
        SelfFeatureRegularization().setup(TASK, staged_network(widths=(4,)))
    with pytest.raises(ValueError, match="weight must be in"):
        SelfFeatureRegularization(weight=-0.1)
    with pytest.raises(ValueError, match="smoothing must be in"):
        SelfFeatureRegularization(smoothing=1.0)
    for key in ("emd", "pairs", "grouping", "marginal", "dls"):
        with pytest.raises(ValueError, match=r"expected one of .*, got 'other'"):
            SelfFeatureRegularization(**{key: "other"})
