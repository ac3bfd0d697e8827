"""Tensors on disk, whole and with a checksum."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import torch

from .errors import InputError
from .storage import atomic_path

DIGEST_BYTES = hashlib.sha256().digest_size


def save_checkpoint(path: str | Path, value: Any) -> None:
    """Write tensors and plain values for `torch.load`, followed by their SHA-256.

    PyTorch alone does not check checksums, and ignores what follows its archive.
    """
    # Through a buffer: on a full disk torch.save would raise an error of its own, without the file's name.
    buffer = io.BytesIO()
    torch.save(value, buffer)
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getvalue() + hashlib.sha256(buffer.getbuffer()).digest())


def load_checkpoint(path: str | Path) -> Any:
    """Value of a checkpoint, with its tensors on the CPU, wherever they were.

    Raises
    ------
    InputError
        There is no such file, or it is not what `save_checkpoint` wrote.
    """
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: missing; remove its folder, and the model is trained again") from None
    value, digest = content[:-DIGEST_BYTES], content[-DIGEST_BYTES:]
    if hashlib.sha256(value).digest() != digest:
        raise InputError(
            f"{path}: damaged (its checksum does not match); "
            "remove its folder, and the model is trained again"
        )
    return torch.load(io.BytesIO(value), map_location="cpu", weights_only=True)
