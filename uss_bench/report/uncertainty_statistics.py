"""Statistics on how good uncertainties are, as pure functions of arrays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from itertools import pairwise

import numpy as np
from scipy.stats import rankdata

from ..study.keys import ModelKey
from ..study.strategies import in_order

RIGHT = 0.95  # slice DICE from which a prediction counts as right
LIMITS = (0.0, 10.0, 20.0, 40.0, 80.0, np.finfo(float).max, np.inf)  # mm, of classes of distance
DISTANCES = ("0 to 10 mm", "10 to 20 mm", "20 to 40 mm", "40 to 80 mm", "beyond 80 mm", "none in the volume")


@dataclass(frozen=True)
class PoolSlices:
    """Slices of the pool under a model that scored them; all attributes are `(n,)` arrays.

    Attributes
    ----------
    uncertainty : ndarray
        Mean entropy in nats.
    wrong, predicted, liver : ndarray
        Voxels that are wrong, predicted as liver, and liver in the reference.
    annotated : ndarray
        Bool, whether the model was trained on the slice.
    queried : ndarray
        Text, strategies that asked for the slice next, joined by ";".
    distance : ndarray
        In mm to the nearest annotated slice of the volume; infinite where it has none.
    """

    uncertainty: np.ndarray
    wrong: np.ndarray
    predicted: np.ndarray
    liver: np.ndarray
    annotated: np.ndarray
    queried: np.ndarray
    distance: np.ndarray

    def where(self, chosen: np.ndarray) -> PoolSlices:
        """Only the slices that a bool array `(n,)` marks."""
        return PoolSlices(*(getattr(self, field.name)[chosen] for field in fields(self)))

    @classmethod
    def joined(cls, parts: Iterable[PoolSlices]) -> PoolSlices:
        """The slices of all parts, one after the other."""
        parts = list(parts)
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))

    @property
    def open(self) -> PoolSlices:
        """Only those that are not annotated."""
        return self.where(~self.annotated)

    @property
    def dice(self) -> np.ndarray:
        """`(n,)` DICE of each slice; 1 where liver is neither predicted nor there."""
        # Both masks hold 2 c + w voxels, where c are common and w are wrong.
        both = self.predicted + self.liver
        return 1 - np.divide(self.wrong, both, out=np.zeros(len(both)), where=both > 0)

    def asked_by(self, strategy: str) -> np.ndarray:
        """Bool `(n,)`, whether a strategy asked for the slice."""
        return np.array([strategy in text.split(";") for text in self.queried], bool)


@dataclass(frozen=True)
class Reliability:
    """A reliability diagram: the voxels of each bin of probability, as `(bins,)` arrays.

    Attributes
    ----------
    voxels : ndarray
        How many there are.
    observed, predicted : ndarray
        Share of liver among them, and their mean probability; NaN where there are none.
    """

    voxels: np.ndarray
    observed: np.ndarray
    predicted: np.ndarray

    @property
    def expected_error(self) -> float:
        """ECE: mean difference of the two, each bin weighted by its voxels (Guo et al. 2017)."""
        return float(np.nansum(self.voxels * self._gaps) / self.voxels.sum())

    @property
    def average_error(self) -> float:
        """ACE: their mean difference, all bins that hold voxels alike (Neumann et al. 2018)."""
        return float(np.nanmean(self._gaps))

    @property
    def _gaps(self) -> np.ndarray:
        return np.abs(self.observed - self.predicted)


@dataclass(frozen=True)
class Uncertainties:
    """What is known of the uncertainties of a run.

    Attributes
    ----------
    slices : dict
        `{ModelKey: PoolSlices}` of the models that scored the pool.
    reliability : dict
        `{ModelKey: Reliability}` of the same models, over slices that were not annotated.
    """

    slices: dict[ModelKey, PoolSlices]
    reliability: dict[ModelKey, Reliability]


def rank_correlation(first: Iterable[float], second: Iterable[float]) -> float:
    """Spearman's: the correlation of ranks, equal values sharing their mean rank; NaN where one is constant.

    >>> round(rank_correlation([1, 2, 3, 4], [0, 0, 10, 5]), 3)
    0.738
    """
    ranks = [rankdata(values) for values in (first, second)]
    if min(len(each) for each in ranks) < 2 or any(np.ptp(each) == 0 for each in ranks):
        return float("nan")
    return float(np.corrcoef(ranks)[0, 1])


def selective_risk(uncertainty: np.ndarray, loss: np.ndarray) -> np.ndarray:
    """Risk-coverage curve: the mean loss of the k least uncertain, for k = 1 to n (Geifman et al. 2019).

    Of equal uncertainties none comes first: each counts with their mean loss.

    Parameters
    ----------
    uncertainty, loss : ndarray
        `(n,)`, n >= 1.

    Returns
    -------
    ndarray
        `(n,)`; its mean is the area under the curve, AURC.

    Examples
    --------
    >>> selective_risk(np.array([0.3, 0.1, 0.2, 0.2]), np.array([8.0, 0.0, 2.0, 4.0])).tolist()
    [0.0, 1.5, 2.0, 3.5]
    """
    _, place, count = np.unique(uncertainty, return_inverse=True, return_counts=True)
    mean = np.bincount(place, weights=loss) / count
    return np.cumsum(np.repeat(mean, count)) / np.arange(1, len(loss) + 1)


@dataclass(frozen=True)
class RiskCoverage:
    """How well uncertainty sorts slices by their error.

    Attributes
    ----------
    area : float
        AURC, mean of the risk-coverage curve.
    best : float
        That of the order by the errors themselves.
    chance : float
        That of a random order, the mean error.
    """

    area: float
    best: float
    chance: float

    @property
    def excess(self) -> float:
        """E-AURC: what the order adds to the best one's area (Geifman et al. 2019)."""
        return self.area - self.best

    @property
    def gain(self) -> float:
        """Share of the way from chance, 0, to the best order, 1; NaN where these are equal."""
        possible = self.chance - self.best
        return (self.chance - self.area) / possible if possible > 0 else float("nan")


def risk_coverage(uncertainty: np.ndarray, loss: np.ndarray) -> RiskCoverage:
    """Areas under the risk-coverage curves of `(n,)` uncertainties and losses.

    >>> risk_coverage(np.array([1, 2]), np.array([4.0, 0.0]))
    RiskCoverage(area=3.0, best=1.0, chance=2.0)
    """
    areas = (float(selective_risk(order, loss).mean()) for order in (uncertainty, loss))
    return RiskCoverage(*areas, chance=float(loss.mean()))


def partly_annotated(found: Uncertainties) -> dict[str, PoolSlices]:
    """`{strategy: open liver slices}` under all its models, where these scored partly annotated volumes."""
    partly = (key for key, slices in found.slices.items() if slices.annotated.any())
    names = in_order(key.strategy for key in partly if key.strategy)
    parts = {
        name: [slices.open for key, slices in found.slices.items() if key.strategy == name] for name in names
    }
    joined = {name: PoolSlices.joined(each) for name, each in parts.items()}
    return {name: slices.where(slices.liver > 0) for name, slices in joined.items()}


def by_distance(slices: PoolSlices) -> Iterator[tuple[str, np.ndarray]]:
    """Classes of `DISTANCES` that hold any slice: name, and bool `(n,)`."""
    for (low, high), name in zip(pairwise(LIMITS), DISTANCES, strict=True):
        chosen = (slices.distance > low) & (slices.distance <= high)
        if chosen.any():
            yield name, chosen
