"""Metrics of one liver: ours beside SimpleITK, MONAI, MedPy and surface-distance.

    python tests/performance/metrics.py [--data FOLDER] [--rounds N]

FOLDER holds `ct.nii.gz` and `liver.nii.gz` (default: a real case where there is one, else a phantom). The
prediction is the reference with bumps and dents and a false island. Each peer takes its shortest way to DICE,
RVE, MSD and HD, and must give ours before it is timed; ours computes HD95 and NSD besides.
"""

import argparse
import tempfile
import warnings
from unittest import mock

import numpy as np
import torch
from _timing import alternate, case_of, default_folders, machine, peer, table
from scipy import ndimage

from uss_bench.data.resampling import resample
from uss_bench.data.volumes import load_volume
from uss_bench.study import metrics
from uss_bench.study.metrics import METRICS, PAPER_METRICS, segmentation_metrics

BUMPS = 25.0  # mm between independent bumps


def flawed_probability(mask, spacing, seed=0):
    """Liver probability that errs as networks do: bumps and dents of some mm, a false island."""
    draw = np.random.default_rng(seed)
    coarse = [max(2, round(length * size / BUMPS)) for length, size in zip(mask.shape, spacing, strict=True)]
    bumps = resample(draw.normal(size=coarse), (BUMPS,) * 3, spacing, mask.shape)
    soft = ndimage.gaussian_filter(mask.astype(np.float32), [3 / size for size in spacing])
    probability = np.where(soft > 0.02, soft + 0.3 * bumps, 0).clip(0, 1)
    corner = (
        np.argwhere(mask.any(axis=(1, 2)))[0, 0],
        np.argwhere(mask.any(axis=(0, 2)))[0, 0],
        np.argwhere(mask.any(axis=(0, 1)))[0, 0],
    )
    probability[
        tuple(
            slice(first, first + max(1, round(7 / size))) for first, size in zip(corner, spacing, strict=True)
        )
    ] = 1
    return probability


def relative_volume_error(prediction, reference):
    """For peers without one."""
    volume = np.count_nonzero(reference)
    return 100 * abs(np.count_nonzero(prediction) - volume) / volume


def ours(prediction, reference, spacing):
    return tuple(segmentation_metrics(prediction, reference, spacing).values())


def papers_four(prediction, reference, spacing):
    """Ours without the further metrics."""
    further = {name: metric for name, metric in METRICS.items() if name in PAPER_METRICS}
    with mock.patch.object(metrics, "METRICS", further):
        return ours(prediction, reference, spacing)


def with_medpy(prediction, reference, spacing):
    from medpy.metric import binary

    distance = {"voxelspacing": spacing, "connectivity": 1}
    return (
        binary.dc(prediction, reference),
        100 * abs(binary.ravd(prediction, reference)),
        (binary.asd(prediction, reference, **distance) + binary.asd(reference, prediction, **distance)) / 2,
        binary.hd(prediction, reference, **distance),
    )


def with_monai(prediction, reference, spacing):
    from monai.metrics import compute_dice
    from monai.metrics.utils import get_edge_surface_distance

    masks = torch.from_numpy(prediction), torch.from_numpy(reference)
    _, (forth, back), _ = get_edge_surface_distance(*masks, spacing=spacing, symmetric=True)
    dice = compute_dice(*(mask[None, None] for mask in masks))
    return (
        float(dice),
        relative_volume_error(prediction, reference),
        float(forth.mean() + back.mean()) / 2,
        float(max(forth.max(), back.max())),
    )


def with_simpleitk(prediction, reference, spacing):
    """As the notebooks of SimpleITK do it: distance maps of both contours, looked up at each other."""
    import SimpleITK as sitk  # noqa: N813 (its own abbreviation)

    images = [sitk.GetImageFromArray(mask.view(np.uint8)) for mask in (prediction, reference)]
    for image in images:
        image.SetSpacing(spacing[::-1])
    overlap = sitk.LabelOverlapMeasuresImageFilter()
    overlap.Execute(images[1], images[0])
    # A border of zeros: where a mask meets the image border, LabelContour would leave its surface open.
    contours = [sitk.LabelContour(sitk.ConstantPad(image, [1] * 3, [1] * 3)) for image in images]
    maps = [
        sitk.SignedMaurerDistanceMap(
            contour, insideIsPositive=False, squaredDistance=False, useImageSpacing=True
        )
        for contour in contours
    ]
    distances = []
    for contour, distance in zip(contours, reversed(maps), strict=True):
        statistics = sitk.LabelIntensityStatisticsImageFilter()
        statistics.Execute(contour, sitk.Abs(distance))
        distances.append((statistics.GetMean(1), statistics.GetMaximum(1)))
    (forth, farthest), (back, farthest_back) = distances
    return (
        overlap.GetDiceCoefficient(),
        relative_volume_error(prediction, reference),
        (forth + back) / 2,
        max(farthest, farthest_back),
    )


def with_surface_distance(prediction, reference, spacing):
    import surface_distance

    distances = surface_distance.compute_surface_distances(reference, prediction, spacing)
    return (
        surface_distance.compute_dice_coefficient(reference, prediction),
        relative_volume_error(prediction, reference),
        sum(surface_distance.compute_average_surface_distance(distances)) / 2,
        surface_distance.compute_robust_hausdorff(distances, 100),
    )


# Each with the module it needs and the largest difference from our distances: in parts of a value, or in
# voxel diagonals.
PEERS = {
    "MedPy": (with_medpy, "medpy.metric", {"rtol": 1e-9}),
    "MONAI": (with_monai, "monai.metrics", {"rtol": 1e-5}),  # float32
    "SimpleITK": (with_simpleitk, "SimpleITK", {"rtol": 1e-5}),  # float32
    "surface-distance": (
        with_surface_distance,
        "surface_distance",
        {"voxels": 1},
    ),  # its surfaces run between the voxels
}


def checked_peers(pair):
    """The installed peers, by name, each checked against ours on a `(prediction, reference, spacing)`."""
    expected = ours(*pair)[: len(PAPER_METRICS)]
    agreeing = {}
    for name, (compute, module, tolerance) in PEERS.items():
        if peer(module) is None:
            continue
        given = compute(*pair)
        np.testing.assert_allclose(given[:2], expected[:2], rtol=1e-6, err_msg=name)
        atol = tolerance.get("voxels", 0) * np.linalg.norm(pair[2])
        np.testing.assert_allclose(
            given[2:], expected[2:], rtol=tolerance.get("rtol", 0), atol=atol, err_msg=name
        )
        agreeing[name] = compute
    return agreeing


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
    machine("numpy", "scipy", "torch", "MedPy", "monai", "SimpleITK", "surface-distance")
    with tempfile.TemporaryDirectory() as scratch:
        volume = load_volume(case_of(options.data, scratch), (3.0, 3.0, 3.0), scratch)
        reference, spacing = volume.reference(), volume.native_spacing
    prediction = flawed_probability(reference, spacing) >= 0.5
    pair = prediction, reference, spacing
    print(
        f"{reference.shape} voxels (z, y, x) of {' x '.join(f'{size:.3g}' for size in spacing)} mm;",
        f"{', '.join(METRICS)}:",
        *ours(*pair),
    )

    rows = {"ours": ours, "ours, the paper's four": papers_four, **checked_peers(pair)}
    seconds = alternate(
        {name: lambda compute=compute: compute(*pair) for name, compute in rows.items()}, options.rounds
    )
    # The floor: what SciPy's transform of the whole volume costs, once, cropped; the usual way takes two.
    box = ndimage.find_objects((prediction | reference).view(np.int8))[0]
    seconds |= alternate(
        {
            "one SciPy transform of the box": lambda: ndimage.distance_transform_edt(
                ~reference[box], sampling=spacing
            )
        },
        3,
    )
    table("metrics of a liver", seconds, "ours")


if __name__ == "__main__":
    main()
