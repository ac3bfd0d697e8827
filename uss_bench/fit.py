"""`uss-bench fit`: one network from everything that is annotated, partly annotated volumes included."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from . import config
from .data.volumes import Volume
from .identity import OF_RUN, differences, file_digests, refuse_another_origin, refuse_other_files
from .intake import check_annotated, load_volumes, prepare_cases
from .model_file import provenance_of, write_model
from .plan import check_disk
from .provenance import provenance
from .request import Checked, check_name
from .runtime.checkpoints import load_checkpoint
from .runtime.errors import InputError
from .runtime.lock import locked
from .runtime.machine import prepared_device
from .runtime.paths import CACHE, CHECKPOINT, MODEL, RUN
from .runtime.progress import Progress
from .runtime.storage import (
    A_DAY,
    check_writable,
    remove_if_empty,
    remove_partial_copies,
    remove_partial_files,
    write_json,
)
from .runtime.tasks import LONG, Stage, Tasks
from .runtime.team import Team
from .study.annotation import Annotations
from .study.keys import FITTED
from .study.models import Models


@dataclass(frozen=True)
class Fit:
    """A training, as it was asked for on the command line.

    Attributes
    ----------
    manifest : Path
        CSV of cases. Those of the pool are trained on, those for validation choose the best state, and those
        for tests are left alone.
    output : Path
        Model file to write.
    preset, overrides : str, tuple of str
        Settings to start from, and changes `section.key=value`.
    seed : int
        Of all random draws.
    device : str
        "auto", "cpu" or "cuda".
    runs : Path
        Folder of all runs. The training is kept in one of them, from which it continues.
    name : str, optional
        Name of that folder; by default it is named after `output`.
    """

    manifest: Path
    output: Path
    preset: str
    overrides: tuple[str, ...] = ()
    seed: int = 0
    device: str = "auto"
    runs: Path = Path("runs")
    name: str | None = None

    @property
    def folder(self) -> Path:
        """Folder of the training."""
        return self.runs / (self.name or f"fit-{self.output.stem}")


def fit(asked: Fit) -> None:
    """Train a network until it converges, or go on with that, and write it to a model file.

    Raises
    ------
    InputError
        Anything wrong with arguments, manifest or data, before any training.
    """
    checked = _check(asked)
    origin = provenance(checked, asked.manifest, asked.seed)
    refuse_another_origin(asked.folder, RUN, OF_RUN, origin)
    _refuse_another_model(asked.output, origin)
    progress = Progress(1, sys.stderr)
    with ExitStack() as stack:
        stack.callback(remove_if_empty, asked.folder)  # at last, where nothing came of it
        stack.enter_context(locked(asked.folder, progress.say))
        refuse_another_origin(asked.folder, RUN, OF_RUN, origin)  # by whoever held it until now
        remove_partial_files(asked.folder)
        remove_partial_copies(asked.output, A_DAY)
        for text in checked.warnings:
            progress.say(f"warning: {text}")
        volumes = _volumes(asked, checked, origin, progress)
        progress.keep_in(asked.folder)
        annotations = Annotations({name: volume.annotated for name, volume in volumes["pool"].items()})
        if not list(annotations):
            raise InputError(
                f"{asked.manifest}: nothing of any pool case counts as annotated; see the warnings above"
            )
        annotated = {
            "cases": len(list(annotations)),
            "slices": sum(map(len, annotations.as_dict().values())),
        }
        progress.say("training on {slices} slices of {cases} cases".format(**annotated))
        models = Models(checked.settings, volumes, asked.folder, asked.seed, checked.device, progress)
        training = _train(models, annotations, asked.folder)
        _refuse_another_model(asked.output, origin)  # that came there meanwhile
        state = load_checkpoint(asked.folder / FITTED.folder / MODEL)
        write_model(asked.output, state, origin, training, annotated)
        best = training["best_jaccard"]
        quality = "without validation" if best is None else f"Jaccard index {best:.3f} in validation"
        progress.finished(f"{asked.output}: the model after step {training['best_step']}, {quality}", True)
        progress.withdraw()


def _refuse_another_model(output: Path, origin: Mapping[str, Any]) -> None:
    """Raise InputError where a file is there that this training has not written."""
    if os.path.exists(output):
        made = provenance_of(output)
        if made is None or differences(made, origin, OF_RUN):
            raise InputError(
                f"--output {output}: exists, and is not the model of this training; name another file"
            )


def _check(asked: Fit) -> Checked:
    """Check everything that needs no voxels, and prepare PyTorch."""
    if asked.name is not None:
        check_name(asked.name)
    settings = config.resolve(asked.preset, asked.overrides)
    device = prepared_device(asked.device, settings.network.bfloat16)
    if os.path.isdir(asked.output):
        raise InputError(f"--output {asked.output}: a folder; name the model file to write")
    check_writable(asked.output.absolute().parent, "--output")
    return Checked(settings, (), device, *check_annotated(asked.manifest, settings))


def _volumes(
    asked: Fit, checked: Checked, origin: Mapping[str, Any], progress: Progress
) -> dict[str, dict[str, Volume]]:
    """The cases on the working grid; the folder of the training is now theirs."""
    spacing, cache = checked.settings.data.spacing, asked.runs / CACHE
    check_disk(checked.cases, spacing, cache)
    prepare_cases(checked.cases, spacing, cache, progress, Team())
    volumes = load_volumes(checked.cases, spacing, cache, progress, whole=("val",))
    files = file_digests(volumes)
    refuse_other_files(asked.folder, files)
    if not (asked.folder / RUN).exists():
        write_json(asked.folder / RUN, {**origin, "files": files})
    return volumes


def _train(models: Models, annotations: Annotations, folder: Path) -> dict[str, Any]:
    """Outcome of the training, as `Models.train` returns it, begun, continued or found on disk."""
    home = folder / FITTED.folder
    work = partial(models.train, FITTED, annotations)
    stage = Stage(home / "training.json", work, LONG, leftovers=[home / CHECKPOINT])

    def steps():
        return (yield stage)

    tasks = Tasks(folder, Team())
    task = tasks.start(steps())
    tasks.work_off()
    return task.result
