"""The paper's Tables 1-9 as data, under the keys of `results.Results`, so that a published value stands beside every measured one.

The numbers are those of Chlebus et al. (234 test cases of five sites); they describe other data than any run of this benchmark.
"""

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from ..data.manifest import SPLITS
from ..study.annotation import COUNTS
from ..study.keys import ModelKey


@dataclass(frozen=True)
class PublishedScore:
    """A cell of Tables 4-8: mean, standard deviation, 5th (DICE) or 95th percentile, stars against the best of the row."""

    mean: float
    std: float
    percentile: float
    stars: str


@dataclass(frozen=True)
class PublishedEffect:
    """A cell of Table 9: a coefficient in the metric's unit, its 95% confidence interval, and p as it is printed."""

    coefficient: float
    low: float
    high: float
    p: str


@dataclass(frozen=True)
class PublishedSite:
    """A row of Table 1. Ranges are `(low, high)`; in-plane sizes are voxels an edge, `counts` are volumes by split."""

    volumes: int
    counts: dict
    inplane_spacing_mm: tuple
    slice_spacing_mm: tuple
    inplane_size: int
    slices: tuple


@cache
def scores():
    """Tables 4-8: `{ModelKey: {metric: PublishedScore}}`; Table 8 repeats the data pool model of Tables 4-7."""
    found = {}
    for row in _rows("results"):
        score = PublishedScore(*(float(row[name]) for name in ("mean", "std", "percentile")), row["stars"])
        found.setdefault(_key(row), {})[row["metric"]] = score
    return found


@cache
def effort():
    """Table 2: `{ModelKey: {"annotated_slices", ...}}` of the models that are not converged."""
    return {
        ModelKey.from_row(row): {name: int(row[name]) for name in COUNTS} for row in _rows("training_data")
    }


@cache
def training_steps():
    """Table 3: `{ModelKey: step of the evaluated checkpoint}`."""
    return {_key(row): int(row["steps"]) for row in _rows("training_steps")}


@cache
def quantile_effects():
    """Table 9: `{(metric, term): PublishedEffect}`, terms as in `statistics.TERMS`."""
    return {
        (row["metric"], row["term"]): PublishedEffect(
            *(float(row[name]) for name in ("coefficient", "ci_low", "ci_high")), row["p_value"]
        )
        for row in _rows("quantile_regression")
    }


@cache
def sites():
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


def _rows(name):
    with (
        files(__package__)
        .joinpath("published_values", f"{name}.csv")
        .open(newline="", encoding="utf-8") as file
    ):
        return list(csv.DictReader(file))


def _key(row):
    return ModelKey.from_row({**row, "model": "iteration" if row["model"] == "30 epochs" else row["model"]})


def _range(text, kind):
    low, high = text.split("-")
    return kind(low), kind(high)
