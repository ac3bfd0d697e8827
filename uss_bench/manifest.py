"""The data manifest: a CSV with one row a case, read into `Case` records and checked as a whole."""

import csv
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from . import InputError

SPLITS = ("pool", "val", "test")
REQUIRED = ("case_id", "site", "split", "image", "label")
OPTIONAL = ("patient_id", "label_values", "spacing", "initial")


@dataclass(frozen=True)
class Case:
    """One CT volume and its reference segmentation.

    `label_values` are the label codes that count as liver (empty: every non-zero one). `spacing` is `(z, y, x)` in mm and overrides
    the image header (None: trust the header). `initial` tells whether the case belongs to the initial training set (None: the
    manifest leaves that to the seed). `extra` holds the further columns of the row, untouched.
    """

    case_id: str
    site: str
    split: str
    image: Path
    label: Path
    patient_id: str
    label_values: tuple = ()
    spacing: tuple | None = None
    initial: bool | None = None
    extra: dict = field(default_factory=dict, compare=False)


def read_manifest(path):
    """Read and check a manifest.

    Paths in the manifest are relative to it. Whether the files exist is not checked here, since phantoms are made on first use.

    Raises
    ------
    InputError
        The file cannot be read, or rows are faulty. All faults are listed in the one message.
    """
    path = Path(path)
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = [column.strip() for column in reader.fieldnames or ()]
            reader.fieldnames = columns
            rows = [(reader.line_num, row) for row in reader]
    except OSError as error:
        raise InputError(f"{path}: cannot read the manifest ({error.strerror}); name an existing CSV file with --manifest") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a CSV file in UTF-8 ({error}); save the manifest as plain CSV") from None

    missing = [column for column in REQUIRED if column not in columns]
    if missing:
        raise InputError(f"{path}: missing column(s) {', '.join(missing)}; the first line must name {', '.join(REQUIRED)}")
    repeated = [column for column, count in Counter(columns).items() if count > 1]
    if repeated:
        raise InputError(f"{path}: column(s) {', '.join(repeated)} named more than once; keep one of each")

    cases, problems = [], []
    for line, row in rows:
        try:
            cases.append(_parse_row(row, path.parent))
        except ValueError as error:
            problems.append(f"line {line}: {error}")
    problems += _conflicts(cases)
    if not rows:
        problems.append("no cases; add one row a case")
    if problems:
        raise InputError("\n  ".join([f"{path}: {len(problems)} problem(s)", *problems]))
    return cases


def _parse_row(row, folder):
    if None in row:
        raise ValueError(f"{len(row[None])} more value(s) than columns; quote values that hold commas")
    row = {column: (value or "").strip() for column, value in row.items()}
    empty = [column for column in REQUIRED if not row[column]]
    if empty:
        raise ValueError(f"case {row['case_id'] or '?'}: empty {', '.join(empty)}; every required column needs a value")
    case_id = row["case_id"]
    if row["split"] not in SPLITS:
        raise ValueError(f"case {case_id}: split {row['split']!r} is unknown; use {', '.join(SPLITS)}")
    return Case(
        case_id=case_id,
        site=row["site"],
        split=row["split"],
        image=folder / row["image"],
        label=folder / row["label"],
        patient_id=row.get("patient_id") or case_id,
        label_values=_parse_label_values(case_id, row.get("label_values")),
        spacing=_parse_spacing(case_id, row.get("spacing")),
        initial=_parse_initial(case_id, row.get("initial")),
        extra={column: value for column, value in row.items() if column not in REQUIRED + OPTIONAL},
    )


def _parse_label_values(case_id, text):
    try:
        values = tuple(int(value) for value in text.split(";")) if text else ()
    except ValueError:
        raise ValueError(f"case {case_id}: label_values {text!r} is not a list of integers; write them as 1;2") from None
    if 0 in values:
        raise ValueError(f"case {case_id}: label_values {text!r} names 0, the background; name the liver's values only")
    return values


def _parse_spacing(case_id, text):
    if not text:
        return None
    try:
        x, y, z = (float(value) for value in text.lower().split("x"))
    except ValueError:
        x = y = z = -1.0
    if not all(0 < value < float("inf") for value in (x, y, z)):
        raise ValueError(f"case {case_id}: spacing {text!r} is not three positive numbers; write x, y, z in mm as 0.7x0.7x1.25")
    return z, y, x


def _parse_initial(case_id, text):
    if not text:
        return None
    if text not in ("0", "1"):
        raise ValueError(f"case {case_id}: initial {text!r} is neither 0 nor 1; leave it empty to let the seed choose")
    return text == "1"


def _conflicts(cases):
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
