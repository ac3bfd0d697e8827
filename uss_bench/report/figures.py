"""The key figure and Figures 2-6 as PNG files with alt text and captions. matplotlib is optional and loaded only here.

Figures 2, 4 and 5 show slices of `results/slices.npz`, whose arrays `showcase.py` describes; the others need the CSV files alone.
Equal results give equal bytes. Every function that draws takes arrays or `results.Results` and returns a `matplotlib.figure.Figure`.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..runtime import paths, storage
from ..study.keys import DATA_POOL, INITIAL
from ..study.metrics import METRICS, PAPER_METRICS
from ..study.strategies import FEATURED, STRATEGIES
from .captions import (
    FEW_CASES,
    ROLES,
    UNLIKELY,
    case_text,
    describe_cases,
    describe_converged,
    describe_effort,
    describe_iterations,
    describe_profile,
    describe_queries,
    direction,
    listed,
    ordinal,
)
from .statistics import bootstrap_interval
from .tables import titled

TITLES = {
    0: "effort", 2: "slice profile", 3: "iterations", 4: "queried slices", 5: "segmentations", 6: "converged models"
}  # fmt: skip
NEEDED = {2: "profile", 4: "query_case", 5: "case_id"}  # an array without which a figure is left out
WIDTH, DPI = 8.0, 150  # inches: 1200 pixels, legible when shown 800 wide
LOG_SPAN = 10  # largest distance over the median, beyond which box plots of distances are logarithmic

# Squares ask for volumes and circles for slices; solid lines go by uncertainty, dashed ones by chance.
COLOURS = {strategy.name: strategy.colour for strategy in STRATEGIES.values()} | {
    "data pool": "#000000",
    "initial": "#767676",
}
MARKERS = {strategy.name: "o" if strategy.by_slices else "s" for strategy in STRATEGIES.values()}
LINES = {strategy.name: "-" if strategy.by_uncertainty else "--" for strategy in STRATEGIES.values()} | {
    "initial": ":",
    "data pool": "-.",
}
REFERENCE, PREDICTION = (
    "#2BE08A",
    "#FF5FD2",
)  # contours on grey images: green and magenta differ for every colour vision
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


@dataclass(frozen=True)
class Figure:
    """A figure of the report: its number (0: the key figure), file relative to the report folder, alt text, caption in Markdown."""

    number: int
    file: str
    alt: str
    caption: str

    @property
    def title(self):
        return _name(self.number)

    @property
    def markdown(self):
        alt = self.alt.replace("[", "(").replace("]", ")")
        return f"![{alt}]({self.file})\n\n**{self.title}.** {self.caption}"


def write_figures(results, folder):
    """Draw into `figures/` of a report folder whatever its results allow; returns the figures, none without matplotlib."""
    if not _has_matplotlib():
        return []
    from matplotlib import style

    slices = _read_slices(Path(folder) / paths.SLICES)
    figures = {
        0: (effort_figure, describe_effort),
        2: (profile_figure, describe_profile),
        3: (iterations_figure, describe_iterations),
        4: (queries_figure, describe_queries),
        5: (cases_figure, describe_cases),
        6: (converged_figure, describe_converged),
    }
    drawn = []
    # Not the user's own matplotlib settings: equal results give equal pictures everywhere.
    with style.context(["default", STYLE]):
        for number, (draw, describe) in figures.items():
            if number in NEEDED and NEEDED[number] not in slices:
                continue
            file = f"figures/figure-{number}.png" if number else "figures/key.png"
            with storage.atomic_path(Path(folder) / file) as temporary:
                draw(results, slices).savefig(temporary, format="png", dpi=DPI, metadata={"Software": None})
            drawn.append(Figure(number, file, *describe(results, slices)))
    return drawn


def missing_note(results, figures):
    """Which figures the report lacks, why, and how to get them; empty if none."""
    reasons = {}
    for number in sorted(TITLES.keys() - {figure.number for figure in figures}):
        if not _has_matplotlib():
            reason = "matplotlib is not installed; after `pip install matplotlib` the same command draws them without computing anew"
        elif number in (2, 4) and FEATURED not in results.strategies:
            reason = f"the strategy {FEATURED}, whose first iteration is shown there, did not run"
        else:
            reason = f"`{paths.SLICES}` is missing or lacks them; the same command without `--report-only` makes it"
        reasons.setdefault(reason, []).append(f"{_name(number)} ({TITLES[number]})")
    return " ".join(f"Not drawn: {listed(names)}: {reason}." for reason, names in reasons.items())


def _name(number):
    return f"Figure {number}" if number else "Key figure"


def _has_matplotlib():
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        return False
    return True


def _read_slices(path):
    if not path.exists():
        return {}
    with np.load(path) as archive:
        return dict(archive)


def _canvas(rows, columns, height, width_ratios=None, height_ratios=None):
    """Figure and `(rows, columns)` array of axes."""
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(WIDTH, height), layout="constrained")
    return canvas, canvas.subplots(
        rows, columns, squeeze=False, width_ratios=width_ratios, height_ratios=height_ratios
    )


# Key figure: quality against effort


def effort_figure(results, slices=None):
    """Mean DICE and HD with bootstrap intervals against annotated liver slices."""
    canvas, axes = _canvas(1, 2, height=4.0)
    for axis, metric in zip(axes[0], ("DICE", "HD"), strict=True):
        for key in (INITIAL, DATA_POOL):
            axis.axhline(
                results.scores[key][metric].mean(),
                color=COLOURS[key.kind],
                linestyle=LINES[key.kind],
                linewidth=1.2,
                label=key.title,
            )
        axis.axhspan(
            *_interval(results, DATA_POOL, metric), color=COLOURS[DATA_POOL.kind], alpha=0.07, linewidth=0
        )
        for strategy in results.strategies:
            keys = results.curve(strategy)
            means = np.array([results.scores[key][metric].mean() for key in keys])
            ends = np.array([_interval(results, key, metric) for key in keys]).T
            axis.errorbar(
                [results.effort[key]["annotated_liver_slices"] for key in keys], means, np.abs(ends - means), label=strategy,
                color=COLOURS[strategy], linestyle=LINES[strategy], marker=MARKERS[strategy], markersize=5,
                markerfacecolor="white" if LINES[strategy] == "--" else COLOURS[strategy], elinewidth=0.9, capsize=2.5,
            )  # fmt: skip
        axis.set_title(f"{titled(metric)}, {direction(metric)}", loc="left")
        axis.set_xlabel("annotated liver slices")
        axis.set_xlim(
            0,
            1.05
            * max(
                results.effort[key]["annotated_liver_slices"] for key in results.effort if key != DATA_POOL
            ),
        )
    handles, labels = axes[0, 0].get_legend_handles_labels()
    order = [*range(2, len(labels)), 0, 1]
    canvas.legend(
        [handles[i] for i in order],
        [labels[i] for i in order],
        loc="outside upper center",
        ncols=len(order),
        columnspacing=1.4,
    )
    return canvas


def _interval(results, key, metric):
    """Bootstrap 95% confidence interval of a model's mean."""
    return bootstrap_interval(results.scores[key][metric], np.mean, seed=results.provenance["seed"])


# Figures 3 and 6: box plots


def iterations_figure(results, slices=None):
    """Box plots of the four metrics over the iterations, between those of the initial and the data pool model."""
    canvas, axes = _canvas(2, 2, height=6.4)
    last = results.last
    width = 0.84 / len(results.strategies)
    for axis, metric in zip(axes.flat, PAPER_METRICS, strict=True):
        _reference_box(axis, results, metric, INITIAL, 0.0)
        _reference_box(axis, results, metric, DATA_POOL, last + 1.0)
        for place, strategy in enumerate(results.strategies):
            offset = (place - (len(results.strategies) - 1) / 2) * width
            values = [results.scores[key][metric] for key in results.curve(strategy)[1:]]
            _boxes(
                axis,
                values,
                [iteration + offset for iteration in results.iterations],
                0.8 * width,
                strategy,
                filled=True,
            )
        spaced = [iteration if iteration % (1 + last // 12) == 0 else "" for iteration in results.iterations]
        axis.set_xticks(range(last + 2), ["initial", *spaced, "data pool" if last < 7 else "data\npool"])
        _finish_boxes(axis, metric, [key for key in results.scores if key.kind != "converged"], results)
    for axis in axes[1]:
        axis.set_xlabel("active learning iteration")
    _legend_boxes(canvas, [(strategy, strategy, True) for strategy in results.strategies])
    return canvas


def converged_figure(results, slices=None):
    """Box plots of the last iteration's models beside the converged ones, with the data pool model."""
    canvas, axes = _canvas(2, 2, height=6.0)
    last = results.last
    for axis, metric in zip(axes.flat, PAPER_METRICS, strict=True):
        for place, strategy in enumerate(results.strategies):
            for key, offset in ((results.curve(strategy)[-1], -0.19), (results.final_models[strategy], 0.19)):
                _boxes(
                    axis, [results.scores[key][metric]], [place + offset], 0.3, strategy, filled=key.converges
                )
        _reference_box(axis, results, metric, DATA_POOL, float(len(results.strategies)))
        axis.set_xticks(range(len(results.strategies) + 1), [*results.strategies, "data pool"])
        _finish_boxes(axis, metric, [key for key in results.scores if key.iteration in (last, None)], results)
    _legend_boxes(
        canvas,
        [
            (f"iteration {last}, limited training", "initial", False),
            (f"iteration {last}, converged", "initial", True),
        ],
    )
    return canvas


def _boxes(axis, values, positions, width, name, filled):
    """Box plots in a strategy's colour: quartiles, median, whiskers to the last case within 1.5 box lengths, circles beyond."""
    from matplotlib.colors import to_rgb

    colour = to_rgb(COLOURS[name])
    face = tuple(0.5 + 0.5 * part for part in colour) if filled else "white"
    few = len(values[0]) < FEW_CASES
    axis.boxplot(
        values, positions=positions, widths=width, manage_ticks=False, patch_artist=True, showfliers=not few,
        boxprops={"facecolor": face, "edgecolor": colour, "linewidth": 1.0}, medianprops={"color": "black", "linewidth": 1.4},
        whiskerprops={"color": colour}, capprops={"color": colour},
        flierprops={"marker": "o", "markersize": 2.5, "markeredgecolor": colour, "markeredgewidth": 0.7},
    )  # fmt: skip
    if few:
        for position, cases in zip(positions, values, strict=True):
            axis.plot([position] * len(cases), cases, ".", color=colour, markersize=4, zorder=3)


def _reference_box(axis, results, metric, key, position):
    values = results.scores[key][metric]
    _boxes(axis, [values], [position], 0.5, key.kind, filled=True)
    axis.axhline(
        np.median(values), color=COLOURS[key.kind], linestyle=LINES[key.kind], linewidth=0.9, zorder=0
    )


def _finish_boxes(axis, metric, keys, results):
    """Title and scale: distances that span a lot, as those of missed livers do, get a logarithmic axis, and the title says so."""
    from matplotlib.ticker import LogLocator

    values = np.concatenate([results.scores[key][metric] for key in keys])
    logarithmic = (
        METRICS[metric].unit == "mm" and values.min() > 0 and values.max() > LOG_SPAN * np.median(values)
    )
    if logarithmic:
        axis.set_yscale("log", subs=())
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:g}")
    axis.set_title(f"{titled(metric)}, {direction(metric)}{', log scale' if logarithmic else ''}", loc="left")
    axis.tick_params(axis="x", length=0)


def _legend_boxes(canvas, entries):
    from matplotlib.colors import to_rgb
    from matplotlib.patches import Patch

    handles = []
    for label, name, filled in entries:
        colour = to_rgb(COLOURS[name])
        handles.append(
            Patch(
                facecolor=tuple(0.5 + 0.5 * part for part in colour) if filled else "white",
                edgecolor=colour,
                label=label,
            )
        )
    canvas.legend(handles=handles, loc="outside upper center", ncols=len(handles))


# Figure 2: slice uncertainty profile


def profile_figure(results, slices):
    """Uncertainty against slice index of one pool case, with the candidates, the chosen slices and the extent of the liver."""
    canvas, axes = _canvas(1, 1, height=3.4)
    axis, profile, candidates, chosen = (
        axes[0, 0],
        slices["profile"],
        slices["profile_candidates"],
        slices["profile_chosen"],
    )
    bottom, top = profile.min(), profile.max()
    space = 0.08 * (top - bottom or 1.0)
    axis.plot(profile, color="#444444", linewidth=1.3, label="slice uncertainty")
    axis.plot(
        candidates,
        profile[candidates],
        "o",
        markersize=7,
        markerfacecolor="white",
        color=COLOURS[FEATURED],
        label="candidate",
    )
    axis.plot(chosen, profile[chosen], "o", markersize=7, color=COLOURS[FEATURED], label="chosen")
    axis.axhline(
        slices["query_score"][-1],
        color=COLOURS[FEATURED],
        linestyle=":",
        linewidth=1.0,
        label="lowest score chosen",
    )
    axis.fill_between(
        np.arange(len(profile)), bottom - space, top + 1.5 * space, where=slices["profile_liver"], step="mid", color="#009E73", alpha=0.15,
        linewidth=0, label="liver in the reference",
    )  # fmt: skip
    axis.set(xlim=(0, len(profile) - 1), ylim=(bottom - space, top + 1.5 * space))
    axis.set_xlabel("axial slice, from the feet to the head")
    axis.set_ylabel("mean predictive entropy [nats]")
    canvas.legend(loc="outside upper center", ncols=5, columnspacing=1.2)
    return canvas


# Figure 4: queried slices


def queries_figure(results, slices):
    """A column a queried slice: CT, liver probability and entropy, each with the contour of the reference."""
    count = len(slices["query_case"])
    tallest = max(_aspect(slices, "query", column) for column in range(count))
    canvas, axes = _canvas(
        3, count + 1, 0.6 + 3 * tallest * (WIDTH - 0.9) / max(count, 3), width_ratios=[*[1] * count, 0.05]
    )
    for column in range(count):
        ct, reference, probability, entropy = (
            slices[f"query_{column}_{name}"] for name in ("ct", "reference", "probability", "entropy")
        )
        pixel, (top, middle, bottom) = slices["query_pixel"][column], axes[:, column]
        for axis in (top, middle):
            _show(axis, ct, pixel, cmap="gray", vmin=0, vmax=255)
        likely = np.ma.masked_less(probability / 100.0, UNLIKELY)
        likely = _show(middle, likely, pixel, cmap="plasma", vmin=0, vmax=1, alpha=0.6)
        unsure = _show(bottom, entropy.astype(float), pixel, cmap="magma", vmin=0, vmax=np.log(2))
        for axis in (top, middle, bottom):
            _contour(axis, reference, REFERENCE)
        top.set_title(
            f"{ordinal(slices['query_rank'][column])} of {slices['query_count']}: {slices['query_score'][column]:.3f} nats\n"
            f"{slices['query_case'][column]}, slice {slices['query_slice'][column]}",
            fontsize=9,
        )
    for axis, label in zip(axes[:, 0], ("CT", "liver probability", "entropy [nats]"), strict=True):
        axis.set_ylabel(label)
    axes[0, -1].set_axis_off()
    canvas.colorbar(likely, cax=axes[1, -1]).solids.set(alpha=1)
    canvas.colorbar(unsure, cax=axes[2, -1])
    return canvas


def _aspect(slices, kind, number):
    """Height of a picture as a share of its width."""
    (height, width), (y, x) = slices[f"{kind}_{number}_ct"].shape, slices[f"{kind}_pixel"][number]
    return height * y / (width * x)


# Figure 5: segmentations


def cases_figure(results, slices):
    """A row a test case, a column a model: contours of reference and prediction on the CT."""
    from matplotlib.lines import Line2D

    models = list(slices["case_models"])
    heights = [_aspect(slices, "case", row) for row in range(len(slices["case_id"]))]
    height = 0.6 + sum(0.3 + (WIDTH - 0.5) / max(len(models), 3) * aspect for aspect in heights)
    canvas, axes = _canvas(len(heights), len(models), height, height_ratios=heights)
    for row, case_id in enumerate(slices["case_id"]):
        for column, model in enumerate(models):
            axis = axes[row, column]
            _show(axis, slices[f"case_{row}_ct"], slices["case_pixel"][row], cmap="gray", vmin=0, vmax=255)
            _contour(axis, slices[f"case_{row}_reference"], REFERENCE, linewidth=1.8)
            _contour(axis, slices[f"case_{row}_predictions"][column], PREDICTION, linewidth=1.1)
            if not slices[f"case_{row}_predictions"][column].any():
                axis.text(
                    0.5, 0.06, "nothing predicted here", transform=axis.transAxes, color=PREDICTION, fontsize=8, ha="center",
                    bbox={"facecolor": "black", "alpha": 0.7, "linewidth": 0, "pad": 2},
                )  # fmt: skip
            axis.set_xlabel(case_text(results, model, str(case_id)), fontsize=8.5)
            if row == 0:
                axis.set_title(model)
        axes[row, 0].set_ylabel(
            f"{ROLES[str(slices['case_role'][row])]}\n{case_id}, slice {slices['case_slice'][row]}"
        )
    handles = [
        Line2D([], [], color=REFERENCE, linewidth=1.8, label="reference"),
        Line2D([], [], color=PREDICTION, linewidth=1.1, label="prediction"),
    ]
    canvas.legend(handles=handles, loc="outside upper center", ncols=2)
    return canvas


def _show(axis, image, pixel, **options):
    """A slice `(y, x)` as radiologists look at it: y grows to the front, x to the patient's right."""
    shown = axis.imshow(
        image[::-1, ::-1], aspect=float(pixel[0] / pixel[1]), interpolation="nearest", **options
    )
    axis.set(xticks=[], yticks=[])
    for spine in axis.spines.values():
        spine.set_visible(False)
    return shown


def _contour(axis, mask, colour, linewidth=1.4):
    if mask.any() and not mask.all():
        axis.contour(mask[::-1, ::-1], levels=[0.5], colors=[colour], linewidths=linewidth)
