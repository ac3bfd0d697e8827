"""The section "How good are the uncertainties?", which the paper lacks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..study.keys import ModelKey
from ..study.strategies import in_order
from .results import Results
from .uncertainty_statistics import (
    DISTANCES,
    RIGHT,
    PoolSlices,
    Uncertainties,
    by_distance,
    partly_annotated,
    rank_correlation,
    risk_coverage,
)
from .words import markdown_table, ordinal

TITLE = "## How good are the uncertainties?"


NONE = (
    "These results hold no slices of the pool under models that queried: no strategy that needs a model's "
    "scores ran, or an earlier version wrote them."
)
INTRODUCTION = (
    "Models that scored the pool for queries, on slices not yet annotated, on the working grid; the pool's "
    "references were read for this after the last query. An error is a voxel in which the mean of the Monte "
    "Carlo passes, cut at one half, differs from the reference. The numbers describe the models of one run."
)
RANKING = (
    "ρ: Spearman's rank correlation of a slice's uncertainty with its errors, for slices with and without "
    "liver in the reference; *by size*: that of the predicted liver's size, a baseline; *free : liver*: "
    "mean uncertainty of liver-free slices over that of liver slices. AURC: mean errors per slice of the "
    "least uncertain slices, averaged over every coverage; E-AURC: its excess over the best possible order "
    "(Geifman et al., ICLR 2019); gain: 0 for a random order, 1 for the best. ECE: mean absolute "
    "difference between share of liver and mean probability, kept in steps of 1/255, in 15 bins of equal "
    "width, weighted by voxels, so that background decides (Guo et al., ICML 2017); ACE: all bins alike "
    "(Neumann et al., 2018)."
)
LESSONS = (
    f"Queried slices on which the querying model was right already (slice DICE of at least {RIGHT:g}; 1 "
    "where liver is neither there nor predicted); in brackets the same share of all open slices that it "
    "scored, which chance would meet. –: after the first query, strategies that need no model's scores. A "
    "queried volume counts with all its slices."
)
DISTANCE = (
    "Mean slice DICE (n) of slices that show liver, by the distance to the nearest annotated slice of the "
    "same volume; a slice enters once per model of the strategy that scored the pool. The columns differ not "
    "only in distance, but also in the places within the liver and in the volumes."
)


def section(results: Results, picture: str | None = None) -> Iterator[str]:
    """Markdown of the section, block by block; `picture` is its figure."""
    found = results.uncertainties
    yield f"{TITLE}\n\n{INTRODUCTION if found else NONE}"
    if found is None:
        return
    yield f"### Do they rank errors, and is the mean calibrated?\n\n{ranking_table(found)}\n\n{RANKING}"
    if picture:
        yield picture
    yield f"### Was there anything to learn from queried slices?\n\n{lessons_table(found)}\n\n{LESSONS}"
    if distances := distance_table(found):
        yield f"### Does the error grow with the distance to an annotated slice?\n\n{distances}\n\n{DISTANCE}"


def ranking_table(found: Uncertainties) -> str:
    """Rank correlations, risk-coverage and calibration of each model."""
    rows = []
    for key, slices in found.slices.items():
        left = slices.open
        shows = left.liver > 0
        with_liver, without = left.where(shows), left.where(~shows)
        risk = risk_coverage(left.uncertainty, left.wrong) if len(left.wrong) else None
        bins = found.reliability[key]
        rows.append(
            [
                key.title,
                _correlation(with_liver, with_liver.uncertainty),
                _number(rank_correlation(with_liver.predicted, with_liver.wrong)),
                _correlation(without, without.uncertainty),
                _ratio(without.uncertainty, with_liver.uncertainty),
                *(map(_number, (risk.area, risk.excess, risk.gain)) if risk else ["–"] * 3),
                *(f"{error:.4f}" for error in (bins.expected_error, bins.average_error)),
            ]
        )
    by_liver = ["ρ, liver slices (n)", "by size", "ρ, liver-free slices (n)", "free : liver"]
    return markdown_table(["Model", *by_liver, "AURC", "E-AURC", "gain", "ECE", "ACE"], rows)


def _correlation(slices: PoolSlices, score: np.ndarray) -> str:
    return f"{_number(rank_correlation(score, slices.wrong))} ({len(slices.wrong)})"


def _ratio(values: np.ndarray, others: np.ndarray) -> str:
    return f"{values.mean() / others.mean():.2f}" if len(values) and len(others) and others.any() else "–"


def _number(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.2f}"


def lessons_table(found: Uncertainties) -> str:
    """How many of the queried slices were predicted rightly by the model that asked for them."""
    texts = {text for slices in found.slices.values() for text in slices.queried}
    strategies = in_order(sorted({name for text in texts for name in text.split(";") if name}))
    last = max(key.iteration for key in found.slices) + 1
    rows = [
        [strategy, *(_lesson(found, strategy, iteration) for iteration in range(1, last + 1))]
        for strategy in strategies
    ]
    return markdown_table(["", *(f"{ordinal(iteration)} query" for iteration in range(1, last + 1))], rows)


def _lesson(found: Uncertainties, strategy: str, iteration: int) -> str:
    slices = found.slices.get(ModelKey.of_iteration(strategy, iteration - 1))
    asked = slices.asked_by(strategy) if slices else np.zeros(0, bool)
    if not asked.any():
        return "–"
    right = slices.dice >= RIGHT
    among_open = _share(right[~slices.annotated])
    return f"{right[asked].sum()} of {asked.sum()}, {_share(right[asked])} ({among_open})"


def _share(flags: np.ndarray) -> str:
    return f"{100 * flags.mean():.0f}%"


def distance_table(found: Uncertainties) -> str | None:
    """Slice DICE of open liver slices by their distance to an annotated one, if any volume holds both."""
    rows = []
    for strategy, slices in partly_annotated(found).items():
        classes = dict(by_distance(slices))
        cells = {
            name: f"{slices.dice[chosen].mean():.3f} ({chosen.sum()})" for name, chosen in classes.items()
        }
        rows.append([strategy, *(cells.get(name, "–") for name in DISTANCES)])
    return markdown_table(["", *DISTANCES], rows) if rows else None
