"""SAD against a public implementation's numbers, and cases worked by hand."""

import math

import pytest
import torch
import torch.nn.functional as F
from sdbench.methods.sad import SelfAttentionDistillation, attention_distillation

from sdbench import Output, Task
from sdbench.errors import UserError

TASK = Task(num_classes=5, num_train=6, batch_size=6, epochs=2)
PROGRESS = torch.tensor(0.0)


@pytest.mark.golden
def test_every_golden_case(matches, leaf, image_batch, golden_cases):
    for case, args, own in golden_cases("wide/sad.npz"):
        weight = args["weight"]
        depth = sum(key.startswith("feat") for key in own)
        for precision in ("f32", "f64"):
            maps = [leaf(own[f"feat{i}"], precision) for i in range(depth)]
            logits = leaf(own["logits"], precision)
            batch = image_batch(len(logits)).with_labels(torch.from_numpy(own["labels"]))
            terms = SelfAttentionDistillation(weight=weight).criterion(
                Output(logits, maps[-1].mean((2, 3)), tuple(maps)), batch, PROGRESS
            )
            total = sum(terms.values())
            total.backward()
            values = {"loss": total, "ce": terms["ce"], "attention_times_1000": terms["attention"]}
            for name, value in values.items():
                matches(value, own[f"selfkdlib_{name}_{precision}"], precision, f"{case} {name}")
            for name, tensor in {"logits": logits, **{f"feat{i}": f for i, f in enumerate(maps)}}.items():
                key = f"selfkdlib_grad_{name}_{precision}"
                if key in own:
                    grad = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
                    matches(grad, own[key], precision, f"{case}.{key}")


def test_by_hand():
    # Two positions with energies ln 3 and 0: attention (3/4, 1/4); the deeper map is even: (1/2, 1/2).
    shallow = torch.tensor([[[[math.sqrt(math.log(3)), 0.0]]]], dtype=torch.float64)
    deep = torch.ones(1, 4, 1, 1, dtype=torch.float64)
    assert attention_distillation([shallow, deep]).item() == pytest.approx(1 / 16, rel=1e-12)
    # The same energy as a mean over two channels, one of which is 0.
    wide = torch.cat([shallow * math.sqrt(2), torch.zeros_like(shallow)], dim=1)
    assert attention_distillation([wide, deep]).item() == pytest.approx(1 / 16, rel=1e-12)
    assert attention_distillation([deep]).item() == 0


def test_every_pair_of_neighbours_adds_and_the_deeper_is_fixed():
    maps = [torch.randn(3, c, s, s, dtype=torch.float64, requires_grad=True) for c, s in ((4, 6), (5, 3), (6, 3))]
    whole = attention_distillation(maps)
    parts = attention_distillation(maps[:2]) + attention_distillation(maps[1:])
    torch.testing.assert_close(whole, parts)
    whole.backward()
    assert maps[2].grad is None
    (alone,) = torch.autograd.grad(attention_distillation(maps[1:]), maps[1])
    torch.testing.assert_close(maps[1].grad, alone)  # as a student only
    assert maps[0].grad.abs().sum() > 0


def test_an_image_that_stands_twice_changes_nothing():
    maps = [torch.randn(2, 3, s, s) for s in (4, 2)]
    doubled = [torch.cat([f, f]) for f in maps]
    torch.testing.assert_close(attention_distillation(maps), attention_distillation(doubled))


def test_distillation_starts_where_it_is_told(staged_network, image_batch):
    network, batch = staged_network(), image_batch()
    method = SelfAttentionDistillation(weight=50.0, start=0.5)
    method.setup(TASK, network)
    before, at = (method.loss(network, batch, torch.tensor(p)) for p in (0.49, 0.5))
    assert before["attention"].item() == 0
    expected = 50.0 * attention_distillation(network(batch.images).stages)
    torch.testing.assert_close(at["attention"], expected)


def test_without_weight_it_is_cross_entropy_to_the_bit(staged_network, image_batch):
    network, batch = staged_network(), image_batch()
    method = SelfAttentionDistillation(**SelfAttentionDistillation.neutral)
    method.setup(TASK, network)
    plain = F.cross_entropy(network(batch.images).logits, batch.labels)
    assert torch.equal(sum(method.loss(network, batch, PROGRESS).values()), plain)


def test_one_stage_and_wrong_values_are_refused(staged_network):
    with pytest.raises(UserError, match="sad compares each stage with the next, and small network has 1 stage"):
        SelfAttentionDistillation().setup(TASK, staged_network(widths=(4,)))
    with pytest.raises(ValueError, match="weight must be in"):
        SelfAttentionDistillation(weight=-1.0)
    with pytest.raises(ValueError, match="start must be in"):
        SelfAttentionDistillation(start=1.5)
