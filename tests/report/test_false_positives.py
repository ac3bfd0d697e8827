"""How often the tests of one run call noise an effect, and how often its intervals hold the truth.

On the heavy tails of the committed example, the models of a kind are exchanged at random within each case:
then none differs from another, and p < 0.05 should come in 5%, for every test that a report prints.
"""

from pathlib import Path

import numpy as np
import pytest

from uss_bench.report.quantile_regression import quantile_effects
from uss_bench.report.results import read_results
from uss_bench.report.signed_rank import against_best
from uss_bench.report.statistics import EFFECT_CASES, holm
from uss_bench.study.keys import ModelKey
from uss_bench.study.metrics import METRICS, PAPER_METRICS
from uss_bench.study.strategies import STRATEGIES

pytestmark = pytest.mark.slow

EXAMPLE = Path(__file__).parents[2] / "reports" / "example"
DRAWS = 1000
MOST = 0.07  # 0.05, and three standard errors of a thousand draws


@pytest.fixture(scope="module")
def results():
    return read_results(EXAMPLE)


def null_draws(results, metric, kind):
    """Values `(strategies, cases)` of the last models of a kind, exchanged within cases again and again."""
    keys = [ModelKey(kind, strategy, results.last) for strategy in results.strategies]
    values = np.array([results.scores[key][metric] for key in keys])
    generator = np.random.default_rng(5)
    for _ in range(DRAWS):
        yield generator.permuted(values, axis=0)


@pytest.mark.parametrize("kind", ["iteration", "converged"])
@pytest.mark.parametrize("metric", METRICS)
def test_tests_against_the_best(results, metric, kind):
    """Every strategy's test by itself, and any of a row after Holm's correction."""
    found = {strategy: [] for strategy in results.strategies}
    corrected = []
    for seed, values in enumerate(null_draws(results, metric, kind)):
        samples = dict(zip(found, values, strict=True))
        row = against_best(samples, METRICS[metric].higher_is_better, seed, resamples=199)
        for strategy, test in row.items():
            found[strategy].append(test.p)
        corrected.append(min(holm([test.p for test in row.values()])))
    shares = {strategy: np.mean(np.array(p_values) < 0.05) for strategy, p_values in found.items()}
    print(metric, kind, shares, np.mean(np.array(corrected) < 0.05))
    assert max(shares.values()) <= MOST
    assert np.mean(np.concatenate(list(found.values())) < 0.05) > 0.02  # it is no test that never says yes
    assert np.mean(np.array(corrected) < 0.05) <= MOST


@pytest.mark.parametrize("metric", PAPER_METRICS)
def test_effects_of_table_9(results, metric):
    strategies, quantile = [STRATEGIES[name] for name in results.strategies], METRICS[metric].robust_quantile
    flags = [s.by_uncertainty for s in strategies], [s.by_slices for s in strategies]
    p_values = [
        [row.p_value for row in quantile_effects(values, *flags, quantile, seed, resamples=199).rows]
        for seed, values in enumerate(null_draws(results, metric, "converged"))
    ]
    shares = np.mean(np.array(p_values)[:, 1:] < 0.05, axis=0)
    print(metric, shares)
    assert (shares <= MOST).all() and shares.mean() > 0.02


@pytest.mark.parametrize("cases", [EFFECT_CASES, 100])
def test_coverage_of_the_effects_intervals(cases):
    """Skewed results of cases that are easy or hard for all models; the true effects are 0."""
    generator, held = np.random.default_rng(3), []
    for seed in range(500):
        values = generator.lognormal(0, 1, cases) + generator.lognormal(-0.5, 1, (4, cases))
        fit = quantile_effects(values, [1, 0, 1, 0], [0, 0, 1, 1], 0.95, seed, resamples=499)
        held.append([row.ci_low <= 0 <= row.ci_high for row in fit.rows[1:]])
    print(cases, np.mean(held, axis=0))
    assert (np.mean(held, axis=0) >= 0.92).all()
