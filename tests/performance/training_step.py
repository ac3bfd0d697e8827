"""One training step: ours, the same network of plain layers, and MONAI's DynUNet of the same widths.

    python tests/performance/training_step.py [--rounds 3] [--threads 1]

The paper's patch needs more memory than a laptop has; the paper's network runs on its smallest valid patch
here. All but one of the rows keep freed memory, as the benchmark does; the plain layers are timed without
that too, in a process of their own.
"""

import argparse
import copy
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from unittest.mock import patch

import torch
from _timing import alternate, peer, table
from _work import GEMM, begin, deterministic, gemm, operations, print_work
from torch import nn

from uss_bench import config
from uss_bench.network import layers
from uss_bench.network.aunet import AUNet, liver_probability
from uss_bench.network.layers import BatchNorm, ThinConv3d
from uss_bench.network.training import Training, soft_dice_loss

OURS, EAGER, MONAI = "uss_bench", "plain eager Conv3d, contiguous", "MONAI DynUNet"
KEEPING = f"{EAGER}, keeping freed memory"
BATCH = 2


class EagerAUNet(AUNet):
    """The au-net in PyTorch's defaults: its own convolutions, normalization and pooling, contiguous order."""

    def __init__(self, **network):
        super().__init__(**network)
        for layer in self.modules():
            if isinstance(layer, (ThinConv3d, BatchNorm)):
                layer.__class__ = nn.Conv3d if isinstance(layer, ThinConv3d) else nn.BatchNorm3d
        self.to(memory_format=torch.contiguous_format)

    def forward(self, x, generator=None):
        with patch.object(layers, "max_pool", nn.functional.max_pool3d):
            return self.decode(self.encode(x), generator)


def dyn_unet(nets, network):
    """DynUNet with the au-net's widths, kernels, strides, normalization and dropout; padded."""
    flat = [level < network.flat_levels for level in range(len(network.widths))]
    kernels = [(1, 3, 3) if level_is_flat else (3, 3, 3) for level_is_flat in flat]
    strides = [(1, 1, 1), *((1, 2, 2) if level_is_flat else (2, 2, 2) for level_is_flat in flat[:-1])]
    kinds = {
        "norm_name": ("BATCH", {"affine": True}),
        "act_name": ("RELU", {"inplace": True}),
        "dropout": network.dropout,
    }
    return nets.DynUNet(3, 1, 2, kernels, strides, strides[1:], filters=network.widths, **kinds)


def mini_batch(output, size):
    """Noise, a random label and full weights, as `patches.PatchSampler.load` gives them."""
    generator = torch.Generator().manual_seed(1)
    label = (torch.rand(BATCH, *output, generator=generator) < 0.3).float()
    return torch.randn(BATCH, 1, *size, generator=generator), label, torch.ones_like(label)


def peer_step(network, image, label, weight, *arguments):
    """A step as a plain script writes it."""
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)

    device = next(network.parameters()).device

    def step():
        inputs, *targets = (tensor.to(device, non_blocking=True) for tensor in (image, label, weight))
        loss = soft_dice_loss(liver_probability(network.train()(inputs, *arguments)), *targets)
        loss.item()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


class EagerElsewhere:
    """Steps of plain layers in a fresh process, with the default memory management of PyTorch and glibc."""

    def __init__(self, *arguments):
        self._process = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), self._prepare, arguments)

    def __call__(self):
        self._process.submit(self._step).result()

    @classmethod
    def _prepare(cls, threads, settings, output, size):
        torch.set_num_threads(threads)
        network, dropout = EagerAUNet(**vars(settings.network)), torch.Generator().manual_seed(0)
        cls.step = staticmethod(peer_step(network, *mini_batch(output, size), dropout))

    @classmethod
    def _step(cls):
        cls.step()


def check_equal(ours, eager, image):
    """Both networks are one function, shown in float64: float32 sums over millions of voxels are coarse."""
    with torch.no_grad():
        networks = [copy.deepcopy(network).double().train() for network in (ours, eager)]
        logits = [network(image.double(), torch.Generator().manual_seed(2)) for network in networks]
    torch.testing.assert_close(*logits, atol=1e-8, rtol=1e-8)
    print(
        "\nours and plain layers in training, equal masks, float64:",
        f"logits differ by {(logits[0] - logits[1]).abs().max():.1e} at most",
    )


def compare(preset, at_least, nets, rounds):
    """Time one preset's networks on an output patch of `at_least` voxels `(z, y, x)`."""
    settings = config.resolve(preset)
    ours, eager = AUNet(**vars(settings.network)), EagerAUNet(**vars(settings.network))
    ours.draw_weights(torch.Generator().manual_seed(0))
    eager.load_state_dict(ours.state_dict())
    output = ours.output_size(at_least)
    size = ours.input_size(output)
    image, label, weight = mini_batch(output, size)
    check_equal(ours, eager, image)

    training = Training(ours, settings.training, {"seed": 0}, settings.training.max_steps)

    def step():
        training.losses.clear()
        training.step = 0  # so that a decaying rate has not reached its end
        with deterministic():
            training.update(image, label, weight, "noise")

    calls = {
        OURS: step,
        KEEPING: peer_step(eager, image, label, weight, torch.Generator().manual_seed(0)),
        EAGER: EagerElsewhere(torch.get_num_threads(), settings, output, size),
    }
    counts = dict.fromkeys(calls, 3 * sum(operations(ours, size, BATCH).values()))
    if nets:
        # Padded, so the output is as large as the input, which must be a multiple of the stride.
        padded = [length // step * step for length, step in zip(size, ours.stride, strict=True)]
        calls[MONAI] = peer_step(dyn_unet(nets, settings.network), *mini_batch(padded, padded))
        counts[MONAI] = 3 * sum(operations(dyn_unet(nets, settings.network), padded, BATCH).values())
    calls[GEMM], counts[GEMM] = gemm()
    for call in calls.values():
        call()
    seconds = alternate(calls, rounds)
    shape = " x ".join(map(str, (BATCH, *size)))
    table(
        f"step of `{preset}`'s network on {shape} voxels, {torch.get_num_threads()} thread(s)",
        {name: seconds[name] for name in seconds if name != GEMM},
        OURS,
    )
    print_work("work", seconds, counts, GEMM)


def main():
    options = begin(
        argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    )
    nets = peer("monai.networks.nets")
    compare("quick", config.resolve("quick").training.patch, nets, 4 * options.rounds)
    compare("paper", (1, 1, 1), nets, options.rounds)


if __name__ == "__main__":
    main()
