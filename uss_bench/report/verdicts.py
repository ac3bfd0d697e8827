"""Which of two strategies is better: paired differences, verdicts, and what a number of seeds can show.

Pure functions of arrays. `crossed` says where the intervals come from.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import optimize, special, stats

from .crossed import (
    LEVEL,
    checked_scores,
    crossed_mean,
    crossed_squares,
    quantile_t,
    scale_limits,
    standard_error,
)

LEAST_SEEDS = LEAST_CASES = 3  # for an interval and a verdict
RANKED_SEEDS = 6  # from which a signed-rank test over seeds can reach p < 0.05
MOST_SEEDS = 100  # that are worth planning for
ENDLESS_SEEDS = 10**6  # where so many would not decide either, none would
POWER = 0.80  # chance of a verdict that `seeds_needed` plans for


@dataclass(frozen=True)
class PairedDifference:
    """Two strategies compared over seeds and cases.

    Attributes
    ----------
    mean : float
        Of the first minus the second, in the unit of the metric.
    low, high : float or None
        Its 95% interval; None with fewer than `LEAST_SEEDS` seeds or `LEAST_CASES` cases.
    p : float or None
        Two-sided p of no difference, not corrected for the number of comparisons; None likewise.
    p_ranks : float or None
        That of a signed-rank test over the seeds' means, which takes nothing for normal and the cases as
        given; None with fewer than `RANKED_SEEDS` seeds.
    improvement : float
        Probability that with another seed and on another case the first scores better than the second, equal
        scores counting half.
    improvement_low, improvement_high : float or None
        Its 95% interval; None where it has none, see `probability`.
    verdict : str
        On the first: "better", "worse", "equivalent" or "undecided".
    seeds_needed : float or None
        How many seeds would decide what is undecided, see `seeds_needed`; None where it is decided, and where
        there is no interval.
    """

    mean: float
    low: float | None
    high: float | None
    p: float | None
    p_ranks: float | None
    improvement: float
    improvement_low: float | None
    improvement_high: float | None
    verdict: str
    seeds_needed: float | None


def paired_difference(
    first: np.ndarray, second: np.ndarray, higher_is_better: bool, rope: float = 0.0
) -> PairedDifference:
    """Compare two strategies with the same seeds and cases.

    The verdict is "equivalent" where the whole interval lies within the region of practical equivalence from
    -rope to rope, on whichever side of zero; else "better" or "worse" where the interval leaves zero out;
    else "undecided". Fewer than `LEAST_SEEDS` seeds or `LEAST_CASES` cases decide nothing and have no
    interval: up to an eighth of the intervals of two would miss the truth. Of three seeds, up to 9% do, and
    up to 8% of the verdicts are false.

    Parameters
    ----------
    first, second : ndarray
        `(seeds, cases)` finite scores, at least two seeds.
    higher_is_better : bool
        Direction of the metric.
    rope : float
        Half the width of the region of practical equivalence, in the unit of the metric; 0 where there is
        none.

    Raises
    ------
    ValueError
        The arrays are not of one such shape, or not finite.

    Examples
    --------
    >>> first = np.array([[0.90, 0.80, 0.85], [0.91, 0.82, 0.84], [0.92, 0.80, 0.83]])
    >>> found = paired_difference(first, first - 0.05, higher_is_better=True, rope=0.01)
    >>> round(found.mean, 3), found.verdict, found.improvement
    (0.05, 'better', 1.0)
    """
    first, second = (checked_scores(scores, ("seeds", "cases")) for scores in (first, second))
    if first.shape != second.shape:
        raise ValueError(f"strategies must be paired, but their shapes are {first.shape} and {second.shape}")
    # Differences that agree to twelve digits of the largest score are ties, whatever rounding makes of them.
    resolution = 1e-12 * max(np.abs(first).max(), np.abs(second).max())
    difference = np.where(np.abs(first - second) <= resolution, 0.0, first - second)
    found = crossed_mean(difference)
    enough = has_interval(*difference.shape)
    verdict = _verdict(found.interval, higher_is_better, rope) if enough else "undecided"
    won = np.sign(difference if higher_is_better else -difference)
    return PairedDifference(
        found.mean,
        *(found.interval if enough else (None, None)),
        found.p if enough else None,
        _p_of_ranks(difference.mean(axis=1)) if len(difference) >= RANKED_SEEDS else None,
        *probability((won + 1) / 2),
        verdict,
        seeds_needed(difference, rope) if enough and verdict == "undecided" else None,
    )


def has_interval(seeds: int, cases: int) -> bool:
    """Whether so many seeds and cases are enough for an interval and a verdict."""
    return seeds >= LEAST_SEEDS and cases >= LEAST_CASES


def _p_of_ranks(means: np.ndarray) -> float:
    """Two-sided p of Wilcoxon's signed-rank test, exact whatever ties; zeros are handled by Pratt.

    SciPy's depends on its version where means tie or are zero.
    """
    doubled = (2 * stats.rankdata(np.abs(means)) * (means != 0)).astype(int)  # ranks of ties are halves
    shares = np.ones(1)  # of the signs, by the sum of the ranks that are positive
    for rank in doubled:
        shares = (np.pad(shares, (0, rank)) + np.pad(shares, (rank, 0))) / 2
    reached = doubled[means > 0].sum()
    return float(min(1.0, 2 * min(shares[: reached + 1].sum(), shares[reached:].sum())))


def _verdict(interval: tuple[float, float], higher_is_better: bool, rope: float) -> str:
    low, high = interval
    if -rope < low and high < rope:
        return "equivalent"
    if low <= 0 <= high:
        return "undecided"
    return "better" if (low > 0) == higher_is_better else "worse"


def probability(won: np.ndarray) -> tuple[float, float | None, float | None]:
    """A probability and its 95% interval, from what was won: `(seeds, cases)` of 0, 1/2 and 1.

    Wilson's interval by an effective number of observations, p (1 - p) over the variance of the crossed
    mean, and Student's t instead of the normal distribution, as for surveys with clusters (Franco et al.,
    Journal of Survey Statistics and Methodology 7, 2019). It stays within [0, 1]. There is none (None) with
    too few seeds or cases, nor where all observations agree: they show nothing of how seeds and cases vary,
    on which the effective number depends.
    """
    found = crossed_mean(won)
    share = found.mean
    if not found.error or not has_interval(*won.shape):
        return share, None, None
    count = share * (1 - share) / found.error**2
    square = quantile_t((1 + LEVEL) / 2, found.freedom) ** 2 / min(count, won.size)
    centre = (share + square / 2) / (1 + square)
    reach = np.sqrt(square * share * (1 - share) + square**2 / 4) / (1 + square)
    return share, max(0.0, float(centre - reach)), min(1.0, float(centre + reach))


def seeds_needed(difference: np.ndarray, rope: float = 0.0) -> float:
    """Seeds that would decide on as many cases, with a chance of `POWER`, were the estimates the truth.

    A mean is undecided within the reach of its interval from zero, unless that interval lies within the
    region of equivalence. Where the cases are too few, no number of seeds helps. It is a plan from the very
    estimates that left the pair undecided: where nothing truly differs and there is no region of equivalence,
    it names a number all the same.

    Parameters
    ----------
    difference : ndarray
        `(seeds, cases)`, paired differences of two strategies.
    rope : float
        As for `paired_difference`.

    Returns
    -------
    float
        More than there are; `ENDLESS_SEEDS` where it takes more than `MOST_SEEDS`, infinite where no number
        would be enough.
    """
    seeds, cases = difference.shape
    of_seeds, of_cases, rest = crossed_squares(difference)
    mean = abs(difference.mean())

    def decides(planned: int) -> bool:
        expected = rest + (of_cases - rest) * planned / seeds  # each case is then averaged over more seeds
        error, freedom = standard_error(of_seeds, expected, rest, planned, cases)
        error = max(error, np.finfo(float).tiny)
        reach = quantile_t((1 + LEVEL) / 2, freedom) * error
        ends = np.array([max(rope - reach, 0.0), reach])
        below, undecided = special.stdtr(freedom, (ends - mean) / error) - special.stdtr(
            freedom, (-ends - mean) / error
        )
        return 1 - max(undecided - below, 0.0) > POWER

    # Not bisected: more seeds may decide less, since t is wide where cases are few.
    plans = (*range(seeds + 1, MOST_SEEDS + 1), ENDLESS_SEEDS)
    return next((planned for planned in plans if decides(planned)), math.inf)


def win_matrix(means: np.ndarray, higher_is_better: bool) -> np.ndarray:
    """In how many settings each strategy has a better mean than each other one.

    Parameters
    ----------
    means : ndarray
        `(strategies, settings)`; a setting is a seed at a budget.
    higher_is_better : bool
        Direction of the metric.

    Returns
    -------
    ndarray
        `(strategies, strategies)` counts: the row's strategy beats the column's. Ties count for neither.

    Examples
    --------
    >>> win_matrix(np.array([[0.9, 0.8, 0.7], [0.8, 0.8, 0.9]]), higher_is_better=True).tolist()
    [[0, 1], [1, 0]]
    """
    better = means if higher_is_better else -means
    return (better[:, None] > better[None, :]).sum(axis=2)


def least_seeds_by_rank(pairs: int) -> int:
    """Seeds from which a signed-rank test can give p < 0.05 after Holm's correction for so many pairs.

    >>> least_seeds_by_rank(1), least_seeds_by_rank(6)
    (6, 8)
    """
    return int(np.ceil(1 + np.log2(pairs / (1 - LEVEL))))


class SeedLimits(NamedTuple):
    """What a number of seeds can show at best.

    Attributes
    ----------
    least_p : float
        The smallest two-sided p of a signed-rank or sign test over the seeds' means.
    distinct : float
        The smallest observed mean difference that a t test over the seeds' means tells from zero at 5%, in
        standard deviations of the difference between seeds.
    findable : float
        The smallest true one that it finds with a chance of `POWER`, likewise.
    low, high : float
        95% interval of the true standard deviation between seeds, as multiples of the estimated one.
    """

    least_p: float
    distinct: float
    findable: float
    low: float
    high: float


def limits_of_few_seeds(seeds: int) -> SeedLimits:
    """What so many seeds, at least two, can show at best: laws of signs, of t and of chi-square.

    Examples
    --------
    Six seeds are the fewest from which a signed-rank test can speak:

    >>> limits_of_few_seeds(5).least_p, limits_of_few_seeds(6).least_p
    (0.0625, 0.03125)
    """
    limit = quantile_t((1 + LEVEL) / 2, seeds - 1)
    shift = optimize.brentq(lambda shift: stats.nct.sf(limit, seeds - 1, shift) - POWER, 0, 10 * limit)
    distinct, findable = limit / seeds**0.5, shift / seeds**0.5
    return SeedLimits(2.0 ** (1 - seeds), distinct, findable, *scale_limits(seeds - 1))
