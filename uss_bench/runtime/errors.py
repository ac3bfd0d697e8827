"""The one error that is the user's to correct."""

from __future__ import annotations

from collections.abc import Sequence


class InputError(ValueError):
    """The user's input is at fault. The message says what is wrong, where, and how to correct it.

    The command line prints the message alone, without a traceback, and exits with code 2.

    Attributes
    ----------
    problems : list of str
        What is wrong, one by one; the whole message where nothing else is known.
    """

    def __init__(self, message: str, problems: Sequence[str] = ()):
        super().__init__(message)
        self.problems = list(problems) or [message]


def refuse(title: str, problems: Sequence[str]) -> None:
    """Raise one InputError that lists all problems, one per line; without problems do nothing.

    Parameters
    ----------
    title : str
        First line of the message; left out where it is empty.
    problems : sequence of str
        The lines below it.

    Examples
    --------
    >>> refuse("manifest.csv: 0 problem(s)", [])
    >>> refuse("manifest.csv: 1 problem(s)", ["line 2: case c1: empty image"])
    Traceback (most recent call last):
    uss_bench.runtime.errors.InputError: manifest.csv: 1 problem(s)
      line 2: case c1: empty image
    """
    if problems:
        raise InputError("\n  ".join([title, *problems] if title else problems), problems)
