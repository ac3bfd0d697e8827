"""The paper's Tables 1-9 and further statistics as Markdown, made from the results of a run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import numpy as np
from scipy.integrate import trapezoid
from statsmodels.stats.multitest import multipletests

from ..data.manifest import SPLITS
from ..study.keys import DATA_POOL, INITIAL, ModelKey
from ..study.metrics import METRICS, PAPER_METRICS
from ..study.strategies import PAPER, STRATEGIES
from .quantile_regression import TERMS, QuantileEffects, quantile_effects
from .results import SIZE, SPACING, Results
from .signed_rank import PairedTest, against_best, stars
from .statistics import PERCENTILE_CASES, bootstrap_interval, summarize
from .words import escaped, markdown_table, p_text, titled, value_text

# `{iteration: {strategy: its test against the best of that row}}` of one metric and one kind of model
Tests = Mapping[int, Mapping[str, PairedTest]]

MOST_COLUMNS = 6  # of strategies
TERM_TITLES = dict(zip(TERMS, ("Intercept", "Uncertainty sampling", "Slice sampling"), strict=True))


# --- Tables 1 to 3: what the models are trained on ---


def data_table(results: Results) -> str:
    """Table 1: volumes of each site by split, voxel sizes and resolutions."""
    by_site = defaultdict(list)
    for volume in results.volumes:
        by_site[volume["site"]].append(volume)
    rows = []
    for site, volumes in sorted(by_site.items(), key=lambda item: (-len(item[1]), item[0])):
        counts = [sum(volume["split"] == split for volume in volumes) for split in SPLITS]
        spacing = " × ".join(_range(volumes, name, "{:.2f}") for name in reversed(SPACING))
        size = " × ".join(_range(volumes, name, "{:.0f}") for name in reversed(SIZE))
        rows.append([site, f"{len(volumes)} ({'/'.join(map(str, counts))})", spacing, size])
    return markdown_table(
        ["Site", "Volumes (pool/val/test)", "Voxel size x × y × z [mm]", "Resolution"], rows
    )


def _range(volumes: Iterable[dict[str, str]], name: str, pattern: str) -> str:
    values = [float(volume[name]) for volume in volumes]
    low, high = pattern.format(min(values)), pattern.format(max(values))
    return low if low == high else f"[{low}–{high}]"


def training_data(results: Results) -> str:
    """Table 2: annotated slices / liver slices / patients."""

    def cell(key: ModelKey) -> str:
        return " / ".join(str(count) for count in results.effort[key].values())

    return by_iteration(results.strategies, results.iterations, cell)


def training_steps(results: Results) -> str:
    """Table 3: steps of the checkpoint used for evaluation, of steps trained."""

    def cell(key: ModelKey) -> str:
        training = results.training[key]
        return f"{training['best_step']} of {training['last_step']}"

    return by_iteration(results.strategies, results.iterations, cell, with_converged=True)


def by_iteration(
    strategies: Sequence[str],
    iterations: Sequence[int],
    cell: Callable[[ModelKey], str],
    with_converged: bool = False,
) -> str:
    """The layout of Tables 2-7.

    Rows are the initial model, the iterations and the data pool; there is one column per strategy, and one
    for models without a strategy. With many strategies the table is turned. `cell(key)` gives the text of a
    model's cell.
    """
    blanks = [""] * len(strategies)
    rows = [["initial", *blanks, cell(INITIAL)]]
    for iteration in iterations:
        keys = [ModelKey.of_iteration(strategy, iteration) for strategy in strategies]
        rows.append([f"iter. {iteration}", *map(cell, keys), ""])
    if with_converged:
        keys = [ModelKey.of_converged(strategy, iterations[-1]) for strategy in strategies]
        rows.append([f"iter. {iterations[-1]} (converged)", *map(cell, keys), ""])
    rows.append(["data pool", *blanks, cell(DATA_POOL)])
    header = ["", *strategies, "no query"]
    if many(strategies):
        header, *rows = zip(header, *rows, strict=True)
    return markdown_table(header, rows)


def many(strategies: Sequence[str]) -> bool:
    """Whether strategies are too many for one column each."""
    return len(strategies) > MOST_COLUMNS


# --- Tables 4 to 8: scores and their comparison ---


def metrics_of(results: Results) -> list[str]:
    """The metrics that the results have; those of an earlier version may lack some."""
    return [metric for metric in METRICS if metric in results.scores[INITIAL]]


def paired_tests(results: Results, metric: str, kind: str) -> Tests:
    """Tests of all strategies against the best of each iteration.

    Parameters
    ----------
    results : Results
        Of a run.
    metric : str
        Name of the metric.
    kind : str
        Of the models: "iteration", or "converged", of which there is only the last iteration.
    """
    found = {}
    for iteration in results.iterations if kind == "iteration" else [results.last]:
        keys = {strategy: ModelKey(kind, strategy, iteration) for strategy in results.contenders}
        samples = {strategy: results.scores[key][metric] for strategy, key in keys.items()}
        higher, seed = METRICS[metric].higher_is_better, results.provenance["seed"]
        found[iteration] = against_best(samples, higher, seed) if samples else {}
    return found


def metric_by_iteration(results: Results, metric: str, tests: Tests) -> str:
    """Tables 4-7: a metric of the iterations' models."""

    def cell(key: ModelKey) -> str:
        return compared_cell(results, metric, key, tests.get(key.iteration))

    return by_iteration(results.strategies, results.iterations, cell)


def converged(results: Results, tests: Mapping[str, Tests]) -> str:
    """Table 8: metrics of the converged models; the data pool's model takes no part in the comparison."""
    rows = [
        [
            name,
            *(
                compared_cell(results, metric, key, found.get(key.iteration))
                for metric, found in tests.items()
            ),
        ]
        for name, key in results.final_models.items()
    ]
    return markdown_table(["", *(titled(metric) for metric in tests)], rows)


def compared_cell(
    results: Results, metric: str, key: ModelKey, tests: Mapping[str, PairedTest] | None = None
) -> str:
    """Cell of a model, marked by the tests `{strategy: PairedTest}` of its row, if it takes part in any."""
    test = (tests or {}).get(key.strategy)
    best = bool(tests) and test is None and key.strategy in results.contenders
    return score_cell(metric, results.scores[key][metric], best, test.stars if test else "")


def score_cell(metric: str, values: Sequence[float], best: bool = False, marks: str = "") -> str:
    r"""`mean ± sd (percentile)`, the best in bold, stars escaped for Markdown.

    >>> print(score_cell("DICE", [0.8, 0.9], marks="*"))
    0.850 ± 0.071 (0.805)\*
    """
    summary = summarize(values, METRICS[metric].robust_quantile)
    spread = f" ± {value_text(metric, summary.std)}" if summary.n > 1 else ""
    text = f"{value_text(metric, summary.mean)}{spread} ({value_text(metric, summary.percentile)})"
    return (f"**{text}**" if best else text) + escaped(marks)


def corrected_tests(tests: Tests) -> str | None:
    """Every test of a metric with p, Holm's p over these tests, and effect size; None without tests."""
    listed = [
        (iteration, strategy, test) for iteration, row in tests.items() for strategy, test in row.items()
    ]
    if not listed:
        return None
    _, adjusted, _, _ = multipletests([test.p for _, _, test in listed], method="holm")
    rows = [
        [
            f"iter. {iteration}", strategy, test.best, test.n, test.zeros, p_text(test.p),
            p_text(corrected) + escaped(stars(corrected)), f"{test.effect:+.2f}",
        ]
        for (iteration, strategy, test), corrected in zip(listed, adjusted, strict=True)
    ]  # fmt: skip
    return markdown_table(["Row", "Strategy", "Best", "n", "zeros", "p", "p (Holm)", "effect size"], rows)


# --- Table 9: effects of uncertainty and slice sampling ---


def effects(results: Results) -> dict[str, QuantileEffects]:
    """Quantile regressions of the paper's metrics on uncertainty and slice sampling.

    Of the converged models of those of the paper's strategies that ran.
    """
    strategies = [STRATEGIES[name] for name in results.strategies if name in PAPER]
    keys = [results.final_models[strategy.name] for strategy in strategies]
    return {
        metric: quantile_effects(
            np.array([results.scores[key][metric] for key in keys]).reshape(len(keys), len(results.cases)),
            [strategy.by_uncertainty for strategy in strategies],
            [strategy.by_slices for strategy in strategies],
            METRICS[metric].robust_quantile,
            seed=results.provenance["seed"],
        )
        for metric in PAPER_METRICS
    }


def effects_table(fits: Mapping[str, QuantileEffects], cases: int) -> str:
    """Table 9 of regressions by metric over a number of cases; "failed" where there is none."""
    rows = []
    for position, title in enumerate(TERM_TITLES.values()):
        cells = []
        for metric, fit in fits.items():
            if fit.failure:
                cells += ["failed", ""]
                continue
            row = fit.rows[position]
            value, low, high = (
                value_text(metric, number) for number in (row.coefficient, row.ci_low, row.ci_high)
            )
            bounded = position > 0 or cases >= PERCENTILE_CASES
            cells += [
                f"{value} [{low}, {high}]" if bounded else value,
                p_text(row.p_value) if position else "",
            ]
        rows.append([title, *cells])
    header = [""] + [text for metric in fits for text in (titled(metric), "p")]
    return markdown_table(header, rows)


# --- further statistics, of the models that are compared at the end ---


def intervals(results: Results) -> str:
    """Bootstrap 95% confidence intervals of mean and percentile."""
    rows = []
    for name, key in results.final_models.items():
        for metric in PAPER_METRICS:
            values = results.scores[key][metric]
            cells = []
            for statistic in (np.mean, partial(np.quantile, q=METRICS[metric].robust_quantile)):
                ends = bootstrap_interval(values, statistic, seed=results.provenance["seed"])
                low, high = (value_text(metric, end) for end in ends)
                cells.append(f"{value_text(metric, statistic(values))} [{low}, {high}]")
            rows.append([name, titled(metric), *cells])
    return markdown_table(["Model", "Metric", "mean [95% CI]", "5th or 95th percentile [95% CI]"], rows)


def by_site(results: Results, metric: str) -> str:
    """Mean of a metric at each site of the test cases."""
    names = sorted(set(results.sites))
    places = {name: [index for index, site in enumerate(results.sites) if site == name] for name in names}
    rows = [
        [model, *(value_text(metric, results.scores[key][metric][places[name]].mean()) for name in names)]
        for model, key in results.final_models.items()
    ]
    return markdown_table([titled(metric), *(f"{name} (n = {len(places[name])})" for name in names)], rows)


def effort_areas(results: Results) -> tuple[dict[str, float], tuple[int, int]]:
    """Area under the curve of mean DICE against annotated liver slices.

    The curve starts at the initial model. All areas are over the range of effort that every strategy covers,
    and divided by it.

    Returns
    -------
    areas : dict
        `{strategy: area}`, a mean DICE between 0 and 1.
    extent : tuple of int
        First and last liver slice of the range.
    """
    curves = {}
    for strategy in results.strategies:
        keys = results.curve(strategy)
        effort = [results.effort[key]["annotated_liver_slices"] for key in keys]
        curves[strategy] = effort, [results.scores[key]["DICE"].mean() for key in keys]
    start = results.effort[INITIAL]["annotated_liver_slices"]
    stop = min(effort[-1] for effort, _ in curves.values())
    areas = {}
    for strategy, (effort, dice) in curves.items():
        grid = np.unique([start, *(slices for slices in effort if slices < stop), stop])
        height = np.interp(grid, effort, dice)
        areas[strategy] = float(trapezoid(height, grid) / (stop - start)) if stop > start else float(dice[0])
    return areas, (start, stop)


def missed_livers(results: Results) -> str | None:
    """All models that missed a liver altogether, with counts; None without any."""
    rows = [[key.title, count, len(results.cases)] for key, count in results.missed.items() if count]
    return markdown_table(["Model", "missed livers", "test cases"], rows) if rows else None
