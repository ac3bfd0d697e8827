"""Reflected crops, the grid of cells and the mini-batches drawn from it, and the arrays of a batch."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from uss_bench.network.patches import (
    Patch,
    PatchSampler,
    crop_reflected,
    network_input,
    reflected,
    runs_of,
    spread_origins,
)
from uss_bench.study.annotation import Annotations

WINDOW, SCALE = (-1000.0, 1000.0), 1000.0


def rng(seed=0):
    return np.random.default_rng(seed)


class Label:
    """Label volume that raises when a slice that is not annotated is read."""

    def __init__(self, array, annotated):
        self._array, self._annotated, self.shape = array, annotated, array.shape

    def __getitem__(self, index):
        z = index[0] if isinstance(index, tuple) else index
        assert z in self._annotated, f"slice {z} is not annotated"
        return self._array[index]


def volume_with(liver=(), shape=(20, 30, 40), annotated=None, seed=0):
    """Random HU and a label that is liver in the listed `(z, y, x)` voxels."""
    label = np.zeros(shape, np.uint8)
    for voxel in liver:
        label[voxel] = 1
    image = rng(seed).integers(-1200, 1500, size=shape).astype(np.int16)
    return SimpleNamespace(
        image=image, label=label if annotated is None else Label(label, annotated), shape=shape
    )


def sampler_of(volumes, annotated, patch_size=(4, 16, 16), halo=(2, 5, 5), batch_size=2):
    return PatchSampler(volumes, Annotations(annotated), patch_size, halo, batch_size, WINDOW, SCALE)


def epochs(sampler, count=30):
    return [sampler.epoch(rng(seed)) for seed in range(count)]


def patches_of(epoch):
    return [patch for batch in epoch for patch in batch]


# --- crops ----


@pytest.mark.parametrize("length", [1, 2, 3, 5, 12])
@pytest.mark.parametrize(("before", "after"), [(0, 0), (1, 0), (0, 3), (4, 4), (11, 7), (50, 63)])
def test_reflection_is_that_of_numpy_however_far_it_reaches(length, before, after):
    expected = np.pad(np.arange(length), (before, after), mode="reflect")
    assert reflected(-before, length + after, length).tolist() == expected.tolist()


def test_reflection_by_hand():
    assert reflected(-5, 9, 4).tolist() == [1, 2, 3, 2, 1, 0, 1, 2, 3, 2, 1, 0, 1, 2]
    assert reflected(6, 9, 4).tolist() == [0, 1, 2]  # a region wholly outside


@pytest.mark.parametrize("seed", range(20))
def test_crops_are_windows_of_the_padded_volume(seed):
    random = rng(seed)
    shape, pad = random.integers(1, 9, size=3), 40
    volume = random.normal(size=shape)
    start = random.integers(-20, 12, size=3)
    stop = start + random.integers(1, 20, size=3)
    padded = np.pad(volume, pad, mode="reflect")
    expected = padded[tuple(slice(pad + a, pad + b) for a, b in zip(start, stop, strict=True))]
    np.testing.assert_array_equal(crop_reflected(volume, start, stop), expected)


def test_intensities_are_clipped_and_divided():
    hu = np.array([-3024, -1000, -100, 0, 50, 1000, 3071], np.int16)
    scaled = network_input(hu, WINDOW, SCALE)
    assert scaled.dtype == np.float32
    assert scaled.tolist() == pytest.approx([-1, -1, -0.1, 0, 0.05, 1, 1])
    assert network_input(hu, (-150.0, 250.0), 200.0).tolist() == pytest.approx(
        [-0.75, -0.75, -0.5, 0, 0.25, 1.25, 1.25]
    )


# --- grid ----


@pytest.mark.parametrize("patch", [1, 2, 5, 16])
def test_origins_cover_an_axis_with_as_few_patches_as_possible(patch):
    for length in range(1, 80):
        origins = spread_origins(length, patch)
        assert {voxel for origin in origins for voxel in range(origin, origin + patch)} >= set(range(length))
        assert len(origins) == max(1, -(-length // patch))
        if length >= patch:
            assert (origins[0], origins[-1]) == (0, length - patch)
        else:
            assert abs(-origins[0] - (origins[0] + patch - length)) <= 1  # centred


def test_origins_by_hand():
    assert spread_origins(30, 16) == [0, 14]
    assert spread_origins(40, 16) == [0, 12, 24]
    assert spread_origins(16, 16) == [0]
    assert spread_origins(5, 16) == [-5]


@pytest.mark.parametrize(
    ("indices", "runs"),
    [([3], [(3, 3)]), ([5, 3, 4], [(3, 5)]), ([0, 2, 3, 9, 10, 11], [(0, 0), (2, 3), (9, 11)])],
)
def test_runs_of_consecutive_integers(indices, runs):
    assert runs_of(indices) == runs


# --- epochs ----

ANNOTATED = {"full": range(20), "gaps": [0, 5, 6, 7, 8, 9, 10, 19], "lone": [13]}


def three_volumes():
    liver = {"full": [(10, 5, 5), (3, 29, 39)], "gaps": [(7, 12, 20)], "lone": []}
    return {case_id: volume_with(liver[case_id], annotated=set(ANNOTATED[case_id])) for case_id in ANNOTATED}


@pytest.fixture(params=[2, 3, 5], ids="batch of {}".format)
def sampler(request):
    return sampler_of(three_volumes(), ANNOTATED, batch_size=request.param)


def test_every_epoch_covers_every_annotated_voxel(sampler):
    for epoch in epochs(sampler):
        covered = {case_id: np.zeros((20, 30, 40), bool) for case_id in ANNOTATED}
        for patch in patches_of(epoch):
            z, y, x = patch.origin
            covered[patch.case_id][max(z, 0) : z + 4, y : y + 16, x : x + 16] = True
        assert all(covered[case_id][list(slices)].all() for case_id, slices in ANNOTATED.items())


def test_cells_are_cut_once_per_run_and_every_cell_occurs(sampler):
    """Runs of 20, 1, 6, 1 and 1 slices are 5 + 1 + 2 + 1 + 1 cells of four slices, 2 x 3 in the plane."""
    for epoch in epochs(sampler):
        counts = Counter(patches_of(epoch))
        assert len(counts) == (5 + 1 + 2 + 1 + 1) * 6
        # What is drawn again fills batches and leads those that hold no other liver.
        assert sum(counts.values()) == len(epoch) * sampler.batch_size
        assert all(len(batch) == sampler.batch_size for batch in epoch)


def test_every_patch_holds_an_annotated_slice(sampler):
    for patch in (patch for epoch in epochs(sampler) for patch in patches_of(epoch)):
        assert set(range(patch.origin[0], patch.origin[0] + 4)) & set(ANNOTATED[patch.case_id])


def test_every_batch_holds_annotated_liver(sampler):
    for batch in (batch for epoch in epochs(sampler) for batch in epoch):
        _, label, weight = sampler.load(batch)
        assert (label * weight).sum() > 0


def test_liver_that_is_not_annotated_does_not_count():
    """Liver in slices 2 and 9, of which 9 alone is annotated: cells of slices 0 to 3 hold none."""
    volume = volume_with([(2, 5, 5), (9, 5, 5)], annotated={0, 1, 9})
    sampler = sampler_of({"a": volume}, {"a": [0, 1, 9]})
    for epoch in epochs(sampler):
        for batch in epoch:
            assert any(
                patch.origin[0] <= 9 < patch.origin[0] + 4 and patch.origin[1:] == (0, 0) for patch in batch
            )


def test_without_any_liver_an_epoch_is_one_pass():
    sampler = sampler_of({"a": volume_with(annotated=set(range(8)))}, {"a": range(8)})
    for epoch in epochs(sampler, 5):
        assert len(epoch) == 6  # 2 x 2 x 3 cells in batches of two
        assert set(Counter(patches_of(epoch)).values()) == {1}


def test_where_liver_is_everywhere_an_epoch_is_one_pass():
    volume = volume_with(annotated=set(range(8)))
    volume.label._array[:] = 1
    for epoch in epochs(sampler_of({"a": volume}, {"a": range(8)}), 5):
        assert len(epoch) == 6
        assert set(Counter(patches_of(epoch)).values()) == {1}


def test_a_lone_slice_lands_at_every_offset_of_its_patch():
    sampler = sampler_of({"a": volume_with(annotated={13})}, {"a": [13]})
    offsets = Counter(
        13 - patch.origin[0] for epoch in epochs(sampler, 200) for patch in patches_of(epoch)[:1]
    )
    assert sorted(offsets) == [0, 1, 2, 3]
    assert min(offsets.values()) > 25  # 50 expected, six the standard deviation


@pytest.mark.parametrize("z", [0, 19])
def test_a_lone_slice_at_the_end_of_the_volume_lands_at_every_offset_too(z):
    sampler = sampler_of({"a": volume_with(annotated={z})}, {"a": [z]})
    assert {z - patch.origin[0] for epoch in epochs(sampler) for patch in patches_of(epoch)} == {0, 1, 2, 3}


def test_an_epoch_depends_on_its_generator_alone(sampler):
    first, other = sampler.epoch(rng(1)), sampler.epoch(rng(2))
    assert sampler.epoch(rng(1)) == first
    assert other != first
    rebuilt = sampler_of(
        dict(reversed(three_volumes().items())),
        dict(reversed(ANNOTATED.items())),
        batch_size=sampler.batch_size,
    )
    assert rebuilt.epoch(rng(1)) == first


def test_epochs_are_shuffled(sampler):
    followers = [[batch[1:] for batch in sampler.epoch(rng(seed))] for seed in range(2)]
    assert followers[0] != followers[1]
    cases = [patch.case_id for batch in followers[0] for patch in batch]
    assert cases != sorted(cases)


def test_nothing_annotated_is_an_error():
    with pytest.raises(ValueError, match="nothing is annotated"):
        sampler_of({"a": volume_with()}, {})


def test_only_the_volumes_of_annotated_cases_are_touched():
    untouched = SimpleNamespace()  # has neither shape nor image nor label
    sampler = sampler_of({"a": volume_with(annotated={3}), "b": untouched}, {"a": [3]})
    assert {patch.case_id for patch in patches_of(sampler.epoch(rng()))} == {"a"}


# --- arrays ----


def loaded_by_hand(volume, annotated, origin, size, halo):
    """Image, label and weight of a patch, voxel by voxel."""
    pad = 60
    padded = np.pad(volume.image.astype(np.float64), pad, mode="reflect")
    image = (
        padded[
            tuple(slice(pad + a - h, pad + a + n + h) for a, n, h in zip(origin, size, halo, strict=True))
        ].clip(-1000, 1000)
        / 1000
    )
    label, weight = np.zeros(size), np.zeros(size)
    for voxel in np.ndindex(*size):
        place = tuple(np.add(origin, voxel))
        if all(0 <= p < n for p, n in zip(place, volume.shape, strict=True)) and place[0] in annotated:
            label[voxel], weight[voxel] = volume.label[place], 1
    return image, label, weight


@pytest.mark.parametrize(
    ("shape", "annotated", "origin"),
    [
        ((20, 30, 40), [6, 7, 9], (5, 3, 11)),  # inside
        ((20, 30, 40), range(20), (-2, -3, 30)),  # over three faces
        ((20, 30, 40), [19], (18, 20, -1)),
        ((2, 10, 7), [0, 1], (-1, -3, -4)),  # a volume smaller than the patch
        ((1, 1, 1), [0], (0, 0, -15)),
    ],
)
def test_arrays_by_hand(shape, annotated, origin):
    volume = volume_with(shape=shape, seed=3)
    volume.label[:] = rng(4).integers(2, size=shape)
    volume.label[[z for z in range(shape[0]) if z not in annotated]] = 200  # poison
    sampler = sampler_of({"a": volume}, {"a": annotated})
    image, label, weight = (tensor.numpy() for tensor in sampler.load([Patch("a", origin)]))
    expected = loaded_by_hand(volume, annotated, origin, (4, 16, 16), (2, 5, 5))
    assert image.shape == (1, 1, 8, 26, 26)
    assert label.shape == weight.shape == (1, 4, 16, 16)
    assert {array.dtype for array in (image, label, weight)} == {np.dtype(np.float32)}
    np.testing.assert_allclose(image[0, 0], expected[0], atol=1e-6)
    np.testing.assert_array_equal(label[0], expected[1])
    np.testing.assert_array_equal(weight[0], expected[2])
    assert weight.sum() > 0


def test_a_batch_stacks_its_patches():
    volumes = {"a": volume_with([(1, 2, 3)], seed=1), "b": volume_with([(5, 6, 7)], seed=2)}
    sampler = sampler_of(volumes, {"a": range(20), "b": range(20)})
    patches = [Patch("b", (4, 0, 0)), Patch("a", (0, 0, 0))]
    together, apart = sampler.load(patches), [sampler.load([patch]) for patch in patches]
    for index in range(3):
        for position in range(2):
            np.testing.assert_array_equal(together[index][position], apart[position][index][0])
    assert together[1][0, 1, 6, 7] == together[1][1, 1, 2, 3] == 1
    assert together[1].sum() == 2


def test_poisoned_labels_of_unannotated_slices_change_nothing():
    def run(poison):
        volumes = {case_id: volume_with([(7, 12, 20), (13, 2, 2)], seed=5) for case_id in ANNOTATED}
        for case_id, volume in volumes.items():
            volume.label[[z for z in range(20) if z not in ANNOTATED[case_id]]] = poison
        sampler = sampler_of(volumes, ANNOTATED)
        batches = [batch for epoch in epochs(sampler, 3) for batch in epoch]
        return batches, [sampler.load(batch) for batch in batches]

    (clean_batches, clean), (poisoned_batches, poisoned) = run(0), run(255)
    assert clean_batches == poisoned_batches
    for expected, found in zip(clean, poisoned, strict=True):
        for one, other in zip(expected, found, strict=True):
            np.testing.assert_array_equal(one, other)
