"""The quantile regression behind Table 9, with intervals and p values that respect the cases.

Every case enters once per model, so the results of one case are not independent of each other: the interval
resamples whole cases, and p exchanges models within each case.
"""

from __future__ import annotations

import math
import operator
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from statsmodels.regression.quantile_regression import QuantReg
from statsmodels.tools.sm_exceptions import ConvergenceWarning, IterationLimitWarning

TERMS = ("intercept", "uncertainty_sampling", "slice_sampling")

CELLS = np.array([(1, 0, 0), (1, 0, 1), (1, 1, 0), (1, 1, 1)])  # rows of the design, one per kind of model
CONTRAST = np.array([1, -1, -1, 1])  # of the numbers fitted to the cells; it vanishes where effects add up
EQUAL = 1e-9  # of the largest value: coefficients that differ by less count as equal


@dataclass(frozen=True)
class Effect:
    """A row of Table 9.

    Attributes
    ----------
    term : str
        One of `TERMS`.
    coefficient, ci_low, ci_high : float
        In the metric's unit, with the ends of its 95% confidence interval.
    p_value : float
        Two-sided; NaN for the intercept, whose distance from zero nobody doubts.
    """

    term: str
    coefficient: float
    ci_low: float
    ci_high: float
    p_value: float


@dataclass(frozen=True)
class QuantileEffects:
    """A column of Table 9.

    Attributes
    ----------
    quantile : float
        The quantile that the effects are on.
    n : int
        Number of values.
    rows : tuple of Effect
        One for each of `TERMS`; none after a failure.
    failure : str
        Why the fit failed; empty if it did not.
    """

    quantile: float
    n: int
    rows: tuple[Effect, ...]
    failure: str = ""


def quantile_effects(
    values: np.ndarray,
    uncertainty: Sequence[bool],
    slices: Sequence[bool],
    quantile: float,
    seed: int,
    resamples: int = 2000,
) -> QuantileEffects:
    """Quantile regression `metric ~ 1 + uncertainty + slices` over models and cases, as in Table 9.

    The coefficients are those of statsmodels' `QuantReg`; resamples are solved by `fit_quantile`, exactly and
    four thousand times as fast. The interval is the percentile bootstrap over cases: all models of a drawn
    case are drawn. The p value of an effect exchanges, within each case, models that differ in that effect
    alone (UVS and RVS, for example), which leaves the other effect as it is; it counts how often the
    coefficient is then at least as large: `(count + 1) / (resamples + 1)`, valid for any number of cases and
    any distribution (Phipson and Smyth 2010). Both speak of these trained models, not of retraining.

    Parameters
    ----------
    values : ndarray
        `(models, cases)` finite numbers, at least one case: a metric of every case under every model.
    uncertainty, slices : sequence of bool
        `(models,)`: whether a model was trained on uncertain samples or random ones, on slices or volumes.
    quantile : float
        Strictly between 0 and 1: 0.05 for DICE, 0.95 for the others.
    seed : int
        Not negative; equal seeds give equal numbers.
    resamples : int
        Of the bootstrap, and exchanges of each effect.

    Returns
    -------
    QuantileEffects
        Without rows, and with a reason, where the models cannot separate the effects (one strategy alone) or
        `QuantReg` does not converge.

    Raises
    ------
    TypeError
        `seed` is not an integer.
    ValueError
        `values` is not a matrix of finite numbers, an indicator has another length than it has rows, or
        `quantile` or `resamples` is out of range.

    Examples
    --------
    >>> quantile_effects([[0.9, 0.8], [0.7, 0.6]], [True, False], [True, True], 0.5, seed=0).failure
    'these strategies cannot separate the effects of uncertainty and slice sampling'
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or not values.shape[1] or not np.isfinite(values).all():
        raise ValueError(f"values must be a matrix of finite numbers, not of shape {values.shape}")
    if not 0 < quantile < 1:
        raise ValueError(f"quantile must be strictly between 0 and 1, not {quantile!r}")
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, not {resamples!r}")
    seeds = np.random.SeedSequence(operator.index(seed)).spawn(3)
    design = np.column_stack([np.ones(len(values)), uncertainty, slices]).astype(int)
    if len(np.unique(design, axis=0)) < len(TERMS):
        reason = "these strategies cannot separate the effects of uncertainty and slice sampling"
        return QuantileEffects(quantile, values.size, (), reason)
    coefficients, failure = _coefficients(values, design, quantile)
    if failure:
        return QuantileEffects(quantile, values.size, (), failure)

    cases = values.shape[1]
    drawn = np.random.default_rng(seeds[0]).integers(cases, size=(resamples, cases))
    spread = fit_quantile(np.moveaxis(values[:, drawn], 1, 0), design, quantile)
    lows, highs = np.quantile(spread, [0.025, 0.975], axis=0)
    (observed,), p_values = fit_quantile(values[None], design, quantile), [float("nan")]
    for effect in (1, 2):
        exchanged = _exchange(values, design, effect, np.random.default_rng(seeds[effect]), resamples)
        null = fit_quantile(exchanged, design, quantile)[:, effect]
        least = abs(observed[effect]) - EQUAL * np.abs(values).max()
        p_values.append((int(np.count_nonzero(np.abs(null) >= least)) + 1) / (resamples + 1))
    columns = (column.tolist() for column in (coefficients, lows, highs))
    rows = tuple(map(Effect, TERMS, *columns, p_values))
    return QuantileEffects(quantile, values.size, rows)


def _coefficients(values: np.ndarray, design: np.ndarray, quantile: float) -> tuple[np.ndarray, str]:
    """Coefficients by statsmodels and "", or none and the reason of its failure."""
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            for trouble in (ConvergenceWarning, IterationLimitWarning):
                warnings.simplefilter("error", trouble)
            model = QuantReg(values.ravel(), np.repeat(design, values.shape[1], axis=0))
            return model.fit(q=quantile).params, ""
    except (ConvergenceWarning, IterationLimitWarning) as warning:
        return np.array([]), f"no convergence: {warning}"
    except (ValueError, ArithmeticError, np.linalg.LinAlgError) as error:
        return np.array([]), f"{type(error).__name__}: {error}"


def _exchange(
    values: np.ndarray, design: np.ndarray, effect: int, generator: np.random.Generator, resamples: int
) -> np.ndarray:
    """`(resamples, models, cases)` values, exchanged within cases among models alike but for an effect."""
    exchanged = np.repeat(values[None], resamples, axis=0)
    other = design[:, len(TERMS) - effect]
    for level in np.unique(other):
        alike = np.flatnonzero(other == level)
        exchanged[:, alike] = generator.permuted(exchanged[:, alike], axis=1)
    return exchanged


def fit_quantile(values: np.ndarray, design: np.ndarray, quantile: float) -> np.ndarray:
    """Quantile regressions of many matrices of values on one design of two indicators, exactly.

    The design has at most four different rows, so the check loss (Koenker and Bassett 1978) is a sum over
    four cells, each the loss of one number fitted to the values of its cell. Of these numbers, `CONTRAST`
    vanishes. With a Lagrange multiplier g they have the ranks `q n + g CONTRAST` among the n values of their
    cells; their contrast grows with g, and where it changes its sign lies the least loss.

    Often several sets of coefficients share the least loss. statsmodels' `QuantReg` comes within 1e-6 of one
    of them, in 20 ms; this takes the one on the line between the two ranks, in 5 us.

    Parameters
    ----------
    values : ndarray
        `(fits, models, cases)` finite numbers.
    design : ndarray of int
        `(models, 3)`: ones and two indicators, at least three different rows.
    quantile : float
        Strictly between 0 and 1.

    Returns
    -------
    ndarray
        `(fits, 3)` coefficients, in the order of `TERMS`.
    """
    members = [np.flatnonzero((design == cell).all(axis=1)) for cell in CELLS]
    there = [place for place, models in enumerate(members) if models.size]
    cells = [np.sort(values[:, members[place]].reshape(len(values), -1), axis=1) for place in there]
    if len(there) < len(CELLS):
        fitted = np.stack([_quantile(cell, quantile) for cell in cells], axis=1)
    else:
        fitted = _additive(cells, quantile)
    return fitted @ np.linalg.pinv(CELLS[there]).T


def _quantile(ordered: np.ndarray, quantile: float) -> np.ndarray:
    """Number of least check loss for each sorted row; the middle of those that share it."""
    rank = round(quantile * ordered.shape[1], 9)
    return (ordered[:, math.ceil(rank) - 1] + ordered[:, math.floor(rank + 1) - 1]) / 2


def _additive(cells: Sequence[np.ndarray], quantile: float) -> np.ndarray:
    """`(fits, 4)` numbers of least check loss whose contrast vanishes, one for each sorted cell."""
    sizes = np.array([cell.shape[1] for cell in cells])
    ranks = quantile * sizes
    # How far the multiplier may fall and rise until the rank of a cell leaves it.
    rooms = [np.where(CONTRAST * side > 0, sizes - ranks, ranks) for side in (-1, 1)]
    low, high = -rooms[0].min(), rooms[1].min()
    crossed = [
        (np.arange(size + 1) - rank) * sign for size, rank, sign in zip(sizes, ranks, CONTRAST, strict=True)
    ]
    breaks = np.unique(np.concatenate([*crossed, [low, high]]).round(9))
    breaks = breaks[(breaks > low - 1e-8) & (breaks < high + 1e-8)]
    multipliers = (breaks[1:] + breaks[:-1]) / 2
    places = np.ceil(ranks[:, None] + CONTRAST[:, None] * multipliers).astype(int) - 1
    steps = np.stack([cell[:, place] for cell, place in zip(cells, places, strict=True)], axis=1)

    # There the number may move on without end: far enough for the contrast to change its sign.
    far = 1 + 4 * max(np.ptp(cell) for cell in cells)
    down, up = (far * CONTRAST * np.isclose(room, room.min(), rtol=0, atol=1e-8) for room in rooms)
    ends = steps[:, :, :1] - down[:, None], steps[:, :, -1:] + up[:, None]
    steps = np.concatenate([ends[0], steps, ends[1]], axis=2)

    contrast = np.einsum("c,fcs->fs", CONTRAST, steps)
    fits, after = np.arange(len(steps)), (contrast > 0).argmax(axis=1)
    before, beyond = contrast[fits, after - 1], contrast[fits, after]
    share = (before / (before - beyond))[:, None]
    return steps[fits, :, after - 1] * (1 - share) + steps[fits, :, after] * share
