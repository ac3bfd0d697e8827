"""Manifests from public datasets, in the folders their publishers ship: `uss-bench import LAYOUT SOURCE --output FILE`.

The cases that `layouts` finds are excluded, checked, converted, inspected, split and written here, the same way for every layout.
"""

import argparse
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..runtime.errors import InputError
from ..runtime.seeding import generator
from ..runtime.storage import natural_key, write_csv
from . import dicom
from .layouts import LAYOUTS
from .manifest import OPTIONAL, REQUIRED, SPLITS, read_manifest
from .nifti import read_header, read_nifti, write_nifti
from .volumes import liver_of

LOST = "lost"


def collect(layout, source, existing, exclude, spacings):
    """Cases of a source, the excluded ones apart. All that is missing or named twice is one InputError."""
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
        f"no case {name} to exclude or space; ids here are like {found[0].case_id}"
        for name in (*exclude, *spacings)
        if name not in ids
    ]
    problems += [
        f"case {case.case_id}: {path} is missing; restore it or give --exclude {case.case_id}"
        for case in cases
        for path in (case.image, case.label)
        if not path.exists()
    ]
    count = Counter(case.case_id for case in cases)
    problems += [
        f"case {name}: found {times} times; keep one of each or import them apart"
        for name, times in count.items()
        if times > 1
    ]
    known = [case.case_id for case in existing if case.case_id in count]
    if known:
        names = ", ".join(known[:5]) + (f" and {len(known) - 5} more" if len(known) > 5 else "")
        problems.append(
            f"already in the manifest: {names}; import a source once, or give --exclude for these"
        )
    _raise(source, problems)
    return cases, [case for case in found if case.case_id in exclude]


def _raise(source, problems):
    if problems:
        raise InputError("\n  ".join([f"{source}: {len(problems)} problem(s)", *problems]))


def prepare(layout, cases, folder, spacings):
    """Cases as NIfTI and fit for use, and by case id the reason to leave the others out, and what is wrong with any."""
    if any(map(_is_foreign, (path for case in cases for path in (case.image, case.label)))):
        dicom.load_simpleitk()
        if folder is None:
            raise InputError(
                f"{layout}: these files are no NIfTI; say with --convert-to DIR where to write them as such"
            )
    kept, left_out, problems = [], {}, []
    for case in cases:
        try:
            spacing = spacings.get(case.case_id) or (_lits_spacing(case) if case.site == "LiTS" else None)
            case = replace(_convert(case, folder), spacing=spacing)
            if spacing == LOST:
                left_out[case.case_id] = (
                    f"its header has lost the spacing; give --spacing {case.case_id}=XxYxZ (mm) if you know it"
                )
            elif not _shows_liver(case):
                left_out[case.case_id] = "its label shows no liver"
            else:
                kept.append(case)
        except InputError as error:
            problems.append(f"case {case.case_id}: {error}")
    return kept, left_out, problems


def _is_foreign(path):
    return not path.name.lower().endswith((".nii", ".nii.gz"))


def _convert(case, folder):
    """The case with NIfTI files. What is not NIfTI is written to `folder`, unless it is there already."""
    targets = {"image": f"{case.case_id}.nii.gz", "label": f"{case.case_id}_liver.nii.gz"}
    targets = {
        role: folder / case.site / name for role, name in targets.items() if _is_foreign(getattr(case, role))
    }
    for role, target in targets.items():
        if not target.exists():
            write_nifti(
                target,
                *(
                    dicom.read_image(case.image)
                    if role == "image"
                    else dicom.read_mask(case.label, case.image)
                ),
            )
    return replace(case, **targets)


def _lits_spacing(case):
    """None where the affine is sound. An identity affine says nothing: then `(z, y, x)` as the header's pixdim has it, or LOST."""
    stored = read_header(case.image).stored
    if not np.array_equal(np.abs(stored.get_best_affine()), np.eye(4)):
        return None
    spacing = tuple(round(float(size), 6) for size in stored.get_zooms()[2::-1])
    return LOST if spacing == (1, 1, 1) else spacing


def _shows_liver(case):
    return bool(liver_of(read_nifti(case.label)[0], case.label_values).any())


def assign_splits(existing, new, shares, seed):
    """The new cases with their splits.

    Within each site the patients come as near to the shares as whole patients can, those of `existing`, which keep their split,
    counted in. A patient with scans in several sites counts where the first is.
    """
    split_of = {case.patient_id: case.split for case in existing}
    site_of = {}
    for case in (*existing, *new):
        site_of.setdefault(case.patient_id, case.site)
    for site in dict.fromkeys(site_of.values()):
        patients = sorted((patient for patient in site_of if site_of[patient] == site), key=natural_key)
        fresh = [patient for patient in patients if patient not in split_of]
        if not fresh:
            continue
        taken = Counter(split_of[patient] for patient in patients if patient in split_of)
        lacking = [
            max(0, quota - taken[split])
            for split, quota in zip(SPLITS, _apportion(len(patients), shares), strict=True)
        ]
        splits = np.repeat(SPLITS, _apportion(len(fresh), lacking))
        order = generator(seed, purpose="split", case=site).permutation(len(fresh))
        split_of.update((fresh[index], str(split)) for index, split in zip(order, splits, strict=True))
    return [replace(case, split=split_of[case.patient_id]) for case in new]


def _apportion(total, weights):
    """Whole numbers that sum to `total` and lie near its shares: the largest remainders are rounded up."""
    shares = np.array(weights) * total / np.sum(weights)
    counts = np.floor(shares).astype(int)
    counts[np.argsort(counts - shares, kind="stable")[: total - counts.sum()]] += 1
    return counts.tolist()


def write_manifest(path, cases):
    extra = dict.fromkeys(column for case in cases for column in case.extra)
    rows = [dict.fromkeys(extra, "") | case.extra | _row(case, path.parent) for case in cases]
    write_csv(path, (*REQUIRED, *OPTIONAL, *extra), rows)


def _row(case, folder):
    row = {column: getattr(case, column) for column in (*REQUIRED, *OPTIONAL)}
    return row | {
        "image": _relative(case.image, folder),
        "label": _relative(case.label, folder),
        "label_values": ";".join(map(str, case.label_values)),
        "spacing": "x".join(map(str, reversed(case.spacing or ()))),
        "initial": None if case.initial is None else int(case.initial),
    }


def _relative(path, folder):
    """POSIX path from the folder. Linked folders are resolved, or ".." would lead astray; a linked file keeps its own name."""
    return Path(os.path.relpath(path.parent.resolve() / path.name, folder.resolve())).as_posix()


def _parse_shares(text):
    try:
        shares = {name: float(share) for name, share in (part.split("=") for part in text.split(","))}
    except ValueError:
        shares = {}
    if (
        not shares
        or not {*shares} <= {*SPLITS}
        or min(shares.values()) < 0
        or abs(sum(shares.values()) - 1) > 1e-6
    ):
        raise InputError(
            f"--split {text}: not shares of {', '.join(SPLITS)} that sum to 1; write pool=0.5,val=0.05,test=0.45"
        )
    return [shares.get(split, 0.0) for split in SPLITS]


def _parse_spacings(texts):
    spacings = {}
    for text in texts:
        case_id, _, sizes = text.rpartition("=")
        try:
            x, y, z = (float(size) for size in sizes.lower().split("x"))
        except ValueError:
            x = y = z = -1.0
        if not (case_id and all(0 < size < float("inf") for size in (x, y, z))):
            raise InputError(
                f"--spacing {text}: not a case with three positive numbers; write x, y, z in mm as {case_id or 'ID'}=0.7x0.7x1.25"
            )
        spacings[case_id] = (z, y, x)
    return spacings


def run(layout, source, output, convert_to, split, exclude, spacing, seed, append):
    """Import a source into a manifest and print what came of each of its cases."""
    shares, spacings = _parse_shares(split), _parse_spacings(spacing)
    if output.is_dir():
        raise InputError(f"--output {output}: a folder; name the CSV file to write")
    if output.exists() and not append:
        raise InputError(f"--output {output}: exists; give --append to add to it, or another name")
    existing = read_manifest(output) if append and output.exists() else []
    cases, excluded = collect(layout, source, existing, exclude, spacings)
    kept, left_out, problems = prepare(layout, cases, convert_to, spacings)
    _raise(source, problems)
    for case_id, reason in [*((case.case_id, "--exclude") for case in excluded), *left_out.items()]:
        print(f"left out {case_id}: {reason}")
    if not kept:
        raise InputError(f"{source}: no case is left; see the reasons above")
    new = assign_splits(existing, kept, shares, seed)
    write_manifest(output, [*existing, *new])
    print(f"{output}: {len(new)} case(s) added, {len(existing) + len(new)} in all")
    _print_summary([*existing, *new])


def _print_summary(cases):
    count = Counter((case.site, case.split) for case in cases)
    sites = dict.fromkeys(case.site for case in cases)
    width = max(map(len, sites))
    print(f"{'site':{width}}" + "".join(f"{split:>6}" for split in SPLITS))
    for site in sites:
        print(f"{site:{width}}" + "".join(f"{count[site, split]:>6}" for split in SPLITS))
    for patient, times in Counter(case.patient_id for case in cases).items():
        if times > 1:
            print(f"patient {patient} has {times} cases, kept in one split")
    for split in SPLITS:
        if not any(case.split == split for case in cases):
            print(
                f"no {split} case: a run needs some; append more cases or give {split} a larger share in --split"
            )


HELP = {
    "description": "Write the manifest of a public dataset, in the folders its publisher ships.",
    "formatter_class": argparse.RawDescriptionHelpFormatter,
    "epilog": "layouts:\n"
    + "\n".join(f"  {name:17} {importer.__doc__}" for name, importer in LAYOUTS.items()),
}


def add_arguments(parser):
    """Give a parser the arguments of `run`."""
    add = parser.add_argument
    add("layout", choices=LAYOUTS, help="how the source is laid out, see below")
    add("source", type=Path, help="the unpacked dataset")
    add("--output", type=Path, required=True, help="manifest to write")
    add(
        "--append",
        action="store_true",
        help="add to a manifest that exists, in which every patient keeps its split",
    )
    add("--convert-to", type=Path, help="folder for the NIfTI files made of DICOM, PNG, MetaImage or NRRD")
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
    add("--seed", type=int, default=0, help="names the draw of the splits (0)")
