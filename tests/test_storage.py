"""Files appear whole or not at all, and read back as written."""

import csv
import hashlib
import os
import stat
import time
from concurrent.futures import ThreadPoolExecutor

import nibabel as nib
import numpy as np
import pytest
import torch

from uss_bench import storage


class Trap:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return os.getcwd, ()


def test_a_finished_block_replaces_the_file_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "new" / "folder" / "model.nii.gz"
    for text in ("old", "new"):
        with storage.atomic_path(path) as temporary:
            assert temporary.parent == path.parent  # or renaming might copy
            assert temporary.suffixes[-2:] == [".nii", ".gz"]  # writers go by them
            temporary.write_text(text)
        assert path.read_text() == text
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failed_block_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(error), storage.atomic_path(path) as temporary:
        temporary.write_text("half of the n")
        raise error
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_writer_that_removes_its_file_is_an_error_that_leaves_the_old_one(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), storage.atomic_path(path) as temporary:
        temporary.unlink()
    assert path.read_text() == "old"
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
    """The umask belongs to the whole process: who changes it to read it gives other threads a file, or a umask, of wrong permissions."""
    umask = os.umask
    before = umask(0o022)

    def slow_umask(mask):
        previous = umask(mask)
        time.sleep(0.001)
        return previous

    monkeypatch.setattr(os, "umask", slow_umask)
    try:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda number: storage.write_text(tmp_path / f"{number % 20}.txt", str(number % 20)), range(80)))
        assert umask(0o022) == 0o022
        assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {f"{number}.txt": str(number) for number in range(20)}
        assert {oct(stat.S_IMODE(path.stat().st_mode)) for path in tmp_path.iterdir()} == {"0o644"}
    finally:
        umask(before)


def test_csv_cells(tmp_path):
    row = {"name": 'a "b", c', "float": 1 / 3, "small": 1.23456789e-7, "whole": 2.0, "int": 12345678, "none": None, "inf": float("inf")}
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
    assert path.read_text() == "b,a\n"
    with pytest.raises(KeyError):
        storage.write_csv(path, ["b", "a"], [{"a": 1}])


def test_json_is_sorted_and_reads_back(tmp_path):
    value = {"b": [1, 2.5, None], "a": {"d": "ü", "c": True}}
    storage.write_json(tmp_path / "value.json", value)
    assert storage.read_json(tmp_path / "value.json") == value
    text = (tmp_path / "value.json").read_text()
    assert text.index('"a"') < text.index('"b"')
    assert text.endswith("}\n")


def test_a_checkpoint_reads_back_bit_for_bit(tmp_path):
    state = {"weight": torch.randn(3, 4), "mean": torch.tensor([float("nan"), -0.0]), "steps": torch.tensor(7)}
    storage.save_checkpoint(tmp_path / "model.pt", state)
    loaded = storage.load_checkpoint(tmp_path / "model.pt")
    assert list(loaded) == list(state)
    for name, value in state.items():
        assert loaded[name].dtype == value.dtype
        assert loaded[name].numpy().tobytes() == value.numpy().tobytes()
    assert list(tmp_path.iterdir()) == [tmp_path / "model.pt"]


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path):
    torch.save({"weight": Trap()}, tmp_path / "model.pt")
    with pytest.raises(Exception, match=r"(?i)weights.only"):
        storage.load_checkpoint(tmp_path / "model.pt")


def test_nifti_files_depend_on_their_content_alone(tmp_path):
    array, affine = np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.diag([0.7, 0.7, 2.5, 1])
    for name in ("a.nii.gz", "b.nii.gz"):
        storage.write_nifti(tmp_path / name, array, affine)
    content = (tmp_path / "a.nii.gz").read_bytes()
    assert content == (tmp_path / "b.nii.gz").read_bytes()
    assert content[3:8] == b"\0\0\0\0\0"  # neither name nor time in the gzip header
    image = nib.load(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(np.asanyarray(image.dataobj), array)
    assert (image.get_data_dtype(), image.header.get_xyzt_units()[0]) == (np.int16, "mm")
    np.testing.assert_allclose(image.affine, affine, rtol=1e-6)


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


def test_every_model_has_its_own_folder():
    keys = [("initial", "", 0), ("data pool", "", None)]
    keys += [("iteration", strategy, k) for strategy in ("UVS", "USS") for k in (1, 2)] + [("converged", s, 2) for s in ("UVS", "USS")]
    folders = {storage.model_folder("run", *key).as_posix() for key in keys}
    assert folders == {
        "run/initial", "run/data-pool", "run/UVS/iter-1", "run/UVS/iter-2", "run/USS/iter-1", "run/USS/iter-2", "run/UVS/converged",
        "run/USS/converged",
    }  # fmt: skip
