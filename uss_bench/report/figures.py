"""Which figures the report has: the key figure, Figures 2-6, and 7, which the paper lacks.

They are PNG files with alt text and captions.

Figures 2, 4 and 5 show slices of `results/slices.npz`, whose arrays `showcase.py` describes; the others need
the CSV files alone. matplotlib is optional. Equal results give equal bytes.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..runtime import paths
from ..runtime.errors import InputError
from ..runtime.storage import BRING_BACK
from ..study.strategies import FEATURED
from . import captions, pictures, plots
from .results import Results
from .style import adopt, has_matplotlib, our_style, save
from .uncertainty_figure import describe_uncertainty, uncertainty_figure
from .words import listed

KEY = "figures/key.png"


@dataclass(frozen=True)
class Drawing:
    """A figure that a report may have.

    Attributes
    ----------
    title : str
        What it shows, in two words.
    draw, describe : callable
        Its `matplotlib.figure.Figure`, and its alt text and caption, from the results and the arrays of
        slices.
    needs : str
        An array of slices without which it is left out; empty if it needs none.
    """

    title: str
    draw: Callable
    describe: Callable
    needs: str = ""


UNCERTAINTY = 7
# By their numbers in the paper; 0 is the key figure.
DRAWINGS = {
    0: Drawing("effort", plots.effort_figure, captions.describe_effort),
    2: Drawing("slice profile", plots.profile_figure, captions.describe_profile, "profile"),
    3: Drawing("iterations", plots.iterations_figure, captions.describe_iterations),
    4: Drawing("queried slices", pictures.queries_figure, captions.describe_queries, "query_case"),
    5: Drawing("segmentations", pictures.cases_figure, captions.describe_cases, "case_id"),
    6: Drawing("final models", plots.converged_figure, captions.describe_converged),
    # Which the paper lacks:
    UNCERTAINTY: Drawing("uncertainties", uncertainty_figure, describe_uncertainty),
}


@dataclass(frozen=True)
class Figure:
    """A figure of the report.

    Attributes
    ----------
    number : int
        Its number in the paper; 0 for the key figure, 7 for that of the uncertainties.
    file : str
        Relative to the report folder.
    alt, caption : str
        In Markdown.
    """

    number: int
    file: str
    alt: str
    caption: str

    @property
    def title(self) -> str:
        """What the text calls it."""
        return _name(self.number)

    @property
    def markdown(self) -> str:
        """The picture and its caption."""
        alt = self.alt.replace("[", "(").replace("]", ")")
        return f"![{alt}]({self.file})\n\n**{self.title}.** {self.caption}"


def write_figures(results: Results, folder: str | Path) -> list[Figure]:
    """Draw into `figures/` of a report folder whatever its results allow; nothing without matplotlib."""
    if not has_matplotlib():
        return []
    slices = _read_slices(Path(folder) / paths.SLICES)
    adopt(results.strategies)
    drawn = []
    with our_style():
        for number, drawing in DRAWINGS.items():
            if drawing.needs and drawing.needs not in slices:
                continue
            if number == UNCERTAINTY and results.uncertainties is None:
                continue
            file = f"figures/figure-{number}.png" if number else KEY
            save(drawing.draw(results, slices), Path(folder) / file)
            drawn.append(Figure(number, file, *drawing.describe(results, slices)))
    return drawn


def missing_note(results: Results, figures: Iterable[Figure]) -> str:
    """Which figures the report lacks, why, and how to get them; empty if none."""
    reasons: dict[str, list[str]] = {}
    lacking = DRAWINGS.keys() - {figure.number for figure in figures}
    if results.uncertainties is None:  # as the section that it belongs to says
        lacking.discard(UNCERTAINTY)
    for number in sorted(lacking):
        if not has_matplotlib():
            reason = (
                "matplotlib is not installed; after `pip install matplotlib` the same command draws them "
                "without computing anything again"
            )
        elif number in (2, 4) and FEATURED not in results.strategies:
            reason = f"the strategy {FEATURED}, whose first iteration they show, did not run"
        else:
            reason = (
                f"`{paths.SLICES}` is missing or lacks them; "
                "the same command without `--report-only` makes it"
            )
        reasons.setdefault(reason, []).append(f"{_name(number)} ({DRAWINGS[number].title})")
    return " ".join(f"Not drawn: {listed(names)}: {reason}." for reason, names in reasons.items())


def _name(number: int) -> str:
    return f"Figure {number}" if number else "Key figure"


def _read_slices(path: Path) -> dict[str, np.ndarray]:
    if not path.exists():
        return {}
    try:
        with np.load(path) as archive:
            return dict(archive)
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path}: cut short or damaged ({error}); {BRING_BACK}") from None
