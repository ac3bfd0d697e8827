"""How a run scales: measured on this machine's cores, modelled for `paper` on GPUs and for larger pools.

    python tests/performance/scaling.py measure [--preset quick] [--workers 1 2] [--rounds 3]
    python tests/performance/scaling.py model [--step SECONDS ...]

Both run the tasks of `Simulation` itself in virtual time: the pieces of work, their order and dependencies
are the real ones, and nothing of them is repeated here. They are not executed but take the seconds that stage
files or a few rates give.
"""

import argparse
import filecmp
import heapq
import json
import resource
import subprocess
import sys
import time
import tracemalloc
from collections import Counter, defaultdict, deque
from dataclasses import dataclass, field, fields, replace
from functools import cache
from itertools import product
from math import inf, prod
from operator import itemgetter
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import numpy as np
import torch
from _timing import alternate, machine
from _work import operations

from uss_bench import config, intake
from uss_bench.data.manifest import SPLITS
from uss_bench.data.volumes import entry_bytes
from uss_bench.network.aunet import AUNet
from uss_bench.network.inference import tile_steps
from uss_bench.network.patches import PatchSampler
from uss_bench.plan import CHECKPOINT_WEIGHTS
from uss_bench.report import published
from uss_bench.runtime.storage import read_json
from uss_bench.runtime.tasks import SharedStage, Stage
from uss_bench.study import models, simulation
from uss_bench.study.annotation import Annotations
from uss_bench.study.strategies import named

ROOT = Path(__file__).resolve().parents[2]
STAGES = ("query", "scores", "training", "evaluation")
QUIET = SimpleNamespace(now=lambda *_: None, say=lambda *_: None, finished=lambda *_: None)
POOL, VALIDATION, TEST = (sum(site.counts[split] for site in published.sites().values()) for split in SPLITS)
# A mean CT of the paper: 60 513 slices of 1.5 mm in 240 volumes, 358 mm wide; natively 512 x 512 voxels and
# slices of 1 mm.
SHAPE, NATIVE = (252, 358, 358), (378, 512, 512)
LABEL = np.zeros(SHAPE, np.uint8)
LABEL[80:190, 100:280, 20:200] = (
    1  # liver in 44 % of the slices, as in Table 2, and there in each of the four cells
)
PACKED, FLOAT, SCORED = (
    0.5,
    32,
    9,
)  # gzip on CTs (assumed), bytes of a number in a Python list, scorings of the pool
KINDS = ("30 epochs", "until convergence", "scores", "evaluation")
# Exponent of the steps until convergence over annotated slices: UVS 8 121: 356 000, all 60 513: 825 000.
GROWTH = 0.42
MEGA, HOUR = 1e6, 3600


def _rate(default, text):
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Rates:
    """Seconds, where nothing else is said. A goal is assumed, not measured."""

    step: float = _rate(0.035, "training step on a GPU, 2 x 44 x 364 x 364 voxels in bf16 (goal for an H100)")
    score: float = _rate(2.5, "Monte Carlo scoring of a mean CT on a GPU, 20 samples (goal for an H100)")
    load: float = _rate(0.06, "loading of a mini-batch, for which the GPU waits (CPU, measured)")
    score_cpu: float = _rate(
        0.9, "intensities, entropy, mask and profile of a mean CT (CPU, measured, scaled by voxels)"
    )
    evaluate_cpu: float = _rate(
        4.4, "resampling to the native grid and metrics of a test case (CPU, measured, scaled by voxels)"
    )
    prepare_cpu: float = _rate(
        7.0, "reading, resampling and writing of a case for the cache (CPU, measured, scaled by voxels)"
    )
    checkpoint: float = _rate(0.5, "writing of a checkpoint of 80 MB every three minutes (assumed)")
    look: float = _rate(0.0005, "look for a file that is not there, on a shared disk (assumed)")
    disk: float = _rate(500.0, "MB a second that a process reads from a shared disk (assumed)")


def schedule(sim, workers, outcome, rounds=None):
    """Let `workers` work off a simulation in virtual time.

    Parameters
    ----------
    sim : a `Simulation` that has yet to begin
    workers : number of processes
    outcome : callable that gives seconds and result of a piece of work from its path and function
    rounds : list for the true seconds that the tasks take whenever they go on

    Returns
    -------
    `{path: (start, end, path of the piece that made it possible)}`
    """
    done, results, running, cause, clock, latest = {}, {}, [], {}, 0.0, None
    sim._tasks.start(sim.workflow(named(["all"])))
    while _advance(sim._tasks, rounds):
        stages = [task.awaited for task in sim._tasks._tasks if isinstance(task.awaited, Stage)]
        pieces = [(stage.priority, *piece) for stage in stages for piece in _works(stage).items()]
        for _, path, _ in pieces:
            cause.setdefault(path, latest)
        waiting = deque(sorted(pieces, key=itemgetter(0)))
        complete = _complete(stages, results)  # where another task has waited for the same stage before
        while not complete:  # nothing new becomes possible before a stage is complete
            while waiting and len(running) < workers:
                _, path, work = waiting.popleft()
                if path not in done:  # two tasks may wait for one stage
                    seconds, result = outcome(path, work)
                    done[path] = clock, clock + seconds, cause[path]
                    heapq.heappush(running, (clock + seconds, len(done), path, result))
            clock, _, latest, result = heapq.heappop(running)
            results[latest] = result
            complete = _complete([stage for stage in stages if latest in _works(stage)], results)
        for stage in complete:
            parts = [results[path] for path in _works(stage)]
            stage._content = {"result": parts if isinstance(stage, SharedStage) else parts[0], "seconds": 0.0}
    return done


def _advance(tasks, rounds):
    started = time.perf_counter()
    unfinished = tasks._advance()
    if rounds is not None:
        rounds.append(time.perf_counter() - started)
    return unfinished


def _complete(stages, results):
    return [stage for stage in stages if _works(stage).keys() <= results.keys()]


def _works(stage):
    """Functions of a stage's pieces by their paths."""
    return stage._parts if isinstance(stage, SharedStage) else {stage.path: stage._work}


def _of_case(path):
    return path.stem.isdecimal()


def _stage(path):
    return path.parent.name if _of_case(path) else path.stem


def _wall(done):
    return max(end for _, end, _ in done.values())


def _print_table(columns, rows):
    print("\n| " + " | ".join(columns) + " |\n| --- |" + " ---: |" * (len(columns) - 1))
    for row in rows:
        print(
            "| "
            + " | ".join(
                cell if isinstance(cell, str) else f"{cell:,.3g}" if cell < 100 else f"{cell:,.0f}"
                for cell in row
            )
            + " |"
        )


# --- measured ----


def measure(preset, workers, rounds):
    """Print seconds of a preset by number of workers and by stage, and what `schedule` makes of these."""
    machine("torch")
    with TemporaryDirectory() as scratch:
        folders, cpu = defaultdict(list), defaultdict(list)

        def run(count):
            folder = Path(scratch) / f"{count}-{len(folders[count])}"
            options = [
                f"--preset={preset}",
                f"--workers={count}",
                "--device=cpu",
                f"--runs={folder}",
                f"--reports={folder}/reports",
            ]
            before = sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
            subprocess.run(
                [sys.executable, ROOT / "benchmark.py", *options], check=True, stderr=subprocess.DEVNULL
            )
            cpu[count].append(sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2]) - before)
            folders[count].append(folder)

        walls = alternate({count: (lambda count=count: run(count)) for count in workers}, rounds)
        first, *others = [
            folder / "reports" / f"{preset}-seed0" / "results"
            for turns in folders.values()
            for folder in turns
        ]
        names = sorted(path.name for path in first.iterdir() if path.name != "timing.csv")
        differing = {
            name
            for other in others
            for name in names
            if not filecmp.cmp(first / name, other / name, shallow=False)
        }
        print(
            f"{len(names)} result files of {len(others) + 1} runs:",
            f"DIFFERENT: {differing}" if differing else "equal, byte for byte",
        )

        # Of the round with the median wall.
        middle = {
            count: sorted(range(rounds), key=walls[count].__getitem__)[rounds // 2] for count in workers
        }
        seconds, virtual = {}, {}
        for count in workers:
            sim, outcome = _repeated(preset, folders[count][middle[count]])
            virtual[count] = {
                other: _wall(schedule(_repeated(preset, sim.run_folder.parent)[0], other, outcome))
                for other in workers
            }
            done = schedule(sim, 1, outcome)
            seconds[count] = {
                name: sum(end - start for path, (start, end, _) in done.items() if _stage(path) == name)
                for name in STAGES
            }
        base = workers[0]
        # Start, cases, results and report come to the stages; how long they take is taken from the runs of
        # one worker alone.
        around = median(walls[base]) - sum(seconds[base].values())
        rows = []
        for count in workers:
            wall, models = (
                median(walls[count]),
                (around + virtual[count][count], around + virtual[base][count]),
            )
            rows.append(
                [
                    str(count),
                    wall,
                    median(walls[base]) / wall,
                    median(cpu[count]),
                    *seconds[count].values(),
                    *models,
                ]
            )
        columns = [
            "wall [s]",
            "speed-up",
            "CPU [s]",
            *(f"{name} [s]" for name in STAGES),
            "model [s]",
            "model by 1 worker's stages [s]",
        ]
        _print_table(["workers", *columns], rows)
        print(
            "\nwall seconds of the rounds:",
            {count: [round(wall, 1) for wall in walls[count]] for count in workers},
        )


def _repeated(preset, runs):
    """A simulation that has yet to begin, and outcomes of its pieces as in the run under `runs`."""
    settings, run = config.resolve(preset), runs / f"{preset}-seed0"
    cases = intake.check_cases(ROOT / "data_manifest.csv", settings, named(["all"]))[1]
    volumes = intake.load_volumes(cases, settings.data.spacing, runs / "cache", QUIET)
    sim = simulation.Simulation(settings, volumes, runs / "virtual", 0, torch.device("cpu"), QUIET)

    def outcome(path, _):
        path = run / path.relative_to(runs / "virtual")
        if not _of_case(path):
            stage = read_json(path)
            return stage["seconds"], stage["result"]
        stage = read_json(path.parent.with_suffix(".json"))
        return stage["seconds"] / len(stage["result"]), stage["result"][int(path.stem)]

    return sim, outcome


# --- modelled ----


class Cohort:
    """The paper's validation and test cases, a pool of some size, all mean CTs, and what its models cost."""

    def __init__(self, pool, scaled=False):
        settings = config.resolve("paper")
        volumes_per_iteration = round(settings.query.volumes_per_iteration * (pool / POOL if scaled else 1))
        self.settings = replace(
            settings, query=replace(settings.query, volumes_per_iteration=volumes_per_iteration)
        )
        self.title = f"{pool:,}" + (f", {volumes_per_iteration} volumes a query" if scaled else "")
        self.pool, self._steps, self.rounds = pool, {}, []
        mean_ct = {"shape": SHAPE, "label": LABEL, "shows_liver": lambda z: bool(LABEL[z].any())}
        self._volumes = {
            split: {
                f"{n}": SimpleNamespace(**mean_ct, case=SimpleNamespace(initial=None, patient_id=n))
                for n in range(size)
            }
            for split, size in (("pool", pool), ("val", VALIDATION), ("test", TEST))
        }

    def schedule(self, workers, rates):
        sim = simulation.Simulation(
            self.settings, self._volumes, Path("virtual"), 0, torch.device("cpu"), QUIET
        )
        random, predict = np.random.default_rng(0), rates.score * prediction_share(self.settings)
        every = self.settings.training.validate_every

        def outcome(path, work):
            name = _stage(path)
            if name == "query":
                return 0.0, work()
            if name == "scores":
                result = {"volume": random.random(), "profile": random.random(SHAPE[0]), "empty": False}
                return rates.score + rates.score_cpu, {"case_id": work.args[1], **result}
            if name == "evaluation":
                return predict + rates.evaluate_cpu, {"DICE": 1.0}
            steps = self.steps(*work.args)
            seconds = steps * (rates.step + rates.load + VALIDATION * predict / every)
            seconds *= 1 + rates.checkpoint / models.CHECKPOINT_SECONDS
            return seconds, {"best_jaccard": 1.0, "best_step": steps, "last_step": steps}

        return schedule(sim, workers, outcome, self.rounds)

    def steps(self, key, annotations):
        """Steps of a model: 30 epochs, or the published ones, grown with annotations, and the patience."""
        if key not in self._steps:
            training, data = self.settings.training, self.settings.data
            if key.converges:
                there = published.effort()[key.annotation_key]["annotated_slices"]
                here = sum(len(annotations.of(case_id)) for case_id in annotations)
                best = published.training_steps()[key] * (here / there) ** GROWTH
                self._steps[key] = round(best + training.patience * training.validate_every)
            else:
                sampler = PatchSampler(
                    self._volumes["pool"],
                    annotations,
                    training.patch,
                    AUNet().halo,
                    training.batch_size,
                    data.window,
                    1,
                )
                self._steps[key] = training.max_epochs * len(sampler.epoch(np.random.default_rng(0)))
        return self._steps[key]

    def resources(self, rates, pieces, gpus):
        """What a run needs beside GPUs, by name."""
        cases, slices = self.pool + VALIDATION + TEST, self.pool * SHAPE[0]
        weights = 4 * sum(parameter.numel() for parameter in AUNet().parameters())
        batch = 2 * 2 * prod(AUNet().input_size(self.settings.training.patch))
        profile = len(json.dumps([np.random.default_rng(0).random()] * SHAPE[0], indent=2))
        source = 2 * prod(NATIVE) * PACKED
        return {
            "cache [GB]": cases * entry_bytes(NATIVE, SHAPE) / 1e9,
            f"source files, packed to {PACKED:.0%} [GB]": cases * source / 1e9,
            "models, and checkpoints of 10 trainings at a time [GB]": (
                len(self._steps) + 10 * CHECKPOINT_WEIGHTS
            )
            * weights
            / 1e9,
            "files of cache and digests": 6 * cases,
            "files in the folder of a scoring, at its end": self.pool,
            "a model's scores.json [MB]": self.pool * profile / MEGA,
            "all scores in each process's memory [GB]": SCORED * slices * FLOAT / 1e9,
            "patch index of the data pool model in memory [GB]": slices * _index_bytes(self.settings) / 1e9,
            "labels read before the data pool training [min]": slices
            * prod(SHAPE[1:])
            / MEGA
            / rates.disk
            / 60,
            "source files hashed the first time, by one process [h]": cases
            * source
            / MEGA
            / rates.disk
            / HOUR,
            f"cache made by {gpus} processes [h]": cases * rates.prepare_cpu / gpus / HOUR,
            "images read by a training [MB/s]": batch / MEGA / (rates.step + rates.load),
            f"claims at the store, {gpus} processes [thousand]": pieces * gpus / 1000,
            "tasks going on, late, on this machine [s]": median(self.rounds[-10:]),
            "looks for pieces in mid-scoring [s]": self.pool / 2 * rates.look,
            "a scoring's piece [s]": rates.score + rates.score_cpu,
        }


def _index_bytes(settings, volumes=8):
    """Bytes an annotated slice that a sampler and the patches of an epoch take in memory."""
    training, data, cases = settings.training, settings.data, [f"{number}" for number in range(volumes)]
    mean_ct = SimpleNamespace(shape=SHAPE, label=LABEL)
    annotations = Annotations({case_id: range(SHAPE[0]) for case_id in cases})
    tracemalloc.start()
    sampler = PatchSampler(
        dict.fromkeys(cases, mean_ct), annotations, training.patch, AUNet().halo, 2, data.window, 1
    )
    batches = sampler.epoch(np.random.default_rng(0))
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return size / volumes / SHAPE[0] if batches else 0


@cache
def prediction_share(settings):
    """Operations of a prediction to those of a Monte Carlo scoring, which runs the decoder per sample."""
    model = AUNet()
    encoder = decoder = 0
    steps = tile_steps(SHAPE, settings.inference.tile, model.stride)
    for size in product(*(_tile_lengths(*axis) for axis in zip(SHAPE, steps, strict=True))):
        for layer, count in operations(model, model.input_size(model.output_size(size))).items():
            encoder, decoder = (
                (encoder + count, decoder) if layer.startswith("encoder") else (encoder, decoder + count)
            )
    return (encoder + decoder) / (encoder + settings.inference.samples * decoder)


def _tile_lengths(length, step):
    return [min(step, length - start) for start in range(0, length, step)]


def model(rates, pools, scaled, gpus):
    """Print the model's tables."""
    cohorts = [
        Cohort(POOL),
        *(Cohort(pool) for pool in pools),
        *(Cohort(pool, scaled=True) for pool in scaled),
    ]
    _print_table(
        ["assumption", "value"],
        [[setting.metadata["help"], getattr(rates, setting.name)] for setting in fields(Rates)],
    )
    hours, walls, resources = [], [], []
    for cohort in cohorts:
        runs = {workers: cohort.schedule(workers, rates) for workers in (*gpus, inf)}
        walls.append(_walls(cohort.title, runs))
        stages = Counter()
        for path, (start, end, _) in runs[inf].items():
            stages[_kind(path)] += (end - start) / HOUR
        hours.append([cohort.title, *(stages[kind] for kind in KINDS), stages.total()])
        resources.append(cohort.resources(rates, len(runs[inf]), gpus[-1]))
        for name in ("data-pool", "USS/converged"):
            last = next(
                path for path in runs[inf] if Path(name) / "evaluation" in path.relative_to("virtual").parents
            )
            print(f"\npool of {cohort.title}, chain up to {name}, {_chain(runs[inf], last)}")
    gpu_alone = replace(rates, load=0.0, score_cpu=0.0, evaluate_cpu=0.0)
    walls.append(
        _walls(
            f"{POOL}, CPU work hidden",
            {workers: cohorts[0].schedule(workers, gpu_alone) for workers in (*gpus, inf)},
        )
    )
    _print_table(["pool: GPU hours", *KINDS, "all"], hours)
    _print_table(["pool: wall hours (efficiency)", *(f"{n} GPU" for n in gpus), "no limit"], walls)
    columns = [cohort.title for cohort in cohorts]
    _print_table(["pool", *columns], [[name, *(each[name] for each in resources)] for name in resources[0]])


def _walls(title, runs):
    total = sum(end - start for start, end, _ in runs[inf].values())
    *limited, _ = (
        f"{_wall(run) / HOUR:,.1f} ({total / _wall(run) / workers:.0%})" for workers, run in runs.items()
    )
    return [title, *limited, _wall(runs[inf]) / HOUR]


def _kind(path):
    if _stage(path) != "training":
        return _stage(path)
    return "until convergence" if path.parent.name in ("converged", "data-pool") else "30 epochs"


def _chain(done, last):
    """Text of the pieces of which each waited for the one before, up to `last`."""
    path, links = last, []
    while path:
        start, end, cause = done[path]
        folder = path.parent.parent if _of_case(path) else path.parent
        links.append(f"{folder.relative_to('virtual')} {_stage(path)} {(end - start) / HOUR:.2f}")
        path = cause
    return f"{done[last][1] / HOUR:.1f} h: " + ", ".join(
        reversed([link for link in links if not link.endswith(" 0.00")])
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = parser.add_subparsers(dest="part", required=True)
    measured, modelled = parts.add_parser("measure"), parts.add_parser("model")
    measured.add_argument(
        "--preset", default="smoke", help="what is run, on the embedded phantoms (%(default)s)"
    )
    measured.add_argument(
        "--workers", type=int, nargs="+", default=[1, 2], help="numbers of processes to compare (1 2)"
    )
    measured.add_argument(
        "--rounds", type=int, default=3, help="how often each is run, in turn (%(default)s)"
    )
    modelled.add_argument(
        "--pools",
        type=int,
        nargs="*",
        default=[1000, 10000],
        help="sizes of the pool beside the paper's (1000 10000)",
    )
    modelled.add_argument(
        "--scaled",
        type=int,
        nargs="*",
        default=[1000],
        help="the same, with queries that grow with the pool (1000)",
    )
    modelled.add_argument("--gpus", type=int, nargs="+", default=[1, 8, 64], help="numbers of GPUs (1 8 64)")
    for rate in fields(Rates):
        modelled.add_argument(
            f"--{rate.name}", type=float, default=rate.default, help=f"{rate.metadata['help']} (%(default)s)"
        )
    options = vars(parser.parse_args())
    if options.pop("part") == "measure":
        measure(**options)
    else:
        model(**{name: options.pop(name) for name in ("pools", "scaled", "gpus")}, rates=Rates(**options))


if __name__ == "__main__":
    main()
