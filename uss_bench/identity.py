"""Whether what lies under a run's name already belongs to this very run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import config
from .request import Run
from .runtime.errors import InputError, refuse
from .runtime.paths import PROVENANCE, RUN
from .runtime.storage import read_json

# What distinguishes runs, beside their settings and the files of their cases.
OF_RUN = ("uss_bench", "code_sha256", "libraries", "device", "seed", "manifest_sha256")
# A report may be rebuilt by another version.
OF_REPORT = ("seed", "manifest_sha256")


def refuse_another_run(run: Run, origin: Mapping[str, Any]) -> None:
    """Raise InputError where the folders of a run hold another run or its report.

    Parameters
    ----------
    run : Run
        The run.
    origin : mapping
        Its provenance.
    """
    for folder, name, identity in (
        (run.folder, RUN, OF_RUN),
        (run.report_folder, PROVENANCE, OF_REPORT),
    ):
        if not (folder / name).exists():
            continue
        before = read_json(folder / name)
        changes = [
            f"{key}: {before.get(key)} there, {origin[key]} now"
            for key in identity
            if before.get(key) != origin[key]
        ]
        changes += [
            f"{key}: {old} there, {new} now"
            for key, old, new in config.differences(before["config"], origin["config"])
        ]
        refuse(
            f"{folder} holds another run; choose another --name, or remove the folder. It differs in", changes
        )


def refuse_other_files(folder: Path, files: Mapping[str, Sequence[str]]) -> None:
    """Raise InputError where cases have other files than those that the run in a folder began with.

    Parameters
    ----------
    folder : Path
        Of the run.
    files : mapping
        `{case_id: [digest of the image, digest of the label]}`.
    """
    before = read_json(folder / RUN)["files"] if (folder / RUN).exists() else files
    changed = [case_id for case_id in files if files[case_id] != before.get(case_id)]
    if changed:
        raise InputError(
            f"{folder} was begun with other files of case(s) {', '.join(changed)}; bring these back, "
            "choose another --name, or remove the folder"
        )
