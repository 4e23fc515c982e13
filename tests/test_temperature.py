"""Temperature scaling against SciPy, fine grids and cases worked by hand; a whole run, recomputed from its files."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from torch import Tensor
from typer.testing import CliRunner

from sdbench import data, models
from sdbench.cli import app
from sdbench.evaluate import aurc, brier, calibration_error, evaluate, nll
from sdbench.spec import Options, TrialResult
from sdbench.store import Store, seal, write_atomic
from sdbench.temperature import fit_temperature, rescore
from sdbench.tiny import TinyTask
from sdbench.train import run_trial

Array = NDArray[Any]


def plain_nll(logits: Array, labels: Array, temperature: float) -> float:
    log_p = log_softmax(logits.astype(np.float64) / temperature, axis=1)
    return float(-log_p[np.arange(len(labels)), labels].mean())


def by_scipy(logits: Array, labels: Array) -> float:
    """A minimum of the NLL itself, over log T, where ours is a zero of its slope."""
    found = minimize_scalar(
        lambda u: plain_nll(logits, labels, math.exp(u)),
        bounds=(math.log(1e-3), math.log(1e3)),
        method="bounded",
        options={"xatol": 1e-10},
    )
    return math.exp(found.x)


@pytest.mark.golden
def test_every_case_of_the_golden_file(golden: Callable[[str], dict[str, Array]]) -> None:
    arrays = golden("wide/temperature_scaling.npz")
    cases = sorted({key.split(".", 1)[0] for key in arrays})
    assert cases
    for case in cases:
        own = {k.split(".", 1)[1]: v for k, v in arrays.items() if k.startswith(case + ".")}
        logits, labels = torch.from_numpy(own["logits"]), torch.from_numpy(own["labels"])
        expected = own["reference_T"].item()
        found = fit_temperature(logits, labels)
        assert found == pytest.approx(expected, abs=1e-6), case
        before, after = evaluate(logits, labels), evaluate(logits, labels, expected)
        assert before.nll == pytest.approx(own["reference_nll_before"].item(), abs=1e-9), case
        assert after.nll == pytest.approx(own["reference_nll_after"].item(), abs=1e-9), case
        assert before.ece == pytest.approx(own["ece15_before"].item(), abs=1e-6), case
        assert after.ece == pytest.approx(own["ece15_after"].item(), abs=1e-6), case
        if 0.1 <= expected <= 10:  # the authors' grid; the NLL has one minimum, so the best of them is next to it
            assert abs(own["official_grid_T_nll"].item() - expected) <= 0.1 + 1e-9, case


@settings(max_examples=40, deadline=None)
@given(
    st.integers(2, 60), st.integers(2, 12), st.integers(0, 2**31), st.sampled_from([0.1, 1.0, 8.0]),
    st.floats(0.2, 0.8),
)  # fmt: skip
def test_against_scipy_and_a_fine_grid(v: int, k: int, seed: int, scale: float, right: float) -> None:
    random = np.random.default_rng(seed)
    z = (scale * random.standard_normal((v, k))).astype(np.float32)
    y = np.where(random.random(v) < right, z.argmax(1), random.integers(0, k, v))
    found = fit_temperature(torch.from_numpy(z), torch.from_numpy(y))
    assert 1e-3 <= found <= 1e3
    lowest = plain_nll(z, y, found)
    grid = np.geomspace(1e-3, 1e3, 400)
    assert lowest <= min(plain_nll(z, y, t) for t in grid) + 1e-12
    if 1e-2 < found < 50:
        assert found == pytest.approx(by_scipy(z, y), rel=1e-4)


def test_two_classes_by_hand() -> None:
    """Equal margins a, a share r right: sigmoid(a / T) = r, so T = a / log(r / (1 - r))."""
    logits = torch.tensor([[2.0, 0.0], [7.0, 5.0], [-1.0, -3.0], [0.0, 2.0]])
    assert fit_temperature(logits, torch.tensor([0, 0, 0, 0])) == pytest.approx(2 / math.log(3), rel=1e-12)
    four_of_five = torch.tensor([[0.5, 0.0]] * 5)
    assert fit_temperature(four_of_five, torch.tensor([0, 0, 0, 0, 1])) == pytest.approx(0.5 / math.log(4), rel=1e-12)
    # margins 1 right, 1 right, 2 wrong, 3 right: with x = exp(b), 2 / (1 + x) + 3 / (1 + x^3) = 2 x^2 / (1 + x^2)
    b = 1 / fit_temperature(torch.tensor([[1.0, 0], [1, 0], [2, 0], [3, 0]]), torch.tensor([0, 0, 1, 0]))
    x = math.exp(b)
    assert 2 / (1 + x) + 3 / (1 + x**3) == pytest.approx(2 * x**2 / (1 + x**2), abs=1e-12)


@pytest.mark.parametrize("c", [0.25, 3.0, 40.0])
def test_a_known_temperature_is_found_and_scales_with_the_logits(c: float) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = 2 * torch.randn(20_000, 10, generator=generator, dtype=torch.double)
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator).squeeze(1)
    one = fit_temperature(logits, labels)
    # the variance of z under p is the Fisher information on b = 1/T; four standard errors
    p = logits.softmax(1)
    information = ((p * logits**2).sum(1) - (p * logits).sum(1) ** 2).sum().item()
    assert abs(1 / one - 1) < 4 / math.sqrt(information)
    assert fit_temperature(c * logits, labels) == pytest.approx(c * one, rel=1e-11)
    assert fit_temperature(logits + 5.0, labels) == pytest.approx(one, rel=1e-11)


def test_optima_at_zero_and_infinity_give_the_ends() -> None:
    logits = torch.tensor([[2.0, 0.0, 1.0], [0.0, 3.0, 1.0]])
    assert fit_temperature(logits, torch.tensor([0, 1])) == 1e-3, "all right"
    assert fit_temperature(logits, torch.tensor([1, 0])) == 1e3, "all wrong"
    assert fit_temperature(torch.tensor([[1.0, -1.0], [1.0, -1.0]]), torch.tensor([0, 1])) == 1e3, (
        "no better than chance"
    )
    half = torch.tensor([[2.0, 0.0]] * 4)
    labels = torch.tensor([0, 0, 0, 1])
    best = 2 / math.log(3)
    assert fit_temperature(half * 1e6, labels) == 1e3, "the optimum lies above"
    assert fit_temperature(half * 1e-6, labels) == 1e-3, "the optimum lies below"
    assert fit_temperature(half.double() * (999 / best), labels) == pytest.approx(999, rel=1e-9)
    assert fit_temperature(half.double() * (0.001001 / best), labels) == pytest.approx(0.001001, rel=1e-9)


def test_where_no_temperature_is_better_it_is_one() -> None:
    assert fit_temperature(torch.full((5, 4), 3.7), torch.tensor([0, 1, 2, 3, 0])) == 1.0
    assert fit_temperature(torch.tensor([[1e30, -1e30]]), torch.tensor([0])) == 1.0
    assert fit_temperature(torch.zeros(1, 2, dtype=torch.bfloat16), torch.tensor([1])) == 1.0


def test_bad_input_is_refused() -> None:
    logits, labels = torch.randn(3, 4), torch.zeros(3, dtype=torch.long)
    with pytest.raises(ValueError, match="need logits"):
        fit_temperature(logits[0], labels)
    with pytest.raises(ValueError, match="labels must lie"):
        fit_temperature(logits, labels + 4)
    with pytest.raises(ValueError, match="finite"):
        fit_temperature(logits / 0, labels)
    for temperature in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="temperature"):
            evaluate(logits, labels, temperature)


def test_metrics_are_those_of_the_divided_logits_and_top1_stays() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(500, 12, generator=generator, dtype=torch.double)
    labels = torch.randint(12, (500,), generator=generator)
    labels[::2] = logits[::2].argmax(1)
    for temperature in (0.3, 1.0, 2.5):
        found, divided = evaluate(logits, labels, temperature), logits / temperature
        expected = (nll, calibration_error, brier, aurc)
        for name, function in zip(("nll", "ece", "brier", "aurc"), expected, strict=True):
            assert getattr(found, name) == pytest.approx(function(divided, labels), abs=1e-12), (name, temperature)
        assert (found.top1, found.top5) == (evaluate(logits, labels).top1, evaluate(logits, labels).top5)
    assert evaluate(logits, labels, 1.0) == evaluate(logits, labels)


def test_dividing_makes_no_ties_and_no_overflow() -> None:
    near = torch.tensor([[1.9999998, 1.9999999]])
    assert near[0, 0] < near[0, 1]
    temperature = next(t for t in np.linspace(1.5, 2, 999) if (near / t)[0, 0] == (near / t)[0, 1])
    assert evaluate(near, torch.tensor([1]), float(temperature)).top1 == 1.0
    huge = torch.tensor([[3e38, -3e38], [3e38, 2e38]])
    metrics = evaluate(huge, torch.tensor([0, 0]), 1e-3)
    assert (metrics.nll, metrics.ece, metrics.brier) == (0, 0, 0)
    assert evaluate(huge, torch.tensor([1, 1]), 1e-3).nll == pytest.approx((6e41 + 1e41) / 2, rel=1e-6)


def test_rescoring_fits_on_the_one_and_scores_the_other() -> None:
    generator = torch.Generator().manual_seed(3)
    held, test = torch.randn(2, 300, 5, generator=generator)
    held_labels, labels = torch.randint(5, (2, 300), generator=generator)
    held_labels[:200], labels[:100] = held[:200].argmax(1), test[:100].argmax(1)
    scaled = rescore(test, labels, held[:250], held_labels[:250])
    assert scaled.held_out == 250
    assert scaled.temperature == pytest.approx(by_scipy(held[:250].numpy(), held_labels[:250].numpy()), rel=1e-5)
    assert scaled.nll == pytest.approx(plain_nll(test.numpy(), labels.numpy(), scaled.temperature), rel=1e-12)


def tiny_run(store: Store, **given: Any) -> TrialResult:
    """Four epochs of cross-entropy on ten held-out images, in this process."""
    task = TinyTask()
    return run_trial(task.trial("ce", {}), store, given.pop("options", Options()), opener=task.open, **given)


def test_an_interrupted_trial_is_scaled_by_the_same_bits(tmp_path: Path) -> None:
    whole = tiny_run(Store(tmp_path / "whole"))
    assert whole.scaled is not None
    assert whole.scaled.held_out == 10
    store, steps = Store(tmp_path / "halves"), iter(range(10**6))
    assert tiny_run(store, stop=lambda: next(steps) >= 7).status == "interrupted"
    resumed = tiny_run(store, options=Options(keep_checkpoints=True))
    assert resumed.resumes == (2,)
    assert (resumed.metrics, resumed.scaled) == (whole.metrics, whole.scaled)
    again = tiny_run(store)  # from the checkpoint of the last epoch: nothing to train, all to evaluate
    assert again.resumes == (2, 4)
    assert (again.metrics, again.scaled) == (whole.metrics, whole.scaled)


def test_records_from_before_scaling_load(tmp_path: Path) -> None:
    store = Store(tmp_path)
    result = tiny_run(store)
    path = store.folder(result.spec, result.trial_id) / "trial.json"
    text = json.loads(path.read_text())
    assert text["scaled"]["temperature"] > 0
    del text["scaled"]
    old = TrialResult.model_validate_json(json.dumps(text))
    assert old.scaled is None
    write_atomic(path, seal(old))
    assert store.scan().results[0].scaled is None


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory, make_pictures: Callable[..., Path]) -> Path:
    """A folder data set of small noisy images whose class is their mean colour."""
    return make_pictures(tmp_path_factory.mktemp("data") / "pictures", 60, 20, classes=3, mean=90, step=8)


def sdbench(*arguments: str) -> str:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == 0, done.stderr
    return done.stdout


def run(pictures: Path, results: Path, *more: str) -> str:
    return sdbench(
        "run", "--methods", "ls", "--dataset", f"folder:{pictures}", "--model", "resnet8", "--epochs", "2", "--seeds",
        "0", "--batch-size", "16", "--protocol", "fixed", "--precision", "fp32", "--image-size", "16", "--results",
        str(results), "--engine", "local", "--device", "cpu", *more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("results")
    run(pictures, results, "--temperature-scaling")
    return results


@torch.no_grad()
def through(network: torch.nn.Module, batches: Iterator[tuple[Tensor, Tensor]]) -> tuple[Array, Array]:
    pairs = [(network(images).logits, labels) for images, labels in batches]
    return torch.cat([z for z, _ in pairs]).numpy(), torch.cat([y for _, y in pairs]).numpy()


def test_a_run_says_what_its_weights_give(finished: Path, pictures: Path) -> None:
    results = Store(finished).scan().results
    assert {r.spec.method for r in results} == {"ce", "ls"}
    opened = data.load(
        f"folder:{pictures}", pictures, 16, device=torch.device("cpu"), split=0.1, workers=0, batch_size=16
    )
    assert (opened.num_train, opened.num_validation) == (162, 18)
    for result in results:
        assert result.spec.split == "holdout-0.1"
        assert result.metrics is not None
        assert result.scaled is not None
        assert result.scaled.held_out == 18
        folder = Store(finished).folder(result.spec, result.trial_id)
        network = models.build("resnet8", 3, 16)
        network.load_state_dict(safetensors.torch.load_file(folder / "network.safetensors"))
        network.eval()
        held, held_labels = through(network, opened.validation_batches(18))
        test, labels = through(network, opened.test_batches(60))
        assert 1e-3 < result.scaled.temperature < 1e3, "the data were made too easy or too hard"
        assert result.scaled.temperature == pytest.approx(by_scipy(held, held_labels), rel=1e-3)
        assert result.metrics.nll == pytest.approx(plain_nll(test, labels, 1.0), rel=1e-4)
        assert result.scaled.nll == pytest.approx(plain_nll(test, labels, result.scaled.temperature), rel=1e-4)
        kept = safetensors.torch.load_file(folder / "logits.safetensors")
        assert np.allclose(kept["validation_logits"], held, rtol=2e-3, atol=2e-3)
        assert kept["validation_labels"].tolist() == held_labels.tolist()


def test_boards_show_before_and_after(finished: Path) -> None:
    board = json.loads(sdbench("leaderboard", "--results", str(finished), "--json"))
    record = {r.spec.method: r for r in Store(finished).scan().results}
    for row in board["tables"][0]["rows"]:
        own = record[row["method"]]
        assert own.metrics is not None
        assert own.scaled is not None
        assert row["metrics"]["nll"]["mean"] == own.metrics.nll
        assert row["scaled"]["scaled_nll"]["mean"] == own.scaled.nll
        assert row["scaled"]["temperature"]["mean"] == own.scaled.temperature
    shown = sdbench("show", record["ls"].trial_id, "--results", str(finished))
    assert "scaled_ece" in shown
    assert "temperature" in shown


def test_the_option_changes_the_split_and_nothing_else(finished: Path, pictures: Path) -> None:
    again = json.loads(run(pictures, finished, "--temperature-scaling", "--dry-run", "--json"))
    assert again["missing"] == 0
    plain = json.loads(run(pictures, finished, "--dry-run", "--json"))
    assert plain["missing"] == 2
    for with_it, without in zip(again["trials"], plain["trials"], strict=True):
        assert (with_it["spec"].pop("split"), without["spec"].pop("split")) == ("holdout-0.1", "full")
        assert with_it["spec"] == without["spec"]


def test_the_option_shares_trials_with_methods_that_hold_out(finished: Path, pictures: Path) -> None:
    """The baseline beside a method that asks for held-out images is the one that the option trains."""
    plan = json.loads(run(pictures, finished, "--methods", "cals", "--dry-run", "--json"))
    state = {(t["spec"]["method"], t["spec"]["split"]): t["state"] for t in plan["trials"]}
    assert state["ce", "holdout-0.1"] == "done"
    assert state["cals", "holdout-0.1"] == "missing"
    same = json.loads(run(pictures, finished, "--methods", "cals", "--temperature-scaling", "--dry-run", "--json"))
    assert {t["trial_id"] for t in plan["trials"] if t["spec"]["method"] == "cals"} <= {
        t["trial_id"] for t in same["trials"]
    }


def test_without_held_out_images_nothing_is_scaled(pictures: Path, tmp_path: Path) -> None:
    board = run(pictures, tmp_path, "--no-baseline", "--epochs", "1")
    (result,) = Store(tmp_path).scan().results
    assert result.metrics is not None
    assert result.scaled is None
    assert "scaled" not in board


def test_a_configuration_file_and_a_protocol_that_holds_out(pictures: Path, tmp_path: Path) -> None:
    config = tmp_path / "sdbench.toml"
    config.write_text("temperature-scaling = true\n")
    from_file = json.loads(run(pictures, tmp_path / "r", "--config", str(config), "--dry-run", "--json"))
    assert {t["spec"]["split"] for t in from_file["trials"]} == {"holdout-0.1"}
    own = json.loads(run(pictures, tmp_path / "r", "--protocol", "holdout", "--dry-run", "--json"))
    both = json.loads(
        run(pictures, tmp_path / "r", "--protocol", "holdout", "--temperature-scaling", "--dry-run", "--json")
    )
    assert own == both
