"""The regression of Table 9 against linear programming, statsmodels, and all exchanges counted out."""

import itertools

import numpy as np
import pytest
import scipy.optimize
from statsmodels.regression.quantile_regression import QuantReg

from uss_bench.report.quantile_regression import TERMS, fit_quantile, quantile_effects

FOUR = ((1, 0), (0, 0), (1, 1), (0, 1))  # uncertainty and slices of UVS, RVS, USS, RSS


def cases(n, seed=0, strategies=FOUR):
    """Skewed values of n cases for each strategy, better with uncertainty and with slices."""
    rng = np.random.default_rng(seed)
    difficulty = rng.gamma(2, 1, n)
    return np.array(
        [
            difficulty * rng.lognormal(0, 0.4, n) * (1 - 0.2 * first - 0.1 * second)
            for first, second in strategies
        ]
    )


def design_of(strategies=FOUR):
    return np.column_stack([np.ones(len(strategies)), np.array(strategies, float)])


def effects(values, strategies=FOUR, quantile=0.95, seed=0, resamples=200):
    return quantile_effects(values, *zip(*strategies, strict=True), quantile, seed, resamples)


def check_loss(values, design, coefficients, quantile):
    error = values - (design @ coefficients)[:, None]
    return np.where(error >= 0, quantile * error, (quantile - 1) * error).sum()


SHAPES = [
    (31, FOUR),
    (7, FOUR),  # fewer cases than the quantile 0.05 needs
    (20, FOUR),  # 0.05 of them is a whole number
    (23, FOUR[:3]),
    (31, (*FOUR, (1, 1))),
    (12, (*FOUR, (1, 1), (0, 0), (0, 0))),
]


@pytest.mark.parametrize("quantile", [0.05, 0.5, 0.95])
@pytest.mark.parametrize(("n", "strategies"), SHAPES)
def test_no_coefficients_have_less_loss(n, strategies, quantile):
    """The least loss by linear programming, in fits with and without ties."""
    design = design_of(strategies)
    values = np.stack([cases(n, seed, strategies) for seed in range(3)])
    values = np.concatenate([values, values.round(1), np.ones_like(values[:1])])
    coefficients = fit_quantile(values, design.astype(int), quantile)
    rows, size = np.repeat(design, n, axis=0), design.shape[0] * n
    for one, found in zip(values, coefficients, strict=True):
        solved = scipy.optimize.linprog(
            np.concatenate([np.zeros(3), np.full(size, quantile), np.full(size, 1 - quantile)]),
            A_eq=np.hstack([rows, np.eye(size), -np.eye(size)]),
            b_eq=one.ravel(),
            bounds=[(None, None)] * 3 + [(0, None)] * (2 * size),
            method="highs",
        )
        assert check_loss(one, design, found, quantile) == pytest.approx(solved.fun, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("quantile", [0.05, 0.5, 0.95])
def test_statsmodels_finds_no_less_loss_and_the_same_where_there_is_one_solution(quantile):
    """21 cases of three strategies have one quantile each; four strategies have several solutions."""
    for strategies in (FOUR, FOUR[:3]):
        design, values = design_of(strategies), cases(21, 3, strategies)
        fit = QuantReg(values.ravel(), np.repeat(design, 21, axis=0)).fit(q=quantile)
        (found,) = fit_quantile(values[None], design.astype(int), quantile)
        least = check_loss(values, design, fit.params, quantile)
        assert least - 1e-4 < check_loss(values, design, found, quantile) <= least + 1e-12
        if strategies != FOUR:
            assert found == pytest.approx(fit.params, abs=1e-5)


def test_exchanged_names_change_the_sign():
    values = np.stack([cases(n, 5)[:, :19] for n in (19, 30)])
    coefficients = fit_quantile(values, design_of().astype(int), 0.95)
    turned = fit_quantile(values[:, [1, 0, 3, 2]], design_of().astype(int), 0.95)
    assert turned[:, 1] == pytest.approx(-coefficients[:, 1])
    assert turned[:, 2] == pytest.approx(coefficients[:, 2])


@pytest.mark.parametrize(("quantile", "rank"), [(0.05, 3), (0.5, 21), (0.95, 39)])
def test_three_strategies_give_the_quantiles_of_each(quantile, rank):
    """Three groups of 41 fit three coefficients.

    Each group's quantile is its value of rank ceil(41 q), counted from 1.
    """
    strategies = ((0, 0), (1, 0), (0, 1))
    values = cases(41, strategies=strategies)
    base, with_uncertainty, with_slices = np.sort(values, axis=1)[:, rank - 1]
    rows = effects(values, strategies, quantile).rows
    assert [row.term for row in rows] == ["intercept", "uncertainty_sampling", "slice_sampling"]
    assert [row.coefficient for row in rows] == pytest.approx(
        [base, with_uncertainty - base, with_slices - base], abs=1e-4
    )


def test_the_coefficients_are_those_of_statsmodels():
    values = cases(60)
    result = effects(values)
    fit = QuantReg(values.ravel(), np.repeat(design_of(), 60, axis=0)).fit(q=0.95)
    assert (result.n, result.quantile, result.failure) == (240, 0.95, "")
    assert [row.coefficient for row in result.rows] == fit.params.tolist()
    assert all(row.ci_low < row.coefficient < row.ci_high for row in result.rows)
    assert np.isnan(result.rows[0].p_value)


def test_no_convergence_and_exceptions_are_failures(monkeypatch):
    fit = QuantReg.fit
    monkeypatch.setattr(QuantReg, "fit", lambda self, q: fit(self, q=q, max_iter=2))
    result = effects(cases(50))
    assert result.failure.startswith("no convergence: ") and result.rows == ()

    def broken(self, q):
        raise np.linalg.LinAlgError("SVD did not converge")

    monkeypatch.setattr(QuantReg, "fit", broken)
    result = effects(cases(50))
    assert result.failure == "LinAlgError: SVD did not converge" and result.rows == ()


def counted_p(values, effect, quantile):
    """p of an effect by all exchanges of the two pairs of models that differ in it alone."""
    pairs = {1: ((0, 1), (2, 3)), 2: ((0, 2), (1, 3))}[effect]
    exchanged = [values]
    for case, pair in itertools.product(range(values.shape[1]), pairs):
        swapped = [one.copy() for one in exchanged]
        for one in swapped:
            one[pair, case] = one[pair[::-1], case]
        exchanged += swapped
    found = np.abs(fit_quantile(np.stack(exchanged), design_of().astype(int), quantile)[:, effect])
    return np.mean(found >= found[0] - 1e-12)


def test_p_values_against_all_exchanges():
    """256 exchanges of four cases; 4000 draws estimate their share to within 0.03 (three standard errors)."""
    values = cases(4, seed=1)
    rows = effects(values, quantile=0.6, resamples=4000).rows
    for effect in (1, 2):
        expected = counted_p(values, effect, 0.6)
        assert 0.05 < expected < 0.95  # or the test would prove little
        assert rows[effect].p_value == pytest.approx(expected, abs=0.03)


def test_one_effect_does_not_blur_the_other():
    """What slice sampling adds to every result is in its coefficient and nowhere else."""
    values, shift = cases(30), 5.0 * np.array([[0], [0], [1], [1]])
    before, after = effects(values).rows, effects(values + shift).rows
    assert after[1].p_value == before[1].p_value
    for ours in ("coefficient", "ci_low", "ci_high"):
        assert getattr(after[1], ours) == pytest.approx(getattr(before[1], ours), abs=1e-4)
        assert getattr(after[2], ours) == pytest.approx(getattr(before[2], ours) + 5, abs=1e-4)
    assert after[2].p_value == 1 / 201  # no exchange reaches it


def test_the_interval_is_over_cases_and_not_over_results():
    """Every case is easy or hard, under all models alike: an interval of results would not see it."""
    easy_or_hard = np.repeat([0.0, 1.0], [10, 10])
    values = easy_or_hard + 0.01 * np.array([[1], [0], [3], [2]])
    intercept, row, _ = effects(values, quantile=0.32, resamples=500).rows
    assert (row.coefficient, row.ci_low, row.ci_high) == pytest.approx((0.01, 0.01, 0.01), abs=1e-4)
    # At least 14 of 20 cases that are drawn are hard, so that the lowest 32% reach them, in 5.8%.
    assert (intercept.ci_low, intercept.ci_high) == pytest.approx((0.0, 1.0), abs=1e-4)


def test_equal_seeds_give_equal_numbers():
    values = cases(20)
    one, again, other = (repr(effects(values, seed=seed)) for seed in (3, 3, 4))
    assert one == again != other


@pytest.mark.parametrize(
    "strategies", [(), ((1, 1),), ((1, 1), (0, 0)), ((1, 0), (0, 1)), ((1, 1), (0, 1)), ((1, 1), (0, 0)) * 2]
)
def test_strategies_that_cannot_separate_the_effects_are_a_failure(strategies):
    uncertainty, slices = (np.array(strategies).reshape(-1, 2)).T
    values = cases(100, strategies=strategies).reshape(len(strategies), 100)
    result = quantile_effects(values, uncertainty, slices, 0.05, seed=0)
    assert "cannot separate" in result.failure
    assert result.rows == ()


def test_values_that_do_not_vary_have_no_effect():
    rows = effects(np.ones((4, 50))).rows
    assert [row.p_value for row in rows[1:]] == [1.0, 1.0]
    numbers = [number for row in rows[1:] for number in (row.coefficient, row.ci_low, row.ci_high)]
    assert numbers == pytest.approx(np.zeros(6), abs=1e-6)


def test_arguments_are_checked():
    values = np.ones((4, 3))
    with pytest.raises(ValueError):
        quantile_effects(values, [0, 1], [0, 1, 0, 1], 0.5, seed=0)
    for quantile in (0, 1, 5):
        with pytest.raises(ValueError, match="quantile"):
            effects(values, quantile=quantile)
    with pytest.raises(ValueError, match="resamples"):
        effects(values, resamples=0)
    for wrong in ([1.0, 2.0], [[1.0, np.inf]], [[]]):
        with pytest.raises(ValueError, match="values"):
            quantile_effects(wrong, [1], [1], 0.5, seed=0)
    with pytest.raises(TypeError):
        effects(values, seed=None)
    assert [row.term for row in effects(values).rows] == list(TERMS)
