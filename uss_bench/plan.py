"""What a run will do, checked and priced before it does it."""

import shutil
import time
from math import prod
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from . import InputError
from .aunet import AUNet, liver_probability
from .manifest import SPLITS
from .patches import spread_origins
from .phantoms import make_phantom
from .volumes import UNREADABLE, grid_shape

LARGE = 2_000_000  # voxels


def check_plan(settings, cases, strategies):
    """Check that the cases suffice for the plan and that their files are there.

    Raises
    ------
    InputError
        With all problems in one message.
    """
    query, problems = settings.query, []
    counts = {split: sum(case.split == split for case in cases) for split in SPLITS}
    problems += [f"no {split} case; mark at least one row with split {split}" for split in SPLITS if not counts[split]]

    marked = sum(bool(case.initial) for case in cases)
    needed = marked or query.initial_volumes
    if {"UVS", "RVS"} & set(strategies):
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
    if {"USS", "RSS"} & set(strategies) and "UVS" not in strategies and query.slices_per_iteration is None:
        problems.append(
            "USS and RSS take the number of slices from UVS, which is not asked for; "
            "use --strategy all or --set query.slices_per_iteration=N (the paper's N is 200)"
        )
    for case in cases:
        problems += [
            f"case {case.case_id}: {role} {path} does not exist; mend the path in the manifest"
            for role, path in (("image", case.image), ("label", case.label))
            if not case.extra.get("phantom") and not path.is_file()
        ]
    if problems:
        raise InputError("\n  ".join([f"{len(problems)} problem(s) with the plan", *problems]))


def model_count(settings, strategies):
    """Models that are trained and evaluated: the initial one, the iterations' and converged ones, the data pool's."""
    return 2 + len(strategies) * (settings.query.iterations + 1)


def describe_plan(settings, cases, strategies, device, folder, workers=1):
    """Text for `--dry-run`: cases, models, passes, disk and an estimate of hours on `device`."""
    shapes = {case.case_id: _shapes(case, settings.data.spacing) for case in cases}
    disk = sum(3 * prod(grid) + prod(native) // 8 for native, grid in shapes.values())
    free = shutil.disk_usage(next(path for path in (Path(folder), *Path(folder).absolute().parents) if path.exists())).free
    if disk > free:
        raise InputError(f"--runs {folder}: the cache needs {_size(disk)} and {_size(free)} are free; choose a folder on a larger disk")

    by_split = {split: [shapes[case.case_id][1] for case in cases if case.split == split] for split in SPLITS}
    query, training, models = settings.query, settings.training, model_count(settings, strategies)
    scorings = {"UVS": query.iterations, "USS": query.iterations}
    scored = max(0, sum(scorings.get(strategy, 0) for strategy in strategies) - ({"UVS", "USS"} <= set(strategies)))
    mc_volumes = scored * len(by_split["pool"])
    seconds, steps = _estimate(settings, by_split, models, len(strategies) + 1, mc_volumes, device)
    missing = sum(bool(case.extra.get("phantom")) and not case.image.is_file() for case in cases)
    lines = [
        f"cases       {', '.join(f'{len(by_split[split])} {split}' for split in SPLITS)}"
        + (f" ({missing} phantoms to be made)" if missing else ""),
        f"strategies  {', '.join(strategies)}, {query.iterations} iterations",
        f"models      {models}, of about {steps} steps at most"
        + ("" if training.converged_max_steps else f"; {len(strategies) + 1} of them until convergence, which no estimate foresees"),
        f"MC dropout  up to {mc_volumes} volumes of {settings.inference.samples} passes",
        f"evaluation  {models * len(by_split['test'])} cases",
        f"cache       {_size(disk)} ({_size(free)} free)",
        f"time        about {_duration(seconds / workers)} on {device.type}, from a few timed steps",
    ]
    return "\n".join(lines)


def _shapes(case, spacing):
    """Native shape and working-grid shape `(z, y, x)`, from the header alone."""
    if case.extra.get("phantom") and not case.image.is_file():
        hu, _, affine = make_phantom(case.case_id, case.site, case.extra["phantom"])
        header = nib.Nifti1Image(hu, affine)
        turned = nib.as_closest_canonical(header)
    else:
        try:
            header = nib.load(case.image)
            turned = nib.as_closest_canonical(header) if len(header.shape) == 3 else header
        except UNREADABLE as error:
            raise InputError(f"case {case.case_id}: {case.image}: cannot be read as NIfTI ({error}); check that it is complete") from None
    if len(header.shape) != 3:
        raise InputError(f"case {case.case_id}: {case.image}: {len(header.shape)}D; give one 3D volume a file")
    native = turned.shape[::-1]
    return native, grid_shape(native, case.spacing or nib.affines.voxel_sizes(turned.affine)[::-1], spacing)


def _estimate(settings, by_split, models, converged, mc_volumes, device):
    """Seconds of the whole run by one worker and steps of a model, scaled by network input voxels from a few timed passes.

    `converged` of the models train to their own limit; where they have none, they count like the others.
    """
    training, network = settings.training, settings.network
    model = AUNet(network.widths, network.flat_levels, network.dropout).to(device)
    patch = model.output_size(training.patch)
    batch_voxels = training.batch_size * prod(model.input_size(patch))
    per_step, per_encode, per_decode = (rate * batch_voxels for rate in _rates(model, patch, device))

    columns = [prod(len(spread_origins(length, size)) for length, size in zip(shape, patch, strict=True)) for shape in by_split["pool"]]
    largest = settings.query.initial_volumes + settings.query.iterations * settings.query.volumes_per_iteration
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
    return total_steps * per_step + evaluated * (per_encode + per_decode) + scored * (per_encode + samples * per_decode), steps


def _rates(model, patch, device):
    """Seconds per input voxel of a training step, an encoder pass and a decoder pass, by one thread as a worker has on a CPU.

    They are timed on a training patch, or on the smallest input where the patch might not fit the memory of a laptop.
    """
    size = model.input_size(patch)
    if prod(size) > LARGE:
        size = model.input_size(model.output_size(model.stride))
    inputs = torch.randn(1, 1, *size, device=device)

    def step():
        liver_probability(model(inputs)).mean().backward()

    def encode():
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


def _size(count):
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _duration(seconds):
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
