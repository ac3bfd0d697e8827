"""Summaries of per-case metrics (notes of Tables 4-9), as pure functions of arrays.

Every function takes finite numbers only and raises ValueError otherwise: the caller decides what stands in
for the infinite distance of a missed organ, so that no miss can vanish here.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

# Fewer cases give no interval of a mean: a bootstrap's covers 89% at n = 8, 83% at 5, half at 2.
MEAN_CASES = 8
# Fewer cases give no interval of an outer percentile: at n = 20, a bootstrap interval of the 5th covers 62%.
PERCENTILE_CASES = 100
# Intervals of an effect on it cover 91% at n = 20 and 95% from here on; slow tests measure that.
EFFECT_CASES = 40


@dataclass(frozen=True)
class Summary:
    """What a cell of Tables 4-8 holds: `mean ± std (percentile)` over `n` cases."""

    n: int
    mean: float
    std: float
    percentile: float


def summarize(values: Sequence[float], quantile: float) -> Summary:
    """Mean, sample standard deviation and a percentile, as in Tables 4-8.

    Parameters
    ----------
    values : sequence of float
        `(n,)` finite numbers, one per case, n >= 1.
    quantile : float
        In [0, 1]: 0.05 for DICE, 0.95 for the others; between two cases NumPy interpolates linearly.

    Returns
    -------
    Summary
        `std` divides by n - 1 and is NaN for a single case.

    Raises
    ------
    ValueError
        `values` is empty, not one-dimensional or not finite, or `quantile` is out of range.

    Examples
    --------
    >>> summarize([1.0, 2.0, 3.0], 0.5)
    Summary(n=3, mean=2.0, std=1.0, percentile=2.0)
    """
    values = finite_vector(values, "values")
    if not 0 <= quantile <= 1:
        raise ValueError(f"quantile must be in [0, 1], not {quantile!r}")
    std = float(values.std(ddof=1)) if values.size > 1 else float("nan")
    return Summary(
        n=values.size, mean=float(values.mean()), std=std, percentile=float(np.quantile(values, quantile))
    )


def best_by_mean(samples: Mapping[str, Sequence[float]], higher_is_better: bool) -> str:
    """Name of the sample with the best mean; of equal ones the first.

    Parameters
    ----------
    samples : mapping
        `{name: (n,) finite numbers}`, not empty.
    higher_is_better : bool
        Direction of the metric.

    Raises
    ------
    ValueError
        There are no samples, or one is empty, not one-dimensional or not finite.

    Examples
    --------
    >>> best_by_mean({"a": [1.0, 3.0], "b": [4.0, 0.5]}, higher_is_better=True)
    'b'
    """
    if not samples:
        raise ValueError("samples must hold at least one sample")
    means = {name: finite_vector(values, f"samples[{name!r}]").mean() for name, values in samples.items()}
    return max(means, key=means.get) if higher_is_better else min(means, key=means.get)


def paired_interval(
    values: Sequence[float],
    others: Sequence[float],
    statistic: Callable[..., np.ndarray],
    seed: int,
    resamples: int = 2000,
) -> tuple[float, float]:
    """Percentile bootstrap 95% interval of the difference of a statistic between two models on equal cases.

    Parameters
    ----------
    values, others : sequence of float
        `(n,)` finite numbers, n >= 1, paired by position.
    statistic : callable
        Reduces an array along its keyword `axis`: `np.mean`, `functools.partial(np.quantile, q=0.95)`.
    seed : int
        Not negative; equal seeds give equal intervals.
    resamples : int
        At least 1.

    Returns
    -------
    low, high : float
        Ends of the interval of `statistic(values) - statistic(others)`.

    Raises
    ------
    TypeError
        `seed` is not an integer.
    ValueError
        Values are empty, not one-dimensional, not finite or not paired, or `resamples` is out of range.

    Examples
    --------
    >>> paired_interval([5.0, 9.0], [4.0, 8.0], np.mean, seed=0)
    (1.0, 1.0)
    """
    pairs = [finite_vector(values, "values"), finite_vector(others, "others")]
    if pairs[0].size != pairs[1].size:
        raise ValueError(f"values must be paired, not {pairs[0].size} and {pairs[1].size} of them")
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, not {resamples!r}")
    cases = pairs[0].size
    drawn = np.random.default_rng(operator.index(seed)).integers(cases, size=(resamples, cases))
    ours, theirs = (statistic(one[drawn], axis=1) for one in pairs)
    low, high = np.quantile(ours - theirs, [0.025, 0.975])
    return float(low), float(high)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction of p values for their number, in their order.

    (`statsmodels` has it too, and collects garbage at every call.)

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values)
    stepwise = np.sort(p_values) * np.arange(len(order), 0, -1)
    corrected = np.empty(len(order))
    corrected[order] = np.minimum(np.maximum.accumulate(stepwise), 1.0)
    return corrected.tolist()


def finite_vector(values: Sequence[float], name: str) -> np.ndarray:
    """The values as float64; ValueError, naming them, unless they are a vector of finite numbers."""
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or values.size == 0:
        raise ValueError(f"{name} must be a vector of at least one number, not of shape {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError(
            f"{name} must be finite; put the volume's diagonal in the place of infinite distances first"
        )
    return values
