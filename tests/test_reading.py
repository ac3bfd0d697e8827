"""The NIfTI reader against SimpleITK in every orientation and type; real volumes resampled and brought back.

NIfTI files are put together byte by byte here, so that no library is on both sides of a comparison.
"""

import struct
from itertools import permutations, product

import numpy as np
import pytest
from builders import DATA

from uss_bench.data.manifest import Case
from uss_bench.data.nifti import read_nifti
from uss_bench.data.resampling import grid_shape, resample
from uss_bench.data.volumes import load_volume
from uss_bench.study.metrics import segmentation_metrics

IRCADB = DATA / "real" / "ircadb01"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="needs the shared data")

SHAPE = (4, 3, 5)  # of the file's own axes
SPACING = (0.75, 1.25, 2.5)  # mm, of the file's own axes
ORIGIN = (-40.0, 17.5, 230.0)  # mm, RAS
PAPER_SPACING = (1.5, 1.0, 1.0)
CODES = ["".join(letters) for axes in permutations(("RL", "AP", "SI")) for letters in product(*axes)]
DATATYPES = {"u1": 2, "i2": 4, "i4": 8, "f4": 16, "f8": 64}
DATATYPES |= {"i1": 256, "u2": 512, "u4": 768, "i8": 1024, "u8": 1280}


def axes_of(codes, degrees=0.0):
    """Directions (columns) of the file's axes in the RAS world.

    They run along the axes that `codes` name, and are then turned about two of them.
    """
    directions = np.zeros((3, 3))
    for column, code in enumerate(codes):
        row = next(index for index, pair in enumerate(("RL", "AP", "SI")) if code in pair)
        directions[row, column] = 1 if code in "RAS" else -1
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    about_z = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    return about_z @ about_x @ directions


def quaternion(directions):
    """`(b, c, d), qfac` of NIfTI for orthonormal columns: the axis of a rotation is its eigenvector of 1."""
    qfac = np.sign(np.linalg.det(directions))
    rotation = directions * (1, 1, qfac)
    values, vectors = np.linalg.eig(rotation)
    axis = np.real(vectors[:, np.argmin(np.abs(values - 1))])
    angle = np.arccos(np.clip((np.trace(rotation) - 1) / 2, -1, 1))
    skew = [rotation[2, 1] - rotation[1, 2], rotation[0, 2] - rotation[2, 0], rotation[1, 0] - rotation[0, 1]]
    return axis * np.sin(angle / 2) * (-1 if axis @ skew < 0 else 1), qfac


def write_by_hand(path, array, directions, form="sform", byte_order="<", slope=1.0, intercept=0.0):
    """A NIfTI-1 file of an array in its file's order `(i, j, k)`, with one of the two forms."""
    header = bytearray(352)

    def put(offset, kind, *values):
        struct.pack_into(f"{byte_order}{len(values)}{kind}", header, offset, *values)

    (b, c, d), qfac = quaternion(directions)
    put(0, "i", 348)
    put(40, "h", 3, *array.shape, 1, 1, 1, 1)
    put(70, "h", DATATYPES[array.dtype.str[1:]], 8 * array.dtype.itemsize)
    put(76, "f", qfac, *SPACING)
    put(108, "f", 352.0, slope, intercept)
    put(123, "B", 2)  # mm
    put(252, "h", form == "qform", form == "sform")
    if form == "qform":
        put(256, "f", b, c, d, *ORIGIN)
    else:
        put(280, "f", *np.column_stack([directions * SPACING, ORIGIN]).ravel())
    header[344:348] = b"n+1\0"
    path.write_bytes(bytes(header) + array.astype(array.dtype.newbyteorder(byte_order)).tobytes(order="F"))


def read_with_simpleitk(path):
    """Values `(z, y, x)` and affine of a file turned to RAS, as by `read_nifti`; ITK's own world is LPS."""
    sitk = pytest.importorskip("SimpleITK")
    image = sitk.DICOMOrient(sitk.ReadImage(str(path)), "RAS")
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return sitk.GetArrayFromImage(image), np.diag([-1, -1, 1, 1]) @ affine


def noise(dtype="i2"):
    dtype, random = np.dtype(dtype), np.random.default_rng(0)
    if dtype.kind == "f":
        return random.normal(0, 1000, SHAPE).astype(dtype)
    limits = np.iinfo(dtype)
    array = random.integers(limits.min, limits.max, SHAPE, dtype, endpoint=True)
    array.flat[:2] = limits.min, limits.max
    return array


# --- reading ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("degrees", [0, 20])
@pytest.mark.parametrize("form", ["sform", "qform"])
@pytest.mark.parametrize("codes", CODES)
def test_every_orientation_is_read_as_by_simpleitk(tmp_path, codes, form, degrees):
    for byte_order in "<>":
        write_by_hand(tmp_path / "ct.nii", noise(), axes_of(codes, degrees), form, byte_order)
        values, spacing, affine = read_nifti(tmp_path / "ct.nii")
        peer_values, peer_affine = read_with_simpleitk(tmp_path / "ct.nii")
        np.testing.assert_array_equal(values, peer_values)
        np.testing.assert_allclose(affine, peer_affine, atol=1e-4)
        # Voxel (0, 0, 0) of the file is known without any reader: it lies at the origin.
        [place] = np.argwhere(values == noise()[0, 0, 0])
        np.testing.assert_allclose(affine @ [*place[::-1], 1], [*ORIGIN, 1], atol=1e-4)
        # Axis x of the result is that axis of the file that runs right or left, and so on.
        assert spacing == pytest.approx(
            [SPACING[[code in pair for code in codes].index(True)] for pair in ("SI", "AP", "RL")], rel=1e-6
        )


def test_these_are_all_orientations():
    assert len(set(CODES)) == 48


@pytest.mark.parametrize(("slope", "intercept"), [(1, 0), (1, -1024), (0.5, 10), (-2, 3)])
@pytest.mark.parametrize("byte_order", "<>")
@pytest.mark.parametrize("dtype", DATATYPES)
def test_every_type_and_scaling_is_read_as_by_simpleitk(tmp_path, dtype, byte_order, slope, intercept):
    write_by_hand(tmp_path / "ct.nii", noise(dtype), axes_of("LPS"), "sform", byte_order, slope, intercept)
    values, _, _ = read_nifti(tmp_path / "ct.nii")
    peer_values, _ = read_with_simpleitk(tmp_path / "ct.nii")
    if (slope, intercept) == (1, 0):
        np.testing.assert_array_equal(values, peer_values)
    else:
        np.testing.assert_allclose(values, peer_values, rtol=1e-6, atol=1e-3)


@pytest.mark.parametrize("intercept", [0, 7])
@pytest.mark.parametrize("dtype", DATATYPES)
def test_a_slope_of_zero_means_no_scaling(tmp_path, dtype, intercept):
    """So says the standard, of the intercept too; SimpleITK, which adds it all the same, is no peer here."""
    write_by_hand(tmp_path / "ct.nii", noise(dtype), axes_of("RAS"), slope=0, intercept=intercept)
    np.testing.assert_array_equal(read_nifti(tmp_path / "ct.nii")[0], noise(dtype).transpose(2, 1, 0))


# --- resampling ---------------------------------------------------------------------------------------------


@needs_data
def test_a_real_volume_on_the_papers_grid_equals_that_of_simpleitk():
    sitk = pytest.importorskip("SimpleITK")
    values, spacing, affine = read_nifti(IRCADB / "ct.nii.gz")
    shape = grid_shape(values.shape, spacing, PAPER_SPACING)
    # The same centre: the two corners are half the difference of the extents apart, along RAS axes.
    shift = [
        ((n - 1) * old - (m - 1) * new) / 2
        for n, old, m, new in zip(values.shape, spacing, shape, PAPER_SPACING, strict=True)
    ]
    origin = (affine[:3, 3] + shift[::-1]) * (-1, -1, 1)
    to_ras = np.diag([-1.0, -1.0, 1.0]).ravel().tolist()
    image = sitk.ReadImage(str(IRCADB / "ct.nii.gz"), sitk.sitkFloat32)
    peer = sitk.GetArrayFromImage(
        sitk.Resample(
            image,
            shape[::-1],
            sitk.Transform(),
            sitk.sitkLinear,
            origin.tolist(),
            PAPER_SPACING[::-1],
            to_ras,
            1e6,
        )
    )
    inside = peer < 1e5  # positions between the outermost voxel centres
    assert inside.mean() > 0.95
    np.testing.assert_allclose(resample(values, spacing, PAPER_SPACING)[inside], peer[inside], atol=0.5)


@needs_data
def test_a_real_liver_survives_the_papers_grid_and_the_way_back(tmp_path):
    case = Case("c1", "site", "test", IRCADB / "ct.nii.gz", IRCADB / "liver.nii.gz", "c1")
    volume = load_volume(case, PAPER_SPACING, tmp_path)
    prediction = volume.to_native(volume.label.astype(np.float32)) >= 0.5
    metrics = segmentation_metrics(prediction, volume.reference(), volume.native_spacing)
    print(f"ircadb01 through {PAPER_SPACING} mm and back: {metrics}")
    assert metrics["DICE"] >= 0.98
