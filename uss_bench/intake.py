"""What a run takes in: cases checked by manifest and headers before any work, and by their voxels later."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from .config import Config, Data
from .data.case_files import header_problems
from .data.manifest import SPLITS, Case, parse_manifest
from .data.phantoms import check_phantom, is_unmade_phantom, phantom_problems, write_missing_phantom
from .data.volumes import Volume, load_volume
from .plan import plan_problems
from .runtime.errors import InputError, refuse
from .runtime.progress import Progress
from .runtime.team import Team
from .study.strategies import Strategy

FITTED_SPLITS = ("pool", "val")  # what one network of all that is annotated needs
NO_AIR = -200  # HU; every CT shows air around the patient or within
SHORTEST_LIVER = 30.0  # mm along z of one that was drawn as a whole
LARGEST_LIVER = 0.5  # of all voxels
CODES = 255  # label codes posing as HU are 0 to 255


def check_cases(
    manifest: str | Path, settings: Config, strategies: Sequence[Strategy]
) -> tuple[list[Case], list[Case], list[str]]:
    """Check the manifest, the plan and the headers of all files, except phantoms that are to be made.

    Parameters
    ----------
    manifest : path
        CSV of cases.
    settings : Config
        They choose the cases to use.
    strategies : sequence of Strategy
        They set how many cases are needed.

    Returns
    -------
    manifest_cases, cases : list of Case
        All in the manifest, and those to use.
    warnings : list of str
        What is doubtful about the cases to use.

    Raises
    ------
    InputError
        With all problems in one message.
    """
    manifest_cases, problems = parse_manifest(manifest)
    cases = _chosen_cases(manifest_cases, settings.data)
    if manifest_cases:
        problems += plan_problems(settings, cases, strategies)
    faults, warnings = file_problems(cases)
    refuse_manifest(manifest, problems + faults)
    return manifest_cases, cases, warnings


def check_annotated(manifest: str | Path, settings: Config) -> tuple[list[Case], list[Case], list[str]]:
    """Check the manifest and the headers of all pool and validation cases, for a network of all of them.

    Returns and raises the same as `check_cases`.
    """
    manifest_cases, problems = parse_manifest(manifest)
    cases = [case for case in _chosen_cases(manifest_cases, settings.data) if case.split in FITTED_SPLITS]
    if manifest_cases and not any(case.split == "pool" for case in cases):
        problems.append(
            "no pool case, and these are what is trained on; mark at least one row with split pool"
        )
    faults, warnings = file_problems(cases)
    refuse_manifest(manifest, problems + faults)
    for split in FITTED_SPLITS:
        there, used = (sum(case.split == split for case in group) for group in (manifest_cases, cases))
        if used < there:
            warnings.append(f"{used} of {there} {split} cases are used, as data.{split} says")
    if not any(case.split == "val" for case in cases):
        warnings.append(
            "no val case, so nothing tells when training should end: it takes as many steps as an "
            "iteration's model of a run, and keeps the last state"
        )
    return manifest_cases, cases, warnings


def refuse_manifest(manifest: str | Path, problems: Sequence[str]) -> None:
    """Raise InputError where there are problems with a manifest."""
    refuse(f"{manifest}: {len(problems)} problem(s)", problems)


def file_problems(cases: Sequence[Case]) -> tuple[list[str], list[str]]:
    """Faults and doubts about the headers of all files, except phantoms that are to be made."""
    problems, warnings, first_of = [], [], {}
    for case in cases:
        same = first_of.setdefault(os.path.abspath(case.image), case.case_id)
        if same != case.case_id:
            problems.append(_same_image(case, same))
        if case.extra.get("phantom"):
            try:
                check_phantom(case.case_id, case.site, case.extra["phantom"])
            except InputError as error:
                problems.append(str(error))
        faults, doubts = ([], []) if is_unmade_phantom(case) else header_problems(case)
        if case.extra.get("phantom") and not faults:
            faults = phantom_problems(case)
        problems += faults
        warnings += doubts
    return problems, warnings


def _chosen_cases(cases: Sequence[Case], data: Data) -> list[Case]:
    """The first cases of each split, as many as the settings allow."""
    return [
        case
        for split in SPLITS
        for case in [case for case in cases if case.split == split][: getattr(data, split)]
    ]


def prepare_cases(
    cases: Sequence[Case], spacing: Sequence[float], cache: str | Path, progress: Progress, team: Team
) -> None:
    """Make phantoms and cache entries, shared out over the team.

    Returns when all are made. Faulty cases are passed over here; `load_volumes` names them.
    """
    for number, case in enumerate(cases, start=1):
        if team.claim(f"cache/{case.case_id}"):
            progress.now(f"preparing case {number} of {len(cases)}")
            write_missing_phantom(case)
            with suppress(InputError):
                load_volume(case, spacing, cache)
            team.report("prepared")
    while team.reached("prepared") < len(cases):
        team.pause()


def load_volumes(
    cases: Sequence[Case],
    spacing: Sequence[float],
    cache: str | Path,
    progress: Progress,
    whole: Sequence[str] = SPLITS,
) -> dict[str, dict[str, Volume]]:
    """Load all cases; `progress` says what is doubtful about their voxels.

    Parameters
    ----------
    cases : sequence of Case
        Rows of the manifest.
    spacing : sequence of float
        `(z, y, x)` in mm, of the working grid.
    cache : path
        Folder of preprocessed volumes.
    progress : Progress
        Says what is being done.
    whole : sequence of str
        Splits whose cases must be annotated in every voxel.

    Returns
    -------
    dict
        `{split: {case_id: Volume}}`.

    Raises
    ------
    InputError
        With all that is wrong with any case. The cache keeps the sound ones.
    """
    volumes, problems, first_of = {split: {} for split in SPLITS}, [], {}
    for number, case in enumerate(cases, start=1):
        progress.now(f"reading case {number} of {len(cases)}")
        try:
            volume = volumes[case.split][case.case_id] = load_volume(case, spacing, cache)
        except InputError as error:
            problems += error.problems
            continue
        same = first_of.setdefault(volume.image_digest, case.case_id)
        if same != case.case_id:
            problems.append(_same_image(case, same))
        faults, doubts = _voxel_problems(volume)
        if case.label:
            more_faults, more_doubts = _annotation_problems(volume, case.split in whole)
            faults, doubts = more_faults + faults, more_doubts + doubts
        problems += [f"case {case.case_id}: {fault}" for fault in faults]
        for doubt in doubts:
            progress.say(f"warning: case {case.case_id}: {doubt}")
    refuse(f"{len(problems)} problem(s) with the cases", problems)
    return volumes


def _same_image(case: Case, other: str) -> str:
    return f"case {case.case_id}: {case.image}: the same image as case {other}; keep one of the two"


def _annotation_problems(volume: Volume, whole: bool) -> tuple[list[str], list[str]]:
    """Faults and doubts about what of a volume is annotated; where `whole`, all of it has to be."""
    case, faults, doubts = volume.case, [], []
    ignored, slices = len(volume.ignored), volume.native_shape[0]
    hold = f"{case.label}: {ignored} of {slices} slices hold the ignore_value {case.ignore_value}"
    if ignored and whole:
        faults.append(
            f"{hold}, and {case.split} cases must be annotated as a whole here; "
            "exclude the case, or train on it with `uss-bench fit`"
        )
    elif ignored == slices:
        doubts.append(f"{hold}, so nothing of it counts as annotated")
    elif not volume.annotated:
        doubts.append(
            f"{hold}, and what is left gives no slice of the {volume.spacing[0]:g} mm grid, for which "
            f"up to {max(map(len, volume.native_slices))} neighbouring ones are needed, so nothing of it "
            "counts as annotated; annotate these too, or set a finer data.spacing"
        )
    elif (
        not ignored
        and not (whole and case.ignore_value is None)
        and (few := _scattered_liver(volume, 0.0 if whole else SHORTEST_LIVER))
    ):
        code = "an ignore_value" if case.ignore_value is None else f"the ignore_value {case.ignore_value}"
        doubts.append(
            f"{case.label}: every slice counts as annotated, as no voxel holds {code}, but liver shows on "
            f"{few} alone; give the ignore_value to slices that nobody has annotated"
        )
    elif volume.partly_ignored:
        doubts.append(
            f"{case.label}: {volume.partly_ignored} slices hold the ignore_value {case.ignore_value} "
            "beside other codes; they do not count as annotated"
        )
    return faults, doubts


def _scattered_liver(volume: Volume, shortest: float) -> str:
    """On which native slices liver shows, where these are as if only some had been drawn; else empty.

    That is where slices without liver lie between them, or all lie within less than `shortest` mm.
    """
    shown = np.flatnonzero(volume.reference().any(axis=(1, 2)))
    if not len(shown):
        return ""
    extent = int(np.ptp(shown)) + 1
    whole = extent == len(shown) and extent * volume.native_spacing[0] >= shortest
    return "" if whole else f"{len(shown)} slice(s) from {shown[0]} to {shown[-1]}"


def _voxel_problems(volume: Volume) -> tuple[list[str], list[str]]:
    """Faults and doubts about what a volume shows."""
    case, faults, doubts = volume.case, [], []
    if case.label and not volume.liver_voxels and volume.annotated:
        codes = [f"{code:g}" for code in volume.label_codes]
        codes = ", ".join(codes if len(codes) <= 10 else [*codes[:10], "..."])
        values = ", ".join(map(str, case.label_values))
        wanted = f"label_values {values}" if values else "a value other than 0"
        text = f"{case.label}: no liver: no voxel has {wanted} (the file holds {codes})"
        if case.split == "pool":
            doubts.append(f"{text}; correct label_values, unless the CT shows no liver")
        else:
            faults.append(
                f"{text}, and {case.split} cases need one; correct label_values or exclude the case"
            )
    elif volume.liver_voxels > LARGEST_LIVER * np.prod(volume.native_shape):
        doubts.append(
            f"{case.label}: {100 * volume.liver_voxels / np.prod(volume.native_shape):.0f}% of the voxels "
            "count as liver; correct label_values or ignore_value"
        )
    if 0 <= volume.darkest <= volume.brightest <= CODES:
        doubts.append(
            f"{case.image}: looks like label codes, not HU: "
            f"values lie between {volume.darkest:g} and {volume.brightest:g}"
        )
    elif volume.darkest > NO_AIR:
        doubts.append(
            f"{case.image}: nothing below {volume.darkest:g} HU, so no air, and perhaps no CT in HU"
        )
    return faults, doubts
