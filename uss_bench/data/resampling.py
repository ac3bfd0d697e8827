"""Linear resampling between grids of different spacing that share their centre. All axes are `(z, y, x)`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np
from scipy import sparse


def resample(
    volume: np.ndarray,
    spacing: Sequence[float],
    new_spacing: Sequence[float],
    new_shape: tuple[int, ...] | None = None,
) -> np.ndarray:
    """Resample a volume linearly onto a grid of another spacing with the same centre.

    Voxel centres keep their physical place. Where the new grid is at least twice as coarse, whole voxels are
    averaged first, so that a coarse voxel is a mean and not a noisy sample. Beyond the outermost voxel
    centres their value continues.

    Parameters
    ----------
    volume : ndarray
        `(z, y, x)`, of any real type.
    spacing, new_spacing : sequence of float
        `(z, y, x)` in mm.
    new_shape : tuple of int, optional
        `(z, y, x)`; by default the one that covers the same extent, see `grid_shape`.

    Returns
    -------
    ndarray
        float32, of `new_shape`; a copy even where nothing changes.

    Examples
    --------
    >>> line = np.array([0.0, 8.0, 4.0]).reshape(1, 1, 3)
    >>> resample(line, (1, 1, 2), (1, 1, 1)).ravel().tolist()
    [0.0, 2.0, 6.0, 7.0, 5.0, 4.0]
    """
    new_shape = new_shape or grid_shape(volume.shape, spacing, new_spacing)
    result = volume
    # Shrink early: the axis that loses most goes first.
    for axis in sorted(range(3), key=lambda axis: new_shape[axis] / volume.shape[axis]):
        if volume.shape[axis] != new_shape[axis] or spacing[axis] != new_spacing[axis]:
            weights = interpolation_weights(
                volume.shape[axis], new_shape[axis], new_spacing[axis] / spacing[axis]
            )
            result = _resample_axis(result, axis, weights)
    return np.array(result, dtype=np.float32, order="C") if result is volume else result


def resample_planes(
    planes: Iterable[tuple[int, np.ndarray]],
    shape: Sequence[int],
    spacing: Sequence[float],
    new_spacing: Sequence[float],
) -> np.ndarray:
    """Resample a volume of which `planes` yields `(z, plane)`: each plane as it comes, then across them."""
    new_shape = grid_shape(shape, spacing, new_spacing)
    half_way = spacing[0], *new_spacing[1:]
    stack = np.zeros((shape[0], *new_shape[1:]), np.float32)
    for z, plane in planes:
        if plane.any():
            stack[z] = resample(plane[None], spacing, half_way, (1, *new_shape[1:]))[0]
    return resample(stack, half_way, new_spacing, new_shape)


def grid_shape(
    shape: Sequence[int], spacing: Sequence[float], new_spacing: Sequence[float]
) -> tuple[int, ...]:
    """Shape of the grid of `new_spacing` that covers the extent of `shape` voxels of `spacing`.

    >>> grid_shape((10, 10, 10), (2.0, 1.0, 0.5), (1.0, 1.0, 1.0))
    (20, 10, 5)
    """
    return tuple(
        max(1, round(length * old / new))
        for length, old, new in zip(shape, spacing, new_spacing, strict=True)
    )


@lru_cache(maxsize=8)  # all planes of a volume need the same
def interpolation_weights(length: int, new_length: int, ratio: float) -> sparse.csr_array:
    """Weights of linear interpolation at steps of `ratio` voxels about a common centre.

    Returns
    -------
    csr_array
        float32, `(new_length, length)`; rows sum to 1.
    """
    block = max(1, int(ratio + 1e-6))  # 4.8 / 1.6 is a little less than 3
    centres = (np.arange(new_length) - (new_length - 1) / 2) * ratio + (length - 1) / 2
    position = np.clip(centres[:, None] + np.arange(block) - (block - 1) / 2, 0, length - 1)
    below = np.floor(position).astype(int)
    above = np.minimum(below + 1, length - 1)
    rows = np.broadcast_to(np.arange(new_length)[:, None, None], (new_length, block, 2))
    shares = np.stack([1 - (position - below), position - below], axis=-1) / block
    weights = (shares.ravel(), (rows.ravel(), np.stack([below, above], axis=-1).ravel()))
    return sparse.csr_array(weights, shape=(new_length, length)).astype(np.float32)


def _resample_axis(volume: np.ndarray, axis: int, weights: sparse.csr_array) -> np.ndarray:
    """Resample one axis by planes, so that no float32 copy of a whole int16 volume is made."""
    result = np.empty((*volume.shape[:axis], weights.shape[0], *volume.shape[axis + 1 :]), np.float32)
    across = 0 if axis else 1
    _, rows, columns = np.moveaxis(volume, across, 0).shape
    # Rows of odd length: read across, rows of 512 columns would all fall into the same few lines of the
    # processor's cache.
    lines = np.empty((rows, columns | 1), np.float32)[:, :columns]
    for index in range(volume.shape[across]):
        plane = (slice(None),) * across + (index,)
        lines[:] = volume[plane]
        # A plane is `(z, x)`, `(y, x)` or `(y, x)`; a sparse product needs the resampled axis first.
        result[plane] = (weights @ lines.T).T if axis == 2 else weights @ lines
    return result
