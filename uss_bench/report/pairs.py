"""Which pairs of strategies are compared across seeds, in what, and what came out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from ..runtime import paths, storage
from ..study.metrics import METRICS, PAPER_METRICS
from ..study.strategies import BASELINE, FEATURED
from .seeds import Seeds
from .statistics import holm
from .tables import metrics_of
from .verdicts import PairedDifference, paired_difference

COMPARED = ("DICE", "MSD", "HD")
# Half the region of practical equivalence. The median gain that papers claim is 0.01 DICE (arXiv 2505.04720);
# for distances there is no such custom, so nothing is called equivalent by them. Nor by areas: all curves
# begin at the initial model, so areas lie closer together than the models that curves end with.
ROPES = {"DICE": 0.01}
AREA = "effort curve"  # the budget of areas, which are over all iterations
FEW = 4  # strategies of which every pair is shown


@dataclass(frozen=True)
class Comparison:
    """One pair of strategies in one metric at one budget.

    Attributes
    ----------
    metric, budget : str
        Name of the metric, and title of the `Budget` or `AREA`.
    first, second : str
        Names of the strategies.
    found : PairedDifference
        First minus second.
    p_holm : float or None
        Its p after Holm's correction for all pairs of this metric at this budget.
    in_pool_mix : float or None
        The mean difference with the variants of patients as frequent as in the pool (`Results.pool_mix`).
    """

    metric: str
    budget: str
    first: str
    second: str
    found: PairedDifference
    p_holm: float | None
    in_pool_mix: float | None

    @property
    def decided(self) -> bool:
        """Whether one of the two is better."""
        return self.found.verdict in ("better", "worse")

    @property
    def holds(self) -> bool:
        """Whether one of the two is better after Holm's correction too."""
        return self.decided and self.p_holm is not None and self.p_holm < 0.05


def compared_metrics(seeds: Seeds) -> list[str]:
    """`COMPARED`, then the metrics that the paper lacks, where the results have any."""
    return [*COMPARED, *(metric for metric in metrics_of(seeds.first) if metric not in PAPER_METRICS)]


def compare_all(seeds: Seeds) -> list[Comparison]:
    """Every pair of contenders in every compared metric, at every budget and by the effort curve."""
    metrics = compared_metrics(seeds)
    families = [
        (metric, budget.title, {name: seeds.scores(budget.key(name), metric) for name in seeds.contenders})
        for metric in metrics
        for budget in seeds.budgets
    ]
    if seeds.overlapping:
        families += [
            (metric, AREA, {name: seeds.areas(name, metric) for name in seeds.contenders})
            for metric in metrics
        ]
    return [comparison for family in families for comparison in _compare(*family, mix=seeds.first.pool_mix)]


def rope_of(metric: str, budget: str) -> float:
    """Half the region of practical equivalence of a comparison; 0 where it has none."""
    return 0.0 if budget == AREA else ROPES.get(metric, 0.0)


def _compare(
    metric: str, budget: str, scores: dict[str, np.ndarray], mix: np.ndarray | None
) -> list[Comparison]:
    """All pairs of a family, over which p values are corrected."""
    better, rope = METRICS[metric].higher_is_better, rope_of(metric, budget)
    found = {
        (first, second): paired_difference(scores[first], scores[second], better, rope)
        for first, second in combinations(scores, 2)
    }
    corrected = corrected_p(list(found.values()))
    return [
        Comparison(metric, budget, *names, each, p, _weighted(*(scores[name] for name in names), mix))
        for (names, each), p in zip(found.items(), corrected, strict=True)
    ]


def _weighted(first: np.ndarray, second: np.ndarray, mix: np.ndarray | None) -> float | None:
    """Mean difference of `(seeds, cases)` with weighted cases; None without weights."""
    return None if mix is None else float(((first - second) @ mix).mean())


def corrected_p(found: Sequence[PairedDifference]) -> Sequence[float | None]:
    """Their p values after Holm's correction; None where they have none."""
    p_values = [each.p for each in found]
    return p_values if None in p_values else holm(p_values)


def chosen(comparisons: Sequence[Comparison], metric: str, budget: str) -> list[Comparison]:
    """Those of a metric at a budget."""
    return [each for each in comparisons if (each.metric, each.budget) == (metric, budget)]


def highlighted(strategies: Sequence[str]) -> list[str]:
    """Strategies that there is room for: all of few, else the featured one and the baseline, or the first."""
    if len(strategies) <= FEW:
        return list(strategies)
    return [name for name in strategies if name in (FEATURED, BASELINE)] or list(strategies[:1])


def shown(comparisons: Sequence[Comparison], strategies: Sequence[str]) -> list[Comparison]:
    """Pairs that there is room for: those that a highlighted strategy takes part in."""
    names = highlighted(strategies)
    return [each for each in comparisons if each.first in names or each.second in names]


def write_comparisons(folder: str | Path, comparisons: Sequence[Comparison]) -> None:
    """Write every comparison to `results/comparisons.csv` of a folder."""
    columns = ["metric", "budget", "first", "second", *(field.name for field in fields(PairedDifference))]
    rows: list[dict[str, Any]] = [{**vars(each), **asdict(each.found)} for each in comparisons]
    storage.write_csv(Path(folder) / paths.COMPARISONS, [*columns, "p_holm", "in_pool_mix"], rows)
