"""What a run tells: a status line on standard error, a log file, and a note of each process's doing for other terminals."""

import time
from datetime import datetime, timezone
from pathlib import Path

from . import stopping
from .storage import write_json

NOTE_SECONDS = 5  # between two notes for other terminals
STATUS = "status"  # folder of the notes


class Progress:
    """Counts finished steps out of `total`. On a terminal the line renews itself; elsewhere only lasting lines are printed.

    Parameters
    ----------
    total : steps of the whole run
    stream : what to print to (None: nothing)
    folder : run folder, for the log and the notes (None: neither)
    rank : number of this process; each has a log and a note of its own
    """

    def __init__(self, total, stream=None, folder=None, rank=0):
        self.total, self.done, self.computed = total, 0, 0
        self.stream, self.renews = stream, bool(stream and stream.isatty())
        self.log = Path(folder) / f"log{f'-{rank}' if rank else ''}.txt" if folder else None
        self.note = Path(folder) / STATUS / f"{rank}.json" if folder else None
        self.started = self.shown = self.noted = time.monotonic()

    def now(self, text):
        """Passing state, shown at most five times a second and only on a terminal. A safe point: see `stopping.check`."""
        stopping.check()
        moment = time.monotonic()
        if self.renews and moment - self.shown > 0.2:
            self.shown = moment
            self.stream.write(f"\r\x1b[K[{self.done}/{self.total}] {text}{self._left()}")
            self.stream.flush()
        if self.note and moment - self.noted > NOTE_SECONDS:
            self.noted = moment
            write_json(self.note, {"text": f"[{self.done}/{self.total}] {text}{self._left()}", "time": time.time()})

    def say(self, text):
        """Lasting line, also in the log."""
        if self.stream:
            clear = "\r\x1b[K" if self.renews else ""
            self.stream.write(f"{clear}{text}\n")
            self.stream.flush()
        self.write_log(text)

    def write_log(self, text):
        if self.log:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            with open(self.log, "a", encoding="utf-8") as file:
                file.write(f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M:%S} {text}\n")

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
        return f", about {f'{hours} h {minutes} min' if hours else f'{minutes} min' if minutes else 'a minute at most'} left"
