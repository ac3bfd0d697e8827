"""The folder of suggestions, on CTs of every orientation: slices of the file, codes, and the grid."""

import gzip

import nibabel as nib
import numpy as np
import pytest
from data.test_nifti import turned

from uss_bench.data.manifest import Case, read_manifest
from uss_bench.data.nifti import read_nifti
from uss_bench.data.volumes import load_volume
from uss_bench.network.inference import MonteCarlo
from uss_bench.network.uncertainty import predictive_entropy
from uss_bench.runtime.storage import read_csv
from uss_bench.study.strategies import Query
from uss_bench.todo import COLUMNS, Suggestion, write_todo

SPACING = (2.0, 3.0, 3.0)
SHAPE = (12, 6, 5)
LIVER = (slice(None), slice(1, 4), slice(2, 5))  # of the proposal, on every slice


@pytest.fixture
def volume(tmp_path):
    """Loads a CT, with a label or without, on a grid of 4 mm along z, each slice the mean of two."""

    def load(codes="RAS", label=None, name="ct", **fields):
        hu = np.random.default_rng(0).integers(-1000, 500, SHAPE).astype(np.int16)
        nib.save(turned(hu, SPACING, codes), tmp_path / f"{name}.nii.gz")
        path = None
        if label is not None:
            path = tmp_path / f"{name}_label.nii.gz"
            nib.save(turned(label, SPACING, codes), path)
        case = Case(name, "site", "pool", tmp_path / f"{name}.nii.gz", path, name, **fields)
        return load_volume(case, (4.0, 3.0, 3.0), tmp_path / "cache")

    return load


@pytest.fixture
def written(tmp_path):
    """Writes the folder for queried slices, and returns its cases by id and what was left out."""

    def write(volumes, queries, annotated=()):
        mean = np.zeros((6, *SHAPE[1:]), np.float32)
        mean[LIVER] = 0.9
        found = MonteCarlo(mean, predictive_entropy(mean))
        (tmp_path / "todo").mkdir()
        volumes = {volume.case.case_id: volume for volume in volumes}
        left_out = write_todo(tmp_path / "todo", queries, volumes, lambda case_id: found, annotated)
        return {case.case_id: case for case in read_manifest(tmp_path / "todo" / "manifest.csv")}, left_out

    return write


@pytest.mark.parametrize(
    ("codes", "numbers"),
    [("RAS", (7, 6, 7)), ("LPS", (7, 6, 7)), ("ASR", (7, 6, 7)), ("RPI", (4, 4, 5)), ("PIL", (4, 4, 5))],
)
def test_slices_are_numbered_along_the_axis_of_the_file(volume, codes, numbers):
    """Slice 3 of 4 mm is the mean of slices 6 and 7, which a file that begins at the head calls 5 and 4."""
    found = Suggestion.of(Query("ct", 3), volume(codes))
    assert (found.slice, found.first, found.last) == numbers
    assert found.position == pytest.approx(230 + 7 * 2.0)


def test_the_list_holds_a_row_per_suggestion_in_their_order(volume, written, tmp_path):
    queries = [Query("b", 5, 0.25), Query("a", 0, 0.125), Query("b", 2)]
    written([volume(name="a"), volume("LAS", name="b")], queries)
    rows = [[row[column] for column in COLUMNS] for row in read_csv(tmp_path / "todo" / "slices.csv")]
    assert rows == [
        ["../b.nii.gz", "11", "10", "11", "252", "0.25"],
        ["../a.nii.gz", "1", "0", "1", "232", "0.125"],
        ["../b.nii.gz", "5", "4", "5", "240", ""],
    ]


@pytest.mark.parametrize("codes", ["RAS", "LPS", "ASR", "PIL"])
def test_a_new_label_holds_the_proposal_on_suggested_slices_and_the_ignore_code_elsewhere(
    volume, written, codes
):
    ct = volume(codes)
    case = written([ct], [Query("ct", 1, 0.5), Query("ct", 4, 0.4)])[0]["ct"]
    assert (case.ignore_value, case.label_values) == (2, ())
    expected = np.full(SHAPE, 2)
    expected[[2, 3, 8, 9]] = 0
    for z in (2, 3, 8, 9):
        expected[z][LIVER[1:]] = 1
    np.testing.assert_array_equal(read_nifti(case.label)[0], expected)
    image, label = nib.load(ct.case.image), nib.load(case.label)
    assert label.shape == image.shape and label.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(label.affine, image.affine)
    assert load_volume(case, ct.spacing, ct.folder.parent).annotated == (1, 4)


@pytest.mark.parametrize(
    ("label_values", "ignore", "code"),
    [((4, 5), 9, 4), ((), 9, 1), ((), 1, 2), ((1,), -1, 1), ((1,), 700, 1)],
)
def test_what_was_annotated_stays_and_the_proposal_takes_the_code_of_liver(
    volume, written, label_values, ignore, code
):
    before = np.full(SHAPE, ignore, np.int16)
    before[4:6] = np.random.default_rng(1).permutation([0, 3, 4, 5] * 15).reshape(2, 6, 5)
    before[6, 0, 0] = 3  # the rest of slice 6 is unknown
    ct = volume(label=before, label_values=label_values, ignore_value=ignore)
    other = Case("other", "site", "val", ct.case.image, ct.case.label, "p", initial=None)
    cases, _ = written([ct], [Query("ct", 3, 0.5)], [other, ct.case])
    assert list(cases) == ["other", "ct"] and cases["ct"].ignore_value == ignore
    assert cases["other"].label.resolve() == ct.case.label and cases["ct"].label_values == label_values
    expected = before.copy()
    expected[6:8] = 0
    for z in (6, 7):
        expected[z][LIVER[1:]] = code
    expected[6, 0, 0] = 3
    np.testing.assert_array_equal(read_nifti(cases["ct"].label)[0], expected)


def test_the_overview_is_drawn_or_said_to_be_left_out(volume, written, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    assert written([volume()], [Query("ct", z, 0.1) for z in range(3)])[1] == []
    assert (tmp_path / "todo" / "overview.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_all_else_is_there(volume, written, tmp_path, monkeypatch):
    monkeypatch.setattr("uss_bench.todo.has_matplotlib", lambda: False)
    cases, (note,) = written([volume()], [Query("ct", 2, 0.1)])
    assert "overview.png is left out: matplotlib is not installed" in note
    assert cases and {path.name for path in (tmp_path / "todo").iterdir()} == {
        "slices.csv", "manifest.csv", "ct_todo.nii.gz"
    }  # fmt: skip


def test_many_slices_are_not_all_drawn(volume, written, monkeypatch):
    monkeypatch.setattr("uss_bench.todo.MOST_PICTURES", 2)
    pytest.importorskip("matplotlib")
    (note,) = written([volume()], [Query("ct", z, 0.1) for z in range(5)])[1]
    assert note == "overview.png shows the first 2 of 5 slices"


def test_labels_have_no_time_in_them(volume, written):
    case = written([volume()], [Query("ct", 1)])[0]["ct"]
    content = case.label.read_bytes()
    assert content[4:8] == bytes(4) and len(gzip.decompress(content)) == 352 + np.prod(SHAPE)
