"""One random generator per draw, so that no result depends on the order in which work happens to run.

Every draw of the benchmark is named by `(seed, strategy, iteration, purpose, case)`. The name, not a shared
stream, makes the seed: a run that is resumed, spread over processes or asked for fewer strategies draws the
same numbers.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch


def _sequence(
    seed: int, strategy: str, iteration: int | str, purpose: str, case: str
) -> np.random.SeedSequence:
    name = "\x1f".join(str(part) for part in (seed, strategy, iteration, purpose, case))
    words = np.frombuffer(hashlib.sha256(name.encode()).digest(), dtype="<u4")
    return np.random.SeedSequence([int(word) for word in words])


def generator(
    seed: int, strategy: str = "", iteration: int | str = 0, purpose: str = "", case: str = ""
) -> np.random.Generator:
    """NumPy generator of the named draw.

    >>> generator(0, "A", 1, "query").integers(1000, size=3).tolist()
    [309, 108, 5]
    """
    return np.random.default_rng(_sequence(seed, strategy, iteration, purpose, case))


def integer_seed(
    seed: int, strategy: str = "", iteration: int | str = 0, purpose: str = "", case: str = ""
) -> int:
    """Non-negative 63-bit seed of the named draw, for interfaces that take an integer."""
    sequence = _sequence(seed, strategy, iteration, purpose, case)
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


def torch_generator(device: torch.device | str = "cpu", **name: Any) -> torch.Generator:
    """Torch generator on `device` of the draw that the keywords name, as those of `integer_seed`."""
    return torch.Generator(device).manual_seed(integer_seed(**name))
