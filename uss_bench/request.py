"""A run as the user asks for it, and all that can be checked before it begins."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from . import config
from .data import cohort
from .data.manifest import Case
from .intake import check_cases
from .plan import working_shape
from .runtime.errors import InputError
from .runtime.machine import prepared_device
from .runtime.paths import CACHE
from .runtime.team import Team, local_rank, under_torchrun
from .study import own
from .study.replay import QueryList, read_queries
from .study.simulation import initial_cases
from .study.strategies import Strategy, named

LONGEST_NAME = 200  # bytes of a folder's name: file systems take 255, and more is appended


@dataclass(frozen=True)
class Run:
    """One run, as it was asked for on the command line.

    Attributes
    ----------
    manifest : Path
        CSV of cases.
    strategies : tuple of str
        Names of query strategies, `FILE.py:NAME`, `all` or `extended`.
    preset, overrides : str, tuple of str
        Settings to start from, and changes `section.key=value`.
    seed : int
        Of all random draws.
    device : str
        "auto", "cpu" or "cuda".
    runs, reports : Path
        Folders of all runs and of all reports.
    name : str
        Of this run and its report.
    workers : int, optional
        Processes that share the work; by default as many as the machine allows.
    make_manifest : bool
        Whether `manifest` is the embedded one, and written where it is missing.
    across_name : str
        Of the report across all seeds that were asked for together.
    queries : tuple of str
        Lists to replay, `LABEL=FILE.csv`.
    """

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
    make_manifest: bool = False
    across_name: str = ""
    queries: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """Folder of models and stages."""
        return self.runs / self.name

    @property
    def report_folder(self) -> Path:
        """Folder of the report."""
        return self.reports / self.name

    @property
    def across_folder(self) -> Path:
        """Folder of the report across seeds."""
        return self.reports / self.across_name

    @property
    def cache(self) -> Path:
        """Folder of preprocessed volumes, shared by all runs."""
        return self.runs / CACHE


@dataclass(frozen=True)
class Checked:
    """A run whose arguments, plan and headers are sound.

    Attributes
    ----------
    settings : config.Config
        Preset and overrides.
    strategies : sequence of Strategy
        In the order of the table of strategies, then those of one's own and the lists to replay.
    device : torch.device
        Where networks run.
    manifest_cases, cases : sequence of Case
        All in the manifest, and those that the settings choose.
    warnings : sequence of str
        What is doubtful about them.
    """

    settings: config.Config
    strategies: Sequence[Strategy]
    device: torch.device
    manifest_cases: Sequence[Case]
    cases: Sequence[Case]
    warnings: Sequence[str]


def check_run(run: Run, team: Team | None = None) -> Checked:
    """Check everything about a run that needs no voxels, and prepare PyTorch for it.

    The embedded manifest is written where it is missing.

    Raises
    ------
    InputError
        Anything wrong with arguments, manifest, plan or headers.
    """
    check_name(run.name)
    settings = config.resolve(run.preset, run.overrides)
    strategies, lists = _asked_for(run)
    device = prepared_device(run.device, settings.network.bfloat16, local_rank(team))
    if run.workers is not None and under_torchrun():
        raise InputError(
            "--workers: torchrun sets the number of processes by --nproc-per-node; leave --workers out"
        )
    if run.workers is not None and run.workers < 1:
        raise InputError(f"--workers {run.workers}: nobody to do the work; give at least 1")
    # Under torchrun whoever comes first: all would write the same bytes, and machines may share no folder.
    if run.make_manifest and cohort.write_default_manifest(run.manifest):
        print(f"{run.manifest}: written, the manifest of the embedded phantoms", file=sys.stderr)
    manifest_cases, cases, warnings = check_cases(run.manifest, settings, strategies)
    strategies += _replayed(lists, cases, settings, run.seed)
    return Checked(settings, strategies, device, manifest_cases, cases, warnings)


def _asked_for(run: Run) -> tuple[list[Strategy], list[QueryList]]:
    """Strategies that choose for themselves, and lists to be replayed, each under a name of its own."""
    files = [name for name in dict.fromkeys(run.strategies) if own.is_reference(name)]
    strategies = named(name for name in run.strategies if name not in files) + list(map(own.load, files))
    lists = [read_queries(argument) for argument in dict.fromkeys(run.queries)]
    names = Counter([each.name.upper() for each in strategies] + [each.label.upper() for each in lists])
    if twice := [name for name, count in names.items() if count > 1]:
        raise InputError(f"{', '.join(twice)}: two strategies have this name; rename one of them")
    return strategies, lists


def _replayed(
    lists: Sequence[QueryList], cases: Sequence[Case], settings: config.Config, seed: int
) -> list[Strategy]:
    """The lists as strategies, once they are found to fit the pool."""
    pool, query = [case for case in cases if case.split == "pool"], settings.query
    initial = initial_cases(pool, query.initial_volumes, seed)
    listed = {row.query.case_id for each in lists for row in each.rows}
    slices = {
        case.case_id: working_shape(case, settings.data.spacing)[0] for case in pool if case.case_id in listed
    }
    return [each.as_strategy(slices, initial, query.iterations) for each in lists]


def check_name(name: str) -> None:
    """Raise InputError where a run's name is none for a folder of its own."""
    strange = Path(name).name != name or name in ("..", CACHE) or not name.isprintable()
    if strange or len(name.encode()) > LONGEST_NAME:
        raise InputError(f"--name {name!r}: cannot name a folder; use a few letters, digits, - and _")


def check_seed(seed: int) -> None:
    """Raise InputError where a seed is negative, which NumPy's generators refuse."""
    if seed < 0:
        raise InputError(f"--seed {seed}: must not be negative; give 0 or more")
