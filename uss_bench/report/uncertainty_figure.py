"""The figure on how good the uncertainties are, and its words."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..study.keys import ModelKey
from .results import Results
from .style import COLOURS, LINES, LIVER, canvas
from .uncertainty_statistics import (
    DISTANCES,
    PoolSlices,
    Uncertainties,
    by_distance,
    partly_annotated,
    risk_coverage,
    selective_risk,
)
from .words import listed, marked

MOST_POINTS = 3000  # of a scatter plot
FEW_MODELS = 4  # that the alt text tells of
LIVER_FREE = "#B0B0B0"


def uncertainty_figure(results: Results, slices: Any = None) -> Any:
    """Errors against uncertainty, risk against coverage, reliability, and DICE against distance."""
    found = results.uncertainties
    figure, axes = canvas(2, 2, height=6.4)
    shown = shown_models(found)
    _scatter(axes[0, 0], found.slices[next(iter(shown))].open)
    for key in shown:
        colour = COLOURS[key.strategy or key.kind]
        _risk_curve(axes[0, 1], found.slices[key].open, colour, marked(key.title))
        bins = found.reliability[key]
        axes[1, 0].plot(bins.predicted, bins.observed, "o-", color=colour, markersize=3.5, linewidth=1.3)
    axes[0, 1].set(xlabel="coverage: share of slices, the least uncertain first", ylabel="mean wrong voxels")
    axes[0, 1].set_title("risk against coverage (dotted: best order)", loc="left")
    axes[1, 0].plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle=":")
    axes[1, 0].set(xlabel="mean probability", ylabel="share of liver in the reference", aspect="equal")
    axes[1, 0].set_title("reliability of the Monte Carlo mean", loc="left")
    _distances(figure, axes[1, 1], partly_annotated(found))
    handles, labels = axes[0, 1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=min(len(labels), 4), columnspacing=1.4)
    return figure


def shown_models(found: Uncertainties) -> list[ModelKey]:
    """The initial model, and the last of each strategy that scored the pool."""
    last = {key.strategy: key for key in found.slices}  # the later replace the earlier
    return list(last.values())


def _scatter(axis: Any, slices: PoolSlices) -> None:
    """Wrong voxels of each slice against its uncertainty."""
    step = thinning(slices)
    for shows, colour, label in (
        (slices.liver == 0, LIVER_FREE, "liver-free"),
        (slices.liver > 0, LIVER, "liver"),
    ):
        part = slices.where(shows)
        axis.plot(
            part.uncertainty[::step], part.wrong[::step], ".",
            color=colour, markersize=3, alpha=0.6, label=f"{label} slices", rasterized=True,
        )  # fmt: skip
    axis.set_yscale("symlog", linthresh=1)
    axis.set_ylim(bottom=-0.2)
    axis.set(xlabel="slice uncertainty [nats]", ylabel="wrong voxels")
    axis.set_title("errors against uncertainty", loc="left")
    axis.legend(loc="lower right", markerscale=3)


def thinning(slices: PoolSlices) -> int:
    """Of how many slices the scatter plot shows one."""
    return -(-len(slices.wrong) // MOST_POINTS)


def _risk_curve(axis: Any, slices: PoolSlices, colour: str, label: str) -> None:
    coverage = np.arange(1, len(slices.wrong) + 1) / max(1, len(slices.wrong))
    axis.plot(coverage, selective_risk(slices.uncertainty, slices.wrong), color=colour, label=label)
    axis.plot(
        coverage, selective_risk(slices.wrong, slices.wrong), color=colour, linewidth=0.9, linestyle=":"
    )


def _distances(figure: Any, axis: Any, parts: dict[str, PoolSlices]) -> None:
    """Mean slice DICE of liver slices by their distance to an annotated one; no panel without any."""
    if not parts:
        figure.delaxes(axis)
        return
    found = {strategy: dict(by_distance(slices)) for strategy, slices in parts.items()}
    names = [name for name in DISTANCES if any(name in classes for classes in found.values())]
    for strategy, classes in found.items():
        points = [
            (names.index(name), parts[strategy].dice[chosen].mean()) for name, chosen in classes.items()
        ]
        if DISTANCES[-1] in classes:  # no distance: no line leads there
            points.insert(-1, (np.nan, np.nan))
        x, y = np.reshape(points, (-1, 2)).T
        axis.plot(x, y, "o", color=COLOURS[strategy], linestyle=LINES[strategy])
    axis.set_xticks(range(len(names)), [_short(name) for name in names])
    axis.set(xlabel="mm to the nearest annotated slice of the volume", ylabel="mean slice DICE")
    axis.set_title("open liver slices of all models, by distance", loc="left")


def _short(name: str) -> str:
    """A class of distance as a tick's label.

    >>> [_short(name) for name in DISTANCES]
    ['0–10', '10–20', '20–40', '40–80', '>80', 'none there']
    """
    name = name.removesuffix(" mm").replace(" in the volume", " there")
    return name.replace("beyond ", ">").replace(" to ", "–")


def describe_uncertainty(results: Results, slices: Any = None) -> tuple[str, str]:
    """Alt text and caption."""
    found = results.uncertainties
    shown = shown_models(found)
    gains = listed(f"{_gain(found.slices[key].open)} ({key.title})" for key in shown[:FEW_MODELS])
    distances = ", and slice DICE against distance" if partly_annotated(found) else ""
    alt = (
        "Plots on the uncertainties: wrong voxels against uncertainty, risk against coverage, "
        f"a reliability diagram{distances}. "
        f"The order by uncertainty gains {gains}, where 0 is chance and 1 the best order."
    )
    step = thinning(found.slices[shown[0]].open)
    caption = (
        "How good the uncertainties are, on slices that were not annotated. "
        f"Top left: wrong voxels of {'each slice' if step == 1 else f'one in {step} slices'} against its "
        f"uncertainty, {shown[0].title}. "
        "Top right: mean wrong voxels of the least uncertain slices; dotted, of those with the fewest. "
        "Bottom left: share of liver against mean probability; below the diagonal, liver is rarer "
        "than predicted."
    )
    if partly_annotated(found):
        caption += (
            " Bottom right: mean slice DICE by the distance to the nearest annotated slice of the volume "
            "(none: it has none), over all models of a strategy that scored the pool."
        )
    return alt, caption


def _gain(slices: PoolSlices) -> str:
    gain = risk_coverage(slices.uncertainty, slices.wrong).gain if len(slices.wrong) else np.nan
    return "an unknown share" if np.isnan(gain) else f"{gain:.2f}"
