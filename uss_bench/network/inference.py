"""Whole-volume prediction and Monte Carlo dropout, by tiles that give exactly the pass over the whole volume.

Volumes here are the network's input: float `(z, y, x)` arrays of scaled intensities. Beyond the volume they
are reflected. The model runs on the device that holds its weights, in evaluation mode whatever mode it was
in.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import contextmanager
from itertools import product
from typing import NamedTuple

import numpy as np
import torch

from .aunet import AUNet, liver_probability
from .patches import crop_reflected
from .uncertainty import mean_pairwise_dice, mutual_information, predictive_entropy

THRESHOLD = 0.5  # probability from which a voxel is liver


class MonteCarlo(NamedTuple):
    """What Monte Carlo dropout gives for a volume.

    Attributes
    ----------
    mean : (z, y, x) float32 array
        Mean liver probability of the passes.
    entropy : (z, y, x) float32 array
        Predictive entropy of that mean in nats (equation 2).
    information : (z, y, x) float32 array or None
        Mutual information of passes and prediction in nats, where asked for; see
        `uncertainty.mutual_information`.
    agreement : float or None
        Mean pairwise DICE of the passes' masks, where asked for; see `uncertainty.mean_pairwise_dice`.
    """

    mean: np.ndarray
    entropy: np.ndarray
    information: np.ndarray | None = None
    agreement: float | None = None


def predict(model: AUNet, volume: np.ndarray, tile: tuple[int, int, int] | None = None) -> np.ndarray:
    """Liver probability of a volume, without dropout.

    Parameters
    ----------
    model : AUNet
    volume : (z, y, x) float array
        The network's input.
    tile : tuple of int, optional
        Largest output tile `(z, y, x)` of one pass, at least the model's stride; None: the whole volume in
        one. The result does not depend on it, but for rounding: on CUDA, convolutions of other sizes may be
        computed by other algorithms.

    Returns
    -------
    (z, y, x) float32 array

    Raises
    ------
    ValueError
        `volume` does not have three axes.

    Examples
    --------
    >>> net = AUNet((4, 8), flat_levels=1)
    >>> net.draw_weights(torch.Generator().manual_seed(0))
    >>> volume = np.random.default_rng(0).normal(size=(5, 12, 10))
    >>> probability = predict(net, volume)
    >>> probability.shape, probability.dtype
    ((5, 12, 10), dtype('float32'))
    >>> np.allclose(probability, predict(net, volume, tile=(4, 4, 4)), atol=1e-5)
    True
    """
    probability = np.empty(np.shape(volume), np.float32)
    with _evaluating(model):
        for region, inputs in _tiles(model, volume, tile):
            probability[region] = _inside(liver_probability(model(inputs)), probability[region].shape)
    return probability


def predict_mc(
    model: AUNet,
    volume: np.ndarray,
    samples: int = 20,
    seed: int = 0,
    tile: tuple[int, int, int] | None = None,
    further: Collection[str] = (),
) -> MonteCarlo:
    """Monte Carlo dropout on a volume: mean liver probability and predictive entropy (section II-D).

    The encoder holds no dropout, so it runs once per tile and the decoder `samples` times. Normalization uses
    the running statistics and leaves them as they are.

    Parameters
    ----------
    model : AUNet
    volume : (z, y, x) float array
        The network's input.
    samples : int
        Passes with dropout.
    seed : int
        Names the masks, which else depend on the network's layers, on `tile`, `samples`, the shape of the
        volume and the kind of device alone.
    tile : tuple of int, optional
        Largest output tile `(z, y, x)` of one pass, as for `predict`.
    further : collection of str
        What else to compute, "information" or "agreement" or both.

    Returns
    -------
    MonteCarlo

    Raises
    ------
    ValueError
        `volume` does not have three axes, there are no `samples`, or `further` names anything else.

    Examples
    --------
    >>> net = AUNet((4, 8), flat_levels=1)
    >>> net.draw_weights(torch.Generator().manual_seed(0))
    >>> volume = np.random.default_rng(0).normal(size=(5, 12, 10))
    >>> result = predict_mc(net, volume, samples=3, further=["information", "agreement"])
    >>> result.mean.shape, result.entropy.shape
    ((5, 12, 10), (5, 12, 10))
    >>> bool((result.information <= result.entropy).all()), 0 < result.agreement < 1
    (True, True)
    """
    if samples < 1 or not set(further) <= {"information", "agreement"}:
        raise ValueError(
            f"samples must be at least 1, further of information and agreement: {samples}, {further}"
        )
    mean = np.empty(np.shape(volume), np.float32)
    own_entropy = np.empty_like(mean) if "information" in further else None  # mean of the passes' own
    overlaps = np.zeros((samples, samples)) if "agreement" in further else None
    generator = torch.Generator(next(model.parameters()).device).manual_seed(seed)
    with _evaluating(model):
        for region, inputs in _tiles(model, volume, tile):
            z, y, x = shape = mean[region].shape
            features = model.encode(inputs)
            total, doubt, masks = 0, 0, []
            for _ in range(samples):
                probability = liver_probability(model.decode(features, generator))
                total = total + probability
                if own_entropy is not None:
                    doubt = doubt + _entropy(probability)
                if overlaps is not None:
                    masks.append(probability[0, :z, :y, :x] >= THRESHOLD)
            mean[region] = _inside(total / samples, shape)
            if own_entropy is not None:
                own_entropy[region] = _inside(doubt / samples, shape)
            if overlaps is not None:
                overlaps += _overlaps(masks)
    # Rounding may carry a mean of ones past one, where the entropy is undefined.
    np.clip(mean, 0, 1, out=mean)
    entropy = predictive_entropy(mean)
    information = None if own_entropy is None else mutual_information(entropy, own_entropy)
    agreement = None if overlaps is None else mean_pairwise_dice(overlaps)
    return MonteCarlo(mean, entropy, information, agreement)


def _entropy(probability: torch.Tensor) -> torch.Tensor:
    """Entropy of a foreground probability, in nats; twice as fast on CPUs as `torch.special.entr`."""
    least = torch.finfo(probability.dtype).tiny  # whose logarithm is finite
    other = 1 - probability
    return -(probability * probability.clamp_min(least).log() + other * other.clamp_min(least).log())


def _overlaps(masks: Sequence[torch.Tensor]) -> np.ndarray:
    """Voxels that each two of n masks share, `(n, n)`; exact, as float64 counts are."""
    anywhere = masks[0]
    for mask in masks[1:]:
        anywhere = anywhere | mask
    places = anywhere.flatten().nonzero()[:, 0]  # the liver is a small part of a volume
    there = torch.stack([mask.flatten()[places] for mask in masks]).double()
    return (there @ there.T).cpu().numpy()


@contextmanager
def _evaluating(model):
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(was_training)


def _tiles(model, volume, tile):
    """Pairs of output region (slices into the volume) and network input that covers it.

    Tiles begin at multiples of the model's stride, where their pooling windows are those of the whole-volume
    pass.
    """
    shape = np.shape(volume)
    if len(shape) != 3:
        raise ValueError(f"volume must have three axes (z, y, x), not the shape {shape}")
    device = next(model.parameters()).device
    steps = tile_steps(shape, tile, model.stride)
    for start in product(*(range(0, length, step) for length, step in zip(shape, steps, strict=True))):
        stop = [min(begin + step, length) for begin, step, length in zip(start, steps, shape, strict=True)]
        output = model.output_size([end - begin for begin, end in zip(start, stop, strict=True)])
        block = crop_reflected(
            volume,
            [begin - halo for begin, halo in zip(start, model.halo, strict=True)],
            [begin + size + halo for begin, size, halo in zip(start, output, model.halo, strict=True)],
        )
        inputs = torch.from_numpy(np.array(block, dtype=np.float32, order="C")).to(device)[None, None]
        region = tuple(slice(begin, end) for begin, end in zip(start, stop, strict=True))
        yield region, inputs.to(memory_format=torch.channels_last_3d)


def tile_steps(
    shape: tuple[int, int, int], tile: tuple[int, int, int] | None, stride: tuple[int, int, int]
) -> list[int]:
    """Distances `(z, y, x)` between tiles: whole axes where they fit, else multiples of the stride.

    >>> tile_steps((30, 300, 10), (32, 250, 5), (4, 16, 16))
    [30, 240, 16]
    """
    return [
        length if length <= limit else max(step, limit // step * step)
        for length, limit, step in zip(shape, tile or shape, stride, strict=True)
    ]


def _inside(probability, shape):
    z, y, x = shape
    return probability[0, :z, :y, :x].cpu().numpy()
