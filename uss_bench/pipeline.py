"""From the command line's arguments to a report: checks everything, gathers a team, simulates, writes, in that order."""

import ctypes
import os
import sys
import traceback
from contextlib import ExitStack, suppress
from pathlib import Path

import torch

from . import InputError, across, config, report, results, stopping
from .intake import check_cases, load_volumes
from .lock import locked
from .phantoms import write_missing_phantoms
from .plan import check_disk, describe_plan, model_count
from .progress import Progress
from .showcase import write_showcase
from .simulation import Simulation
from .status import describe_run
from .storage import PROVENANCE, RUN, SLICES, read_json, remove_partial_files, write_json
from .strategies import STRATEGIES
from .team import PeerLostError, local_rank, local_team, torchrun_rank, torchrun_team, under_torchrun, worker_team
from .volumes import load_volume

A_DAY = 86_400.0  # seconds
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
# What tells a run from another, beside its settings and the files of its cases.
IDENTITY = ("uss_bench", "code_sha256", "libraries", "device", "seed", "manifest_sha256")


def exit_code(work, rank=None, **arguments):
    """Exit code of `work(**arguments)`: 0 done, 2 bad input, 130 interrupted, 1 anything else. Errors that a user can mend are printed."""
    rank = torchrun_rank() if rank is None else rank
    try:
        work(**arguments)
    except InputError as error:
        return _fail(2, error, not getattr(error, "told", rank))
    except KeyboardInterrupt as interrupt:
        return _fail(130, f"interrupted ({interrupt}); the same command continues where it stopped", not getattr(interrupt, "told", rank))
    except PeerLostError as error:
        return _fail(1, f"{error}; the same command continues where the job stopped", not getattr(error, "told", rank))
    except FloatingPointError as error:
        return _fail(1, error)
    except OSError as error:
        told = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else error
        return _fail(1, f"{told}; nothing that was finished is lost: mend this, and the same command continues")
    return 0


def _fail(code, message, printed=True):
    if printed:
        print(f"benchmark.py: {message}", file=sys.stderr)
    return code


def run_seeds(seeds, preset, reports, name=None, dry_run=False, status=False, **options):
    """Run every seed, and with several write the report across them. Arguments and errors as for `run`."""
    names = {seed: f"{name or preset}-seed{seed}" if len(seeds) > 1 or not name else name for seed in seeds}
    for seed in seeds:
        if status:
            print(describe_run(Path(options["runs"]) / names[seed]))
        else:
            run(preset=preset, seed=seed, reports=reports, name=names[seed], dry_run=dry_run, **options)
    if len(seeds) > 1 and not (dry_run or status) and torchrun_rank() == 0:
        folder = Path(reports) / (name or f"{preset}-seeds{'-'.join(map(str, seeds))}")
        path = across.write_across(folder, {seed: Path(reports) / names[seed] for seed in seeds})
        print(f"report across seeds: {path}", file=sys.stderr)


def run(
    manifest, strategies, preset, overrides, seed, device, runs, reports, name, workers=None, dry_run=False, report_only=False, team=None
):
    """Run the benchmark, continue it, or with `report_only` rebuild the report from its results and return its path.

    `team` is the one that this process works for, when `run` itself started it.

    Raises
    ------
    InputError
        Anything wrong with arguments, manifest or data, before any training.
    """
    report_folder = Path(reports) / name
    if report_only:
        path = report.write_report(report_folder)
        print(f"report: {path}", file=sys.stderr)
        return path

    run_folder = Path(runs) / name
    settings = config.resolve(preset, overrides)
    device = _device(device, local_rank(team))
    make_deterministic()
    keep_freed_memory()
    if workers is not None and under_torchrun():
        raise InputError("--workers: torchrun tells the number of processes by --nproc-per-node; leave --workers out")
    workers = workers or _workers(device)
    manifest_cases, cases, warnings = check_cases(manifest, settings, strategies)
    if dry_run:
        if torchrun_rank() == 0:
            print(describe_plan(settings, cases, strategies, device, runs, workers), *(f"warning: {text}" for text in warnings), sep="\n")
        return None

    _check_writable(report_folder)
    origin = results.provenance(settings, manifest, manifest_cases, seed, strategies, device)
    _refuse_another_run(run_folder, report_folder, origin)
    with ExitStack() as stack:
        stack.callback(_remove_if_empty, run_folder)  # at last, where nothing came of the run
        if team is None and under_torchrun():
            team = stack.enter_context(torchrun_team(name, device))
        if team is None or (team.leads and under_torchrun()):
            stack.enter_context(locked(run_folder, lambda text: print(text, file=sys.stderr)))
        if team is None:
            arguments = {"manifest": manifest, "strategies": strategies, "preset": preset, "overrides": overrides, "seed": seed}
            arguments |= {"device": device.type, "runs": runs, "reports": reports, "name": name}
            team = stack.enter_context(local_team(workers, _work_along, arguments))
        progress = Progress(2 * model_count(settings, strategies), sys.stderr if team.leads else None)
        try:
            _run(settings, cases, warnings, origin, strategies, seed, device, run_folder, report_folder, progress, team)
        except BaseException as error:
            with suppress(OSError):  # of the same full disk
                progress.write_log(traceback.format_exc())
            with suppress(PeerLostError):
                error.told = not team.claim(f"farewell/{name}")
            raise


def _remove_if_empty(folder):
    with suppress(OSError):
        folder.rmdir()


def _work_along(rank, size, port, arguments):
    """A worker's whole life; it ends with an exit code."""

    def work():
        run(**arguments, team=worker_team(rank, size, port))

    stopping.install()
    sys.exit(exit_code(work, rank))


def _run(settings, cases, warnings, origin, strategies, seed, device, run_folder, report_folder, progress, team):
    cache = run_folder.parent / "cache"
    if team.leads:
        remove_partial_files(run_folder)
        remove_partial_files(report_folder)
        remove_partial_files(cache, age=A_DAY)  # which other runs may be writing to
        check_disk(cases, settings.data.spacing, cache)
        for text in warnings:
            progress.say(f"warning: {text}")
        team.report("opened")
    while not team.reached("opened"):
        team.pause()
    _prepare(cases, settings.data.spacing, cache, progress, team)
    volumes = load_volumes(cases, settings.data.spacing, cache, progress)
    files = {volume.case.case_id: [volume.image_digest, volume.label_digest] for split in volumes.values() for volume in split.values()}
    _refuse_other_files(run_folder, files)
    if team.leads and not (run_folder / RUN).exists():
        write_json(run_folder / RUN, {**origin, "files": files})
    progress.keep_in(run_folder, team.rank)

    simulation = Simulation(settings, volumes, run_folder, seed, device, progress, team)
    records = simulation.run(strategies)
    if team.leads:
        results.write_results(report_folder, records, volumes, seed)
        write_showcase(simulation, records, report_folder / SLICES)
        notes = [f"{record.name}: {note}" for record in records for note in record.notes]
        write_json(report_folder / PROVENANCE, {**origin, "notes": notes})
        progress.now("writing the report")
        progress.say(f"report: {report.write_report(report_folder)}")
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
        raise InputError("--device cuda: PyTorch finds no CUDA device; use --device cpu, or install a CUDA build of PyTorch")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", local_rank % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


def _workers(device):
    """Processes on this machine: one a GPU; on a CPU one a core, but no more than there are strategies."""
    if device.type == "cuda":
        return torch.cuda.device_count()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1  # macOS does not tell affinity
    return min(len(STRATEGIES), cores)


def make_deterministic():
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts, which has not happened yet
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)  # sums split over threads would depend on their number; pieces of work, not sums, are shared out
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
        raise InputError(f"{folder}: {there} is {'read-only' if there.is_dir() else 'no folder'}; choose another folder with --reports")


def _refuse_another_run(run_folder, report_folder, origin):
    """Check that what is there under this name already belongs to this very run, or is its report by whatever version."""
    for path, identity in ((run_folder / RUN, IDENTITY), (report_folder / PROVENANCE, ("seed", "manifest_sha256"))):
        if not path.exists():
            continue
        before = read_json(path)
        changes = [f"{key}: {before.get(key)} there, {origin[key]} now" for key in identity if before.get(key) != origin[key]]
        changes += [f"{key}: {old} there, {new} now" for key, old, new in config.differences(before["config"], origin["config"])]
        if changes:
            folder = run_folder if path.name == RUN else report_folder
            raise InputError(
                "\n  ".join([f"{folder} holds another run; choose another --name, or remove the folder. It differs in", *changes])
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
