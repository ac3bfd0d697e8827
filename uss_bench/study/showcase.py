"""The few slices that Figures 2, 4 and 5 show, kept as one small file.

With it, the figures can be redrawn without models or volumes. The file is a NumPy archive without pickled
objects. `n` and `m` count shown queries and cases; slices are counted from 0; grey values are HU of `WINDOW`
in 256 steps; probabilities are hundredths. Slices `(y, x)` are thinned until no side exceeds `MAX_SIDE`
pixels.

  Figure 2, one pool case under the initial model, on the working grid (only with the featured strategy)
    profile             (z,) float32     slice uncertainty in nats
    profile_candidates  (k,) int32       slices that it may choose
    profile_chosen      (c,) int32       slices that its first iteration chose
    profile_liver       (z,) bool        the reference shows liver
    profile_case        text
  Figure 4, slices of its first iteration under the initial model, the most uncertain first, cut to the body
  (only with the featured strategy)
    query_case, query_slice, query_score   (n,) text, int32, float64 in nats
    query_rank                             (n,) int32, 1 for the highest score
    query_count                            int32, how many were chosen in all
    query_pixel                            (n, 2) float32, mm, (y, x)
    query_I_ct, _reference, _probability   (y, x) uint8, for I in 0..n-1
    query_I_entropy                        (y, x) float16, nats to two decimals, which compress well
  Figure 5, test cases under the converged models and the data pool model, on the native grid, cut to the
  liver
    case_id, case_role, case_slice         (m,) text, text, int32; roles: "best", "worst", "disagreement"
    case_pixel                             (m, 2) float32, mm, (y, x)
    case_models                            text, strategies, then "data pool"
    case_I_ct, case_I_reference            (y, x) uint8, for I in 0..m-1
    case_I_predictions                     (model, y, x) uint8
"""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..data.nifti import read_nifti
from ..data.volumes import Volume
from ..network.inference import THRESHOLD
from ..network.uncertainty import slice_profile
from ..runtime.storage import atomic_path
from .keys import INITIAL, ModelKey
from .records import ModelRecord
from .rules import slice_candidates
from .simulation import Simulation
from .strategies import FEATURED

WINDOW = (-150.0, 250.0)  # HU, the usual abdominal window
MAX_SIDE = 200  # pixels: seven CT slices of this size stay below 300 kB
MOST_MODELS = 4  # of strategies in Figure 5: the first, as more would not be legible
AIR = -500  # HU; Figure 4 is cut to what is denser
MARGIN = 0.2  # around the liver of Figure 5, as a share of its extent

Arrays = dict[str, np.ndarray]


def write_showcase(simulation: Simulation, records: Iterable[ModelRecord], path: str | Path) -> None:
    """Write the slices of a finished run to `path`.

    They are also kept in the run's folder, by what the models have queried and scored, so that a second call
    predicts nothing.

    Parameters
    ----------
    simulation : Simulation
        The run.
    records : iterable of ModelRecord
        What `Simulation.run` returned.
    path : path
        File of the report.
    """
    records = list(records)
    shown = json.dumps([[record.key, list(record.queries), record.evaluation] for record in records])
    kept = Path(simulation.run_folder) / f"slices-{hashlib.sha256(shown.encode()).hexdigest()[:16]}.npz"
    if not kept.exists():
        save_arrays(kept, {**_query_arrays(simulation, records), **_case_arrays(simulation, records)})
    with atomic_path(path) as temporary:
        shutil.copyfile(kept, temporary)


def save_arrays(path: str | Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a compressed NumPy archive; equal arrays give equal bytes, unlike with `numpy.savez`."""
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, array in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(entry, "w") as file:
                np.lib.format.write_array(file, np.asarray(array, order="C"), allow_pickle=False)


# --- Figures 2 and 4 ---


def chosen_queries(queries: Sequence[Any]) -> list[int]:
    """Ranks, from 0, of the queries to show: the first three and the last, which has the lowest score.

    >>> chosen_queries("abcdefg")
    [0, 1, 2, 6]
    """
    return sorted({*range(min(3, len(queries))), len(queries) - 1})


def _query_arrays(simulation: Simulation, records: Iterable[ModelRecord]) -> Arrays:
    """Arrays of Figures 2 and 4; none without the featured strategy."""
    by_key = {record.key: record for record in records}
    first = by_key.get(ModelKey.of_iteration(FEATURED, 1))
    if first is None or not first.queries:
        return {}
    ranks = chosen_queries(first.queries)
    shown = [first.queries[rank] for rank in ranks]
    arrays = {
        "query_case": np.array([case_id for case_id, _, _ in shown]),
        "query_slice": np.array([z for _, z, _ in shown], np.int32),
        "query_score": np.array([score for _, _, score in shown]),
        "query_rank": np.array(ranks, np.int32) + 1,
        "query_count": np.array(len(first.queries), np.int32),
    }
    pixels = {}
    # One case at a time: two float volumes of a real case take most of a gigabyte.
    for case_id in dict.fromkeys(case_id for case_id, _, _ in shown):
        simulation.progress.now(f"figures: uncertainty of {case_id}")
        volume = simulation.pool[case_id]
        mean, entropy, *_ = simulation.models.uncertainty(INITIAL, case_id)
        if case_id == shown[0][0]:
            annotated = by_key[INITIAL].annotations.of(case_id)
            chosen = sorted(z for name, z, _ in first.queries if name == case_id)
            arrays |= _profile_arrays(simulation, volume, slice_profile(entropy), annotated, chosen)
        for number, (name, z, _) in enumerate(shown):
            if name == case_id:
                pictures, pixels[number] = _queried_slice(volume, z, mean, entropy)
                arrays |= {f"query_{number}_{kind}": picture for kind, picture in pictures.items()}
    return {**arrays, "query_pixel": np.array([pixels[number] for number in range(len(shown))], np.float32)}


def _profile_arrays(
    simulation: Simulation, volume: Volume, profile: np.ndarray, annotated: frozenset[int], chosen: list[int]
) -> Arrays:
    candidates = [
        z for z in slice_candidates(profile, simulation.querying.min_distance) if z not in annotated
    ]
    return {
        "profile": profile.astype(np.float32),
        "profile_candidates": np.array(candidates, np.int32),
        "profile_chosen": np.array(chosen, np.int32),
        "profile_liver": np.asarray(volume.label).any(axis=(1, 2)),
        "profile_case": np.array(volume.case.case_id),
    }


def _queried_slice(
    volume: Volume, z: int, mean: np.ndarray, entropy: np.ndarray
) -> tuple[Arrays, list[float]]:
    """Pictures of a slice, cut to the body, and the edges `(y, x)` of a pixel in mm."""
    region, step = _thinned(box_around([volume.image[z] > AIR]))
    pictures = {
        "ct": _grey(volume.image[z][region]),
        "reference": np.asarray(volume.label[z][region]),
        "probability": np.rint(100 * mean[z][region]).astype(np.uint8),
        "entropy": entropy[z][region].round(2).astype(np.float16),
    }
    return pictures, [step * edge for edge in volume.spacing[1:]]


# --- Figure 5 ---


def chosen_cases(dice: Mapping[str, Mapping[str, float]]) -> dict[str, str]:
    """Cases to show: the best and the worst, and the one on which the strategies disagree most.

    Parameters
    ----------
    dice : mapping
        `{strategy: {case_id: DICE}}`.

    Returns
    -------
    dict
        `{role: case_id}`; of equal cases the first by id. "best" and "worst" go by the mean over the
        strategies, "disagreement" by the range over them among the cases left.

    Examples
    --------
    >>> chosen_cases({"A": {"x": 0.9, "y": 0.5, "z": 0.8}, "B": {"x": 0.9, "y": 0.5, "z": 0.6}})
    {'best': 'x', 'worst': 'y', 'disagreement': 'z'}
    """
    left = sorted(next(iter(dice.values())))
    mean, spread = (
        {case_id: reduce([by_case[case_id] for by_case in dice.values()]) for case_id in left}
        for reduce in (np.mean, np.ptp)
    )
    found = {}
    for role, value in (
        ("best", mean),
        ("worst", {case_id: -score for case_id, score in mean.items()}),
        ("disagreement", spread),
    ):
        if left and (role != "disagreement" or len(dice) > 1):
            found[role] = max(left, key=value.get)
            left.remove(found[role])
    return found


def _case_arrays(simulation: Simulation, records: Iterable[ModelRecord]) -> Arrays:
    """Arrays of Figure 5."""
    models = [record for record in records if record.key.converges]
    converged = [record for record in models if record.key.strategy]
    roles = chosen_cases(
        {
            record.key.strategy: {row["case_id"]: row["DICE"] for row in record.evaluation}
            for record in converged
        }
    )
    models = converged[:MOST_MODELS] + [record for record in models if not record.key.strategy]
    arrays, slices, pixels = {}, [], []
    for number, case_id in enumerate(roles.values()):
        simulation.progress.now(f"figures: predictions of {case_id}")
        volume = simulation.volumes["test"][case_id]
        reference = volume.reference()
        masks = [_prediction(simulation, record.key, volume) for record in models]
        z = worst_slice(masks, reference)
        region, step = _thinned(box_around([reference[z], *(mask[z] for mask in masks)], MARGIN))
        arrays[f"case_{number}_ct"] = _grey(read_nifti(volume.case.image)[0][z][region])
        arrays[f"case_{number}_reference"] = reference[z][region].astype(np.uint8)
        arrays[f"case_{number}_predictions"] = np.array([mask[z][region] for mask in masks], np.uint8)
        slices.append(z)
        pixels.append([step * edge for edge in volume.native_spacing[1:]])
    return {
        "case_id": np.array(list(roles.values())),
        "case_role": np.array(list(roles)),
        "case_slice": np.array(slices, np.int32),
        "case_pixel": np.array(pixels, np.float32),
        "case_models": np.array([record.key.strategy or record.key.kind for record in models]),
        **arrays,
    }


def worst_slice(masks: Iterable[np.ndarray], reference: np.ndarray) -> int:
    """Slice on which predictions and reference differ in most voxels, summed over the predictions.

    All are bool `(z, y, x)`.
    """
    return int(np.argmax(sum(np.count_nonzero(mask != reference, axis=(1, 2)) for mask in masks)))


def box_around(masks: Sequence[np.ndarray], margin: float = 0.0) -> tuple[slice, ...]:
    """Slices `(y, x)` of the box around all masks; the whole plane where all are empty.

    Parameters
    ----------
    masks : sequence of ndarray
        Bool, `(y, x)`.
    margin : float
        Share of its extent by which the box is widened on every side.
    """
    union = np.any(masks, axis=0)
    if not union.any():
        return tuple(slice(0, length) for length in union.shape)
    box = []
    for axis, length in enumerate(union.shape):
        first, last = np.flatnonzero(union.any(axis=1 - axis))[[0, -1]]
        added = int(np.ceil(margin * (last + 1 - first)))
        box.append(slice(max(0, int(first) - added), min(length, int(last) + 1 + added)))
    return tuple(box)


def _prediction(simulation: Simulation, key: ModelKey, volume: Volume) -> np.ndarray:
    """Liver of a test case on the native grid, as when it was evaluated."""
    return volume.to_native(simulation.models.predict(simulation.models.trained(key), volume)) >= THRESHOLD


# --- pictures ---


def _thinned(box: tuple[slice, ...]) -> tuple[tuple[slice, ...], int]:
    """A box with the least whole step that leaves at most `MAX_SIDE` pixels per side, and that step."""
    step = -(-max(axis.stop - axis.start for axis in box) // MAX_SIDE)
    return tuple(slice(axis.start, axis.stop, step) for axis in box), step


def _grey(hu: np.ndarray) -> np.ndarray:
    low, high = WINDOW
    grey = (np.clip(np.asarray(hu, np.float32), low, high) - low) * (255 / (high - low))
    return np.rint(grey).astype(np.uint8)
