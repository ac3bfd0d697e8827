"""Summaries against values worked out by hand, and the checks that all statistics share."""

import warnings
from functools import partial

import numpy as np
import pytest

from uss_bench.report.signed_rank import against_best
from uss_bench.report.statistics import best_by_mean, paired_interval, summarize


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
        lambda: against_best({"x": [1.0, 2.0], "y": values}, True, 0),
        lambda: best_by_mean({"y": values}, True),
        lambda: paired_interval(values, [1.0, 2.0], np.mean, 0),
    ):
        with pytest.raises(ValueError, match=r"values|samples\['y'\]"):
            call()


def test_quantile_is_checked():
    with pytest.raises(ValueError, match="quantile"):
        summarize([1.0], 5)


def test_the_best_follows_the_direction_and_the_first_wins_ties():
    samples = {"a": [1.0, 3.0], "b": [4.0, 0.0], "c": [1.0, 1.5], "d": [1.5, 1.0]}
    assert best_by_mean(samples, True) == "a"
    assert best_by_mean(samples, False) == "c"


def test_paired_interval_of_means_against_the_normal_interval():
    """What both models share, here large, has no part in it."""
    random = np.random.default_rng(0)
    shared, difference = random.normal(0, 50, size=400), random.normal(10, 2, size=400)
    low, high = paired_interval(shared + difference, shared, np.mean, seed=1)
    margin = 1.96 * difference.std(ddof=1) / 20
    assert low == pytest.approx(difference.mean() - margin, abs=0.2 * margin)
    assert high == pytest.approx(difference.mean() + margin, abs=0.2 * margin)
    assert paired_interval(shared, shared + difference, np.mean, seed=1) == pytest.approx((-high, -low))


def test_paired_interval_of_two_cases_by_hand():
    """Resamples of the differences (0, 1) have the means 0, 0.5 and 1 with chances 1/4, 1/2 and 1/4."""
    assert paired_interval([5.0, 9.0], [5.0, 8.0], np.mean, seed=0) == (0.0, 1.0)
    assert paired_interval([3.0], [1.0], np.mean, seed=0) == (2.0, 2.0)


def test_paired_interval_is_reproducible_and_takes_quantiles():
    values, others = np.random.default_rng(0).normal(size=(2, 50))
    statistic = partial(np.quantile, q=0.95)
    one, again, other = (paired_interval(values, others, statistic, seed=seed) for seed in (5, 5, 6))
    assert one == again != other
    assert one[0] < np.quantile(values, 0.95) - np.quantile(others, 0.95) < one[1]


def test_paired_interval_checks_its_arguments():
    with pytest.raises(TypeError):
        paired_interval([1.0], [1.0], np.mean, seed=None)
    with pytest.raises(ValueError, match="resamples"):
        paired_interval([1.0], [1.0], np.mean, seed=0, resamples=0)
    with pytest.raises(ValueError, match="paired"):
        paired_interval([1.0, 2.0], [1.0], np.mean, seed=0)
