"""CT volumes: checked, read, brought to the working grid and back, through a cache. Axes are `(z, y, x)`; `nifti` has seen to that."""

import hashlib
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import prod
from pathlib import Path

import numpy as np
from scipy import sparse

from ..runtime.errors import InputError
from ..runtime.prefetch import ahead
from ..runtime.storage import atomic_folder, read_json, remembered_digest, write_json
from .manifest import Case
from .nifti import AFFINE_TOLERANCE, corner_distance, read_header, read_nifti, read_planes

ARRAYS = IMAGE, LABEL, REFERENCE = "image.npy", "label.npy", "reference.npy"
CACHE_FORMAT = 7  # raised whenever the cached files would differ
SPACINGS = (0.1, 20.0)  # mm, beyond which a header is not believed


def header_problems(case):
    """What the headers of a case's two files tell against it, and what is doubtful, both as lists of lines.

    Image and label must have one shape, and the corners of their volumes must lie within 0.1 voxel of each other. The spacing of the
    image must be a CT's, unless the manifest gives another.
    """
    headers, problems, warnings = [], [], []
    for path in (case.image, case.label):
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
            f"{case.image}: spacing {' x '.join(f'{size:g}' for size in reversed(spacing))} mm (x, y, z) is no CT's; "
            "give the true one in the manifest's column spacing, or exclude the case"
        )
    return [[f"case {case.case_id}: {line}" for line in lines] for lines in (problems, warnings)]


def _mismatch(image, label):
    if image.path.resolve() == label.path.resolve():
        return [f"{label.path}: image and label are the same file; give the reference segmentation as label"]
    if image.shape != label.shape:
        return [
            f"{label.path}: shape {label.shape} and that of the image {image.shape} (z, y, x) differ; give a matching pair"
        ]
    apart = corner_distance(image.affine, label.affine, image.shape)
    if apart <= AFFINE_TOLERANCE:
        return []
    return [
        f"{label.path}: lies {apart:.3g} voxels off its image (affines may differ by {AFFINE_TOLERANCE} voxel at the corners); "
        "save the label with the image's affine"
    ]


def read_label(case):
    """Reference liver of a case as a bool volume, with its affine; codes that are no whole numbers are an InputError."""
    header = read_header(case.label)
    liver = np.empty(header.shape, bool)
    for z, plane in read_planes(header):
        if plane.dtype.kind == "f" and not (
            np.isfinite(plane).all() and np.array_equal(plane, np.rint(plane))
        ):
            raise InputError(
                f"{case.label}: labels are not whole numbers; resample masks with nearest neighbours"
            )
        liver[z] = liver_of(plane, case.label_values)
    return liver, header.affine


def liver_of(values, label_values):
    """Liver as a bool array from label codes; no `label_values` stand for every non-zero one."""
    if not label_values:
        return values != 0
    liver = np.zeros_like(values, bool)
    for value in label_values:  # numpy.isin takes up to thirteen times the memory of a volume
        liver |= values == value
    return liver


def resample(volume, spacing, new_spacing, new_shape=None):
    """Resample `(z, y, x)` linearly onto a grid of other spacing about the same centre.

    Voxel centres keep their physical place. Where the new grid is at least twice coarser, whole voxels are averaged first, so that a
    coarse voxel is a mean and not a noisy sample. Beyond the outermost voxel centres the value there holds.

    Returns a float32 array, of `new_shape` (default: the size that covers the same extent).
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


def _resample_axis(volume, axis, weights):
    """By planes across another axis, so that no float32 copy of a whole int16 volume is made."""
    result = np.empty((*volume.shape[:axis], weights.shape[0], *volume.shape[axis + 1 :]), np.float32)
    across = 0 if axis else 1
    _, rows, columns = np.moveaxis(volume, across, 0).shape
    # Rows of an odd length: read across, those of 512 columns would all fall into the same few lines of the processor's cache.
    lines = np.empty((rows, columns | 1), np.float32)[:, :columns]
    for index in range(volume.shape[across]):
        plane = (slice(None),) * across + (index,)
        lines[:] = volume[plane]
        # The resampled axis of a plane `(z, x)`, `(y, x)` or `(y, x)` comes first, where a sparse product wants it.
        result[plane] = (weights @ lines.T).T if axis == 2 else weights @ lines
    return result


def grid_shape(shape, spacing, new_spacing):
    """Shape of the grid of `new_spacing` that covers the extent of `shape` voxels of `spacing`."""
    return tuple(
        max(1, round(length * old / new))
        for length, old, new in zip(shape, spacing, new_spacing, strict=True)
    )


@lru_cache(maxsize=8)  # the planes of a volume ask for the same
def interpolation_weights(length, new_length, ratio):
    """Sparse matrix `(new_length, length)` of linear interpolation at steps of `ratio` voxels about the common centre, float32."""
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
    """A case on the working grid. Arrays are `(z, y, x)` and mapped from the cache, read only where touched.

    `native_shape` and `native_spacing` describe the reference grid of the evaluation; digests are SHA-256 of the source files.
    """

    case: Case
    folder: Path
    spacing: tuple
    shape: tuple
    native_shape: tuple
    native_spacing: tuple
    liver_voxels: int  # of the reference
    label_codes: tuple  # the label file's, where none of them is liver
    darkest: float  # HU
    brightest: float
    image_digest: str
    label_digest: str

    @cached_property
    def image(self):
        """HU on the working grid, int16."""
        return np.load(self.folder / IMAGE, mmap_mode="r")

    @cached_property
    def label(self):
        """Liver on the working grid, 0 or 1, uint8."""
        return np.load(self.folder / LABEL, mmap_mode="r")

    def shows_liver(self, z):
        return bool(self.label[z].any())

    def reference(self):
        """Liver on the native grid, bool."""
        bits = np.load(self.folder / REFERENCE)
        return (
            np.unpackbits(bits, count=int(np.prod(self.native_shape))).reshape(self.native_shape).view(bool)
        )

    def to_native(self, probability):
        """Probability on the working grid, resampled to the native grid as a float32 array."""
        return resample(probability, self.spacing, self.native_spacing, self.native_shape)


def load_volume(case, spacing, cache):
    """Volume of a case on the grid of `spacing`, from the folder `cache` or put there first.

    The key is made of the files' content and everything that shapes the arrays, so a changed image is a new entry.

    Raises
    ------
    InputError
        With all that is wrong with the case, a line a fault; nothing is put into the cache.
    """
    _raise(header_problems(case)[0])
    digests, folder = _entry(case, spacing, cache)
    if not folder.exists():
        _build_entry(case, spacing, folder)
    try:
        facts = read_json(folder / "volume.json")
        for name in ARRAYS:
            np.load(folder / name, mmap_mode="r")
    except (
        FileNotFoundError,
        InputError,
        ValueError,
        EOFError,
    ):  # only a cache: made again, like any entry that is not there
        shutil.rmtree(folder)
        return load_volume(case, spacing, cache)
    facts = {name: tuple(value) if isinstance(value, list) else value for name, value in facts.items()}
    return Volume(case=case, folder=folder, spacing=tuple(spacing), **facts, **digests)


def missing_bytes(cases, spacing, cache):
    """Bytes that `load_volume` will add to the cache for cases that are not there yet, from their headers."""
    begun = Path(cache).is_dir()
    return sum(
        entry_bytes(*grids(case, spacing))
        for case in cases
        if not (begun and _entry(case, spacing, cache)[1].exists())
    )


def entry_bytes(native_shape, shape):
    """Bytes of a cache entry: image of two a voxel and label of one on the working grid, the native reference in bits."""
    return 3 * prod(shape) + prod(native_shape) // 8


def grids(case, spacing):
    """Native shape of a case and that of its working grid, from the image's header."""
    header = read_header(case.image)
    return header.shape, grid_shape(header.shape, case.spacing or header.spacing, spacing)


def _entry(case, spacing, cache):
    """Digests of a case's files, and the folder of its cache entry."""
    digests = {f"{role}_digest": remembered_digest(getattr(case, role), cache) for role in ("image", "label")}
    key = {
        "format": CACHE_FORMAT,
        **digests,
        "spacing": list(spacing),
        "label_values": case.label_values,
        "header_spacing": case.spacing,
    }
    return digests, Path(cache) / hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]


def _build_entry(case, spacing, folder):
    problems, facts = [], {}
    with atomic_folder(folder) as partial:
        with ThreadPoolExecutor(2) as threads:
            parts = [threads.submit(write, case, spacing, partial) for write in (_write_image, _write_label)]
        for part in parts:
            try:
                facts |= part.result()
            except InputError as error:
                problems.append(f"case {case.case_id}: {error}")
        _raise(problems)
        write_json(partial / "volume.json", facts)


def _write_image(case, spacing, folder):
    header = read_header(case.image)
    native_spacing, extremes = case.spacing or header.spacing, []

    def planes():
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


def _write_label(case, spacing, folder):
    native_spacing = case.spacing or read_header(case.image).spacing
    reference, _ = read_label(case)
    liver = _resample_planes(enumerate(reference), reference.shape, native_spacing, spacing) >= 0.5
    np.save(folder / LABEL, liver.view(np.uint8))
    np.save(folder / REFERENCE, np.packbits(reference))
    liver_voxels = int(np.count_nonzero(reference))
    return {
        "liver_voxels": liver_voxels,
        "label_codes": [] if liver_voxels else np.unique(read_nifti(case.label)[0]).tolist(),
    }


def _resample_planes(planes, shape, spacing, new_spacing):
    """What `resample` makes of a volume of which `planes` gives `(z, plane)`: in the planes first, as they come, then across them."""
    new_shape = grid_shape(shape, spacing, new_spacing)
    half_way = spacing[0], *new_spacing[1:]
    stack = np.zeros((shape[0], *new_shape[1:]), np.float32)
    for z, plane in planes:
        if plane.any():
            stack[z] = resample(plane[None], spacing, half_way, (1, *new_shape[1:]))[0]
    return resample(stack, half_way, new_spacing, new_shape)


def _raise(problems):
    if problems:
        raise InputError("\n  ".join(problems))
