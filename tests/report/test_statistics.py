"""Statistics against values worked out by hand, exact enumeration, linear programming, and SciPy and statsmodels called directly."""

import itertools
import warnings
from functools import partial

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from statsmodels.regression.quantile_regression import QuantReg

from uss_bench.report import statistics
from uss_bench.report.statistics import (
    best_by_mean,
    bootstrap_interval,
    quantile_effects,
    stars,
    summarize,
    wilcoxon_against_best,
)

# Darwin's maize: differences in height of cross- and self-fertilised plants; the worked example of Wilcoxon (1945), T = 24.
MAIZE = np.array([6, 8, 14, 16, 23, 24, 28, 29, 41, -48, 49, 56, 60, -67, 75], dtype=float)


def compare(differences, higher_is_better=True):
    """Comparison of `x` against a best `y` where `x - y` are the differences; `y` is the best as long as `x` has no better mean."""
    differences = np.asarray(differences, dtype=float)
    base = 1000.0 + np.arange(differences.size)
    return wilcoxon_against_best({"y": base, "x": base + differences}, higher_is_better)["x"]


def enumerated_p(differences):
    """Two-sided p over all signs of the differences that are not zero; the ranks count the zeros (Pratt)."""
    differences = np.asarray(differences, dtype=float)
    ranks = scipy.stats.rankdata(np.abs(differences))[differences != 0]
    won = np.asarray(differences)[differences != 0] > 0
    smaller = min(ranks[won].sum(), ranks[~won].sum())
    sums = [np.dot(ranks, signs) for signs in itertools.product((0, 1), repeat=ranks.size)]
    return min(1.0, 2 * np.mean([total <= smaller for total in sums]))


def test_summarize_by_hand():
    summary = summarize([2.0, 4.0, 4.0, 6.0, 9.0], 0.95)
    assert (summary.n, summary.mean) == (5, 5.0)
    assert summary.std == pytest.approx(7**0.5)  # squares 9, 1, 1, 1, 16: 28 / 4
    assert summary.percentile == pytest.approx(8.4)  # at 3.8 of 0..4: 6 + 0.8 * 3
    assert summarize([2.0, 4.0, 4.0, 6.0, 9.0], 0.05).percentile == pytest.approx(2.4)


def test_summary_of_one_case_has_no_deviation():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        summary = summarize([3.0], 0.05)
    assert (summary.n, summary.mean, summary.percentile) == (1, 3.0, 3.0)
    assert np.isnan(summary.std)


@pytest.mark.parametrize("values", [[], [[1.0, 2.0]], [1.0, np.inf], [1.0, np.nan]])
def test_values_are_checked(values):
    for call in (
        lambda: summarize(values, 0.05),
        lambda: wilcoxon_against_best({"x": [1.0, 2.0], "y": values}, True),
        lambda: best_by_mean({"y": values}, True),
        lambda: quantile_effects(values, [0, 1], [0, 1], 0.05),
        lambda: bootstrap_interval(values, np.mean, 0),
    ):
        with pytest.raises(ValueError, match=r"values|samples\['y'\]"):
            call()


def test_quantile_is_checked():
    with pytest.raises(ValueError, match="quantile"):
        summarize([1.0], 5)
    with pytest.raises(ValueError, match="quantile"):
        quantile_effects([1.0, 2.0], [0, 1], [0, 1], 1.0)


def test_the_best_follows_the_direction_and_the_first_wins_ties():
    samples = {"a": [1.0, 3.0], "b": [4.0, 0.0], "c": [1.0, 1.5], "d": [1.5, 1.0]}
    assert best_by_mean(samples, True) == "a"
    assert best_by_mean(samples, False) == "c"
    assert list(wilcoxon_against_best(samples, True)) == ["b", "c", "d"]
    assert {comparison.best for comparison in wilcoxon_against_best(samples, False).values()} == {"c"}


def test_wilcoxon_of_the_published_example():
    result = compare(-MAIZE)
    assert (result.best, result.statistic, result.n, result.zeros, result.method) == (
        "y",
        24.0,
        15,
        0,
        "exact",
    )
    assert result.p == pytest.approx(0.041259765625)
    assert result.stars == "*"


def test_effect_by_hand_and_its_sign():
    # ranks 1..4: won 1, lost 2 + 3 + 4 = 9, so (1 - 9) / 10
    result = compare([1, -2, -3, -4])
    assert (result.effect, result.statistic) == (pytest.approx(-0.8), 1.0)
    # lower is better: the same sample beats the best in three of four cases and still has the worse mean
    assert compare([-1, -2, -3, 40], higher_is_better=False).effect == pytest.approx((6 - 4) / 10)
    # Pratt: the zero takes rank 1; won 2, lost 3 + 4 + 5
    assert compare([0, 1, -2, -3, -4]).effect == pytest.approx((2 - 12) / 14)
    assert compare([-1, -2, -3, -4]).effect == -1.0


@pytest.mark.parametrize(
    "differences",
    [
        [-1],
        [-1, -1, -1, -1],
        [0, -1, -2, -3, -4],
        [0, 0, 0, -7],
        [0, 0, 1, -1, -2, -2, -2, 3, -5, -8],
        [1, -2, 3, -4, -5, -6, -7.5, -8, -9.25],
        [2, -2, 2, -2],
        [0, 1, 1, -3, -3, -3, -4, -4, -6, -6, -7],
    ],
)
def test_small_samples_against_enumeration(differences):
    result = compare(differences)
    assert result.p == pytest.approx(enumerated_p(differences))
    assert result.p >= 2.0 ** (1 - len(differences))
    assert result.zeros == differences.count(0)
    assert result.method.startswith("exact")


def test_counting_agrees_with_scipy_where_scipy_is_exact():
    rng = np.random.default_rng(0)
    for n in (5, 12, 30, 50):
        differences = np.round(rng.permutation(n) + 1.0) * rng.choice([-1, 1], n, p=[0.7, 0.3])
        ranks = np.abs(differences)
        expected = scipy.stats.wilcoxon(differences, zero_method="pratt", method="exact")
        smaller = min(ranks[differences > 0].sum(), ranks[differences < 0].sum())
        assert statistics._signed_rank_p(ranks, smaller) == pytest.approx(expected.pvalue)


def test_four_equal_differences_are_not_significant():
    assert scipy.stats.wilcoxon([-1.0] * 4, zero_method="pratt", method="approx").pvalue < 0.05  # the trap
    result = compare([-1.0] * 4)
    assert (result.p, result.stars, result.method) == (0.125, "", "exact, ties or zeros")


def many_pairs():
    differences = np.round(np.random.default_rng(1).normal(-0.4, 2, size=80))
    assert np.count_nonzero(differences == 0) > 5
    assert np.unique(np.abs(differences)).size < 10
    return differences


def test_many_pairs_against_scipy():
    differences = many_pairs()
    result = compare(differences)
    expected = scipy.stats.wilcoxon(differences, zero_method="pratt", correction=False, method="approx")
    assert (result.statistic, result.p) == (pytest.approx(expected.statistic), pytest.approx(expected.pvalue))
    assert (result.n, result.zeros, result.method) == (80, np.count_nonzero(differences == 0), "asymptotic")


def test_many_pairs_against_the_formula():
    """Normal approximation with Cureton's correction for zeros and the usual one for ties."""
    differences = many_pairs()
    n, zeros = differences.size, np.count_nonzero(differences == 0)
    _, ties = np.unique(np.abs(differences[differences != 0]), return_counts=True)
    mean = (n * (n + 1) - zeros * (zeros + 1)) / 4
    variance = (n * (n + 1) * (2 * n + 1) - zeros * (zeros + 1) * (2 * zeros + 1)) / 24 - (
        ties**3 - ties
    ).sum() / 48
    result = compare(differences)
    assert result.p == pytest.approx(2 * scipy.stats.norm.sf((mean - result.statistic) / variance**0.5))


def test_fifty_pairs_are_exact_and_fifty_one_are_not():
    differences = -(np.arange(51) + 1.0) * np.where(np.arange(51) % 3, 1, -1)
    assert compare(differences[:50]).method == "exact"
    assert compare(differences).method == "asymptotic"


@pytest.mark.parametrize("n", [1, 4, 60])
def test_no_differences_at_all(n):
    for value in (0.5, 0.0):
        result = wilcoxon_against_best({"y": np.full(n, value), "x": np.full(n, value)}, True)["x"]
        assert (result.p, result.effect, result.stars, result.zeros, result.method) == (
            1.0,
            0.0,
            "",
            n,
            "all differences are zero",
        )


def test_rounding_errors_break_no_ties():
    """0.5 - 0.525, 0.825 - 0.775 and so on are 0.025 and three times 0.05, but not in binary."""
    x, y = np.array([0.5, 0.825, 0.375, 0.5]), np.array([0.525, 0.775, 0.325, 0.55])
    result = wilcoxon_against_best({"x": x, "y": y}, True)["y"]
    assert result.statistic == 4.0  # ranks 1, 3, 3, 3: the best wins 3 + 3 and loses 1 + 3
    # the unit is of no matter, however small
    tiny = wilcoxon_against_best({"x": 1e-9 * x, "y": 1e-9 * y}, True)["y"]
    assert (tiny.p, tiny.effect) == (result.p, result.effect)


def test_unpaired_and_missing_samples():
    with pytest.raises(ValueError, match=r"paired.*'x': 3.*'y': 2"):
        wilcoxon_against_best({"x": [1.0, 2.0, 3.0], "y": [1.0, 2.0]}, True)
    with pytest.raises(ValueError, match="samples"):
        wilcoxon_against_best({}, True)
    assert wilcoxon_against_best({"x": [1.0, 2.0]}, True) == {}


def test_stars():
    assert [stars(p) for p in (0.0, 0.00099, 0.001, 0.0099, 0.01, 0.0499, 0.05, 1.0)] == [
        "***",
        "***",
        "**",
        "**",
        "*",
        "*",
        "",
        "",
    ]


def cases(n, seed=0, strategies=((1, 0), (0, 0), (1, 1), (0, 1))):
    """Skewed values of n cases for each strategy, better with uncertainty and with slices: values, uncertainty, slice."""
    rng = np.random.default_rng(seed)
    difficulty = rng.gamma(2, 1, n)
    values = [
        difficulty * rng.lognormal(0, 0.4, n) * (1 - 0.2 * first - 0.1 * second)
        for first, second in strategies
    ]
    uncertainty, slice_sampling = np.repeat(np.array(strategies), n, axis=0).T
    return np.concatenate(values), uncertainty, slice_sampling


def check_loss(values, design, coefficients, quantile):
    error = values - design @ coefficients
    return np.where(error >= 0, quantile * error, (quantile - 1) * error).sum()


@pytest.mark.parametrize("quantile", [0.05, 0.5, 0.95])
def test_quantile_effects_against_linear_programming(quantile):
    """Groups of unequal size: with equal ones many coefficients share the least loss, and two solvers may differ."""
    values, uncertainty, slice_sampling = cases(60, seed=4)
    keep = np.sort(np.random.default_rng(4).permutation(240)[:211])
    values, uncertainty, slice_sampling = values[keep], uncertainty[keep], slice_sampling[keep]
    design = np.column_stack([np.ones(values.size), uncertainty, slice_sampling])
    n, k = design.shape
    solved = scipy.optimize.linprog(
        np.concatenate([np.zeros(k), np.full(n, quantile), np.full(n, 1 - quantile)]),
        A_eq=np.hstack([design, np.eye(n), -np.eye(n)]),
        b_eq=values,
        bounds=[(None, None)] * k + [(0, None)] * (2 * n),
        method="highs",
    )
    result = quantile_effects(values, uncertainty, slice_sampling, quantile)
    assert result.failure == ""
    coefficients = np.array([row.coefficient for row in result.rows])
    assert check_loss(values, design, coefficients, quantile) == pytest.approx(solved.fun, rel=1e-6)
    assert coefficients == pytest.approx(solved.x[:k], abs=1e-4)


@pytest.mark.parametrize(("quantile", "rank"), [(0.05, 3), (0.5, 21), (0.95, 39)])
def test_three_strategies_give_the_quantiles_of_each(quantile, rank):
    """Three groups of 41 fit three coefficients: each group's quantile is its value of rank ceil(41 q), counted from 1."""
    values, uncertainty, slice_sampling = cases(41, strategies=((0, 0), (1, 0), (0, 1)))
    base, with_uncertainty, with_slices = np.sort(values.reshape(3, 41), axis=1)[:, rank - 1]
    rows = quantile_effects(values, uncertainty, slice_sampling, quantile).rows
    assert [row.term for row in rows] == ["intercept", "uncertainty_sampling", "slice_sampling"]
    assert [row.coefficient for row in rows] == pytest.approx(
        [base, with_uncertainty - base, with_slices - base], abs=1e-4
    )


def test_quantile_effects_against_statsmodels():
    values, uncertainty, slice_sampling = cases(60)
    fit = QuantReg(values, np.column_stack([np.ones(240), uncertainty, slice_sampling])).fit(q=0.95)
    result = quantile_effects(values, uncertainty.astype(bool), slice_sampling.tolist(), 0.95)
    assert (result.n, result.quantile, result.failure) == (240, 0.95, "")
    for row, coefficient, (low, high), p_value in zip(
        result.rows, fit.params, fit.conf_int(), fit.pvalues, strict=True
    ):
        assert (row.coefficient, row.ci_low, row.ci_high, row.p_value) == (coefficient, low, high, p_value)
        assert row.ci_low < row.coefficient < row.ci_high
    assert quantile_effects(values, uncertainty, slice_sampling, 0.95) == result


@pytest.mark.parametrize("quantile", [0.05, 0.95])
def test_too_few_cases_for_the_outer_quantiles_are_a_failure(quantile):
    assert "too few values" in quantile_effects(*cases(19), quantile).failure  # 76
    assert quantile_effects(*cases(19), quantile).rows == ()
    assert quantile_effects(*cases(20), quantile).failure == ""
    assert (
        "too few values"
        in quantile_effects([1.0, 2.0, 4.0, 3.0], [0, 1, 0, 1], [0, 0, 1, 1], quantile).failure
    )


@pytest.mark.parametrize("strategies", [((1, 1),), ((1, 1), (0, 0)), ((1, 0), (0, 1)), ((1, 1), (0, 1))])
def test_too_few_strategies_are_a_failure(strategies):
    result = quantile_effects(*cases(100, strategies=strategies), 0.05)
    assert "singular design" in result.failure
    assert result.rows == ()


def test_values_that_do_not_vary_are_a_failure():
    _, uncertainty, slice_sampling = cases(50)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = quantile_effects(np.ones(200), uncertainty, slice_sampling, 0.05)
    assert "standard errors" in result.failure
    assert result.rows == ()


def test_no_convergence_and_exceptions_are_failures(monkeypatch):
    fit = QuantReg.fit
    monkeypatch.setattr(QuantReg, "fit", lambda self, q: fit(self, q=q, max_iter=2))
    result = quantile_effects(*cases(50), 0.05)
    assert result.failure.startswith("no convergence: ") and result.rows == ()

    def broken(self, q):
        raise np.linalg.LinAlgError("SVD did not converge")

    monkeypatch.setattr(QuantReg, "fit", broken)
    result = quantile_effects(*cases(50), 0.05)
    assert result.failure == "LinAlgError: SVD did not converge" and result.rows == ()


def test_indicators_are_checked():
    with pytest.raises(ValueError, match="uncertainty must have the shape"):
        quantile_effects([1.0, 2.0], [0], [0, 1], 0.5)
    with pytest.raises(ValueError, match="slice_sampling must hold 0 and 1"):
        quantile_effects([1.0, 2.0], [0, 1], [0, 2], 0.5)


def test_bootstrap_of_a_mean_against_the_normal_interval():
    values = np.random.default_rng(0).normal(10, 2, size=400)
    low, high = bootstrap_interval(values, np.mean, seed=1)
    margin = 1.96 * values.std(ddof=1) / 20
    assert low == pytest.approx(values.mean() - margin, abs=0.2 * margin)
    assert high == pytest.approx(values.mean() + margin, abs=0.2 * margin)
    narrow = bootstrap_interval(values, np.mean, seed=1, level=0.5)
    assert low < narrow[0] < narrow[1] < high


def test_bootstrap_of_two_values_by_hand():
    """Resamples of (0, 1) have the means 0, 0.5 and 1 with chances 1/4, 1/2 and 1/4."""
    assert bootstrap_interval([0.0, 1.0], np.mean, seed=0) == (0.0, 1.0)
    assert bootstrap_interval([0.0, 1.0], np.mean, seed=0, level=0.4) == (0.5, 0.5)  # quantiles 0.3 and 0.7


def test_bootstrap_is_reproducible_and_takes_quantiles():
    values = np.random.default_rng(0).normal(size=50)
    statistic = partial(np.quantile, q=0.95)
    assert bootstrap_interval(values, statistic, seed=5) == bootstrap_interval(values, statistic, seed=5)
    assert bootstrap_interval(values, statistic, seed=5) != bootstrap_interval(values, statistic, seed=6)
    low, high = bootstrap_interval(values, statistic, seed=5)
    assert low < np.quantile(values, 0.95) < high <= values.max()
    assert bootstrap_interval([3.0], np.mean, seed=0) == (3.0, 3.0)


def test_bootstrap_arguments_are_checked():
    with pytest.raises(TypeError):
        bootstrap_interval([1.0], np.mean, seed=None)
    with pytest.raises(ValueError, match="resamples"):
        bootstrap_interval([1.0], np.mean, seed=0, resamples=0)
    with pytest.raises(ValueError, match="level"):
        bootstrap_interval([1.0], np.mean, seed=0, level=95)
