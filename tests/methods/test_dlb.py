"""DLB against the authors' numbers, from single steps to whole training loops."""

import math

import pytest
import torch
import torch.nn.functional as F
from sdbench.methods.dlb import LastMiniBatch, last_batch_losses
from torch import nn

from sdbench import wrap

PROGRESS = torch.tensor(0.0)


def part_of(cases, part):
    """Those whose arguments name this part."""
    return [case for case in cases if case[1]["part"] == part]


class Recorder(nn.Module):
    """Returns its input, as logits whose gradient can be asked for."""

    def __init__(self, dtype):
        super().__init__()
        self.zero = nn.Parameter(torch.zeros((), dtype=dtype))
        self.outputs = []

    def forward(self, images):
        output = images + self.zero
        output.retain_grad()
        self.outputs.append(output)
        return output


@pytest.mark.golden
@pytest.mark.parametrize("precision", ["f32", "f64"])
def test_every_golden_step(precision, matches, leaf, golden_cases):
    found = 0
    for case, args, own in part_of(golden_cases("wide/dlb.npz"), "given_logits"):
        views, labels = own["view_logits"], torch.from_numpy(own["labels"])
        for step in range(args["steps"]):
            new = leaf(views[step, :, 0], precision)
            if step == 0:
                loss = F.cross_entropy(new, labels[0])
            else:
                old, past = leaf(views[step - 1, :, 1], precision), leaf(views[step - 1, :, 0], precision)
                ce, kd = last_batch_losses(new, labels[step], old, labels[step - 1], past, args["T"])
                loss = ce + args["alpha"] * kd
            loss.backward()
            name = f"{case}.step{step}"
            matches(loss, own[f"losses_{precision}"][step], precision, name)
            matches(new.grad, own[f"step{step}_grad_new_{precision}"], precision, name)
            if step:
                assert past.grad is None
                matches(old.grad, own[f"step{step}_grad_old_{precision}"], precision, name)
            found += 1
    assert found


@pytest.mark.golden
@pytest.mark.parametrize("precision", ["f32", "f64"])
@pytest.mark.parametrize("resumed", [False, True])
@pytest.mark.parametrize("passes", ["separate", "joint"])
def test_every_golden_step_of_the_class(
    passes, resumed, precision, matches, leaf, golden_cases, begun, reloaded, logits_batch
):
    """On a network whose logits are its input; with ``resumed``, through a saved state before each step."""
    for case, args, own in part_of(golden_cases("wide/dlb.npz"), "given_logits"):
        _, count, _, classes = own["view_logits"].shape
        recorder = Recorder(torch.float32 if precision == "f32" else torch.float64)
        network = wrap(recorder)

        def build(args=args, network=network, count=count, classes=classes):
            method = LastMiniBatch(temperature=args["T"], weight=args["alpha"], passes=passes)
            return begun(method, network, count, classes)

        method = build()
        for step in range(args["steps"]):
            if resumed:
                method = reloaded(method, build)
            first, second = (leaf(own["view_logits"][step, :, view], precision).detach() for view in (0, 1))
            recorder.outputs.clear()
            batch = logits_batch(first, torch.from_numpy(own["labels"][step]), view=second)
            loss = sum(method.loss(network, batch, PROGRESS).values())
            loss.backward()
            gradients = torch.cat([output.grad for output in recorder.outputs])
            name = f"{case}.step{step}"
            matches(loss, own[f"losses_{precision}"][step], precision, name)
            matches(gradients[:count], own[f"step{step}_grad_new_{precision}"], precision, name)
            if step:
                matches(gradients[count:], own[f"step{step}_grad_old_{precision}"], precision, name)
            assert len(gradients) == (2 * count if step else count)


class SmallNet(nn.Module):
    """The network of the training loop in the file."""

    def __init__(self, own):
        super().__init__()
        (hidden, width), classes = own["init_l1.weight"].shape, len(own["init_l2.bias"])
        self.l1, self.bn, self.l2 = nn.Linear(width, hidden), nn.BatchNorm1d(hidden), nn.Linear(hidden, classes)
        self.load_state_dict({k[5:]: torch.from_numpy(v) for k, v in own.items() if k.startswith("init_")})

    def forward(self, images):
        return self.l2(torch.relu(self.bn(self.l1(images))))


@pytest.mark.golden
@pytest.mark.parametrize("resumed", [False, True])
def test_every_golden_training_loop(resumed, matches, golden_cases, begun, reloaded, logits_batch):
    """Losses of every step, final weights and running statistics, and what is carried on; with ``resumed``,
    a fresh method takes over before each epoch from a saved state."""
    found = 0
    for case, args, own in part_of(golden_cases("wide/dlb.npz"), "training"):
        network = wrap(SmallNet(own))
        size, classes = max(args["batch_sizes"]), len(own["init_l2.bias"])

        def build(args=args, network=network, size=size, classes=classes):
            return begun(LastMiniBatch(temperature=args["T"], weight=args["alpha"]), network, size, classes)

        method = build()
        optimizer = torch.optim.SGD(
            network.parameters(), **{key: args[key] for key in ("lr", "momentum", "nesterov", "weight_decay")}
        )
        for epoch in range(args["epochs"]):
            if resumed:
                method = reloaded(method, build)
            method.before_epoch(epoch, args["epochs"])
            for step, rows in enumerate(args["batch_sizes"]):
                images = torch.from_numpy(own[f"e{epoch}_images"][step])[:rows]
                labels = torch.from_numpy(own[f"e{epoch}_labels"][step])[:rows]
                batch = logits_batch(images[:, 0], labels, view=images[:, 1])
                loss = sum(method.loss(network, batch, PROGRESS).values())
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                matches(loss, own[f"e{epoch}_losses"][step], "f32", f"{case}.e{epoch}.{step}")
            method.after_epoch(network)
        for key, value in network.module.state_dict().items():
            matches(value, own[f"final_{key}"], "f32", f"{case}.{key}")
        carried = method.past_logits[: int(method.past_rows)]
        matches(carried, own["carry_logits_after"][: len(carried)], "f32", f"{case}.carry")
        assert len(carried) == args["batch_sizes"][-1]
        found += 1
    assert found


def test_losses_by_hand():
    new, old = torch.zeros(2, 2, dtype=torch.float64), torch.tensor([[0.0, math.log(3.0)]], dtype=torch.float64)
    past = torch.tensor([[0.0, 2 * math.log(3)]], dtype=torch.float64)
    ce, kd = last_batch_losses(new, torch.tensor([0, 1]), old, torch.tensor([1]), past, 2.0)
    assert ce.item() == pytest.approx((2 * math.log(2) - math.log(0.75)) / 3, rel=1e-12)
    root = math.sqrt(3)  # at T = 2 the carried batch has 1 : root(3), its past 1 : 3
    kl = 0.25 * math.log(0.25 * (1 + root)) + 0.75 * math.log(0.75 * (1 + root) / root)
    assert kd.item() == pytest.approx(4 * kl, rel=1e-12)


@pytest.mark.parametrize(
    ("coefficients", "message"),
    [
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"temperature": math.inf}, "temperature must be positive"),
        ({"weight": -1.0}, "weight must be in"),
        ({"weight": math.nan}, "weight must be in"),
        ({"passes": "both"}, "passes must be"),
    ],
)
def test_coefficients_outside_their_range_are_refused(coefficients, message):
    with pytest.raises(ValueError, match=message):
        LastMiniBatch(**coefficients)
