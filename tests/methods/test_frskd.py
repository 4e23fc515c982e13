"""FRSKD against the authors' numbers, cases worked by hand, and its self-teacher."""

import math

import pytest
import torch
import torch.nn.functional as F
from sdbench.methods.frskd import FeatureRefinement, SelfTeacher, _down, _fuse, attention_distance, frskd_loss

from sdbench import Task
from sdbench.errors import UserError

TASK = Task(num_classes=5, num_train=6, batch_size=6, epochs=2)
PROGRESS = torch.tensor(0.0)


@pytest.mark.golden
@pytest.mark.parametrize("precision", ["f32", "f64"])
def test_every_golden_case(matches, leaf, precision, golden_cases):
    for case, args, own in golden_cases("wide/frskd.npz"):
        depth = range(sum(key.startswith("feat") for key in own))
        names = [
            "student_logits",
            "teacher_logits",
            *(f"{kind}{i}" for kind in ("feat", "teacher_feat") for i in depth),
        ]
        inputs = {name: leaf(own[name], precision) for name in names}
        maps, refined = ([inputs[f"{kind}{i}"] for i in depth] for kind in ("feat", "teacher_feat"))
        logits = inputs["student_logits"], inputs["teacher_logits"]
        labels = torch.from_numpy(own["labels"])
        terms = frskd_loss(*logits, maps, refined, labels, **args)
        total = sum(terms.values())
        total.backward()
        plain = frskd_loss(*logits, maps, refined, labels, args["temperature"], 1.0, 1.0)
        values = {"loss": total, "distill": terms["kd"] + terms["attention"]}
        values |= {name: plain[name] for name in ("kd", "attention")}
        values |= {f"attention{i}": attention_distance(maps[i], refined[i]) for i in depth}
        for name, value in values.items():
            matches(value, own[f"official_{name}_{precision}"], precision, f"{case} {name}")
        for name, tensor in inputs.items():
            key = f"official_grad_{name}_{precision}"
            if key in own:
                grad = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
                matches(grad, own[key], precision, f"{case}.{key}")


def test_attention_distance_by_hand():
    # Energies (3, 4) / 5 against (0, 1): (9 + 1) / 25 / 2; the sign of a channel does not matter.
    student = torch.tensor([[[[math.sqrt(3), -2.0]]]], dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor([[[[0.0, 7.0]], [[0.0, -1.0]]]], dtype=torch.float64, requires_grad=True)
    distance = attention_distance(student, teacher)
    assert distance.item() == pytest.approx((0.36 + 0.04) / 2, rel=1e-12)
    distance.backward()
    assert teacher.grad is None
    assert attention_distance(torch.zeros(1, 2, 1, 2), torch.zeros(1, 3, 1, 2)).item() == 0


def test_distillation_pulls_the_network_alone():
    logits, teacher_logits = (torch.randn(3, 4, requires_grad=True) for _ in range(2))
    maps, refined = ([torch.randn(3, 2, 4, 4, requires_grad=True)] for _ in range(2))
    terms = frskd_loss(logits, teacher_logits, maps, refined, torch.tensor([0, 1, 2]), 4.0, 2.0, 100.0)
    (terms["kd"] + terms["attention"]).backward()
    assert teacher_logits.grad is None
    assert refined[0].grad is None
    assert logits.grad.abs().sum() > 0
    assert maps[0].grad.abs().sum() > 0


def test_downsampling_takes_the_maximum_around_every_second_position():
    # An even side is padded at its end only: windows 0..2 and 2..4 of (0, 1, 2, 3).
    ramp = torch.arange(4.0).repeat(4, 1)[None, None]
    assert _down(ramp, 2, 2)[0, 0].tolist() == [[2.0, 3.0], [2.0, 3.0]]
    # An odd side on both sides: windows -1..1, 1..3, 3..5 of (0, 1, 2, 3, 4).
    ramp = torch.arange(5.0).repeat(5, 1)[None, None]
    assert _down(ramp, 3, 3)[0, 0, 0].tolist() == [1.0, 3.0, 4.0]
    # Sizes that do not halve: bins; the same size: the map itself.
    assert torch.equal(_down(ramp, 5, 5), ramp)
    assert _down(torch.arange(8.0).repeat(8, 1)[None, None], 2, 2)[0, 0, 0].tolist() == [3.0, 7.0]


def test_fusion_weights_are_shares():
    inputs = [torch.full((1, 1), value) for value in (1.0, 10.0, 100.0)]
    assert _fuse(torch.tensor([1.0, 3.0, -5.0]), inputs).item() == pytest.approx(31 / 4, rel=1e-5)
    assert _fuse(torch.tensor([-1.0, -1.0]), inputs[:2]).item() == 0


@pytest.mark.parametrize("sides", [(8, 4, 2), (7, 4, 2), (4, 4, 1), (2, 1, 1)])
def test_the_self_teacher_refines_every_stage_at_its_size(sides):
    teacher = SelfTeacher((3, 4, 5), 6, width=2, depth=2)
    stages = [torch.randn(2, c, s, s, requires_grad=True) for c, s in zip((3, 4, 5), sides, strict=True)]
    refined, logits = teacher(stages)
    assert [f.shape for f in refined] == [(2, 2 * c, s, s) for c, s in zip((3, 4, 5), sides, strict=True)]
    assert all((f >= 0).all() for f in refined)
    assert logits.shape == (2, 6)
    logits.sum().backward()
    assert all(p.grad is not None for p in teacher.parameters())
    assert all(stage.grad is not None for stage in stages)


def test_the_self_teachers_paths():
    """The first refined map depends on deeper stages, and the last one on shallower ones."""
    teacher = SelfTeacher((3, 4, 5), 6, width=1, depth=1).eval()
    stages = [torch.rand(1, c, s, s) for c, s in zip((3, 4, 5), (8, 4, 2), strict=True)]
    before, logits = teacher(stages)
    for i in range(3):
        changed = [stage + 1.0 if i == j else stage for j, stage in enumerate(stages)]
        after, other = teacher(changed)
        assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True)), i
        assert not torch.equal(logits, other), i


def test_the_class_wires_stages_and_coefficients(staged_network, image_batch):
    network, batch = staged_network(), image_batch()
    method = FeatureRefinement(temperature=3.0, alpha=0.5, beta=10.0)
    method.setup(TASK, network)
    output = network(batch.images)
    refined, logits = method.self_teacher(output.stages)
    expected = frskd_loss(output.logits, logits, output.stages, refined, batch.labels, 3.0, 0.5, 10.0)
    terms = method.criterion(output, batch, PROGRESS)
    torch.testing.assert_close(terms, expected)
    torch.testing.assert_close(terms["ce"], F.cross_entropy(output.logits, batch.labels))
    sum(terms.values()).backward()
    assert all(p.grad is not None for p in [*method.parameters(), *network.parameters()])


def test_one_stage_and_wrong_values_are_refused(staged_network):
    with pytest.raises(UserError, match=r"frskd builds a feature pyramid over the stages, .* has 1 stage"):
        FeatureRefinement().setup(TASK, staged_network(widths=(4,)))
    for key, value in {"temperature": 0.0, "alpha": -1.0, "beta": math.nan, "width": 0, "depth": 0}.items():
        with pytest.raises(ValueError, match=f"{key} must be"):
            FeatureRefinement(**{key: value})
