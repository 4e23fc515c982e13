"""What the Zipf method does with a network: votes of positions, auxiliary heads, masks, refusals."""

import copy
import math
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import rankdata
from sdbench.methods import zipf as module
from sdbench.methods.zipf import ZipfLabelSmoothing, local_votes, rank_votes, zipf_loss, zipf_targets
from torch import nn

from sdbench import Batch, Output, Task, wrap
from sdbench.errors import UserError
from sdbench.network import StagedNetwork

PROGRESS = torch.tensor(0.0)
NUMBER = r"([0-9.e+-]+)"
TASK = Task(num_classes=5, num_train=6, batch_size=6, epochs=2)
UPSAMPLE = {"None": 1, "bilinear": 2}


def golden_network(arrays):
    """A network whose last map is its input, with the file's classifier."""
    classifier = nn.Linear(*reversed(arrays["w_final"].shape))
    with torch.no_grad():
        classifier.weight.copy_(torch.from_numpy(arrays["w_final"]))
        classifier.bias.copy_(torch.from_numpy(arrays["b_final"]))
    return StagedNetwork(nn.Identity(), [nn.Identity()], classifier, arrays["map_final"].shape[-1], "given maps")


@pytest.mark.golden
def test_every_golden_vote(golden, matches):
    arrays = golden("zipf_local_votes.npz")
    found = [m for m in (re.fullmatch(r"up(None|bilinear)_final_votes", key) for key in arrays) if m]
    assert found
    network, feature_map = golden_network(arrays), torch.from_numpy(arrays["map_final"])
    for match in found:
        votes = local_votes(feature_map, network.classify, UPSAMPLE[match[1]])
        np.testing.assert_array_equal(votes.numpy(), arrays[match[0]], err_msg=match[0])
        output = network(feature_map)
        matches(output.logits, arrays[f"up{match[1]}_final_logits"], "f32", match[0])
        matches(output.pooled, arrays[f"up{match[1]}_final_feat"], "f32", match[0])


@pytest.mark.golden
def test_every_golden_target_of_votes(golden, matches):
    arrays = golden("zipf_local_votes.npz")
    found = [m for m in (re.fullmatch(r"up(None|bilinear)_deeplayer1_target", key) for key in arrays) if m]
    assert found
    labels, num_classes = torch.from_numpy(arrays["labels"]), len(arrays["w_final"])
    for match in found:
        votes = local_votes(torch.from_numpy(arrays["map_final"]), golden_network(arrays).classify, UPSAMPLE[match[1]])
        targets = zipf_targets(rank_votes(votes, num_classes), labels, 1.0)
        others = torch.arange(num_classes) != labels[:, None]
        matches(targets[others].view(len(labels), -1), arrays[match[0]], "f32", match[0])


@pytest.mark.golden
def test_every_golden_total(golden, matches):
    arrays = golden("zipf_local_votes.npz")
    pattern = re.compile(rf"up(None|bilinear)_deeplayer1_lam{NUMBER}_alpha{NUMBER}_total")
    found = [match for match in map(pattern.fullmatch, arrays) if match]
    assert found
    network, labels = golden_network(arrays), torch.from_numpy(arrays["labels"])
    images = torch.from_numpy(arrays["map_final"])
    for match in found:
        # alpha weights further heads, of which deeplayer 1 has none.
        method = ZipfLabelSmoothing(weight=float(match[2]), upsample=UPSAMPLE[match[1]])
        method.setup(Task(num_classes=10, num_train=8, batch_size=8, epochs=1), network)
        terms = method.loss(network, Batch(images, (), (), labels, torch.arange(len(labels))), PROGRESS)
        matches(sum(terms.values()), arrays[match[0]], "f32", match[0])


@pytest.mark.parametrize("upsample", [1, 2, 3])
def test_votes_are_those_of_the_upsampled_map(upsample):
    feature_map, classifier = torch.randn(3, 6, 4, 5), nn.Linear(6, 9)
    wide = F.interpolate(feature_map, scale_factor=upsample, mode="bilinear", align_corners=False)
    expected = torch.stack(
        [classifier(wide[:, :, i, j]).argmax(1) for i in range(4 * upsample) for j in range(5 * upsample)]
    )
    assert torch.equal(local_votes(feature_map, classifier, upsample), expected.T)
    channels_last = feature_map.contiguous(memory_format=torch.channels_last)
    assert torch.equal(local_votes(channels_last, classifier, upsample), expected.T)


def test_positions_are_classified_without_recording_gradients():
    def classify(features):
        assert not torch.is_grad_enabled()
        return features

    local_votes(torch.randn(1, 3, 2, 2, requires_grad=True), classify)


def made(network, **coefficients):
    method = ZipfLabelSmoothing(**coefficients)
    method.setup(TASK, network)
    return method


@pytest.mark.parametrize("few", [0, 1000])
@pytest.mark.parametrize("upsample", [1, 2])
def test_dense_terms(staged_network, image_batch, monkeypatch, few, upsample):
    monkeypatch.setattr(module, "FEW_CLASSES", few)
    network, batch = staged_network(), image_batch()
    method = made(network, weight=0.7, power=1.5, upsample=upsample)
    output = network(batch.images)
    terms = method.criterion(output, batch, PROGRESS)
    assert sorted(terms) == ["ce", "zipf"]
    torch.testing.assert_close(terms["ce"], F.cross_entropy(output.logits, batch.labels))
    wide = output.stages[-1]
    if upsample > 1:
        wide = F.interpolate(wide, scale_factor=upsample, mode="bilinear", align_corners=False)
    votes = network.classifier(wide.flatten(2).transpose(1, 2)).argmax(-1)
    torch.testing.assert_close(terms["zipf"], 0.7 * zipf_loss(output.logits, batch.labels, votes, 1.5))
    assert not list(method.parameters())
    assert not list(method.buffers())


def test_the_classifier_votes_with_its_weights_of_now(staged_network, image_batch):
    network, batch = staged_network(), image_batch()
    method = made(network)
    with torch.no_grad():
        network.classifier.bias.copy_(torch.tensor([0.0, 0.0, 1e3, 0.0, 0.0]))  # every position votes for 2
    output = network(batch.images)
    votes = torch.full((6, 4), 2)
    expected = 0.1 * zipf_loss(output.logits, batch.labels, votes, 1.0)
    torch.testing.assert_close(method.criterion(output, batch, PROGRESS)["zipf"], expected)


def test_without_dense_votes_the_logits_are_ranked(logits_network, logits_batch):
    logits = torch.tensor([[2.0, 1.0, 1.0, -3.0], [0.0, 0.5, 0.25, 9.0]], dtype=torch.float64)
    labels = torch.tensor([1, 3])
    method = made(logits_network, dense=False, weight=1.0, power=2.0)
    terms = method.loss(logits_network, logits_batch(logits, labels), PROGRESS)
    rows = []
    for z, label in zip(logits.numpy(), labels.tolist(), strict=True):
        others = np.arange(4) != label
        q = rankdata(-z, "min")[others] ** -2.0
        q /= q.sum()
        rows.append((q * (np.log(q) - z[others] + np.log(np.exp(z[others]).sum()))).sum())
    assert terms["zipf"].item() == pytest.approx(np.mean(rows), rel=1e-10)
    assert terms["ce"].item() == pytest.approx(F.cross_entropy(logits, labels).item())


@pytest.mark.parametrize("dense", [True, False])
def test_mask_averages_over_images_classified_correctly(staged_network, image_batch, dense):
    network, batch = staged_network(), image_batch()
    output = network(batch.images)
    right = output.logits.argmax(1)
    labels = torch.where(torch.arange(6) < 2, right, (right + 1) % 5)
    masked, plain = (made(network, dense=dense, mask=mask) for mask in (True, False))
    first_two = Output(output.logits[:2], output.pooled[:2], tuple(s[:2] for s in output.stages))
    ours = masked.criterion(output, batch.with_labels(labels), PROGRESS)
    theirs = plain.criterion(first_two, batch.with_labels(labels[:2]), PROGRESS)
    torch.testing.assert_close(ours["zipf"], theirs["zipf"])
    torch.testing.assert_close(ours["ce"], F.cross_entropy(output.logits, labels))
    none = masked.criterion(output, batch.with_labels((right + 1) % 5), PROGRESS)
    assert none["zipf"].item() == 0


@pytest.mark.parametrize("upsample", [1, 2])
def test_deep_layers_vote_with_heads_of_their_own(staged_network, image_batch, upsample):
    network, batch = staged_network(widths=(4, 6, 8)), image_batch()
    method = made(network, weight=0.4, deep_layers=2, aux_weight=0.3, upsample=upsample)
    (head,) = method.heads
    assert tuple(head.weight.shape) == (5, 6)
    output = network(batch.images)
    terms = method.criterion(output, batch, PROGRESS)
    aux = F.cross_entropy(head(output.stages[1].mean((2, 3))), batch.labels)
    torch.testing.assert_close(terms["aux"], 0.3 * aux)
    votes = [
        local_votes(feature_map, classifier, upsample)
        for feature_map, classifier in ((output.stages[2], network.classifier), (output.stages[1], head))
    ]
    assert sum(v.shape[1] for v in votes) == (4 + 16) * upsample**2
    expected = 0.4 * zipf_loss(output.logits, batch.labels, torch.cat(votes, 1), 1.0)
    torch.testing.assert_close(terms["zipf"], expected)
    sum(terms.values()).backward()
    assert head.weight.grad.any()


@pytest.mark.parametrize("deep_layers", [1, 3])
def test_gradients_under_bfloat16_autocast(staged_network, image_batch, deep_layers):
    network = staged_network()
    method = made(network, deep_layers=deep_layers)
    with torch.autocast("cpu", torch.bfloat16):
        terms = method.loss(network, image_batch(), PROGRESS)
    assert {term.dtype for term in terms.values()} == {torch.float32}
    sum(terms.values()).backward()
    for name, parameter in [*network.named_parameters(), *method.named_parameters()]:
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert len(method.heads) == deep_layers - 1
    assert all(head.weight.grad.any() for head in method.heads)


def test_no_gradient_through_votes(staged_network, image_batch):
    """The maps get their gradient from the pooled logits alone: the same at every position."""
    network, batch = staged_network(), image_batch()
    maps = []
    network.stages[-1].register_forward_hook(lambda _m, _i, out: (out.retain_grad(), maps.append(out))[1])
    sum(made(network).loss(network, batch, PROGRESS).values()).backward()
    per_position = maps[0].grad.flatten(2)
    torch.testing.assert_close(per_position, per_position[:, :, :1].expand_as(per_position))


def test_without_weight_it_is_cross_entropy_to_the_bit(staged_network, image_batch):
    network, batch = staged_network(), image_batch()
    plain = F.cross_entropy(copy.deepcopy(network)(batch.images).logits, batch.labels)
    terms = made(network, **ZipfLabelSmoothing.neutral).loss(network, batch, PROGRESS)
    assert list(terms) == ["ce"]  # and no position is classified
    assert torch.equal(sum(terms.values()), plain)


def test_one_forward_pass(staged_network, image_batch):
    network = staged_network()
    made(network, deep_layers=2, upsample=2).loss(network, image_batch(), PROGRESS)
    assert (network.passes.with_gradient, network.passes.without_gradient) == (6, 0)


def test_networks_that_cannot_vote_are_refused(staged_network):
    with pytest.raises(UserError, match=r"gives logits only.*dense=false"):
        made(wrap(nn.Linear(4, 5)))
    with pytest.raises(UserError, match="deep_layers=4, but small network has 3 stages"):
        made(staged_network(), deep_layers=4)


@pytest.mark.parametrize(
    ("coefficients", "message"),
    [
        ({"weight": -0.1}, "weight must be in"),
        ({"power": -1.0}, "power must be in"),
        ({"power": math.nan}, "power must be in"),
        ({"upsample": 0}, "upsample must be 1 or more"),
        ({"deep_layers": 0}, "deep_layers must be 1 or more"),
        ({"dense": False, "upsample": 2}, "without dense votes"),
        ({"dense": False, "deep_layers": 2}, "without dense votes"),
        ({"deep_layers": 2, "aux_weight": 0.0}, "aux_weight must be positive"),
    ],
)
def test_values_outside_their_range_are_refused(coefficients, message):
    with pytest.raises(ValueError, match=message):
        ZipfLabelSmoothing(**coefficients)
