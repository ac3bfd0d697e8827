"""Tables of the made-up run in `data/report` against a second computation.

It reads the files with the standard library alone.
"""

import csv
import math
import re
import shutil
import statistics
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from builders import keyed

from uss_bench.report import further, tables, words
from uss_bench.report.results import read_results
from uss_bench.study.keys import ModelKey

REPORT = Path(__file__).parent / "data" / "report"
STRATEGIES = ("UVS", "RVS", "USS", "RSS")
HIGHER_IS_BETTER = {"DICE": True, "RVE": False, "MSD": False, "HD": False}
DECIMALS = {"DICE": 3, "RVE": 2, "MSD": 2, "HD": 1}
MODELS = [(f"iter. {k}", "iteration", strategy, str(k)) for k in (1, 2) for strategy in STRATEGIES]
REFERENCES = [("initial", "initial", "", "0"), ("data pool", "data pool", "", "")]
CELL = re.compile(r"(\*\*)?([\d.]+) ± ([\d.]+) \(([\d.]+)\)(\*\*)?((?:\\\*)*)")


@pytest.fixture(scope="module")
def results():
    return read_results(REPORT)


@cache
def rows_of(name):
    with open(REPORT / "results" / f"{name}.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def diagonal(case_id):
    volume = next(row for row in rows_of("volumes") if row["case_id"] == case_id)
    return math.hypot(*(float(volume[f"size_{axis}"]) * float(volume[f"spacing_{axis}"]) for axis in "zyx"))


def values_of(metric, model, strategy, iteration):
    """`{case_id: value}`, with the volume's diagonal for a distance that is infinite."""
    found = {}
    for row in rows_of("cases"):
        if (row["model"], row["strategy"], row["iteration"]) == (model, strategy, iteration):
            found[row["case_id"]] = diagonal(row["case_id"]) if row[metric] == "inf" else float(row[metric])
    assert len(found) == 8
    return found


def percentile(values, share):
    """Linear interpolation between the two neighbours in order."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def best_of(metric, model, iteration):
    means = {
        strategy: statistics.fmean(values_of(metric, model, strategy, iteration).values())
        for strategy in STRATEGIES
    }
    return (max if HIGHER_IS_BETTER[metric] else min)(means, key=means.get)  # of equal ones the first


def comparison(metric, model, strategy, iteration):
    """Number of zeros and effect size of a strategy against the best."""
    sample, best = (
        values_of(metric, model, name, iteration) for name in (strategy, best_of(metric, model, iteration))
    )
    sign = 1 if HIGHER_IS_BETTER[metric] else -1
    differences = [round(sign * (sample[case_id] - best[case_id]), 9) for case_id in sample]
    ranks = [
        statistics.fmean(
            place
            for place, other in enumerate(sorted(map(abs, differences)), start=1)
            if other == abs(difference)
        )
        for difference in differences
    ]
    won, lost = (
        sum(rank for rank, x in zip(ranks, differences, strict=True) if side * x > 0) for side in (1, -1)
    )
    return differences.count(0), (won - lost) / (won + lost) if won + lost else 0.0


@cache
def found_tests(metric, model):
    return tables.paired_tests(read_results(REPORT), metric, model)


def stars(p):
    return "***" if p < 0.001 else "**" if p < 0.01 else "*" if p < 0.05 else ""


def parsed(table):
    """Header and rows of a Markdown table, as lists of cells."""
    lines = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table.splitlines()]
    return lines[0], lines[2:]


def cells_of(table):
    """`{(row, column): cell}` by the names of both."""
    header, rows = parsed(table)
    return {
        (row[0], column): cell for row in rows for column, cell in zip(header, row, strict=True) if column
    }


def shows(text, value, decimals):
    """`text` is `value`, rounded to that many decimals."""
    assert re.fullmatch(rf"-?\d+\.\d{{{decimals}}}", text)
    return abs(float(text) - value) <= 0.5 * 10**-decimals + 1e-9


def check_score(cell, metric, key, comparable):
    """A cell `mean ± sd (percentile)` with bold and stars, of the model `key`."""
    values = list(values_of(metric, *key).values())
    opened, mean, sd, robust, closed, marks = CELL.fullmatch(cell).groups()
    assert shows(mean, statistics.fmean(values), DECIMALS[metric])
    assert shows(sd, statistics.stdev(values), DECIMALS[metric])
    assert shows(robust, percentile(values, 0.05 if metric == "DICE" else 0.95), DECIMALS[metric])
    if not comparable:
        assert (opened, closed, marks) == (None, None, "")
    elif key[1] == best_of(metric, key[0], key[2]):
        assert (opened, closed, marks) == ("**", "**", "")
    else:
        test = found_tests(metric, key[0])[int(key[2])][key[1]]
        assert (opened, closed, marks.replace("\\", "")) == (None, None, stars(test.p))


def test_a_table_has_a_separator_and_cells_of_text():
    table = words.markdown_table(["", "b"], [["x", 1], ["y", ""]])
    assert table == "|  | b |\n| --- | ---: |\n| x | 1 |\n| y |  |"


def test_a_bar_in_a_cell_does_not_end_it():
    table = words.markdown_table(["Site", "n"], [["Leeds | York", 3]])
    assert table.splitlines()[-1] == r"| Leeds \| York | 3 |"


def test_table_1_by_hand(results):
    header, rows = parsed(tables.data_table(results))
    assert header == ["Site", "Volumes (pool/val/test)", "Voxel size x × y × z [mm]", "Resolution"]
    assert rows == [  # the larger site first
        ["North", "9 (3/1/5)", "2.00 × 2.00 × 5.00", "75 × 80 × 24"],
        ["South", "7 (3/1/3)", "[1.25–2.00] × [1.25–2.00] × [4.00–5.00]", "[75–128] × [80–120] × [24–30]"],
    ]


def test_table_2(results):
    shown = {
        place: cell for place, cell in cells_of(tables.training_data(results)).items() if cell and place[1]
    }
    names = {("", "0"): ("initial", "no query"), ("data pool", ""): ("data pool", "no query")}
    expected = {}
    for row in rows_of("annotation"):
        place = names.get((row["strategy"], row["iteration"]), (f"iter. {row['iteration']}", row["strategy"]))
        liver = int(row["annotated_liver_slices"])
        alone = liver - 16 if row["strategy"] in ("USS", "RSS") else 0  # the initial volumes have 16
        equivalent = alone + (liver - alone) / 3
        expected[place] = f"{row['annotated_slices']} / {liver} / {row['unique_patients']} / {equivalent:.0f}"
    assert shown == expected
    assert shown["iter. 1", "RSS"] == "47 / 19 / 5 / 8"


def test_table_3(results):
    table = tables.training_steps(results).removeprefix(".\n\n")
    header, rows = parsed(table)
    assert header == ["", *STRATEGIES, "no query"]
    assert [row[0] for row in rows] == ["initial", "iter. 1", "iter. 2", "iter. 2 (final)", "data pool"]
    names = {"initial": "initial", "data pool": "data pool"}
    expected = {}
    for row in rows_of("training"):
        title = names.get(
            row["model"], f"iter. {row['iteration']}{' (final)' * (row['model'] == 'converged')}"
        )
        expected[title, row["strategy"] or "no query"] = f"{row['best_step']} of {row['last_step']}"
    assert {place: cell for place, cell in cells_of(table).items() if cell} == expected
    assert expected["iter. 2 (final)", "RVS"] == "320 of 640"


def test_table_3_is_a_sentence_where_trainings_are_alike(results):
    alike = {
        key: {"best_step": steps, "last_step": steps}
        for key in results.training
        for steps in [640 if key.converges else 160]
    }
    assert tables.training_steps(replace(results, training=alike)) == (
        ": 160 of 160 for the initial model and those of iterations, 640 of 640 for the final models and the "
        "data pool's."
    )
    alike[ModelKey.of_converged("USS", 2)] = {"best_step": 600, "last_step": 640}
    assert tables.training_steps(replace(results, training=alike)).startswith(".\n\n| ")


@pytest.mark.parametrize("metric", DECIMALS)
def test_tables_4_to_7(results, metric):
    cells = cells_of(tables.metric_by_iteration(results, metric, found_tests(metric, "iteration")))
    for title, *key in MODELS:
        check_score(cells.pop((title, key[1])), metric, key, comparable=True)
    for title, *key in REFERENCES:
        check_score(cells.pop((title, "no query")), metric, key, comparable=False)
    assert not any(cells.values())


def test_table_8(results):
    tests = {metric: found_tests(metric, "converged") for metric in DECIMALS}
    cells = cells_of(tables.converged(results, tests))
    columns = {"DICE": "DICE", "RVE": "RVE [%]", "MSD": "MSD [mm]", "HD": "HD [mm]"}
    for metric, column in columns.items():
        for strategy in STRATEGIES:
            check_score(cells.pop((strategy, column)), metric, ("converged", strategy, "2"), comparable=True)
        check_score(cells.pop(("data pool", column)), metric, REFERENCES[1][1:], comparable=False)
    assert not cells


def test_the_made_up_run_has_what_is_worth_testing(results):
    """Marks of both kinds, several winners, zeros, ties, all zeros: or the tests above would prove little."""
    winners = {
        best_of(metric, *model)
        for metric in DECIMALS
        for model in (("iteration", "1"), ("iteration", "2"), ("converged", "2"))
    }
    assert winners == set(STRATEGIES)
    tests = found_tests("DICE", "iteration")
    assert {stars(test.p) for row in tests.values() for test in row.values()} == {"", "*", "**"}
    assert comparison("DICE", "iteration", "UVS", "2")[0] == 2
    assert comparison("HD", "iteration", "RSS", "1") == (8, 0.0)
    lowest = values_of("DICE", "iteration", "USS", "2"), values_of("DICE", "iteration", "RVS", "2")
    assert sorted(round(lowest[0][case] - lowest[1][case], 6) for case in lowest[0]).count(0.04) == 3


def test_three_stars(results):
    """Twelve of twelve cases worse: 2 of 4096 exchanges are as extreme."""
    base = np.linspace(0.8, 0.9, 12)
    scores = {
        ("iteration", "USS", 1): {"DICE": base},
        ("iteration", "RSS", 1): {"DICE": base - np.linspace(0.01, 0.02, 12)},
    }
    scores |= {("initial", "", 0): {"DICE": base}, ("data pool", "", None): {"DICE": base}}
    found = replace(results, scores=keyed(scores))
    tests = tables.paired_tests(found, "DICE", "iteration")
    cells = cells_of(tables.metric_by_iteration(found, "DICE", tests))
    assert cells["iter. 1", "RSS"].endswith(r")\*\*\*")
    assert cells["iter. 1", "USS"].startswith("**0.850 ± ")


def test_a_missed_liver_counts_with_the_diagonal(results):
    """120, 160 and 150 mm: a diagonal of 250 mm."""
    assert diagonal("test-3") == 250
    for metric in ("MSD", "HD"):
        rest = [
            float(row[metric])
            for row in rows_of("cases")
            if (row["strategy"], row["model"], row["iteration"]) == MISSED
        ]
        rest.remove(math.inf)
        cell = cells_of(tables.metric_by_iteration(results, metric, {}))["iter. 1", "RVS"]
        assert shows(CELL.fullmatch(cell)[2], (sum(rest) + 250) / 8, DECIMALS[metric])
    assert further.missed_livers(results) == "Of 8 test cases: RVS iteration 1 in 1."
    assert further.missed_livers(replace(results, missed=dict.fromkeys(results.missed, 0))) == ""


MISSED = ("RVS", "iteration", "1")


@pytest.mark.parametrize("model", ["iteration", "converged"])
@pytest.mark.parametrize("metric", DECIMALS)
def test_every_test_with_holms_correction(metric, model):
    found = found_tests(metric, model)
    rows = {(row["iteration"], row["strategy"]): row for row in tables.test_rows({model: {metric: found}})}
    iterations = (1, 2) if model == "iteration" else (2,)
    keys = [
        (k, strategy)
        for k in iterations
        for strategy in STRATEGIES
        if strategy != best_of(metric, model, str(k))
    ]
    assert list(rows) == keys
    p_values = [found[k][strategy].p for k, strategy in keys]
    order, running = sorted(range(len(keys)), key=p_values.__getitem__), 0.0
    for done, place in enumerate(order):
        running = max(running, (len(keys) - done) * p_values[place])
        k, strategy = keys[place]
        zeros, effect = comparison(metric, model, strategy, str(k))
        assert rows[k, strategy] == {
            "metric": metric, "model": model, "iteration": k, "strategy": strategy,
            "best": best_of(metric, model, str(k)), "p": p_values[place], "n": 8, "zeros": zeros,
            "effect": pytest.approx(effect), "p_holm": pytest.approx(min(1.0, running)),
        }  # fmt: skip


@pytest.mark.parametrize("metric", DECIMALS)
def test_tests_of_the_last_iteration_and_of_final_models(results, metric):
    """Earlier iterations are in the file alone; Holm's p stands where there is anything to correct."""
    tests = {kind: {metric: found_tests(metric, kind)} for kind in ("iteration", "converged")}
    found = tables.test_rows(tests)
    header, rows = parsed(tables.tests_table(found, results))
    assert header == ["Metric", "Models", *STRATEGIES]
    assert [row[:2] for row in rows] == [[metric, "iter. 2"], [metric, "final"]]
    for row, kind in zip(rows, tests, strict=True):
        of_row = {each["strategy"]: each for each in found if (each["model"], each["iteration"]) == (kind, 2)}
        for strategy, cell in zip(STRATEGIES, row[2:], strict=True):
            if strategy == best_of(metric, kind, "2"):
                assert cell == "best" and strategy not in of_row
                continue
            expected = of_row[strategy]
            p, *holm, effect = cell.split(" / ")
            assert shows(p, expected["p"], 3)  # none of the exchanges of eight cases is below 0.001
            assert len(holm) == (expected["p"] < 0.05)
            if holm:
                shown, marks = re.fullmatch(r"([\d.]+)((?:\\\*)*)", holm[0]).groups()
                assert shows(shown, expected["p_holm"], 3)
                assert marks.replace("\\", "") == stars(expected["p_holm"])
            assert (effect[0] in "+-") != (effect == "0.00")
            assert shows(effect.lstrip("+"), expected["effect"], 2)


def test_a_family_of_tests_is_one_metric_in_one_table():
    """Holm's correction knows nothing of other metrics and other tables."""
    one = {"iteration": {"DICE": found_tests("DICE", "iteration")}}
    both = {
        kind: {metric: found_tests(metric, kind) for metric in DECIMALS}
        for kind in ("iteration", "converged")
    }
    together = tables.test_rows(both)
    assert together[:6] == tables.test_rows(one)
    assert len(together) == 4 * 2 * 3 + 4 * 3


def test_small_p_values_are_bounded_and_not_rounded_to_zero():
    assert [words.p_text(p) for p in (0.0, 0.00099, 0.001, 0.0625, 1.0)] == [
        "<0.001",
        "<0.001",
        "0.001",
        "0.062",
        "1.000",
    ]


def effects(results, uncertainty, slices, cases=24):
    """Converged models whose every case is shifted by what is asked for.

    These shifts are then the coefficients.
    """
    noise = np.random.default_rng(0).normal(0.8, 0.02, cases)
    scores = dict(results.scores)
    for strategy in STRATEGIES:
        values = noise + uncertainty * (strategy in ("UVS", "USS")) + slices * (strategy in ("USS", "RSS"))
        scores["converged", strategy, 2] = {
            "DICE": values,
            "RVE": 10 - 10 * values,
            "MSD": 10 - 10 * values,
            "HD": 90 - 100 * values,
        }
    return replace(results, scores=scores, cases=list(range(cases)), sites=["a"] * cases), noise


@pytest.mark.parametrize("cases", [24, 44, 120])
def test_table_9_separates_the_effects(results, cases):
    found, noise = effects(results, 0.02, 0.05, cases)
    header, rows = parsed(tables.effects_table(tables.effects(found), cases))
    assert header == ["", "DICE", "p", "RVE [%]", "p", "MSD [mm]", "p", "HD [mm]", "p"]
    assert [row[0] for row in rows] == ["Intercept", "Uncertainty sampling", "Slice sampling"]
    low = sorted(noise)[cases // 20]  # of 24 cases two are 8%, one is 4%: the second lowest
    expected = np.array(
        [
            [low, 0.02, 0.05],
            [10 - 10 * low, -0.2, -0.5],
            [10 - 10 * low, -0.2, -0.5],
            [90 - 100 * low, -2, -5],
        ]
    ).T
    for row, coefficients in zip(rows, expected, strict=True):
        intercept = row[0] == "Intercept"
        for metric, cell, p, coefficient in zip(DECIMALS, row[1::2], row[2::2], coefficients, strict=True):
            value, *ends = re.fullmatch(r"(-?[\d.]+)(?: \[(-?[\d.]+), (-?[\d.]+)\])?", cell).groups()
            if cases == 24:  # two of which may be the fifth percentile
                assert shows(value, coefficient, DECIMALS[metric])
            assert p == "" if intercept else p == "<0.001"
            # An interval of a percentile, which the intercept is, takes a hundred cases, one of an effect 40.
            assert (ends == [None, None]) == (cases < (100 if intercept else 40))
            if None not in ends:
                assert float(ends[0]) <= float(value) <= float(ends[1])


def test_a_failed_fit_shows_no_number(results):
    found, _ = effects(results, uncertainty=0.02, slices=0.05)
    fits = tables.effects(found)
    fits["HD"] = replace(fits["HD"], rows=(), failure="made up")
    rows = parsed(tables.effects_table(fits, 24))[1]
    assert all(row[7:] == ["failed", ""] and "." in row[1] for row in rows)


def test_table_9_is_of_the_papers_strategies(results):
    """Further ones change nothing, and too few of the paper's give none."""
    own = {key._replace(strategy="MID"): scores for key, scores in results.scores.items() if key[1] == "RSS"}
    with_own, fits = replace(results, scores=results.scores | own), tables.effects(results)
    assert "MID" in with_own.strategies
    assert repr(tables.effects(with_own)) == repr(fits)
    alone = {key: scores for key, scores in results.scores.items() if not key.strategy} | own
    assert all(
        "cannot separate" in fit.failure for fit in tables.effects(replace(results, scores=alone)).values()
    )


def test_one_strategy_has_nothing_to_compare_with(results):
    scores = {key: values for key, values in results.scores.items() if key[1] in ("", "USS")}
    found = replace(results, scores=scores)
    tests = {kind: tables.paired_tests(found, "DICE", kind) for kind in ("iteration", "converged")}
    shown = tables.converged(found, {"DICE": tests["converged"]})
    for table in (tables.metric_by_iteration(found, "DICE", tests["iteration"]), shown):
        assert "*" not in table
    assert [row[0] for row in parsed(shown)[1]] == ["USS", "data pool"]
    assert tables.test_rows({"converged": {"DICE": tests["converged"]}}) == []
    assert all("cannot separate" in fit.failure for fit in tables.effects(found).values())


# --- many strategies ---


def test_of_many_strategies_rows_and_columns_change_places():
    """Checked cell by cell against the table of the same models in two halves."""
    names = [f"S{number}" for number in range(tables.MOST_COLUMNS + 1)]

    def cell(key):
        return "-".join(map(str, key))

    turned = cells_of(tables.by_iteration(names, [1, 2], cell, "final"))
    halves = {}
    for part in (names[:3], names[3:]):
        halves |= cells_of(tables.by_iteration(part, [1, 2], cell, "final"))
    assert {(column, row): text for (row, column), text in halves.items()} == turned
    assert turned["S0", "iter. 2 (final)"] == "converged-S0-2"


def test_an_oracle_is_compared_with_nobody_and_never_the_best(tmp_path):
    folder = shutil.copytree(REPORT, tmp_path / "report")
    for path in (folder / "results").glob("*.csv"):
        path.write_text(path.read_text(encoding="utf-8").replace("USS", "OSS"), encoding="utf-8")
    results = read_results(folder)
    assert results.contenders == ["UVS", "RVS", "RSS"] and "OSS" in results.strategies
    tests = tables.paired_tests(results, "DICE", "converged")
    (row,) = tests.values()
    assert set(row) | {test.best for test in row.values()} == {"UVS", "RVS", "RSS"}
    line = next(line for line in tables.converged(results, {"DICE": tests}).splitlines() if "OSS" in line)
    assert "**" not in line and "\\*" not in line


def test_groups_of_many_strategies_have_a_column_each(results, monkeypatch):
    plain = cells_of(further.by_group(results, "site"))
    monkeypatch.setattr(tables, "MOST_COLUMNS", 3)
    turned = cells_of(further.by_group(results, "site"))
    assert {(column, row): cell for (row, column), cell in plain.items() if column != "site"} == {
        place: cell for place, cell in turned.items() if place[1] != "site"
    }
