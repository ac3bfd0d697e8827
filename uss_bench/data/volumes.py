"""CT volumes: checked, read, and brought to the working grid and back through a cache.

All axes are `(z, y, x)`, as `nifti` gives them.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from ..runtime.errors import InputError, refuse
from ..runtime.prefetch import ahead
from ..runtime.storage import atomic_folder, read_json, remembered_digest, write_json
from .manifest import Case
from .nifti import AFFINE_TOLERANCE, Header, corner_distance, read_header, read_nifti, read_planes

ARRAYS = IMAGE, LABEL, REFERENCE = "image.npy", "label.npy", "reference.npy"
CACHE_FORMAT = 8  # raised whenever the cached files would differ
SPACINGS = (0.1, 20.0)  # mm; a header beyond this range is not believed
ROUNDING = 1e-4  # an interpolation weight below it is a rounding error


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
            "is not that of a CT; give the true one in the manifest's column spacing, or exclude the case"
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


def read_label(case: Case) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Reference liver of a case.

    Returns
    -------
    liver : ndarray
        Bool, `(z, y, x)` on the native grid; False where nobody has annotated.
    affine : ndarray
        `(4, 4)`, from `(x, y, z)` indices to mm.
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
    return liver, header.affine, unknown


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


def resample(
    volume: np.ndarray,
    spacing: Sequence[float],
    new_spacing: Sequence[float],
    new_shape: tuple[int, ...] | None = None,
) -> np.ndarray:
    """Resample a volume linearly onto a grid of another spacing with the same centre.

    Voxel centres keep their physical place. Where the new grid is at least twice as coarse, whole voxels are
    averaged first, so that a coarse voxel is a mean and not a noisy sample. Beyond the outermost voxel
    centres their value continues.

    Parameters
    ----------
    volume : ndarray
        `(z, y, x)`, of any real type.
    spacing, new_spacing : sequence of float
        `(z, y, x)` in mm.
    new_shape : tuple of int, optional
        `(z, y, x)`; by default the one that covers the same extent, see `grid_shape`.

    Returns
    -------
    ndarray
        float32, of `new_shape`; a copy even where nothing changes.

    Examples
    --------
    >>> line = np.array([0.0, 8.0, 4.0]).reshape(1, 1, 3)
    >>> resample(line, (1, 1, 2), (1, 1, 1)).ravel().tolist()
    [0.0, 2.0, 6.0, 7.0, 5.0, 4.0]
    """
    new_shape = new_shape or grid_shape(volume.shape, spacing, new_spacing)
    result = volume
    # Shrink early: the axis that loses most goes first.
    for axis in sorted(range(3), key=lambda axis: new_shape[axis] / volume.shape[axis]):
        if volume.shape[axis] != new_shape[axis] or spacing[axis] != new_spacing[axis]:
            weights = interpolation_weights(
                volume.shape[axis], new_shape[axis], new_spacing[axis] / spacing[axis]
            )
            result = _resample_axis(result, axis, weights)
    return np.array(result, dtype=np.float32, order="C") if result is volume else result


def _resample_axis(volume: np.ndarray, axis: int, weights: sparse.csr_array) -> np.ndarray:
    """Resample one axis by planes, so that no float32 copy of a whole int16 volume is made."""
    result = np.empty((*volume.shape[:axis], weights.shape[0], *volume.shape[axis + 1 :]), np.float32)
    across = 0 if axis else 1
    _, rows, columns = np.moveaxis(volume, across, 0).shape
    # Rows of odd length: read across, rows of 512 columns would all fall into the same few lines of the
    # processor's cache.
    lines = np.empty((rows, columns | 1), np.float32)[:, :columns]
    for index in range(volume.shape[across]):
        plane = (slice(None),) * across + (index,)
        lines[:] = volume[plane]
        # A plane is `(z, x)`, `(y, x)` or `(y, x)`; a sparse product needs the resampled axis first.
        result[plane] = (weights @ lines.T).T if axis == 2 else weights @ lines
    return result


def grid_shape(
    shape: Sequence[int], spacing: Sequence[float], new_spacing: Sequence[float]
) -> tuple[int, ...]:
    """Shape of the grid of `new_spacing` that covers the extent of `shape` voxels of `spacing`.

    >>> grid_shape((10, 10, 10), (2.0, 1.0, 0.5), (1.0, 1.0, 1.0))
    (20, 10, 5)
    """
    return tuple(
        max(1, round(length * old / new))
        for length, old, new in zip(shape, spacing, new_spacing, strict=True)
    )


@lru_cache(maxsize=8)  # all planes of a volume need the same
def interpolation_weights(length: int, new_length: int, ratio: float) -> sparse.csr_array:
    """Weights of linear interpolation at steps of `ratio` voxels about a common centre.

    Returns
    -------
    csr_array
        float32, `(new_length, length)`; rows sum to 1.
    """
    block = max(1, int(ratio + 1e-6))  # 4.8 / 1.6 is a little less than 3
    centres = (np.arange(new_length) - (new_length - 1) / 2) * ratio + (length - 1) / 2
    position = np.clip(centres[:, None] + np.arange(block) - (block - 1) / 2, 0, length - 1)
    below = np.floor(position).astype(int)
    above = np.minimum(below + 1, length - 1)
    rows = np.broadcast_to(np.arange(new_length)[:, None, None], (new_length, block, 2))
    shares = np.stack([1 - (position - below), position - below], axis=-1) / block
    weights = (shares.ravel(), (rows.ravel(), np.stack([below, above], axis=-1).ravel()))
    return sparse.csr_array(weights, shape=(new_length, length)).astype(np.float32)


@dataclass(frozen=True)
class Volume:
    """A case on the working grid. Its arrays are mapped from the cache, and read only where touched.

    Attributes
    ----------
    case : Case
        Row of the manifest.
    folder : Path
        Entry of the cache.
    spacing, shape : tuple
        Of the working grid, `(z, y, x)`; mm and voxels.
    native_spacing, native_shape : tuple
        Of the image file, on whose grid models are evaluated.
    liver_voxels : int
        Voxels of the reference on the native grid.
    label_codes : tuple of float
        Codes of the label file if none of them is liver, else empty.
    ignored : tuple of int
        Native slices with voxels that nobody has annotated.
    partly_ignored : int
        How many of these are annotated elsewhere.
    darkest, brightest : float
        Extremes of the image file in HU.
    image_digest, label_digest : str
        SHA-256 of the files; empty where there is no label.
    """

    case: Case
    folder: Path
    spacing: tuple[float, ...]
    shape: tuple[int, ...]
    native_shape: tuple[int, ...]
    native_spacing: tuple[float, ...]
    liver_voxels: int
    label_codes: tuple[float, ...]
    ignored: tuple[int, ...]
    partly_ignored: int
    darkest: float
    brightest: float
    image_digest: str
    label_digest: str

    @cached_property
    def image(self) -> np.ndarray:
        """HU on the working grid, int16."""
        return np.load(self.folder / IMAGE, mmap_mode="r")

    @cached_property
    def label(self) -> np.ndarray:
        """Liver on the working grid, 0 or 1, uint8."""
        return np.load(self.folder / LABEL, mmap_mode="r")

    @cached_property
    def native_slices(self) -> list[np.ndarray]:
        """For each slice of the working grid, the native slices that it is interpolated from."""
        ratio = self.spacing[0] / self.native_spacing[0]
        weights = interpolation_weights(self.native_shape[0], self.shape[0], ratio).toarray()
        return [np.flatnonzero(row > ROUNDING) for row in weights]

    @cached_property
    def annotated(self) -> tuple[int, ...]:
        """Slices of the working grid that are annotated.

        A native slice is annotated if all its voxels are, and a slice of the working grid if all native
        slices are that it is interpolated from. So a label is never made up: whatever the voxels hold that
        nobody has annotated, the annotated slices would be the same.
        """
        ignored = set(self.ignored)
        return tuple(z for z, native in enumerate(self.native_slices) if ignored.isdisjoint(native))

    def shows_liver(self, z: int) -> bool:
        """Whether a slice of the working grid shows liver."""
        return bool(self.label[z].any())

    def reference(self) -> np.ndarray:
        """Liver on the native grid, bool."""
        bits = np.unpackbits(np.load(self.folder / REFERENCE), count=prod(self.native_shape))
        return bits.reshape(self.native_shape).view(bool)

    def to_native(self, probability: np.ndarray) -> np.ndarray:
        """Resample a probability from the working grid to the native grid, float32."""
        return resample(probability, self.spacing, self.native_spacing, self.native_shape)


def load_volume(case: Case, spacing: Sequence[float], cache: str | Path) -> Volume:
    """Load a case on the working grid from the cache; if it is not there, put it there first.

    The key of an entry is made of the content of the files and everything that shapes the arrays, so a
    changed image makes a new entry.

    Parameters
    ----------
    case : Case
        Row of the manifest.
    spacing : sequence of float
        `(z, y, x)` in mm, of the working grid.
    cache : path
        Folder of the cache.

    Raises
    ------
    InputError
        The case is at fault: all faults in one message, one line per fault. Nothing is put into the cache.
    """
    refuse("", header_problems(case)[0])
    digests, folder = _entry(case, spacing, cache)
    if not folder.exists():
        _build_entry(case, spacing, folder)
    try:
        facts = read_json(folder / "volume.json")
        for name in ARRAYS if case.label else ARRAYS[:1]:
            np.load(folder / name, mmap_mode="r")
    except (FileNotFoundError, InputError, ValueError, EOFError):  # a damaged entry is made again
        shutil.rmtree(folder)
        return load_volume(case, spacing, cache)
    facts = {name: tuple(value) if isinstance(value, list) else value for name, value in facts.items()}
    return Volume(case=case, folder=folder, spacing=tuple(spacing), **facts, **digests)


def missing_bytes(cases: Iterable[Case], spacing: Sequence[float], cache: str | Path) -> int:
    """Bytes that `load_volume` will add to the cache for cases that are not in it, by their headers."""
    begun = Path(cache).is_dir()
    return sum(
        entry_bytes(*grids(case, spacing))
        for case in cases
        if not (begun and _entry(case, spacing, cache)[1].exists())
    )


def entry_bytes(native_shape: Sequence[int], shape: Sequence[int]) -> int:
    """Bytes of a cache entry.

    On the working grid two per voxel for the image and one for the label; on the native grid one bit per
    voxel for the reference.
    """
    return 3 * prod(shape) + prod(native_shape) // 8


def grids(case: Case, spacing: Sequence[float]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of a case on its native and on its working grid, by the header of its image."""
    header = read_header(case.image)
    return header.shape, grid_shape(header.shape, case.spacing or header.spacing, spacing)


def _entry(case: Case, spacing: Sequence[float], cache: str | Path) -> tuple[dict[str, str], Path]:
    """Digests of a case's files, and the folder of its cache entry."""
    digests = {
        f"{role}_digest": remembered_digest(path, cache) if path else ""
        for role, path in (("image", case.image), ("label", case.label))
    }
    key = {
        "format": CACHE_FORMAT,
        **digests,
        "spacing": list(spacing),
        "label_values": case.label_values,
        "header_spacing": case.spacing,
        "ignore_value": case.ignore_value,
    }
    return digests, Path(cache) / hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]


def _build_entry(case: Case, spacing: Sequence[float], folder: Path) -> None:
    """Write image and label at once, in two threads; the entry appears whole, or not at all."""
    problems, facts = [], {}
    with atomic_folder(folder) as partial:
        with ThreadPoolExecutor(2) as threads:
            parts = [threads.submit(write, case, spacing, partial) for write in (_write_image, _write_label)]
        for part in parts:
            try:
                facts |= part.result()
            except InputError as error:
                problems.append(f"case {case.case_id}: {error}")
        refuse("", problems)
        write_json(partial / "volume.json", facts)


def _write_image(case: Case, spacing: Sequence[float], folder: Path) -> dict[str, Any]:
    """Write the image on the working grid; returns facts for `Volume`."""
    header = read_header(case.image)
    native_spacing, extremes = case.spacing or header.spacing, []

    def planes() -> Iterator[tuple[int, np.ndarray]]:
        for z, plane in ahead(read_planes(header)):
            if plane.dtype.kind == "f" and not np.isfinite(plane).all():
                raise InputError(f"{case.image}: NaN or infinite values; repair or exclude the case")
            extremes.extend((float(plane.min()), float(plane.max())))
            yield z, plane

    hu = _resample_planes(planes(), header.shape, native_spacing, spacing)
    np.save(folder / IMAGE, hu.round(out=hu).clip(-32768, 32767, out=hu).astype(np.int16))
    return {
        "shape": hu.shape,
        "native_shape": header.shape,
        "native_spacing": native_spacing,
        "darkest": min(extremes),
        "brightest": max(extremes),
    }


def _write_label(case: Case, spacing: Sequence[float], folder: Path) -> dict[str, Any]:
    """Write the label on the working grid and the reference, if any; returns facts for `Volume`."""
    header = read_header(case.image)
    if case.label is None:
        ignored = list(range(header.shape[0]))
        return {"liver_voxels": 0, "label_codes": [], "ignored": ignored, "partly_ignored": 0}
    native_spacing = case.spacing or header.spacing
    reference, _, unknown = read_label(case)
    liver = _resample_planes(enumerate(reference), reference.shape, native_spacing, spacing) >= 0.5
    np.save(folder / LABEL, liver.view(np.uint8))
    np.save(folder / REFERENCE, np.packbits(reference))
    liver_voxels = int(np.count_nonzero(reference))
    return {
        "liver_voxels": liver_voxels,
        "label_codes": [] if liver_voxels else np.unique(read_nifti(case.label)[0]).tolist(),
        "ignored": np.flatnonzero(unknown).tolist(),
        "partly_ignored": int(np.count_nonzero((unknown > 0) & (unknown < reference[0].size))),
    }


def _resample_planes(
    planes: Iterable[tuple[int, np.ndarray]],
    shape: Sequence[int],
    spacing: Sequence[float],
    new_spacing: Sequence[float],
) -> np.ndarray:
    """Resample a volume of which `planes` yields `(z, plane)`: each plane as it comes, then across them."""
    new_shape = grid_shape(shape, spacing, new_spacing)
    half_way = spacing[0], *new_spacing[1:]
    stack = np.zeros((shape[0], *new_shape[1:]), np.float32)
    for z, plane in planes:
        if plane.any():
            stack[z] = resample(plane[None], spacing, half_way, (1, *new_shape[1:]))[0]
    return resample(stack, half_way, new_spacing, new_shape)
