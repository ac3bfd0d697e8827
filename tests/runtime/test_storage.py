"""Files appear whole or not at all, and read back as written."""

import csv
import errno
import gzip
import hashlib
import os
import secrets
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from uss_bench.runtime import storage
from uss_bench.runtime.checkpoints import save_checkpoint
from uss_bench.runtime.errors import InputError


@contextmanager
def files_no_larger_than(size):
    """A disk that is full after `size` bytes of a file, by the kernel's limit on files of this process."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_finished_block_replaces_the_file_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "new" / "folder" / "model.nii.gz"
    for text in ("old", "new"):
        with storage.atomic_path(path) as temporary:
            assert temporary.parent == path.parent  # or renaming might copy
            assert temporary.suffixes[-2:] == [".nii", ".gz"]  # writers go by them
            temporary.write_text(text, encoding="utf-8")
        assert path.read_text(encoding="utf-8") == text
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failed_block_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "file.txt"
    path.write_text("old", encoding="utf-8")
    with pytest.raises(error), storage.atomic_path(path) as temporary:
        temporary.write_text("half of the n", encoding="utf-8")
        raise error
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_writer_that_removes_its_file_is_an_error_that_leaves_the_old_one(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old", encoding="utf-8")
    with pytest.raises(FileNotFoundError), storage.atomic_path(path) as temporary:
        temporary.unlink()
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_files_get_the_permissions_that_the_user_asks_for(tmp_path):
    before = os.umask(0o027)
    try:
        storage.write_text(tmp_path / "file.txt", "")
        assert stat.S_IMODE((tmp_path / "file.txt").stat().st_mode) == 0o640
        assert os.umask(0o027) == 0o027  # left as it was
    finally:
        os.umask(before)


def test_threads_may_write_at_once(tmp_path, monkeypatch):
    """The umask belongs to the whole process.

    A thread that changes it, if only to read it, spoils the permissions of files that others make meanwhile.
    """
    umask = os.umask
    before = umask(0o022)

    def slow_umask(mask):
        previous = umask(mask)
        time.sleep(0.001)
        return previous

    monkeypatch.setattr(os, "umask", slow_umask)
    try:
        with ThreadPoolExecutor(4) as pool:
            list(
                pool.map(
                    lambda number: storage.write_text(tmp_path / f"{number % 20}.txt", str(number % 20)),
                    range(80),
                )
            )
        assert umask(0o022) == 0o022
        assert {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()} == {
            f"{number}.txt": str(number) for number in range(20)
        }
        assert {oct(stat.S_IMODE(path.stat().st_mode)) for path in tmp_path.iterdir()} == {"0o644"}
    finally:
        umask(before)


def test_csv_cells(tmp_path):
    row = {
        "name": 'a "b", c',
        "float": 1 / 3,
        "small": 1.23456789e-7,
        "whole": 2.0,
        "int": 12345678,
        "none": None,
        "inf": float("inf"),
    }
    storage.write_csv(tmp_path / "rows.csv", list(row), [{**row, "ignored": 1}])
    assert (tmp_path / "rows.csv").read_bytes() == (
        b'name,float,small,whole,int,none,inf\n"a ""b"", c",0.333333,1.23457e-07,2,12345678,,inf\n'
    )


def test_csv_keeps_the_order_of_columns_and_rows_and_reads_back_as_text(tmp_path):
    path = tmp_path / "rows.csv"
    storage.write_csv(path, ["b", "a"], [{"a": 1, "b": "x"}, {"a": None, "b": "ü\nz"}])
    assert storage.read_csv(path) == [{"b": "x", "a": "1"}, {"b": "ü\nz", "a": ""}]
    with open(path, newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [["b", "a"], ["x", "1"], ["ü\nz", ""]]
    storage.write_csv(path, ["b", "a"], [])
    assert path.read_text(encoding="utf-8") == "b,a\n"
    with pytest.raises(KeyError):
        storage.write_csv(path, ["b", "a"], [{"a": 1}])


def test_compressed_csv_has_the_same_text_and_the_same_bytes_at_any_time(tmp_path, monkeypatch):
    rows = [{"a": 1, "b": "x"}, {"a": None, "b": "ü\nz"}]
    plain, packed, again = (
        tmp_path / "rows.csv",
        tmp_path / "rows.csv.gz",
        tmp_path / "again" / "other.csv.gz",
    )
    for path in (plain, packed):
        storage.write_csv(path, ["b", "a"], rows)
    monkeypatch.setattr("time.time", lambda: 1e9)
    storage.write_csv(again, ["b", "a"], rows)
    assert gzip.decompress(packed.read_bytes()) == plain.read_bytes()
    assert packed.read_bytes() == again.read_bytes()
    assert storage.read_csv(packed) == storage.read_csv(plain)


@pytest.mark.parametrize("name", ["rows.csv", "rows.csv.gz"])
def test_a_csv_file_cut_short_is_bad_input(tmp_path, name):
    """Wherever within a row; between two rows, nothing of it says so."""
    path = tmp_path / name
    storage.write_csv(path, ["a", "b"], [{"a": secrets.token_hex(200), "b": 1}] * 2)
    content, said = path.read_bytes(), rf"^{path}: cut short or damaged \(.+\); copy it again"
    for length in (5, len(content) // 2, len(content) - 9) if name.endswith(".gz") else (100, 500):
        path.write_bytes(content[:length])
        with pytest.raises(InputError, match=said):
            storage.read_csv(path)
    path.write_bytes(b"\0\xff" + content[2:])
    with pytest.raises(InputError, match=said):
        storage.read_csv(path)


def test_json_is_sorted_and_reads_back(tmp_path):
    value = {"b": [1, 2.5, None], "a": {"d": "ü", "c": True}}
    storage.write_json(tmp_path / "value.json", value)
    assert storage.read_json(tmp_path / "value.json") == value
    text = (tmp_path / "value.json").read_text(encoding="utf-8")
    assert text.index('"a"') < text.index('"b"')
    assert text.endswith("}\n")


@pytest.mark.parametrize("content", [b"", b'{"a": 1,', b"\0" * 100, b'{"a": "\xff"}'])
def test_damaged_json_is_bad_input_and_absent_json_is_not(tmp_path, content):
    path = tmp_path / "stage.json"
    with pytest.raises(FileNotFoundError):
        storage.read_json(path)
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"{path}: damaged \(.+\); remove this file"):
        storage.read_json(path)


def test_what_lies_below_a_closed_folder_is_not_there(tmp_path, monkeypatch):
    """As for a user who may not look into it; `Path.exists` raises there before Python 3.14."""
    stat = os.stat

    def closed(path, **options):
        if Path(path).is_relative_to(tmp_path / "closed" / "runs"):
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, **options)

    (tmp_path / "closed").mkdir()
    monkeypatch.setattr(os, "stat", closed)
    assert storage.nearest_existing(tmp_path / "closed" / "runs" / "quick") == tmp_path / "closed"


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("rows.csv", lambda path: storage.write_csv(path, ["a"], [{"a": "x" * 20000}])),
        ("rows.csv.gz", lambda path: storage.write_csv(path, ["a"], [{"a": secrets.token_hex(20000)}])),
        ("stage.json", lambda path: storage.write_json(path, ["x" * 20000])),
        ("model.pt", lambda path: save_checkpoint(path, {"weight": torch.zeros(5000)})),
    ],
)
def test_a_full_disk_leaves_the_old_file_and_names_it(tmp_path, name, write):
    path = tmp_path / name
    write(path)
    before = path.read_bytes()
    with files_no_larger_than(10000), pytest.raises(OSError, match="too large") as caught:
        write(path)
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(path))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_that_names_its_file_keeps_the_name(tmp_path):
    with pytest.raises(OSError) as caught, storage.atomic_path(tmp_path / "file.txt"):
        (tmp_path / "another").read_text(encoding="utf-8")
    assert caught.value.filename == str(tmp_path / "another")


def test_what_killed_processes_leave_is_removed_and_nothing_else(tmp_path):
    kept = [tmp_path / "model.pt", tmp_path / "USS" / "partial-results.csv", tmp_path / "USS" / ".hidden"]
    (tmp_path / "USS").mkdir()
    for path in kept:
        path.write_text("kept", encoding="utf-8")
    killed = [storage.atomic_path(folder / "model.pt") for folder in (tmp_path, tmp_path / "USS")]
    for writer in killed:
        writer.__enter__().write_text("half of the n", encoding="utf-8")
    assert len(list(tmp_path.rglob("*.*"))) == 5
    storage.remove_partial_files(tmp_path)
    storage.remove_partial_files(tmp_path / "absent")
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(kept)
    assert {path.read_text(encoding="utf-8") for path in kept} == {"kept"}


def test_only_what_was_long_untouched_is_removed_where_others_write(tmp_path):
    """Folders count by their own time, which changes as files come and go."""
    for name, seconds in (("old", 100), ("new", 10)):
        (tmp_path / f".partial-{name}").mkdir()
        (tmp_path / f".partial-{name}" / ".partial-ct.nii.gz").write_text("half of the n", encoding="utf-8")
        (tmp_path / f".partial-{name}.csv").write_text("half of the n", encoding="utf-8")
        for path in (
            *(tmp_path / f".partial-{name}").iterdir(),
            tmp_path / f".partial-{name}",
            tmp_path / f".partial-{name}.csv",
        ):
            os.utime(path, (time.time() - seconds,) * 2)
    storage.remove_partial_files(tmp_path, age=50)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".partial-new", ".partial-new.csv"]
    assert len(list((tmp_path / ".partial-new").iterdir())) == 1


def test_what_is_long_half_written_of_one_file_is_removed_and_nothing_else(tmp_path):
    file = tmp_path / "ct[1].nii.gz"
    for name, seconds in (("old", 100), ("new", 10)):
        for half in (f".partial-{name}-ct[1].nii.gz", f".partial-{name}-ct1.nii.gz"):
            (tmp_path / half).touch()
            os.utime(tmp_path / half, (time.time() - seconds,) * 2)
    storage.remove_partial_copies(file, age=50)
    storage.remove_partial_copies(tmp_path / "absent" / "ct.nii.gz", age=50)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".partial-new-ct1.nii.gz",
        ".partial-new-ct[1].nii.gz",
        ".partial-old-ct1.nii.gz",
    ]


def test_a_folder_appears_whole_and_the_first_of_two_stays(tmp_path):
    path = tmp_path / "cache" / "entry"
    with storage.atomic_folder(path) as late:
        (late / "ct.npy").write_text("late", encoding="utf-8")
        with storage.atomic_folder(path) as first:
            assert first.parent == path.parent  # or renaming might copy
            (first / "ct.npy").write_text("first", encoding="utf-8")
            assert not path.exists()
    assert (path / "ct.npy").read_text(encoding="utf-8") == "first"
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_of_ones_own_replaces_an_empty_one_and_nothing_else(tmp_path):
    (tmp_path / "todo").mkdir()
    with storage.atomic_folder(tmp_path / "todo", shared=False) as partial:
        (partial / "a").write_text("ours", encoding="utf-8")
        storage.remove_partial_copies(tmp_path / "todo", age=50)  # what is being written stays
        assert partial.exists()
    with (
        pytest.raises(OSError, match="not empty"),
        storage.atomic_folder(tmp_path / "todo", shared=False) as partial,
    ):
        (partial / "b").write_text("late", encoding="utf-8")
    assert [(path.name, path.read_text(encoding="utf-8")) for path in (tmp_path / "todo").iterdir()] == [
        ("a", "ours")
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["todo"]


def test_only_an_empty_folder_is_removed_as_one_that_came_to_nothing(tmp_path):
    for name in ("empty", "full"):
        (tmp_path / name).mkdir()
    (tmp_path / "full" / "a").write_text("a", encoding="utf-8")
    for name in ("empty", "full", "absent"):
        storage.remove_if_empty(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


def test_a_folder_that_failed_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), storage.atomic_folder(tmp_path / "entry") as partial:
        (partial / "ct.npy").write_text("half of the n", encoding="utf-8")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_natural_order_counts():
    names = ["slice-10.dcm", "a/slice-2.dcm", "slice-2.dcm", "a/slice-10.dcm", "slice-02b.dcm", "7"]
    assert sorted(names, key=storage.natural_key) == [
        "7",
        "a/slice-2.dcm",
        "a/slice-10.dcm",
        "slice-2.dcm",
        "slice-02b.dcm",
        "slice-10.dcm",
    ]


@pytest.mark.parametrize("size", [0, 1, (1 << 20) + 1])
def test_file_digest_is_the_sha256_of_the_content(tmp_path, size):
    content = b"x" * size
    (tmp_path / "file").write_bytes(content)
    assert storage.file_digest(tmp_path / "file") == hashlib.sha256(content).hexdigest()
