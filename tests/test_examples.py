"""The examples in docstrings do what they say."""

import doctest
import importlib
import inspect
import pkgutil

import pytest

import uss_bench

# Importing `__main__` runs the program.
ROOMS = sorted(
    room.name
    for room in pkgutil.walk_packages(uss_bench.__path__, "uss_bench.")
    if room.name != "uss_bench.__main__"
)


@pytest.mark.parametrize("name", ["uss_bench", *ROOMS])
def test_examples_of(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_the_public_functions_have_an_example():
    """Each in its own docstring or in the package's."""
    public = [getattr(uss_bench, name) for name in uss_bench.__all__]
    functions = [each for each in public if inspect.isfunction(each)]
    without = [
        each.__name__
        for each in functions
        if ">>>" not in each.__doc__ and f"{each.__name__}(" not in uss_bench.__doc__
    ]
    assert functions and without == []
