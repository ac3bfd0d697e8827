"""What the report shows beyond the paper: paired differences, groups of test cases, missed livers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from itertools import combinations, pairwise

import numpy as np

from ..runtime.storage import natural_key
from ..study.keys import DATA_POOL, INITIAL, ModelKey
from ..study.metrics import METRICS, PAPER_METRICS
from ..study.strategies import BASELINE, FEATURED
from .pairs import FEW
from .result_files import SIZE, SPACING
from .results import Results
from .statistics import MEAN_CASES, PERCENTILE_CASES, paired_interval
from .tables import many
from .words import interval_text, listed, markdown_table, titled, turned_table, value_text

SCAN_LENGTH = "scan length"
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


def groupings(results: Results) -> list[str]:
    """By what test cases can be grouped: see `by_group`."""
    named = {"site": results.sites, "variant": results.variants}
    return [*(title for title, groups in named.items() if any(groups)), SCAN_LENGTH]


def by_group(
    results: Results, title: str, scores: Callable[[ModelKey, str], np.ndarray] | None = None
) -> str:
    """Mean DICE / mean HD of the final models in each group of test cases, and its size in the pool.

    Parameters
    ----------
    results : Results
        Of a run.
    title : str
        What makes a group: "site", "variant" or `SCAN_LENGTH`, by thirds of the test cases.
    scores : callable, optional
        Gives the scores of a model in a metric, `(..., cases)`, if not those of the run.
    """
    group_of = {row["case_id"]: row.get(title, "") for row in results.volumes}
    if title == SCAN_LENGTH:
        group_of = _thirds_by_length(results)
    in_pool = Counter(group_of[row["case_id"]] for row in results.volumes if row.get("split") == "pool")
    groups = [group_of[case_id] for case_id in results.cases]
    scores = scores or (lambda key, metric: results.scores[key][metric])

    def cell(key: ModelKey, places: Sequence[int]) -> str:
        means = {metric: scores(key, metric)[..., places].mean() for metric in ("DICE", "HD")}
        return " / ".join(value_text(metric, mean) for metric, mean in means.items())

    rows = []
    for name in sorted(set(groups), key=natural_key):
        places = [place for place, group in enumerate(groups) if group == name]
        cells = (cell(key, places) for key in results.final_models.values())
        rows.append([name, len(places), in_pool[name], *cells])
    header = [title, "n", "in the pool", *results.final_models]
    return (turned_table if many(results.strategies) else markdown_table)(header, rows)


def _thirds_by_length(results: Results) -> dict[str, str]:
    """Of every case, in which third of the test cases its scan's length along z lies."""
    lengths = {row["case_id"]: float(row[SIZE[0]]) * float(row[SPACING[0]]) for row in results.volumes}
    edges = np.quantile([lengths[case_id] for case_id in results.cases], [0, 1 / 3, 2 / 3, 1])
    names = [f"{low:.0f} to {high:.0f} mm" for low, high in pairwise(edges)]
    return {case_id: names[np.searchsorted(edges[1:3], length)] for case_id, length in lengths.items()}


def missed_livers(results: Results) -> str:
    """All models that missed a liver altogether, with counts; empty without any."""
    missed = [f"{key.title} in {len(cases)}" for key, cases in results.missed.items() if cases]
    return f"Of {len(results.cases)} test cases: {listed(missed)}." if missed else ""
