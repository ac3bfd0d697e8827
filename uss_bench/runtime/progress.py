"""How a run reports on itself: a status line on standard error, a log, and notes for other terminals."""

from __future__ import annotations

import logging
import time
from logging.handlers import MemoryHandler
from pathlib import Path
from time import gmtime
from typing import TextIO

from . import stopping
from .paths import STATUS
from .storage import naming, write_json

NOTE_SECONDS = 5  # between two notes for other terminals
MANY = 10_000  # lines that are kept until there is a log file


class Progress:
    """Counts the finished steps of a run.

    On a terminal the status line renews itself; elsewhere only lasting lines are printed.

    Parameters
    ----------
    total : int
        Steps of the whole run.
    stream : text stream, optional
        What to print to; by default nothing is printed.
    work : float, optional
        What all steps weigh, by which the time left is judged; by default each weighs as much.
    """

    def __init__(self, total: int, stream: TextIO | None = None, work: float | None = None):
        self.total, self.done = total, 0
        self.work, self.work_done, self.computed = work, 0, 0
        self.stream, self.renews = stream, bool(stream and stream.isatty())
        # A logger of its own: one process may work on several runs, one after the other.
        self._log = logging.Logger("uss_bench")
        self._early = MemoryHandler(MANY, flushLevel=logging.CRITICAL + 1)
        self._log.addHandler(self._early)
        self._note: Path | None = None
        self.started = self.shown = self.noted = time.monotonic()

    def keep_in(self, folder: Path, rank: int = 0) -> None:
        """From now on keep a log and notes in a run's folder.

        Earlier lines are included. `rank`, the number of this process, keeps those of a team apart.
        """
        file = LogFile(Path(folder) / f"log{f'-{rank}' if rank else ''}.txt")
        self._note = Path(folder) / STATUS / f"{rank}.json"
        self._early.setTarget(file)
        self._early.flush()
        self._log.removeHandler(self._early)
        self._log.addHandler(file)

    def now(self, text: str) -> None:
        """Show a passing state, at most five times per second and only on a terminal.

        This is a safe point of the program: see `stopping.check`.
        """
        stopping.check()
        moment = time.monotonic()
        if self.renews and moment - self.shown > 0.2:
            self.shown = moment
            self.stream.write(f"\r\x1b[K[{self.done}/{self.total}] {text}{self._left()}")
            self.stream.flush()
        if self._note and moment - self.noted > NOTE_SECONDS:
            self.noted = moment
            write_json(
                self._note, {"text": f"[{self.done}/{self.total}] {text}{self._left()}", "time": time.time()}
            )

    def say(self, text: str) -> None:
        """Print a lasting line, also in the log."""
        if self.stream:
            clear = "\r\x1b[K" if self.renews else ""
            self.stream.write(f"{clear}{text}\n")
            self.stream.flush()
        self.write_log(text)

    def write_log(self, text: str) -> None:
        """Write a line to the log alone."""
        self._log.info("%s", text)

    def finished(self, text: str, computed: bool, work: float = 1) -> None:
        """Count a finished step, of some `work`.

        One found on disk is not `computed`, and says nothing about the time left.
        """
        self.done += 1
        self.work_done += work
        self.computed += work * computed
        self.say(f"[{self.done}/{self.total}] {text}{'' if computed else ' (found)'}{self._left()}")

    def _left(self) -> str:
        if not self.computed or self.done == self.total:
            return ""
        work = self.total if self.work is None else self.work
        seconds = (time.monotonic() - self.started) / self.computed * (work - self.work_done)
        hours, minutes = divmod(round(seconds / 60), 60)
        if not (hours or minutes):
            return ", less than a minute left"
        return f", about {f'{hours} h ' if hours else ''}{minutes} min left"

    def withdraw(self) -> None:
        """Remove the note when there is nothing left to do."""
        if self._note:
            self._note.unlink(missing_ok=True)


class LogFile(logging.FileHandler):
    """A log with UTC times. A line that cannot be written is an error, as with any other file."""

    def __init__(self, path: Path):
        super().__init__(path, encoding="utf-8", delay=True)
        self.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
        self.formatter.converter = gmtime

    def emit(self, record: logging.LogRecord) -> None:
        path = Path(self.baseFilename)
        path.parent.mkdir(parents=True, exist_ok=True)
        with naming(path):
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802, the name is that of logging
        raise
