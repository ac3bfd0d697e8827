"""From `.nii.gz` to the working grid: ours, with and without its cache, and four peers.

    python tests/performance/loading.py [--data FOLDER] [--rounds N]

FOLDER holds `ct.nii.gz` and `liver.nii.gz` (default: a real case where there is one, else a phantom). All
read both files, turn them to RAS and resample the image linearly and the label to nearest voxels (ours:
linearly, at least half). Ours alone checks the files' checksums and values, hashes them and writes its cache.
"""

import argparse
import gzip
import hashlib
import tempfile
import warnings
from pathlib import Path

import numpy as np
from _timing import alternate, case_of, default_folders, machine, peer, table

from uss_bench.data.volumes import load_volume

GRID = (1.5, 1.0, 1.0)  # mm, the paper's


def ours(case, cache):
    volume = load_volume(case, GRID, cache)
    return np.array(volume.image), np.array(volume.label)  # whole, not mapped


def ours_without_cache(case):
    with tempfile.TemporaryDirectory() as cache:
        return ours(case, cache)


def with_simpleitk(case):
    import SimpleITK as sitk  # noqa: N813 (its own abbreviation)

    arrays = []
    for path, method in ((case.image, sitk.sitkLinear), (case.label, sitk.sitkNearestNeighbor)):
        image = sitk.DICOMOrient(sitk.ReadImage(str(path)), "RAS")
        size = [
            round(length * old / new)
            for length, old, new in zip(image.GetSize(), image.GetSpacing(), GRID[::-1], strict=True)
        ]
        grid = (sitk.Transform(), method, image.GetOrigin(), GRID[::-1], image.GetDirection())
        arrays.append(sitk.GetArrayFromImage(sitk.Resample(image, size, *grid)))
    return arrays


def with_monai(case):
    from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, Orientationd, Spacingd

    keys = ("image", "label")
    steps = [
        LoadImaged(keys),
        EnsureChannelFirstd(keys),
        Orientationd(keys, axcodes="RAS", labels=None),
        Spacingd(keys, pixdim=GRID[::-1], mode=("bilinear", "nearest")),
    ]
    volumes = Compose(steps)({"image": case.image, "label": case.label})
    return [volumes[key][0].numpy().transpose(2, 1, 0) for key in keys]


def with_torchio(case):
    import torchio

    subject = torchio.Subject(image=torchio.ScalarImage(case.image), label=torchio.LabelMap(case.label))
    subject = torchio.Compose([torchio.ToCanonical(), torchio.Resample(GRID[::-1])])(subject)
    return [subject[key].data[0].numpy().transpose(2, 1, 0) for key in ("image", "label")]


def with_nibabel_and_scipy(case):
    import nibabel
    from scipy import ndimage

    arrays = []
    for path, order in ((case.image, 1), (case.label, 0)):
        image = nibabel.as_closest_canonical(nibabel.load(path))
        zoom = np.divide(image.header.get_zooms(), GRID[::-1])
        arrays.append(
            ndimage.zoom(
                np.asarray(image.dataobj), zoom, order=order, mode="nearest", grid_mode=True
            ).transpose(2, 1, 0)
        )
    return arrays


PEERS = {
    "SimpleITK": (with_simpleitk, "SimpleITK"),
    "MONAI": (with_monai, "monai.transforms"),
    "TorchIO": (with_torchio, "torchio"),
    "nibabel and SciPy": (with_nibabel_and_scipy, "nibabel"),
}


def check(name, expected, given):
    """Grids lie up to a voxel apart, so size and the liver's volume, place and mean HU must agree."""
    for (image, label), (other, other_label) in ((expected, given),):
        assert np.abs(np.subtract(image.shape, other.shape)).max() <= 1, (
            f"{name}: shape {other.shape}, not {image.shape}"
        )
        liver, other_liver = label > 0, other_label > 0
        assert abs(other_liver.sum() / liver.sum() - 1) < 0.01, (
            f"{name}: {other_liver.sum()} liver voxels, not {liver.sum()}"
        )
        centres = [np.argwhere(mask).mean(axis=0) for mask in (liver, other_liver)]
        assert np.abs(np.subtract(*centres)).max() < 1, (
            f"{name}: the liver lies at {centres[1]}, not {centres[0]}"
        )
        assert abs(other[other_liver].mean() - image[liver].mean()) < 1, (
            f"{name}: another mean HU of the liver"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data",
        default=next(iter(default_folders("ircadb01")), None),
        metavar="FOLDER",
        help="with ct.nii.gz and liver.nii.gz",
    )
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # peers' deprecations
    machine("numpy", "scipy", "torch", "nibabel", "SimpleITK", "monai", "torchio")
    with tempfile.TemporaryDirectory() as scratch:
        case = case_of(options.data, scratch)
        cache = Path(scratch) / "cache"
        expected = ours(case, cache)
        print(f"{expected[0].shape} voxels (z, y, x) of {' x '.join(f'{size:g}' for size in GRID)} mm")
        rows = {"ours, cached": lambda: ours(case, cache), "ours": lambda: ours_without_cache(case)}
        for name, (load, module) in PEERS.items():
            if peer(module) is not None:
                check(name, expected, load(case))
                rows[name] = lambda load=load: load(case)
        # The floors: what no reader of the files, and no checked cache, gets below.
        rows["gunzip of both files alone"] = lambda: [
            gzip.decompress(path.read_bytes()) for path in (case.image, case.label)
        ]
        rows["SHA-256 of both files alone"] = lambda: [
            hashlib.sha256(path.read_bytes()) for path in (case.image, case.label)
        ]
        table("load and resample", alternate(rows, options.rounds), "ours")


if __name__ == "__main__":
    main()
