"""Manifests from public datasets: `uss-bench import LAYOUT SOURCE --output FILE`.

`layouts` finds the cases in the folders that publishers ship. Here they are excluded, checked, converted,
inspected, split and written, in the same way for every layout.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..runtime.errors import InputError, refuse
from ..runtime.storage import check_writable
from . import dicom
from .case_files import header_problems, liver_of
from .layouts import LAYOUTS
from .manifest import SPLITS, Case, parse_sizes, read_manifest, write_manifest
from .nifti import read_nifti, write_nifti
from .nifti_header import read_header
from .splits import assign_splits, parse_shares

LOST = "lost"  # in place of a spacing that no header holds any more


def collect(
    layout: str,
    source: Path,
    existing: Sequence[Case],
    exclude: Sequence[str],
    spacings: Mapping[str, tuple[float, ...]],
) -> tuple[list[Case], list[Case]]:
    """Find the cases of a source.

    Parameters
    ----------
    layout : str
        One of `LAYOUTS`.
    source : Path
        The unpacked dataset.
    existing : sequence of Case
        Cases of the manifest that is added to.
    exclude : sequence of str
        Case ids to leave out.
    spacings : mapping
        Spacings that the user has given, by case id.

    Returns
    -------
    cases, excluded : list of Case

    Raises
    ------
    InputError
        There is no case, or something is missing or named twice; all problems in one message.
    """
    if not source.is_dir():
        raise InputError(f"{source}: not a folder; give the unpacked dataset")
    found = list(LAYOUTS[layout](source))
    if not found:
        raise InputError(
            f"{source}: no case in the {layout} layout; give the folder that holds {LAYOUTS[layout].__doc__}"
        )
    cases = [case for case in found if case.case_id not in exclude]
    ids = {case.case_id for case in found}
    problems = [
        f"no case {name}, which --exclude or --spacing names; ids here look like {found[0].case_id}"
        for name in (*exclude, *spacings)
        if name not in ids
    ]
    problems += _collection_problems(cases, existing)
    refuse(f"{source}: {len(problems)} problem(s)", problems)
    return cases, [case for case in found if case.case_id in exclude]


def _collection_problems(cases: Sequence[Case], existing: Sequence[Case]) -> list[str]:
    """Files that are missing, and cases that are found twice or known already."""
    problems = [
        f"case {case.case_id}: {path} is missing; restore it, or give --exclude {case.case_id}"
        for case in cases
        for path in (case.image, case.label)
        if not path.exists()
    ]
    count = Counter(case.case_id for case in cases)
    problems += [
        f"case {name}: found {times} times; keep one of them, or import them separately"
        for name, times in count.items()
        if times > 1
    ]
    known = [case.case_id for case in existing if case.case_id in count]
    if known:
        names = ", ".join(known[:5]) + (f" and {len(known) - 5} more" if len(known) > 5 else "")
        problems.append(
            f"already in the manifest: {names}; import a source only once, or give --exclude for these"
        )
    return problems


def prepare(
    layout: str, cases: Sequence[Case], folder: Path | None, spacings: Mapping[str, tuple[float, ...]]
) -> tuple[list[Case], dict[str, str], list[str]]:
    """Convert cases to NIfTI and sort out those that are of no use.

    Parameters
    ----------
    layout : str
        Name of the dataset's layout, for messages.
    cases : sequence of Case
        As `collect` found them.
    folder : Path or None
        Where converted files are written.
    spacings : mapping
        Spacings `(z, y, x)` in mm that the user has given, by case id.

    Returns
    -------
    kept : list of Case
        Cases with NIfTI files that show liver; with an `ignore_value` only where the label holds it.
    left_out : dict
        Case id to the reason why it was left out.
    problems : list of str
        What is wrong with files, in words.

    Raises
    ------
    InputError
        Files have to be converted, but SimpleITK or `folder` is missing.
    """
    if any(map(_is_foreign, (path for case in cases for path in (case.image, case.label)))):
        dicom.load_simpleitk()
        if folder is None:
            raise InputError(
                f"{layout}: these files are not NIfTI; "
                "give a folder for the converted ones with --convert-to DIR"
            )
        before = sum(path.exists() for case in cases for path in _targets(case, folder).values())
        if before:
            print(f"{folder}: {before} file(s) converted before are used as they are; remove them to redo it")
    kept, left_out, problems = [], {}, []
    for case in cases:
        try:
            of_lits = case.patient_id.startswith(("lits-", "ircadb-")) and not _is_foreign(case.image)
            spacing = spacings.get(case.case_id) or (_lits_spacing(case) if of_lits else None)
            case = replace(_convert(case, folder), spacing=spacing)
            shows_liver, unknown = _look_at_label(case)
            case = case if unknown else replace(case, ignore_value=None)
            if spacing == LOST:
                left_out[case.case_id] = (
                    "its header has lost the spacing; "
                    f"give --spacing {case.case_id}=XxYxZ (mm) if you know it"
                )
            elif not shows_liver:
                left_out[case.case_id] = "its label shows no liver"
            elif faults := header_problems(case)[0]:
                problems += [f"{fault}, or give --exclude {case.case_id}" for fault in faults]
            else:
                kept.append(case)
        except InputError as error:
            problems.append(f"case {case.case_id}: {error}")
    return kept, left_out, problems


def _is_foreign(path: Path) -> bool:
    return not path.name.lower().endswith((".nii", ".nii.gz"))


def _targets(case: Case, folder: Path | None) -> dict[str, Path]:
    """Where those files of a case are converted to that are not NIfTI, by their role."""
    names = {"image": f"{case.case_id}.nii.gz", "label": f"{case.case_id}_liver.nii.gz"}
    return {
        role: folder / case.site / name for role, name in names.items() if _is_foreign(getattr(case, role))
    }


def _convert(case: Case, folder: Path | None) -> Case:
    """The case with NIfTI files; others are converted to `folder`, unless they are there already."""
    targets = _targets(case, folder)
    for role, target in targets.items():
        if not target.exists():
            is_image = role == "image"
            read = dicom.read_image(case.image) if is_image else dicom.read_mask(case.label, case.image)
            write_nifti(target, *read)
    return replace(case, **targets)


def _lits_spacing(case: Case) -> tuple[float, ...] | str | None:
    """Spacing `(z, y, x)` in mm that an identity affine hides; None where the affine is sound.

    An identity affine says nothing. The spacing is then that of the header's pixdim, or LOST if that is 1 mm
    throughout.
    """
    stored = read_header(case.image).stored
    if not np.array_equal(np.abs(stored.get_best_affine()), np.eye(4)):
        return None
    spacing = tuple(round(float(size), 6) for size in stored.get_zooms()[2::-1])
    return LOST if spacing == (1, 1, 1) else spacing


def _look_at_label(case: Case) -> tuple[bool, bool]:
    """Whether a label shows liver, and whether it holds voxels that nobody has annotated."""
    values, _, _ = read_nifti(case.label)
    unknown = case.ignore_value is not None and bool((values == case.ignore_value).any())
    return bool(liver_of(values, case.label_values, case.ignore_value).any()), unknown


def _parse_spacings(texts: Sequence[str]) -> dict[str, tuple[float, ...]]:
    spacings = {}
    for text in texts:
        case_id, _, sizes = text.rpartition("=")
        try:
            spacings[case_id] = parse_sizes(sizes if case_id else "")
        except ValueError:
            raise InputError(
                f"--spacing {text}: not a case with three positive numbers; "
                f"write x, y, z in mm as {case_id or 'ID'}=0.7x0.7x1.25"
            ) from None
    return spacings


def run(
    layout: str,
    source: Path,
    output: Path,
    convert_to: Path | None,
    split: str,
    exclude: Sequence[str],
    spacing: Sequence[str],
    seed: int,
    append: bool,
) -> None:
    """Import a source into a manifest and print what became of its cases.

    The parameters are those of `add_arguments`.

    Raises
    ------
    InputError
        An argument, the source or one of its files is at fault; the manifest is then left alone.
    """
    shares, spacings = parse_shares(split), _parse_spacings(spacing)
    if output.is_dir():
        raise InputError(f"--output {output}: a folder; name the CSV file to write")
    if output.exists() and not append:
        raise InputError(f"--output {output}: already exists; give --append to add to it, or another name")
    check_writable(output.absolute().parent, "--output")
    if convert_to:
        check_writable(convert_to, "--convert-to")
    before = _content(output)
    existing = read_manifest(output) if append and before is not None else []
    cases, excluded = collect(layout, source, existing, exclude, spacings)
    kept, left_out, problems = prepare(layout, cases, convert_to, spacings)
    refuse(f"{source}: {len(problems)} problem(s)", problems)
    for case_id, reason in [*((case.case_id, "--exclude") for case in excluded), *left_out.items()]:
        print(f"left out {case_id}: {reason}")
    if not kept:
        raise InputError(f"{source}: no case is left; see the reasons above")
    new = assign_splits(existing, kept, shares, seed)
    if _content(output) != before:
        raise InputError(
            f"--output {output}: changed by somebody else meanwhile; give the command again (what has been "
            "converted is kept)"
        )
    write_manifest(output, [*existing, *new])
    print(f"{output}: {len(new)} case(s) added, {len(existing) + len(new)} in all")
    _print_summary([*existing, *new])


def _content(path: Path) -> bytes | None:
    """Of a file; None where there is none."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _print_summary(cases: Sequence[Case]) -> None:
    count = Counter((case.site, case.split) for case in cases)
    sites = dict.fromkeys(case.site for case in cases)
    width = max(map(len, sites))
    print(f"{'site':{width}}" + "".join(f"{split:>6}" for split in SPLITS))
    for site in sites:
        print(f"{site:{width}}" + "".join(f"{count[site, split]:>6}" for split in SPLITS))
    for patient, times in Counter(case.patient_id for case in cases).items():
        if times > 1:
            print(f"patient {patient} has {times} cases, kept in one split")
    advice = "append more cases, or give it a larger share in --split"
    if all(case.ignore_value is not None for case in cases):
        advice = "partly annotated cases are for the pool alone, so append others, or use `uss-bench fit`"
    for split in SPLITS:
        if not any(case.split == split for case in cases):
            print(f"no {split} case: a run needs at least one; {advice}")


HELP = {
    "description": "Write the manifest of a public dataset from the folders that its publisher ships.",
    "formatter_class": argparse.RawDescriptionHelpFormatter,
    "epilog": "layouts:\n"
    + "\n".join(f"  {name:17} {importer.__doc__}" for name, importer in LAYOUTS.items()),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `run` to a parser."""
    add = parser.add_argument
    add("layout", choices=LAYOUTS, help="how the source is laid out, see below")
    add("source", type=Path, help="the unpacked dataset")
    add("--output", type=Path, required=True, help="manifest to write")
    add(
        "--append",
        action="store_true",
        help="add to an existing manifest, in which every patient keeps its split",
    )
    add("--convert-to", type=Path, help="folder for NIfTI files converted from DICOM, PNG, MetaImage or NRRD")
    add(
        "--split",
        default="pool=0.5,val=0.05,test=0.45",
        help="shares of the patients of each site (%(default)s)",
    )
    add("--exclude", nargs="+", action="extend", default=[], metavar="ID", help="case ids to leave out")
    add(
        "--spacing",
        action="append",
        default=[],
        metavar="ID=XxYxZ",
        help="true spacing of a case in mm; may be repeated",
    )
    add("--seed", type=int, default=0, help="seed of the draw of the splits (0)")
