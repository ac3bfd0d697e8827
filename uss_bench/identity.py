"""Whether what lies under a run's name belongs to this very run, and whether runs belong together."""

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

# What distinguishes runs, beside their settings and the files of their cases. Strategies from files are held
# against the queries that they have made, see `study.querying`.
OF_RUN = ("uss_bench", "code_sha256", "libraries", "device", "seed", "manifest_sha256")
# What runs of several seeds share, beside their settings; devices and libraries are named in their report.
OF_SEEDS = ("code_sha256", "manifest_sha256", "strategies", "further_strategies")


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
    refuse_another_origin(run.report_folder, PROVENANCE, OF_RUN, origin)


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
    if "config" not in before:
        raise InputError(f"{folder} holds a report across seeds; choose another --name, or remove the folder")
    changes = [f"{key}: {old} there, {new} now" for key, old, new in differences(before, origin, identity)]
    refuse(f"{folder} holds another run; choose another --name, or remove the folder. It differs in", changes)


def refuse_single_run(folder: Path) -> None:
    """Raise InputError where the folder for a report across seeds holds the report of a single run."""
    if (folder / PROVENANCE).exists() and "seeds" not in read_json(folder / PROVENANCE):
        raise InputError(
            f"{folder} holds the report of a single run; choose another --name, or move the folder"
        )


def file_digests(volumes: Mapping[str, Mapping[str, Volume]]) -> dict[str, list[str]]:
    """`{case_id: [digest of the image, digest of the label]}` of the volumes of all splits."""
    return {
        case_id: [volume.image_digest, volume.label_digest]
        for split in volumes.values()
        for case_id, volume in split.items()
    }


def differences(
    before: Mapping[str, Any], after: Mapping[str, Any], identity: Sequence[str]
) -> list[tuple[str, Any, Any]]:
    """Names and values `(name, before, after)` in which two provenances differ, in their settings too."""
    pairs = [(key, before.get(key), after.get(key)) for key in identity]
    return [
        *((key, old, new) for key, old, new in pairs if old != new),
        *config.differences(before["config"], after["config"]),
    ]


def refuse_strange_seeds(reports: Mapping[int, Path]) -> None:
    """Raise InputError where reports cannot stand together in one across seeds.

    They may come from separate jobs or machines, but not from other settings, manifests, strategies or code,
    and each must be of the seed that it is named after.

    Parameters
    ----------
    reports : mapping
        `{seed: report folder}`; reports that are missing are for others to name.
    """
    origins = {
        seed: _with_short_origins(read_json(folder / PROVENANCE))
        for seed, folder in reports.items()
        if (folder / PROVENANCE).exists()
    }
    for seed, origin in origins.items():
        if origin["seed"] != seed:
            raise InputError(
                f"{reports[seed]}: results of seed {origin['seed']}, not {seed}; put the right folder there"
            )
        leader = next(iter(origins))
        unlike = [
            f"{key}: {ours} there, {theirs} here"
            for key, ours, theirs in differences(origins[leader], origin, OF_SEEDS)
        ]
        if unlike:
            raise InputError(
                f"{reports[seed]}: not the same benchmark as {reports[leader]}; run all seeds with the same "
                f"options, data and code. It differs in {'; '.join(unlike)}"
            )


def _with_short_origins(origin: Mapping[str, Any]) -> dict[str, Any]:
    """A provenance with the digests of strategies that do not ship, instead of all that they say."""
    further = origin.get("further_strategies", {})
    return {**origin, "further_strategies": {name: each["sha256"] for name, each in further.items()}}


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
