"""Scores of one model on one case: on the native grid for results, on the working grid for validation."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..data.volumes import Volume
from ..network.inference import THRESHOLD
from .metrics import jaccard, segmentation_metrics


def evaluate_case(probability: np.ndarray, volume: Volume) -> dict[str, Any]:
    """Compare a prediction with the reference on the native grid of a case (section II-F).

    Parameters
    ----------
    probability : ndarray
        Liver probability `(z, y, x)` on the working grid.
    volume : Volume
        The case.

    Returns
    -------
    dict
        What `segmentation_metrics` gives, and `missed`: whether the case has liver and none was predicted.
    """
    prediction = volume.to_native(probability) >= THRESHOLD
    reference = volume.reference()
    missed = bool(reference.any() and not prediction.any())
    return {**segmentation_metrics(prediction, reference, volume.native_spacing), "missed": missed}


def validation_jaccard(probability: np.ndarray, volume: Volume) -> float:
    """Jaccard index of a liver probability `(z, y, x)` and the resampled reference, on the working grid."""
    return jaccard(probability >= THRESHOLD, volume.label.astype(bool))
