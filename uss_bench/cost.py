"""What a run costs in time, estimated from a few timed passes on its device."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import NamedTuple

import numpy as np
import torch

from .config import Config
from .network.aunet import AUNet, liver_probability
from .network.patches import spread_origins

LARGE = 2_000_000  # voxels


class Cost(NamedTuple):
    """Seconds of a whole run by one worker, and steps of one model and of all of them."""

    seconds: float
    steps: int
    total_steps: int


def estimate(
    settings: Config,
    by_split: Mapping[str, Sequence[tuple[int, ...]]],
    models: int,
    converged: int,
    mc_volumes: int,
    device: torch.device,
) -> Cost:
    """Estimate a run by its network input voxels.

    Parameters
    ----------
    settings : Config
        Of the run.
    by_split : mapping
        `{split: shapes (z, y, x) of its cases on the working grid}`.
    models, converged : int
        How many models are trained, and how many of them to their own limit; where they have none, they
        count like the others.
    mc_volumes : int
        How many volumes are scored by Monte Carlo dropout.
    device : torch.device
        Where networks run.
    """
    training, query, samples = settings.training, settings.query, settings.inference.samples
    model = AUNet(**vars(settings.network)).to(device)
    patch = model.output_size(training.patch)
    batch_voxels = training.batch_size * prod(model.input_size(patch))
    per_step, per_encode, per_decode = (rate * batch_voxels for rate in _rates(model, patch, device))

    cells = [
        prod(len(spread_origins(length, size)) for length, size in zip(shape, patch, strict=True))
        for shape in by_split["pool"]
    ]
    largest = query.initial_volumes + query.iterations * query.volumes_per_iteration
    epochs = training.max_epochs * np.mean(cells) * largest / training.batch_size
    steps = int(min(training.max_steps or epochs, epochs))
    passes = {
        split: sum(prod(model.input_size(model.output_size(shape))) for shape in shapes) / batch_voxels
        for split, shapes in by_split.items()
    }
    total_steps = (models - converged) * steps + converged * (training.converged_max_steps or steps)
    evaluated = models * passes["test"] + max(models, total_steps / training.validate_every) * passes["val"]
    scored = mc_volumes * passes["pool"] / len(by_split["pool"])
    seconds = (
        total_steps * per_step
        + evaluated * (per_encode + per_decode)
        + scored * (per_encode + samples * per_decode)
    )
    return Cost(seconds, steps, total_steps)


def _rates(model: AUNet, patch: Sequence[int], device: torch.device) -> list[float]:
    """Seconds per input voxel of a training step, an encoder pass and a decoder pass.

    They are timed by one thread, as a worker has on a CPU, on a training patch, or on the smallest input
    where the patch might not fit the memory of a laptop without a GPU.
    """
    size = model.input_size(patch)
    if prod(size) > LARGE and device.type == "cpu":
        size = model.input_size(model.output_size(model.stride))
    inputs = torch.randn(1, 1, *size, device=device)

    def step() -> None:
        model.train()
        liver_probability(model(inputs)).mean().backward()

    def encode() -> object:
        model.eval()  # which normalizes in passing; the decoder's passes below too
        with torch.inference_mode():
            return model.encode(inputs)

    features = encode()

    def decode() -> object:
        with torch.inference_mode():
            return model.decode(features)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [_seconds(work, device) / inputs.numel() for work in (step, encode, decode)]
    finally:
        torch.set_num_threads(threads)


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    times = []
    for _ in range(3):  # the first warms up
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return float(np.median(times[1:]))
