"""Means over crossed seeds and cases, against other implementations and simulations of known truth."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm

from uss_bench.report.crossed import COMPONENTS, crossed_mean, mean_squares, variance_components


def crossed_values(rng, seeds, cases, *deviations):
    """A mean of zero with normal effects of these standard deviations: of seeds, cases and the rest."""
    shapes = (seeds, 1), (1, cases), (seeds, cases)
    return sum(
        deviation * rng.normal(size=shape) for deviation, shape in zip(deviations, shapes, strict=True)
    )


def test_mean_squares_are_those_of_an_analysis_of_variance():
    scores = np.random.default_rng(0).normal(size=(3, 4, 5))
    a, b, c = np.indices(scores.shape)
    table = pd.DataFrame({"y": scores.ravel(), "a": a.ravel(), "b": b.ravel(), "c": c.ravel()})
    expected = anova_lm(ols("y ~ C(a) * C(b) + C(a) * C(c) + C(b) * C(c)", table).fit())
    found = mean_squares(scores)
    rows = {(0,): "C(a)", (1,): "C(b)", (2,): "C(c)", (0, 1): "C(a):C(b)", (0, 2): "C(a):C(c)",
            (1, 2): "C(b):C(c)", (0, 1, 2): "Residual"}  # fmt: skip
    assert found.keys() == rows.keys()
    for factors, row in rows.items():
        assert found[factors].value == pytest.approx(expected.loc[row, "mean_sq"])
        assert found[factors].freedom == expected.loc[row, "df"]


def test_a_factor_of_one_level_has_no_mean_square():
    found = mean_squares(np.array([[1.0], [3.0]]))
    assert found == {(0,): (2.0, 1), (1,): (0.0, 0), (0, 1): (0.0, 0)}


def test_without_differences_between_cases_it_is_the_t_test_over_seeds():
    means = np.array([0.3, -0.1, 0.4, 0.2])
    expected = stats.ttest_1samp(means, 0.0)
    for cases in (1, 7):
        found = crossed_mean(np.repeat(means[:, None], cases, axis=1))
        assert found.p == pytest.approx(expected.pvalue)
        assert found.interval == pytest.approx(expected.confidence_interval(0.95))
        assert found.freedom == 3


def test_without_differences_between_seeds_it_is_the_t_test_over_cases():
    values = np.random.default_rng(1).normal(0.5, 1.0, 12)
    expected = stats.ttest_1samp(values, 0.0)
    found = crossed_mean(np.repeat(values[None], 3, axis=0))
    assert found.p == pytest.approx(expected.pvalue)
    assert found.interval == pytest.approx(expected.confidence_interval(0.95))


def test_error_and_freedom_by_hand():
    """Rows 0 3 / 1 6 / 5 9: means 1.5, 3.5 and 7 of the seeds, 2 and 6 of the cases, 4 of all.

    A = 2 (6.25 + 0.25 + 9) / 2 = 15.5; B = 3 (4 + 4) / 1 = 24; what remains is 0.5, -0.5, 0 and its opposite,
    so E = 1 / 2. V = (15.5 + 24 - 0.5) / 6 = 6.5, with 39**2 / (15.5**2 / 2 + 24**2 + 0.25 / 2) degrees of
    freedom.
    """
    found = crossed_mean(np.array([[0.0, 3.0], [1.0, 6.0], [5.0, 9.0]]))
    assert found.mean == 4
    assert found.error**2 == pytest.approx(6.5)
    assert found.freedom == pytest.approx(39**2 / (120.125 + 576 + 0.125))


def test_seeds_that_agree_by_chance_add_no_freedom():
    """All variation is interaction, A = B = 0: V is that of independent cells, the freedom of three seeds.

    A = B = E are taken, so 1 / (1 / 2 + 1 / 2 + 1 / 4) degrees of freedom, but at least 2.
    """
    found = crossed_mean(np.array([[1.0, 0.0, -1.0], [0.0, -1.0, 1.0], [-1.0, 1.0, 0.0]]))
    assert (found.mean, found.error) == (0, pytest.approx((1.5 / 9) ** 0.5))  # E = 6 / 4 over 9 cells
    assert found.freedom == 2


def test_no_variation_at_all():
    assert crossed_mean(np.full((3, 4), 0.2)).interval == (pytest.approx(0.2), pytest.approx(0.2))
    assert crossed_mean(np.full((3, 4), 0.25)).p == 0 and crossed_mean(np.zeros((3, 4))).p == 1


@pytest.mark.parametrize("deviations", [(1.0, 0.5, 2.0), (0.2, 2.0, 1.0), (1.0, 1.0, 0.0)])
def test_the_variance_of_a_mean_is_estimated_without_much_bias(deviations):
    rng = np.random.default_rng(2)
    seeds, cases = 5, 12
    truth = deviations[0] ** 2 / seeds + deviations[1] ** 2 / cases + deviations[2] ** 2 / (seeds * cases)
    found = [crossed_mean(crossed_values(rng, seeds, cases, *deviations)).error ** 2 for _ in range(500)]
    assert 0.9 * truth < np.mean(found) < 1.15 * truth  # negative components count as zero


def test_components_of_a_simulation():
    """Their mean over many small designs is the truth."""
    rng = np.random.default_rng(3)
    truth = dict(zip(COMPONENTS, (6.0, 5.0, 3.0, 4.0, 2.0, 3.0, 1.0), strict=True))
    sizes = (4, 6, 15)

    def draw():
        return sum(
            truth[source] ** 0.5
            * rng.normal(size=[size if axis in factors else 1 for axis, size in enumerate(sizes)])
            for source, factors in COMPONENTS.items()
        )

    drawn = [variance_components(draw()) for _ in range(500)]
    found = {source: np.mean([each[source] for each in drawn]) for source in truth}
    assert found == pytest.approx(truth, rel=0.15)


def test_components_that_are_not_there_are_found_small():
    rng = np.random.default_rng(4)
    scores = 3 * rng.normal(size=(1, 1, 40)) + rng.normal(size=(4, 6, 40))
    found = variance_components(scores)
    assert found["case"] == pytest.approx(9, rel=0.5) and found["rest"] == pytest.approx(1, rel=0.2)
    assert max(found[source] for source in COMPONENTS if source not in ("case", "rest")) < 0.1
    assert min(found.values()) >= 0


@pytest.mark.parametrize(
    ("function", "scores"),
    [
        (crossed_mean, np.zeros((1, 5))),
        (crossed_mean, np.zeros(5)),
        (crossed_mean, np.zeros((3, 0))),
        (crossed_mean, np.array([[0.0, np.inf], [1.0, 2.0]])),
        (variance_components, np.zeros((2, 1, 5))),
        (variance_components, np.full((2, 2, 2), np.nan)),
    ],
)
def test_what_has_no_answer_is_refused(function, scores):
    with pytest.raises(ValueError, match="scores must be"):
        function(scores)
