"""CPU seconds of one training at equal quality: the preset's recipe against the one before it.

    python tests/performance/recipe.py [--preset quick] [--seed 0] [--steps 150 450] [--before 320 ...]

Each row trains the model of the whole pool once, its rate annealed over exactly these steps, and evaluates it
on the test cases. What the recipe before needs for the quality of the preset's last row follows by
interpolation over the logarithm of its seconds; beyond its rows only a bound is printed.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from _timing import machine

from uss_bench.config import resolve
from uss_bench.data.cohort import write_default_manifest
from uss_bench.data.manifest import read_manifest
from uss_bench.intake import load_volumes, prepare_cases
from uss_bench.runtime.machine import keep_freed_memory
from uss_bench.runtime.progress import Progress
from uss_bench.runtime.team import Team
from uss_bench.study.annotation import Annotations
from uss_bench.study.keys import DATA_POOL
from uss_bench.study.models import Models

# Batches of two thick patches and no background prior, as `quick` was in version 0.1.0.
BEFORE = {
    "network.prior": None,
    "training.patch": (4, 56, 56),
    "training.batch_size": 2,
    "training.learning_rate": 4e-3,
}


def measure(config, volumes, seed, steps):
    """CPU seconds of a training of so many steps on the whole pool, and its mean test DICE."""
    training = replace(
        config.training, max_steps=steps, converged_max_steps=steps, decay=1.0, anneal=0, patience=10**6
    )
    everything = Annotations({name: range(volume.shape[0]) for name, volume in volumes["pool"].items()})
    with TemporaryDirectory() as folder:
        (Path(folder) / DATA_POOL.folder).mkdir(parents=True)
        models = Models(
            replace(config, training=training), volumes, folder, seed, torch.device("cpu"), Progress(0)
        )
        started = time.process_time()
        models.train(DATA_POOL, everything)
        seconds = time.process_time() - started
        scores = [models.evaluate(DATA_POOL, case_id)["DICE"] for case_id in volumes["test"]]
    return seconds, float(np.mean(scores))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--preset", default="quick")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, nargs="+", default=[150, 450])
    parser.add_argument("--before", type=int, nargs="+", default=[320, 640, 1280, 2560])
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    machine("torch")
    config = resolve(options.preset)
    before = resolve(options.preset, [f"{name}={value}" for name, value in BEFORE.items()])
    with TemporaryDirectory() as scratch:
        write_default_manifest(Path(scratch) / "manifest.csv")
        cases = read_manifest(Path(scratch) / "manifest.csv")
        cache = Path(scratch) / "cache"
        prepare_cases(cases, config.data.spacing, cache, Progress(0), Team())
        volumes = load_volumes(cases, config.data.spacing, cache, Progress(0))
        print("\n| recipe | steps | CPU seconds | DICE |\n| --- | ---: | ---: | ---: |")
        rows = {}
        for name, recipe, lengths in (
            (options.preset, config, options.steps),
            ("before", before, options.before),
        ):
            rows[name] = [measure(recipe, volumes, options.seed, steps) for steps in sorted(lengths)]
            for steps, (seconds, dice) in zip(sorted(lengths), rows[name], strict=True):
                print(f"| {name} | {steps} | {seconds:.0f} | {dice:.3f} |", flush=True)
    seconds, goal = rows[options.preset][-1]
    times, scores = np.array(rows["before"]).T
    if goal > scores.max():
        print(f"\nDICE {goal:.3f}: more than {times[scores.argmax()] / seconds:.1f} x the seconds before")
    else:
        needed = np.exp(np.interp(goal, np.maximum.accumulate(scores), np.log(times)))
        print(f"\nDICE {goal:.3f}: {needed / seconds:.1f} x the seconds before")


if __name__ == "__main__":
    main()
