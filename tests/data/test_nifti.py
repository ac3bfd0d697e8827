"""NIfTI files: arrays at known places, headers changed byte by byte, and files broken in every way."""

import errno
import gzip
import os
import struct
import tracemalloc
import zlib

import nibabel as nib
import numpy as np
import pytest
from builders import DATA

from uss_bench.data.nifti import BLOCK, axial_slice, read_nifti, read_planes, write_nifti, write_on_grid
from uss_bench.data.nifti_header import corner_distance, read_header
from uss_bench.runtime.errors import InputError

needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="needs the shared data")

SPACING = (2.5, 0.75, 1.25)  # z, y, x in mm
SHAPE = (5, 7, 6)


def noise(shape=SHAPE, seed=0):
    return np.random.default_rng(seed).integers(-1000, 1000, size=shape).astype(np.int16)


def turned(array, spacing, codes, oblique=0.0):
    """A `(z, y, x)` RAS array as a NIfTI image stored in the order `codes`, at the same place."""
    affine = np.diag([*spacing[::-1], 1.0])
    angle = np.deg2rad(oblique)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine[:3, :3] = turn @ affine[:3, :3]
    affine[:3, 3] = (-40, 17, 230)
    image = nib.Nifti1Image(array.transpose(2, 1, 0), affine)
    return image.as_reoriented(
        nib.orientations.ornt_transform(
            nib.orientations.io_orientation(affine), nib.orientations.axcodes2ornt(codes)
        )
    )


# --- sound files --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("oblique", [0, 20])
@pytest.mark.parametrize("codes", ["RAS", "LPS", "LAS", "RPI", "ASR", "SRA", "PIL", "IAL", "SPR"])
def test_any_orientation_is_turned_to_ras(tmp_path, codes, oblique):
    array = noise()
    nib.save(turned(array, SPACING, codes, oblique), tmp_path / "ct.nii.gz")
    values, spacing, affine = read_nifti(tmp_path / "ct.nii.gz")
    np.testing.assert_array_equal(values, array)
    assert values.dtype == np.int16
    assert spacing == pytest.approx(SPACING, rel=1e-6)
    np.testing.assert_allclose(affine, turned(array, SPACING, "RAS", oblique).affine, atol=1e-4)
    header = read_header(tmp_path / "ct.nii.gz")
    assert (header.path, header.shape, header.spacing) == (tmp_path / "ct.nii.gz", SHAPE, spacing)
    assert (header.dtype, header.warnings) == (np.int16, ())
    np.testing.assert_array_equal(header.affine, affine)
    planes = dict(read_planes(header))
    assert sorted(planes) == list(range(SHAPE[0]))
    for z, plane in planes.items():
        np.testing.assert_array_equal(plane, array[z])


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("dtype", ["<i2", ">i2", "u1", "<i4", ">i4", "<f4", ">f4", "<f8"])
def test_types_byte_orders_and_versions(tmp_path, dtype, kind):
    array = np.abs(noise()) % 200
    header = kind.header_class(endianness=">" if dtype[0] == ">" else "<")
    header.set_data_dtype(dtype)
    nib.save(
        kind(array.astype(dtype).transpose(2, 1, 0), np.diag([*SPACING[::-1], 1]), header),
        tmp_path / "ct.nii",
    )
    values, _, _ = read_nifti(tmp_path / "ct.nii")
    np.testing.assert_array_equal(values, array)
    assert values.dtype == dtype  # no float64 copy of an int16 file


@pytest.mark.parametrize("dtype", [np.uint8, np.int16])
@pytest.mark.parametrize(
    ("slope", "intercept", "scales"),
    [(1, -1024, True), (2, 0, True), (0.5, 10, True), (1, 0, False), (0, 5, False), (np.nan, 5, False)],
)
def test_slope_and_intercept_are_applied(tmp_path, dtype, slope, intercept, scales):
    """A slope of 0, or none, says that nothing is to be scaled."""
    array = (np.abs(noise()) % 200).astype(dtype)
    path = changed(tmp_path, 112, "<2f", slope, intercept, array=array)
    values, _, _ = read_nifti(path)
    np.testing.assert_allclose(values, array.astype(float) * slope + intercept if scales else array)
    assert values.dtype == (np.float32 if scales else dtype)  # and not four times the file
    np.testing.assert_array_equal([plane for _, plane in read_planes(read_header(path))], values)


def test_a_header_of_many_extensions_and_an_unset_offset(tmp_path):
    """vox_offset says where the voxels begin; some programs leave it at 0."""
    path = changed(tmp_path, 108, "<f", 0)
    np.testing.assert_array_equal(read_nifti(path)[0], noise())
    raw = path.read_bytes()
    later = bytearray(raw[:352] + bytes(160) + raw[352:])
    struct.pack_into("<f", later, 108, 512)
    path.write_bytes(later)
    np.testing.assert_array_equal(read_nifti(path)[0], noise())


def test_several_gzip_members_and_zeros_after_them_are_one_file(tmp_path):
    """As parallel compressors and tapes leave them."""
    raw = changed(tmp_path, 0, "<i", 348).read_bytes()
    (tmp_path / "ct.nii.gz").write_bytes(gzip.compress(raw[:400]) + gzip.compress(raw[400:]) + bytes(100))
    np.testing.assert_array_equal(read_nifti(tmp_path / "ct.nii.gz")[0], noise())


def test_a_gzip_file_of_many_blocks_whatever_its_members(tmp_path):
    """Noise does not shrink, zeros do a thousandfold: packed and unpacked blocks end at different places."""
    array = noise((5, 600, 700))
    array[1:3] = 0
    raw = changed(tmp_path, 0, "<i", 348, array=array).read_bytes()
    assert len(raw) > 3 * BLOCK
    for ends in ([], [BLOCK], [352, 352, 353, 2 * BLOCK + 1]):
        members = [
            gzip.compress(raw[begin:end], 1) for begin, end in zip([0, *ends], [*ends, None], strict=True)
        ]
        (tmp_path / "ct.nii.gz").write_bytes(b"".join(members) + bytes(2 * BLOCK))
        np.testing.assert_array_equal(read_nifti(tmp_path / "ct.nii.gz")[0], array)


def test_a_sound_gzip_file_of_too_few_voxels_is_an_input_error(tmp_path):
    raw = changed(tmp_path, 0, "<i", 348).read_bytes()
    for missing in (1, 2 * SHAPE[1] * SHAPE[2], len(raw) - 352):
        (tmp_path / "ct.nii.gz").write_bytes(gzip.compress(raw[:-missing]))
        for read in (lambda path: list(read_planes(read_header(path))), read_nifti):
            with pytest.raises(
                InputError,
                match=rf"ct\.nii\.gz: holds {len(raw) - 352 - missing} bytes of voxels .* {len(raw) - 352}",
            ):
                read(tmp_path / "ct.nii.gz")


def test_damage_behind_the_last_voxel_is_found(tmp_path):
    packed = gzip.compress(changed(tmp_path, 0, "<i", 348).read_bytes())
    for harmed in (packed[:-1], packed[:-8] + bytes(4) + packed[-4:], packed + b"more"):
        (tmp_path / "ct.nii.gz").write_bytes(harmed)
        with pytest.raises(InputError, match=r"ct\.nii\.gz: damaged data"):
            list(read_planes(read_header(tmp_path / "ct.nii.gz")))
        with pytest.raises(InputError, match=r"ct\.nii\.gz: damaged data"):
            read_nifti(tmp_path / "ct.nii.gz")


def test_the_affine_is_the_sform_or_else_the_qform_and_the_zooms_matter_only_to_the_latter(tmp_path):
    assert read_header(changed(tmp_path, 80, "<3f", 9, 9, 9)).spacing == SPACING
    path = changed(tmp_path, 252, "<2h", 1, 0)  # qform, sform codes
    assert read_header(path).spacing == SPACING
    assert read_header(changed(tmp_path, 80, "<3f", 3, 4, 5, path=path)).spacing == (5, 4, 3)


def test_disagreeing_forms_are_a_warning(tmp_path):
    path = changed(tmp_path, 252, "<2h", 1, 1)
    assert read_header(path).warnings == ()
    nearly = changed(
        tmp_path, 268, "<f", -40 + 0.07, path=path
    )  # x offset of the qform; a tenth of the shortest edge is 0.075 mm
    assert read_header(nearly).warnings == ()
    (warning,) = read_header(changed(tmp_path, 268, "<f", -39.0, path=path)).warnings
    assert str(path) in warning and "1.33 voxels apart" in warning and "sform is used" in warning
    (warning,) = read_header(changed(tmp_path, 256, "<3f", 3, 3, 3, path=path)).warnings  # no quaternion
    assert "sform is used" in warning


def test_a_file_that_does_not_say_how_it_lies_is_a_warning(tmp_path):
    (warning,) = read_header(changed(tmp_path, 252, "<2h", 0, 0)).warnings
    assert "neither sform nor qform" in warning and "ct.nii" in warning


def test_the_header_is_read_without_the_voxels(tmp_path):
    path = changed(tmp_path, 0, "<i", 348, array=noise((40, 30, 20)))
    packed = gzip.compress(path.read_bytes())
    (tmp_path / "half.nii.gz").write_bytes(packed[: len(packed) // 2])
    assert read_header(tmp_path / "half.nii.gz").shape == (40, 30, 20)
    with pytest.raises(InputError, match=r"half\.nii\.gz: damaged"):
        read_nifti(tmp_path / "half.nii.gz")


def test_distance_of_corners_by_hand():
    """A right angle about the first voxel takes the far corner in x from (10, 0, 0) to (0, 10, 0).

    That is 14.1 mm, or 7.07 voxels.
    """
    straight = np.diag([2.0, 2.0, 3.0, 1.0])
    quarter = np.array([[0, -2.0, 0, 0], [2.0, 0, 0, 0], [0, 0, 3.0, 0], [0, 0, 0, 1]])
    assert corner_distance(straight, quarter, (9, 1, 6)) == pytest.approx(50**0.5)
    shifted = straight.copy()
    shifted[2, 3] = 0.5
    assert corner_distance(straight, shifted, (9, 1, 6)) == pytest.approx(0.25)


# --- writing ------------------------------------------------------------------------------------------------


def test_nifti_files_depend_on_their_content_alone(tmp_path):
    array, affine = np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.diag([0.7, 0.7, 2.5, 1])
    for name in ("a.nii.gz", "b.nii.gz"):
        write_nifti(tmp_path / name, array, affine)
    content = (tmp_path / "a.nii.gz").read_bytes()
    assert content == (tmp_path / "b.nii.gz").read_bytes()
    assert content[3:8] == b"\0\0\0\0\0"  # neither name nor time in the gzip header
    image = nib.load(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(np.asanyarray(image.dataobj), array)
    assert (image.get_data_dtype(), image.header.get_xyzt_units()[0]) == (np.int16, "mm")
    np.testing.assert_allclose(image.affine, affine, rtol=1e-6)


def test_a_full_disk_leaves_the_old_file_and_names_it(tmp_path):
    """The kernel's limit on the files of this process stands for the disk."""
    resource = pytest.importorskip("resource")
    path = tmp_path / "ct.nii.gz"
    write_nifti(path, noise(), np.eye(4))
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10000, hard))
    try:
        with pytest.raises(OSError, match="too large") as caught:
            write_nifti(path, noise((30, 30, 30)), np.eye(4))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(path))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


# --- broken files -------------------------------------------------------------------------------------------


def changed(folder, offset, layout, *values, array=None, path=None):
    """An uncompressed file of which a field of the header is overwritten.

    It is made of `array` (default: noise), or taken from `path`.
    """
    if path is None:
        path = folder / "ct.nii"
        nib.save(turned(noise() if array is None else array, SPACING, "RAS"), path)
    raw = bytearray(path.read_bytes())
    struct.pack_into(layout, raw, offset, *values)
    path.write_bytes(raw)
    return path


HEADER_FAULTS = {
    "cut short": (40, "<4h", [3, 6, 7, 6], "cannot hold"),
    "bytes of no header": (0, "<348s", [b"no image at all"], "not NIfTI"),
    "magic of another format": (344, "<4s", [b"abcd"], "not NIfTI"),
    "header of a pair": (344, "<4s", [b"ni1"], "pair of files"),
    "2D": (40, "<3h", [2, 6, 7], "2D"),
    "4D": (40, "<5h", [4, 6, 7, 5, 1], "4D"),
    "no D": (40, "<h", [0], "D with shape"),
    "negative rank": (40, "<h", [-5], "not NIfTI"),
    "negative size": (42, "<h", [-5], "no voxel"),
    "size of zero": (44, "<h", [0], "no voxel"),
    "RGB": (70, "<2h", [128, 24], "RGB"),
    "complex": (70, "<2h", [32, 64], "complex"),
    "single bits": (70, "<2h", [1, 1], "not NIfTI"),
    "unknown type": (70, "<h", [77], "not NIfTI"),
    "zero affine": (280, "<12f", [0.0] * 12, "length zero"),
    "zero column": (280, "<f", [0.0], "length zero"),
    "zero zoom": (80, "<f", [0.0], "length zero"),
    "negative zoom": (88, "<f", [-2.5], "three lengths"),
    "two handedness": (76, "<f", [-2.0], "not -1 or 1"),
    "unknown sform": (254, "<h", [9], "sform_code 9"),
    "negative qform": (252, "<h", [-1], "qform_code -1"),
    "NaN affine": (292, "<f", [np.nan], "NaN"),
    "infinite affine": (280, "<f", [np.inf], "NaN or infinite"),
    "singular affine": (280, "<12f", [1, 0, 1, 0, 0, 1, 0, 0, 1, 0, 1, 0], "singular"),
    "voxels nowhere": (108, "<f", [np.nan], "vox_offset"),
    "voxels inside the header": (108, "<f", [16], "not NIfTI"),
    "voxels beyond the end": (108, "<f", [1e20], "cannot hold"),
    "slope without intercept": (112, "<2f", [2, np.nan], "not NIfTI"),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("fault", HEADER_FAULTS)
def test_a_faulty_header_is_an_input_error_that_says_so(tmp_path, fault, packed):
    offset, layout, values, says = HEADER_FAULTS[fault]
    path = changed(tmp_path, offset, layout, *values)
    if fault in ("zero zoom", "negative zoom", "two handedness"):
        changed(tmp_path, 252, "<2h", 1, 0, path=path)  # the qform alone counts
    if packed:
        path = path.with_suffix(".nii.gz")
        path.write_bytes(gzip.compress((tmp_path / "ct.nii").read_bytes()))
        says = "promises" if fault == "cut short" else says  # known only when the voxels are unpacked
    with pytest.raises(InputError) as error:
        (read_nifti if says == "promises" else read_header)(path)
    assert says in str(error.value) and str(path) in str(error.value) and "; " in str(error.value)
    with pytest.raises(InputError):
        read_nifti(path)


def compressed_in_two(content):
    """Content in gzip, and where in it the block begins that holds its second half."""
    packer, half = zlib.compressobj(wbits=31), len(content) // 2
    first = packer.compress(content[:half]) + packer.flush(zlib.Z_FULL_FLUSH)
    return bytearray(first + packer.compress(content[half:]) + packer.flush()), len(first)


def broken_file(folder, fault):
    """Path of a file that is broken as such, whatever it holds."""
    content = changed(folder, 0, "<i", 348, array=noise((40, 30, 20))).read_bytes()
    packed, path = gzip.compress(content), folder / "broken.nii.gz"
    if fault == "folder":
        path.mkdir()
    elif fault == "link to nothing":
        path.symlink_to(folder / "away.nii.gz")
    elif fault == "name too long":
        path = folder / ("x" * 300 + ".nii.gz")
    elif fault == "null byte in the name":
        path = folder / "a\0b.nii"
    elif fault == "empty":
        path.write_bytes(b"")
    elif fault == "pointer of git-LFS":
        path.write_text(
            "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", encoding="utf-8"
        )
    elif fault == "not compressed":
        path.write_bytes(content)
    elif fault == "compressed without saying so":
        path = folder / "broken.nii"
        path.write_bytes(packed)
    elif fault == "text in gzip":
        path.write_bytes(gzip.compress(b"no image at all"))
    elif fault == "cut in the gzip header":
        path.write_bytes(packed[:15])
    elif fault == "cut in the voxels":
        path.write_bytes(packed[: len(packed) // 2])
    elif fault == "too few voxels":
        path.write_bytes(gzip.compress(content[:-1000]))
    elif fault == "no kind of block":
        damaged, middle = compressed_in_two(content)
        damaged[middle] = 255
        path.write_bytes(damaged)
    elif fault == "flipped bit":
        flipped = bytearray(gzip.compress(content, compresslevel=0))
        flipped[len(flipped) // 2] ^= (
            64  # decompresses well; the checksum at the end of the file does not fit
        )
        path.write_bytes(flipped)
    else:
        assert fault == "missing"
    return path


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("missing", "does not exist"),
        ("link to nothing", "a link to a file that does not exist"),
        ("folder", "a folder"),
        ("name too long", "cannot be read"),
        ("null byte in the name", "cannot be read"),
        ("empty", "an empty file"),
        ("pointer of git-LFS", "git lfs pull"),
        ("not compressed", "not a gzip file though named .gz"),
        ("compressed without saying so", "a gzip file not named .gz"),
        ("text in gzip", "not NIfTI"),
        ("cut in the gzip header", "damaged"),
        ("cut in the voxels", "damaged"),
        ("too few voxels", "promises"),
        ("no kind of block", "damaged"),
        ("flipped bit", "damaged"),
    ],
)
def test_a_broken_file_is_an_input_error_that_says_how(tmp_path, fault, says):
    path = broken_file(tmp_path, fault)
    with pytest.raises(InputError) as error:
        read_nifti(path)
    assert str(error.value).startswith(f"{path}: ") and says in str(error.value) and "; " in str(error.value)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="permissions do not bind this user")
def test_a_file_without_permission_is_an_input_error(tmp_path):
    path = changed(tmp_path, 0, "<i", 348)
    path.chmod(0)
    with pytest.raises(InputError, match="no permission"):
        read_header(path)


@pytest.mark.parametrize("side", [2000, 30000])
def test_a_header_that_promises_more_than_its_file_takes_no_memory(tmp_path, side):
    """2000 x 2000 x 400 voxels would be possible by the greatest ratio of gzip; 30000 cubed would not."""
    content = bytearray(
        changed(tmp_path, 40, "<4h", 3, side, side, 400 if side == 2000 else side).read_bytes()
    )
    path = tmp_path / "liar.nii.gz"
    path.write_bytes(gzip.compress(bytes(content) + np.random.default_rng(0).bytes(3_200_000)))
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="promises"):
            (read_nifti if side == 2000 else read_header)(path)
        assert tracemalloc.get_traced_memory()[1] < 2e7
    finally:
        tracemalloc.stop()


@needs_data
def test_a_real_pointer_of_git_lfs():
    with pytest.raises(InputError, match=r"lfs_pointer_named.*git lfs pull"):
        read_header(DATA / "problem" / "lfs_pointer_named.nii.gz")


# --- on the grid of another file ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("codes", ["RAS", "LPS", "LAS", "RPI", "ASR", "SRA", "PIL"])
def test_a_label_on_the_grid_of_a_ct_has_its_axes_and_its_place(tmp_path, codes, kind):
    image = turned(noise(), SPACING, codes, oblique=20)
    image = kind(np.asarray(image.dataobj), image.affine)
    image.set_sform(image.affine, 1)
    image.set_qform(image.affine, 3)
    image.header["cal_max"] = 400
    image.header.set_slope_inter(2, -1024)
    nib.save(image, tmp_path / "ct.nii.gz")
    label = np.random.default_rng(1).integers(0, 256, SHAPE).astype(np.uint8)
    write_on_grid(tmp_path / "label.nii.gz", label, read_header(tmp_path / "ct.nii.gz"))
    np.testing.assert_array_equal(read_nifti(tmp_path / "label.nii.gz")[0], label)
    ct, written = nib.load(tmp_path / "ct.nii.gz"), nib.load(tmp_path / "label.nii.gz")
    assert isinstance(written, kind) and written.get_data_dtype() == np.uint8
    assert written.shape == ct.shape and written.header["cal_max"] == 0
    for pose in ("get_sform", "get_qform"):
        matrices = [getattr(one, pose)(coded=True) for one in (ct, written)]
        assert matrices[0][1] == matrices[1][1]
        np.testing.assert_array_equal(matrices[0][0], matrices[1][0])
    np.testing.assert_array_equal(
        np.asarray(written.dataobj), np.asarray(turned(label, SPACING, codes, oblique=20).dataobj)
    )


def test_header_extensions_and_byte_order_of_a_ct_do_not_matter(tmp_path):
    header = nib.Nifti1Header(endianness=">")
    image = nib.Nifti1Image(noise().T, np.diag([1.0, 2, 3, 1]), header)
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"of the CT"))
    nib.save(image, tmp_path / "ct.nii.gz")
    label = (noise(seed=2) > 0).astype(np.uint8)
    write_on_grid(tmp_path / "label.nii.gz", label, read_header(tmp_path / "ct.nii.gz"))
    np.testing.assert_array_equal(read_nifti(tmp_path / "label.nii.gz")[0], label)


@pytest.mark.parametrize(("codes", "number"), [("RAS", 1), ("LPS", 1), ("SRA", 1), ("RPI", 3), ("PIL", 3)])
def test_axial_slices_have_the_numbers_of_viewers(tmp_path, codes, number):
    """The second of five from the feet is the fourth of a file that begins at the head."""
    image = turned(noise(), SPACING, codes)
    nib.save(image, tmp_path / "ct.nii.gz")
    found, position = axial_slice(read_header(tmp_path / "ct.nii.gz"), 1)
    assert found == number
    assert position == pytest.approx(230 + 2.5)
    axis = {"S": codes.find("S"), "I": codes.find("I")}[next(code for code in codes if code in "SI")]
    np.testing.assert_array_equal(
        np.sort(np.take(image.dataobj, number, axis), axis=None), np.sort(noise()[1], axis=None)
    )
