"""CT volumes on the working grid, through a cache, and back to the native grid.

All axes are `(z, y, x)`, as `nifti` gives them.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from ..runtime.errors import InputError, refuse
from ..runtime.prefetch import ahead
from ..runtime.storage import atomic_folder, read_json, remembered_digest, write_json
from .case_files import header_problems, read_label
from .manifest import Case
from .nifti import read_nifti, read_planes
from .nifti_header import read_header
from .resampling import grid_shape, interpolation_weights, resample, resample_planes

ARRAYS = IMAGE, LABEL, REFERENCE = "image.npy", "label.npy", "reference.npy"
CACHE_FORMAT = 8  # raised whenever the cached files would differ
ROUNDING = 1e-4  # an interpolation weight below it is a rounding error


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
        """Resample a probability from the working grid to the native grid.

        Parameters
        ----------
        probability : (z, y, x) array
            On the working grid, of `shape`.

        Returns
        -------
        (z, y, x) float32 array
            On the native grid, of `native_shape`, with axes in RAS order reversed as everywhere here.
        """
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

    Returns
    -------
    Volume
        Image and label on the working grid, and what leads back to the native one.

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

    hu = resample_planes(planes(), header.shape, native_spacing, spacing)
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
    reference, unknown = read_label(case)
    liver = resample_planes(enumerate(reference), reference.shape, native_spacing, spacing) >= 0.5
    np.save(folder / LABEL, liver.view(np.uint8))
    np.save(folder / REFERENCE, np.packbits(reference))
    liver_voxels = int(np.count_nonzero(reference))
    return {
        "liver_voxels": liver_voxels,
        "label_codes": [] if liver_voxels else np.unique(read_nifti(case.label)[0]).tolist(),
        "ignored": np.flatnonzero(unknown).tolist(),
        "partly_ignored": int(np.count_nonzero((unknown > 0) & (unknown < reference[0].size))),
    }
