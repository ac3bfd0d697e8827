"""The section on uncertainties: every number of the made-up run's, computed here from its files alone."""

import csv
import gzip
import math
import re
import shutil
import statistics
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from uss_bench.report import figures, style, uncertainty_figure
from uss_bench.report.document import write_report
from uss_bench.report.results import read_results
from uss_bench.report.uncertainty_section import section

GOLDEN = Path(__file__).parent / "data" / "report"
MODELS = {
    ("initial", "", "0"): "initial model",
    ("iteration", "UVS", "1"): "UVS iteration 1",
    ("iteration", "USS", "1"): "USS iteration 1",
}


@pytest.fixture(scope="module")
def text():
    return (GOLDEN / "report.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def rows():
    """Slices of each model, as dictionaries of text."""
    found = defaultdict(list)
    with gzip.open(GOLDEN / "results" / "uncertainty.csv.gz", "rt", newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            found[row["model"], row["strategy"], row["iteration"]].append(row)
    assert found.keys() == MODELS.keys()
    return found


def table(text, heading):
    """Rows of the table below a heading, by their first cells."""
    body = re.search(rf"^### {re.escape(heading)}\n(.*?)(?=^#+ |\Z)", text, re.DOTALL | re.MULTILINE)[1]
    lines = [line for line in body.splitlines() if line.startswith("|")][2:]
    return {
        cells[0]: cells[1:] for cells in ([cell.strip() for cell in line[1:-1].split("|")] for line in lines)
    }


def dice(row):
    wrong, predicted, liver = (int(row[f"{name}_voxels"]) for name in ("wrong", "predicted", "liver"))
    common = (predicted + liver - wrong) / 2
    return 2 * common / (predicted + liver) if predicted + liver else 1.0


def numbers(rows, *columns):
    return [[float(row[column]) for row in rows] for column in columns]


def area(order, losses):
    """Mean of the means of the first k: no two uncertainties of the made-up run are equal."""
    sorted_losses = [loss for _, loss in sorted(zip(order, losses, strict=True))]
    return sum(sum(sorted_losses[:k]) / k for k in range(1, len(losses) + 1)) / len(losses)


def test_ranking(text, rows):
    found = table(text, "Do they rank errors, and is the mean calibrated?")
    assert list(found) == list(MODELS.values())
    for model, title in MODELS.items():
        left = [row for row in rows[model] if row["annotated"] == "0"]
        liver, free = (
            [row for row in left if (int(row["liver_voxels"]) > 0) is shows] for shows in (True, False)
        )
        uncertainty, size, wrong = numbers(liver, "uncertainty", "predicted_voxels", "wrong_voxels")
        assert found[title][0] == f"{stats.spearmanr(uncertainty, wrong).statistic:.2f} ({len(liver)})"
        assert found[title][1] == f"{stats.spearmanr(size, wrong).statistic:.2f}"
        correlation = stats.spearmanr(*numbers(free, "uncertainty", "wrong_voxels")).statistic
        assert found[title][2] == f"{correlation:.2f} ({len(free)})"
        of_free, of_liver = (statistics.fmean(*numbers(part, "uncertainty")) for part in (free, liver))
        assert found[title][3] == f"{of_free / of_liver:.2f}"
        uncertainty, wrong = numbers(left, "uncertainty", "wrong_voxels")
        assert len(set(uncertainty)) == len(uncertainty)
        here, best, chance = area(uncertainty, wrong), area(wrong, wrong), sum(wrong) / len(wrong)
        gain = (chance - here) / (chance - best)
        assert found[title][4:7] == [f"{value:.2f}" for value in (here, here - best, gain)]


def test_calibration(text):
    found = table(text, "Do they rank errors, and is the mean calibrated?")
    with open(GOLDEN / "results" / "calibration.csv", encoding="utf-8", newline="") as file:
        bins = list(csv.DictReader(file))
    for model, title in MODELS.items():
        gaps = [
            (
                int(row["voxels"]),
                abs(int(row["liver_voxels"]) / int(row["voxels"]) - float(row["mean_probability"])),
            )
            for row in bins
            if (row["model"], row["strategy"], row["iteration"]) == model and int(row["voxels"])
        ]
        expected = sum(count * gap for count, gap in gaps) / sum(count for count, _ in gaps)
        average = sum(gap for _, gap in gaps) / len(gaps)
        assert found[title][7:] == [f"{expected:.4f}", f"{average:.4f}"]


def test_lessons(text, rows):
    found = table(text, "Was there anything to learn from queried slices?")
    asking = {
        ("UVS", 0): ("initial", "", "0"), ("UVS", 1): ("iteration", "UVS", "1"),
        ("RVS", 0): ("initial", "", "0"), ("RVS", 1): None,
        ("USS", 0): ("initial", "", "0"), ("USS", 1): ("iteration", "USS", "1"),
        ("RSS", 0): ("initial", "", "0"), ("RSS", 1): None,
    }  # fmt: skip
    assert list(found) == ["UVS", "RVS", "USS", "RSS"]
    for (strategy, place), model in asking.items():
        if model is None:
            assert found[strategy][place] == "–"
            continue
        left = [row for row in rows[model] if row["annotated"] == "0"]
        asked = [row for row in rows[model] if strategy in row["queried"].split(";")]
        right, base = (sum(dice(row) >= 0.95 for row in each) for each in (asked, left))
        assert found[strategy][place] == (
            f"{right} of {len(asked)}, {100 * right / len(asked):.0f}% ({100 * base / len(left):.0f}%)"
        )
        # They are those of the file of queries, all slices of a volume.
        with open(GOLDEN / "results" / "queries.csv", encoding="utf-8", newline="") as file:
            queries = [
                row for row in csv.DictReader(file)
                if (row["strategy"], row["iteration"]) == (strategy, str(place + 1))
            ]  # fmt: skip
        assert len(asked) == sum(1 if row["slice"] else 20 for row in queries)


def test_distances(text, rows):
    found = table(text, "Does the error grow with the distance to an annotated slice?")
    classes = {
        "0 to 10 mm": (0, 10), "10 to 20 mm": (10, 20), "20 to 40 mm": (20, 40), "40 to 80 mm": (40, 80),
        "beyond 80 mm": (80, 1e9),
        "none in the volume": (math.inf, math.inf),
    }  # fmt: skip
    assert list(found) == ["USS"]
    shown = [
        (float(row["distance_mm"] or "inf"), row)
        for row in rows["iteration", "USS", "1"]
        if row["annotated"] == "0" and row["liver_voxels"] != "0"
    ]
    cells = {}
    for name, (low, high) in classes.items():
        chosen = [row for distance, row in shown if low < distance <= high or low == distance == math.inf]
        cells[name] = f"{np.mean([dice(row) for row in chosen]):.3f} ({len(chosen)})" if chosen else "–"
    assert cells["beyond 80 mm"] == "–" and len(set(cells.values())) == 6
    assert found["USS"] == list(cells.values())
    assert sum(int(re.search(r"\((\d+)\)", cell)[1]) for cell in found["USS"] if cell != "–") == len(shown)


def test_older_results_are_reported_without(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "save", lambda *_: None)
    shutil.copytree(GOLDEN / "results", tmp_path / "results")
    for name in ("uncertainty.csv.gz", "calibration.csv"):
        (tmp_path / "results" / name).unlink()
    text = write_report(tmp_path).read_text(encoding="utf-8")
    body = re.search(r"^## How good are the uncertainties\?\n(.*?)^## ", text, re.DOTALL | re.MULTILINE)[1]
    assert body.strip().startswith("These results hold no slices") and "|" not in body
    assert "figures/figure-6.png" in text and "figure-7" not in text


def test_strategies_by_volumes_alone_have_no_distances(tmp_path):
    shutil.copytree(GOLDEN / "results", tmp_path / "results")
    path = tmp_path / "results" / "uncertainty.csv.gz"
    lines = gzip.decompress(path.read_bytes()).decode().splitlines(keepends=True)
    path.write_bytes(gzip.compress("".join(line for line in lines if ",USS,1," not in line).encode()))
    blocks = list(section(read_results(tmp_path), "![picture](a.png)"))
    assert blocks[2] == "![picture](a.png)"
    assert len(blocks) == 4 and not any("distance" in block for block in blocks)


# --- the figure ---


@pytest.fixture
def results():
    pytest.importorskip("matplotlib")
    return read_results(GOLDEN)


def test_the_figure_shows_what_the_files_say(results, rows):
    drawn = uncertainty_figure.uncertainty_figure(results)
    scatter, risk, reliability, distance = drawn.axes
    left = [row for row in rows["initial", "", "0"] if row["annotated"] == "0"]
    shown = {tuple(point) for line in scatter.get_lines() for point in line.get_xydata()}
    assert shown == {(float(row["uncertainty"]), float(row["wrong_voxels"])) for row in left}
    assert [line.get_label() for line in risk.get_lines()[::2]] == list(MODELS.values())
    for line, model in zip(risk.get_lines()[::2], MODELS, strict=True):
        wrong = [float(row["wrong_voxels"]) for row in rows[model] if row["annotated"] == "0"]
        assert line.get_ydata()[-1] == pytest.approx(np.mean(wrong)) and line.get_xdata()[-1] == 1
    with open(GOLDEN / "results" / "calibration.csv", encoding="utf-8", newline="") as file:
        bins = [row for row in csv.DictReader(file) if row["model"] == "initial"]
    np.testing.assert_allclose(
        reliability.get_lines()[0].get_xydata(),
        [[float(row["mean_probability"]), int(row["liver_voxels"]) / int(row["voxels"])] for row in bins],
    )
    (line,) = distance.get_lines()
    assert line.get_color() == style.COLOURS["USS"]
    assert [label.get_text() for label in distance.get_xticklabels()] == [
        "0–10", "10–20", "20–40", "40–80", "none there"
    ]  # fmt: skip
    near = [
        dice(row) for row in rows["iteration", "USS", "1"]
        if row["annotated"] == "0" and row["liver_voxels"] != "0" and row["distance_mm"] == "6"
    ]  # fmt: skip
    assert line.get_ydata()[0] == pytest.approx(np.mean(near))


def test_its_words_say_what_it_shows(results):
    alt, caption = uncertainty_figure.describe_uncertainty(results)
    assert "0.93 (initial model), 0.95 (UVS iteration 1) and 0.94 (USS iteration 1)" in alt
    assert "each slice against its uncertainty, initial model" in caption and "Bottom right" in caption


def test_many_slices_are_thinned_and_it_says_so(results, monkeypatch):
    monkeypatch.setattr(uncertainty_figure, "MOST_POINTS", 30)
    scatter = uncertainty_figure.uncertainty_figure(results).axes[0]
    assert sum(len(line.get_xdata()) for line in scatter.get_lines()) <= 30
    assert "one in 3 slices" in uncertainty_figure.describe_uncertainty(results)[1]
