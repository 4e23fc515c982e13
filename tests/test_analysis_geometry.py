"""Projection onto the plane of three templates and scatter ratios: by hand, by invariance, on a hand-made network."""

from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

from sdbench.analysis.features import Features, features, penultimate
from sdbench.analysis.geometry import project, scatter, template_plane, with_one
from sdbench.analysis.planes import parse_classes, place
from sdbench.errors import UserError
from sdbench.method import Output
from sdbench.network import StagedNetwork, wrap
from sdbench.tiny import TinyTask, tiny_data


def test_a_plane_by_hand():
    plane = template_plane(np.array([[0.0, 0, 0], [3, 0, 0], [1, 2, 0]]))
    np.testing.assert_allclose(plane.basis, [[1, 0, 0], [0, 1, 0]], atol=1e-15)
    np.testing.assert_allclose(plane.origin, [4 / 3, 2 / 3, 0])
    np.testing.assert_allclose(plane.templates, [[-4 / 3, -2 / 3], [5 / 3, -2 / 3], [-1 / 3, 4 / 3]])
    # What lies off the plane falls on it: the third coordinate is left out.
    np.testing.assert_allclose(project(np.array([[4 / 3, 5 / 3, 100.0]]), plane), [[0, 1]], atol=1e-12)


def test_the_picture_keeps_distances_in_the_plane_however_it_lies():
    random = np.random.default_rng(0)
    templates = random.normal(size=(3, 9)) + 50
    plane = template_plane(templates)
    np.testing.assert_allclose(plane.basis @ plane.basis.T, np.eye(2), atol=1e-12)
    weights = random.normal(size=(7, 3))
    weights /= weights.sum(1, keepdims=True)  # affine combinations: points of the plane itself
    points = weights @ templates
    seen = project(points, plane)
    apart = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.testing.assert_allclose(np.linalg.norm(seen[:, None] - seen[None], axis=2), apart, rtol=1e-9)
    turn = np.linalg.qr(random.normal(size=(9, 9)))[0]
    np.testing.assert_allclose(project(points @ turn, template_plane(templates @ turn)), seen, atol=1e-9)


def test_templates_on_a_line_span_no_plane():
    with pytest.raises(ValueError, match="on one line"):
        template_plane(np.array([[0.0, 0], [1, 1], [3, 3]]))
    with pytest.raises(ValueError, match="on one line"):
        template_plane(np.array([[1.0, 0], [1, 0], [3, 3]]))
    with pytest.raises(ValueError, match="need three finite templates"):
        template_plane(np.zeros((2, 4)))


def test_scatter_by_hand():
    # Class 0 at 0 and 2 (mean 1), class 1 at 7, 8, 9 (mean 8); overall mean 26 / 5.
    found = scatter(np.array([[0.0], [7], [2], [8], [9]]), np.array([0, 1, 0, 1, 1]))
    assert found.within == pytest.approx((1 + 1 + 1 + 0 + 1) / 5)
    assert found.between == pytest.approx((2 * (1 - 5.2) ** 2 + 3 * (8 - 5.2) ** 2) / 5)
    assert found.ratio == pytest.approx(found.within / found.between)
    assert (found.samples, found.classes) == (5, 2)


def test_scatter_adds_up_and_has_no_scale():
    random = np.random.default_rng(0)
    x, y = random.normal(size=(60, 5)) + 3, random.integers(0, 4, 60)
    found = scatter(x, y)
    assert found.within + found.between == pytest.approx(((x - x.mean(0)) ** 2).sum() / 60)
    assert scatter(1000 * x - 7, y).ratio == pytest.approx(found.ratio)
    assert scatter(with_one(x), y).ratio == pytest.approx(found.ratio)
    assert scatter(np.array([[1.0], [1.0]]), np.array([0, 1])).ratio is None
    with pytest.raises(ValueError, match="two classes"):
        scatter(x, np.zeros(60, dtype=int))


def colour_network(bias: bool) -> StagedNetwork:
    """Features are the mean colours of an image, by hand: nothing is learned but the classifier."""
    network = StagedNetwork(nn.Identity(), [nn.Identity()], nn.Linear(3, 4, bias=bias), 8, "colours")
    with torch.no_grad():
        network.classifier.weight.copy_(torch.tensor([[0.0, 0, 0], [3, 0, 0], [1, 2, 0], [0, 0, 9]]))
        if bias:
            network.classifier.bias.copy_(torch.tensor([0.0, 0, 0, 5]))
    return network.eval()


def test_features_of_a_hand_made_network():
    network = colour_network(bias=False)
    colours = torch.tensor([[1.0, 2, 3], [4, 5, 6], [7, 8, 9]])
    images = colours[:, :, None, None].expand(3, 3, 8, 8)
    batches = iter([(images[:2], torch.tensor([0, 2])), (images[2:], torch.tensor([1]))])
    x, y = penultimate(network, batches)
    np.testing.assert_allclose(x, colours.numpy())
    assert y.tolist() == [0, 2, 1]
    found = place(Features({"test": (x, y)}, network.classifier.weight.detach().numpy(), None), (0, 1, 2), "hand", 3)
    points, which = found.drawing.parts["test"]
    np.testing.assert_allclose(points, colours.numpy()[:, :2] - [4 / 3, 2 / 3], rtol=1e-6)
    assert which.tolist() == [0, 2, 1]
    np.testing.assert_allclose(found.drawing.templates, [[-4 / 3, -2 / 3], [5 / 3, -2 / 3], [-1 / 3, 4 / 3]])


def test_a_bias_is_one_more_coordinate_of_a_template():
    """The logit x . w + b is the product of (x, 1) and (w, b), as in the paper; classes in the order asked for."""
    x = np.array([[1.0, 2, 3], [4, 5, 6], [0, 1, 0], [5, 5, 5]])
    y = np.array([3, 1, 3, 0])
    templates, bias = np.array([[0.0, 0, 0], [3, 0, 0], [1, 2, 0], [0, 0, 9]]), np.array([0.5, 0, 2, 5])
    found = place(Features({"test": (x, y)}, templates, bias), (3, 1, 0), "hand", 0)
    points, which = found.drawing.parts["test"]
    assert which.tolist() == [0, 1, 0, 2]
    whole = np.concatenate([templates, bias[:, None]], axis=1)[[3, 1, 0]]
    inside = np.concatenate([x, np.ones((4, 1))], axis=1)
    directions = np.stack([whole[1] - whole[0], whole[2] - whole[0]], axis=1)
    nearest = directions @ np.linalg.lstsq(directions, (inside - whole.mean(0)).T, rcond=None)[0]
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), np.linalg.norm(nearest, axis=0))


def test_features_of_both_parts_of_a_data_set():
    task = TinyTask(num_classes=4, num_train=26)
    dataset = tiny_data(task)
    network = colour_network(bias=True)
    found = features(network, dataset, None)
    assert {part: x.shape for part, (x, _) in found.parts.items()} == {"train": (26, 3), "test": (8, 3)}
    # The training images are those that training sees, without augmentation.
    by_index = {}
    for batch in dataset.epoch(0, stream="0", batch_size=12, augment="none"):
        means = batch.images.mean((2, 3)).numpy()
        by_index.update({int(i): (x, int(y)) for i, x, y in zip(batch.index, means, batch.labels, strict=True)})
    x, y = found.parts["train"]
    np.testing.assert_allclose(x, np.stack([by_index[i][0] for i in range(26)]), rtol=1e-5, atol=1e-6)
    assert y.tolist() == [by_index[i][1] for i in range(26)]
    few_x, few_y = features(network, dataset, 10).parts["train"]
    again = features(network, dataset, 10).parts["train"][0]
    assert len(few_x) == 10
    np.testing.assert_array_equal(few_x, again)
    assert all(any(np.array_equal(row, own) and label == v for own, v in zip(x, y, strict=True))
               for row, label in zip(few_x, few_y, strict=True))  # fmt: skip


def test_a_network_without_classifier_is_refused():
    with pytest.raises(UserError, match="gives logits only"):
        features(wrap(nn.Flatten()), tiny_data(TinyTask()), None)


class Normed(StagedNetwork):
    """A norm between the pooling and the classifier, as ConvNeXt has it."""

    def _forward(self, images, edit):
        output = super()._forward(images, edit)
        return Output(self.classify(output.pooled), output.pooled, output.stages)

    def classify(self, features):
        return self.classifier(nn.functional.layer_norm(features, (3,)))


class Widened(StagedNetwork):
    """A layer between the pooling and the classifier, as MobileNetV3 has it."""

    def _forward(self, images, edit):
        pooled = self.stages[-1](self.stem(images)).mean((2, 3))
        return Output(self.classifier(torch.cat([pooled, pooled], 1)), pooled, (images,))


def test_a_network_whose_classifier_reads_something_else_is_refused():
    """Rows of its weights are no templates of the pooled features, so their plane would mean nothing."""
    dataset = tiny_data(TinyTask(num_classes=4))
    for kind, width in ((Normed, 3), (Widened, 6)):
        network = kind(nn.Identity(), [nn.Identity()], nn.Linear(width, 4), 8, "further").eval()
        with pytest.raises(UserError, match="further: its classifier does not read the pooled features"):
            features(network, dataset, None)
    body = nn.Sequential(
        OrderedDict(
            stage=nn.Identity(),
            pool=nn.AdaptiveAvgPool2d(1),
            head=nn.Sequential(nn.Flatten(), nn.LayerNorm(3), nn.Linear(3, 4)),
        )
    )
    with pytest.raises(UserError, match="does not read the pooled features"):
        features(wrap(body, stages=("stage",), classifier="head", image_size=8).eval(), dataset, None)


def test_classes_by_number_and_name():
    names = ("cat", "dog", "owl", "7")
    assert parse_classes(None, names) == (0, 1, 2)
    assert parse_classes("owl, 0,dog", names) == (2, 0, 1)
    assert parse_classes("7,0,1", names) == (3, 0, 1)  # a name, before it is a number
    for wrong in ("0,1", "0,1,1", "0,1,9", "cat,dog,cow"):
        with pytest.raises(UserError):
            parse_classes(wrong, names)
    with pytest.raises(UserError, match="three classes span a plane"):
        parse_classes(None, ("a", "b"))
