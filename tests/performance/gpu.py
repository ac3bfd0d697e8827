"""The network on a GPU: correctness against the CPU, determinism, times, memory, the paper's whole protocol.

    python tests/performance/gpu.py [--rounds 5]

Needs CUDA and about ten minutes; without CUDA it says so and ends with exit code 2. bfloat16 is what `--set
network.bfloat16=True` asks for; without it the benchmark computes in float32 (TF32 in cuDNN's convolutions).
The plain network has our dropout, and PyTorch's convolutions, normalization and pooling.
"""

import argparse
import copy
import os
import sys
import tempfile
from dataclasses import replace
from functools import partial
from itertools import product
from math import nan
from pathlib import Path
from statistics import median

import numpy as np
import torch
from _timing import alternate, machine, table
from _work import GEMM, copy_rate, deterministic, gemm, operations, print_work, synchronize
from training_step import BATCH, EagerAUNet, mini_batch, peer_step

from uss_bench.config import Config
from uss_bench.data.manifest import SPLITS
from uss_bench.network.aunet import AUNet, liver_probability
from uss_bench.network.inference import predict, predict_mc, tile_steps
from uss_bench.network.training import Training, soft_dice_loss
from uss_bench.report import published
from uss_bench.runtime.checkpoints import load_checkpoint, save_checkpoint
from uss_bench.runtime.machine import keep_freed_memory
from uss_bench.study.keys import DATA_POOL
from uss_bench.study.models import EVERYTHING

sys.path.append(str(Path(__file__).resolve().parents[1]))  # of the tests
from builders import assert_same_files, benchmark, finish

GOALS = {"step [ms]": 35, "scoring [s]": 2.5, "memory [GB]": 16, "protocol [days]": 3}
KINDS = FLOAT32, BFLOAT16, EAGER = "float32", "bfloat16", "plain eager Conv3d, float32"
NO_WORKSPACE = "unable to find an engine"  # what cuDNN says where memory holds none of its algorithms
TILES = ((32, 244, 244), (64, 244, 244), (64, 372, 372))


def new_network(kind, network, device):
    """A network of `config.Network` settings with weights that depend on nothing else."""
    model = (EagerAUNet if kind == EAGER else AUNet)(**vars(replace(network, bfloat16=kind == BFLOAT16)))
    model.draw_weights(torch.Generator().manual_seed(0))
    return model.to(device)


def loss_and_gradient(model, image, label, weight):
    """Loss and all gradients in one row, without dropout, whose masks differ between devices."""
    loss = soft_dice_loss(liver_probability(model.train()(image)), label, weight)
    return loss.item(), torch.cat(
        [gradient.flatten() for gradient in torch.autograd.grad(loss, model.parameters())]
    ).double().cpu()


def check_against_cpu(network, device, at_least):
    """Loss, gradients and prediction against the CPU.

    The CPU computes in float64 for the first two and in float32 for the last. TF32 is off.
    Gradients of noise are ill-conditioned, since rectifiers and pooling switch: how far float32 may be off is
    what the CPU's is, times ten. Running statistics are those of some batches, so that folding them shows.
    """
    models = {kind: new_network(kind, network, device) for kind in (FLOAT32, BFLOAT16)}
    reference = new_network(FLOAT32, network, "cpu")
    output = reference.output_size(at_least)
    batch = mini_batch(output, reference.input_size(output))
    with torch.no_grad():
        for _ in range(5):
            reference.train()(batch[0])
    for model in models.values():
        model.load_state_dict(reference.state_dict())
    loss, gradient = loss_and_gradient(
        copy.deepcopy(reference).double(), *(tensor.double() for tensor in batch)
    )

    def off(of_weights):
        return ((of_weights - gradient).norm() / gradient.norm()).item()

    on_cpu = off(loss_and_gradient(copy.deepcopy(reference), *batch)[1])
    volume = np.random.default_rng(3).normal(size=output).astype(np.float32)
    for kind, limit in ((FLOAT32, 1e-3), (BFLOAT16, 5e-2)):
        expected = predict(reference, volume)
        errors = {"prediction": np.abs(predict(models[kind], volume) - expected).max()}
        found, of_weights = loss_and_gradient(models[kind], *(tensor.to(device) for tensor in batch))
        errors["loss"] = abs(found - loss)
        gradients = f"gradients, relative {off(of_weights):.1e} (on the CPU in float32 {on_cpu:.1e})"
        print(
            f"{kind} against the CPU (limit {limit}):",
            ", ".join([*(f"{name} {error:.1e}" for name, error in errors.items()), gradients]),
        )
        if not max(errors.values()) < limit or not (kind == BFLOAT16 or off(of_weights) < 10 * on_cpu):
            raise AssertionError(f"{kind} on {device} is not the CPU's: {errors}, {gradients}")


def check_determinism(settings, device, at_least, steps=4):
    """Two trainings and two scorings from the same seeds give the same bits, one of them stopped halfway."""

    def begun(kind):
        model = new_network(kind, settings.network, device)
        return model, Training(model, settings.training, {"seed": 0}, None)

    def run(kind, stop=None):
        model, training = begun(kind)
        output = model.output_size(at_least)
        batch = mini_batch(output, model.input_size(output))
        for step in range(steps):
            if step == stop:
                with tempfile.TemporaryDirectory() as folder:
                    save_checkpoint(Path(folder) / "training.pt", training.state())
                    model, training = begun(kind)
                    training.load(load_checkpoint(Path(folder) / "training.pt"))
            training.update(*training.staged(batch), "noise")
        volume = np.random.default_rng(3).normal(size=output).astype(np.float32)
        found = predict_mc(model, volume, samples=3, further=EVERYTHING)
        return [*(value.cpu().numpy() for value in model.state_dict().values()), *found]

    for kind in (FLOAT32, BFLOAT16):
        with deterministic():
            for first, again in zip(run(kind), run(kind, stop=steps // 2), strict=True):
                np.testing.assert_array_equal(first, again, err_msg=kind)
        print(
            f"{kind}: {steps} training steps and 3 Monte Carlo samples, and the same stopped and continued "
            "halfway, are equal bit for bit"
        )


def check_runs():
    """Runs by one process and by two, on the same GPU, give the same bytes."""
    with tempfile.TemporaryDirectory() as folder:
        reports = []
        for workers in (1, 2):
            home = Path(folder, str(workers))
            home.mkdir()
            code, _, err = finish(benchmark("--preset", "smoke", "--workers", workers, folder=home))
            if code:
                raise AssertionError(err)
            reports.append(home / "reports" / "smoke-seed0")
        assert_same_files(*reports)
    print("preset smoke: by one process and by two, all results are equal byte for byte")


def time_steps(settings, device, rounds):
    """Seconds of a training step on the preset's patch, by kind of network, and gigabytes that each holds."""
    calls, memory = {}, {}
    for kind in KINDS:
        _empty(device)
        before = _reserved(device)
        model = new_network(kind, settings.network, device)
        output = model.output_size(settings.training.patch)
        # From pinned memory, where `training.train` puts its batches.
        batch = [tensor.pin_memory() for tensor in mini_batch(output, model.input_size(output))]
        if kind == EAGER:
            step = peer_step(model, *batch, torch.Generator(device).manual_seed(0))
        else:
            step = partial(
                _deterministic_update, Training(model, settings.training, {"seed": 0}, None), batch
            )
        calls[kind] = partial(_finished, step, device)
        calls[kind]()
        memory[kind] = _reserved(device) - before
    work = 3 * sum(operations(model, model.input_size(output), BATCH).values())
    products = _gemms(device)
    seconds = alternate({**calls, **{name: call for name, (call, _) in products.items()}}, rounds)
    table(
        f"training step, {BATCH} x {' x '.join(map(str, model.input_size(output)))} voxels",
        {name: seconds[name] for name in calls},
        FLOAT32,
    )
    _print_work(seconds, dict.fromkeys(calls, work), products)
    return {kind: median(seconds[kind]) for kind in calls}, memory


def time_scoring(settings, device, shape, tiles, rounds):
    """Seconds of a scoring and a prediction of a CT of `shape`, by kind and tile, if memory holds it.

    Returns those with the preset's tile, nan where it does not fit.
    """
    volume = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    calls, work, samples = {}, {}, settings.inference.samples
    reference = new_network(FLOAT32, settings.network, "cpu")
    for kind, tile in product((FLOAT32, BFLOAT16), tiles):
        model = new_network(kind, settings.network, device).eval()
        for passes, function in (
            (samples, partial(_deterministically, predict_mc, model, volume, samples, 0, tile, EVERYTHING)),
            (1, partial(_deterministically, predict, model, volume, tile)),
        ):
            name = kind, passes, tile
            try:
                _finished(function, device)
            except RuntimeError as error:
                if not isinstance(error, torch.OutOfMemoryError) and NO_WORKSPACE not in str(error):
                    raise
                print(f"{_title(name)}: does not fit the memory")
                _empty(device)
                continue
            calls[_title(name)] = partial(_finished, function, device)
            work[_title(name)] = tiled_operations(reference, shape, tile, passes)
    products = _gemms(device)
    seconds = alternate({**calls, **{name: call for name, (call, _) in products.items()}}, rounds)
    table(
        f"a CT of {' x '.join(map(str, shape))} voxels",
        {name: seconds[name] for name in calls},
        next(iter(calls)),
    )
    _print_work(seconds, work, products)
    return {
        (kind, passes): median(seconds.get(_title((kind, passes, settings.inference.tile)), [nan]))
        for kind, passes in product((FLOAT32, BFLOAT16), (samples, 1))
    }


def tiled_operations(model, shape, tile, samples):
    """Operations of Monte Carlo scoring of a volume by the tiles that `inference` makes of it."""
    total = 0
    steps = tile_steps(shape, tile, model.stride)
    for start in product(*(range(0, length, step) for length, step in zip(shape, steps, strict=True))):
        lengths = [min(step, length - begin) for begin, length, step in zip(start, shape, steps, strict=True)]
        counts = operations(model, model.input_size(model.output_size(lengths)))
        total += sum(
            count * (1 if layer.startswith("encoder") else samples) for layer, count in counts.items()
        )
    return total


def mean_ct(settings):
    """Mean size `(z, y, x)` of a pool CT on the working grid, from Tables 2 (slices) and 1 (spacing)."""
    everything = published.effort()[DATA_POOL]
    depth = round(everything["annotated_slices"] / everything["unique_patients"])
    edges = [
        site.inplane_size * sum(site.inplane_spacing_mm) / 2 / settings.data.spacing[1]
        for site in published.sites().values()
    ]
    volumes = [site.volumes for site in published.sites().values()]
    return depth, *[round(np.average(edges, weights=volumes))] * 2


def protocol_days(settings, step, scoring, prediction):
    """Days of such a GPU's own work in the paper's whole study, from seconds of a step, scoring, prediction.

    Steps are those of Table 3 up to each evaluated checkpoint, and for models trained until convergence the
    patience after it. UVS and USS score the whole pool in every iteration, the first one together. Every
    model predicts the test split, and the validation split at each validation.
    """
    models = published.training_steps()
    until_convergence = sum(key.converges for key in models)
    steps = (
        sum(models.values())
        + until_convergence * settings.training.patience * settings.training.validate_every
    )
    pool, val, test = (sum(site.counts[split] for site in published.sites().values()) for split in SPLITS)
    scorings = (2 * settings.query.iterations - 1) * pool
    predictions = len(models) * test + steps / settings.training.validate_every * val
    parts = {"training": steps * step, "scoring": scorings * scoring, "prediction": predictions * prediction}
    counts = f"{steps:,} steps, {scorings:,} scorings, {predictions:,.0f} predictions"
    print(f"{counts}: {', '.join(f'{name} {seconds / 86400:.2f} days' for name, seconds in parts.items())}")
    return sum(parts.values()) / 86400


def _deterministic_update(training, batch):
    training.losses.clear()
    _deterministically(training.update, *batch, "noise")


def _deterministically(work, *arguments):
    with deterministic():
        return work(*arguments)


def _finished(work, device):
    work()
    synchronize(device)


def _gemms(device):
    products = {}
    for name, dtype in ((FLOAT32, torch.float32), (BFLOAT16, torch.bfloat16)):
        work, count = gemm(device, dtype, 8192)
        _finished(work, device)
        products[f"{GEMM} {name}"] = partial(_finished, work, device), count
    return products


def _print_work(seconds, work, products):
    counts = {**work, **{name: count for name, (_, count) in products.items()}}
    print_work("work", seconds, counts, f"{GEMM} {BFLOAT16}")


def _title(name):
    kind, passes, tile = name
    return f"{kind}, {passes} sample(s), tile {' x '.join(map(str, tile))}"


def _empty(device):
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def _reserved(device):
    """The most gigabytes held since `_empty`, as other programs on the GPU see it."""
    return torch.cuda.max_memory_reserved(device) / 1e9 if torch.device(device).type == "cuda" else nan


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    if not torch.cuda.is_available():
        print("gpu.py: PyTorch finds no CUDA device; run it on a machine with one", file=sys.stderr)
        return 2
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as the benchmark sets it
    device, settings = torch.device("cuda"), Config()
    machine("torch")
    print(f"{torch.cuda.get_device_name()}, copy {copy_rate(device, 2**28) / 1e9:.0f} GB/s")
    tf32 = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    check_against_cpu(settings.network, device, (1, 1, 1))
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cuda.matmul.allow_tf32 = tf32  # the yardstick rounds as convolutions do
    torch.set_num_threads(1)  # from here on as the benchmark works
    keep_freed_memory()
    check_determinism(settings, device, settings.training.patch)
    check_runs()
    steps, memory = time_steps(settings, device, 4 * rounds)
    _empty(device)
    scoring = time_scoring(settings, device, mean_ct(settings), TILES, rounds)

    print(f"\n| | {' | '.join(GOALS)} |\n| --- |{' ---: |' * len(GOALS)}")
    print(f"| goal | {' | '.join(map(str, GOALS.values()))} |")
    for kind in (FLOAT32, BFLOAT16):
        score, prediction = scoring[kind, settings.inference.samples], scoring[kind, 1]
        days = protocol_days(settings, steps[kind], score, prediction)
        print(f"| {kind} | {1e3 * steps[kind]:.1f} | {score:.2f} | {memory[kind]:.1f} | {days:.2f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
