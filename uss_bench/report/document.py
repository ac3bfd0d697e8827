"""The Markdown report of a run: its sections in order, built only from the result files beside it.

The same files give the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from ..runtime import paths, storage
from ..study.metrics import METRICS, PAPER_METRICS
from ..study.strategies import PAPER
from . import appendix, comparison, figures, summary, tables, uncertainty_section
from .results import Results, read_results
from .signed_rank import RESAMPLES
from .words import markdown_table, marked, oracle_note, titled

# `{kind of model: {metric: tests}}`
AllTests = Mapping[str, Mapping[str, tables.Tests]]


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
    tests = {
        kind: {metric: tables.paired_tests(results, metric, kind) for metric in tables.metrics_of(results)}
        for kind in ("iteration", "converged")
    }
    sections = [
        "# Uncertainty slice sampling benchmark",
        summary.summary(results),
        summary.key_table(results),
        oracle_note(results.strategies),
        pictures.get(0),
        figures.missing_note(results, drawn),
        *_training_tables(results, pictures),
        *_score_tables(results, pictures, tests),
        *_further_metrics(results, tests),
        *_further_statistics(results),
        *uncertainty_section.section(results, pictures.get(7)),
        *_tests(tests),
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


def _score_tables(results: Results, pictures: Mapping[int, str], tests: AllTests) -> Iterator[str | None]:
    """Tables 4 to 9, on how well the models do."""
    cases, line = len(results.cases), "column" if tables.many(results.strategies) else "row"
    for number, metric in enumerate(PAPER_METRICS, start=4):
        percentile = f"{METRICS[metric].robust_quantile * 100:.0f}th percentile"
        found = tests["iteration"][metric]
        yield (
            f"## Table {number}. {titled(metric)}\n\nMean ± standard deviation ({percentile}) over n = "
            f"{cases} test cases, models of the iterations. "
            f"{_legend(results, line)}\n\n{tables.metric_by_iteration(results, metric, found)}\n\n"
            f"{_test_line(metric, found)}{comparison.published_metric(results, metric)}"
        )
    found = {metric: tests["converged"][metric] for metric in PAPER_METRICS}
    lines = "".join(_test_line(metric, found[metric]) for metric in PAPER_METRICS)
    yield (
        "## Table 8. Converged models\n\n"
        "Mean ± standard deviation (5th percentile of DICE, 95th of the others) "
        f"over n = {cases} test cases. {_legend(results, 'column')} The data pool's model takes no part"
        f"{', nor does an oracle' * (results.contenders != results.strategies)}.\n\n"
        f"{tables.converged(results, found)}\n\n{lines}{comparison.published_converged(results)}"
    )
    yield pictures.get(6)
    yield pictures.get(5)
    if any(strategy in PAPER for strategy in results.strategies):
        yield _effects(results)


def _effects(results: Results) -> str:
    """Table 9, of the paper's strategies that ran."""
    fits, cases = tables.effects(results), len(results.cases)
    models = next(iter(fits.values())).n // cases
    failed = "".join(
        f"\n\nThe fit of {metric} failed: {fit.failure}." for metric, fit in fits.items() if fit.failure
    )
    return (
        "## Table 9. Effects of uncertainty and slice sampling\n\nQuantile regression `metric ~ uncertainty "
        "+ slice` over the converged models' results, at the 5th percentile of DICE and the 95th of the "
        "others (the least check loss, solved exactly): coefficient [95% interval] and p.\n\n"
        f"{tables.effects_table(fits, cases)}{failed}\n\nn = {models * cases}: each of {cases} cases enters "
        "once per model. Intervals are of a bootstrap over cases, p of exchanging models within cases, those "
        "that differ in the effect alone. Both hold for these trained models; retraining them is a further "
        f"source of chance.\n\n{comparison.published_quantile_regression(fits)}"
    )


def _legend(results: Results, line: str) -> str:
    """What bold type and stars mean, where there is anything to compare; `line` is a row or a column."""
    if len(results.strategies) < 2:
        return ""
    return (
        f"The best mean of a {line} is bold; stars mark the others by a two-sided signed-rank test against "
        "it, whose null distribution exchanges the strategies' models within each case and chooses the best "
        "anew: "
        r"\* p < 0.05, \*\* p < 0.01, \*\*\* p < 0.001, uncorrected; the section Tests has every p."
    )


def _test_line(metric: str, tests: tables.Tests) -> str:
    """What the stars of a table rest on, as a paragraph."""
    found = [test for row in tests.values() for test in row.values()]
    if not found:
        return ""
    zeros = sorted(test.zeros for test in found)
    span = str(zeros[0]) if zeros[0] == zeros[-1] else f"{zeros[0]} to {zeros[-1]}"
    return f"{metric}: {len(found)} tests of n = {found[0].n} pairs, {span} of them without a difference.\n\n"


def _further_metrics(results: Results, tests: AllTests) -> Iterator[str]:
    """A section for each metric that the paper lacks, where the results have any."""
    further = [metric for metric in tables.metrics_of(results) if metric not in PAPER_METRICS]
    if further:
        yield "## Further metrics"
    for metric in further:
        yield (
            f"### {titled(metric)}\n\n{METRICS[metric].definition}\n\nModels of the iterations:\n\n"
            f"{tables.metric_by_iteration(results, metric, tests['iteration'][metric])}\n\n"
            f"Converged models:\n\n{tables.converged(results, {metric: tests['converged'][metric]})}"
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


def _tests(tests: AllTests) -> Iterator[str]:
    """Every comparison behind the stars; nothing with one strategy."""
    listings = {
        f"{metric}, {title}": tables.corrected_tests(tests[kind][metric])
        for kind, title in (("iteration", "iterations"), ("converged", "converged models"))
        for metric in PAPER_METRICS
    }
    if not any(listings.values()):
        return
    yield (
        "## Tests\n\nEvery comparison behind the stars. Pairs are test cases; pairs without a difference are "
        "ranked and then dropped (Pratt). p says how often a strategy would differ as much from the best, if "
        "the strategies' models were exchanged at random within each case and the best were chosen among "
        f"what comes out ({RESAMPLES} exchanges). Holm's correction is over all comparisons of one metric in "
        "one table. The effect size is the matched-pairs rank-biserial correlation, positive where the "
        "strategy has the better scores of the pair."
    )
    for title, listing in listings.items():
        yield f"### {title}\n\n{listing}"
