"""The program under torchrun, with any number of processes and on two machines.

It gives the bytes of one process alone.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from builders import ROOT, assert_same_files, benchmark, finish
from test_crash import SHORT

pytestmark = [pytest.mark.whole, pytest.mark.slow]

ARGUMENTS = ["--preset", "smoke", *SHORT]
OTHER_DEVICE = f"""
import os, sys
sys.path.insert(0, {str(ROOT)!r})
from benchmark import main
from uss_bench import provenance
if os.environ["RANK"] == "1":
    provenance.device_name = lambda device: "another CPU"
sys.exit(main(sys.argv[1:]))
"""

ODD_GPU = f"""
import multiprocessing, sys, time
sys.path.insert(0, {str(ROOT)!r})
from uss_bench import pipeline, request
from uss_bench.runtime.errors import InputError
load = pipeline.load_volumes
def load_late(*given):
    while multiprocessing.active_children():  # else the leader might be done before
        time.sleep(0.05)
    return load(*given)
def refuse(*_):
    raise InputError("cuda:1: PyTorch cannot use this GPU; choose another")
if multiprocessing.current_process().name == "1":
    request.prepared_device = refuse
if __name__ == "__main__":
    pipeline.load_volumes = load_late
    from benchmark import main
    sys.exit(main(sys.argv[1:]))
"""


def torchrun(folder, processes, *arguments, options=(), port=None, script=ROOT / "benchmark.py"):
    """Start a job (of one machine, or one machine's part of it)."""
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        processes,
        "--master-port",
        port or free_port(),
        *options,
    ]
    command = map(str, [*launcher, script, *ARGUMENTS, *arguments])
    return subprocess.Popen([*command], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Reports of one process without torchrun, of seeds 0 and 1 and across them."""
    folder = tmp_path_factory.mktemp("alone")
    code, _, err = finish(benchmark(*ARGUMENTS, "--workers", 1, "--seed", 0, 1, folder=folder))
    assert code == 0, err
    return folder / "reports"


def assert_same(folder, alone, *names):
    for name in names or ["smoke-seed0"]:
        assert_same_files(folder / "reports" / name, alone / name)
    assert not list(folder.rglob(".partial-*"))


def workers_of(launcher):
    """Process ids of the ranks that a launcher has started, by rank."""
    ranks = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((process / "stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[1])
            rank = re.search(rb"(?:^|\0)RANK=(\d+)", (process / "environ").read_bytes())
        except OSError:  # ended meanwhile
            continue
        if parent == launcher.pid and rank:
            ranks[int(rank[1])] = int(process.name)
    return ranks


def wait_for(launcher, condition):
    while not condition():
        assert launcher.poll() is None
        time.sleep(0.02)


def assert_without_traceback_of_ours(err):
    assert not [
        line for line in err.splitlines() if line.lstrip().startswith("File ") and str(ROOT) in line
    ], err


def test_three_processes_give_the_same_bytes(alone, tmp_path):
    """As two do below, and one without torchrun."""
    code, _, err = finish(torchrun(tmp_path, 3))
    assert code == 0, err
    assert err.count("report: ") == 1
    assert_same(tmp_path, alone)


def test_workers_without_torchrun_give_the_same_bytes(alone, tmp_path):
    code, _, err = finish(benchmark(*ARGUMENTS, "--workers", 2, folder=tmp_path))
    assert code == 0, err
    assert_same(tmp_path, alone)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_ends_the_job_and_the_next_completes_it(alone, tmp_path, rank):
    job = torchrun(tmp_path, 2)
    wait_for(job, lambda: list(tmp_path.glob("runs/smoke-seed0/*/training.json")))
    os.kill(workers_of(job)[rank], signal.SIGKILL)
    killed = time.monotonic()
    code, _, err = finish(job)
    assert code not in (0, None) and time.monotonic() - killed < 60
    assert len([line for line in err.splitlines() if line.startswith("benchmark.py: ")]) == 1, err
    assert_without_traceback_of_ours(err)
    code, _, err = finish(torchrun(tmp_path, 2))
    assert code == 0 and "(found)" in err, err
    assert_same(tmp_path, alone)


def test_a_job_that_torchrun_restarts_completes(alone, tmp_path):
    job = torchrun(tmp_path, 2, options=["--max-restarts", 1])
    wait_for(job, lambda: list(tmp_path.glob("runs/smoke-seed0/*/training.json")))
    os.kill(workers_of(job)[1], signal.SIGKILL)
    code, _, err = finish(job)
    assert code == 0 and "(found)" in err, err
    assert_same(tmp_path, alone)


def test_two_machines_share_a_run(alone, tmp_path):
    port = free_port()
    jobs = [
        torchrun(
            tmp_path, 1, options=["--nnodes", 2, "--node-rank", node, "--master-addr", "127.0.0.1"], port=port
        )
        for node in (0, 1)
    ]
    for job in jobs:
        code, _, err = finish(job)
        assert code == 0, err
    assert_same(tmp_path, alone)


def test_seeds_follow_each_other_in_one_job(alone, tmp_path):
    code, _, err = finish(torchrun(tmp_path, 2, "--seed", 0, 1))
    assert code == 0, err
    assert sorted(path.name for path in alone.iterdir()) == sorted(
        path.name for path in (tmp_path / "reports").iterdir()
    )
    assert_same(tmp_path, alone, "smoke-seed0", "smoke-seed1")
    across = [
        {path.name: path.read_bytes() for path in (reports / "smoke-seeds0-1").rglob("*") if path.is_file()}
        for reports in (tmp_path / "reports", alone)
    ]
    assert across[0] == across[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--workers", 2], "--nproc-per-node"), (["--manifest", "absent.csv"], "absent.csv")],
)
def test_bad_input_is_reported_once(tmp_path, arguments, message):
    code, _, err = finish(torchrun(tmp_path, 2, *arguments))
    assert code != 0
    said = [line for line in err.splitlines() if line.startswith("benchmark.py: ")]
    assert len(said) == 1 and message in said[0]
    assert_without_traceback_of_ours(err)
    assert not (tmp_path / "runs").exists()


def test_a_worker_that_fails_its_own_checks_says_why(tmp_path):
    script = tmp_path / "odd_gpu.py"
    script.write_text(ODD_GPU, encoding="utf-8")
    code, _, err = finish(
        subprocess.Popen(
            [sys.executable, str(script), *ARGUMENTS, "--workers", "2"],
            cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
    )  # fmt: skip
    said = [line for line in err.splitlines() if line.startswith("benchmark.py: ")]
    assert (code, said) == (2, ["benchmark.py: cuda:1: PyTorch cannot use this GPU; choose another"])
    assert_without_traceback_of_ours(err)


def test_processes_on_different_devices_do_not_share_a_run(tmp_path, alone):
    """Their numbers would be mixed. Without the odd one the run goes on."""
    script = tmp_path / "other_device.py"
    script.write_text(OTHER_DEVICE, encoding="utf-8")
    code, _, err = finish(torchrun(tmp_path, 2, script=script))
    assert code != 0 and "device: CPU there, another CPU now" in err
    code, _, err = finish(torchrun(tmp_path, 2))
    assert code == 0, err
    assert_same(tmp_path, alone)
