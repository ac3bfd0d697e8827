"""The regression of Table 9 against linear programming, quantiles of groups, and statsmodels."""

import warnings

import numpy as np
import pytest
import scipy.optimize
from statsmodels.regression.quantile_regression import QuantReg

from uss_bench.report.quantile_regression import quantile_effects


def cases(n, seed=0, strategies=((1, 0), (0, 0), (1, 1), (0, 1))):
    """Skewed values of n cases for each strategy, better with uncertainty and with slices.

    Returns values, uncertainty, slice sampling.
    """
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
    """Groups of unequal size, so that the solution is unique.

    With equal ones many coefficients share the least loss, and two solvers may differ.
    """
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
    """Three groups of 41 fit three coefficients.

    Each group's quantile is its value of rank ceil(41 q), counted from 1.
    """
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
