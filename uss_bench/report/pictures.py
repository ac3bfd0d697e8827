"""CT slices with contours and maps: Figures 4 and 5, and the overview of suggested slices.

All functions return a `matplotlib.figure.Figure`. Those of Figures 4 and 5 take the results and the arrays of
`results/slices.npz`, which `showcase.py` describes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .captions import ROLES, UNLIKELY, Arrays, case_text
from .results import Results
from .style import PREDICTION_COLOUR, REFERENCE_COLOUR, WIDTH, canvas
from .words import marked, ordinal

OVERVIEW_COLUMNS = 5


def queries_figure(results: Results, slices: Arrays) -> Any:
    """Figure 4: one column per queried slice with CT, liver probability and entropy."""
    count = len(slices["query_case"])
    tallest = max(_aspect(slices, "query", column) for column in range(count))
    height = 0.6 + 3 * tallest * (WIDTH - 0.9) / max(count, 3)
    figure, axes = canvas(3, count + 1, height, width_ratios=[*[1] * count, 0.05])
    for column in range(count):
        likely, unsure = _queried_slice(axes[:, column], slices, column)
    for axis, label in zip(axes[:, 0], ("CT", "liver probability", "entropy [nats]"), strict=True):
        axis.set_ylabel(label)
    axes[0, -1].set_axis_off()
    figure.colorbar(likely, cax=axes[1, -1])
    figure.colorbar(unsure, cax=axes[2, -1])
    return figure


def _queried_slice(axes: np.ndarray, slices: Arrays, column: int) -> tuple[Any, Any]:
    """Draw a queried slice; returns the maps of probability and entropy for their colour bars."""
    ct, reference, probability, entropy = (
        slices[f"query_{column}_{name}"] for name in ("ct", "reference", "probability", "entropy")
    )
    pixel, (top, middle, bottom) = slices["query_pixel"][column], axes
    for axis in (top, middle):
        _show(axis, ct, pixel, cmap="gray", vmin=0, vmax=255)
    likely = np.ma.masked_less(probability / 100.0, UNLIKELY)
    likely = _show(middle, likely, pixel, cmap="plasma", vmin=0, vmax=1, alpha=0.6)
    unsure = _show(bottom, entropy.astype(float), pixel, cmap="magma", vmin=0, vmax=np.log(2))
    for axis in (top, middle, bottom):
        _contour(axis, reference, REFERENCE_COLOUR)
    rank, case_id, z, score = (slices[f"query_{name}"][column] for name in ("rank", "case", "slice", "score"))
    top.set_title(
        f"{ordinal(rank)} of {slices['query_count']}: {score:.3f} nats\n{case_id}, slice {z}", fontsize=9
    )
    return likely, unsure


def cases_figure(results: Results, slices: Arrays) -> Any:
    """Figure 5: one row per test case and one column per model, with contours of reference and prediction."""
    from matplotlib.lines import Line2D

    models = list(slices["case_models"])
    heights = [_aspect(slices, "case", row) for row in range(len(slices["case_id"]))]
    height = 0.6 + sum(0.3 + (WIDTH - 0.5) / max(len(models), 3) * aspect for aspect in heights)
    figure, axes = canvas(len(heights), len(models), height, height_ratios=heights)
    for row, case_id in enumerate(slices["case_id"]):
        for column, model in enumerate(models):
            axis = axes[row, column]
            _segmentation(axis, slices, row, column)
            axis.set_xlabel(case_text(results, model, str(case_id)), fontsize=8.5)
            if row == 0:
                axis.set_title(marked(model))
        role = ROLES[str(slices["case_role"][row])]
        axes[row, 0].set_ylabel(f"{role}\n{case_id}, slice {slices['case_slice'][row]}")
    handles = [
        Line2D([], [], color=REFERENCE_COLOUR, linewidth=1.8, label="reference"),
        Line2D([], [], color=PREDICTION_COLOUR, linewidth=1.1, label="prediction"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=2)
    return figure


def _segmentation(axis: Any, slices: Arrays, row: int, column: int) -> None:
    prediction = slices[f"case_{row}_predictions"][column]
    _show(axis, slices[f"case_{row}_ct"], slices["case_pixel"][row], cmap="gray", vmin=0, vmax=255)
    _contour(axis, slices[f"case_{row}_reference"], REFERENCE_COLOUR, linewidth=1.8)
    _contour(axis, prediction, PREDICTION_COLOUR, linewidth=1.1)
    if not prediction.any():
        axis.text(
            0.5, 0.06, "nothing predicted here", transform=axis.transAxes, ha="center", fontsize=8,
            color=PREDICTION_COLOUR, bbox={"facecolor": "black", "alpha": 0.7, "linewidth": 0, "pad": 2},
        )  # fmt: skip


class Suggested(NamedTuple):
    """What the overview shows of a slice.

    Attributes
    ----------
    title : str
    ct : ndarray
        `(y, x)`, from 0 (black) to 1 (white).
    proposal : ndarray
        Bool, `(y, x)`.
    entropy : ndarray
        `(y, x)`, in nats.
    pixel : tuple of float
        mm, `(y, x)`.
    """

    title: str
    ct: np.ndarray
    proposal: np.ndarray
    entropy: np.ndarray
    pixel: tuple[float, float]


def suggestions_figure(suggested: Sequence[Suggested]) -> Any:
    """Overview of suggested slices: the CT with the contour of the proposal, and below it the entropy."""
    columns = min(len(suggested), OVERVIEW_COLUMNS)
    rows = -(-len(suggested) // columns)
    tallest = max(one.ct.shape[0] * one.pixel[0] / (one.ct.shape[1] * one.pixel[1]) for one in suggested)
    figure, axes = canvas(2 * rows, columns, rows * (0.5 + 2 * tallest * WIDTH / max(columns, 3)))
    for axis in axes.flat:
        axis.set_axis_off()
    for number, one in enumerate(suggested):
        row, column = divmod(number, columns)
        top, bottom = axes[2 * row : 2 * row + 2, column]
        _show(top, one.ct, one.pixel, cmap="gray", vmin=0, vmax=1)
        _contour(top, one.proposal, PREDICTION_COLOUR)
        top.set_title(one.title, fontsize=8)
        _show(bottom, one.entropy, one.pixel, cmap="magma", vmin=0, vmax=np.log(2))
    return figure


def _aspect(slices: Arrays, kind: str, number: int) -> float:
    """Height of a picture as a share of its width."""
    (height, width), (y, x) = slices[f"{kind}_{number}_ct"].shape, slices[f"{kind}_pixel"][number]
    return height * y / (width * x)


def _show(axis: Any, image: np.ndarray, pixel: np.ndarray, **options: Any) -> Any:
    """A slice `(y, x)` as radiologists look at it: y grows to the front, x to the patient's right."""
    aspect = float(pixel[0] / pixel[1])
    shown = axis.imshow(image[::-1, ::-1], aspect=aspect, interpolation="nearest", **options)
    axis.set(xticks=[], yticks=[])
    for spine in axis.spines.values():
        spine.set_visible(False)
    return shown


def _contour(axis: Any, mask: np.ndarray, colour: str, linewidth: float = 1.4) -> None:
    if mask.any() and not mask.all():
        axis.contour(mask[::-1, ::-1], levels=[0.5], colors=[colour], linewidths=linewidth)
