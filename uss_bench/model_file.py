"""A network as a file: all that is needed to use it, written by `uss-bench fit`, read by `uss-bench suggest`.

The file is a dictionary that `torch.load(path, weights_only=True)` reads:

    format, version     what it is, and in which version of this layout
    state               weights of the network, by their names in `AUNet`
    provenance          as `run.json` of a run: settings (network, grid, window, inference), seed, versions,
                        device, digests of code and manifest
    training            how it was trained: best and last step, Jaccard index, curve
    annotated           how many cases and slices of the working grid it was trained on
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from . import config
from .runtime.checkpoints import load_checkpoint, save_checkpoint
from .runtime.errors import InputError
from .runtime.storage import file_digest

FORMAT, VERSION = "uss-bench model", 1
ADVICE = "give a file that `uss-bench fit` wrote"


@dataclass(frozen=True)
class FittedModel:
    """What a model file holds.

    Attributes
    ----------
    settings : config.Config
        With those of the network, the working grid and the window of intensities.
    state : mapping
        Weights of the network.
    seed : int
        Names its random draws.
    digest : str
        SHA-256 of the file.
    """

    settings: config.Config
    state: Mapping[str, torch.Tensor]
    seed: int
    digest: str


def write_model(
    path: str | Path,
    state: Mapping[str, torch.Tensor],
    provenance: Mapping[str, Any],
    training: Mapping[str, Any],
    annotated: Mapping[str, int],
) -> None:
    """Write a model file; equal content gives equal bytes. The parameters are its entries."""
    content = {"state": state, "provenance": provenance, "training": training, "annotated": annotated}
    save_checkpoint(path, {"format": FORMAT, "version": VERSION, **content})


def provenance_of(path: str | Path) -> dict[str, Any] | None:
    """Provenance of the training whose model a file holds; None where it holds none."""
    try:
        content = load_checkpoint(path)
    except (OSError, InputError):
        return None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        return None
    return content.get("provenance")


def read_model(path: str | Path) -> FittedModel:
    """Read a model file, with its tensors on the CPU.

    Raises
    ------
    InputError
        It cannot be read, is no model file, is damaged, or was written by another version.
    """
    try:
        Path(path).stat()  # a missing file is not a damaged one
        content = load_checkpoint(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); {ADVICE}") from None
    except InputError:
        raise InputError(f"{path}: no model file, or a damaged one; {ADVICE}") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{path}: weights alone, without what is needed to use them; {ADVICE}")
    origin = content.get("provenance", {})
    again = f"it was written by uss-bench {origin.get('uss_bench', '?')}; use that, or fit the model again"
    if content.get("version") != VERSION:
        raise InputError(f"{path}: version {content.get('version')} of the format, not {VERSION}; {again}")
    try:
        settings = config.from_dict(origin["config"])
    except InputError:
        raise InputError(f"{path}: settings of another version; {again}") from None
    return FittedModel(settings, content["state"], origin["seed"], file_digest(path))
