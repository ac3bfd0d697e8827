"""What a run will do, checked and priced before it does it."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from .config import Config
from .cost import estimate
from .data.case_files import header_problems
from .data.manifest import SPLITS, Case
from .data.phantoms import is_unmade_phantom, phantom_grid
from .data.resampling import grid_shape
from .data.volumes import entry_bytes, grids, missing_bytes
from .network.aunet import AUNet
from .runtime.errors import InputError
from .runtime.storage import nearest_existing
from .study.keys import ModelKey, of_run
from .study.simulation import initial_cases
from .study.strategies import BUDGET, Strategy

# Bytes of a training's checkpoint to those of a model: weights, the best ones, and Adam's two moments.
CHECKPOINT_WEIGHTS = 4


def plan_problems(settings: Config, cases: Sequence[Case], strategies: Sequence[Strategy]) -> list[str]:
    """Why the cases do not suffice for the plan, one line per problem."""
    query = settings.query
    counts = {split: sum(case.split == split for case in cases) for split in SPLITS}
    problems = [
        f"no {split} case; mark at least one row with split {split}" for split in SPLITS if not counts[split]
    ]
    marked = sum(bool(case.initial) for case in cases)
    needed = marked or query.initial_volumes
    wanted, settings_of_it = "initial", ["query.initial_volumes"]
    if not all(strategy.by_slices for strategy in strategies):
        needed += query.iterations * query.volumes_per_iteration
        wanted += f" and {query.iterations} iterations"
        settings_of_it += ["query.iterations", "query.volumes_per_iteration"]
    if needed > counts["pool"]:
        problems.append(
            f"{needed} pool cases are needed ({wanted}) and {counts['pool']} are there; add cases, or lower "
            f"{' or '.join(settings_of_it)}"
        )
    free = sum(case.split == "pool" and case.initial is None for case in cases)
    if not marked and query.initial_volumes > free:
        problems.append(
            f"{query.initial_volumes} initial volumes are needed and {free} pool cases may be initial; "
            "clear the column `initial`"
        )
    by_slices = [strategy.name for strategy in strategies if strategy.by_slices]
    budgeted = BUDGET in {strategy.name for strategy in strategies} or query.slices_per_iteration is not None
    if by_slices and not budgeted:
        problems.append(
            f"{' and '.join(by_slices)}: the number of slices follows from {BUDGET}, which is not asked for; "
            f"add {BUDGET} to --strategy, or use --set query.slices_per_iteration=N (200 in the paper)"
        )
    return problems


def planned_models(settings: Config, strategies: Sequence[Strategy]) -> list[ModelKey]:
    """Keys of the models that are trained and evaluated."""
    names = [strategy.name for strategy in strategies]
    return of_run(names, settings.query.iterations, settings.query.twins)


# --- disk ---


def check_disk(cases: Iterable[Case], spacing: Sequence[float], cache: str | Path) -> None:
    """Check that the disk has room for the cache entries that are missing.

    Phantoms that are to be made are small and not counted; neither are cases with faulty headers, which come
    to nothing.

    Raises
    ------
    InputError
        There is no room.
    """
    cases = [case for case in cases if not is_unmade_phantom(case) and not header_problems(case)[0]]
    free = free_bytes(cache)
    # Entries that are there already are found by digests, which take long unless they are remembered: they
    # are looked for only where it matters.
    if (
        sum(entry_bytes(*grids(case, spacing)) for case in cases) > free
        and (needed := missing_bytes(cases, spacing, cache)) > free
    ):
        raise InputError(
            f"{cache}: {size_text(needed)} more are needed and {size_text(free)} are free; "
            "choose a folder on a larger disk with --runs"
        )


def free_bytes(folder: str | Path) -> int:
    """Room on the disk of a folder, which need not exist yet."""
    return shutil.disk_usage(nearest_existing(folder)).free


# --- the plan in words ---


def describe_plan(
    settings: Config,
    cases: Sequence[Case],
    strategies: Sequence[Strategy],
    device: torch.device,
    folder: str | Path,
    workers: int = 1,
    seed: int = 0,
) -> str:
    """Text for `--dry-run`: cases, models, steps, passes, slices, disk, and an estimate of time.

    Parameters
    ----------
    settings, cases, strategies, device
        As the attributes of `request.Checked`.
    folder : path
        Where runs are kept.
    workers : int
        Processes that share the work.
    seed : int
        Of the run: it draws the initial volumes.
    """
    shapes = {case.case_id: _grids(case, settings.data.spacing) for case in cases}
    pool = [case for case in cases if case.split == "pool"]
    by_split = {split: [shapes[case.case_id][1] for case in cases if case.split == split] for split in SPLITS}
    keys, samples = planned_models(settings, strategies), settings.inference.samples
    models, converged = len(keys), sum(key.converges for key in keys)
    scoring = sum(bool(strategy.needs) for strategy in strategies)
    scored = scoring * (settings.query.iterations - 1) + bool(scoring)  # they share the initial model
    mc_volumes = scored * len(by_split["pool"])
    cost = estimate(settings, by_split, models, converged, mc_volumes, device)
    endless = (
        f"; {converged} models train until convergence, which no estimate foresees"
        if settings.training.converged_max_steps is None
        else ""
    )
    limit = settings.training.converged_max_steps
    last = f"of up to {limit}" if limit else "until they converge"
    unmade = sum(map(is_unmade_phantom, cases))
    to_make = f" ({unmade} phantoms to be made)" if unmade else ""
    weights = 4 * sum(parameter.numel() for parameter in AUNet(**vars(settings.network)).parameters())
    sizes = {
        "cache": sum(entry_bytes(*pair) for pair in shapes.values()),
        "models": models * weights,
        "checkpoints": workers * CHECKPOINT_WEIGHTS * weights,
    }
    disk = ", ".join(f"{name} {size_text(size)}" for name, size in sizes.items())
    names = ", ".join(strategy.name for strategy in strategies)
    return "\n".join(
        [
            f"cases       {', '.join(f'{len(by_split[split])} {split}' for split in SPLITS)}{to_make}",
            f"initial     {', '.join(sorted(initial_cases(pool, settings.query.initial_volumes, seed)))}",
            f"strategies  {names}, {settings.query.iterations} iterations",
            f"models      {models}: {models - converged} of up to {cost.steps} steps, {converged} {last}",
            f"training    about {cost.total_steps} steps in all{endless}",
            f"slices      {sum(depth for depth, _, _ in by_split['pool'])} in the pool"
            f"{_slices_text(settings, strategies)}",
            f"MC dropout  up to {mc_volumes} volumes of {samples} passes, {mc_volumes * samples} in all",
            f"evaluation  {models * len(by_split['test'])} cases",
            f"disk        {disk} ({size_text(free_bytes(folder))} free)",
            f"time        about {_duration(cost.seconds / workers)} on {device.type}, from a few timed steps",
        ]
    )


def _slices_text(settings: Config, strategies: Sequence[Strategy]) -> str:
    count = settings.query.slices_per_iteration
    by_slices = [strategy.name for strategy in strategies if strategy.by_slices and not strategy.replays]
    if not by_slices:
        return ""
    asked = f"as many as follow from {BUDGET}" if count is None else f"{count} per iteration"
    return f"; {' and '.join(by_slices)}: {asked}"


def working_shape(case: Case, spacing: Sequence[float]) -> tuple[int, ...]:
    """Shape `(z, y, x)` of a case on the working grid, by its header; of a phantom also before it is made."""
    return _grids(case, spacing)[1]


def _grids(case: Case, spacing: Sequence[float]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """As `volumes.grids`, also for phantoms that are to be made."""
    if not is_unmade_phantom(case):
        return grids(case, spacing)
    native, voxel = phantom_grid(case.case_id, case.site, case.extra["phantom"])
    return native, grid_shape(native, case.spacing or voxel, spacing)


def size_text(count: float) -> str:
    """A number of bytes.

    >>> size_text(999), size_text(2_500_000)
    ('999 B', '2 MB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
