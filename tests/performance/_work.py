"""How much a network computes and how fast the machine could: operations counted, plain kernels timed."""

import copy
import time
from contextlib import contextmanager
from statistics import median

import torch
from _timing import machine
from torch import nn

from uss_bench.runtime.machine import keep_freed_memory

GEMM = "torch.mm"
CONVOLUTIONS = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def begin(parser):
    """Options of a script, `--rounds` and `--threads` added; sets threads and memory, prints the machine."""
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    machine("torch", "monai")
    print(f"copy {copy_rate() / 1e9:.0f} GB/s")
    return options


def operations(network, size, batch=1):
    """Floating-point operations of the convolutions in one forward pass: `{name of the layer: count}`.

    A product and its sum count as two. A training step is three times that: values, gradients of the input,
    gradients of the weights. The input is `(batch, 1, *size)`.
    """
    counts = {}

    def count(name):
        def hook(layer, inputs, output):
            voxels = inputs[0] if layer.transposed else output
            counts[name] = 2 * layer.weight.numel() * voxels.numel() // voxels.shape[1]

        return hook

    network = copy.deepcopy(network).to("meta").train()  # shapes without memory or arithmetic
    for name, layer in network.named_modules():
        if isinstance(layer, CONVOLUTIONS):
            layer.register_forward_hook(count(name))
    network(torch.empty(batch, 1, *size, device="meta"))
    return counts


def gemm(device="cpu", dtype=torch.float32, size=2048):
    """A product of square matrices, to be timed, and its operations: what convolutions can hope for."""
    # Noise: a GPU draws less power on constants, and runs faster than on anything real.
    matrix = torch.randn(size, size, device=device).to(dtype)
    return lambda: torch.mm(matrix, matrix), 2 * size**3


def copy_rate(device="cpu", values=2**26, rounds=7):
    """Bytes a second, read and written, of a copy that is larger than any cache; the best of some rounds."""
    source = torch.ones(values, device=device)
    target = torch.empty_like(source)
    times = []
    for _ in range(rounds):
        synchronize(device)
        started = time.perf_counter()
        target.copy_(source)
        synchronize(device)
        times.append(time.perf_counter() - started)
    return 2 * source.nbytes / min(times)


def print_work(title, seconds, counts, reference):
    """Print a Markdown table of operations and rates reached, beside the rate of the row `reference`."""
    rates = {name: count / median(seconds[name]) for name, count in counts.items()}
    print(f"\n| {title} | GFLOP | GFLOP/s | of {reference} |\n| --- | ---: | ---: | ---: |")
    for name, count in counts.items():
        print(
            f"| {name} | {count / 1e9:.1f} | {rates[name] / 1e9:.1f} | {rates[name] / rates[reference]:.0%} |"
        )


@contextmanager
def deterministic():
    """Deterministic algorithms, as `machine.make_deterministic` asks for; peers run without."""
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def synchronize(device):
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
