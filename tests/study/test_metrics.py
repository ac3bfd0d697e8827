"""Metrics against distances worked out by hand, brute force, MedPy and SimpleITK.

All spacings are anisotropic, so a wrong axis shows.
"""

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from uss_bench.study.metrics import METRICS, PAPER_METRICS, jaccard, segmentation_metrics
from uss_bench.study.surfaces import surface_voxels, volume_diagonal

SPACING = (5.0, 1.0, 2.0)  # z, y, x in mm
SHAPE = (8, 9, 10)
REAL_MASK = Path(__file__).resolve().parents[3] / "shared" / "data" / "real" / "ircadb01" / "liver.nii.gz"


def box(start, size, shape=SHAPE):
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(first, first + length) for first, length in zip(start, size, strict=True))] = True
    return mask


def blob(rng, shape=(12, 14, 13)):
    """Random bumpy mask with holes, islands and voxels on the image border."""
    field = ndimage.gaussian_filter(rng.normal(size=shape), 1.5)
    return field > np.quantile(field, rng.uniform(0.5, 0.9))


def loop_surface(mask):
    """Surface voxels by a plain loop over voxels and neighbours, as `(n, 3)` indices."""
    surface = []
    for voxel in np.argwhere(mask):
        for step in ((1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1)):
            neighbour = voxel + step
            if (neighbour < 0).any() or (neighbour >= mask.shape).any() or not mask[tuple(neighbour)]:
                surface.append(voxel)
                break
    return np.array(surface)


def all_pairs(prediction, reference, spacing):
    """MSD, HD, HD95 and NSD from the distances of all pairs of surface voxels."""
    first, second = loop_surface(prediction), loop_surface(reference)
    distances = np.linalg.norm((first[:, None] - second[None]) * np.asarray(spacing), axis=2)
    forth, back = distances.min(axis=1), distances.min(axis=0)
    near = sum((distances <= 2).sum() for distances in (forth, back))
    return {
        "MSD": (forth.mean() + back.mean()) / 2,
        "HD": max(forth.max(), back.max()),
        "HD95": max(percentile_95(forth), percentile_95(back)),
        "NSD": near / (len(forth) + len(back)),
    }


def percentile_95(values):
    """Linear between the order statistics, the first at 0% and the last at 100%."""
    ordered = sorted(values)
    below, part = divmod(95 * (len(ordered) - 1), 100)
    return ordered[below] + part / 100 * (ordered[min(below + 1, len(ordered) - 1)] - ordered[below])


def mean_both_ways(asd, first, second, spacing):
    forth = asd(first, second, voxelspacing=spacing, connectivity=1)
    return (forth + asd(second, first, voxelspacing=spacing, connectivity=1)) / 2


def test_table_of_metrics():
    assert list(METRICS) == ["DICE", "RVE", "MSD", "HD", "HD95", "NSD"]
    assert PAPER_METRICS == ("DICE", "RVE", "MSD", "HD")
    assert [metric.unit for metric in METRICS.values()] == ["", "%", "mm", "mm", "mm", ""]
    assert [metric.higher_is_better for metric in METRICS.values()] == [
        True,
        False,
        False,
        False,
        False,
        True,
    ]
    assert [metric.robust_quantile for metric in METRICS.values()] == [0.05, 0.95, 0.95, 0.95, 0.95, 0.05]
    assert "2 mm" in METRICS["NSD"].definition
    with pytest.raises(TypeError):
        METRICS["DICE"] = None


@pytest.mark.parametrize(
    ("offset", "distance"),
    [((1, 0, 0), 5), ((0, 3, 0), 3), ((0, 0, 2), 4), ((0, 3, 2), 5), ((2, 2, 1), 108**0.5)],
)
def test_two_voxels(offset, distance):
    first, second = box((2, 3, 4), (1, 1, 1)), box(np.add((2, 3, 4), offset), (1, 1, 1))
    assert segmentation_metrics(first, second, SPACING) == {
        "DICE": 0.0,
        "RVE": 0.0,
        "MSD": pytest.approx(distance),
        "HD": pytest.approx(distance),
        "HD95": pytest.approx(distance),
        "NSD": 0.0,
    }


# A 3 x 3 x 3 box has 26 surface voxels, all but its centre. Moved by one voxel, nine of them lie one step
# beyond the other box, one (the middle of the opposite face) falls on the other's centre and is 1 mm (the
# smallest step) away from its surface, and the remaining 16 coincide. The boxes share 18 of 27 voxels. Of the
# 26 distances in order, 95% is three quarters of the way from the 24th to the 25th, both one step.
@pytest.mark.parametrize(("offset", "step"), [((1, 0, 0), 5), ((0, 1, 0), 1), ((0, 0, 1), 2)])
def test_box_moved_by_one_voxel(offset, step):
    first, second = box((2, 3, 4), (3, 3, 3)), box(np.add((2, 3, 4), offset), (3, 3, 3))
    expected = {
        "DICE": pytest.approx(2 / 3),
        "RVE": 0.0,
        "MSD": pytest.approx((9 * step + 1) / 26),
        "HD": step,
        "HD95": step,
        "NSD": pytest.approx(17 / 26) if step > 2 else 1.0,
    }
    assert segmentation_metrics(first, second, SPACING) == expected
    assert segmentation_metrics(second, first, SPACING) == expected
    assert jaccard(first, second) == pytest.approx(18 / 36)


@pytest.mark.parametrize(("offset", "distance"), [((3, 0, 0), 15), ((0, 4, 0), 4), ((0, 0, 3), 6)])
def test_maximal_distance_of_boxes_moved_apart(offset, distance):
    first, second = box((1, 1, 1), (4, 4, 4)), box(np.add((1, 1, 1), offset), (4, 4, 4))
    assert segmentation_metrics(first, second, SPACING)["HD"] == distance


def test_nested_voxel():
    """From the centre the nearest face is 2 voxels away along y: 2 mm.

    The farthest corner is 10, 2 and 4 mm away.
    """
    centre, outer = box((3, 3, 3), (1, 1, 1)), box((1, 1, 1), (5, 5, 5))
    metrics = segmentation_metrics(centre, outer, SPACING)
    assert metrics["DICE"] == pytest.approx(2 / 126)
    assert metrics["RVE"] == pytest.approx(100 * 124 / 125)
    assert metrics["HD"] == pytest.approx(120**0.5)
    # 98 shell voxels, 1 centre: each direction is divided by its own number, so 2 mm count as much as the
    # mean of all 98.
    steps = np.stack(np.meshgrid(*[np.arange(-2, 3)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    shell = steps[np.abs(steps).max(axis=1) == 2]
    assert len(shell) == 98
    assert metrics["MSD"] == pytest.approx((2 + np.linalg.norm(shell * SPACING, axis=1).mean()) / 2)
    assert segmentation_metrics(outer, centre, SPACING)["RVE"] == pytest.approx(
        12400
    )  # relative to the reference


def test_hausdorff_95_by_hand():
    """A line of 41 voxels, 2 mm apart, against its first: distances 0, 2, ..., 80 mm; back 0 alone.

    95% of 40 steps is 38: 76 mm. Both directions pooled, as MedPy has it, gives 95% of 41 steps, 75.9 mm.
    """
    line, first = box((2, 3, 0), (1, 1, 41), (5, 6, 50)), box((2, 3, 0), (1, 1, 1), (5, 6, 50))
    for masks in ((line, first), (first, line)):
        metrics = segmentation_metrics(*masks, SPACING)
        assert (metrics["HD"], metrics["HD95"]) == (80, 76)
        assert metrics["NSD"] == 3 / 42  # the first voxel from both sides, and its neighbour


@pytest.mark.parametrize(("edge", "share"), [(0.4, 1), (np.float32(0.4), 1), (0.401, 0), (0.399, 1)])
def test_tolerance_includes_its_limit_in_the_precision_of_headers(edge, share):
    """Two voxels five steps apart along x, of which each is about 0.4 mm."""
    first, second = box((2, 3, 0), (1, 1, 1)), box((2, 3, 5), (1, 1, 1))
    assert 5 * float(np.float32(0.4)) > 2
    assert segmentation_metrics(first, second, (5.0, 1.0, float(edge)))["NSD"] == share


def test_relative_volume_error_has_no_sign():
    small, large = box((1, 1, 1), (2, 3, 4)), box((1, 1, 1), (3, 3, 4))
    assert segmentation_metrics(small, large, SPACING)["RVE"] == pytest.approx(100 / 3)
    assert segmentation_metrics(large, small, SPACING)["RVE"] == pytest.approx(50)


def test_image_border_counts_as_outside():
    assert surface_voxels(np.ones((3, 3, 3), dtype=bool)).sum() == 26
    assert surface_voxels(np.ones((1, 4, 5), dtype=bool)).all()
    assert not surface_voxels(np.ones((3, 3, 3), dtype=bool))[1, 1, 1]
    assert not surface_voxels(np.zeros((3, 3, 3), dtype=bool)).any()


def test_diagonal_neighbours_do_not_make_a_surface():
    mask = np.ones((5, 5, 5), dtype=bool)
    mask[1, 1, 2] = False  # shares an edge, not a face, with the centre
    assert not surface_voxels(mask)[2, 2, 2]
    mask[2, 1, 2] = False
    assert surface_voxels(mask)[2, 2, 2]


def test_masks_on_the_border_are_as_good_as_inside():
    first, second = box((0, 0, 0), (8, 4, 4)), box((0, 5, 3), (8, 4, 7))
    inside = [np.pad(mask, 3) for mask in (first, second)]
    assert segmentation_metrics(first, second, SPACING) == segmentation_metrics(*inside, SPACING)


PERFECT = {"DICE": 1.0, "RVE": 0.0, "MSD": 0.0, "HD": 0.0, "HD95": 0.0, "NSD": 1.0}


def test_identical_masks():
    mask = box((1, 2, 3), (4, 3, 5))
    assert segmentation_metrics(mask, mask, SPACING) == PERFECT
    assert jaccard(mask, mask) == 1.0


def test_empty_masks():
    empty, mask = np.zeros(SHAPE, dtype=bool), box((1, 2, 3), (4, 3, 5))
    assert segmentation_metrics(empty, mask, SPACING) == {
        "DICE": 0.0,
        "RVE": 100.0,
        "MSD": np.inf,
        "HD": np.inf,
        "HD95": np.inf,
        "NSD": 0.0,
    }
    assert segmentation_metrics(mask, empty, SPACING) == {
        "DICE": 0.0,
        "RVE": np.inf,
        "MSD": np.inf,
        "HD": np.inf,
        "HD95": np.inf,
        "NSD": 0.0,
    }
    assert segmentation_metrics(empty, empty, SPACING) == PERFECT
    assert jaccard(empty, empty) == 1.0
    assert jaccard(empty, mask) == jaccard(mask, empty) == 0.0


def test_keys_order_and_plain_floats():
    metrics = segmentation_metrics(box((1, 1, 1), (2, 2, 2)), box((2, 1, 1), (2, 2, 2)), SPACING)
    assert list(metrics) == list(METRICS)
    assert all(type(value) is float for value in metrics.values())


def test_arguments_are_left_alone_and_views_are_fine():
    rng = np.random.default_rng(3)
    first, second = blob(rng), blob(rng)
    copies = first.copy(), second.copy()
    metrics = segmentation_metrics(first, second, SPACING)
    assert (first == copies[0]).all() and (second == copies[1]).all()
    turned = segmentation_metrics(first.transpose(2, 1, 0), second.transpose(2, 1, 0), SPACING[::-1])
    assert turned == pytest.approx(metrics, rel=1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_random_blobs_against_all_pairs(seed):
    rng = np.random.default_rng(seed)
    first, second = blob(rng), blob(rng)
    spacing = rng.uniform(0.5, 5, size=3)
    metrics = segmentation_metrics(first, second, spacing)
    assert (np.argwhere(surface_voxels(first)) == loop_surface(first)).all()
    expected = all_pairs(first, second, spacing)
    assert {name: metrics[name] for name in expected} == pytest.approx(expected)
    swapped = segmentation_metrics(second, first, spacing)
    symmetric = ("DICE", "MSD", "HD", "HD95", "NSD")
    assert [swapped[name] for name in symmetric] == [metrics[name] for name in symmetric]
    assert jaccard(first, second) == pytest.approx(metrics["DICE"] / (2 - metrics["DICE"]))
    assert metrics["MSD"] <= metrics["HD"] and metrics["HD95"] <= metrics["HD"] <= volume_diagonal(
        first.shape, spacing
    )
    doubled = segmentation_metrics(first, second, 2 * spacing)
    for name in ("MSD", "HD", "HD95"):
        assert doubled[name] == pytest.approx(2 * metrics[name])
    assert segmentation_metrics(first, second, spacing) == metrics  # to the last bit


@pytest.mark.parametrize("spacing", [(5.0, 0.7, 0.7), (0.4, 1.1, 2.3), (1.0, 1.0, 1.0)])
@pytest.mark.parametrize("kind", ["near", "island", "specks", "far slices", "one slice"])
def test_distances_against_a_transform_of_the_whole_volume(kind, spacing):
    """The distances are looked up slice by slice.

    Voxels must find the nearest in any slice, near or far, above or below.
    """
    rng = np.random.default_rng(8)
    reference = np.zeros((30, 32, 28), dtype=bool)
    reference[8:20, 6:20, 6:20] = blob(rng, (12, 14, 14))
    prediction = np.roll(reference, (1, -2, 1), axis=(0, 1, 2))
    if kind == "island":
        prediction[28, 30, 1:4] = True
    elif kind == "specks":
        prediction = rng.random(reference.shape) < 0.01
    elif kind == "far slices":  # nothing of either mask in the other's slices
        reference[14:], prediction[:20] = False, False
        prediction[25:, 3:9, 20:] = True
    elif kind == "one slice":
        prediction = reference & (np.arange(30) == 19)[:, None, None]
    assert prediction.any() and reference.any()
    surfaces = [surface_voxels(mask) for mask in (prediction, reference)]
    forth, back = (
        ndimage.distance_transform_edt(~target, sampling=spacing)[start]
        for start, target in (surfaces, surfaces[::-1])
    )
    metrics = segmentation_metrics(prediction, reference, spacing)
    assert metrics["MSD"] == pytest.approx((forth.mean() + back.mean()) / 2, rel=1e-12)
    assert metrics["HD"] == pytest.approx(max(forth.max(), back.max()), rel=1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_random_blobs_against_medpy(seed):
    binary = pytest.importorskip("medpy.metric.binary")
    rng = np.random.default_rng(seed)
    first, second = blob(rng, (20, 26, 23)), blob(rng, (20, 26, 23))
    spacing = tuple(rng.uniform(0.5, 5, size=3))
    metrics = segmentation_metrics(first, second, spacing)
    assert metrics["DICE"] == pytest.approx(binary.dc(first, second))
    assert metrics["RVE"] == pytest.approx(100 * abs(binary.ravd(first, second)))
    assert metrics["MSD"] == pytest.approx(mean_both_ways(binary.asd, first, second, spacing))
    assert metrics["HD"] == pytest.approx(binary.hd(first, second, voxelspacing=spacing, connectivity=1))
    assert jaccard(first, second) == pytest.approx(binary.jc(first, second))


@pytest.mark.parametrize("step", [1, 2, 3, 4])
@pytest.mark.filterwarnings("ignore:Please import:DeprecationWarning")
def test_plates_against_surface_distance(step):
    """Where its surface elements and our voxels weigh alike: a wide plate and another, so far below it.

    More than 95% of both surfaces lie at one distance but for the rims, which are equal for both as well.
    """
    surface_distance = pytest.importorskip("surface_distance")
    first, second = (
        box((4, 5, 5), (1, 60, 60), (12, 70, 70)),
        box((4 + step, 5, 5), (1, 60, 60), (12, 70, 70)),
    )
    spacing = (0.8, 1.0, 1.0)
    distances = surface_distance.compute_surface_distances(second, first, spacing)
    metrics = segmentation_metrics(first, second, spacing)
    assert metrics["HD95"] == pytest.approx(0.8 * step)
    assert metrics["HD95"] == pytest.approx(surface_distance.compute_robust_hausdorff(distances, 95))
    assert metrics["NSD"] == float(0.8 * step <= 2)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.filterwarnings("ignore:Please import:DeprecationWarning")
def test_livers_against_surface_distance(seed):
    """Weights by area, and surfaces half a voxel farther out, move distances by less than a voxel."""
    surface_distance = pytest.importorskip("surface_distance")
    rng = np.random.default_rng(seed)
    z, y, x = np.mgrid[:40, :44, :48]
    radii, shift = rng.uniform(12, 16, 3), rng.uniform(-4, 4, 3)
    first, second = (
        sum(((axis - 21 - d) / r) ** 2 for axis, d, r in zip((z, y, x), moved, radii, strict=True)) < 1
        for moved in (shift, (0, 0, 0))
    )
    spacing = (1.0, 1.0, 1.0)
    distances = surface_distance.compute_surface_distances(second, first, spacing)
    metrics = segmentation_metrics(first, second, spacing)
    theirs = surface_distance.compute_robust_hausdorff(distances, 95)
    assert metrics["HD95"] == pytest.approx(theirs, abs=3**0.5 / 2)
    below, above = (surface_distance.compute_surface_dice_at_tolerance(distances, 2 + d) for d in (-0.5, 0.5))
    assert below < metrics["NSD"] < above


@pytest.mark.parametrize("seed", range(3))
def test_random_blobs_against_simpleitk(seed):
    sitk = pytest.importorskip("SimpleITK")
    rng = np.random.default_rng(seed)
    first, second = blob(rng), blob(rng)
    metrics = segmentation_metrics(first, second, SPACING)

    def image(mask):
        made = sitk.GetImageFromArray(mask.astype(np.uint8))
        made.SetSpacing(SPACING[::-1])  # SimpleITK counts x, y, z
        return made

    overlap = sitk.LabelOverlapMeasuresImageFilter()
    overlap.Execute(image(second), image(first))  # source, target
    assert metrics["DICE"] == pytest.approx(overlap.GetDiceCoefficient())
    assert jaccard(first, second) == pytest.approx(overlap.GetJaccardCoefficient())
    hausdorff = sitk.HausdorffDistanceImageFilter()
    hausdorff.Execute(image(surface_voxels(first)), image(surface_voxels(second)))
    assert metrics["HD"] == pytest.approx(hausdorff.GetHausdorffDistance(), rel=1e-6)


@pytest.mark.skipif(not REAL_MASK.exists(), reason="the real mask is not at hand")
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_real_liver_moved_by_one_voxel(axis):
    nibabel = pytest.importorskip("nibabel")
    image = nibabel.load(REAL_MASK)
    spacing = tuple(float(size) for size in image.header.get_zooms()[::-1])
    liver = (np.asarray(image.dataobj) > 0).transpose(2, 1, 0)
    # The whole liver, every other voxel in the plane: its foremost voxels stick out by one step, and none is
    # farther away.
    coarse, coarse_spacing = liver[:, ::2, ::2], (spacing[0], 2 * spacing[1], 2 * spacing[2])
    metrics = segmentation_metrics(np.roll(coarse, 1, axis), coarse, coarse_spacing)
    assert 0.9 < metrics["DICE"] < 1 and metrics["RVE"] == 0
    assert 0 < metrics["MSD"] < metrics["HD"] == pytest.approx(coarse_spacing[axis])

    binary = pytest.importorskip("medpy.metric.binary")
    middle = np.argwhere(liver[::4, ::4, ::4]).mean(axis=0) * 4
    near = tuple(
        slice(max(int(centre) - 30, 0), int(centre) + 30) for centre in middle
    )  # a quick piece, cut on all sides
    first = liver[near]
    second = np.roll(liver, 1, axis)[near]
    metrics = segmentation_metrics(first, second, spacing)
    assert metrics["DICE"] == pytest.approx(binary.dc(first, second))
    assert metrics["MSD"] == pytest.approx(mean_both_ways(binary.asd, first, second, spacing))
    assert metrics["HD"] == pytest.approx(binary.hd(first, second, voxelspacing=spacing, connectivity=1))


def test_volume_diagonal():
    assert volume_diagonal((3, 12, 2), (1, 1, 2)) == pytest.approx(13)  # edges 3, 12, 4 mm
    assert volume_diagonal((2, 12, 3), (2, 1, 1)) == pytest.approx(13)
    with pytest.raises(ValueError, match="shape"):
        volume_diagonal((3, 12), (1, 1, 2))
    with pytest.raises(ValueError, match="spacing"):
        volume_diagonal((3, 12, 2), (1, 0, 2))


@pytest.mark.parametrize("function", [lambda a, b: segmentation_metrics(a, b, SPACING), jaccard])
def test_masks_are_checked(function):
    mask = box((1, 1, 1), (2, 2, 2))
    with pytest.raises(TypeError, match="prediction must be a bool array, not uint8"):
        function(mask.astype(np.uint8), mask)
    with pytest.raises(TypeError, match="reference must be a bool array, not float64"):
        function(mask, mask.astype(float))
    with pytest.raises(ValueError, match="reference must have three axes"):
        function(mask, mask[0])
    with pytest.raises(ValueError, match="same shape"):
        function(mask, mask[1:])


@pytest.mark.parametrize(
    "spacing", [(1, 1), (1, 1, 1, 1), (1, 0, 1), (1, -1, 1), (1, np.nan, 1), (np.inf, 1, 1), 1.0]
)
def test_spacing_is_checked_even_for_empty_masks(spacing):
    empty = np.zeros(SHAPE, dtype=bool)
    with pytest.raises(ValueError, match="spacing"):
        segmentation_metrics(empty, empty, spacing)
