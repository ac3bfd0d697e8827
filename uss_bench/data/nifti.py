"""Voxels of NIfTI files, read and written, as `(z, y, x)` turned to RAS."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path
from typing import BinaryIO

import nibabel as nib
import numpy as np

from ..runtime.errors import InputError
from ..runtime.storage import atomic_path
from .nifti_header import UNREADABLE, Header, is_gzip, read_header, stored_shape

BLOCK = 1 << 20  # bytes
GZIP_FORMAT = 31  # zlib's code for it


def read_nifti(path: str | Path) -> tuple[np.ndarray, tuple[float, ...], np.ndarray]:
    """Values, spacing and affine of a 3D NIfTI file.

    Returns
    -------
    values : ndarray
        `(z, y, x)`, turned to RAS as by `Header`. A view of the voxels in the order of the file, or float32
        where slope and intercept rescale them.
    spacing : tuple of float
        `(z, y, x)` in mm.
    affine : ndarray
        `(4, 4)`, from `(x, y, z)` indices of the turned volume to mm.

    Raises
    ------
    InputError
        As `read_header`, or the voxels are damaged.
    """
    header = read_header(path)
    voxels = bytearray()  # grows with what the file really holds, not with what its header promises
    for block in _blocks(header, BLOCK):
        voxels += block
    return _turned(header, voxels, stored_shape(header.stored)), header.spacing, header.affine


def read_planes(header: Header) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the planes of a volume while its file is being unpacked.

    If z is the last axis of the file, one plane at a time is in memory, and they come in the order of the
    file. Otherwise the whole volume is read first.

    Yields
    ------
    z : int
        Each once.
    plane : ndarray
        `(y, x)`, as by `read_nifti`.

    Raises
    ------
    InputError
        As `read_nifti`, after the planes before the damage.
    """
    *plane_shape, depth = stored_shape(header.stored)
    last_axis, direction = header.turn[2]
    if last_axis != 2:
        yield from enumerate(read_nifti(header.path)[0])
        return
    for index, block in enumerate(_blocks(header, prod(plane_shape) * header.dtype.itemsize)):
        yield index if direction > 0 else depth - 1 - index, _turned(header, block, plane_shape)


def axial_slice(header: Header, z: int) -> tuple[int, float]:
    """An axial slice as viewers of the file call it.

    Parameters
    ----------
    header : Header
        Of the file.
    z : int
        The slice, counted from 0 at the feet.

    Returns
    -------
    number : int
        Counted from 0 along the axis of the file that runs between feet and head.
    position : float
        z of the slice's centre in the file's own space, in mm.
    """
    depth, height, width = header.shape
    (direction,) = header.turn[header.turn[:, 0] == 2, 1]
    centre = header.affine @ ((width - 1) / 2, (height - 1) / 2, z, 1)
    return z if direction > 0 else depth - 1 - z, float(centre[2])


def write_nifti(path: str | Path, array: np.ndarray, affine: np.ndarray, description: str = "") -> None:
    """Write a `.nii.gz` whose bytes depend on its content and on zlib alone: no time or name in its header.

    Parameters
    ----------
    path : path
        Replaced as a whole, once everything is written.
    array : ndarray
        `(x, y, z)`, not `(z, y, x)`.
    affine : ndarray
        `(4, 4)`, from indices to mm.
    description : str
        Into the header's `descrip`, which has 80 bytes; its characters must be in latin-1.
    """
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = description.encode("latin-1")
    _write(path, image)


def write_on_grid(path: str | Path, values: np.ndarray, header: Header) -> None:
    """Write a `.nii.gz` on the very grid of another file: its order of axes, its sform and its qform.

    Parameters
    ----------
    path : path
        As for `write_nifti`.
    values : ndarray
        `(z, y, x)`, turned to RAS as `read_nifti` gives them.
    header : Header
        Of the other file.
    """
    stored = header.stored.copy()
    stored.set_data_dtype(values.dtype)
    stored.set_data_offset(0)  # nibabel's own
    stored["cal_min"] = stored["cal_max"] = 0  # the window in which to show a CT
    kind = nib.Nifti2Image if isinstance(stored, nib.Nifti2Header) else nib.Nifti1Image
    back = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), header.turn)
    _write(path, kind(nib.orientations.apply_orientation(values.T, back), None, stored))


def _write(path: str | Path, image: nib.Nifti1Image) -> None:
    with atomic_path(path) as temporary:
        # Not gzip.compress, whose header differs between versions of Python.
        packer = zlib.compressobj(4, wbits=31)
        temporary.write_bytes(packer.compress(image.to_bytes()) + packer.flush())


def _turned(header: Header, voxels: bytes | bytearray, shape: Sequence[int]) -> np.ndarray:
    """Voxels of a volume, or of a plane across its last axis, rescaled, as `(z, y, x)` or `(y, x)` in RAS."""
    values = np.frombuffer(voxels, header.dtype).reshape(shape, order="F")
    slope, intercept = header.stored.get_slope_inter()
    if slope is not None and (slope, intercept) != (1, 0):
        # In place and in float32: nibabel's float64 would take four times the memory of int16 files.
        with np.errstate(over="ignore", invalid="ignore"):
            values = values.astype(np.float32)
            values *= slope
            values += intercept
    return nib.orientations.apply_orientation(values, header.turn[: len(shape)]).T


def _blocks(header: Header, size: int) -> Iterator[bytes]:
    """Yield the bytes of a file's voxels as they are stored, in blocks of `size`; the last may be shorter."""
    path = header.path
    promised = prod(header.shape) * header.dtype.itemsize
    offset = header.stored.get_data_offset() or header.stored.single_vox_offset
    read = 0
    try:
        with open(path, "rb") as opened:
            file = _Gunzip(opened) if is_gzip(path) else opened
            for begin in range(0, offset, BLOCK):
                file.read(min(BLOCK, offset - begin))
            while read < promised:
                wanted = min(size, promised - read)
                block = file.read(wanted)
                read += len(block)
                if len(block) < wanted:
                    break
                yield block
            while is_gzip(path) and file.read(BLOCK):  # to its end, where the checksum is
                pass
    except UNREADABLE as error:
        raise InputError(f"{path}: damaged data ({error}); copy the file again") from None
    if read < promised:
        raise InputError(
            f"{path}: holds {read} bytes of voxels where its header promises {promised}; copy the file again"
        )


class _Gunzip:
    """Reader of a gzip file.

    Python's own unpacks a few KB at a time, which takes a third longer and slows other threads.
    """

    def __init__(self, file: BinaryIO):
        self._file, self._stream = file, zlib.decompressobj(GZIP_FORMAT)

    def read(self, size: int) -> bytes:
        """Read the next `size` bytes, fewer at the end.

        Raises
        ------
        EOFError, zlib.error
            The file is cut short or damaged.
        """
        pieces = []
        while size:
            if self._stream.eof:  # the end of one member; another may follow, or padding
                rest = self._stream.unused_data.lstrip(b"\0")
                while not rest and (block := self._file.read(BLOCK)):
                    rest = block.lstrip(b"\0")
                if not rest:
                    break
                self._stream = zlib.decompressobj(GZIP_FORMAT)
            else:
                rest = self._stream.unconsumed_tail or self._file.read(BLOCK)
            piece = self._stream.decompress(rest, size)
            if not piece and not rest:
                raise EOFError("it ends before its end marker")
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)
