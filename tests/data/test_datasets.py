"""Importers: folders built as the publishers ship them, and what must come of them written out by hand."""

import csv
import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from builders import DATA, ROOT

from uss_bench.commands import main
from uss_bench.data import datasets, dicom
from uss_bench.data.case_files import read_label
from uss_bench.data.manifest import Case, read_manifest
from uss_bench.data.nifti import read_nifti
from uss_bench.data.nifti_header import read_header
from uss_bench.data.splits import assign_splits
from uss_bench.runtime.errors import InputError

REAL = DATA / "real" / "chaos03"
CT_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
SCAN_AFFINE = np.diag([-0.7, -0.8, 2.5, 1.0])
LIVER = np.pad(np.ones((2, 2, 2), np.uint8), 1)  # 4 x 4 x 4


@pytest.fixture
def sitk():
    return pytest.importorskip("SimpleITK")


@pytest.fixture
def source(tmp_path):
    return tmp_path / "source"


@pytest.fixture
def imported(tmp_path, source, capsys):
    """Runs the command line on `source`.

    Returns the cases by id and what was printed or, where an error is expected, its message.
    """
    output = tmp_path / "lists" / "manifest.csv"

    def run(layout, *arguments, source=source, error=False):
        if "--append" not in arguments:
            output.unlink(missing_ok=True)
        before = output.read_bytes() if output.exists() else None
        code = main(["import", layout, str(source), "--output", str(output), *map(str, arguments)])
        printed = capsys.readouterr()
        assert code == (2 if error else 0), printed.err
        if error:
            assert (output.read_bytes() if output.exists() else None) == before, (
                "a failed import must leave the manifest alone"
            )
            assert not list(tmp_path.rglob(".partial-*"))
            return printed.err
        return {case.case_id: case for case in read_manifest(output)}, printed.out

    run.output = output
    return run


def save(path, array=LIVER, affine=SCAN_AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.asarray(array), affine), path)


def save_lits(source, *numbers, affine=SCAN_AFFINE, batch="Training Batch 1"):
    for number in numbers:
        save(source / batch / f"volume-{number}.nii", LIVER.astype(np.int16), affine)
        save(source / batch / f"segmentation-{number}.nii", LIVER, affine)


def save_decathlon(source, labels, names, channel="", **description):
    for name in names:
        save(source / "imagesTr" / f"{name}{channel}.nii.gz", LIVER.astype(np.int16))
        save(source / "labelsTr" / f"{name}.nii.gz")
    source.mkdir(exist_ok=True)
    (source / "dataset.json").write_text(json.dumps({"labels": labels, **description}), encoding="utf-8")


def save_dicom(sitk, path, pixels, position, number, intercept="-1000"):
    """One slice (y, x) at `position`, 0.5 mm between columns and 0.75 mm between rows.

    SliceThickness is wrong, as in CHAOS.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(np.asarray(pixels)[None])
    image.SetSpacing((0.5, 0.75, 3.2))
    image.SetOrigin(position)
    tags = {"0008|0016": CT_STORAGE, "0008|0060": "CT", "0018|0050": "3.2", "0018|5100": "FFS"}
    tags |= {
        "0028|1052": intercept,
        "0028|1053": "1",
        "0020|0013": str(number),
        "0020|0037": "1\\0\\0\\0\\1\\0",
    }
    tags |= {"0020|0032": "\\".join(map(str, position)), "0020|000e": "1.2.3", "0008|0018": f"1.2.3.{number}"}
    for tag, value in tags.items():
        image.SetMetaData(tag, value)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    writer.SetImageIO("GDCMImageIO")
    writer.SetFileName(str(path))
    writer.Execute(image)


HEIGHTS = (100.0, 102.0, 104.0, 106.0)  # mm, LPS z of the slices
SHUFFLED = (2, 0, 3, 1)  # file names run against the positions


def ramp(k):
    """HU of slice k, rows of 6 columns: every voxel of the volume is different."""
    return (-900 + 100 * k + 10 * np.arange(5)[:, None] + np.arange(6)).astype(np.int16)


def blob(k):
    """Mask of slice k: a bar whose length is that of no other slice."""
    mask = np.zeros((5, 6), np.uint8)
    mask[1, 2 : 3 + k] = 1
    return mask


def save_ircadb(sitk, folder):
    for k, height in enumerate(HEIGHTS):
        position = (-20.0, -30.0, height)
        save_dicom(sitk, folder / "PATIENT_DICOM" / f"image_{SHUFFLED[k]}", ramp(k), position, 40 - k)
        save_dicom(
            sitk, folder / "MASKS_DICOM/liver" / f"image_{k}", 255 * blob(k), position, 40 - k, intercept="0"
        )


def save_chaos(sitk, folder, upwards):
    """PNG k is drawn on the k-th acquired slice: scanned `upwards`, or head first to the feet."""
    for k, height in enumerate(HEIGHTS):
        number = k if upwards else len(HEIGHTS) - 1 - k
        save_dicom(
            sitk,
            folder / "DICOM_anon" / f"i000{SHUFFLED[k]},0000b.dcm",
            ramp(k),
            (-20.0, -30.0, height),
            number + 1,
        )
        (folder / "Ground").mkdir(exist_ok=True)
        sitk.WriteImage(
            sitk.GetImageFromArray(255 * blob(k)), str(folder / "Ground" / f"liver_GT_{number:03}.png")
        )


def check_ramp(case):
    """The volume is as its positions say.

    LPS columns and rows run against RAS, pixels are 0.5 x 0.75 mm, slices 2 mm apart.
    """
    values, spacing, affine = read_nifti(case.image)
    assert spacing == (2.0, 0.75, 0.5)
    for k in range(4):
        np.testing.assert_array_equal(values[k], ramp(k)[::-1, ::-1])
    np.testing.assert_allclose(affine @ [5, 4, 0, 1], [20, 30, 100, 1])  # the first voxel of the lowest slice
    label, _ = read_label(case)
    np.testing.assert_array_equal(read_header(case.label).affine, affine)
    assert label.dtype == bool
    assert [int(one.sum()) for one in label] == [1, 2, 3, 4]
    assert label[3, 3, :4].all()  # row 1 of 5 from the back, columns 2 to 5 of 6 from the right


def test_lits(imported, source):
    save_lits(source, 0, 10)
    save_lits(source, 2, batch="Training Batch 2")
    save(source / "Test Batch" / "test-volume-0.nii")
    cases, _ = imported("lits")
    assert list(cases) == ["lits-0", "lits-2", "lits-10"]
    assert cases["lits-2"].image.samefile(source / "Training Batch 2/volume-2.nii")
    assert cases["lits-2"].label.samefile(source / "Training Batch 2/segmentation-2.nii")
    assert {(case.site, case.label_values, case.spacing) for case in cases.values()} == {
        ("LiTS", (1, 2), None)
    }


def test_lits_reads_compressed_files_and_refuses_a_number_found_twice(imported, source):
    save(source / "volume-3.nii.gz")
    save(source / "segmentation-3.nii.gz")
    assert list(imported("lits")[0]) == ["lits-3"]
    save(source / "unpacked" / "volume-3.nii")
    assert "have the same number" in imported("lits", error=True)


def test_lits_without_spacing_is_left_out_unless_the_user_or_pixdim_knows_it(imported, source):
    save_lits(source, 1)
    save_lits(source, 28, 29, 30, affine=np.eye(4))
    image = nib.Nifti1Image(LIVER.astype(np.int16), np.eye(4))
    image.header.set_zooms((0.7, 0.8, 1.25))  # sform stays the identity: the header still knows the spacing
    nib.save(image, source / "Training Batch 1/volume-30.nii")
    cases, printed = imported("lits", "--spacing", "lits-29=0.6x0.65x2.0")
    assert {name: case.spacing for name, case in cases.items()} == {
        "lits-1": None,
        "lits-29": (2.0, 0.65, 0.6),
        "lits-30": (1.25, 0.8, 0.7),
    }
    assert "left out lits-28: its header has lost the spacing" in printed


def test_lits_shares_patients_with_ircadb_and_msd(imported, source, tmp_path, sitk):
    save_lits(source, *range(27, 49))
    lits, _ = imported("lits")
    expected = {"lits-27": "lits-27", "lits-28": "ircadb-01", "lits-47": "ircadb-20", "lits-48": "lits-48"}
    assert {name: lits[name].patient_id for name in expected} == expected

    save_decathlon(
        tmp_path / "Task03_Liver", {"0": "background", "1": "liver", "2": "cancer"}, ["liver_28", "liver_48"]
    )
    imported("msd", "--append", source=tmp_path / "Task03_Liver")
    for number in (1, 20):
        save_ircadb(sitk, tmp_path / "3Dircadb1" / f"3Dircadb1.{number}")
    cases, printed = imported(
        "ircadb", "--append", "--convert-to", tmp_path / "nifti", source=tmp_path / "3Dircadb1"
    )
    assert cases["ircadb-01"].split == cases["lits-28"].split == cases["liver_28"].split
    assert cases["ircadb-20"].split == cases["lits-47"].split
    assert cases["liver_48"].patient_id == "lits-48"
    assert "patient ircadb-01 has 3 cases" in printed


def test_nnunets_copy_of_lits_keeps_its_patients_in_their_splits(imported, source, tmp_path):
    """Dataset003_Liver, as nnU-Net converts the decathlon's task: the names stay."""
    save_lits(source, *range(1, 9), 30)
    lits, _ = imported("lits")
    folder = tmp_path / "Dataset003_Liver"
    names = [f"liver_{number}" for number in (*range(1, 9), 30)]
    save_decathlon(folder, {"background": 0, "liver": 1, "tumor": 2}, names, "_0000")
    cases, _ = imported("nnunet", "--append", "--seed", 7, source=folder)
    assert [cases[name].split for name in names] == [case.split for case in lits.values()]
    assert cases["liver_30"].patient_id == "ircadb-03"


def test_a_lost_spacing_is_found_in_every_copy_of_lits(imported, source):
    save_decathlon(source, {"liver": 1}, ["liver_3", "own"], "_0000")
    for name in ("liver_28", "other"):
        save(source / f"imagesTr/{name}_0000.nii.gz", LIVER.astype(np.int16), np.eye(4))
        save(source / f"labelsTr/{name}.nii.gz", LIVER, np.eye(4))
    cases, printed = imported("nnunet")
    assert set(cases) == {"liver_3", "own", "other"}  # 1 mm may be true of other data
    assert "left out liver_28: its header has lost the spacing" in printed


def test_what_no_run_would_take_is_found_at_once(imported, source):
    save_lits(source, 1, 2)
    shifted = SCAN_AFFINE.copy()
    shifted[:3, 3] = 30
    save(source / "Training Batch 1/segmentation-2.nii", LIVER, shifted)
    message = imported("lits", error=True)
    assert "case lits-2: " in message and message.rstrip().endswith("or give --exclude lits-2")
    assert set(imported("lits", "--exclude", "lits-2")[0]) == {"lits-1"}


def test_a_manifest_that_was_changed_meanwhile_is_left_alone(imported, source, tmp_path, monkeypatch):
    """By another import, say, while this one converts."""
    save_lits(source, 1, 2)
    imported("lits")
    output, more = imported.output, tmp_path / "more"
    save_lits(more, 3, 4)
    prepare = datasets.prepare

    def interrupted(*given):
        output.write_text(output.read_text(encoding="utf-8").replace("lits-1,", "mine-1,"), encoding="utf-8")
        return prepare(*given)

    monkeypatch.setattr(datasets, "prepare", interrupted)
    assert main(["import", "lits", str(more), "--output", str(output), "--append"]) == 2
    assert "mine-1," in output.read_text(encoding="utf-8") and "lits-3" not in output.read_text(
        encoding="utf-8"
    )
    monkeypatch.undo()
    assert set(imported("lits", "--append", source=more)[0]) == {"mine-1", "lits-2", "lits-3", "lits-4"}


def test_a_tilted_gantry_and_a_lone_slice_are_refused(imported, source, tmp_path, sitk):
    save_ircadb(sitk, source / "3Dircadb1.1")
    folder = source / "3Dircadb1.1/PATIENT_DICOM"
    for k, height in enumerate(HEIGHTS):  # 20 degrees off
        position = (-20.0, -30.0 + height * np.tan(np.radians(20)), height)
        save_dicom(sitk, folder / f"image_{SHUFFLED[k]}", ramp(k), position, 40 - k)
    message = imported("ircadb", "--convert-to", tmp_path / "nifti", error=True)
    assert "a tilted gantry: slices are stacked 20 degrees off their normal" in message
    with pytest.raises(InputError, match="image_0: a single slice; give the folder"):
        dicom.read_image(folder / "image_0")


def test_chaos_pairs_masks_with_slices_however_they_are_numbered(imported, source, tmp_path, sitk):
    save_chaos(sitk, source / "Train_Sets/CT/2", upwards=True)
    save_chaos(sitk, source / "Train_Sets/CT/10", upwards=False)
    (source / "Train_Sets/MR/1/T2SPIR/DICOM_anon").mkdir(parents=True)
    cases, _ = imported("chaos", "--convert-to", tmp_path / "nifti")
    assert list(cases) == ["chaos-2", "chaos-10"]
    assert {case.site for case in cases.values()} == {"CHAOS"}
    for case in cases.values():
        check_ramp(case)


@pytest.mark.slow
@pytest.mark.skipif(not REAL.exists(), reason="needs the real CHAOS set")
def test_the_real_chaos_set_comes_out_as_published(imported, tmp_path, sitk):
    cases, _ = imported("chaos", "--convert-to", tmp_path / "nifti", source=REAL / "original")
    (case,) = cases.values()
    for path, published in ((case.image, REAL / "ct.nii.gz"), (case.label, REAL / "liver.nii.gz")):
        ours, theirs = nib.load(path), nib.load(published)
        np.testing.assert_array_equal(ours.affine, theirs.affine)
        np.testing.assert_array_equal(np.asarray(ours.dataobj), np.asarray(theirs.dataobj))
    assert read_nifti(case.image)[1][0] == 2.0


def test_ircadb_goes_by_position_and_applies_the_intercept(imported, source, tmp_path, sitk):
    save_ircadb(sitk, source / "3Dircadb1.7")
    path = source / "3Dircadb1.7/PATIENT_DICOM" / f"image_{SHUFFLED[1]}"
    stored = np.frombuffer(path.read_bytes()[-60:], "<i2")
    np.testing.assert_array_equal(stored, ramp(1).ravel() + 1000)  # stored values are not HU
    cases, _ = imported("ircadb", "--convert-to", tmp_path / "nifti")
    assert list(cases) == ["ircadb-07"]
    assert cases["ircadb-07"].site == "IRCAD"
    check_ramp(cases["ircadb-07"])


def test_masks_without_positions_follow_the_instance_numbers_and_shifted_ones_are_refused(
    imported, source, tmp_path, sitk
):
    save_ircadb(sitk, source / "3Dircadb1.1")
    liver = source / "3Dircadb1.1/MASKS_DICOM/liver"
    for k in range(4):
        save_dicom(sitk, liver / f"image_{k}", 255 * blob(k), (0.0, 0.0, 0.0), 40 - k, intercept="0")
    (case,) = imported("ircadb", "--convert-to", tmp_path / "nifti")[0].values()
    check_ramp(case)
    for k in range(4):
        save_dicom(
            sitk, liver / f"image_{k}", 255 * blob(k), (-20.0, -30.0, HEIGHTS[k] + 2), 40 - k, intercept="0"
        )
    assert "do not lie on the 4 slices" in imported("ircadb", "--convert-to", tmp_path / "again", error=True)


def save_like(path, value):
    """In the place of a file, one of its grid that holds a single value."""
    before = nib.load(path)
    nib.save(nib.Nifti1Image(np.full(before.shape, value, np.int16), before.affine), path)


def test_conversion_is_done_once_and_gives_equal_bytes(imported, source, tmp_path, sitk):
    save_ircadb(sitk, source / "3Dircadb1.1")
    first = imported("ircadb", "--convert-to", tmp_path / "first")[0]["ircadb-01"]
    second = imported("ircadb", "--convert-to", tmp_path / "second")[0]["ircadb-01"]
    assert first.image.read_bytes() == second.image.read_bytes()
    assert first.label.read_bytes() == second.label.read_bytes()
    save_like(second.image, 7)
    mine = second.image.read_bytes()
    _, printed = imported("ircadb", "--convert-to", tmp_path / "second")
    assert second.image.read_bytes() == mine
    assert "second: 2 file(s) converted before are used as they are" in printed


def test_faults_of_a_series_are_all_named_and_no_manifest_is_written(imported, source, tmp_path, sitk):
    for number in (1, 2, 3, 4):
        save_ircadb(sitk, source / f"3Dircadb1.{number}")
    (source / "3Dircadb1.1/PATIENT_DICOM" / f"image_{SHUFFLED[1]}").unlink()  # a gap
    (source / "3Dircadb1.2/PATIENT_DICOM/notes.txt").write_text("not a slice", encoding="utf-8")
    (source / "3Dircadb1.3/MASKS_DICOM/liver/image_3").unlink()
    message = imported("ircadb", "--convert-to", tmp_path / "nifti", error=True)
    assert "3 problem(s)" in message
    assert len(message.splitlines()) == 4
    for part in (
        "case ircadb-01",
        "do not form an even stack",
        "case ircadb-02",
        "notes.txt",
        "case ircadb-03",
        "3 mask slices",
    ):
        assert part in message


def test_png_stack_of_another_length_is_refused(imported, source, tmp_path, sitk):
    save_chaos(sitk, source / "CT/1", upwards=True)
    (source / "CT/1/Ground/liver_GT_002.png").unlink()
    assert "3 mask slices for 4 image slices" in imported(
        "chaos", "--convert-to", tmp_path / "nifti", error=True
    )


def test_foreign_formats_need_a_folder_and_simpleitk(imported, source, tmp_path, sitk, monkeypatch):
    save_ircadb(sitk, source / "3Dircadb1.1")
    assert "--convert-to DIR" in imported("ircadb", error=True)
    monkeypatch.setitem(sys.modules, "SimpleITK", None)  # what Python does where the package is absent
    message = imported("ircadb", "--convert-to", tmp_path / "nifti", error=True)
    assert "pip install SimpleITK" in message
    assert len(message.splitlines()) == 1
    save_lits(tmp_path / "lits", 0)
    assert list(imported("lits", source=tmp_path / "lits")[0]) == ["lits-0"]


def test_msd(imported, source):
    save_decathlon(
        source,
        {"0": "background", "1": "liver", "2": "cancer"},
        ["liver_0", "liver_12"],
        modality={"0": "CT"},
    )
    (source / "imagesTr/._liver_0.nii.gz").write_bytes(b"left by macOS")
    cases, _ = imported("msd")
    assert list(cases) == ["liver_0", "liver_12"]
    assert cases["liver_12"].image.samefile(source / "imagesTr/liver_12.nii.gz")
    assert cases["liver_12"].label.samefile(source / "labelsTr/liver_12.nii.gz")
    assert {(case.site, case.label_values) for case in cases.values()} == {("MSD", (1, 2))}


def test_totalsegmentator(imported, source):
    for name in ("s0000", "s0011"):
        save(source / name / "ct.nii.gz", LIVER.astype(np.int16))
        save(source / name / "segmentations/liver.nii.gz", LIVER if name == "s0011" else 0 * LIVER)
        save(source / name / "segmentations/spleen.nii.gz")
    cases, printed = imported("totalsegmentator")
    assert [(case.case_id, case.site, case.label_values) for case in cases.values()] == [
        ("s0011", "TotalSegmentator", ())
    ]
    assert cases["s0011"].label.samefile(source / "s0011/segmentations/liver.nii.gz")
    assert "left out s0000: its label shows no liver" in printed


@pytest.mark.parametrize(
    ("labels", "values"),
    [
        ({"0": "background", "1": "liver"}, (1,)),  # version 1
        ({"background": 0, "spleen": 1, "Liver": 6, "ignore": 255}, (6,)),  # version 2
        ({"background": 0, "liver": [1, 2], "tumor": 2}, (1, 2)),  # regions
        ({"background": 0, "whole_liver": [1, 2, 3], "liver_tumour": [2, 3], "cyst": 3}, (1, 2, 3)),
        ({"0": "background", "1": "liver", "2": "tumour"}, (1, 2)),
        ({"background": 0, "liver": 1, "kidney": 2, "tumor": 3}, (1,)),  # FLARE: the tumour may be anywhere
        ({"background": 0, "liver": 1, "kidney": 2, "liver lesion": 3, "liver_vessel": 4}, (1, 3)),
    ],
)
def test_nnunet_finds_the_liver_by_name(imported, tmp_path, labels, values):
    source = tmp_path / "Dataset218_AMOS"
    array = LIVER * values[0]
    save_decathlon(source, labels, ["amos_0001"], "_0000", channel_names={"0": "CT"}, file_ending=".nii.gz")
    save(source / "labelsTr/amos_0001.nii.gz", array)
    (case,) = imported("nnunet", source=source)[0].values()
    assert (case.case_id, case.site, case.label_values) == ("amos_0001", "AMOS", values)
    assert case.image.samefile(source / "imagesTr/amos_0001_0000.nii.gz")


def test_a_name_that_is_a_number_is_a_site_all_the_same(imported, source):
    save_decathlon(source, {"background": 0, "liver": 1}, ["case_0"], "_0000")
    description = json.loads((source / "dataset.json").read_text(encoding="utf-8"))
    (source / "dataset.json").write_text(json.dumps({**description, "name": 7}), encoding="utf-8")
    assert imported("nnunet")[0]["case_0"].site == "7"


@pytest.mark.parametrize("labels", [{"liver": 1, "ignore": 2}, {"1": "liver", "2": "ignore"}])
def test_nnunet_cases_with_ignored_voxels_are_pool_cases_with_an_ignore_value(imported, source, labels):
    """Though the pool gets the least of the others."""
    names = [f"case_{number}" for number in range(10)]
    save_decathlon(source, labels, names, "_0000")
    partly = LIVER.copy()
    partly[..., 0] = 2
    for name in ("case_3", "case_6", "case_8"):
        save(source / f"labelsTr/{name}.nii.gz", partly)
    cases, _ = imported("nnunet", "--split", "pool=0.2,val=0.2,test=0.6")
    assert {name for name, case in cases.items() if case.ignore_value is not None} == {
        "case_3", "case_6", "case_8"
    }  # fmt: skip
    assert cases["case_3"].ignore_value == 2 and cases["case_3"].label_values == (1,)
    assert {name for name, case in cases.items() if case.split == "pool"} >= {"case_3", "case_6", "case_8"}
    assert sum(case.split == "test" for case in cases.values()) >= 5
    assert read_label(cases["case_3"])[0].sum() == 8
    assert read_label(cases["case_3"])[1].tolist() == [16, 0, 0, 0]


def test_partly_annotated_cases_alone_are_for_fit_and_no_share_helps(imported, source):
    save_decathlon(source, {"liver": 1, "ignore": 2}, ["a", "b"], "_0000")
    partly = LIVER.copy()
    partly[..., 0] = 2
    for name in "ab":
        save(source / f"labelsTr/{name}.nii.gz", partly)
    _, printed = imported("nnunet")
    assert printed.count("use `uss-bench fit`") == 2 and "larger share" not in printed


def test_nnunet_ignores_one_code(imported, source):
    save_decathlon(source, {"liver": 1, "ignore": [2, 3]}, ["a"], "_0000")
    assert 'label "ignore" has 2 values' in imported("nnunet", error=True)


@pytest.mark.parametrize(
    ("labels", "part"),
    [
        ({"background": 0, "spleen": 1}, "no label named liver among spleen"),
        ({"0": "background", "1": "liver_vessel"}, "no label named liver among liver_vessel"),
        ({"0": "background", "1": "liver tumor"}, "no label named liver among liver tumor"),
        ({"background": 0, "liver": "one"}, "give whole numbers"),
        (["background", "liver"], 'no "labels"'),
    ],
)
def test_nnunet_refuses_unknown_labels(imported, source, labels, part):
    save_decathlon(source, labels, ["case_1"], "_0000")
    message = imported("nnunet", error=True)
    assert part in message
    assert "dataset.json" in message


def test_nnunet_takes_the_ct_channel_and_the_name_of_the_dataset(imported, source):
    save_decathlon(
        source, {"liver": 1}, ["a"], "_0001", channel_names={"0": "PET", "1": "CT"}, name="Hospital"
    )
    save(source / "imagesTr/a_0000.nii.gz")
    (case,) = imported("nnunet")[0].values()
    assert case.site == "Hospital"
    assert case.image.name == "a_0001.nii.gz"
    save_decathlon(source, {"liver": 1}, ["a"], "_0001", channel_names={"0": "PET", "1": "MRI"})
    assert "name exactly one of them CT" in imported("nnunet", error=True)
    for modality in ("MRI", "MR", "either_CT_or_MR", "T1w"):
        save_decathlon(source, {"liver": 1}, ["a"], "_0001", channel_names={"1": modality})
        assert f"channels {modality}; name exactly one" in imported("nnunet", error=True)
    save_decathlon(source, {"liver": 1}, ["a"], "_0001", channel_names={"1": "muscle window"})
    assert set(imported("nnunet")[0]) == {"a"}


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_nnunet_converts_metaimage_and_nrrd(imported, tmp_path, sitk, ending):
    source = tmp_path / "Dataset001_Own"
    save_decathlon(source, {"background": 0, "liver": 2}, [], file_ending=ending)
    for path, offset in (("imagesTr/a_0000", -1000), ("labelsTr/a", 0)):
        (source / path).parent.mkdir(exist_ok=True)
        image = sitk.GetImageFromArray(np.arange(24, dtype=np.int16).reshape(2, 3, 4) + np.int16(offset))
        image.SetSpacing((0.5, 0.75, 2.0))
        image.SetOrigin((-20, -30, 100))
        sitk.WriteImage(image, str(source / f"{path}{ending}"))
    (case,) = imported("nnunet", "--convert-to", tmp_path / "nifti", source=source)[0].values()
    values, spacing, affine = read_nifti(case.image)
    np.testing.assert_array_equal(values, np.arange(24).reshape(2, 3, 4)[:, ::-1, ::-1] - 1000)
    assert spacing == (2.0, 0.75, 0.5)
    np.testing.assert_allclose(affine @ [3, 2, 0, 1], [20, 30, 100, 1])
    # Value 2: column 2 of 4 in the first row of 3.
    assert np.argwhere(read_label(case)[0]).tolist() == [[0, 2, 1]]


@pytest.mark.parametrize("code", ["LPS", "RAS", "PIR", "SAL"])
def test_a_volume_file_of_any_orientation_is_the_same_body(sitk, tmp_path, code):
    image = sitk.GetImageFromArray(np.arange(24, dtype=np.int16).reshape(2, 3, 4))
    image.SetSpacing((0.5, 0.75, 2.0))
    sitk.WriteImage(sitk.DICOMOrient(image, code), str(tmp_path / "a.mha"))
    turned = nib.as_closest_canonical(nib.Nifti1Image(*dicom.read_image(tmp_path / "a.mha")))
    np.testing.assert_array_equal(np.asarray(turned.dataobj).T, np.arange(24).reshape(2, 3, 4)[:, ::-1, ::-1])
    assert turned.header.get_zooms() == (0.5, 0.75, 2.0)


def test_missing_files_are_listed_together_and_can_be_excluded(imported, source):
    save_lits(source, 0, 1, 2, 3)
    (source / "Training Batch 1/segmentation-1.nii").unlink()
    (source / "Training Batch 1/volume-2.nii").unlink()
    message = imported("lits", "--exclude", "lits-99", error=True)
    assert "3 problem(s)" in message
    for part in (
        "no case lits-99",
        "case lits-1",
        "segmentation-1.nii is missing",
        "case lits-2",
        "volume-2.nii is missing",
    ):
        assert part in message
    cases, printed = imported("lits", "--exclude", "lits-1", "lits-2")
    assert list(cases) == ["lits-0", "lits-3"]
    assert "left out lits-2: --exclude" in printed


def test_damaged_files_are_listed_together(imported, source):
    save_lits(source, 0, 1, 2)
    (source / "Training Batch 1/segmentation-0.nii").write_text(
        "version https://git-lfs.github.com/spec/v1\n",
        encoding="utf-8",
    )
    (source / "Training Batch 1/volume-1.nii").write_bytes(b"")
    message = imported("lits", error=True)
    assert "2 problem(s)" in message
    assert "case lits-0" in message
    assert "case lits-1" in message


@pytest.mark.parametrize("layout", ["lits", "chaos", "totalsegmentator", "ircadb"])
def test_an_empty_source_gets_the_layout_in_its_message(imported, source, layout):
    source.mkdir()
    message = imported(layout, error=True)
    assert f"no case in the {layout} layout" in message
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize("layout", ["msd", "nnunet"])
def test_empty_source_lacks_its_description(imported, source, layout):
    source.mkdir()
    assert "dataset.json: cannot be read" in imported(layout, error=True)
    (source / "dataset.json").write_text("{", encoding="utf-8")
    assert "not JSON" in imported(layout, error=True)


def test_source_that_is_no_folder(imported, source):
    assert "not a folder" in imported("lits", error=True)


@pytest.mark.parametrize(
    "split", ["pool=0.5", "pool=1,train=0", "pool=1.5,test=-0.5", "pool", "pool=nan", ""]
)
def test_shares_must_name_splits_and_sum_to_one(imported, source, split):
    save_lits(source, 0)
    assert "--split" in imported("lits", "--split", split, error=True)


@pytest.mark.parametrize("spacing", ["lits-0=0.7x0.7", "lits-0=0x1x1", "0.7x0.7x1", "lits-0=infx1x1"])
def test_spacing_must_be_three_positive_numbers(imported, source, spacing):
    save_lits(source, 0)
    assert "--spacing" in imported("lits", "--spacing", spacing, error=True)


SHARES = (0.5, 0.05, 0.45)


def patients(site, count, first=0):
    return [
        Case(f"{site}-{n}", site, "", Path("i"), Path("l"), f"{site}-{n}")
        for n in range(first, first + count)
    ]


def counts(cases, site):
    count = Counter(case.split for case in cases if case.site == site)
    return count["pool"], count["val"], count["test"]


def test_splits_keep_the_shares_within_each_site():
    cases = assign_splits([], patients("a", 20) + patients("b", 7) + patients("c", 1), SHARES, seed=0)
    assert counts(cases, "a") == (10, 1, 9)
    assert counts(cases, "b") == (4, 0, 3)  # 3.5, 0.35, 3.15: the largest remainder is rounded up
    assert counts(cases, "c") == (1, 0, 0)


def test_splits_are_the_seeds_and_not_the_orders():
    cases = patients("a", 30)
    drawn = {
        seed: {case.case_id: case.split for case in assign_splits([], cases, SHARES, seed)} for seed in (1, 2)
    }
    assert drawn[1] != drawn[2]
    assert {case.case_id: case.split for case in assign_splits([], cases[::-1], SHARES, 1)} == drawn[1]


def test_no_patient_in_two_splits():
    cases = [
        replace(patient, case_id=f"{patient.case_id}-{scan}")
        for patient in patients("a", 12)
        for scan in (1, 2, 3)
    ]
    done = assign_splits([], cases, SHARES, seed=3)
    assert len({(case.patient_id, case.split) for case in done}) == 12
    assert counts(done, "a") == (18, 3, 15)  # 6, 1 and 5 patients


def test_appended_patients_fill_up_the_shares_and_the_old_ones_stay():
    cases = []
    for n in range(40):  # one by one, each alone would always go to the pool
        before = {case.case_id: case.split for case in cases}
        cases += assign_splits(cases, patients("a", 1, first=n), SHARES, seed=0)
        assert before.items() <= {case.case_id: case.split for case in cases}.items()
    assert counts(cases, "a") == (20, 2, 18)


def test_append_keeps_rows_and_refuses_cases_twice(imported, source, tmp_path):
    save_lits(source, *range(6))
    imported("lits", "--seed", 4)
    with open(imported.output, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    rows = [
        row | {"phase": "portal", "initial": "1" if row["split"] == "pool" else "", "spacing": "0.7x0.8x1.25"}
        for row in rows
    ]
    with open(imported.output, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)

    message = imported("lits", "--append", error=True)
    assert "already in the manifest: lits-0, lits-1, lits-2, lits-3, lits-4 and 1 more" in message
    save_lits(tmp_path / "more", *range(6, 12))
    cases, printed = imported("lits", "--append", "--seed", 5, source=tmp_path / "more")
    assert len(cases) == 12
    assert "6 case(s) added, 12 in all" in printed
    with open(imported.output, encoding="utf-8", newline="") as file:
        kept = list(csv.DictReader(file))
    assert kept[:6] == rows
    assert {row["phase"] for row in kept[6:]} == {""}


def test_paths_are_relative_to_the_manifest_even_through_a_linked_folder(imported, source, tmp_path):
    save_lits(source, 0)
    (tmp_path / "deep/er").mkdir(parents=True)
    imported.output.parent.symlink_to(tmp_path / "deep/er", target_is_directory=True)
    imported("lits")
    with open(imported.output, encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["image"] == "../../source/Training Batch 1/volume-0.nii"
    assert read_manifest(imported.output)[0].image.exists()


def test_summary_counts_sites_and_names_splits_that_lack_cases(imported, source):
    save_lits(source, *range(10))
    _, printed = imported("lits", "--split", "pool=0.6,test=0.4")
    assert [line.split() for line in printed.splitlines()[1:3]] == [
        ["site", "pool", "val", "test"],
        ["LiTS", "6", "0", "4"],
    ]
    assert "no val case: a run needs at least one; append more cases, or give it a larger share" in printed


@pytest.mark.slow
@pytest.mark.whole
def test_same_command_gives_the_same_bytes_from_the_command_line(imported, source):
    save_lits(source, *range(8))
    imported("lits", "--seed", 7)
    ours = imported.output.read_bytes()
    imported.output.unlink()
    arguments = ["import", "lits", str(source), "--output", str(imported.output), "--seed", "7"]
    command = [sys.executable, "-m", "uss_bench", *arguments]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    assert imported.output.read_bytes() == ours


def test_an_existing_manifest_is_never_replaced(imported, source, capsys):
    save_lits(source, 1, 2)
    imported("lits")
    before = imported.output.read_bytes()
    assert main(["import", "lits", str(source), "--output", str(imported.output), "--seed", "1"]) == 2
    assert "--append" in capsys.readouterr().err
    assert imported.output.read_bytes() == before
