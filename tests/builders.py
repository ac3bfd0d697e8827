"""What several test files share: tiny cases, and the program as a user runs it."""

import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np

from uss_bench.data.manifest import Case
from uss_bench.study.keys import ModelKey

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"  # real CTs, which are no part of the project


def write_case(folder, number, split):
    """A bright ellipsoid of liver in noise, another for every number."""
    rng = np.random.default_rng(number)
    z, y, x = np.mgrid[:20, :18, :18]
    centre, radii = rng.uniform(7, 11, 3), rng.uniform(4, 6, 3)
    liver = sum(((axis - c) / r) ** 2 for axis, c, r in zip((z, y, x), centre, radii, strict=True)) < 1
    hu = np.where(liver, 100, -50) + rng.normal(0, 20, liver.shape)
    case = Case(
        f"case-{number}",
        "site",
        split,
        folder / f"{number}.nii.gz",
        folder / f"{number}_liver.nii.gz",
        f"patient-{number // 2}",
    )
    for path, array in ((case.image, hu.astype(np.int16)), (case.label, liver.astype(np.uint8))):
        nib.save(nib.Nifti1Image(array.transpose(2, 1, 0), np.diag([4.0, 4.0, 4.0, 1.0])), path)
    return case


def benchmark(*arguments, folder, **options):
    command = [sys.executable, str(ROOT / "benchmark.py"), *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def finish(process):
    try:
        out, err = process.communicate(timeout=300)
    except subprocess.TimeoutExpired:
        process.terminate()
        raise
    return process.returncode, out, err


def deterministic_files(report):
    """Bytes of everything in a report folder that equal runs must agree on."""
    files = {
        path.relative_to(report).as_posix(): path.read_bytes() for path in report.rglob("*") if path.is_file()
    }
    del files["results/timing.csv"]
    return files


def assert_same_files(report, other):
    """Two report folders agree on everything that equal runs must agree on; names tell where they do not."""
    ours, theirs = deterministic_files(report), deterministic_files(other)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []


def keyed(values):
    """`{(kind, strategy, iteration): value}` under model keys."""
    return {ModelKey(*key): value for key, value in values.items()}
