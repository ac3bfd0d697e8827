"""The report across seeds: how far every number spreads when only the seed changes, and how often each wins.

Conclusions of active learning studies from a single seed are unsafe: the initial volumes, the weights and the
order of batches move the results about as much as the strategies do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..runtime import storage
from ..runtime.errors import InputError
from ..runtime.paths import REPORT, SEEDS
from ..study.keys import COLUMNS, DATA_POOL, INITIAL, ModelKey
from ..study.metrics import METRICS, PAPER_METRICS
from ..study.strategies import in_order
from .results import Results, read_results
from .tables import by_iteration, effort_areas
from .words import markdown_table, titled, value_text

AREA = "area"

# `{(model, column of seeds.csv): one number per seed}`
Values = Mapping[tuple[ModelKey, str], Sequence[float]]


def write_across(folder: str | Path, reports: Mapping[int, str | Path]) -> Path:
    """Write the report across seeds.

    Parameters
    ----------
    folder : path
        Where it is written.
    reports : mapping
        `{seed: report folder}` of finished runs.

    Returns
    -------
    Path
        Of the report.

    Raises
    ------
    InputError
        A result file is missing, or the runs have different strategies or iterations.
    """
    rows, models = [], None
    for seed, report in reports.items():
        results = read_results(report)
        models = models or results.scores.keys()
        if results.scores.keys() != models:
            raise InputError(
                f"{report}: other strategies or iterations than the seeds before; "
                "run all seeds with the same options"
            )
        rows += _seed_rows(seed, results)
    metric_columns = [name for metric in PAPER_METRICS for name in (metric, f"{metric}_percentile")]
    storage.write_csv(Path(folder) / SEEDS, [*COLUMNS, "seed", *metric_columns, AREA], rows)
    return _write_report(Path(folder))


def _seed_rows(seed: int, results: Results) -> list[dict[str, Any]]:
    """One row per model: mean and percentile of each metric, and the area under the effort curve."""
    areas, _ = effort_areas(results)
    rows = []
    for key, scores in results.scores.items():
        row = {**key.as_row(), "seed": seed, AREA: areas[key.strategy] if key.kind == "converged" else None}
        for metric in PAPER_METRICS:
            quantile = METRICS[metric].robust_quantile
            row[metric] = float(scores[metric].mean())
            row[f"{metric}_percentile"] = float(np.quantile(scores[metric], quantile))
        rows.append(row)
    return rows


def _write_report(folder: Path) -> Path:
    rows = storage.read_csv(folder / SEEDS)
    seeds = list(dict.fromkeys(int(row["seed"]) for row in rows))
    strategies = in_order(row["strategy"] for row in rows if row["strategy"])
    iterations = sorted({int(row["iteration"]) for row in rows if row["model"] == "iteration"})
    values: dict[tuple[ModelKey, str], list[float]] = {}
    for row in rows:
        key = ModelKey.from_row(row)
        for name in row.keys() - {*COLUMNS, "seed"}:
            if row[name]:
                values.setdefault((key, name), []).append(float(row[name]))

    last, spread = iterations[-1], _spread_note(seeds)
    sections = [
        "# Uncertainty slice sampling benchmark across seeds",
        _summary(values, strategies, last, len(seeds)),
        f"## Converged models\n\n{spread}\n\n{_converged(values, strategies, last)}",
        "## Wins\n\nSeeds in which a strategy has the best mean; seeds in which strategies tie count for "
        f"each of them.\n\n{_wins(values, strategies, iterations)}",
        "## Effort\n\nMean DICE of the iterations' models over annotated liver slices (area under the effort "
        f"curve), over seeds.\n\n{_areas(values, strategies, last)}",
        *(
            f"## {titled(metric)}\n\n{spread}\n\n{_by_iteration(values, strategies, iterations, metric)}"
            for metric in PAPER_METRICS
        ),
        f"Every number: [{SEEDS}]({SEEDS}). The seeds have reports of their own, with tests and provenance.",
    ]
    path = folder / REPORT
    storage.write_text(path, "\n\n".join(sections) + "\n")
    return path


def _summary(values: Values, strategies: Sequence[str], last: int, count: int) -> str:
    if len(strategies) < 2:
        return f"Over {count} seeds; with one strategy, there is nothing to compare the seeds' spread with."
    wins = _winners(values, strategies, "converged", last, "DICE", count)
    dice = {strategy: values[ModelKey.of_converged(strategy, last), "DICE"] for strategy in strategies}
    means = [np.mean(numbers) for numbers in dice.values()]
    between = max(means) - min(means)
    within = np.mean([np.ptp(numbers) for numbers in dice.values()])
    won = ", ".join(f"{strategy} in {wins[strategy]}" for strategy in strategies)
    verdict = (
        "The seed moves results more than the strategy does."
        if within > between
        else "The strategy moves results at least as much as the seed does."
    )
    return (
        f"Over {count} seeds, the best mean DICE of the converged models is that of {won}. The strategies' "
        f"means over seeds differ by at most {between:.3f}; one strategy's mean DICE ranges over "
        f"{within:.3f} between seeds on average. {verdict}"
    )


def _spread_note(seeds: Sequence[int]) -> str:
    return (
        "Mean over the test cases: mean ± standard deviation [least, greatest] over "
        f"n = {len(seeds)} seeds ({', '.join(map(str, seeds))})."
    )


def _spread(metric: str, numbers: Sequence[float]) -> str:
    sd = np.std(numbers, ddof=1) if len(numbers) > 1 else np.nan
    mean, sd, low, high = (
        value_text(metric, value) for value in (np.mean(numbers), sd, min(numbers), max(numbers))
    )
    return f"{mean} ± {sd} [{low}, {high}]"


def _converged(values: Values, strategies: Sequence[str], last: int) -> str:
    keys = {strategy: ModelKey.of_converged(strategy, last) for strategy in strategies}
    keys[DATA_POOL.kind] = DATA_POOL

    def table(ending: str) -> str:
        rows = [
            [name, *(_spread(metric, values[key, f"{metric}{ending}"]) for metric in PAPER_METRICS)]
            for name, key in keys.items()
        ]
        return markdown_table(["", *map(titled, PAPER_METRICS)], rows)

    return (
        f"{table('')}\n\nThe 5th percentile of DICE and the 95th of the others, likewise:\n\n"
        f"{table('_percentile')}"
    )


def _areas(values: Values, strategies: Sequence[str], last: int) -> str:
    rows = [
        [strategy, _spread("DICE", values[ModelKey.of_converged(strategy, last), AREA])]
        for strategy in strategies
    ]
    return markdown_table(["Strategy", "mean DICE over effort"], rows)


def _by_iteration(values: Values, strategies: Sequence[str], iterations: Sequence[int], metric: str) -> str:
    return by_iteration(strategies, iterations, lambda key: _spread(metric, values[key, metric]))


def _wins(values: Values, strategies: Sequence[str], iterations: Sequence[int]) -> str:
    models = [
        *((f"iter. {k}", "iteration", k) for k in iterations),
        ("converged", "converged", iterations[-1]),
    ]
    count = len(values[INITIAL, "DICE"])
    rows = []
    for title, kind, iteration in models:
        for metric in PAPER_METRICS:
            wins = _winners(values, strategies, kind, iteration, metric, count)
            rows.append([title, metric, *(wins[strategy] for strategy in strategies)])
    return markdown_table(["Models", "Metric", *strategies], rows)


def _winners(
    values: Values, strategies: Sequence[str], kind: str, iteration: int, metric: str, count: int
) -> Counter[str]:
    """How often each strategy has the best mean."""
    best = max if METRICS[metric].higher_is_better else min
    wins: Counter[str] = Counter()
    for place in range(count):
        means = {
            strategy: values[ModelKey(kind, strategy, iteration), metric][place] for strategy in strategies
        }
        wins.update(strategy for strategy, mean in means.items() if mean == best(means.values()))
    return wins
