"""What the network is fed: scaled intensities, crops with a reflected halo, and mini-batches stratified by liver.

A patch is the output region of the network; its input reaches `halo` voxels further on every side.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch


def network_input(hu, window, scale):
    """Intensities of the network, float32, from HU: clipped to `window`, divided by `scale`."""
    values = np.array(hu, dtype=np.float32)
    np.clip(values, *window, out=values)
    values /= np.float32(scale)
    return values


@dataclass(frozen=True)
class Patch:
    case_id: str
    origin: tuple  # (z, y, x) of the first output voxel; may be negative where the volume is smaller than the patch


def reflected(start, stop, length):
    """Indices `start..stop` of an axis of `length` voxels, mirrored at both ends as often as need be (without repeating the end)."""
    period = max(2 * (length - 1), 1)
    indices = np.arange(start, stop) % period
    return np.minimum(indices, period - indices) if length > 1 else np.zeros_like(indices)


def crop_reflected(volume, start, stop):
    """Region `[start, stop)` of a `(z, y, x)` array, real where the array has it and reflected where it has not."""
    indices = [reflected(a, b, length) for a, b, length in zip(start, stop, volume.shape, strict=True)]
    block = np.asarray(volume[tuple(slice(along.min(), along.max() + 1) for along in indices)])
    for axis, (a, b, length) in enumerate(zip(start, stop, volume.shape, strict=True)):
        if a < 0 or b > length:
            block = block.take(indices[axis] - indices[axis].min(), axis)
    return block


def spread_origins(length, patch):
    """Origins of the fewest patches that cover an axis, evenly spread; one centred patch where the axis is shorter."""
    if length <= patch:
        return [-((patch - length) // 2)]
    count = -(-length // patch)
    return [round(index * (length - patch) / (count - 1)) for index in range(count)]


def runs_of(indices):
    """Maximal runs `(first, last)` of consecutive integers."""
    indices = sorted(indices)
    breaks = [
        0,
        *(position + 1 for position, (a, b) in enumerate(pairwise(indices)) if b > a + 1),
        len(indices),
    ]
    return [(indices[a], indices[b - 1]) for a, b in pairwise(breaks)]


class PatchSampler:
    """Draws the mini-batches of a training from the annotated slices of some volumes.

    Labels are read on annotated slices only.

    Parameters
    ----------
    volumes : `{case_id: Volume}` that holds every annotated case
    annotations : `annotation.Annotations`
    patch_size, halo : output patch and reach of the input beyond it, `(z, y, x)` in voxels
    batch_size : patches in a mini-batch, at least 2
    window, scale : intensity scaling, see `network_input`
    """

    def __init__(self, volumes, annotations, patch_size, halo, batch_size, window, scale):
        if not any(True for _ in annotations):
            raise ValueError("annotations: nothing is annotated, so there is nothing to train on")
        self.patch_size, self.halo, self.batch_size = tuple(patch_size), tuple(halo), batch_size
        self.window, self.scale = window, scale
        self._volumes = {case_id: volumes[case_id] for case_id in annotations}
        self._annotated = {case_id: np.array(sorted(annotations.of(case_id))) for case_id in annotations}
        self._columns = {case_id: self._plane_origins(case_id) for case_id in annotations}
        self._liver = {case_id: self._liver_by_column(case_id) for case_id in annotations}

    def _plane_origins(self, case_id):
        _, height, width = self._volumes[case_id].shape
        return [
            (y, x)
            for y in spread_origins(height, self.patch_size[1])
            for x in spread_origins(width, self.patch_size[2])
        ]

    def _liver_by_column(self, case_id):
        """`{z: (columns,) bool}`: does annotated slice z show liver inside each in-plane cell?"""
        _, height, width = self.patch_size
        label = self._volumes[case_id].label
        found = {}
        for z in self._annotated[case_id]:
            plane = np.asarray(label[z])
            found[int(z)] = np.array(
                [
                    plane[max(y, 0) : y + height, max(x, 0) : x + width].any()
                    for y, x in self._columns[case_id]
                ],
                dtype=bool,
            )
        return found

    def epoch(self, generator):
        """Mini-batches (lists of `Patch`) of one pass over the grid.

        Each run of consecutive annotated slices is cut into the fewest cells; the slack is a random offset, so a lone slice lands
        anywhere in its patch. Every cell occurs at least once. Every batch holds a cell with annotated liver, where any exists; where
        there are too few of them, they are repeated.
        """
        with_liver, without = [], []
        for case_id in self._volumes:
            for z in self._cell_origins(case_id, generator):
                inside = [
                    index for index in range(z, z + self.patch_size[0]) if index in self._liver[case_id]
                ]
                shows_liver = np.any([self._liver[case_id][index] for index in inside], axis=0)
                for (y, x), found in zip(self._columns[case_id], shows_liver, strict=True):
                    (with_liver if found else without).append(Patch(case_id, (z, y, x)))
        with_liver, without = (_shuffled(cells, generator) for cells in (with_liver, without))
        cells, rest = with_liver + without, self.batch_size - 1
        leaders, followers = (with_liver, without) if with_liver else (without, [])
        steps = max(-(-len(cells) // self.batch_size), -(-len(followers) // rest))
        followers = followers + leaders[steps:]
        followers += [
            cells[index] for index in generator.integers(len(cells), size=steps * rest - len(followers))
        ]  # fills the last batches
        followers = _shuffled(followers, generator)
        return [
            [leaders[step % len(leaders)], *followers[step * rest : (step + 1) * rest]]
            for step in range(steps)
        ]

    def _cell_origins(self, case_id, generator):
        depth = self.patch_size[0]
        for first, last in runs_of(self._annotated[case_id].tolist()):
            cells = -(-(last - first + 1) // depth)
            slack = cells * depth - (last - first + 1)
            start = first - int(generator.integers(slack + 1))
            yield from range(start, start + cells * depth, depth)

    def load(self, batch):
        """Tensors of a mini-batch: input `(batch, 1, z, y, x)`, label and weight `(batch, z, y, x)`, all float32.

        The weight is 1 on annotated slices inside the volume and 0 elsewhere; the label is 0 where the weight is.
        """
        images, labels, weights = zip(*(self._load_patch(patch) for patch in batch), strict=True)
        return (
            torch.from_numpy(network_input(np.stack(images), self.window, self.scale))[:, None],
            torch.from_numpy(np.stack(labels)),
            torch.from_numpy(np.stack(weights)),
        )

    def _load_patch(self, patch):
        volume, origin = self._volumes[patch.case_id], np.array(patch.origin)
        size, halo = np.array(self.patch_size), np.array(self.halo)
        image = crop_reflected(volume.image, origin - halo, origin + size + halo)
        label, weight = (np.zeros(self.patch_size, np.float32) for _ in range(2))
        (top, left), (bottom, right) = (
            np.maximum(origin[1:], 0),
            np.minimum(origin[1:] + size[1:], volume.shape[1:]),
        )
        rows, columns = slice(top - origin[1], bottom - origin[1]), slice(left - origin[2], right - origin[2])
        annotated = self._annotated[patch.case_id]
        for z in annotated[(annotated >= origin[0]) & (annotated < origin[0] + size[0])]:
            label[z - origin[0], rows, columns] = volume.label[z, top:bottom, left:right]
            weight[z - origin[0], rows, columns] = 1
        return image, label, weight


def _shuffled(cells, generator):
    return [cells[index] for index in generator.permutation(len(cells))]
