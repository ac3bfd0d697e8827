"""Annotation effort, on the one axis that figures, tables and areas share: equivalent slices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.integrate import trapezoid

from ..study.annotation import CONTOURED
from ..study.keys import INITIAL, ModelKey
from .results import Results

# What the reports say of it, once each.
DEFINITION = (
    "Equivalent slices, by the paper's assumptions: liver slices queried one by one, and a third of those of "
    "whole volumes, contoured on every third slice; slices without liver cost nothing, but models learn from "
    "them."
)


def equivalent_slices(results: Results, key: ModelKey) -> float:
    """Annotation effort of a model: liver slices queried one by one, and a third of those of whole volumes.

    Contours of a volume are drawn on about every third slice and interpolated between (section IV-A).
    """
    counts = {which: results.effort[which]["annotated_liver_slices"] for which in (INITIAL, key)}
    by_slices = any(row["slice"] for row in results.queries if row["strategy"] == key.strategy)
    alone = counts[key] - counts[INITIAL] if by_slices else 0
    return alone + (counts[key] - alone) / CONTOURED


def mean_height(effort: Sequence[float], curves: np.ndarray, start: float, stop: float) -> np.ndarray:
    """Area under piecewise linear curves between two efforts, over their distance.

    Parameters
    ----------
    effort : sequence of float
        `(points,)`, covering the range; points of equal effort, where nothing was left to ask for, count by
        their mean.
    curves : ndarray
        `(points, n)`, one curve per column.
    start, stop : float
        The range; where it is empty, the height there is the mean.

    Examples
    --------
    >>> mean_height([0, 10, 30], np.array([[0.0], [1.0], [1.0]]), 0, 20).tolist()
    [0.75]
    """
    points, places = np.unique(effort, return_inverse=True)
    curves = np.stack([curves[places == place].mean(axis=0) for place in range(len(points))])
    grid = np.unique([start, *points[(points > start) & (points < stop)], stop])
    heights = np.stack([np.interp(grid, points, curve) for curve in curves.T])
    return trapezoid(heights, grid) / (stop - start) if stop > start else heights[:, 0]
