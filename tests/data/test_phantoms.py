"""Phantoms as a reader of the files sees them: by nibabel, in world coordinates, against clinical ranges."""

import dataclasses
import gzip
import hashlib
import os
import subprocess
import sys
from functools import cache
from itertools import combinations
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from builders import ROOT
from scipy import ndimage

from uss_bench.data import phantoms
from uss_bench.data.manifest import Case, read_manifest
from uss_bench.data.phantoms import (
    VARIANTS,
    make_phantom,
    phantom_grid,
    phantom_problems,
    write_missing_phantom,
)
from uss_bench.runtime.errors import InputError

pytestmark = pytest.mark.whole

MANIFEST = ROOT / "data_manifest.csv"

# What radiology books give for parenchyma, widened by patient and phase: native 40-75 HU, enhanced 50-140 HU.
LIVER_HU = {"north": (75, 140), "east": (55, 140), "south": (38, 140), "west": (55, 140), "island": (38, 140)}
ORIENTATION = {"north": "LPS", "east": "RAS", "south": "LAS", "west": "RPI", "island": "ASR"}

make_phantom = cache(make_phantom)
CASES = read_manifest(MANIFEST)
SAMPLE = CASES[::3]  # across splits and sites
FIRST = {case.extra["phantom"]: case for case in reversed(CASES)}
OF_ALL_VARIANTS = SAMPLE + [
    case for name, case in FIRST.items() if name not in {each.extra["phantom"] for each in SAMPLE}
]


def case_in(folder, case_id="east-02", site="east", variant="normal"):
    image, label = folder / f"{case_id}.nii.gz", folder / f"{case_id}_liver.nii.gz"
    return Case(case_id, site, "pool", image, label, case_id, extra={"phantom": variant})


def volume_ml(mask, affine):
    return mask.sum() * abs(np.linalg.det(affine[:3, :3])) / 1000


def world_points(mask, affine):
    """RAS coordinates (n, 3) in mm of the mask's voxels."""
    return np.argwhere(mask) @ affine[:3, :3].T + affine[:3, 3]


def made(case_id, variant="normal"):
    """HU, mask and voxel size in mm of a phantom, axes in RAS order."""
    hu, mask, affine = make_phantom(case_id, case_id.split("-")[0], variant)
    image, label = (nib.as_closest_canonical(nib.Nifti1Image(array, affine)) for array in (hu, mask))
    return np.asarray(image.dataobj), np.asarray(label.dataobj) > 0, np.array(image.header.get_zooms())


def sample(variants=VARIANTS):
    return [made(case.case_id, kind) for case in SAMPLE if (kind := case.extra["phantom"]) in variants]


def height(mask):
    """First and last slice (RAS order) that show the mask."""
    z = np.flatnonzero(mask.any((0, 1)))
    return z[0], z[-1]


# --- files ------------------------------------------------------------------------------------------------


def test_files_are_the_same_bytes_wherever_and_after_whatever_they_are_written(tmp_path):
    alone, last = case_in(tmp_path / "a"), case_in(tmp_path / "b")
    for case in (alone, case_in(tmp_path / "b", "south-03", "south", "cysts"), last):
        write_missing_phantom(case)
    assert alone.image.read_bytes() == last.image.read_bytes()
    assert alone.label.read_bytes() == last.label.read_bytes()
    content = alone.image.read_bytes()
    assert content[:10] == b"\x1f\x8b\x08\0\0\0\0\0\0\3"  # no time, no name, whatever the Python
    assert len(content) < min(2_000_000, len(gzip.decompress(content)))


# SHA-256, begun, of voxels and affine: AVX-512, AVX2 and neither, NumPy 1.24 and 2.4, SciPy 1.10 and 1.17.
EVERYWHERE = {
    ("north-01", "north", "normal"): "3b75457804d5ade0",
    ("island-03", "island", "tumour"): "4ea9ae64dfd9f70e",
    ("west-02", "west", "embolized"): "93b95160cd9b127c",
    ("south-05", "south", "resected"): "cddd97ff5c835c87",
    ("east-04", "east", "ascites"): "60a4dfe6d82d32a4",
    ("north-05", "north", "cirrhotic"): "32712c7446d4b29c",
}


def digest(hu, mask, affine):
    content = hu.tobytes() + mask.tobytes() + affine.astype(np.float32).tobytes()
    return hashlib.sha256(content).hexdigest()[:16]


@pytest.mark.parametrize("case", EVERYWHERE, ids=lambda case: case[2])
def test_a_phantom_is_what_it_was_elsewhere(case):
    assert digest(*make_phantom(*case)) == EVERYWHERE[case]


def test_a_phantom_needs_nothing_of_the_processor():
    """Names of NumPy's extensions of its version 2.4 and of those before; what there is not is not missed."""
    without = "X86_V4 X86_V3 AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL AVX2 FMA3"
    case = ("west-02", "west", "embolized")
    code = (
        "import numpy as np; from test_phantoms import digest, make_phantom\n"
        "has = (np._core if hasattr(np, '_core') else np.core)._multiarray_umath.__cpu_features__\n"
        f"print(digest(*make_phantom{case}), has.get('X86_V3', has['AVX2']))"
    )
    path = os.pathsep.join(map(str, (Path(__file__).parent, ROOT / "tests")))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={**os.environ, "NPY_DISABLE_CPU_FEATURES": without, "OPENBLAS_CORETYPE": "Prescott",
             "PYTHONPATH": path},
    )  # fmt: skip
    assert done.stdout.split() == [EVERYWHERE[case], "False"]


@pytest.mark.parametrize("case", SAMPLE, ids=lambda case: case.case_id)
def test_the_grid_is_known_before_the_phantom_is_made(case):
    hu, _, voxel = made(case.case_id, case.extra["phantom"])
    shape, spacing = phantom_grid(case.case_id, case.site, case.extra["phantom"])
    assert shape == hu.shape[::-1] and spacing == pytest.approx(voxel[::-1])


def test_files_hold_what_make_phantom_returns(tmp_path):
    case = case_in(tmp_path, "island-01", "island")
    write_missing_phantom(case)
    hu, mask, affine = make_phantom("island-01", "island", "normal")
    image, label = nib.load(case.image), nib.load(case.label)
    assert image.get_data_dtype() == np.int16
    assert label.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(image.get_fdata(), hu)
    np.testing.assert_array_equal(label.get_fdata(), mask)
    np.testing.assert_allclose(image.affine, affine, atol=1e-4)
    np.testing.assert_allclose(label.affine, affine, atol=1e-4)
    assert image.header.get_xyzt_units()[0] == "mm"
    assert (
        image.header["descrip"]
        == label.header["descrip"]
        == b"uss-bench phantom: normal at island, island-01"
    )


def test_a_phantom_of_another_row_is_told_from_ones_own(tmp_path):
    """A manifest whose variants were changed after its files had been made would be believed."""
    case = case_in(tmp_path)
    write_missing_phantom(case)
    assert phantom_problems(case) == []
    changed = dataclasses.replace(case, extra={"phantom": "mirrored"})
    lines = phantom_problems(changed)
    assert len(lines) == 2 and str(case.image) in lines[0] and str(case.label) in lines[1]
    assert "another phantom, normal at " in lines[0] and "the manifest asks for mirrored at " in lines[0]
    plain = nib.load(case.image)
    plain.header["descrip"] = b"somebody's own"
    nib.save(plain, case.image)
    assert [line for line in phantom_problems(changed) if str(case.image) in line] == []


def test_a_phantom_may_have_a_name_that_is_not_ascii(tmp_path):
    case = dataclasses.replace(case_in(tmp_path), case_id="nörd-☃")
    write_missing_phantom(case)
    assert phantom_problems(case) == []
    assert (
        nib.load(case.image).header["descrip"].item().decode() == "uss-bench phantom: normal at east, nörd-☃"
    )


def test_existing_files_are_never_rewritten(tmp_path):
    case = case_in(tmp_path)
    case.image.write_bytes(b"a user's own image")
    case.label.write_bytes(b"a user's own label")
    before = case.image.stat().st_mtime_ns, case.label.stat().st_mtime_ns
    write_missing_phantom(case)
    assert case.image.read_bytes() == b"a user's own image"
    assert (case.image.stat().st_mtime_ns, case.label.stat().st_mtime_ns) == before


def test_a_missing_label_alone_is_remade(tmp_path):
    case = case_in(tmp_path)
    write_missing_phantom(case)
    label, written = case.label.read_bytes(), case.image.stat().st_mtime_ns
    case.label.unlink()
    write_missing_phantom(case)
    assert case.label.read_bytes() == label
    assert case.image.stat().st_mtime_ns == written
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        (case.image.name, case.label.name)
    )  # nothing partial left


def test_cases_without_a_variant_are_real_data_and_left_alone(tmp_path):
    real = dataclasses.replace(case_in(tmp_path, site="Rumc"), extra={})
    blank = dataclasses.replace(real, extra={"phantom": ""})
    for case in (real, blank):
        write_missing_phantom(case)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("site", "variant", "named"), [("Rumc", "normal", "Rumc"), ("east", "pregnant", "pregnant")]
)
def test_unknown_site_or_variant_stops_before_any_file(tmp_path, site, variant, named):
    with pytest.raises(InputError, match=named) as caught:
        write_missing_phantom(case_in(tmp_path, "x-01", site, variant))
    message = str(caught.value)
    assert "x-01" in message
    assert "use " in message  # how to correct it
    assert "\n" not in message
    assert not list(tmp_path.iterdir())


# --- anatomy ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", OF_ALL_VARIANTS, ids=lambda case: f"{case.case_id}-{case.extra['phantom']}")
def test_liver_is_one_plausible_organ_on_its_side(case):
    variant = case.extra["phantom"]
    hu, mask, affine = make_phantom(case.case_id, case.site, variant)
    labels, _ = ndimage.label(mask)
    assert np.bincount(labels.ravel())[1:].max() >= 0.99 * mask.sum()
    assert 350 < volume_ml(mask, affine) < 3000
    sides = (
        side
        for axis in (0, 1)
        for side in (made(case.case_id, variant)[1].take(end, axis) for end in (0, -1))
    )
    assert not any(side.any() for side in sides)  # in plane, the field of view holds it all

    right = world_points(mask, affine)[:, 0] - world_points(hu > -300, affine)[:, 0].mean()
    if variant == "mirrored":
        right = -right
    if variant != "resected":
        assert right.mean() > 12
        assert (right > 0).mean() > 0.6


@pytest.mark.parametrize("case", OF_ALL_VARIANTS, ids=lambda case: f"{case.case_id}-{case.extra['phantom']}")
def test_the_mask_is_the_organ_that_the_image_shows(case):
    """Inside it looks like liver, and along most of its border something else begins within a few mm."""
    hu, mask, _ = made(case.case_id, case.extra["phantom"])
    core = ndimage.binary_erosion(mask, iterations=2)
    liver = np.median(hu[core])
    if case.extra["phantom"] not in ("cysts", "tumour", "lesions", "embolized"):
        assert np.mean(np.abs(ndimage.uniform_filter(hu.astype(float), 3)[core] - liver) < 30) > 0.9
    ring = ndimage.binary_dilation(mask, iterations=2) & ~ndimage.binary_dilation(mask)
    assert np.mean(np.abs(hu[ring] - liver) > 25) > 0.6


@pytest.mark.parametrize("site", ORIENTATION)
def test_up_and_front_are_where_the_affine_says(site):
    hu, mask, affine = make_phantom(f"{site}-01", site, "normal")
    liver = world_points(mask, affine).mean(axis=0)
    spine = world_points(hu > 350, affine)
    spine = spine[np.abs(spine[:, 0] - world_points(hu > -300, affine)[:, 0].mean()) < 25]
    y = sum(
        step * index for step, index in zip(affine[1], np.ogrid[tuple(map(slice, hu.shape))], strict=False)
    )
    airy = (hu > -950) & (hu < -700) & (y + affine[1, 3] > np.median(spine[:, 1]))  # behind: the table's foam
    found, _ = ndimage.label(airy)
    lungs = world_points(found == 1 + np.argmax(np.bincount(found.ravel())[1:]), affine)
    assert np.median(lungs[:, 2]) > liver[2] + 25  # the lung lies above the liver
    assert np.median(spine[:, 1]) < liver[1] - 20  # the spine lies behind it


@pytest.mark.parametrize("site", ORIENTATION)
def test_tissues_have_plausible_densities(site):
    hu, mask, _ = make_phantom(f"{site}-01", site, "normal")
    inner = ndimage.binary_erosion(mask, iterations=2)
    low, high = LIVER_HU[site]
    assert low < hu[inner].mean() < high
    assert hu.dtype == np.int16
    assert hu.min() >= -1024
    assert np.mean(hu < -900) > 0.2  # air around the patient
    assert np.mean((hu > -140) & (hu < -70)) > 0.05  # fat
    assert np.mean(hu > 230) > 0.002  # bone


def test_liver_cannot_be_found_by_its_density_alone():
    hu, mask, _ = make_phantom("north-01", "north", "normal")
    liver = mask > 0
    low, high = np.percentile(hu[liver], (5, 95))
    alike = (hu >= low) & (hu <= high)
    assert np.count_nonzero(alike & ~liver) > 0.2 * np.count_nonzero(liver)


# --- sites ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("site", ORIENTATION)
def test_site_geometry(site):
    hu, mask, affine = make_phantom(f"{site}-01", site, "normal")
    assert mask.shape == hu.shape
    assert mask.dtype == np.uint8
    assert "".join(nib.aff2axcodes(affine)) == ORIENTATION[site]
    spacing = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    superior = ["S" in codes or "I" in codes for codes in nib.aff2axcodes(affine)].index(True)
    in_plane = [axis for axis in range(3) if axis != superior]
    assert 3 < spacing[superior] < 6.5
    assert 20 <= hu.shape[superior] <= 110
    assert spacing[in_plane[0]] == pytest.approx(spacing[in_plane[1]])
    assert 3 < spacing[in_plane[0]] < 6
    assert hu.shape[in_plane[0]] == hu.shape[in_plane[1]]


def test_noise_is_correlated_in_plane_only():
    hu, _, _ = make_phantom("south-01", "south", "normal")
    air = hu[:10, -10:].astype(float)  # the corner before the patient's right shoulder, all slices
    air -= air.mean()

    def correlation(axis):
        ahead, behind = air.take(range(1, air.shape[axis]), axis), air.take(range(air.shape[axis] - 1), axis)
        return np.corrcoef(ahead.ravel(), behind.ravel())[0, 1]

    assert correlation(0) > 0.3
    assert correlation(1) > 0.3
    assert abs(correlation(2)) < 0.1


@pytest.mark.parametrize("site", ORIENTATION)
def test_contrast_phases_vary_within_a_site(site):
    """By what is drawn; that the image shows it is tested above."""
    drawn = []
    for number in range(1, 9):
        generators = phantoms._generators(f"{site}-{number:02d}")[:2]
        _, tissue, *_ = phantoms.begin_case(phantoms.SITES[site], "normal", *generators)
        drawn.append(tissue["liver"])
    assert np.ptp(drawn) > 20


# --- patients differ --------------------------------------------------------------------------------------


def test_scans_begin_and_end_anywhere():
    """Some miss a part of the liver, some show the pelvis, most show all of the liver."""
    above, below = [], []
    for _, mask, size in sample():
        first, last = height(mask)
        above.append((mask.shape[2] - 1 - last) * size[2])
        below.append(first * size[2])
    cut = np.mean([a == 0 or b == 0 for a, b in zip(above, below, strict=True)])
    assert 0.1 < cut < 0.45
    assert np.median(above) < 50
    assert np.quantile(below, 0.9) > 150
    assert 40 < np.median(below) < 100


def test_patients_lie_turned_on_a_table_that_is_level():
    turns = []
    for hu, mask, _ in sample():
        body = np.argwhere(ndimage.binary_opening(hu[:, :, int(np.mean(height(mask)))] > -200, iterations=3))
        axis = np.linalg.eigh(np.cov(body.T))[1][:, -1]  # the long one, left to right
        turns.append(np.degrees(np.arctan2(axis[1], axis[0])) % 180)
    turns = (np.array(turns) + 90) % 180 - 90
    assert np.std(turns) > 3
    assert np.abs(turns).max() > 7


def test_arms_are_in_view_at_times():
    seen = [max((hu[end] > 0).mean() for end in (0, -1)) > 0.05 for hu, _, _ in sample()]
    assert 0.03 < np.mean(seen) < 0.5


def test_patients_are_as_different_as_real_ones():
    """Medians of the figures by which phantoms were compared with eleven patients, in 6 mm voxels.

    isodense, fat : shares of an 18 mm ring around the liver within 25 HU of it, and below -30 HU
    overlap : DICE of two livers brought to the same box of body and liver
    """
    isodense, fat, volumes, shapes = [], [], [], []
    for hu, mask, size in sample():
        ct = ndimage.zoom(hu.astype(np.float32), size / 6, order=1)
        liver = ndimage.zoom(mask.astype(np.float32), size / 6, order=1) >= 0.5
        ring = ndimage.binary_dilation(liver, iterations=3) & ~liver
        isodense.append(np.mean(np.abs(ct[ring] - np.median(ct[ndimage.binary_erosion(liver)])) < 25))
        fat.append(np.mean(ct[ring] < -30))
        volumes.append(liver.sum() * 0.216 / 1000)
        first, last = height(liver)
        x, y = (np.flatnonzero(side) for side in ((ct > -200).sum((1, 2)) > 40, (ct > -200).sum((0, 2)) > 40))
        box = liver[x[0] : x[-1] + 1, y[0] : y[-1] + 1, first : last + 1].astype(np.float32)
        shapes.append(ndimage.zoom(box, np.array([64, 48, 24]) / box.shape, order=1) > 0.5)
    overlap = [2 * (a & b).sum() / (a.sum() + b.sum()) for a, b in combinations(shapes, 2)]
    assert 0.06 < np.median(isodense) < 0.15
    assert 0.38 < np.median(fat) < 0.53
    assert 0.5 < np.median(overlap) < 0.7
    assert 1.2 < np.median(volumes) < 1.8
    assert np.quantile(volumes, 0.9) > 1.5 * np.quantile(volumes, 0.1)


# --- variants ---------------------------------------------------------------------------------------------

PAIRS = pytest.mark.parametrize(("case_id", "site"), [("north-01", "north"), ("south-01", "south")])


@PAIRS
@pytest.mark.parametrize("variant", ["lesions", "embolized", "fatty"])
def test_changes_inside_the_liver_leave_its_shape_and_all_else(case_id, site, variant):
    normal, mask, _ = make_phantom(case_id, site, "normal")
    changed, changed_mask, _ = make_phantom(case_id, site, variant)
    np.testing.assert_array_equal(mask, changed_mask)
    assert (
        np.mean((normal != changed)[~ndimage.binary_dilation(mask, iterations=2)]) < 1e-3
    )  # but for soft edges


@PAIRS
def test_lesions_darken_parts_of_the_liver(case_id, site):
    normal, mask, _ = make_phantom(case_id, site, "normal")
    lesions, _, _ = make_phantom(case_id, site, "lesions")
    assert 0.002 < np.mean((normal != lesions)[mask == 1]) < 0.5
    assert lesions[mask == 1].mean() < normal[mask == 1].mean()


@PAIRS
def test_cysts_hold_water_inside_the_mask(case_id, site):
    def near_water(variant):
        hu, mask, affine = make_phantom(case_id, site, variant)
        smooth = ndimage.uniform_filter(hu.astype(float), 3)
        return volume_ml((np.abs(smooth - 8) < 12) & ndimage.binary_erosion(mask), affine)

    assert near_water("cysts") > 20
    assert near_water("cysts") > 5 * near_water("normal")


@PAIRS
def test_where_cysts_bulge_the_image_shows_them(case_id, site):
    _, normal, _ = make_phantom(case_id, site, "normal")
    hu, cystic, _ = make_phantom(case_id, site, "cysts")
    bulge = cystic > normal
    assert 0 < bulge.sum() < 0.2 * normal.sum()
    assert -30 < hu[bulge].mean() < 30
    assert np.mean(hu[bulge] > 120) < 0.02  # neither kidney, vein nor bone


@PAIRS
def test_resected_is_part_of_the_normal_liver(case_id, site):
    _, normal, _ = make_phantom(case_id, site, "normal")
    _, resected, _ = make_phantom(case_id, site, "resected")
    assert not (resected > normal).any()
    assert 0.2 < resected.sum() / normal.sum() < 0.8


@PAIRS
def test_fatty_liver_is_darker(case_id, site):
    normal, mask, _ = make_phantom(case_id, site, "normal")
    fatty, _, _ = make_phantom(case_id, site, "fatty")
    inner = ndimage.binary_erosion(mask, iterations=2)
    assert 30 < normal[inner].mean() - fatty[inner].mean() < 60


@PAIRS
def test_a_tumour_is_large_and_belongs_to_the_liver(case_id, site):
    normal, mask, affine = make_phantom(case_id, site, "normal")
    hu, with_tumour, _ = make_phantom(case_id, site, "tumour")
    assert not (mask > with_tumour).any()
    difference = ndimage.uniform_filter(hu.astype(float) - normal, 3)
    labels, _ = ndimage.label((np.abs(difference) > 10) & (with_tumour > 0))
    assert volume_ml(labels == 1 + np.argmax(np.bincount(labels.ravel())[1:]), affine) > 100


@PAIRS
def test_embolized_livers_hold_what_is_brighter_than_bone(case_id, site):
    normal, mask, _ = make_phantom(case_id, site, "normal")
    hu, _, affine = make_phantom(case_id, site, "embolized")
    assert not (normal[mask == 1] > 600).any()
    assert volume_ml((hu > 600) & (mask == 1), affine) > 5


@PAIRS
def test_ascites_surrounds_the_liver_with_water(case_id, site):
    def water_around(variant):
        hu, liver, _ = made(case_id, variant)
        ring = ndimage.binary_dilation(liver, iterations=2) & ~liver
        return np.mean(np.abs(ndimage.uniform_filter(hu.astype(float), 3)[ring] - 8) < 20)

    assert water_around("ascites") > 0.2
    assert water_around("ascites") > 1.7 * water_around("normal")


@PAIRS
def test_a_cirrhotic_liver_is_nodular_and_its_right_side_small(case_id, site):
    def roughness(mask):
        smooth = ndimage.gaussian_filter(mask.astype(float), 1.5) > 0.5
        faces = [sum(np.count_nonzero(np.diff(m, axis=axis)) for axis in range(3)) for m in (mask, smooth)]
        return faces[0] / faces[1]

    (_, normal, _), (_, cirrhotic, _) = made(case_id), made(case_id, "cirrhotic")
    assert roughness(cirrhotic) > 1.1 * roughness(normal)
    assert cirrhotic.sum() < normal.sum()
    assert np.argwhere(cirrhotic)[:, 0].mean() < np.argwhere(normal)[:, 0].mean()  # the left lobe grows


@PAIRS
def test_a_mirrored_body_is_mirrored_in_all(case_id, site):
    (hu, mask, _), (mirrored, mirrored_mask, _) = made(case_id), made(case_id, "mirrored")
    np.testing.assert_array_equal(mirrored, hu[::-1])
    np.testing.assert_array_equal(mirrored_mask, mask[::-1])
    body = np.argwhere(mirrored > -300)[:, 0].mean()
    assert np.argwhere(mirrored_mask)[:, 0].mean() < body  # the liver lies on the left
