"""DICOM series, PNG stacks, MetaImage and NRRD as arrays and affines, read with SimpleITK, an optional extra.

Here arrays are `(x, y, z)`, and affines lead from voxel indices to RAS mm, as in NIfTI files. DICOM and ITK
use LPS.

Geometry comes from the position of each slice. File names, instance numbers and SliceThickness say nothing
about it: thick slices overlap, and scanners number from either end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np

from ..runtime.errors import InputError
from ..runtime.storage import natural_key

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
# How far a slice may lie off the even stack, in slice steps. Where a slice is missing, it is far more.
UNEVENNESS = 0.1
UPRIGHT = 0.999  # cosine between the step from slice to slice and their normal: about 2.5 degrees
POSITION, ORIENTATION, PIXEL_SPACING, INSTANCE = "0020|0032", "0020|0037", "0028|0030", "0020|0013"


@dataclass(frozen=True)
class Slice:
    """Header of one DICOM slice; None stands for a tag that is missing.

    Attributes
    ----------
    path : Path
        The file.
    number : int or None
        Instance number.
    position : tuple of float or None
        Centre of the first pixel, LPS `(x, y, z)` in mm.
    orientation : tuple of float or None
        Directions, LPS, in which columns and rows are counted: six numbers.
    spacing : tuple of float or None
        Distance between rows and between columns in mm.
    size : tuple of int
        Columns, rows and 1.
    """

    path: Path
    number: int | None
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    spacing: tuple[float, ...] | None
    size: tuple[int, ...]


def load_simpleitk() -> ModuleType:
    """Import SimpleITK, an optional package that nothing else needs; InputError if it is not installed."""
    try:
        import SimpleITK
    except ImportError:
        raise InputError(
            "DICOM, PNG, MetaImage and NRRD are read with SimpleITK, which is not installed; "
            "run: pip install SimpleITK"
        ) from None
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    return SimpleITK


def read_image(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Read a volume file or a folder of DICOM slices.

    Returns
    -------
    array : ndarray
        HU, `(x, y, z)`, int16 or float32; DICOM slices are rescaled one by one.
    affine : ndarray
        `(4, 4)`, from voxel indices to RAS mm.

    Raises
    ------
    InputError
        SimpleITK is not installed, a file cannot be read, or the slices are not one even stack.
    """
    path = Path(path)
    if path.is_file():
        return _read_volume(path)
    slices, affine = _stack(path, _read_headers(path))
    return _narrowest(_load(slices).transpose(2, 1, 0)), affine


def read_mask(path: str | Path, image_path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Read a label.

    A volume file keeps its values and its own affine. A folder of PNG or DICOM slices becomes 0 and 1 on the
    grid of the DICOM folder `image_path`.

    Returns
    -------
    array : ndarray
        Label codes, `(x, y, z)`.
    affine : ndarray
        `(4, 4)`, from voxel indices to RAS mm.

    Raises
    ------
    InputError
        As `read_image`, or the slices of mask and image do not match.
    """
    path = Path(path)
    if path.is_file():
        return _read_volume(path)
    slices, affine = _stack(Path(image_path), _read_headers(Path(image_path)))
    pngs = [file for file in _files(path) if file.suffix.lower() == ".png"]
    if pngs:
        return _in_acquisition_order(path, pngs, slices), affine
    masks = _read_headers(path)
    if len({mask.position for mask in masks}) == 1:  # masks stored without positions
        return _in_acquisition_order(path, [mask.path for mask in _acquired(masks)], slices), affine
    masks, mask_affine = _stack(path, masks)
    if len(masks) != len(slices) or not np.allclose(mask_affine, affine, atol=1e-2):
        raise InputError(
            f"{path}: {len(masks)} mask slices do not lie on the {len(slices)} slices of {image_path}; "
            "give masks drawn on these slices"
        )
    return _binary(_load(masks)), affine


def _read_volume(path: Path) -> tuple[np.ndarray, np.ndarray]:
    sitk = load_simpleitk()
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError:
        raise InputError(
            f"{path}: cannot be read by SimpleITK; check that the file (and its data file) is complete"
        ) from None
    if image.GetDimension() == 3 and image.GetSize()[2] == 1:
        raise InputError(f"{path}: a single slice; give the folder that holds all slices of its series")
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise InputError(
            f"{path}: shape {image.GetSize()}, {image.GetPixelIDTypeAsString()}; "
            "give one scalar 3D volume per file"
        )
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return _narrowest(sitk.GetArrayFromImage(image).transpose(2, 1, 0)), LPS_TO_RAS @ affine


def _files(folder: Path) -> list[Path]:
    """Files of a folder in natural order, but for hidden ones and DICOMDIR."""
    names = (
        file
        for file in Path(folder).iterdir()
        if file.is_file() and not file.name.startswith(".") and file.name != "DICOMDIR"
    )
    return sorted(names, key=natural_key)


def _read_headers(folder: Path) -> list[Slice]:
    sitk = load_simpleitk()
    if not folder.is_dir():
        raise InputError(
            f"{folder}: not a folder of DICOM slices, which say where the label's slices belong; restore it"
        )
    files = _files(folder)
    if not files:
        raise InputError(f"{folder}: holds no DICOM slice; unpack the series there")
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    headers = []
    for file in files:
        reader.SetFileName(str(file))
        try:
            reader.ReadImageInformation()
        except RuntimeError:
            raise InputError(
                f"{file}: cannot be read as DICOM; "
                "restore the slice, or remove what does not belong to the series"
            ) from None
        position, orientation, spacing, number = (
            _numbers(reader, tag, count)
            for tag, count in ((POSITION, 3), (ORIENTATION, 6), (PIXEL_SPACING, 2), (INSTANCE, 1))
        )
        headers.append(
            Slice(file, int(number[0]) if number else None, position, orientation, spacing, reader.GetSize())
        )
    return headers


def _numbers(reader, tag: str, count: int) -> tuple[float, ...] | None:
    """So many numbers of a DICOM tag; None where it is missing, empty or garbled."""
    if not reader.HasMetaDataKey(tag):
        return None
    try:
        numbers = tuple(float(number) for number in reader.GetMetaData(tag).split("\\"))
    except ValueError:
        return None
    return numbers if len(numbers) == count else None


def _stack(folder: Path, headers: Sequence[Slice]) -> tuple[list[Slice], np.ndarray]:
    """Slices in their order along the normal of their plane, and the affine of the stack."""
    first = headers[0]
    if any(None in (one.position, one.orientation, one.spacing) for one in headers):
        raise InputError(
            f"{folder}: slices without position, orientation or pixel spacing; "
            "export the series again with these tags"
        )
    planes = np.array([(*one.orientation, *one.spacing, *one.size[:2]) for one in headers])
    if np.ptp(planes, axis=0).max() > 1e-3:
        raise InputError(
            f"{folder}: slices differ in orientation, pixel spacing or size; keep one series in the folder"
        )
    along_x, along_y = np.array(first.orientation[:3]), np.array(first.orientation[3:])
    headers = sorted(headers, key=lambda one: np.dot(one.position, np.cross(along_x, along_y)))
    positions = np.array([one.position for one in headers])
    step = (positions[-1] - positions[0]) / max(1, len(positions) - 1)
    off = np.linalg.norm(positions - (positions[0] + np.arange(len(positions))[:, None] * step), axis=1).max()
    if not np.any(step) or off > UNEVENNESS * np.linalg.norm(step):
        raise InputError(
            f"{folder}: {len(positions)} slice(s) do not form an even stack "
            f"({off:.3g} mm off at a step of {np.linalg.norm(step):.3g} mm); "
            "restore missing slices, or keep one series in the folder"
        )
    upright = abs(np.dot(step, np.cross(along_x, along_y))) / np.linalg.norm(step)
    if upright < UPRIGHT:
        raise InputError(
            f"{folder}: a tilted gantry: slices are stacked {np.degrees(np.arccos(upright)):.0f} degrees off "
            "their normal; resample the series to an upright grid first"
        )
    affine = np.eye(4)
    affine[:3] = np.column_stack([along_x * first.spacing[1], along_y * first.spacing[0], step, positions[0]])
    return headers, LPS_TO_RAS @ affine


def _acquired(headers: Sequence[Slice]) -> list[Slice]:
    """Headers in the order of acquisition: by instance number or, if these are not unique, by file name."""
    numbered = len({one.number for one in headers} - {None}) == len(headers)
    return sorted(headers, key=lambda one: one.number if numbered else natural_key(one.path.name))


def _in_acquisition_order(folder: Path, files: Sequence[Path], slices: Sequence[Slice]) -> np.ndarray:
    """Mask of slices without positions: the k-th was drawn on the k-th acquired slice, wherever that lies."""
    if len(files) != len(slices):
        raise InputError(
            f"{folder}: {len(files)} mask slices for {len(slices)} image slices; restore the missing files"
        )
    mask_of = {one.path: file for one, file in zip(_acquired(slices), files, strict=True)}
    masks = [_read_pixels(mask_of[one.path]) for one in slices]
    if any(mask.shape != slices[0].size[1::-1] for mask in masks):
        raise InputError(
            f"{folder}: mask slices differ in size from the image's {slices[0].size[:2]}; "
            "give the original masks"
        )
    return _binary(np.stack(masks))


def _load(slices: Sequence[Slice]) -> np.ndarray:
    return np.stack([_read_pixels(one.path) for one in slices])


def _read_pixels(path: Path) -> np.ndarray:
    """Pixels `(y, x)` of one slice."""
    sitk = load_simpleitk()
    try:
        pixels = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    except RuntimeError:
        raise InputError(f"{path}: its pixels cannot be read; restore the file") from None
    if pixels.ndim == 3 and len(pixels) == 1:  # a DICOM slice is a volume of one slice
        pixels = pixels[0]
    if pixels.ndim != 2:
        raise InputError(f"{path}: shape {pixels.shape}; give one grey-scale slice per file")
    return pixels


def _binary(slices: np.ndarray) -> np.ndarray:
    """Mask `(x, y, z)` of slices `(z, y, x)`: 1 where they are not 0."""
    return (slices != 0).astype(np.uint8).transpose(2, 1, 0)


def _narrowest(array: np.ndarray) -> np.ndarray:
    """Whole numbers as int16, which every CT fits; other values as float32."""
    whole = array.dtype.kind in "iub" and array.min() >= -32768 and array.max() <= 32767
    return array.astype(np.int16 if whole else np.float32)
