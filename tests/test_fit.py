"""`uss-bench fit` on tiny cases: what it trains on, what it writes, and that a stopped one continues."""

import os
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from builders import write_case

from uss_bench import fit as room
from uss_bench import provenance
from uss_bench.data.manifest import write_manifest
from uss_bench.fit import Fit, fit
from uss_bench.model_file import read_model
from uss_bench.network.aunet import AUNet
from uss_bench.network.training import Training
from uss_bench.runtime.errors import InputError
from uss_bench.study.models import Models

SETTINGS = ("training.max_steps=4", "training.converged_max_steps=6", "training.validate_every=2",
            "data.spacing=8,8,8", "training.patch=2,16,16")  # fmt: skip


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def cases(tmp_path):
    """Two pool cases, of which the second is annotated on slices 4 to 9, and one for validation."""
    pool = [write_case(tmp_path, number, "pool") for number in (0, 2)]
    label = nib.load(pool[1].label)
    codes = np.asarray(label.dataobj).copy()
    codes[..., :4] = codes[..., 10:] = 9
    nib.save(nib.Nifti1Image(codes, label.affine), pool[1].label)
    return [pool[0], replace(pool[1], ignore_value=9), write_case(tmp_path, 4, "val")]


@pytest.fixture
def asked(tmp_path, cases):
    write_manifest(tmp_path / "manifest.csv", cases)
    return Fit(tmp_path / "manifest.csv", tmp_path / "model.pt", "smoke", SETTINGS, seed=3, device="cpu")


@pytest.fixture
def trained_on(monkeypatch):
    """Annotations and volumes of each training."""
    seen, train = [], Models.train

    def spy(models, key, annotations):
        seen.append((annotations.as_dict(), models.volumes))
        return train(models, key, annotations)

    monkeypatch.setattr(Models, "train", spy)
    return seen


def test_it_trains_on_annotated_slices_until_validation_says_when(asked, trained_on, capsys):
    fit(asked)
    # 20 slices of 4 mm are 10 of 8 mm: two each, so slices 4 to 9 are 2 to 4.
    ((annotations, volumes),) = trained_on
    assert annotations == {"case-0": list(range(10)), "case-2": [2, 3, 4]}
    assert list(volumes["val"]) == ["case-4"]
    content = torch.load(asked.output, weights_only=True)
    assert content["annotated"] == {"cases": 2, "slices": 13}
    assert content["training"]["last_step"] == 6 and content["training"]["best_jaccard"] is not None
    model = read_model(asked.output)
    assert (model.seed, model.settings.data.spacing) == (3, (8.0, 8.0, 8.0))
    AUNet(**vars(model.settings.network)).load_state_dict(model.state)
    err = capsys.readouterr().err
    assert "no val case" not in err and "training on 13 slices of 2 cases" in err


def test_without_validation_it_warns_and_keeps_the_state_after_a_fixed_number_of_steps(asked, cases, capsys):
    write_manifest(asked.manifest, [*cases[:2], replace(cases[2], split="test")])
    fit(asked)
    training = torch.load(asked.output, weights_only=True)["training"]
    assert (training["best_step"], training["last_step"], training["best_jaccard"]) == (4, 4, None)
    assert [row[2] for row in training["curve"]] == [None, None]
    assert "warning: no val case, so nothing tells when training should end" in capsys.readouterr().err


def test_annotated_cases_that_a_setting_leaves_out_are_counted(asked, trained_on, capsys):
    fit(replace(asked, overrides=(*SETTINGS, "data.pool=1")))
    assert list(trained_on[0][0]) == ["case-0"]
    assert "warning: 1 of 2 pool cases are used, as data.pool says" in capsys.readouterr().err


def forget(case):
    """As an annotator leaves a CT that was skipped: the ignore code everywhere."""
    label = nib.load(case.label)
    nib.save(nib.Nifti1Image(np.full(label.shape, 9, np.uint8), label.affine), case.label)


def test_a_ct_of_which_nothing_is_annotated_is_left_out(asked, cases, trained_on, capsys):
    forget(cases[1])
    fit(asked)
    assert list(trained_on[0][0]) == ["case-0"]
    assert (
        "20 of 20 slices hold the ignore_value 9, so nothing of it counts as annotated"
        in capsys.readouterr().err
    )
    write_manifest(asked.manifest, cases[1:])
    with pytest.raises(InputError, match="nothing of any pool case counts as annotated; see the warnings"):
        fit(replace(asked, output=asked.output.with_name("none.pt")))


def test_a_model_that_came_meanwhile_is_kept(asked, monkeypatch):
    """The training is not lost either: another name gets it."""
    train = Models.train

    def slow(*given):
        asked.output.write_bytes(b"another's")
        return train(*given)

    monkeypatch.setattr(Models, "train", slow)
    with pytest.raises(InputError, match="exists, and is not the model of this training; name another file"):
        fit(asked)
    assert asked.output.read_bytes() == b"another's"
    monkeypatch.setattr(Models, "train", lambda *_: pytest.fail("trained again"))
    fit(replace(asked, output=asked.output.with_name("mine.pt"), name=asked.folder.name))
    assert asked.output.with_name("mine.pt").exists()


def test_test_cases_are_not_even_looked_at(asked, cases, tmp_path):
    absent = replace(cases[2], case_id="t", patient_id="t", split="test", image=tmp_path / "absent.nii.gz")
    write_manifest(asked.manifest, [*cases, absent])
    fit(asked)


def test_it_continues_from_any_step_to_the_same_bytes(asked, monkeypatch, tmp_path):
    fit(asked)
    whole = asked.output.read_bytes()
    again = replace(asked, output=tmp_path / "again.pt")
    update, steps = Training.update, []

    def interrupted(self, *arguments):
        if len(steps) == 3:
            raise KeyboardInterrupt("Ctrl-C")
        steps.append(self.step)
        update(self, *arguments)

    monkeypatch.setattr(Training, "update", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit(again)
    assert not again.output.exists() and (again.folder / "fitted" / "training.pt").exists()
    monkeypatch.setattr(Training, "update", lambda self, *a: (steps.append(self.step), update(self, *a)))
    fit(again)
    assert steps == [0, 1, 2, 3, 4, 5]
    assert again.output.read_bytes() == whole
    assert not (again.folder / "fitted" / "training.pt").exists()


def test_a_finished_one_is_found_and_its_file_written_again(asked, monkeypatch):
    fit(asked)
    whole = asked.output.read_bytes()
    left = asked.output.rename(asked.output.with_name(f".partial-0123456789ab-{asked.output.name}"))
    os.utime(left, (0, 0))  # as of a process that was killed long ago
    monkeypatch.setattr(Models, "train", lambda *_: pytest.fail("trained again"))
    fit(asked)
    assert asked.output.read_bytes() == whole and not left.exists()


def test_it_is_found_after_a_commit_that_changes_no_number(asked, monkeypatch):
    fit(asked)
    later = {"commit": "f" * 40, "changed": False}
    monkeypatch.setattr(provenance, "_git_state", lambda: later)
    monkeypatch.setattr(Models, "train", lambda *_: pytest.fail("trained again"))
    fit(asked)
    assert torch.load(asked.output, weights_only=True)["provenance"]["git"] == later


@pytest.mark.parametrize(
    ("change", "says"),
    [({"seed": 4}, "seed: 3 there, 4 now"), ({"overrides": SETTINGS[1:]}, "training.max_steps: 4 there, 20")],
)
def test_another_training_in_its_folder_is_refused(asked, change, says):
    fit(asked)
    with pytest.raises(InputError, match=f"holds another run; choose another --name.*\n.*{says}"):
        fit(replace(asked, **change))


def test_changed_files_are_refused(asked, cases):
    fit(asked)
    image = nib.load(cases[0].image)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[::-1], image.affine), cases[0].image)
    with pytest.raises(InputError, match="was begun with other files of case\\(s\\) case-0"):
        fit(asked)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (lambda cases: [cases[2]], "no pool case"),
        (lambda cases: [replace(cases[1], split="val"), cases[0]], "val cases must be annotated as a whole"),
        (lambda cases: [replace(cases[0], image=cases[0].image.with_name("x")), cases[2]], "does not exist"),
    ],
)
def test_bad_cases_are_refused_before_any_training(asked, cases, rows, says, monkeypatch):
    monkeypatch.setattr(room, "_train", lambda *_: pytest.fail("trained"))
    write_manifest(asked.manifest, rows(cases))
    with pytest.raises(InputError, match=says):
        fit(asked)
    assert not asked.folder.exists() and not asked.output.exists()


def test_a_doubt_is_said_before_any_training(asked, cases, monkeypatch, capsys):
    class TrainedError(Exception):
        pass

    def trains(*_):
        assert "do not count as annotated" in capsys.readouterr().err
        raise TrainedError

    monkeypatch.setattr(room, "_train", trains)
    write_manifest(asked.manifest, [replace(cases[0], ignore_value=1), cases[2]])
    with pytest.raises(TrainedError):
        fit(asked)


def test_what_it_did_not_write_is_never_replaced(asked):
    rows = asked.manifest.read_bytes()
    with pytest.raises(InputError, match=r"manifest\.csv: exists, and is not the model of this training"):
        fit(replace(asked, output=asked.manifest))
    assert asked.manifest.read_bytes() == rows and not asked.folder.exists()
    fit(asked)
    whole = asked.output.read_bytes()
    with pytest.raises(InputError, match=r"model\.pt: exists, and is not the model of this training"):
        fit(replace(asked, seed=4, name="other"))
    fit(asked)
    assert asked.output.read_bytes() == whole


def test_a_folder_as_output_is_refused(asked, tmp_path):
    with pytest.raises(InputError, match="a folder; name the model file"):
        fit(replace(asked, output=tmp_path))
