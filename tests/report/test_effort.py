"""Equivalent slices and areas over them, worked out by hand."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from builders import keyed

from uss_bench.report.effort import equivalent_slices, mean_height
from uss_bench.report.results import read_results
from uss_bench.report.seeds import Seeds
from uss_bench.study.keys import DATA_POOL, INITIAL, ModelKey

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="module")
def results():
    return read_results(DATA / "report")


def test_equivalent_slices_by_hand():
    """Of 16 liver slices in the initial volumes. UVS has 33 in the end, USS 21, RSS 22, the pool 50."""
    results = read_results(DATA / "report")
    assert equivalent_slices(results, INITIAL) == 16 / 3
    assert equivalent_slices(results, ModelKey("iteration", "UVS", 2)) == 33 / 3
    assert equivalent_slices(results, ModelKey("converged", "USS", 2)) == pytest.approx(16 / 3 + 5)
    assert equivalent_slices(results, ModelKey("iteration", "RSS", 2)) == pytest.approx(16 / 3 + 6)
    assert equivalent_slices(results, DATA_POOL) == 50 / 3


def test_mean_height_by_hand():
    """From 0 up to 1 at 10, then down to 0.5 at 20: from 5 to 15 it is 0.75 and 0.875 on average."""
    curves = np.array([[0.0, 1.0], [1.0, 1.0], [0.5, 1.0]])
    assert mean_height([0, 10, 20], curves, 5, 15) == pytest.approx([(0.75 + 0.875) / 2, 1.0])
    assert mean_height([0, 10, 20], curves, 10, 10).tolist() == [1.0, 1.0]
    # Where the last iteration found nothing to ask for, its model and the one before count as 0.75.
    assert mean_height([0, 10, 10], curves, 0, 10)[0] == pytest.approx(0.375)


def areas_and_range(results, dice, effort):
    """Areas of a single seed, their range, and whether it is one.

    Mean DICE and equivalent slices are given as `{strategy: [iteration 1, ...]}`. The initial model has a
    DICE of 0.6 with 10 equivalent slices, which are 30 liver slices of whole volumes. UVS adds volumes and
    USS slices.
    """
    scores, counts = (
        {("initial", "", 0): {"DICE": np.array([0.5, 0.7])}},
        {("initial", "", 0): {"annotated_liver_slices": 30}},
    )
    for strategy in dice:
        for iteration, (mean, slices) in enumerate(
            zip(dice[strategy], effort[strategy], strict=True), start=1
        ):
            scores["iteration", strategy, iteration] = {"DICE": np.array([mean - 0.05, mean + 0.05])}
            counts["iteration", strategy, iteration] = {
                "annotated_liver_slices": 3 * slices if strategy == "UVS" else 30 + slices - 10
            }
    seeds = Seeds({0: replace(results, scores=keyed(scores), effort=keyed(counts))})
    return {name: seeds.areas(name, "DICE").mean() for name in dice}, seeds.ranges.tolist(), seeds.overlapping


def test_effort_area_of_two_points(results):
    """From 0.6 at 10 slices to 0.9 at 20: 0.75 on average.

    The other reaches 0.8 at 30, so 0.7 at 20: 0.65.
    """
    dice, effort = {"UVS": [0.8], "USS": [0.9]}, {"UVS": [30], "USS": [20]}
    areas, extent, overlapping = areas_and_range(results, dice, effort)
    assert (extent, overlapping) == ([[10, 20]], True)
    assert areas == pytest.approx({"UVS": 0.65, "USS": 0.75})


def test_effort_area_of_three_points(results):
    """USS: 10 slices at 0.7 on average, then 20 at 0.85.

    UVS: 0.6 to 0.7 over 20, then half way to 0.9 over 10: 13 + 7.5 in 30.
    """
    dice, effort = {"UVS": [0.7, 0.9], "USS": [0.8, 0.9]}, {"UVS": [30, 50], "USS": [20, 40]}
    areas, extent, overlapping = areas_and_range(results, dice, effort)
    assert (extent, overlapping) == ([[10, 40]], True)
    assert areas == pytest.approx({"UVS": (20 * 0.65 + 10 * 0.75) / 30, "USS": (10 * 0.7 + 20 * 0.85) / 30})


def test_effort_area_without_effort(results):
    """A strategy that finds no liver slice leaves no range to compare on; its models count by their mean."""
    dice, effort = {"UVS": [0.8], "USS": [0.9]}, {"UVS": [30], "USS": [10]}
    areas, extent, overlapping = areas_and_range(results, dice, effort)
    assert (extent, overlapping) == ([[10, 10]], False)
    assert areas == pytest.approx({"UVS": 0.6, "USS": 0.75})
