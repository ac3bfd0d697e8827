"""Work that is remembered on disk, and that any number of processes work off together.

A task is a generator. It yields the stages it needs, one at a time, and receives the result of each once that
is complete, whichever process completed it and whenever: results are kept in files, so a stopped program
continues where it was. A task may also wait for another task. What can be worked on at a given moment is
claimed piece by piece from the team.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .storage import read_json, write_json
from .team import Team

ROUND_SECONDS = 2  # of work, before looking for pieces that have become possible meanwhile
# What to do first: what others wait for, then what takes long, then what fills the gaps.
BLOCKING, LONG, SHORT, PART = range(4)


@dataclass(frozen=True)
class Piece:
    """Work that one process does at a time.

    Attributes
    ----------
    priority : int
        One of `BLOCKING, LONG, SHORT, PART`.
    path : Path
        File of the result, which also names the claim.
    work : callable
        Returns what is kept in the file.
    """

    priority: int
    path: Path
    work: Callable[[], dict]


class Stage:
    """One piece of work, and the file that holds its result and its seconds once it is complete.

    Parameters
    ----------
    path : Path
        The file.
    work : callable
        Returns the result, which must survive JSON.
    priority : int
        One of `BLOCKING, LONG, SHORT, PART`.
    leftovers : iterable of Path
        Files and folders that are of no use once the stage is complete.
    """

    def __init__(self, path: Path, work: Callable[[], Any], priority: int, leftovers: Iterable[Path] = ()):
        self.path, self.priority = path, priority
        self._work, self._leftovers, self._content = work, tuple(leftovers), None

    @property
    def complete(self) -> bool:
        """Whether the result is there."""
        if self._content is None and self.path.exists():
            self._content = read_json(self.path)
        return self._content is not None

    @property
    def result(self) -> Any:
        """The result of a complete stage."""
        return self._content["result"]

    def pieces(self) -> list[Piece]:
        """What can be worked on now."""
        return [Piece(self.priority, self.path, lambda: timed(self._work))]

    def clear_up(self) -> None:
        """Remove the leftovers of a complete stage; a process that was killed may not have done so."""
        for path in self._leftovers:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


class SharedStage(Stage):
    """A stage in parts, each a piece of its own. Their results are gathered into a list when all are there.

    Parameters
    ----------
    path, priority
        As for `Stage`.
    parts : iterable of callable
        One per part; each returns its result.
    """

    def __init__(self, path: Path, parts: Iterable[Callable[[], Any]], priority: int):
        self._folder = path.with_suffix("")
        self._parts = {self._folder / f"{number}.json": part for number, part in enumerate(parts)}
        super().__init__(path, self._gather, priority, [self._folder])

    def pieces(self) -> list[Piece]:
        there = set(self._folder.glob("*.json"))
        missing = [
            Piece(self.priority, path, lambda part=part: timed(part))
            for path, part in self._parts.items()
            if path not in there
        ]
        if self.path.exists():  # gathered by another process at this moment, and the parts may be gone
            return []
        return missing or [Piece(BLOCKING, self.path, self._gather)]

    def _gather(self) -> dict:
        parts = [read_json(path) for path in self._parts]
        return {
            "result": [part["result"] for part in parts],
            "seconds": sum(part["seconds"] for part in parts),
        }


class Task:
    """A generator under way; `complete` with a `result` when it has returned."""

    def __init__(self, steps: Generator):
        self.complete, self.result = False, None
        self._steps = steps
        self.awaited: Stage | Task | None = None

    def advance(self) -> bool:
        """Go on as far as results are there; returns whether it got any further."""
        moved = False
        while not self.complete and (self.awaited is None or self.awaited.complete):
            moved = True
            if isinstance(self.awaited, Stage):
                self.awaited.clear_up()
            try:
                self.awaited = self._steps.send(self.awaited and self.awaited.result)
            except StopIteration as end:
                self.complete, self.result, self.awaited = True, end.value, None
        return moved


class Tasks:
    """Tasks that a process works off together with the others of its team.

    Parameters
    ----------
    folder : Path
        Holds the files of all stages.
    team : Team
        Shares the work.

    Attributes
    ----------
    worked : bool
        Whether any round of work has begun; before that, whatever is complete was found on disk.
    """

    def __init__(self, folder: Path, team: Team):
        self.worked = False
        self._folder, self._team, self._tasks = folder, team, []

    def start(self, steps: Generator) -> Task:
        """Take a task on; it is worked on by `work_off`."""
        task = Task(steps)
        self._tasks.append(task)
        return task

    def work_off(self) -> None:
        """Work until all tasks are complete, including those that are started meanwhile."""
        while self._advance():
            self.worked = True
            self._team.check()  # nobody else would do the piece of a worker that has died
            if not self._work():
                self._team.pause()

    def _advance(self) -> bool:
        """Let every task go on as far as it can; returns whether any is left."""
        moved = True
        while moved:
            moved = sum(task.advance() for task in self._tasks)  # every one of them, in every turn
        return not all(task.complete for task in self._tasks)

    def _work(self) -> bool:
        """Work for a while on what is possible now; returns whether there was anything left to claim."""
        stages = [task.awaited for task in self._tasks if isinstance(task.awaited, Stage)]
        pieces = [piece for stage in stages for piece in stage.pieces()]
        worked, until = False, time.monotonic() + ROUND_SECONDS
        for piece in sorted(pieces, key=lambda piece: piece.priority):
            if self._team.claim(str(piece.path.relative_to(self._folder))):
                worked = True
                write_json(piece.path, piece.work())
            if time.monotonic() > until:
                break
        return worked


def timed(work: Callable[[], Any]) -> dict:
    """Result of `work` and how long it took, in wall seconds."""
    started = time.monotonic()
    result = work()
    return {"result": result, "seconds": time.monotonic() - started}
