"""Cases whose files do not fit; resampling against SimpleITK, NumPy and shapes of known place; the cache."""

import hashlib
import os
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage
from test_nifti import DATA, SHAPE, SPACING, needs_data, noise, turned

from uss_bench.data import case_files, volumes
from uss_bench.data.case_files import header_problems, read_label
from uss_bench.data.manifest import Case
from uss_bench.data.nifti import read_nifti
from uss_bench.data.resampling import grid_shape, interpolation_weights, resample
from uss_bench.data.volumes import Volume, grids, load_volume, missing_bytes
from uss_bench.runtime import storage
from uss_bench.runtime.errors import InputError
from uss_bench.runtime.storage import file_digest, remembered_digest
from uss_bench.study.metrics import segmentation_metrics


def bare_case(image="absent.nii.gz", label="absent.nii.gz", **fields):
    return Case("c1", "site", "pool", Path(image), Path(label), "c1", **fields)


# --- image and label ----------------------------------------------------------------------------------------


def test_a_spacing_of_the_manifest_overrides_that_of_the_file(nifti_case, tmp_path):
    case = nifti_case(noise(), np.ones(SHAPE), spacing=(1.0, 1.0, 1.0))
    for spacing in ((1.0, 1.0, 1.0), (1.5, 1.3, 1.6)):
        volume = load_volume(replace(case, spacing=spacing), (1.0, 1.0, 1.0), tmp_path / "cache")
        assert volume.native_spacing == spacing
        assert (
            volume.image.shape
            == volume.label.shape
            == tuple(round(length * size) for length, size in zip(SHAPE, spacing, strict=True))
        )


@pytest.mark.parametrize(
    ("label_values", "expected"), [((), [1, 2, 3]), ((1,), [1]), ((1, 2), [1, 2]), ((7,), [])]
)
@pytest.mark.parametrize("dtype", [np.uint8, np.float64])
def test_label_values_make_the_mask(tmp_path, label_values, expected, dtype):
    array = np.random.default_rng(0).integers(0, 4, size=SHAPE)
    nib.save(turned(array.astype(dtype), SPACING, "LPS"), tmp_path / "liver.nii.gz")
    mask, *_ = read_label(bare_case(label=tmp_path / "liver.nii.gz", label_values=label_values))
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask, np.isin(array, expected))


@needs_data
def test_the_same_mask_in_another_orientation_is_the_same():
    plain, turned_to_las = (
        read_label(bare_case(label=DATA / "real" / "ircadb01" / f"{name}.nii.gz"))[0]
        for name in ("liver", "liver_LAS")
    )
    np.testing.assert_array_equal(plain, turned_to_las)
    _, spacing, _ = read_nifti(DATA / "real" / "ircadb01" / "liver.nii.gz")
    assert segmentation_metrics(plain, turned_to_las, spacing) == {
        "DICE": 1.0,
        "RVE": 0.0,
        "MSD": 0.0,
        "HD": 0.0,
        "HD95": 0.0,
        "NSD": 1.0,
    }
    # mL, as the data's notes have it:
    assert plain.sum() * np.prod(spacing) / 1000 == pytest.approx(1489, abs=1)


@needs_data
def test_tumours_inside_the_liver_belong_to_it():
    folder = DATA / "real" / "ircadb01"
    liver, *_ = read_label(bare_case(label=folder / "liver.nii.gz"))
    both, *_ = read_label(bare_case(label=folder / "liver1_tumour2.nii.gz", label_values=(1, 2)))
    np.testing.assert_array_equal(liver, both)


# --- what is wrong with them --------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_an_input_error(nifti_case, tmp_path, value):
    image = noise().astype(np.float32)
    image[2, 3, 4] = value
    with pytest.raises(InputError, match=r"case_ct.*NaN or infinite"):
        load_volume(nifti_case(image, np.zeros(SHAPE)), SPACING, tmp_path / "cache")


@pytest.mark.parametrize("value", [0.5, np.nan, np.inf])
def test_labels_that_are_not_whole_are_an_input_error(tmp_path, value):
    array = np.zeros(SHAPE, np.float32)
    array[1, 2, 3] = value
    nib.save(turned(array, SPACING, "RAS"), tmp_path / "liver.nii.gz")
    with pytest.raises(InputError, match=r"liver\.nii\.gz: labels are not whole numbers"):
        read_label(bare_case(label=tmp_path / "liver.nii.gz"))


@needs_data
def test_a_mask_resampled_with_splines_is_an_input_error():
    with pytest.raises(InputError, match="not whole numbers"):
        read_label(bare_case(label=DATA / "problem" / "mask_interpolated_noninteger.nii.gz"))


@needs_data
def test_an_empty_mask_reads_as_no_liver():
    assert not read_label(bare_case(label=DATA / "problem" / "empty_liver_mask.nii.gz"))[0].any()


def test_grids_are_those_of_the_turned_volume(nifti_case):
    """A file stored as (z, y, x) in other directions; its faulty `pixdim` of 1 mm does not count."""
    case = nifti_case(noise(), np.zeros(SHAPE))
    # The first axis points up, the second back, the third left.
    affine = np.array([[0, 0, -2, 0], [0, -3, 0, 0], [5, 0, 0, 0], [0, 0, 0, 1.0]])
    image = nib.Nifti1Image(np.zeros((12, 8, 20), np.int16), affine)
    image.header["pixdim"][1:4] = 1
    nib.save(image, case.image)
    assert grids(case, (5.0, 6.0, 2.0)) == ((12, 8, 20), (12, 4, 20))
    assert grids(replace(case, spacing=(10.0, 3.0, 2.0)), (5.0, 6.0, 2.0)) == ((12, 8, 20), (24, 4, 20))


# --- resampling ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("new_spacing", [(1.5, 1.0, 1.0), (2.0, 0.5, 0.9), (4.9, 1.4, 2.4), (0.7, 0.7, 0.7)])
def test_linear_resampling_equals_that_of_simpleitk(new_spacing):
    sitk = pytest.importorskip("SimpleITK")
    volume = ndimage.gaussian_filter(noise((13, 30, 22)).astype(np.float32), 1)
    shape = grid_shape(volume.shape, SPACING, new_spacing)
    image = sitk.GetImageFromArray(volume)
    image.SetSpacing(SPACING[::-1])
    # The same centre: half the difference of the extents between the outermost voxel centres.
    first = [
        ((n - 1) * old - (m - 1) * new) / 2
        for n, old, m, new in zip(volume.shape, SPACING, shape, new_spacing, strict=True)
    ]
    peer = sitk.GetArrayFromImage(
        sitk.Resample(
            image,
            shape[::-1],
            sitk.Transform(),
            sitk.sitkLinear,
            first[::-1],
            new_spacing[::-1],
            np.eye(3).ravel().tolist(),
            1e6,
        )
    )
    result = resample(volume, SPACING, new_spacing)
    inside = peer < 1e5  # positions between the outermost voxel centres
    assert result.shape == peer.shape == shape
    assert result.dtype == np.float32
    assert inside.mean() > 0.6
    np.testing.assert_allclose(result[inside], peer[inside], atol=0.5)


def test_linear_resampling_by_hand():
    """Halves of 2 mm: new centres at a quarter and three quarters, and beyond the last centre its value."""
    line = np.array([0.0, 8.0, 4.0]).reshape(1, 1, 3)
    assert resample(line, (1, 1, 2), (1, 1, 1)).flatten().tolist() == [0, 2, 6, 7, 5, 4]


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("ratio", [2, 3, 5])
def test_whole_blocks_are_averaged_where_the_grid_is_coarser(axis, ratio):
    volume = noise((4, 4, 4)).astype(np.float64)
    # 4 ratio voxels along the axis:
    volume = np.concatenate([volume * factor for factor in range(ratio)], axis=axis)
    new_spacing = [1.0, 1.0, 1.0]
    new_spacing[axis] = float(ratio)
    blocks = np.moveaxis(volume, axis, 0).reshape(4, ratio, 4, 4).mean(axis=1)
    np.testing.assert_allclose(
        np.moveaxis(resample(volume, (1, 1, 1), new_spacing), axis, 0), blocks, atol=1e-3
    )


def test_a_ratio_that_rounds_to_just_below_a_whole_number_counts_as_whole():
    assert 4.8 / 1.6 < 3
    line = np.array([3.0, 0, 0, 0, 30, 0]).reshape(1, 1, 6)
    assert resample(line, (1, 1, 1.6), (1, 1, 4.8)).flatten().tolist() == pytest.approx([1, 10])


def test_a_grid_two_and_a_half_times_coarser_averages_two_samples():
    line = np.array([0.0, 10, 0, 0, 20]).reshape(1, 1, 5)
    # New centres 0.75 and 3.25; samples half a voxel to either side: 0.25, 1.25 and 2.75, 3.75.
    assert resample(line, (1, 1, 1), (1, 1, 2.5)).flatten().tolist() == pytest.approx(
        [(2.5 + 7.5) / 2, (0 + 15) / 2]
    )


@pytest.mark.parametrize(
    "new_spacing", [(1.5, 1.0, 1.0), (6.0, 6.0, 6.0), (10.0, 0.3, 2.5), (0.5, 4.0, 1.25), (50.0, 50.0, 50.0)]
)
def test_a_constant_stays_constant(new_spacing):
    np.testing.assert_allclose(resample(np.full((9, 11, 10), 37), SPACING, new_spacing), 37, rtol=1e-6)


@pytest.mark.parametrize("new_spacing", [(1.5, 1.0, 1.0), (6.0, 2.0, 4.0), (5.0, 0.3, 2.5), (2.4, 3.1, 0.5)])
@pytest.mark.parametrize("axis", range(3))
def test_a_ramp_stays_the_ramp_where_it_is_in_the_world(axis, new_spacing):
    shape = (24, 40, 32)
    place = (np.arange(shape[axis]) - (shape[axis] - 1) / 2) * SPACING[axis]  # mm from the centre
    volume = np.broadcast_to(np.expand_dims(place, [other for other in range(3) if other != axis]), shape)
    result = np.moveaxis(resample(volume, SPACING, new_spacing), axis, 0)
    new_place = (np.arange(len(result)) - (len(result) - 1) / 2) * new_spacing[axis]
    inside = np.abs(new_place) <= place[-1] - new_spacing[axis] / 2
    assert inside.sum() > 3
    np.testing.assert_allclose(
        result[inside], np.broadcast_to(new_place[inside, None, None], result[inside].shape), atol=1e-4
    )


def test_equal_spacing_changes_nothing():
    volume = noise()
    result = resample(volume, SPACING, SPACING)
    np.testing.assert_array_equal(result, volume)
    result += 1
    np.testing.assert_array_equal(volume, noise())  # a copy


@pytest.mark.parametrize(
    ("shape", "spacing", "new_spacing", "expected"),
    [
        ((129, 512, 512), (1.6, 0.57, 0.57), (1.5, 1.0, 1.0), (138, 292, 292)),
        ((1, 1, 1), (1, 1, 1), (50, 50, 50), (1, 1, 1)),
        ((10, 10, 10), (2, 1, 0.5), (1, 1, 1), (20, 10, 5)),
    ],
)
def test_the_new_grid_covers_the_same_extent(shape, spacing, new_spacing, expected):
    assert grid_shape(shape, spacing, new_spacing) == expected


@pytest.mark.parametrize("ratio", [0.3, 1.0, 1.7, 2.0, 2.5, 7.3])
def test_interpolation_weights_are_means(ratio):
    weights = interpolation_weights(20, max(1, round(20 / ratio)), ratio).toarray()
    assert weights.min() >= 0
    assert weights.sum(axis=1) == pytest.approx(np.ones(len(weights)), abs=1e-6)
    np.testing.assert_allclose(weights[::-1, ::-1], weights, atol=1e-6)  # about the common centre


# --- the working grid and back ------------------------------------------------------------------------------


def ball(shape, spacing, centre, radius):
    """Ball in mm, centre from the volume's corner."""
    places = [(np.arange(n) + 0.5) * size for n, size in zip(shape, spacing, strict=True)]
    z, y, x = np.meshgrid(*places, indexing="ij", sparse=True)
    return (z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2 <= radius**2


@pytest.mark.parametrize("spacing", [(1.5, 1.0, 1.0), (3.0, 2.0, 2.0), (6.0, 4.0, 4.0), (7.0, 5.5, 6.1)])
def test_a_ball_comes_back_from_the_working_grid_where_it_was(nifti_case, tmp_path, spacing):
    native = (2.5, 0.9, 0.8)
    mask = ball((37, 103, 117), native, centre=(47.0, 41.0, 55.0), radius=27.0)
    volume = load_volume(
        nifti_case(np.zeros(mask.shape, np.int16), mask, native), spacing, tmp_path / "cache"
    )
    assert volume.shape == volume.label.shape == grid_shape(mask.shape, native, spacing)
    back = volume.to_native(volume.label)
    assert back.dtype == np.float32
    prediction = back >= 0.5
    assert 2 * (prediction & mask).sum() / (prediction.sum() + mask.sum()) > (
        0.98 if max(spacing) < 4 else 0.93
    )
    shift = np.subtract(ndimage.center_of_mass(prediction), ndimage.center_of_mass(mask)) * native / spacing
    assert np.abs(shift).max() < 0.05  # of a working voxel


def test_a_soft_ball_comes_back_without_a_shift_of_a_twentieth_of_a_native_voxel(nifti_case, tmp_path):
    """Probabilities keep what a mask on the coarse grid loses."""
    native, spacing = (2.5, 0.9, 0.8), (6.0, 4.0, 4.0)
    mask = ball((37, 103, 117), native, centre=(47.0, 41.0, 55.0), radius=27.0)
    volume = load_volume(
        nifti_case(np.zeros(mask.shape, np.int16), mask, native), spacing, tmp_path / "cache"
    )
    prediction = volume.to_native(resample(mask, native, spacing)) >= 0.5
    assert np.abs(np.subtract(ndimage.center_of_mass(prediction), ndimage.center_of_mass(mask))).max() < 0.05


def test_a_loaded_volume_holds_the_arrays_and_facts_of_its_files(nifti_case, tmp_path):
    image, label = noise((8, 10, 12)), noise((8, 10, 12), seed=1) > 0
    label[3] = False
    case = nifti_case(image, label, (2.0, 1.0, 1.0))
    volume = load_volume(case, (4.0, 2.0, 3.0), tmp_path / "cache")
    assert (volume.shape, volume.spacing) == ((4, 5, 4), (4.0, 2.0, 3.0))
    assert (volume.native_shape, volume.native_spacing) == ((8, 10, 12), (2.0, 1.0, 1.0))
    np.testing.assert_array_equal(volume.reference(), label)
    means = image.reshape(4, 2, 5, 2, 4, 3).mean(axis=(1, 3, 5))
    assert volume.image.dtype == np.int16
    np.testing.assert_allclose(volume.image, means, atol=0.51)
    shares = label.reshape(4, 2, 5, 2, 4, 3).mean(axis=(1, 3, 5))
    assert (volume.label.dtype, set(np.unique(volume.label))) == (np.uint8, {0, 1})
    clear = np.abs(shares - 0.5) > 1e-6
    np.testing.assert_array_equal(np.asarray(volume.label)[clear], (shares >= 0.5)[clear])
    assert [volume.shows_liver(z) for z in range(4)] == volume.label.any(axis=(1, 2)).tolist()


def test_shows_liver_by_slice(nifti_case, tmp_path):
    label = np.zeros((6, 4, 4), bool)
    label[2:4, 1, 1] = True
    volume = load_volume(
        nifti_case(np.zeros(label.shape, np.int16), label), (2.0, 1.0, 1.0), tmp_path / "cache"
    )
    assert [volume.shows_liver(z) for z in range(6)] == [False, False, True, True, False, False]


def test_half_a_voxel_of_liver_is_liver(nifti_case, tmp_path):
    """Slices of 4 mm hold two of 2 mm each; liver lies in the second of the first pair alone."""
    label = np.zeros((4, 4, 4), bool)
    label[1] = True
    case = nifti_case(np.zeros(label.shape, np.int16), label, (2.0, 1.0, 1.0))
    volume = load_volume(case, (4.0, 1.0, 1.0), tmp_path / "cache")
    assert np.asarray(volume.label).any(axis=(1, 2)).tolist() == [True, False]


def test_hu_beyond_int16_are_clipped_and_fractions_rounded(nifti_case, tmp_path):
    image = np.zeros(SHAPE, np.float32)
    image[0, 0, :4] = 40_000, -40_000, 10.4, -10.6
    volume = load_volume(nifti_case(image, np.zeros(SHAPE), SPACING), SPACING, tmp_path / "cache")
    assert volume.image[0, 0, :4].tolist() == [32767, -32768, 10, -11]


def test_label_and_image_may_be_stored_in_different_orientations(tmp_path):
    image, label = noise(), noise(seed=1) > 500
    nib.save(turned(image, SPACING, "LPS"), tmp_path / "ct.nii.gz")
    nib.save(turned(label.astype(np.uint8), SPACING, "ASR"), tmp_path / "liver.nii.gz")
    volume = load_volume(
        bare_case(tmp_path / "ct.nii.gz", tmp_path / "liver.nii.gz"), SPACING, tmp_path / "cache"
    )
    np.testing.assert_array_equal(volume.image, image)
    np.testing.assert_array_equal(volume.reference(), label)


# --- headers ------------------------------------------------------------------------------------------------


def test_sound_headers_are_met_with_silence(nifti_case):
    assert header_problems(nifti_case(noise(), np.zeros(SHAPE))) == ([], [])


@pytest.mark.parametrize(
    ("shift", "scale", "apart"),
    [(0.05, 1.0, None), (0.2, 1.0, "0.2"), (2.0, 1.0, "2"), (0.0, 1.001, None), (0.0, 1.1, "0.5")],
)
def test_a_label_off_its_image_is_a_problem(nifti_case, shift, scale, apart):
    """Scaled by a tenth, the last of six voxels in x lies half a voxel off."""
    affine = np.diag([scale, 1.0, 2.0, 1.0])
    affine[1, 3] = shift
    case = nifti_case(noise(), np.zeros(SHAPE), (2.0, 1.0, 1.0), label_affine=affine)
    problems, _ = header_problems(case)
    assert len(problems) == (apart is not None)
    assert not apart or problems[0].startswith(
        f"case case: {case.label}: lies {apart} voxels off its image (affines may differ by 0.1 "
    )


def test_a_label_of_another_shape_is_a_problem(nifti_case):
    case = nifti_case(noise(), np.zeros((5, 6, 7)))
    (problem,) = header_problems(case)[0]
    assert problem.startswith(
        f"case case: {case.label}: shape (5, 6, 7) and that of the image (5, 7, 6) (z, y, x) differ; "
    )


def test_one_file_as_image_and_label_is_a_problem(nifti_case):
    case = nifti_case(noise(), np.zeros(SHAPE))
    (problem,) = header_problems(
        replace(case, label=case.image.parent / "." / ".." / case.image.parent.name / case.image.name)
    )[0]
    assert "same file" in problem


@pytest.mark.parametrize(
    ("spacing", "of_manifest", "says"),
    [
        ((62.0, 1.0, 1.0), None, "1 x 1 x 62 mm (x, y, z)"),
        ((0.001, 0.0007, 0.0007), None, "0.0007 x 0.0007 x 0.001 mm"),  # metres
        ((62.0, 1.0, 1.0), (2.0, 1.0, 1.0), None),
        ((2.0, 1.0, 1.0), (2.0, 1.0, 25.0), "25 x 1 x 2 mm"),
        ((20.0, 0.1, 1.0), None, None),
    ],
)
def test_a_spacing_of_no_ct_is_a_problem_unless_the_manifest_gives_another(
    nifti_case, spacing, of_manifest, says
):
    problems, _ = header_problems(replace(nifti_case(noise(), np.zeros(SHAPE), spacing), spacing=of_manifest))
    assert [says in problem for problem in problems] == [True] * bool(says)


def test_both_files_are_looked_at_even_if_one_is_faulty(nifti_case, tmp_path):
    case = replace(nifti_case(noise(), np.zeros(SHAPE), (62.0, 1.0, 1.0)), image=tmp_path / "away.nii.gz")
    case.label.write_bytes(b"")
    problems, _ = header_problems(case)
    assert [problem.split(": ")[1:3] for problem in problems] == [
        [str(case.image), "does not exist; correct the path, or restore the file"],
        [str(case.label), "an empty file; copy it again"],
    ]
    assert len(header_problems(replace(case, label=case.image))[0]) == 2


def test_doubts_about_either_file_are_warnings(nifti_case):
    case = nifti_case(noise(), np.zeros(SHAPE))
    image = nib.load(case.label)
    moved = image.affine.copy()
    moved[0, 3] += 5
    image.set_qform(moved, 1)
    nib.save(image, case.label)
    problems, (warning,) = header_problems(case)
    assert problems == [] and warning.startswith(
        f"case case: {case.label}: sform and qform lie 5 voxels apart"
    )


# --- cache --------------------------------------------------------------------------------------------------


def entries(cache):
    return sorted(path.name for path in cache.iterdir() if path.name != "digests") if cache.exists() else []


def test_a_second_load_reads_the_cache_and_not_the_files(nifti_case, tmp_path, monkeypatch):
    case, cache = nifti_case(noise(), noise(seed=1) > 0, SPACING), tmp_path / "cache"
    first = load_volume(case, SPACING, cache)
    for room in (volumes, case_files):
        monkeypatch.setattr(room, "read_planes", lambda *_: pytest.fail("read again"))
    second = load_volume(case, SPACING, cache)
    assert second == first
    assert isinstance(second, Volume)
    assert entries(cache) == [first.folder.name]
    np.testing.assert_array_equal(second.image, noise())


def test_equal_files_share_an_entry_whatever_their_names(nifti_case, tmp_path):
    folders = {
        load_volume(nifti_case(noise(), np.ones(SHAPE), case_id=name), SPACING, tmp_path / "cache").folder
        for name in "ab"
    }
    assert len(folders) == 1


def test_everything_that_shapes_the_arrays_makes_a_new_entry(nifti_case, tmp_path):
    cache = tmp_path / "cache"
    case = nifti_case(noise(), np.ones(SHAPE), SPACING)
    first = load_volume(case, SPACING, cache)
    others = [
        load_volume(case, (2.5, 0.75, 1.0), cache),
        load_volume(replace(case, label_values=(1,)), SPACING, cache),
        load_volume(replace(case, label_values=(1, 2)), SPACING, cache),
        load_volume(replace(case, spacing=(2.5, 0.8, 1.25)), SPACING, cache),
        load_volume(replace(case, ignore_value=2), SPACING, cache),
        load_volume(replace(case, label=None), SPACING, cache),
        # Changed files of the same names:
        load_volume(nifti_case(noise(seed=5), np.ones(SHAPE), SPACING), SPACING, cache),
        load_volume(nifti_case(noise(), np.zeros(SHAPE), SPACING), SPACING, cache),
    ]
    assert len({volume.folder for volume in (first, *others)}) == 9
    *_, other_image, other_label = others
    assert other_image.image_digest != first.image_digest == other_label.image_digest
    assert other_label.label_digest != first.label_digest == other_image.label_digest
    np.testing.assert_array_equal(first.image, noise())
    np.testing.assert_array_equal(other_image.image, noise(seed=5))
    assert not other_label.reference().any()


def test_a_failure_leaves_nothing_in_the_cache(nifti_case, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    with pytest.raises(InputError):
        load_volume(nifti_case(np.full(SHAPE, np.nan, np.float32), np.zeros(SHAPE)), SPACING, cache)
    assert entries(cache) == []

    def full(*_):
        raise OSError("disk full")

    monkeypatch.setattr(volumes, "write_json", full)
    case = nifti_case(noise(), np.ones(SHAPE), SPACING)
    with pytest.raises(OSError, match="disk full"):
        load_volume(case, SPACING, cache)
    assert entries(cache) == []
    monkeypatch.undo()
    np.testing.assert_array_equal(load_volume(case, SPACING, cache).image, noise())


def test_all_faults_of_voxels_come_in_one_message(nifti_case, tmp_path):
    image = noise().astype(np.float32)
    image[0, 0, 0] = np.nan
    case = nifti_case(image, np.zeros(SHAPE), case_id="c7")
    nib.save(
        nib.Nifti1Image(np.full(SHAPE[::-1], 0.5, np.float32), np.diag([1.0, 1.0, 2.0, 1.0])), case.label
    )
    with pytest.raises(InputError) as error:
        load_volume(case, SPACING, tmp_path / "cache")
    lines = str(error.value).split("\n  ")
    assert [
        line.startswith(f"case c7: {path}")
        for line, path in zip(lines, (case.image, case.label), strict=True)
    ] == [True, True]
    assert "NaN" in lines[0] and "whole numbers" in lines[1]


def test_facts_for_doubts(nifti_case, tmp_path):
    image, label = noise(), np.zeros(SHAPE, np.uint8)
    image[0, 0, :2] = -1024, 2000
    label[:, 0, 0] = 2, 5, 2, 0, 5
    load = partial(load_volume, spacing=SPACING, cache=tmp_path)
    volume = load(nifti_case(image, label, label_values=(1, 7)))
    assert (volume.darkest, volume.brightest, volume.liver_voxels, volume.label_codes) == (
        -1024,
        2000,
        0,
        (0, 2, 5),
    )
    volume = load(nifti_case(image, label, label_values=(2, 7)))
    assert (volume.liver_voxels, volume.label_codes) == (2, ())


def test_bytes_that_the_cache_lacks(nifti_case, tmp_path):
    """Twelve voxels for 100: 36 bytes, and 12 whole bytes for the reference; header and files agree."""
    cache = tmp_path / "cache"
    case, other = (
        nifti_case(noise((4, 5, 5), seed), np.ones((4, 5, 5)), (2.0, 1.0, 1.0), case_id=str(seed))
        for seed in (1, 2)
    )
    grid = (4.0, 2.5, 1.67)  # 2 x 2 x 3
    for path in (case.image, case.label, other.image, other.label):
        old(path)  # so that digests would be remembered
    assert missing_bytes([case, other], grid, cache) == 2 * (36 + 12)
    assert not cache.exists()
    volume = load_volume(case, grid, cache)
    assert volume.image.nbytes + volume.label.nbytes == 36 and volume.reference().nbytes // 8 == 12
    assert missing_bytes([case, other], grid, cache) == 48
    assert missing_bytes([case], (2.0, 1.0, 1.0), cache) == 312
    # 4 x 2 x 3, and again 12:
    assert missing_bytes([replace(case, spacing=(4.0, 1.0, 1.0))], grid, cache) == 84


# --- partly annotated volumes -------------------------------------------------------------------------------

IGNORED = 2


def partly_annotated(nifti_case, label, known, spacing, **fields):
    """A case of which the native slices `known` are annotated."""
    label = np.asarray(label, np.uint8).copy()
    label[[z for z in range(len(label)) if z not in known]] = IGNORED
    return nifti_case(noise(label.shape), label, spacing, ignore_value=IGNORED, **fields)


@pytest.mark.parametrize(
    ("slices", "known", "expected"),
    [
        # 12 slices of 5 mm are 40 of 1.5 mm; slice k lies at 0.3 k - 0.35, and before 0 and behind 11 it is
        # the border slice alone.
        (12, range(12), range(40)),
        (12, [], []),
        (12, [4, 5], [15, 16, 17]),  # 4.15, 4.45, 4.75
        (12, [4, 5, 6], [15, 16, 17, 18, 19, 20, 21]),  # and 5.05, 5.35, 5.65, 5.95
        (12, [4], []),  # none of the 40 lies on it
        (12, [0], [0, 1]),
        (12, [4, 6], []),
        # 13 are 43; slice k lies at 0.3 k - 0.3, and every tenth on a slice.
        (13, [6], [21]),
        (13, [5], []),
        (13, [5, 6], [18, 19, 20, 21]),  # 5.1, 5.4, 5.7, 6.0
    ],
)
def test_a_slice_of_1_5_mm_is_annotated_where_both_slices_of_5_mm_around_it_are(
    nifti_case, tmp_path, slices, known, expected
):
    case = partly_annotated(nifti_case, np.ones((slices, 4, 4)), known, (5.0, 1.0, 1.0))
    volume = load_volume(case, (1.5, 1.0, 1.0), tmp_path / "cache")
    assert list(volume.annotated) == list(expected)
    assert list(volume.ignored) == [z for z in range(slices) if z not in known]


def test_a_slice_of_a_coarse_grid_needs_all_that_are_averaged(nifti_case, tmp_path):
    """12 slices of 1 mm are 4 of 3 mm, each the mean of three."""
    for known, expected in [([3, 4, 5], [1]), ([3, 4], []), (range(2, 9), [1, 2])]:
        case = partly_annotated(nifti_case, np.ones((12, 4, 4)), known, (1.0, 1.0, 1.0))
        volume = load_volume(case, (3.0, 1.0, 1.0), tmp_path / "cache")
        assert [native.tolist() for native in volume.native_slices] == [
            [0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]
        ]  # fmt: skip
        assert list(volume.annotated) == expected


@pytest.mark.parametrize("native", [5.0, 2.5, 1.5, 0.8])
@pytest.mark.parametrize("working", [1.5, 4.0])
def test_annotated_slices_are_those_of_the_whole_annotation(nifti_case, tmp_path, native, working):
    """Whatever the truth of the unknown voxels is, labels of annotated slices are what they would be."""
    rng = np.random.default_rng(int(native * 10 + working))
    known = np.flatnonzero(np.repeat(rng.permutation(8) < 5, 5))
    truth = rng.integers(0, 2, (40, 6, 6))
    grid = (working, 1.5, 1.0)
    part = load_volume(partly_annotated(nifti_case, truth, known, (native, 1.0, 1.0)), grid, tmp_path / "c")
    assert 0 < len(part.annotated) < part.shape[0]
    for other in (truth, np.where(np.isin(np.arange(40), known)[:, None, None], truth, 1 - truth)):
        whole = load_volume(nifti_case(noise(truth.shape), other, (native, 1.0, 1.0)), grid, tmp_path / "c")
        assert whole.annotated == tuple(range(whole.shape[0])) and whole.ignored == ()
        for z in part.annotated:
            np.testing.assert_array_equal(part.label[z], whole.label[z])


@pytest.mark.parametrize(("label_values", "liver"), [((), 3 * 16), ((1,), 2 * 16)])
def test_one_ignored_voxel_makes_a_slice_unknown_and_is_no_liver(nifti_case, tmp_path, label_values, liver):
    label = np.ones((5, 4, 4), np.uint8)
    label[1, 0, 0] = label[3] = IGNORED
    label[4] = 7
    case = nifti_case(noise(label.shape), label, ignore_value=IGNORED, label_values=label_values)
    volume = load_volume(case, (2.0, 1.0, 1.0), tmp_path / "cache")
    assert (volume.ignored, volume.partly_ignored, volume.annotated) == ((1, 3), 1, (0, 2, 4))
    assert volume.liver_voxels == liver + 15


def test_an_image_without_a_label_is_a_volume_without_annotation(nifti_case, tmp_path):
    case = replace(nifti_case(noise(), np.ones(SHAPE), SPACING), label=None)
    assert header_problems(case) == ([], [])
    volume = load_volume(case, SPACING, tmp_path / "cache")
    np.testing.assert_array_equal(volume.image, noise())
    assert (volume.annotated, volume.label_digest, volume.liver_voxels) == ((), "", 0)
    assert load_volume(case, SPACING, tmp_path / "cache") == volume
    assert not (volume.folder / "label.npy").exists()


# --- digests ------------------------------------------------------------------------------------------------


@pytest.fixture
def hashed(monkeypatch):
    """Names of the files that were hashed, in order."""
    names = []

    def spy(path):
        names.append(Path(path).name)
        return file_digest(path)

    monkeypatch.setattr(storage, "file_digest", spy)
    return names


def old(path, seconds=10):
    """The file, modified that long ago."""
    moment = time.time() - seconds
    os.utime(path, (moment, moment))
    return path


def test_a_digest_is_remembered_until_the_file_changes(tmp_path, hashed):
    path, folder = tmp_path / "ct", tmp_path / "cache"
    path.write_bytes(b"one")
    old(path)
    digest = hashlib.sha256(b"one").hexdigest()
    assert [remembered_digest(path, folder) for _ in range(3)] == [digest] * 3
    assert hashed == ["ct"]
    path.write_bytes(b"two")  # of the same size
    old(path, 5)
    assert remembered_digest(path, folder) == hashlib.sha256(b"two").hexdigest()
    modified = path.stat().st_mtime_ns
    path.write_bytes(b"three")  # of another size, and the time is put back
    os.utime(path, ns=(modified, modified))
    assert remembered_digest(path, folder) == hashlib.sha256(b"three").hexdigest()
    (tmp_path / "other").write_bytes(b"other")
    assert remembered_digest(old(tmp_path / "other"), folder) == hashlib.sha256(b"other").hexdigest()
    assert len(list((folder / "digests").iterdir())) == 2


def test_a_damaged_digest_is_taken_again(tmp_path, hashed):
    path, folder = tmp_path / "ct", tmp_path / "cache"
    path.write_bytes(b"one")
    old(path)
    remembered_digest(path, folder)
    (kept,) = (folder / "digests").iterdir()
    kept.write_bytes(b"\xff{")
    assert remembered_digest(path, folder) == hashlib.sha256(b"one").hexdigest()
    assert hashed == ["ct", "ct"]


@pytest.mark.parametrize("age", [0, -100])
def test_a_digest_of_a_file_just_modified_is_not_remembered(tmp_path, hashed, age):
    path = tmp_path / "ct"
    path.write_bytes(b"one")
    old(path, age)
    remembered_digest(path, tmp_path / "cache")
    remembered_digest(path, tmp_path / "cache")
    assert hashed == ["ct", "ct"] and not (tmp_path / "cache").exists()


def test_a_second_load_hashes_nothing(nifti_case, tmp_path, hashed):
    case = nifti_case(noise(), np.ones(SHAPE))
    old(case.image), old(case.label)
    first = load_volume(case, SPACING, tmp_path / "cache")
    assert len(hashed) == 2
    assert load_volume(case, SPACING, tmp_path / "cache") == first
    assert len(hashed) == 2


@needs_data
def test_a_real_case_through_the_cache(tmp_path):
    """The small one, 3 mm, on a grid of 6 mm: volume of the liver and place of its centre survive."""
    folder = DATA / "real" / "totalseg_example"
    volume = load_volume(bare_case(folder / "ct.nii.gz", folder / "liver.nii.gz"), (6.0, 6.0, 6.0), tmp_path)
    reference = volume.reference()
    # mL, as the data's notes have it:
    assert reference.sum() * np.prod(volume.native_spacing) / 1000 == pytest.approx(1123, abs=1)
    prediction = volume.to_native(volume.label) >= 0.5
    assert 2 * (prediction & reference).sum() / (prediction.sum() + reference.sum()) > 0.93
    assert (
        np.abs(np.subtract(ndimage.center_of_mass(prediction), ndimage.center_of_mass(reference))).max() < 0.3
    )
    hu = volume.image[np.asarray(volume.label, bool)]
    assert 40 < np.median(hu) < 160
