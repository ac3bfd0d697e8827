"""What a run tells: a status line on standard error, a log file, and a note of each process's doing for other terminals."""

import time
from datetime import datetime, timezone
from pathlib import Path

from . import stopping
from .paths import STATUS
from .storage import naming, write_json

NOTE_SECONDS = 5  # between two notes for other terminals


class Progress:
    """Counts finished steps out of `total`. On a terminal the line renews itself; elsewhere only lasting lines are printed.

    Parameters
    ----------
    total : steps of the whole run
    stream : what to print to (None: nothing)
    """

    def __init__(self, total, stream=None):
        self.total, self.done, self.computed = total, 0, 0
        self.stream, self.renews = stream, bool(stream and stream.isatty())
        self._log, self._note, self._unlogged = None, None, []
        self.started = self.shown = self.noted = time.monotonic()

    def keep_in(self, folder, rank=0):
        """From now on keep a log and notes in a run's folder; lines told before go there too. `rank` tells processes apart."""
        self._log = Path(folder) / f"log{f'-{rank}' if rank else ''}.txt"
        self._note = Path(folder) / STATUS / f"{rank}.json"
        for line in self._unlogged:
            self._write(line)

    def now(self, text):
        """Passing state, shown at most five times a second and only on a terminal. A safe point: see `stopping.check`."""
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

    def say(self, text):
        """Lasting line, also in the log."""
        if self.stream:
            clear = "\r\x1b[K" if self.renews else ""
            self.stream.write(f"{clear}{text}\n")
            self.stream.flush()
        self.write_log(text)

    def write_log(self, text):
        line = f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M:%S} {text}\n"
        if self._log:
            self._write(line)
        else:
            self._unlogged.append(line)

    def _write(self, line):
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with naming(self._log), open(self._log, "a", encoding="utf-8") as file:
            file.write(line)

    def finished(self, text, computed):
        """A step is done; `computed` tells it from one found on disk, which says nothing about the time left."""
        self.done += 1
        self.computed += computed
        self.say(f"[{self.done}/{self.total}] {text}{'' if computed else ' (found)'}{self._left()}")

    def _left(self):
        if not self.computed or self.done == self.total:
            return ""
        seconds = (time.monotonic() - self.started) / self.computed * (self.total - self.done)
        hours, minutes = divmod(round(seconds / 60), 60)
        return (
            f", about {f'{hours} h ' if hours else ''}{minutes} min left"
            if hours or minutes
            else ", less than a minute left"
        )

    def withdraw(self):
        """Take back the note, when there is nothing left to do."""
        if self._note:
            self._note.unlink(missing_ok=True)
