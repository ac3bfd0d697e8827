"""One random generator per draw, so that no result depends on the order in which work happens to run.

Every draw of the benchmark is named by `(seed, strategy, iteration, purpose, case)`. The name, not a shared stream, makes the
seed: a run that is resumed, spread over processes or asked for fewer strategies draws the same numbers.
"""

import hashlib

import numpy as np
import torch


def _sequence(seed, strategy, iteration, purpose, case):
    name = "\x1f".join(str(part) for part in (seed, strategy, iteration, purpose, case))
    words = np.frombuffer(hashlib.sha256(name.encode()).digest(), dtype="<u4")
    return np.random.SeedSequence([int(word) for word in words])


def generator(seed, strategy="", iteration=0, purpose="", case=""):
    """NumPy generator of the named draw."""
    return np.random.default_rng(_sequence(seed, strategy, iteration, purpose, case))


def integer_seed(seed, strategy="", iteration=0, purpose="", case=""):
    """Non-negative 63-bit seed of the named draw, for interfaces that take an integer."""
    return int(
        _sequence(seed, strategy, iteration, purpose, case).generate_state(1, np.uint64)[0] >> np.uint64(1)
    )


def torch_generator(device="cpu", **name):
    """Torch generator of the named draw on `device`."""
    return torch.Generator(device).manual_seed(integer_seed(**name))
