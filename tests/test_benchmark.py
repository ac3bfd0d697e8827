"""The program as a user runs it: `benchmark.py` in processes of its own."""

import csv
import gzip
import os
import re
import signal
import time

import pytest
from builders import DATA, ROOT, assert_same_files, benchmark, deterministic_files, finish

from uss_bench.commands import run_main
from uss_bench.runtime import stopping

pytestmark = pytest.mark.whole

REAL = DATA / "real"


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """Folder of a finished smoke run."""
    folder = tmp_path_factory.mktemp("smoke")
    code, _, err = finish(benchmark("--preset", "smoke", folder=folder))
    assert code == 0, err
    return folder


def test_all_models_are_trained_evaluated_and_reported(smoke):
    report = smoke / "reports" / "smoke-seed0"
    rows = list(csv.DictReader((report / "results" / "cases.csv").open(encoding="utf-8")))
    models = {(row["model"], row["strategy"], row["iteration"]) for row in rows}
    assert len(models) == 1 + 4 * 2 + 4 + 1
    assert len(rows) == 4 * len(models)
    log = (smoke / "runs" / "smoke-seed0" / "log.txt").read_text(encoding="utf-8")
    assert f"12 cases ready, {len(models)} models to train and evaluate\n" in log
    text = (report / "report.md").read_text(encoding="utf-8")
    assert all(f"## Table {number}." in text for number in range(1, 10))


@pytest.mark.slow
def test_interrupted_run_continues_to_the_same_bytes(smoke, tmp_path):
    process = benchmark("--preset", "smoke", "--workers", 1, folder=tmp_path)
    while not list(tmp_path.glob("runs/smoke-seed0/UVS/iter-1/training.json")):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    code, _, err = finish(process)
    assert code == 130
    assert "continues" in err and "Traceback" not in err
    assert not (tmp_path / "reports").exists()

    code, _, err = finish(benchmark("--preset", "smoke", "--workers", 2, folder=tmp_path))
    assert code == 0 and "(found)" in err
    assert_same_files(*(folder / "reports" / "smoke-seed0" for folder in (tmp_path, smoke)))


def test_report_is_rebuilt_from_its_results_alone(smoke, tmp_path, monkeypatch):
    report = tmp_path / "elsewhere" / "smoke-seed0"
    original = smoke / "reports" / "smoke-seed0"
    for path in (original / "results").iterdir():
        (report / "results").mkdir(parents=True, exist_ok=True)
        (report / "results" / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(stopping, "install", lambda: None)
    arguments = ["--preset", "smoke", "--report-only", "--reports", str(report.parent)]
    assert run_main(arguments, "benchmark.py") == 0
    assert_same_files(report, original)


def test_results_hold_neither_paths_nor_host_names(smoke):
    host = re.compile(rf"\b{re.escape(os.uname().nodename)}\b")
    for name, content in deterministic_files(smoke / "reports" / "smoke-seed0").items():
        assert str(ROOT).encode() not in content and str(smoke).encode() not in content, name
        if not name.endswith((".png", ".npz")):  # compressed data hold any short name by chance
            text = gzip.decompress(content) if name.endswith(".gz") else content
            assert not host.search(text.decode()), name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--manifest", "absent.csv"], "absent.csv"),
        (["--set", "training.max_stepz=3"], "training.max_stepz"),
        (["--set", "training.max_steps=many"], "training.max_steps"),
        (["--strategy", "uss"], "query.slices_per_iteration"),
        (["--set", "query.iterations=40"], "pool cases"),
        (["--report-only", "--name", "absent"], "run the benchmark first"),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.syspath_prepend(ROOT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stopping, "install", lambda: None)  # pytest answers signals itself
    from benchmark import main

    assert main(["--preset", "smoke", "--manifest", str(ROOT / "data_manifest.csv"), *arguments]) == 2
    err = capsys.readouterr().err
    assert err.startswith("benchmark.py: ") and message in err
    assert list(tmp_path.iterdir()) == []


def test_dry_run_prints_the_plan_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(ROOT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stopping, "install", lambda: None)
    from benchmark import main

    assert main(["--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "36 pool, 8 val, 45 test" in out and "models      19" in out and "855 cases" in out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.skipif(not REAL.exists(), reason="the shared real CTs are not here")
def test_real_volumes_run_from_end_to_end(tmp_path):
    """A coarser grid and fewer steps than `real-smoke`, which takes a quarter of an hour."""
    short = [
        "data.spacing=8,8,8",
        "network.widths=8,16,32",
        "training.patch=4,32,32",
        "training.max_steps=40",
        "training.converged_max_steps=40",
    ]
    arguments = [part for setting in short for part in ("--set", setting)]
    code, _, err = finish(
        benchmark(
            "--manifest", REAL / "manifest_real.csv", "--preset", "real-smoke", *arguments, folder=tmp_path
        )
    )
    assert code == 0, err
    rows = list(
        csv.DictReader(
            (tmp_path / "reports" / "real-smoke-seed0" / "results" / "cases.csv").open(encoding="utf-8")
        )
    )
    assert len(rows) == 11 and {row["case_id"] for row in rows} == {"chaos03"}
