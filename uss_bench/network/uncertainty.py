"""Uncertainty of a voxel, a slice and a volume from Monte Carlo dropout (section II-D)."""

import numpy as np
from scipy.ndimage import maximum_filter
from scipy.special import entr

DILATION = 11  # edge of the cube, in voxels


def predictive_entropy(mean_probability):
    """Entropy in nats (equation 2) of the mean foreground probability, element by element; zero at 0 and 1, ln 2 at 1/2."""
    return entr(mean_probability) + entr(1 - mean_probability)


def slice_profile(entropy):
    """Mean entropy of each axial slice, `(z, y, x)` to `(z,)`, over all voxels of the slice: unlike a volume, a slice has no mask."""
    return np.mean(entropy, axis=(1, 2), dtype=np.float64)


def volume_uncertainty(entropy, mask):
    """Mean entropy inside the predicted liver, dilated by an 11 x 11 x 11 cube.

    Parameters
    ----------
    entropy : (z, y, x) array in nats
    mask : (z, y, x) bool array, the predicted liver before dilation. Where nothing is predicted, the mean is over the whole volume.
    """
    mask = np.asarray(mask, dtype=bool)
    if mask.shape != entropy.shape:
        raise ValueError(f"mask: shape {mask.shape} differs from the entropy's {entropy.shape}")
    if not mask.any():
        return float(np.mean(entropy, dtype=np.float64))
    return float(
        np.mean(entropy[maximum_filter(mask, DILATION, mode="constant", cval=False)], dtype=np.float64)
    )
