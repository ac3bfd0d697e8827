"""The paper's statistics (section II.F and the notes of Tables 4-9), as pure functions of arrays of per-case metrics.

Every function wants finite numbers and raises ValueError otherwise: the caller decides what stands in for the infinite distance
of a missed organ, so that no miss can vanish here. Nothing is random but `bootstrap_interval`, which takes a seed.
"""

import operator
import warnings
from dataclasses import dataclass

import numpy as np
from scipy import stats
from statsmodels.regression.quantile_regression import QuantReg, hall_sheather
from statsmodels.tools.sm_exceptions import ConvergenceWarning, IterationLimitWarning

# Up to this number of pairs the null distribution of the signed-rank statistic is counted out instead of approximated.
EXACT_PAIRS = 50
TERMS = ("intercept", "uncertainty_sampling", "slice_sampling")


@dataclass(frozen=True)
class Summary:
    """What a cell of Tables 4-8 holds: `mean ± std (percentile)` over `n` cases."""

    n: int
    mean: float
    std: float
    percentile: float


@dataclass(frozen=True)
class Comparison:
    """One sample against the best one, paired case by case.

    Attributes
    ----------
    best : name of the sample compared with.
    statistic : the smaller of the two sums of signed ranks.
    p : two-sided p value, not corrected for the number of comparisons.
    n : number of pairs, zeros included.
    zeros : number of pairs without a difference.
    method : where p comes from: "exact", "exact, ties or zeros", "asymptotic" or "all differences are zero".
    effect : matched-pairs rank-biserial correlation in [-1, 1]; positive where the sample beats the best one.
    stars : "***", "**", "*" or "" for p below 0.001, 0.01, 0.05 or not.
    """

    best: str
    statistic: float
    p: float
    n: int
    zeros: int
    method: str
    effect: float
    stars: str


@dataclass(frozen=True)
class Effect:
    """A row of Table 9: a coefficient in the metric's own unit, its 95% confidence interval and its p value."""

    term: str
    coefficient: float
    ci_low: float
    ci_high: float
    p_value: float


@dataclass(frozen=True)
class QuantileEffects:
    """A column of Table 9. Either three `rows`, in the order of `TERMS`, and no `failure`, or no rows and the reason why."""

    quantile: float
    n: int
    rows: tuple[Effect, ...]
    failure: str = ""


def summarize(values, quantile):
    """Mean, sample standard deviation and a percentile, as in Tables 4-8.

    Parameters
    ----------
    values : `(n,)` finite numbers, one a case, n >= 1.
    quantile : in [0, 1]: 0.05 for DICE, 0.95 for the others; between two cases NumPy interpolates linearly.

    Returns
    -------
    Summary; `std` divides by n - 1 and is NaN for a single case.

    Raises
    ------
    ValueError
        `values` is empty, not one-dimensional or not finite, or `quantile` is out of range.
    """
    values = _finite_vector(values, "values")
    if not 0 <= quantile <= 1:
        raise ValueError(f"quantile must be in [0, 1], not {quantile!r}")
    std = float(values.std(ddof=1)) if values.size > 1 else float("nan")
    return Summary(
        n=values.size, mean=float(values.mean()), std=std, percentile=float(np.quantile(values, quantile))
    )


def best_by_mean(samples, higher_is_better):
    """Name of the sample with the best mean; of equal ones the first.

    Parameters
    ----------
    samples : dict of name to `(n,)` finite numbers, not empty.
    higher_is_better : bool, the metric's direction.

    Raises
    ------
    ValueError
        There are no samples, or one is empty, not one-dimensional or not finite.
    """
    if not samples:
        raise ValueError("samples must hold at least one sample")
    means = {name: _finite_vector(values, f"samples[{name!r}]").mean() for name, values in samples.items()}
    return max(means, key=means.get) if higher_is_better else min(means, key=means.get)


def wilcoxon_against_best(samples, higher_is_better):
    """Two-sided Wilcoxon signed-rank test of every sample against the one with the best mean, as in Tables 4-8.

    Zeros are handled by Pratt: they take part in the ranking and are dropped afterwards. Differences that agree to twelve digits
    of the largest value count as equal, so that rounding errors break no ties.

    Up to 50 pairs p is exact: SciPy's where there are neither zeros nor ties, else counted over all signs of the observed ranks
    (SciPy's `method="exact"` ignores zeros and ties, and its normal approximation calls four equal differences significant).
    Above that p is SciPy's normal approximation, corrected for zeros (Cureton 1967) and ties, without continuity correction.

    Few pairs cannot be significant: the smallest exact p is 2 ** (1 - n), so at least six pairs are needed for p < 0.05.

    Parameters
    ----------
    samples : dict of name to `(n,)` finite numbers, paired by position: entry i of every sample belongs to the same case.
    higher_is_better : bool, the metric's direction.

    Returns
    -------
    dict of name to Comparison, in the order of `samples` and without the best itself; empty for a single sample. Where all
    differences are zero, p is 1 and `method` says so.

    Raises
    ------
    ValueError
        There are no samples, their lengths differ, or one is empty, not one-dimensional or not finite.
    """
    best = best_by_mean(samples, higher_is_better)
    samples = {name: _finite_vector(values, f"samples[{name!r}]") for name, values in samples.items()}
    lengths = {name: values.size for name, values in samples.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"samples must be paired, one value a case in each, but their lengths are {lengths}")
    return {
        name: _compare(values, samples[best], best, higher_is_better)
        for name, values in samples.items()
        if name != best
    }


def stars(p_value):
    """The paper's marks: "***", "**", "*" for p below 0.001, 0.01, 0.05, else ""."""
    return "*" * sum(p_value < limit for limit in (0.05, 0.01, 0.001))


def quantile_effects(values, uncertainty, slice_sampling, quantile):
    """Quantile regression `metric ~ 1 + uncertainty + slice`, as in Table 9.

    The fit is statsmodels' `QuantReg` with its defaults: heteroskedasticity-robust standard errors, Epanechnikov kernel,
    Hall-Sheather bandwidth, Student's t with n - 3 degrees of freedom. The bandwidth leaves [0, 1] for fewer than 77 values at
    the quantiles 0.05 and 0.95; the fit then fails, as it does without convergence, with standard errors that are not finite or
    zero, and with a design that cannot tell the effects apart (one strategy alone). A failed fit carries no numbers.

    With two indicators and as many cases for every strategy, several sets of coefficients often share the least loss; statsmodels
    returns one of them, always the same.

    Parameters
    ----------
    values : `(n,)` finite numbers: a metric of every case under every model.
    uncertainty : `(n,)` of 0/1 or bool: the model was trained on uncertainty-based (1: UVS, USS) or random (0) samples.
    slice_sampling : `(n,)` of 0/1 or bool: slices (1: USS, RSS) or volumes (0).
    quantile : strictly between 0 and 1: 0.05 for DICE, 0.95 for the others.

    Returns
    -------
    QuantileEffects.

    Raises
    ------
    ValueError
        `values` is empty, not one-dimensional or not finite, an indicator differs from it in shape or holds another
        number than 0 and 1, or `quantile` is out of range.
    """
    values = _finite_vector(values, "values")
    indicators = [
        _indicator(uncertainty, values, "uncertainty"),
        _indicator(slice_sampling, values, "slice_sampling"),
    ]
    if not 0 < quantile < 1:
        raise ValueError(f"quantile must be strictly between 0 and 1, not {quantile!r}")
    design = np.column_stack([np.ones(values.size), *indicators])
    rows, failure = _fit_quantile(values, design, quantile)
    return QuantileEffects(quantile=float(quantile), n=values.size, rows=rows, failure=failure)


def bootstrap_interval(values, statistic, seed, resamples=2000, level=0.95):
    """Percentile bootstrap interval of a statistic over cases.

    Parameters
    ----------
    values : `(n,)` finite numbers, n >= 1.
    statistic : callable that reduces an array along its keyword `axis`: `np.mean`, `functools.partial(np.quantile, q=0.95)`.
    seed : non-negative integer; equal seeds give equal intervals.
    resamples : number of resamples, at least 1.
    level : coverage, strictly between 0 and 1.

    Returns
    -------
    `(low, high)`, floats; both the same for a single case.

    Raises
    ------
    TypeError
        `seed` is not an integer.
    ValueError
        `values` is empty, not one-dimensional or not finite, or `resamples` or `level` is out of range.
    """
    values = _finite_vector(values, "values")
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, not {resamples!r}")
    if not 0 < level < 1:
        raise ValueError(f"level must be strictly between 0 and 1, not {level!r}")
    generator = np.random.default_rng(operator.index(seed))
    drawn = values[generator.integers(values.size, size=(resamples, values.size))]
    low, high = np.quantile(statistic(drawn, axis=1), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _compare(sample, best_sample, best, higher_is_better):
    """Comparison of two paired samples of equal length."""
    better = sample - best_sample if higher_is_better else best_sample - sample
    resolution = 1e-12 * max(np.abs(sample).max(), np.abs(best_sample).max())
    if resolution > 0:
        better = np.round(better / resolution)  # ranks do not depend on the unit
    n = better.size
    zeros = int(np.count_nonzero(better == 0))
    if zeros == n:
        return Comparison(best, 0.0, 1.0, n, zeros, "all differences are zero", 0.0, "")

    ranks = stats.rankdata(np.abs(better))
    won, lost = ranks[better > 0].sum(), ranks[better < 0].sum()
    if n > EXACT_PAIRS:
        # "approx" is the older of the two names of the asymptotic method, and the one that every SciPy since 1.9 knows.
        method = "asymptotic"
        p = stats.wilcoxon(better, zero_method="pratt", correction=False, method="approx").pvalue
    elif zeros == 0 and np.unique(ranks).size == n:
        method = "exact"
        p = stats.wilcoxon(better, zero_method="pratt", correction=False, method="exact").pvalue
    else:
        method = "exact, ties or zeros"
        p = _signed_rank_p(ranks[better != 0], min(won, lost))
    return Comparison(
        best=best,
        statistic=float(min(won, lost)),
        p=float(p),
        n=n,
        zeros=zeros,
        method=method,
        effect=float((won - lost) / (won + lost)),
        stars=stars(p),
    )


def _signed_rank_p(ranks, smaller_sum):
    """Two-sided p of a signed-rank sum where each of the given ranks is won or lost with equal chance.

    Parameters
    ----------
    ranks : `(m,)` multiples of one half, the ranks of the differences that are not zero.
    smaller_sum : the smaller of the sums of the ranks won and the ranks lost.
    """
    doubled = np.rint(2 * ranks).astype(int)
    chance = np.zeros(doubled.sum() + 1)  # of each doubled rank sum, built up rank by rank
    chance[0] = 1.0
    for rank in doubled:
        won = np.zeros_like(chance)
        won[rank:] = chance[:-rank]
        chance = (chance + won) / 2
    return min(1.0, 2 * chance[: round(2 * smaller_sum) + 1].sum())


def _fit_quantile(values, design, quantile):
    """Rows of the fit and "", or no rows and the reason of the failure."""
    if np.linalg.matrix_rank(design) < design.shape[1]:
        return (
            (),
            "singular design: these strategies cannot tell the effects of uncertainty and slice sampling apart",
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
    if (
        not (np.isfinite(errors) & (errors > 0)).all()
        or not np.isfinite([row.coefficient for row in rows]).all()
    ):
        return (), "the standard errors are not finite and positive: the values hardly vary"
    return rows, ""


def _indicator(indicator, values, name):
    indicator = np.asarray(indicator, dtype=np.float64)
    if indicator.shape != values.shape:
        raise ValueError(f"{name} must have the shape of values, {values.shape}, not {indicator.shape}")
    if not np.isin(indicator, (0.0, 1.0)).all():
        raise ValueError(f"{name} must hold 0 and 1 only")
    return indicator


def _finite_vector(values, name):
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or values.size == 0:
        raise ValueError(f"{name} must be a vector of at least one number, not of shape {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError(
            f"{name} must be finite; put the volume's diagonal in the place of infinite distances first"
        )
    return values
