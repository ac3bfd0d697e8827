"""Uncertainty of a voxel, a slice and a volume from Monte Carlo dropout (section II-D)."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import maximum_filter
from scipy.special import entr


def predictive_entropy(mean_probability: float | np.ndarray) -> float | np.ndarray:
    """Entropy in nats of the mean foreground probability, element by element (equation 2).

    Parameters
    ----------
    mean_probability : float or array of any shape, in [0, 1]
        Mean over the Monte Carlo samples.

    Returns
    -------
    float or array of the same shape and type
        Zero at 0 and 1, ln 2 at 1/2.

    Examples
    --------
    >>> predictive_entropy(np.array([0.0, 0.5, 0.9])).round(3).tolist()
    [0.0, 0.693, 0.325]
    """
    return entr(mean_probability) + entr(1 - mean_probability)


def mutual_information(entropy: np.ndarray, mean_entropy: np.ndarray) -> np.ndarray:
    """How far Monte Carlo samples disagree, in nats: BALD (Houlsby et al. 2011, Gal et al. 2017).

    It is the part of the predictive entropy that the samples' own entropies do not explain: high where each
    is sure of something else, zero where all are equally unsure.

    Parameters
    ----------
    entropy : array of any shape
        Predictive entropy, that of the samples' mean, in nats.
    mean_entropy : array of the same shape
        Mean of the samples' own entropies, in nats.

    Returns
    -------
    array of the same shape
        Between 0 and ln 2.

    Examples
    --------
    >>> samples = np.array([[0.0, 0.5], [1.0, 0.5]])  # two samples of two voxels
    >>> own_entropies = predictive_entropy(samples)
    >>> entropy = predictive_entropy(samples.mean(axis=0))
    >>> mutual_information(entropy, own_entropies.mean(axis=0)).round(3).tolist()
    [0.693, 0.0]
    """
    # It cannot be negative, but rounding can make it so.
    return np.maximum(entropy - mean_entropy, 0)


def mean_pairwise_dice(overlaps: np.ndarray) -> float:
    """Mean DICE over all pairs of masks, a measure of agreement (Roy et al. 2019; Zenk et al. 2025).

    Parameters
    ----------
    overlaps : (n, n) array
        Voxels that two masks share; on the diagonal, voxels of each mask.

    Returns
    -------
    float
        In [0, 1]; 1 for a single mask. Two empty masks agree.

    Examples
    --------
    >>> mean_pairwise_dice(np.array([[4, 2, 0], [2, 4, 0], [0, 0, 0]]))  # 1/2, 0 and 0
    0.16666666666666666
    """
    first, second = np.triu_indices(len(overlaps), k=1)
    if not len(first):
        return 1.0
    sizes = np.diag(overlaps)
    total = sizes[first] + sizes[second]
    dice = np.divide(2 * overlaps[first, second], total, out=np.ones(len(first)), where=total > 0)
    return float(dice.mean())


def slice_profile(entropy: np.ndarray) -> np.ndarray:
    """Mean of each axial slice, over all its voxels: unlike a volume, a slice has no mask.

    Parameters
    ----------
    entropy : (z, y, x) array
        In nats; any other quantity of the voxels is averaged alike.

    Returns
    -------
    (z,) float64 array

    Examples
    --------
    >>> entropy = np.zeros((3, 4, 4))
    >>> entropy[1, :2] = 0.5
    >>> slice_profile(entropy).tolist()
    [0.0, 0.25, 0.0]
    """
    return np.mean(entropy, axis=(1, 2), dtype=np.float64)


def volume_uncertainty(
    entropy: np.ndarray, mask: np.ndarray, reach: tuple[int, int, int] = (5, 5, 5)
) -> float:
    """Mean entropy inside the predicted liver, dilated by a cube (in the paper of 11 voxels).

    Parameters
    ----------
    entropy : (z, y, x) array
        In nats.
    mask : (z, y, x) bool array
        The predicted liver before dilation. Where nothing is predicted, the mean is over the whole volume.
    reach : tuple of int
        Voxels `(z, y, x)` by which the cube reaches beyond its centre on either side.

    Returns
    -------
    float
        In nats.

    Raises
    ------
    ValueError
        The shapes differ.

    Examples
    --------
    >>> entropy = np.ones((20, 20, 20))
    >>> entropy[:, :, 10:] = 0.0
    >>> mask = np.zeros(entropy.shape, bool)
    >>> mask[10, 10, 7] = True  # dilated: x from 2 to 12, eight of these eleven below 10
    >>> round(volume_uncertainty(entropy, mask), 3)
    0.727
    """
    mask = np.asarray(mask, dtype=bool)
    if mask.shape != entropy.shape:
        raise ValueError(f"mask: shape {mask.shape} differs from the entropy's {entropy.shape}")
    if not mask.any():
        return float(np.mean(entropy, dtype=np.float64))
    edges = [2 * voxels + 1 for voxels in reach]
    dilated = maximum_filter(mask, edges, mode="constant", cval=False)
    return float(np.mean(entropy[dilated], dtype=np.float64))
