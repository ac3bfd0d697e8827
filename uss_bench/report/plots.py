"""Curves and box plots: the key figure and Figures 2, 3 and 6.

Every `_figure` function takes the results and the arrays of `results/slices.npz` and returns a
`matplotlib.figure.Figure`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..study.keys import DATA_POOL, INITIAL, ModelKey
from ..study.metrics import METRICS, PAPER_METRICS
from ..study.strategies import FEATURED
from .captions import FEW_CASES, Arrays
from .effort import equivalent_slices
from .results import Results
from .statistics import MEAN_CASES, paired_interval
from .style import COLOURS, LEGEND_COLUMNS, LINES, LIVER, canvas, legend_above, line_of, paler, reference_line
from .tables import many
from .words import better_direction, marked, titled

LOG_SPAN = 10  # largest distance over the median, beyond which box plots of distances are logarithmic


# --- key figure: quality against effort ---


def effort_figure(results: Results, slices: Arrays | None = None) -> Any:
    """Mean DICE and HD against equivalent slices, with intervals of what differs from the initial model."""
    figure, axes = canvas(1, 2, height=4.0)
    most = max(equivalent_slices(results, key) for key in results.scores if key != DATA_POOL)
    for axis, metric in zip(axes[0], ("DICE", "HD"), strict=True):
        for key in (INITIAL, DATA_POOL):
            reference_line(axis, key, results.scores[key][metric].mean())
        if len(results.cases) >= MEAN_CASES:
            band = _interval(results, DATA_POOL, metric)
            axis.axhspan(*band, color=COLOURS[DATA_POOL.kind], alpha=0.07, linewidth=0)
        _twins(axis, results, metric)
        for strategy in results.strategies:
            _effort_curve(axis, results, metric, strategy)
        axis.set_title(f"{titled(metric)}, {better_direction(metric)}", loc="left")
        axis.set_xlabel("equivalent slices")
        axis.set_xlim(0, 1.05 * most)
    legend_above(figure, axes[0, 0], references=2 + bool(results.twins))
    return figure


def _effort_curve(axis: Any, results: Results, metric: str, strategy: str) -> None:
    keys = results.curve(strategy)
    effort = [equivalent_slices(results, key) for key in keys]
    means = np.array([results.scores[key][metric].mean() for key in keys])
    # Of many strategies, none could be read.
    whiskers = None if many(results.strategies) else _whiskers(results, keys, metric, means)
    axis.errorbar(
        effort, means, whiskers, label=marked(strategy), markersize=5, elinewidth=0.9, capsize=2.5,
        **line_of(strategy),
    )  # fmt: skip


def _twins(axis: Any, results: Results, metric: str) -> None:
    """What retraining alone does: the twins beside the initial model."""
    if results.twins:
        means = np.array([results.scores[key][metric].mean() for key in results.twins])
        whiskers = _whiskers(results, results.twins, metric, means)
        effort = [equivalent_slices(results, key) for key in results.twins]
        axis.errorbar(
            effort, means, whiskers, label="retrained", color=COLOURS["initial"],
            linestyle="none", marker="x", markersize=5, elinewidth=0.9, capsize=2.5,
        )  # fmt: skip


def _whiskers(
    results: Results, keys: Sequence[ModelKey], metric: str, means: np.ndarray
) -> np.ndarray | None:
    """How far the intervals of means reach down and up; None of too few cases."""
    if len(results.cases) < MEAN_CASES:
        return None
    return np.abs(np.array([_interval(results, key, metric) for key in keys]).T - means)


def _interval(results: Results, key: ModelKey, metric: str) -> tuple[float, float]:
    """Ends of a model's mean by the 95% interval of its paired difference from the initial model."""
    values, initial = results.scores[key][metric], results.scores[INITIAL][metric]
    low, high = paired_interval(values, initial, np.mean, seed=results.provenance["seed"])
    return initial.mean() + low, initial.mean() + high


# --- Figure 2: slice uncertainty along a volume ---


def profile_figure(results: Results, slices: Arrays) -> Any:
    """Uncertainty against slice of one pool case: candidates, chosen slices and the extent of the liver."""
    figure, axes = canvas(1, 1, height=3.4)
    axis, colour = axes[0, 0], COLOURS[FEATURED]
    profile, candidates, chosen = (
        slices[name] for name in ("profile", "profile_candidates", "profile_chosen")
    )
    bottom, top = profile.min(), profile.max()
    space = 0.08 * (top - bottom or 1.0)
    limits = bottom - space, top + 1.5 * space
    axis.plot(profile, color="#444444", linewidth=1.3, label="slice uncertainty")
    axis.plot(
        candidates, profile[candidates], "o",
        markersize=7, markerfacecolor="white", color=colour, label="candidate",
    )  # fmt: skip
    axis.plot(chosen, profile[chosen], "o", markersize=7, color=colour, label="chosen")
    axis.axhline(
        slices["query_score"][-1], color=colour, linestyle=":", linewidth=1.0, label="lowest score chosen"
    )
    axis.fill_between(
        np.arange(len(profile)), *limits, where=slices["profile_liver"], step="mid",
        color=LIVER, alpha=0.15, linewidth=0, label="liver in the reference",
    )  # fmt: skip
    axis.set(xlim=(0, len(profile) - 1), ylim=limits)
    axis.set_xlabel("axial slice, from the feet to the head")
    axis.set_ylabel("mean predictive entropy [nats]")
    figure.legend(loc="outside upper center", ncols=5, columnspacing=1.2)
    return figure


# --- Figures 3 and 6: box plots ---


def iterations_figure(results: Results, slices: Arrays | None = None) -> Any:
    """Box plots of the four metrics over the iterations, between the initial and the data pool model."""
    last, count = results.last, len(results.strategies)
    figure, axes = canvas(4, 1, height=12.0) if many(results.strategies) else canvas(2, 2, height=6.4)
    width = 0.84 / count
    for axis, metric in zip(axes.flat, PAPER_METRICS, strict=True):
        _reference_box(axis, results, metric, INITIAL, 0.0)
        _reference_box(axis, results, metric, DATA_POOL, last + 1.0)
        for place, strategy in enumerate(results.strategies):
            offset = (place - (count - 1) / 2) * width
            values = [results.scores[key][metric] for key in results.curve(strategy)[1:]]
            positions = [iteration + offset for iteration in results.iterations]
            _boxes(axis, values, positions, 0.8 * width, strategy, filled=True)
        spaced = [iteration if iteration % (1 + last // 12) == 0 else "" for iteration in results.iterations]
        axis.set_xticks(range(last + 2), ["initial", *spaced, "data pool" if last < 7 else "data\npool"])
        _finish_boxes(axis, metric, results.limited_models, results)
    for axis in axes[-1]:
        axis.set_xlabel("active learning iteration")
    _legend_boxes(figure, [(marked(strategy), strategy, True) for strategy in results.strategies])
    return figure


def converged_figure(results: Results, slices: Arrays | None = None) -> Any:
    """Box plots of the last iteration's models beside the converged ones, with the data pool model."""
    last, strategies = results.last, results.strategies
    figure, axes = canvas(4, 1, height=11.0) if many(strategies) else canvas(2, 2, height=6.0)
    for axis, metric in zip(axes.flat, PAPER_METRICS, strict=True):
        for place, strategy in enumerate(strategies):
            for key, offset in ((results.curve(strategy)[-1], -0.19), (results.final_models[strategy], 0.19)):
                values = [results.scores[key][metric]]
                _boxes(axis, values, [place + offset], 0.3, strategy, filled=key.converges)
        _reference_box(axis, results, metric, DATA_POOL, float(len(strategies)))
        turned = {"rotation": 30, "ha": "right"} if many(strategies) else {}
        axis.set_xticks(range(len(strategies) + 1), [*map(marked, strategies), "data pool"], **turned)
        _finish_boxes(axis, metric, [key for key in results.scores if key.iteration in (last, None)], results)
    entries = [
        (f"model of iteration {last}", "initial", False),
        ("final model, trained on the same", "initial", True),
    ]
    _legend_boxes(figure, entries)
    return figure


def _boxes(
    axis: Any,
    values: Sequence[np.ndarray],
    positions: Sequence[float],
    width: float,
    name: str,
    filled: bool,
) -> None:
    """Box plots in the colour of a strategy: quartiles, median, whiskers and circles beyond."""
    colour = COLOURS[name]
    few = len(values[0]) < FEW_CASES
    axis.boxplot(
        values, positions=positions, widths=width, manage_ticks=False, patch_artist=True, showfliers=not few,
        boxprops={"facecolor": paler(colour) if filled else "white", "edgecolor": colour, "linewidth": 1.0},
        medianprops={"color": "black", "linewidth": 1.4},
        whiskerprops={"color": colour}, capprops={"color": colour},
        flierprops={"marker": "o", "markersize": 2.5, "markeredgecolor": colour, "markeredgewidth": 0.7},
    )  # fmt: skip
    if few:
        for position, cases in zip(positions, values, strict=True):
            axis.plot([position] * len(cases), cases, ".", color=colour, markersize=4, zorder=3)


def _reference_box(axis: Any, results: Results, metric: str, key: ModelKey, position: float) -> None:
    values = results.scores[key][metric]
    _boxes(axis, [values], [position], 0.5, key.kind, filled=True)
    axis.axhline(
        np.median(values), color=COLOURS[key.kind], linestyle=LINES[key.kind], linewidth=0.9, zorder=0
    )


def _finish_boxes(axis: Any, metric: str, keys: Iterable[ModelKey], results: Results) -> None:
    """Set title and scale.

    Distances that span a lot, as those of missed livers do, get a logarithmic axis, and the title says so.
    """
    from matplotlib.ticker import LogLocator

    values = np.concatenate([results.scores[key][metric] for key in keys])
    logarithmic = (
        METRICS[metric].unit == "mm" and values.min() > 0 and values.max() > LOG_SPAN * np.median(values)
    )
    if logarithmic:
        axis.set_yscale("log", subs=())
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:g}")
    scale = ", log scale" if logarithmic else ""
    axis.set_title(f"{titled(metric)}, {better_direction(metric)}{scale}", loc="left")
    axis.tick_params(axis="x", length=0)


def _legend_boxes(figure: Any, entries: Iterable[tuple[str, str, bool]]) -> None:
    """Legend of `(label, strategy, filled)`."""
    from matplotlib.patches import Patch

    handles = [
        Patch(facecolor=paler(COLOURS[name]) if filled else "white", edgecolor=COLOURS[name], label=label)
        for label, name, filled in entries
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=min(len(handles), LEGEND_COLUMNS))
