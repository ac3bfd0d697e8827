"""Statistics of uncertainties against values by hand, SciPy, plain loops, and simulations of known truth."""

import gzip
import math

import numpy as np
import pytest
from scipy import stats

from uss_bench.report.results import read_uncertainties
from uss_bench.report.uncertainty_statistics import (
    PoolSlices,
    Reliability,
    by_distance,
    rank_correlation,
    risk_coverage,
    selective_risk,
)
from uss_bench.study.annotation import Annotations
from uss_bench.study.keys import INITIAL, ModelKey
from uss_bench.study.records import TrainingSet
from uss_bench.study.uncertainty_quality import assess_case, quantized, write_uncertainty_quality


def test_rank_correlation_by_hand():
    assert rank_correlation([1, 2, 3], [10, 20, 1000]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    # Ranks 1, 2, 3, 4 and 1, 2.5, 2.5, 4: deviations multiply to 4.5 of (5 x 4.5)^½.
    assert rank_correlation([1, 2, 3, 4], [0, 7, 7, 9]) == pytest.approx(4.5 / math.sqrt(5 * 4.5))
    for constant in ([1, 2, 3], [5, 5, 5]), ([5, 5], [1, 2]), ([1], [2]), ([], []):
        assert math.isnan(rank_correlation(*constant))


@pytest.mark.parametrize("seed", range(3))
def test_rank_correlation_against_scipy(seed):
    rng = np.random.default_rng(seed)
    first, second = rng.random(200), rng.poisson(2, 200)  # many ties
    assert rank_correlation(first, second) == pytest.approx(stats.spearmanr(first, second).statistic)


def test_risk_coverage_by_hand():
    """Losses 0, 6, 3 from the least uncertain on: means 0, 3, 3. The best order 0, 3, 6: 0, 1.5, 3."""
    uncertainty, loss = np.array([0.2, 0.1, 0.3]), np.array([6.0, 0.0, 3.0])
    assert selective_risk(uncertainty, loss).tolist() == [0, 3, 3]
    found = risk_coverage(uncertainty, loss)
    assert (found.area, found.best, found.chance) == (2, 1.5, 3)
    assert (found.excess, found.gain) == (0.5, pytest.approx(1 / 1.5))
    assert risk_coverage(-uncertainty, loss).gain < 0  # worse than chance: 3, 4.5, 3
    assert math.isnan(risk_coverage(uncertainty, np.ones(3)).gain)


@pytest.mark.parametrize("seed", range(3))
def test_equal_uncertainties_count_as_the_mean_of_all_their_orders(seed):
    rng = np.random.default_rng(seed)
    uncertainty, loss = rng.integers(0, 4, 30), rng.random(30)
    risks = []
    for _ in range(4000):
        order = sorted(range(30), key=lambda place: (uncertainty[place], rng.random()))
        risks.append(np.cumsum(loss[order]) / np.arange(1, 31))
    np.testing.assert_allclose(selective_risk(uncertainty, loss), np.mean(risks, axis=0), atol=0.03)


def test_risk_coverage_of_known_orders():
    """Geifman et al.: of a share r of errors, the best order has the area r + (1 - r) ln(1 - r)."""
    rng = np.random.default_rng(0)
    wrong = rng.random(50_000) < 0.3
    rate = wrong.mean()
    best = rate + (1 - rate) * math.log(1 - rate)
    perfect = risk_coverage(wrong + rng.random(50_000) / 2, wrong.astype(float))
    assert perfect.area == pytest.approx(best, abs=1e-4) and perfect.excess == pytest.approx(0, abs=1e-12)
    assert perfect.gain == pytest.approx(1)
    useless = risk_coverage(rng.random(50_000), wrong.astype(float))
    assert useless.chance == rate
    assert useless.gain == pytest.approx(0, abs=0.02)
    assert useless.excess == pytest.approx(rate - best, abs=0.005)


def test_calibration_errors_by_hand():
    """Three bins, one of them empty: gaps of 0.1 on 90 voxels and 0.3 on 10."""
    bins = Reliability(np.array([90.0, 0, 10]), np.array([0.2, np.nan, 0.5]), np.array([0.1, np.nan, 0.8]))
    assert bins.expected_error == pytest.approx(0.12)
    assert bins.average_error == pytest.approx(0.2)


@pytest.mark.parametrize(("power", "error"), [(1, 0), (2, 1 / 6), (0.5, 1 / 6)])
def test_calibration_of_a_simulation_whose_calibration_is_known(tmp_path, power, error):
    """Uniform probabilities p, of which p^a are liver: the mean gap is |1 / (a + 1) - 1 / 2|.

    From the Monte Carlo mean through the result files to the report.
    """
    rng = np.random.default_rng(4)
    mean = rng.random((10, 200, 200))
    reference = rng.random(mean.shape) < mean**power
    case = {"case_id": "a", "uncertainty": [0.1] * 10, **assess_case(quantized(mean), reference, ())}
    write_uncertainty_quality(tmp_path, {INITIAL: [case]}, [TrainingSet(INITIAL, Annotations())], 1.0)
    bins = read_uncertainties(tmp_path).reliability[INITIAL]
    assert bins.voxels.sum() == 400_000
    for found in (bins.expected_error, bins.average_error):
        assert found == pytest.approx(error, abs=0.004)


def slices_of(**columns):
    count = len(next(iter(columns.values())))
    numbers = {name: np.zeros(count) for name in ("uncertainty", "wrong", "predicted", "liver", "distance")}
    given = {name: np.array(values) for name, values in columns.items()}
    return PoolSlices(
        **(numbers | {"queried": np.array([""] * count), "annotated": np.zeros(count, bool)} | given)
    )


def test_slice_dice_by_hand():
    """6 predicted and 4 there with 2 wrong, so 4 in common: 8 / 10; nothing at all; all missed; all false."""
    slices = slices_of(predicted=[6, 0, 0, 3], liver=[4, 0, 5, 0], wrong=[2, 0, 5, 3])
    assert slices.dice.tolist() == pytest.approx([0.8, 1, 0, 0])


def test_a_limit_belongs_to_the_class_below_it():
    distances = [5.0, 10.0, 10.1, 20.0, 20.1, 40.0, 40.1, 80.0, 80.1, np.inf]
    found = dict(by_distance(slices_of(distance=distances)))
    assert [int(chosen.sum()) for chosen in found.values()] == [2, 2, 2, 2, 1, 1]
    assert next(iter(found)) == "0 to 10 mm"


def test_slices_are_chosen_and_joined():
    slices = slices_of(
        uncertainty=[1.0, 2.0, 3.0],
        annotated=[False, True, False],
        queried=["A;AB", "", "AB"],
    )
    assert slices.open.uncertainty.tolist() == [1, 3]
    assert slices.asked_by("A").tolist() == [True, False, False]  # and not AB
    assert slices.asked_by("AB").tolist() == [True, False, True]
    assert PoolSlices.joined([slices, slices.open]).uncertainty.tolist() == [1, 2, 3, 1, 3]


def test_results_without_the_files_or_with_empty_ones_have_none(tmp_path):
    assert read_uncertainties(tmp_path) is None
    write_uncertainty_quality(tmp_path, {}, [TrainingSet(INITIAL, Annotations())], 1.0)
    assert read_uncertainties(tmp_path) is None


def test_files_are_read_by_model(tmp_path):
    (tmp_path / "results").mkdir()
    text = (
        "model,strategy,iteration,case_id,slice,uncertainty,wrong_voxels,predicted_voxels,liver_voxels,"
        "annotated,queried,distance_mm\n"
        "initial,,0,x,0,0.25,3,4,5,0,A;B,\ninitial,,0,x,1,0.5,0,0,0,0,,\niteration,A,1,x,0,0.125,1,2,3,1,,0\n"
    )
    (tmp_path / "results" / "uncertainty.csv.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "results" / "calibration.csv").write_text(
        "model,strategy,iteration,bin,voxels,liver_voxels,mean_probability\n"
        "initial,,0,1,8,2,0.125\ninitial,,0,2,0,0,\niteration,A,1,1,4,4,0.5\niteration,A,1,2,2,1,0.75\n",
        encoding="utf-8",
    )
    found = read_uncertainties(tmp_path)
    later = ModelKey.of_iteration("A", 1)
    assert list(found.slices) == list(found.reliability) == [INITIAL, later]
    first = found.slices[INITIAL]
    columns = (first.uncertainty, first.wrong, first.predicted, first.liver)
    assert [column.tolist() for column in columns] == [[0.25, 0.5], [3, 0], [4, 0], [5, 0]]
    assert np.isinf(first.distance).all() and first.queried.tolist() == ["A;B", ""]
    assert found.slices[later].annotated.tolist() == [True] and found.slices[later].distance.tolist() == [0]
    bins = found.reliability[INITIAL]
    assert bins.observed[0] == 0.25 and np.isnan(bins.observed[1]) and np.isnan(bins.predicted[1])
    assert found.reliability[later].observed.tolist() == [1, 0.5]
