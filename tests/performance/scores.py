"""Scoring a case for all strategies, against the two uncertainties that the paper's four need.

    python tests/performance/scores.py [FOLDER] [--preset quick] [--spacing 4 4 4] [--rounds 7]

FOLDER holds `ct.nii.gz` and `liver.nii.gz`; without one, a phantom is scored. Both rows run Monte Carlo
dropout on the same volume with the same masks.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from _timing import alternate, case_of, default_folders, machine, table

from uss_bench import config
from uss_bench.data.volumes import load_volume
from uss_bench.network.uncertainty import slice_profile, volume_uncertainty
from uss_bench.runtime.machine import keep_freed_memory, make_deterministic
from uss_bench.runtime.progress import Progress
from uss_bench.study.evaluation import THRESHOLD
from uss_bench.study.keys import INITIAL
from uss_bench.study.models import Models
from uss_bench.study.querying import in_voxels
from uss_bench.study.uncertainty_quality import keep_mean

ALL, EXTENDED = "`all`: slice and volume entropy", "`extended`: every score"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="?", type=Path, default=next(iter(default_folders("chaos03")), None))
    parser.add_argument("--preset", default="quick")
    parser.add_argument("--spacing", type=float, nargs=3, default=(4.0, 4.0, 4.0), help="(z, y, x) in mm")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    machine("torch")
    make_deterministic()
    keep_freed_memory()
    settings = config.resolve(options.preset, [f"data.spacing={','.join(map(str, options.spacing))}"])
    with TemporaryDirectory() as scratch:
        case = case_of(options.folder, scratch)
        volume = load_volume(case, settings.data.spacing, Path(scratch) / "cache")
        volumes = {"pool": {case.case_id: volume}, "val": {}, "test": {}}
        models = Models(settings, volumes, scratch, 0, torch.device("cpu"), Progress(0))
        models._loaded = INITIAL, models._new_model(INITIAL).eval()

        def papers():
            found = models.uncertainty(INITIAL, case.case_id)
            keep_mean(models._mean_path(INITIAL, case.case_id), found.mean)
            reach = in_voxels(settings.query.dilation_mm, settings.data.spacing)
            volume_uncertainty(found.entropy, found.mean >= THRESHOLD, reach)
            slice_profile(found.entropy)

        calls = {ALL: papers, EXTENDED: lambda: models.score(INITIAL, case.case_id)}
        seconds = alternate(calls, options.rounds)
        shape = " x ".join(map(str, volume.shape))
        table(f"{shape} voxels, {settings.inference.samples} samples, `{options.preset}`", seconds, ALL)


if __name__ == "__main__":
    main()
