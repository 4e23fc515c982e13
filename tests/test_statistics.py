"""Intervals against SciPy, a case worked by hand, and their coverage in a simulation."""

import math
import random
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from sdbench.statistics import MeanStd, PairedDifference, mean_std, paired_difference


def test_mean_and_sample_std_by_hand() -> None:
    assert mean_std([2.0, 4.0, 9.0]) == MeanStd(5.0, math.sqrt((9 + 1 + 16) / 2), 3)
    assert mean_std([0.7]) == MeanStd(0.7, None, 1)
    assert mean_std(iter([1.0, 1.0])) == MeanStd(1.0, 0.0, 2)
    assert mean_std([0.05] * 3) == MeanStd(0.05, 0.0, 3)


def test_mean_and_std_do_not_depend_on_the_order() -> None:
    values = [1e16, 1.0, -1e16, 3.0, 0.1, 0.2, 0.3]
    shuffled = random.Random(0).sample(values, len(values))
    assert mean_std(values) == mean_std(shuffled)
    assert mean_std([1e16, 1.0, -1e16]).mean == 1 / 3


@pytest.mark.parametrize("values", [[], [float("nan")], [1.0, float("inf")]])
def test_nothing_and_values_that_are_not_finite_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="finite"):
        mean_std(values)


def test_paired_difference_by_hand() -> None:
    """Differences 1, 2, 6 over the common seeds: mean 3, s = sqrt(7), t_2(0.975) = 4.3027."""
    a = {0: 11.0, 1: 22.0, 2: 36.0, 7: 1000.0}
    b = {2: 30.0, 1: 20.0, 0: 10.0, 9: -1000.0}
    result = paired_difference(a, b)
    half = 0.95 / math.sqrt(2 * 0.975 * 0.025) * math.sqrt(7 / 3)  # closed form for two degrees of freedom
    assert result.mean == 3.0
    assert result.low == pytest.approx(3 - half, rel=1e-12)
    assert result.high == pytest.approx(3 + half, rel=1e-12)
    assert (result.n, result.seeds) == (3, (0, 1, 2))


@pytest.mark.parametrize("n", [2, 3, 5, 30])
@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.999])
def test_paired_interval_is_scipys(n: int, confidence: float) -> None:
    generator = np.random.default_rng(n)
    a, b = generator.normal(0.7, 0.01, n), generator.normal(0.69, 0.02, n)
    expected = stats.ttest_rel(a, b).confidence_interval(confidence)
    result = paired_difference(dict(enumerate(a)), dict(enumerate(b)), confidence)
    assert result.mean == pytest.approx((a - b).mean(), rel=1e-12)
    assert (result.low, result.high) == pytest.approx((expected.low, expected.high), rel=1e-9)
    assert result.n == n


def test_too_few_seeds_give_no_interval() -> None:
    assert paired_difference({1: 0.5}, {1: 0.25, 2: 0.1}) == PairedDifference(0.25, None, None, 1, (1,))
    assert paired_difference({1: 0.5}, {2: 0.25}) == PairedDifference(None, None, None, 0, ())
    assert paired_difference({}, {}) == PairedDifference(None, None, None, 0, ())


def test_differences_without_spread() -> None:
    result = paired_difference({0: 0.75, 1: 0.5}, {0: 0.5, 1: 0.25})
    assert (result.mean, result.low, result.high) == (0.25, 0.25, 0.25)


@pytest.mark.parametrize("confidence", [0.0, 1.0, -1.0, 95.0, float("nan")])
def test_confidence_must_be_a_share(confidence: float) -> None:
    with pytest.raises(ValueError, match="confidence"):
        paired_difference({0: 1.0}, {0: 1.0}, confidence)


@pytest.mark.parametrize("n", [3, 5, 10])
def test_interval_covers_the_true_difference_in_95_of_100_draws(n: int) -> None:
    """2,000 draws with strong seed effects common to both methods; three standard errors are 1.5 points."""
    generator = np.random.default_rng(n)
    covered = widths = unpaired = 0.0
    for _ in range(2000):
        seed_effect = generator.normal(0, 0.05, n)
        a = 0.70 + seed_effect + generator.normal(0, 0.004, n)
        b = 0.69 + seed_effect + generator.normal(0, 0.003, n)
        result = paired_difference(dict(enumerate(a)), dict(enumerate(b)))
        assert result.low is not None
        assert result.high is not None
        covered += result.low <= 0.01 <= result.high
        widths += result.high - result.low
        interval = stats.t.ppf(0.975, 2 * n - 2) * 2 * np.sqrt((a.var(ddof=1) + b.var(ddof=1)) / n)
        unpaired += interval
    assert 0.93 <= covered / 2000 <= 0.97
    assert widths < 0.5 * unpaired, "pairing by seed must take the seeds' common effect out"


def test_importing_is_light() -> None:
    code = (
        "import sys, sdbench.statistics as s; s.mean_std([1.0]); "
        "assert not {'torch', 'scipy', 'numpy', 'ray', 'pandas'} & set(sys.modules); "
        "s.paired_difference({0: 1.0, 1: 2.0}, {0: 0.0, 1: 0.5}); "
        "assert not {'torch', 'scipy.stats', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
