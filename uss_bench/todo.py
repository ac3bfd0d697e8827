"""The folder that `uss-bench suggest` writes: what to annotate next, and the manifest for the next `fit`.

    slices.csv          one row per suggested slice, the most wanted first
    NAME_todo.nii.gz    label of a CT on its own grid: a proposal on the suggested slices, what was annotated
                        before, and the ignore code everywhere else
    manifest.csv        what was annotated before, and these labels, which an annotator has to correct first
    overview.png        the suggested slices, where matplotlib is installed

A slice of the working grid is annotated where all slices of the CT are that it is interpolated from. So a
suggestion is a range of slices of the CT, from `first` to `last`, with `slice` in its middle.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from .data.manifest import Case, relative_path, write_manifest
from .data.nifti import axial_slice, read_nifti, write_on_grid
from .data.nifti_header import read_header
from .data.volumes import Volume
from .network.inference import THRESHOLD, MonteCarlo
from .report.pictures import Suggested, suggestions_figure
from .report.style import has_matplotlib, our_style, save
from .runtime.storage import write_csv
from .study.pool import Query
from .study.showcase import WINDOW

COLUMNS = ("file", "slice", "first", "last", "position_mm", "score")
LIVER, IGNORE = 1, 2  # codes of new labels; nnU-Net wants the ignored one to come last
MOST_PICTURES = 40
LONGEST_NAME = 20  # letters in the title of a picture


@dataclass(frozen=True)
class Suggestion:
    """A slice to annotate, in the numbers that viewers of the CT show.

    Attributes
    ----------
    query : Query
        Case, slice of the working grid, and score.
    slice, first, last : int
        The slice of the CT in its middle, and the range that has to be annotated, counted from 0.
    position : float
        z of the slice in its middle, in mm.
    """

    query: Query
    slice: int
    first: int
    last: int
    position: float

    @classmethod
    def of(cls, query: Query, volume: Volume) -> Suggestion:
        """The slices of a CT that a slice of the working grid is interpolated from."""
        header, native = read_header(volume.case.image), volume.native_slices[query.z]
        numbers = [axial_slice(header, int(z))[0] for z in native]
        middle, position = axial_slice(header, int(native[len(native) // 2]))
        return cls(query, middle, min(numbers), max(numbers), position)


def write_todo(
    folder: Path,
    queries: Sequence[Query],
    volumes: Mapping[str, Volume],
    uncertainty: Callable[[str], MonteCarlo],
    annotated: Sequence[Case],
) -> list[str]:
    """Write the folder's files.

    Parameters
    ----------
    folder : Path
        Where to.
    queries : sequence of Query
        The suggested slices, the most wanted first.
    volumes : mapping
        `{case_id: Volume}` of all CTs that were asked about.
    uncertainty : callable
        From a case id to what Monte Carlo dropout gives for it on the working grid.
    annotated : sequence of Case
        The manifest of what was annotated before.

    Returns
    -------
    list of str
        What was left out, in words.
    """
    suggestions = [Suggestion.of(query, volumes[query.case_id]) for query in queries]
    write_csv(folder / "slices.csv", COLUMNS, [_row(one, volumes, folder) for one in suggestions])
    rows, pictures = {case.case_id: case for case in annotated}, {}
    for case_id in dict.fromkeys(query.case_id for query in queries):
        volume, found = volumes[case_id], uncertainty(case_id)
        asked = [number for number, query in enumerate(queries) if query.case_id == case_id]
        rows[case_id] = _write_label(folder, volume, found.mean, [queries[number].z for number in asked])
        for number in asked:
            pictures[number] = _picture(number, suggestions[number], volume, found)
    write_manifest(folder / "manifest.csv", list(rows.values()))
    return _write_overview(folder / "overview.png", [pictures[number] for number in sorted(pictures)])


def _row(suggestion: Suggestion, volumes: Mapping[str, Volume], folder: Path) -> dict:
    query = suggestion.query
    image = relative_path(volumes[query.case_id].case.image, folder)
    values = (image, suggestion.slice, suggestion.first, suggestion.last, suggestion.position, query.score)
    return dict(zip(COLUMNS, values, strict=True))


def _write_label(folder: Path, volume: Volume, mean: np.ndarray, slices: Sequence[int]) -> Case:
    """Write NAME_todo.nii.gz, and return the row of the manifest that names it.

    Parameters
    ----------
    folder : Path
        Where to.
    volume : Volume
        The CT.
    mean : ndarray
        Liver probability `(z, y, x)` on the working grid.
    slices : sequence of int
        Suggested slices of the working grid.
    """
    case = volume.case
    if case.label is None:
        case = replace(case, ignore_value=IGNORE)
        label = np.full(volume.native_shape, IGNORE, np.uint8)
    else:
        label = read_nifti(case.label)[0]
    liver = next(iter(case.label_values), LIVER if case.ignore_value != LIVER else IGNORE)
    low, high = min(int(label.min()), liver), max(int(label.max()), liver)
    label = label.astype(np.uint8 if 0 <= low <= high <= 255 else np.int32)
    proposal = np.where(volume.to_native(mean) >= THRESHOLD, label.dtype.type(liver), label.dtype.type(0))
    for z in {int(z) for working in slices for z in volume.native_slices[working]}:
        unknown = label[z] == case.ignore_value
        label[z][unknown] = proposal[z][unknown]
    path = folder / f"{case.case_id}_todo.nii.gz"
    write_on_grid(path, label, read_header(case.image))
    return replace(case, label=path)


# --- the overview ---


def _picture(number: int, suggestion: Suggestion, volume: Volume, found: MonteCarlo) -> Suggested:
    """A suggested slice as the working grid shows it."""
    query, ranging = suggestion.query, f"{suggestion.slice} ({suggestion.first}–{suggestion.last})"
    score = "" if query.score is None else f", {query.score:.3f}"
    name = query.case_id if len(query.case_id) <= LONGEST_NAME else f"{query.case_id[:LONGEST_NAME]}..."
    title = f"{number + 1}. {name}\nslice {ranging}{score}"
    (low, high), proposal = WINDOW, found.mean[query.z] >= THRESHOLD
    ct = (np.clip(volume.image[query.z].astype(np.float32), low, high) - low) / (high - low)
    return Suggested(title, ct, proposal, found.entropy[query.z], volume.spacing[1:])


def _write_overview(path: Path, pictures: Sequence[Suggested]) -> list[str]:
    if not has_matplotlib():
        return [f"{path.name} is left out: matplotlib is not installed (pip install matplotlib)"]
    with our_style():
        save(suggestions_figure(pictures[:MOST_PICTURES]), path)
    if len(pictures) > MOST_PICTURES:
        return [f"{path.name} shows the first {MOST_PICTURES} of {len(pictures)} slices"]
    return []
