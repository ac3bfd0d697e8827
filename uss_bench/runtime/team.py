"""The processes that work on one run: this one alone, its workers, or those that torchrun started.

They share the run's folder on a disk, and a store of PyTorch's distributed engine as their work queue: who
claims a piece of work first does it. Claims end with the job, so a job that continues another one claims
unfinished work again.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing.process import BaseProcess
from threading import Thread
from typing import Any

import torch
from torch import distributed
from torch.distributed.rendezvous import rendezvous

from . import stopping

PAUSE = 0.05  # seconds between two looks at what others do
FAREWELL = 120.0  # seconds that workers get to write their checkpoints
HELLO = timedelta(seconds=10)  # a leader answers a new worker within this time
LONG = timedelta(days=7)  # time limit of the network: processes wait for each other's work, however long


class PeerLostError(RuntimeError):
    """Another process of the job ended too early; `code` is its exit code, where that is known."""

    def __init__(self, text: str, code: int = 1):
        super().__init__(text)
        self.code = code


class Team:
    """A process's view of the team; without arguments a team of one.

    Parameters
    ----------
    rank, size : int
        As the attributes.
    store : torch.distributed.Store, optional
        What the processes share.
    workers : sequence of processes
        Those that this process started, to be watched.

    Attributes
    ----------
    rank : int
        Number of this process; 0 for the leader, which prints and writes the report.
    size : int
        Number of processes.
    """

    def __init__(
        self,
        rank: int = 0,
        size: int = 1,
        store: distributed.Store | None = None,
        workers: Sequence[BaseProcess] = (),
    ):
        self.rank, self.size = rank, size
        self._store, self._workers, self._taken = store or distributed.HashStore(), workers, set()

    @property
    def leads(self) -> bool:
        """Whether this process is the leader."""
        return self.rank == 0

    def claim(self, name: str) -> bool:
        """Return True to the one process that asks first for a piece of work."""
        if name in self._taken:
            return False
        self._taken.add(name)
        return self._count(f"claim/{name}", 1) == 1

    def report(self, event: str) -> None:
        """Let the team know that this process has reached an event."""
        self._count(f"event/{event}", 1)

    def reached(self, event: str) -> int:
        """How often the team has reported an event."""
        return self._count(f"event/{event}", 0)

    def check(self) -> None:
        """Look after the others.

        Raises
        ------
        PeerLostError
            A worker has failed, or the leader is gone.
        KeyboardInterrupt
            This process is to end; see `stopping.check`.
        """
        stopping.check()
        for worker in self._workers:
            if worker.exitcode:
                text = f"worker {worker.name} ended with exit code {worker.exitcode}"
                raise PeerLostError(text, worker.exitcode)
        self._count("pulse", 0)  # raises where the leader, who keeps the store, is gone

    def pause(self) -> None:
        """Wait a moment for the others, and look after them: see `check`."""
        self.check()
        time.sleep(PAUSE)

    def _count(self, key: str, amount: int) -> int:
        with _leader_needed():
            return self._store.add(key, amount)


@contextmanager
def _leader_needed() -> Iterator[None]:
    """Turn errors of a store whose process has ended into PeerLostError."""
    try:
        yield
    except RuntimeError as error:
        raise PeerLostError(f"the process that led the job is gone ({str(error).splitlines()[0]})") from None


def under_torchrun() -> bool:
    """Whether torchrun started this process."""
    return distributed.is_torchelastic_launched()


def torchrun_rank() -> int:
    """Number of this process in torchrun's job; 0 without torchrun."""
    return int(os.environ.get("RANK", 0)) if under_torchrun() else 0


def local_rank(team: Team | None = None) -> int:
    """Number of this process among those on its machine, which chooses its GPU."""
    if under_torchrun():
        return int(os.environ["LOCAL_RANK"])
    return team.rank if team else 0


@contextmanager
def torchrun_team(name: str) -> Iterator[Team]:
    """Team of torchrun's processes for the run `name`. The end of the block waits for all of them."""
    store, rank, size = next(rendezvous("env://"))
    # The launcher's store outlives runs and restarts; their addresses and claims must not mix.
    store = distributed.PrefixStore(f"{name} {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=LONG)
    team = Team(rank, size, store)
    try:
        yield team
        farewell = distributed.all_reduce(torch.zeros(1), async_op=True)
        while not farewell.is_completed():
            team.pause()
    finally:
        distributed.destroy_process_group()


@contextmanager
def local_team(workers: int, target: Callable[..., None] | None, arguments: Any) -> Iterator[Team]:
    """Team of processes on this machine, which end with the block.

    Parameters
    ----------
    workers : int
        Number of processes, this one included.
    target : callable
        What the others do: each calls `target(rank, workers, port, arguments)`; see `worker_team`.
    arguments : object
        Anything that can be pickled.
    """
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
            process.terminate()  # a worker remembers it, and writes its checkpoint first
        deadline = time.monotonic() + FAREWELL
        for process in processes:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                process.kill()


def worker_team(rank: int, size: int, port: int) -> Team:
    """Team as a worker of `local_team` sees it; PeerLostError if its leader has ended already."""
    leader = multiprocessing.parent_process()
    Thread(target=lambda: (leader.join(), stopping.request("its leader ended")), daemon=True).start()
    with _leader_needed():
        return Team(rank, size, distributed.TCPStore("127.0.0.1", port, is_master=False, timeout=HELLO))
