"""The four segmentation metrics of the paper (section II.F, equations 3-6), as pure functions of arrays.

Masks are bool arrays of shape `(z, y, x)`, spacings are `(z, y, x)` in mm. Distances run between the centres of *surface voxels*:
mask voxels with at least one of their six face neighbours outside the mask, where everything beyond the image border is outside.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from scipy import ndimage


@dataclass(frozen=True)
class Metric:
    """How a metric is read.

    Attributes:
      unit: printed behind the number; empty for a ratio.
      higher_is_better: direction of improvement.
      robust_quantile: the quantile that describes the poor cases: the 5th percentile where high is good, else the 95th.
    """

    unit: str
    higher_is_better: bool
    robust_quantile: float


# In the order of the paper's tables 4-9.
METRICS = MappingProxyType(
    {
        "DICE": Metric(unit="", higher_is_better=True, robust_quantile=0.05),
        "RVE": Metric(unit="%", higher_is_better=False, robust_quantile=0.95),
        "MSD": Metric(unit="mm", higher_is_better=False, robust_quantile=0.95),
        "HD": Metric(unit="mm", higher_is_better=False, robust_quantile=0.95),
    }
)


def segmentation_metrics(prediction, reference, spacing):
    """Compares a predicted mask with the reference.

      DICE  2 |X n Y| / (|X| + |Y|), in [0, 1]                                                     equation 3
      RVE   |V_X - V_Y| / V_Y * 100, in percent of the reference's volume                          equation 4
      MSD   mean of the two directed mean surface distances, in mm                                 equation 5
      HD    larger of the two directed maximal surface distances, in mm (no percentile)            equation 6

    Equation 5 has a single N; the two surfaces differ in size, so each directed sum is divided by its own number of voxels.
    (This is the mean of MedPy's `asd` both ways with `connectivity=1`; MedPy's own `assd` pools the distances since version 0.5.)

    Empty masks never give NaN, and a missed organ is never a good result:

      prediction  reference     DICE   RVE   MSD   HD
      empty       empty            1     0     0    0
      empty       not empty        0   100   inf  inf
      not empty   empty            0   inf   inf  inf      (equation 4 divides by the reference's volume)

    Args:
      prediction: bool array `(z, y, x)`, X in the paper.
      reference: bool array of the same shape, Y in the paper.
      spacing: three positive numbers `(z, y, x)`, the voxel's edges in mm.

    Returns:
      dict of Python floats with the keys of `METRICS`, in that order.

    Raises:
      TypeError: a mask is not a bool array.
      ValueError: the masks are not three-dimensional or differ in shape, or `spacing` is not three positive finite numbers.
    """
    prediction, reference = _checked_masks(prediction, reference)
    spacing = _three_positive(spacing, "spacing")

    predicted = np.count_nonzero(prediction)
    expected = np.count_nonzero(reference)
    if predicted == 0 and expected == 0:
        return {"DICE": 1.0, "RVE": 0.0, "MSD": 0.0, "HD": 0.0}
    if predicted == 0:
        return {"DICE": 0.0, "RVE": 100.0, "MSD": np.inf, "HD": np.inf}
    if expected == 0:
        return {"DICE": 0.0, "RVE": np.inf, "MSD": np.inf, "HD": np.inf}

    # Nothing lies outside this box, so cutting there changes neither the surfaces nor a distance.
    box = _bounding_box(prediction | reference)
    prediction = np.ascontiguousarray(prediction[box])
    reference = np.ascontiguousarray(reference[box])
    prediction_surface = surface_voxels(prediction)
    reference_surface = surface_voxels(reference)
    with ThreadPoolExecutor(1) as second_thread:  # SciPy's transform releases the GIL
        pending = second_thread.submit(_directed_distances, reference_surface, prediction_surface, spacing)
        forth = _directed_distances(prediction_surface, reference_surface, spacing)
        back = pending.result()
    return {
        "DICE": float(2 * np.count_nonzero(prediction & reference) / (predicted + expected)),
        "RVE": float(100 * abs(predicted - expected) / expected),
        "MSD": float((forth.mean() + back.mean()) / 2.0),
        "HD": float(max(forth.max(), back.max())),
    }


def jaccard(prediction, reference):
    """Intersection over union |X n Y| / |X u Y| of two masks, in [0, 1]; the score of the validation cases.

    Args:
      prediction: bool array `(z, y, x)`.
      reference: bool array of the same shape.

    Returns:
      float; 1 where both masks are empty, 0 where only one is.

    Raises:
      TypeError: a mask is not a bool array.
      ValueError: the masks are not three-dimensional or differ in shape.
    """
    prediction, reference = _checked_masks(prediction, reference)
    union = np.count_nonzero(prediction | reference)
    if union == 0:
        return 1.0
    return float(np.count_nonzero(prediction & reference) / union)


def surface_voxels(mask):
    """Marks the mask's voxels that have a 6-neighbour outside the mask; the image border counts as outside.

    Args:
      mask: bool array `(z, y, x)`.

    Returns:
      bool array of the same shape, a subset of `mask`; empty where the mask is empty.

    Raises:
      TypeError: `mask` is not a bool array.
      ValueError: `mask` is not three-dimensional.
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

    Args:
      shape: three positive numbers of voxels `(z, y, x)`.
      spacing: three positive numbers `(z, y, x)`, the voxel's edges in mm.

    Returns:
      float, the Euclidean norm of `shape * spacing`.

    Raises:
      ValueError: `shape` or `spacing` is not three positive finite numbers.
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
