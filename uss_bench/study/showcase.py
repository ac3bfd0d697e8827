"""The few slices that Figures 2, 4 and 5 show, kept as one small file, so that the figures can be redrawn without models or volumes.

The file is a NumPy archive without pickled objects. `n` and `m` count shown queries and cases; slices are counted from 0; grey values
are HU of `WINDOW` in 256 steps; probabilities are hundredths. Slices `(y, x)` are thinned until no side exceeds `MAX_SIDE` pixels.

  Figure 2, one pool case under the initial model, on the working grid (only with the featured strategy)
    profile             (z,) float32     slice uncertainty in nats
    profile_candidates  (k,) int32       slices that USS may choose
    profile_chosen      (c,) int32       slices that its first iteration chose
    profile_liver       (z,) bool        the reference shows liver
    profile_case        text
  Figure 4, slices of its first iteration under the initial model, the most uncertain first, cut to the body (only with the featured strategy)
    query_case, query_slice, query_score   (n,) text, int32, float64 in nats
    query_rank                             (n,) int32, 1 for the highest score; query_count: how many were chosen in all
    query_pixel                            (n, 2) float32, mm, (y, x)
    query_I_ct, _reference, _probability   (y, x) uint8, for I in 0..n-1
    query_I_entropy                        (y, x) float16, nats to two decimals, which compress well
  Figure 5, test cases under the converged models and the data pool model, on the native grid, cut to the liver
    case_id, case_role, case_slice         (m,) text, text, int32; roles are "best", "worst", "disagreement"
    case_pixel                             (m, 2) float32, mm, (y, x)
    case_models                            text, strategies, then "data pool"
    case_I_ct, case_I_reference            (y, x) uint8, for I in 0..m-1
    case_I_predictions                     (model, y, x) uint8
"""

import shutil
import zipfile
from pathlib import Path

import numpy as np

from ..data.nifti import read_nifti
from ..network.uncertainty import slice_profile
from ..runtime.storage import atomic_path
from .evaluation import THRESHOLD
from .keys import INITIAL, ModelKey
from .strategies import FEATURED, slice_candidates

WINDOW = (-150.0, 250.0)  # HU, the usual abdominal window
MAX_SIDE = 200  # pixels: seven CT slices of this size stay below 300 kB
AIR = -500  # HU; Figure 4 is cut to what is denser
MARGIN = 0.2  # around the liver of Figure 5, as a share of its extent


def write_showcase(simulation, records, path):
    """Write the slices of a finished run to `path`.

    They are kept in the run's folder too, by the strategies shown, so that running again predicts nothing again.

    Parameters
    ----------
    simulation : `simulation.Simulation`
    records : what its `run` returned
    path : the report's file
    """
    shown = "-".join(record.key.strategy for record in records if record.key.kind == "converged")
    kept = Path(simulation.run_folder) / f"slices-{shown}.npz"
    if not kept.exists():
        save_arrays(kept, {**_query_arrays(simulation, records), **_case_arrays(simulation, records)})
    with atomic_path(path) as temporary:
        shutil.copyfile(kept, temporary)


def save_arrays(path, arrays):
    """Write `{name: array}` as a compressed NumPy archive; equal arrays give equal bytes, which `numpy.savez` does not promise."""
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, array in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(entry, "w") as file:
                np.lib.format.write_array(file, np.asarray(array, order="C"), allow_pickle=False)


def chosen_queries(queries):
    """Ranks, from 0, of the three highest and the lowest scored of `[case_id, z, score]`, which come in descending order."""
    return sorted({*range(min(3, len(queries))), len(queries) - 1})


def chosen_cases(dice):
    """Cases that Figure 5 shows, `{role: case_id}`, from `{strategy: {case_id: DICE}}`; of equal ones the first by id.

    "best" and "worst" go by the mean over the strategies, "disagreement" by the range over them among the cases left.
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


def _query_arrays(simulation, records):
    """Arrays of Figures 2 and 4; none without the featured strategy."""
    by_key = {record.key: record for record in records}
    first = by_key.get(ModelKey.of_iteration(FEATURED, 1))
    if first is None or not first.queries:
        return {}
    initial = by_key[INITIAL]
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
        mean, entropy = simulation.models.uncertainty(initial.key, case_id)
        if case_id == shown[0][0]:
            profile = slice_profile(entropy)
            annotated = initial.annotations.of(case_id)
            candidates = [
                z
                for z in slice_candidates(profile, simulation.config.query.min_distance)
                if z not in annotated
            ]
            arrays["profile"] = profile.astype(np.float32)
            arrays["profile_candidates"] = np.array(candidates, np.int32)
            arrays["profile_chosen"] = np.array(
                sorted(z for name, z, _ in first.queries if name == case_id), np.int32
            )
            arrays["profile_liver"] = np.asarray(volume.label).any(axis=(1, 2))
            arrays["profile_case"] = np.array(case_id)
        for number, (name, z, _) in enumerate(shown):
            if name == case_id:
                region, step = _thinned(box_around([volume.image[z] > AIR]))
                arrays[f"query_{number}_ct"] = _grey(volume.image[z][region])
                arrays[f"query_{number}_reference"] = np.asarray(volume.label[z][region])
                arrays[f"query_{number}_probability"] = np.rint(100 * mean[z][region]).astype(np.uint8)
                arrays[f"query_{number}_entropy"] = entropy[z][region].round(2).astype(np.float16)
                pixels[number] = [step * edge for edge in volume.spacing[1:]]
    return {**arrays, "query_pixel": np.array([pixels[number] for number in range(len(shown))], np.float32)}


def _case_arrays(simulation, records):
    """Arrays of Figure 5."""
    models = [record for record in records if record.key.converges]
    converged = [record for record in models if record.key.strategy]
    roles = chosen_cases(
        {
            record.key.strategy: {row["case_id"]: row["DICE"] for row in record.evaluation}
            for record in converged
        }
    )
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


def worst_slice(masks, reference):
    """Slice on which predictions and reference, all bool `(z, y, x)`, differ in most voxels, summed over the predictions."""
    return int(np.argmax(sum(np.count_nonzero(mask != reference, axis=(1, 2)) for mask in masks)))


def box_around(masks, margin=0.0):
    """Slices `(y, x)` of the box around all masks `(y, x)`, widened by a share of its extent; the whole plane where all are empty."""
    union = np.any(masks, axis=0)
    if not union.any():
        return tuple(slice(0, length) for length in union.shape)
    box = []
    for axis, length in enumerate(union.shape):
        first, last = np.flatnonzero(union.any(axis=1 - axis))[[0, -1]]
        added = int(np.ceil(margin * (last + 1 - first)))
        box.append(slice(max(0, int(first) - added), min(length, int(last) + 1 + added)))
    return tuple(box)


def _prediction(simulation, key, volume):
    """Liver of a test case on the native grid, as when it was evaluated."""
    return volume.to_native(simulation.models.predict(simulation.models.trained(key), volume)) >= THRESHOLD


def _thinned(box):
    """A box with the least whole step that leaves at most `MAX_SIDE` pixels a side, and that step."""
    step = -(-max(axis.stop - axis.start for axis in box) // MAX_SIDE)
    return tuple(slice(axis.start, axis.stop, step) for axis in box), step


def _grey(hu):
    low, high = WINDOW
    return np.rint((np.clip(np.asarray(hu, np.float32), low, high) - low) * (255 / (high - low))).astype(
        np.uint8
    )
