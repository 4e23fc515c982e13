"""Temporal ensembling against reference numbers, and its memory against one kept by hand."""

import math

import pytest
import torch
import torch.nn.functional as F
from sdbench.methods.temporal_ensembling import (
    TemporalEnsembling,
    accumulate,
    ramp_up,
    squared_consistency,
    start_correction,
)

from sdbench import Task, wrap
from sdbench.method import mixing_obstacle

PROGRESS = torch.tensor(0.0)


def set_up(method, num_train, num_classes, network=None):
    """Any module with a parameter will do as the network: only its device is asked for."""
    task = Task(num_classes=num_classes, num_train=num_train, batch_size=4, epochs=4)
    method.setup(task, network or torch.nn.Linear(1, 1))
    return method


@pytest.mark.golden
def test_every_golden_ramp_and_ensemble(matches, golden_cases):
    """The states in float64, epoch by epoch."""
    for case, args, own in golden_cases("wide/temporal_ensembling.npz"):
        decay = args["prediction_decay"]
        ensemble = torch.zeros(own["e0_logits"].shape, dtype=torch.float64)
        for epoch in range(args["epochs"]):
            name = f"{case}.e{epoch}"
            ramp = ramp_up(epoch, args["rampup_length"])
            assert ramp == pytest.approx(float(own[f"e{epoch}_rampup"]), rel=1e-12)
            weight = args["unsup_weight_max"] * ramp if epoch else args["first_epoch_unsup_weight"]
            assert weight == pytest.approx(float(own[f"e{epoch}_weight"]), rel=1e-12)
            matches(ensemble * start_correction(decay, epoch), own[f"e{epoch}_targets"], "f64", name)
            predictions = torch.from_numpy(own[f"e{epoch}_logits"]).double().softmax(1)
            ensemble = accumulate(ensemble, predictions, decay)
            matches(ensemble, own[f"e{epoch}_ensemble_after"], "f64", name)
            after = ensemble * start_correction(decay, epoch + 1)
            matches(after, own[f"e{epoch}_targets_after"], "f64", name)


@pytest.mark.golden
@pytest.mark.parametrize("precision", ["f32", "f64"])
def test_every_golden_loss_and_gradient(precision, matches, leaf, golden_cases):
    for case, args, own in golden_cases("wide/temporal_ensembling.npz"):
        labels = torch.from_numpy(own["labels"])
        for epoch in range(args["epochs"]):
            name = f"{case}.e{epoch}"
            weight, targets = float(own[f"e{epoch}_weight"]), torch.from_numpy(own[f"e{epoch}_targets"])
            logits = leaf(own[f"e{epoch}_logits"], precision)
            ce, consistency = F.cross_entropy(logits, labels), squared_consistency(logits, targets)
            matches(ce + weight * consistency, own[f"reference_e{epoch}_loss_sumK_{precision}"], precision, name)
            loss = ce + weight / logits.shape[1] * consistency
            loss.backward()
            matches(loss, own[f"reference_e{epoch}_loss_meanNK_{precision}"], precision, name)
            if f"reference_e{epoch}_grad_logits_{precision}" in own:
                matches(logits.grad, own[f"reference_e{epoch}_grad_logits_{precision}"], precision, name)


@pytest.mark.golden
@pytest.mark.parametrize("resumed", [False, True])
def test_every_golden_epoch_of_the_class(resumed, matches, leaf, logits_network, logits_batch, golden_cases):
    """Losses and states of the whole run, each epoch in two batches; with ``resumed``, through a saved state."""
    for case, args, own in golden_cases("wide/temporal_ensembling.npz"):
        count, classes = own["e0_logits"].shape
        labels = torch.from_numpy(own["labels"])

        def build(args=args, count=count, classes=classes):
            coefficients = {"weight": args["unsup_weight_max"] / classes, "decay": args["prediction_decay"]}
            method = TemporalEnsembling(ramp_epochs=args["rampup_length"], **coefficients)
            return set_up(method, count, classes)

        method = build()
        for epoch in range(args["epochs"]):
            name = f"{case}.e{epoch}"
            if resumed:
                state = {key: value.clone() for key, value in method.state_dict().items()}
                method = build()
                method.load_state_dict(state)
            method.before_epoch(epoch, args["epochs"])
            logits = leaf(own[f"e{epoch}_logits"], "f32")
            loss = torch.zeros(())
            for rows in (torch.arange(0, count, 2), torch.arange(1, count, 2)):
                batch = logits_batch(logits[rows], labels[rows], index=rows)
                loss = loss + sum(method.loss(logits_network, batch, PROGRESS).values()) * len(rows) / count
            loss.backward()
            matches(loss, own[f"reference_e{epoch}_loss_meanNK_f32"], "f32", name)
            if f"reference_e{epoch}_grad_logits_f32" in own:
                matches(logits.grad, own[f"reference_e{epoch}_grad_logits_f32"], "f32", name)
            matches(method.ensemble, own[f"e{epoch}_ensemble_after"], "f32", name)


def test_ramp_by_hand():
    assert ramp_up(0, 5) == pytest.approx(math.exp(-5))
    assert ramp_up(2, 4) == pytest.approx(math.exp(-1.25))
    assert ramp_up(4, 4) == ramp_up(9, 4) == ramp_up(0, 0) == 1.0


def test_consistency_by_hand():
    logits = torch.tensor([[0.0, math.log(3.0)], [0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([[1.0, 0.0], [0.5, 0.5]], dtype=torch.float64, requires_grad=True)
    loss = squared_consistency(logits, targets)
    assert loss.item() == pytest.approx((0.75**2 + 0.75**2) / 2, rel=1e-12)
    loss.backward()
    assert targets.grad is None
    assert logits.grad.abs().sum() > 0


def test_the_first_targets_are_the_first_predictions():
    """The correction makes one epoch's average that epoch's prediction, and two epochs' a weighted mean of both."""
    one, two = torch.tensor([[0.2, 0.8]]), torch.tensor([[0.6, 0.4]])
    ensemble = accumulate(torch.zeros(1, 2), one, 0.6)
    torch.testing.assert_close(ensemble * start_correction(0.6, 1), one)
    ensemble = accumulate(ensemble, two, 0.6)
    torch.testing.assert_close(ensemble * start_correction(0.6, 2), (0.6 * one + two) / 1.6)


def test_each_image_meets_its_own_past(logits_network, logits_batch):
    """Shuffled epochs with a short last batch, two classes, against averages kept in plain Python."""
    count, epochs, decay = 5, 4, 0.3
    labels = torch.arange(count) % 2
    method = set_up(TemporalEnsembling(weight=2.0, decay=decay, ramp_epochs=3), count, 2)
    address = method.ensemble.data_ptr()
    past = {n: [] for n in range(count)}
    for epoch in range(epochs):
        method.before_epoch(epoch, epochs)
        w = 0.0 if epoch == 0 else 2.0 * math.exp(-5 * max(0.0, 1 - epoch / 3) ** 2)
        for index in torch.randperm(count, generator=torch.Generator().manual_seed(epoch)).split(2):
            logits = torch.randn(len(index), 2)
            terms = method.loss(logits_network, logits_batch(logits, labels[index], index=index), PROGRESS)
            expected = 0.0
            for row, n in enumerate(index.tolist()):
                p = logits[row].double().softmax(0)
                shares = [decay ** (len(past[n]) - 1 - i) for i in range(len(past[n]))]
                target = sum(s * q for s, q in zip(shares, past[n], strict=True)) / sum(shares) if past[n] else p
                expected += w * (p - target).square().sum().item() / len(index)
                past[n].append(p)
            assert terms["consistency"].item() == pytest.approx(expected, rel=1e-4, abs=1e-7)
            torch.testing.assert_close(terms["ce"], F.cross_entropy(logits, labels[index]))
    assert method.ensemble.data_ptr() == address


def test_no_gradient_into_memory(logits_network, logits_batch):
    method = set_up(TemporalEnsembling(), 2, 3)
    method.before_epoch(1, 2)
    logits = torch.randn(2, 3, requires_grad=True)
    for _ in range(2):
        terms = method.loss(logits_network, logits_batch(logits, torch.tensor([0, 1])), PROGRESS)
        sum(terms.values()).backward()
    assert not method.ensemble.requires_grad


def test_without_weight_it_is_cross_entropy_and_keeps_nothing(logits_network, logits_batch):
    method = set_up(TemporalEnsembling(**TemporalEnsembling.neutral), 4, 2)
    method.before_epoch(3, 4)
    logits, labels = torch.randn(4, 2), torch.tensor([0, 1, 1, 0])
    terms = method.loss(logits_network, logits_batch(logits, labels), PROGRESS)
    assert torch.equal(sum(terms.values()), F.cross_entropy(logits, labels))
    assert not method.ensemble.any()


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_it_compiles_as_a_whole(logits_batch, compiles_alike):
    network = wrap(torch.nn.Linear(4, 3))
    batch = logits_batch(torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1]))
    methods = [set_up(TemporalEnsembling(), 5, 3) for _ in range(2)]
    for method in methods:
        method.before_epoch(70, 80)
    compiles_alike(*methods, network, batch)
    torch.testing.assert_close(methods[1].ensemble, methods[0].ensemble)


def test_it_refuses_mixed_images():
    assert "past predictions" in mixing_obstacle(TemporalEnsembling, TemporalEnsembling())


@pytest.mark.parametrize(
    ("coefficients", "message"),
    [
        ({"weight": -1.0}, "weight must be in"),
        ({"weight": math.inf}, "weight must be in"),
        ({"decay": 1.0}, "decay must be in"),
        ({"decay": math.nan}, "decay must be in"),
        ({"ramp_epochs": -1}, "ramp_epochs must be"),
    ],
)
def test_coefficients_outside_their_range_are_refused(coefficients, message):
    with pytest.raises(ValueError, match=message):
        TemporalEnsembling(**coefficients)
