"""Surfaces of masks and the distances between them (section II-F), as pure functions of arrays.

Masks are bool arrays `(z, y, x)`, spacings `(z, y, x)` in mm. A *surface voxel* is a voxel of the mask with
at least one face neighbour outside it; everything beyond the image border is outside.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage


def surface_voxels(mask: np.ndarray) -> np.ndarray:
    """Mark the voxels of a mask that have a face neighbour outside it; the image border counts as outside.

    Parameters
    ----------
    mask : ndarray
        Bool, `(z, y, x)`.

    Returns
    -------
    ndarray
        Bool, of the same shape, a subset of `mask`; empty where the mask is empty.

    Raises
    ------
    TypeError
        `mask` is not a bool array.
    ValueError
        `mask` is not three-dimensional.

    Examples
    --------
    Only the middle of a cube of 3 x 3 x 3 voxels lies inside:

    >>> int(surface_voxels(np.ones((3, 3, 3), bool)).sum())
    26
    """
    mask = checked_mask(mask, "mask")
    interior = mask.copy()
    for axis in range(mask.ndim):
        of_mask = np.moveaxis(mask, axis, 0)  # views: the voxels are changed in `interior`
        of_interior = np.moveaxis(interior, axis, 0)
        of_interior[1:] &= of_mask[:-1]
        of_interior[:-1] &= of_mask[1:]
        of_interior[:1] = False
        of_interior[-1:] = False
    return mask & ~interior


def directed_distances(start: np.ndarray, target: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Distance from every voxel of one mask to the nearest voxel of another, between centres.

    The nearest voxel of all is the nearest of those found slice by slice, and all the slices together cost
    SciPy's transform a third of what the volume does: one pass less, coordinates of two axes, a plane that
    fits the processor's cache. Each voxel looks into its own slice, then one up and one down, and so on until
    further slices are farther away than what it has found; where surfaces are close, that is soon.

    Parameters
    ----------
    start, target : ndarray
        Bool, `(z, y, x)`, of the same shape, not empty.
    spacing : sequence of float
        `(z, y, x)` in mm.

    Returns
    -------
    ndarray
        `(n,)` in mm, one per voxel of `start`, in C order.
    """
    slices = np.flatnonzero(target.any(axis=(1, 2)))
    nearest = _nearest_in_plane(target, slices, spacing)
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


def _nearest_in_plane(target: np.ndarray, slices: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Row and column of the nearest target voxel in the same plane, `(2, voxels)`, valid in `slices`."""
    nearest = np.empty((2, *target.shape), dtype=np.int32)
    for z in slices:
        # Indices only: distances are wanted at few voxels.
        ndimage.distance_transform_edt(
            ~target[z],
            sampling=spacing[1:],
            return_distances=False,
            return_indices=True,
            indices=nearest[:, z],
        )
    return nearest.reshape(2, -1)


def volume_diagonal(shape: Sequence[int], spacing: Sequence[float]) -> float:
    """Physical diagonal of a volume, which stands in for an infinite distance: none within it is longer.

    Parameters
    ----------
    shape : sequence of int
        Voxels `(z, y, x)`.
    spacing : sequence of float
        Edges of a voxel `(z, y, x)` in mm.

    Returns
    -------
    float
        Euclidean norm of `shape * spacing`, in mm.

    Raises
    ------
    ValueError
        `shape` or `spacing` is not three positive finite numbers.

    Examples
    --------
    >>> volume_diagonal((1, 2, 2), (2.0, 1.0, 0.5))
    3.0
    """
    return float(np.linalg.norm(three_positive(shape, "shape") * three_positive(spacing, "spacing")))


def bounding_box(mask: np.ndarray) -> tuple[slice, ...]:
    """Slices `(z, y, x)` of the smallest box around a mask that is not empty."""
    plane = mask.any(axis=0)
    lines = (mask.any(axis=(1, 2)), plane.any(axis=1), plane.any(axis=0))
    ends = [np.flatnonzero(line)[[0, -1]] for line in lines]
    return tuple(slice(first, last + 1) for first, last in ends)


def checked_mask(mask: np.ndarray, name: str) -> np.ndarray:
    """The mask as an array; TypeError or ValueError, naming it, unless it is bool and three-dimensional."""
    mask = np.asarray(mask)
    if mask.dtype != np.bool_:
        raise TypeError(f"{name} must be a bool array, not {mask.dtype}")
    if mask.ndim != 3:
        raise ValueError(f"{name} must have three axes (z, y, x), not the shape {mask.shape}")
    return mask


def three_positive(numbers: Sequence[float], name: str) -> np.ndarray:
    """The numbers as float64; ValueError, naming them, unless they are three, positive and finite."""
    array = np.asarray(numbers, dtype=np.float64)
    if array.shape != (3,) or not (np.isfinite(array) & (array > 0)).all():
        raise ValueError(f"{name} must be three positive finite numbers (z, y, x), not {numbers!r}")
    return array
