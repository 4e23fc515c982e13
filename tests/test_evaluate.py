"""Metrics against the authors' own code, torchmetrics where it agrees, and cases worked by hand."""

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sdbench import evaluate as module
from sdbench.evaluate import aurc, brier, calibration_error, evaluate, excess_aurc, nll, top_k_accuracy

GOLDEN = Path(os.environ.get("SDBENCH_GOLDEN", Path(__file__).parent / "golden")) / "wide" / "metrics.npz"


def load_cases() -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    with np.load(GOLDEN) as file:
        arrays = {key: file[key] for key in file.files}
    for case in sorted({key.split(".", 1)[0] for key in arrays}):
        yield case, {k.split(".", 1)[1]: v for k, v in arrays.items() if k.startswith(case + ".")}


def computed(name: str, logits: Tensor, labels: Tensor) -> tuple[float, float] | None:
    """The value that an array of the file is compared with, and the tolerance; None for other metrics."""
    if name.startswith("official_ece") and name[12:].isdigit():
        return calibration_error(logits, labels, int(name[12:])), 1e-6
    table = {
        "official_ece15_dict": (lambda: calibration_error(logits, labels, 15), 1e-6),
        "pskd_ece10_percent": (lambda: 100 * calibration_error(logits, labels, 10), 1e-4),
        "pskd_ece15_percent": (lambda: 100 * calibration_error(logits, labels, 15), 1e-4),
        "accuracy": (lambda: top_k_accuracy(logits, labels, 1), 1e-9),
        "reference_nll": (lambda: nll(logits, labels), 1e-9),
        "reference_brier_sumK": (lambda: brier(logits, labels), 1e-9),
        "official_aurc": (lambda: aurc(logits, labels), 1e-9),
        "official_eaurc": (lambda: excess_aurc(logits, labels), 1e-9),
        "pskd_aurc_times1000": (lambda: 1000 * aurc(logits, labels), 1e-6),
        "pskd_eaurc_times1000": (lambda: 1000 * excess_aurc(logits, labels), 1e-6),
    }
    if name not in table:
        return None
    value, tolerance = table[name]
    return value(), tolerance


@pytest.mark.golden
def test_every_case_of_the_golden_file() -> None:
    if "SDBENCH_GOLDEN" in os.environ and not GOLDEN.exists():
        pytest.skip("the folder that SDBENCH_GOLDEN names has no wide/metrics.npz")
    compared: dict[str, int] = {}
    for case, arrays in load_cases():
        assert json.loads(str(arrays["args"]))["n"] == len(arrays["labels"])
        logits, labels = torch.from_numpy(arrays["logits"]), torch.from_numpy(arrays["labels"])
        for name, array in arrays.items():
            result = computed(name, logits, labels)
            if result is not None:
                value, tolerance = result
                assert value == pytest.approx(array.item(), abs=tolerance), (case, name)
                compared[case] = compared.get(case, 0) + 1
        together = evaluate(logits, labels)
        for name, value in (("reference_nll", together.nll), ("official_eaurc", together.eaurc)):
            if name in arrays:
                assert value == pytest.approx(arrays[name].item(), abs=1e-9), (case, name)
    assert compared
    assert all(compared.values())


def test_by_hand() -> None:
    """Four samples, K = 2, probabilities 3/4, 3/5, 9/10, 1/2 for the predicted class."""
    p = torch.tensor([[0.75, 0.25], [0.4, 0.6], [0.9, 0.1], [0.5, 0.5]], dtype=torch.double)
    labels = torch.tensor([0, 0, 0, 0])  # hit, miss, hit, hit (a tie predicts class 0)
    logits = p.log() + torch.tensor([[3.0], [-2.0], [0.5], [100.0]])
    metrics = evaluate(logits, labels)
    assert metrics.top1 == 0.75
    assert metrics.top5 == 1.0
    assert metrics.nll == pytest.approx(-np.mean(np.log([0.75, 0.4, 0.9, 0.5])), abs=1e-12)
    assert metrics.brier == pytest.approx((2 * 0.25**2 + 2 * 0.6**2 + 2 * 0.1**2 + 2 * 0.5**2) / 4, abs=1e-12)
    # every sample in a bin of its own: .75 in (.733, .8], .6 exactly on the edge 9/15, .9, .5
    assert metrics.ece == pytest.approx((0.25 + 0.6 + 0.1 + 0.5) / 4, abs=1e-12)
    # by confidence: hit (.9), hit (.75), miss (.6), hit (.5)
    assert metrics.aurc == pytest.approx(float((Fraction(1, 3) + Fraction(1, 4)) / 4), abs=1e-12)
    assert metrics.eaurc == pytest.approx(float((Fraction(1, 3) + Fraction(1, 4) - Fraction(1, 4)) / 4), abs=1e-12)


def naive_ece(confidence: np.ndarray, hit: np.ndarray, bins: int) -> float:
    """Bin by bin from the definition, in the confidences' own precision."""
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.from_numpy(confidence).dtype).numpy()
    total = 0.0
    for low, high in itertools.pairwise(edges):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            total += abs(hit[inside].mean() - confidence[inside].astype(float).mean()) * inside.mean()
    return total


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 40),
    st.integers(2, 12),
    st.integers(0, 2**31),
    st.sampled_from([0.0, 1.0, 5.0, 200.0]),
    st.booleans(),
)
def test_against_plain_definitions(n: int, k: int, seed: int, scale: float, coarse: bool) -> None:
    random = np.random.default_rng(seed)
    z = (scale * random.standard_normal((n, k))).astype(np.float32)
    if coarse:
        z = z.round()  # ties within rows and between confidences
    y = random.integers(0, k, n)
    p = np.exp(z.astype(float) - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    wrong = z.argmax(1) != y
    metrics = evaluate(torch.from_numpy(z), torch.from_numpy(y))
    assert metrics.top1 == pytest.approx(1 - wrong.mean(), abs=1e-12)
    assert metrics.brier == pytest.approx(((p - np.eye(k)[y]) ** 2).sum(1).mean(), abs=1e-9)
    own = torch.from_numpy(z).softmax(1).amax(1).numpy()
    assert metrics.ece == pytest.approx(naive_ece(own, ~wrong, 15), abs=1e-9)
    order = np.argsort(-torch.from_numpy(z).double().log_softmax(1).exp().amax(1).numpy(), kind="stable")
    risk = [wrong[order][: i + 1].mean() for i in range(n)]
    assert metrics.aurc == pytest.approx(np.mean(risk), abs=1e-9)
    best = [np.sort(wrong)[: i + 1].mean() for i in range(n)]
    assert metrics.eaurc == pytest.approx(np.mean(risk) - np.mean(best), abs=1e-9)
    assert metrics.top5 >= metrics.top1
    assert metrics.eaurc >= -1e-12
    hits = [top_k_accuracy(torch.from_numpy(z), torch.from_numpy(y), j) for j in range(1, k + 1)]
    assert hits == sorted(hits)
    assert hits[-1] == 1.0
    assert metrics.top5 == hits[min(5, k) - 1]


def test_torchmetrics_agrees_away_from_ties_and_edges() -> None:
    from torchmetrics.functional.classification import multiclass_accuracy, multiclass_calibration_error

    torch.manual_seed(0)
    logits, labels = 3 * torch.randn(2000, 20), torch.randint(20, (2000,))
    labels[::2] = logits[::2].argmax(1)
    for k in (1, 5):
        expected = multiclass_accuracy(logits, labels, num_classes=20, average="micro", top_k=k)
        assert top_k_accuracy(logits, labels, k) == pytest.approx(expected.item(), abs=1e-6)
    for bins in (10, 15, 20):
        expected = multiclass_calibration_error(logits.softmax(1), labels, num_classes=20, n_bins=bins, norm="l1")
        assert calibration_error(logits, labels, bins) == pytest.approx(expected.item(), abs=1e-6)


def test_bins_are_open_below_and_closed_above() -> None:
    """Confidence 1/3 lies on an edge of 15 bins; (4/15, 5/15] also holds 0.3, (5/15, 6/15] does not.

    Hits at 0.3 and misses at 1/3 cancel within one bin: |0.5 - (0.3 + 1/3) / 2|. In separate bins their
    gaps would add up to (0.7 + 1/3) / 2. torchmetrics takes [lo, hi) and gives the latter.
    """
    from torchmetrics.functional.classification import multiclass_calibration_error

    p = torch.tensor([[0.3, 0.24, 0.23, 0.23], [1 / 3, 1 / 3, 1 / 3, 0.0]])
    logits = p.log().clamp(min=-200)
    labels = torch.tensor([0, 1])
    assert calibration_error(logits, labels) == pytest.approx(abs(0.5 - (0.3 + 1 / 3) / 2), abs=1e-6)
    theirs = multiclass_calibration_error(logits.softmax(1), labels, num_classes=4, n_bins=15)
    assert theirs.item() == pytest.approx((0.7 + 1 / 3) / 2, abs=1e-6)


@pytest.mark.parametrize("k", [2, 3, 5, 15])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_equal_logits_lie_in_the_bin_below_their_edge(k: int, dtype: torch.dtype) -> None:
    """A confidence of 1/K joins the samples just below it, not those just above it."""
    even = torch.zeros(1, k, dtype=dtype)
    labels = torch.tensor([k - 1, 0])  # a miss on the tie, a hit on the sharper one
    sharper = even.clone()
    sharper[0, 0] = 0.125
    above = torch.softmax(sharper.double(), 1).max().item()
    separate = (1 / k + (1 - above)) / 2
    assert calibration_error(torch.cat([even, sharper]), labels, 15 if k != 2 else 20) == pytest.approx(
        separate, abs=1e-6
    )


def test_saturated_confidence_belongs_to_the_last_bin() -> None:
    logits = torch.tensor([[200.0, 0.0], [3.0, 0.0]])  # confidences 1 and 0.953, one miss
    expected = abs(0.5 - (1 + torch.tensor(3.0).sigmoid().item()) / 2)
    assert calibration_error(logits, torch.tensor([1, 0]), 15) == pytest.approx(expected, abs=1e-6)


def test_logits_between_zero_and_one_are_still_logits() -> None:
    logits, labels = torch.tensor([[0.9, 0.1]]), torch.tensor([0])
    confidence = torch.tensor(0.8).sigmoid().item()
    assert calibration_error(logits, labels) == pytest.approx(1 - confidence, abs=1e-6)


def test_ties_are_ordered_by_class_and_top5_is_never_below_top1() -> None:
    logits = torch.zeros(10, 10)
    labels = torch.arange(10)
    assert evaluate(logits, labels).top1 == 0.1
    assert evaluate(logits, labels).top5 == 0.5
    assert top_k_accuracy(logits[:1], labels[:1], 5) == 1.0


def test_equal_confidences_keep_their_order() -> None:
    logits = torch.tensor([[1.0, 0.0]]).repeat(4, 1)
    assert aurc(logits, torch.tensor([1, 0, 0, 0])) == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4)
    assert aurc(logits, torch.tensor([0, 0, 0, 1])) == pytest.approx((1 / 4) / 4)


@pytest.mark.parametrize("labels", [[0, 0, 0], [1, 1, 1]])
def test_all_right_and_all_wrong(labels: list[int]) -> None:
    logits = torch.tensor([[1e30, -1e30]]).repeat(3, 1)
    metrics = evaluate(logits, torch.tensor(labels))
    if labels[0] == 0:
        values = metrics.model_dump()
        assert values == {"top1": 1, "top5": 1, "nll": 0, "ece": 0, "brier": 0, "aurc": 0, "eaurc": 0}
        assert "-0.0" not in metrics.model_dump_json()
    else:
        assert (metrics.top1, metrics.top5, metrics.ece, metrics.brier, metrics.aurc) == (0, 1, 1, 2, 1)
        assert metrics.nll == pytest.approx(2e30)
        assert metrics.eaurc == 0


def test_one_sample_and_gradient_free_inputs_left_alone() -> None:
    logits = torch.tensor([[0.3, 0.1, 0.2]], requires_grad=True)
    kept = logits.detach().clone()
    metrics = evaluate(logits, torch.tensor([0]))
    assert (metrics.top1, metrics.top5, metrics.aurc) == (1.0, 1.0, 0.0)
    assert torch.equal(logits.detach(), kept)


def test_blocks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(101, 7), torch.randint(7, (101,))
    whole = evaluate(logits, labels)
    monkeypatch.setattr(module, "_CHUNK", 50)
    assert evaluate(logits, labels) == whole


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_logits_that_are_not_finite_are_refused(bad: float) -> None:
    logits = torch.zeros(3, 4)
    logits[1, 2] = bad
    for function in (evaluate, nll, calibration_error, brier, aurc, excess_aurc):
        with pytest.raises(ValueError, match="finite"):
            function(logits, torch.zeros(3, dtype=torch.long))


def test_wrong_shapes_labels_and_counts_are_refused() -> None:
    logits, labels = torch.zeros(3, 4), torch.zeros(3, dtype=torch.long)
    for wrong in (torch.zeros(3), torch.zeros(0, 4), torch.zeros(3, 1), torch.zeros(2, 4)):
        with pytest.raises(ValueError, match="need logits"):
            nll(wrong, labels[: len(wrong)] if len(wrong) != 2 else labels)
    for label in (-1, 4):
        with pytest.raises(ValueError, match="labels must lie"):
            evaluate(logits, labels + label)
    with pytest.raises(ValueError, match="bins"):
        calibration_error(logits, labels, 0)
    with pytest.raises(ValueError, match="k must"):
        top_k_accuracy(logits, labels, 0)


def test_evaluating_does_not_import_torchmetrics() -> None:
    code = "import sys, sdbench.evaluate; assert 'torchmetrics' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
