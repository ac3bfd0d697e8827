"""What a run asks of its machine: a device, reproducible arithmetic, memory, open files, and processes."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from itertools import takewhile

import torch

from .errors import InputError

MOST_WORKERS = 4  # on one CPU, unless more are asked for
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
BFLOAT16_CAPABILITY = 8, 0  # compute capability from which cuDNN has bfloat16 convolutions
DETERMINISTIC_CUBLAS = ":4096:8", ":16:8"  # the workspaces with which PyTorch lets cuBLAS work


def prepared_device(name: str, bfloat16: bool = False, local_rank: int = 0) -> torch.device:
    """Choose a device, and have PyTorch compute reproducibly, in one thread, and keep freed memory.

    The process may then also keep as many files open as the system lets it.

    Parameters
    ----------
    name, local_rank : str, int
        As for `choose_device`.
    bfloat16 : bool
        Whether convolutions are to be computed in bfloat16.

    Raises
    ------
    InputError
        CUDA is asked for, and there is none, or none that knows bfloat16 if that is.
    """
    device = choose_device(name, local_rank)
    if bfloat16 and device.type == "cuda" and torch.cuda.get_device_capability(device) < BFLOAT16_CAPABILITY:
        raise InputError(
            f"--set network.bfloat16=True: {torch.cuda.get_device_name(device)} has no bfloat16; leave it out"
        )
    make_deterministic()
    keep_freed_memory()
    allow_open_files()
    return device


def device_name(device: torch.device) -> str:
    """What decides, beside the libraries, how a device rounds."""
    if device.type != "cuda":
        return "CPU"
    tf32 = torch.backends.cudnn.allow_tf32 and os.environ.get("NVIDIA_TF32_OVERRIDE") != "0"
    versions = f"CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}{', no TF32' * (not tf32)}"
    return f"{torch.cuda.get_device_name(device)} ({versions})"


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """Device to compute on.

    Parameters
    ----------
    name : str
        "cpu", "cuda", or "auto": CUDA if there is any.
    local_rank : int
        Number of this process on its machine, which chooses among several GPUs.

    Raises
    ------
    InputError
        CUDA is asked for, and there is none, or a GPU is found that cannot be used.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError(
            "--device cuda: PyTorch finds no CUDA device; use --device cpu, "
            "or install a CUDA build of PyTorch"
        )
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", local_rank % torch.cuda.device_count())
    torch.cuda.set_device(device)
    _try(device)
    return device


def _try(device: torch.device) -> None:
    """Raise InputError where a GPU cannot be used: PyTorch counts also those that it has no kernels for."""
    try:
        torch.ones(1, device=device).add_(1).item()
    except RuntimeError as error:
        raise InputError(
            f"{device}: PyTorch cannot use this GPU ({str(error).splitlines()[0]}); choose another by "
            "CUDA_VISIBLE_DEVICES, or use --device cpu"
        ) from None


def default_workers(device: torch.device) -> int:
    """Processes on this machine: one per GPU of the first kind, or one per core, at most `MOST_WORKERS`.

    GPUs of another kind round differently, and would be refused.
    """
    if device.type == "cuda":
        kinds = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
        return len(list(takewhile(lambda kind: kind == kinds[0], kinds)))
    if hasattr(os, "sched_getaffinity"):  # macOS lacks it
        return min(MOST_WORKERS, len(os.sched_getaffinity(0)))
    return min(MOST_WORKERS, os.cpu_count() or 1)


def make_deterministic() -> None:
    """Let PyTorch give the same bits in every run on the same kind of device."""
    # Read when cuBLAS is first used, which has not happened yet.
    if os.environ.get("CUBLAS_WORKSPACE_CONFIG") not in DETERMINISTIC_CUBLAS:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = DETERMINISTIC_CUBLAS[0]
    torch.use_deterministic_algorithms(True)
    # Sums split over threads would depend on their number: processes share pieces of work instead.
    torch.set_num_threads(1)
    # Deterministic mode fills all memory it is given, to show who reads what was never written; no result
    # depends on it.
    torch.utils.deterministic.fill_uninitialized_memory = False


def allow_open_files() -> None:
    """Raise the limit of open files as far as a user may: every mapped volume is one or two."""
    # Another system may lack the module, or ask for less than its own limit.
    with suppress(ImportError, OSError, ValueError):
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def keep_freed_memory() -> None:
    """Have glibc keep what is freed.

    Otherwise every large tensor is given back and its pages are mapped again, for a third of a step's time.
    """
    with suppress(AttributeError, OSError, TypeError):  # another C library
        set_option = ctypes.CDLL(None).mallopt
        for option in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD):
            set_option(option, 2**31 - 1)
