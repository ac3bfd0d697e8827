"""The paper's Tables 1-9 as Markdown, made from the results of a run, and the tests behind their stars."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple
from typing import Any

import numpy as np

from ..data.manifest import SPLITS
from ..study.keys import DATA_POOL, INITIAL, ModelKey
from ..study.metrics import METRICS, PAPER_METRICS
from ..study.strategies import PAPER, STRATEGIES
from .effort import equivalent_slices
from .quantile_regression import TERMS, QuantileEffects, quantile_effects
from .result_files import SIZE, SPACING
from .results import Results
from .signed_rank import PairedTest, against_best, stars
from .statistics import EFFECT_CASES, PERCENTILE_CASES, holm, summarize
from .words import (
    escaped,
    interval_text,
    markdown_table,
    p_text,
    signed,
    span,
    titled,
    turned_table,
    turned_tables,
    value_text,
)

# `{iteration: {strategy: its test against the best of that row}}` of one metric and one kind of model
Tests = Mapping[int, Mapping[str, PairedTest]]
AllTests = Mapping[str, Mapping[str, Tests]]  # `{kind of model: {metric: tests}}`

# Of `results/tests.csv`
TEST_COLUMNS = ("metric", "model", "iteration", "strategy", "best", "p", "n", "zeros", "effect", "p_holm")
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
    text = span(pattern.format(min(values)), pattern.format(max(values)))
    return f"[{text}]" if "–" in text else text


def training_data(results: Results) -> str:
    """Table 2: annotated slices / liver slices / patients / equivalent slices."""

    def cell(key: ModelKey) -> str:
        counts = [str(count) for count in results.effort[key].values()]
        return " / ".join([*counts, f"{equivalent_slices(results, key):.0f}"])

    return by_iteration(results.strategies, results.iterations, cell)


def training_steps(results: Results) -> str:
    """Table 3: steps of the checkpoint used for evaluation, of steps trained; the rest of a sentence.

    A table only where not all models that are trained by one rule were trained alike.
    """

    def cell(key: ModelKey) -> str:
        training = results.training[key]
        return f"{training['best_step']} of {training['last_step']}"

    limited, converging = (
        {cell(key) for key in results.training if key.converges == converges} for converges in (False, True)
    )
    if len(limited) == len(converging) == 1:
        return (
            f": {limited.pop()} for the initial model and those of iterations, {converging.pop()} for the "
            f"{results.final_word} models and the data pool's."
        )
    return f".\n\n{by_iteration(results.strategies, results.iterations, cell, results.final_word)}"


def by_iteration(
    strategies: Sequence[str],
    iterations: Sequence[int],
    cell: Callable[[ModelKey], str],
    final_word: str = "",
) -> str:
    """The layout of Tables 2-7.

    Rows are the initial model, the iterations and the data pool; there is one column per strategy, and one
    for models without a strategy. With many strategies the table is turned. `cell(key)` gives the text of a
    model's cell. With a `final_word`, a row so called has the final models.
    """
    blanks = [""] * len(strategies)
    rows = [["initial", *blanks, cell(INITIAL)]]
    for iteration in iterations:
        keys = [ModelKey.of_iteration(strategy, iteration) for strategy in strategies]
        rows.append([f"iter. {iteration}", *map(cell, keys), ""])
    if final_word:
        keys = [ModelKey.of_converged(strategy, iterations[-1]) for strategy in strategies]
        rows.append([f"iter. {iterations[-1]} ({final_word})", *map(cell, keys), ""])
    rows.append(["data pool", *blanks, cell(DATA_POOL)])
    header = ["", *strategies, "no query"]
    return (turned_table if many(strategies) else markdown_table)(header, rows)


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
    """Table 8: metrics of the final models; the data pool's model takes no part in the comparison."""
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


def test_rows(tests: AllTests) -> list[dict[str, Any]]:
    """Every test as a row of `results/tests.csv`; Holm's p is over the tests of a metric in one table."""
    rows = []
    for kind, by_metric in tests.items():
        for metric, found in by_metric.items():
            flat = [(iteration, *item) for iteration, row in found.items() for item in row.items()]
            adjusted = holm([test.p for _, _, test in flat])
            for (iteration, strategy, test), p_holm in zip(flat, adjusted, strict=True):
                values = (metric, kind, iteration, strategy, *astuple(test), float(p_holm))
                rows.append(dict(zip(TEST_COLUMNS, values, strict=True)))
    return rows


def tests_table(rows: Sequence[Mapping[str, Any]], results: Results) -> str:
    """Tests of the last iteration and of the final models: p / Holm's p / effect size."""
    lines: dict[tuple[str, str], dict[str, str]] = {}
    for row in rows:
        if row["iteration"] == results.last:
            word = results.final_word if row["model"] == "converged" else f"iter. {results.last}"
            cells = lines.setdefault((row["metric"], word), {row["best"]: "best"})
            cells[row["strategy"]] = _test_cell(row)
    table = turned_tables if many(results.contenders) else markdown_table
    body = [[*line, *(cells[name] for name in results.contenders)] for line, cells in lines.items()]
    return table(["Metric", "Models", *results.contenders], body)


def _test_cell(row: Mapping[str, Any]) -> str:
    corrected = f"{p_text(row['p_holm'])}{escaped(stars(row['p_holm']))} / " * bool(stars(row["p"]))
    return f"{p_text(row['p'])} / {corrected}{signed(row['effect'], '.2f')}"


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
            value = value_text(metric, row.coefficient)
            if cases >= (EFFECT_CASES if position else PERCENTILE_CASES):
                ends = row.ci_low, row.ci_high
                value += f" {interval_text(*ends, METRICS[metric].decimals, sign='')}"
            cells += [value, p_text(row.p_value) if position else ""]
        rows.append([title, *cells])
    header = [""] + [text for metric in fits for text in (titled(metric), "p")]
    return markdown_table(header, rows)
