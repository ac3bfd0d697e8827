"""Whole-volume prediction by tiles that give exactly the pass over the whole volume, and Monte Carlo dropout.

Volumes here are the network's input: float `(z, y, x)` arrays of scaled intensities. Beyond the volume they are reflected. The model
runs on the device that holds its weights, in evaluation mode whatever mode it was in.
"""

from contextlib import contextmanager
from itertools import product

import numpy as np
import torch

from .aunet import liver_probability
from .patches import crop_reflected
from .uncertainty import predictive_entropy


def predict(model, volume, tile=None):
    """Liver probability `(z, y, x)`, float32, without dropout.

    Parameters
    ----------
    model : `aunet.AUNet`
    volume : (z, y, x) float array, the network's input
    tile : largest output tile `(z, y, x)` of one pass, None for the whole volume in one. The result does not depend on it.
    """
    probability = np.empty(np.shape(volume), np.float32)
    with _evaluating(model):
        for region, inputs in _tiles(model, volume, tile):
            probability[region] = _inside(liver_probability(model(inputs)), probability[region].shape)
    return probability


def predict_mc(model, volume, samples=20, seed=0, tile=None):
    """Monte Carlo dropout: mean liver probability of `samples` passes and its predictive entropy in nats, both float32 `(z, y, x)`.

    The encoder holds no dropout, so it runs once a tile and the decoder `samples` times. The masks depend on `seed`, `tile` and the
    shape of the volume alone; normalization uses the running statistics and leaves them as they are.
    """
    mean = np.empty(np.shape(volume), np.float32)
    generator = torch.Generator(next(model.parameters()).device).manual_seed(seed)
    with _evaluating(model):
        for region, inputs in _tiles(model, volume, tile):
            features = model.encode(inputs)
            total = sum(liver_probability(model.decode(features, generator)) for _ in range(samples))
            mean[region] = _inside(total / samples, mean[region].shape)
    # Rounding may carry a mean of ones past one, where the entropy is undefined.
    np.clip(mean, 0, 1, out=mean)
    return mean, predictive_entropy(mean)


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

    Tiles begin at multiples of the model's stride, where their pooling windows are those of the whole-volume pass.
    """
    shape = np.shape(volume)
    device = next(model.parameters()).device
    steps = [
        _step(length, limit, stride)
        for length, limit, stride in zip(shape, tile or shape, model.stride, strict=True)
    ]
    for start in product(*(range(0, length, step) for length, step in zip(shape, steps, strict=True))):
        stop = [min(begin + step, length) for begin, step, length in zip(start, steps, shape, strict=True)]
        output = model.output_size([end - begin for begin, end in zip(start, stop, strict=True)])
        block = crop_reflected(
            volume,
            [begin - halo for begin, halo in zip(start, model.halo, strict=True)],
            [begin + size + halo for begin, size, halo in zip(start, output, model.halo, strict=True)],
        )
        inputs = torch.from_numpy(np.array(block, dtype=np.float32, order="C")).to(device)[None, None]
        yield (
            tuple(slice(begin, end) for begin, end in zip(start, stop, strict=True)),
            inputs.to(memory_format=torch.channels_last_3d),
        )


def _step(length, limit, stride):
    """Distance between tiles: the whole axis where it fits, else the largest multiple of the stride within the limit (at least one)."""
    return length if length <= limit else max(stride, limit // stride * stride)


def _inside(probability, shape):
    z, y, x = shape
    return probability[0, :z, :y, :x].cpu().numpy()
