"""The Markdown report of a run: its sections in order, built only from the result files beside it.

The same files give the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..runtime import paths, storage
from ..study.metrics import METRICS, PAPER_METRICS
from . import appendix, comparison, figures, further, summary, tables, uncertainty_section
from .quantile_regression import QuantileEffects
from .results import Results, read_results
from .seeds import Seeds
from .signed_rank import RESAMPLES
from .statistics import EFFECT_CASES, MEAN_CASES, PERCENTILE_CASES
from .tables import AllTests
from .words import listed, marked, oracle_note, titled


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
    fits, test_rows = tables.effects(results), tables.test_rows(tests)
    sections = [
        "# Uncertainty slice sampling benchmark",
        summary.summary(results),
        summary.key_table(results),
        oracle_note(results.strategies),
        pictures.get(0),
        figures.missing_note(results, drawn),
        "## The paper's tables for these data",
        *_training_tables(results, pictures),
        *_score_tables(results, pictures, tests),
        _effects(results, fits),
        _published_beside(results, tests, fits),
        *uncertainty_section.section(results, pictures.get(7)),
        *_further_metrics(results, tests),
        *_further_results(results),
        _tests(results, test_rows),
        *_appendix(results),
    ]
    storage.write_csv(folder / paths.TESTS, tables.TEST_COLUMNS, test_rows)
    path = folder / paths.REPORT
    # Oracles are marked here, so that no section can forget it.
    storage.write_text(path, marked("\n\n".join(section for section in sections if section)) + "\n")
    return path


def _training_tables(results: Results, pictures: Mapping[int, str]) -> Iterator[str | None]:
    """Tables 1 to 3, on what the models are trained on."""
    yield f"### Table 1. Data\n\n{tables.data_table(results)}"
    yield (
        "### Table 2. Training data\n\nAnnotated slices / annotated liver slices / patients / equivalent "
        f"slices, on the working grid ({_grid(results)} mm, z × y × x), to which all CTs are resampled.\n\n"
        f"{tables.training_data(results)}"
    )
    yield pictures.get(2)
    yield pictures.get(4)
    annealed = results.provenance["config"]["training"].get("anneal")  # older runs had none
    evaluated = "the last" if annealed else "which has the best validation Jaccard index"
    yield (
        f"### Table 3. Training steps\n\nThe evaluated step, {evaluated}, of the steps trained"
        f"{tables.training_steps(results)}"
    )
    yield pictures.get(3)


def _grid(results: Results) -> str:
    return " × ".join(f"{length:g}" for length in results.provenance["config"]["data"]["spacing"])


def _score_tables(results: Results, pictures: Mapping[int, str], tests: AllTests) -> Iterator[str | None]:
    """Tables 4 to 8, on how well the models do."""
    yield (
        "### Tables 4 to 8. Scores\n\nDICE, relative volume error RVE, mean surface distance MSD and "
        "Hausdorff distance HD: mean ± standard deviation (5th percentile where high values are good, else "
        f"95th) over n = {len(results.cases)} test cases.{_legend(results)}"
    )
    for number, metric in enumerate(PAPER_METRICS, start=4):
        table = tables.metric_by_iteration(results, metric, tests["iteration"][metric])
        yield f"#### Table {number}. {titled(metric)}\n\n{table}"
    found = {metric: tests["converged"][metric] for metric in PAPER_METRICS}
    yield (
        f"#### Table 8. {results.final_title}\n\nTrained on the annotations of the last iteration, the data "
        f"pool model on the whole pool.{_left_out(results)}\n\n{tables.converged(results, found)}"
    )
    yield pictures.get(6)
    yield pictures.get(5)


def _left_out(results: Results) -> str:
    """Who is not compared, where anybody is."""
    if len(results.contenders) < 2:
        return ""
    oracles = ", nor does an oracle" * (results.contenders != results.strategies)
    return f" The data pool model takes no part in the comparison{oracles}."


def _legend(results: Results) -> str:
    """What bold type and stars mean, where there is anything to compare."""
    if len(results.contenders) < 2:
        return ""
    return (
        " The best mean of the strategies is bold; stars mark the others by a signed-rank test against it: "
        r"\* p < 0.05, \*\* p < 0.01, \*\*\* p < 0.001, uncorrected. Stars compare these "
        "trained models: retraining one can earn a star by itself. The section Tests says what p is."
    )


def _effects(results: Results, fits: Mapping[str, QuantileEffects]) -> str:
    """Table 9."""
    cases, failures = len(results.cases), {metric: fit.failure for metric, fit in fits.items() if fit.failure}
    heading = "### Table 9. Effects of uncertainty and slice sampling"
    if len(failures) == len(fits):
        return f"{heading}\n\nNo regression: {next(iter(failures.values()))}."
    failed = "".join(f"\n\nThe fit of {metric} failed: {reason}." for metric, reason in failures.items())
    if cases >= EFFECT_CASES:
        shown = "coefficient [95% interval of a bootstrap over cases] and p"
        scope = ", so it need not agree with the interval. Both speak"
    else:
        shown = f"coefficient and p; an interval takes at least {EFFECT_CASES} cases"
        scope = ". It speaks"
    return (
        f"{heading}\n\nQuantile regression `metric ~ uncertainty + slice` over the results of Table 8, at "
        f"the 5th percentile of DICE and the 95th of the others: {shown}."
        f"\n\n{tables.effects_table(fits, cases)}{failed}\n\nn = {next(iter(fits.values())).n}: each of "
        f"{cases} cases enters once per model. p comes from exchanging, within each case, the models that "
        f"differ in the effect alone{scope} of these trained models, not of retraining."
    )


def _published_beside(results: Results, tests: AllTests, fits: Mapping[str, QuantileEffects]) -> str:
    """Here and there, where both speak."""
    share = comparison.shares(results)
    if not share:
        return ""
    return (
        "### Found here and in the paper\n\nDifferences between trained models with p < 0.05, uncorrected, "
        "both here and in the published tables below. The tests compare with the best strategy alone: if it "
        "is the same in both, up to three pairs can be found, else one, so agreement is over-represented. "
        f"Found: {comparison.supported(tests, fits)}\n\n{share}"
    )


def _further_metrics(results: Results, tests: AllTests) -> Iterator[str]:
    """Metrics that the paper lacks, where the results have any."""
    metrics = [metric for metric in tables.metrics_of(results) if metric not in PAPER_METRICS]
    if not metrics:
        return
    yield "## Further metrics\n\nCells read as in Tables 4 to 8."
    for metric in metrics:
        table = tables.metric_by_iteration(results, metric, tests["iteration"][metric])
        yield f"### {titled(metric)}\n\n{METRICS[metric].definition}\n\n{table}"
    final = tables.converged(results, {metric: tests["converged"][metric] for metric in metrics})
    yield f"### {listed(metrics)} of the models of Table 8\n\n{final}"


def _further_results(results: Results) -> Iterator[str]:
    yield "## Further results"
    yield from _paired_differences(results)
    alone = Seeds({results.provenance["seed"]: results})
    if alone.overlapping:
        start, stop = alone.ranges[0]
        areas = [f"{strategy} {alone.areas(strategy, 'DICE').mean():.3f}" for strategy in alone.contenders]
        yield (
            "### Area under the effort curve\n\nMean DICE of the iterations' models over equivalent slices, "
            f"from {start:.0f} to {stop:.0f}, the range that every strategy covers, divided by its length: "
            f"{', '.join(areas)}."
        )
    legend = "Mean DICE / mean HD [mm] of the models of Table 8 over n test cases.\n\n"
    for title in further.groupings(results):
        yield f"### By {title}\n\n{legend}{further.by_group(results, title)}"
        legend = ""  # once is enough
    missed = further.missed_livers(results)
    if missed:
        yield (
            "### Missed livers\n\nWhere nothing was predicted, a case counts with DICE 0, RVE 100%, and the "
            f"diagonal of the volume as MSD and HD. {missed}"
        )


def _paired_differences(results: Results) -> Iterator[str]:
    """Of means and percentiles of the final models; nothing where all are oracles."""
    if not results.contenders:
        return
    yield (
        "### Paired differences\n\nFirst mean minus second over the same test cases, of the models of Table "
        f"8 {_mean_intervals(results)}.{_retrained_rows(results)}\n\n"
        f"{further.mean_differences(results)}"
    )
    percentiles = further.percentile_differences(results)
    yield (
        f"The 5th percentile of DICE and the 95th of the others, likewise:\n\n{percentiles}"
        if percentiles
        else f"Percentiles have no intervals below n = {PERCENTILE_CASES}, and effects on them (Table 9) "
        f"none below {EFFECT_CASES}, where these cover too rarely."
    )


def _retrained_rows(results: Results) -> str:
    """What the last rows of the differences are, where models were trained again."""
    count = len(further.retrained_pairs(results))
    if not count:
        return ""
    return f" The last {'row is' if count == 1 else f'{count} rows are'} what retraining alone does."


def _mean_intervals(results: Results) -> str:
    if len(results.cases) < MEAN_CASES:
        return f"(no intervals of fewer than {MEAN_CASES} cases, as they would miss the truth too often)"
    ranked = "; of means, where Tests ranks cases" * (len(results.contenders) > 1)
    return f"[95% interval of a bootstrap over cases, not corrected{ranked}]"


def _tests(results: Results, rows: Sequence[Mapping[str, Any]]) -> str:
    """Comparisons of the last iteration and of final models; nothing with one strategy."""
    if not rows:
        return ""
    earlier = f"; those of earlier iterations are in [{paths.TESTS}]({paths.TESTS})" * (results.last > 1)
    included = ", earlier iterations included" * (results.last > 1)
    return (
        "## Tests\n\nEach cell: p / p after Holm's correction, where p < 0.05 / effect size, over "
        f"n = {len(results.cases)} test cases{earlier}. The statistic is Wilcoxon's signed-rank sum against "
        f"the row's best; cases without a difference ({_zeros(rows)}) are ranked, then dropped (Pratt). p "
        "is how often it is at least as large when the models are exchanged at random within each case "
        f"({RESAMPLES} times, so p is at least {1 / (RESAMPLES + 1):g}) and the best is chosen anew: where "
        "no models differ, p < 0.05 occurs in at most 5% of comparisons; where some do, p of the others is "
        "approximate. Models of one strategy differ by retraining alone, which p does not account for. "
        f"Holm's correction is over one metric in one table{included}. "
        "Effect size: matched-pairs rank-biserial correlation, positive where the strategy has the better "
        "scores of the pair.\n\n"
        f"{tables.tests_table(rows, results)}"
    )


def _zeros(rows: Sequence[Mapping[str, Any]]) -> str:
    """In how many cases of a test, at most, two models did not differ."""
    most: dict[str, int] = {}
    for row in rows:
        most[row["metric"]] = max(row["zeros"], most.get(row["metric"], 0))
    texts = [f"{count} in {metric}" for metric, count in most.items() if count]
    return f"at most {listed(texts)}" if texts else "none here"


def _appendix(results: Results) -> Iterator[str]:
    yield appendix.notes(results)
    yield "## How this run differs from the paper"
    yield appendix.settings(results)
    yield appendix.deviations(results)
    yield (
        "## Published tables\n\nAs the paper has them (five clinical sites, 234 other test cases); stars are "
        "those of its own tests."
    )
    yield from comparison.published_tables()
    yield appendix.provenance(results)
    yield appendix.citation(results)
