"""What the report shows beyond the paper: paired differences, groups of test cases, missed livers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from itertools import combinations

import numpy as np

from ..study.keys import DATA_POOL, INITIAL, ModelKey
from ..study.metrics import METRICS, PAPER_METRICS
from ..study.strategies import BASELINE, FEATURED
from .pairs import FEW
from .results import Results
from .statistics import MEAN_CASES, PERCENTILE_CASES, paired_interval
from .tables import many
from .words import interval_text, listed, markdown_table, titled, turned_table, value_text

Pair = tuple[tuple[str, ModelKey], tuple[str, ModelKey]]  # names and keys of two models


def mean_differences(results: Results) -> str:
    """Paired differences of means, of final and retrained models; with intervals from `MEAN_CASES` on."""
    return _table(results, [*_pairs(results), *retrained_pairs(results)], lambda metric: np.mean)


def percentile_differences(results: Results) -> str:
    """Likewise of the 5th or 95th percentile; empty with too few cases for an interval of it."""
    if len(results.cases) < PERCENTILE_CASES:
        return ""
    quantile_of = {metric: METRICS[metric].robust_quantile for metric in PAPER_METRICS}
    return _table(results, _pairs(results), lambda metric: partial(np.quantile, q=quantile_of[metric]))


def retrained_pairs(results: Results) -> list[Pair]:
    """Models of the same annotations under other batches, and twins under other weights too."""
    return [
        *(((key.title, key), (INITIAL.title, INITIAL)) for key in results.twins),
        *(
            ((f"{final.strategy} final", final), (f"iteration {results.last}", last))
            for final, last in results.repeated
        ),
    ]


def _table(
    results: Results, pairs: Sequence[Pair], statistic_of: Callable[[str], Callable[..., np.ndarray]]
) -> str:
    seed, rows = results.provenance["seed"], []
    for (first, one), (second, other) in pairs:
        cells = []
        for metric in PAPER_METRICS:
            values, statistic = [results.scores[key][metric] for key in (one, other)], statistic_of(metric)
            text = value_text(metric, statistic(values[0]) - statistic(values[1]))
            if len(results.cases) >= MEAN_CASES:
                ends = paired_interval(*values, statistic, seed)
                text += f" {interval_text(*ends, METRICS[metric].decimals, sign='')}"
            cells.append(text)
        rows.append([f"{first} − {second}", *cells])
    return markdown_table(["Models", *map(titled, PAPER_METRICS)], rows)


def _pairs(results: Results) -> list[Pair]:
    """Pairs of final models: all, or of many strategies those with the featured, the baseline or the pool."""
    anchors = {FEATURED, BASELINE, DATA_POOL.kind}
    compared = {*results.contenders, DATA_POOL.kind}
    pairs = combinations(((name, key) for name, key in results.final_models.items() if name in compared), 2)
    few = len(results.contenders) <= FEW
    return [pair for pair in pairs if few or anchors & {name for name, _ in pair}]


def by_group(results: Results, title: str) -> str:
    """Mean DICE / mean HD of the final models in each group of test cases, and its size in the pool.

    Parameters
    ----------
    results : Results
        Of a run.
    title : str
        What makes a group: "site" or "variant".
    """
    groups = {"site": results.sites, "variant": results.variants}[title]
    in_pool = Counter(row[title] for row in results.volumes if row["split"] == "pool")

    def cell(key: ModelKey, places: Sequence[int]) -> str:
        means = {metric: results.scores[key][metric][places].mean() for metric in ("DICE", "HD")}
        return " / ".join(value_text(metric, mean) for metric, mean in means.items())

    rows = []
    for name in sorted(set(groups)):
        places = [place for place, group in enumerate(groups) if group == name]
        cells = (cell(key, places) for key in results.final_models.values())
        rows.append([name, len(places), in_pool[name], *cells])
    header = [title, "n", "in the pool", *results.final_models]
    return (turned_table if many(results.strategies) else markdown_table)(header, rows)


def missed_livers(results: Results) -> str:
    """All models that missed a liver altogether, with counts; empty without any."""
    missed = [f"{key.title} in {len(cases)}" for key, cases in results.missed.items() if cases]
    return f"Of {len(results.cases)} test cases: {listed(missed)}." if missed else ""
