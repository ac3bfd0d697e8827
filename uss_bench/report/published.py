"""The paper's Tables 1-9 as data, under the keys of `results.Results`.

The numbers are those of Chlebus et al. (234 test cases of five sites); they describe other data than any run
of this benchmark.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from ..data.manifest import SPLITS
from ..study.annotation import COUNTS
from ..study.keys import ModelKey


@dataclass(frozen=True)
class PublishedScore:
    """A cell of Tables 4-8.

    Attributes
    ----------
    mean, std : float
        Over the test cases, in the metric's unit.
    percentile : float
        The 5th for DICE, the 95th for the others.
    stars : str
        Marks of the test against the best of the row.
    """

    mean: float
    std: float
    percentile: float
    stars: str


@dataclass(frozen=True)
class PublishedEffect:
    """A cell of Table 9: a coefficient in the metric's unit, its 95% confidence interval, p as printed."""

    coefficient: float
    low: float
    high: float
    p: str


@dataclass(frozen=True)
class PublishedSite:
    """A row of Table 1.

    Attributes
    ----------
    volumes : int
        Number of volumes.
    counts : dict
        Volumes by split.
    inplane_spacing_mm, slice_spacing_mm : tuple of float
        Range `(low, high)` of the edges of a voxel.
    inplane_size : int
        Voxels along an edge of a slice.
    slices : tuple of int
        Range `(low, high)` of the slices of a volume.
    """

    volumes: int
    counts: dict[str, int]
    inplane_spacing_mm: tuple[float, float]
    slice_spacing_mm: tuple[float, float]
    inplane_size: int
    slices: tuple[int, int]


@cache
def scores() -> dict[ModelKey, dict[str, PublishedScore]]:
    """Tables 4-8: `{ModelKey: {metric: PublishedScore}}`; Table 8 repeats the data pool of Tables 4-7."""
    found = {}
    for row in _rows("results"):
        score = PublishedScore(*(float(row[name]) for name in ("mean", "std", "percentile")), row["stars"])
        found.setdefault(_key(row), {})[row["metric"]] = score
    return found


@cache
def effort() -> dict[ModelKey, dict[str, int]]:
    """Table 2: `{ModelKey: {"annotated_slices", ...}}` of the models that are not converged."""
    return {
        ModelKey.from_row(row): {name: int(row[name]) for name in COUNTS} for row in _rows("training_data")
    }


@cache
def training_steps() -> dict[ModelKey, int]:
    """Table 3: `{ModelKey: step of the evaluated checkpoint}`."""
    return {_key(row): int(row["steps"]) for row in _rows("training_steps")}


@cache
def effects() -> dict[tuple[str, str], PublishedEffect]:
    """Table 9: `{(metric, term): PublishedEffect}`, terms as in `quantile_regression.TERMS`."""
    return {
        (row["metric"], row["term"]): PublishedEffect(
            *(float(row[name]) for name in ("coefficient", "ci_low", "ci_high")), row["p_value"]
        )
        for row in _rows("quantile_regression")
    }


@cache
def sites() -> dict[str, PublishedSite]:
    """Table 1: `{site: PublishedSite}`."""
    return {
        row["site"]: PublishedSite(
            volumes=int(row["volumes"]),
            counts={split: int(row[split]) for split in SPLITS},
            inplane_spacing_mm=_range(row["inplane_spacing_mm"], float),
            slice_spacing_mm=_range(row["slice_spacing_mm"], float),
            inplane_size=int(row["inplane_size"]),
            slices=_range(row["slices"], int),
        )
        for row in _rows("datasets")
    }


def _rows(name: str) -> list[dict[str, str]]:
    path = files(__package__).joinpath("published_values", f"{name}.csv")
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _key(row: dict[str, str]) -> ModelKey:
    return ModelKey.from_row({**row, "model": "iteration" if row["model"] == "30 epochs" else row["model"]})


def _range(text: str, kind: Callable) -> tuple:
    low, high = text.split("-")
    return kind(low), kind(high)
