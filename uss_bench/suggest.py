"""`uss-bench suggest`: which slices of which CTs to annotate next, with a proposal to correct."""

from __future__ import annotations

import hashlib
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from .data import dicom
from .data.manifest import Case, read_manifest
from .data.nifti import write_nifti
from .data.volumes import Volume
from .intake import file_problems, load_volumes
from .model_file import FittedModel, read_model
from .network.inference import MonteCarlo
from .network.uncertainty import predictive_entropy
from .plan import check_disk
from .provenance import code_digest
from .request import check_writable
from .runtime.errors import InputError, refuse
from .runtime.machine import choose_device, keep_freed_memory, make_deterministic
from .runtime.paths import CACHE
from .runtime.progress import Progress
from .runtime.storage import atomic_folder, read_json, write_json
from .study import own
from .study.annotation import Annotations
from .study.keys import FITTED
from .study.models import EVERYTHING, Models
from .study.pool import Query
from .study.querying import Querying
from .study.records import TrainingSet
from .study.strategies import FEATURED, STRATEGIES, Strategy, named
from .study.uncertainty_quality import STEPS, keep_mean, kept_mean
from .todo import write_todo

NIFTI = (".nii", ".nii.gz")
ENDINGS = (*NIFTI, ".mha", ".mhd", ".nrrd")
SITE = "unknown"  # of CTs that no manifest names
MEAN, SCORES = "mean", "scores.json"  # what is kept of a CT


@dataclass(frozen=True)
class Suggest:
    """A suggestion, as it was asked for on the command line.

    Attributes
    ----------
    model : Path
        Model file that `uss-bench fit` wrote.
    images : sequence of Path
        CTs: NIfTI files or, with SimpleITK, DICOM folders, MetaImage and NRRD files.
    slices : int
        How many slices of the working grid to ask for.
    output : Path
        Folder to write.
    strategy : str
        Name of a query strategy that asks for slices, or `FILE.py:NAME` for one of your own.
    annotated : Path, optional
        Manifest of what is annotated already, as it was given to `uss-bench fit`. Annotated slices are not
        suggested again, and partly annotated labels are added to.
    device : str
        "auto", "cpu" or "cuda".
    runs : Path
        Folder of all runs, in which preprocessed volumes and scores are kept.
    """

    model: Path
    images: Sequence[Path]
    slices: int
    output: Path
    strategy: str = FEATURED
    annotated: Path | None = None
    device: str = "auto"
    runs: Path = Path("runs")


def suggest(asked: Suggest) -> None:
    """Score CTs, choose the slices to annotate next, and write the folder that `todo` describes.

    Raises
    ------
    InputError
        Anything wrong with arguments, model file, manifest or CTs, before any scoring.
    """
    fitted, strategy = read_model(asked.model), _strategy(asked.strategy)
    device = choose_device(asked.device)
    make_deterministic()
    keep_freed_memory()
    _check_output(asked.output)
    if asked.slices < 1:
        raise InputError(f"--slices {asked.slices}: nothing to suggest; ask for at least one")
    manifest_cases = read_manifest(asked.annotated) if asked.annotated else []
    progress = Progress(0, sys.stderr)
    with atomic_folder(asked.output, shared=False) as folder:
        cases = _cases(asked.images, manifest_cases, folder, progress)
        volumes = _volumes(cases, fitted, Path(asked.runs) / CACHE, progress)
        home = Path(asked.runs) / f"suggest-{_short_digest(fitted.digest, code_digest())}"
        models = Models(fitted.settings, {"pool": volumes}, home, fitted.seed, device, progress)
        scoring = Scoring(models, fitted, home)
        queries = _choose(scoring, strategy, asked.slices)
        left_out = write_todo(folder, queries, volumes, scoring, manifest_cases)
    for text in left_out:
        progress.say(f"note: {text}")
    chosen = {query.case_id for query in queries}
    progress.say(
        f"{asked.output}: {len(queries)} slices of the {fitted.settings.data.spacing[0]:g} mm grid, in "
        f"{len(chosen)} of {len(cases)} CTs; correct *_todo.nii.gz there, then `uss-bench fit "
        f"{asked.output / 'manifest.csv'}`"
    )


def _strategy(name: str) -> Strategy:
    found = [own.load(name)] if ".py:" in name else named([name])
    if len(found) != 1 or not _is_of_use(found[0]):
        possible = ", ".join(strategy.name for strategy in STRATEGIES.values() if _is_of_use(strategy))
        raise InputError(
            f"--strategy {name}: not one strategy that asks for slices without reading labels; "
            f"choose one of {possible}"
        )
    # Nobody can say which of its slices show liver before they are annotated.
    return replace(found[0], until_liver=False)


def _is_of_use(strategy: Strategy) -> bool:
    return strategy.by_slices and not strategy.is_oracle


def _check_output(folder: Path) -> None:
    """Refuse to touch what may have been corrected."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise InputError(
            f"--output {folder}: exists, and may hold corrected files, which are never overwritten; "
            "name a new folder"
        )
    check_writable(folder.absolute().parent, "--output")


# --- the CTs ---


def _cases(
    images: Sequence[Path], manifest_cases: Sequence[Case], folder: Path, progress: Progress
) -> list[Case]:
    """One case per CT: that of the manifest, or a new one without a label.

    CTs that are not NIfTI are converted into `folder`.
    """
    known = {os.path.realpath(case.image): case for case in manifest_cases}
    images = {os.path.realpath(path): path for path in images}  # each once
    names = _case_ids([path for place, path in images.items() if place not in known])
    taken = {case.case_id for case in manifest_cases}
    cases, problems = [], []
    for place, path in images.items():
        case = known.get(place)
        if case is None:
            case = Case(names[path], SITE, "pool", path, None, names[path], label_values=(1,))
            if case.case_id in taken:
                problems.append(
                    f"{path}: another CT is called {case.case_id} already; rename the file, "
                    "or give the one that the manifest names"
                )
            taken.add(case.case_id)
            if not path.name.lower().endswith(NIFTI) and path.exists():
                progress.now(f"converting {path}")
                case = replace(case, image=folder / f"{case.case_id}.nii.gz")
                try:
                    write_nifti(case.image, *dicom.read_image(path))
                except InputError as error:
                    problems.append(str(error))
                    continue
        cases.append(case)
    faults, doubts = file_problems(cases)
    refuse(f"{len(problems + faults)} problem(s) with the CTs", problems + faults)
    for doubt in doubts:
        progress.say(f"warning: {doubt}")
    return cases


def _case_ids(paths: Sequence[Path]) -> dict[Path, str]:
    """Ids from file names; where these are the same in several folders, from the folders too.

    >>> sorted(_case_ids([Path("a/ct.nii.gz"), Path("b/ct.nii.gz"), Path("b/liver.nii")]).values())
    ['a_ct', 'b_ct', 'liver']
    """
    stems = {}
    for path in paths:
        ending = next((ending for ending in ENDINGS if path.name.lower().endswith(ending)), "")
        stems[path] = path.name[: len(path.name) - len(ending)]
    count = Counter(stems.values())
    return {
        path: f"{path.absolute().parent.name}_{stem}" if count[stem] > 1 else stem
        for path, stem in stems.items()
    }


def _volumes(
    cases: Sequence[Case], fitted: FittedModel, cache: Path, progress: Progress
) -> dict[str, Volume]:
    spacing = fitted.settings.data.spacing
    check_disk(cases, spacing, cache)
    by_split = load_volumes(cases, spacing, cache, progress, whole=())
    found = {case_id: volume for split in by_split.values() for case_id, volume in split.items()}
    return {case.case_id: found[case.case_id] for case in cases}


# --- scores and choice ---


class Scoring:
    """Scores of CTs under a model, kept on disk: other slices of the same CTs cost nothing.

    Parameters
    ----------
    models : Models
        Holds the CTs as its pool.
    fitted : FittedModel
        The model.
    home : Path
        Where scores are kept; another model, or another version of the code, has another folder.
    """

    def __init__(self, models: Models, fitted: FittedModel, home: Path):
        self.models, self._home = models, home
        models.use(FITTED, fitted.state)

    def scores(self, case_id: str) -> dict:
        """As `Models.score` gives them."""
        return read_json(self._entry(case_id) / SCORES)

    def uncertainty(self, case_id: str) -> MonteCarlo:
        """Mean liver probability in steps of 1/255, and its entropy."""
        volume = self.models.volumes["pool"][case_id]
        mean = kept_mean(self._entry(case_id) / MEAN, volume.shape) / np.float32(STEPS)
        return MonteCarlo(mean, predictive_entropy(mean))

    def _entry(self, case_id: str) -> Path:
        volume, progress = self.models.volumes["pool"][case_id], self.models.progress
        entry = self._home / _short_digest(case_id, volume.folder.name)
        if not entry.exists():
            progress.now(f"uncertainty of {case_id}")
            found = self.models.uncertainty(FITTED, case_id, EVERYTHING)
            with atomic_folder(entry) as partial:
                keep_mean(partial / MEAN, found.mean)
                write_json(partial / SCORES, self.models.scores_of(case_id, found))
        return entry


def _choose(scoring: Scoring, strategy: Strategy, count: int) -> list[Query]:
    """The slices that a strategy asks for, the most wanted first, as in a simulation."""
    models = scoring.models
    volumes, progress = models.volumes["pool"], models.progress
    annotations = Annotations({case_id: volume.annotated for case_id, volume in volumes.items()})
    open_cases = [name for name, volume in volumes.items() if len(volume.annotated) < volume.shape[0]]
    scores = []
    progress.total = len(open_cases) if strategy.needs else 0
    for case_id in open_cases if strategy.needs else ():
        scores.append(scoring.scores(case_id))
        progress.finished(f"uncertainty of {case_id}", True)
    querying = Querying(models.config, volumes, models.seed)
    found = querying.query(strategy, TrainingSet(FITTED, annotations), count, scores)
    queries = found["queries"][:count]
    if not queries:
        raise InputError(
            f"no slice to suggest in {len(volumes)} CTs, {len(volumes) - len(open_cases)} of which are "
            "annotated as a whole; give other CTs"
        )
    for note in found["notes"]:
        progress.say(f"note: {note}")
    return queries


def _short_digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
