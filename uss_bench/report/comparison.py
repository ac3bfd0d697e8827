"""The published tables beside those of a run: twin tables that spell out the direction of every difference.

The published numbers describe other data and a larger network, trained for days. They show whether a run has
the same pattern, not whether it is right.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..study.keys import DATA_POOL, ModelKey
from ..study.metrics import METRICS, PAPER_METRICS
from ..study.strategies import PAPER
from . import published
from .quantile_regression import QuantileEffects
from .results import Results
from .tables import TERM_TITLES, by_iteration
from .words import escaped, markdown_table, titled, value_text

HEADING = "**Published** (five clinical sites, 234 other test cases)"
PAPER_ITERATIONS = range(1, 6)


def published_sites() -> str:
    """Table 1 as published."""
    rows = []
    for site, data in published.sites().items():
        plane, slices = (
            f"[{low:.1f}–{high:.1f}]" for low, high in (data.inplane_spacing_mm, data.slice_spacing_mm)
        )
        counts = "/".join(str(count) for count in data.counts.values())
        size = f"{data.inplane_size} × {data.inplane_size} × [{data.slices[0]}–{data.slices[1]}]"
        rows.append([site, f"{data.volumes} ({counts})", f"{plane} × {plane} × {slices}", size])
    return f"{HEADING}\n\n" + markdown_table(
        ["Site", "Volumes (pool/val/test)", "Voxel size x × y × z [mm]", "Resolution"], rows
    )


def _in_paper(results: Results) -> list[str]:
    return [strategy for strategy in results.strategies if strategy in PAPER]


def published_training_data(results: Results) -> str:
    """Table 2 as published, with each strategy's share of the pool's slices there and here."""
    counts = published.effort()

    def cell(key: ModelKey) -> str:
        return " / ".join(str(count) for count in counts[key].values())

    def share(effort: dict[ModelKey, dict[str, int]], strategy: str, last: int) -> str:
        of_all = effort[DATA_POOL]["annotated_slices"]
        return f"{100 * effort[ModelKey.of_iteration(strategy, last)]['annotated_slices'] / of_all:.0f}%"

    shares = "; ".join(
        f"{strategy} {share(counts, strategy, PAPER_ITERATIONS[-1])} there, "
        f"{share(results.effort, strategy, results.last)} here"
        for strategy in _in_paper(results)
    )
    table = by_iteration(_in_paper(results), PAPER_ITERATIONS, cell)
    ending = f"\n\nShare of all pool slices annotated in the end: {shares}." if shares else ""
    return f"{HEADING}\n\n{table}{ending}"


def published_training_steps(results: Results) -> str:
    """Table 3 as published."""
    steps = published.training_steps()
    table = by_iteration(_in_paper(results), PAPER_ITERATIONS, steps.__getitem__, with_converged=True)
    return f"{HEADING}\n\n{table}"


def published_metric(results: Results, metric: str) -> str:
    """Tables 4-7 as published; each cell that has a counterpart says how the one here compares."""

    def cell(key: ModelKey) -> str:
        return _score(results, metric, key)

    table = f"{HEADING}\n\n{by_iteration(_in_paper(results), PAPER_ITERATIONS, cell)}"
    here, there = _orders(results, metric, "iteration")
    if not here:
        return table
    return (
        f"{table}\n\nOrder by mean in the last iteration, best first: here {', '.join(here)}; "
        f"published {', '.join(there)}."
    )


def published_converged(results: Results) -> str:
    """Table 8 as published."""
    rows = []
    for name, key in results.final_models.items():
        if key.strategy not in PAPER and key != DATA_POOL:
            continue
        there = key if key == DATA_POOL else ModelKey.of_converged(key.strategy, PAPER_ITERATIONS[-1])
        rows.append([name, *(_score(results, metric, there, key) for metric in PAPER_METRICS)])
    table = markdown_table(["", *(titled(metric) for metric in PAPER_METRICS)], rows)
    orders = "; ".join(
        "{} here {}, published {}".format(metric, *map(", ".join, _orders(results, metric, "converged")))
        for metric in PAPER_METRICS
    )
    ending = f"\n\nOrder by mean, best first: {orders}." if _in_paper(results) else ""
    return f"{HEADING}\n\n{table}{ending}"


def published_quantile_regression(fits: Mapping[str, QuantileEffects]) -> str:
    """Table 9 as published; each effect says whether that of the fits here has the same sign."""
    there = published.effects()
    rows = []
    for position, (term, title) in enumerate(TERM_TITLES.items()):
        cells = []
        for metric, fit in fits.items():
            effect = there[metric, term]
            coefficient, low, high = (
                value_text(metric, value) for value in (effect.coefficient, effect.low, effect.high)
            )
            same = "no fit here"
            if not fit.failure:
                here = round(fit.rows[position].coefficient, METRICS[metric].decimals)
                same = _compare_signs(here, effect.coefficient)
            cells += [f"{coefficient} [{low}, {high}], {same}", effect.p]
        rows.append([title, *cells])
    header = [""] + [text for metric in PAPER_METRICS for text in (titled(metric), "p")]
    return f"{HEADING}\n\n{markdown_table(header, rows)}"


def _score(results: Results, metric: str, key: ModelKey, key_here: ModelKey | None = None) -> str:
    score = published.scores()[key][metric]
    mean, std, percentile = (value_text(metric, value) for value in (score.mean, score.std, score.percentile))
    text = f"{mean} ± {std} ({percentile})" + escaped(score.stars)
    here = results.scores.get(key_here or key)
    return text if here is None else f"{text}, here {_compare(metric, here[metric].mean(), score.mean)}"


def _compare(metric: str, here: float, there: float) -> str:
    here, there = round(float(here), METRICS[metric].decimals), round(there, METRICS[metric].decimals)
    if here == there:
        return "equal"
    return "better" if (here > there) == METRICS[metric].higher_is_better else "worse"


def _compare_signs(here: float, there: float) -> str:
    return "same sign" if here * there > 0 else "opposite sign" if here * there < 0 else "zero here"


def _orders(results: Results, metric: str, kind: str) -> tuple[list[str], list[str]]:
    """Strategies by the mean of their last models, best first: here and there."""
    scores = published.scores()

    def order(mean: Callable[[str], float]) -> list[str]:
        return sorted(_in_paper(results), key=mean, reverse=METRICS[metric].higher_is_better)

    return (
        order(lambda strategy: results.scores[ModelKey(kind, strategy, results.last)][metric].mean()),
        order(lambda strategy: scores[ModelKey(kind, strategy, PAPER_ITERATIONS[-1])][metric].mean),
    )
