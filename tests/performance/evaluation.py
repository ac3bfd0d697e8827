"""Evaluation of a test split: ours in one process per core, beside the peers of `metrics.py`, case by case.

    python tests/performance/evaluation.py [--data FOLDER ...] [--cases N] [--workers N] [--rounds N]

Each FOLDER holds `ct.nii.gz` and `liver.nii.gz` (default: the real cases where there are any, else a
phantom). A case's probability on the working grid is resampled to the native grid, thresholded and compared
with the reference there; a peer gets our resampling. Peers run once, after one of our rounds and before the
others: one of them takes minutes.
"""

import argparse
import multiprocessing
import os
import tempfile
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median

import numpy as np
import torch
from _timing import alternate, case_of, default_folders, machine, table
from metrics import checked_peers, flawed_probability

from uss_bench.data.volumes import load_volume
from uss_bench.study.evaluation import THRESHOLD, evaluate_case

GRID = (1.5, 1.0, 1.0)  # mm, the paper's


def evaluate(volume, probability_path):
    """Scores of one case as a worker of the program finds them, and the CPU seconds that took."""
    started = time.process_time()
    scores = evaluate_case(np.load(probability_path), volume)
    return scores, time.process_time() - started


def write_cases(folders, count, scratch):
    """`count` pairs of a `Volume` and the path of a probability, over the folders in turn, all different."""
    pairs = []
    for number in range(count):
        case = case_of(folders[number % len(folders)], scratch)
        volume = load_volume(case, GRID, scratch / "cache")
        path = scratch / f"probability-{number}.npy"
        np.save(path, flawed_probability(volume.label.astype(bool), GRID, seed=number))
        pairs.append((volume, path))
    return pairs


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    folders = default_folders("ircadb01", "chaos03", "totalseg_example") or [None]
    parser.add_argument(
        "--data", nargs="+", default=folders, metavar="FOLDER", help="with ct.nii.gz and liver.nii.gz"
    )
    parser.add_argument("--cases", type=int, default=6)
    parser.add_argument(
        "--workers",
        type=int,
        default=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    )
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # peers' deprecations
    machine("numpy", "scipy", "torch", "MedPy", "monai", "SimpleITK", "surface-distance")
    spawn = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory() as scratch,
        ProcessPoolExecutor(options.workers, spawn, torch.set_num_threads, (1,)) as pool,
    ):
        pairs = write_cases(options.data, options.cases, Path(scratch))
        busy = []

        def in_workers():
            started = time.perf_counter()
            results = list(pool.map(evaluate, *zip(*pairs, strict=True)))
            busy.append(sum(seconds for _, seconds in results) / (time.perf_counter() - started))
            return [scores for scores, _ in results]

        def one_by_one(compute):
            masks = ((volume.to_native(np.load(path)) >= THRESHOLD, volume) for volume, path in pairs)
            return [
                compute(prediction, volume.reference(), volume.native_spacing) for prediction, volume in masks
            ]

        assert in_workers() == [evaluate(*pair)[0] for pair in pairs]  # starts the workers, too
        busy.clear()
        volume, path = pairs[-1]
        peers = checked_peers(
            (volume.to_native(np.load(path)) >= THRESHOLD, volume.reference(), volume.native_spacing)
        )
        name = f"ours, {options.workers} workers"
        ours = {name: in_workers, "ours, one process": lambda: [evaluate(*pair) for pair in pairs]}
        first = alternate(
            {
                **ours,
                **{peer: lambda compute=compute: one_by_one(compute) for peer, compute in peers.items()},
            },
            1,
        )
        others = alternate(ours, options.rounds - 1)
        seconds = {row: first[row] + others.get(row, []) for row in first}
        table(f"evaluation of {len(pairs)} cases", seconds, name)
        print(
            f"\n{median(busy):.2f} of {options.workers} cores busy in the workers "
            "(CPU seconds per wall second, median)"
        )


if __name__ == "__main__":
    main()
