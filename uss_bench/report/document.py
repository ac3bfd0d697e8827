"""The Markdown report of a run: its sections in order, built only from the result files beside it.

The same files give the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from ..runtime import paths, storage
from ..study.keys import INITIAL
from ..study.metrics import METRICS, PAPER_METRICS
from ..study.strategies import PAPER
from . import appendix, comparison, figures, summary, tables
from .results import Results, read_results
from .words import listed, markdown_table, marked, titled


def write_report(folder: str | Path) -> Path:
    """Write `report.md` and `figures/` of a report folder from the `results/` in it.

    Returns
    -------
    Path
        Of the report.

    Raises
    ------
    InputError
        A result file is missing.
    """
    folder = Path(folder)
    results = read_results(folder)
    drawn = figures.write_figures(results, folder)
    pictures = {figure.number: figure.markdown for figure in drawn}
    sections = [
        "# Uncertainty slice sampling benchmark",
        summary.summary(results),
        summary.key_table(results),
        summary.oracle_note(results),
        pictures.get(0),
        figures.missing_note(results, drawn),
        *_training_tables(results, pictures),
        *_score_tables(results, pictures),
        *_further_metrics(results),
        *_further_statistics(results),
        *_tests(results),
        appendix.notes(results),
        appendix.deviations(results),
        appendix.provenance(results),
        appendix.citation(results),
    ]
    path = folder / paths.REPORT
    # Oracles are marked here, so that no section can forget it.
    storage.write_text(path, marked("\n\n".join(section for section in sections if section)) + "\n")
    return path


def _training_tables(results: Results, pictures: Mapping[int, str]) -> Iterator[str | None]:
    """Tables 1 to 3, on what the models are trained on."""
    yield f"## Table 1. Data\n\n{tables.data_table(results)}\n\n{comparison.published_sites()}"
    yield (
        "## Table 2. Training data\n\n"
        "Annotated slices / annotated liver slices / patients, on the working grid.\n\n"
        f"{tables.training_data(results)}\n\n{comparison.published_training_data(results)}"
    )
    yield pictures.get(2)
    yield pictures.get(4)
    yield (
        "## Table 3. Training steps\n\n"
        "Step of the evaluated checkpoint, which has the best validation Jaccard index, of steps trained.\n\n"
        f"{tables.training_steps(results)}\n\n{comparison.published_training_steps(results)}"
    )
    yield pictures.get(3)


def _score_tables(results: Results, pictures: Mapping[int, str]) -> Iterator[str | None]:
    """Tables 4 to 9, on how well the models do."""
    cases, line = len(results.cases), "column" if tables.many(results.strategies) else "row"
    for number, metric in enumerate(PAPER_METRICS, start=4):
        percentile = f"{METRICS[metric].robust_quantile * 100:.0f}th percentile"
        yield (
            f"## Table {number}. {titled(metric)}\n\n"
            f"Mean ± standard deviation ({percentile}) over n = {cases} test cases, models of the "
            f"iterations. {_legend(results, line)}\n\n{tables.metric_by_iteration(results, metric)}\n\n"
            f"{_test_line(results, metric, 'iteration')}{comparison.published_metric(results, metric)}"
        )
    lines = "".join(_test_line(results, metric, "converged") for metric in PAPER_METRICS)
    yield (
        "## Table 8. Converged models\n\n"
        "Mean ± standard deviation (5th percentile of DICE, 95th of the others) "
        f"over n = {cases} test cases. {_legend(results, 'column')} The data pool's model takes no part.\n\n"
        f"{tables.converged(results)}\n\n{lines}{comparison.published_converged(results)}"
    )
    yield pictures.get(6)
    yield pictures.get(5)
    if ran := sum(strategy in PAPER for strategy in results.strategies):
        yield _effects(results, ran)


def _effects(results: Results, ran: int) -> str:
    """Table 9, of the paper's strategies that ran."""
    cases = len(results.cases)
    table, failures = tables.effects_table(results)
    failed = "".join(f"\n\nThe fit of {metric} failed: {reason}." for metric, reason in failures.items())
    return (
        "## Table 9. Effects of uncertainty and slice sampling\n\n"
        f"Quantile regression `metric ~ uncertainty + slice` over n = {cases * ran} "
        "results of the converged models, at the 5th percentile of DICE and the 95th of the others: "
        f"coefficient [95% confidence interval] and p.\n\n{table}{failed}\n\n"
        f"{comparison.published_quantile_regression(results)}"
    )


def _legend(results: Results, line: str) -> str:
    """What bold type and stars mean, where there is anything to compare; `line` is a row or a column."""
    if len(results.strategies) < 2:
        return ""
    return (
        f"The best mean of a {line} is bold; stars mark the others by a two-sided Wilcoxon signed-rank test "
        r"against it: \* p < 0.05, \*\* p < 0.01, \*\*\* p < 0.001, uncorrected; "
        "the section Tests has every p."
    )


def _test_line(results: Results, metric: str, kind: str) -> str:
    """What the stars of a table rest on, as a paragraph."""
    tests = [test for row in tables.paired_tests(results, metric, kind).values() for test in row.values()]
    if not tests:
        return ""
    zeros = sorted(test.zeros for test in tests)
    span = str(zeros[0]) if zeros[0] == zeros[-1] else f"{zeros[0]} to {zeros[-1]}"
    methods = listed(sorted({test.method for test in tests}))
    return (
        f"{metric}: {len(tests)} tests of n = {tests[0].n} pairs, {span} of them without a difference; "
        f"p: {methods}.\n\n"
    )


def _further_metrics(results: Results) -> Iterator[str]:
    """A section for each metric that the paper lacks, where the results have any."""
    further = [metric for metric in METRICS if metric not in PAPER_METRICS]
    further = [metric for metric in further if metric in results.scores[INITIAL]]
    if further:
        yield "## Further metrics"
    for metric in further:
        yield (
            f"### {titled(metric)}\n\n{METRICS[metric].definition}\n\nModels of the iterations:\n\n"
            f"{tables.metric_by_iteration(results, metric)}\n\n"
            f"Converged models:\n\n{tables.converged(results, [metric])}"
        )


def _further_statistics(results: Results) -> Iterator[str]:
    yield "## Further statistics"
    yield (
        "### Confidence intervals\n\nPercentile bootstrap over the test cases, seeded.\n\n"
        f"{tables.intervals(results)}"
    )
    areas, (start, stop) = tables.effort_areas(results)
    rows = [[strategy, f"{area:.3f}"] for strategy, area in areas.items()]
    yield (
        "### Area under the effort curve\n\nMean DICE of the iterations' models against annotated liver "
        f"slices, averaged over the range of {start} to {stop} liver slices, which every strategy covers.\n\n"
        f"{markdown_table(['Strategy', 'mean DICE over effort'], rows)}"
    )
    sites = "\n\n".join(tables.by_site(results, metric) for metric in PAPER_METRICS)
    yield (
        "### By site\n\n"
        "Means of the converged models and the data pool's over the test cases of each site.\n\n"
        f"{sites}"
    )
    missed = tables.missed_livers(results)
    if missed:
        missed = (
            "Nothing was predicted in these cases: they count with DICE 0, RVE 100%, and the diagonal of the "
            f"volume as MSD and HD.\n\n{missed}"
        )
    yield f"### Missed livers\n\n{missed or 'No model missed a liver altogether.'}"


def _tests(results: Results) -> Iterator[str]:
    if len(results.strategies) < 2:
        return
    yield (
        "## Tests\n\nEvery comparison behind the stars. Pairs are test cases; pairs without a difference are "
        "ranked and then dropped (Pratt). Holm's correction is over all comparisons of one metric in one "
        "table. The effect size is the matched-pairs rank-biserial correlation, positive where the strategy "
        "has the better scores of the pair."
    )
    for kind, title in (("iteration", "iterations"), ("converged", "converged models")):
        for metric in PAPER_METRICS:
            yield f"### {metric}, {title}\n\n{tables.corrected_tests(results, metric, kind)}"
