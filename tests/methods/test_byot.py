"""BYOT against a reproduction's numbers, cases worked by hand, and its heads' shapes."""

import math
import re

import pytest
import torch
import torch.nn.functional as F
from sdbench.methods.byot import BeYourOwnTeacher, ShallowClassifier, byot_loss
from torch import nn

from sdbench import Output, Task, wrap
from sdbench.errors import UserError

PROGRESS = torch.tensor(0.0)
NUMBER = r"([0-9.e+-]+)"
TASK = Task(num_classes=5, num_train=6, batch_size=6, epochs=2)


def golden_inputs(arrays, leaf, precision):
    """Logits and features, deepest first, and the names they have in the file."""
    depths = sorted((int(k.removeprefix("logits_m")) for k in arrays if re.fullmatch(r"logits_m\d+", k)), reverse=True)
    names = ["final", *(f"m{depth}" for depth in depths)]
    logits, features = ([leaf(arrays[f"{kind}_{name}"], precision) for name in names] for kind in ("logits", "feat"))
    return names, logits, features


@pytest.mark.golden
def test_every_golden_total(golden, matches, leaf):
    arrays = golden("byot.npz")
    pattern = re.compile(rf"(.*_T{NUMBER}_a{NUMBER}_b{NUMBER}_(f32|f64))_total_loss")
    found = [match for match in map(pattern.fullmatch, arrays) if match]
    assert found
    for match in found:
        names, logits, features = golden_inputs(arrays, leaf, match[5])
        coefficients = [float(match[i]) for i in (2, 3, 4)]
        terms = byot_loss(logits, features, torch.from_numpy(arrays["labels"]), *coefficients)
        terms["total"].backward()
        matches(terms["total"], arrays[match[0]], match[5], match[0])
        for name, z, f in zip(names, logits, features, strict=True):
            matches(z.grad, arrays[f"{match[1]}_grad_logits_{name}"], match[5], f"{match[0]} logits {name}")
            if f"{match[1]}_grad_feat_{name}" in arrays:
                grad = torch.zeros_like(f) if f.grad is None else f.grad
                matches(grad, arrays[f"{match[1]}_grad_feat_{name}"], match[5], f"{match[0]} features {name}")


@pytest.mark.golden
def test_every_golden_term(golden, matches, leaf):
    arrays = golden("byot.npz")
    pattern = re.compile(
        rf".*_T{NUMBER}_a{NUMBER}_b{NUMBER}_(f32|f64)_(?:middle(\d+)_loss|loss(\d+)_kd|feature_loss_(\d+)|loss)"
    )
    found = [match for match in map(pattern.fullmatch, arrays) if match]
    assert all(any(match[i] for match in found) for i in (5, 6, 7))  # each kind of term
    labels = torch.from_numpy(arrays["labels"])
    for match in found:
        names, logits, features = golden_inputs(arrays, leaf, match[4])
        temperature = float(match[1])
        head = names.index(f"m{match[5] or match[6] or match[7]}") if match[5] or match[6] or match[7] else 0
        pair = [[of[0], of[head]] for of in (logits, features)]
        if match[5] or not head:
            value = byot_loss([logits[head]], [features[head]], labels, temperature, 0.0, 0.0)["ce"]
        elif match[6]:
            value = byot_loss(*pair, labels, temperature, 1.0, 0.0)["kd"]
        else:
            value = byot_loss(*pair, labels, temperature, 0.0, 1.0)["feature"]
        matches(value, arrays[match[0]], match[4], match[0])


def by_hand_inputs():
    """Softened with T = 2 the deepest gives (3/4, 1/4) and the head (1/2, 1/2)."""
    logits = [[2 * math.log(3), 0.0]], [[0.0, 0.0]]
    features = [[1.0, -1.0, 0.0, -2.0]], [[3.0, 0.5, 0.0, -1.0]]
    double = {"dtype": torch.float64, "requires_grad": True}
    return [torch.tensor(z, **double) for z in logits], [torch.tensor(f, **double) for f in features]


def test_reproductions_formula_by_hand():
    logits, features = by_hand_inputs()
    terms = byot_loss(logits, features, torch.tensor([1]), 2.0, 0.25, 0.5)
    assert terms["ce"].item() == pytest.approx(0.75 * (math.log(10) + math.log(2)), rel=1e-12)
    assert terms["kd"].item() == pytest.approx(0.25 * 4 * math.log(2), rel=1e-12)
    assert terms["feature"].item() == pytest.approx(0.5 * (4 + 2.25), rel=1e-12)  # the last is gated away
    assert terms["total"].item() == pytest.approx(sum(terms[k].item() for k in ("ce", "kd", "feature")))


def test_papers_formula_by_hand():
    logits, features = by_hand_inputs()
    terms = byot_loss(logits, features, torch.tensor([1]), 2.0, 0.25, 0.5, variant="paper")
    kl = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert terms["ce"].item() == pytest.approx(math.log(10) + 0.75 * math.log(2), rel=1e-12)
    assert terms["kd"].item() == pytest.approx(0.25 * 4 * kl, rel=1e-12)
    assert terms["feature"].item() == pytest.approx(0.5 * (4 + 2.25 + 1), rel=1e-12)


@pytest.mark.parametrize("variant", ["luanyunteng", "paper"])
def test_the_deepest_is_taught_by_the_labels_alone(variant):
    logits, features = by_hand_inputs()
    terms = byot_loss(logits, features, torch.tensor([1]), 2.0, 0.25, 0.5, variant=variant)
    (terms["kd"] + terms["feature"]).backward()
    assert logits[0].grad is None
    assert features[0].grad is None
    assert logits[1].grad.abs().sum() > 0
    assert features[1].grad.abs().sum() > 0


def test_both_variants_distil_with_one_gradient():
    gradients = []
    for variant in ("luanyunteng", "paper"):
        logits, features = by_hand_inputs()
        byot_loss(logits, features, torch.tensor([0]), 2.0, 1.0, 0.0, variant=variant)["kd"].backward()
        gradients.append(logits[1].grad)
    torch.testing.assert_close(*gradients)
    # T^2 * (softmax(z/T) - q) / T = 2 * ((1/2, 1/2) - (3/4, 1/4)).
    torch.testing.assert_close(gradients[0], torch.tensor([[-0.5, 0.5]], dtype=torch.float64))


def test_features_may_have_empty_sides():
    logits, features = by_hand_inputs()
    wide = [f[:, :, None, None] for f in features]
    one, other = (byot_loss(logits, f, torch.tensor([1]), 3.0, 0.1, 1e-3) for f in (features, wide))
    assert one["feature"].item() == other["feature"].item()


def test_feature_term_is_a_sum_over_the_batch():
    logits, features = by_hand_inputs()
    twice = [[t.repeat(2, 1) for t in of] for of in (logits, features)]
    one = byot_loss(logits, features, torch.tensor([1]), 2.0, 0.25, 0.5)
    two = byot_loss(*twice, torch.tensor([1, 1]), 2.0, 0.25, 0.5)
    assert two["feature"].item() == pytest.approx(2 * one["feature"].item())
    assert two["kd"].item() == pytest.approx(one["kd"].item())


def test_heads_have_the_published_number_of_parameters():
    # ResNet-18 at 32 pixels. Per head with D = 512: C*128 + 128*128*k*k + 128*512 weights in the
    # convolutions, 2*(128 + 128 + 512) in BatchNorm, 512*100 + 100 in the classifier.
    expected = 0
    for channels, k in ((64, 8), (128, 4), (256, 2)):
        expected += channels * 128 + 128 * 128 * k * k + 128 * 512 + 2 * 768 + 51_300
    shapes = [(64, 32, 32), (128, 16, 16), (256, 8, 8)]
    heads = [ShallowClassifier(shape, (512, 4, 4), 100) for shape in shapes]
    assert sum(p.numel() for head in heads for p in head.parameters()) == expected == 1_788_716
    for head, shape in zip(heads, shapes, strict=True):
        logits, features = head(torch.randn(2, *shape))
        assert head.bottleneck(torch.randn(2, *shape)).shape == (2, 512, 4, 4)
        assert (logits.shape, features.shape) == ((2, 100), (2, 512))
        assert features.min() >= 0


@pytest.mark.parametrize(
    ("shape", "last"),
    [((3, 7, 7), (8, 3, 3)), ((4, 4, 4), (6, 4, 4)), ((2, 9, 6), (3, 1, 2)), ((5, 2, 2), (1, 4, 4))],
)
def test_heads_take_any_sizes(shape, last):
    logits, features = ShallowClassifier(shape, last, 4)(torch.randn(2, *shape))
    assert (logits.shape, features.shape) == ((2, 4), (2, last[0]))


def test_terms_of_the_class(staged_network, image_batch):
    network, batch = staged_network(), image_batch()
    method = BeYourOwnTeacher(temperature=2.0, alpha=0.3, beta=1e-2)
    method.setup(TASK, network)
    assert len(method.heads) == 2
    output = network(batch.images)
    terms = method.criterion(output, batch, PROGRESS)
    assert sorted(terms) == ["ce", "feature", "kd"]
    with torch.no_grad():
        for head in method.heads:  # the same batch statistics as in the first call
            head.train()
        (z1, f1), (z2, f2) = (head(m) for head, m in zip(method.heads, output.stages[:-1], strict=True))
    expected = byot_loss(
        [output.logits, z2, z1], [output.stages[-1].mean((2, 3)), f2, f1], batch.labels, 2.0, 0.3, 1e-2
    )
    torch.testing.assert_close(sum(terms.values()), expected["total"])


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("widths", [(4, 8), (4, 6, 8, 10)])
def test_every_parameter_learns(staged_network, image_batch, widths, precision):
    network = staged_network(widths=widths)
    method = BeYourOwnTeacher()
    method.setup(TASK, network)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        terms = method.loss(network, image_batch(), PROGRESS)
    assert {term.dtype for term in terms.values()} == {torch.float32}
    sum(terms.values()).backward()
    for name, parameter in [*method.named_parameters(), *network.named_parameters()]:
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert all(head.classifier.weight.grad.any() for head in method.heads)
    assert (network.passes.with_gradient, network.passes.without_gradient) == (6, 0)


def test_without_kd_and_features_it_is_deep_supervision(staged_network, image_batch):
    network, batch = staged_network(), image_batch()
    method = BeYourOwnTeacher(alpha=0.0, beta=0.0)
    method.setup(TASK, network)
    output = network(batch.images)
    terms = method.criterion(output, batch, PROGRESS)
    heads = [F.cross_entropy(head(m)[0], batch.labels) for head, m in zip(method.heads, output.stages, strict=False)]
    torch.testing.assert_close(sum(terms.values()), F.cross_entropy(output.logits, batch.labels) + sum(heads))


def test_networks_without_earlier_stages_are_refused(staged_network):
    with pytest.raises(UserError, match="has one stage"):
        BeYourOwnTeacher().setup(TASK, staged_network(widths=(4,)))
    with pytest.raises(UserError, match="gives logits only"):
        BeYourOwnTeacher().setup(TASK, wrap(nn.Linear(4, 5)))


@pytest.mark.parametrize(
    ("coefficients", "message"),
    [
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"alpha": 1.5}, r"alpha must be in \[0, 1\]"),
        ({"beta": -1e-6}, "beta must be in"),
        ({"variant": "journal"}, "variant must be 'luanyunteng' or 'paper'"),
    ],
)
def test_values_outside_their_range_are_refused(coefficients, message):
    with pytest.raises(ValueError, match=message):
        BeYourOwnTeacher(**coefficients)


def test_unequal_numbers_of_logits_and_features_are_refused():
    logits, features = by_hand_inputs()
    with pytest.raises(ValueError, match="one tensor of features per classifier"):
        byot_loss(logits, features[:1], torch.tensor([0]), 2.0, 0.1, 0.1)
    with pytest.raises(ValueError, match="variant must be"):
        byot_loss(logits, features, torch.tensor([0]), 2.0, 0.1, 0.1, variant="other")


def test_a_head_per_stage_is_required(staged_network, image_batch):
    network, batch = staged_network(), image_batch()
    method = BeYourOwnTeacher()
    method.setup(TASK, network)
    output = network(batch.images)
    with pytest.raises(ValueError, match="zip"):
        method.criterion(Output(output.logits, output.pooled, output.stages[1:]), batch, PROGRESS)
