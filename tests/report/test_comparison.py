"""The published tables as the paper prints them, and words of direction worked out by hand."""

import csv
import re
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from builders import keyed

from uss_bench.report import comparison
from uss_bench.report.quantile_regression import Effect, QuantileEffects
from uss_bench.report.results import read_results

REPORT = Path(__file__).parent / "data" / "report"
DECIMALS = {"DICE": 3, "RVE": 2, "MSD": 2, "HD": 1}


@pytest.fixture(scope="module")
def results():
    return read_results(REPORT)


def cells_of(text):
    """`{(row, column): cell}` of the one table in a text."""
    lines = [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in text.splitlines()
        if line.startswith("|")
    ]
    assert {len(line) for line in lines} == {len(lines[0])}
    return {
        (line[0], column): cell
        for line in lines[2:]
        for column, cell in zip(lines[0][1:], line[1:], strict=True)
    }


def with_means(results, means):
    """Results with other means of some models, over two cases.

    `means` is `{(model, strategy, iteration): {metric: mean}}`.
    """
    scores = {key: dict(values) for key, values in results.scores.items()}
    for key, by_metric in means.items():
        scores[key] |= {metric: np.array([0.5 * mean, 1.5 * mean]) for metric, mean in by_metric.items()}
    return replace(results, scores=scores)


@pytest.mark.parametrize(
    ("metric", "here", "word"),
    [
        ("DICE", 0.943, "better"), ("DICE", 0.941, "worse"), ("DICE", 0.942, "equal"),
        ("DICE", 0.9423, "equal"), ("DICE", 0.9417, "equal"),
        ("RVE", 5.57, "better"), ("RVE", 5.59, "worse"), ("RVE", 5.578, "equal"),
        ("MSD", 2.09, "better"), ("MSD", 2.11, "worse"), ("MSD", 2.1, "equal"),
        ("HD", 32.0, "better"), ("HD", 250.0, "worse"), ("HD", 32.14, "equal"),
    ],
)  # fmt: skip
def test_direction_of_an_iterations_model(results, metric, here, word):
    """Published for UVS in iteration 1: DICE 0.942, RVE 5.58, MSD 2.1, HD 32.1.

    Equal is what prints alike.
    """
    found = with_means(results, {("iteration", "UVS", 1): {metric: here}})
    assert cells_of(comparison.published_metric(found, metric))["iter. 1", "UVS"].endswith(f", here {word}")


def test_a_mean_that_prints_otherwise_is_not_called_equal(results):
    """A mean of 0.9425 prints as 0.943 (the double lies above), which is better than the published 0.942."""
    found = with_means(results, {("iteration", "UVS", 1): {"DICE": 0.9425}})
    assert f"{found.scores['iteration', 'UVS', 1]['DICE'].mean():.3f}" == "0.943"
    assert cells_of(comparison.published_metric(found, "DICE"))["iter. 1", "UVS"].endswith(", here better")


def test_only_iterations_that_ran_have_a_direction(results):
    cells = cells_of(comparison.published_metric(results, "DICE"))
    assert {place[0] for place, cell in cells.items() if ", here " in cell} == {
        "initial",
        "iter. 1",
        "iter. 2",
        "data pool",
    }
    assert all(cells[f"iter. {k}", "USS"] for k in range(1, 6))


def test_converged_models_stand_beside_the_papers_fifth_iteration(results):
    """Published for USS: DICE 0.964, HD 23.4; for the data pool: RVE 3.8."""
    found = with_means(
        results, {("converged", "USS", 2): {"DICE": 0.97, "HD": 23.5}, ("data pool", "", None): {"RVE": 3.0}}
    )
    cells = cells_of(comparison.published_converged(found))
    assert cells["USS", "DICE"] == "0.964 ± 0.025 (0.946), here better"
    assert cells["USS", "HD [mm]"] == "23.4 ± 19.0 (38.4), here worse"
    assert cells["data pool", "RVE [%]"] == "3.80 ± 4.96 (7.60), here better"


def test_order_of_strategies_by_hand(results):
    means = dict(zip(results.strategies, (0.7, 0.9, 0.8, 0.6), strict=True))
    found = with_means(
        results,
        {("iteration", strategy, 2): {"DICE": mean, "HD": 100 * mean} for strategy, mean in means.items()},
    )
    ending = "published USS, UVS, RVS, RSS."  # 0.960, and three of 0.956 in the order of the columns
    assert comparison.published_metric(found, "DICE").endswith(f"here RVS, USS, UVS, RSS; {ending}")
    ending = "published USS, RSS, UVS, RVS."  # 25.6, 28.2, 28.5, 28.6
    assert comparison.published_metric(found, "HD").endswith(f"here RSS, UVS, USS, RVS; {ending}")


def fit(coefficient):
    effects = [
        Effect(term, coefficient, coefficient - 1, coefficient + 1, 0.5)
        for term in ("intercept", "uncertainty", "slice")
    ]
    return QuantileEffects(0.05, 96, tuple(effects))


NO_FITS = dict.fromkeys(DECIMALS, QuantileEffects(0.95, 96, (), "made up"))


def test_signs_by_hand():
    """Published: intercepts are positive, effects on DICE positive, on the others negative."""
    found = {
        "DICE": fit(0.02),
        "RVE": fit(0.5),
        "MSD": fit(-0.5),
        "HD": QuantileEffects(0.95, 96, (), "singular"),
    }
    cells = cells_of(comparison.published_quantile_regression(found))
    words = {place: cell.rsplit(", ", 1)[1] for place, cell in cells.items() if place[1] != "p"}
    assert words == {
        ("Intercept", "DICE"): "same sign", ("Uncertainty sampling", "DICE"): "same sign",
        ("Slice sampling", "DICE"): "same sign",
        ("Intercept", "RVE [%]"): "same sign", ("Uncertainty sampling", "RVE [%]"): "opposite sign",
        ("Slice sampling", "RVE [%]"): "opposite sign", ("Intercept", "MSD [mm]"): "opposite sign",
        ("Uncertainty sampling", "MSD [mm]"): "same sign", ("Slice sampling", "MSD [mm]"): "same sign",
        ("Intercept", "HD [mm]"): "no fit here", ("Uncertainty sampling", "HD [mm]"): "no fit here",
        ("Slice sampling", "HD [mm]"): "no fit here",
    }  # fmt: skip


@pytest.mark.parametrize("coefficient", [0.0, 1e-15, -1e-15])
def test_rounding_noise_has_no_sign(coefficient):
    """The fit returns about 1e-15 where an effect vanishes, which prints as 0.000."""
    cells = cells_of(comparison.published_quantile_regression(dict.fromkeys(DECIMALS, fit(coefficient))))
    assert cells["Uncertainty sampling", "DICE"] == "0.012 [0.005, 0.019], zero here"


def packaged(name):
    with (
        files("uss_bench")
        .joinpath("report", "published_values", f"{name}.csv")
        .open(newline="", encoding="utf-8") as file
    ):
        return list(csv.DictReader(file))


@pytest.mark.parametrize("metric", DECIMALS)
def test_tables_4_to_7_hold_every_published_number(results, metric):
    cells = cells_of(comparison.published_metric(results, metric))
    shown = {place: cell.split(", here ")[0] for place, cell in cells.items() if cell}
    expected = {}
    for row in packaged("results"):
        if row["metric"] == metric and row["table"] != "8":
            place = ("initial" if row["model"] == "initial" else f"iter. {row['iteration']}", row["strategy"])
            expected[
                place if row["strategy"] else (place[0] if row["iteration"] else "data pool", "no query")
            ] = published_score(row)
    assert shown == expected
    assert len(shown) == 22


def published_score(row):
    mean, sd, robust = (
        f"{float(row[name]):.{DECIMALS[row['metric']]}f}" for name in ("mean", "std", "percentile")
    )
    return f"{mean} ± {sd} ({robust}){row['stars']}".replace("*", r"\*")


def test_table_8_holds_every_published_number(results):
    cells = cells_of(comparison.published_converged(results))
    shown = sorted(cell.split(", here ")[0] for cell in cells.values())
    assert shown == sorted(published_score(row) for row in packaged("results") if row["table"] == "8")
    assert len(shown) == 20


def test_cells_as_the_paper_prints_them(results):
    """Typed from the paper; only thin spaces in counts and zeros at the end of decimals differ."""
    table = cells_of(comparison.published_metric(results, "RVE"))
    assert table["iter. 5", "RSS"] == r"6.04 ± 16.23 (10.97)\*\*\*"
    assert table["iter. 2", "USS"].startswith(r"5.51 ± 15.96 (10.63)\*\*, here ")
    table = cells_of(comparison.published_metric(results, "HD"))
    assert table["initial", "no query"].startswith("36.3 ± 20.9 (80.2), here ")
    assert table["iter. 1", "USS"].startswith(r"36.4 ± 26.0 (76.3)\*, here ")
    table = cells_of(comparison.published_training_data(results))
    assert table["iter. 5", "USS"] == "2410 / 1292 / 160"
    assert table["initial", "no query"] == "1410 / 501 / 5"
    assert table["data pool", "no query"] == "60513 / 26400 / 242"
    table = cells_of(comparison.published_training_steps(results))
    assert table["iter. 4", "RSS"] == "117000"
    assert [table["iter. 5 (converged)", strategy] for strategy in ("UVS", "RVS", "USS", "RSS")] == [
        "356000",
        "297000",
        "291000",
        "465000",
    ]
    assert table["data pool", "no query"] == "825000"
    text = comparison.published_quantile_regression(NO_FITS)
    assert (
        "| Intercept | 0.920 [0.914, 0.925], no fit here | <0.001 | "
        "11.21 [9.26, 13.16], no fit here | <0.001 |" in text
    )
    assert "-0.48 [-0.81, -0.16], no fit here | 0.004 | -7.7 [-19.1, 3.7], no fit here | 0.2 |" in text


def test_table_1_as_the_paper_prints_it(results):
    rows = [line for line in comparison.published_sites().splitlines() if line.startswith("|")][2:]
    assert rows == [
        "| Yokohama | 218 (119/2/97) | [0.5–0.8] × [0.5–0.8] × [0.8–1.6] | 512 × 512 × [170–376] |",
        "| Rumc | 100 (46/2/52) | [0.6–1.0] × [0.6–1.0] × [0.7–1.5] | 512 × 512 × [378–1057] |",
        "| Dresden | 80 (36/2/42) | [0.6–0.9] × [0.6–0.9] × [0.5–5.0] | 512 × 512 × [71–1160] |",
        "| LiTS | 66 (31/2/33) | [0.6–1.0] × [0.6–1.0] × [0.7–5.0] | 512 × 512 × [74–987] |",
        "| CHAOS | 20 (8/2/10) | [0.6–0.8] × [0.6–0.8] × [1.0–2.0] | 512 × 512 × [81–266] |",
    ]


def test_shares_of_the_pool_by_hand(results):
    """There 8121, 8641, 2410 and 3730 of 60513 slices; here 80, 80, 46 and 56 of 120."""
    assert comparison.published_training_data(results).endswith(
        "Share of all pool slices annotated in the end: UVS 13% there, 67% here; "
        "RVS 14% there, 67% here; USS 4% there, 38% here; RSS 6% there, 47% here."
    )


def test_every_table_says_whose_data_it_is(results):
    texts = [
        comparison.published_sites(),
        comparison.published_quantile_regression(NO_FITS),
        comparison.published_converged(results),
    ]
    texts += [comparison.published_training_data(results), comparison.published_training_steps(results)]
    texts += [comparison.published_metric(results, metric) for metric in DECIMALS]
    assert all(
        text.startswith("**Published** (five clinical sites, 234 other test cases)\n\n|") for text in texts
    )


def test_a_strategy_that_did_not_run_is_left_out(results):
    found = replace(
        results, scores={key: scores for key, scores in results.scores.items() if key[1] in ("", "RSS")}
    )
    texts = [
        comparison.published_metric(found, "HD"),
        comparison.published_training_steps(found),
        comparison.published_training_data(found),
    ]
    assert {column for text in texts for _, column in cells_of(text)} == {"RSS", "no query"}
    assert {row for row, _ in cells_of(comparison.published_converged(found))} == {"RSS", "data pool"}


def test_a_strategy_that_the_paper_lacks_stands_beside_nothing(results):
    """RSS under another name."""

    def renamed(values):
        own = {key._replace(strategy="MID"): value for key, value in values.items() if key.strategy == "RSS"}
        return values | own

    found = replace(results, scores=renamed(results.scores), effort=renamed(results.effort))
    assert "MID" in found.strategies
    for make in (comparison.published_training_data, comparison.published_training_steps):
        assert make(found) == make(results)
    assert comparison.published_converged(found) == comparison.published_converged(results)
    assert comparison.published_metric(found, "HD") == comparison.published_metric(results, "HD")


@pytest.mark.parametrize("iterations", [1, 6])
def test_fewer_or_more_iterations_than_the_papers(results, iterations):
    scores = {key: values for key, values in results.scores.items() if key[0] in ("initial", "data pool")}
    effort = {key: results.effort[key] for key in scores}
    for strategy in results.strategies:
        scores |= {
            ("iteration", strategy, k): results.scores["initial", "", 0] for k in range(1, iterations + 1)
        }
        scores["converged", strategy, iterations] = results.scores["data pool", "", None]
        effort |= {
            ("iteration", strategy, k): results.effort["iteration", "USS", 1]
            for k in range(1, iterations + 1)
        }
    found = replace(results, scores=keyed(scores), effort=keyed(effort))
    cells = cells_of(comparison.published_metric(found, "DICE"))
    assert sum(", here " in cell for (row, _), cell in cells.items() if row.startswith("iter.")) == 4 * min(
        iterations, 5
    )
    assert all(", here " in cell for cell in cells_of(comparison.published_converged(found)).values())
    assert ("iter. 5", "USS") in cells_of(comparison.published_training_data(found))
