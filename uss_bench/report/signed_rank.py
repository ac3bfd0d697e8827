"""The paired test behind the stars of Tables 4-8: a signed-rank statistic against the best, under exchange.

Wilcoxon's own null distribution does not fit here: the best sample is chosen by the values that are tested,
and with four strategies that do not differ p < 0.05 occurs in 6 to 9%. So the choice is part of the test.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from .statistics import best_by_mean, finite_vector

RESAMPLES = 4999
BATCH = 500  # exchanges ranked at once, which bounds the memory
RESOLUTION = 1e-12  # of the largest value: differences that agree to it count as equal


@dataclass(frozen=True)
class PairedTest:
    """One sample against the best one, paired case by case.

    Attributes
    ----------
    best : str
        Name of the sample compared with.
    p : float
        Two-sided p value, not corrected for the number of tests.
    n, zeros : int
        Number of pairs, zeros included, and of pairs without a difference.
    effect : float
        Matched-pairs rank-biserial correlation in [-1, 1]; positive where the sample beats the best one.
    """

    best: str
    p: float
    n: int
    zeros: int
    effect: float

    @property
    def stars(self) -> str:
        """ "***", "**", "*" or "", see the function `stars`."""
        return stars(self.p)


def stars(p_value: float) -> str:
    """The paper's marks for p below 0.001, 0.01 and 0.05.

    >>> stars(0.0005), stars(0.04), stars(0.05)
    ('***', '*', '')
    """
    return "*" * sum(p_value < limit for limit in (0.05, 0.01, 0.001))


def against_best(
    samples: Mapping[str, Sequence[float]],
    higher_is_better: bool,
    seed: int,
    resamples: int = RESAMPLES,
) -> dict[str, PairedTest]:
    """Test every sample against the one with the best mean.

    The statistic is Wilcoxon's signed-rank sum of the paired differences, in units of its standard deviation
    under random signs. Zeros are handled by Pratt: they take part in the ranking and are dropped afterwards.

    The null hypothesis is that the samples are exchangeable within each case. Its distribution is drawn: the
    values of each case are exchanged among the samples at random, the best is chosen anew, and all others
    are compared with it. p is the share of comparisons with at least as large a statistic, averaged over
    exchanges, the observed one counted as one more: `(sum of shares + 1) / (resamples + 1)`. Under the
    hypothesis p <= 0.05 then occurs in at most 5%, for every sample (Phipson and Smyth 2010).

    Parameters
    ----------
    samples : mapping
        `{name: (n,) finite numbers}`, paired by position: entry i of every sample belongs to the same case.
    higher_is_better : bool
        Direction of the metric.
    seed : int
        Not negative; equal seeds give equal p.
    resamples : int
        Number of exchanges; p is at least `1 / (resamples + 1)`.

    Returns
    -------
    dict
        `{name: PairedTest}` in the order of `samples`, without the best itself; empty for a single sample.

    Raises
    ------
    TypeError
        `seed` is not an integer.
    ValueError
        There are no samples, their lengths differ, or one is empty, not one-dimensional or not finite, or
        `resamples` is less than 1.

    Examples
    --------
    All of six cases get worse, each by another amount. Of the 64 ways to exchange them, 2 are as extreme:

    >>> best = [0.9, 0.8, 0.7, 0.9, 0.8, 0.7]
    >>> worse = [0.89, 0.78, 0.67, 0.86, 0.75, 0.64]
    >>> round(against_best({"a": best, "b": worse}, higher_is_better=True, seed=0)["b"].p, 2)
    0.03
    """
    best = best_by_mean(samples, higher_is_better)
    vectors = {name: finite_vector(values, f"samples[{name!r}]") for name, values in samples.items()}
    lengths = {name: values.size for name, values in vectors.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"samples must be paired, one value per case, but their lengths are {lengths}")
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, not {resamples!r}")
    names, generator = list(vectors), np.random.default_rng(operator.index(seed))
    values = np.array(list(vectors.values())) * (1 if higher_is_better else -1)
    if len(names) == 1:
        return {}

    statistics, effects, zeros = _signed_ranks(values[None], np.array([names.index(best)]))
    observed = np.abs(statistics[0])
    reached = np.zeros_like(observed)
    for start in range(0, resamples, BATCH):
        exchanged = np.repeat(values[None], min(BATCH, resamples - start), axis=0)
        exchanged = generator.permuted(exchanged, axis=1)
        drawn = np.abs(_signed_ranks(exchanged, exchanged.mean(axis=2).argmax(axis=1))[0])
        reached += (drawn[:, None, :] >= observed[None, :, None] - 1e-9).mean(axis=2).sum(axis=0)
    p_values = (reached + 1) / (resamples + 1)
    others = [name for name in names if name != best]
    return {
        name: PairedTest(best, float(p), values.shape[1], int(zero), float(effect))
        for name, p, zero, effect in zip(others, p_values, zeros[0], effects[0], strict=True)
    }


def _signed_ranks(values: np.ndarray, best: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Signed-rank statistics of all samples but the best against the best.

    Parameters
    ----------
    values : ndarray
        `(sets, samples, cases)`, higher is better.
    best : ndarray of int
        `(sets,)`: which sample is the best of its set.

    Returns
    -------
    statistics, effects, zeros : ndarray
        `(sets, samples - 1)`: the signed-rank sum over its standard deviation under random signs, the
        rank-biserial correlation (both 0 where all differences are zero), and the number of zeros.
    """
    sets = np.arange(len(values))
    others = np.arange(values.shape[1]) != best[:, None]
    differences = values - values[sets, best][:, None]
    differences = differences[others].reshape(len(values), -1, values.shape[2])
    # In whole units, so that rounding errors break no ties, and ranks do not depend on the metric's unit.
    differences = np.round(differences / (RESOLUTION * np.abs(values).max() or 1.0))
    ranks = rankdata(np.abs(differences), axis=2) * (differences != 0)
    signed = (ranks * np.sign(differences)).sum(axis=2)
    total, spread = ranks.sum(axis=2), np.sqrt((ranks**2).sum(axis=2))
    some = total > 0
    statistics, effects = (
        np.divide(signed, by, out=np.zeros_like(signed), where=some) for by in (spread, total)
    )
    return statistics, effects, (differences == 0).sum(axis=2)
