"""What the network is fed: scaled intensities, crops with a reflected halo, mini-batches stratified by liver.

A patch is the output region of the network; its input reaches `halo` voxels further on every side.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch


class Annotated(Protocol):
    """Which slices of which cases are annotated: iterates over the ids of cases with any."""

    def __iter__(self) -> Iterator[str]: ...

    def of(self, case_id: str) -> Iterable[int]:
        """The annotated slices of a case, counted from 0."""


def network_input(hu: np.ndarray, window: tuple[float, float], scale: float) -> np.ndarray:
    """Intensities of the network, float32, from HU: clipped to `window`, divided by `scale`.

    >>> network_input(np.array([-1000, 0, 300]), (-150.0, 250.0), 200.0).tolist()
    [-0.75, 0.0, 1.25]
    """
    values = np.array(hu, dtype=np.float32)
    np.clip(values, *window, out=values)
    values /= np.float32(scale)
    return values


@dataclass(frozen=True)
class Patch:
    """An output patch of a case.

    Attributes
    ----------
    case_id : str
    origin : tuple of int
        `(z, y, x)` of the first voxel; may be negative where the volume is smaller than the patch.
    """

    case_id: str
    origin: tuple[int, int, int]


def reflected(start: int, stop: int, length: int) -> np.ndarray:
    """Indices `start..stop` of an axis, mirrored at both ends as often as need be, without repeating the end.

    >>> reflected(-2, 6, 4).tolist()
    [2, 1, 0, 1, 2, 3, 2, 1]
    """
    period = max(2 * (length - 1), 1)
    indices = np.arange(start, stop) % period
    return np.minimum(indices, period - indices) if length > 1 else np.zeros_like(indices)


def crop_reflected(volume: np.ndarray, start: Sequence[int], stop: Sequence[int]) -> np.ndarray:
    """Region `[start, stop)` of a `(z, y, x)` array, reflected where it reaches beyond; else a view."""
    indices = [reflected(a, b, length) for a, b, length in zip(start, stop, volume.shape, strict=True)]
    block = np.asarray(volume[tuple(slice(along.min(), along.max() + 1) for along in indices)])
    for axis, (a, b, length) in enumerate(zip(start, stop, volume.shape, strict=True)):
        if a < 0 or b > length:
            block = block.take(indices[axis] - indices[axis].min(), axis)
    return block


def spread_origins(length: int, patch: int) -> list[int]:
    """Origins of the fewest patches that cover an axis, evenly spread; one centred patch on a shorter axis.

    >>> spread_origins(40, 16), spread_origins(5, 16)
    ([0, 12, 24], [-5])
    """
    if length <= patch:
        return [-((patch - length) // 2)]
    count = -(-length // patch)
    return [round(index * (length - patch) / (count - 1)) for index in range(count)]


def runs_of(indices: Iterable[int]) -> list[tuple[int, int]]:
    """Maximal runs `(first, last)` of consecutive integers.

    >>> runs_of([7, 2, 3, 4])
    [(2, 4), (7, 7)]
    """
    indices = sorted(indices)
    ends = [position for position, (a, b) in enumerate(pairwise(indices), start=1) if b > a + 1]
    return [(indices[a], indices[b - 1]) for a, b in pairwise([0, *ends, len(indices)])]


class PatchSampler:
    """Draws the mini-batches of a training from the annotated slices of some volumes.

    Labels are read on annotated slices only.

    Parameters
    ----------
    volumes : mapping from case id to volume
        Every annotated case; a volume has `.image` (HU), `.label` and `.shape`, all `(z, y, x)`.
    annotations : Annotated
    patch_size, halo : tuple of int
        Output patch and reach of the input beyond it, `(z, y, x)` in voxels.
    batch_size : int
        Patches per mini-batch, at least 2.
    window, scale
        Intensity scaling, see `network_input`.

    Raises
    ------
    ValueError
        Nothing is annotated.
    """

    def __init__(
        self,
        volumes: Mapping[str, Any],
        annotations: Annotated,
        patch_size: tuple[int, int, int],
        halo: tuple[int, int, int],
        batch_size: int,
        window: tuple[float, float],
        scale: float,
    ):
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
            cells = (plane[max(y, 0) : y + height, max(x, 0) : x + width] for y, x in self._columns[case_id])
            found[int(z)] = np.array([cell.any() for cell in cells], dtype=bool)
        return found

    def epoch(self, generator: np.random.Generator) -> list[list[Patch]]:
        """Mini-batches of one pass over the grid of cells (section II-B).

        Each run of consecutive annotated slices is cut into the fewest cells; the slack is a random offset,
        so a lone slice lands anywhere in its patch. Every cell occurs at least once. Every batch holds a cell
        with annotated liver, where any exists; where there are too few of them, they are repeated.
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
        fillers = generator.integers(len(cells), size=steps * rest - len(followers))  # of the last batches
        followers = _shuffled(followers + [cells[index] for index in fillers], generator)
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

    def load(self, batch: Sequence[Patch]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Float32 tensors of a mini-batch: input, label and weight.

        Returns
        -------
        input : (batch, 1, z, y, x)
            Scaled intensities of the patches and their halo.
        label, weight : (batch, z, y, x)
            The weight is 1 on annotated slices inside the volume and 0 elsewhere; the label is 0 where the
            weight is.
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
        top, left = np.maximum(origin[1:], 0)
        bottom, right = np.minimum(origin[1:] + size[1:], volume.shape[1:])
        rows, columns = slice(top - origin[1], bottom - origin[1]), slice(left - origin[2], right - origin[2])
        annotated = self._annotated[patch.case_id]
        for z in annotated[(annotated >= origin[0]) & (annotated < origin[0] + size[0])]:
            label[z - origin[0], rows, columns] = volume.label[z, top:bottom, left:right]
            weight[z - origin[0], rows, columns] = 1
        return image, label, weight


def _shuffled(cells, generator):
    return [cells[index] for index in generator.permutation(len(cells))]
