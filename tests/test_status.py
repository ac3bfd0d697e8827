"""What `--status` says about a folder made by hand."""

import time

import pytest

from uss_bench.runtime import lock, paths, storage
from uss_bench.runtime.errors import InputError
from uss_bench.status import describe_run


@pytest.fixture
def run(tmp_path):
    """A run of RVS, USS and RSS, two iterations each, that has got as far as the first of USS."""
    folder = tmp_path / "quick-seed0"
    storage.write_json(
        folder / paths.RUN,
        {"strategies": ["RVS", "USS", "RSS"], "config": {"query": {"iterations": 2, "twins": 0}}},
    )
    for stage in (
        "initial/training",
        "initial/evaluation",
        "USS/iter-1/query",
        "USS/iter-1/training",
        "data-pool/training",
    ):
        storage.write_json(folder / f"{stage}.json", {})
    storage.write_json(folder / "RSS" / "converged" / "training.json", {})
    for model, rows in {
        "initial": [(10, 0.5, 0.6)],
        "USS/iter-2": [(10, 0.5, 0.25), (20, 1 / 3, 0.5)],
        "RVS/iter-1": [(30, 0.75, 0)],
    }.items():
        rows = [dict(zip(("step", "loss", "jaccard"), row, strict=True)) for row in rows]
        storage.write_csv(folder / model / paths.CURVE, ["step", "loss", "jaccard"], rows)
    return folder


def test_a_run_in_words(run, monkeypatch):
    """Models: initial and data pool, and of the three strategies two iterations and a converged one each."""
    monkeypatch.setattr(time, "time", lambda: 2000.0)
    for rank, seconds in ((0, 1995.4), (10, 1000), (2, 2003)):  # the last by a clock that is ahead
        storage.write_json(run / "status" / f"{rank}.json", {"text": f"[3/22] step {rank}", "time": seconds})
    (run / "status" / ".partial-0123-1.json").write_text(
        '{"te', encoding="utf-8"
    )  # being written, or left by a killed process
    assert describe_run(run).splitlines() == [
        f"{run}: 4 of 11 models trained, 1 evaluated",
        "not running",
        "process 0, 5 s ago: [3/22] step 0",
        "process 2, 0 s ago: [3/22] step 2",
        "process 10, 1000 s ago: [3/22] step 10",
        "RVS/iter-1: step 30, loss 0.75, validation Jaccard 0",
        "USS/iter-2: step 20, loss 0.333333, validation Jaccard 0.5",
    ]


def test_a_run_that_has_just_begun(tmp_path):
    storage.write_json(
        tmp_path / paths.RUN, {"strategies": ["UVS"], "config": {"query": {"iterations": 5, "twins": 1}}}
    )
    assert describe_run(tmp_path) == f"{tmp_path}: 0 of 9 models trained, 0 evaluated\nnot running"


def test_only_those_that_were_asked_for_last_are_counted(run):
    """An earlier command began RVS and RSS; a strategy of one's own was added to USS."""
    storage.write_json(run / paths.ASKED_FOR, ["USS", "MINE"])
    storage.write_json(run / "MINE" / "iter-1" / "training.json", {})
    text = describe_run(run)
    assert "4 of 8 models trained, 1 evaluated" in text and "USS/iter-2: step 20" in text
    assert "RVS" not in text and "process" not in text


def test_a_training_by_fit(tmp_path):
    storage.write_json(
        tmp_path / paths.RUN, {"strategies": [], "config": {"query": {"iterations": 5, "twins": 1}}}
    )
    assert describe_run(tmp_path).startswith(f"{tmp_path}: 0 of 1 models trained, ")
    storage.write_json(tmp_path / "fitted" / "training.json", {})
    assert describe_run(tmp_path).startswith(f"{tmp_path}: 1 of 1 models trained, ")


def test_who_holds_the_folder_is_named(run):
    with lock.locked(run):
        assert describe_run(run).splitlines()[1] == f"held by {lock.describe(run)}"
    assert describe_run(run).splitlines()[1] == "not running"


def test_a_look_changes_nothing(run):
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    describe_run(run)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_an_absent_run_is_bad_input(tmp_path):
    with pytest.raises(InputError, match=f"{tmp_path / 'absent'}: no run has been begun here.*--name"):
        describe_run(tmp_path / "absent")
    assert not (tmp_path / "absent").exists()


def test_a_damaged_note_is_bad_input(run):
    (run / "status").mkdir()
    (run / "status" / "0.json").write_text('{"text": ', encoding="utf-8")
    with pytest.raises(InputError, match=r"status/0.json: damaged \(.*\); remove this file"):
        describe_run(run)
