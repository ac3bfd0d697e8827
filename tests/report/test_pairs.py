"""Which pairs of strategies are compared across seeds."""

import csv
from itertools import combinations
from pathlib import Path

import pytest
from statsmodels.stats.multitest import multipletests

from uss_bench.report.pairs import COMPARED, chosen, compare_all, highlighted, shown, write_comparisons
from uss_bench.report.seeds import read_seeds
from uss_bench.runtime import paths

STRATEGIES = ("UVS", "RVS", "USS", "RSS")
BUDGETS = ("converged", "iteration 2", "iteration 1")


@pytest.fixture(scope="module")
def comparisons():
    return compare_all(read_seeds(Path(__file__).parent / "data" / "across"))


def test_every_pair_at_every_budget_once(comparisons):
    found = [(each.metric, each.budget, each.first, each.second) for each in comparisons]
    families = [(metric, budget) for metric in COMPARED for budget in BUDGETS]
    families += [(metric, "effort curve") for metric in COMPARED]
    assert found == [(*family, *pair) for family in families for pair in combinations(STRATEGIES, 2)]
    assert COMPARED == ("DICE", "MSD", "HD")


def test_p_is_corrected_for_the_pairs_of_a_metric_at_a_budget(comparisons):
    for metric, budget in [("DICE", "converged"), ("HD", "iteration 1"), ("DICE", "effort curve")]:
        family = chosen(comparisons, metric, budget)
        _, expected, _, _ = multipletests([each.found.p for each in family], method="holm")
        assert [each.p_holm for each in family] == pytest.approx(list(expected))


def test_only_dice_has_a_region_of_equivalence(comparisons):
    assert {each.metric for each in comparisons if each.found.verdict == "equivalent"} == {"DICE"}


def test_of_many_strategies_those_with_the_featured_or_the_baseline_are_shown(comparisons):
    assert highlighted(STRATEGIES) == list(STRATEGIES) and shown(comparisons, STRATEGIES) == comparisons
    assert highlighted([*STRATEGIES, "another"]) == ["USS", "RSS"]
    assert highlighted(["A", "B", "C", "D", "E"]) == ["A"]
    left = shown(comparisons, [*STRATEGIES, "another"])
    assert {(each.first, each.second) for each in comparisons} - {
        (each.first, each.second) for each in left
    } == {("UVS", "RVS")}


def test_the_file_holds_every_comparison(tmp_path, comparisons):
    write_comparisons(tmp_path, comparisons)
    with open(tmp_path / paths.COMPARISONS, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(comparisons)
    for row, each in zip(rows, comparisons, strict=True):
        assert (row["metric"], row["budget"], row["first"], row["second"]) == (
            each.metric, each.budget, each.first, each.second,
        )  # fmt: skip
        assert row["verdict"] == each.found.verdict
        assert float(row["mean"]) == pytest.approx(each.found.mean, rel=1e-5)
        assert float(row["p_holm"]) == pytest.approx(each.p_holm, rel=1e-5)
        assert row["seeds_needed"] == str(each.found.seeds_needed or "")
