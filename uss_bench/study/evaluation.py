"""Scores of one model on one case: on the native grid for results, on the working grid for validation."""

from .metrics import jaccard, segmentation_metrics

THRESHOLD = 0.5  # of the liver probability


def evaluate_case(probability, volume):
    """DICE, RVE, MSD and HD (section II-F) of a probability on the working grid against the reference on its native grid.

    Returns `{"DICE", "RVE", "MSD", "HD", "missed"}`; `missed` tells that the case has liver and nothing was predicted.
    """
    prediction = volume.to_native(probability) >= THRESHOLD
    reference = volume.reference()
    missed = bool(reference.any() and not prediction.any())
    return {**segmentation_metrics(prediction, reference, volume.native_spacing), "missed": missed}


def validation_jaccard(probability, volume):
    """Jaccard index of a probability on the working grid, against the resampled reference."""
    return jaccard(probability >= THRESHOLD, volume.label.astype(bool))
