"""How a program ends: its exit code, and one line that says why, printed by one process of the team."""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch

from .errors import InputError
from .team import PeerLostError

LESS_MEMORY = (
    "ask for fewer --workers, or begin a run of another --name with a smaller inference.tile, training.patch "
    "or training.batch_size, with network.bfloat16=True, or with --device cpu"
)
# What full memory is called by PyTorch, by cuDNN's choice of an algorithm, by libraries, and by CUDA itself.
FULL_MEMORY = (
    "unable to find an engine",
    "_STATUS_ALLOC_FAILED",
    "CUDA error: out of memory",
    "DefaultCPUAllocator: can't allocate memory",
)
CONTINUES = "the same command continues where it stopped"


def exit_code(program: str, work: Callable[[], object], rank: int = 0) -> int:
    """Do the work and return the exit code: 0 done, 2 bad input, 130 interrupted, 1 anything else.

    Errors that a user can correct are printed in one line; others are raised on, with their traceback.

    Parameters
    ----------
    program : str
        Its name, which begins every error message.
    work : callable
        What the program does.
    rank : int
        Number of this process on its machine; 0 speaks while there is no team.
    """
    try:
        work()
    except InputError as error:
        code, text, cause = 2, str(error), error
    except KeyboardInterrupt as interrupt:
        code, text, cause = 130, f"interrupted{_bracketed(interrupt)}; {CONTINUES}", interrupt
    except PeerLostError as error:
        # A worker that met bad input has said so itself.
        code, cause = 2 if error.code == 2 else 1, error
        text = str(error) if code == 2 else f"{error}; {CONTINUES}"
    except FloatingPointError as error:
        code, text, cause = 1, str(error), error
    except (RuntimeError, MemoryError) as error:
        if not _is_full_memory(error):
            raise
        reason = f" ({str(error).splitlines()[0]})" if str(error) else ""
        code, text, cause = 1, f"memory is full{reason}; {LESS_MEMORY}", error
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else error
        text = f"{what}; nothing that was finished is lost: correct this, and {CONTINUES}"
        code, cause = 1, error
    else:
        return 0
    if speaks_for_team(cause, rank):
        print(f"{program}: {text}", file=sys.stderr)
    return code


def _is_full_memory(error: Exception) -> bool:
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(
        text in str(error) for text in FULL_MEMORY
    )


def _bracketed(interrupt: KeyboardInterrupt) -> str:
    """By what, where that is known."""
    return f" ({interrupt})" if str(interrupt) else ""


def note_failure(error: BaseException, first: bool) -> None:
    """Note in an error whether this process was the first of its team to fail."""
    error.failed_first = first


def speaks_for_team(error: BaseException, rank: int) -> bool:
    """Whether this process prints an error: the first to fail does, or the leader while there is no team."""
    return getattr(error, "failed_first", rank == 0)
