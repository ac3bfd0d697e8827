"""The processes that work on one run: this one alone, workers on this machine, or what torchrun started on one machine or many.

They share the run's folder on a disk and a store of PyTorch's distributed engine, which serves as work queue: who claims a piece of
work first does it. What is claimed is forgotten with the job, so a job that continues another claims anew what was not finished.
"""

import multiprocessing
import os
import time
from contextlib import contextmanager
from datetime import timedelta
from threading import Thread

import torch
from torch import distributed
from torch.distributed.rendezvous import rendezvous

from . import stopping

PAUSE = 0.05  # seconds between two looks at what others do
FAREWELL = 120.0  # seconds that workers get to write their checkpoints
HELLO = timedelta(seconds=10)  # in which a leader answers a new worker
LONG = timedelta(days=7)  # nobody waits for a network, only for work


class PeerLostError(RuntimeError):
    """Another process of the job has ended too early."""


class Team:
    """A process's view of the team; without arguments a team of one.

    Attributes
    ----------
    rank : number of this process, 0 for the one that prints and writes the report
    size : number of processes
    """

    def __init__(self, rank=0, size=1, store=None, workers=()):
        self.rank, self.size = rank, size
        self._store, self._workers, self._taken = store or distributed.HashStore(), workers, set()

    @property
    def leads(self):
        return self.rank == 0

    def claim(self, name):
        """True for the one process that asks first for a piece of work."""
        if name in self._taken:
            return False
        self._taken.add(name)
        return self._count(f"claim/{name}", 1) == 1

    def report(self, event):
        """Tell the team that this process has reached an event."""
        self._count(f"event/{event}", 1)

    def reached(self, event):
        """Processes that have reported an event."""
        return self._count(f"event/{event}", 0)

    def pause(self):
        """Wait a moment for others; raises PeerLostError if one has ended, KeyboardInterrupt if this process is to end."""
        stopping.check()
        for worker in self._workers:
            if worker.exitcode:
                raise PeerLostError(f"worker {worker.name} ended with exit code {worker.exitcode}")
        self.reached("pulse")
        time.sleep(PAUSE)

    def _count(self, key, amount):
        with _leader_needed():
            return self._store.add(key, amount)


@contextmanager
def _leader_needed():
    try:
        yield
    except RuntimeError as error:
        raise PeerLostError(f"the process that led the job is gone ({str(error).splitlines()[0]})") from None


def under_torchrun():
    return distributed.is_torchelastic_launched()


def torchrun_rank():
    """Number of this process in torchrun's job; 0 without."""
    return int(os.environ.get("RANK", 0)) if under_torchrun() else 0


def local_rank(team=None):
    """Number of this process among those on its machine, for the choice of a GPU."""
    return int(os.environ["LOCAL_RANK"]) if under_torchrun() else team.rank if team else 0


@contextmanager
def torchrun_team(name, device):
    """The team of torchrun's processes for the run `name`. Leaving the block waits for all of them."""
    store, rank, size = next(rendezvous("env://"))
    # The launcher's store outlives runs and restarts, whose addresses and claims must not meet.
    store = distributed.PrefixStore(f"{name} {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=LONG)
    team = Team(rank, size, store)
    try:
        yield team
        farewell = distributed.all_reduce(torch.zeros(1), async_op=True)
        while not farewell.is_completed():
            team.pause()
    finally:
        distributed.destroy_process_group()


@contextmanager
def local_team(workers, target, arguments):
    """A team of `workers` processes on this machine: this one and those that call `target(rank, workers, port, arguments)`."""
    if workers == 1:
        yield Team()
        return
    store = distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=target, args=(rank, workers, store.port, arguments), name=str(rank))
        for rank in range(1, workers)
    ]
    for process in processes:
        process.start()
    try:
        yield Team(0, workers, store, processes)
    finally:
        for process in processes:
            process.terminate()  # remembered by a worker, which writes its checkpoint first
        deadline = time.monotonic() + FAREWELL
        for process in processes:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                process.kill()


def worker_team(rank, size, port):
    """The team as a worker of `local_team` sees it; PeerLostError if its leader has ended already."""
    leader = multiprocessing.parent_process()
    Thread(target=lambda: (leader.join(), stopping.request("its leader ended")), daemon=True).start()
    with _leader_needed():
        return Team(rank, size, distributed.TCPStore("127.0.0.1", port, is_master=False, timeout=HELLO))
