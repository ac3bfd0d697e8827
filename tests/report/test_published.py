"""The paper's numbers against the packaged files: read from its text where at hand, a few typed in."""

import re

import pytest
from builders import DATA

from uss_bench.report import published
from uss_bench.report.published import PublishedScore
from uss_bench.report.quantile_regression import TERMS
from uss_bench.study.metrics import METRICS, PAPER_METRICS
from uss_bench.study.strategies import PAPER as STRATEGIES

PAPER_TEXT = DATA.parent / "paper" / "paper.txt"
# Marks that were lost when the paper was turned into text, and what the packaged files have for them.
UNREADABLE = {("iteration", "UVS", 2, "RVE"): "*", ("iteration", "RSS", 2, "RVE"): "***"}


def cells_of_the_paper():
    """Scores of Tables 4 to 8 that the text has in one cell each: all but initial and data pool models.

    Yields key, metric and score; a mark that is unreadable is that of `UNREADABLE`.
    """
    for line in PAPER_TEXT.read_text(encoding="utf-8").splitlines():
        if table := re.match(r"TABLE (\d)", line):
            number = int(table[1])
        name, *cells = line.split("\t")
        iteration = re.fullmatch(r"iter\. (\d)", name)
        if len(cells) != 4 or "pm" not in cells[0] or not (iteration or name in STRATEGIES):
            continue
        for column, cell in enumerate(cells):
            if iteration:
                key = ("iteration", STRATEGIES[column], int(iteration[1]))
                metric = PAPER_METRICS[number - 4]
            else:
                key, metric = ("converged", name, 5), PAPER_METRICS[column]
            plain = re.sub(r"\\(bf|mathbf|dot)|[${}f\s]", "", cell)
            numbers = re.match(r"([\d.]+)\\pm([\d.]+)\(([\d.]+)\)", plain).groups()
            marks = UNREADABLE.get((*key, metric), "*" * plain.count("*"))
            yield key, metric, PublishedScore(*map(float, numbers), marks)


@pytest.mark.skipif(not PAPER_TEXT.exists(), reason="the paper's text is not part of the project")
def test_every_score_of_the_papers_text():
    found = list(cells_of_the_paper())
    assert len(found) == 4 * 5 * 4 + 4 * 4
    assert [(key, metric) for key, metric, score in found if published.scores()[key][metric] != score] == []


def test_keys_are_those_of_results():
    models = {("initial", "", 0), ("data pool", "", None)}
    models |= {("iteration", strategy, iteration) for strategy in STRATEGIES for iteration in range(1, 6)}
    models |= {("converged", strategy, 5) for strategy in STRATEGIES}
    assert published.scores().keys() == published.training_steps().keys() == models
    assert all(list(by_metric) == list(PAPER_METRICS) for by_metric in published.scores().values())
    assert published.effort().keys() == {key for key in models if key[0] != "converged"}
    assert published.effects().keys() == {(metric, term) for metric in PAPER_METRICS for term in TERMS}


@pytest.mark.parametrize(
    ("key", "metric", "expected"),
    [
        (("initial", "", 0), "DICE", PublishedScore(0.925, 0.068, 0.837, "")),
        (("iteration", "USS", 5), "DICE", PublishedScore(0.960, 0.027, 0.936, "")),
        (("iteration", "RSS", 5), "RVE", PublishedScore(6.04, 16.23, 10.97, "***")),
        (("iteration", "USS", 3), "MSD", PublishedScore(1.64, 1.26, 3.2, "**")),
        (("iteration", "USS", 1), "HD", PublishedScore(36.4, 26.0, 76.3, "*")),
        (("converged", "UVS", 5), "RVE", PublishedScore(4.67, 6.23, 9.78, "*")),
        (("converged", "USS", 5), "HD", PublishedScore(23.4, 19.0, 38.4, "")),
        (("data pool", "", None), "MSD", PublishedScore(1.18, 1.10, 2.03, "")),
    ],
)
def test_scores(key, metric, expected):
    assert published.scores()[key][metric] == expected


def test_the_best_of_a_row_has_no_stars():
    starred = []
    for iteration in range(1, 6):
        for metric in PAPER_METRICS:
            row = [published.scores()["iteration", strategy, iteration][metric] for strategy in STRATEGIES]
            best = (max if METRICS[metric].higher_is_better else min)(score.mean for score in row)
            if not any(score.mean == best and not score.stars for score in row):
                starred.append((metric, iteration))
    assert starred == [
        ("RVE", 2)
    ]  # a mark on UVS's 5.1% that cannot be a test against itself; kept as the tables were typed out


def test_effort_agrees_with_the_text():
    effort = published.effort()
    initial = effort["initial", "", 0]
    assert list(initial.values()) == [1410, 501, 5]
    assert list(effort["data pool", "", None].values()) == [60513, 26400, 242]
    for strategy, slices, liver_slices in (
        ("UVS", 1342, 576),
        ("RVS", 1446, 558),
    ):  # section V-A: means of an iteration
        added = {name: (effort["iteration", strategy, 5][name] - initial[name]) / 5 for name in initial}
        assert round(added["annotated_slices"]) == slices
        assert round(added["annotated_liver_slices"]) == liver_slices
    assert [effort["iteration", "USS", k]["annotated_slices"] for k in range(1, 6)] == [
        1410 + 200 * k for k in range(1, 6)
    ]
    assert [effort["iteration", "RSS", k]["annotated_liver_slices"] for k in range(1, 6)] == [
        501 + 200 * k for k in range(1, 6)
    ]


def test_training_steps():
    steps = published.training_steps()
    assert steps["initial", "", 0] == 12000
    assert [steps["converged", strategy, 5] for strategy in STRATEGIES] == [356000, 297000, 291000, 465000]
    assert steps["data pool", "", None] == 825000


def test_quantile_effects():
    effects = published.effects()
    assert effects["DICE", "uncertainty_sampling"] == published.PublishedEffect(0.012, 0.005, 0.019, "<0.001")
    assert effects["MSD", "slice_sampling"] == published.PublishedEffect(-0.48, -0.81, -0.16, "0.004")
    assert all(effect.low <= effect.coefficient <= effect.high for effect in effects.values())


def test_datasets():
    datasets = published.sites()
    assert datasets["Dresden"] == published.PublishedSite(
        80, {"pool": 36, "val": 2, "test": 42}, (0.6, 0.9), (0.5, 5.0), 512, (71, 1160)
    )
    assert all(dataset.volumes == sum(dataset.counts.values()) for dataset in datasets.values())
    assert [
        sum(dataset.counts[split] for dataset in datasets.values()) for split in ("pool", "val", "test")
    ] == [240, 10, 234]
