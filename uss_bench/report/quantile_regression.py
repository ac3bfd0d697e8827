"""The regression of Table 9: how uncertainty and slice sampling shift the poor cases."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from statsmodels.regression.quantile_regression import QuantReg, hall_sheather
from statsmodels.tools.sm_exceptions import ConvergenceWarning, IterationLimitWarning

from .statistics import finite_vector

TERMS = ("intercept", "uncertainty_sampling", "slice_sampling")


@dataclass(frozen=True)
class Effect:
    """A row of Table 9: a coefficient in the metric's unit, its 95% confidence interval and its p value."""

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
    values: Sequence[float],
    uncertainty: Sequence[bool],
    slice_sampling: Sequence[bool],
    quantile: float,
) -> QuantileEffects:
    """Quantile regression `metric ~ 1 + uncertainty + slice`, as in Table 9.

    The fit is statsmodels' `QuantReg` with its defaults: heteroskedasticity-robust standard errors,
    Epanechnikov kernel, Hall-Sheather bandwidth, Student's t with n - 3 degrees of freedom. The bandwidth
    leaves [0, 1] for fewer than 77 values at the quantiles 0.05 and 0.95; the fit then fails, as it does
    without convergence, with standard errors that are not finite or zero, and with a design that cannot
    separate the effects (one strategy alone). A failed fit carries no numbers.

    With two indicators and as many cases for every strategy, several sets of coefficients often share the
    least loss; statsmodels returns one of them, always the same.

    Parameters
    ----------
    values : sequence of float
        `(n,)` finite numbers: a metric of every case under every model.
    uncertainty : sequence of bool
        `(n,)`, or 0 and 1: whether the model was trained on uncertain samples or random ones.
    slice_sampling : sequence of bool
        `(n,)`, or 0 and 1: whether it was trained on slices or volumes.
    quantile : float
        Strictly between 0 and 1: 0.05 for DICE, 0.95 for the others.

    Raises
    ------
    ValueError
        `values` is empty, not one-dimensional or not finite, an indicator differs from it in shape or holds
        another number than 0 and 1, or `quantile` is out of range.

    Examples
    --------
    >>> quantile_effects([0.9, 0.8, 0.7], [True, False, True], [True, True, True], 0.5).failure
    'singular design: these strategies cannot separate the effects of uncertainty and slice sampling'
    """
    values = finite_vector(values, "values")
    indicators = [
        _indicator(uncertainty, values, "uncertainty"),
        _indicator(slice_sampling, values, "slice_sampling"),
    ]
    if not 0 < quantile < 1:
        raise ValueError(f"quantile must be strictly between 0 and 1, not {quantile!r}")
    design = np.column_stack([np.ones(values.size), *indicators])
    rows, failure = _fit_quantile(values, design, quantile)
    return QuantileEffects(quantile=float(quantile), n=values.size, rows=rows, failure=failure)


def _fit_quantile(values: np.ndarray, design: np.ndarray, quantile: float) -> tuple[tuple[Effect, ...], str]:
    """Rows of the fit and "", or no rows and the reason of the failure."""
    if np.linalg.matrix_rank(design) < design.shape[1]:
        return (), (
            "singular design: these strategies cannot separate the effects of uncertainty and slice sampling"
        )
    bandwidth = hall_sheather(values.size, quantile)
    if not 0 < quantile - bandwidth < quantile + bandwidth < 1:
        return (), f"too few values for standard errors at the {quantile:g} quantile: {values.size}"
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            for trouble in (ConvergenceWarning, IterationLimitWarning):
                warnings.simplefilter("error", trouble)
            fit = QuantReg(values, design).fit(q=quantile)
            interval = fit.conf_int(alpha=0.05)
            rows = tuple(
                Effect(term, *map(float, numbers))
                for term, *numbers in zip(TERMS, fit.params, *interval.T, fit.pvalues, strict=True)
            )
            errors = np.asarray(fit.bse)
    except (ConvergenceWarning, IterationLimitWarning) as warning:
        return (), f"no convergence: {warning}"
    except (ValueError, ArithmeticError, np.linalg.LinAlgError) as error:
        return (), f"{type(error).__name__}: {error}"
    sound = np.isfinite(errors).all() and (errors > 0).all()
    if not (sound and np.isfinite([row.coefficient for row in rows]).all()):
        return (), "the standard errors are not finite and positive: the values hardly vary"
    return rows, ""


def _indicator(indicator: Sequence[bool], values: np.ndarray, name: str) -> np.ndarray:
    indicator = np.asarray(indicator, dtype=np.float64)
    if indicator.shape != values.shape:
        raise ValueError(f"{name} must have the shape of values, {values.shape}, not {indicator.shape}")
    if not np.isin(indicator, (0.0, 1.0)).all():
        raise ValueError(f"{name} must hold 0 and 1 only")
    return indicator
