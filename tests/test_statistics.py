"""Intervals and tests against SciPy, cases worked by hand, and their coverage in a simulation."""

import itertools
import math
import random
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from sdbench.statistics import (
    MeanStd,
    PairedBootstrap,
    PairedDifference,
    holm,
    holm_known,
    mean_std,
    paired_bootstrap,
    paired_difference,
    paired_p_value,
)


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


def by_seed(values: np.ndarray) -> dict[int, float]:
    return dict(enumerate(values.tolist()))


def test_p_by_hand() -> None:
    """Differences 1, 2, 6: t = 3 / sqrt(7 / 3); for two degrees of freedom P(|T| >= t) = 1 - t / sqrt(2 + t^2)."""
    a = {0: 11.0, 1: 22.0, 2: 36.0, 7: 1000.0}
    b = {2: 30.0, 1: 20.0, 0: 10.0, 9: -1000.0}
    t = 3 / math.sqrt(7 / 3)
    assert paired_p_value(a, b) == pytest.approx(1 - t / math.sqrt(2 + t * t), rel=1e-12)
    assert paired_p_value(b, a) == paired_p_value(a, b)


@pytest.mark.parametrize("n", [2, 3, 5, 10, 50])
@pytest.mark.parametrize("shift", [0.0, 0.01, 1.0])
def test_p_is_scipys(n: int, shift: float) -> None:
    generator = np.random.default_rng(n)
    a, b = generator.normal(0.7, 0.01, n), generator.normal(0.7 + shift, 0.02, n)
    assert paired_p_value(by_seed(a), by_seed(b)) == pytest.approx(stats.ttest_rel(a, b).pvalue, rel=1e-9)


def test_p_and_interval_agree() -> None:
    """p <= 0.05 exactly where the 95 % interval leaves 0 out."""
    generator = np.random.default_rng(1)
    told_apart = 0
    for _ in range(200):
        a, b = by_seed(generator.normal(0.01, 0.01, 4)), by_seed(np.zeros(4))
        interval, p = paired_difference(a, b), paired_p_value(a, b)
        assert interval.low is not None
        assert interval.high is not None
        assert p is not None
        assert (p <= 0.05) == (not interval.low <= 0 <= interval.high)
        told_apart += p <= 0.05
    assert 20 < told_apart < 180


def test_p_of_few_seeds_and_of_differences_without_spread() -> None:
    assert paired_p_value({0: 1.0}, {0: 0.5}) is None
    assert paired_p_value({0: 1.0}, {1: 0.5}) is None
    same = {0: 0.5, 1: 0.25, 2: 0.75}
    assert paired_p_value(same, same) == 1.0
    assert paired_p_value({k: v + 0.25 for k, v in same.items()}, same) == 0.0, "the limit, as in SciPy"
    with pytest.raises(ValueError, match="finite"):
        paired_p_value({0: math.nan, 1: 1.0}, {0: 1.0, 1: 1.0})


@pytest.mark.parametrize(
    ("p_values", "expected"),
    [
        ([], []),
        ([0.2], [0.2]),
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),  # 4 x 0.005, 3 x 0.01, 2 x 0.03, then max(0.04, 0.06)
        ([0.6, 0.5, 0.4], [1.0, 1.0, 1.0]),  # 3 x 0.4 is capped at 1
        ([0.01, 0.01, 0.5], [0.03, 0.03, 0.5]),  # equal ones stay equal: 3 x 0.01, max(2 x 0.01, 0.03)
        ([0.0, 1.0], [0.0, 1.0]),
    ],
)
def test_holm_by_hand(p_values: list[float], expected: list[float]) -> None:
    assert holm(p_values) == pytest.approx(expected, abs=1e-15)


def test_holm_is_the_closed_test_of_bonferroni() -> None:
    """Another definition: the largest over all subsets that hold a hypothesis of (size x smallest p), capped at 1."""
    generator = np.random.default_rng(0)
    for _ in range(20):
        p = (generator.random(5) ** 2).tolist()
        subsets = [s for size in range(1, 6) for s in itertools.combinations(range(5), size)]
        closed = [max(min(1, len(s) * min(p[j] for j in s)) for s in subsets if i in s) for i in range(5)]
        found = holm(p)
        assert found == pytest.approx(closed, rel=1e-12)
        order = np.argsort(p)
        assert (np.diff(np.array(found)[order]) >= 0).all()
        assert all(q <= a <= 1 for q, a in zip(p, found, strict=True))


@pytest.mark.parametrize("bad", [-0.1, 1.1, math.nan])
def test_holm_refuses_what_is_no_p(bad: float) -> None:
    with pytest.raises(ValueError, match="p-values"):
        holm([0.5, bad])


def test_holm_counts_only_tests_that_were_made() -> None:
    assert holm_known({"a": 0.02, "b": None, "c": 0.03}) == {"a": 0.04, "b": None, "c": 0.04}
    assert holm_known({"a": None}) == {"a": None}


def test_the_bootstrap_is_refused_below_twenty_seeds() -> None:
    values = by_seed(np.linspace(0, 1, 19))
    zero = dict.fromkeys(range(30), 0.0)
    refused = paired_bootstrap(values, zero)
    assert (refused.mean, refused.low, refused.high, refused.n) == (pytest.approx(0.5), None, None, 19)
    assert refused.refused == "n too small for a bootstrap interval: 19 common seeds, it takes 20"
    assert paired_bootstrap({}, zero) == PairedBootstrap(
        None, None, None, 0, "n too small for a bootstrap interval: 0 common seeds, it takes 20"
    )
    given = paired_bootstrap(values | {19: 0.5}, zero)
    assert given.refused == ""
    assert given.low is not None
    with pytest.raises(ValueError, match="confidence"):
        paired_bootstrap(zero, zero, 95)
    with pytest.raises(ValueError, match="resamples"):
        paired_bootstrap(zero, zero, resamples=0)


def test_the_bootstrap_is_scipys() -> None:
    """Up to the noise of resampling: the same percentile interval from other random numbers."""
    generator = np.random.default_rng(3)
    a, b = generator.normal(0.7, 0.02, 30), generator.normal(0.69, 0.01, 30)
    ours = paired_bootstrap(by_seed(a), by_seed(b), resamples=20_000)
    theirs = stats.bootstrap((a - b,), np.mean, method="percentile", n_resamples=20_000, rng=generator)
    assert ours.mean == pytest.approx((a - b).mean(), rel=1e-12)
    width = theirs.confidence_interval.high - theirs.confidence_interval.low
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.02 * width)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.02 * width)
    shuffled = dict(sorted(by_seed(a).items(), key=lambda item: item[1]))
    assert paired_bootstrap(shuffled, by_seed(b), resamples=20_000) == ours, "the same seeds, the same interval"


def test_coverage_of_the_bootstrap_at_twenty_seeds() -> None:
    """Of 2,000 draws with normal differences it covers a little less than 95 %; at n = 20 that is some 93 %."""
    generator = np.random.default_rng(20)
    zero = dict.fromkeys(range(20), 0.0)
    covered = 0
    for _ in range(2000):
        found = paired_bootstrap(by_seed(generator.normal(0.01, 0.005, 20)), zero, resamples=500)
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 0.01 <= found.high
    assert 0.915 <= covered / 2000 <= 0.95


def test_why_the_bootstrap_is_refused_at_three_seeds() -> None:
    """All 27 resamples of three values, none left to chance. A nominal 95 % interval is that from the smallest to the
    largest value, each of which has 1/27 of the resamples to itself: it misses where all three lie on one side of
    the truth, with probability 2 / 2^3."""
    chosen = np.array(list(itertools.product(range(3), repeat=3)))
    draws = np.random.default_rng(3).normal(0.01, 0.005, (20_000, 3))
    low, high = np.quantile(draws[:, chosen].mean(axis=2), [0.025, 0.975], axis=1, method="inverted_cdf")
    assert ((low <= 0.01) & (high >= 0.01)).mean() == pytest.approx(0.75, abs=0.01)


@pytest.mark.parametrize("n", [3, 5, 10])
def test_p_is_below_5_percent_in_5_of_100_draws_without_a_difference(n: int) -> None:
    generator = np.random.default_rng(n)
    zero = dict.fromkeys(range(n), 0.0)
    p_values = [paired_p_value(by_seed(row), zero) for row in generator.normal(0, 0.01, (2000, n))]
    assert stats.kstest(p_values, "uniform").pvalue > 0.001
    assert 0.035 <= sum(p is not None and p <= 0.05 for p in p_values) / 2000 <= 0.065


def test_importing_is_light() -> None:
    code = (
        "import sys, sdbench.statistics as s; s.mean_std([1.0]); "
        "assert not {'torch', 'scipy', 'numpy', 'ray', 'pandas'} & set(sys.modules); "
        "s.paired_difference({0: 1.0, 1: 2.0}, {0: 0.0, 1: 0.5}); "
        "s.paired_p_value({0: 1.0, 1: 2.0}, {0: 0.0, 1: 0.5}); s.holm([0.5]); "
        "assert not {'torch', 'scipy.stats', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
