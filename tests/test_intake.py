"""What is found out about the cases before any training: all in one message, with nothing written."""

import csv
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

from uss_bench import config
from uss_bench.data.manifest import OPTIONAL, REQUIRED
from uss_bench.data.phantoms import SITES, write_missing_phantom
from uss_bench.intake import check_cases, load_volumes
from uss_bench.runtime.errors import InputError
from uss_bench.study.strategies import named

PROBLEM = Path(__file__).resolve().parents[2] / "shared" / "data" / "problem"
SPACING = (2.0, 2.0, 2.0)
ONE_OF_EACH = ["query.iterations=1", "query.initial_volumes=1", "query.slices_per_iteration=5"]


def ct(seed=0):
    return np.random.default_rng(seed).integers(-1000, 200, (6, 8, 8)).astype(np.int16)


def liver(value=1):
    mask = np.zeros((6, 8, 8), np.uint8)
    mask[2:4, 2:6, 2:6] = value
    return mask


@pytest.fixture
def sound(nifti_case):
    """A sound case of each split."""
    return [
        replace(nifti_case(ct(10 + n), liver(), case_id=split), split=split)
        for n, split in enumerate(("pool", "val", "test"))
    ]


@pytest.fixture
def check(tmp_path):
    """Checks cases in the manifest that is made of them."""

    def run(cases, *overrides, strategies=("USS",)):
        with open(tmp_path / "manifest.csv", "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, [*REQUIRED, *OPTIONAL, "phantom"])
            writer.writeheader()
            for case in cases:
                row = {name: getattr(case, name) for name in (*REQUIRED, *OPTIONAL)} | case.extra
                row["label_values"] = ";".join(map(str, case.label_values))
                row["spacing"] = "x".join(map(str, reversed(case.spacing or ())))
                writer.writerow(row)
        return check_cases(
            tmp_path / "manifest.csv", config.resolve("smoke", [*ONE_OF_EACH, *overrides]), named(strategies)
        )

    return run


@pytest.fixture
def load(tmp_path):
    """Loads cases and returns the volumes and the lines that were said."""

    def run(cases, cache=tmp_path / "cache", spacing=SPACING, **options):
        lines = []
        progress = SimpleNamespace(now=lambda text: None, say=lines.append)
        return load_volumes(cases, spacing, cache, progress, **options), lines

    return run


def problems_of(work, *arguments, **options):
    """Lines of the InputError, whose title counts them."""
    with pytest.raises(InputError) as caught:
        work(*arguments, **options)
    title, *lines = str(caught.value).split("\n  ")
    assert f"{len(lines)} problem(s)" in title
    return lines


def files_in(folder):
    return sorted(path for path in folder.rglob("*") if path.name != "manifest.csv")


# --- manifest, plan and headers ---


def test_sound_cases_are_chosen_by_the_settings(check, sound, nifti_case):
    more = [replace(nifti_case(ct(n), liver(), case_id=f"more-{n}"), split="val") for n in range(2)]
    manifest_cases, cases, warnings = check([*more, *sound], "data.val=2")
    assert [case.case_id for case in manifest_cases] == ["more-0", "more-1", "pool", "val", "test"]
    assert [case.case_id for case in cases] == ["pool", "more-0", "more-1", "test"]
    assert warnings == []


def test_all_that_is_wrong_comes_in_one_message_and_nothing_is_written(check, sound, nifti_case, tmp_path):
    """Of the manifest, the plan and the headers; the test case is missing."""
    faulty = [replace(sound[0], case_id=name) for name in ("twin", "no split")]
    faulty[1] = replace(faulty[1], split="train")
    short = nifti_case(ct(1)[:5], liver(), case_id="short")
    thick = nifti_case(ct(2), liver(), case_id="thick", spacing=(62.0, 1.0, 1.0))
    lost = replace(nifti_case(ct(3), liver(), case_id="lost"), image=tmp_path / "away.nii.gz")
    lost.label.write_bytes(b"")
    before = files_in(tmp_path)
    lines = problems_of(check, [*sound[:2], *faulty, short, thick, lost], "query.initial_volumes=9")
    starts = [
        "line 5: case no split: split 'train' is unknown",
        "no test case",
        "9 pool cases are needed (initial) and 5 are there; add cases, or lower query.initial_volumes",
        "9 initial volumes are needed",
        f"case twin: {sound[0].image}: the same image as case pool",
        f"case short: {short.label}: shape (6, 8, 8) and that of the image (5, 8, 8)",
        f"case thick: {thick.image}: spacing 1 x 1 x 62 mm",
        f"case lost: {lost.image}: does not exist",
        f"case lost: {lost.label}: an empty file",
    ]
    assert [line[: len(start)] for line, start in zip(lines, starts, strict=True)] == starts
    assert all("; " in line for line in lines)
    assert files_in(tmp_path) == before


def test_a_manifest_without_its_columns_is_not_said_to_lack_cases(tmp_path):
    (tmp_path / "manifest.csv").write_text("case_id,site\n", encoding="utf-8")
    (line,) = problems_of(check_cases, tmp_path / "manifest.csv", config.resolve("smoke"), named(["UVS"]))
    assert line.startswith("missing column(s) split, image, label")


def test_doubts_about_headers_are_warnings(check, sound):
    image = nib.load(sound[1].image)
    image.set_qform(image.affine + np.diag([1.0, 0, 0, 0]), 1)
    nib.save(image, sound[1].image)
    (warning,) = check(sound)[2]
    assert warning.startswith(f"case val: {sound[1].image}: sform and qform")


def test_a_phantom_of_another_row_is_a_fault(check, sound, tmp_path):
    paths = {"image": tmp_path / "p.nii.gz", "label": tmp_path / "p-liver.nii.gz"}
    made = replace(sound[0], case_id="p", site="north", extra={"phantom": "normal"}, **paths)
    write_missing_phantom(made)
    check([*sound, made])
    lines = problems_of(check, [*sound, replace(made, extra={"phantom": "fatty"})])
    assert len(lines) == 2 and all("the manifest asks for fatty at north, p;" in line for line in lines)
    made.label.unlink()  # one that is left counts as well
    (line,) = problems_of(check, [*sound, replace(made, extra={"phantom": "fatty"})])
    assert f"{made.image} is another phantom" in line
    made.image.write_bytes(b"cut short")
    (line,) = problems_of(check, [*sound, made])
    assert line.startswith(f"case p: {made.image}: ")


def test_phantoms_that_are_to_be_made_need_no_files_but_a_known_kind(check, sound, tmp_path):
    later = [
        replace(
            sound[0], case_id=f"p{n}", image=tmp_path / f"p{n}.nii.gz", label=tmp_path / f"p{n}-liver.nii.gz"
        )
        for n in range(3)
    ]
    known = replace(later[0], site=next(iter(SITES)), extra={"phantom": "normal"})
    check([*sound, known])
    huge, elsewhere = (
        replace(known, extra={"phantom": "huge"}),
        replace(later[2], extra={"phantom": "normal"}),
    )
    lines = problems_of(check, [*sound, huge, later[1], elsewhere])
    assert [line.split(": ")[0] for line in lines] == ["case p0", "case p1", "case p1", "case p2"]
    assert "'huge'" in lines[0] and "does not exist" in lines[1] and "no phantom has the site" in lines[3]
    made = replace(sound[0], case_id="made", image=later[2].image, site=known.site, extra=known.extra)
    made.image.write_bytes(b"")  # its files are there, and are looked at
    (line,) = problems_of(check, [*sound, made])
    assert line.startswith(f"case made: {made.image}: an empty file")


# --- voxels ---


def test_sound_cases_load_without_a_word(load, sound):
    volumes, said = load(sound)
    assert {split: list(found) for split, found in volumes.items()} == {
        "pool": ["pool"],
        "val": ["val"],
        "test": ["test"],
    }
    assert said == []


def test_all_faulty_cases_are_named_in_one_message_and_the_cache_keeps_the_others(
    load, sound, nifti_case, tmp_path
):
    twin = nifti_case(ct(10), liver(), case_id="twin")
    empty = replace(nifti_case(ct(2), liver(2), case_id="empty", label_values=(1, 7)), split="val")
    holes = ct(3).astype(np.float32)
    holes[0, 0, 0] = np.inf
    holes = nifti_case(holes, liver(), case_id="holes")
    soft = nib.Nifti1Image(np.full((8, 8, 6), 0.5, np.float32), np.diag([1.0, 1.0, 2.0, 1.0]))
    nib.save(soft, holes.label)
    pointer = nifti_case(ct(4), liver(), case_id="pointer")
    pointer.image.write_text("version https://git-lfs.github.com/spec/v1\n", encoding="utf-8")
    lines = problems_of(load, [*sound, twin, empty, holes, pointer])
    starts = [
        f"case twin: {twin.image}: the same image as case pool",
        f"case empty: {empty.label}: no liver: no voxel has label_values 1, 7 (the file holds 0, 2), "
        "and val cases need one",
        f"case holes: {holes.image}: NaN or infinite values",
        f"case holes: {holes.label}: labels are not whole numbers",
        f"case pointer: {pointer.image}: a git-LFS pointer",
    ]
    assert [line[: len(start)] for line, start in zip(lines, starts, strict=True)] == starts
    entries = [path for path in (tmp_path / "cache").iterdir() if path.name != "digests"]
    assert len(entries) == 4  # the sound ones, whose twin shares theirs, and the empty one
    volumes, _ = load(sound)
    assert {volume.folder for found in volumes.values() for volume in found.values()} < set(entries)


@pytest.mark.parametrize(
    ("image", "label", "says"),
    [
        (ct(), 0 * liver(), "no voxel has a value other than 0 (the file holds 0); correct label_values"),
        (np.maximum(ct(), -199), liver(), "nothing below -199 HU"),
        (np.abs(ct()) % 256, liver(), "looks like label codes, not HU: values lie between 0 and 255"),
        (np.abs(ct()) % 256 - 1, liver(), "nothing below -1 HU"),
        (np.abs(ct()) % 256 + 1, liver(), "nothing below 1 HU"),
    ],
)
def test_doubtful_cases_give_warnings(load, nifti_case, image, label, says):
    (line,) = load([nifti_case(image, label, case_id="odd")])[1]
    assert line.startswith("warning: case odd: ") and says in line


def ignored(*slices):
    """The reference, of which nobody has annotated these slices."""
    label = liver()
    label[list(slices)] = 9
    return label


def test_partly_annotated_cases_are_refused_where_they_must_be_whole(load, nifti_case):
    cases = [
        replace(nifti_case(ct(n), ignored(0, 5), case_id=split, ignore_value=9), split=split)
        for n, split in enumerate(("pool", "val", "test"))
    ]
    lines = problems_of(load, cases)
    for line, case in zip(lines, cases, strict=True):
        start = f"case {case.case_id}: {case.label}: 2 of 6 slices hold the ignore_value 9, and {case.split} "
        assert line.startswith(f"{start}cases must be annotated as a whole here; ")
    (line,) = problems_of(load, [cases[0], cases[1]], whole=("val",))
    assert line.startswith("case val: ")
    volumes, said = load([cases[0]], whole=("val",))
    assert volumes["pool"]["pool"].annotated == (1, 2, 3, 4) and said == []


def test_an_ignore_value_that_no_voxel_has_leaves_a_case_whole(load, nifti_case):
    case = replace(nifti_case(ct(), liver(), ignore_value=9), split="test")
    volumes, said = load([case])
    assert volumes["test"]["case"].annotated == tuple(range(6)) and said == []


def test_slices_drawn_here_and_there_without_the_ignore_value_give_a_warning(load, nifti_case):
    """As an editor leaves them: what was not drawn is 0, which means no liver."""
    label = liver()
    label[5] = label[3]
    case = nifti_case(ct(), label, case_id="drawn", ignore_value=9)
    (line,) = load([case], whole=())[1]
    assert line.startswith(
        f"warning: case drawn: {case.label}: every slice counts as annotated, as no voxel holds "
    )
    (line,) = load([replace(case, ignore_value=None)], whole=())[1]
    assert "as no voxel holds an ignore_value, but liver shows on" in line
    assert load([replace(case, ignore_value=None)])[1] == []  # a simulated annotator knows everything


def test_slices_drawn_too_far_apart_to_show_on_the_grid_give_a_warning(load, nifti_case):
    """Every tenth of 1 mm: on a grid of 5 mm nothing of them is left."""
    image, label = np.full((100, 4, 4), -1000, np.int16), np.zeros((100, 4, 4), np.uint8)
    image[:, 1:3, 1:3], label[5::10, 1, 1] = 60, 1
    case = nifti_case(image, label, case_id="drawn", ignore_value=9)
    volumes, lines = load([case], spacing=(5.0, 1.0, 1.0), whole=())
    assert not volumes["pool"]["drawn"].label.any()
    assert "but liver shows on 10 slice(s) from 5 to 95 alone; give the ignore_value" in lines[-1]


def test_a_wrong_ignore_value_gives_a_warning(load, nifti_case):
    """It was 255 in the file, and 255 counts as liver where label_values are not given."""
    label = np.full((6, 8, 8), 255)
    label[2:5] = liver()[2:5]
    lines = load([nifti_case(ct(), label, ignore_value=9)], whole=())[1]
    assert any(
        "% of the voxels count as liver; correct label_values or ignore_value" in line for line in lines
    )


def test_what_annotates_nothing_gives_a_warning(load, nifti_case):
    """A CT that an annotator skipped is no fault: `suggest` may be asked about it, `fit` leaves it out."""
    nowhere = nifti_case(ct(1), ignored(*range(6)), case_id="nowhere", ignore_value=9)
    between = nifti_case(ct(2), ignored(0, 2, 4), case_id="between", ignore_value=9)
    volumes, lines = load([nowhere, between], spacing=(4.0, 1.0, 1.0), whole=())
    assert [volume.annotated for volume in volumes["pool"].values()] == [(), ()]
    assert [line.split(": ")[1] for line in lines if "ignore_value" in line] == [
        "case nowhere",
        "case between",
    ]
    lines = [line for line in lines if "ignore_value" in line]
    assert "6 of 6 slices hold the ignore_value 9, so nothing of it counts as annotated" in lines[0]
    assert "gives no slice of the 4 mm grid, for which up to 2 neighbouring ones are needed" in lines[1]


def test_slices_that_are_annotated_in_part_give_a_warning(load, nifti_case):
    label = ignored(0)
    label[3, 0, 0] = label[4, 0, 0] = 9
    (line,) = load([nifti_case(ct(), label, case_id="odd", ignore_value=9)], whole=())[1]
    assert line.startswith("warning: case odd: ") and "2 slices hold the ignore_value 9 beside other" in line


def test_many_label_codes_are_not_all_listed(load, nifti_case):
    codes = np.arange(384).reshape(6, 8, 8) % 100
    (line,) = load([nifti_case(ct(), codes, label_values=(117,))])[1]
    assert "no voxel has label_values 117 (the file holds 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ...)" in line


# --- real files ---


@pytest.mark.skipif(not PROBLEM.exists(), reason="the shared problem files are not here")
def test_the_five_real_problem_files(check, load, sound, nifti_case):
    """What headers show comes first; the rest comes to light when the voxels are read."""
    names = {
        "pointer": "lfs_pointer_named.nii.gz",
        "gap": "lits14_3slices_62mm_gap.nii.gz",
        "codes": "fake_ct_label_values_0_252.nii.gz",
        "empty": "empty_liver_mask.nii.gz",
        "splines": "mask_interpolated_noninteger.nii.gz",
    }
    paths = {name: PROBLEM / file for name, file in names.items()}

    def like(path, array):
        """A file on the grid of another."""
        other = nib.load(path)
        target = sound[0].image.with_name(f"beside-{path.name}")
        nib.save(nib.Nifti1Image(np.broadcast_to(array, other.shape).astype(np.int16), other.affine), target)
        return target

    faulty = {
        "pointer": {"image": paths["pointer"]},
        "gap": {"image": paths["gap"], "label": like(paths["gap"], 1)},
        "codes": {"image": paths["codes"], "label": like(paths["codes"], 1)},
        "empty": {"label": paths["empty"], "image": like(paths["empty"], -1000), "split": "test"},
        "splines": {"label": paths["splines"], "image": like(paths["splines"], -999)},
    }
    cases = sound + [
        replace(sound[0], case_id=name, patient_id=name, **fields) for name, fields in faulty.items()
    ]
    lines = problems_of(check, cases)
    assert [line.split(": ")[:2] for line in lines] == [
        [f"case {name}", str(paths[name])] for name in ("pointer", "gap")
    ]
    assert "git lfs pull" in lines[0] and "0.685547 x 0.685547 x 62 mm" in lines[1]

    lines = problems_of(load, cases)
    assert [line.split(": ")[1] for line in lines] == [
        str(paths[name]) for name in ("pointer", "gap", "empty", "splines")
    ]
    assert "a value other than 0 (the file holds 0)" in lines[2] and "not whole numbers" in lines[3]
    warning = load([*sound, cases[5]])[1][-1]
    assert (
        str(paths["codes"]) in warning
        and "looks like label codes, not HU: values lie between 0 and 252" in warning
    )
