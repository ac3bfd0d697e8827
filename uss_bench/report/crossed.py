"""Means over seeds and cases as crossed factors, as pure functions of arrays.

Every seed trains its own models, and all of them are evaluated on the same cases: a score belongs to a seed
and to a case, and what is concluded should hold for other seeds *and* for other cases. A value
`x[seed, case]`, such as the paired difference of two strategies, is taken as

    x = mean + seed + case + rest

with independent random effects (the two-way crossed random model; Searle, Casella and McCulloch, Variance
Components, 1992, chapter 4). With the mean squares A of the seeds, B of the cases and E of the rest, the
variance of the mean over S seeds and C cases is estimated by moments,

    V = (A + B - E) / (S C)    with A and B taken as no smaller than E,

and intervals are Student's t with Satterthwaite's degrees of freedom, at least min(S, C) - 1. Seeds that
happen to differ no more than the rest are a term all the same: were they dropped, as is common, the
freedom would leap from theirs to that of the cases by the toss of a coin, and where a few seeds do differ a
little, most of the verdicts would come from such leaps.

Why not a bootstrap that resamples rows and columns (the pigeonhole bootstrap: Owen 2007)? Its variance counts
the rest up to three times, and its percentiles know nothing of t: where three to five seeds differ much, its
intervals cover too rarely all the same. The slow tests simulate both, with the tails of real results.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np
from scipy import special

LEVEL = 0.95  # of all intervals
COMPONENTS = {
    "strategy": (0,),
    "seed": (1,),
    "strategy × seed": (0, 1),
    "case": (2,),
    "strategy × case": (0, 2),
    "seed × case": (1, 2),
    "rest": (0, 1, 2),
}


class MeanSquare(NamedTuple):
    """A mean square of an analysis of variance, and its degrees of freedom."""

    value: float
    freedom: int


def mean_squares(values: np.ndarray) -> dict[tuple[int, ...], MeanSquare]:
    """Mean squares of all main effects and interactions of a crossed design with one value per cell.

    Parameters
    ----------
    values : ndarray
        Any number of axes; every axis is a factor.

    Returns
    -------
    dict
        `{axes: MeanSquare}`: of one axis for a main effect, of several for their interaction. Where one of
        the axes has a single level, the value is 0 with 0 degrees of freedom.

    Examples
    --------
    Rows differ, columns do not:

    >>> found = mean_squares(np.array([[1.0, 1.0], [3.0, 3.0]]))
    >>> {axes: square.value for axes, square in found.items()}
    {(0,): 4.0, (1,): 0.0, (0, 1): 0.0}
    """
    found = {}
    axes = range(values.ndim)
    for factors in (each for count in axes for each in combinations(axes, count + 1)):
        others = tuple(axis for axis in axes if axis not in factors)
        effect = values.mean(axis=others, keepdims=True)
        for axis in factors:
            effect = effect - effect.mean(axis=axis, keepdims=True)
        freedom = int(np.prod([values.shape[axis] - 1 for axis in factors]))
        squares = _repeats(values, factors) * float((effect**2).sum())
        found[factors] = MeanSquare(squares / freedom if freedom else 0.0, freedom)
    return found


def _repeats(values: np.ndarray, factors: Sequence[int]) -> int:
    """How many cells share one level of each of these factors."""
    return int(np.prod([size for axis, size in enumerate(values.shape) if axis not in factors]))


@dataclass(frozen=True)
class CrossedMean:
    """A mean over seeds and cases, and how well it is known.

    Attributes
    ----------
    mean : float
        Over all seeds and cases.
    error : float
        Its standard error, the square root of V.
    freedom : float
        Degrees of freedom of the standard error.
    """

    mean: float
    error: float
    freedom: float

    @property
    def interval(self) -> tuple[float, float]:
        """95% confidence interval."""
        reach = quantile_t((1 + LEVEL) / 2, self.freedom) * self.error
        return self.mean - reach, self.mean + reach

    @property
    def p(self) -> float:
        """Two-sided p of a mean of zero; 1 where mean and error are both zero."""
        if self.error == 0:
            return float(self.mean == 0)
        return float(2 * special.stdtr(self.freedom, -abs(self.mean) / self.error))


def quantile_t(share: float, freedom: float) -> float:
    """Quantile of Student's t."""
    return float(special.stdtrit(freedom, share))  # as `stats.t.ppf`, a hundred times faster


def scale_limits(freedom: int) -> tuple[float, float]:
    """95% interval of a true standard deviation, as multiples of an estimate with these degrees of freedom.

    >>> [round(limit, 2) for limit in scale_limits(2)]
    [0.52, 6.28]
    """
    upper = (1 + LEVEL) / 2
    low, high = (float(np.sqrt(freedom / special.chdtri(freedom, share))) for share in (1 - upper, upper))
    return low, high


def crossed_mean(values: np.ndarray) -> CrossedMean:
    """Mean over seeds and cases with its standard error, where both are drawn at random.

    Parameters
    ----------
    values : ndarray
        `(seeds, cases)` finite numbers, at least two seeds. A single case says nothing of other cases: then
        error and interval are about seeds alone.

    Raises
    ------
    ValueError
        The array is not of that shape or not finite.

    Examples
    --------
    Three seeds, no difference between cases, so what the t test makes of the seeds' means 0, 1 and 2:

    >>> found = crossed_mean(np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]]))
    >>> found.mean, round(found.error, 4), found.freedom
    (1.0, 0.5774, 2.0)
    """
    values = checked_scores(values, ("seeds", "cases"))
    return CrossedMean(float(values.mean()), *standard_error(*crossed_squares(values), *values.shape))


def crossed_squares(values: np.ndarray) -> tuple[float, float, float]:
    """Mean squares A, B and E of `(seeds, cases)`, with neither A nor B below E."""
    squares = mean_squares(values)
    rest = squares[0, 1].value
    return max(squares[0,].value, rest), max(squares[1,].value, rest), rest


def standard_error(
    of_seeds: float, of_cases: float, rest: float, seeds: int, cases: int
) -> tuple[float, float]:
    """Standard error of a mean and its degrees of freedom, from `crossed_squares` and the numbers of levels.

    Satterthwaite (1946): a sum of mean squares has about the freedom of its own square over the sum of the
    squares of its terms, each over its own freedom.
    """
    total = of_seeds + of_cases - rest
    terms = ((of_seeds, seeds - 1), (of_cases, cases - 1), (rest, (seeds - 1) * (cases - 1)))
    spread = sum(term**2 / freedom for term, freedom in terms if freedom)
    least = min(seeds, cases) - 1 if cases > 1 else seeds - 1
    freedom = max(total**2 / spread, least) if spread > 0 else least
    return float(np.sqrt(total / (seeds * cases))), float(freedom)


def variance_components(scores: np.ndarray) -> dict[str, float]:
    """How much each source moves a score, by moments of the three-way crossed random model.

    The expected mean square of a set of factors is the sum of the components of all sets that contain it,
    each times the number of cells that it is averaged over; that is solved from the highest interaction down.
    "strategy × seed" is how far what the models of one seed do not share moves the mean of one: batches,
    dropout, queries, and how a strategy answers to the initial volumes.

    Parameters
    ----------
    scores : ndarray
        `(strategies, seeds, cases)` finite scores, at least two seeds.

    Returns
    -------
    dict
        `{source: variance}` in the order of `COMPONENTS`; negative estimates are set to 0.

    Raises
    ------
    ValueError
        The array is not of that shape or not finite.

    Examples
    --------
    Nothing but the case matters:

    >>> found = variance_components(np.broadcast_to([0.0, 2.0, 4.0], (2, 2, 3)))
    >>> {source: variance for source, variance in found.items() if variance}
    {'case': 4.0}
    """
    scores = checked_scores(scores, ("strategies", "seeds", "cases"))
    squares = mean_squares(scores)
    variances: dict[tuple[int, ...], float] = {}
    for factors in reversed(squares):  # the most factors first
        above = sum(
            _repeats(scores, wider) * variances[wider] for wider in variances if set(factors) < set(wider)
        )
        variances[factors] = (squares[factors].value - above) / _repeats(scores, factors)
    return {source: max(variances[factors], 0.0) for source, factors in COMPONENTS.items()}


def checked_scores(values: np.ndarray, axes: Sequence[str]) -> np.ndarray:
    """The values as float64; ValueError unless they are finite, with these axes and at least two seeds."""
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != len(axes) or values.size == 0 or values.shape[axes.index("seeds")] < 2:
        raise ValueError(
            f"scores must be ({', '.join(axes)}) of at least two seeds, not of shape {values.shape}"
        )
    if not np.isfinite(values).all():
        raise ValueError(
            "scores must be finite; put the volume's diagonal in the place of infinite distances"
        )
    return values
