"""Who claims what, who notices whose end, and how workers are stopped, among real processes."""

import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from itertools import chain
from pathlib import Path
from random import Random
from types import SimpleNamespace

import pytest
from torch import distributed

from uss_bench.runtime import stopping
from uss_bench.runtime import team as teams
from uss_bench.runtime.exits import exit_code as exit_code_of
from uss_bench.runtime.storage import write_text
from uss_bench.runtime.team import PeerLostError, Team, local_team, worker_team

NAMES = [f"model-{number}" for number in range(200)]
LEADER = """
import sys, time
from test_team import meet, train_until_the_leader_ends
from uss_bench.runtime.team import local_team
if __name__ == "__main__":
    with local_team(2, train_until_the_leader_ends, sys.argv[1]) as team:
        meet(team, "started")
        print("started", flush=True)
        time.sleep(60)
"""
TORCHRUN = """
import sys, time
from pathlib import Path
from uss_bench.runtime.team import torchrun_team
with torchrun_team("run") as team:
    print(team.rank, team.size, team.claim("model"))
    time.sleep(0.5)
    Path(sys.argv[1]).touch()
"""


@pytest.fixture(autouse=True)
def no_request(monkeypatch):
    monkeypatch.setattr(stopping, "_reason", None)


def claim_all(team):
    """Names that a process gets when it asks for all, in an order of its own."""
    return [name for name in Random(team.rank).sample(NAMES, len(NAMES)) if team.claim(name)]


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def meet(team, event):
    """Wait for the others to get as far."""
    team.report(event)
    while team.reached(event) < team.size:
        team.pause()


# --- what workers do ----------------------------------------------------------------------------------------


def claim_and_end_badly(rank, size, port, folder):
    """Worker 1 is killed, worker 2 ends as asked, worker 3 heeds no request to end."""
    stopping.install()
    team = worker_team(rank, size, port)
    meet(team, "started")
    write_text(Path(folder, f"claimed-{rank}"), "\n".join(claim_all(team)))
    meet(team, "claimed")
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    while rank == 3:
        time.sleep(1)
    train_until_stopped(Path(folder, "why-2"))


def train_until_the_leader_ends(rank, size, port, folder):
    meet(worker_team(rank, size, port), "started")
    train_until_stopped(Path(folder, "why-1"))


def train_until_stopped(path):
    """Long work, which comes by safe points and does not look at the team."""
    try:
        while True:
            stopping.check()
            time.sleep(0.02)
    except KeyboardInterrupt as reason:
        time.sleep(0.5)  # a checkpoint takes a while
        write_text(path, str(reason))


# --- one process --------------------------------------------------------------------------------------------


def test_a_team_of_one_claims_everything_once():
    team = Team()
    assert (team.rank, team.size, team.leads) == (0, 1, True)
    assert [team.claim(name) for name in ("a", "b", "a", "b", "c")] == [True, True, False, False, True]
    assert Team().claim("a")  # what an earlier job claimed is free again


def test_events_are_counted():
    store = distributed.HashStore()
    one, other = Team(0, 2, store), Team(1, 2, store)
    assert (one.leads, other.leads) == (True, False)
    assert one.reached("prepared") == 0
    one.report("prepared")
    other.report("prepared")
    assert (one.reached("prepared"), other.reached("prepared"), one.reached("opened")) == (2, 2, 0)
    assert one.claim("prepared")  # claims and events have names of their own


def test_of_many_that_ask_one_claims():
    store = distributed.HashStore()
    with ThreadPoolExecutor(6) as pool:
        claimed = list(pool.map(lambda rank: claim_all(Team(rank, 6, store)), range(6)))
    assert sorted(chain(*claimed)) == sorted(NAMES)


def test_a_pause_is_a_safe_point():
    team = Team()
    team.pause()
    stopping.request("SIGTERM")
    with pytest.raises(KeyboardInterrupt, match="SIGTERM"):
        team.pause()


@pytest.mark.parametrize(("exit_code", "lost"), [(None, False), (0, False), (1, True), (2, True), (-9, True)])
def test_workers_may_end_but_not_fail(exit_code, lost):
    team = Team(
        workers=[SimpleNamespace(name="1", exitcode=None), SimpleNamespace(name="2", exitcode=exit_code)]
    )
    if lost:
        with pytest.raises(PeerLostError, match=f"^worker 2 ended with exit code {exit_code}") as failed:
            team.pause()
        # Bad input that a worker has met is bad input of the program.
        assert exit_code_of("x", team.pause) == (2 if exit_code == 2 else 1)
        assert failed.value.code == exit_code
    else:
        team.pause()


def test_a_store_that_is_gone_is_a_lost_leader():
    store = distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    team = Team(1, 2, distributed.TCPStore("127.0.0.1", store.port, is_master=False))
    assert team.claim("before")
    del store
    for call in (
        team.pause,
        lambda: team.claim("after"),
        lambda: team.report("after"),
        lambda: team.reached("after"),
    ):
        with pytest.raises(PeerLostError, match=r"^the process that led the job is gone \([^\n]*\)$"):
            call()
    assert not team.claim("before")  # known without asking


def test_a_worker_does_not_wait_for_a_leader_that_ended_before_it_came(monkeypatch):
    """PyTorch would go on knocking for many minutes."""
    monkeypatch.setattr(teams, "HELLO", timedelta(seconds=0.1))
    monkeypatch.setattr(teams.multiprocessing, "parent_process", lambda: SimpleNamespace(join=lambda: None))
    started = time.monotonic()
    with pytest.raises(PeerLostError, match="the process that led the job is gone"):
        worker_team(1, 2, free_port())
    assert time.monotonic() - started < 10


def test_ranks_come_from_torchrun_where_it_runs(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setenv("RANK", "5")  # left over from something else
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert (
        teams.under_torchrun(),
        teams.torchrun_rank(),
        teams.local_rank(),
        teams.local_rank(Team(3, 4)),
    ) == (False, 0, 0, 3)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job")
    assert (
        teams.under_torchrun(),
        teams.torchrun_rank(),
        teams.local_rank(),
        teams.local_rank(Team(5, 8)),
    ) == (True, 5, 1, 1)


def test_runs_of_one_job_claim_apart(monkeypatch):
    """Seeds follow each other in a job of torchrun, whose store lives on."""
    store = distributed.HashStore()
    monkeypatch.setattr(teams, "rendezvous", lambda _: iter([(store, 0, 1)]))
    for name in ("quick-seed0", "quick-seed1"):
        with teams.torchrun_team(name) as team:
            assert team.claim("initial/training.json")
        assert not distributed.is_initialized()


# --- several processes --------------------------------------------------------------------------------------


def test_no_process_is_started_for_a_team_of_one():
    with local_team(1, None, None) as team:
        assert team.size == 1
        assert team.claim("a")


@pytest.mark.slow
@pytest.mark.whole
def test_workers_share_the_work_and_end_with_the_job(tmp_path, monkeypatch):
    """The job ends when one is killed. The others are stopped, with time to write their checkpoints."""
    monkeypatch.setattr(teams, "FAREWELL", 3.0)
    lost = rf"^worker 1 ended with exit code -{int(signal.SIGKILL)}$"
    with pytest.raises(PeerLostError, match=lost), local_team(4, claim_and_end_badly, tmp_path) as team:
        workers = team._workers
        meet(team, "started")
        claimed = claim_all(team)
        meet(team, "claimed")
        while True:
            team.pause()
    shares = [
        claimed,
        *((tmp_path / f"claimed-{rank}").read_text(encoding="utf-8").split() for rank in (1, 2, 3)),
    ]
    assert sorted(chain(*shares)) == sorted(NAMES)
    assert (tmp_path / "why-2").read_text(encoding="utf-8") == "SIGTERM"
    workers[2].join(5)
    assert [worker.exitcode for worker in workers] == [-signal.SIGKILL, 0, -signal.SIGKILL]


@pytest.mark.slow
@pytest.mark.whole
def test_workers_end_when_their_leader_was_killed(tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    (tmp_path / "leader.py").write_text(LEADER, encoding="utf-8")
    command = [sys.executable, str(tmp_path / "leader.py"), str(tmp_path)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as leader:
        try:
            assert leader.stdout.readline() == "started\n"
        finally:
            leader.kill()
    deadline = time.monotonic() + 15
    while not (tmp_path / "why-1").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert (tmp_path / "why-1").read_text(encoding="utf-8") == "its leader ended"


@pytest.mark.whole
def test_a_team_of_torchrun_leaves_together(tmp_path, monkeypatch):
    """The environment is all that torchrun gives to a process."""
    environment = {
        "TORCHELASTIC_RUN_ID": "job",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": free_port(),
        "WORLD_SIZE": 2,
        "RANK": 0,
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, str(value))
    command = [sys.executable, "-c", TORCHRUN, str(tmp_path / "finished")]
    with subprocess.Popen(
        command, env={**os.environ, "RANK": "1"}, stdout=subprocess.PIPE, text=True
    ) as other:
        try:
            with teams.torchrun_team("run") as team:
                assert (team.rank, team.size, team.leads) == (0, 2, True)
                claimed = team.claim("model")
            assert (tmp_path / "finished").exists()  # or it left without waiting
            assert other.communicate(timeout=20)[0] == f"1 2 {not claimed}\n"
        finally:
            other.kill()
