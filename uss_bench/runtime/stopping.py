"""Ending early without loss: signals are remembered, and work gives up at its next safe point."""

import signal

_reason = None


def install():
    """Answer SIGTERM, which a cluster sends before it takes a machine away, and Ctrl-C at the next safe point.

    A second Ctrl-C ends the program at once. KeyboardInterrupt therefore comes from `check` alone.
    """
    signal.signal(signal.SIGTERM, lambda *_: request("SIGTERM"))
    signal.signal(signal.SIGINT, _on_interrupt)


def _on_interrupt(*_):
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    request("Ctrl-C")


def request(reason):
    """Make the next `check` raise. May be called from any thread."""
    global _reason
    _reason = _reason or reason


def check():
    """Raise KeyboardInterrupt with the reason if the program is to end."""
    if _reason:
        raise KeyboardInterrupt(_reason)
