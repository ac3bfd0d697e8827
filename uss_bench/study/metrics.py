"""Segmentation metrics (section II-F, equations 3-6), as pure functions of arrays.

Masks are bool arrays `(z, y, x)`, spacings `(z, y, x)` in mm. Distances run between the centres of surface
voxels, as `surfaces` defines them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from .surfaces import bounding_box, checked_mask, directed_distances, surface_voxels, three_positive

TOLERANCE = 2.0  # mm, of the normalized surface DICE


@dataclass(frozen=True)
class Agreement:
    """What metrics are computed from, where neither mask is empty.

    Attributes
    ----------
    predicted, expected, common : int
        Voxels of the prediction, of the reference, of both.
    forth, back : ndarray
        `(n,)` distances in mm from each surface voxel of the prediction to the surface of the reference, and
        the other way.
    """

    predicted: int
    expected: int
    common: int
    forth: np.ndarray
    back: np.ndarray


@dataclass(frozen=True)
class Metric:
    """A metric: how it is computed, and how it is read.

    Attributes
    ----------
    measure : callable
        Its value, from an `Agreement`.
    unit : str
        Printed behind the number; empty for a ratio.
    higher_is_better : bool
        Direction of improvement.
    decimals : int
        Digits printed behind the point.
    missed, spurious, neither : float
        Its value where only the reference, only the prediction, or neither holds any voxel.
    in_paper : bool
        Whether it is one of the paper's four.
    definition : str
        What it is, as the report says it; empty for the paper's, which has them in section II-F.
    """

    measure: Callable[[Agreement], float]
    unit: str
    higher_is_better: bool
    decimals: int
    missed: float
    spurious: float
    neither: float
    in_paper: bool = False
    definition: str = ""

    @property
    def robust_quantile(self) -> float:
        """The quantile that describes poor cases: 0.05 where high values are good, else 0.95."""
        return 0.05 if self.higher_is_better else 0.95


def dice(found: Agreement) -> float:
    """2 |X ∩ Y| / (|X| + |Y|), in [0, 1] (equation 3)."""
    return 2 * found.common / (found.predicted + found.expected)


def relative_volume_error(found: Agreement) -> float:
    """|V_X - V_Y| / V_Y, in percent of the reference's volume (equation 4)."""
    return 100 * abs(found.predicted - found.expected) / found.expected


def mean_surface_distance(found: Agreement) -> float:
    """Mean of the two directed mean surface distances, in mm (equation 5).

    Equation 5 has a single N; the two surfaces differ in size, so each directed sum is divided by its own
    number of voxels. (This is the mean of MedPy's `asd` both ways with `connectivity=1`; its `assd` pools the
    distances.)
    """
    return (found.forth.mean() + found.back.mean()) / 2


def hausdorff_distance(found: Agreement) -> float:
    """Larger of the two directed maximal surface distances, in mm, no percentile (equation 6)."""
    return max(found.forth.max(), found.back.max())


def hausdorff_95(found: Agreement) -> float:
    """Larger of the two directed 95th percentiles of the surface distances, in mm.

    Each surface voxel counts once, as in MONAI. Others differ: surface-distance weights its surface elements
    by their area, and MedPy takes the percentile of both directions pooled.
    """
    return max(np.percentile(found.forth, 95), np.percentile(found.back, 95))


def normalized_surface_dice(found: Agreement) -> float:
    """Share of the voxels of both surfaces that lie within `TOLERANCE` of the other surface, in [0, 1].

    The surface DICE of Nikolov et al. (2021), with voxels where theirs has surface elements weighted by area.
    """
    reach = TOLERANCE * (1 + 1e-6)  # headers hold float32: five voxels of 0.4 mm make 2.00000003 mm
    near = np.count_nonzero(found.forth <= reach) + np.count_nonzero(found.back <= reach)
    return near / (len(found.forth) + len(found.back))


# The paper's four in the order of its Tables 4-9; others after them get a table of their own in the report.
METRICS = MappingProxyType(
    {
        "DICE": Metric(dice, "", True, 3, missed=0.0, spurious=0.0, neither=1.0, in_paper=True),
        "RVE": Metric(
            relative_volume_error, "%", False, 2, missed=100.0, spurious=np.inf, neither=0.0, in_paper=True
        ),
        "MSD": Metric(
            mean_surface_distance, "mm", False, 2, missed=np.inf, spurious=np.inf, neither=0.0, in_paper=True
        ),
        "HD": Metric(
            hausdorff_distance, "mm", False, 1, missed=np.inf, spurious=np.inf, neither=0.0, in_paper=True
        ),
        "HD95": Metric(
            hausdorff_95,
            "mm",
            False,
            1,
            missed=np.inf,
            spurious=np.inf,
            neither=0.0,
            definition="The larger of the two directed 95th percentiles of the surface distances; "
            "each surface voxel counts once.",
        ),
        "NSD": Metric(
            normalized_surface_dice,
            "",
            True,
            3,
            missed=0.0,
            spurious=0.0,
            neither=1.0,
            definition="Normalized surface DICE: the share of the voxels of both surfaces that lie within "
            f"{TOLERANCE:g} mm of the other surface.",
        ),
    }
)
PAPER_METRICS = tuple(name for name, metric in METRICS.items() if metric.in_paper)


def segmentation_metrics(
    prediction: np.ndarray, reference: np.ndarray, spacing: Sequence[float]
) -> dict[str, float]:
    """Compare a predicted mask with the reference.

    Empty masks never give NaN, and a missed organ is never a good result: see `Metric.missed` and its
    neighbours. RVE is infinite where the reference is empty, since equation 4 divides by its volume.

    Parameters
    ----------
    prediction : ndarray
        Bool, `(z, y, x)`; X in the paper.
    reference : ndarray
        Bool, of the same shape; Y in the paper.
    spacing : sequence of float
        Edges of a voxel `(z, y, x)` in mm.

    Returns
    -------
    dict
        `{name: value}` for each of `METRICS`, in that order.

    Raises
    ------
    TypeError
        A mask is not a bool array.
    ValueError
        The masks are not three-dimensional or differ in shape, or `spacing` is not three positive finite
        numbers.

    Examples
    --------
    Two voxels, of which one is found; the other lies 2 mm beside it:

    >>> reference = np.array([[[True, True]]])
    >>> segmentation_metrics(np.array([[[True, False]]]), reference, (1, 1, 2))
    {'DICE': 0.6666666666666666, 'RVE': 50.0, 'MSD': 0.5, 'HD': 2.0, 'HD95': 1.9, 'NSD': 1.0}
    """
    prediction, reference = _checked_masks(prediction, reference)
    spacing = three_positive(spacing, "spacing")
    if not reference.any():
        return {name: each.spurious if prediction.any() else each.neither for name, each in METRICS.items()}
    if not prediction.any():
        return {name: each.missed for name, each in METRICS.items()}
    found = _agreement(prediction, reference, spacing)
    return {name: float(each.measure(found)) for name, each in METRICS.items()}


def _agreement(prediction: np.ndarray, reference: np.ndarray, spacing: np.ndarray) -> Agreement:
    # Nothing lies outside this box, so cutting there changes neither the surfaces nor a distance.
    box = bounding_box(prediction | reference)
    prediction, reference = (np.ascontiguousarray(mask[box]) for mask in (prediction, reference))
    surfaces = surface_voxels(prediction), surface_voxels(reference)
    with ThreadPoolExecutor(1) as second_thread:  # SciPy's transform releases the GIL
        pending = second_thread.submit(directed_distances, *reversed(surfaces), spacing)
        forth = directed_distances(*surfaces, spacing)
        back = pending.result()
    predicted, expected, common = map(np.count_nonzero, (prediction, reference, prediction & reference))
    return Agreement(predicted, expected, common, forth, back)


def jaccard(prediction: np.ndarray, reference: np.ndarray) -> float:
    """Intersection over union |X ∩ Y| / |X ∪ Y| of two masks, the score of the validation cases.

    Parameters
    ----------
    prediction, reference : ndarray
        Bool, `(z, y, x)`, of the same shape.

    Returns
    -------
    float
        In [0, 1]; 1 where both masks are empty, 0 where only one is.

    Raises
    ------
    TypeError
        A mask is not a bool array.
    ValueError
        The masks are not three-dimensional or differ in shape.

    Examples
    --------
    >>> jaccard(np.array([[[True, True, False]]]), np.array([[[False, True, True]]]))
    0.3333333333333333
    """
    prediction, reference = _checked_masks(prediction, reference)
    union = np.count_nonzero(prediction | reference)
    if union == 0:
        return 1.0
    return float(np.count_nonzero(prediction & reference) / union)


def _checked_masks(prediction: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    prediction = checked_mask(prediction, "prediction")
    reference = checked_mask(reference, "reference")
    if prediction.shape != reference.shape:
        raise ValueError(
            f"prediction and reference must have the same shape, not {prediction.shape} and {reference.shape}"
        )
    return prediction, reference
