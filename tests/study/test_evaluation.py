"""Scores of probabilities whose masks are known, on grids where the result can be worked out by hand."""

import numpy as np
import pytest

from uss_bench.data.volumes import load_volume
from uss_bench.study.evaluation import evaluate_case, validation_jaccard

SPACING = (5.0, 1.0, 2.0)  # z, y, x in mm
SHAPE = (6, 10, 12)


def box(z, y, x, shape=SHAPE):
    mask = np.zeros(shape, bool)
    mask[slice(*z), slice(*y), slice(*x)] = True
    return mask


@pytest.fixture
def volume_of(nifti_case, tmp_path):
    """Volume with a given reference, on its own grid or a coarser one."""

    def build(reference, spacing=SPACING):
        case = nifti_case(np.zeros(reference.shape, np.int16), reference, SPACING)
        return load_volume(case, spacing, tmp_path / "cache")

    return build


def test_a_shifted_box_by_hand(volume_of):
    """Two boxes of 3 x 3 x 3 voxels, 26 of them surface, one step of 2 mm apart along x.

    Nine surface voxels of either box lie that step off the other; of the 17 others, 16 lie on its surface
    and one, in the middle of a face, at its centre, 1 mm (y) from its surface.
    """
    reference, prediction = box((1, 4), (2, 5), (3, 6)), box((1, 4), (2, 5), (4, 7))
    assert evaluate_case(prediction.astype(np.float32), volume_of(reference)) == {
        "DICE": pytest.approx(2 * 18 / 54),
        "RVE": 0.0,
        "MSD": pytest.approx((9 * 2 + 1) / 26),
        "HD": 2.0,
        "HD95": 2.0,
        "NSD": 1.0,
        "missed": False,
    }


def test_half_counts_as_liver_and_less_does_not(volume_of):
    reference = box((1, 4), (2, 5), (3, 6))
    volume = volume_of(reference)
    assert evaluate_case(np.where(reference, 0.5, 0.4999).astype(np.float32), volume)["DICE"] == 1
    assert evaluate_case(np.where(reference, 0.4999, 0.0).astype(np.float32), volume)["missed"] is True
    assert validation_jaccard(np.where(reference, 0.5, 0.4999), volume) == 1
    assert validation_jaccard(np.where(reference, 0.4999, 0), volume) == 0


def test_a_missed_liver_is_flagged_and_infinitely_far(volume_of):
    volume = volume_of(box((1, 4), (2, 5), (3, 6)))
    scores = evaluate_case(np.zeros(SHAPE, np.float32), volume)
    far = {"MSD": np.inf, "HD": np.inf, "HD95": np.inf, "NSD": 0}
    assert scores == {"DICE": 0, "RVE": 100, **far, "missed": True}


def test_a_case_without_liver_cannot_be_missed(volume_of):
    volume = volume_of(np.zeros(SHAPE, bool))
    assert evaluate_case(np.zeros(SHAPE, np.float32), volume) == {
        "DICE": 1,
        "RVE": 0,
        "MSD": 0,
        "HD": 0,
        "HD95": 0,
        "NSD": 1,
        "missed": False,
    }
    found = evaluate_case(np.ones(SHAPE, np.float32), volume)
    assert (found["DICE"], found["missed"]) == (0, False)


def test_scores_are_of_the_native_grid_and_thresholding_comes_after_resampling(volume_of):
    """A working grid of 2 x 2 voxel columns.

    By hand, at quarter steps: 0.75 p + 0.25 p' on the native grid.
    """
    reference = box((0, 6), (0, 10), (0, 7))
    volume = volume_of(reference, spacing=(5.0, 2.0, 4.0))
    assert volume.shape == (6, 5, 6)
    probability = np.zeros(volume.shape, np.float32)
    probability[:, :, :3] = 0.9  # native x 0-5; voxel 6 gets 0.25 * 0.9 = 0.225, less than a half
    scores = evaluate_case(probability, volume)
    assert scores["DICE"] == pytest.approx(2 * 6 / 13)
    assert scores["RVE"] == pytest.approx(100 / 7)
    assert scores["HD"] == 2.0  # one native voxel along x
    probability[:, :, 3] = 0.4  # voxel 6 gets 0.75 * 0.4 + 0.25 * 0.9 = 0.525, voxel 7 gets 0.3
    assert evaluate_case(probability, volume)["DICE"] == 1


def test_validation_jaccard_is_of_the_working_grid(volume_of):
    reference = box((0, 6), (0, 10), (0, 4))
    volume = volume_of(reference, spacing=(5.0, 2.0, 4.0))
    probability = np.zeros((6, 5, 6), np.float32)
    probability[:, :, 1:4] = 1  # working columns 1-3 against 0-1: one of four in common
    assert validation_jaccard(probability, volume) == pytest.approx(1 / 4)
