"""From the command line's arguments to a report: checks everything, gathers a team, simulates, writes, in that order."""

import ctypes
import os
import sys
import traceback
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from . import config
from .data.phantoms import phantom_files, write_missing_phantoms
from .data.volumes import load_volume
from .intake import check_cases, load_volumes
from .plan import check_disk, describe_plan, model_count
from .provenance import provenance
from .report import across, document, results
from .runtime import stopping
from .runtime.errors import InputError
from .runtime.exits import exit_code, failed_first
from .runtime.lock import locked
from .runtime.paths import CACHE, PROVENANCE, RUN, SLICES
from .runtime.progress import Progress
from .runtime.storage import read_json, remove_partial_copies, remove_partial_files, write_json
from .runtime.team import (
    PeerLostError,
    Team,
    local_rank,
    local_team,
    torchrun_rank,
    torchrun_team,
    under_torchrun,
    worker_team,
)
from .status import describe_run
from .study.showcase import write_showcase
from .study.simulation import Simulation
from .study.strategies import named

A_DAY = 86_400.0  # seconds
MOST_WORKERS = 4  # on one CPU, unless more are asked for
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
# What tells a run from another, beside its settings and the files of its cases.
IDENTITY = ("uss_bench", "code_sha256", "libraries", "device", "seed", "manifest_sha256")


@dataclass(frozen=True)
class Run:
    """One run, as it was asked for."""

    manifest: Path
    strategies: tuple[str, ...]
    preset: str
    overrides: tuple[str, ...]
    seed: int
    device: str
    runs: Path
    reports: Path
    name: str
    workers: int | None = None

    @property
    def folder(self) -> Path:
        return Path(self.runs) / self.name

    @property
    def report_folder(self) -> Path:
        return Path(self.reports) / self.name

    @property
    def cache(self) -> Path:
        return Path(self.runs) / CACHE


def run_seeds(
    strategy, seed, preset, overrides, reports, name, dry_run, status, report_only, program, **options
):
    """Do what the command line asks for, seed by seed, and with several seeds write the report across them.

    Raises
    ------
    InputError
        Anything wrong with arguments, manifest or data, before any training.
    """
    seeds = list(dict.fromkeys(seed or [0]))
    names = {seed: f"{name or preset}-seed{seed}" if len(seeds) > 1 or not name else name for seed in seeds}
    for number in seeds:
        run = Run(
            strategies=tuple(strategy), preset=preset, overrides=tuple(overrides), seed=number, reports=reports,
            name=names[number], **options,
        )  # fmt: skip
        if status:
            print(describe_run(run.folder))
        elif dry_run:
            print_plan(run)
        elif report_only:
            remove_partial_files(run.report_folder, age=A_DAY)  # which its run may be writing to
            _say_report(document.write_report(run.report_folder))
        else:
            execute(run, program)
    if len(seeds) > 1 and not (dry_run or status) and torchrun_rank() == 0:
        folder = Path(reports) / (name or f"{preset}-seeds{'-'.join(map(str, seeds))}")
        remove_partial_files(folder, age=A_DAY)
        path = across.write_across(folder, {seed: Path(reports) / names[seed] for seed in seeds})
        print(f"report across seeds: {path}", file=sys.stderr)


def _say_report(path):
    print(f"report: {path}", file=sys.stderr)


@dataclass(frozen=True)
class Checked:
    """A run whose arguments, plan and headers are sound: settings, strategies, torch device, cases, warnings."""

    settings: config.Config
    strategies: list
    device: torch.device
    manifest_cases: list
    cases: list
    warnings: list


def check(run: Run, team: Team | None = None) -> Checked:
    """Everything about a run that can be checked without reading voxels. Prepares PyTorch for deterministic work."""
    settings = config.resolve(run.preset, run.overrides)
    strategies = named(run.strategies)
    device = _device(run.device, local_rank(team))
    make_deterministic()
    keep_freed_memory()
    if run.workers is not None and under_torchrun():
        raise InputError(
            "--workers: torchrun sets the number of processes by --nproc-per-node; leave --workers out"
        )
    return Checked(settings, strategies, device, *check_cases(run.manifest, settings, strategies))


def print_plan(run: Run) -> None:
    """What `--dry-run` prints; it writes nothing."""
    checked = check(run)
    if torchrun_rank() == 0:
        workers = run.workers or _workers(checked.device)
        plan = describe_plan(
            checked.settings, checked.cases, checked.strategies, checked.device, run.runs, workers
        )
        print(plan, *(f"warning: {text}" for text in checked.warnings), sep="\n")


def execute(run: Run, program: str, team: Team | None = None) -> None:
    """Run the benchmark, or continue it. `team` is the one that this process works for, when `execute` itself started it."""
    checked = check(run, team)
    _check_writable(run.report_folder)
    origin = provenance(checked, run.manifest, run.seed)
    _refuse_another_run(run, origin)
    with ExitStack() as stack:
        stack.callback(_remove_if_empty, run.folder)  # at last, where nothing came of the run
        if team is None and under_torchrun():
            team = stack.enter_context(torchrun_team(run.name, checked.device))
        if team is None or (team.leads and under_torchrun()):
            stack.enter_context(locked(run.folder, lambda text: print(text, file=sys.stderr)))
        if team is None:
            team = stack.enter_context(
                local_team(run.workers or _workers(checked.device), _work_along, (run, program))
            )
        progress = Progress(
            2 * model_count(checked.settings, checked.strategies), sys.stderr if team.leads else None
        )
        try:
            _work(run, checked, origin, progress, team)
        except BaseException as error:
            with suppress(OSError):  # of the same full disk
                progress.write_log(traceback.format_exc())
            with suppress(PeerLostError):
                failed_first(error, team.claim(f"farewell/{run.name}"))
            raise


def _remove_if_empty(folder):
    with suppress(OSError):
        folder.rmdir()


def _work_along(rank, size, port, arguments):
    """A worker's whole life; it ends with an exit code."""
    run, program = arguments
    stopping.install()
    sys.exit(exit_code(program, lambda: execute(run, program, worker_team(rank, size, port)), rank))


def _work(run, checked, origin, progress, team):
    """The work itself: prepare the cases, simulate, write the results, the report from them."""
    spacing = checked.settings.data.spacing
    if team.leads:
        remove_partial_files(run.folder)
        remove_partial_files(run.report_folder)
        remove_partial_files(run.cache, age=A_DAY)  # which other runs may be writing to
        for path in phantom_files(checked.cases):
            remove_partial_copies(path, age=A_DAY)
        check_disk(checked.cases, spacing, run.cache)
        for text in checked.warnings:
            progress.say(f"warning: {text}")
        team.report("opened")
    while not team.reached("opened"):
        team.pause()
    _prepare(checked.cases, spacing, run.cache, progress, team)
    volumes = load_volumes(checked.cases, spacing, run.cache, progress)
    files = {
        volume.case.case_id: [volume.image_digest, volume.label_digest]
        for split in volumes.values()
        for volume in split.values()
    }
    _refuse_other_files(run.folder, files)
    if team.leads and not (run.folder / RUN).exists():
        write_json(run.folder / RUN, {**origin, "files": files})
    progress.keep_in(run.folder, team.rank)

    simulation = Simulation(checked.settings, volumes, run.folder, run.seed, checked.device, progress, team)
    records = simulation.run(checked.strategies)
    if team.leads:
        results.write_results(run.report_folder, records, volumes, run.seed, simulation.seconds)
        write_showcase(simulation, records, run.report_folder / SLICES)
        notes = [f"{record.key.title}: {note}" for record in records for note in record.notes]
        write_json(run.report_folder / PROVENANCE, {**origin, "notes": notes})
        progress.now("writing the report")
        progress.say(f"report: {document.write_report(run.report_folder)}")
    progress.withdraw()


def _prepare(cases, spacing, cache, progress, team):
    """Make phantoms and cache entries, shared out over the team; faults come to light when all cases are loaded."""
    for number, case in enumerate(cases, start=1):
        if team.claim(f"cache/{case.case_id}"):
            progress.now(f"preparing case {number} of {len(cases)}")
            write_missing_phantoms([case])
            with suppress(InputError):
                load_volume(case, spacing, cache)
            team.report("prepared")
    while team.reached("prepared") < len(cases):
        team.pause()


def _device(name, local_rank):
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError(
            "--device cuda: PyTorch finds no CUDA device; use --device cpu, or install a CUDA build of PyTorch"
        )
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", local_rank % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


def _workers(device):
    """Processes on this machine: one per GPU; on a CPU one per core, but no more than have work for most of the time."""
    if device.type == "cuda":
        return torch.cuda.device_count()
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )  # macOS does not tell affinity
    return min(MOST_WORKERS, cores)


def make_deterministic():
    os.environ.setdefault(
        "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
    )  # read when CUDA starts, which has not happened yet
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(
        1
    )  # sums split over threads would depend on their number; pieces of work, not sums, are shared out
    # Deterministic mode fills all memory it is given, to show who reads what was never written; no result depends on it.
    torch.utils.deterministic.fill_uninitialized_memory = False


def keep_freed_memory():
    """Have glibc keep what is freed: else every large tensor is given back and its pages are mapped anew, for a third of a step's time."""
    with suppress(AttributeError, OSError, TypeError):  # another C library
        set_option = ctypes.CDLL(None).mallopt
        for option in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD):
            set_option(option, 2**31 - 1)


def _check_writable(folder):
    """Check early what is written late."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not (there.is_dir() and os.access(there, os.W_OK)):
        raise InputError(
            f"{folder}: {there} is {'read-only' if there.is_dir() else 'no folder'}; choose another folder with --reports"
        )


def _refuse_another_run(run, origin):
    """Check that what is there under this name already belongs to this very run, or is its report by whatever version."""
    of_run, of_report = run.folder / RUN, run.report_folder / PROVENANCE
    for path, identity in ((of_run, IDENTITY), (of_report, ("seed", "manifest_sha256"))):
        if not path.exists():
            continue
        before = read_json(path)
        changes = [
            f"{key}: {before.get(key)} there, {origin[key]} now"
            for key in identity
            if before.get(key) != origin[key]
        ]
        changes += [
            f"{key}: {old} there, {new} now"
            for key, old, new in config.differences(before["config"], origin["config"])
        ]
        if changes:
            folder = run.folder if path == of_run else run.report_folder
            raise InputError(
                "\n  ".join(
                    [
                        f"{folder} holds another run; choose another --name, or remove the folder. It differs in",
                        *changes,
                    ]
                )
            )


def _refuse_other_files(run_folder, files):
    """Check that images and labels are those that the run began with."""
    before = read_json(run_folder / RUN)["files"] if (run_folder / RUN).exists() else files
    changed = [case_id for case_id in files if files[case_id] != before.get(case_id)]
    if changed:
        raise InputError(
            f"{run_folder} was begun with other files of case(s) {', '.join(changed)}; bring these back, choose another --name, "
            "or remove the folder"
        )
