"""Random inputs, nearly right or far from it: each is understood or is an `InputError`, and nothing hangs.

Files are judged by a reader of our own: what is sound must be read, and to the same voxels at the same place.
"""

import gzip
import math
import multiprocessing
import signal
import struct
import zlib
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from builders import DATA

from uss_bench.data.manifest import OPTIONAL, REQUIRED, SPLITS, read_manifest
from uss_bench.data.nifti import read_nifti
from uss_bench.runtime.errors import InputError

hypothesis = pytest.importorskip("hypothesis")
st = pytest.importorskip("hypothesis.strategies")
resource = pytest.importorskip("resource")

REAL = DATA / "real"
FEW_OR_MANY = [pytest.param(100, id="few"), pytest.param(6000, id="many", marks=pytest.mark.slow)]
ADDRESS_SPACE = 2 << 30  # bytes that a process may ask for beyond what it has at its start
SECONDS = 1.0  # of CPU time per input


def fuzz(check, examples, **strategies):
    """Run `check` on examples that are the same in every run."""
    settings = hypothesis.settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    settings(hypothesis.given(**strategies)(check))()


def change_bytes(draw, content, head):
    """1 to 20 bytes, most of them among the first `head`."""
    places = st.one_of(st.integers(0, head - 1), st.integers(0, head - 1), st.integers(0, len(content) - 1))
    for place, byte in draw(st.lists(st.tuples(places, st.integers(0, 255)), min_size=1, max_size=20)):
        content[place] = byte


# --- manifests ----------------------------------------------------------------------------------------------

COLUMNS = [*REQUIRED, *OPTIONAL]
ODD_COLUMNS = ["phantom", "Case_ID", "label values", " site ", "", "spacing_"]
ODD_CELLS = {
    # The last is longer than Python's csv allows.
    "case_id": ["c0", "c1", " c1 ", "\0", "x" * 200_000],
    "site": ["", '"', "'", "\u2028"],
    "split": ["pool", "test", " val ", "Pool", "train"],
    "image": ["", "..", "/", "liver.nii.gz"],
    "label": ["", "..", "/", "ct.nii.gz"],
    "patient_id": ["", "p0", "p1", "c1"],
    # The last has more digits than Python converts.
    "label_values": ["", "0", "1;;2", "-1", "1_0", "1.5", "1e3", "9" * 5000],
    "spacing": ["", "1x1", "-1x1x1", "nanx1x1", "1x1xinf", "1e999x1x1", "1e-999x1x1"],
    "initial": ["", "0", "1", "yes"],
    "ignore_value": ["", "0", "1", "255", "2.5"],
}
ANY_CELL = st.one_of(
    st.sampled_from([cell for cells in ODD_CELLS.values() for cell in cells]),
    st.floats().map(str),
    st.text(max_size=6),
)
SOUND_ROWS = [
    [f"c{number}", "site", split, "ct.nii.gz", "liver.nii.gz", f"p{number}", "1;2", "0.7x0.7x1.25", "", "3"]
    for number, split in enumerate(SPLITS)
]


@st.composite
def manifests(draw):
    """Bytes of a manifest: a sound table with some odd cells or, seldom, some other bytes; or any table."""
    kind = draw(st.sampled_from(["cells", "cells", "cells", "bytes", "table"]))
    if kind != "table":
        rows = [COLUMNS, *map(list, SOUND_ROWS)]
        for row, column in draw(
            st.lists(
                st.tuples(st.sampled_from(rows[1:]), st.sampled_from(COLUMNS)),
                min_size=kind == "cells",
                max_size=2,
            )
        ):
            row[COLUMNS.index(column)] = draw(st.one_of(st.sampled_from(ODD_CELLS[column]), ANY_CELL))
    else:
        names = st.one_of(st.sampled_from(COLUMNS), st.sampled_from(ODD_COLUMNS), st.text(max_size=4))
        columns = draw(st.one_of(st.permutations(COLUMNS), st.lists(names, max_size=10)))
        rows = [columns, *draw(st.lists(st.lists(ANY_CELL, max_size=len(columns) + 1), max_size=4))]
    text = draw(st.sampled_from(["\n", "\r\n", "\r", "\n\n"])).join(",".join(row) for row in rows)
    content = bytearray(
        text.encode(draw(st.sampled_from(["utf-8"] * 6 + ["utf-8-sig", "utf-16"])), errors="surrogatepass")
    )
    if kind == "bytes":
        change_bytes(draw, content, 100)
    return bytes(content)


@pytest.mark.parametrize("examples", FEW_OR_MANY)
def test_any_manifest_is_a_list_of_sound_cases_or_an_input_error(tmp_path, examples):
    outcomes = Counter()

    def check(content):
        path = tmp_path / "manifest.csv"
        path.write_bytes(content)
        try:
            cases = read_manifest(path)
        except InputError as error:
            assert str(path) in str(error)
            outcomes["refused"] += 1
            return
        outcomes["read"] += 1
        assert len({case.case_id for case in cases}) == len(cases) > 0
        for case in cases:
            assert case.case_id and case.site and case.patient_id and case.split in SPLITS
            assert case.spacing is None or (
                len(case.spacing) == 3 and all(0 < size < math.inf for size in case.spacing)
            )
            assert all(isinstance(value, int) and value for value in case.label_values)
            assert case.ignore_value is None or case.ignore_value not in (0, *case.label_values)
            assert case.initial in (None, False) or case.split == "pool"

    fuzz(check, examples, content=st.one_of(manifests(), st.binary(max_size=200)))
    print(dict(outcomes))
    assert min(outcomes["read"], outcomes["refused"]) > examples / 20


# --- NIfTI --------------------------------------------------------------------------------------------------

DTYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8"}
DTYPES |= {256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
# Place, kind and odd values of the fields that decide on the reading.
NUMBERS = [math.nan, math.inf, -math.inf, 0.0, -0.0, 1.0, -1.0, 0.5, 352.0, 353.0, 1e-45, 1e-30, 1e30, 3e38]
WHOLE = [-32768, -1, 0, 1, 2, 3, 4, 5, 7, 8, 16, 64, 128, 255]
WHOLE += [256, 512, 768, 1024, 1280, 1536, 1792, 2048, 32767]
FIELDS = [
    *[(place, "h", WHOLE) for place in (*range(40, 50, 2), 70, 72, 252, 254)],
    *[(place, "f", NUMBERS) for place in (*range(76, 92, 4), *range(108, 120, 4), *range(256, 328, 12))],
    (0, "i", [348, 540, 0, -1]),
    (123, "B", range(256)),
    (344, "4s", [b"ni1\0", b"n+2\0", b"n+1\0", bytes(4)]),
]
DAMAGES = ["fields", "fields", "fields", "size", "bytes", "packed bytes", "cut"]


def sound_files():
    """Contents of small sound files of various kinds, not compressed."""
    random = np.random.default_rng(0)
    turns = [
        np.diag([0.7, 0.7, 2.5, 1]),
        np.diag([-0.7, -0.7, 2.5, 1]),
        np.array([[0, 0, 2.5, 9], [-0.7, 0.2, 0, 4], [0.2, 0.7, 0, -5], [0, 0, 0, 1]]),
    ]
    images = [
        (random.integers(0, 100, (5, 4, 6)).astype(dtype), turn, order, codes)
        for dtype in DTYPES.values()
        for turn, order, codes in zip(turns, "<><", ((1, 0), (0, 1), (1, 1)), strict=True)
    ]
    if REAL.is_dir():
        for name in ("totalseg_example", "lits117_crop"):
            real = nib.load(REAL / name / "ct.nii.gz")
            images.append((np.asanyarray(real.dataobj[20:100:8, 20:100:8, 50:53]), real.affine, "<", (1, 0)))
    for array, affine, order, (sform_code, qform_code) in images:
        image = nib.Nifti1Image(array, affine, nib.Nifti1Header(endianness=order), dtype=array.dtype)
        image.header.set_sform(affine, sform_code)
        image.header.set_qform(affine, qform_code)
        yield image.to_bytes()


@st.composite
def files(draw, sound):
    """Content of a sound file with up to two kinds of damage, and whether it is named as compressed."""
    content = bytearray(draw(st.sampled_from(sound)))
    damages = draw(st.lists(st.sampled_from(DAMAGES), max_size=2))
    order = "<" if content.startswith(struct.pack("<i", 348)) else ">"
    if "fields" in damages:
        for place, kind, values in draw(st.lists(st.sampled_from(FIELDS), min_size=1, max_size=3)):
            struct.pack_into(order + kind, content, place, draw(st.sampled_from(values)))
    if "size" in damages:
        struct.pack_into(
            order + "3h", content, 42, *draw(st.tuples(*[st.sampled_from([-1, 1, 7, 1000, 32767])] * 3))
        )
    if "bytes" in damages:
        change_bytes(draw, content, 352)
    compressed = "packed bytes" in damages or draw(st.booleans())
    if compressed:
        content = bytearray(gzip.compress(content, compresslevel=draw(st.sampled_from([0, 6])), mtime=0))
    if "packed bytes" in damages:
        change_bytes(draw, content, 20)
    if "cut" in damages:
        del content[-draw(st.integers(1, len(content))) :]
    return bytes(content), compressed


def read_by_hand(content):
    """`(voxels, slope, intercept, affine)` of an uncompressed NIfTI-1 file, in the order of the file.

    None unless it is sound beyond doubt.
    """
    order = next((order for order in "<>" if content[:4] == struct.pack(order + "i", 348)), None)
    if order is None or len(content) < 352 or content[344:348] != b"n+1\0":
        return None

    def get(place, kind, count=1):
        return struct.unpack_from(f"{order}{count}{kind}", content, place)

    dimensions, *shape = get(40, "h", 8)
    shape, dtype = shape[:3], DTYPES.get(get(70, "h")[0])
    qfac, *zooms = get(76, "f", 4)
    offset, slope, intercept = get(108, "f", 3)
    codes = get(252, "h", 2)
    if (
        dimensions != 3
        or min(shape) < 1
        or dtype is None
        or not (352 <= offset < 1e6 and offset == int(offset))
    ):
        return None
    size = math.prod(shape)
    if len(content) < offset + size * np.dtype(dtype).itemsize:
        return None
    voxels = np.frombuffer(content, order + dtype, size, int(offset)).reshape(shape, order="F")
    if not math.isfinite(slope) or slope == 0:
        slope, intercept = 1.0, 0.0  # no scaling
    affine = affine_by_hand(codes, zooms, qfac, np.reshape(get(280, "f", 12), (3, 4)), get(256, "f", 6))
    return (voxels, slope, intercept, affine) if math.isfinite(intercept) and affine is not None else None


def affine_by_hand(codes, zooms, qfac, rows, quaternion):
    """Affine `(3, 4)` by the formulas of the standard, sform before qform; None where it is not sound."""
    if not all(code in range(5) for code in codes) or not any(codes):
        return None
    affine = np.array(rows, np.float64)
    if codes[1] == 0:
        *imaginary, x, y, z = quaternion
        rest = 1 - np.square(imaginary, dtype=np.float64).sum()
        if not rest > -1e-7 or not all(0 < zoom < math.inf for zoom in zooms) or qfac not in (-1, 0, 1):
            return None
        a, (b, c, d) = math.sqrt(max(0, rest)), imaginary
        rotation = [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
        affine = np.column_stack([np.array(rotation) * zooms * (1, 1, qfac or 1), (x, y, z)])
    with np.errstate(all="ignore"):
        directions = affine[:, :3] / np.linalg.norm(affine[:, :3], axis=0)
        sound = (
            np.isfinite(affine).all()
            and np.isfinite(directions).all()
            and abs(np.linalg.det(directions)) > 0.01
        )
    return affine if sound else None


def check_reading(content, values, affine):
    """Every voxel of the reading has the value of that voxel of the file, and its place."""
    voxels, slope, intercept, stored = content
    # Which axis of the file each axis of the reading is, and whether turned about: its column up to the sign.
    edges = np.linalg.norm(stored[:, :3], axis=0)
    directions = np.linalg.solve(
        stored[:, :3] / edges, affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    )
    axes = np.abs(directions).argmax(axis=0)
    assert sorted(axes) == [0, 1, 2]
    np.testing.assert_allclose(np.abs(directions), np.eye(3)[:, axes], atol=1e-6)
    signs = np.sign(directions[axes, range(3)]).astype(int)
    first = [(voxels.shape[axis] - 1) * (sign < 0) for axis, sign in zip(axes, signs, strict=True)]
    origin = stored[:, 3] + sum(stored[:, axis] * index for axis, index in zip(axes, first, strict=True))
    np.testing.assert_allclose(affine[:3, 3], origin, rtol=1e-5, atol=1e-5 * np.abs(stored).max())
    turned = voxels.transpose(axes)[tuple(slice(None, None, sign) for sign in signs)].transpose(2, 1, 0)
    # Where the file's axes run along the body's but for less than some 35 degrees, there is one right turn.
    clear = np.abs(stored[:, :3] / edges) > 0.82
    if (clear.sum(axis=0) == 1).all() and (clear.sum(axis=1) == 1).all():
        assert (np.diag(affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)) > 0.82).all()
    if (slope, intercept) == (1, 0):
        np.testing.assert_array_equal(values, turned)
        return
    with np.errstate(all="ignore"):
        scaled = turned.astype(np.float64) * slope
        large = np.maximum(np.abs(scaled), abs(intercept))
        fits = (np.maximum(large, np.abs(turned.astype(np.float64))) < 1e38) & (np.abs(scaled) > 1e-37)
        np.testing.assert_array_less(np.abs(values - (scaled + intercept))[fits], 1e-5 * large[fits])


def fuzz_files(folder, examples):
    """Counts of what became of the files. Runs in a process of its own, whose memory is limited for good."""
    outcomes = Counter()

    def check(file):
        content, compressed = file
        path = folder / ("ct.nii.gz" if compressed else "ct.nii")
        path.write_bytes(content)
        signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
        try:
            values, spacing, affine = read_nifti(path)
        except InputError as error:
            assert str(path) in str(error)
            values, refusal = None, error
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        try:
            raw = gzip.decompress(content) if compressed else content
        except (OSError, EOFError, zlib.error):
            raw = b""
        by_hand = read_by_hand(raw)
        if values is None:
            outcomes["refused"] += 1
            assert by_hand is None, f"sound, but refused: {refusal}"
            return
        outcomes["read"] += 1
        assert raw, "damaged, but read"
        assert values.ndim == 3 and values.dtype.kind in "iuf" and np.isfinite(affine).all()
        assert len(spacing) == 3 and all(math.isfinite(size) for size in spacing)
        if by_hand is not None:
            outcomes["compared"] += 1
            check_reading(by_hand, values, affine)

    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0])
    signal.signal(signal.SIGVTALRM, give_up)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + ADDRESS_SPACE,) * 2)
    fuzz(check, examples, file=files(list(sound_files())))
    return outcomes


def give_up(*_):
    raise RuntimeError(f"more than {SECONDS} s on one file")


@pytest.mark.whole
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs the memory counters of Linux")
@pytest.mark.parametrize("examples", FEW_OR_MANY)
def test_any_file_is_read_to_what_its_bytes_say_or_is_an_input_error(tmp_path, examples):
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        outcomes = pool.submit(fuzz_files, tmp_path, examples).result()
    print(dict(outcomes))
    assert min(outcomes["compared"], outcomes["refused"]) > examples / 10
