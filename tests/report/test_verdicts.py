"""Verdicts on pairs of strategies: by hand, and in simulations with the tails of real results."""

import itertools

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from uss_bench.report.statistics import holm
from uss_bench.report.verdicts import (
    limits_of_few_seeds,
    paired_difference,
    probability,
    seeds_needed,
    win_matrix,
)


def compare(difference, higher_is_better=True, rope=0.01):
    difference = np.asarray(difference)
    return paired_difference(0.5 + difference, np.full(difference.shape, 0.5), higher_is_better, rope)


def spread_around(mean, spread, seeds=4, cases=6):
    """Differences of this mean in which cases differ, by `spread`, and nothing else does."""
    return np.tile(mean + spread * np.linspace(-1, 1, cases), (seeds, 1))


@pytest.mark.parametrize(
    ("mean", "spread", "higher_is_better", "verdict"),
    [
        (0.05, 0.02, True, "better"),
        (0.05, 0.02, False, "worse"),
        (-0.05, 0.02, True, "worse"),
        (-0.05, 0.02, False, "better"),
        (0.01, 0.02, True, "undecided"),
        (0.0, 0.005, True, "equivalent"),
        (0.006, 0.002, True, "equivalent"),  # zero is left out, but the difference is too small to matter
        (0.009, 0.005, True, "better"),
    ],
)
def test_verdicts(mean, spread, higher_is_better, verdict):
    found = compare(spread_around(mean, spread), higher_is_better)
    assert found.verdict == verdict
    assert found.mean == pytest.approx(mean) and found.low < found.mean < found.high


def test_the_interval_is_that_of_the_t_test_where_only_cases_differ():
    difference = spread_around(0.05, 0.02)
    expected = stats.ttest_1samp(difference[0], 0.0)
    found = compare(difference)
    assert (found.low, found.high) == pytest.approx(expected.confidence_interval(0.95))
    assert found.p == pytest.approx(expected.pvalue)


def test_a_metric_without_a_region_of_equivalence_is_never_equivalent():
    assert compare(spread_around(0.0, 0.005), rope=0.0).verdict == "undecided"
    assert compare(np.zeros((3, 4)), rope=0.0).verdict == "undecided"
    assert compare(np.zeros((3, 4)), rope=0.01).verdict == "equivalent"


def test_two_seeds_decide_nothing_and_have_no_interval():
    found = compare(spread_around(0.5, 0.001, seeds=2))
    assert found.verdict == "undecided"
    assert (found.low, found.high, found.p, found.improvement_low, found.seeds_needed) == (None,) * 5
    assert probability(np.eye(2, 5)) == (0.2, None, None)


@pytest.mark.parametrize("cases", [1, 2])
def test_two_cases_decide_nothing_either(cases):
    found = compare(np.full((6, cases), 0.5) + np.linspace(0, 0.001, 6)[:, None])
    assert found.verdict == "undecided"
    assert (found.low, found.high, found.p, found.seeds_needed) == (None,) * 4
    assert probability(np.eye(6, cases))[1:] == (None, None)


def test_p_of_ranks_against_the_table():
    """Six of one sign: 2 of the 64 ways to set the signs; 4 where the least is of the other."""
    means = np.array([[0.1], [0.2], [0.3], [0.4], [0.5], [0.6]])
    assert compare(np.tile(means, 3)).p_ranks == 2 / 64
    assert compare(np.tile(np.where(means == 0.1, -means, means), 3)).p_ranks == 4 / 64
    assert compare(np.tile(means[:5], 3)).p_ranks is None
    assert compare(np.zeros((6, 3))).p_ranks == 1


@pytest.mark.parametrize(
    "means",
    [
        [0.0, 0.1, 0.2, 0.3, 0.4, 0.5],  # 2 of 32: the zero has a rank and no sign
        [0.0, 0.0, -0.1, 0.2, 0.3, 0.4, 0.5],
        [0.25, 0.25, -0.25, 0.5, 0.5, 0.75],
        [0.3, -0.1, 0.2, -0.4, 0.6, 0.5, 0.8, 0.7],
    ],
)
def test_p_of_ranks_by_trying_all_signs(means):
    ranks = stats.rankdata(np.abs(means)) * (np.array(means) != 0)
    sums = [ranks @ signs for signs in itertools.product((-1, 1), repeat=len(means))]
    extreme = np.abs(sums) >= abs(ranks @ np.sign(means))
    assert compare(np.tile(np.array(means)[:, None], 3)).p_ranks == extreme.mean()


def test_improvement_counts_ties_half_and_follows_the_direction():
    difference = np.array([[0.1, -0.1, 0.0, 0.2], [0.1, 0.3, 0.0, -0.2]])
    assert compare(difference).improvement == (4 + 0.5 * 2) / 8
    assert compare(difference, higher_is_better=False).improvement == (2 + 0.5 * 2) / 8
    # 0.3 - 0.2 is not 0.1 in floating point; the scores tie all the same.
    tie = paired_difference(np.full((2, 2), 0.3 - 0.2), np.full((2, 2), 0.1), True)
    assert (tie.improvement, tie.mean) == (0.5, 0)


def test_the_interval_of_a_probability_by_hand():
    """Where all cases agree, five seeds of which two won are 5 - 1 observations, with t of 4: 2.776.

    Their variance of a mean is p (1 - p) / (5 - 1). Wilson's ends solve (0.4 - x)² = 2.776² x (1 - x) / 4.
    """
    share, low, high = probability(np.repeat([[1.0], [1.0], [0.0], [0.0], [0.0]], 7, axis=1))
    square = stats.t.ppf(0.975, 4) ** 2
    assert share == 0.4 and 0 < low < 0.4 < high < 1
    for end in (low, high):
        assert (0.4 - end) ** 2 == pytest.approx(square * end * (1 - end) / 4, rel=1e-9)


def test_the_interval_of_a_probability_of_independent_cells_is_wilsons():
    """No effect of seeds or cases: the effective number is about that of the cells, t about normal."""
    rng = np.random.default_rng(0)
    won = (rng.random((40, 50)) < 0.3).astype(float)
    share, low, high = probability(won)
    expected = stats.binomtest(int(won.sum()), won.size).proportion_ci(method="wilson")
    assert share == won.mean()
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.004)  # of 0.020 on each side


def test_a_probability_has_no_interval_where_all_agree():
    assert probability(np.ones((3, 45))) == (1.0, None, None)
    assert probability(np.zeros((3, 45))) == (0.0, None, None)


def test_seeds_needed_against_the_t_test():
    """Only seeds differ, by a standard deviation of 1 around 0.7: a t test of 80% power takes 19 of them."""
    means = np.array([-1.0, 0.0, 1.0])  # standard deviation 1
    difference = np.repeat((0.7 + means)[:, None], 5, axis=1)
    needed = seeds_needed(difference)

    def power(seeds):
        shift = 0.7 * seeds**0.5
        critical = stats.t.ppf(0.975, seeds - 1)
        return stats.nct.sf(critical, seeds - 1, shift)

    assert power(needed - 2) < 0.8 < power(needed + 1)


def test_seeds_cannot_stand_in_for_cases():
    """Cases alone leave a difference open: no number of seeds will do. With a clear one, a few do."""
    rng = np.random.default_rng(0)
    noise = 0.02 * rng.normal(size=(3, 1))
    assert seeds_needed(spread_around(0.005, 0.5, seeds=3) + noise - noise.mean()) == np.inf
    assert seeds_needed(spread_around(0.05, 0.001, seeds=3) + noise - noise.mean()) < 10


def test_with_few_cases_more_seeds_may_decide_less():
    """Of three cases: 30 seeds would decide, as many as one likes would not."""
    rng = np.random.default_rng(0)
    found = [
        seeds_needed(scale * rng.normal(size=3) + rng.normal(size=(3, 3)) + 2 * rng.random())
        for scale in (0.3, 0.6, 0.9)
        for _ in range(60)
    ]
    assert sum(20 < needed <= 100 for needed in found) > 3 and np.inf in found


@pytest.mark.parametrize("mean", [0.0, 0.002])
def test_the_seeds_needed_for_equivalence_do_reach_it(mean):
    """Only seeds differ, by 0.01: with as many as were said, four in five repetitions end in a verdict.

    Where nothing differs, all but a few of these are "equivalent".
    """
    rng, spread = np.random.default_rng(1), np.array([[-0.01], [0.0], [0.01]])
    needed = seeds_needed(np.tile(mean + spread, 4), rope=0.01)
    drawn = mean + 0.01 * rng.normal(size=(200, needed, 1))
    found = [compare(np.tile(each, 4)).verdict for each in drawn]
    decided = sum(verdict != "undecided" for verdict in found)
    assert 143 < decided < found.count("equivalent") + 20  # 160, less three standard errors of 5.7
    fewer = [compare(np.tile(each[:-4], 4)).verdict for each in drawn]
    assert sum(verdict != "undecided" for verdict in fewer) < 143


def test_the_seeds_needed_count_every_verdict():
    """Half way into the region, neither verdict alone is likely, but one of them is.

    Only seeds differ, by a standard deviation of 0.01, around 0.005: where an interval reaches 0.005 or less,
    every mean is either away from zero or, with its interval, within the region. By a t of 2.1 those are
    (2.1 * 0.01 / 0.005)² = 18 seeds. "Better" alone would take ((1.96 + 0.84) * 0.01 / 0.005)² = 31.
    """
    spread = np.array([[-0.01], [0.0], [0.01]])
    needed = seeds_needed(np.tile(0.005 + spread, 4), rope=0.01)
    assert needed <= 18
    drawn = 0.005 + 0.01 * np.random.default_rng(3).normal(size=(400, int(needed), 1))
    found = [compare(np.tile(each, 4)).verdict for each in drawn]
    assert sum(verdict != "undecided" for verdict in found) > 296  # 320, less three standard errors of 8
    assert max(found.count("equivalent"), found.count("better")) < 260


def test_equivalence_needs_seeds_too():
    noise = np.array([[-0.01], [0.0], [0.01]])
    found = compare(np.zeros((3, 8)) + noise)
    assert found.verdict == "undecided" and 3 < found.seeds_needed < 30
    assert compare(np.zeros((3, 8)) + noise, rope=0.0).seeds_needed == np.inf


def test_holm_against_statsmodels():
    rng = np.random.default_rng(0)
    for count in (1, 2, 5, 30):
        p_values = np.append(rng.random(count) ** 3, [0.5, 0.5])
        assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1])


def test_win_matrix_by_hand():
    means = np.array([[0.9, 0.8, 0.7, 0.5], [0.8, 0.8, 0.9, 0.4], [0.1, 0.9, 0.6, 0.5]])
    assert win_matrix(means, True).tolist() == [[0, 2, 2], [1, 0, 2], [1, 2, 0]]
    assert win_matrix(means, False).tolist() == [[0, 1, 1], [2, 0, 2], [2, 2, 0]]


def test_what_few_seeds_can_show():
    """Against tables: t of 2 degrees of freedom is 4.303; chi-square of 2 is 0.0506 and 7.378."""
    found = limits_of_few_seeds(3)
    assert found.least_p == stats.wilcoxon([1.0, 2.0, 3.0], method="exact").pvalue == 0.25
    assert found.distinct == pytest.approx(4.303 / 3**0.5, abs=1e-3)
    shown = stats.norm.rvs(found.findable, 1, size=(20000, 3), random_state=0)
    assert (stats.ttest_1samp(shown, 0, axis=1).pvalue < 0.05).mean() == pytest.approx(0.8, abs=0.01)
    assert (found.low, found.high) == pytest.approx(((2 / 7.378) ** 0.5, (2 / 0.0506) ** 0.5), rel=1e-3)


def test_unpaired_scores_are_refused():
    with pytest.raises(ValueError, match="must be paired"):
        paired_difference(np.zeros((3, 4)), np.zeros((3, 5)), True)
    with pytest.raises(ValueError, match="finite"):
        paired_difference(np.full((3, 4), np.inf), np.zeros((3, 4)), True)
