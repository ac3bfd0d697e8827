"""Segmentation metrics (section II-F, equations 3-6), as pure functions of arrays.

Masks are bool arrays `(z, y, x)`, spacings `(z, y, x)` in mm. Distances run between the centres of *surface voxels*:
mask voxels of which at least one face neighbour lies outside the mask; everything beyond the image border is outside.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from scipy import ndimage


@dataclass(frozen=True)
class Agreement:
    """What metrics are computed from, where neither mask is empty.

    Attributes
    ----------
    predicted, expected, common : number of voxels of the prediction, of the reference, of both
    forth, back : `(n,)` distances in mm from each surface voxel of the prediction to the surface of the reference, and
        the other way
    """

    predicted: int
    expected: int
    common: int
    forth: np.ndarray
    back: np.ndarray


@dataclass(frozen=True)
class Metric:
    """A metric: how it is computed, and how it is read.

    Attributes
    ----------
    measure : function of an `Agreement`
    unit : printed behind the number; empty for a ratio
    higher_is_better : direction of improvement
    decimals : digits printed behind the point
    missed, spurious, neither : its value where only the reference, only the prediction, or neither holds any voxel
    in_paper : whether it is one of the paper's four
    """

    measure: Callable[[Agreement], float]
    unit: str
    higher_is_better: bool
    decimals: int
    missed: float
    spurious: float
    neither: float
    in_paper: bool = False

    @property
    def robust_quantile(self) -> float:
        """The quantile that describes the poor cases: the 5th percentile where high is good, else the 95th."""
        return 0.05 if self.higher_is_better else 0.95


def dice(found: Agreement) -> float:
    """2 |X n Y| / (|X| + |Y|), in [0, 1] (equation 3)."""
    return 2 * found.common / (found.predicted + found.expected)


def relative_volume_error(found: Agreement) -> float:
    """|V_X - V_Y| / V_Y, in percent of the reference's volume (equation 4)."""
    return 100 * abs(found.predicted - found.expected) / found.expected


def mean_surface_distance(found: Agreement) -> float:
    """Mean of the two directed mean surface distances, in mm (equation 5).

    Equation 5 has a single N; the two surfaces differ in size, so each directed sum is divided by its own number of
    voxels. (This is the mean of MedPy's `asd` both ways with `connectivity=1`; its `assd` pools the distances.)
    """
    return (found.forth.mean() + found.back.mean()) / 2


def hausdorff_distance(found: Agreement) -> float:
    """Larger of the two directed maximal surface distances, in mm, no percentile (equation 6)."""
    return max(found.forth.max(), found.back.max())


# The paper's four in the order of its Tables 4-9; others after them get a table of their own in the report.
METRICS = MappingProxyType(
    {
        "DICE": Metric(dice, "", True, 3, missed=0.0, spurious=0.0, neither=1.0, in_paper=True),
        "RVE": Metric(
            relative_volume_error, "%", False, 2, missed=100.0, spurious=np.inf, neither=0.0, in_paper=True
        ),
        "MSD": Metric(
            mean_surface_distance, "mm", False, 2, missed=np.inf, spurious=np.inf, neither=0.0, in_paper=True
        ),
        "HD": Metric(
            hausdorff_distance, "mm", False, 1, missed=np.inf, spurious=np.inf, neither=0.0, in_paper=True
        ),
    }
)
PAPER_METRICS = tuple(name for name, metric in METRICS.items() if metric.in_paper)


def segmentation_metrics(
    prediction: np.ndarray, reference: np.ndarray, spacing: Sequence[float]
) -> dict[str, float]:
    """Compare a predicted mask with the reference.

    Empty masks never give NaN, and a missed organ is never a good result: see `Metric.missed` and its neighbours. RVE
    is infinite where the reference is empty, since equation 4 divides by its volume.

    Parameters
    ----------
    prediction : bool array `(z, y, x)`, X in the paper
    reference : bool array of the same shape, Y in the paper
    spacing : three positive numbers `(z, y, x)`, the voxel's edges in mm

    Returns
    -------
    `{name: value}` for each of `METRICS`, in that order

    Raises
    ------
    TypeError
        A mask is not a bool array.
    ValueError
        The masks are not three-dimensional or differ in shape, or `spacing` is not three positive finite numbers.

    Examples
    --------
    Two voxels, of which one is found; the other lies 2 mm beside it:

    >>> reference = np.array([[[True, True]]])
    >>> segmentation_metrics(np.array([[[True, False]]]), reference, (1, 1, 2))
    {'DICE': 0.6666666666666666, 'RVE': 50.0, 'MSD': 0.5, 'HD': 2.0}
    """
    prediction, reference = _checked_masks(prediction, reference)
    spacing = _three_positive(spacing, "spacing")
    if not reference.any():
        return {name: each.spurious if prediction.any() else each.neither for name, each in METRICS.items()}
    if not prediction.any():
        return {name: each.missed for name, each in METRICS.items()}
    found = _agreement(prediction, reference, spacing)
    return {name: float(each.measure(found)) for name, each in METRICS.items()}


def _agreement(prediction, reference, spacing):
    # Nothing lies outside this box, so cutting there changes neither the surfaces nor a distance.
    box = _bounding_box(prediction | reference)
    prediction, reference = (np.ascontiguousarray(mask[box]) for mask in (prediction, reference))
    surfaces = surface_voxels(prediction), surface_voxels(reference)
    with ThreadPoolExecutor(1) as second_thread:  # SciPy's transform releases the GIL
        pending = second_thread.submit(_directed_distances, *reversed(surfaces), spacing)
        forth = _directed_distances(*surfaces, spacing)
        back = pending.result()
    predicted, expected, common = map(np.count_nonzero, (prediction, reference, prediction & reference))
    return Agreement(predicted, expected, common, forth, back)


def jaccard(prediction, reference):
    """Intersection over union |X n Y| / |X u Y| of two masks, in [0, 1]; the score of the validation cases.

    Parameters
    ----------
    prediction : bool array `(z, y, x)`.
    reference : bool array of the same shape.

    Returns
    -------
    float; 1 where both masks are empty, 0 where only one is.

    Raises
    ------
    TypeError
        A mask is not a bool array.
    ValueError
        The masks are not three-dimensional or differ in shape.
    """
    prediction, reference = _checked_masks(prediction, reference)
    union = np.count_nonzero(prediction | reference)
    if union == 0:
        return 1.0
    return float(np.count_nonzero(prediction & reference) / union)


def surface_voxels(mask):
    """Marks the mask's voxels that have a 6-neighbour outside the mask; the image border counts as outside.

    Parameters
    ----------
    mask : bool array `(z, y, x)`.

    Returns
    -------
    bool array of the same shape, a subset of `mask`; empty where the mask is empty.

    Raises
    ------
    TypeError
        `mask` is not a bool array.
    ValueError
        `mask` is not three-dimensional.
    """
    mask = _checked_mask(mask, "mask")
    interior = mask.copy()
    for axis in range(mask.ndim):
        of_mask = np.moveaxis(mask, axis, 0)  # views: the voxels are changed in `interior`
        of_interior = np.moveaxis(interior, axis, 0)
        of_interior[1:] &= of_mask[:-1]
        of_interior[:-1] &= of_mask[1:]
        of_interior[:1] = False
        of_interior[-1:] = False
    return mask & ~interior


def volume_diagonal(shape, spacing):
    """Physical diagonal of a volume in mm: no distance within it is longer, so it stands in for an infinite one.

    Parameters
    ----------
    shape : three positive numbers of voxels `(z, y, x)`.
    spacing : three positive numbers `(z, y, x)`, the voxel's edges in mm.

    Returns
    -------
    float, the Euclidean norm of `shape * spacing`.

    Raises
    ------
    ValueError
        `shape` or `spacing` is not three positive finite numbers.
    """
    return float(np.linalg.norm(_three_positive(shape, "shape") * _three_positive(spacing, "spacing")))


def _directed_distances(start, target, spacing):
    """Distance in mm from every voxel of the mask `start` to the nearest voxel of the mask `target`; both not empty.

    The nearest voxel of all is the nearest of those found slice by slice, and all the slices cost SciPy's transform a third of the volume:
    one pass less, coordinates of two axes, a plane that fits the processor's cache. Each voxel looks into its own slice, then one up and
    one down, and so on until further slices are farther away than what it has found: where surfaces are close, that is soon.
    """
    nearest = np.empty(
        (2, *target.shape), dtype=np.int32
    )  # row and column in the plane, for slices that hold any of `target`
    slices = np.flatnonzero(target.any(axis=(1, 2)))
    for z in slices:
        # Indices only: distances are wanted at few voxels.
        ndimage.distance_transform_edt(
            ~target[z],
            sampling=spacing[1:],
            return_distances=False,
            return_indices=True,
            indices=nearest[:, z],
        )

    nearest = nearest.reshape(2, -1)
    places = np.flatnonzero(start)
    z, *in_plane = np.unravel_index(places, start.shape)
    squared = np.where(target.ravel()[places], 0.0, np.inf)
    for step in range(len(target)):
        across = (step * spacing[0]) ** 2
        asking = np.flatnonzero(squared > across)
        if len(asking) == 0:
            break
        for side in {-step, step}:
            answered = asking[np.isin(z[asking] + side, slices)]
            there = places[answered] + side * target[0].size
            found = across
            for index, own, length in zip(nearest, in_plane, spacing[1:], strict=True):
                found = found + ((index[there] - own[answered]) * length) ** 2
            squared[answered] = np.minimum(squared[answered], found)
    return np.sqrt(squared)


def _bounding_box(mask):
    """Slices `(z, y, x)` of the smallest box around a mask that is not empty."""
    plane = mask.any(axis=0)
    lines = (mask.any(axis=(1, 2)), plane.any(axis=1), plane.any(axis=0))
    ends = [np.flatnonzero(line)[[0, -1]] for line in lines]
    return tuple(slice(first, last + 1) for first, last in ends)


def _checked_mask(mask, name):
    mask = np.asarray(mask)
    if mask.dtype != np.bool_:
        raise TypeError(f"{name} must be a bool array, not {mask.dtype}")
    if mask.ndim != 3:
        raise ValueError(f"{name} must have three axes (z, y, x), not the shape {mask.shape}")
    return mask


def _checked_masks(prediction, reference):
    prediction = _checked_mask(prediction, "prediction")
    reference = _checked_mask(reference, "reference")
    if prediction.shape != reference.shape:
        raise ValueError(
            f"prediction and reference must have the same shape, not {prediction.shape} and {reference.shape}"
        )
    return prediction, reference


def _three_positive(numbers, name):
    array = np.asarray(numbers, dtype=np.float64)
    if array.shape != (3,) or not (np.isfinite(array) & (array > 0)).all():
        raise ValueError(f"{name} must be three positive finite numbers (z, y, x), not {numbers!r}")
    return array
