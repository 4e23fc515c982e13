"""MixSKD against the authors' numbers, cases worked by hand, and who teaches whom."""

import math

import pytest
import torch
from scipy import stats
from sdbench.methods.mixskd import SelfDistillationFromMixup, blend, discrimination_loss, mixskd_loss, symmetric_beta
from torch import nn

from sdbench import Task, wrap
from sdbench.errors import UserError
from sdbench.graph import plain_state

PROGRESS = torch.tensor(0.0)
PARTS = {"cls": ("ce", "mixed_ce"), "div": ("distillation",), "feature": ("feature",), "disc": ("discriminator",)}
CIFAR = {"loss": ("ce", "distillation", "feature", "discriminator"), "cls": ("ce",), "mixcls_unused": ("mixed_ce",)}


def task(classes=5, seed=4):
    generator = torch.Generator().manual_seed(seed)
    return Task(num_classes=classes, num_train=6, batch_size=6, epochs=2, generator=generator)


def discriminator(arrays, b, precision):
    """The stored weights as a score."""
    first, second = (arrays[f"disc{b}_{name}"] for name in ("w1", "w2"))
    module = nn.Sequential(nn.Linear(*first.shape[::-1]), nn.ReLU(), nn.Linear(*second.shape[::-1]))
    names = {"0.weight": "w1", "0.bias": "b1", "2.weight": "w2", "2.bias": "b2"}
    module.load_state_dict({k: torch.from_numpy(arrays[f"disc{b}_{n}"]) for k, n in names.items()})
    return module.double() if precision == "f64" else module


def golden_terms(arrays, args, leaf, precision):
    count = args["branches"]
    inputs = {f"{kind}{b}": leaf(arrays[f"{kind}{b}"], precision) for kind in ("logits", "feat") for b in range(count)}
    for name in ("teacher_logits_mixed_features", "teacher_logits_mixup_input"):
        inputs[name] = leaf(arrays[name], precision)
    terms = mixskd_loss(
        [inputs[f"logits{b}"] for b in range(count)],
        [inputs[f"feat{b}"] for b in range(count)],
        (inputs["teacher_logits_mixed_features"], inputs["teacher_logits_mixup_input"]),
        [discriminator(arrays, b, precision) for b in range(count)],
        torch.from_numpy(arrays["labels"]),
        torch.from_numpy(arrays["perm"]),
        args["lam"],
        args["kd_T"],
    )
    return inputs, terms


@pytest.mark.golden
@pytest.mark.parametrize("precision", ["f32", "f64"])
def test_every_golden_case(golden_cases, matches, leaf, precision):
    for case, args, arrays in golden_cases("wide/mixskd.npz"):
        inputs, terms = golden_terms(arrays, args, leaf, precision)
        for part, names in {**PARTS, "loss": tuple(terms)}.items():
            expected = arrays[f"imagenet_script_{part}_{precision}"]
            matches(sum(terms[name] for name in names), expected, precision, f"{case} {part}")
        sum(terms.values()).backward()
        for name, value in inputs.items():
            key = f"imagenet_script_grad_{name}_{precision}"
            if key in arrays:
                matches(value.grad, arrays[key], precision, key)
        assert "imagenet_script_grad_logits0_f64" in arrays


@pytest.mark.golden
@pytest.mark.parametrize("precision", ["f32", "f64"])
def test_the_cifar_script_leaves_out_what_the_self_teacher_learns_from(golden_cases, matches, leaf, precision):
    """The known bug, told by its numbers: without "mixed_ce" nothing reaches the self-teacher."""
    for case, args, arrays in golden_cases("wide/mixskd.npz"):
        inputs, terms = golden_terms(arrays, args, leaf, precision)
        for part, names in CIFAR.items():
            expected = arrays[f"cifar_script_{part}_{precision}"]
            matches(sum(terms[name] for name in names), expected, precision, f"{case} {part}")
        sum(terms[name] for name in CIFAR["loss"]).backward(retain_graph=True)
        taught = [inputs["teacher_logits_mixed_features"], inputs["teacher_logits_mixup_input"]]
        assert [z.grad for z in taught] == [None, None]
        terms["mixed_ce"].backward()
        assert all(z.grad.abs().max() > 0.01 for z in taught)


def test_mixed_cross_entropy_and_feature_by_hand():
    """One classifier, two images that swap places, a share of 1/4."""
    logits = torch.tensor([[math.log(3), 0.0], [0.0, 0.0], [0.0, math.log(7)], [0.0, 0.0]], dtype=torch.float64)
    maps = torch.tensor([4.0, 8.0, 5.0, 6.0], dtype=torch.float64).reshape(4, 1, 1, 1)
    even = torch.zeros(2, 2, dtype=torch.float64)
    labels, order = torch.tensor([0, 1]), torch.tensor([1, 0])
    terms = mixskd_loss([logits], [maps], (even, even), [], labels, order, 0.25, 1.0)
    assert terms["ce"].item() == pytest.approx((math.log(4 / 3) + math.log(2)) / 2, rel=1e-12)
    # The first blend is 1/4 of class 0 and 3/4 of class 1, the second the other way round.
    network = (0.25 * math.log(8) + 0.75 * math.log(8 / 7) + math.log(2)) / 2
    assert terms["mixed_ce"].item() == pytest.approx(network + 2 * math.log(2), rel=1e-12)
    # Blends of the maps are 1 + 6 = 7 and 2 + 3 = 5, against 5 and 6.
    assert terms["feature"].item() == pytest.approx((4 + 1) / 2, rel=1e-12)
    assert terms["discriminator"].item() == 0
    # Blends of the logits are log 3 / 4 and 3 log 3 / 4 apart, the blended images' log 7 and 0, all against even.
    apart = [torch.tensor([gap, 0.0]).double().softmax(0) for gap in (math.log(3) / 4, 3 * math.log(3) / 4)]
    mixed = [torch.tensor([1 / 8, 7 / 8]).double(), torch.tensor([0.5, 0.5]).double()]
    expected = sum((0.5 * (0.5 / p).log()).sum().item() / 2 for p in (*apart, *mixed))
    assert terms["distillation"].item() == pytest.approx(expected, rel=1e-6)


def test_discrimination_by_hand():
    """Scores are the pooled values themselves: 2 for blended features, with target (1, 0), and 0, with (0, 1)."""
    blended, mixed = torch.tensor([1.0, 3.0]).reshape(1, 1, 1, 2), torch.zeros(1, 1, 1, 2)
    loss = discrimination_loss(lambda pooled: torch.cat([pooled, -pooled], dim=1), blended, mixed)
    assert loss.item() == pytest.approx((2 * math.log1p(math.exp(-2)) + 2 * math.log(2)) / 4, rel=1e-6)


def test_the_backbone_learns_from_the_self_teacher_and_a_branch_from_itself():
    logits = [torch.randn(8, 3, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    teachers = tuple(torch.randn(4, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    order, share, temperature = torch.tensor([2, 0, 3, 1]), 0.3, 3.0
    maps = [torch.zeros(8, 1, 1, 1)] * 2
    terms = mixskd_loss(logits, maps, teachers, [], torch.zeros(4, dtype=torch.int64), order, share, temperature)
    terms["distillation"].backward()
    assert [t.grad for t in teachers] == [None, None]
    branch, backbone = logits

    def pull(student, teacher):  # gradient of KL_T in the student's logits
        return temperature * ((student / temperature).softmax(1) - (teacher / temperature).softmax(1)) / 4

    on_blended, on_mixed = (t.detach() for t in teachers)
    for z, for_apart, for_mixed in ((branch, branch[4:], None), (backbone, on_mixed, on_blended)):
        apart = share * z[:4] + (1 - share) * z[:4][order]
        torch.testing.assert_close(z.grad[4:], pull(z[4:], apart if for_mixed is None else for_mixed))
        towards = pull(apart, for_apart)
        expected = share * towards + (1 - share) * towards[order.argsort()]
        torch.testing.assert_close(z.grad[:4], expected)


def test_the_step_is_the_formula(staged_network, image_batch):
    network, batch = staged_network(widths=(4, 6, 8, 10)), image_batch()
    method = SelfDistillationFromMixup(weight=0.5, feature=2.0, discriminator=0.25)
    method.setup(task(), network)
    assert len(method.branches) == 3
    assert len(method.discriminators) == 4
    terms = method.loss(network, batch, PROGRESS)
    assert network.passes.with_gradient == 12

    generator = torch.Generator().manual_seed(4)
    share = symmetric_beta(0.4, generator, torch.device("cpu"))
    order = torch.randperm(6, generator=generator)
    mixed = share * batch.images + (1 - share) * batch.images[order]
    output = network(torch.cat([batch.images, mixed]))
    logits, maps = [], []
    for branch, stage in zip(method.branches, output.stages[:-1], strict=True):
        maps.append(branch.tail(stage))
        logits.append(branch.classifier(maps[-1].mean((2, 3))))
    logits, maps = [*logits, output.logits], [*maps, output.stages[-1]]
    blended = [share * f[:6] + (1 - share) * f[:6][order] for f in maps]
    convolution, classifier = method.self_teacher.convolution, method.self_teacher.classifier
    teachers = [classifier(convolution(torch.cat(m, 1)).mean((2, 3))) for m in (blended, [f[6:] for f in maps])]
    expected = mixskd_loss(logits, maps, teachers, method.discriminators, batch.labels, order, share, 3.0)
    weights = {"distillation": 0.5, "feature": 2.0, "discriminator": 0.25}
    assert terms.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], weights.get(name, 1.0) * value, msg=name)
    sum(terms.values()).backward()
    for module in (network, method, method.self_teacher):
        assert all(p.grad is not None and p.grad.any() for p in module.parameters())


def test_discriminators_help_the_features_to_be_told_apart():
    """As published they are no adversaries: the gradient in the maps lowers their loss, too."""
    maps = [torch.randn(8, 3, 2, 2, requires_grad=True)]
    score = nn.Linear(3, 2)
    order, even = torch.randperm(4), torch.zeros(4, 2)

    def loss(f):
        return mixskd_loss(
            [torch.zeros(8, 2)], f, (even, even), [score], torch.zeros(4, dtype=torch.int64), order, 0.5, 1.0
        )["discriminator"]

    before = loss(maps)
    (gradient,) = torch.autograd.grad(before, maps)
    assert loss([maps[0] - 0.1 * gradient]) < before


def test_terms_and_parameters_that_are_off_are_left_out(staged_network, image_batch):
    method = SelfDistillationFromMixup(weight=0.0, feature=0.0, discriminator=0.0)
    network = staged_network(classes=2)
    method.setup(task(2), network)
    terms = method.loss(network, image_batch(classes=2), PROGRESS)
    assert set(terms) == {"ce", "mixed_ce"}
    assert len(method.discriminators) == 0
    sum(terms.values()).backward()
    assert all(p.grad is not None for p in method.parameters())


def test_fewer_stages_get_fewer_branches(staged_network):
    for count, widths, expected in ((1, (4, 6, 8), 1), (3, (4, 6, 8), 2), (3, (4, 6, 8, 8, 8), 3)):
        method = SelfDistillationFromMixup(branches=count)
        network = staged_network(widths=widths)
        method.setup(task(), network)
        assert len(method.branches) == expected
        first = next(iter(method.branches[0].tail.parameters()))
        assert first.shape[1] == widths[-1 - expected]


def test_short_batches_and_shares_at_the_ends(staged_network, image_batch):
    network = staged_network()
    for alpha in (1e-4, 1e6):
        method = SelfDistillationFromMixup(alpha=alpha)
        method.setup(task(), network)
        for size in (1, 2):
            terms = method.loss(network, image_batch(size), PROGRESS)
            assert all(term.isfinite() for term in terms.values())
    rows, order = torch.randn(6, 2), torch.tensor([2, 0, 1])
    assert torch.equal(blend(rows, order, torch.tensor(1.0)), rows[:3])
    assert torch.equal(blend(rows, order, 0.0), rows[[2, 0, 1]])


def test_every_step_draws_anew_and_from_its_generator(staged_network, image_batch):
    network, batch = staged_network().eval(), image_batch()
    values = []
    for seed in (1, 1, 2):
        method = SelfDistillationFromMixup()
        torch.manual_seed(0)
        method.setup(task(seed=seed), network)
        torch.manual_seed(len(values))
        before = plain_state(method)
        values.append([method.loss(network, batch, PROGRESS)["mixed_ce"].item() for _ in range(3)])
        assert plain_state(method) == before
    assert values[0] == values[1]
    assert values[0] != values[2]
    assert len(set(values[0])) == 3


def test_shares_have_betas_distribution():
    generator = torch.Generator().manual_seed(3)
    draws = torch.stack([symmetric_beta(0.4, generator, torch.device("cpu")) for _ in range(3000)])
    assert stats.kstest(draws.double().numpy(), stats.beta(0.4, 0.4).cdf).pvalue > 0.01
    assert stats.kstest(draws.double().numpy(), stats.beta(0.6, 0.6).cdf).pvalue < 0.01  # it can fail


def test_losses_are_float32_under_bfloat16(staged_network, image_batch):
    network, method = staged_network(), SelfDistillationFromMixup()
    method.setup(task(), network)
    with torch.autocast("cpu", torch.bfloat16):
        terms = method.loss(network, image_batch(), PROGRESS)
    assert {term.dtype for term in terms.values()} == {torch.float32}


# What torch's own tracer does to autograd functions in 2.11:
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_the_loss_compiles_as_a_whole():
    logits, maps = torch.randn(3, 8, 5), torch.randn(3, 8, 4, 2, 2)
    scores = [nn.Linear(4, 2) for _ in range(3)]
    labels, order = torch.randint(5, (4,)), torch.randperm(4)
    arguments = (
        list(logits),
        list(maps),
        (logits[0, :4], logits[1, :4]),
        scores,
        labels,
        order,
        torch.tensor(0.3),
        3.0,
    )
    compiled = torch.compile(mixskd_loss, fullgraph=True, backend="aot_eager")(*arguments)
    for name, value in mixskd_loss(*arguments).items():
        torch.testing.assert_close(compiled[name], value)
    torch._dynamo.reset()


def test_unfit_networks_and_wrong_values_are_refused(staged_network):
    with pytest.raises(UserError, match="mixskd puts classifiers after stages before the last, and small network has"):
        SelfDistillationFromMixup().setup(task(), staged_network(widths=(4,)))
    with pytest.raises(UserError, match="gives logits only"):
        SelfDistillationFromMixup().setup(task(), wrap(nn.Linear(3, 5)))
    wrong = {
        "alpha": 0.0,
        "temperature": 0.0,
        "branches": 0,
        "weight": -1.0,
        "feature": math.nan,
        "discriminator": -1.0,
    }
    for key, value in wrong.items():
        with pytest.raises(ValueError, match=f"{key} must be"):
            SelfDistillationFromMixup(**{key: value})
