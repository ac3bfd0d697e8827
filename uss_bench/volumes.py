"""CT volumes: from NIfTI files to the working grid and back, through a cache.

The only module that knows axis orders other than `(z, y, x)`: files are turned to RAS orientation, then their axes are reversed.
"""

import gzip
import hashlib
import json
import secrets
import shutil
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from . import InputError
from .manifest import Case
from .storage import file_digest, read_json, write_json

CACHE_FORMAT = 4  # raised whenever the cached arrays would differ
# What nibabel, gzip and NumPy raise on files that are missing, damaged or no NIfTI.
UNREADABLE = (
    OSError,
    EOFError,
    zlib.error,
    ValueError,
    OverflowError,
    np.linalg.LinAlgError,
    nib.filebasedimages.ImageFileError,
    nib.spatialimages.HeaderDataError,
    nib.orientations.OrientationError,
)
SPACINGS = (0.1, 20.0)  # mm, beyond which a header is not believed
AFFINE_TOLERANCE = 0.1  # of a voxel, between the corners of image and label


def read_nifti(path):
    """Values, spacing and affine of a 3D NIfTI file.

    Returns
    -------
    values : (z, y, x) array, rescaled by slope and intercept, x towards the patient's right, y anterior, z superior
    spacing : (z, y, x) in mm
    affine : (4, 4) array from (x, y, z) indices of the turned volume to mm
    """
    try:
        _check_compression(path)
        image = nib.load(path)
        if image.ndim != 3:
            raise InputError(f"{path}: {image.ndim}D with shape {image.shape}; give one 3D volume a file")
        unscaled = (image.dataobj.slope, image.dataobj.inter) == (1, 0)
        # get_fdata and as_closest_canonical would scale in float64: up to four times the memory of the file's int16.
        values = np.asanyarray(image.dataobj) if unscaled else image.get_fdata(dtype=np.float32, caching="unchanged")
        turn = nib.orientations.io_orientation(image.affine)
        affine = image.affine @ nib.orientations.inv_ornt_aff(turn, image.shape)
        values = nib.orientations.apply_orientation(values, turn).transpose(2, 1, 0)
    except InputError:
        raise
    except UNREADABLE as error:
        raise InputError(f"{path}: cannot be read as NIfTI ({error}); check that the file is there and complete") from None
    spacing = np.linalg.norm(affine[:3, :3], axis=0)[::-1]
    return values, tuple(round(float(size), 6) for size in spacing), affine


def _check_compression(path):
    """Read a `.gz` to its end, where its checksum is: nibabel stops before it and would take damaged data for sound."""
    if str(path).endswith(".gz"):
        with gzip.open(path) as file:
            while file.read(1 << 24):
                pass


def read_image(case):
    """CT of a case in HU, with its spacing and affine; NaN and infinities are an InputError."""
    values, spacing, affine = read_nifti(case.image)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise InputError(f"case {case.case_id}: {case.image}: NaN or infinite values; repair or exclude the case")
    spacing = case.spacing or spacing
    if not all(SPACINGS[0] <= size <= SPACINGS[1] for size in spacing):
        raise InputError(
            f"case {case.case_id}: {case.image}: spacing {' x '.join(f'{size:g}' for size in reversed(spacing))} mm (x, y, z) is no CT's; "
            "give the true one in the manifest's column spacing, or exclude the case"
        )
    return values, spacing, affine


def read_label(case):
    """Reference liver of a case as a bool volume, with its affine."""
    values, _, affine = read_nifti(case.label)
    if not np.array_equal(values, np.rint(values)):
        raise InputError(f"case {case.case_id}: {case.label}: labels are not whole numbers; resample masks with nearest neighbours")
    return liver_of(values, case.label_values), affine


def liver_of(values, label_values):
    """Liver as a bool array from label codes; no `label_values` stand for every non-zero one."""
    return np.isin(values, label_values) if label_values else values != 0


def resample(volume, spacing, new_spacing, new_shape=None):
    """Resample `(z, y, x)` linearly onto a grid of other spacing about the same centre.

    Voxel centres keep their physical place. Where the new grid is at least twice coarser, whole voxels are averaged first, so that a
    coarse voxel is a mean and not a noisy sample. Beyond the outermost voxel centres the value there holds.

    Returns a float32 tensor, of `new_shape` (default: the size that covers the same extent).
    """
    result = torch.from_numpy(np.array(volume, dtype=np.float32))  # a copy: the array may be mapped, byte-swapped or reversed
    new_shape = new_shape or grid_shape(result.shape, spacing, new_spacing)
    # Shrink early: the axis that loses most goes first.
    for axis in sorted(range(3), key=lambda axis: new_shape[axis] / result.shape[axis]):
        if result.shape[axis] == new_shape[axis] and spacing[axis] == new_spacing[axis]:
            continue
        weights = interpolation_weights(result.shape[axis], new_shape[axis], new_spacing[axis] / spacing[axis])
        result = torch.tensordot(result, weights, dims=([axis], [1])).movedim(-1, axis)
    return result.contiguous()


def grid_shape(shape, spacing, new_spacing):
    """Shape of the grid of `new_spacing` that covers the extent of `shape` voxels of `spacing`."""
    return tuple(max(1, round(length * old / new)) for length, old, new in zip(shape, spacing, new_spacing, strict=True))


def interpolation_weights(length, new_length, ratio):
    """Matrix `(new_length, length)` of linear interpolation at steps of `ratio` voxels about the common centre."""
    block = max(1, int(ratio + 1e-6))  # 4.8 / 1.6 is a little less than 3
    centres = (torch.arange(new_length, dtype=torch.float64) - (new_length - 1) / 2) * ratio + (length - 1) / 2
    weights = torch.zeros(new_length, length, dtype=torch.float64)
    rows = torch.arange(new_length)
    for offset in range(block):
        position = (centres + offset - (block - 1) / 2).clamp(0, length - 1)
        below = position.floor().long()
        above = (below + 1).clamp(max=length - 1)
        fraction = position - below
        weights.index_put_((rows, below), (1 - fraction) / block, accumulate=True)
        weights.index_put_((rows, above), fraction / block, accumulate=True)
    return weights.float()


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
    darkest: float  # HU
    image_digest: str
    label_digest: str

    @cached_property
    def image(self):
        """HU on the working grid, int16."""
        return np.load(self.folder / "image.npy", mmap_mode="r")

    @cached_property
    def label(self):
        """Liver on the working grid, 0 or 1, uint8."""
        return np.load(self.folder / "label.npy", mmap_mode="r")

    def shows_liver(self, z):
        return bool(self.label[z].any())

    def reference(self):
        """Liver on the native grid, bool."""
        bits = np.load(self.folder / "reference.npy")
        return np.unpackbits(bits, count=int(np.prod(self.native_shape))).reshape(self.native_shape).view(bool)

    def to_native(self, probability):
        """Probability on the working grid, resampled to the native grid as a float32 array."""
        return resample(probability, self.spacing, self.native_spacing, self.native_shape).numpy()


def load_volume(case, spacing, cache):
    """Volume of a case on the grid of `spacing`, from the folder `cache` or put there first.

    The key is made of the files' content and everything that shapes the arrays, so a changed image is a new entry.
    """
    try:
        digests = [file_digest(path) for path in (case.image, case.label)]
    except OSError as error:
        raise InputError(f"case {case.case_id}: {error.filename}: {error.strerror}; mend the path or the permissions") from None
    key = {"format": CACHE_FORMAT, "image": digests[0], "label": digests[1], "spacing": list(spacing), "label_values": case.label_values}
    key["header_spacing"] = case.spacing
    folder = Path(cache) / _entry_name(key)
    if not folder.exists():
        _build_entry(case, spacing, folder)
    facts = read_json(folder / "volume.json")
    shapes = (tuple(facts[name]) for name in ("shape", "native_shape", "native_spacing"))
    return Volume(case, folder, tuple(spacing), *shapes, facts["liver_voxels"], facts["darkest"], *digests)


def _build_entry(case, spacing, folder):
    hu, native_spacing, affine = read_image(case)
    reference, label_affine = read_label(case)
    if reference.shape != hu.shape:
        raise InputError(
            f"case {case.case_id}: image {hu.shape} and label {reference.shape} (z, y, x) differ in shape; give a matching pair"
        )
    _check_affines(case, affine, label_affine, hu.shape)
    image = resample(hu, native_spacing, spacing).round().clamp(-32768, 32767).to(torch.int16).numpy()
    label = (resample(reference, native_spacing, spacing) >= 0.5).to(torch.uint8).numpy()

    partial = folder.with_name(f".partial-{secrets.token_hex(6)}")
    partial.mkdir(parents=True)
    try:
        np.save(partial / "image.npy", image)
        np.save(partial / "label.npy", label)
        np.save(partial / "reference.npy", np.packbits(reference))
        facts = {"shape": image.shape, "native_shape": hu.shape, "native_spacing": native_spacing}
        write_json(partial / "volume.json", {**facts, "liver_voxels": int(np.count_nonzero(reference)), "darkest": float(hu.min())})
        try:
            partial.rename(folder)
        except OSError:
            if not folder.exists():  # else another run has built the same entry meanwhile
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _check_affines(case, image_affine, label_affine, shape):
    corners = np.array(np.meshgrid(*((0, length - 1) for length in shape[::-1]), [1], indexing="ij")).reshape(4, -1)
    apart = np.linalg.norm(((image_affine - label_affine) @ corners)[:3], axis=0).max()
    if apart > AFFINE_TOLERANCE * np.linalg.norm(image_affine[:3, :3], axis=0).min():
        raise InputError(
            f"case {case.case_id}: {case.label} lies {apart:.3g} mm off its image (affines differ by more than {AFFINE_TOLERANCE} voxel); "
            "save the label with the image's affine"
        )


def _entry_name(key):
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]
