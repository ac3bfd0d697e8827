"""Result files: written from the records of a simulation and the volumes it ran on, read back for the report."""

import hashlib
import platform
import subprocess
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from . import InputError, __version__, config, storage
from .manifest import SPLITS
from .metrics import METRICS, volume_diagonal
from .strategies import STRATEGIES

KEY = ("model", "strategy", "iteration")
EFFORT = ("annotated_slices", "annotated_liver_slices", "unique_patients")
SPACING, SIZE = ([f"{name}_{axis}" for axis in "zyx"] for name in ("spacing", "size"))
LIBRARIES = ("torch", "numpy", "scipy", "nibabel", "statsmodels")


def write_results(folder, records, volumes, seed):
    """Write `results/*.csv` of a report folder. Equal runs give equal bytes in all of them but `timing.csv`."""
    folder = Path(folder)
    all_volumes = [volume for split in volumes.values() for volume in split.values()]
    sites = {volume.case.case_id: volume.case.site for volume in all_volumes}
    storage.write_csv(
        folder / storage.CASES,
        [*KEY, "seed", "case_id", "site", *METRICS, "missed"],
        [
            {**_key(record), "seed": seed, "site": sites[row["case_id"]], **row, "missed": int(row["missed"])}
            for record in records
            for row in record.evaluation
        ],
    )
    storage.write_csv(
        folder / storage.ANNOTATION,
        ["strategy", "iteration", *EFFORT],
        [
            {**_key(record), "strategy": "data pool" if record.model == "data pool" else record.strategy, **record.effort}
            for record in records
            if record.model != "converged"
        ],
    )
    storage.write_csv(
        folder / storage.QUERIES,
        ["strategy", "iteration", "case_id", "slice", "score"],
        [{**_key(record), "case_id": case_id, "slice": z, "score": score} for record in records for case_id, z, score in record.queries],
    )
    storage.write_csv(
        folder / storage.TRAINING,
        [*KEY, "best_step", "last_step", "best_jaccard"],
        [{**_key(record), **record.training} for record in records],
    )
    storage.write_csv(
        folder / storage.TIMING,
        [*KEY, "stage", "seconds"],
        [{**_key(record), "stage": stage, "seconds": seconds} for record in records for stage, seconds in record.seconds.items()],
    )
    storage.write_csv(
        folder / storage.VOLUMES,
        ["case_id", "site", "split", "patient_id", *SPACING, *SIZE, "image_sha256", "label_sha256"],
        [
            {
                **{name: getattr(volume.case, name) for name in ("case_id", "site", "split", "patient_id")},
                **dict(zip(SPACING, volume.native_spacing, strict=True)),
                **dict(zip(SIZE, volume.native_shape, strict=True)),
                "image_sha256": volume.image_digest,
                "label_sha256": volume.label_digest,
            }
            for volume in all_volumes
        ],
    )


def _key(record):
    return {name: getattr(record, name) for name in KEY}


def provenance(settings, manifest, manifest_cases, seed, strategies, device):
    """What a citation needs, as a dictionary without times, paths or host names."""
    return {
        "uss_bench": __version__,
        "git": _git_state(),
        "code_sha256": _code_digest(),
        "python": platform.python_version(),
        "libraries": {name: version(name) for name in LIBRARIES},
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "seed": seed,
        "strategies": list(strategies),
        "config": config.as_dict(settings),
        "config_sha256": settings.digest(),
        "manifest": Path(manifest).name,
        "manifest_sha256": storage.file_digest(manifest),
        "manifest_cases": {split: sum(case.split == split for case in manifest_cases) for split in SPLITS},
    }


def _code_digest():
    """SHA-256 over the package's modules."""
    modules = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256("".join(f"{path.name} {storage.file_digest(path)}\n" for path in modules).encode()).hexdigest()


def _git_state():
    """Commit of the code and whether it was changed since, or None outside a checkout."""
    root = Path(__file__).parent.parent
    try:
        _, commit, changes = (
            subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True).stdout.strip()
            for arguments in (
                ["ls-files", "--error-unmatch", __file__],  # fails where the repository around is another project's
                ["rev-parse", "HEAD"],
                ["status", "--porcelain", "--untracked-files=no", "--", "uss_bench", "benchmark.py"],
            )
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return {"commit": commit, "changed": bool(changes)}


@dataclass(frozen=True)
class Results:
    """What the report knows of a run.

    Attributes
    ----------
    scores : `{(model, strategy, iteration): {metric: (n,) array}}` over the test cases, in one order for all models; infinite
        distances of missed livers are replaced by the diagonal of the case's volume
    missed : `{(model, strategy, iteration): number of missed livers}`
    cases, sites : ids and sites of the test cases, in the order of the scores
    effort : `{(strategy, iteration): {"annotated_slices", ...}}`, with `("", 0)` for the initial and `("data pool", None)` for all
    training : `{(model, strategy, iteration): {"best_step", "last_step", "best_jaccard"}}`
    queries, volumes : rows of the files, as dictionaries of text
    provenance : dictionary
    """

    scores: dict
    missed: dict
    cases: list
    sites: list
    effort: dict
    training: dict
    queries: list
    volumes: list
    provenance: dict

    @property
    def strategies(self):
        return [name for name in STRATEGIES if any(strategy == name for _, strategy, _ in self.scores)]

    @property
    def iterations(self):
        return range(1, 1 + max(iteration for model, _, iteration in self.scores if model == "iteration"))


def read_results(folder):
    """Results of a report folder.

    Raises
    ------
    InputError
        A result file is missing.
    """
    folder = Path(folder)
    names = (storage.CASES, storage.ANNOTATION, storage.QUERIES, storage.TRAINING, storage.VOLUMES, storage.PROVENANCE)
    missing = [name for name in names if not (folder / name).exists()]
    if missing:
        raise InputError(f"{folder}: no {', '.join(missing)}; run the benchmark first, or name its report with --name and --reports")
    rows, annotation, queries, training, volumes = (storage.read_csv(folder / name) for name in names[:-1])
    diagonals = {row["case_id"]: volume_diagonal(*([float(row[name]) for name in names] for names in (SIZE, SPACING))) for row in volumes}

    by_model = {}
    for row in rows:
        by_model.setdefault(_read_key(row), []).append(row)
    first = next(iter(by_model.values()))
    places = {row["case_id"]: place for place, row in enumerate(first)}
    for key, found in by_model.items():
        if sorted(row["case_id"] for row in found) != sorted(places):
            raise InputError(f"{folder}: {storage.CASES} has other cases for {key} than for the first model; run the benchmark again")
        found.sort(key=lambda row: places[row["case_id"]])
    scores = {
        key: {
            metric: np.array([diagonals[row["case_id"]] if row[metric] == "inf" else float(row[metric]) for row in found])
            for metric in METRICS
        }
        for key, found in by_model.items()
    }
    return Results(
        scores=scores,
        missed={key: sum(int(row["missed"]) for row in found) for key, found in by_model.items()},
        cases=[row["case_id"] for row in first],
        sites=[row["site"] for row in first],
        effort={_read_key(row)[1:]: {name: int(row[name]) for name in EFFORT} for row in annotation},
        training={
            _read_key(row): {
                "best_step": int(row["best_step"]),
                "last_step": int(row["last_step"]),
                "best_jaccard": float(row["best_jaccard"]),
            }
            for row in training
        },
        queries=queries,
        volumes=volumes,
        provenance=storage.read_json(folder / storage.PROVENANCE),
    )


def _read_key(row):
    return row.get("model", ""), row["strategy"], int(row["iteration"]) if row["iteration"] else None
