"""How figures look: sizes, colours, markers and lines. matplotlib is loaded only when drawing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from ..runtime.storage import atomic_path
from ..study.keys import ModelKey
from ..study.strategies import STRATEGIES

WIDTH, DPI = 8.0, 150  # inches: 1200 pixels, legible when shown 800 wide

# Of the table's strategies, solid lines go by uncertainty, dashed ones by chance, distance or error.
COLOURS = {
    **{strategy.name: strategy.colour for strategy in STRATEGIES.values()},
    "data pool": "#000000",
    "initial": "#767676",
}
MARKERS = {strategy.name: strategy.marker for strategy in STRATEGIES.values()}
LINES = {
    **{strategy.name: "-" if strategy.by_uncertainty else "--" for strategy in STRATEGIES.values()},
    "initial": ":",
    "data pool": "-.",
}
# Colour and marker of strategies that do not ship; no strategy of the table has any of these.
SPARE = (
    ("#AA4499", ">"),
    ("#BBAA00", "d"),
    ("#6699CC", "H"),
    ("#AA3311", "8"),
    ("#8A6FDF", "x"),
    ("#664422", "+"),
)
# Contours on grey images: green and magenta differ for every colour vision.
REFERENCE_COLOUR, PREDICTION_COLOUR = "#2BE08A", "#FF5FD2"
LIVER = "#009E73"  # of liver slices in plots
LEGEND_COLUMNS = 8
STYLE = {
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.labelsize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
}


def adopt(names: Iterable[str]) -> None:
    """Give strategies that do not ship looks of their own, in the order given; their lines are solid."""
    further = [name for name in names if name not in STRATEGIES]
    for name, (colour, marker) in zip(further, cycle(SPARE), strict=False):
        COLOURS[name], MARKERS[name], LINES[name] = colour, marker, "-"


def canvas(
    rows: int,
    columns: int,
    height: float,
    width_ratios: Sequence[float] | None = None,
    height_ratios: Sequence[float] | None = None,
) -> tuple[Any, np.ndarray]:
    """A `matplotlib.figure.Figure` of `WIDTH` x `height` inches, and its `(rows, columns)` array of axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots(
        rows, columns, squeeze=False, width_ratios=width_ratios, height_ratios=height_ratios
    )
    return figure, axes


def line_of(strategy: str) -> dict[str, Any]:
    """Colour, line and marker of a strategy, hollow where the line is dashed."""
    colour, line = COLOURS[strategy], LINES[strategy]
    return {
        "color": colour,
        "linestyle": line,
        "marker": MARKERS[strategy],
        "markerfacecolor": "white" if line == "--" else colour,
    }


def reference_line(axis: Any, key: ModelKey, value: float) -> None:
    """Horizontal line of the initial or the data pool model."""
    axis.axhline(value, label=key.title, color=COLOURS[key.kind], linestyle=LINES[key.kind], linewidth=1.2)


def legend_above(figure: Any, axis: Any, references: int) -> None:
    """Legend of what one axis shows; its first entries, the reference lines, come last."""
    handles, labels = axis.get_legend_handles_labels()
    order = [*range(references, len(labels)), *range(references)]
    figure.legend(
        [handles[place] for place in order],
        [labels[place] for place in order],
        loc="outside upper center",
        ncols=min(len(order), LEGEND_COLUMNS),
        columnspacing=1.4,
    )


def has_matplotlib() -> bool:
    """Whether pictures can be drawn; matplotlib is optional."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        return False
    return True


@contextmanager
def our_style() -> Iterator[None]:
    """Draw in our style and not in that of the user: equal results give equal pictures everywhere."""
    from matplotlib import style

    with style.context(["default", STYLE]):
        yield


def save(figure: Any, path: str | Path) -> None:
    """Write a figure as PNG; equal figures give equal bytes."""
    # The layout's solver orders its terms by memory addresses: the last bits of positions differ from call to
    # call, and with them now and then a pixel of a contour.
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axis in figure.axes:
        axis.set_position([round(float(edge), 6) for edge in axis.get_position(original=True).bounds])
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI, metadata={"Software": None})


def paler(colour: str) -> tuple[float, ...]:
    """A colour half way to white, as red, green and blue."""
    from matplotlib.colors import to_rgb

    return tuple(0.5 + 0.5 * part for part in to_rgb(colour))
