"""What a run will do, checked and priced before it does it."""

import shutil
import time
from math import prod
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from .data.manifest import SPLITS
from .data.phantoms import make_phantom
from .data.volumes import entry_bytes, grid_shape, grids, header_problems, missing_bytes
from .network.aunet import AUNet, liver_probability
from .network.patches import spread_origins
from .runtime.errors import InputError
from .study.strategies import BUDGET

CHECKPOINT_WEIGHTS = (
    4  # bytes of a training's checkpoint to those of a model: weights, the best ones, and Adam's two moments
)
LARGE = 2_000_000  # voxels


def plan_problems(settings, cases, strategies):
    """Why the cases do not suffice for the plan, a line a problem; none where they do."""
    query, problems = settings.query, []
    counts = {split: sum(case.split == split for case in cases) for split in SPLITS}
    problems += [
        f"no {split} case; mark at least one row with split {split}" for split in SPLITS if not counts[split]
    ]

    marked = sum(bool(case.initial) for case in cases)
    needed = marked or query.initial_volumes
    if not all(strategy.by_slices for strategy in strategies):
        needed += query.iterations * query.volumes_per_iteration
    if needed > counts["pool"]:
        problems.append(
            f"{needed} pool cases are needed (initial and {query.iterations} iterations) and {counts['pool']} are there; "
            "add cases, or lower query.iterations, query.volumes_per_iteration or query.initial_volumes"
        )
    free = sum(case.split == "pool" and case.initial is None for case in cases)
    if not marked and query.initial_volumes > free:
        problems.append(
            f"{query.initial_volumes} initial volumes are needed and {free} pool cases may be initial; clear the column `initial`"
        )
    by_slices = [strategy.name for strategy in strategies if strategy.by_slices]
    if (
        by_slices
        and query.slices_per_iteration is None
        and BUDGET not in {strategy.name for strategy in strategies}
    ):
        problems.append(
            f"{' and '.join(by_slices)} take the number of slices from {BUDGET}, which is not asked for; "
            f"add {BUDGET} to --strategy, or use --set query.slices_per_iteration=N (the paper's N is 200)"
        )
    return problems


def is_unmade_phantom(case):
    return bool(case.extra.get("phantom")) and not (case.image.exists() and case.label.exists())


def check_disk(cases, spacing, cache):
    """InputError where the disk has no room for the cache entries that are missing.

    Phantoms that are to be made are small and not counted; neither are cases with faulty headers, which come to nothing.
    """
    cases = [case for case in cases if not is_unmade_phantom(case) and not header_problems(case)[0]]
    free = free_bytes(cache)
    # What is there already is told by digests, which take long where they are not remembered: asked only where it matters.
    if (
        sum(entry_bytes(*grids(case, spacing)) for case in cases) > free
        and (needed := missing_bytes(cases, spacing, cache)) > free
    ):
        raise InputError(
            f"{cache}: {size_text(needed)} more are needed and {size_text(free)} are free; choose a folder on a larger disk with --runs"
        )


def free_bytes(folder):
    """Room on the disk of a folder, which need not be there yet."""
    return shutil.disk_usage(
        next(path for path in (Path(folder), *Path(folder).absolute().parents) if path.exists())
    ).free


def model_count(settings, strategies):
    """Models that are trained and evaluated: the initial one, the iterations' and converged ones, the data pool's."""
    return 2 + len(strategies) * (settings.query.iterations + 1)


def describe_plan(settings, cases, strategies, device, folder, workers=1):
    """Text for `--dry-run`: cases, models, steps, passes, slices, disk and an estimate of hours on `device`.

    Raises
    ------
    InputError
        The disk of `folder`, where runs are kept, has no room for the cache.
    """
    check_disk(cases, settings.data.spacing, Path(folder) / "cache")
    shapes = {case.case_id: _grids(case, settings.data.spacing) for case in cases}
    by_split = {split: [shapes[case.case_id][1] for case in cases if case.split == split] for split in SPLITS}
    query, training, models = settings.query, settings.training, model_count(settings, strategies)
    scoring = sum(bool(strategy.needs) for strategy in strategies)
    scored = scoring * (query.iterations - 1) + bool(scoring)  # they share the initial model
    mc_volumes, samples = scored * len(by_split["pool"]), settings.inference.samples
    seconds, steps, total_steps = _estimate(
        settings, by_split, models, len(strategies) + 1, mc_volumes, device
    )
    by_slices = [strategy.name for strategy in strategies if strategy.by_slices]
    queried = (
        "as many as follow from UVS"
        if query.slices_per_iteration is None
        else f"{query.slices_per_iteration} an iteration"
    )
    weights = 4 * sum(parameter.numel() for parameter in AUNet(**vars(settings.network)).parameters())
    unmade = sum(map(is_unmade_phantom, cases))
    lines = [
        f"cases       {', '.join(f'{len(by_split[split])} {split}' for split in SPLITS)}"
        + (f" ({unmade} phantoms to be made)" if unmade else ""),
        f"strategies  {', '.join(strategy.name for strategy in strategies)}, {query.iterations} iterations",
        f"models      {models}, of about {steps} steps at most",
        f"training    about {total_steps} steps in all"
        + (
            ""
            if training.converged_max_steps
            else f"; {len(strategies) + 1} models train until convergence, which no estimate foresees"
        ),
        f"slices      {sum(depth for depth, _, _ in by_split['pool'])} in the pool"
        + (f"; {' and '.join(by_slices)} ask for {queried}" if by_slices else ""),
        f"MC dropout  up to {mc_volumes} volumes of {samples} passes, {mc_volumes * samples} in all",
        f"evaluation  {models * len(by_split['test'])} cases",
        f"disk        cache {size_text(sum(entry_bytes(*pair) for pair in shapes.values()))}, models {size_text(models * weights)}, "
        f"checkpoints {size_text(workers * CHECKPOINT_WEIGHTS * weights)} ({size_text(free_bytes(folder))} free)",
        f"time        about {_duration(seconds / workers)} on {device.type}, from a few timed steps",
    ]
    return "\n".join(lines)


def _grids(case, spacing):
    """As `volumes.grids`, also for phantoms that are to be made."""
    if not is_unmade_phantom(case):
        return grids(case, spacing)
    hu, _, affine = make_phantom(case.case_id, case.site, case.extra["phantom"])
    turned = nib.as_closest_canonical(nib.Nifti1Image(hu, affine))
    native = turned.shape[::-1]
    return native, grid_shape(native, case.spacing or nib.affines.voxel_sizes(turned.affine)[::-1], spacing)


def _estimate(settings, by_split, models, converged, mc_volumes, device):
    """Seconds of the whole run by one worker, steps of a model and of all models, scaled by network input voxels from a few timed passes.

    `converged` of the models train to their own limit; where they have none, they count like the others.
    """
    training = settings.training
    model = AUNet(**vars(settings.network)).to(device)
    patch = model.output_size(training.patch)
    batch_voxels = training.batch_size * prod(model.input_size(patch))
    per_step, per_encode, per_decode = (rate * batch_voxels for rate in _rates(model, patch, device))

    columns = [
        prod(len(spread_origins(length, size)) for length, size in zip(shape, patch, strict=True))
        for shape in by_split["pool"]
    ]
    largest = (
        settings.query.initial_volumes + settings.query.iterations * settings.query.volumes_per_iteration
    )
    epochs = training.max_epochs * np.mean(columns) * largest / training.batch_size
    steps = int(min(training.max_steps or epochs, epochs))
    passes = {
        split: sum(prod(model.input_size(model.output_size(shape))) for shape in shapes) / batch_voxels
        for split, shapes in by_split.items()
    }
    total_steps = (models - converged) * steps + converged * (training.converged_max_steps or steps)
    evaluated = models * passes["test"] + max(models, total_steps / training.validate_every) * passes["val"]
    scored = mc_volumes * passes["pool"] / len(by_split["pool"])
    samples = settings.inference.samples
    seconds = (
        total_steps * per_step
        + evaluated * (per_encode + per_decode)
        + scored * (per_encode + samples * per_decode)
    )
    return seconds, steps, total_steps


def _rates(model, patch, device):
    """Seconds per input voxel of a training step, an encoder pass and a decoder pass, by one thread as a worker has on a CPU.

    They are timed on a training patch, or on the smallest input where the patch might not fit the memory of a laptop.
    """
    size = model.input_size(patch)
    if prod(size) > LARGE:
        size = model.input_size(model.output_size(model.stride))
    inputs = torch.randn(1, 1, *size, device=device)

    def step():
        model.train()
        liver_probability(model(inputs)).mean().backward()

    def encode():
        model.eval()  # which normalizes in passing; the decoder's passes below too
        with torch.inference_mode():
            return model.encode(inputs)

    features = encode()

    def decode():
        with torch.inference_mode():
            return model.decode(features)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [_seconds(work, device) / inputs.numel() for work in (step, encode, decode)]
    finally:
        torch.set_num_threads(threads)


def _seconds(work, device, repeats=2):
    times = []
    for _ in range(repeats + 1):  # the first warms up
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return float(np.median(times[1:]))


def size_text(count):
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _duration(seconds):
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
