"""The report of the made-up run in `data/report`: byte for byte, and as readers meet it.

After a wanted change of the report, read the difference that `test_golden_file` shows; then renew the golden
file, without matplotlib, with

    from uss_bench.report.document import write_report
    write_report("tests/report/data/report")
"""

import csv
import json
import re
import shutil
import statistics
import sys
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest
from builders import ROOT

from uss_bench import config
from uss_bench.commands import run_main
from uss_bench.report import comparison, figures, further, tables
from uss_bench.report.document import write_report
from uss_bench.report.results import read_results
from uss_bench.report.words import titled
from uss_bench.runtime import storage
from uss_bench.study.metrics import METRICS, PAPER_METRICS

pytestmark = pytest.mark.whole

GOLDEN = Path(__file__).parent / "data" / "report"
STRATEGIES = ("UVS", "RVS", "USS", "RSS")


@pytest.fixture
def folder(tmp_path):
    """A report folder with the made-up results and nothing else."""
    shutil.copytree(GOLDEN / "results", tmp_path / "report" / "results")
    return tmp_path / "report"


@pytest.fixture
def no_matplotlib(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)


@pytest.fixture(scope="module")
def illustrated(tmp_path_factory):
    """The folder of a report with figures."""
    pytest.importorskip("matplotlib")
    folder = tmp_path_factory.mktemp("illustrated") / "report"
    shutil.copytree(GOLDEN / "results", folder / "results")
    rebuild(folder)
    return folder


@pytest.fixture(scope="module")
def text():
    """The report that `test_golden_file` holds the program to."""
    return (GOLDEN / "report.md").read_text(encoding="utf-8")


def rebuild(folder):
    """What `--report-only` does."""
    assert run_main(["--report-only", "--name", folder.name, "--reports", str(folder.parent)], "test") == 0
    return folder / "report.md"


def change(folder, name, edit):
    """Rewrite a result file with the rows that `edit` makes of each row."""
    path = folder / "results" / f"{name}.csv"
    with open(path, newline="", encoding="utf-8") as file:
        rows = [new for row in csv.DictReader(file) for new in edit(row)]
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def keep(folder, name, condition):
    change(folder, name, lambda row: [row] if condition(row) else [])


@pytest.fixture(scope="module")
def everything_missed(tmp_path_factory):
    """The report of a run in which no model predicts anything, as may happen after few steps."""
    folder = tmp_path_factory.mktemp("missed")
    shutil.copytree(GOLDEN / "results", folder / "results")
    change(
        folder,
        "cases",
        lambda row: [row | {"DICE": "0", "RVE": "100", "MSD": "inf", "HD": "inf", "missed": "1"}],
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "has_matplotlib", lambda: False)
        return text_of(folder)


def text_of(folder):
    return write_report(folder).read_text(encoding="utf-8")


def section_of(text, heading):
    """Text below a heading, up to the next heading of any level."""
    return re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#+ |\Z)", text, re.DOTALL | re.MULTILINE)[1]


def check_tables(text):
    """Check that every table parses, and return how many there are.

    Each has a header, a separator and rows, all of as many cells, and is set off by blank lines.
    """
    blocks = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert sum(len(block.splitlines()) for block in blocks) == sum(
        line.lstrip().startswith("|") for line in text.splitlines()
    )
    for block in blocks:
        assert f"\n\n{block}" in text and (f"{block}\n" in text or text.endswith(block))
        lines = block.splitlines()
        assert len(lines) >= 3 and all(line.endswith(" |") for line in lines)
        cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines]
        assert {len(row) for row in cells} == {len(cells[0])}, lines[0]
        assert [cell.strip() for cell in cells[1]] == ["---"] + ["---:"] * (len(cells[0]) - 1)
        assert not any(re.fullmatch(r"\s*:?-+:?\s*", cell) for row in cells[2:] for cell in row)
    return len(blocks)


def check_words(text):
    """No line shows that something went wrong. In the table of settings, None is what `--set` takes."""
    settings = section_of(text, "Settings that differ")
    for line in text.replace(settings, "").splitlines():
        assert not re.search(r"\bnan\b|\bNone\b|Traceback|\binf\b", line), line


def test_golden_file(folder, no_matplotlib):
    path = write_report(folder)
    assert path == folder / "report.md"
    assert path.read_text(encoding="utf-8") == (GOLDEN / "report.md").read_text(encoding="utf-8")
    assert path.read_bytes() == (GOLDEN / "report.md").read_bytes()
    assert sorted(entry.name for entry in folder.iterdir()) == ["report.md", "results"]


@pytest.mark.slow
def test_report_only_twice_gives_the_same_bytes(illustrated):
    before = {path: path.read_bytes() for path in illustrated.rglob("*") if path.is_file()}
    assert rebuild(illustrated) == illustrated / "report.md"
    assert {path: path.read_bytes() for path in illustrated.rglob("*") if path.is_file()} == before


def test_figures_are_all_that_matplotlib_adds(illustrated):
    golden = (GOLDEN / "report.md").read_text(encoding="utf-8")
    paragraphs = (illustrated / "report.md").read_text(encoding="utf-8").split("\n\n")
    kept = [
        text
        for text in paragraphs
        if not text.startswith(("![", "**Key figure.**", "**Figure ", "Not drawn:"))
    ]
    assert kept == [text for text in golden.split("\n\n") if not text.startswith("Not drawn:")]
    assert (
        len(paragraphs) == len(kept) + 2 * 4 + 1
    )  # the key figure, 3, 6 and 7; a note on the others, which need slices


def test_every_link_and_picture_leads_to_a_file_beside_the_report(illustrated):
    text = (illustrated / "report.md").read_text(encoding="utf-8")
    links = re.findall(r"!?\[[^\]]*\]\(([^)]*)\)", text)
    assert {Path(link).name for link in links} >= {
        "cases.csv",
        "annotation.csv",
        "queries.csv",
        "training.csv",
        "volumes.csv",
        "key.png",
    }
    for link in links:
        assert not link.startswith(("/", ".", "http")) and (illustrated / link).is_file(), link
    pictures = re.findall(r"^!\[([^\]]+)\]\(([^)]*)\)$", text, re.MULTILINE)
    assert {path for _, path in pictures} == {
        path.relative_to(illustrated).as_posix() for path in illustrated.glob("figures/*")
    }
    assert all(len(alt.split()) > 10 for alt, _ in pictures)
    assert (illustrated / pictures[0][1]).read_bytes().startswith(b"\x89PNG")


def test_every_table_parses(illustrated):
    text = (illustrated / "report.md").read_text(encoding="utf-8")
    # key, 1-9, published 3, supported, uncertainties 3, further metrics 3, differences, site, length, test, 2
    assert check_tables(text) == 26


def test_no_line_shows_a_failure(illustrated):
    check_words((illustrated / "report.md").read_text(encoding="utf-8"))


def test_order_for_a_reader(illustrated):
    text = (illustrated / "report.md").read_text(encoding="utf-8")
    starts = ["- On 8 test cases", "| Model |", "![Line plots", "## The paper's tables for these data"]
    places = [text.index(f"\n{start}") for start in starts]
    assert places == sorted(places)
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == [
        "The paper's tables for these data", "How good are the uncertainties?", "Further metrics",
        "Further results", "Tests", "Notes of the simulation",
        "How this run differs from the paper", "Published tables", "Provenance", "How to cite",
    ]  # fmt: skip
    numbers = re.findall(r"^#+ Table (\d)", text, re.MULTILINE)
    assert numbers == [str(number) for number in range(1, 10)]
    assert [line.split(".")[0] for line in text.splitlines() if line.startswith("**Figure")] == [
        "**Figure 3",
        "**Figure 6",
        "**Figure 7",
    ]


def test_the_answer_fits_a_screen(text):
    """What stands before the paper's tables; the key figure comes to it."""
    answer = text.split("\n## ")[0]
    assert len(answer.split()) < 330


def test_tables_stand_under_their_headings(text):
    results = read_results(GOLDEN)
    tests = {
        kind: {metric: tables.paired_tests(results, metric, kind) for metric in PAPER_METRICS}
        for kind in ("iteration", "converged")
    }
    expected = {
        "Table 1. Data": tables.data_table(results), "Table 2. Training data": tables.training_data(results),
        "Table 3. Training steps": tables.training_steps(results),
        **{
            f"Table {number}. {titled(metric)}": tables.metric_by_iteration(results, metric, found)
            for number, (metric, found) in enumerate(tests["iteration"].items(), start=4)
        },
        "Table 8. Models that ended at the limit of 640 steps": tables.converged(results, tests["converged"]),
        "Table 9. Effects of uncertainty and slice sampling": tables.effects_table(
            tables.effects(results), 8
        ),
        "Found here and in the paper": comparison.supported(tests, tables.effects(results)),
        "Paired differences": further.mean_differences(results),
        "By site": further.by_group(results, "site"),
        "Tests": tables.tests_table(
            tables.test_rows(
                {
                    kind: {metric: tables.paired_tests(results, metric, kind) for metric in METRICS}
                    for kind in ("iteration", "converged")
                }
            ),
            results,
        ),
        "Published tables": "\n\n".join(comparison.published_tables()),
    }  # fmt: skip
    for heading, table in expected.items():
        assert table in section_of(text, heading)


@pytest.mark.parametrize("with_figures", [False, True])
def test_nothing_is_said_twice(text, with_figures, request):
    """Legends stand once: no sentence of any length comes again, captions included."""
    if with_figures:
        text = (request.getfixturevalue("illustrated") / "report.md").read_text(encoding="utf-8")
    sentences = re.findall(r"[^.|\n]{60,}\.", text)
    assert len(sentences) > 20 and len(set(sentences)) == len(sentences)


@pytest.mark.parametrize(
    ("steps", "title"),
    [
        ({}, "Models that ended at the limit of 640 steps"),
        ({"UVS": "500", "": "500"}, "Converged models, 3 of 5 ended at the limit of 640 steps"),
        (dict.fromkeys((*STRATEGIES, ""), "500"), "Converged models"),
    ],
)
def test_table_8_is_called_by_how_its_models_ended(folder, no_matplotlib, steps, title):
    final = ("converged", "data pool")
    edit = lambda row: {"last_step": steps[row["strategy"]]} if row["strategy"] in steps else {}  # noqa: E731
    change(folder, "training", lambda row: [row | (edit(row) if row["model"] in final else {})])
    assert f"#### Table 8. {title}\n" in text_of(folder)


def test_variants_where_the_manifest_names_them(folder, no_matplotlib, text):
    assert "### By variant" not in text
    kinds = {"test-1": "normal", "test-2": "normal", "test-3": "resected"}
    change(folder, "volumes", lambda row: [row | {"variant": kinds.get(row["case_id"], "cysts")}])
    section = section_of(text_of(folder), "By variant")
    dice, hd = (values_of(metric, "converged", "USS", "2")[2] for metric in ("DICE", "HD"))
    assert "| resected | 1 |" in section and f" | {dice:.3f} / {hd:.1f} | " in section
    assert "| normal | 2 |" in section and "| cysts | 5 |" in section


def values_of(metric, model, strategy, iteration):
    with open(GOLDEN / "results" / "cases.csv", newline="", encoding="utf-8") as file:
        return [
            float(row[metric])
            for row in csv.DictReader(file)
            if (row["model"], row["strategy"], row["iteration"]) == (model, strategy, iteration)
        ]


def mean_dice(*key):
    return statistics.fmean(values_of("DICE", *key))


def test_summary_answers_from_the_numbers(text):
    """Of 120 slices, 80, 80, 46 and 56 are annotated in the end. No twin was trained.

    `results/training.csv` has 160 steps of the initial model and 640 of the data pool's.
    """
    initial, pool = mean_dice("initial", "", "0"), mean_dice("data pool", "", "")
    reached = [
        f"{strategy} {mean_dice('iteration', strategy, '2'):.3f} ({share}%)"
        for strategy, share in zip(STRATEGIES, ("66.7", "66.7", "38.3", "46.7"), strict=True)
    ]
    assert text.split("\n\n")[1].startswith(
        f"- On 8 test cases, the initial model reaches a mean DICE of {initial:.3f} and the model trained on "
        f"the whole pool {pool:.3f}: a headroom of {round(pool, 3) - round(initial, 3):.3f} (part of it may "
        "be longer training: 160 and 640 steps).\n"
        f"- The models of iteration 2 reach {', '.join(reached[:3])} and {reached[3]}: 4 of 4 above the "
        "initial one (in brackets: share of the pool's slices annotated).\n"
        "- Without twins (`query.twins`), nothing here says how far retraining alone moves a score.\n"
    )


def add_twin(folder, shift):
    """A twin of the initial model whose DICE differs by `shift`, up and down in turn, and by 0.001 more."""

    def scored(row):
        sign = 1 if int(row["case_id"].split("-")[1]) % 2 else -1
        return {"DICE": float(row["DICE"]) + sign * shift + 0.001}

    for table, differs in (("cases", scored), ("training", lambda row: {})):
        change(
            folder,
            table,
            lambda row, differs=differs: (
                [row, row | {"model": "twin", "iteration": "1"} | differs(row)]
                if row["model"] == "initial"
                else [row]
            ),
        )


def test_what_strategies_differ_by_stands_beside_what_retraining_does(folder, no_matplotlib):
    """The twin differs by 0.02 in every case, and by 0.001 in the mean: 0.021 and 0.019 in turn."""
    add_twin(folder, 0.02)
    summary = text_of(folder).split("\n\n")[1]
    means = [mean_dice("converged", strategy, "2") for strategy in STRATEGIES]
    assert (
        "Retraining the initial model under other weights and batches changes its mean DICE by 0.001 "
        "(0.020 per case, on average) and its mean HD by 0.0 mm.\n"
    ) in summary
    scores = {
        metric: [values_of(metric, "converged", strategy, "2") for strategy in STRATEGIES]
        for metric in ("DICE", "HD")
    }
    by_case = [
        abs(one - other) for pair in combinations(scores["DICE"], 2) for one, other in zip(*pair, strict=True)
    ]
    distances = [statistics.fmean(values) for values in scores["HD"]]
    farther = sum(one != other for one, other in combinations(distances, 2))
    assert (
        f"The strategies' final models lie up to {max(means) - min(means):.3f} (per case "
        f"{statistics.fmean(by_case):.3f} on average) and up to {max(distances) - min(distances):.1f} mm "
        f"apart; of 6 pairs, 6 in DICE and {farther} in HD farther than this one retraining "
        "moved a model. Models of more annotations may be moved less than the initial one."
    ) in summary


def test_what_retraining_alone_does_stands_below_the_pairs(folder, no_matplotlib):
    """The twin differs by 0.02 up and down; the final models are retrained only if all end at one limit."""
    add_twin(folder, 0.02)
    section = section_of(text_of(folder), "Paired differences")
    assert "The last row is what retraining alone does." in section
    assert len(tables_in(section)) == 10 + 1
    line = next(line for line in section.splitlines() if line.startswith("| twin 1"))
    assert line.split(" | ")[0] == "| twin 1 of the initial model − initial model"
    assert line.split(" | ")[1].startswith("0.001 [") and line.split(" | ")[4].startswith("0.0 [0.0, 0.0]")
    change(folder, "training", lambda row: [row | {"last_step": "640"}])
    text = text_of(folder)
    section = section_of(text, "Paired differences")
    assert "The last 5 rows are what retraining alone does." in section
    assert len(tables_in(section)) == 10 + 5
    shifts = sorted(
        abs(mean_dice("converged", name, "2") - mean_dice("iteration", name, "2")) for name in STRATEGIES
    )
    again = f"once more under other batches changed their mean DICE by {shifts[0]:.3f}–{shifts[-1]:.3f} and "
    assert again in text.split("\n\n")[1]
    means = [mean_dice("converged", strategy, "2") for strategy in STRATEGIES]
    assert max(shifts) > max(means) - min(means)  # and than the twin's, which is 0.001
    assert "of 6 pairs, none in DICE and " in text.split("\n\n")[1]
    assert "farther than any of these 5 retrainings moved a model." in text.split("\n\n")[1]
    assert "Were retraining the only difference, about one pair in 6 would lie there." in text
    difference = mean_dice("converged", "USS", "2") - mean_dice("iteration", "USS", "2")
    line = next(line for line in section.splitlines() if line.startswith("| USS final − iteration 2"))
    assert line.split(" | ")[1].startswith(f"{difference:.3f} [")


def test_final_models_that_are_retrained_are_a_yardstick_without_a_twin(folder, no_matplotlib):
    change(folder, "training", lambda row: [row | {"last_step": "640"}])
    text = text_of(folder)
    top = text.split("\n\n")[1]
    assert "- Training the final models once more under other batches changed their mean DICE by " in top
    assert "farther than any of these 4 retrainings moved a model." in top and "twin" not in top
    assert "The last 4 rows are what retraining alone does." in section_of(text, "Paired differences")


def tables_in(section):
    """Rows of a section's tables, without their heads."""
    return [line for line in section.splitlines() if line.startswith("| ") and " − " in line]


def test_a_pool_model_that_is_no_upper_bound_is_a_warning(folder, no_matplotlib):
    better = {"model": "data pool"}
    change(folder, "cases", lambda row: [row | ({"DICE": "0.5"} if row["model"] == better["model"] else {})])
    summary = text_of(folder).split("\n\n")[1]
    assert "Warning: the initial model is at 160% of the pool model already." in summary
    assert "Warning: the pool model is no upper bound; 13 of 14 score higher." in summary


EXAMPLE = ROOT / "reports" / "example" / "report.md"


@pytest.mark.parametrize("report", ["made up", "example"])
def test_one_seed_says_nothing_about_strategies(text, report):
    text = text if report == "made up" else EXAMPLE.read_text(encoding="utf-8")
    assert not re.search("significan|outperform|better than|superior", text)


def test_key_table(text):
    lines = text.split("\n\n")[2].splitlines()
    assert lines[0] == "| Model | equivalent slices | DICE | RVE [%] | MSD [mm] | HD [mm] |"
    effort = {"UVS": 33 / 3, "RVS": 31 / 3, "USS": 16 / 3 + 5, "RSS": 16 / 3 + 6, "data pool": 50 / 3}
    for line, (name, slices) in zip(lines[2:], effort.items(), strict=True):
        key = ("converged", name, "2") if name in STRATEGIES else ("data pool", "", "")
        decimals = {"DICE": 3, "RVE": 2, "MSD": 2, "HD": 1}
        means = [
            f"{statistics.fmean(values_of(metric, *key)):.{places}f}" for metric, places in decimals.items()
        ]
        assert line == "| " + " | ".join([name, f"{slices:.0f}", *means]) + " |"


def test_every_test_is_in_a_file(folder, no_matplotlib):
    """HD: in iteration 1, USS and RSS are equal in all eight cases.

    DICE: in iteration 2, UVS equals USS in two.
    """
    section = section_of(text_of(folder), "Tests")
    assert "over n = 8 test cases" in section
    assert "cases without a difference (at most 2 in DICE" in section and " 8 in HD" in section
    rows = {
        tuple(row[name] for name in ("metric", "model", "iteration", "strategy", "best")): row
        for row in storage.read_csv(folder / "results" / "tests.csv")
    }
    assert len(rows) == 6 * 3 * 3
    equal = [
        row for key, row in rows.items() if {"USS", "RSS"} == {*key[3:]} and key[0] == "HD" and key[2] == "1"
    ]
    assert [(row["p"], row["p_holm"], row["n"], row["zeros"], row["effect"]) for row in equal] == [
        ("1", "1", "8", "8", "0")
    ]
    assert rows["DICE", "iteration", "2", "UVS", "USS"]["zeros"] == "2"


def test_table_9_says_what_it_counts(text):
    section = section_of(text, "Table 9. Effects of uncertainty and slice sampling")
    assert "n = 32: each of 8 cases enters once per model." in section


def test_effects_that_cannot_be_separated_are_no_table(folder, no_matplotlib):
    for strategy in ("UVS", "RVS"):
        for name in ("cases", "annotation", "training", "queries"):
            keep(folder, name, lambda row, strategy=strategy: row["strategy"] != strategy)
    section = section_of(text_of(folder), "Table 9. Effects of uncertainty and slice sampling")
    assert section.strip() == (
        "No regression: these strategies cannot separate the effects of uncertainty and slice sampling."
    )


def test_one_fit_may_fail_alone(folder, no_matplotlib, monkeypatch):
    fits = tables.effects(read_results(folder))
    fits["HD"] = replace(fits["HD"], rows=(), failure="made up")
    monkeypatch.setattr(tables, "effects", lambda results: fits)
    section = section_of(text_of(folder), "Table 9. Effects of uncertainty and slice sampling")
    assert section.count("failed") == 4 and "The fit of HD failed: made up." in section


def test_missed_livers_are_listed(text, folder, no_matplotlib):
    assert section_of(text, "Missed livers").endswith("Of 8 test cases: RVS iteration 1 in 1.\n\n")
    change(
        folder,
        "cases",
        lambda row: [row | ({"MSD": "9", "HD": "9", "missed": "0"} if row["missed"] == "1" else {})],
    )
    assert "Missed livers" not in text_of(folder)


def only(folder, strategy):
    for name in ("cases", "annotation", "training", "queries", "calibration"):
        keep(folder, name, lambda row: row["strategy"] in ("", "data pool", strategy))
    path = folder / "results" / "uncertainty.csv.gz"
    rows = storage.read_csv(path)
    storage.write_csv(
        path,
        list(rows[0]),
        [
            row | {"queried": strategy if strategy in row["queried"].split(";") else ""}
            for row in rows
            if row["strategy"] in ("", strategy) and strategy in ("UVS", "USS")  # chance scores no pool
        ],
    )


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_one_strategy(folder, no_matplotlib, strategy):
    only(folder, strategy)
    text = text_of(folder)
    check_tables(text)
    check_words(text)
    own = text.split("## How this run differs from the paper")[0]  # the paper's tables keep their stars
    assert r"\*" not in own and "**" not in own and "best mean" not in own and "signed-rank" not in own
    assert "## Tests" not in text
    assert f"The models of iteration 2 reach {strategy} 0." in text.split("\n\n")[1]
    assert "apart" not in text.split("\n\n")[1]
    assert text.count("No regression: these strategies cannot separate") == 1
    assert not {other for other in STRATEGIES if other != strategy and f"{other} |" in own}


@pytest.mark.parametrize("name", ["MID", "OSS"])
def test_none_of_the_papers_strategies(folder, no_matplotlib, name):
    """OSS is an oracle, with which nothing is compared, not even what retraining does to it."""
    only(folder, "USS")
    add_twin(folder, 0.02)
    change(folder, "training", lambda row: [row | {"last_step": "640"}])
    for file in ("cases", "annotation", "training", "queries"):
        change(folder, file, lambda row: [row | {"strategy": row["strategy"].replace("USS", name)}])
    text = text_of(folder)
    check_tables(text)
    check_words(text)
    assert f"models of iteration 2 reach {name}" in text and "No regression: these strategies" in text
    assert "Found here and in the paper" not in text and "## Published tables" in text


def test_one_strategy_with_figures(folder):
    pytest.importorskip("matplotlib")
    only(folder, "USS")
    text = text_of(folder)
    check_words(text)
    assert text.count("![") == 4  # with the uncertainties


def test_one_iteration(folder, no_matplotlib):
    for name in ("cases", "annotation", "training", "queries"):
        keep(folder, name, lambda row: row.get("model") == "converged" or row["iteration"] != "2")
        change(folder, name, lambda row: [row | {"iteration": row["iteration"].replace("2", "1")}])
    text = text_of(folder)
    check_tables(text)
    check_words(text)
    assert "The models of iteration 1 reach" in text.split("\n\n")[1]


def test_no_area_where_a_strategy_adds_no_liver_slice(folder, no_matplotlib):
    """Then strategies share no range of effort but its first point."""
    rows = storage.read_csv(folder / "results" / "annotation.csv")
    initial = next(row for row in rows if row["strategy"] == "")
    same = {"annotated_liver_slices": initial["annotated_liver_slices"]}
    change(folder, "annotation", lambda row: [row | same if row["strategy"] == "RSS" else row])
    text = text_of(folder)
    assert "## Further results" in text and "Area under the effort curve" not in text


def test_one_test_case_has_no_deviation_to_show(folder, no_matplotlib):
    keep(folder, "cases", lambda row: row["case_id"] == "test-1")
    keep(folder, "volumes", lambda row: row["split"] != "test" or row["case_id"] == "test-1")
    text = text_of(folder)
    check_tables(text)
    check_words(text)


def test_every_liver_missed(everything_missed):
    check_tables(everything_missed)
    check_words(everything_missed)
    assert section_of(everything_missed, "Missed livers").count(" in 8") == 14


def test_a_site_may_have_any_name(folder, no_matplotlib):
    for name in ("cases", "volumes"):
        change(folder, name, lambda row: [row | {"site": row["site"].replace("North", "Nord | Süd, [1]")}])
    check_tables(text_of(folder))


def test_provenance(text):
    origin = json.loads((GOLDEN / "results" / "provenance.json").read_text(encoding="utf-8"))
    section = section_of(text, "Provenance")
    for value in (
        f"| git commit | {origin['git']['commit']}, with uncommitted changes |",
        f"| manifest | made_up.csv, SHA-256 {origin['manifest_sha256']} |",
        "| cases used, of those in the manifest | pool 6 of 9, val 2 of 2, test 8 of 8 (data.pool",
        f"| settings | SHA-256 {origin['config_sha256']} |",
        *(
            "| seed | 7 |",
            "| device | CPU |",
            "| deterministic algorithms | on |",
            "| torch | 2.13.0 |",
            "| uss-bench | 0.1.0 |",
        ),
    ):
        assert value in section
    assert "version = {0.1.0}" in section_of(text, "How to cite")
    assert [line for line in section_of(text, "Notes of the simulation").split("\n") if line] == [
        f"- {note}" for note in origin["notes"]
    ]


def test_settings_that_differ_make_the_runs_out_of_the_papers(folder, no_matplotlib):
    """Every row of the table is a `--set`, and no other setting differs."""
    settings = config.resolve("real-smoke", ["data.test=5", "query.slices_per_iteration=7"])
    path = folder / "results" / "provenance.json"
    path.write_text(
        json.dumps(json.loads(path.read_text(encoding="utf-8")) | {"config": config.as_dict(settings)}),
        encoding="utf-8",
    )
    rows = [
        line[2:-2].split(" | ")
        for line in section_of(text_of(folder), "Settings that differ").splitlines()
        if line.startswith("|")
    ][2:]
    assert config.resolve("paper", [f"{name}={here}" for name, _, here in rows]) == settings
    for name, paper, here in rows:
        section, key = name.split(".")
        default = getattr(getattr(config.Config(), section), key)
        assert config.resolve("paper", [f"{name}={paper}"]) == config.Config() and here != str(default)


@pytest.mark.parametrize(("anneal", "which"), [(0, "which has the best validation"), (40, "the last, of")])
def test_table_3_says_which_step_was_evaluated(folder, no_matplotlib, anneal, which):
    path = folder / "results" / "provenance.json"
    origin = json.loads(path.read_text(encoding="utf-8"))
    origin["config"]["training"]["anneal"] = anneal
    path.write_text(json.dumps(origin), encoding="utf-8")
    assert f"The evaluated step, {which}" in section_of(text_of(folder), "Table 3. Training steps")


def test_the_papers_settings_differ_in_nothing(folder, no_matplotlib):
    path = folder / "results" / "provenance.json"
    paper = {name: config.as_dict(config.Config()) for name in ("config", "paper_config")}
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | paper), encoding="utf-8")
    assert section_of(text_of(folder), "Settings that differ").strip().endswith("None differs.")


def test_outside_a_checkout_and_without_notes(folder, no_matplotlib):
    path = folder / "results" / "provenance.json"
    origin = json.loads(path.read_text(encoding="utf-8"))
    changes = {"git": None, "code_sha256": "c0de", "notes": [], "deterministic_algorithms": False}
    path.write_text(json.dumps(origin | changes), encoding="utf-8")
    text = text_of(folder)
    assert "  note    = {SHA-256 of its code c0de}" in text and "commit not a checkout" not in text
    assert "| git commit | not a checkout |" in text and "| deterministic algorithms | off |" in text
    assert "Notes of the simulation" not in text
    check_words(text)
