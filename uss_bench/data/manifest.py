"""The data manifest: a CSV with one row per case, read into `Case` records, checked as a whole, written."""

from __future__ import annotations

import csv
import difflib
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..runtime.errors import InputError, refuse
from ..runtime.storage import write_csv

SPLITS = ("pool", "val", "test")
REQUIRED = ("case_id", "site", "split", "image", "label")
OPTIONAL = ("patient_id", "label_values", "spacing", "initial", "ignore_value")
NEARLY = 0.8  # an unknown column counts as misspelt from this similarity on (0 to 1, by difflib)


@dataclass(frozen=True)
class Case:
    """One CT volume and its reference segmentation: a row of the manifest.

    Attributes
    ----------
    case_id, site : str
        Name of the case, and where it comes from.
    split : str
        One of `SPLITS`.
    image, label : Path
        NIfTI files. In a manifest both are named; None as label: nobody has annotated the image yet.
    patient_id : str
        Cases of one patient share it.
    label_values : tuple of int
        Label codes that count as liver; empty: every code but 0 and that of `ignore_value`.
    spacing : tuple of float or None
        `(z, y, x)` in mm, which overrides the image header; None: trust the header.
    initial : bool or None
        Whether the case belongs to the initial training set; None: the seed decides.
    ignore_value : int or None
        Label code of voxels that nobody has annotated; None: there are none.
    extra : dict
        Further columns of the row, as they are.
    """

    case_id: str
    site: str
    split: str
    image: Path
    label: Path | None
    patient_id: str
    label_values: tuple[int, ...] = ()
    spacing: tuple[float, ...] | None = None
    initial: bool | None = None
    ignore_value: int | None = None
    extra: dict[str, str] = field(default_factory=dict, compare=False)


def read_manifest(path: str | Path) -> list[Case]:
    r"""Read and check a manifest.

    Parameters
    ----------
    path : path
        A CSV file in UTF-8, one row per case. Paths in it are relative to it.

    Returns
    -------
    list of Case
        In the order of the rows. Whether their files exist is not checked.

    Raises
    ------
    InputError
        The file cannot be read, or rows are faulty; all faults in one message.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder, "manifest.csv")
    ...     _ = path.write_text("case_id,site,split,image,label\nc1,Rumc,pool,ct.nii.gz,liver.nii.gz\n")
    ...     [(case.case_id, case.split) for case in read_manifest(path)]
    [('c1', 'pool')]
    """
    cases, problems = parse_manifest(path)
    refuse(f"{path}: {len(problems)} problem(s)", problems)
    return cases


def parse_manifest(path: str | Path) -> tuple[list[Case], list[str]]:
    """Read a manifest, faulty or not.

    Whether the files exist is not checked here, since phantoms are made on first use.

    Returns
    -------
    cases : list of Case
        Those that can be made out; a faulty optional value is left out.
    problems : list of str
        What is wrong, one line per fault.

    Raises
    ------
    InputError
        The file cannot be read at all.
    """
    path = Path(path)
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = [column.strip() for column in reader.fieldnames or ()]
            reader.fieldnames = columns
            rows = [(reader.line_num, row) for row in reader]
    except OSError as error:
        raise InputError(
            f"{path}: cannot read the manifest ({error.strerror}); give an existing CSV file"
        ) from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"{path}: not a CSV file in UTF-8 ({error}); save the manifest as plain CSV in UTF-8"
        ) from None

    problems = _column_problems(columns)
    if problems:
        return [], problems
    cases = []
    for line, row in rows:
        case, faults = _parse_row(row, path.parent)
        cases += [case] if case else []
        problems += [f"line {line}: {fault}" for fault in faults]
    if not rows:
        problems.append("no cases; add one row per case")
    return cases, problems + conflicts(cases)


def write_manifest(path: Path, cases: Sequence[Case]) -> None:
    """Write cases as a manifest, with paths relative to it."""
    extra = dict.fromkeys(column for case in cases for column in case.extra)
    rows = [dict.fromkeys(extra, "") | case.extra | _row(case, path.parent) for case in cases]
    write_csv(path, (*REQUIRED, *OPTIONAL, *extra), rows)


def _row(case: Case, folder: Path) -> dict:
    row = {column: getattr(case, column) for column in (*REQUIRED, *OPTIONAL)}
    return row | {
        "image": relative_path(case.image, folder),
        "label": relative_path(case.label, folder),
        "label_values": ";".join(map(str, case.label_values)),
        "spacing": "x".join(map(str, reversed(case.spacing or ()))),
        "initial": None if case.initial is None else int(case.initial),
    }


def relative_path(path: Path, folder: Path) -> str:
    """POSIX path from a folder.

    Linked folders are resolved, because ".." would lead elsewhere from them; a linked file keeps its name.
    """
    return Path(os.path.relpath(path.parent.resolve() / path.name, folder.resolve())).as_posix()


def _column_problems(columns: Sequence[str]) -> list[str]:
    """Columns that are missing, repeated or probably misspelt.

    A misspelt patient_id or spacing would be ignored, and would ruin a study in silence.
    """
    problems = []
    missing = [column for column in REQUIRED if column not in columns]
    if missing:
        problems.append(
            f"missing column(s) {', '.join(missing)}; the first line must name {', '.join(REQUIRED)}"
        )
    repeated = [column for column, count in Counter(columns).items() if count > 1]
    if repeated:
        problems.append(f"column(s) {', '.join(repeated)} named more than once; keep one of each")
    known = {_plain(column): column for column in REQUIRED + OPTIONAL if column not in columns}
    for column in columns:
        if column not in REQUIRED + OPTIONAL:
            meant = [
                known[name] for name in difflib.get_close_matches(_plain(column), known, n=1, cutoff=NEARLY)
            ]
            problems += [
                f"column {column!r} looks like {name} misspelt; rename it to {name}, "
                "or to something quite different if it is something else"
                for name in meant
            ]
    return problems


def _plain(column: str) -> str:
    return "".join(letter for letter in column.lower() if letter not in " _-")


def _parse_row(row: dict, folder: Path) -> tuple[Case | None, list[str]]:
    """Case of a row (None where a required value is at fault), and the row's problems."""
    problems = []
    if None in row:
        problems.append(f"{len(row.pop(None))} more value(s) than columns; quote values that contain commas")
    row = {column: (value or "").strip() for column, value in row.items()}
    case_id = row["case_id"] or "?"
    empty = [column for column in REQUIRED if not row[column]]
    if empty:
        problems.append(f"case {case_id}: empty {', '.join(empty)}; every required column needs a value")
    if row["split"] and row["split"] not in SPLITS:
        problems.append(f"case {case_id}: split {row['split']!r} is unknown; use {', '.join(SPLITS)}")
    complete = not problems
    optional = {}
    for column, parse in (
        ("label_values", _parse_label_values),
        ("spacing", _parse_spacing),
        ("initial", _parse_initial),
        ("ignore_value", _parse_ignore_value),
    ):
        try:
            optional[column] = parse(row.get(column))
        except ValueError as error:
            problems.append(f"case {case_id}: {column} {row[column]!r} {error}")
    if optional.get("ignore_value") in optional.get("label_values", ()):
        problems.append(
            f"case {case_id}: ignore_value {row['ignore_value']} is among the label_values; "
            "give the code of voxels that nobody has annotated"
        )
    if not complete:
        return None, problems
    extra = {column: value for column, value in row.items() if column not in REQUIRED + OPTIONAL}
    required = {
        column: folder / row[column] if column in ("image", "label") else row[column] for column in REQUIRED
    }
    return Case(**required, patient_id=row.get("patient_id") or case_id, **optional, extra=extra), problems


def _parse_label_values(text: str | None) -> tuple[int, ...]:
    try:
        values = tuple(int(value) for value in text.split(";")) if text else ()
    except ValueError:
        raise ValueError("is not a list of integers; write them as 1;2") from None
    if 0 in values:
        raise ValueError("contains 0, the background; list the liver's values only")
    return values


def _parse_spacing(text: str | None) -> tuple[float, ...] | None:
    return parse_sizes(text) if text else None


def parse_sizes(text: str) -> tuple[float, ...]:
    """Spacing `(z, y, x)` in mm from text `XxYxZ`.

    Raises
    ------
    ValueError
        It is not three positive numbers.
    """
    try:
        x, y, z = (float(value) for value in text.lower().split("x"))
    except ValueError:
        x = y = z = -1.0
    if not all(0 < value < float("inf") for value in (x, y, z)):
        raise ValueError("is not three positive numbers; write x, y, z in mm as 0.7x0.7x1.25")
    return z, y, x


def _parse_initial(text: str | None) -> bool | None:
    if not text:
        return None
    if text not in ("0", "1"):
        raise ValueError("is neither 0 nor 1; leave it empty to let the seed choose")
    return text == "1"


def _parse_ignore_value(text: str | None) -> int | None:
    try:
        value = int(text) if text else None
    except ValueError:
        raise ValueError("is not a whole number; give the label code of voxels to ignore") from None
    if value == 0:
        raise ValueError("is 0, the background; give unannotated voxels a code of their own")
    return value


def conflicts(cases: Sequence[Case]) -> list[str]:
    """Faults between the rows of a manifest, one line each."""
    problems = [
        f"case_id {case_id}: {count} rows; ids must be unique"
        for case_id, count in Counter(case.case_id for case in cases).items()
        if count > 1
    ]
    splits = defaultdict(set)
    for case in cases:
        splits[case.patient_id].add(case.split)
    problems += [
        f"patient {patient}: in splits {', '.join(sorted(found))}; keep each patient in one split"
        for patient, found in splits.items()
        if len(found) > 1
    ]
    problems += [
        f"case {case.case_id}: initial 1 but split {case.split}; only pool cases can be initial"
        for case in cases
        if case.initial and case.split != "pool"
    ]
    return problems
