"""What the timing scripts share: cases, and rounds in turn, so that a busy machine slows all rows alike."""

import importlib
import importlib.metadata
import os
import platform
import time
from pathlib import Path
from statistics import median

from uss_bench.data.manifest import Case
from uss_bench.data.phantoms import write_missing_phantom

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "real"  # not part of the project


def default_folders(*names):
    """Folders of real cases that are at hand; none of them: the scripts take a phantom."""
    return [REAL / name for name in names if (REAL / name).is_dir()]


def case_of(folder, scratch):
    """`Case` of a folder with `ct.nii.gz` and `liver.nii.gz`; without one, of a phantom in `scratch`."""
    home = Path(folder or scratch)
    case = Case(
        home.name,
        "north",
        "test",
        home / "ct.nii.gz",
        home / "liver.nii.gz",
        home.name,
        extra={} if folder else {"phantom": "normal"},
    )
    write_missing_phantom(case)
    return case


def alternate(callables, rounds):
    """Time callables in turn; the first of each round is another one each time.

    Parameters
    ----------
    callables : dict of name to callable without arguments
    rounds : how often each is called

    Returns
    -------
    dict of name to list of wall seconds, one per round
    """
    names = list(callables)
    seconds = {name: [] for name in names}
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            start = time.perf_counter()
            callables[name]()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def table(title, seconds, ours):
    """Print a Markdown table of medians, their ratios to that of `ours`, and ranges; fastest first."""
    medians = {name: median(times) for name, times in seconds.items()}
    print(
        f"\n| {title} | median [s] | ratio to ours | range [s] | rounds |",
        "| --- | ---: | ---: | ---: | ---: |",
        sep="\n",
    )
    for name in sorted(medians, key=medians.get):
        times = seconds[name]
        print(
            f"| {name} | {medians[name]:.3f} | {medians[name] / medians[ours]:.2f} "
            f"| {min(times):.3f}-{max(times):.3f} | {len(times)} |"
        )


def peer(module):
    """A module to compare with, or None and a line that says so where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        print(f"{module}: left out ({error})")
        return None


def machine(*modules):
    """Print one line on the processor, its cores, Python and the versions of the distributions `modules`."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions = [f"{name} {importlib.metadata.version(name)}" for name in modules if _installed(name)]
    print(", ".join([_processor(), f"{cores} cores", f"Python {platform.python_version()}", *versions]))


def _installed(distribution):
    try:
        return bool(importlib.metadata.version(distribution))
    except importlib.metadata.PackageNotFoundError:
        return False


def _processor():
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
