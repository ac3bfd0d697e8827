"""The published tables as the paper prints them, and what is supported both here and there by hand."""

import csv
import re
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest

from uss_bench.report import comparison
from uss_bench.report.quantile_regression import TERMS, Effect, QuantileEffects
from uss_bench.report.results import read_results
from uss_bench.report.signed_rank import PairedTest

REPORT = Path(__file__).parent / "data" / "report"
DECIMALS = {"DICE": 3, "RVE": 2, "MSD": 2, "HD": 1}
NO_FITS = dict.fromkeys(DECIMALS, QuantileEffects(0.95, 96, (), "made up"))


@pytest.fixture(scope="module")
def results():
    return read_results(REPORT)


@pytest.fixture(scope="module")
def published():
    """Table 1, Tables 2 to 8, and Table 9."""
    texts = list(comparison.published_tables())
    assert [text.split(".")[0] for text in texts] == ["**Table 1", "**Tables 2 to 8", "**Table 9"]
    return texts


def cells_of(text, key=1):
    """`{(row, column): cell}` of the one table in a text; the first cells, `key` of them, name a row."""
    lines = [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in text.splitlines()
        if line.startswith("|")
    ]
    assert {len(line) for line in lines} == {len(lines[0])}
    return {
        (line[0] if key == 1 else tuple(line[:key]), column): cell
        for line in lines[2:]
        for column, cell in zip(lines[0][key:], line[key:], strict=True)
    }


def made_up(**found):
    """Tests in which nothing differs but, by metric and kind, the strategies of a last row, against its best.

    `found` is `{"DICE_converged": (best, {strategy: p})}`.
    """
    tests = {kind: {metric: {1: {}, 2: {}} for metric in DECIMALS} for kind in ("iteration", "converged")}
    for name, (best, p_values) in found.items():
        metric, kind = name.split("_")
        row = {strategy: PairedTest(best, p, 8, 0, -0.5) for strategy, p in p_values.items()}
        tests[kind][metric][2] = row
        tests[kind][metric][1] = {"RVS": PairedTest("USS", 0.001, 8, 0, -0.5)}  # no last iteration
    return tests


def test_the_same_pair_supported_here_and_there():
    """Published, converged, DICE: USS is the best, and all others have three stars."""
    tests = made_up(DICE_converged=("USS", {"UVS": 0.2, "RVS": 0.04, "RSS": 0.0005}))
    agree, table = comparison.supported(tests, NO_FITS).split("\n\n")
    assert agree == "2 of 2 have the same direction."
    cells = cells_of(table)
    assert cells == {
        ("Final models: RVS, USS", "Metric"): "DICE", ("Final models: USS, RSS", "Metric"): "DICE",
        ("Final models: RVS, USS", "published"): r"USS ahead\*\*\*",
        ("Final models: RVS, USS", "here"): r"USS ahead\*",
        ("Final models: USS, RSS", "published"): r"USS ahead\*\*\*",
        ("Final models: USS, RSS", "here"): r"USS ahead\*\*\*",
    }  # fmt: skip


def test_the_opposite_direction():
    """RSS is the best here and differs from USS, and from UVS, which the paper has no test of."""
    tests = made_up(DICE_converged=("RSS", {"UVS": 0.001, "RVS": 0.3, "USS": 0.01}))
    agree, table = comparison.supported(tests, NO_FITS).split("\n\n")
    assert agree == "0 of 1 have the same direction."
    cells = cells_of(table)
    assert {row for row, _ in cells} == {"Final models: USS, RSS"}
    assert cells["Final models: USS, RSS", "here"] == r"RSS ahead\*"


def test_what_either_side_does_not_support_is_left_out():
    """Published, converged, RVE: RVS has no stars against USS. The paper has no strategy MID."""
    for tests in (
        made_up(),
        made_up(RVE_converged=("USS", {"RVS": 0.001})),
        made_up(DICE_converged=("USS", {"MID": 0.001}), DICE_iteration=("MID", {"USS": 0.001})),
        made_up(RVE_iteration=("USS", {"UVS": 0.05})),
    ):
        assert comparison.supported(tests, NO_FITS) == "none."


def fit(coefficient, p):
    rows = [Effect(term, coefficient, coefficient - 1, coefficient + 1, p) for term in TERMS]
    rows[0] = Effect("intercept", 0.9, 0.8, 1.0, float("nan"))
    return QuantileEffects(0.05, 96, tuple(rows))


def test_effects_supported_here_and_there():
    """Published intervals leave out zero for both effects on DICE and MSD, and for none on RVE and HD."""
    fits = {"DICE": fit(0.02, 0.01), "RVE": fit(0.5, 0.01), "MSD": fit(0.3, 0.001), "HD": fit(-5, 0.001)}
    agree, table = comparison.supported(made_up(), fits).split("\n\n")
    assert agree == "2 of 4 have the same direction."
    cells = cells_of(table, key=2)
    assert {place: cell for place, cell in cells.items() if place[1] != "Metric"} == {
        (("Uncertainty sampling", "DICE"), "published"): "0.012",
        (("Uncertainty sampling", "DICE"), "here"): "0.020",
        (("Slice sampling", "DICE"), "published"): "0.012", (("Slice sampling", "DICE"), "here"): "0.020",
        (("Uncertainty sampling", "MSD [mm]"), "published"): "-0.41",
        (("Uncertainty sampling", "MSD [mm]"), "here"): "0.30",
        (("Slice sampling", "MSD [mm]"), "published"): "-0.48",
        (("Slice sampling", "MSD [mm]"), "here"): "0.30",
    }  # fmt: skip
    noise = dict.fromkeys(DECIMALS, fit(0.02, 0.06))
    assert comparison.supported(made_up(), noise) == "none."


def packaged(name):
    with (
        files("uss_bench")
        .joinpath("report", "published_values", f"{name}.csv")
        .open(newline="", encoding="utf-8") as file
    ):
        return list(csv.DictReader(file))


def published_score(row):
    mean, sd, robust = (
        f"{float(row[name]):.{DECIMALS[row['metric']]}f}" for name in ("mean", "std", "percentile")
    )
    return f"{mean} ± {sd} ({robust}){row['stars']}".replace("*", r"\*")


def title(row):
    if row["model"] in ("initial", "data pool"):
        return f"{row['model']} model"
    return f"{row['strategy']} iteration {row['iteration']}{', converged' * (row['model'] == 'converged')}"


def test_tables_4_to_8_hold_every_published_number(published):
    columns = {"DICE": "DICE", "RVE": "RVE [%]", "MSD": "MSD [mm]", "HD": "HD [mm]"}
    cells = cells_of(published[1])
    shown = {place: cell for place, cell in cells.items() if place[1] in columns.values()}
    expected = {(title(row), columns[row["metric"]]): published_score(row) for row in packaged("results")}
    assert shown == expected
    assert len(shown) == 4 * (2 + 4 * 5 + 4)


def test_cells_as_the_paper_prints_them(published):
    """Typed from the paper; only thin spaces in counts and zeros at the end of decimals differ."""
    table = cells_of(published[1])
    assert table["RSS iteration 5", "RVE [%]"] == r"6.04 ± 16.23 (10.97)\*\*\*"
    assert table["USS iteration 2", "RVE [%]"] == r"5.51 ± 15.96 (10.63)\*\*"
    assert table["initial model", "HD [mm]"] == "36.3 ± 20.9 (80.2)"
    assert table["USS iteration 1", "HD [mm]"] == r"36.4 ± 26.0 (76.3)\*"
    assert table["USS iteration 5", "annotated"] == "2410 / 1292 / 160"
    assert table["initial model", "annotated"] == "1410 / 501 / 5"
    assert table["data pool model", "annotated"] == "60513 / 26400 / 242"
    assert table["USS iteration 5, converged", "annotated"] == ""
    assert table["RSS iteration 4", "steps"] == "117000"
    assert [table[f"{name} iteration 5, converged", "steps"] for name in ("UVS", "RVS", "USS", "RSS")] == [
        "356000",
        "297000",
        "291000",
        "465000",
    ]
    assert table["data pool model", "steps"] == "825000"
    assert "| Intercept | 0.920 [0.914, 0.925] | <0.001 | 11.21 [9.26, 13.16] | <0.001 |" in published[2]
    assert "-0.48 [-0.81, -0.16] | 0.004 | -7.7 [-19.1, 3.7] | 0.2 |" in published[2]


def test_table_1_as_the_paper_prints_it(published):
    rows = [line for line in published[0].splitlines() if line.startswith("|")][2:]
    assert rows == [
        "| Yokohama | 218 (119/2/97) | [0.5–0.8] × [0.5–0.8] × [0.8–1.6] | 512 × 512 × [170–376] |",
        "| Rumc | 100 (46/2/52) | [0.6–1.0] × [0.6–1.0] × [0.7–1.5] | 512 × 512 × [378–1057] |",
        "| Dresden | 80 (36/2/42) | [0.6–0.9] × [0.6–0.9] × [0.5–5.0] | 512 × 512 × [71–1160] |",
        "| LiTS | 66 (31/2/33) | [0.6–1.0] × [0.6–1.0] × [0.7–5.0] | 512 × 512 × [74–987] |",
        "| CHAOS | 20 (8/2/10) | [0.6–0.8] × [0.6–0.8] × [1.0–2.0] | 512 × 512 × [81–266] |",
    ]


def test_shares_of_the_pool_by_hand(results):
    """There 8121, 8641, 2410 and 3730 of 60513 slices; here 80, 80, 46 and 56 of 120."""
    assert comparison.shares(results) == (
        "Share of all pool slices annotated in the end: UVS 67% (published 13%), RVS 67% (published 14%), "
        "USS 38% (published 4%), RSS 47% (published 6%)."
    )


def test_shares_are_of_the_papers_strategies(results):
    scores = {key: scores for key, scores in results.scores.items() if key[1] in ("", "RSS")}
    own = {key._replace(strategy="MID"): scores for key, scores in results.scores.items() if key[1] == "RSS"}
    found = comparison.shares(replace(results, scores=scores | own))
    assert found.endswith("in the end: RSS 47% (published 6%).")
    references = {key: scores for key, scores in results.scores.items() if not key[1]}
    assert comparison.shares(replace(results, scores=references | own)) == ""
