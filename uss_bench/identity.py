"""Whether what lies under a run's name already belongs to this very run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import config
from .data.volumes import Volume
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
    refuse_another_origin(run.folder, RUN, OF_RUN, origin)
    refuse_another_origin(run.report_folder, PROVENANCE, OF_REPORT, origin)


def refuse_another_origin(
    folder: Path, name: str, identity: Sequence[str], origin: Mapping[str, Any]
) -> None:
    """Raise InputError where a folder holds a provenance that differs from `origin`.

    Parameters
    ----------
    folder : Path
        The folder.
    name : str
        Its file with the provenance, which need not exist.
    identity : sequence of str
        What must agree, beside the settings.
    origin : mapping
        The provenance of what is to be done there.
    """
    if not (folder / name).exists():
        return
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
    refuse(f"{folder} holds another run; choose another --name, or remove the folder. It differs in", changes)


def file_digests(volumes: Mapping[str, Mapping[str, Volume]]) -> dict[str, list[str]]:
    """`{case_id: [digest of the image, digest of the label]}` of the volumes of all splits."""
    return {
        case_id: [volume.image_digest, volume.label_digest]
        for split in volumes.values()
        for case_id, volume in split.items()
    }


def refuse_other_files(folder: Path, files: Mapping[str, Sequence[str]]) -> None:
    """Raise InputError where cases have other files than those that the run in a folder began with.

    Parameters
    ----------
    folder : Path
        Of the run.
    files : mapping
        As by `file_digests`.
    """
    before = read_json(folder / RUN)["files"] if (folder / RUN).exists() else files
    changed = [case_id for case_id in files if files[case_id] != before.get(case_id)]
    if changed:
        raise InputError(
            f"{folder} was begun with other files of case(s) {', '.join(changed)}; bring these back, "
            "choose another --name, or remove the folder"
        )
