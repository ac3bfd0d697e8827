"""Ending early without loss: signals are remembered, and work stops at its next safe point."""

from __future__ import annotations

import signal

_reason: str | None = None


def install() -> None:
    """Let SIGTERM and Ctrl-C end the program at its next safe point.

    Clusters send SIGTERM before they take a machine away. A second Ctrl-C ends the program at once, so
    KeyboardInterrupt comes from `check` alone.
    """
    signal.signal(signal.SIGTERM, lambda *_: request("SIGTERM"))
    signal.signal(signal.SIGINT, _on_interrupt)


def _on_interrupt(*_: object) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    request("Ctrl-C")


def request(reason: str) -> None:
    """Make the next `check` raise with the first reason requested. May be called from any thread."""
    global _reason
    _reason = _reason or reason


def check() -> None:
    """Raise KeyboardInterrupt with the reason if the program is to end."""
    if _reason:
        raise KeyboardInterrupt(_reason)
