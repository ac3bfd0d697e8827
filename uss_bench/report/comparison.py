"""What the paper published: where its tests and those of a run both speak, and its tables as they are.

The published numbers describe other data and a larger network, trained for days. They show whether a run has
the same pattern, not whether it is right.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ..study.keys import DATA_POOL, ModelKey
from ..study.metrics import METRICS, PAPER_METRICS
from ..study.strategies import PAPER
from . import published
from .quantile_regression import QuantileEffects
from .results import Results
from .signed_rank import stars
from .statistics import best_by_mean
from .tables import TERM_TITLES, AllTests
from .words import escaped, markdown_table, titled, value_text

LAST = 5  # iteration of the paper


# --- here and published ---


def supported(tests: AllTests, fits: Mapping[str, QuantileEffects]) -> str:
    """What is supported by p < 0.05 both here and in the paper: how often it agrees, and a table.

    Parameters
    ----------
    tests : mapping
        `{kind of model: {metric: tests}}`; of the iterations, the last one stands beside the paper's last.
    fits : mapping
        `{metric: regression of Table 9}`.
    """
    found = [*_supported_pairs(tests), *_supported_effects(fits)]
    if not found:
        return "none."
    agree, rows = zip(*found, strict=True)
    table = markdown_table(["", "Metric", "published", "here"], rows)
    return f"{sum(agree)} of {len(agree)} have the same direction.\n\n{table}"


def _supported_pairs(tests: AllTests) -> Iterator[tuple[bool, list[str]]]:
    """Pairs of strategies that were tested both here and there: one is the best here, one the best there.

    Each with whether that is the same one.
    """
    for kind, title in (("iteration", "Last iteration"), ("converged", "Final models")):
        for metric in PAPER_METRICS:
            last = list(tests[kind][metric].values())[-1]
            for strategy, test in last.items():
                pair = {strategy, test.best}
                there = _best_published(metric, kind)
                if not test.stars or there not in pair or not pair <= set(PAPER):
                    continue
                (other,) = pair - {there}
                marks = published.scores()[ModelKey(kind, other, LAST)][metric].stars
                if marks:
                    names = ", ".join(name for name in PAPER if name in pair)
                    ahead = [
                        f"{best} ahead{escaped(found)}"
                        for best, found in ((there, marks), (test.best, test.stars))
                    ]
                    yield there == test.best, [f"{title}: {names}", metric, *ahead]


def _best_published(metric: str, kind: str) -> str:
    scores = published.scores()
    means = {name: [scores[ModelKey(kind, name, LAST)][metric].mean] for name in PAPER}
    return best_by_mean(means, METRICS[metric].higher_is_better)


def _supported_effects(fits: Mapping[str, QuantileEffects]) -> Iterator[tuple[bool, list[str]]]:
    """Effects of Table 9; the paper's support is an interval that leaves out zero, as it says itself.

    Each with whether its sign is the same.
    """
    for metric, fit in fits.items():
        for row in fit.rows:
            there = published.effects()[metric, row.term]
            if stars(row.p_value) and there.low * there.high > 0:
                numbers = [value_text(metric, value) for value in (there.coefficient, row.coefficient)]
                agree = there.coefficient * row.coefficient > 0
                yield agree, [TERM_TITLES[row.term], titled(metric), *numbers]


def shares(results: Results) -> str:
    """Each strategy's share of the pool's slices in the end, there and here; empty if none is the paper's."""
    counts = published.effort()

    def share(effort: Mapping[ModelKey, Mapping[str, int]], strategy: str, last: int) -> str:
        of_all = effort[DATA_POOL]["annotated_slices"]
        return f"{100 * effort[ModelKey.of_iteration(strategy, last)]['annotated_slices'] / of_all:.0f}%"

    parts = [
        f"{strategy} {share(results.effort, strategy, results.last)} (published "
        f"{share(counts, strategy, LAST)})"
        for strategy in results.strategies
        if strategy in PAPER
    ]
    return f"Share of all pool slices annotated in the end: {', '.join(parts)}." if parts else ""


# --- the published tables ---


def published_tables() -> Iterator[str]:
    """Tables 1 to 9 of the paper, each with its name; 2 to 8, which are on the same models, as one."""
    yield f"**Table 1. Data**\n\n{_sites()}"
    yield (
        "**Tables 2 to 8.** Annotated slices / annotated liver slices / patients; training steps; scores. "
        "The pool's 242 patients are as published; Table 1 sums to 240."
        f"\n\n{_models()}"
    )
    yield f"**Table 9. Effects of uncertainty and slice sampling**\n\n{_effects()}"


def _sites() -> str:
    rows = []
    for site, data in published.sites().items():
        plane, slices = (
            f"[{low:.1f}–{high:.1f}]" for low, high in (data.inplane_spacing_mm, data.slice_spacing_mm)
        )
        counts = "/".join(str(count) for count in data.counts.values())
        size = f"{data.inplane_size} × {data.inplane_size} × [{data.slices[0]}–{data.slices[1]}]"
        rows.append([site, f"{data.volumes} ({counts})", f"{plane} × {plane} × {slices}", size])
    return markdown_table(
        ["Site", "Volumes (pool/val/test)", "Voxel size x × y × z [mm]", "Resolution"], rows
    )


def _models() -> str:
    efforts, steps, scores = published.effort(), published.training_steps(), published.scores()
    rows = []
    for key in [*(key for key in scores if key != DATA_POOL), DATA_POOL]:
        effort = " / ".join(map(str, efforts.get(key, {}).values()))
        rows.append(
            [
                key.title,
                effort,
                steps[key],
                *(_score(metric, scores[key][metric]) for metric in PAPER_METRICS),
            ]
        )
    return markdown_table(["Model", "annotated", "steps", *map(titled, PAPER_METRICS)], rows)


def _score(metric: str, score: published.PublishedScore) -> str:
    mean, std, percentile = (value_text(metric, value) for value in (score.mean, score.std, score.percentile))
    return f"{mean} ± {std} ({percentile})" + escaped(score.stars)


def _effects() -> str:
    rows = []
    for term, title in TERM_TITLES.items():
        cells = []
        for metric in PAPER_METRICS:
            effect = published.effects()[metric, term]
            value, low, high = (
                value_text(metric, number) for number in (effect.coefficient, effect.low, effect.high)
            )
            cells += [f"{value} [{low}, {high}]", effect.p]
        rows.append([title, *cells])
    return markdown_table([""] + [text for metric in PAPER_METRICS for text in (titled(metric), "p")], rows)
