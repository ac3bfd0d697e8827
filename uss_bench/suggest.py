"""`uss-bench suggest`: which slices of which CTs to annotate next, with a proposal to correct."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from .data import dicom
from .data.manifest import Case, conflicts, read_manifest
from .data.nifti import write_nifti
from .data.volumes import Volume
from .intake import file_problems, load_volumes
from .model_file import FittedModel, read_model
from .network.inference import MonteCarlo
from .network.uncertainty import predictive_entropy
from .plan import check_disk
from .provenance import code_digest
from .runtime.errors import InputError, refuse
from .runtime.machine import device_name, prepared_device
from .runtime.paths import CACHE
from .runtime.progress import Progress
from .runtime.storage import (
    A_DAY,
    atomic_folder,
    check_writable,
    file_digest,
    read_json,
    remove_partial_copies,
    write_json,
)
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

T = TypeVar("T")


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
    device = prepared_device(asked.device, fitted.settings.network.bfloat16)
    _check_output(asked.output, asked.runs)
    if asked.slices < 1:
        raise InputError(f"--slices {asked.slices}: nothing to suggest; ask for at least one")
    manifest_cases = read_manifest(asked.annotated) if asked.annotated else []
    progress = Progress(0, sys.stderr)
    remove_partial_copies(asked.output.resolve(), A_DAY)
    with atomic_folder(asked.output.resolve(), shared=False) as folder:
        cases = _cases(asked.images, manifest_cases, folder, progress)
        volumes = _volumes(cases, fitted, asked.runs / CACHE, progress)
        made_by = (fitted.digest, code_digest(), device_name(device), torch.__version__)
        home = asked.runs / f"suggest-{_short_digest(*made_by)}"
        models = Models(fitted.settings, {"pool": volumes}, home, fitted.seed, device, progress)
        scoring = Scoring(models, fitted, home)
        queries = _choose(scoring, strategy, asked.slices)
        left_out = write_todo(folder, queries, volumes, scoring.uncertainty, manifest_cases)
    for text in left_out:
        progress.say(f"note: {text}")
    chosen = {query.case_id for query in queries}
    progress.say(
        f"{asked.output}: {len(queries)} slices of the {fitted.settings.data.spacing[0]:g} mm grid, in "
        f"{len(chosen)} of {len(cases)} CTs; correct *_todo.nii.gz there, then `uss-bench fit "
        f"{asked.output / 'manifest.csv'} --output NEW.pt`, with --preset and --set as for {asked.model.name}"
    )


def _strategy(name: str) -> Strategy:
    found = [own.load(name)] if own.is_reference(name) else named([name])
    if len(found) != 1 or not _is_of_use(found[0]):
        possible = ", ".join(strategy.name for strategy in STRATEGIES.values() if _is_of_use(strategy))
        raise InputError(
            f"--strategy {name}: must be one strategy that asks for slices and reads no labels; "
            f"choose one of {possible}, or FILE.py:NAME"
        )
    # Nobody can say which of its slices show liver before they are annotated.
    return replace(found[0], until_liver=False)


def _is_of_use(strategy: Strategy) -> bool:
    return strategy.by_slices and not strategy.is_oracle


def _check_output(folder: Path, runs: Path) -> None:
    """Refuse to touch what may have been corrected, and a folder that will not stay empty."""
    if Path(runs).resolve().is_relative_to(folder.resolve()):
        raise InputError(f"--output {folder}: --runs {runs} lies in it; name a folder of its own")
    if os.path.exists(folder) and not (folder.is_dir() and not any(folder.iterdir())):
        raise InputError(
            f"--output {folder}: exists, and may hold corrected files, which are never overwritten; "
            "name a new folder"
        )
    check_writable(folder.resolve().parent, "--output")
    check_writable(runs, "--runs")


# --- the CTs ---


def _cases(
    images: Sequence[Path], manifest_cases: Sequence[Case], folder: Path, progress: Progress
) -> list[Case]:
    """One case per CT: that of the manifest, or a new one without a label.

    CTs that are not NIfTI are converted into `folder`.
    """
    known = {os.path.realpath(case.image): case for case in manifest_cases}
    labels = {os.path.realpath(case.label): case for case in manifest_cases}
    images = {os.path.realpath(path): path for path in images}  # each once
    names = _case_ids([path for place, path in images.items() if place not in known])
    cases, problems, taken = {}, [], {case.case_id: case for case in manifest_cases}
    for place, path in images.items():
        if place in labels and place not in known:
            problems.append(f"{path}: the label of case {labels[place].case_id}; give CTs alone")
            continue
        try:
            case = known.get(place) or _unlisted(path, names[path], manifest_cases, folder, progress)
        except InputError as error:
            problems.append(str(error))
            continue
        if taken.setdefault(case.case_id, case) == case:
            cases[case.case_id] = case
        else:
            problems.append(f"{path}: another CT is called {case.case_id} already; rename it")
    new = [case for case in cases.values() if case.label is None]
    problems += conflicts([*manifest_cases, *new])
    problems += [
        f"case {name}: its id cannot be a file name; change it in the manifest"
        for name in cases
        if Path(name).name != name
    ]
    faults, doubts = file_problems(list(cases.values()))
    refuse(f"{len(problems + faults)} problem(s) with the CTs", problems + faults)
    for doubt in doubts:
        progress.say(f"warning: {doubt}")
    return list(cases.values())


def _unlisted(
    path: Path, name: str, manifest_cases: Sequence[Case], folder: Path, progress: Progress
) -> Case:
    """The case of a CT whose path no manifest names: a copy of one that it names, or a new one."""
    image = path
    if not path.name.lower().endswith(NIFTI) and path.exists():
        progress.now(f"converting {path}")
        image = folder / f"{name}.nii.gz"
        write_nifti(image, *dicom.read_image(path))
    copied = next((case for case in manifest_cases if _same_content(image, case.image)), None)
    if copied is None:
        return Case(name, SITE, "pool", image, None, name, label_values=(1,))
    if image is not path:
        image.unlink()
    return copied


def _same_content(path: Path, other: Path) -> bool:
    try:
        return path.stat().st_size == other.stat().st_size and file_digest(path) == file_digest(other)
    except OSError:  # said of every missing file elsewhere
        return False


def _case_ids(paths: Sequence[Path]) -> dict[Path, str]:
    """Ids from file names; where these are the same in several folders, from the folders too.

    >>> sorted(_case_ids([Path("a/ct.nii.gz"), Path("b/ct.nii.gz"), Path("b/liver.nii")]).values())
    ['a_ct', 'b_ct', 'liver']
    """
    places = {path: Path(os.path.abspath(path)) for path in paths}  # "." has a name too
    stems = {}
    for path, place in places.items():
        ending = next((ending for ending in ENDINGS if place.name.lower().endswith(ending)), "")
        stems[path] = place.name[: len(place.name) - len(ending)]
    count = Counter(stems.values())
    return {
        path: f"{places[path].parent.name}_{stem}" if count[stem] > 1 else stem
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

    def scores(self, case_id: str) -> tuple[dict, bool]:
        """As `Models.score` gives them, and whether they were found on disk."""
        return self._kept(case_id, lambda entry: read_json(entry / SCORES))

    def uncertainty(self, case_id: str) -> MonteCarlo:
        """Mean liver probability in steps of 1/255, and its entropy."""
        shape = self.models.volumes["pool"][case_id].shape
        kept, _ = self._kept(case_id, lambda entry: kept_mean(entry / MEAN, shape))
        mean = kept / np.float32(STEPS)
        return MonteCarlo(mean, predictive_entropy(mean))

    def _kept(self, case_id: str, read: Callable[[Path], T]) -> tuple[T, bool]:
        """What `read` finds in the entry of a CT, made anew if damaged, and whether it was there."""
        volume, progress = self.models.volumes["pool"][case_id], self.models.progress
        entry = self._home / _short_digest(case_id, volume.folder.name)
        try:
            return read(entry), True
        except (FileNotFoundError, InputError, zlib.error, ValueError):
            shutil.rmtree(entry, ignore_errors=True)
        progress.now(f"uncertainty of {case_id}")
        found = self.models.uncertainty(FITTED, case_id, EVERYTHING)
        with atomic_folder(entry) as partial:
            keep_mean(partial / MEAN, found.mean)
            write_json(partial / SCORES, self.models.scores_of(case_id, found))
        return read(entry), False


def _choose(scoring: Scoring, strategy: Strategy, count: int) -> list[Query]:
    """The slices that a strategy asks for, the most wanted first, as in a simulation."""
    models = scoring.models
    volumes, progress = models.volumes["pool"], models.progress
    annotations = Annotations({case_id: volume.annotated for case_id, volume in volumes.items()})
    open_cases = [name for name, volume in volumes.items() if len(volume.annotated) < volume.shape[0]]
    scores = []
    progress.total = len(open_cases) if strategy.needs else 0
    for case_id in open_cases if strategy.needs else ():
        score, was_kept = scoring.scores(case_id)
        scores.append(score)
        progress.finished(f"uncertainty of {case_id}", not was_kept)
    querying = Querying(models.config, volumes, models.seed)
    found = querying.query(strategy, TrainingSet(FITTED, annotations), count, scores)
    queries = found["queries"]
    if not queries:
        raise InputError(
            f"no slice to suggest in {len(volumes)} CTs, {len(volumes) - len(open_cases)} of which are "
            "annotated as a whole; give other CTs" + (", or another --strategy" if open_cases else "")
        )
    for note in found["notes"]:
        progress.say(f"note: {note}")
    return queries


def _short_digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
