"""CALS against the authors' numbers: penalties, multipliers and strengths over whole runs."""

import math

import pytest
import torch
import torch.nn.functional as F
from sdbench.methods.cals import (
    ClassAdaptiveLabelSmoothing,
    margin_excess,
    margin_penalty,
    next_multipliers,
    next_strengths,
    penalty_and_slope,
)

from sdbench import Task, wrap
from sdbench.method import mixing_obstacle

PROGRESS = torch.tensor(0.0)
PENALTIES = ("phr", "p2", "p3")
FIXED = {"lambd_min": 1e-6, "lambd_max": 1e6, "lambd_step": 1, "rho_min": 1, "rho_max": 10, "normalize": True}
"""Arguments of the authors' class that are constants here."""


def set_up(method, num_classes):
    """Any module with a parameter will do as the network: only its device is asked for."""
    method.setup(Task(num_classes=num_classes, num_train=8, batch_size=4, epochs=4), torch.nn.Linear(1, 1))
    return method


def judge(matches, leaf, args, own, tag, precision, name, multipliers, strengths):
    """Loss, penalty, constraint and gradient under given multipliers, where the file has them."""
    if f"{tag}_loss_{precision}" not in own:
        return
    logits, labels = leaf(own["logits"], precision), torch.from_numpy(own["labels"])
    excess = margin_excess(logits, args["margin"], normalize=args["normalize"])
    penalty = penalty_and_slope(excess, multipliers, strengths, args["penalty"])[0].sum(1).mean() / logits.shape[1]
    loss = F.cross_entropy(logits, labels) + penalty
    loss.backward()
    matches(loss, own[f"{tag}_loss_{precision}"], precision, name)
    matches(penalty, own[f"{tag}_penalty_{precision}"], precision, name)
    matches(excess.mean(), own[f"{tag}_constraint_{precision}"], precision, name)
    if f"{tag}_grad_logits_{precision}" in own:
        matches(logits.grad, own[f"{tag}_grad_logits_{precision}"], precision, name)


@pytest.mark.golden
@pytest.mark.parametrize("precision", ["f32", "f64"])
def test_every_golden_run(precision, matches, leaf, golden_cases):
    """With every argument that the file holds."""
    for case, args, own in golden_cases("wide/cals.npz"):
        dtype = torch.float32 if precision == "f32" else torch.float64
        multipliers = torch.full((args["num_classes"],), args["lambd_min"], dtype=dtype)
        strengths = torch.full((args["num_classes"],), float(args["rho_min"]), dtype=dtype)
        judge(matches, leaf, args, own, "initial", precision, case, multipliers, strengths)
        past = torch.zeros_like(strengths)
        bounds, rho_bounds = (args["lambd_min"], args["lambd_max"]), (args["rho_min"], args["rho_max"])
        for epoch in range(args["epochs"]):
            held_out = torch.from_numpy(own["val_logits"][epoch]).to(dtype).flatten(0, 1)
            excess = margin_excess(held_out, args["margin"], normalize=args["normalize"])
            if (epoch + 1) % args["lambd_step"] == 0:
                multipliers = next_multipliers(excess, multipliers, strengths, args["penalty"], bounds)
            now = excess.mean(0)
            if args["rho_step"] > 0 and (epoch + 1) % args["rho_step"] == 0 and epoch > 0:
                strengths = next_strengths(strengths, now, past, args["gamma"], args["tao"], rho_bounds)
            past = now
            name = f"{case}.e{epoch}"
            matches(multipliers, own[f"e{epoch}_lambda_{precision}"], precision, name)
            matches(strengths, own[f"e{epoch}_rho_{precision}"], precision, name)
            judge(matches, leaf, args, own, f"e{epoch}", precision, name, multipliers, strengths)


@pytest.mark.golden
@pytest.mark.parametrize("resumed", [False, True])
def test_every_golden_run_of_the_class(resumed, matches, leaf, logits_network, logits_batch, golden_cases):
    """Hooks called where the trainer calls them; with ``resumed``, through a saved state before each epoch."""
    found = 0
    for case, args, own in golden_cases("wide/cals.npz"):
        if any(args[key] != value for key, value in FIXED.items()) or args["rho_step"] < 1:
            continue
        labels, classes = torch.from_numpy(own["labels"]), args["num_classes"]

        def build(args=args, classes=classes):
            method = ClassAdaptiveLabelSmoothing(
                weight=1 / classes,
                margin=args["margin"],
                penalty=args["penalty"],
                rho_every=args["rho_step"],
                growth=args["gamma"],
                tolerance=args["tao"],
            )
            return set_up(method, classes)

        method = build()
        addresses = [value.data_ptr() for value in method.buffers()]
        for epoch in range(-1, args["epochs"]):
            tag = "initial" if epoch < 0 else f"e{epoch}"
            if epoch >= 0:
                method.before_epoch(epoch, args["epochs"])
                held_out = torch.from_numpy(own["val_logits"][epoch]).flatten(0, 1)
                method.after_validation(held_out, torch.zeros(len(held_out), dtype=torch.int64))
                matches(method.multipliers, own[f"{tag}_lambda_f32"], "f32", f"{case}.{tag}")
                matches(method.strengths, own[f"{tag}_rho_f32"], "f32", f"{case}.{tag}")
            if f"{tag}_loss_f32" in own:
                logits = leaf(own["logits"], "f32")
                loss = sum(method.loss(logits_network, logits_batch(logits, labels), PROGRESS).values())
                loss.backward()
                matches(loss, own[f"{tag}_loss_f32"], "f32", f"{case}.{tag}")
                if f"{tag}_grad_logits_f32" in own:
                    matches(logits.grad, own[f"{tag}_grad_logits_f32"], "f32", f"{case}.{tag}")
            if resumed:
                state = {key: value.clone() for key, value in method.state_dict().items()}
                method = build()
                method.load_state_dict(state)
        if not resumed:
            assert [value.data_ptr() for value in method.buffers()] == addresses
        found += 1
    assert found


def test_excess_by_hand():
    logits = torch.tensor([[5.0, 1.0, -7.0]])
    torch.testing.assert_close(margin_excess(logits, 4.0), torch.tensor([[-1.0, 0.0, 2.0]]))
    torch.testing.assert_close(margin_excess(logits, 4.0, normalize=False), torch.tensor([[-4.0, 0.0, 8.0]]))


@pytest.mark.parametrize(
    ("penalty", "values", "slopes"),
    [
        # lambda 0.5, rho 2, h = (-1, 0, 2); for "phr", x = -1.5, 0.5, 4.5.
        ("phr", [-0.0625, 0.0, 5.0], [0.0, 0.5, 4.5]),
        ("p2", [-0.5 / 3, 0.0, 1 + 4 + 4 * 8 / 6], [0.5 / 9, 0.5, 0.5 + 4 + 8]),
        ("p3", [-0.5 / 3, 0.0, 1 + 4], [0.5 / 9, 0.5, 0.5 + 4]),
    ],
)
def test_penalties_by_hand(penalty, values, slopes):
    excess = torch.tensor([[-1.0, 0.0, 2.0]])
    value, slope = penalty_and_slope(excess, torch.full((3,), 0.5), torch.full((3,), 2.0), penalty)
    torch.testing.assert_close(value, torch.tensor([values]))
    torch.testing.assert_close(slope, torch.tensor([slopes]))


@pytest.mark.parametrize("penalty", PENALTIES)
def test_the_slope_is_the_derivative(penalty):
    excess = torch.linspace(-1, 6, 29, dtype=torch.float64)[:, None].repeat(1, 2).requires_grad_()
    multipliers, strengths = torch.tensor([1e-6, 0.7]).double(), torch.tensor([10.0, 1.5]).double()
    value, slope = penalty_and_slope(excess, multipliers, strengths, penalty)
    torch.testing.assert_close(torch.autograd.grad(value.sum(), excess)[0], slope, rtol=1e-10, atol=1e-12)


def test_multipliers_are_clamped_per_sample_and_as_a_mean():
    # "phr": slopes are max(lambda + rho h, 0) = 0, 3 and 1e7; clamped 1e-6, 3 and 1e6.
    excess = torch.tensor([[-1.0], [2.0], [1e7 - 1]], dtype=torch.float64)
    ones = torch.ones(1, dtype=torch.float64)
    after = next_multipliers(excess, ones, ones)
    torch.testing.assert_close(after, torch.tensor([(1e-6 + 3 + 1e6) / 3], dtype=torch.float64))
    torch.testing.assert_close(next_multipliers(excess[:1], ones, ones), torch.tensor([1e-6]).double())


def test_strengths_grow_where_constraints_do_not_shrink():
    #                          got worse  shrank enough  just short  solved twice  negative before
    now = torch.tensor([2.0, 0.8, 0.95, -0.5, 0.1])
    before = torch.tensor([1.0, 1.0, 1.0, -0.1, -0.2])
    after = next_strengths(torch.tensor([1.0, 1.0, 9.0, 1.0, 2.0]), now, before)
    torch.testing.assert_close(after, torch.tensor([1.2, 1.0, 10.0, 1.0, 2.4]))


def test_strengths_wait_for_their_epoch():
    method = set_up(ClassAdaptiveLabelSmoothing(rho_every=2), 2)
    seen = []
    for epoch in range(5):
        method.before_epoch(epoch, 5)
        method.after_validation(torch.tensor([[30.0 * (epoch + 1), 0.0]]), torch.tensor([0]))
        seen.append(method.strengths.tolist())
    # The second class is ever further below; the first has the largest logit, so that its h is -1.
    grown = [[1.0, 1.0], [1.0, 1.2], [1.0, 1.2], [1.0, 1.44], [1.0, 1.44]]
    torch.testing.assert_close(torch.tensor(seen), torch.tensor(grown))
    every = set_up(ClassAdaptiveLabelSmoothing(rho_every=1), 2)
    every.before_epoch(0, 5)
    every.after_validation(torch.tensor([[90.0, 0.0]]), torch.tensor([0]))
    assert every.strengths.tolist() == [1, 1]  # nothing to compare with after the first epoch


def test_it_sums_over_classes_and_takes_the_mean_over_the_batch():
    logits, multipliers, strengths = torch.randn(3, 4), torch.rand(4), 1 + torch.rand(4)
    rows = [margin_penalty(row[None], multipliers, strengths, 0.5, "phr") for row in logits]
    torch.testing.assert_close(margin_penalty(logits, multipliers, strengths, 0.5, "phr"), sum(rows) / 3)


def test_without_weight_it_is_cross_entropy(logits_network, logits_batch):
    method = set_up(ClassAdaptiveLabelSmoothing(**ClassAdaptiveLabelSmoothing.neutral), 2)
    logits, labels = torch.randn(4, 2), torch.tensor([0, 1, 1, 0])
    terms = method.loss(logits_network, logits_batch(logits, labels), PROGRESS)
    assert torch.equal(sum(terms.values()), F.cross_entropy(logits, labels))


def test_it_wants_held_out_images_and_can_be_mixed():
    assert ClassAdaptiveLabelSmoothing.wants_validation
    assert mixing_obstacle(ClassAdaptiveLabelSmoothing, ClassAdaptiveLabelSmoothing()) == ""


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("penalty", PENALTIES)
def test_it_compiles_as_a_whole(penalty, logits_batch, compiles_alike):
    network = wrap(torch.nn.Linear(4, 3))
    batch = logits_batch(torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1]))
    method = set_up(ClassAdaptiveLabelSmoothing(penalty=penalty, margin=0.5), 3)
    compiles_alike(method, method, network, batch)


@pytest.mark.parametrize(
    ("coefficients", "message"),
    [
        ({"weight": -1.0}, "weight must be in"),
        ({"margin": 0.0}, "margin must be positive"),
        ({"margin": math.inf}, "margin must be positive"),
        ({"penalty": "relu"}, "penalty must be"),
        ({"rho_every": 0}, "rho_every must be"),
        ({"growth": 1.0}, "growth must be"),
        ({"tolerance": 0.0}, "tolerance must be"),
        ({"tolerance": math.nan}, "tolerance must be"),
    ],
)
def test_coefficients_outside_their_range_are_refused(coefficients, message):
    with pytest.raises(ValueError, match=message):
        ClassAdaptiveLabelSmoothing(**coefficients)


def test_unknown_penalty_is_refused():
    with pytest.raises(ValueError, match="penalty must be"):
        penalty_and_slope(torch.zeros(1, 2), torch.ones(2), torch.ones(2), "relu")
