"""Phantoms, checked as any reader of the files would see them: through nibabel, in world coordinates, against clinical ranges."""

import dataclasses
import gzip
from collections import Counter
from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from uss_bench.data.manifest import Case, read_manifest
from uss_bench.data.phantoms import make_phantom, write_missing_phantoms
from uss_bench.runtime.errors import InputError

MANIFEST = Path(__file__).parents[2] / "data_manifest.csv"

# What radiology books give for parenchyma, widened by patient and phase: native 40-75 HU, enhanced 50-140 HU.
LIVER_HU = {"north": (80, 140), "east": (50, 140), "south": (38, 75), "west": (70, 140), "island": (80, 140)}
ORIENTATION = {"north": "LPS", "east": "RAS", "south": "LAS", "west": "RPI", "island": "ASR"}

make_phantom = cache(make_phantom)


def case_in(folder, case_id="east-02", site="east", variant="normal"):
    image, label = folder / f"{case_id}.nii.gz", folder / f"{case_id}_liver.nii.gz"
    return Case(case_id, site, "pool", image, label, case_id, extra={"phantom": variant})


def volume_ml(mask, affine):
    return mask.sum() * abs(np.linalg.det(affine[:3, :3])) / 1000


def world_points(mask, affine):
    """RAS coordinates (n, 3) in mm of the mask's voxels."""
    return np.argwhere(mask) @ affine[:3, :3].T + affine[:3, 3]


# --- files ----------------------------------------------------------------------------------------------------------------


def test_files_are_the_same_bytes_wherever_and_whenever_they_are_written(tmp_path):
    first, second = case_in(tmp_path / "a"), case_in(tmp_path / "b")
    assert write_missing_phantoms([first]) == 1
    assert write_missing_phantoms([second]) == 1
    assert first.image.read_bytes() == second.image.read_bytes()
    assert first.label.read_bytes() == second.label.read_bytes()


def test_gzip_header_names_neither_time_nor_file(tmp_path):
    case = case_in(tmp_path)
    write_missing_phantoms([case])
    for path in (case.image, case.label):
        header = path.read_bytes()[:10]
        assert header[:2] == b"\x1f\x8b"
        assert header[3] == 0  # no flags: no name, no comment
        assert header[4:8] == b"\0\0\0\0"  # modification time


def test_a_phantom_does_not_depend_on_those_made_before_it(tmp_path):
    alone, last = case_in(tmp_path / "a"), case_in(tmp_path / "b")
    write_missing_phantoms([alone])
    write_missing_phantoms([case_in(tmp_path / "b", "south-03", "south", "cysts"), last])
    assert alone.image.read_bytes() == last.image.read_bytes()


def test_files_hold_what_make_phantom_returns(tmp_path):
    case = case_in(tmp_path, "island-01", "island")
    write_missing_phantoms([case])
    hu, mask, affine = make_phantom("island-01", "island", "normal")
    image, label = nib.load(case.image), nib.load(case.label)
    assert image.get_data_dtype() == np.int16
    assert label.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(image.get_fdata(), hu)
    np.testing.assert_array_equal(label.get_fdata(), mask)
    np.testing.assert_allclose(image.affine, affine, atol=1e-4)
    np.testing.assert_allclose(label.affine, affine, atol=1e-4)
    assert image.header.get_xyzt_units()[0] == "mm"


def test_existing_files_are_never_rewritten(tmp_path):
    case = case_in(tmp_path)
    case.image.write_bytes(b"a user's own image")
    case.label.write_bytes(b"a user's own label")
    before = case.image.stat().st_mtime_ns, case.label.stat().st_mtime_ns
    assert write_missing_phantoms([case]) == 0
    assert case.image.read_bytes() == b"a user's own image"
    assert (case.image.stat().st_mtime_ns, case.label.stat().st_mtime_ns) == before


def test_a_missing_label_alone_is_remade(tmp_path):
    case = case_in(tmp_path)
    write_missing_phantoms([case])
    label, written = case.label.read_bytes(), case.image.stat().st_mtime_ns
    case.label.unlink()
    assert write_missing_phantoms([case]) == 1
    assert case.label.read_bytes() == label
    assert case.image.stat().st_mtime_ns == written
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        (case.image.name, case.label.name)
    )  # nothing partial left


def test_cases_without_a_variant_are_real_data_and_left_alone(tmp_path):
    real = dataclasses.replace(case_in(tmp_path, site="Rumc"), extra={})
    blank = dataclasses.replace(real, extra={"phantom": ""})
    assert write_missing_phantoms([real, blank]) == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("site", "variant", "named"), [("Rumc", "normal", "Rumc"), ("east", "cirrhotic", "cirrhotic")]
)
def test_unknown_site_or_variant_stops_before_any_file(tmp_path, site, variant, named):
    with pytest.raises(InputError, match=named) as caught:
        write_missing_phantoms([case_in(tmp_path), case_in(tmp_path, "x-01", site, variant)])
    message = str(caught.value)
    assert "x-01" in message
    assert "use " in message  # how to mend it
    assert "\n" not in message
    assert not list(tmp_path.iterdir())


# --- anatomy --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", read_manifest(MANIFEST)[1::4], ids=lambda case: case.case_id)
def test_liver_is_one_plausible_organ_on_the_right(case):
    variant = case.extra["phantom"]
    hu, mask, affine = make_phantom(case.case_id, case.site, variant)
    labels, _ = ndimage.label(mask)
    assert np.bincount(labels.ravel())[1:].max() >= 0.99 * mask.sum()
    low, high = (250, 1700) if variant == "resected" else (800, 2400)
    assert low < volume_ml(mask, affine) < high
    assert all(
        not side.any() for axis in range(3) for side in (mask.take(0, axis), mask.take(-1, axis))
    )  # wholly inside the scan

    body_right = world_points(hu > -300, affine)[:, 0].mean()
    right = world_points(mask, affine)[:, 0]
    if variant != "resected":
        assert right.mean() > body_right + 20
        assert (right > body_right).mean() > 0.7


@pytest.mark.parametrize("site", ORIENTATION)
def test_up_and_front_are_where_the_affine_says(site):
    hu, mask, affine = make_phantom(f"{site}-01", site, "normal")
    liver = world_points(mask, affine).mean(axis=0)
    lungs = world_points((hu > -950) & (hu < -700), affine)
    spine = world_points(hu > 350, affine)
    spine = spine[np.abs(spine[:, 0]) < 25]  # the trunk is centred on x = 0
    lungs = lungs[np.abs(lungs[:, 0] - liver[0]) < 60]
    assert np.median(lungs[:, 2]) > liver[2] + 40  # the lung lies above the liver
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


# --- sites ----------------------------------------------------------------------------------------------------------------


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
    assert 30 <= hu.shape[superior] <= 70
    assert spacing[in_plane[0]] == pytest.approx(spacing[in_plane[1]])
    assert 3 < spacing[in_plane[0]] < 5.5
    assert hu.shape[in_plane[0]] == hu.shape[in_plane[1]]


def test_noise_is_correlated_in_plane_only():
    hu, _, _ = make_phantom("south-01", "south", "normal")
    air = hu[:12, :12].astype(float)  # a corner outside the patient, all slices
    air -= air.mean()

    def correlation(axis):
        ahead, behind = air.take(range(1, air.shape[axis]), axis), air.take(range(air.shape[axis] - 1), axis)
        return np.corrcoef(ahead.ravel(), behind.ravel())[0, 1]

    assert correlation(0) > 0.3
    assert correlation(1) > 0.3
    assert abs(correlation(2)) < 0.1


# --- variants -------------------------------------------------------------------------------------------------------------

PAIRS = pytest.mark.parametrize(("case_id", "site"), [("north-01", "north"), ("south-01", "south")])


@PAIRS
def test_lesions_darken_parts_of_the_same_liver(case_id, site):
    normal, mask, _ = make_phantom(case_id, site, "normal")
    lesions, lesion_mask, _ = make_phantom(case_id, site, "lesions")
    np.testing.assert_array_equal(mask, lesion_mask)
    changed = normal != lesions
    assert np.mean(changed[~ndimage.binary_dilation(mask)]) < 1e-4  # but for soft edges
    assert 0.002 < np.mean(changed[mask == 1]) < 0.5
    assert lesions[mask == 1].mean() < normal[mask == 1].mean()


@PAIRS
def test_cysts_hold_water_inside_the_mask(case_id, site):
    def near_water(variant):
        hu, mask, affine = make_phantom(case_id, site, variant)
        smooth = ndimage.uniform_filter(hu.astype(float), 3)
        return volume_ml((np.abs(smooth - 8) < 12) & ndimage.binary_erosion(mask), affine)

    assert near_water("cysts") > 20
    assert near_water("cysts") > 10 * near_water("normal")


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
    assert 0.15 < resected.sum() / normal.sum() < 0.95


@PAIRS
def test_fatty_liver_is_darker_and_nothing_else_changes(case_id, site):
    normal, mask, _ = make_phantom(case_id, site, "normal")
    fatty, fatty_mask, _ = make_phantom(case_id, site, "fatty")
    np.testing.assert_array_equal(mask, fatty_mask)
    inner, outer = ndimage.binary_erosion(mask, iterations=2), ~ndimage.binary_dilation(mask, iterations=2)
    assert 30 < normal[inner].mean() - fatty[inner].mean() < 60
    assert np.mean(normal[outer] != fatty[outer]) < 1e-4  # but for soft edges


# --- the embedded manifest ------------------------------------------------------------------------------------------------


def test_manifest_counts():
    cases = read_manifest(MANIFEST)
    assert Counter(case.split for case in cases) == {"pool": 24, "val": 4, "test": 20}
    for case in cases:
        assert case.site == case.case_id.split("-")[0]
        assert case.image == MANIFEST.parent / "data" / "phantoms" / f"{case.case_id}.nii.gz"
        assert case.label == MANIFEST.parent / "data" / "phantoms" / f"{case.case_id}_liver.nii.gz"
    for split in ("pool", "test"):
        chosen = [case for case in cases if case.split == split]
        sizes = Counter(case.site for case in chosen)
        assert set(sizes) == set(ORIENTATION)
        assert max(sizes.values()) >= 2 * min(sizes.values())
        variants = Counter(case.extra["phantom"] for case in chosen)
        assert 0.2 <= 1 - variants["normal"] / len(chosen) <= 0.25
        assert set(variants) == {"normal", "lesions", "cysts", "resected", "fatty"}


def test_the_first_rows_of_each_split_mix_sites_and_hold_a_hard_case():
    cases = read_manifest(MANIFEST)
    first = {
        split: [case for case in cases if case.split == split][:rows]
        for split, rows in (("pool", 6), ("val", 2), ("test", 4))
    }
    assert all(len({case.site for case in chosen}) >= min(3, len(chosen)) for chosen in first.values())
    assert any(case.extra["phantom"] != "normal" for chosen in first.values() for case in chosen)


def test_image_files_are_valid_gzip_with_a_compact_size(tmp_path):
    case = case_in(tmp_path)
    write_missing_phantoms([case])
    content = case.image.read_bytes()
    assert len(gzip.decompress(content)) > len(content)
    assert len(content) < 2_000_000
