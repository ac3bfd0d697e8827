"""What the uncertainties are judged by, against counts by hand and by plain loops over voxels."""

import gzip
import math
import zlib
from types import SimpleNamespace

import numpy as np
import pytest

from uss_bench.runtime import storage
from uss_bench.study.annotation import Annotations
from uss_bench.study.keys import INITIAL, ModelKey
from uss_bench.study.records import TrainingSet
from uss_bench.study.uncertainty_quality import (
    assess_case,
    keep_mean,
    kept_mean,
    quantized,
    write_uncertainty_quality,
)


def test_steps_keep_the_threshold_and_are_nearest():
    half = np.float32(0.5)
    below, above = np.nextafter(half, np.float32(0)), np.nextafter(half, np.float32(1))
    assert quantized(np.array([below, half, above])).tolist() == [127, 128, 128]
    probability = np.random.default_rng(0).random(10_000, np.float32)
    assert np.abs(quantized(probability) / 255 - probability).max() <= 0.5 / 255 + 1e-9
    assert ((quantized(probability) >= 128) == (probability >= 0.5)).all()


def test_a_kept_mean_reads_back_and_is_small_where_there_is_background(tmp_path):
    mean = np.zeros((20, 64, 64), np.float32)
    mean[5:9, 20:40, 10:30] = np.random.default_rng(1).random((4, 20, 20))
    keep_mean(tmp_path / "new" / "3.mean", mean)
    path = tmp_path / "new" / "3.mean"
    assert (kept_mean(path, mean.shape) == quantized(mean)).all()
    assert path.stat().st_size < mean.size / 20
    with pytest.raises(FileNotFoundError):
        kept_mean(tmp_path / "4.mean", mean.shape)
    with pytest.raises(ValueError, match="reshape"):
        kept_mean(path, (20, 64, 63))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(zlib.error):
        kept_mean(path, mean.shape)


def test_a_case_by_hand():
    """Three slices of 1 x 4 voxels; the middle one is annotated, and stays out of the calibration."""
    mean = quantized([[[0.0, 0.2, 0.6, 1.0]], [[0.9, 0.9, 0.9, 0.9]], [[0.02, 0.06, 0.068, 0.94]]])
    reference = np.array([[[0, 1, 0, 1]], [[0, 0, 0, 0]], [[0, 0, 1, 1]]], np.uint8)
    found = assess_case(mean, reference, {1})
    assert found["wrong_voxels"] == [2, 4, 1]  # missed and false; all false; missed
    assert found["predicted_voxels"] == [2, 4, 1]
    assert found["liver_voxels"] == [2, 0, 2]
    # Steps 0, 51, 153, 255 and 5, 15, 17, 240. Bins are 17 steps wide, and 17 itself begins the second.
    voxels, liver, steps = [0] * 15, [0] * 15, [0] * 15
    voxels[0], steps[0] = 3, 0 + 5 + 15
    voxels[1], liver[1], steps[1] = 1, 1, 17
    voxels[3], liver[3], steps[3] = 1, 1, 51
    voxels[9], steps[9] = 1, 153
    voxels[14], liver[14], steps[14] = 2, 2, 255 + 240
    assert found["calibration"] == {"voxels": voxels, "liver_voxels": liver, "steps": steps}


@pytest.mark.parametrize("annotated", [(), (0, 3), range(5)])
def test_a_case_against_a_loop_over_voxels(annotated):
    rng = np.random.default_rng(2)
    mean, reference = quantized(rng.random((5, 6, 7))), rng.integers(0, 2, (5, 6, 7), np.uint8)
    wrong, bins = [0] * 5, [[0, 0, 0] for _ in range(15)]
    for (z, y, x), step in np.ndenumerate(mean):
        wrong[z] += (step / 255 >= 0.5) != reference[z, y, x]
        if z not in annotated:
            place = min(int(step) * 15 // 255, 14)
            bins[place] = [
                a + b for a, b in zip(bins[place], (1, int(reference[z, y, x]), int(step)), strict=True)
            ]
    found = assess_case(mean, reference, annotated)
    assert found["wrong_voxels"] == wrong
    assert list(map(list, zip(*found["calibration"].values(), strict=True))) == bins


@pytest.fixture
def written(tmp_path):
    """Files of a run in which A, by slices, and B, by volumes, went on from the initial model."""
    first, second = ModelKey.of_iteration("A", 1), ModelKey.of_iteration("A", 2)
    initial, after = Annotations({"done": range(3)}), Annotations({"done": range(3), "x": [1]})
    records = [
        TrainingSet(INITIAL, initial),
        TrainingSet(first, after, [("x", 1, 0.7)]),
        TrainingSet(second, after.add("x", [3]), [("x", 3, 0.2)]),
        TrainingSet(ModelKey.of_iteration("B", 1), initial.add("x", range(4)), [("x", None, 0.3)]),
    ]

    def assessed(*uncertainty):
        calibration = {"voxels": [8] + [0] * 13 + [2], "liver_voxels": [1] + [0] * 13 + [2]}
        return [
            {
                "case_id": case_id,
                "uncertainty": list(uncertainty),
                "wrong_voxels": [0, 1, 2, 3],
                "predicted_voxels": [4, 5, 6, 7],
                "liver_voxels": [4, 4, 8, 10],
                "calibration": calibration | {"steps": [51] + [0] * 13 + [510]},
            }
            for case_id in ("x", "y")
        ]

    models = {first: assessed(0.1, 0.2, 1 / 3, 0.4), INITIAL: assessed(0.5, 0.7, 0.6, 0.5)}
    write_uncertainty_quality(tmp_path, models, records, edge=2.5)
    return tmp_path / "results"


def test_slices_by_hand(written):
    lines = gzip.decompress((written / "uncertainty.csv.gz").read_bytes()).decode().splitlines()
    assert lines == [
        "model,strategy,iteration,case_id,slice,uncertainty,wrong_voxels,predicted_voxels,liver_voxels,"
        "annotated,queried,distance_mm",
        "initial,,0,x,0,0.5,0,4,4,0,B,",
        "initial,,0,x,1,0.7,1,5,4,0,A;B,",
        "initial,,0,x,2,0.6,2,6,8,0,B,",
        "initial,,0,x,3,0.5,3,7,10,0,B,",
        "initial,,0,y,0,0.5,0,4,4,0,,",
        "initial,,0,y,1,0.7,1,5,4,0,,",
        "initial,,0,y,2,0.6,2,6,8,0,,",
        "initial,,0,y,3,0.5,3,7,10,0,,",
        "iteration,A,1,x,0,0.1,0,4,4,0,,2.5",
        "iteration,A,1,x,1,0.2,1,5,4,1,,0",
        "iteration,A,1,x,2,0.333333,2,6,8,0,,2.5",
        "iteration,A,1,x,3,0.4,3,7,10,0,A,5",
        "iteration,A,1,y,0,0.1,0,4,4,0,,",
        "iteration,A,1,y,1,0.2,1,5,4,0,,",
        "iteration,A,1,y,2,0.333333,2,6,8,0,,",
        "iteration,A,1,y,3,0.4,3,7,10,0,,",
    ]


def test_calibration_by_hand(written):
    """Of two equal cases together: 16 voxels with 102 steps of 1/255, 4 with 4."""
    rows = storage.read_csv(written / "calibration.csv")
    assert list(rows[0]) == [
        "model", "strategy", "iteration", "bin", "voxels", "liver_voxels", "mean_probability"
    ]  # fmt: skip
    assert [row["model"] for row in rows] == ["initial"] * 15 + ["iteration"] * 15
    assert [row["bin"] for row in rows[:15]] == [str(number) for number in range(1, 16)]
    first, second, last = rows[0], rows[1], rows[14]
    assert (first["voxels"], first["liver_voxels"], last["voxels"], last["liver_voxels"]) == (
        "16",
        "2",
        "4",
        "4",
    )
    assert math.isclose(float(first["mean_probability"]), 102 / 16 / 255, rel_tol=1e-5)
    assert last["mean_probability"] == "1"
    assert (second["voxels"], second["mean_probability"]) == ("0", "")


def test_a_run_in_which_nothing_scores_the_pool_has_empty_files(tmp_path):
    write_uncertainty_quality(tmp_path, {}, [SimpleNamespace(key=INITIAL, queries=())], edge=1.0)
    assert storage.read_csv(tmp_path / "results" / "uncertainty.csv.gz") == []
    assert storage.read_csv(tmp_path / "results" / "calibration.csv") == []


def test_a_model_with_nothing_left_to_score_has_no_rows(tmp_path):
    """As where slice strategies run dry, or all of the pool is initial."""
    record = TrainingSet(INITIAL, Annotations({"a": range(3)}))
    write_uncertainty_quality(tmp_path, {INITIAL: []}, [record], 6.0)
    assert storage.read_csv(tmp_path / "results" / "uncertainty.csv.gz") == []
    assert storage.read_csv(tmp_path / "results" / "calibration.csv") == []
