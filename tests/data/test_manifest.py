"""Manifests as people write them, right and wrong."""

from pathlib import Path

import pytest

from uss_bench.data.manifest import Case, parse_manifest, read_manifest
from uss_bench.runtime.errors import InputError

HEADER = "case_id,site,split,image,label"


@pytest.fixture
def read(tmp_path):
    """Reads the lines as a manifest."""

    def write_and_read(*lines, encoding="utf-8", newline="\n"):
        path = tmp_path / "manifest.csv"
        path.write_bytes((newline.join(lines) + newline).encode(encoding))
        return read_manifest(path)

    return write_and_read


def problems_of(read, *lines):
    with pytest.raises(InputError) as error:
        read(*lines)
    return str(error.value)


# --- what a row says ----------------------------------------------------------------------------------------


def test_required_columns_alone_give_the_defaults(read, tmp_path):
    assert read(HEADER, "c1,Rumc,pool,ct.nii.gz,liver.nii.gz") == [
        Case(
            case_id="c1",
            site="Rumc",
            split="pool",
            image=tmp_path / "ct.nii.gz",
            label=tmp_path / "liver.nii.gz",
            patient_id="c1",
            label_values=(),
            spacing=None,
            initial=None,
        )
    ]


def test_optional_columns(read):
    [case] = read(
        HEADER + ",patient_id,label_values,spacing,initial,ignore_value,scanner,phase",
        "c1,LiTS,pool,ct.nii,liver.nii,p7,1;2,0.7x0.8x1.25,1,3,GE,portal",
    )
    assert case.patient_id == "p7"
    assert case.label_values == (1, 2)
    assert case.spacing == (1.25, 0.8, 0.7)  # the manifest says x, y, z; everything else z, y, x
    assert case.initial is True
    assert case.ignore_value == 3
    assert case.extra == {"scanner": "GE", "phase": "portal"}


def test_empty_optional_cells_give_the_defaults(read):
    [case] = read(HEADER + ",patient_id,label_values,spacing,initial,ignore_value", "c1,s,test,a,b,,,,,")
    assert (case.patient_id, case.label_values) == ("c1", ())
    assert (case.spacing, case.initial, case.ignore_value) == (None, None, None)


def test_initial_zero_is_a_no_and_not_an_unknown(read):
    assert [
        case.initial
        for case in read(HEADER + ",initial", "a,s,pool,i,l,0", "b,s,pool,i,l,1", "c,s,pool,i,l,")
    ] == [False, True, None]


def test_paths_are_relative_to_the_manifest_and_absolute_ones_stay(read, tmp_path):
    absolute = Path("/", "elsewhere", "liver.nii.gz").absolute()
    [case] = read(HEADER, f"c1,s,val,../scans/ct.nii.gz,{absolute}")
    assert case.image == tmp_path / "../scans/ct.nii.gz"
    assert case.label == absolute


def test_order_of_columns_and_spaces_do_not_matter_and_rows_keep_theirs(read):
    cases = read(" label, image ,split,site,case_id", "l1 , i1,pool, s,b", "", "l2,i2,test,s,a")
    assert [(case.case_id, case.image.name, case.label.name, case.split) for case in cases] == [
        ("b", "i1", "l1", "pool"),
        ("a", "i2", "l2", "test"),
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_files_of_spreadsheets_are_read(read, encoding, newline):
    """With a byte order mark, Windows line ends, quotes and umlauts."""
    [case] = read(HEADER, '"c1","Köln, Uni",pool,"a ""b"".nii",l.nii', encoding=encoding, newline=newline)
    assert (case.case_id, case.site, case.image.name) == ("c1", "Köln, Uni", 'a "b".nii')


def test_the_shipped_manifest_is_faultless():
    cases = read_manifest(Path(__file__).parents[2] / "data_manifest.csv")
    assert {case.split for case in cases} == {"pool", "val", "test"}


def test_several_cases_of_a_patient_may_share_a_split(read):
    assert len(read(HEADER + ",patient_id", "a,s,pool,i,l,p", "b,s,pool,i,l,p")) == 2


# --- what is wrong with it ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("c1,s,train,i,l,,,,", ["c1", "split 'train'", "pool, val, test"]),
        ("c1,s,Pool,i,l,,,,", ["split 'Pool'"]),
        ("c1,,pool,i,,,,,", ["c1", "empty site, label"]),
        (",s,pool,i,l,,,,", ["empty case_id"]),
        ("c1,s,pool", ["c1", "empty image, label"]),
        ("c1,s,pool,i,l,,,,,,x,y", ["2 more value(s) than columns"]),
        ("c1,s,pool,i,l,,liver,,", ["c1", "label_values 'liver'", "1;2"]),
        ("c1,s,pool,i,l,,1;,,", ["label_values '1;'"]),
        ("c1,s,pool,i,l,,1.5,,", ["label_values '1.5'"]),
        ("c1,s,pool,i,l,,0;1,,", ["label_values '0;1'", "background"]),
        ("c1,s,pool,i,l,,,0.7x0.7,", ["c1", "spacing '0.7x0.7'", "0.7x0.7x1.25"]),
        ("c1,s,pool,i,l,,,0.7x0.7x1x1,", ["spacing"]),
        ("c1,s,pool,i,l,,,0.7x0.7xthick,", ["spacing"]),
        ("c1,s,pool,i,l,,,0.7x0.7x0,", ["spacing"]),
        ("c1,s,pool,i,l,,,0.7x-0.7x1,", ["spacing"]),
        ("c1,s,pool,i,l,,,0.7xnanx1,", ["spacing"]),
        ("c1,s,pool,i,l,,,0.7xinfx1,", ["spacing"]),
        ("c1,s,pool,i,l,,,,yes", ["c1", "initial 'yes'"]),
        ("c1,s,val,i,l,,,,1", ["c1", "initial 1 but split val"]),
        ("c1,s,pool,i,l,,,,,blank", ["c1", "ignore_value 'blank'", "whole number"]),
        ("c1,s,pool,i,l,,,,,0", ["c1", "ignore_value '0'", "background"]),
        ("c1,s,pool,i,l,,1;2,,,2", ["c1", "ignore_value 2 is among the label_values"]),
    ],
)
def test_a_faulty_row_is_named_with_its_fault(read, row, says):
    message = problems_of(read, HEADER + ",patient_id,label_values,spacing,initial,ignore_value", row)
    assert "manifest.csv: 1 problem(s)" in message
    assert all(text in message for text in says), message


def test_all_faults_of_a_row_are_named(read):
    message = problems_of(
        read,
        HEADER + ",label_values,spacing,initial",
        "c1,,train,i,l,liver,thick,yes",
        "c2,s,pool,i,l,0,1x1,2,more",
    )
    starts = [
        "c1: empty site",
        "c1: split 'train'",
        "c1: label_values 'liver'",
        "c1: spacing 'thick'",
        "c1: initial 'yes'",
    ]
    starts += ["1 more value(s)", "c2: label_values '0'", "c2: spacing '1x1'", "c2: initial '2'"]
    assert "9 problem(s)" in message and all(start in message for start in starts)


def test_cases_that_can_be_made_out_are_given_beside_the_problems(tmp_path):
    """So that their files can be checked at the same time; a faulty optional value is left out."""
    path = tmp_path / "manifest.csv"
    path.write_text(
        HEADER + ",spacing\na,s,pool,i,l,1x1\nb,s,train,i,l,\nc,s,val,i,l,1x2x3\n", encoding="utf-8"
    )
    cases, problems = parse_manifest(path)
    assert [(case.case_id, case.spacing) for case in cases] == [("a", None), ("c", (3, 2, 1))]
    assert [problem.split(";")[0] for problem in problems] == [
        "line 2: case a: spacing '1x1' is not three positive numbers",
        "line 3: case b: split 'train' is unknown",
    ]


@pytest.mark.parametrize(
    ("column", "meant"),
    [
        ("patientid", "patient_id"),
        ("Patient ID", "patient_id"),
        ("patient", "patient_id"),
        ("Spacing", "spacing"),
        ("spacing_mm", "spacing"),
        ("label_value", "label_values"),
        ("label-values", "label_values"),
        ("labelvalues", "label_values"),
        ("inital", "initial"),
    ],
)
def test_a_column_that_is_nearly_a_known_one_is_a_problem(read, column, meant):
    message = problems_of(read, f"{HEADER},{column}", "c1,s,pool,i,l,1")
    assert "1 problem(s)" in message
    assert f"column {column!r} looks like {meant} misspelt; rename it to {meant}, " in message
    # Where the known column is there too, the other one is meant.
    assert len(read(f"{HEADER},{column},{meant}", "c1,s,pool,i,l,1,")) == 1


@pytest.mark.parametrize(
    "column",
    ["scanner", "phase", "patient_age", "image_md5", "slices", "kernel", "phantom", "path", "id", "title"],
)
def test_further_columns_are_not_taken_for_known_ones(read, column):
    assert read(f"{HEADER},{column}", "c1,s,pool,i,l,1")[0].extra == {column: "1"}


def test_all_problems_with_columns_come_in_one_message(read):
    message = problems_of(read, "Case_ID,site,split,image,image,patientid", "c1,s,pool,i,i,p")
    lines = message.split("\n  ")[1:]
    starts = [
        "missing column(s) case_id, label",
        "column(s) image named more than once",
        "column 'Case_ID'",
        "column 'patientid'",
    ]
    assert [line[: len(start)] for line, start in zip(lines, starts, strict=True)] == starts


def test_faults_between_rows(read):
    message = problems_of(
        read,
        HEADER + ",patient_id",
        "a,s,pool,i,l,p1",
        "b,s,test,i,l,p1",
        "c,s,pool,i,l,p2",
        "c,s,pool,i,l,p2",
        "d,s,pool,i,l,e",  # the patient of the next row, by its default
        "e,s,val,i,l,",
    )
    assert "patient p1: in splits pool, test" in message
    assert "patient e: in splits pool, val" in message
    assert "case_id c: 2 rows" in message
    assert "3 problem(s)" in message


def test_all_problems_come_in_one_message_with_their_lines(read):
    message = problems_of(read, HEADER, "a,s,pool,i,l", "b,s,train,i,l", "", "c,s,pool,,l", "a,s,pool,i,l")
    assert "3 problem(s)" in message
    assert "line 3: case b: split 'train'" in message
    assert "line 5: case c: empty image" in message
    assert "case_id a: 2 rows" in message


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ([""], "missing column(s) case_id, site, split, image, label"),
        (["case_id,site,split,image", "a,s,pool,i"], "missing column(s) label"),
        (["case_id;site;split;image;label", "a;s;pool;i;l"], "missing column(s)"),
        ([HEADER + ",site", "a,s,pool,i,l,t"], "site named more than once"),
        ([HEADER], "no cases"),
    ],
)
def test_a_file_that_is_no_manifest_is_named_with_its_fault(read, lines, says):
    assert says in problems_of(read, *lines)


def test_a_manifest_that_cannot_be_read_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match=r"absent\.csv: cannot read the manifest .*give an existing CSV"):
        read_manifest(tmp_path / "absent.csv")
    with pytest.raises(InputError, match="cannot read"):
        read_manifest(tmp_path)
    (tmp_path / "latin.csv").write_bytes((HEADER + "\na,Köln,pool,i,l\n").encode("latin-1"))
    with pytest.raises(InputError, match="UTF-8"):
        read_manifest(tmp_path / "latin.csv")
    (tmp_path / "image.csv").write_bytes(b"\x1f\x8b\x08\x00\x00\x00")
    with pytest.raises(InputError):
        read_manifest(tmp_path / "image.csv")
