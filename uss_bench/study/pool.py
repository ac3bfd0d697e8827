"""What a query strategy sees, a pool of volumes without labels, and what it returns, queries."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

# Names that a strategy's `needs` may hold. Slices are scored by means over their voxels or, where
# said so, by numbers of voxels.
SCORES = {
    "volume": "mean predictive entropy of the predicted liver and its surroundings, in nats",
    "disagreement": "1 minus the mean pairwise DICE of the Monte Carlo samples",
    "profile": "(z,) predictive entropy of each slice, in nats",
    "information": "(z,) mutual information of each slice, in nats",
    "liver": "(z,) voxels of each slice that are predicted to be liver",
    "mask": "the predicted liver, which `PoolCase.mask` unpacks",
    "errors": "(z,) wrong voxels of each slice: for oracles alone, who read the labels",
}
UNCERTAINTIES = ("volume", "disagreement", "profile", "information")
OF_ORACLES = "errors"


class Query(NamedTuple):
    """What is to be annotated next.

    Attributes
    ----------
    case_id : str
        The case.
    z : int or None
        The slice, counted from 0 on the working grid; None for the whole volume.
    score : float or None
        What decided, mostly an uncertainty in nats; None where chance did.
    """

    case_id: str
    z: int | None = None
    score: float | None = None


@dataclass(frozen=True)
class PoolCase:
    """What a strategy knows of a volume.

    Attributes
    ----------
    case_id : str
        Id of the case.
    slices : int
        Number of axial slices on the working grid.
    annotated : frozenset of int
        Slices that are annotated already.
    scores : dict
        Under the model that queries, those of `SCORES` that the strategy `needs`. A volume that is annotated
        throughout has none.
    """

    case_id: str
    slices: int
    annotated: frozenset[int] = frozenset()
    scores: Mapping[str, Any] = field(default_factory=dict)

    @property
    def open_slices(self) -> list[int]:
        """Slices that are not annotated yet."""
        return [z for z in range(self.slices) if z not in self.annotated]

    @property
    def mask(self) -> np.ndarray:
        """The predicted liver, `(z, y, x)` bool, unpacked each time; a strategy needs "mask" for it."""
        return unpack_mask(self.scores["mask"])


@dataclass(frozen=True)
class Pool:
    """What a strategy chooses from.

    Attributes
    ----------
    cases : sequence of PoolCase
        The volumes.
    min_distance : int
        Least distance between slice candidates of a volume, in slices.
    spacing : tuple of float
        `(z, y, x)` of the working grid, in mm.
    iteration : int
        The one that the queries are for, counted from 1.
    """

    cases: Sequence[PoolCase]
    min_distance: int = 5
    spacing: tuple[float, float, float] = (1.5, 1.0, 1.0)
    iteration: int = 1

    @property
    def untouched(self) -> list[PoolCase]:
        """Volumes without any annotation."""
        return [case for case in self.cases if not case.annotated]


def pack_mask(mask: np.ndarray) -> dict[str, Any]:
    """A mask `(z, y, x)` in few characters, for JSON: shape, and bits deflated in base 64.

    >>> unpack_mask(pack_mask(np.array([[[True, False, True]]]))).tolist()
    [[[True, False, True]]]
    """
    bits = zlib.compress(np.packbits(mask).tobytes(), level=1)
    return {"shape": list(mask.shape), "bits": base64.b64encode(bits).decode()}


def unpack_mask(packed: Mapping[str, Any]) -> np.ndarray:
    """The mask that `pack_mask` was given."""
    bits = np.frombuffer(zlib.decompress(base64.b64decode(packed["bits"])), np.uint8)
    return np.unpackbits(bits, count=int(np.prod(packed["shape"]))).astype(bool).reshape(packed["shape"])
