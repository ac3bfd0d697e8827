"""What a run takes in: cases checked by manifest and headers before any work, and by their voxels before any training."""

import os

from .data.manifest import SPLITS, parse_manifest
from .data.phantoms import check_phantom
from .data.volumes import header_problems, load_volume
from .plan import is_unmade_phantom, plan_problems
from .runtime.errors import InputError

NO_AIR = -200  # HU; every CT shows air around the patient or within
CODES = 255  # label codes posing as HU are 0 to 255


def check_cases(manifest, settings, strategies):
    """Cases of a manifest, those of them that the settings choose, and warnings about these.

    Looks at the manifest, the plan and the headers of all files, phantoms that are to be made apart.

    Raises
    ------
    InputError
        With all problems in one message.
    """
    manifest_cases, problems = parse_manifest(manifest)
    cases = _chosen_cases(manifest_cases, settings.data)
    if manifest_cases:
        problems += plan_problems(settings, cases, strategies)
    warnings, first_of = [], {}
    for case in cases:
        same = first_of.setdefault(os.path.abspath(case.image), case.case_id)
        if same != case.case_id:
            problems.append(_twin(case, same))
        if case.extra.get("phantom"):
            try:
                check_phantom(case.case_id, case.site, case.extra["phantom"])
            except InputError as error:
                problems.append(str(error))
        if is_unmade_phantom(case):
            continue
        faults, doubts = header_problems(case)
        problems += faults
        warnings += doubts
    _raise(f"{manifest}: {len(problems)} problem(s)", problems)
    return manifest_cases, cases, warnings


def _chosen_cases(cases, data):
    """The first cases of each split, as many as the settings allow."""
    return [
        case
        for split in SPLITS
        for case in [case for case in cases if case.split == split][: getattr(data, split)]
    ]


def load_volumes(cases, spacing, cache, progress):
    """Volumes `{split: {case_id: Volume}}` of all cases. What is doubtful about their voxels goes to `progress.say`.

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
            problems += str(error).split("\n  ")
            continue
        same = first_of.setdefault(volume.image_digest, case.case_id)
        if same != case.case_id:
            problems.append(_twin(case, same))
        faults, doubts = _voxel_problems(volume)
        problems += [f"case {case.case_id}: {fault}" for fault in faults]
        for doubt in doubts:
            progress.say(f"warning: case {case.case_id}: {doubt}")
    _raise(f"{len(problems)} problem(s) with the cases", problems)
    return volumes


def _twin(case, other):
    return f"case {case.case_id}: {case.image}: the very image of case {other}; keep one of the two"


def _voxel_problems(volume):
    """Faults and doubts about what a volume shows."""
    case, faults, doubts = volume.case, [], []
    if not volume.liver_voxels:
        codes = ", ".join(f"{code:g}" for code in volume.label_codes[:10]) + (
            ", ..." if len(volume.label_codes) > 10 else ""
        )
        wanted = (
            f"label_values {', '.join(map(str, case.label_values))}"
            if case.label_values
            else "a value other than 0"
        )
        text = f"{case.label}: no liver: no voxel has {wanted} (the file holds {codes})"
        if case.split == "pool":
            doubts.append(f"{text}; mend label_values, unless the CT shows no liver")
        else:
            faults.append(f"{text}, and {case.split} cases need one; mend label_values or exclude the case")
    if 0 <= volume.darkest <= volume.brightest <= CODES:
        doubts.append(
            f"{case.image}: looks like label codes, not HU: values lie between {volume.darkest:g} and {volume.brightest:g}"
        )
    elif volume.darkest > NO_AIR:
        doubts.append(
            f"{case.image}: nothing below {volume.darkest:g} HU, so no air, and perhaps no CT in HU"
        )
    return faults, doubts


def _raise(title, problems):
    if problems:
        raise InputError("\n  ".join([title, *problems]))
