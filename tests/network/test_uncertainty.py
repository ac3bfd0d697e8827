"""Entropy, slice and volume uncertainty by hand."""

import math

import numpy as np
import pytest

from uss_bench.network.uncertainty import predictive_entropy, slice_profile, volume_uncertainty


@pytest.mark.parametrize(
    ("probability", "entropy"),
    [
        (0.0, 0.0),
        (1.0, 0.0),
        (0.5, math.log(2)),
        (0.25, 0.25 * math.log(4) + 0.75 * math.log(4 / 3)),
        (0.9, -0.9 * math.log(0.9) - 0.1 * math.log(0.1)),
    ],
)
def test_entropy_in_nats(probability, entropy):
    assert predictive_entropy(probability) == pytest.approx(entropy, abs=1e-12)
    assert predictive_entropy(1 - probability) == pytest.approx(entropy, abs=1e-12)


def test_entropy_keeps_shape_and_float32():
    probability = np.linspace(0, 1, 24, dtype=np.float32).reshape(2, 3, 4)
    entropy = predictive_entropy(probability)
    assert entropy.dtype == np.float32
    assert entropy.shape == (2, 3, 4)
    assert entropy.flat[0] == entropy.flat[-1] == 0
    assert (np.diff(entropy.ravel()[:12]) > 0).all()


def test_profile_is_the_mean_of_each_slice():
    entropy = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    assert slice_profile(entropy).tolist() == [5.5, 17.5]


def test_profile_does_not_lose_precision_in_large_slices():
    entropy = np.full((1, 3000, 3000), 0.1, np.float32)
    assert slice_profile(entropy).tolist() == pytest.approx([float(np.float32(0.1))], rel=1e-9)
    assert slice_profile(entropy).dtype == np.float64


def dilated(mask, reach=5):
    """Dilation by a cube of edge 2 reach + 1, voxel by voxel."""
    result = np.zeros_like(mask)
    for z, y, x in np.argwhere(mask):
        result[
            max(z - reach, 0) : z + reach + 1,
            max(y - reach, 0) : y + reach + 1,
            max(x - reach, 0) : x + reach + 1,
        ] = True
    return result


MASKS = {
    "one voxel inside": [(8, 10, 12)],
    "a corner": [(0, 0, 0)],
    "the far corner": [(17, 19, 21)],
    "an edge and a face": [(0, 10, 21), (9, 19, 3)],
    "two far apart": [(2, 2, 2), (15, 15, 15)],
}


@pytest.mark.parametrize("name", MASKS)
def test_volume_uncertainty_is_the_mean_over_the_mask_dilated_by_an_11_cube(name):
    entropy = np.random.default_rng(0).random((18, 20, 22)).astype(np.float32)
    mask = np.zeros(entropy.shape, bool)
    mask[tuple(np.transpose(MASKS[name]))] = True
    assert volume_uncertainty(entropy, mask) == pytest.approx(
        entropy[dilated(mask)].astype(np.float64).mean(), rel=1e-9
    )


def test_volume_uncertainty_of_one_voxel_by_hand():
    entropy, mask = np.zeros((20, 20, 20)), np.zeros((20, 20, 20), bool)
    mask[9, 9, 9] = True
    entropy[14, 4, 14] = 1331.0  # a corner of the cube
    entropy[15, 9, 9] = entropy[3, 9, 9] = 1e9  # one step outside it
    assert volume_uncertainty(entropy, mask) == 1.0


def test_where_nothing_is_predicted_the_mean_is_over_the_whole_volume():
    entropy = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    value = volume_uncertainty(entropy, np.zeros(entropy.shape, bool))
    assert value == 29.5
    assert type(value) is float


def test_a_mask_of_another_shape_is_an_error():
    with pytest.raises(ValueError, match="mask"):
        volume_uncertainty(np.zeros((2, 3, 4)), np.ones((2, 3, 5), bool))
