"""Differences and groups of the made-up run in `data/report`, computed a second time or by hand."""

import itertools
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from builders import keyed
from scipy import stats

from uss_bench.report import further
from uss_bench.report.results import read_results
from uss_bench.report.summary import key_table
from uss_bench.study.keys import ModelKey

REPORT = Path(__file__).parent / "data" / "report"
DECIMALS = {"DICE": 3, "RVE": 2, "MSD": 2, "HD": 1}
NAMES = ("UVS", "RVS", "USS", "RSS", "data pool")


@pytest.fixture(scope="module")
def results():
    return read_results(REPORT)


def parsed(table):
    """Header and rows of a Markdown table, as lists of cells."""
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    return lines[0], lines[2:]


def numbers(cell):
    """Difference and ends of its interval."""
    return tuple(map(float, re.fullmatch(r"(-?[\d.]+) \[(-?[\d.]+), (-?[\d.]+)\]", cell).groups()))


def test_mean_differences(results):
    """Not much narrower or wider than the paired t interval, which eight cases suffice for."""
    header, rows = parsed(further.mean_differences(results))
    assert header == ["Models", "DICE", "RVE [%]", "MSD [mm]", "HD [mm]"]
    pairs = list(itertools.combinations(NAMES, 2))
    assert [row[0] for row in rows] == [f"{first} − {second}" for first, second in pairs]
    for row, pair in zip(rows, pairs, strict=True):
        for cell, (metric, decimals) in zip(row[1:], DECIMALS.items(), strict=True):
            one, other = (results.scores[results.final_models[name]][metric] for name in pair)
            difference, low, high = numbers(cell)
            assert difference == pytest.approx(np.mean(one - other), abs=0.51 * 10**-decimals)
            assert low <= difference <= high
            normal = 2 * 1.96 * stats.sem(one - other)
            assert high - low == pytest.approx(normal, rel=0.25, abs=1.1 * 10**-decimals)


def test_means_of_seven_cases_have_no_interval(results):
    """Eight cases have one, above."""
    few = {
        key: {metric: values[:7] for metric, values in scores.items()}
        for key, scores in results.scores.items()
    }
    _, rows = parsed(further.mean_differences(replace(results, scores=few, cases=results.cases[:7])))
    assert rows and not any("[" in cell for row in rows for cell in row)


def test_equal_seeds_give_equal_intervals(results):
    table = further.mean_differences(results)
    assert further.mean_differences(results) == table
    assert further.mean_differences(replace(results, provenance={"seed": 8})) != table


def test_percentiles_have_intervals_from_a_hundred_cases_on(results):
    assert further.percentile_differences(results) == ""
    values = np.random.default_rng(0).normal(0.9, 0.03, 100)
    scores = {key: dict.fromkeys(DECIMALS, values) for key in results.scores}
    shifted = ModelKey.of_converged("USS", 2)
    scores[shifted] = dict.fromkeys(DECIMALS, values + 0.5)
    found = replace(results, scores=scores, cases=[str(case) for case in range(100)])
    cells = {row[0]: row[1:] for row in parsed(further.percentile_differences(found))[1]}
    assert [numbers(cell) for cell in cells["USS − RSS"]] == [(0.5, 0.5, 0.5)] * 4
    assert cells["UVS − RVS"][0] == "0.000 [0.000, 0.000]"
    assert further.percentile_differences(replace(found, cases=found.cases[:99])) == ""


def test_of_many_strategies_the_pairs_with_the_main_ones(results):
    more = {key._replace(strategy="MID"): scores for key, scores in results.scores.items() if key[1] == "RVS"}
    rows = parsed(further.mean_differences(replace(results, scores=results.scores | more)))[1]
    names = [row[0] for row in rows]
    assert "USS − MID" in names and "RSS − MID" in names and "MID − data pool" in names
    assert "UVS − RVS" not in names and "RVS − MID" not in names


def test_groups_by_hand(results):
    hd = np.array([10.0, 20.0, 60.0, 32.0])
    models = {("iteration", "USS", 1): 1, ("converged", "USS", 1): 1, ("data pool", "", None): 2}
    scores = {key: {"DICE": hd / 100 / part, "HD": hd / part} for key, part in models.items()}
    rows = [
        ("t1", "test", "b", 20),
        ("t2", "test", "a", 30),
        ("t3", "test", "b", 50),
        ("t4", "test", "b", 30),
    ]
    rows += [("p1", "pool", "a", 30), ("p2", "pool", "a", 99), ("v1", "val", "b", 10)]
    volumes = [
        {"case_id": case_id, "split": split, "site": site, "size_z": str(size), "spacing_z": "2.0"}
        for case_id, split, site, size in rows
    ]
    cases = ["t1", "t2", "t3", "t4"]
    found = replace(
        results,
        scores=keyed(scores),
        cases=cases,
        sites=["b", "a", "b", "b"],
        variants=[""] * 4,
        volumes=volumes,
    )
    assert further.groupings(found) == ["site", "scan length"]
    header, rows = parsed(further.by_group(found, "site"))
    assert header == ["site", "n", "in the pool", "USS", "data pool"]
    assert rows == [
        ["a", "1", "2", "0.200 / 20.0", "0.100 / 10.0"],
        ["b", "3", "0", "0.340 / 34.0", "0.170 / 17.0"],
    ]
    # 40, 60, 100 and 60 mm: thirds end at 60 and 60, so none lies in the middle.
    _, rows = parsed(further.by_group(found, "scan length"))
    assert rows == [
        ["40 to 60 mm", "3", "1", "0.207 / 20.7", "0.103 / 10.3"],
        ["60 to 100 mm", "1", "1", "0.600 / 60.0", "0.300 / 30.0"],
    ]
    both = {"DICE": np.stack([hd, 3 * hd]) / 100, "HD": np.stack([hd, 3 * hd])}  # of two seeds
    _, rows = parsed(further.by_group(found, "site", lambda key, metric: both[metric]))
    assert rows[0] == ["a", "1", "2", "0.400 / 40.0", "0.400 / 40.0"]


def test_the_mix_of_the_pool_by_hand(results):
    """Of three, two in the pool are normal and one in the tests: 2/1 and 1/2 a case, so 4/6, 1/6, 1/6."""
    volumes = [{"split": "pool", "variant": variant} for variant in ("normal", "normal", "fatty")]
    volumes.append({"split": "val", "variant": "cysts"})
    found = replace(results, variants=["fatty", "normal", "fatty"], volumes=volumes)
    assert found.pool_mix == pytest.approx([1 / 6, 4 / 6, 1 / 6])
    dice = {key: {**scores, "DICE": np.array([0.6, 0.9, 0.6])} for key, scores in results.scores.items()}
    header, rows = parsed(key_table(replace(found, scores=dice)).split("\n\n")[0])
    assert header[-1] == "DICE, pool's mix" and {row[-1] for row in rows} == {"0.800"}
    assert {row[2] for row in rows} == {"0.700"}
    for variants, of_pool in ((["", ""], ["", ""]), (["a", "b"], ["b", "b", "a", "a"])):
        volumes = [{"split": "pool", "variant": variant} for variant in of_pool]
        assert replace(results, variants=variants, volumes=volumes).pool_mix is None


def test_missed_livers(results):
    assert further.missed_livers(results) == "Of 8 test cases: RVS iteration 1 in 1."
