"""uss-bench: a reproducible benchmark of uncertainty slice sampling for 3D CT segmentation."""

__version__ = "0.1.0"


class InputError(ValueError):
    """The user's input is at fault. The message says what is wrong, where, and how to mend it.

    `benchmark.py` prints the message alone, without a traceback, and exits with code 2.
    """
