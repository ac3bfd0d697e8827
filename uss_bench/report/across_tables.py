"""Tables of the report across seeds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..data.manifest import SPLITS
from ..study.keys import DATA_POOL, INITIAL, ModelKey
from ..study.metrics import METRICS, PAPER_METRICS
from .crossed import COMPONENTS, crossed_mean, mean_squares, scale_limits, variance_components
from .pairs import COMPARED, Comparison
from .seeds import Budget, Seeds
from .summary import MIXED
from .tables import by_iteration, metrics_of
from .verdicts import MOST_SEEDS, PairedDifference, has_interval, win_matrix
from .words import (
    commit_text,
    interval_text,
    listed,
    markdown_table,
    p_text,
    signed,
    span,
    titled,
    value_text,
)


def key_table(seeds: Seeds) -> str:
    """What initial, final and data pool models were trained on, how long, and their means, over seeds."""
    final = {f"{name} ({seeds.final_word})": seeds.final.key(name) for name in seeds.strategies}
    shown = {INITIAL.kind: INITIAL, **final, DATA_POOL.kind: DATA_POOL}
    metrics = metrics_of(seeds.first)
    rows = [
        [
            name,
            mean_and_deviation(seeds.effort(key), ".0f"),
            mean_and_deviation(seeds.liver_free(key), ".0f"),
            span(min(seeds.steps(key)), max(seeds.steps(key))),
            *(mean_and_deviation(seeds.means(key, metric), _format(metric)) for metric in metrics),
        ]
        for name, key in shown.items()
    ]
    header = ["Model", "equivalent slices", "slices without liver", "training steps", *map(titled, metrics)]
    mix = seeds.first.pool_mix
    if mix is not None:
        header.append(MIXED)
        for row, key in zip(rows, shown.values(), strict=True):
            row.append(mean_and_deviation(seeds.scores(key, "DICE") @ mix, _format("DICE")))
    return markdown_table(header, rows)


def mean_and_deviation(numbers: np.ndarray, pattern: str) -> str:
    """Mean ± standard deviation of at least two numbers.

    >>> mean_and_deviation(np.array([1.0, 3.0]), ".2f")
    '2.00 ± 1.41'
    """
    return f"{numbers.mean():{pattern}} ± {numbers.std(ddof=1):{pattern}}"


def _format(metric: str) -> str:
    return f".{METRICS[metric].decimals}f"


# --- pairs of strategies ---


def pair_table(seeds: Seeds, comparisons: Sequence[Comparison]) -> str:
    """Comparisons of one metric, one per row; verdicts that hold after Holm's correction are bold."""
    ranked = any(each.found.p_ranks is not None for each in comparisons)
    mixed = any(each.in_pool_mix is not None for each in comparisons)
    rows = []
    for each in comparisons:
        found = each.found
        p_values = [each.p_holm, *[found.p_ranks] * ranked]
        rows.append([
            f"{each.first} − {each.second}",
            seeds.words_for(each.budget), difference_text(found, each.metric),
            *([signed(each.in_pool_mix, _format(each.metric))] if mixed else []),
            _improvement_text(found, len(seeds.runs) * len(seeds.first.cases)), *map(p_text, p_values),
            f"**{found.verdict}**" if each.holds else found.verdict, seeds_text(found.seeds_needed),
        ])  # fmt: skip
    header = ["Pair", "Models", "mean difference [95%]", *["in the pool's mix"] * mixed]
    header += ["P(first scores better) [95%]", "p (Holm)", *["p (ranks)"] * ranked]
    return markdown_table([*header, "the first is", "seeds to decide"], rows)


def difference_text(found: PairedDifference, metric: str) -> str:
    """Mean difference and its 95% interval, where it has one."""
    mean = signed(found.mean, _format(metric))
    if found.low is None:
        return mean
    return f"{mean} {interval_text(found.low, found.high, METRICS[metric].decimals)}"


def _improvement_text(found: PairedDifference, scores: int) -> str:
    """The share of scores that the first won, and its interval; of how many, where it won all or none."""
    if found.improvement in (0, 1):
        return f"{found.improvement:.0f} ({'all' if found.improvement else 'none'} of {scores})"
    if found.improvement_low is None:
        return f"{found.improvement:.2f}"
    return f"{found.improvement:.2f} [{found.improvement_low:.2f}, {found.improvement_high:.2f}]"


def seeds_text(needed: float | None) -> str:
    """Seeds that would decide, from 20 on rounded up to tens: they are known no better.

    >>> seeds_text(11), seeds_text(31), seeds_text(2000), seeds_text(float("inf")), seeds_text(None)
    ('~11', '~40', '> 100', 'never', '')
    """
    if needed is None:
        return ""
    if needed > MOST_SEEDS:
        return f"> {MOST_SEEDS}" if np.isfinite(needed) else "never"
    unit = 1 if needed < 20 else 10
    return f"~{-(-needed // unit) * unit}"


def wins(seeds: Seeds, metric: str) -> str:
    """In how many settings the row's strategy has a better mean than the column's."""
    means = [
        np.concatenate([seeds.means(budget.key(name), metric) for budget in seeds.budgets])
        for name in seeds.contenders
    ]
    counts = win_matrix(np.array(means), METRICS[metric].higher_is_better)
    rows = [
        [name, *("" if i == j else count for j, count in enumerate(row))]
        for i, (name, row) in enumerate(zip(seeds.contenders, counts, strict=True))
    ]
    return markdown_table([metric, *seeds.contenders], rows)


def areas(seeds: Seeds) -> str:
    """Mean height of the DICE curve of each strategy, seed by seed, with the range that it is taken over."""
    heights = {name: seeds.areas(name, "DICE").mean(axis=1) for name in seeds.contenders}
    rows = [
        [f"seed {seed} ({start:.0f} to {stop:.0f})", *(f"{height[place]:.3f}" for height in heights.values())]
        for place, (seed, (start, stop)) in enumerate(zip(seeds.numbers, seeds.ranges, strict=True))
    ]
    rows.append(["mean ± sd", *(mean_and_deviation(height, ".3f") for height in heights.values())])
    if has_interval(len(seeds.runs), len(seeds.first.cases)):
        found = [crossed_mean(seeds.areas(name, "DICE")).interval for name in heights]
        rows.append(["95%, over seeds and cases", *(interval_text(*ends, 3, sign="") for ends in found)])
    return markdown_table(["Seed (equivalent slices)", *heights], rows)


# --- what moves a score ---


def components(seeds: Seeds) -> str:
    """Standard deviation of each variance component, for the final models and the last iteration's."""
    budgets = [seeds.final, seeds.by_iteration[-1]]
    found = {
        (metric, budget): variance_components(_contenders_scores(seeds, budget, metric))
        for metric in COMPARED
        for budget in budgets
    }
    rows = [
        [
            source,
            *(
                f"{value_text(metric, parts[source] ** 0.5)} ({_share(parts, source)})"
                for (metric, _), parts in found.items()
            ),
        ]
        for source in COMPONENTS
    ]
    words = [seeds.words_for(budget.title) for budget in budgets]
    header = [f"{titled(metric)}, {word}" for metric in COMPARED for word in words]
    return markdown_table(["Source", *header], rows)


def _contenders_scores(seeds: Seeds, budget: Budget, metric: str) -> np.ndarray:
    """`(strategies, seeds, cases)`."""
    return np.array([seeds.scores(budget.key(name), metric) for name in seeds.contenders])


def unshared_deviation(seeds: Seeds, budget: Budget, metric: str) -> tuple[float, float, float]:
    """Standard deviation of one model's mean over the cases by what the models of a seed do not share.

    That is the mean square of strategy × seed, which holds the rest too, over the number of cases. Its 95%
    interval follows.
    """
    square, freedom = mean_squares(_contenders_scores(seeds, budget, metric))[0, 1]
    deviation = (square / len(seeds.first.cases)) ** 0.5
    low, high = (limit * deviation for limit in scale_limits(freedom))
    return deviation, low, high


def _share(variances: dict[str, float], source: str) -> str:
    total = sum(variances.values())
    return f"{100 * variances[source] / total:.0f}%" if total else "0%"


# --- every mean ---


def spreads(seeds: Seeds, metric: str) -> str:
    """Mean ± standard deviation and extremes over seeds of every model's mean."""

    def cell(key: ModelKey) -> str:
        return spread(metric, seeds.means(key, metric))

    return by_iteration(seeds.strategies, seeds.first.iterations, cell, seeds.final_word)


def spread(metric: str, numbers: np.ndarray) -> str:
    """Mean ± standard deviation [least, greatest]."""
    low, high = (value_text(metric, value) for value in (numbers.min(), numbers.max()))
    return f"{mean_and_deviation(numbers, _format(metric))} [{low}, {high}]"


def percentiles(seeds: Seeds) -> str:
    """The percentile of poor cases of the final models, over seeds."""
    rows = []
    for name, key in seeds.first.final_models.items():
        cells = [
            spread(metric, np.quantile(seeds.scores(key, metric), METRICS[metric].robust_quantile, axis=1))
            for metric in PAPER_METRICS
        ]
        rows.append([name, *cells])
    return markdown_table(["", *map(titled, PAPER_METRICS)], rows)


def headrooms(seeds: Seeds) -> str:
    """Of each seed, initial and data pool model, and how far the twins lie from the initial one."""
    initial, pool = (seeds.means(key, "DICE") for key in (INITIAL, DATA_POOL))
    twins = [seeds.means(key, "DICE") - initial for key in seeds.twins]
    rows = [
        [
            seed,
            *(f"{value:.3f}" for value in (initial[place], pool[place])),
            signed(pool[place] - initial[place], ".3f"),
            ", ".join(signed(shift[place], ".3f") for shift in twins) or "none",
        ]
        for place, seed in enumerate(seeds.numbers)
    ]
    return markdown_table(["Seed", "initial DICE", "data pool DICE", "headroom", "twins − initial"], rows)


def origins(seeds: Seeds) -> str:
    """Commit, device and libraries, each once with the seeds that it is of; manifest and settings of all."""
    lines = []
    for what, text_of in (("Commit", _commit), ("Device", _device), ("Libraries", _libraries)):
        of: dict[str, list[int]] = {}
        for seed, run in seeds.runs.items():
            of.setdefault(text_of(run.provenance), []).append(seed)
        texts = [
            text if len(of) == 1 else f"{text} (seed{'s' * (len(numbers) > 1)} {listed(map(str, numbers))})"
            for text, numbers in of.items()
        ]
        lines.append(f"{what}: {'; '.join(texts)}.")
    shared, splits = seeds.first.provenance, Counter(row.get("split") for row in seeds.first.volumes)
    cases = ", ".join(f"{split} {splits[split]}" for split in SPLITS)
    lines.append(f"Manifest: SHA-256 {shared['manifest_sha256']} ({cases}).")
    return " ".join([*lines, f"Settings: SHA-256 {shared['config_sha256']}."])


def _commit(origin: Mapping[str, Any]) -> str:
    return commit_text(origin["git"])


def _device(origin: Mapping[str, Any]) -> str:
    return origin["device"]


def _libraries(origin: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {version}" for name, version in origin["libraries"].items())


def seed_rows(seeds: Seeds) -> tuple[Sequence[str], list[dict]]:
    """Columns and rows of `results/seeds.csv`: effort, means and percentiles of every model and seed."""
    rows = []
    for place, (seed, run) in enumerate(seeds.runs.items()):
        for key, scores in run.scores.items():
            row = {**key.as_row(), "seed": seed, "equivalent_slices": seeds.effort(key)[place]}
            for metric in metrics_of(seeds.first):
                row[metric] = float(scores[metric].mean())
                quantile = METRICS[metric].robust_quantile
                row[f"{metric}_percentile"] = float(np.quantile(scores[metric], quantile))
            rows.append(row)
    return list(rows[0]), rows
