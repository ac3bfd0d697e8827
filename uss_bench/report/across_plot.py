"""The key figure of the report across seeds: curves with bands, and differences from the baseline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..study.keys import DATA_POOL, INITIAL, ModelKey
from ..study.metrics import METRICS
from ..study.strategies import BASELINE
from .pairs import ROPES, highlighted
from .seeds import Seeds
from .style import COLOURS, LINES, adopt, canvas, legend_above, line_of, reference_line
from .verdicts import LEAST_SEEDS, paired_difference
from .words import better_direction, listed, marked, plural, titled, value_text

SHOWN = ("DICE", "HD")


def reference_of(strategies: Sequence[str]) -> str:
    """Which strategy the others are held against: the baseline, where it ran."""
    return BASELINE if BASELINE in strategies else strategies[0]


def key_figure(seeds: Seeds) -> Any:
    """Means over seeds with bands against equivalent slices; below, differences from the baseline."""
    adopt(seeds.strategies)
    compared = len(seeds.contenders) > 1
    figure, axes = canvas(1 + compared, 2, height=6.8 if compared else 3.8)
    for axis, metric in zip(axes[0], SHOWN, strict=True):
        _curves(axis, seeds, metric)
    if compared:
        for axis, metric in zip(axes[1], SHOWN, strict=True):
            _differences(axis, seeds, metric)
            axis.set_xlabel("iteration")
    for axis in axes[0]:
        axis.set_xlabel("equivalent slices")
    legend_above(figure, axes[0, 0], references=2)
    return figure


def _curves(axis: Any, seeds: Seeds, metric: str) -> None:
    for key in (INITIAL, DATA_POOL):
        reference_line(axis, key, seeds.means(key, metric).mean())
    for name in seeds.strategies:
        effort = _effort(seeds, seeds.first.curve(name))
        middle, ends = _band(seeds, name, metric)
        prominent = name in highlighted(seeds.strategies)
        axis.plot(effort, middle, label=marked(name), **_line(name, prominent))
        if prominent:
            axis.fill_between(effort[1:], *ends, color=COLOURS[name], alpha=0.15, linewidth=0)
    axis.set_ylim(_shown(seeds, metric))
    axis.set_title(f"{titled(metric)}, {better_direction(metric)}", loc="left")


def _band(seeds: Seeds, name: str, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Means of a strategy's models, and, but for the initial model of all, one deviation below and above."""
    means = np.array([seeds.means(key, metric) for key in seeds.first.curve(name)])
    middle, deviation = means.mean(axis=1), means.std(axis=1, ddof=1)
    return middle, np.array([middle[1:] - deviation[1:], middle[1:] + deviation[1:]])


def _shown(seeds: Seeds, metric: str) -> tuple[float, float]:
    """Limits of the axis of a metric."""
    ends = [_band(seeds, name, metric)[1].ravel() for name in seeds.strategies]
    pool, initial = (seeds.means(key, metric).mean() for key in (DATA_POOL, INITIAL))
    return _limits(np.concatenate([[pool], *ends]), initial)


def _limits(reached: np.ndarray, initial: float) -> tuple[float, float]:
    """Of the axis: what the iterations and the pool reach, and the initial model unless it is far away.

    >>> [f"{end:.3f}" for end in _limits(np.array([0.85, 0.9]), 0.82)]
    ['0.816', '0.904']
    >>> [f"{end:.4f}" for end in _limits(np.array([0.85, 0.9]), 0.5)]
    ['0.8475', '0.9025']
    """
    low, high = reached.min(), reached.max()
    wider = min(low, initial), max(high, initial)
    if wider[1] - wider[0] <= 2 * (high - low):
        low, high = wider
    space = 0.05 * (high - low) or 0.05
    return low - space, high + space


def _differences(axis: Any, seeds: Seeds, metric: str) -> None:
    """Paired differences from the reference at every budget, with their intervals side by side."""
    reference, budgets = reference_of(seeds.contenders), [*seeds.by_iteration, seeds.final]
    axis.axhline(0.0, color=COLOURS[reference], linestyle=LINES[reference], linewidth=1.2)
    if metric in ROPES:
        axis.axhspan(-ROPES[metric], ROPES[metric], color="#999999", alpha=0.18, linewidth=0)
    others = [name for name in seeds.strategies if name != reference]
    for place, name in enumerate(others):
        found = [
            paired_difference(
                *(seeds.scores(budget.key(each), metric) for each in (name, reference)),
                METRICS[metric].higher_is_better,
            )
            for budget in budgets
        ]
        positions = np.arange(len(budgets)) + (place - (len(others) - 1) / 2) * 0.6 / len(others)
        means = np.array([each.mean for each in found])
        ends = [(each.low, each.high) for each in found if each.low is not None]
        reach = np.abs(np.array(ends).T - means) if ends else None
        style = _line(name, name in highlighted(seeds.strategies)) | {"linestyle": "none"}
        axis.errorbar(positions, means, reach, elinewidth=0.9, capsize=2, **style)
    axis.set_xticks(range(len(budgets)), [*seeds.first.iterations, seeds.final_word])
    side = "above" if METRICS[metric].higher_is_better else "below"
    axis.set_title(f"{titled(metric)} minus that of {reference}, {side} 0 is better", loc="left")


def _effort(seeds: Seeds, keys: Sequence[ModelKey]) -> np.ndarray:
    return np.array([seeds.effort(key).mean() for key in keys])


def _line(name: str, prominent: bool) -> dict[str, Any]:
    """How a strategy is drawn; what is not prominent, thin and behind the others."""
    size, width, order = (5, 1.6, 3) if prominent else (3.5, 0.9, 2)
    return {**line_of(name), "markersize": size, "linewidth": width, "zorder": order}


def describe(seeds: Seeds) -> tuple[str, str]:
    """Alt text and caption of the key figure."""

    def end(name: str) -> str:
        key = seeds.first.curve(name)[-1]
        dice, hd = (value_text(metric, seeds.means(key, metric).mean()) for metric in SHOWN)
        return f"{name} reaches DICE {dice} and HD {hd} mm with {seeds.effort(key).mean():.0f}"

    ends = listed(map(end, seeds.strategies))
    alt = (
        f"Mean DICE and HD against equivalent slices, over {len(seeds.runs)} seeds: {ends} equivalent slices."
    )
    bands = listed(highlighted(seeds.strategies))
    caption = (
        "Above: mean DICE and Hausdorff distance HD of the iterations' models over "
        f"{plural(len(seeds.runs), 'seed')} and {plural(len(seeds.first.cases), 'test case')}, against the "
        f"mean of their equivalent slices. Bands: ± one standard deviation over seeds, of {bands}. "
        f"Horizontal lines: initial model (dotted{_left_out(seeds)}) and model of the whole pool "
        "(dash-dotted)."
    )
    if len(seeds.contenders) > 1:
        enough = len(seeds.runs) >= LEAST_SEEDS
        intervals = ", with 95% intervals over seeds and cases, uncorrected" * enough
        caption += (
            f" Below: paired differences from {reference_of(seeds.contenders)} after the same iteration "
            f"and, at the right, of the {seeds.final_word} models{intervals}; "
            f"grey: ± {ROPES['DICE']:g} DICE, taken as equivalent."
        )
    return alt, caption


def _left_out(seeds: Seeds) -> str:
    """Of which metrics the initial model lies beyond the axis, and where."""
    beyond = []
    for metric in SHOWN:
        (low, high), initial = _shown(seeds, metric), seeds.means(INITIAL, metric).mean()
        if not low <= initial <= high:
            beyond.append(f"{metric} {value_text(metric, initial)}")
    return f"; far from all others and off the axis: {listed(beyond)}" if beyond else ""
