"""Monte Carlo scoring of a crop by the paper's network: ours, full passes over tiles, MONAI's sliding window.

    python tests/performance/mc_scoring.py [--crop 16 180 180] [--rounds 3] [--threads 1]

A pass of a peer is timed and counted `SAMPLES` times, since its passes are all alike; ours is timed whole.
All keep freed memory, as the benchmark does.
"""

import argparse
from functools import partial
from itertools import product
from math import prod

import numpy as np
import torch
from _timing import alternate, peer, table
from _work import GEMM, begin, deterministic, gemm, operations, print_work

from uss_bench.network.aunet import AUNet, liver_probability
from uss_bench.network.inference import predict, predict_mc
from uss_bench.network.patches import crop_reflected
from uss_bench.network.uncertainty import predictive_entropy

SAMPLES = 20
PAPER_TILE = (4, 180, 180)
OURS = "uss_bench predict_mc"
TILES = "full passes over tiles of 4 x 180 x 180"
MONAI = "MONAI sliding_window_inference, one window"


def full_pass(model, volume, region, generator=None):
    """Liver probability of a region (slices), which must be a valid output of the network, from one pass."""
    start = [axis.start - halo for axis, halo in zip(region, model.halo, strict=True)]
    stop = [axis.stop + halo for axis, halo in zip(region, model.halo, strict=True)]
    inputs = torch.from_numpy(np.ascontiguousarray(crop_reflected(volume, start, stop)))[None, None]
    with torch.inference_mode():
        return liver_probability(model(inputs, generator))


def tiled_pass(model, volume, tile, generator=None):
    """One pass over tiles side by side; the volume is a whole number of them."""
    result = np.empty(volume.shape, np.float32)
    for start in product(*(range(0, length, step) for length, step in zip(volume.shape, tile, strict=True))):
        region = tuple(slice(begin, begin + step) for begin, step in zip(start, tile, strict=True))
        result[region] = full_pass(model, volume, region, generator)[0]
    return result


def monai_pass(inferers, model, volume, window, generator=None):
    """One pass of MONAI's sliding window, which takes a smaller output for a zoom: we cut the windows."""

    def predictor(windows, positions):
        return torch.cat([full_pass(model, volume, position[2:], generator) for position in positions])[
            :, None
        ]

    with torch.inference_mode():
        inputs = torch.from_numpy(volume)[None, None]
        return inferers.sliding_window_inference(inputs, window, 1, predictor, overlap=0, with_coord=True)[
            0, 0
        ].numpy()


def check_one_tile(model, samples=3, seed=5):
    """On one tile our masks are those of full passes with the same generator: the entropies must agree."""
    volume = np.random.default_rng(1).normal(size=model.output_size((1, 1, 1))).astype(np.float32)
    generator = torch.Generator().manual_seed(seed)
    mean = (
        sum(
            full_pass(model, volume, tuple(map(slice, [0] * 3, volume.shape)), generator)
            for _ in range(samples)
        )[0]
        / samples
    )
    expected, entropy = predictive_entropy(mean.numpy()), predict_mc(model, volume, samples, seed).entropy
    np.testing.assert_allclose(entropy, expected, atol=1e-4)
    print(
        f"one tile, {samples} passes with equal masks:",
        f"entropies differ by {np.abs(entropy - expected).max():.1e} nats at most",
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--crop",
        type=int,
        nargs=3,
        default=(16, 180, 180),
        help="voxels (z, y, x), multiples of 4, 180 and 180",
    )
    options = begin(parser)
    inferers = peer("monai.inferers")

    model = AUNet().eval()
    model.draw_weights(torch.Generator().manual_seed(0))
    volume = np.random.default_rng(0).normal(size=options.crop).astype(np.float32)
    check_one_tile(model)

    passes = {TILES: partial(tiled_pass, model, volume, PAPER_TILE)}
    if inferers:  # all of the crop in one window is the best tile: any smaller one computes more halo
        passes[MONAI] = partial(monai_pass, inferers, model, volume, options.crop)
    plain = predict(model, volume)
    for name, run in passes.items():
        np.testing.assert_allclose(run(), plain, atol=1e-4, err_msg=name)
    print(
        f"dropout off: all paths agree within 1e-4 in the probabilities of {volume.size} voxels",
        f"(standard deviation {plain.std():.3f})",
    )

    def ours():
        with deterministic():
            predict_mc(model, volume, SAMPLES)

    generator = torch.Generator().manual_seed(0)
    calls = {OURS: ours, **{name: partial(run, generator) for name, run in passes.items()}}
    product_of_matrices, operations_of_product = gemm()
    seconds = alternate({**calls, GEMM: product_of_matrices}, options.rounds)
    seconds |= {name: [SAMPLES * time for time in seconds[name]] for name in passes}
    shape = " x ".join(map(str, options.crop))
    title = f"entropy of {shape} voxels, {SAMPLES} samples, {options.threads} thread(s)"
    table(title, {name: seconds[name] for name in calls}, OURS)

    whole, tile = (operations(model, model.input_size(size)) for size in (options.crop, PAPER_TILE))
    decoder = sum(count for layer, count in whole.items() if not layer.startswith("encoder"))
    counts = {
        OURS: sum(whole.values()) + (SAMPLES - 1) * decoder,
        TILES: SAMPLES * volume.size // prod(PAPER_TILE) * sum(tile.values()),
        MONAI: SAMPLES * sum(whole.values()),
        GEMM: operations_of_product,
    }
    print_work("work", seconds, {name: counts[name] for name in seconds}, GEMM)


if __name__ == "__main__":
    main()
