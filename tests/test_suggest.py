"""`uss-bench suggest` on tiny CTs: what it asks for, what it refuses, and what it never touches."""

import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from builders import write_case

from uss_bench import commands, config, todo
from uss_bench.data.manifest import read_manifest, write_manifest
from uss_bench.data.nifti import read_nifti
from uss_bench.model_file import write_model
from uss_bench.network.aunet import AUNet
from uss_bench.runtime import stopping, storage
from uss_bench.runtime.errors import InputError
from uss_bench.runtime.storage import read_csv
from uss_bench.study.models import Models
from uss_bench.study.strategies import STRATEGIES
from uss_bench.suggest import Scoring, Suggest, _case_ids, suggest

IGNORE = 2


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(todo, "_write_overview", lambda *_: [])  # which test_todo draws, and takes its time


@pytest.fixture
def cases(tmp_path):
    (tmp_path / "ct").mkdir()
    return [write_case(tmp_path / "ct", number, "pool") for number in range(3)]


def write_untrained(*overrides):
    """A model file of an untrained net on a grid of 8 mm."""
    settings = config.resolve("smoke", ["data.spacing=8,8,8", "query.min_distance_mm=8", *overrides])
    model = AUNet(**vars(settings.network))
    model.draw_weights(torch.Generator().manual_seed(0))
    origin = {"uss_bench": "0.1.0", "seed": 0, "config": config.as_dict(settings)}
    write_model("model.pt", model.state_dict(), origin, {}, {})
    return Path("model.pt")


@pytest.fixture
def asked(cases):
    """Three CTs of 20 slices of 4 mm."""
    return Suggest(write_untrained(), [case.image for case in cases], 4, Path("todo"), device="cpu")


def partly(case, known):
    """The case with a label that is annotated on the native slices `known`."""
    label = nib.load(case.label)
    codes = np.asarray(label.dataobj).copy()
    codes[..., [z for z in range(codes.shape[2]) if z not in known]] = 9
    nib.save(nib.Nifti1Image(codes, label.affine), case.label)
    return replace(case, ignore_value=9)


def slices_of(folder):
    rows = read_csv(folder / "slices.csv")
    return [(Path(row["file"]).name, int(row["first"]), int(row["last"])) for row in rows]


def test_it_writes_slices_labels_and_a_manifest_for_the_next_fit(asked, capsys):
    suggest(replace(asked, strategy="rss"))
    rows = slices_of(asked.output)
    assert len(rows) == 4 and all(last - first == 1 for _, first, last in rows)
    names = {name.split(".")[0] for name, _, _ in rows}
    cases = {case.case_id: case for case in read_manifest("todo/manifest.csv")}
    assert set(cases) == names
    for name, case in cases.items():
        assert (case.split, case.label_values, case.ignore_value) == ("pool", (1,), IGNORE)
        label = read_nifti(case.label)[0]
        known = sorted(z for file, *range_ in rows if file == f"{name}.nii.gz" for z in range_)
        assert [z for z in range(20) if (label[z] != IGNORE).all()] == known
        assert [z for z in range(20) if (label[z] != IGNORE).any()] == known
    assert "4 slices of the 8 mm grid" in capsys.readouterr().err


def test_equal_requests_give_equal_bytes_and_the_second_scores_nothing(asked, monkeypatch):
    suggest(asked)
    monkeypatch.setattr(Models, "uncertainty", lambda *_: pytest.fail("scored again"))
    suggest(replace(asked, output=Path("again")))
    files = sorted(path.name for path in asked.output.iterdir())
    assert files == sorted(path.name for path in Path("again").iterdir())
    for name in files:
        assert (asked.output / name).read_bytes() == (Path("again") / name).read_bytes(), name


def test_annotated_slices_are_not_suggested_and_stay_in_the_label(asked, cases):
    suggest(replace(asked, slices=1))
    ((file, first, last),) = slices_of(asked.output)
    case = next(case for case in cases if case.image.name == file)
    truth = read_nifti(case.label)[0]
    known = partly(case, [first, last])
    whole = next(other for other in cases if other.patient_id != case.patient_id)
    write_manifest(Path("known.csv"), [known, replace(whole, split="val", label_values=(1,))])
    again = replace(asked, output=Path("todo-2"), annotated=Path("known.csv"))
    suggest(replace(again, strategy="rss", slices=50))
    rows = slices_of(Path("todo-2"))
    assert len(rows) == 10 + 9
    assert (file, first, last) not in rows and file in [row[0] for row in rows]
    assert whole.image.name not in [row[0] for row in rows]
    after = {one.case_id: one for one in read_manifest("todo-2/manifest.csv")}
    assert after[case.case_id].ignore_value == 9 and after[case.case_id].label.parent == Path("todo-2")
    assert after[whole.case_id].label.resolve() == whole.label.resolve()
    label = read_nifti(after[case.case_id].label)[0]
    np.testing.assert_array_equal(label[[first, last]], truth[[first, last]])
    assert not (label == 9).any()  # everything else was asked for


def test_a_ct_that_was_skipped_may_be_asked_about_again(asked, cases):
    """All of its label holds the ignore code."""
    write_manifest(Path("known.csv"), [partly(cases[0], [])])
    suggest(replace(asked, slices=50, strategy="rss", annotated=Path("known.csv")))
    rows = slices_of(asked.output)
    assert len(rows) == 30 and sum(row[0] == cases[0].image.name for row in rows) == 10


def test_fewer_candidates_than_slices_are_all_taken_and_said_to_be(asked, capsys):
    suggest(replace(asked, slices=500))
    count = len(slices_of(asked.output))
    assert 0 < count < 30
    assert f"note: only {count} slice candidates for 500 slices" in capsys.readouterr().err


def test_a_ct_that_is_named_twice_counts_once(asked, capsys):
    images = [asked.images[0], asked.images[0].parent / ".." / "ct" / asked.images[0].name]
    suggest(replace(asked, images=images, slices=1))
    assert "in 1 of 1 CTs" in capsys.readouterr().err


def test_random_slices_need_no_score_and_no_label(asked, monkeypatch):
    monkeypatch.setattr(Scoring, "scores", lambda *_: pytest.fail("scored"))
    suggest(replace(asked, strategy="rss", slices=3))
    assert len(slices_of(asked.output)) == 3
    assert {row["score"] for row in read_csv("todo/slices.csv")} == {""}


@pytest.mark.parametrize("name", [s.name for s in STRATEGIES.values() if s.by_slices and not s.is_oracle])
def test_every_strategy_that_asks_for_slices_may_be_asked(asked, name):
    suggest(replace(asked, strategy=name.lower(), slices=2))
    assert len(slices_of(asked.output)) == 2


def test_a_strategy_of_ones_own_may_be_asked(asked):
    Path("mine.py").write_text(
        "from uss_bench import Query, Strategy\n"
        "def lowest(pool, count, generator):\n"
        "    return [Query(c.case_id, c.open_slices[0]) for c in pool.cases if c.open_slices][:count]\n"
        "LOW = Strategy('LOW', 'slices', lowest)\n",
        encoding="utf-8",
    )
    suggest(replace(asked, strategy="mine.py:LOW", slices=2))
    assert slices_of(asked.output) == [("0.nii.gz", 0, 1), ("1.nii.gz", 0, 1)]


def test_equal_names_in_several_folders_get_the_folder_before_them(asked, cases, tmp_path):
    paths = []
    for case, name in zip(cases, "ab", strict=False):
        (tmp_path / name).mkdir()
        paths.append(case.image.rename(tmp_path / name / "ct.nii.gz"))
    suggest(replace(asked, images=paths, slices=40, strategy="rss"))
    assert {case.case_id for case in read_manifest("todo/manifest.csv")} == {"a_ct", "b_ct"}


def test_a_copy_of_a_known_ct_is_that_ct(asked, cases):
    """Wherever it lies and whatever it is called; so its annotated slices are not suggested again."""
    known = partly(cases[0], range(10))
    write_manifest(Path("known.csv"), [known])
    copy = Path(shutil.copy(known.image, "patient.nii.gz"))
    suggest(replace(asked, images=[copy], annotated=Path("known.csv"), strategy="rss", slices=50))
    assert slices_of(asked.output) and all(first >= 10 for _, first, _ in slices_of(asked.output))
    (case,) = read_manifest("todo/manifest.csv")
    assert (case.case_id, case.image.resolve()) == (known.case_id, known.image.resolve())


def test_notes_on_random_slices_are_about_those_suggested(asked, cases, capsys):
    write_untrained("query.min_distance_mm=17")  # two slices of 8 mm are nearer, on either side
    write_manifest(Path("known.csv"), [partly(cases[0], range(8, 10))])
    of_one = replace(asked, images=asked.images[:1], annotated=Path("known.csv"), strategy="rss")
    suggest(replace(of_one, slices=9))
    assert "note: 4 of 9 slices lie nearer than 17 mm" in capsys.readouterr().err
    suggest(replace(of_one, slices=4, output=Path("four")))
    near = sum(abs(first - 8) < 17 / 4 for _, first, _ in slices_of(Path("four")))
    assert near == 1 and "note: 1 of 4 slices lies nearer" in capsys.readouterr().err


@pytest.mark.parametrize("file", ["mean", "scores.json"])
def test_damaged_scores_are_made_again(asked, file):
    suggest(asked)
    kept = sorted(Path("runs").glob(f"suggest-*/*/{file}"))
    assert len(kept) == 3
    kept[0].write_bytes(kept[0].read_bytes()[:20])
    kept[1].unlink()
    suggest(replace(asked, output=Path("again")))
    for path in asked.output.iterdir():
        assert path.read_bytes() == (Path("again") / path.name).read_bytes(), path.name


def test_here_is_called_after_the_folder(tmp_path, monkeypatch):
    (tmp_path / "series").mkdir()
    monkeypatch.chdir(tmp_path / "series")
    assert _case_ids([Path(".")]) == {Path("."): "series"}


def test_a_dicom_folder_is_converted_into_the_output(asked, tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    volume = np.asarray(nib.load(asked.images[0]).dataobj).transpose(2, 1, 0)
    folder = tmp_path / "series"
    folder.mkdir()
    for number, pixels in enumerate(volume):
        image = sitk.GetImageFromArray(pixels.astype(np.int16)[None])
        for key, value in {
            "0020|0032": f"0\\0\\{number * 4.0}", "0020|0037": "1\\0\\0\\0\\1\\0", "0028|0030": "4\\4",
            "0020|0013": str(number), "0028|1052": "0", "0028|1053": "1", "0008|0060": "CT",
        }.items():  # fmt: skip
            image.SetMetaData(key, value)
        image.SetSpacing((4.0, 4.0, 4.0))
        sitk.WriteImage(image, str(folder / f"{number}.dcm"))
    suggest(replace(asked, images=[folder], slices=2))
    (case,) = read_manifest("todo/manifest.csv")
    assert case.image == Path("todo/series.nii.gz")
    np.testing.assert_array_equal(read_nifti(case.image)[0], volume[:, ::-1, ::-1])
    assert read_nifti(case.label)[0].shape == volume.shape
    again = replace(asked, annotated=Path("todo/manifest.csv"), output=Path("todo-2"), strategy="rss")
    suggest(replace(again, images=[folder], slices=2))  # the second round, from the same folder
    (case,) = read_manifest("todo-2/manifest.csv")
    assert case.image.resolve() == tmp_path / "todo" / "series.nii.gz"
    assert case.label == Path("todo-2/series_todo.nii.gz")
    assert not Path("todo-2/series.nii.gz").exists()


# --- refusals ---


def broken(asked, name, array=None, affine=None):
    """Another CT, with voxels or an affine of one's own."""
    image = nib.load(asked.images[0])
    array = np.asarray(image.dataobj) if array is None else array
    nib.save(nib.Nifti1Image(array, image.affine if affine is None else affine), name)
    return Path(name)


FAULTS = {
    "NaN": (lambda a: {"images": [broken(a, "n.nii", np.full((9, 9, 9), np.nan, np.float32))]}, "NaN"),
    "4D": (lambda a: {"images": [broken(a, "f.nii", np.zeros((9, 9, 9, 2)))]}, "4D"),
    "metres": (lambda a: {"images": [broken(a, "m.nii", affine=np.diag([62, 62, 62, 1]))]}, "spacing 62"),
    "absent": (lambda a: {"images": [Path("absent.nii.gz")]}, "does not exist"),
    "a copy": (lambda a: {"images": [a.images[0], broken(a, "copy.nii.gz")]}, "the same image"),
    "no slices": (lambda a: {"slices": 0}, "--slices 0"),
    "volumes": (
        lambda a: {"strategy": "uvs"},
        "must be one strategy that asks for slices .* of USS, RSS, [^O]*$",
    ),
    "all": (lambda a: {"strategy": "all"}, "must be one strategy"),
    "oracle": (lambda a: {"strategy": "oss"}, "reads no labels"),
    "own": (lambda a: {"strategy": "absent.py:MINE"}, "absent.py cannot be read"),
    "unknown": (lambda a: {"strategy": "xyz"}, "unknown"),
    "no model": (lambda a: {"model": a.images[0]}, "no model file"),
    "no manifest": (lambda a: {"annotated": Path("absent.csv")}, "cannot read the manifest"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_bad_input_is_one_error_before_any_scoring_and_leaves_no_folder(asked, monkeypatch, fault):
    monkeypatch.setattr(Models, "uncertainty", lambda *_: pytest.fail("scored"))
    change, says = FAULTS[fault]
    with pytest.raises(InputError, match=says):
        suggest(replace(asked, **change(asked)))
    assert not asked.output.exists() and not list(Path().glob(".partial-*"))


def test_what_a_killed_one_left_is_cleared_away(asked):
    long_ago = time.time() - 2 * storage.A_DAY
    for name in (f".partial-0123456789ab-{asked.output.name}", ".partial-0123456789ab-others"):
        (Path(name) / "ct").mkdir(parents=True)
        os.utime(name, (long_ago, long_ago))
    suggest(asked)
    assert [path.name for path in Path().glob(".partial-*")] == [".partial-0123456789ab-others"]


@pytest.mark.parametrize("file", ["case-0_todo.nii.gz", "notes.txt"])
def test_a_folder_that_holds_anything_is_never_written_to(asked, file):
    asked.output.mkdir()
    (asked.output / file).write_text("corrected", encoding="utf-8")
    with pytest.raises(InputError, match="may hold corrected files, which are never overwritten"):
        suggest(asked)
    assert [(path.name, path.read_text(encoding="utf-8")) for path in asked.output.iterdir()] == [
        (file, "corrected")
    ]


def test_an_empty_folder_may_be_named(asked):
    asked.output.mkdir()
    suggest(asked)
    assert slices_of(asked.output)


def test_where_all_is_annotated_there_is_nothing_to_suggest(asked, cases):
    write_manifest(Path("known.csv"), cases)
    with pytest.raises(InputError, match="no slice to suggest in 3 CTs, 3 of which are annotated"):
        suggest(replace(asked, annotated=Path("known.csv")))
    assert not asked.output.exists()


def test_another_ct_of_the_name_of_a_known_case_is_refused(asked, cases):
    write_manifest(Path("known.csv"), [replace(cases[1], case_id="0")])
    with pytest.raises(InputError, match="another CT is called 0 already"):
        suggest(replace(asked, images=[cases[0].image], annotated=Path("known.csv")))


@pytest.mark.parametrize(
    ("row", "images", "says"),
    [
        ({"patient_id": "0", "split": "val"}, lambda c: [c[0].image], "patient 0: in splits pool, val"),
        ({}, lambda c: [c[1].label], "1_liver.nii.gz: the label of case case-1; give CTs alone"),
        ({"case_id": "LiTS/1"}, lambda c: [c[1].image], "case LiTS/1: its id cannot be a file name"),
    ],
)
def test_what_the_next_fit_would_refuse_is_refused_before_any_scoring(asked, cases, row, images, says):
    write_manifest(Path("known.csv"), [replace(partly(cases[1], range(4, 6)), **row)])
    with pytest.raises(InputError, match=says):
        suggest(replace(asked, images=images(cases), annotated=Path("known.csv")))
    assert not asked.output.exists() and not Path("runs").exists()


def test_an_output_that_would_not_stay_empty_is_refused(asked, tmp_path):
    with pytest.raises(InputError, match="--output here: --runs here/runs lies in it"):
        suggest(replace(asked, output=Path("here"), runs=Path("here/runs")))
    (tmp_path / "empty").mkdir()
    Path("link").symlink_to(tmp_path / "empty")
    suggest(replace(asked, output=Path("link")))
    assert slices_of(tmp_path / "empty")


def test_the_command_line_ends_with_code_2_and_one_line(asked, monkeypatch, capsys):
    monkeypatch.setattr(stopping, "install", lambda: None)
    images = [str(path) for path in asked.images]
    assert commands.main(["suggest", images[0], *images, "--slices", "3", "--output", "todo"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("uss-bench: ") and err.count("\n") == 1 and "fit" in err
