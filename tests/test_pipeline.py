"""What the pipeline finds out about the data before anything is trained on."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from uss_bench import InputError, pipeline
from uss_bench.manifest import Case
from uss_bench.progress import Progress

PROBLEM = Path(__file__).parents[2] / "shared" / "data" / "problem"


@pytest.fixture
def load(tmp_path):
    """Loads cases and returns the volumes and what was printed."""

    def run(*cases):
        stream = io.StringIO()
        return pipeline._load_volumes(cases, (2.0, 2.0, 2.0), tmp_path / "cache", Progress(0, stream)), stream.getvalue()

    return run


def ct(seed=0):
    return np.random.default_rng(seed).integers(-1000, 200, (6, 8, 8)).astype(np.int16)


def liver():
    mask = np.zeros((6, 8, 8), np.uint8)
    mask[2:4, 2:6, 2:6] = 1
    return mask


def test_sound_cases_load_without_a_word(load, nifti_case):
    volumes, printed = load(nifti_case(ct(1), liver(), case_id="a"), replace(nifti_case(ct(2), liver(), case_id="b"), split="test"))
    assert list(volumes["pool"]) == ["a"] and list(volumes["test"]) == ["b"]
    assert printed == ""


def test_all_faulty_cases_are_named_in_one_message(load, nifti_case):
    sound = nifti_case(ct(1), liver(), case_id="sound")
    twin = nifti_case(ct(1), liver(), case_id="twin")
    empty = replace(nifti_case(ct(2), 0 * liver(), case_id="empty"), split="val")
    thick = nifti_case(ct(3), liver(), case_id="thick", spacing=(62.0, 1.0, 1.0))
    pointer = nifti_case(ct(4), liver(), case_id="pointer")
    pointer.image.write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(InputError) as caught:
        load(sound, twin, empty, thick, pointer)
    message = str(caught.value)
    assert "4 case(s)" in message
    assert "case pointer" in message and str(pointer.image) in message
    assert "case twin" in message and "image of case sound" in message
    assert "case empty" in message and "no liver" in message
    assert "case thick" in message and "1 x 1 x 62 mm" in message


def test_doubtful_cases_are_warned_of(load, nifti_case):
    _, printed = load(nifti_case(ct(1), 0 * liver(), case_id="empty"), nifti_case(np.abs(ct(2)), liver(), case_id="positive"))
    lines = printed.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("warning: case empty") and "no liver" in lines[0]
    assert lines[1].startswith("warning: case positive") and "nothing below" in lines[1]


@pytest.mark.skipif(not PROBLEM.exists(), reason="the shared problem files are not here")
def test_real_slices_62_mm_apart_are_refused(load, nifti_case):
    sound = nifti_case(ct(1), liver(), case_id="sound")
    gap = Case("gap", "site", "pool", PROBLEM / "lits14_3slices_62mm_gap.nii.gz", sound.label, "gap")
    with pytest.raises(InputError, match="x 62"):
        load(gap)
