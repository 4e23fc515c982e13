"""Sorted softmax outputs and the laws fitted to them: by hand, against SciPy, and on data of known exponent."""

import numpy as np
import pytest
import scipy.optimize
import scipy.special
import scipy.stats

from sdbench.analysis.zipf import fit, sorted_outputs

RANKS = np.arange(1, 33, dtype=np.float64)


def test_sorted_outputs_by_hand():
    logits = np.log([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]]) + 7
    np.testing.assert_allclose(sorted_outputs(logits), [0.65, 0.2, 0.15])
    # Without the label: 0.3, 0.2 of 0.5 in the first row, 0.1, 0.1 of 0.2 in the second.
    np.testing.assert_allclose(sorted_outputs(logits, np.array([0, 2])), [0.55, 0.45])
    # A label that is not the prediction: 0.5, 0.2 of 0.7 and 0.8, 0.1 of 0.9.
    np.testing.assert_allclose(sorted_outputs(logits, np.array([1, 0])), [(5 / 7 + 8 / 9) / 2, (2 / 7 + 1 / 9) / 2])


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_sorted_outputs_against_scipy(monkeypatch, kind):
    monkeypatch.setattr("sdbench.analysis.zipf._CHUNK", 70)  # ten rows at a time
    logits = np.random.default_rng(0).normal(0, 4, (53, 7)).astype(kind)
    labels = np.random.default_rng(1).integers(0, 7, 53)
    p = scipy.special.softmax(logits.astype(np.float64), axis=1)
    np.testing.assert_allclose(sorted_outputs(logits), np.sort(p, axis=1)[:, ::-1].mean(0), rtol=1e-12)
    others = np.stack([np.delete(row, label) for row, label in zip(p, labels, strict=True)])
    others /= others.sum(1, keepdims=True)
    np.testing.assert_allclose(sorted_outputs(logits, labels), np.sort(others, axis=1)[:, ::-1].mean(0), rtol=1e-12)


@pytest.mark.parametrize("exponent", [0.3, 1.0, 1.7])
def test_samples_of_a_known_exponent(exponent):
    """Each sample has its classes in an order of its own; only sorting finds the law again."""
    random = np.random.default_rng(0)
    ranks = np.stack([random.permutation(100) + 1 for _ in range(40)])
    found = fit(sorted_outputs(-exponent * np.log(ranks) + random.normal(size=(40, 1))), 1, 100)
    assert found.line.exponent == pytest.approx(exponent, abs=1e-9)
    assert found.zipf.parameters["exponent"] == pytest.approx(exponent, abs=1e-9)
    assert found.line.r_squared == pytest.approx(1, abs=1e-12)
    assert found.zipf.kl < 1e-12 < found.exponential.kl
    assert found.log_normal.parameters == {"mu": None, "sigma": None}  # Zipf's law is its limit


def test_each_law_is_found_in_its_own_data():
    exponential = fit(5 * np.exp(-0.21 * RANKS))
    assert exponential.exponential.parameters["rate"] == pytest.approx(0.21, abs=1e-9)
    assert exponential.exponential.kl < 1e-12
    assert exponential.zipf.kl > 0.01
    normal = fit(np.exp(-((np.log(RANKS) - 0.4) ** 2) / (2 * 1.3**2)) / RANKS)
    assert normal.log_normal.parameters == {"mu": pytest.approx(0.4, abs=1e-6), "sigma": pytest.approx(1.3, abs=1e-6)}
    assert normal.log_normal.kl < 1e-12
    assert normal.zipf.kl > 1e-3


def test_line_and_divergences_against_scipy():
    values = np.sort(np.random.default_rng(3).exponential(1, 50))[::-1] + 0.01
    found = fit(values, 2, 40)
    ranks = np.arange(2, 41)
    q = values[1:40] / values[1:40].sum()
    line = scipy.stats.linregress(np.log(ranks), np.log(values[1:40]))
    assert found.line.exponent == pytest.approx(-line.slope)
    assert found.line.log_constant == pytest.approx(line.intercept)
    assert found.line.r_squared == pytest.approx(line.rvalue**2)

    def least(log_density, start):
        def divergence(parameters):
            return scipy.stats.entropy(q, np.exp(log_density(*parameters)))

        options = {"xatol": 1e-10, "fatol": 1e-14, "maxiter": 4000}
        return scipy.optimize.minimize(divergence, start, method="Nelder-Mead", options=options).fun

    assert found.zipf.kl == pytest.approx(least(lambda s: -s * np.log(ranks), [1.0]), abs=1e-9)
    assert found.exponential.kl == pytest.approx(least(lambda rate: -rate * ranks, [0.1]), abs=1e-9)
    free = least(lambda mu, sigma: -np.log(ranks) - (np.log(ranks) - mu) ** 2 / (2 * sigma**2), [1.0, 1.0])
    assert found.log_normal.kl == pytest.approx(free, abs=1e-8)


def test_softmax_of_gaussian_logits_is_close_to_zipf_on_the_first_32_ranks():
    """The experiment of the paper's supplement, which reports R^2 0.99992 and KL 0.0000667 for Zipf's law."""
    found = fit(sorted_outputs(np.random.default_rng(0).normal(size=(1000, 1000))))
    assert (found.first, found.last) == (1, 32)
    assert found.line.r_squared > 0.998
    assert found.zipf.kl < 2e-4
    assert found.exponential.kl > 50 * found.zipf.kl
    assert found.log_normal.kl <= found.zipf.kl


def test_uniform_outputs_have_exponent_zero():
    found = fit(np.full(10, 0.1))
    assert found.line.exponent == pytest.approx(0, abs=1e-12)
    assert found.line.r_squared is None
    assert found.zipf.kl == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("scale"), [1e-3, 30.0, 200.0])
def test_very_flat_and_very_peaked_outputs(scale):
    values = np.exp(-scale * np.log(RANKS[:10]))
    found = fit(values)
    assert found.zipf.parameters["exponent"] == pytest.approx(scale, rel=1e-6)
    assert found.log_normal.kl <= found.zipf.kl + 1e-12


def test_what_is_refused():
    with pytest.raises(ValueError, match="three ranks at least"):
        fit(np.array([0.6, 0.4]))
    with pytest.raises(ValueError, match="three ranks at least"):
        fit(np.ones(10), 9, 32)
    with pytest.raises(ValueError, match="positive and finite"):
        fit(np.array([1.0, 0.5, 0.0]))
    with pytest.raises(ValueError, match="not all finite"):
        sorted_outputs(np.array([[1.0, np.inf, 0.0]]))
    with pytest.raises(ValueError, match="labels must lie in"):
        sorted_outputs(np.zeros((2, 3)), np.array([0, 3]))
    with pytest.raises(ValueError, match="need logits"):
        sorted_outputs(np.zeros((2, 2)))


def test_gaussian_logits_as_in_the_supplements_toy_experiment() -> None:
    """Zipf's law far ahead of the exponential on ranks 1 to 32, and the limit of the log-normal."""
    found = fit(sorted_outputs(np.random.default_rng(0).normal(size=(2000, 1000)).astype(np.float32)), 1, 32)
    assert found.zipf.kl < 1e-4
    assert 0.012 < found.exponential.kl < 0.016
    assert found.log_normal.kl == pytest.approx(found.zipf.kl, rel=1e-3)
