"""Headers of NIfTI files, checked against the size of the file and turned to RAS.

Files are not read by `nibabel.load`, which accepts damaged gzip data, repairs headers silently, and believes
any size that a header promises.
"""

from __future__ import annotations

import gzip
import logging
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import nibabel as nib
import numpy as np

from ..runtime.errors import InputError

# What gzip and nibabel raise on data that are damaged or not NIfTI.
UNREADABLE = (
    OSError,
    EOFError,
    zlib.error,
    ValueError,
    OverflowError,
    nib.spatialimages.HeaderDataError,
    nib.wrapstruct.WrapStructError,
)
AFFINE_TOLERANCE = 0.1  # of a voxel, between the corners of two affines that mean the same grid
FLATTEST = 1e-3  # least volume of a voxel, its edges scaled to length 1; below it the axes do not span space
LAST_CODE = 5  # of sform and qform in the standard
LONGEST_HEADER = 540  # bytes: NIfTI-2; NIfTI-1 has 348
GZIP_RATIO = 1032  # no gzip stream unpacks to more than so many times its size
GIT_LFS = b"version https://git-lfs"
# nibabel would print what it repairs in a header, such as an unset qfac; all that matters is checked here.
SILENT = logging.Logger("nifti", level=logging.CRITICAL + 1)


@dataclass(frozen=True, eq=False)
class Header:
    """What a file says about its volume, turned to RAS.

    RAS: x grows towards the patient's right, y towards the front, z towards the head.

    Attributes
    ----------
    path : Path
        The file.
    shape : tuple of int
        `(z, y, x)`.
    spacing : tuple of float
        `(z, y, x)` in mm.
    affine : ndarray
        `(4, 4)`, from `(x, y, z)` indices to mm.
    dtype : dtype
        Type of the stored voxels.
    warnings : tuple of str
        Doubts, in words.
    stored : Nifti1Header
        nibabel's header of the volume as the file has it.
    turn : ndarray
        nibabel's orientation of the stored axes.
    """

    path: Path
    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    affine: np.ndarray
    dtype: np.dtype
    warnings: tuple[str, ...]
    stored: nib.Nifti1Header = field(repr=False)
    turn: np.ndarray = field(repr=False)


def read_header(path: str | Path) -> Header:
    """Header of a 3D NIfTI file, without reading its voxels.

    Raises
    ------
    InputError
        The file cannot be read, is not NIfTI, is not one 3D volume of real numbers, has no valid affine, or
        is shorter than its header says.
    """
    path = Path(path)
    stored, zoomless = _parse_header(path)
    shape = stored_shape(stored)
    _check_kind(path, stored, shape)
    _check_length(path, stored, shape)
    turn, affine = _turn(path, stored, shape, zoomless)
    shape = tuple(shape[int(axis)] for axis in np.argsort(turn[:, 0]))
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    return Header(
        path=path,
        shape=shape[::-1],
        spacing=tuple(round(float(size), 6) for size in spacing[::-1]),
        affine=affine,
        dtype=stored.get_data_dtype(),
        warnings=_doubts(path, stored),
        stored=stored,
        turn=turn,
    )


def corner_distance(affine: np.ndarray, other: np.ndarray, shape: Sequence[int]) -> float:
    """Largest distance between the corners of a volume under two affines, in voxels.

    Parameters
    ----------
    affine, other : ndarray
        `(4, 4)`, from `(x, y, z)` indices to mm. The voxel is the shortest edge under `affine`.
    shape : sequence of int
        `(z, y, x)`.

    Examples
    --------
    >>> shifted = np.diag([2.0, 2.0, 3.0, 1.0])
    >>> shifted[2, 3] = 0.5  # mm along z
    >>> float(corner_distance(np.diag([2.0, 2.0, 3.0, 1.0]), shifted, (9, 5, 6)))
    0.25
    """
    limits = ((0, length - 1) for length in shape[::-1])
    corners = np.array(np.meshgrid(*limits, [1], indexing="ij")).reshape(4, -1)
    apart = np.linalg.norm(((affine - other) @ corners)[:3], axis=0).max()
    return apart / np.linalg.norm(affine[:3, :3], axis=0).min()


def is_gzip(path: Path) -> bool:
    return path.name.lower().endswith(".gz")


def stored_shape(stored: nib.Nifti1Header) -> tuple[int, ...]:
    """Shape in the order of the file. nibabel's `get_data_shape` replaces the shapes of some surfaces."""
    return tuple(int(length) for length in stored["dim"][1 : 1 + max(0, int(stored["dim"][0]))])


def _parse_header(path: Path) -> tuple[nib.Nifti1Header, bool]:
    """nibabel's header, and whether its zooms, which alone give the spacing, hold a 0."""
    start = _first_bytes(path)
    # NIfTI-2 has another number of bytes in its first field; nibabel finds the byte order.
    kind = (
        nib.Nifti2Header
        if LONGEST_HEADER in (int.from_bytes(start[:4], order) for order in ("little", "big"))
        else nib.Nifti1Header
    )
    try:
        stored = kind(start[: kind.sizeof_hdr], check=False)
        _check_pose(path, stored)
        # Asked before check_fix, which makes 1 mm of 0.
        zoomless = not stored["sform_code"] and not stored["pixdim"][1:4].all()
        stored.check_fix(logger=SILENT, error_level=40)
        stored.get_slope_inter()
    except UNREADABLE as error:
        raise InputError(
            f"{path}: not NIfTI, or damaged ({error}); copy the file again, or convert it to .nii.gz"
        ) from None
    if stored["magic"] != kind.single_magic:
        raise InputError(
            f"{path}: the header of a pair of files (.hdr and .img); convert the volume to a single .nii.gz"
        )
    return stored, zoomless


def _first_bytes(path: Path) -> bytes:
    """The bytes of the header, unpacked, of a file that might be anything."""
    raw = _raw_start(path)
    if not raw:
        raise InputError(f"{path}: an empty file; copy it again")
    if raw.startswith(GIT_LFS):
        raise InputError(f"{path}: a git-LFS pointer, not the file itself; fetch it with `git lfs pull`")
    packed = raw[:2] == b"\x1f\x8b"
    if packed != is_gzip(path):
        fault = "a gzip file not named .gz" if packed else "not a gzip file though named .gz"
        raise InputError(f"{path}: {fault}; rename or restore it")
    if not packed:
        return raw
    try:
        with gzip.open(path) as file:
            return file.read(LONGEST_HEADER)
    except UNREADABLE as error:
        raise InputError(f"{path}: damaged gzip data ({error}); copy the file again") from None


def _raw_start(path: Path) -> bytes:
    """The first bytes of a file, as they are stored."""
    if os.path.isdir(path):  # Path.is_dir raises where a folder above is closed
        raise InputError(f"{path}: a folder; name the NIfTI file in it")
    try:
        with open(path, "rb") as file:
            return file.read(LONGEST_HEADER)
    except FileNotFoundError:
        what = "a link to a file that does not exist" if path.is_symlink() else "does not exist"
        raise InputError(f"{path}: {what}; correct the path, or restore the file") from None
    except PermissionError:
        raise InputError(
            f"{path}: no permission to read it; change the mode or owner of the file and its folders"
        ) from None
    except (OSError, ValueError) as error:  # such as a name that is too long, or contains a null byte
        raise InputError(
            f"{path}: cannot be read ({error.args[-1]}); correct the path, or check the disk"
        ) from None


def _check_kind(path: Path, stored: nib.Nifti1Header, shape: tuple[int, ...]) -> None:
    """Refuse what is not one 3D volume of real numbers."""
    if len(shape) != 3:
        advice = "give one 3D volume per file"
        if len(shape) > 3 and set(shape[3:]) == {1}:
            advice = "remove the last axis, for example with nibabel.squeeze_image"
        raise InputError(f"{path}: {len(shape)}D with shape {shape}; {advice}")
    if min(shape) < 1:
        raise InputError(f"{path}: shape {shape} has no voxels; save the volume again")
    dtype = stored.get_data_dtype()
    if dtype.kind not in "iuf":
        kind = {"V": "RGB colours", "c": "complex numbers"}[dtype.kind]
        raise InputError(f"{path}: voxels are {kind}; give one real number per voxel")


def _check_length(path: Path, stored: nib.Nifti1Header, shape: tuple[int, ...]) -> None:
    """Refuse a file that is too short for its voxels."""
    try:
        offset = stored.get_data_offset() or stored.single_vox_offset
    except (ValueError, OverflowError):  # NaN, infinity
        offset = -1
    if offset < stored.single_vox_offset:
        raise InputError(
            f"{path}: the header does not say where the voxels begin (vox_offset); save the volume again"
        )
    promised, size = offset + prod(shape) * stored.get_data_dtype().itemsize, path.stat().st_size
    if promised > size * (GZIP_RATIO if is_gzip(path) else 1):
        raise InputError(
            f"{path}: {size} bytes cannot hold the {promised} that its header promises; "
            "the file is cut short, copy it again"
        )


def _check_pose(path: Path, stored: nib.Nifti1Header) -> None:
    """Refuse headers whose place in space the standard does not define, so that readers differ."""
    codes, (qfac, *edges) = (int(stored["sform_code"]), int(stored["qform_code"])), stored["pixdim"][:4]
    if not all(0 <= code <= LAST_CODE for code in codes):
        fault = f"sform_code {codes[0]} and qform_code {codes[1]} are not both within 0 to {LAST_CODE}"
    elif not codes[0] and codes[1] and (qfac not in (-1, 0, 1) or min(edges) < 0):
        numbers = ", ".join(f"{value:g}" for value in (qfac, *edges))
        fault = f"pixdim {numbers} is not -1 or 1 and three lengths, as the qform needs"
    else:
        return
    raise InputError(f"{path}: {fault}; save the volume with a valid affine")


def _turn(
    path: Path, stored: nib.Nifti1Header, shape: tuple[int, ...], zoomless: bool
) -> tuple[np.ndarray, np.ndarray]:
    """nibabel's orientation of the stored axes, and the affine of the turned volume."""
    try:
        affine = stored.get_best_affine()
    except UNREADABLE as error:
        raise InputError(
            f"{path}: the header gives no affine ({error}); save the volume with a valid one"
        ) from None
    with np.errstate(over="ignore", invalid="ignore"):
        edges = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite([*affine.flat, *edges]).all():
        fault = "NaN or infinite numbers"
    elif zoomless or not edges.all():
        fault = "an axis of length zero"
    elif abs(np.linalg.det(affine[:3, :3] / edges)) < FLATTEST:
        fault = "axes that do not span space (singular)"
    else:
        turn = nib.orientations.io_orientation(affine)
        return turn, affine @ nib.orientations.inv_ornt_aff(turn, shape)
    raise InputError(f"{path}: the affine has {fault}; save the volume with a valid one")


def _doubts(path: Path, stored: nib.Nifti1Header) -> tuple[str, ...]:
    """Warnings about where the volume lies."""
    if not stored["sform_code"] and not stored["qform_code"]:
        return (
            f"{path}: neither sform nor qform gives the orientation; "
            "the first axis is taken to point to the patient's left",
        )
    if not stored["sform_code"] or not stored["qform_code"]:
        return ()
    try:
        with np.errstate(all="ignore"):
            apart = corner_distance(stored.get_sform(), stored.get_qform(), stored["dim"][3:0:-1])
    except UNREADABLE:  # not a quaternion
        apart = np.inf
    if apart <= AFFINE_TOLERANCE:
        return ()
    return (
        f"{path}: sform and qform lie {apart:.3g} voxels apart (tolerance {AFFINE_TOLERANCE}); "
        "the sform is used",
    )
