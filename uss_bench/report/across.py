"""The report across seeds: how far every number spreads when only the seed changes, and how often each strategy wins.

Single-seed conclusions of active learning studies are unsafe: the initial volumes, the weights and the order of batches move the
results about as much as the strategies do.
"""

from collections import Counter
from pathlib import Path

import numpy as np

from ..runtime import storage
from ..runtime.errors import InputError
from ..runtime.paths import REPORT, SEEDS
from ..study.keys import COLUMNS, DATA_POOL, INITIAL, ModelKey
from ..study.metrics import METRICS, PAPER_METRICS
from ..study.strategies import in_order
from .results import read_results
from .tables import by_iteration, effort_areas, markdown_table, titled, value_text

AREA = "area"


def write_across(folder, reports):
    """Write the report across seeds into `folder`, from `{seed: report folder}` of finished runs; returns its path."""
    rows, models = [], None
    for seed, report in reports.items():
        results = read_results(report)
        models = models or results.scores.keys()
        if results.scores.keys() != models:
            raise InputError(
                f"{report}: other strategies or iterations than the seeds before; run all seeds with the same options"
            )
        areas, _ = effort_areas(results)
        for key, scores in results.scores.items():
            row = key.as_row() | {
                "seed": seed,
                AREA: areas[key.strategy] if key.kind == "converged" else None,
            }
            for metric in PAPER_METRICS:
                row[metric] = float(scores[metric].mean())
                row[f"{metric}_percentile"] = float(
                    np.quantile(scores[metric], METRICS[metric].robust_quantile)
                )
            rows.append(row)
    columns = [
        *COLUMNS,
        "seed",
        *(name for metric in PAPER_METRICS for name in (metric, f"{metric}_percentile")),
        AREA,
    ]
    storage.write_csv(Path(folder) / SEEDS, columns, rows)
    return _write_report(Path(folder))


def _write_report(folder):
    rows = storage.read_csv(folder / SEEDS)
    seeds = list(dict.fromkeys(int(row["seed"]) for row in rows))
    strategies = in_order(row["strategy"] for row in rows if row["strategy"])
    iterations = sorted({int(row["iteration"]) for row in rows if row["model"] == "iteration"})
    values = {}
    for row in rows:
        key = ModelKey.from_row(row)
        for name in row.keys() - {*COLUMNS, "seed"}:
            if row[name]:
                values.setdefault((key, name), []).append(float(row[name]))

    last = iterations[-1]
    sections = [
        "# Uncertainty slice sampling benchmark across seeds",
        _summary(values, strategies, last, len(seeds)),
        f"## Converged models\n\n{_spread_note(seeds)}\n\n{_converged(values, strategies, last)}",
        "## Wins\n\nSeeds in which a strategy has the best mean; seeds in which strategies tie count for each of them.\n\n"
        + _wins(values, strategies, iterations),
        "## Effort\n\nMean DICE of the iterations' models over annotated liver slices (area under the effort curve), over seeds.\n\n"
        + markdown_table(
            ["Strategy", "mean DICE over effort"],
            [
                [strategy, _spread("DICE", values[ModelKey.of_converged(strategy, last), AREA])]
                for strategy in strategies
            ],
        ),
        *(
            f"## {titled(metric)}\n\n{_spread_note(seeds)}\n\n{_metric_by_iteration(values, strategies, iterations, metric)}"
            for metric in PAPER_METRICS
        ),
        f"Every number: [{SEEDS}]({SEEDS}). The seeds have reports of their own, with tests and provenance.",
    ]
    path = folder / REPORT
    storage.write_text(path, "\n\n".join(sections) + "\n")
    return path


def _summary(values, strategies, last, count):
    wins = _winners(values, strategies, "converged", last, "DICE", count)
    dice = {strategy: values[ModelKey.of_converged(strategy, last), "DICE"] for strategy in strategies}
    means = {strategy: np.mean(values) for strategy, values in dice.items()}
    if len(strategies) < 2:
        return f"Over {count} seeds; with one strategy, there is nothing to compare the seeds' spread with."
    between = max(means.values()) - min(means.values())
    within = np.mean([np.ptp(values) for values in dice.values()])
    text = f"Over {count} seeds, the converged models' best mean DICE is that of " + ", ".join(
        f"{strategy} in {wins[strategy]}" for strategy in strategies
    )
    text += f". The strategies' means over seeds differ by {between:.3f} at most; one strategy's mean DICE ranges over {within:.3f} "
    text += "between seeds on average. "
    return text + (
        "The seed moves results more than the strategy does."
        if within > between
        else "The strategy moves results at least as much as the seed does."
    )


def _spread_note(seeds):
    return f"Mean over the test cases: mean ± standard deviation [least, greatest] over n = {len(seeds)} seeds ({', '.join(map(str, seeds))})."


def _spread(metric, numbers):
    sd = np.std(numbers, ddof=1) if len(numbers) > 1 else np.nan
    mean, sd, low, high = (
        value_text(metric, value) for value in (np.mean(numbers), sd, min(numbers), max(numbers))
    )
    return f"{mean} ± {sd} [{low}, {high}]"


def _converged(values, strategies, last):
    names = {strategy: ModelKey.of_converged(strategy, last) for strategy in strategies} | {
        DATA_POOL.kind: DATA_POOL
    }
    rows = [
        [name, *(_spread(metric, values[key, metric]) for metric in PAPER_METRICS)]
        for name, key in names.items()
    ]
    table = markdown_table(["", *map(titled, PAPER_METRICS)], rows)
    rows = [
        [name, *(_spread(metric, values[key, f"{metric}_percentile"]) for metric in PAPER_METRICS)]
        for name, key in names.items()
    ]
    percentiles = markdown_table(["", *map(titled, PAPER_METRICS)], rows)
    return f"{table}\n\nThe 5th percentile of DICE and the 95th of the others, likewise:\n\n{percentiles}"


def _metric_by_iteration(values, strategies, iterations, metric):
    return by_iteration(strategies, iterations, lambda key: _spread(metric, values[key, metric]))


def _wins(values, strategies, iterations):
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


def _winners(values, strategies, kind, iteration, metric, count):
    """How often each strategy has the best mean, as a Counter."""
    best = max if METRICS[metric].higher_is_better else min
    wins = Counter()
    for place in range(count):
        means = {
            strategy: values[ModelKey(kind, strategy, iteration), metric][place] for strategy in strategies
        }
        wins.update(strategy for strategy, mean in means.items() if mean == best(means.values()))
    return wins
