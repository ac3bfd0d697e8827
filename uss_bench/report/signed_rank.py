"""The paired test behind the stars of Tables 4-8: Wilcoxon's signed-rank test against the best sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from .statistics import best_by_mean, finite_vector

# Up to this number of pairs, the null distribution of the statistic is counted out instead of approximated.
EXACT_PAIRS = 50


@dataclass(frozen=True)
class PairedTest:
    """One sample against the best one, paired case by case.

    Attributes
    ----------
    best : str
        Name of the sample compared with.
    statistic : float
        The smaller of the two sums of signed ranks.
    p : float
        Two-sided p value, not corrected for the number of tests.
    n, zeros : int
        Number of pairs, zeros included, and of pairs without a difference.
    method : str
        Where p comes from: "exact", "exact, ties or zeros", "asymptotic" or "all differences are zero".
    effect : float
        Matched-pairs rank-biserial correlation in [-1, 1]; positive where the sample beats the best one.
    stars : str
        "***", "**", "*" or "", see the function `stars`.
    """

    best: str
    statistic: float
    p: float
    n: int
    zeros: int
    method: str
    effect: float
    stars: str


def stars(p_value: float) -> str:
    """The paper's marks for p below 0.001, 0.01 and 0.05.

    >>> stars(0.0005), stars(0.04), stars(0.05)
    ('***', '*', '')
    """
    return "*" * sum(p_value < limit for limit in (0.05, 0.01, 0.001))


def wilcoxon_against_best(
    samples: Mapping[str, Sequence[float]], higher_is_better: bool
) -> dict[str, PairedTest]:
    """Two-sided Wilcoxon signed-rank test of every sample against the one with the best mean.

    Zeros are handled by Pratt: they take part in the ranking and are dropped afterwards. Differences that
    agree to twelve digits of the largest value count as equal, so that rounding errors break no ties.

    Up to 50 pairs p is exact: SciPy's where there are neither zeros nor ties, else counted over all signs of
    the observed ranks (SciPy's `method="exact"` ignores zeros and ties, and its normal approximation calls
    four equal differences significant). Above that p is SciPy's normal approximation, corrected for zeros
    (Cureton 1967) and ties, without continuity correction.

    Few pairs cannot be significant: the smallest exact p is 2 ** (1 - n), so p < 0.05 takes six pairs.

    Parameters
    ----------
    samples : mapping
        `{name: (n,) finite numbers}`, paired by position: entry i of every sample belongs to the same case.
    higher_is_better : bool
        Direction of the metric.

    Returns
    -------
    dict
        `{name: PairedTest}` in the order of `samples`, without the best itself; empty for a single sample.
        Where all differences are zero, p is 1 and `method` says so.

    Raises
    ------
    ValueError
        There are no samples, their lengths differ, or one is empty, not one-dimensional or not finite.

    Examples
    --------
    All of six cases get worse, each by another amount:

    >>> best = [0.9, 0.8, 0.7, 0.9, 0.8, 0.7]
    >>> worse = [0.89, 0.78, 0.67, 0.86, 0.75, 0.64]
    >>> wilcoxon_against_best({"a": best, "b": worse}, higher_is_better=True)["b"].p
    0.03125
    """
    best = best_by_mean(samples, higher_is_better)
    samples = {name: finite_vector(values, f"samples[{name!r}]") for name, values in samples.items()}
    lengths = {name: values.size for name, values in samples.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"samples must be paired, one value per case, but their lengths are {lengths}")
    return {
        name: _paired_test(values, samples[best], best, higher_is_better)
        for name, values in samples.items()
        if name != best
    }


def _paired_test(
    sample: np.ndarray, best_sample: np.ndarray, best: str, higher_is_better: bool
) -> PairedTest:
    better = sample - best_sample if higher_is_better else best_sample - sample
    resolution = 1e-12 * max(np.abs(sample).max(), np.abs(best_sample).max())
    if resolution > 0:
        better = np.round(better / resolution)  # ranks do not depend on the unit
    n = better.size
    zeros = int(np.count_nonzero(better == 0))
    if zeros == n:
        return PairedTest(best, 0.0, 1.0, n, zeros, "all differences are zero", 0.0, "")

    ranks = stats.rankdata(np.abs(better))
    won, lost = ranks[better > 0].sum(), ranks[better < 0].sum()
    if n > EXACT_PAIRS:
        # "approx" is the older of the two names of the asymptotic method; every SciPy since 1.9 knows it.
        method = "asymptotic"
        p = stats.wilcoxon(better, zero_method="pratt", correction=False, method="approx").pvalue
    elif zeros == 0 and np.unique(ranks).size == n:
        method = "exact"
        p = stats.wilcoxon(better, zero_method="pratt", correction=False, method="exact").pvalue
    else:
        method = "exact, ties or zeros"
        p = _signed_rank_p(ranks[better != 0], min(won, lost))
    return PairedTest(
        best=best,
        statistic=float(min(won, lost)),
        p=float(p),
        n=n,
        zeros=zeros,
        method=method,
        effect=float((won - lost) / (won + lost)),
        stars=stars(p),
    )


def _signed_rank_p(ranks: np.ndarray, smaller_sum: float) -> float:
    """Two-sided p of a signed-rank sum where each of the given ranks is won or lost with equal chance.

    Parameters
    ----------
    ranks : ndarray
        `(m,)` multiples of one half, the ranks of the differences that are not zero.
    smaller_sum : float
        The smaller of the sums of the ranks won and the ranks lost.
    """
    doubled = np.rint(2 * ranks).astype(int)
    chance = np.zeros(doubled.sum() + 1)  # of each doubled rank sum, built up rank by rank
    chance[0] = 1.0
    for rank in doubled:
        won = np.zeros_like(chance)
        won[rank:] = chance[:-rank]
        chance = (chance + won) / 2
    return min(1.0, 2 * chance[: round(2 * smaller_sum) + 1].sum())
