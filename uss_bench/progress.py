"""One status line on standard error: what is running, how far, and how long it may still take."""

import sys
import time


class Progress:
    """Counts finished models out of `total`. On a terminal the line renews itself; elsewhere only finished stages are printed."""

    def __init__(self, total, stream=None):
        self.total, self.done, self.computed = total, 0, 0
        self.stream = stream or sys.stderr
        self.renews = self.stream.isatty()
        self.started = self.last_shown = time.monotonic()

    def now(self, text):
        """Passing state, shown at most five times a second and only on a terminal."""
        if self.renews and time.monotonic() - self.last_shown > 0.2:
            self.last_shown = time.monotonic()
            self.stream.write(f"\r\x1b[K[{self.done}/{self.total}] {text}{self._left()}")
            self.stream.flush()

    def say(self, text):
        """Lasting line."""
        clear = "\r\x1b[K" if self.renews else ""
        self.stream.write(f"{clear}{text}\n")
        self.stream.flush()

    def finished(self, text, computed):
        """A model is done; `computed` tells it from one found on disk, which says nothing about the time left."""
        self.done += 1
        self.computed += computed
        self.say(f"[{self.done}/{self.total}] {text}{'' if computed else ' (found)'}{self._left()}")

    def _left(self):
        if not self.computed or self.done == self.total:
            return ""
        seconds = (time.monotonic() - self.started) / self.computed * (self.total - self.done)
        hours, minutes = divmod(round(seconds / 60), 60)
        return f", about {f'{hours} h {minutes} min' if hours else f'{minutes} min' if minutes else 'a minute at most'} left"
