"""The two files of a case: whether they belong together, and the liver that a label's codes mean."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..runtime.errors import InputError
from .manifest import Case
from .nifti import read_planes
from .nifti_header import AFFINE_TOLERANCE, Header, corner_distance, read_header

SPACINGS = (0.1, 20.0)  # mm; a header beyond this range is not believed


def header_problems(case: Case) -> tuple[list[str], list[str]]:
    """Check a case by the headers of its files, of which an image without a label has one.

    Image and label must have the same shape, and the corners of their volumes must lie within 0.1 voxel of
    each other. The spacing of the image must be that of a CT, unless the manifest gives another.

    Returns
    -------
    problems, warnings : list of str
        What is wrong and what is doubtful, one line each.
    """
    headers, problems, warnings = [], [], []
    for path in filter(None, (case.image, case.label)):
        try:
            headers.append(read_header(path))
            warnings += headers[-1].warnings
        except InputError as error:
            problems.append(str(error))
    if len(headers) == 2:
        problems += _mismatch(*headers)
    spacing = case.spacing or next((header.spacing for header in headers if header.path == case.image), None)
    if spacing and not all(SPACINGS[0] <= size <= SPACINGS[1] for size in spacing):
        problems.append(
            f"{case.image}: spacing {' x '.join(f'{size:g}' for size in reversed(spacing))} mm (x, y, z) "
            "is not that of a CT; correct the file, give the true one in the manifest's column spacing, "
            "or exclude the case"
        )
    problems, warnings = (
        [f"case {case.case_id}: {line}" for line in lines] for lines in (problems, warnings)
    )
    return problems, warnings


def _mismatch(image: Header, label: Header) -> list[str]:
    if image.path.resolve() == label.path.resolve():
        return [f"{label.path}: image and label are the same file; give the reference segmentation as label"]
    if image.shape != label.shape:
        return [
            f"{label.path}: shape {label.shape} and that of the image {image.shape} (z, y, x) differ; "
            "give a matching pair"
        ]
    apart = corner_distance(image.affine, label.affine, image.shape)
    if apart <= AFFINE_TOLERANCE:
        return []
    return [
        f"{label.path}: lies {apart:.3g} voxels off its image "
        f"(affines may differ by {AFFINE_TOLERANCE} voxel at the corners); "
        "save it with the affine of the image"
    ]


def read_label(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Reference liver of a case.

    Returns
    -------
    liver : ndarray
        Bool, `(z, y, x)` on the native grid; False where nobody has annotated.
    unknown : ndarray
        `(z,)`, how many voxels of each slice nobody has annotated.

    Raises
    ------
    InputError
        As `read_nifti`, or the codes are not whole numbers.
    """
    header = read_header(case.label)
    liver, unknown = np.empty(header.shape, bool), np.zeros(header.shape[0], int)
    for z, plane in read_planes(header):
        if plane.dtype.kind == "f" and not (
            np.isfinite(plane).all() and np.array_equal(plane, np.rint(plane))
        ):
            raise InputError(
                f"{case.label}: labels are not whole numbers; resample masks by nearest neighbour"
            )
        liver[z] = liver_of(plane, case.label_values, case.ignore_value)
        if case.ignore_value is not None:
            unknown[z] = np.count_nonzero(plane == case.ignore_value)
    return liver, unknown


def liver_of(values: np.ndarray, label_values: Sequence[int], ignore_value: int | None = None) -> np.ndarray:
    """Liver as a bool array from label codes.

    Without `label_values` every code counts but 0 and `ignore_value`.

    >>> liver_of(np.array([0, 1, 2, 3]), (1, 2)).tolist()
    [False, True, True, False]
    """
    if not label_values:
        return (values != 0) if ignore_value is None else (values != 0) & (values != ignore_value)
    liver = np.zeros_like(values, bool)
    for value in label_values:  # numpy.isin takes up to thirteen times the memory of a volume
        liver |= values == value
    return liver
