"""Mean teacher against the authors' numbers, and its average against one kept by hand."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from sdbench.methods.mean_teacher import MeanTeacher, average_decay, consistency_loss, ramp_up, update_average

from sdbench import Batch, Task, wrap
from sdbench.network import PassCounter

PROGRESS = torch.tensor(0.0)


def set_up(method, network, num_classes=5):
    method.setup(Task(num_classes=num_classes, num_train=6, batch_size=6, epochs=4), network)
    return method


class Shift(torch.nn.Module):
    """Adds one number, 0 at first, so that there is a weight, to what it is given."""

    def __init__(self):
        super().__init__()
        self.by = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, images):
        return images + self.by.to(images.dtype)


@pytest.fixture
def two_views(image_batch):
    """A batch with a second view."""

    def make(size=6, seed=1, classes=5):
        batch = image_batch(size=size, seed=seed, classes=classes)
        return Batch(batch.images, batch.partners, (), batch.labels, batch.index)

    return make


@pytest.mark.golden
@pytest.mark.parametrize("precision", ["f32", "f64"])
@pytest.mark.parametrize("distance", ["mse", "kl"])
def test_every_golden_loss_and_gradient(distance, precision, matches, leaf, golden_cases):
    for case, args, own in golden_cases("wide/mean_teacher.npz"):
        name, labels = f"{case}.{distance}", torch.from_numpy(own["labels"])
        assert ramp_up(args["epoch"], args["consistency_rampup"]) == pytest.approx(float(own["rampup"]), rel=1e-12)
        logits, teacher = (leaf(own[key], precision) for key in ("logits", "ema_logits"))
        classes = logits.shape[1]
        per_class = classes if distance == "mse" else 1
        value = consistency_loss(logits, teacher, distance) / per_class
        term = "consistency_meanNK" if distance == "mse" else "consistency"
        matches(value, own[f"official_{distance}_{term}_{precision}"], precision, name)

        method = MeanTeacher(
            weight=args["consistency"] / per_class, ramp_epochs=args["consistency_rampup"], distance=distance
        )
        network = wrap(Shift())
        set_up(method, network, classes).before_epoch(args["epoch"], 300)
        assert method.current_weight.item() == pytest.approx(args["weight"] / per_class, rel=1e-6)
        loss = sum(method.loss(network, Batch(logits, (teacher,), (), labels, labels), PROGRESS).values())
        loss.backward()
        matches(loss, own[f"official_{distance}_loss_{precision}"], "f32", name)  # the weight is kept in float32
        assert teacher.grad is None
        if f"official_{distance}_grad_logits_{precision}" in own:
            matches(logits.grad, own[f"official_{distance}_grad_logits_{precision}"], "f32", name)
        exact = leaf(own["logits"], precision)
        total = F.cross_entropy(exact, labels) + args["weight"] / per_class * consistency_loss(exact, teacher, distance)
        total.backward()
        matches(total, own[f"official_{distance}_loss_{precision}"], precision, name)
        if f"official_{distance}_grad_logits_{precision}" in own:
            matches(exact.grad, own[f"official_{distance}_grad_logits_{precision}"], precision, name)


@pytest.mark.golden
def test_every_golden_average(matches, golden_cases):
    for case, args, own in golden_cases("wide/mean_teacher.npz"):
        average = torch.from_numpy(own["ema_init"].copy())
        for i, step in enumerate(own["ema_global_steps"].tolist()):
            decay = average_decay(torch.tensor(step, dtype=torch.float64), args["ema_decay"])
            assert decay.item() == pytest.approx(min(1 - 1 / (step + 1), args["ema_decay"]), rel=1e-14)
            update_average([average], [torch.from_numpy(own["ema_student_weights"][i])], decay)
            matches(average, own["ema_after"][i], "f32", f"{case}.{i}")


@pytest.mark.golden
def test_every_golden_average_of_the_class(matches, golden_cases):
    for case, args, own in golden_cases("wide/mean_teacher.npz"):
        rows, columns = own["ema_init"].shape
        network = wrap(torch.nn.Linear(columns, rows, bias=False))
        with torch.no_grad():
            network.module.weight.copy_(torch.from_numpy(own["ema_init"]))
        method = set_up(MeanTeacher(ema_decay=args["ema_decay"]), network)
        for i, step in enumerate(own["ema_global_steps"].tolist()):
            with torch.no_grad():
                network.module.weight.copy_(torch.from_numpy(own["ema_student_weights"][i]))
                method.steps.fill_(step - 1)
                method.after_step(network)
            matches(next(method.teacher.parameters()), own["ema_after"][i], "f32", f"{case}.{i}")


def test_consistency_by_hand():
    teacher = torch.tensor([[0.0, math.log(3.0)]], dtype=torch.float64, requires_grad=True)
    student = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    assert consistency_loss(student, teacher).item() == pytest.approx(2 * 0.25**2, rel=1e-12)
    kl = consistency_loss(student, teacher, "kl")
    assert kl.item() == pytest.approx(0.25 * math.log(0.5) + 0.75 * math.log(1.5), rel=1e-12)
    kl.backward()
    assert teacher.grad is None
    assert student.grad.tolist() == [[pytest.approx(0.25), pytest.approx(-0.25)]]


def test_ramp_and_decay_by_hand():
    assert ramp_up(2, 4) == pytest.approx(math.exp(-1.25))
    assert ramp_up(0, 0) == ramp_up(4, 4) == 1.0
    steps = torch.tensor([1, 2, 8, 9, 10]).double()
    assert average_decay(steps, 0.9).tolist() == pytest.approx([1 / 2, 2 / 3, 8 / 9, 0.9, 0.9])


def test_the_teacher_follows_step_by_step(staged_network, two_views):
    """Against averages in plain Python; the teacher's BatchNorm uses the batch's statistics."""
    network = staged_network()
    method = set_up(MeanTeacher(weight=3.0, ema_decay=0.6, ramp_epochs=2), network)
    by_hand = copy.deepcopy(network)
    by_hand.passes = PassCounter()  # a copy counts with its original otherwise
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
    step = 0
    for epoch in range(2):
        method.before_epoch(epoch, 2)
        for seed in (1, 2):
            batch = two_views(seed=seed, size=6 if seed == 1 else 2)
            expected = 3 * math.exp(-5 * (1 - epoch / 2) ** 2)
            with torch.no_grad():
                q = by_hand(batch.views[0]).logits.softmax(1)
            student = copy.deepcopy(network)
            student.passes = PassCounter()
            p = student(batch.images).logits.softmax(1)
            terms = method.loss(network, batch, PROGRESS)
            torch.testing.assert_close(terms["consistency"], expected * (p - q).square().sum() / len(p))
            torch.testing.assert_close(terms["ce"], F.nll_loss(p.log(), batch.labels))
            optimizer.zero_grad()
            sum(terms.values()).backward()
            optimizer.step()
            method.after_step(network)
            step += 1
            d = min(1 - 1 / (step + 1), 0.6)
            with torch.no_grad():
                for ours, theirs in zip(by_hand.parameters(), network.parameters(), strict=True):
                    ours.copy_(d * ours + (1 - d) * theirs)
            for ours, theirs in zip(by_hand.parameters(), method.teacher.parameters(), strict=True):
                torch.testing.assert_close(theirs, ours)
    assert (network.passes.with_gradient, network.passes.without_gradient) == (16, 16)
    assert not [p for p in method.parameters() if p.requires_grad]
    assert all(p.grad is None for p in method.parameters())


def test_a_saved_state_goes_on_bit_for_bit(staged_network, two_views):
    network = staged_network()
    method = set_up(MeanTeacher(), network)
    method.before_epoch(0, 2)
    batch = two_views()

    def train(method, network, steps):
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        for _ in range(steps):
            optimizer.zero_grad()
            sum(method.loss(network, batch, PROGRESS).values()).backward()
            optimizer.step()
            with torch.no_grad():
                method.after_step(network)

    train(method, network, 3)
    network_state, state = copy.deepcopy(network.state_dict()), copy.deepcopy(method.state_dict())
    train(method, network, 2)
    other = staged_network()
    resumed = set_up(MeanTeacher(), other)
    other.load_state_dict(network_state)
    resumed.load_state_dict(state)
    resumed.before_epoch(0, 2)
    train(resumed, other, 2)
    assert resumed.steps.item() == 5
    for (key, ours), theirs in zip(method.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), key


def test_the_teacher_stays_in_train_mode(staged_network):
    method = set_up(MeanTeacher(), staged_network())
    method.eval()
    assert all(module.training for module in method.teacher.modules() if isinstance(module, torch.nn.BatchNorm2d))


def test_without_weight_it_is_one_pass_of_cross_entropy(staged_network, two_views):
    network, batch = staged_network(classes=2), two_views(classes=2)
    plain = F.cross_entropy(copy.deepcopy(network)(batch.images).logits, batch.labels)
    method = set_up(MeanTeacher(**MeanTeacher.neutral), network, 2)
    method.before_epoch(3, 4)
    assert torch.equal(sum(method.loss(network, batch, PROGRESS).values()), plain)
    method.after_step(network)
    assert network.passes.without_gradient == 0


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_it_compiles_as_a_whole(staged_network, two_views, compiles_alike):
    network, batch = staged_network(), two_views()
    network.eval()  # so that BatchNorm leaves both runs the same input
    method = set_up(MeanTeacher(), network)
    method.before_epoch(5, 6)
    compiles_alike(method, method, network, batch)


@pytest.mark.parametrize(
    ("coefficients", "message"),
    [
        ({"weight": -1.0}, "weight must be in"),
        ({"weight": math.nan}, "weight must be in"),
        ({"ema_decay": 1.0}, "ema_decay must be in"),
        ({"ramp_epochs": -1}, "ramp_epochs must be"),
        ({"distance": "l1"}, "distance must be"),
    ],
)
def test_coefficients_outside_their_range_are_refused(coefficients, message):
    with pytest.raises(ValueError, match=message):
        MeanTeacher(**coefficients)


def test_unknown_distance_is_refused():
    with pytest.raises(ValueError, match="distance must be"):
        consistency_loss(torch.zeros(1, 2), torch.zeros(1, 2), "l1")
