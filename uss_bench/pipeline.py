"""From the command line's arguments to a report: check everything, gather a team, simulate, write."""

from __future__ import annotations

import os
import shutil
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from .data import cohort
from .data.phantoms import phantom_files
from .identity import (
    file_digests,
    refuse_another_run,
    refuse_other_files,
    refuse_single_run,
    refuse_strange_seeds,
)
from .intake import load_volumes, prepare_cases
from .plan import check_disk, describe_plan, planned_models
from .provenance import provenance
from .report import across, document, result_files
from .request import Checked, Run, check_name, check_run, check_seed
from .runtime import stopping
from .runtime.errors import InputError
from .runtime.exits import exit_code, note_failure
from .runtime.lock import locked
from .runtime.machine import default_workers
from .runtime.paths import ASKED_FOR, PROVENANCE, RUN, SLICES, STATUS, TESTS
from .runtime.progress import Progress
from .runtime.storage import (
    A_DAY,
    check_writable,
    remove_if_empty,
    remove_partial_copies,
    remove_partial_files,
    write_json,
)
from .runtime.team import (
    PeerLostError,
    Team,
    local_team,
    torchrun_rank,
    torchrun_team,
    under_torchrun,
    worker_team,
)
from .status import describe_run
from .study.models import training_work
from .study.showcase import write_showcase
from .study.simulation import Simulation
from .study.uncertainty_quality import write_uncertainty_quality


def perform(action: str, runs: Sequence[Run], program: str) -> None:
    """Do what the command line asks for, run by run.

    Parameters
    ----------
    action : str
        "run" or "report_only", which with several runs end with the report across their seeds; "dry_run",
        which prints the plans; "status", which says how they are doing.
    runs : sequence of Run
        One per seed.
    program : str
        Its name, which begins every error message.

    Raises
    ------
    InputError
        Anything wrong with arguments, manifest or data, before any training.
    """
    for run in runs:
        check_name(run.name)
        check_seed(run.seed)
    if action == "status":
        return _print_status(runs)
    do = {
        "run": lambda run: execute(run, program),
        "report_only": _rebuild_report,
        "dry_run": print_plan,
    }[action]
    reports = {run.seed: run.report_folder for run in runs}
    if len(runs) > 1:
        check_name(runs[0].across_name)
        check_writable(runs[0].across_folder)
        refuse_single_run(runs[0].across_folder)
    if action == "report_only" and len(runs) > 1:
        refuse_strange_seeds(reports)  # those of a finished run are alike: `refuse_another_run` saw to it
    if action == "run" and len(runs) > 1:
        for run in runs:  # no seed's fault is to show after another has trained
            _check(run)
    for run in runs:
        do(run)
    if len(runs) > 1 and action in ("run", "report_only") and torchrun_rank() == 0:
        folder = runs[0].across_folder
        remove_partial_files(folder, age=A_DAY)
        path = across.write_across(folder, reports)
        print(f"report across seeds: {path}", file=sys.stderr)


def _print_status(runs: Sequence[Run]) -> None:
    """How each run is doing; those of later seeds may not have begun."""
    unbegun = []
    for run in runs:
        try:
            print(describe_run(run.folder))
        except InputError as error:
            unbegun.append(error)
    if len(unbegun) == len(runs):
        raise unbegun[0]
    for error in unbegun:
        print(error)


def _rebuild_report(run: Run) -> None:
    check_writable((run.report_folder / TESTS).parent)
    remove_partial_files(run.report_folder, age=A_DAY)  # which its run may be writing to
    print(f"report: {document.write_report(run.report_folder)}", file=sys.stderr)


def print_plan(run: Run) -> None:
    """What `--dry-run` prints; it writes nothing."""
    with _borrowed_manifest(run) as borrowing:
        checked = check_run(borrowing)
        if borrowing is run:  # else the folders can be those of no run that could go on
            refuse_another_run(run, provenance(checked, run.manifest, run.seed))
    _check_folders(run)
    check_disk(checked.cases, checked.settings.data.spacing, run.cache)
    if torchrun_rank() == 0:
        workers = run.workers or default_workers(checked.device)
        plan = describe_plan(
            checked.settings, checked.cases, checked.strategies, checked.device, run.runs, workers, run.seed
        )
        print(plan, *(f"warning: {text}" for text in checked.warnings), sep="\n")


@contextmanager
def _borrowed_manifest(run: Run) -> Iterator[Run]:
    """The run, with a passing copy of the embedded manifest where that has not been written yet."""
    if not run.make_manifest or os.path.lexists(run.manifest):
        yield run
        return
    with TemporaryDirectory() as folder:
        copy = Path(folder) / run.manifest.name
        cohort.write_default_manifest(copy, Path("data/phantoms").absolute())
        yield replace(run, manifest=copy, make_manifest=False)


def execute(run: Run, program: str, team: Team | None = None) -> None:
    """Run the benchmark, or continue it.

    Parameters
    ----------
    run : Run
        What to run.
    program : str
        Its name, which begins every error message.
    team : Team, optional
        The one that this process works for, if it is a worker that another `execute` started.
    """
    try:
        checked, origin = _check(run, team)
    except InputError as error:  # of this worker alone, perhaps: its GPU, say
        if team:
            _note_failure(error, run, team)
        raise
    with ExitStack() as stack:
        stack.callback(remove_if_empty, run.folder)  # at last, where nothing came of the run
        if team is None and under_torchrun():
            team = stack.enter_context(torchrun_team(run.name))
        if team is None or (team.leads and under_torchrun()):
            stack.enter_context(locked(run.folder, lambda text: print(text, file=sys.stderr)))
            refuse_another_run(run, origin)  # by whoever held it until now
        if team is None:
            workers = run.workers or default_workers(checked.device)
            team = stack.enter_context(local_team(workers, _work_along, (run, program)))
        keys = planned_models(checked.settings, checked.strategies)
        work = sum(training_work(checked.settings.training, key.converges) for key in keys)
        progress = Progress(2 * len(keys), sys.stderr if team.leads else None, work)
        try:
            _work(run, checked, origin, progress, team)
            if team.leads:
                team.claim(f"farewell/{run.name}")  # workers that are sent home now have nothing to say
        except BaseException as error:
            with suppress(OSError):  # of the same full disk
                progress.write_log(traceback.format_exc())
            _note_failure(error, run, team)
            raise


def _check(run: Run, team: Team | None = None) -> tuple[Checked, dict[str, Any]]:
    """Check all that needs no voxels and no lock; returns the run's provenance too."""
    checked = check_run(run, team)
    _check_folders(run)
    origin = provenance(checked, run.manifest, run.seed)
    refuse_another_run(run, origin)
    return checked, origin


def _note_failure(error: BaseException, run: Run, team: Team) -> None:
    with suppress(PeerLostError):
        note_failure(error, team.claim(f"farewell/{run.name}"))


def _check_folders(run: Run) -> None:
    check_writable(run.folder, "--runs")
    check_writable(run.report_folder)


def _work_along(rank: int, size: int, port: int, arguments: tuple[Run, str]) -> None:
    """A worker's whole life; it ends with an exit code."""
    run, program = arguments
    stopping.install()
    sys.exit(exit_code(program, lambda: execute(run, program, worker_team(rank, size, port)), rank))


def _work(run: Run, checked: Checked, origin: Mapping[str, Any], progress: Progress, team: Team) -> None:
    """The work itself: prepare the cases, simulate, write the results, and the report from them."""
    spacing = checked.settings.data.spacing
    if team.leads:
        _open(run, checked, progress)
        team.report("opened")
    while not team.reached("opened"):
        team.pause()
    prepare_cases(checked.cases, spacing, run.cache, progress, team)
    volumes = load_volumes(checked.cases, spacing, run.cache, progress)
    files = file_digests(volumes)
    if team.leads:
        refuse_other_files(run.folder, files)
        if not (run.folder / RUN).exists():
            write_json(run.folder / RUN, {**origin, "files": files})
        team.report("named")
    else:  # this process may compute on another device, or with other libraries or files
        while not team.reached("named"):
            team.pause()
        refuse_another_run(run, origin)
        refuse_other_files(run.folder, files)
    progress.keep_in(run.folder, team.rank)
    models = len(planned_models(checked.settings, checked.strategies))
    progress.say(f"{len(checked.cases)} cases ready, {models} models to train and evaluate")

    simulation = Simulation(checked.settings, volumes, run.folder, run.seed, checked.device, progress, team)
    records = simulation.run(checked.strategies)
    if team.leads:
        result_files.write_results(run.report_folder, records, volumes, run.seed, simulation.seconds)
        edge = checked.settings.data.spacing[0]
        write_uncertainty_quality(run.report_folder, simulation.assessed, records, edge)
        write_showcase(simulation, records, run.report_folder / SLICES)
        notes = [f"{record.key.title}: {note}" for record in records for note in record.notes]
        write_json(run.report_folder / PROVENANCE, {**origin, "notes": notes})
        progress.now("writing the report")
        progress.say(f"report: {document.write_report(run.report_folder)}")
    progress.withdraw()


def _open(run: Run, checked: Checked, progress: Progress) -> None:
    """Clear away what a killed process left, check the disk, and note who is to be trained."""
    shutil.rmtree(run.folder / STATUS, ignore_errors=True)
    remove_partial_files(run.folder)
    remove_partial_files(run.report_folder)
    remove_partial_files(run.cache, age=A_DAY)  # which other runs may be writing to
    for path in phantom_files(checked.cases):
        remove_partial_copies(path, age=A_DAY)
    check_disk(checked.cases, checked.settings.data.spacing, run.cache)
    write_json(run.folder / ASKED_FOR, [strategy.name for strategy in checked.strategies])
    for text in checked.warnings:
        progress.say(f"warning: {text}")
