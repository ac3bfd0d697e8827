"""How good the uncertainties of the models that queried are: the numbers behind the report.

A model that scores the pool also keeps, for every case that it scores, the mean of its Monte Carlo passes.
When all queries of a run have been made, and never before, these means are held against the references:
slice by slice, and as counts for a reliability diagram. Everything is on the working grid, where queries are
made.

Result files:

  uncertainty.csv.gz   a row per model, case that it scored, and slice
    uncertainty          mean entropy in nats
    wrong_voxels         in which the mean, at half a probability, differs from the reference
    predicted_voxels, liver_voxels   of that prediction, and of the reference
    annotated            1 where the slice was among those that the model was trained on, else 0
    queried              the strategies that asked for it next, joined by ";"
    distance_mm          to the nearest annotated slice of the volume: 0 is itself, empty where there is none
  calibration.csv      a row per model and bin of the mean, over the slices that were not annotated
    bin                  from 1 to `BINS`, of equal width; a limit belongs to the bin above it
    voxels, liver_voxels             in all, and of the reference
    mean_probability     of these voxels; empty where there are none
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..runtime.paths import CALIBRATION, UNCERTAINTY
from ..runtime.storage import atomic_path, write_csv
from .annotation import Annotations
from .keys import COLUMNS, ModelKey
from .records import TrainingSet

BINS = 15  # of the reliability diagram, as in Guo et al. (2017)
STEPS = 255  # in which a probability is kept; a half rounds up to 128, so that none crosses the threshold
SLICE_COUNTS = ("wrong_voxels", "predicted_voxels", "liver_voxels")
BIN_COUNTS = ("voxels", "liver_voxels", "steps")

Assessment = Mapping[str, Any]


def quantized(mean: np.ndarray) -> np.ndarray:
    """A probability in steps of 1/255, uint8: at least 128 just where it is at least a half.

    >>> quantized(np.array([0.0, 0.4999999, 0.5, 1.0])).tolist()
    [0, 127, 128, 255]
    """
    return np.rint(STEPS * np.asarray(mean, np.float64)).astype(np.uint8)


def keep_mean(path: str | Path, mean: np.ndarray) -> None:
    """Keep a mean liver probability in steps: most of a volume is background, and vanishes in compression."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(zlib.compress(quantized(mean).tobytes(), level=1))


def kept_mean(path: str | Path, shape: Sequence[int]) -> np.ndarray:
    """What `keep_mean` kept: uint8 steps `(z, y, x)`.

    Raises
    ------
    FileNotFoundError, zlib.error, ValueError
        There is no such file, or it is damaged.
    """
    return np.frombuffer(zlib.decompress(Path(path).read_bytes()), np.uint8).reshape(shape)


def assess_case(mean: np.ndarray, reference: np.ndarray, annotated: Iterable[int]) -> dict[str, Any]:
    """Hold the mean of the Monte Carlo passes on a case against its reference.

    Parameters
    ----------
    mean : ndarray
        Liver probability in steps of 1/255, uint8 `(z, y, x)`.
    reference : ndarray
        Liver, 0 or 1, of the same shape.
    annotated : iterable of int
        Slices that the model was trained on; they stay out of the calibration.

    Returns
    -------
    dict
        The counts of `SLICE_COUNTS` for each slice; `calibration`, those of `BIN_COUNTS` for each bin, where
        `steps` is the sum of the means in steps.

    Examples
    --------
    One slice of three voxels: liver that is predicted, liver that is missed, and background.

    >>> found = assess_case(quantized([[[0.9, 0.3, 0.1]]]), np.array([[[1, 1, 0]]]), ())
    >>> [found[name] for name in SLICE_COUNTS]
    [[1], [1], [2]]
    >>> found["calibration"]["voxels"]
    [0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]
    """
    annotated = frozenset(annotated)
    slices: dict[str, list[int]] = {name: [] for name in SLICE_COUNTS}
    steps = np.zeros((2, STEPS + 1), np.int64)  # of all voxels, and of those of the liver
    for z, plane in enumerate(mean):  # a slice at a time: counting takes eight bytes per voxel
        liver = np.asarray(reference[z], bool)
        predicted = plane > STEPS / 2
        for name, mask in zip(SLICE_COUNTS, (predicted != liver, predicted, liver), strict=True):
            slices[name].append(int(np.count_nonzero(mask)))
        if z not in annotated:
            steps += [np.bincount(voxels.ravel(), minlength=STEPS + 1) for voxels in (plane, plane[liver])]
    # A limit k/15 is the step 17 k, and begins its bin; the last bin also holds probability 1.
    places = np.minimum(np.arange(STEPS + 1) * BINS // STEPS, BINS - 1)
    counts = [*steps, steps[0] * np.arange(STEPS + 1)]
    calibration = {
        name: np.bincount(places, weights=count, minlength=BINS).astype(int).tolist()
        for name, count in zip(BIN_COUNTS, counts, strict=True)
    }
    return {**slices, "calibration": calibration}


def write_uncertainty_quality(
    folder: str | Path,
    assessed: Mapping[ModelKey, Sequence[Assessment]],
    records: Iterable[TrainingSet],
    edge: float,
) -> None:
    """Write the result files of a report folder.

    Parameters
    ----------
    folder : path
        Of the report.
    assessed : mapping
        `{ModelKey: what Models.assess returned for each case}`, of the models that scored the pool.
    records : iterable of TrainingSet
        Of all models, whose queries are joined to the slices.
    edge : float
        Distance between two slices of the working grid, in mm.
    """
    records = {record.key: record for record in records}
    asked = _asked(records.values())
    keys = [key for key in records if assessed.get(key)]  # a model may have had nothing left to score
    slices = [
        {**key.as_row(), **row}
        for key in keys
        for case in assessed[key]
        for row in _slice_rows(case, records[key].annotations, asked.get(key, []), edge)
    ]
    bins = [{**key.as_row(), **row} for key in keys for row in _bin_rows(assessed[key])]
    columns = ("uncertainty", *SLICE_COUNTS, "annotated", "queried", "distance_mm")
    write_csv(Path(folder) / UNCERTAINTY, [*COLUMNS, "case_id", "slice", *columns], slices)
    columns = ("bin", "voxels", "liver_voxels", "mean_probability")
    write_csv(Path(folder) / CALIBRATION, [*COLUMNS, *columns], bins)


def _asked(records: Iterable[TrainingSet]) -> dict[ModelKey, list[tuple[str, str, int | None]]]:
    """`{ModelKey: (strategy, case_id, slice or None)}` of what was queried under each model."""
    asked: dict[ModelKey, list[tuple[str, str, int | None]]] = {}
    for record in records:
        _, strategy, iteration = record.key
        if record.queries:
            before = ModelKey.of_iteration(strategy, iteration - 1)
            asked.setdefault(before, []).extend((strategy, case_id, z) for case_id, z, _ in record.queries)
    return asked


def _slice_rows(
    case: Assessment, annotations: Annotations, asked: Iterable[tuple], edge: float
) -> Iterator[dict[str, Any]]:
    annotated = np.array(sorted(annotations.of(case["case_id"])))
    queries = [(strategy, z) for strategy, case_id, z in asked if case_id == case["case_id"]]
    for z, uncertainty in enumerate(case["uncertainty"]):
        yield {
            "case_id": case["case_id"],
            "slice": z,
            "uncertainty": uncertainty,
            **{name: case[name][z] for name in SLICE_COUNTS},
            "annotated": int(z in annotated),
            "queried": ";".join(strategy for strategy, queried in queries if queried in (None, z)),
            "distance_mm": edge * float(np.abs(annotated - z).min()) if len(annotated) else None,
        }


def _bin_rows(cases: Iterable[Assessment]) -> Iterator[dict[str, Any]]:
    """The counts of all cases together."""
    counts = sum(np.array([case["calibration"][name] for name in BIN_COUNTS]) for case in cases)
    for number, (voxels, liver, steps) in enumerate(np.transpose(counts).tolist(), start=1):
        mean = steps / voxels / STEPS if voxels else None
        yield {"bin": number, "voxels": voxels, "liver_voxels": liver, "mean_probability": mean}
