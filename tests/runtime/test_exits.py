"""How a program ends: its exit code and the line that says why."""

import errno

import pytest
import torch

from uss_bench.runtime.errors import InputError
from uss_bench.runtime.exits import exit_code, note_failure
from uss_bench.runtime.team import PeerLostError


def raising(error):
    def work():
        raise error

    return work


def test_what_is_done_says_nothing(capsys):
    assert exit_code("program", lambda: None) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("a.csv: empty"), 2, "a.csv: empty"),
        (KeyboardInterrupt("SIGTERM"), 130, "interrupted (SIGTERM); the same command continues"),
        (KeyboardInterrupt(), 130, "interrupted; the same command continues"),
        (FloatingPointError("step 3: the loss is nan"), 1, "step 3: the loss is nan"),
        (
            OSError(errno.ENOSPC, "No space left on device", "a.pt"),
            1,
            "a.pt: No space left on device; nothing",
        ),
        (
            torch.OutOfMemoryError("Tried to allocate 2 GiB.\nGPU 0 has"),
            1,
            "memory is full (Tried to allocate 2 GiB.); ask for fewer --workers",
        ),
        (
            RuntimeError("CUDA error: out of memory\nCUDA kernel errors"),
            1,
            "memory is full (CUDA error: out of memory); ask for fewer --workers",
        ),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to"),
            1,
            "memory is full ([enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to); ask",
        ),
        (MemoryError(), 1, "memory is full; ask for fewer --workers"),
        (OSError("odd"), 1, "odd; nothing that was finished is lost"),
        (PeerLostError("worker 1 ended", 2), 2, "worker 1 ended\n"),
        (PeerLostError("worker 1 ended", -9), 1, "worker 1 ended; the same command continues"),
    ],
)
def test_what_a_user_can_correct_is_one_line(capsys, error, code, line):
    assert exit_code("program", raising(error)) == code
    err = capsys.readouterr().err
    assert err.startswith(f"program: {line}") and err.count("\n") == 1


@pytest.mark.parametrize("error", [ZeroDivisionError(), RuntimeError("shapes differ")])
def test_anything_else_is_raised_on(error):
    with pytest.raises(type(error)):
        exit_code("program", raising(error))


@pytest.mark.parametrize(
    ("rank", "first", "speaks"), [(0, None, 1), (1, None, 0), (0, False, 0), (1, True, 1)]
)
def test_one_process_of_a_team_speaks(capsys, rank, first, speaks):
    """The first to fail, or the leader while there is no team."""
    error = InputError("a.csv: empty")
    if first is not None:
        note_failure(error, first)
    assert exit_code("program", raising(error), rank) == 2
    assert capsys.readouterr().err.count("\n") == speaks
